"""The monitor of a training run: it records, says why the run has stalled, and draws it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..curvature.asking import asking
from ..curvature.operators import Point
from ..curvature.pinned import Pinned
from ..kernels.forms import settled
from ..kernels.names import spelled
from ..kernels.structures import Structure
from ..optimizers import Optimizer, not_trained
from ..rules.domains import check_callable, check_count, check_real, check_seed
from ..solvers import SAM
from .average import at_average
from .diagnosis import Diagnosis, said
from .evidence import Evidence
from .faults import find_pinned, jumped, not_one_function, turned, unfed
from .limits import at_limits
from .record import LOOKS, Look, Record, few
from .settings import (
    checked_optimizer,
    clip,
    decays,
    inner_of,
    maximizes,
    of_other_arrays,
    rate,
    remembers,
    value_clip,
)
from .stall import ByCurvature, by_record
from .trend import FEWEST, Trend
from .trial import sign_or_rate


class Monitor(Record):
    """Record a training run and say why it has stalled.

    Parameters
    ----------
    every : int or None
        Look at the updates at every so many records (three in a row); None: as often as a fifth
        of a percent of the time between records allows, and while the run is short a bit oftener.
    seed : int
        Of the choice of elements that are looked at.
    curvature_every : int or None
        Measure the Hessian's largest eigenvalue at every so many records, plain and preconditioned
        by the rule's second moments, each time from the last eigenvector: `edges` holds them, with
        what lr allows (edge of stability), and `plot` draws them. After the first that takes some
        ten products.
    hvp : callable or None
        ``v -> H v`` of the full loss where the parameters are at that time; v is arranged as the
        gradients are.

    Attributes
    ----------
    looks : list of Look
    edges : list of Edge
        record, lr, sharpness, preconditioned, limit, products.

    Examples
    --------
    >>> import numpy as np, optkern
    >>> A = np.array([1.0, 20.0])
    >>> w = [np.ones(2)]
    >>> opt, monitor = optkern.SGD(w, lr=0.1), optkern.Monitor()
    >>> for _ in range(100):
    ...     loss, grads = float(A @ w[0] ** 2) / 2, [A * w[0]]
    ...     applied = opt.step(grads)
    ...     monitor.record(loss, grads, opt)  # after every step
    >>> monitor.diagnose(w, grad=lambda w: [A * w[0]]).kind
    'oscillating'
    """

    # ----------------------------------------------------------------- the verdict

    @spelled
    def diagnose(
        self,
        x: Any = None,
        grad: Callable[[Any], Any] | None = None,
        loss: Callable[[Any], float] | None = None,
        hvp: Callable[[Any], Any] | None = None,
        *,
        opt: Optimizer | SAM | None = None,
        confidence: float = 0.999,
        max_matvecs: int = 300,
        seed: int = 0,
    ) -> Diagnosis:
        """Say why the loss no longer falls, or that it does.

        Parameters
        ----------
        x : ndarray, list, dict or groups of arrays, or None
            Where the run is now: the parameters, in the optimizer's order. Not modified. Of a
            schedule-free rule their average is judged, without hvp, and it is said so.
        grad : callable or None
            ``x -> gradient`` over the full data, deterministic. Without it only "exploding" and
            "falling" can be told.
        loss : callable or None
            ``x -> float`` over the full data; for what leaving a saddle would gain.
        hvp : callable or None
            ``v -> H v`` at x; None: differences of gradients. Of a run that maximizes (all groups)
            the negatives of all three are judged, and of one with L2 weight decay their sum with
            the decay: what it minimises.
        opt : Optimizer, SAM or None
            None: the one that was recorded. Of PyTorch's and scikit-learn's the one inside counts.
        confidence : float in (0, 1)
            As of `curvature.classify`.
        max_matvecs : int
            Lanczos steps at the most, each time curvature is asked for.
        seed : int

        Returns
        -------
        Diagnosis

        Raises
        ------
        TypeError, ValueError
            On bad arguments, and what `curvature.classify` raises.
        """
        owner, x = "diagnose", settled(x)
        check_callable(owner, grad=grad, loss=loss, hvp=hvp)
        if grad is not None and x is None:
            raise TypeError(f"{owner}: grad needs x, the point to look at")
        if grad is not None:
            given = Structure(owner, x, "x")
            grad = asking("grad", grad, given)
            loss = None if loss is None else asking("loss", loss, given)
            hvp = None if hvp is None else asking("hvp", hvp, given)
        opt = self.opt if opt is None else checked_optimizer(owner, opt)
        confidence = check_real(owner, "confidence", confidence, 0.0, 1.0)
        max_matvecs = check_count(owner, "max_matvecs", max_matvecs, 1)
        seed = check_seed(owner, seed)
        options = {"confidence": confidence, "max_matvecs": max_matvecs, "seed": seed}
        sign = -1.0 if opt is not None and maximizes(inner_of(owner, opt)) else 1.0
        with np.errstate(all="ignore"):  # of a run that overflows
            trend = self._trend(sign)
            if opt is not None and (replaced := not_trained(inner_of(owner, opt), x)):
                return said(trend, "inconclusive", replaced)
            if skipped := self._skipped(opt):
                return said(trend, "inconclusive", skipped)
            pinned = None
            if grad is not None and (pinned := find_pinned(x, grad)):
                grad, loss, hvp = pinned.functions(grad, loss, hvp)
            false = "" if grad is None else not_one_function(x, grad, loss, hvp, seed)
            seen = self._evidence(trend, opt)
            limits = ""
            if opt is not None and grad is not None:
                limits = at_limits(inner_of(owner, opt), x, grad, sign)
            if grad is not None and loss is not None and not false:
                seen.ask = self._asking(trend, opt, x, grad, loss, pinned)
            known = by_record(trend, seen, grad is not None)
        if known is not None and grad is None:
            return known
        if grad is None:
            return said(
                trend,
                "inconclusive",
                f"{trend.stalled()}{seen.aside(trend)}; give x and grad, and the curvature there "
                "will tell why",
            )
        if known is not None and (false or known.kind != "falling"):
            beside = f"; yet {false}" * bool(false)
            arrays = Structure(owner, x, "x").arrays
            finite = all(np.isfinite(a).all() for a in arrays)
            if known.kind == "exploding" and finite and not false:
                beside = ByCurvature(trend, seen, opt, x, grad, None, None, options).asleep()
            return replace(known, explanation=known.explanation + beside)
        if false:
            first = f"{seen.spent}, and " * bool(seen.spent)
            return said(trend, "inconclusive", f"{first}{trend.stalled()}; {false}", lr=seen.lr)
        if limits:
            return known or said(trend, "inconclusive", f"{trend.stalled()}; {limits}", lr=seen.lr)
        missing = self._unfed(x, grad, opt)
        trained, where = x, ""
        if opt is not None:
            x, where = at_average(inner_of(owner, opt), x, loss)
        if where:
            hvp = None  # which is of the weights
        at = ByCurvature(
            trend, seen, opt, x, grad, loss, hvp, options, missing, pinned, trained, where
        )
        if known is not None:
            return replace(known, explanation=known.explanation + at.beside())
        seen_at = at.verdict()
        aside = "" if opt is None else of_other_arrays(inner_of(owner, opt), x)
        return replace(seen_at, explanation=seen_at.explanation + aside) if aside else seen_at

    def _trend(self, sign: float) -> Trend:
        """Read the trend of the losses; of those since a change of the data, where one is seen."""
        losses = sign * self.losses
        at = jumped(losses)
        if at >= 0 and not self._rates_change(at):
            trend = Trend(losses[at:], at)
            trend.remark = (
                f"at record {at} the loss goes from {losses[at - 1]:.4g} to {losses[at]:.4g} in "
                "one record, with lr as it was: did the data (or what is measured) change there, "
                "or has a step gone too far? Since then: "
            )
        else:
            trend = Trend(losses)
        trend.negated = sign < 0
        return trend

    def _rates_change(self, record: int) -> bool:
        """Return whether lr differs between the looks around a record, or is not known."""
        # A look has the lr of the last of its records: one that spans a change has the new one.
        ends = [look.record for look in self.looks[1:]] + [len(self._losses)]
        before = [k.lr for k, end in zip(self.looks, ends) if self._over(k, end, record)]
        before = [lr for lr in before if math.isfinite(lr)]
        after = [k.lr for k in self.looks if k.record >= record and math.isfinite(k.lr)]
        return not before or not after or abs(after[0] - before[-1]) > 0.5 * abs(before[-1])

    def _over(self, look: Look, following: int, record: int) -> bool:
        """Return whether all records of a look lie before one; accumulated calls lengthen it."""
        calls = (
            1 if self.opt is None else inner_of("diagnose", self.opt).session.options["accumulate"]
        )
        longest = LOOKS * (calls if isinstance(calls, int) else LOOKS)
        return following <= record or look.record + longest <= record

    def _asking(
        self,
        trend: Trend,
        opt: Optimizer | SAM | None,
        x: Any,
        grad: Callable[[Any], Any],
        loss: Callable[[Any], float],
        pinned: Pinned | None,
    ) -> Callable[[], str]:
        """Ask for steps to be tried, once, where a sentence needs them."""
        found: list[str] = []

        def ask() -> str:
            if not found:
                found.append("")
                arrays = Structure("diagnose", x, "x").arrays
                if opt is not None and all(np.isfinite(a).all() for a in arrays):
                    rule, sign = inner_of("diagnose", opt), -1.0 if trend.negated else 1.0
                    point = Point("diagnose", x)
                    point.pinned = pinned.pinned if pinned else point.pinned
                    found[0] = sign_or_rate(
                        rule, point, grad, lambda x: sign * float(loss(x)), rate(rule)
                    )
            return found[0]

        return ask

    def _unfed(self, x: Any, grad: Callable[[Any], Any], opt: Optimizer | SAM | None) -> str:
        """Say that a parameter never got a gradient, though the full gradient is large there."""
        if opt is None or opt is not self.opt:
            return ""
        point = Point("diagnose", x)
        params = inner_of("diagnose", opt).params
        if [a.size for a in point.arrays] != [p.size for p in params]:
            return self._not_held(point, grad, params)
        if (seen := self._fed_or_moved(params)) is None or all(seen[0]):
            return ""
        fed, how = seen
        full = point.flatten(grad(point.unflatten(point.vector())), "what grad returns")
        parts = np.split(full, np.cumsum([p.size for p in params])[:-1])
        return unfed(inner_of("diagnose", opt).session.labels, fed, parts, how)

    @staticmethod
    def _not_held(point: Point, grad: Callable[[Any], Any], params: Sequence[np.ndarray]) -> str:
        """Say that x has parameters that the optimizer was not given, where their gradient is."""
        held = [any(np.may_share_memory(a, p) for p in params) for a in point.arrays]
        if not any(held):  # copies, or another model's
            return ""
        full = point.flatten(grad(point.unflatten(point.vector())), "what grad returns")
        parts = np.split(full, np.cumsum([a.size for a in point.arrays])[:-1])
        ask = "was it left out of what the optimizer was given?"
        return unfed(point.structure.labels, held, parts, "the optimizer does not move", ask)

    def _fed_or_moved(self, params: Sequence[np.ndarray]) -> tuple[list[bool], str] | None:
        """Find which parameters had a gradient or, where none was recorded, have moved at all."""
        if self._fed is not None and self._feedings >= LOOKS:
            looks = f"in {self._feedings} looks no gradient but None or zeros came for"
            return self._fed, looks
        if self._feedings or len(self._first) != len(params) or len(self._trail) < LOOKS:
            return None
        moved = [
            not np.array_equal(first, p.reshape(-1)[few(p.size)])
            for first, p in zip(self._first, params)
        ]
        if not any(moved):
            return None
        return moved, f"since record {self._trail[0][0]} no step has moved"

    def _skipped(self, opt: Optimizer | SAM | None) -> str:
        """Say that no step is applied any more, each gradient having NaN or inf.

        Empty where any is.
        """
        if opt is None or opt is not self.opt or self._stood is None:
            return ""
        rule, (since, steps, before) = inner_of("diagnose", opt), self._stood
        count = rule.skipped_steps - before
        if rule.steps != steps or count < FEWEST // 2:
            return ""
        return (
            f"no step has been applied since record {since} at the latest: {rule.skipped_steps:,} "
            f"of {rule.skipped_steps + rule.steps:,} were skipped for NaN or inf in a gradient, "
            f"and the parameters have not moved (last loss {self._losses[-1]:.4g}); "
            "on_nonfinite='raise' names the gradient: look for what makes it (a log or a quotient "
            "of 0, float16 that overflows), or go back to a checkpoint with a lower lr"
        )

    def _evidence(self, trend: Trend, opt: Optimizer | SAM | None) -> Evidence:
        """Gather the looks in the windows of the trend; in half the run where those have few."""
        since = trend.first + trend.count - 2 * trend.window
        if sum(look.record >= since for look in self.looks) < LOOKS:
            since = trend.first + trend.count // 2
        lr = math.nan if opt is None else rate(inner_of("diagnose", opt))
        decaying = opt is not None and any(decays(inner_of("diagnose", opt)))
        longest = math.inf if opt is None else clip(inner_of("diagnose", opt))
        way = self._straightness(since)
        travelled = self._travelled()
        cut = math.inf if opt is None else value_clip(inner_of("diagnose", opt))
        memory = opt is None or remembers(inner_of("diagnose", opt))
        limits = (decaying, longest, cut, memory)
        seen = Evidence(trend.losses, trend.first, self.looks, since, lr, travelled, way, *limits)
        sign = -1.0 if trend.negated else 1.0
        at = np.array(self._val_at)
        since_change = at >= trend.first
        seen.turning, seen.turned = turned(
            sign * self.losses, at[since_change], sign * self.val_losses[since_change]
        )
        return seen

    # ----------------------------------------------------------------- the plot

    @spelled
    def plot(self, axes: Any = None) -> Any:
        """Draw losses, norms and learning rate against the records, and sharpness if recorded.

        Parameters
        ----------
        axes : sequence of three matplotlib Axes (four where curvature was recorded), or None
            None: a new figure.

        Returns
        -------
        ndarray of matplotlib Axes

        Raises
        ------
        ImportError
            Where matplotlib is missing.
        """
        from .drawing import draw

        return draw(self, axes)
