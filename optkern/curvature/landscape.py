"""The loss along a line and over a plane through a point: as arrays, and as a picture.

What is seen depends on the directions. Random ones look alike wherever one stands, unless each
filter's part is scaled to the filter's own size (``normalise="filter"``, Li et al.); eigenvectors
show the steepest and the lowest curvature, two solutions what lies between them, the principal axes
of a path where training has gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.forms import settled
from ..kernels.immutable import immutable
from ..kernels.names import brief, spelled
from ..rules.domains import check_callable, check_count, check_real, check_seed, check_word
from .asking import asking
from .differences import hvp_from_grad
from .lanczos import lanczos
from .operators import Operator, Point, StructuredOperator, norm
from .recurrence import dot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NORMALISE = ("none", "filter")
DIRECTION_KINDS = ("random", "eigenvectors")


@immutable(eq=False)
class Line:
    """Hold the loss along a line; `plot` draws it.

    Attributes
    ----------
    t : ndarray, shape (points,)
        Steps along `direction`; 0 is x.
    loss : ndarray, shape (points,)
        inf or NaN where the loss is.
    direction : same structure as x
    name : str
        What the direction is.
    """

    t: np.ndarray
    loss: np.ndarray
    direction: Any = field(repr=False)
    name: str

    def plot(self, ax: Axes | None = None, **line: Any) -> Axes:
        """Draw the loss against the step.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where; default: the current axes of pyplot.
        **line
            What matplotlib's ``Axes.plot`` takes.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        ax = _axes("Line.plot", ax)
        ax.plot(self.t, np.where(np.isfinite(self.loss), self.loss, np.nan), **line)
        ax.plot([0], [self.loss[np.argmin(abs(self.t))]], "o", color="black")
        ax.annotate("x", (0, self.loss[np.argmin(abs(self.t))]), (5, 5), textcoords="offset points")
        ax.set_xlabel(f"step along {self.name}")
        ax.set_ylabel("loss")
        return ax


@immutable(eq=False)
class Plane:
    """Hold the loss over a plane; `plot` draws it.

    Attributes
    ----------
    s, t : ndarray, shapes (points,)
        Steps along the two directions; (0, 0) is x.
    loss : ndarray, shape (points, points)
        ``loss[j, i]`` at ``x + s[i] d0 + t[j] d1``.
    directions : tuple of two structures like x
    names : tuple of str
        What they are.
    marks : ndarray, shape (k, 2)
        Where the path, or the two solutions, lie in the plane (a path's points, projected).
    share : float
        Of a path: how much of its movement the plane shows, 0 to 1; else NaN.
    """

    s: np.ndarray
    t: np.ndarray
    loss: np.ndarray
    directions: tuple[Any, Any] = field(repr=False)
    names: tuple[str, str]
    marks: np.ndarray = field(repr=False)
    share: float

    def plot(self, ax: Axes | None = None, levels: int = 24) -> Axes:
        """Draw lines of equal loss, evenly many below and above; x is the cross.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where; default: the current axes of pyplot.
        levels : int
            How many lines.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            Without matplotlib.
        """
        ax = _axes("Plane.plot", ax)
        finite = self.loss[np.isfinite(self.loss)]
        if finite.size == 0:
            raise ValueError("Plane.plot: no loss in this plane is finite")
        # By rank: a valley's floor and its walls differ by orders of magnitude.
        levels = check_count("Plane.plot", "levels", levels, 2)
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, levels)))
        if edges.size > 1:
            shown = np.ma.masked_invalid(self.loss)
            from matplotlib.colors import BoundaryNorm

            ranks = BoundaryNorm(edges, 256)
            filled = ax.contourf(self.s, self.t, shown, edges, cmap="cividis", norm=ranks)
            ax.contour(self.s, self.t, shown, edges, colors="black", linewidths=0.3)
            ax.figure.colorbar(filled, ax=ax, label="loss")
        if len(self.marks):
            ax.plot(*self.marks.T, "o-", color="#D55E00", markersize=3, linewidth=1)
        ax.plot([0], [0], "+", color="white", markersize=12, markeredgewidth=2)
        ax.set_xlabel(self.names[0])
        ax.set_ylabel(self.names[1])
        return ax


