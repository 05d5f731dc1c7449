"""Known null modes taken out: a Hessian without translations, rotations and scale symmetries.

Along a symmetry of the function a minimum has no curvature, and "flat directions remain" is all
that a verdict could say. With the modes Q orthonormal, and Z R the polar factors of Q's first k
rows, U = I - W (I + R)^-1 W' with W = Q + E Z is orthogonal, symmetric, and takes the span of Q to
the first k coordinates E: its other columns span the complement. Two thin products apply it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..kernels.frozen import Frozen
from ..kernels.names import hint, spelled
from ..rules.domains import check_real
from .lanczos import lanczos
from .operators import Measured, Operator, Point, norm, random_unit, unit_roundoff
from .views import Compression, at_point, block_slices

WORDS = ("translations", "rotations")
_CHECKED = 10  # modes up to which each is looked at by a product of its own


class Projected(Compression):
    """Restrict H to the orthogonal complement of its null modes: an operator of n - k rows.

    Called with a structure like x instead of a vector it returns one: the product with `whole`, as
    `classify` takes for its `hvp`.

    Attributes
    ----------
    whole : Operator
        On all n rows: H on the complement, and the largest eigenvalue it has there on the modes
        too, so that they are neither flat nor an end of the spectrum.
    leak : float
        The largest ||H q|| over unit modes q that was seen: 0 for exact ones at a stationary point.
    """

    def __init__(self, op: Operator, null: Null) -> None:
        super().__init__(op, op.n - null.k, null.spread, null.gather)
        self.null = null
        self.leak = 0.0
        self._whole: Operator | None = None

    def __call__(self, v: Any) -> Any:
        if isinstance(v, np.ndarray) and v.shape == (self.n,):
            return super().__call__(v)
        point = self.null.point
        flat = point.flatten(v, "v").astype(self.dtype, copy=False)
        return point.unflatten(self.whole(flat))

    @property
    def whole(self) -> Operator:
        """Give H on the complement, with a curvature of its own on the modes: n rows."""
        if self._whole is None:
            self._whole = _Whole(self)
        return self._whole


class _Whole(Compression):
    """Compute P H P + c Q Q', c the largest eigenvalue of P H P on its own.

    c lies within the complement's spectrum: neither an end of it nor a sign is made.
    """

    def __init__(self, projected: Projected) -> None:
        null = projected.null
        super().__init__(projected.op, projected.op.n, null.removed, null.removed)
        self.null = null
        self.point = null.point
        self.on_modes = lanczos(projected, which="largest", tol=0.05).eigenvalue_max or 0.0
        self._take_over(self.op.products)

    def _product(self, v: np.ndarray) -> np.ndarray:
        return super()._product(v) + self.on_modes * (v - self.null.removed(v))

    def measure(self, v: np.ndarray) -> Measured:
        """Measure the product for a unit vector, with its error."""
        inside = self.null.removed(v)
        length = norm(inside)
        on_modes = self.dtype.type(self.on_modes) * (v - inside)
        if not length > math.sqrt(unit_roundoff(self.dtype)):  # nothing of it is outside the modes
            return Measured(on_modes, 0.0, False)
        kind = self.dtype.type
        found = super().measure(inside * kind(1 / length))
        return Measured(found.product * kind(length) + on_modes, found.noise * length, found.kink)


class Null(Frozen):
    """Hold null modes of a function at x; `project` takes them out of its Hessian.

    Attributes
    ----------
    modes : ndarray, shape (k, n)
        An orthonormal basis of them.
    k : int
        How many are independent: one rotation fewer for atoms in a line.
    """

    instead = "; null(...) makes another"
    owner: str
    point: Point
    modes: np.ndarray
    k: int
    _w: np.ndarray
    _inverse: np.ndarray

    def __init__(self, owner: str, point: Point, modes: np.ndarray) -> None:
        k = len(modes)
        left, sizes, right = np.linalg.svd(modes[:, :k].T)
        polar = left @ right
        w = modes.copy()
        w[:, :k] += polar.T
        inverse = np.linalg.inv(np.eye(k) + (right.T * sizes) @ right)
        vars(self).update(owner=owner, point=point, modes=modes, k=k, _w=w, _inverse=inverse)

    def __repr__(self) -> str:
        return f"Null({self.k} modes of {self.point.n} unknowns)"

    def _turned(self, v: np.ndarray) -> np.ndarray:
        """Compute U v, in float64."""
        return v - (self._inverse @ (self._w @ v)) @ self._w

    @spelled
    def spread(self, v: np.ndarray) -> np.ndarray:
        """Spread a flat vector of n - k elements to the n elements that it stands for."""
        whole = np.concatenate([np.zeros(self.k), v])
        return self._turned(whole).astype(v.dtype)

    @spelled
    def gather(self, w: np.ndarray) -> np.ndarray:
        """Gather the n - k elements that a flat vector of n has outside the modes."""
        return self._turned(w.astype(np.float64))[self.k :].astype(w.dtype)

    @spelled
    def removed(self, w: np.ndarray) -> np.ndarray:
        """Remove what a flat vector of n elements has along the modes."""
        wide = w.astype(np.float64)
        wide = wide - (self.modes @ wide) @ self.modes
        return (wide - (self.modes @ wide) @ self.modes).astype(w.dtype)

    @spelled
    def lift(self, v: np.ndarray) -> Any:
        """Give a vector of the complement, an eigenvector for one, x's structure.

        Parameters
        ----------
        v : ndarray, shape (n - k,)

        Returns
        -------
        same structure as x

        Raises
        ------
        ValueError
            For another shape.
        """
        v = np.asarray(v)
        if v.shape != (self.point.n - self.k,):
            raise ValueError(
                f"lift: v must have shape ({self.point.n - self.k},), as vectors of the projected "
                f"operator have, got {v.shape}"
            )
        return self.point.unflatten(self.spread(v))

    @spelled
    def project(
        self, operator: Any, n: int | None = None, *, tol: float | None = 0.01, dtype: Any = None
    ) -> Projected:
        """Make an operator on the orthogonal complement of the modes.

        Parameters
        ----------
        operator : callable ``v -> H v``, 2-D array, or object with ``shape`` and ``matvec``/``@``
            A callable takes and returns x's structure, or with n flat vectors.
        n : int or None
        tol : float or None
            How large ||H q|| may be for a mode q, as a share of the curvature on the complement: a
            direction in which there is curvature would be hidden otherwise. None: no look.
        dtype : float32, float64 or None

        Returns
        -------
        Projected
            Of n - k rows, for `lanczos`, `sharpness`, `spectral_density`, `trace`; and called with
            x's structure, for `classify`'s hvp.

        Raises
        ------
        TypeError, ValueError
            On bad arguments, and where a mode has curvature.
        """
        owner = "project"
        if tol is not None:
            tol = check_real(owner, "tol", tol, 0.0)
        op, _ = at_point(owner, operator, n, dtype, self.point)
        projected = Projected(op, self)
        if tol is not None:
            self._look(projected, tol)
        return projected

    def _look(self, projected: Projected, tol: float) -> None:
        """Refuse modes along which products show curvature."""
        op, rng = projected.op, np.random.default_rng(0)
        one = projected(random_unit(rng, projected.n, op.dtype)) if projected.n else np.zeros(1)
        usual = norm(np.ascontiguousarray(one, np.float64))
        looked, share = np.eye(self.k), 1.0
        if self.k > _CHECKED:  # of random unit vectors each of k modes has 1/k of the square
            looked, share = rng.standard_normal((_CHECKED, self.k)), math.sqrt(self.k)
        for c in looked:
            q = np.ascontiguousarray(c @ self.modes / np.linalg.norm(c), op.dtype)
            leak = share * norm(np.ascontiguousarray(op(q), np.float64))
            projected.leak = max(projected.leak, leak)
        if not projected.leak <= tol * usual + 10 * op.noise + 10 * unit_roundoff(op.dtype) * usual:
            raise ValueError(
                f"project: a mode q has curvature: ||H q|| is {projected.leak:.3g}, where a random "
                f"vector of the complement has {usual:.3g}; symmetries are null modes at "
                "stationary points only (tol=None projects them out nevertheless)"
            )


@spelled
def null(x: Any, directions: Any) -> Null:
    """Take known null modes of a function at x, to be projected out of its Hessian.

    Parameters
    ----------
    x : ndarray, list, dict or groups of arrays
        float32 or float64.
    directions : sequence, or one alone, of
        'translations': all points of x move alike; its arrays have shape (points, d);
        'rotations': all points turn about their centre, in each of the d (d - 1) / 2 planes;
        dict of name -> number: a scale symmetry, as ``{"layer1": 1, "layer2.W": -1}`` on both sides
        of a ReLU: arrays or layers times ``a`` to these powers leave the function as it is;
        a structure like x: a direction as such;
        a 2-D array of n columns: directions as rows.

    Returns
    -------
    Null

    Raises
    ------
    TypeError, ValueError
        On bad arguments, and where the directions leave nothing, or are nothing.

    Examples
    --------
    Two atoms on a spring have one curvature, and five of their six directions are symmetries:

    >>> import numpy as np
    >>> from optkern import curvature
    >>> x = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> def hvp(v):
    ...     stretch = v[1, 0] - v[0, 0]
    ...     return np.array([[-stretch, 0, 0], [stretch, 0, 0]])
    >>> modes = curvature.null(x, ["translations", "rotations"])
    >>> modes.k
    5
    >>> round(curvature.lanczos(modes.project(hvp)).eigenvalue_min, 6)
    2.0

    References
    ----------
    Wilson, Decius, Cross, "Molecular vibrations", 1955, section 2-4 (translations and rotations);
    Kunin et al., "Neural mechanics: symmetry and broken conservation laws in deep learning
    dynamics", 2021, section 3 (scale symmetries); Schreiber, Parlett, "Block reflectors: theory and
    computation", 1988 (the basis of the complement).
    """
    owner = "null"
    point = Point(owner, x)
    families = [_family(owner, one, point) for one in _as_list(directions, point)]
    families = [_independent(rows, point.dtype) for rows in families]
    rows = _independent(np.concatenate([np.zeros((0, point.n)), *families]), point.dtype)
    if not len(rows):
        raise ValueError(f"{owner}: directions are all zero, there is nothing to project out")
    if len(rows) >= point.n:
        raise ValueError(
            f"{owner}: {len(rows)} independent directions leave nothing of x's {point.n} elements"
        )
    return Null(owner, point, rows)


def _as_list(directions: Any, point: Point) -> Sequence[Any]:
    """List the directions, or the one that came alone."""
    if isinstance(directions, (str, Mapping, np.ndarray)):
        return [directions]
    if not isinstance(directions, (list, tuple)):
        return [directions]
    arrays = all(isinstance(one, np.ndarray) for one in directions)
    if arrays and not point.structure.single and len(directions) == len(point.arrays):
        shapes = [np.shape(one) for one in directions]
        if shapes == [array.shape for array in point.arrays]:
            return [directions]  # x is a list of arrays, and so is this one direction
    return directions


def _family(owner: str, one: Any, point: Point) -> np.ndarray:
    """Expand one entry of the directions into rows of n elements."""
    if isinstance(one, str):
        if one not in WORDS:
            raise ValueError(
                f"{owner}: directions: {one!r} is not known; {hint(one, WORDS)}, or a structure "
                "like x"
            )
        points = _points(owner, one, point)
        return _translations(points) if one == "translations" else _rotations(points)
    if isinstance(one, Mapping) and one and all(map(_is_number, one.values())):
        return _scaling(owner, one, point)[None]
    shape: tuple[int, ...] = getattr(one, "shape", ())
    own = point.structure.single and shape == point.arrays[0].shape
    if isinstance(one, np.ndarray) and not own and len(shape) == 2 and shape[1] == point.n:
        return _finite(owner, one)
    return _finite(owner, point.flatten(one, "directions"))[None]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _finite(owner: str, rows: np.ndarray) -> np.ndarray:
    if rows.dtype.kind not in "fiu":
        raise TypeError(f"{owner}: directions must be real, got {rows.dtype}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{owner}: directions hold NaN or inf")
    return rows.astype(np.float64)


def _points(owner: str, word: str, point: Point) -> np.ndarray:
    """View all of x as points of d coordinates, one a row."""
    shapes = [array.shape for array in point.arrays]
    if any(len(shape) < 2 for shape in shapes) or len({shape[-1] for shape in shapes}) > 1:
        raise ValueError(
            f"{owner}: {word!r} needs arrays of shape (points, d) in x, all of the same d, "
            f"got {', '.join(map(str, shapes))}"
        )
    return point.vector().astype(np.float64).reshape(-1, shapes[0][-1])


def _translations(points: np.ndarray) -> np.ndarray:
    count, d = points.shape
    return np.tile(np.eye(d), (1, count))


def _rotations(points: np.ndarray) -> np.ndarray:
    centred = points - points.mean(axis=0)
    rows = []
    for i, j in combinations(range(points.shape[1]), 2):
        turned = np.zeros_like(points)
        turned[:, i], turned[:, j] = -centred[:, j], centred[:, i]
        rows.append(turned.ravel())
    return np.array(rows).reshape(-1, points.size)


def _scaling(owner: str, exponents: Mapping[Any, Any], point: Point) -> np.ndarray:
    """Compute d/da of a**e x at a = 1."""
    x, power = point.vector().astype(np.float64), np.zeros(point.n)
    for name, exponent in exponents.items():
        if not math.isfinite(exponent):
            raise ValueError(f"{owner}: directions: the exponent of {name!r} is {exponent!r}")
        for piece in block_slices(owner, name, point):
            power[piece] = exponent
    return power * x


def _independent(rows: np.ndarray, dtype: Any) -> np.ndarray:
    """Make an orthonormal basis of some rows' span, but for what rounding may have made."""
    if not rows.size:
        return rows
    _, sizes, right = np.linalg.svd(rows, full_matrices=False)
    return np.ascontiguousarray(right[sizes > math.sqrt(unit_roundoff(dtype)) * sizes[0]])
