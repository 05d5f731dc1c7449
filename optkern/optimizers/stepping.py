"""Steps, and averages in the place of what is stepped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernels import buffers
from ..kernels.atomic import Averaged
from ..kernels.rows import step_rows
from ..kernels.rules import (
    ON_NONFINITE,
)
from ..kernels.threads import ThreadReport
from ..rules.domains import check_threads, check_word
from .arguments import check_skips
from .refused import refuse_option_of_rows, refuse_without_rows
from .session import Session


class Stepping:
    """Update parameters: a part of an optimizer."""

    if TYPE_CHECKING:
        _session: Session

        def __getattr__(self, name: str) -> Any:
            """Find what the other parts of an optimizer have."""

    def step(self, grads: Any) -> bool:
        """Update every parameter in place along its gradient.

        Parameters
        ----------
        grads : same structure as the parameters (for groups: a list with one entry per group)
            Arrays of the parameters' shapes; another real floating dtype is cast first. None in
            the place of an array, or of a container of them, leaves these parameters, their state
            and their step counts alone; ``strict_grads=False``: what a dict does not name, too.

        Returns
        -------
        bool
            False if ``on_nonfinite="skip"`` found NaN or inf and nothing was done (but to zero the
            gradients with ``zero_grad=True``), or if the gradients were accumulated.

        Raises
        ------
        TypeError, ValueError
            On a gradient that does not fit, or that holds NaN or inf with
            ``on_nonfinite="raise"``, or once more after `max_skips` skipped calls in a row. Nothing
            has been modified then.
        RuntimeError
            While the averages are in the parameters' place, or another step is under way.
        """
        # One array needs no flattening, and two calls less are a third of a small step.
        session = self._session
        structure = session.structure
        gradients = (
            (grads,)
            if structure.single
            else structure.contents.gather(grads) or session.gather(grads)
        )
        at = session.run_schedules() if session.schedules else -1
        if session.fresh:
            session.alone("a step", session.begin, gradients)
        if session.plan.step(gradients, self._num_threads, self._on_nonfinite, at):
            return True
        return self._not_applied()

    def flush(self) -> bool:
        """Take the update that `accumulate` still waits with, of the calls there were.

        The last window of a run may be a partial one. Its update takes the mean (or the sum, by
        `accumulate_form`) of the gradients that have come, clipped and followed by averages as any.

        Returns
        -------
        bool
            False where nothing has been accumulated, or where ``on_nonfinite="skip"`` found NaN or
            inf in the sum; what was accumulated waits on then.

        Raises
        ------
        ValueError
            With ``on_nonfinite="raise"``, on NaN or inf; where a parameter was replaced in its
            container. Nothing has been modified then.
        RuntimeError
            While the averages are in the parameters' place, or another step is under way.

        Examples
        --------
        >>> p = np.zeros(1)
        >>> opt = optkern.SGD(p, lr=1.0, accumulate=4)
        >>> opt.step(np.array([1.0])), opt.step(np.array([3.0])), opt.flush(), p
        (False, False, True, array([-2.]))
        """
        session = self._session
        session.find_parameters()
        at = session.run_schedules() if session.schedules else -1
        if session.fresh:
            session.alone("a step", session.begin, (None,) * len(session.labels))
        return session.plan.flush(self._num_threads, self._on_nonfinite, at) or self._not_applied()

    def step_rows(self, rows: Any, grads: Any) -> bool:
        """Update some rows of the parameters in place; the cost is that of these rows.

        For embeddings, factorisations, word vectors: the rule is applied to the rows given and to
        nothing else, weight decay and the decay of running averages included (the "lazy" form);
        the step count behind bias correction is the parameter's. AdaGrad, and SGD without
        momentum, both without weight decay, do what `step` does with zeros in all other rows.

        `clip_norm`, `clip_norm_per_tensor`, `clip_value`, `grad_scale`, `project` and `zero_grad`
        are as in `step`. Norms are over all gradients of the call, of rows and of whole arrays,
        those of a row that comes more than once summed first; `project` puts back what the call
        updates.

        Parameters
        ----------
        rows : same structure as the parameters
            For each a 1-D array or sequence of integers in ``[0, len(p))``. The gradients of a row
            that comes more than once are summed in float64, in the order in which they come, and
            rounded once. None (in `grads` too) leaves that parameter alone; ``...`` is for all
            of its rows, by a gradient of its own shape, as `step` takes them: embeddings by rows
            and all else in one step.
        grads : same structure as the parameters
            Arrays of the shapes ``(len(rows), *p.shape[1:])``; another real floating dtype is cast
            first.

        Returns
        -------
        bool
            False if ``on_nonfinite="skip"`` found NaN or inf and nothing was done (but to zero the
            gradients with ``zero_grad=True``).

        Raises
        ------
        TypeError, ValueError
            On a row that is not there, on gradients that do not fit, or where the rule or an
            option around it has no row-wise form; the message says what to do instead. Nothing
            has been modified then.
        """
        session = self._session
        if not session.words:
            refuse_without_rows(session.owner, session.rule)
        refuse_option_of_rows(session.owner, session.options)
        if session.state_dtype:
            raise ValueError(
                f"{session.owner}: state_dtype={session.state_dtype!r} has no row-wise form, rows "
                "are updated where they stand, in the parameters' own dtype: construct the "
                "optimizer without it, or give step a gradient of all rows"
            )
        indices, gradients = session.gather(rows, "rows"), session.gather(grads)
        for i, which in enumerate(indices if session.words else ()):
            if which is not None and which is not ...:
                refuse_without_rows(session.owner, session.rule_at(i))
        at = session.run_schedules() if session.schedules else -1
        if session.fresh:
            whole = [g if which is ... else None for which, g in zip(indices, gradients)]
            session.alone("a step", session.begin, whole)
        how = self._num_threads, self._on_nonfinite
        if step_rows(session.plan, indices, gradients, *how, at):
            return True
        return self._not_applied()

    def _not_applied(self) -> bool:
        """Raise where a gradient that is not finite is an error; else it was skipped or added."""
        plan = self._session.plan
        if plan.raises:
            what = buffers.named("gradient of parameter", plan.nonfinite)
            before = ""
            if self.on_nonfinite == "skip":
                before = f", after {plan.skips_in_row:,} calls that were skipped (max_skips)"
            raise ValueError(
                f"{self._session.owner}: {what} holds NaN or inf{before}; nothing was updated"
            )
        return False

    @property
    def last_grad_norm(self) -> float | None:
        """Return the norm of all gradients, unscaled and before clipping, at the last step.

        None where nothing has asked for it: `clip_norm` does (``inf`` without clipping),
        `clip_norm_per_tensor` and LARS. Squares are summed in float64: elements below 1e-154 lose
        precision in it, and count as 0 below 1e-162.
        """
        return self._session.plan.grad_norm if self._session.plan.norm_taken else None

    # ----------------------------------------------------------------- how

    @property
    def num_threads(self) -> int | None:
        """Give the threads that a step uses; None: optkern's choice."""
        return self._num_threads or None

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        self._num_threads = check_threads(self._owner, value)

    @property
    def on_nonfinite(self) -> str:
        """Say what a step does about NaN or inf in a gradient."""
        return ON_NONFINITE[self._on_nonfinite]

    @on_nonfinite.setter
    def on_nonfinite(self, value: str) -> None:
        allowed = f"one of {', '.join(ON_NONFINITE)}"
        check_word(self._owner, "on_nonfinite", value, ON_NONFINITE, allowed)
        if self._session is not None:
            check_skips(self._owner, self._session.options["max_skips"], value)
        self._on_nonfinite = ON_NONFINITE.index(value)

    def thread_report(self) -> ThreadReport:
        """Tell how many threads a step uses, and why: what was measured, when it is again.

        Returns
        -------
        ThreadReport
            ``print(opt.thread_report())`` says it in a sentence; ``threads, limit, reason,
            serial_seconds, parallel_seconds, steps, trials, next_trial`` are its attributes.
        """
        return self._session.plan.thread_report(self._num_threads)

    # ----------------------------------------------------------------- averages

    @property
    def averages_are_in(self) -> bool:
        """Return whether the averages are in the parameters' place (`swap_in`)."""
        return self._session.averages_are_in

    def swap_in(self) -> None:
        """Exchange parameters and their averages in place; no step can be taken until `swap_out`.

        Before its first step a parameter is its own average, and stays as it is.

        Raises
        ------
        RuntimeError
            Where there are no averages (``ema_decay=None``), or they are in already.
        """
        self._session.swap_in()

    def swap_out(self) -> None:
        """Exchange them back.

        Raises
        ------
        RuntimeError
            Where `swap_in` has not been called.
        ValueError
            Where a parameter has been replaced in its container since: the weights are back in the
            arrays that are trained.
        """
        self._session.swap_out()

    def averaged(self) -> Averaged:
        """Enter a context where the averages are in the parameters' place."""
        return Averaged(self)