@spelled
def line(
    x: Any,
    loss: Callable[[Any], float],
    direction: Any = "random",
    *,
    to: Any = None,
    grad: Callable[[Any], Any] | None = None,
    hvp: Callable[[Any], Any] | None = None,
    span: float | None = None,
    points: int = 51,
    normalise: str = "none",
    filter_axis: int = -1,
    seed: int = 0,
) -> Line:
    """Measure the loss along a line through x.

    Parameters
    ----------
    x : ndarray, list, dict or nested structure of arrays
        float32 or float64; not modified.
    loss : callable
        ``x -> float``; it gets fresh arrays.
    direction : 'random', 'eigenvectors', or a structure like x
        ``"eigenvectors"``: of the largest eigenvalue, by grad or hvp. A direction of your own is
        taken as it is, any other has norm 1 (or its filters' norms, see normalise).
    to : same structure as x, or None
        Another solution, in direction's place: t = 0 is x, t = 1 is this.
    grad, hvp : callable or None
        ``x -> gradient`` and ``v -> H v`` at x, for eigenvectors.
    span : float or None
        t runs from -span to span; None: 1, and with ``to`` from -0.25 to 1.25.
    points : int
        At least 3; an odd number has x among them.
    normalise : 'none' or 'filter'
        Scale each filter's part of a random direction to the norm of the filter of x; parts of
        1-D arrays (biases, normalisation) become 0.
    filter_axis : int
        Along which a weight's filters are counted: -1 for ``x @ W``, 0 for torch's layout.
    seed : int

    Returns
    -------
    Line

    Raises
    ------
    TypeError, ValueError
        On bad arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.curvature import landscape
    >>> found = landscape.line(np.zeros(2), lambda w: float(w @ w), np.array([1.0, 0.0]), points=3)
    >>> found.t, found.loss
    (array([-1.,  0.,  1.]), array([1., 0., 1.]))

    References
    ----------
    Goodfellow, Vinyals, Saxe, "Qualitatively characterizing neural network optimization problems",
    2015, section 3 (two solutions); Li, Xu, Taylor, Studer, Goldstein, "Visualizing the loss
    landscape of neural nets", 2018, section 4 (filter normalisation).
    """
    surface = _Surface("landscape.line", x, loss, normalise, filter_axis, seed)
    points = check_count(surface.owner, "points", points, 3)
    if to is not None:
        ways, names = [surface.towards(to, "to")], ["the way to `to`"]
    else:
        ways, names = surface.ways(direction, 1, grad, hvp)
    t = surface.steps(span, points, (-0.25, 1.25) if to is not None else (-1.0, 1.0))
    losses = np.array([surface.at(ways, (step,)) for step in t])
    return Line(t, losses, surface.point.unflatten(ways[0]), names[0])


@spelled
def plane(
    x: Any,
    loss: Callable[[Any], float],
    directions: Any = "random",
    *,
    to: Sequence[Any] | None = None,
    path: Sequence[Any] | None = None,
    grad: Callable[[Any], Any] | None = None,
    hvp: Callable[[Any], Any] | None = None,
    span: float | None = None,
    points: int = 25,
    normalise: str = "none",
    filter_axis: int = -1,
    seed: int = 0,
) -> Plane:
    """Measure the loss over a plane through x.

    Parameters
    ----------
    x : ndarray, list, dict or nested structure of arrays
        float32 or float64; not modified.
    loss : callable
        ``x -> float``; it gets fresh arrays. It is called ``points**2`` times.
    directions : 'random', 'eigenvectors', or a pair of structures like x
        ``"eigenvectors"``: of the largest and of the smallest eigenvalue, by grad or hvp. A pair of
        your own is taken as it is, random ones are at right angles, of norm 1 (or their filters').
    to : pair of structures like x, or None
        Two other solutions: (1, 0) and (0, 1) in the plane.
    path : sequence of structures like x, or None
        Points that training has passed, at least three: the directions are the principal axes of
        their distances from x, of norm 1.
    grad, hvp : callable or None
        ``x -> gradient`` and ``v -> H v`` at x, for eigenvectors.
    span : float or None
        Both steps run from -span to span; None: 1, with ``to`` from -0.5 to 1.5, with a path a
        fifth farther than its farthest point.
    points : int
        Along each direction, at least 3; an odd number has x among them.
    normalise, filter_axis, seed
        As in `line`.

    Returns
    -------
    Plane

    Raises
    ------
    TypeError, ValueError
        On bad arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.curvature import landscape
    >>> saddle = lambda w: float(w[0] ** 2 - w[1] ** 2)
    >>> landscape.plane(np.zeros(2), saddle, np.eye(2), points=3).loss
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  1.],
           [ 0., -1.,  0.]])

    References
    ----------
    Li, Xu, Taylor, Studer, Goldstein, "Visualizing the loss landscape of neural nets", 2018,
    sections 4 (filter normalisation) and 7 (principal axes of the path).
    """
    surface = _Surface("landscape.plane", x, loss, normalise, filter_axis, seed)
    points = check_count(surface.owner, "points", points, 3)
    default, marks, share = (-1.0, 1.0), np.zeros((0, 2)), np.nan
    if to is not None and path is not None:
        raise ValueError(f"{surface.owner}: to and path are both given; a plane has one of them")
    if to is not None:
        if len(to) != 2:
            raise ValueError(f"{surface.owner}: to must be two solutions, got {len(to)}")
        ways = [surface.towards(other, f"to[{k}]") for k, other in enumerate(to)]
        names, default, marks = ["the way to to[0]", "the way to to[1]"], (-0.5, 1.5), np.eye(2)
    elif path is not None:
        ways, marks, share = surface.principal(path)
        names = ["first principal axis of the path", "second"]
        reach = 1.2 * float(abs(marks).max()) or 1.0
        default = (-reach, reach)
    else:
        ways, names = surface.ways(directions, 2, grad, hvp)
    t = surface.steps(span, points, default)
    losses = np.array([[surface.at(ways, (a, b)) for a in t] for b in t])
    structures = (surface.point.unflatten(ways[0]), surface.point.unflatten(ways[1]))
    return Plane(t, t.copy(), losses, structures, (names[0], names[1]), marks, share)


