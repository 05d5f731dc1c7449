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
    with the shorter side in front. Beside ``u`` there are two arrays of the square of its shorter
    side, four where the sides' ratio is 2 or more (`iterate_gram`): twice the memory of u at most.

    Parameters
    ----------
    u : ndarray of two axes, float32 or float64
        Overwritten. In another than C order a copy takes its place until the end.
    coefficients : sequence of (a, b, c)
        Of each step.
    """
    if not u.size:
        return
    own = np.ascontiguousarray(u)  # products' bits may depend on the order in memory
    _normalise(own, eps)
    x = own.T if len(own) > own.shape[1] else own
    gram = x.shape[1] >= GRAM_FROM * len(x)
    (iterate_gram if gram else iterate)(x, coefficients, factor)
    if own is not u:
        u[...] = own


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


def iterate(x: Any, coefficients: Coefficients, factor: float) -> None:
    """Take the steps one after the other, in place."""
    m = len(x)
    a2, gram = np.empty((2, m, m), x.dtype)
    for k, (a, b, c) in enumerate(coefficients, 1):
        np.matmul(x, x.T, out=gram)  # of an array and its own transpose: half the work (?syrk)
        np.matmul(gram, gram.T, out=a2)
        _combine(a2, gram, a, b, c)
        if k == len(coefficients):
            a2 *= factor
        _apply(a2, x, gram)


def iterate_gram(x: Any, coefficients: Coefficients, factor: float) -> None:
    """Take the steps on X X^T alone, with which they commute: few products with X, not two each.

    Rounding gives that matrix eigenvalues a little below zero, which grow as small ones do, and X
    has no such: where they could become large, what the steps make of X X^T goes into X, and they
    begin anew.
    """
    room = np.empty((4, len(x), len(x)), x.dtype)
    runs = runs_of(coefficients, float(np.finfo(x.dtype).eps))
    for run in runs:
        np.matmul(x, x.T, out=room[1])
        last = _product_of_steps(room, run)
        q, free = (room[3], room[:3]) if last else (room[0], room[1:])
        if run is runs[-1]:
            q *= factor
        _apply(q, x, free)


def _apply(b: np.ndarray, x: Any, room: np.ndarray) -> None:
    """Multiply x by a symmetric matrix, in place: as many columns at a time as the room takes."""
    flat, at_a_time = room.reshape(-1), room.size // len(b)
    in_rows = x.flags.c_contiguous
    for first in range(0, x.shape[1], at_a_time):
        part = x[:, first : first + at_a_time]
        part = part if in_rows else part.T
        product = flat[: part.size].reshape(part.shape)
        np.matmul(*((b, part) if in_rows else (part, b)), out=product)
        part[...] = product


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


def _product_of_steps(room: np.ndarray, run: Coefficients) -> bool:
    """Multiply the polynomials of a run, each of the matrix X X^T that those before leave.

    That is the second of four squares; tell whether the product is the last one, not the first.
    """
    q, gram, step, other = room
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
    return len(run) % 2 == 0


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
