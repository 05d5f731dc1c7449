"""Sharpness along training: the Hessian's largest eigenvalue beside what the learning rate allows.

Each measurement starts from the eigenvector of the last, a little disturbed: that takes a few
products where a fresh start takes dozens, and another eigenvalue that overtakes is still found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..curvature import lanczos, max_stable_lr
from ..curvature.asking import ChangedError, asking
from ..curvature.operators import Point, StructuredOperator, norm
from ..kernels.structures import Structure
from ..optimizers import Optimizer
from .settings import maximizes, rate

TOL, MOST_PRODUCTS = 0.01, 40  # relative, and products at the most for each eigenvalue
DISTURBED = 0.1  # of a start's length


class Edge(NamedTuple):
    """Hold what was measured at one record; NaN where it was not to be known."""

    record: int
    lr: float
    sharpness: float  # the Hessian's largest eigenvalue; of -H where the run maximizes
    preconditioned: float  # by the rule's second moments, L2 decay included
    limit: float  # what lr allows that to be: 2 / lr for plain SGD, the rule's own otherwise
    products: int

    @property
    def stable(self) -> float:
        """Return what lr allows `sharpness` to be for plain gradient descent: 2 / lr."""
        return 2 / self.lr if self.lr > 0 else math.inf


class Tracker:
    """Track the largest eigenvalues of a run, each from the last one's eigenvector."""

    def __init__(self, every: int, hvp: Callable[[Any], Any]) -> None:
        self.every, self.hvp = every, hvp
        self.due = 1
        self.starts: dict[str, np.ndarray] = {}

    def measure(self, record: int, opt: Optimizer, grads: Any) -> Edge:
        """Measure both eigenvalues where the parameters are now."""
        owner = "Monitor.record"
        like = opt.params if grads is None else grads
        lr = rate(opt)
        arrays = Structure(owner, like, "grads", absent=True).arrays
        if any(a is None for a in arrays):
            raise TypeError(
                f"{owner}: curvature_every needs a gradient for every parameter at the records "
                "it looks at (hvp gets vectors arranged as they are), got None"
            )
        nan = math.nan
        if not all(np.isfinite(a).all() for a in arrays):
            return Edge(record, lr, nan, nan, nan, 0)
        hvp = self.hvp if opt.follow else asking("hvp", self.hvp, opt.session.structure)
        op = StructuredOperator(owner, hvp, Point(owner, like, "grads"))
        up = not maximizes(opt)
        try:
            options = self._options("plain", op, record)
            plain = lanczos(op, which="largest" if up else "smallest", **options)
        except FloatingPointError:  # a run that overflows
            return Edge(record, lr, nan, nan, nan, op.products)
        self._keep("plain", plain.eigenvector_max if up else plain.eigenvector_min)
        top = plain.eigenvalue_max if up else plain.eigenvalue_min
        top = nan if top is None else top if up else -top
        ruled = limit = nan
        try:
            options = self._options("preconditioned", op, record)
            found = max_stable_lr(opt, op, **options)
        except ChangedError:
            raise
        except (ValueError, FloatingPointError):  # a rule without a limit, or without state
            pass
        else:
            self._keep("preconditioned", found.curvature.eigenvector_max)
            ruled = found.curvature.eigenvalue_max or 0.0
            limit = found.limit / lr if lr > 0 else math.inf
        return Edge(record, lr, top, ruled, limit, op.products)

    def _options(self, name: str, op: StructuredOperator, record: int) -> dict[str, Any]:
        options: dict[str, Any] = {"tol": TOL, "max_matvecs": MOST_PRODUCTS, "seed": record}
        start = self.starts.get(name)
        if start is not None and start.size == op.n:
            noise = np.random.default_rng([record, 0x5EED7]).standard_normal(op.n)
            disturbed = start + DISTURBED / math.sqrt(op.n) * noise
            options["start"] = disturbed.astype(op.dtype)
        return options

    def _keep(self, name: str, vector: Any) -> None:
        if vector is not None:
            flat = np.asarray(vector, np.float64).reshape(-1)
            self.starts[name] = flat / norm(flat)