class _Surface:
    """Hold the loss around a point, and the directions to look in."""

    def __init__(
        self,
        owner: str,
        x: Any,
        loss: Callable[[Any], float],
        normalise: str,
        filter_axis: int,
        seed: int,
    ) -> None:
        self.owner, self.given = owner, (x := settled(x))
        self.point = Point(owner, x)
        check_callable(owner, optional=False, loss=loss)
        check_word(owner, "normalise", normalise, NORMALISE, "'none' or 'filter'")
        if filter_axis not in (0, -1):
            raise ValueError(f"{owner}: filter_axis must be 0 or -1, got {brief(filter_axis)}")
        self.loss = asking("loss", loss, self.point.structure)
        self.normalise, self.filter_axis = normalise, filter_axis
        self.rng = np.random.default_rng(check_seed(owner, seed))
        self.x = self.point.vector()
        self.seed = seed

    def at(self, ways: Sequence[np.ndarray], steps: Sequence[float]) -> float:
        """Evaluate the loss at x plus a step along each way."""
        moved = self.x.astype(np.float64)
        for way, step in zip(ways, steps):
            moved += step * way
        value = self.loss(self.point.unflatten(moved.astype(self.x.dtype)))
        if np.size(value) != 1 or np.asarray(value).dtype.kind not in "fiu":
            raise TypeError(
                f"{self.owner}: loss must return a real number, got {type(value).__name__}"
            )
        return float(np.asarray(value).item())

    def steps(self, span: float | None, points: int, default: tuple[float, float]) -> np.ndarray:
        if span is not None:
            span = check_real(self.owner, "span", span, 0.0, np.inf, closed=False)
            default = (-span, span)
        return np.linspace(*default, points)

    def towards(self, other: Any, what: str) -> np.ndarray:
        """Return the way from x to another solution, whole."""
        way = self.point.flatten(other, what).astype(np.float64) - self.x
        return self._nonzero(way, f"{what} is x itself")

    def _nonzero(self, way: np.ndarray, said: str) -> np.ndarray:
        if not np.isfinite(way).all():
            raise ValueError(f"{self.owner}: a direction holds NaN or inf")
        if not way.any():
            raise ValueError(f"{self.owner}: {said}, which gives no direction")
        return way

    def ways(
        self, given: Any, count: int, grad: Any, hvp: Any
    ) -> tuple[list[np.ndarray], list[str]]:
        """Return directions as flat float64 vectors, and what to call them."""
        if not isinstance(given, str):
            return self._given(given, count)
        if given not in DIRECTION_KINDS:
            raise ValueError(
                f"{self.owner}: directions must be 'random', 'eigenvectors' or arrays like x, "
                f"got {brief(given)}"
            )
        if given == "random":
            return self._random(count), ["a random direction", "another"][:count]
        return self._eigenvectors(count, grad, hvp)

    def _given(self, given: Any, count: int) -> tuple[list[np.ndarray], list[str]]:
        several = [given] if count == 1 else list(given)
        if len(several) != count:
            raise ValueError(
                f"{self.owner}: directions must be a pair of structures like x, got {len(several)}"
            )
        ways = [self.point.flatten(way, "direction").astype(np.float64) for way in several]
        names = ["direction"] if count == 1 else ["directions[0]", "directions[1]"]
        return [self._nonzero(way, "a direction is zero") for way in ways], names

    def _random(self, count: int) -> list[np.ndarray]:
        ways: list[np.ndarray] = []
        if count > self.x.size:
            raise ValueError(f"{self.owner}: x has {self.x.size} element, a plane needs two")
        for _ in range(count):
            way = self.rng.standard_normal(self.x.size)
            for other in ways:
                way -= dot(other, way) / dot(other, other) * other
            ways.append(way / norm(way))
        return [self._filtered(way) for way in ways] if self.normalise == "filter" else ways

    def _filtered(self, way: np.ndarray) -> np.ndarray:
        """Give each filter's part the norm of x's filter; the others' parts are zero."""
        parts = [np.array(part, np.float64) for part in self._pieces(way)]
        for part, array in zip(parts, self.point.arrays):
            if array.ndim < 2:
                part[...] = 0
                continue
            axes = tuple(k for k in range(array.ndim) if k != self.filter_axis % array.ndim)
            sizes, own = _norms(part, axes), _norms(array, axes)
            part *= own / np.where(sizes > 0, sizes, 1.0)
        flat = np.concatenate([part.reshape(-1) for part in parts])
        return self._nonzero(flat, "normalise='filter' leaves no array of two dimensions")

    def _pieces(self, flat: np.ndarray) -> list[np.ndarray]:
        edges = np.cumsum([array.size for array in self.point.arrays])[:-1]
        return [
            piece.reshape(array.shape)
            for piece, array in zip(np.split(flat, edges), self.point.arrays)
        ]

    def _eigenvectors(self, count: int, grad: Any, hvp: Any) -> tuple[list[np.ndarray], list[str]]:
        check_callable(self.owner, grad=grad, hvp=hvp)
        operator: Operator
        if hvp is not None:
            operator = StructuredOperator(self.owner, hvp, self.point)
        elif grad is not None:
            operator = hvp_from_grad(grad, self.given)
        else:
            raise TypeError(f"{self.owner}: eigenvectors need grad or hvp, both are None")
        which = "largest" if count == 1 else "both"
        found = lanczos(operator, which=which, tol=1e-3, seed=self.seed)
        ways, names = [found.eigenvector_max], [f"eigenvector of {found.eigenvalue_max:.3g}"]
        if count == 2:
            ways.append(found.eigenvector_min)
            names.append(f"eigenvector of {found.eigenvalue_min:.3g}")
        return [np.asarray(way, np.float64).reshape(-1) for way in ways], names

    def principal(self, path: Sequence[Any]) -> tuple[list[np.ndarray], np.ndarray, float]:
        """Find the principal axes of a path around x, its places on them, and their share of it."""
        rows = [self.point.flatten(place, f"path[{k}]") for k, place in enumerate(path)]
        if len(rows) < 3:
            raise ValueError(f"{self.owner}: path needs three points at least, got {len(rows)}")
        moved = np.array(rows, np.float64) - self.x
        self._nonzero(moved, "every point of path is x")
        moved, exponent = _near_one(moved, None)
        # By the small matrix of inner products: there are fewer points than parameters.
        values, vectors = np.linalg.eigh(moved @ moved.T)
        if values[-2] <= 1e-12 * values[-1]:
            raise ValueError(f"{self.owner}: path lies on a line through x; see landscape.line")
        ways = [moved.T @ vectors[:, k] / np.sqrt(values[k]) for k in (-1, -2)]
        marks = np.ldexp(moved @ np.array(ways).T, exponent)
        return ways, marks, float((values[-1] + values[-2]) / values.sum())


def _near_one(a: np.ndarray, axes: tuple[int, ...] | None) -> tuple[np.ndarray, Any]:
    """Scale an array by 2**-exponent along some axes, where its squares would leave the range."""
    wide = a.astype(np.float64)
    exponent = np.frexp(np.abs(wide).max(axis=axes, keepdims=axes is not None, initial=0.0))[1]
    exponent = np.where(np.abs(exponent) > 400, exponent, 0)
    return np.ldexp(wide, -exponent), exponent


def _norms(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Compute the norms over some axes, whatever the magnitudes."""
    scaled, exponent = _near_one(a, axes)
    norms: np.ndarray = np.ldexp(np.sqrt(np.square(scaled).sum(axis=axes, keepdims=True)), exponent)
    return norms


def _axes(owner: str, ax: Any) -> Any:
    if ax is not None:
        if not hasattr(ax, "contourf"):
            raise TypeError(f"{owner}: ax must be a matplotlib Axes, got {brief(ax)}")
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(f"{owner}: needs matplotlib: pip install matplotlib") from None
    return pyplot.gca()
