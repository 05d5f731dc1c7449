"""Eigenvalues that a density's Lanczos runs have found for good, with the weights they really have.

A node's weight in one run is the square of what the start vector has in its eigenspace: for an
eigenvalue apart from others that is as random as a squared Gaussian, though the eigenvalue itself
is known to rounding. What is not random is the eigenspace. The starts are known, and so are the
converged Ritz vectors: where those found so far account for the weight that the next run gives the
node, they span the eigenspace, and its share of the spectrum is their number over n. No product is
taken for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .operators import norm
from .recurrence import Recurrence, project, scale, subtract

_CONVERGED = 1e-3  # residual over gap: about the angle to the eigenvector
_SAME = 0.01  # of a gap: what is nearer is the same
_ABOVE = 1000.0  # a gap over the products' errors
NOTHING = 1e-12  # of a weight: rounding brings in what the start has nothing of, once and again


@dataclass(eq=False)
class _Space:
    """Hold an eigenvalue that all runs have found, and its eigenspace as far as it is known."""

    value: float
    vectors: list[np.ndarray]
    nodes: list[np.ndarray]  # its places in each run, several where they agree to rounding
    angle: float = 0.0  # how far off the vectors may be
    spanned: bool = False  # the last run showed nothing new of it


class Outliers:
    """Hold converged eigenvalues apart from others, of several runs with starts of their own.

    Parameters
    ----------
    n : int
    room : int
        Vectors that may be kept.
    """

    def __init__(self, n: int, room: int, num_threads: int = 0) -> None:
        self.n = n
        self.room = room
        self.num_threads = num_threads
        self.spaces: list[_Space] = []
        self.runs = 0

    def take(self, run: Recurrence, theta: np.ndarray, s: np.ndarray, noise: float) -> None:
        """Look at a run that has ended: T's eigenvalues and eigenvectors, the products' error."""
        if run.basis is None or not self.room:
            self.spaces, self.room = [], 0
            self.runs += 1
            return
        groups = _groups(theta, s[0] ** 2, noise)
        values = np.array([theta[group].mean() for group in groups])
        gaps = np.diff(values, prepend=-math.inf, append=math.inf)
        gaps = np.minimum(gaps[:-1], gaps[1:])
        residual = abs(run.beta[-1]) * np.array([np.linalg.norm(s[-1, group]) for group in groups])
        good = (residual <= _CONVERGED * gaps) & (gaps > _ABOVE * noise)
        if not self.runs:
            found = np.flatnonzero(good)
            far = np.abs(values[found] - np.median(values))
            found = found[np.argsort(-far, kind="stable")][: self.room]
            self.spaces = [_Space(float(values[j]), [], []) for j in found]
        self.runs += 1
        kept = []
        for space in self.spaces:
            j = int(np.argmin(np.abs(values - space.value)))
            near = abs(values[j] - space.value) <= max(_SAME * gaps[j], noise)
            space.angle = max(space.angle, (residual[j] + noise) / gaps[j])
            if good[j] and near and self._account(space, run, s[:, groups[j]]):
                space.nodes.append(groups[j])
                kept.append(space)
        self.spaces = kept

    def _account(self, space: _Space, run: Recurrence, s: np.ndarray) -> bool:
        """Take the run's Ritz vector in where it has anything new; False where there is no room."""
        assert run.basis is not None
        start, weight = run.basis[0], float(s[0] @ s[0])
        if space.vectors:
            known = project(space.vectors, start, self.num_threads)
            # Less than this by luck would be rare even in a second run: twice in 1000.
            tolerance = max(1e-5, 10 * space.angle) * max(weight, 1 / self.n)
            space.spanned = weight - float(known @ known) <= tolerance
        if space.spanned:
            return True
        if sum(len(other.vectors) for other in self.spaces) >= self.room:
            return False
        x = np.zeros_like(start)
        subtract(x, x, run.basis[: run.k], -(s @ s[0]), None, self.num_threads)
        for _ in range(2 if space.vectors else 0):
            inside = project(space.vectors, x, self.num_threads)
            subtract(x, x, space.vectors, inside, None, self.num_threads)
        length = norm(x)
        if not length > 0:
            return False
        scale(x, x, 1 / length, self.num_threads)
        space.vectors.append(x)
        return True

    def settle(self, weights: np.ndarray) -> None:
        """Give each spanned eigenspace its share in each row of weights, the rest what is left.

        What a start has outside the eigenspaces is uniform there: its own weights, scaled, are as
        good a sample of the rest.
        """
        spaces = [space for space in self.spaces if space.spanned]
        shares = [len(space.vectors) / self.n for space in spaces]
        left = max(1 - math.fsum(shares), 0.0)
        for line, places, every in zip(weights, self.settled(), self.places()):
            line[every] = 0
            rest = float(line.sum())
            if rest > 0:
                line *= left / rest
            line[places] = shares

    def settled(self) -> list[list[int]]:
        """Return the places of the spanned eigenspaces' nodes, for each run."""
        spaces = [space for space in self.spaces if space.spanned]
        return [[int(space.nodes[run][0]) for space in spaces] for run in range(self.runs)]

    def places(self) -> list[list[int]]:
        """Return all places of the spanned eigenspaces' nodes, copies by rounding among them."""
        spaces = [space for space in self.spaces if space.spanned]
        return [[int(j) for space in spaces for j in space.nodes[run]] for run in range(self.runs)]


def _groups(theta: np.ndarray, weight: np.ndarray, noise: float) -> list[np.ndarray]:
    """Place nodes that have any weight, together where they agree to within the noise.

    An eigenvalue of several vectors shows one of them, and by rounding others after a while.
    """
    there = np.flatnonzero(weight > NOTHING)
    return np.split(there, np.flatnonzero(np.diff(theta[there]) > noise) + 1)
