"""The Hessian as a rule's steps see it: divided by what they divide the gradient by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..rules import Rule
from .operators import Measured, Operator, norm
from .run import LARGEST, smallest_norm

ANEW = "opt.reset() and a step begin it anew"
NEGATIVE = f"is negative, and no step makes it so: it has been written; {ANEW}"
NAN = f"is NaN, as a gradient with NaN leaves it; {ANEW}"
INFINITE = (
    "is not finite, a gradient's square has overflowed: they take no steps any more, "
    "no lr limits them"
)


class SteppingRule(Protocol):
    """Say what is asked of an optimizer, in whose room nothing here looks."""

    rule: Rule

    @property
    def params(self) -> Sequence[np.ndarray]: ...
    @property
    def param_groups(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def state(self) -> Mapping[Any, Mapping[str, Any]]: ...
    @property
    def steps(self) -> int: ...
    @property
    def session(self) -> Any: ...


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Refuse what has no rule and no session: what is none of optkern's optimizers."""
    made = not isinstance(optimizer, type) and hasattr(optimizer, "session")
    if not (made and isinstance(getattr(optimizer, "rule", None), Rule)):
        raise TypeError(
            f"{owner}: optimizer must be one of optkern's, got {type(optimizer).__name__}"
        )


class Preconditioned(Operator):
    """Compute P^-1/2 (H + decay) P^-1/2, with the sign -1 of -H, and what is known of H's error."""

    def __init__(
        self, owner: str, op: Operator, inverse_root: np.ndarray, sign: float, decay: float
    ) -> None:
        super().__init__(owner, self._product, op.n, op.dtype)
        self.op, self.inverse_root = op, inverse_root
        self.sign, self.shift = sign, decay * inverse_root**2
        self.exact = op.exact
        self.gain = float(np.mean(inverse_root**2))  # of an error without a direction
        self.stretch = 0.0  # the most that H itself has lengthened a vector by

    def _product(self, v: np.ndarray) -> np.ndarray:
        w = self._argument(v)
        product = self.op(w)
        self.stretch = max(self.stretch, norm(product) / (norm(w) or math.inf))
        product = self._scaled(product, v)
        self.noise, self.kink = self.gain * self.op.noise, self.op.kink
        return product

    def explained(self, error: FloatingPointError) -> FloatingPointError:
        """Return the error, or where only P brings products out of the range, one that says so."""
        least, largest = (float(f(self.inverse_root)) ** -2 for f in (np.max, np.min))
        bounds = smallest_norm(self.dtype), LARGEST
        if least == largest == 1 or not bounds[0] < self.stretch < bounds[1]:
            return error
        return FloatingPointError(
            f"{self.owner}: products of the Hessian have a norm of about {self.stretch:.1g}; "
            f"divided by the second moments' roots, {least:.1g} to {largest:.1g}, they leave the "
            "range of numbers. No limit can be told of such moments; opt.reset() and a "
            "step begin them anew"
        )

    def _argument(self, v: np.ndarray) -> np.ndarray:
        return (self.inverse_root * v).astype(self.dtype, copy=False)

    def _scaled(self, product: np.ndarray, v: np.ndarray) -> np.ndarray:
        return self.sign * self.inverse_root * product + self.shift * v

    def _length(self, w: np.ndarray) -> float:
        length = norm(w)
        if not 0 < length < math.inf:
            raise ValueError(
                f"{self.owner}: scaled by the second moments a unit vector has the length {length} "
                f"in {w.dtype}; give the operator a wider dtype"
            )
        return length

    def prepare(self, v: np.ndarray) -> None:
        w = self._argument(v)
        before = self.op.products
        self.op.prepare(w * w.dtype.type(1 / self._length(w)))
        self.products += self.op.products - before

    def measure(self, v: np.ndarray) -> Measured:
        """Measure the product for a unit vector at the best step for it, with its error."""
        w = self._argument(v)
        length = self._length(w)
        before = self.op.products
        found = self.op.measure(w * w.dtype.type(1 / length))
        self.products += self.op.products - before
        product = self._scaled(found.product * found.product.dtype.type(length), v)
        return Measured(product.astype(self.dtype, copy=False), self.gain * found.noise, found.kink)


def inverse_root_of(owner: str, optimizer: SteppingRule, h: dict[str, Any]) -> np.ndarray | None:
    """Compute P^-1/2, flat, where a step is lr P^-1 times the (averaged) gradient; None for P = 1.

    Raises
    ------
    ValueError
        Where a second moment is empty, no number, infinite, negative, or zero with eps=0.
    """
    divided_by = optimizer.rule.preconditioner
    if divided_by is None:
        return None
    pieces = []
    for label, entry in optimizer.state.items():
        if not entry["step"]:
            raise ValueError(
                f"{owner}: parameter {label!r} has taken no step, its second moment is empty"
            )
        for slot in optimizer.rule.nonnegative & set(entry):
            _refuse_moments(owner, np.asarray(entry[slot], np.float64) < 0, NEGATIVE)
        pieces.append(divided_by(entry, h).ravel())
    p = np.concatenate(pieces)
    _refuse_moments(owner, np.isnan(p), NAN)
    _refuse_moments(owner, np.isinf(p), INFINITE)
    _refuse_moments(owner, p <= 0, "is zero with eps=0")
    return 1 / np.sqrt(p)


def _refuse_moments(owner: str, bad: np.ndarray, what: str) -> None:
    count = int(bad.sum())
    if count:
        raise ValueError(f"{owner}: the second moment of {count} elements {what}")
