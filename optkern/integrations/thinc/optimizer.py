"""The optimizer that a model of thinc calls, array by array.

1. thinc hands over one array at a time. Each is bound to a plan of the engine as long as it stays
   where it is, and mom1, mom2, averages and nr_update hold what the plan does: anyone may write
   them. Weight decay, clipping, zeros for the gradient and the average are done in its pass.
2. thinc decays after the step, ``w = (1 - d) * (w - s)``. Here ``w = (1 - d) * w - (1 - d) * s``:
   the kernel's decay, and a smaller rate.
3. thinc clips at ``norm >= grad_clip``, by their quotient; the engine's own clipping is torch's,
   which adds 1e-6 to the norm. So the norm is taken here, and its share goes into the pass.
4. L2 that is added to the gradient is clipped along with it in thinc. The kernel adds it after the
   clipping: a share of it that is as much smaller as the gradient gets.
5. The pass counts in the plan, and nr_update follows whatever comes in between: an interrupt at any
   line leaves an array, its state and its count as they were, or a step on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...kernels import buffers
from ...kernels.atomic import followed
from ...optimizers import CLASSES, no_attribute
from ...rules import VOCABULARY, Rule
from ...rules.domains import check_threads
from .._host import AMOUNT, checked_host_argument
from . import library
from .arguments import (
    LAYOUT,
    NUMBERS_OF_THINC,
    RULES_HERE,
    checked_class,
    checked_number,
    hears,
    may_be_scheduled,
    options_of,
    refuse_unheard,
    schedule_of,
    takes_betas,
)
from .binding import THINCS, BoundArray, as_matrix, check_companion, excess, label_of

Key = tuple[int, str]


class Optimizer(library.optimizers.Optimizer):  # type: ignore[misc]
    """Run thinc's optimizer with optkern's kernels: ``model.finish_update(Optimizer(0.001))``.

    Without a rule it is thinc's: its formulas, its arguments, its results to rounding (but RAdam
    heeds lr_scale too). With one, the rule's own formula and defaults hold.

    Parameters
    ----------
    learn_rate : float, list, generator, thinc schedule or callable
        A callable, such as those of `optkern.schedules`, gets the number of `step_schedules` calls.
        The same holds for every other number here.
    rule : str or None
        ``"adamw"``, ``"lion"``: the name of any rule but Prodigy, which needs all arrays at once.
        None: thinc's own choice, which is RAdam with use_radam, SGD with ``beta2=0``, or else Adam.
        ``"muon"``, ``"normuon"`` and ``"soap"`` step the weights of layers, those of more than two
        axes as ``W.reshape(-1, W.shape[-1])``; biases, embeddings (parameters named E) and all else
        of one axis are AdamW's, with the same learn_rate and L2: for Muon with
        ``adjust_lr_fn="match_rms_adamw"`` one rate is right for both.
    L2, beta1, beta2, eps : float, schedule or None
        None: the rule's default (its weight_decay for L2), or thinc's.
    grad_clip : float or schedule
        Largest norm of each array's gradient; 0: no clipping.
    use_averages : bool
        Keep running averages of the parameters, for ``model.use_params(optimizer.averages)``.
    use_radam : bool
    L2_is_weight_decay : bool
        L2 shrinks the parameters, or else it is added to the gradient.
    num_threads : int or None
        None: optkern's choice. The bits never depend on it.
    **options
        The rule's other hyperparameters: momentum, nesterov, alpha, centered and so on.

    Raises
    ------
    TypeError, ValueError
        On a rule or an option that optkern does not have, at once; on arrays that are no NumPy
        arrays or do not fit, when they come. Nothing has been modified then.

    Examples
    --------
    >>> import numpy as np
    >>> from optkern.integrations.thinc import Optimizer
    >>> optimizer = Optimizer(0.1, rule="lion", L2=0.01)
    >>> w, g = optimizer((1, "W"), np.ones(2, "f"), np.full(2, 0.5, "f"))
    >>> w.round(3)
    array([0.899, 0.899], dtype=float32)
    """

    _scheduled: tuple[str, ...] = ()
    # What the rest of optkern says of it.
    instead = {
        **dict.fromkeys(
            ("optkern.save", "optkern.load"),
            "it has its state by thinc's keys, and no parameters; pickle.dump(optimizer, file) "
            "keeps all of it, and the model's to_disk the parameters",
        ),
        **dict.fromkeys(
            ("Monitor.record", "diagnose"),
            "it updates one array at a time; leave opt out, and its loss is recorded alone",
        ),
    }

    def __init__(
        self,
        learn_rate: Any,
        *,
        rule: str | None = None,
        L2: Any = None,
        beta1: Any = None,
        beta2: Any = None,
        eps: Any = None,
        grad_clip: Any = 1.0,
        use_averages: bool = True,
        use_radam: bool = False,
        L2_is_weight_decay: bool = True,
        num_threads: int | None = None,
        **options: Any,
    ) -> None:
        known = RULES_HERE.get(rule) if isinstance(rule, str) else None
        if known and eps is not None and "eps" in options_of(known.rule):  # its own kind of them
            options["eps"], eps = eps, None
        if known and beta2 is not None and "beta2" in options_of(known.rule):
            options["beta2"], beta2 = beta2, None
        self._cls = checked_class(rule, use_radam, options)
        if known and "layout" in known.rule.hyperparameters:
            options.setdefault("layout", LAYOUT)
        refuse_unheard(self._rule, beta1=beta1, beta2=beta2, eps=eps)
        followed = self._rule or CLASSES["adam"].rule
        own = followed.hyperparameters
        betas = own["betas"] if takes_betas(followed) else (0.0, 0.0)
        numbers = {
            "learn_rate": learn_rate,
            "L2": own["weight_decay"] if L2 is None else L2,
            "b1": betas[0] if beta1 is None else beta1,
            "b2": betas[1] if beta2 is None else beta2,
            "eps": (own.get("eps", 0.0) if hears(followed, "eps") else 0.0) if eps is None else eps,
            "grad_clip": grad_clip,
        }
        switches = {
            "use_averages": use_averages,
            "use_radam": use_radam,
            "L2_is_weight_decay": L2_is_weight_decay,
        }
        for name, value in switches.items():
            checked_host_argument("Optimizer", name, VOCABULARY["maximize"], value)
        good = {NUMBERS_OF_THINC[k][0]: checked_number(k, value) for k, value in numbers.items()}
        super().__init__(**good, **switches)
        self._num_threads = check_threads("Optimizer", num_threads)
        self._fixed = {k: v for k, v in options.items() if not self._is_scheduled(k)}
        self._scheduled = tuple(k for k in options if self._is_scheduled(k))
        for name in self._scheduled:
            self._set_attr_or_schedule(name, schedule_of(followed, name, options[name]))
        self._state: dict[str, dict[Key, np.ndarray]] = {}
        self._counts: dict[Key, tuple[int, np.ndarray]] = {}
        self._bound: dict[Key, BoundArray] = {}
        self._seen: dict[str, float] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a name that means nothing, as `optkern.Optimizer` does."""
        own = ("last_score", *self._scheduled)  # the first is in no class of thinc 8
        known = name[:1] == "_" or hasattr(type(self), name) or name in own
        if type(self) is Optimizer and not known:
            settable = [*NUMBERS_OF_THINC, "use_radam", "L2_is_weight_decay", *own]
            raise AttributeError(no_attribute("Optimizer", name, settable, ()))
        super().__setattr__(name, value)

    def _is_scheduled(self, option: str) -> bool:
        return self._rule is not None and may_be_scheduled(self._rule, option)

    @property
    def _rule(self) -> Rule | None:
        return self._cls.rule if self._cls else None

    # ----------------------------------------------------------------- what a model calls

    def __call__(
        self, key: Key, weights: Any, gradient: Any, *, lr_scale: float = 1.0
    ) -> tuple[Any, Any]:
        """Update one array in place, and set its gradient to zero.

        Parameters
        ----------
        key : tuple of (int, str)
            Of the array: the node's id and the parameter's name.
        weights, gradient : ndarray
            float32 or float64, of one shape and dtype.
        lr_scale : float
            Multiplies the learning rate.

        Returns
        -------
        tuple
            The same two arrays.
        """
        if not isinstance(gradient, np.ndarray):
            what = f"gradient of {buffers.named('parameter', label_of(key))}"
            came = type(gradient).__name__
            raise TypeError(f"Optimizer: {what} must be a NumPy array, got {came}")
        if not gradient.size:
            return weights, gradient
        b1, b2 = self._number("b1", key), self._number("b2", key)
        rule = self._rule or thincs_rule(self.use_radam, b2)
        if rule.matrices and not is_of_a_layer(key, weights):
            rule = CLASSES["adamw"].rule
        bound = self._bound_to(key, weights, rule)
        if rule is self._rule or self._rule is None:
            if takes_betas(rule):
                bound.set("betas", (b1, b2))
            if hears(rule, "eps"):
                bound.set("eps", self._number("eps", key))
            for name in self._scheduled:
                bound.set(name, self._now(name, key))
        lr, L2 = self._number("learn_rate", key), self._number("L2", key)
        grad_clip = self._number("grad_clip", key)
        if lr_scale != 1.0:
            lr *= checked_host_argument("Optimizer", "lr_scale", AMOUNT, lr_scale)
        times = 1.0
        if grad_clip and L2 and not self.L2_is_weight_decay:
            bound.plan.check((gradient,))
            times = excess(gradient + L2 * weights, grad_clip)
        elif grad_clip:
            times = excess(gradient, grad_clip)
        self._set_rates(bound, lr, L2 if self.L2_is_weight_decay else L2 / times)
        count = self.nr_update[key] + 1
        if bound.average is not None and bound.rule.average is None:
            bound.set("ema_decay", min((1.0 + count) / (10.0 + count), 0.9999))
        bound.set("grad_scale", times)
        steps = bound.plan.steps
        before = steps[0]

        def tell() -> None:
            if steps[0] != before:
                self.nr_update[key] = count
                if bound.average is not None:
                    bound.take_average()
                    self.averages[key] = bound.average

        seen = bound.seen(f"gradient of {label_of(key)}", gradient)
        followed(tell, bound.plan.step, (seen,), self._num_threads)
        return weights, gradient

    def _set_rates(self, bound: BoundArray, lr: float, L2: float) -> None:
        """Set learning rate and decay as the kernel takes them."""
        bound.set("decay_form", self._decay_form)
        if not L2 or not self.L2_is_weight_decay or self._rule:
            bound.set("lr", lr)
            bound.set("weight_decay", L2)
            return
        decay = lr * L2
        if decay > 1:
            raise ValueError(f"Optimizer: learn_rate * L2 must not exceed 1, got {decay!r}")
        bound.set("lr", lr * (1 - decay))
        bound.set("weight_decay", decay)

    def _now(self, name: str, key: Key) -> Any:
        """Give the value of a schedule at this step; thinc 8 keeps it in the schedule's place."""
        value = getattr(self, name)
        return value(self._step, **self._schedule_args(key)) if callable(value) else value

    def _number(self, name: str, key: Key) -> float:
        """Give one of thinc's numbers at this step, checked where it is another than before."""
        value = self._now(name, key)
        if value is not self._seen.get(name):
            checked_host_argument("Optimizer", *NUMBERS_OF_THINC[name], value)
            self._seen[name] = value
        return value

    # ----------------------------------------------------------------- arrays and their plans

    def _bound_to(self, key: Key, weights: Any, rule: Rule) -> BoundArray:
        bound = self._bound.get(key)
        if bound is None or not (bound.is_of(rule, weights) and self._still_bound(key, bound)):
            bound = self._bound[key] = self._bind(key, weights, rule)
        return bound

    def _still_bound(self, key: Key, bound: BoundArray) -> bool:
        """Tell whether state, count and average of an array are still what it is bound to."""
        averages = self.averages
        if (averages is None) is not (bound.average is None):
            return False
        if averages is not None and averages.get(key) is not bound.average:
            return False
        if bound.plan.steps[0] != self._count(key, bound.rule):
            return False
        return all(self._where_kept(slot).get(key) is array for slot, array in bound.state.items())

    def _count(self, key: Key, rule: Rule) -> int:
        """Count the updates so far, as the engine counts them: thinc's RAdam is a step ahead."""
        count = self.nr_update[key]
        if not isinstance(count, (int, np.integer)) or count < 0:
            raise ValueError(
                f"Optimizer: nr_update of {key!r} must be an integer >= 0, got {count!r}"
            )
        return count + (self._rule is None and rule.name == "radam")

    def _bind(self, key: Key, weights: Any, rule: Rule) -> BoundArray:
        """Make a plan for an array that is new or lies elsewhere than before; its state goes on."""
        label = label_of(key)
        buffers.check_writable("Optimizer", buffers.named("parameter", label), weights)
        if key in self._bound:
            self._counts[key] = self._bound[key].counts
        if not self.nr_update[key]:  # begins anew, in what thinc has no name for too
            self._counts.pop(key, None)
            for kept in self._state.values():
                kept.pop(key, None)
        values = {name: keyword.default for name, keyword in rule.settings.items()}
        values |= {**rule.hyperparameters, **self._fixed}
        values |= {name: self._now(name, key) for name in self._scheduled}
        needed = {**values, **dict.fromkeys(self._scheduled, True)}
        shape = as_matrix(label, weights).shape if rule.matrices else weights.shape
        found = ((slot, rule.form(slot, shape, needed)) for slot in rule.state)
        forms = {slot: form for slot, form in found if form is not None}
        state = {}
        for slot in forms:
            kept = self._where_kept(slot)
            if key not in kept and not rule.is_stream(slot):
                kept[key] = np.zeros(math.prod(forms[slot]), weights.dtype)
            elif key not in kept:
                flat = weights.reshape(-1)
                kept[key] = buffers.zeros_beside(flat, flat.dtype, rule.stream_number(slot))
                kept[key][...] = rule.start_of(slot, values, flat)
            state[slot] = kept[key]
        for slot, array in state.items():
            form = None if rule.is_stream(slot) else forms[slot]
            check_companion(f"{THINCS.get(slot, slot)} of {label!r}", array, weights, form)
        average = None
        if self.averages is not None:
            average = self.averages.get(key)
            if average is None:
                number = rule.stream_number("ema")
                average = buffers.zeros_beside(weights, weights.dtype, number)
            check_companion(f"averages of {label!r}", average, weights)
        bound = BoundArray(rule, label, weights, state, average, forms)
        for name, value in {**rule.hyperparameters, **self._fixed}.items():
            bound.set(name, value)
        bound.set("zero_grad", True)
        if self._rule is None:
            bound.set("eps_form", "raw")
        count = bound.plan.steps[0] = self._count(key, rule)
        if key in self._counts:
            started, bound.plan.carried[0] = self._counts[key]
            bound.plan.started[0] = min(started, count)
        return bound

    @property
    def _decay_form(self) -> str:
        if not self.L2_is_weight_decay:
            return "l2"
        return "decoupled" if self._rule else "independent"

    def _where_kept(self, slot: str) -> dict[Key, np.ndarray]:
        """Find where a state's arrays are kept: flat, and thinc's two under thinc's names."""
        if slot in THINCS:
            return getattr(self, THINCS[slot])
        return self._state.setdefault(slot, {})

    def __getstate__(self) -> Any:
        counts = {key: bound.counts for key, bound in self._bound.items()}
        own, slots = super().__getstate__()
        return {**own, "_bound": {}, "_counts": {**self._counts, **counts}}, slots

    def __repr__(self) -> str:
        rule = self._rule or CLASSES["radam" if self.use_radam else "adam"].rule
        own = "" if self._rule else "thinc's "
        return f"Optimizer({own}{rule.name}, {len(self.nr_update)} arrays so far)"


def is_of_a_layer(key: Key, weights: Any) -> bool:
    """Tell whether a rule of matrices steps an array: none of one axis, and no embedding."""
    embedding = isinstance(key, tuple) and key[-1] == "E"
    return not embedding and isinstance(weights, np.ndarray) and weights.ndim > 1


def thincs_rule(use_radam: bool, b2: float) -> Rule:
    return CLASSES["radam" if use_radam else "adam" if b2 > 0 else "sgd"].rule
