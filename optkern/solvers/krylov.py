"""Newton steps in Krylov spaces that go downhill at a saddle too.

1. Lanczos from the gradient: the model of the loss in its space is small and tridiagonal, so that
   the step is solved in full there, and again for another radius without a product.
2. A direction of negative curvature counts with its magnitude: a step never goes uphill towards a
   saddle or a maximum (Dauphin et al.). Where such curvature was seen the step goes on along it to
   the edge of the trust region: the model has no other end there.
3. A space grown from the gradient never leaves the symmetries that the gradient has. So a point
   where it vanishes is looked at from a random start before it is called converged; a run whose
   last space was the whole space has seen all there is.
4. A space that still holds the gradient after a step is used again: the step itself says how the
   gradient changed along it, which costs no product. Only models that stay positive are taken from
   that, so that negative curvature is always a product's word. From 20 random starts each
   Rosenbrock's, Beale's and Himmelblau's valleys take a sixth fewer gradients and products, ten
   dimensions of Rosenbrock's a quarter (`bench/bench_solvers.py --random`). With SR1's update in
   the place of BFGS's the first three gained nothing.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ..curvature.asking import asking
from ..curvature.line import LossAlongDirection
from ..curvature.operators import Operator, norm, unit_roundoff
from ..curvature.recurrence import Recurrence, dot, project, subtract
from ..curvature.run import Eigenpair, LanczosRun, refuse_out_of_range
from ._problem import Callback, CountedClosure, SolverCall, largest

ACCEPTED = 1e-4  # of the model's promise that a step must keep
# Negative curvature takes the step to the region's edge beyond this share of the largest: a
# network's last bit of it is worth less than the curvature's change on the way.
EDGE = 0.01
# Of the gradient, what a step may leave outside the Krylov space. On digits networks a share that
# falls with the gradient, or a test of what the last product gained, took a fifth more products.
LEFT = 0.1
GOOD, POOR = 0.75, 0.25  # the region grows above the one and shrinks below the other
LEAST_COSINE = 1e-8  # the cosine of step and change from which on a step teaches
# Confidence of "no negative curvature" at a stationary point.
CONFIDENCE = 0.999


class Model:
    """Hold the loss along a Krylov space: f + g'Vy + y'Ty / 2, diagonalised.

    Parameters
    ----------
    basis : list of ndarray
        V's columns.
    t : ndarray of shape (k, k)
        V'HV.
    g : ndarray of shape (k,)
        V'g.
    beta : float
        How much of H times the last column lies outside the space.
    noise : float
        Curvature that rounding, or the products' errors, could feign.
    learned : bool
        Whether T is another point's, corrected (`KrylovCall._updated_model`).
    """

    def __init__(
        self,
        basis: list[np.ndarray],
        t: np.ndarray,
        g: np.ndarray,
        beta: float,
        noise: float,
        learned: bool = False,
    ) -> None:
        self.basis, self.t, self.beta, self.noise, self.learned = basis, t, beta, noise, learned
        self.theta, self.s = np.linalg.eigh(t)
        self.c = g @ self.s
        self.floor = max(noise, 1e-300)
        self.bend = np.maximum(np.abs(self.theta), self.floor)
        self.negative = self.theta < -max(self.floor, EDGE * float(self.bend.max()))

    def solve(self, radius: float) -> np.ndarray:
        """Solve for the step in T's eigenvectors: -c / (|theta| + mu), no longer than the radius.

        Dauphin et al., "Identifying and attacking the saddle point problem in high-dimensional
        non-convex optimization", 2014, section 5; mu by Newton's method on 1/||z||: More,
        Sorensen, "Computing a trust region step", 1983, section 3.
        """
        mu = 0.0
        z = -self.c / self.bend
        length = norm(z)
        for _ in range(50):
            if length <= radius * (1 + 1e-6):
                break
            unit = z / length  # whose squares do not overflow
            mu += (length - radius) / radius / float(np.sum(unit * unit / (self.bend + mu)))
            z = -self.c / (self.bend + mu)
            length = norm(z)
        if self.negative.any() and length < 0.99 * radius:
            z = self._to_the_edge(z, radius)
        return z

    def _to_the_edge(self, z: np.ndarray, radius: float) -> np.ndarray:
        """Lengthen the part of negative curvature; where there is none begin it."""
        down = np.where(self.negative, z, 0.0)
        part = norm(down)
        if part == 0:
            down[0] = part = 1.0
        rest = np.where(self.negative, 0.0, z)
        room = math.sqrt(max(radius * radius - float(rest @ rest), 0.0))
        return rest + down * (max(room, part) / part)

    def change(self, z: np.ndarray) -> float:
        """Return what the model says that the step does to the loss."""
        return float(self.c @ z + 0.5 * (self.theta * z) @ z)

    def residual(self, z: np.ndarray) -> float:
        """Compute ||H p + g|| outside the space."""
        return self.beta * abs(float(self.s[-1] @ z))


class KrylovCall(SolverCall):
    """Run one call of `step`."""

    def __init__(
        self,
        solver: Any,
        objective: CountedClosure,
        callback: Callback | None,
    ) -> None:
        super().__init__(solver, objective, callback)
        self.u = unit_roundoff(self.point.dtype)
        self.moved = math.inf  # how far the last step went
        # Whether the last Krylov space was the whole space, and H positive there.
        self.whole = self.point.n == 0
        self.seen = ""
        # The last step's model, the step in its space, and how the gradient changed.
        self.secant: tuple[Model, np.ndarray, np.ndarray] | None = None

    def _iterate(self) -> tuple[str, bool]:
        solver = self.solver
        while True:
            rest = self._at_rest()
            if rest and not self._leave_saddle():
                return f"{rest}, {self.seen}", rest.startswith("converged")
            if self.iterations == solver._now.max_iter:
                return f"stopped: max_iter = {solver._now.max_iter} iterations", False
            if not rest and not self._descend():
                return f"stopped: {self._nowhere()}", False
            self.iterations += 1
            solver.iterations += 1
            if self._callback_stops():
                return "stopped by the callback", False

    def _at_rest(self) -> str:
        """Say which tolerance is met, and whether that is convergence; or nothing."""
        solver, most = self.solver, largest(self.g)
        if most <= solver._now.tolerance_grad:
            return f"converged: max|g| = {most:.2g} <= tolerance_grad"
        if norm(self.g) < np.finfo(self.g.dtype).tiny:
            return "converged: the gradient has underflown"
        if self.moved <= solver._now.tolerance_change:
            # In a direction that rounding hides, a step is short however far the minimum is.
            return (
                f"stopped: no parameter moved by more than tolerance_change = "
                f"{solver._now.tolerance_change:g}, with max|g| = {most:.2g} above "
                f"tolerance_grad = {solver._now.tolerance_grad:g}"
            )
        return ""

    @abstractmethod
    def _product(self, v: np.ndarray) -> np.ndarray:
        """Compute H v at x for a unit vector."""

    @abstractmethod
    def _noise(self, magnitude: float) -> float:
        """Bound what products' errors make of zero curvature."""

    # ----------------------------------------------------------------- a step

    def _descend(self) -> bool:
        """Take one step of the trust region; False where even the smallest does not help."""
        solver = self.solver
        model = self._updated_model() or self._krylov()
        least, before, unchanged = self.u * (norm(self.x) or 1.0), solver.radius, 0
        # A loss that three shorter and shorter steps leave as it is does not resolve any.
        while solver.radius > least and unchanged < 3:
            z = model.solve(solver.radius)
            x = np.empty_like(self.x)
            subtract(x, self.x, model.basis, -(model.s @ z), None, solver._now.threads)
            f, g = self.objective.trial(x)
            ratio, shrink = self._judge(model, z, f, g)
            if model.learned and not ratio >= ACCEPTED:
                self.point.write(self.x)
                model.basis.clear()  # before the products bring as many vectors again
                model = self._krylov()
                continue
            length, radius = norm(z), solver.radius
            if not ratio >= POOR:  # NaN too
                solver.radius = shrink * length
            elif ratio > GOOD and length > 0.8 * solver.radius:
                solver.radius *= 2
            unchanged = unchanged + 1 if ratio == 0 else 0
            if ratio >= ACCEPTED:
                self.secant = (model, model.s @ z, g - self.g) if ratio >= POOR else None
                # A step that the region cut short says nothing of how far the minimum is.
                cut = length > 0.99 * radius
                self.moved = math.inf if cut else largest(x - self.x)
                self.x, self.f, self.g = x, f, g
                return True
        self.point.write(self.x)
        solver.radius = before  # the next call starts with a region again
        return False

    def _nowhere(self) -> str:
        """Say why no step was taken."""
        radius, size = self.solver.radius, norm(self.x)
        if radius > self.u * size:
            return "no step within the trust region lowers the loss"
        return (
            f"a step of radius = {radius:.2g} is lost in the rounding of parameters of norm "
            f"{size:.2g}; give a larger radius"
        )

    def _judge(self, model: Model, z: np.ndarray, f: float, g: np.ndarray) -> tuple[float, float]:
        """Judge how much the step keeps of the model's promise.

        If little, by how much to shrink.
        """
        if not (math.isfinite(f) and np.isfinite(g).all()):
            return -math.inf, 0.1
        promised, slope = model.change(z), float(model.c @ z)
        change = f - self.f
        if -promised <= 10 * self.u * max(abs(self.f), abs(f)):
            # Below the loss's rounding the gradient decides.
            return (1.0 if norm(g) < norm(self.g) else -1.0), 0.25
        ratio = change / promised
        rest = change - slope
        shrink = -0.5 * slope / rest if rest > 0 else 0.5
        return ratio, min(max(shrink, 0.1), 0.5)

    def _updated_model(self) -> Model | None:
        """Update the last step's model with what the step taught, where its space still holds g.

        Nocedal, Wright, "Numerical optimization", 2006, equation 6.19.
        """
        if self.secant is None:
            return None
        model, step, change = self.secant
        self.secant = None
        g = project(model.basis, self.g, self.solver._now.threads)
        size = norm(self.g)
        if size * size - g @ g > (LEFT * size) ** 2:
            return None
        y, bent = project(model.basis, change, self.solver._now.threads), model.t @ step
        along, bending = float(y @ step), float(bent @ step)
        if min(along, bending) <= LEAST_COSINE * norm(y) * norm(step):
            return None
        t = model.t + np.outer(y, y) / along - np.outer(bent, bent) / bending
        new = Model(model.basis, t, g, 0.0, model.noise, learned=True)
        if new.theta[0] <= new.floor:
            return None
        self.whole = False
        return new

    def _krylov(self) -> Model:
        """Take products until the step leaves little of the gradient outside the space."""
        solver, size = self.solver, norm(self.g)
        limit = min(solver._now.max_matvecs, self.x.size)
        start = self.g / self.g.dtype.type(size)
        run = Recurrence(start, limit + 1, solver._now.threads, copy=False)
        looked = 0
        while True:
            product = self._product(run.vector)
            run.advance(product)
            k, beta = run.k, run.beta[-1]
            if not math.isfinite(beta):
                self.point.write(self.x)
                refuse_out_of_range("NewtonLanczos", product, run, math.inf, 0.0)
            magnitude = max(max(map(abs, run.alpha)), max(run.beta[:-1], default=0.0))
            noise = self._noise(magnitude)
            last = k == limit or beta <= noise
            if last or k > looked + looked // 16:
                looked = k
                assert run.basis is not None  # it has no limit
                t = np.diag(run.alpha) + np.diag(run.beta[:-1], 1) + np.diag(run.beta[:-1], -1)
                first = size * np.eye(1, k)[0]  # g is along V's first column
                model = Model(run.basis[:k], t, first, beta, noise)
                if last or model.residual(model.solve(solver.radius)) <= LEFT * size:
                    break
        self.point.write(self.x)
        self.whole = run.k == self.x.size and bool((model.theta > noise).all())
        return model

    # ----------------------------------------------------------------- a stationary point

    def _leave_saddle(self) -> bool:
        """Go down from a stationary point; False with what was `seen` where there is no way."""
        self.seen = "not looked at for negative curvature"
        if self.whole:
            self.seen = "positive curvature in the whole space"
        elif self.solver._now.check_matvecs:
            pair = self._lowest()
            if pair is not None and self._move_along(pair):
                return True
            if pair is not None:
                self.seen = f"curvature {pair.value:.2g} along which no step lowers the loss"
        return False

    def _loss(self, x: Any) -> float:
        return self.objective(self.point.flatten(x, "x"))[0]

    def _lowest(self) -> Eigenpair | None:
        """Find a direction of negative curvature, by Lanczos from a random start."""
        solver = self.solver
        operator = Operator("NewtonLanczos", self._product, self.x.size, self.x.dtype)
        seed = solver._now.seed + solver._checks
        run = LanczosRun(operator, CONFIDENCE, (1,), seed=seed, num_threads=solver._now.threads)
        solver._checks += 1
        try:
            while run.k < min(solver._now.check_matvecs, self.x.size):
                run.advance()
                low, noise = run.ritz_value(1), self._noise(run.magnitude)
                if low < -max(2 * noise, 0.01 * run.magnitude) or run.exhausted:
                    break
                if run.bound(1) >= -0.01 * run.magnitude:
                    break
            pair = run.pairs((1,))[0] if low < -noise else None
        finally:
            self.point.write(self.x)
        # Errors that hide more than what is looked for are said.
        hidden = noise > 0.01 * run.magnitude
        what = f"no curvature below -{1.05 * noise:.2g}" if hidden else "no negative curvature"
        self.seen = f"{what} in {run.k} products from a random start"
        return pair if pair is not None and pair.value < -noise else None

    def _move_along(self, pair: Eigenpair) -> bool:
        """Step along a direction of negative curvature, the better of its two ways."""
        line = LossAlongDirection("NewtonLanczos", self.point, self._loss, None)
        ways = [pair.vector, -pair.vector]
        slope = dot(np.ascontiguousarray(self.g, pair.vector.dtype), pair.vector)
        if slope:
            ways = ways[:1] if slope < 0 else ways[1:]
        found = [(hit[1], hit[0], way) for way in ways if (hit := line.search(way, pair.value))]
        if not found:
            self.point.write(self.x)
            return False
        _, t, way = min(found, key=lambda row: row[0])
        self.x = line.at(way, t)
        self.f, self.g = self.objective(self.x)
        self.moved, self.whole, self.secant = math.inf, False, None
        self.solver.radius = max(self.solver.radius, t)
        return True


class ExactCall(KrylovCall):
    """Run a call with the user's own products."""

    def __init__(
        self,
        solver: Any,
        objective: CountedClosure,
        callback: Callback | None,
        hvp: Callable[[Any], Any],
    ) -> None:
        super().__init__(solver, objective, callback)
        self.hvp = asking("hvp", hvp)

    def _product(self, v: np.ndarray) -> np.ndarray:
        self.products += 1
        product = self.point.flatten(self.hvp(self.point.unflatten(v)), "what hvp returns")
        self.point.refuse_changed("hvp", self.x)
        return np.ascontiguousarray(product, v.dtype)

    def _noise(self, magnitude: float) -> float:
        return 10 * self.u * magnitude
