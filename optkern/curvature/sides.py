"""How much of a start vector's spectral measure certainly lies on each side of zero.

After k steps of Lanczos the measure is known by its first moments alone, and many measures have
them. Of all these the one with the least below a point t is a quadrature with a node at t itself:
what its other nodes below t weigh, every measure has there, and the node's own weight is what the
steps leave undecided (the inequalities of Chebyshev, Markov and Stieltjes). Of Gauss' quadrature
alone the node beside zero, which may stand for thousands of tiny eigenvalues of both signs, would
fall to one side or the other by chance.

Akhiezer, "The classical moment problem", 1965, section 2.5; Golub, Meurant, "Matrices, moments and
quadrature with applications", 2010, section 6.2.
"""

from __future__ import annotations

import math

import numpy as np


def certain_sides(
    alpha: np.ndarray, beta: np.ndarray, ended: bool, resolution: float
) -> tuple[float, float]:
    """Bound from below a measure of mass 1 below -resolution, and above resolution.

    Parameters
    ----------
    alpha, beta : ndarray, shape (k,)
        Lanczos coefficients; the last of beta is what would lead to the next vector.
    ended : bool
        The Krylov space is exhausted: nothing is undecided.
    resolution : float
    """
    below = _least_below(alpha, beta, ended, -resolution)
    above = _least_below(-alpha, beta, ended, -resolution)
    return below, above


def _least_below(alpha: np.ndarray, beta: np.ndarray, ended: bool, t: float) -> float:
    diagonal, beside = alpha, beta[:-1]
    if not ended:
        diagonal, beside, count = _with_a_node_at(alpha, beta, t)
    nodes, s = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    if ended:
        count = int(np.sum(nodes < t))
    return float(np.sum(s[0, :count] ** 2))


def _with_a_node_at(
    alpha: np.ndarray, beta: np.ndarray, t: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Make the quadrature's tridiagonal matrix with a node at t, and count those below it.

    One row more makes use of all coefficients. Where t lies at a node of Gauss' quadrature that
    row's element leaves the range, as the further node goes to infinity with no weight; then the
    last element is moved by as little instead.
    """
    pivots: list[float] = []  # of T - t
    for j, element in enumerate(alpha):
        pivot = float(element) - t - (beta[j - 1] ** 2 / pivots[-1] if j else 0.0)
        pivots.append(pivot or -(math.ulp(0.0) ** 0.5))
    negative = [pivot < 0 for pivot in pivots]
    size = max(float(np.abs(alpha).max()), float(np.abs(beta).max()))
    if beta[-1] ** 2 <= 4 * size * abs(pivots[-1]):
        further = t + beta[-1] ** 2 / pivots[-1]
        return np.append(alpha, further), beta, sum(negative)
    moved = alpha.copy()
    moved[-1] -= pivots[-1]
    return moved, beta[:-1], sum(negative[:-1])


def with_what_is_known(
    certain: np.ndarray,
    nodes: np.ndarray,
    sampled: np.ndarray,
    weights: np.ndarray,
    known: list[list[int]],
    resolution: float,
) -> np.ndarray:
    """Sum what is below, undecided and above, with known shares in place of sampled weights.

    What else a start has is as good a sample of what else there is when it is scaled, as
    `Outliers.settle` does it with the nodes.

    Parameters
    ----------
    certain : ndarray, shape (vectors, 2)
        Of each start what is certainly below and above.
    nodes, sampled, weights : ndarray, shape (vectors, steps)
        With the weights before and after eigenvalues were settled.
    known : list of list of int
        The places of settled nodes in each row.
    resolution : float

    Returns
    -------
    ndarray, shape (vectors, 3)
    """
    sides = np.zeros((len(nodes), 3))
    for row, places in enumerate(known):
        settled = np.zeros(nodes.shape[1], bool)
        settled[places] = True
        before, after = float(sampled[row, ~settled].sum()), float(weights[row, ~settled].sum())
        for side, sign in ((0, -1), (2, 1)):
            there = settled & (sign * nodes[row] > resolution)
            rest = max(certain[row, side // 2] - float(sampled[row, there].sum()), 0.0)
            sides[row, side] = float(weights[row, there].sum())
            sides[row, side] += rest * after / before if before > 0 else 0.0
        sides[row, 1] = max(1.0 - sides[row, 0] - sides[row, 2], 0.0)
    return sides
