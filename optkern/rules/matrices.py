"""The orthogonal factor of a matrix by products alone: one function, for kernels and reference.

What it computes are NumPy's own products (`numpy.matmul` into arrays that are there), on whatever
BLAS NumPy has: the bits are those of the same calls, and depend on that BLAS and its threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

Coefficients = Sequence[tuple[float, float, float]]

LARGEST_ROUNDING = 1 / 40  # of a small eigenvalue, of a largest one of about 1
GRAM_FROM = 2  # sides' ratio from which iterating the small square matrix takes a fifth less time
STRIPS, CUT_FROM = 4, 256  # of what a symmetric product takes at a time, and its least side


def orthogonalise(u: np.ndarray, coefficients: Coefficients, eps: float, factor: float) -> None:
    """Put a matrix's nearest orthogonal one, times a factor, in its place (Newton-Schulz).

    ``X = u / max(||u||, eps)``, then for each (a, b, c) ``A = X X^T; X = (a I + b A + c A A) X``,
    with the shorter side in front. Beside ``u`` there is one more array of its size, and two of the
    square of its shorter side, four where the sides' ratio is 2 or more (`iterate_gram`).

    Parameters
    ----------
    u : ndarray of two axes, float32 or float64
        Gapless, in C or Fortran order; overwritten.
    coefficients : sequence of (a, b, c)
        Of each step.
    """
    target = u.T if u.shape[0] > u.shape[1] else u
    if not u.size:
        return
    as_is, other = target.flags.c_contiguous, np.empty(target.shape, u.dtype)
    x, y = target, other
    if not as_is:  # products' bits may depend on the order in memory: it is always this one
        other[...] = target
        x, y = other, (target.T if target.T.flags.c_contiguous else target).reshape(target.shape)
    _normalise(x, eps)
    gram = target.shape[1] >= GRAM_FROM * target.shape[0]
    found = (iterate_gram if gram else iterate)(x, y, coefficients, factor)
    if found is y and not as_is:  # its memory is the target's, in another order
        other[...] = y
        found = other
    if found is not target:
        target[...] = found


def _normalise(x: np.ndarray, eps: float) -> None:
    """Divide by the norm, or by eps where that is larger; of any magnitude."""
    largest = max(float(x.max()), -float(x.min()))
    if not math.isfinite(largest):
        x[...] = np.nan
        return
    shift = -math.frexp(largest)[1]
    np.ldexp(x, shift, out=x)
    flat = x.reshape(-1)
    norm = math.sqrt(np.dot(flat, flat))
    with np.errstate(over="ignore"):
        x /= x.dtype.type(max(norm, float(np.ldexp(eps, shift))) or 1)


def iterate(x: Any, y: Any, coefficients: Coefficients, factor: float) -> np.ndarray:
    """Take the steps one after the other, from x to y and back; return where the last one is."""
    m = len(x)
    a2, gram = np.empty((2, m, m), x.dtype)
    for k, (a, b, c) in enumerate(coefficients, 1):
        np.matmul(x, x.T, out=gram)  # of an array and its own transpose: half the work (?syrk)
        np.matmul(gram, gram.T, out=a2)
        _combine(a2, gram, a, b, c)
        if k == len(coefficients):
            a2 *= factor
        np.matmul(a2, x, out=y)
        x, y = y, x
    return x


def iterate_gram(x: Any, y: Any, coefficients: Coefficients, factor: float) -> np.ndarray:
    """Take the steps on X X^T alone, with which they commute: few products with X, not two each.

    Rounding gives that matrix eigenvalues a little below zero, which grow as small ones do, and X
    has no such: where they could become large, what the steps make of X X^T goes into X, and they
    begin anew.
    """
    room = np.empty((4, len(x), len(x)), x.dtype)
    runs = runs_of(coefficients, float(np.finfo(x.dtype).eps))
    for run in runs:
        np.matmul(x, x.T, out=room[0])
        q = _product_of_steps(room, run)
        if run is runs[-1]:
            q *= factor
        np.matmul(q, x, out=y)
        x, y = y, x
    return x


def runs_of(coefficients: Coefficients, eps: float) -> list[Coefficients]:
    """Cut the steps into runs over which a rounding of X X^T stays below `LARGEST_ROUNDING`."""
    runs: list[list[tuple[float, float, float]]] = []
    rounding = math.inf
    for step in coefficients:
        if rounding > LARGEST_ROUNDING:
            rounding = eps
            runs.append([])
        runs[-1].append(step)
        rounding *= step[0] ** 2
    return list(runs)


def _product_of_steps(room: np.ndarray, run: Coefficients) -> np.ndarray:
    """Multiply the polynomials of a run, each of the matrix X X^T that those before leave."""
    gram, step, q, other = room
    for k, (a, b, c) in enumerate(run, 1):  # of matrices that commute: all products are symmetric
        np.matmul(gram, gram.T, out=step)
        np.multiply(gram, b, out=other)
        step *= c
        step += other
        step.reshape(-1)[:: len(step) + 1] += a
        if k == 1:
            q[...] = step
        else:
            _multiply(step, q, other)
            q, other = other, q
        if k < len(run):
            np.matmul(step, step.T, out=other)
            _multiply(gram, other, step)
            gram, step = step, gram
    return q


def _multiply(x: np.ndarray, y: np.ndarray, to: np.ndarray) -> None:
    """Compute a product that is symmetric: five eighths of a large one, and mirror the rest."""
    m = len(x)
    edges = [m * k // STRIPS for k in range(STRIPS + 1)] if m >= CUT_FROM else [0, m]
    for first, last in pairwise(edges):
        np.matmul(x[first:last], y[:, first:], out=to[first:last, first:])
    for first, last in pairwise(edges):
        to[last:, first:last] = to[first:last, last:].T


def _combine(a2: np.ndarray, gram: np.ndarray, a: float, b: float, c: float) -> None:
    """Make a I + b A + c A A of A and A A, in the latter's place."""
    a2 *= c
    gram *= b
    a2 += gram
    a2.reshape(-1)[:: len(a2) + 1] += a
