"""The diagonal blocks of a Hessian, one for each array or layer: where is it sharp?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..kernels.immutable import immutable
from ..kernels.names import brief, passing_on
from ..rules.domains import check_callable, check_count, check_real
from .differences import hvp_from_grad
from .lanczos import DEFAULTS, Interval, lanczos, search
from .operators import Operator, Point, StructuredOperator
from .trace import Trace, trace
from .views import block_of, block_slices


@immutable
class Block:
    """Hold a diagonal block of the Hessian.

    Attributes
    ----------
    name : str
        The array's, or the layer's.
    elements : int
    sharpness : float
        Its largest eigenvalue.
    eigenvalue_min : float
        Its smallest; H has curvature as low as this along the block.
    bounds_min, bounds_max : tuple of float
        (lower, upper) for the true smallest and largest eigenvalue, at `lanczos`' confidence.
    trace : Trace
    converged : bool
        Both eigenvalues are as good as was asked for.
    matvecs : int
    """

    name: str
    elements: int
    sharpness: float
    eigenvalue_min: float
    bounds_min: Interval
    bounds_max: Interval
    trace: Trace
    converged: bool
    matvecs: int


@immutable
class Blocks:
    """Hold the diagonal blocks of a Hessian; `print` it for the table.

    Attributes
    ----------
    rows : tuple of Block
    matvecs : int
        Products in all.
    """

    rows: tuple[Block, ...]
    matvecs: int

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> Block:
        """Return the block of a name."""
        for row in self.rows:
            if row.name == str(name):
                return row
        raise KeyError(f"no block {name!r}; there are {', '.join(row.name for row in self.rows)}")

    def __str__(self) -> str:
        cells = [("block", "elements", "sharpness", "trace", "+-", "smallest")]
        for row in self.rows:
            # What has not converged is still a curvature that is there.
            least, most = ("", "") if row.converged else ("<= ", ">= ")
            cells.append(
                (
                    row.name,
                    f"{row.elements}",
                    f"{most}{row.sharpness:.4g}",
                    f"{row.trace.value:.4g}",
                    f"{row.trace.standard_error:.2g}",
                    f"{least}{row.eigenvalue_min:.4g}",
                )
            )
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if k else cell.ljust(width)
                for k, (cell, width) in enumerate(zip(line, widths))
            )
            for line in cells
        )


@passing_on(lanczos, without=("operator", "n"))
def blocks(
    x: Any,
    hvp: Callable[[Any], Any] | None = None,
    grad: Callable[[Any], Any] | None = None,
    *,
    names: Sequence[str | int] | None = None,
    trace_rtol: float = 0.1,
    max_matvecs: int = 200,
    seed: int = 0,
    num_threads: int | None = None,
    **options: Any,
) -> Blocks:
    """Tabulate the diagonal blocks of the Hessian at x: sharpness, trace, smallest eigenvalue.

    What a block shows holds for moves of its parameters alone, the others staying where they are:
    its eigenvalues lie between H's own.

    Parameters
    ----------
    x : ndarray, list, dict or groups of arrays
        float32 or float64; not modified. Or an object with ``x`` and ``hvp`` or ``grad``, as
        `objective` of the integrations gives.
    hvp : callable or None
        ``v -> H v`` at x, in x's structure.
    grad : callable or None
        ``x -> gradient``, where there is no hvp: products are differences.
    names : sequence of str or int, or None
        Arrays or layers (``"layer1.W"``, ``"layer1"``); None: every array.
    trace_rtol : float
        Where a block's trace stops, as `rtol` of `trace`.
    max_matvecs : int
        For each block's eigenvalues, and for its trace, at the most.
    seed : int
    num_threads : int or None
    **options
        As of `lanczos` (``tol``, ``confidence``, ...).

    Returns
    -------
    Blocks

    Raises
    ------
    TypeError, ValueError
        On bad arguments.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern import curvature
    >>> x = {"W": np.zeros((2, 2)), "b": np.zeros(1)}
    >>> print(curvature.blocks(x, hvp=lambda v: {"W": 2 * v["W"], "b": -3 * v["b"]}))
    block  elements  sharpness  trace  +-  smallest
    W             4          2      8   0         2
    b             1         -3     -3   0        -3

    References
    ----------
    Ghorbani, Krishnan, Xiao, "An investigation into neural net optimization via Hessian eigenvalue
    density", 2019; Dong et al., "HAWQ-V2: Hessian aware trace-weighted quantization of neural
    networks", 2020 (the trace of each layer's block).
    """
    owner = "blocks"
    check_callable(owner, hvp=hvp, grad=grad)
    if hasattr(x, "x") and (hvp, grad) == (None, None):
        hvp, grad, x = getattr(x, "hvp", None), getattr(x, "grad", None), x.x
    point = Point(owner, x)
    if hvp is None and grad is None:
        raise TypeError(f"{owner}: pass hvp, v -> H v, or grad, x -> gradient")
    for name in ("which", "dtype", "start"):
        if name in options:
            raise TypeError(f"{owner}: {name} is no argument here; it is one of lanczos")
    max_matvecs = check_count(owner, "max_matvecs", max_matvecs, 1)
    if trace_rtol is not None:
        trace_rtol = check_real(owner, "trace_rtol", trace_rtol, 0.0)
    wanted: list[Any] = point.structure.labels if names is None else _listed(owner, names)
    pieces = [block_slices(owner, name, point) for name in wanted]
    op: Operator
    op = StructuredOperator(owner, hvp, point) if hvp else hvp_from_grad(grad, x)  # type: ignore[arg-type]
    options.update(max_matvecs=max_matvecs, seed=seed, num_threads=num_threads)
    before = op.products
    rows = tuple(
        _row(str(name), block_of(op, piece), trace_rtol, options)
        for name, piece in zip(wanted, pieces)
    )
    return Blocks(rows, op.products - before)


def _listed(owner: str, names: Any) -> list[Any]:
    if isinstance(names, (str, bytes)) or not isinstance(names, Sequence) or not names:
        raise TypeError(f"{owner}: names must be a list of names, got {brief(names)}")
    return list(names)


def _row(name: str, block: Operator, trace_rtol: float, options: dict[str, Any]) -> Block:
    before = block.products
    if not block.n:
        return Block(
            name, 0, math.nan, math.nan, *2 * ((-math.inf, math.inf),), Trace(0, 0, 0), True, 0
        )
    ends = search("blocks", block, None, "both", **DEFAULTS | options)
    budget = max(options["max_matvecs"], 2)
    total = trace(block, rtol=trace_rtol, matvecs=budget, seed=options["seed"])
    assert ends.eigenvalue_min is not None and ends.eigenvalue_max is not None
    return Block(
        name,
        block.n,
        ends.eigenvalue_max,
        ends.eigenvalue_min,
        ends.bounds_min,
        ends.bounds_max,
        total,
        ends.converged,
        block.products - before,
    )
