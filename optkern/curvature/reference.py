"""The long-vector passes and the Lanczos recurrence in NumPy: what `recurrence.pyx` equals in bits.

Slow; it is there to be read and to be compared with.
"""

from __future__ import annotations

import numpy as np

from ..kernels.runtime import ieee_mode
from .recurrence import MOST_TURNS, REORTHOGONALIZE_BELOW
from .recurrence import SUM_BLOCK as BLOCK  # elements of one partial sum
from .recurrence import SUM_LANES as LANES  # running sums within a block


def dot(x, y):
    """Compute x'y: per block 16 running float64 sums, a tree over them, a tree over blocks."""
    n = x.size
    padded = np.zeros(-(-n // BLOCK) * BLOCK)
    padded[:n] = x.astype(np.float64) * y.astype(np.float64)
    terms = padded.reshape(-1, BLOCK // LANES, LANES)
    lanes = np.zeros((len(terms), LANES))
    for k in range(BLOCK // LANES):
        lanes += terms[:, k]
    sums = halved(lanes.T)
    return float(halved(sums)) if len(sums) else 0.0


def halved(sums):
    """Sum along the first axis: the upper half onto the lower until one is left."""
    while len(sums) > 1:
        half = (len(sums) + 1) // 2
        sums = np.concatenate(
            [sums[: len(sums) - half] + sums[half:], sums[len(sums) - half : half]]
        )
    return sums[0] if len(sums) else sums


def project(rows, x):
    """Compute the dots of x with each of the rows."""
    return np.array([dot(row, x) for row in rows])


def subtract(out, x, rows, c, y=None):
    """Set out = x - sum_j c[j] rows[j], summed in float64 and rounded once; returns out'y."""
    total = x.astype(np.float64)
    for row, coefficient in zip(rows, c):
        total = total - float(coefficient) * row.astype(np.float64)
    out[...] = total.astype(out.dtype)
    return 0.0 if y is None else dot(out, y)


def combine(rows, weights, n):
    """Compute sum_j weights[j] rows[j] in float64."""
    total = np.zeros(n)
    for row, weight in zip(rows, weights):
        total += float(weight) * row.astype(np.float64)
    return total


def scale(out, x, a):
    """Set out = a x"""
    out[...] = (a * x.astype(np.float64)).astype(out.dtype)


class Recurrence:
    """Grow H V = V T + beta_k v_{k+1} e_k'; see `recurrence.Recurrence`."""

    def __init__(self, start, basis_limit):
        self.vector, self.previous = start.copy(), None
        self.limit, self.basis = basis_limit, [self.vector] if basis_limit > 0 else None
        self.k, self.alpha, self.beta = 0, [], []
        self.noise_square, self.noise_count, self.removed_square = 0.0, 0, 0.0
        self.largest = 0.0

    def advance(self, product):
        with ieee_mode(), np.errstate(all="ignore"):
            self._advance(product)

    def _advance(self, w):
        v, last = self.vector, self.beta[-1] if self.k else 0.0
        if self.basis is not None and len(self.basis) >= self.limit:
            self.basis = None
        new = np.empty_like(v)
        # w = H v_k - beta_{k-1} v_{k-1};  alpha_k = v_k'w;  w = w - alpha_k v_k
        before = [] if self.previous is None else [self.previous]
        if before and self.basis is None:
            self._note(dot(self.previous, w) - last)
        alpha = subtract(new, w, before, [last][: len(before)], v)
        square = subtract(new, new, [v], [alpha], new)
        if self.basis is not None:
            alpha, square = self._orthogonalize(new, alpha, square)
        # beta_k = ||w||;  v_{k+1} = w / beta_k
        beta = float(np.sqrt(square))
        self.largest = max(self.largest, abs(alpha), beta)
        u = float(np.finfo(v.dtype).eps) / 2
        if self.basis is not None and beta < u * self.largest and len(self.basis) < v.size:
            beta = u * self.largest
            new[:] = self._fresh_direction()
        else:
            scale(new, new, 1 / beta if beta > 0 else 0.0)
        self.alpha.append(alpha)
        self.beta.append(beta)
        self.k += 1
        self.previous, self.vector = v, new
        if self.basis is not None:
            self.basis.append(new)

    def _orthogonalize(self, new, alpha, square):
        """Apply classical Gram-Schmidt against the basis, once more wherever it took much."""
        for turn in range(MOST_TURNS):
            c = project(self.basis, new)
            before, square = square, subtract(new, new, self.basis, c, new)
            alpha += c[-1]
            if turn == 0:
                for sample in c[:-1]:
                    self._note(sample)
                    self.removed_square += float(sample) * float(sample)
            if not square <= REORTHOGONALIZE_BELOW * REORTHOGONALIZE_BELOW * before:
                return alpha, square
        return alpha, 0.0

    def _fresh_direction(self):
        """Draw a unit vector orthogonal to the basis."""
        rng = np.random.default_rng([0x5EED4, self.k])
        x = rng.standard_normal(self.vector.size, self.vector.dtype.type)
        square = dot(x, x)
        for _ in range(MOST_TURNS):
            before, square = square, subtract(x, x, self.basis, project(self.basis, x), x)
            if square > REORTHOGONALIZE_BELOW * REORTHOGONALIZE_BELOW * before:
                break
        scale(x, x, 1 / float(np.sqrt(square)))
        return x

    def _note(self, sample):
        self.noise_square += float(sample) * float(sample)
        self.noise_count += 1
