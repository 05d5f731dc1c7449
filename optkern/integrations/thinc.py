"""thinc and spaCy: their optimizers with every rule of optkern, and an Ops whose Adam is optkern's.

``from optkern.integrations.thinc import Adam`` in the place of ``from thinc.api import Adam`` is
the whole change; in a configuration it is ``@optimizers = "optkern.Adam.v1"``.

1. spaCy asks for the class of an optimizer, so the one here derives from thinc's, and to import
   this module is to import thinc.
2. thinc hands over one array at a time. Each is bound to a plan of the engine as long as it stays
   where it is, and mom1, mom2, averages and nr_update hold what the plan does: anyone may write
   them. Weight decay, clipping, zeros for the gradient and the average are done in its pass.
3. thinc decays after the step, ``w = (1 - d) * (w - s)``. Here ``w = (1 - d) * w - (1 - d) * s``:
   the kernel's decay, and a smaller rate.
4. thinc clips at ``norm >= grad_clip``, by their quotient; the engine's own clipping is torch's,
   which adds 1e-6 to the norm. So the norm is taken here, and its share goes into the pass.
5. L2 that is added to the gradient is clipped along with it in thinc; where both are on, it is a
   pass of its own.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from .. import kernels, optimizers
from ..curvature.lanczos import check_count
from ..curvature.operators import norm
from ..kernels import _arrays
from ..kernels._engine import Plan
from ..kernels._names import got, spell_names, spelled
from ..kernels._threads import as_num_threads
from ..kernels.rules import OPTIONS, VOCABULARY, Domain, Real, Rule
from ..optimizers import CLASSES
from ._host import AMOUNT, DECAY, Objective, checked, host

MINIMUM = "8.3"

_thinc = host("thinc.optimizers", "thinc", MINIMUM)
_api = host("thinc.api", "thinc", MINIMUM)
_backends = host("thinc.backends", "thinc", MINIMUM)
# The class of schedules since thinc 9; before, they are generators.
_Schedule = getattr(host("thinc.schedules", "thinc", MINIMUM), "Schedule", None)

Key = tuple[int, str]
# thinc's numbers, by the attributes that hold them: their arguments, and what they may be.
_NUMBERS: dict[str, tuple[str, Domain]] = {
    "learn_rate": ("learn_rate", AMOUNT),
    "L2": ("L2", AMOUNT),
    "b1": ("beta1", DECAY),
    "b2": ("beta2", DECAY),
    "eps": ("eps", VOCABULARY["eps"]),
    "grad_clip": ("grad_clip", AMOUNT),
}
# What the rules' hyperparameters are called here.
_RENAMED = {
    "lr": "learn_rate",
    "betas": "beta1 and beta2",
    "weight_decay": "L2",
    "l2": "L2",
    "decay_form": "L2_is_weight_decay",
    "clip_norm": "grad_clip",
    "ema_decay": "use_averages",
}
# The state that thinc's optimizer has names for.
_THINCS = {"exp_avg": "mom1", "exp_avg_sq": "mom2"}
# What thinc's arguments say, or the model counts, and no option may say again.
_SPOKEN_FOR = ("lr", "betas", "eps", "weight_decay", "decay_form", "step", "mu_product")


def _takes_betas(rule: Rule) -> bool:
    """Whether a rule has the two betas that thinc has arguments for."""
    return "betas" in rule.hyperparameters and "betas" not in rule.domains


def _options_of(rule: Rule) -> dict[str, Any]:
    """Name a rule's hyperparameters that thinc has no argument for, with their defaults.

    A rule's own betas, of another number or meaning, are none of thinc's.
    """
    return {
        name: default
        for name, default in rule.hyperparameters.items()
        if name not in _SPOKEN_FOR or name in rule.domains
    }


class Optimizer(_thinc.Optimizer):  # type: ignore[name-defined,misc]
    """thinc's optimizer with optkern's kernels: ``model.finish_update(Optimizer(0.001))``.

    Without a rule it is thinc's: its formulas, its arguments, its results to rounding (but RAdam
    heeds lr_scale too). With one, the rule's own formula and defaults hold.

    Parameters
    ----------
    learn_rate : float, list, generator, thinc schedule or callable
        A callable, such as those of `optkern.schedules`, gets the number of `step_schedules` calls.
        The same holds for every other number here.
    rule : str or None
        ``"adamw"``, ``"lion"``: the name of any row of `optkern.RULES`. None: thinc's own choice,
        which is RAdam with use_radam, SGD with ``beta2=0``, or else Adam.
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
    """

    _scheduled: tuple[str, ...] = ()
    # What the rest of optkern says of it.
    _instead = {
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
        self._cls = _checked_class(rule, use_radam, options)
        self._refuse_unheard(beta1=beta1, beta2=beta2, eps=eps)
        followed = self._rule or CLASSES["adam"].rule
        own = followed.hyperparameters
        betas = own["betas"] if _takes_betas(followed) else (0.0, 0.0)
        numbers = {
            "learn_rate": learn_rate,
            "L2": own["weight_decay"] if L2 is None else L2,
            "b1": betas[0] if beta1 is None else beta1,
            "b2": betas[1] if beta2 is None else beta2,
            "eps": own.get("eps", 0.0) if eps is None else eps,
            "grad_clip": grad_clip,
        }
        switches = {
            "use_averages": use_averages,
            "use_radam": use_radam,
            "L2_is_weight_decay": L2_is_weight_decay,
        }
        for name, value in switches.items():
            checked("Optimizer", name, VOCABULARY["maximize"], value)
        good = {_NUMBERS[k][0]: _checked_number(k, value) for k, value in numbers.items()}
        super().__init__(**good, **switches)
        self._num_threads = as_num_threads("Optimizer", num_threads)
        self._fixed = {k: v for k, v in options.items() if not _is_scheduled(k)}
        self._scheduled = tuple(k for k in options if _is_scheduled(k))
        for name in self._scheduled:
            self._set_attr_or_schedule(name, _hosted(options[name]))
        self._state: dict[str, dict[Key, np.ndarray]] = {}
        self._counts: dict[Key, tuple[int, float]] = {}
        self._bound: dict[Key, _Bound] = {}
        self._seen: dict[str, float] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """As of `optkern.Optimizer`: no name that means nothing."""
        own = ("last_score", *self._scheduled)  # the first is in no class of thinc 8
        known = name[:1] == "_" or hasattr(type(self), name) or name in own
        if type(self) is Optimizer and not known:
            settable = [*_NUMBERS, "use_radam", "L2_is_weight_decay", *own]
            raise AttributeError(optimizers.no_attribute("Optimizer", name, settable, ()))
        super().__setattr__(name, value)

    def _refuse_unheard(self, **given: Any) -> None:
        """Refuse thinc's arguments that a rule has no use for."""
        own = {"beta1": "betas", "beta2": "betas", "eps": "eps"}
        for name, value in given.items():
            rule = self._rule
            if rule is None or value is None:
                continue
            if own[name] not in rule.hyperparameters or own[name] in rule.domains:
                raise TypeError(f"Optimizer: the rule {rule.name} has no {name}")

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
            raise TypeError(
                f"Optimizer: gradient of {_arrays.named('parameter', _label(key))} must be a NumPy "
                f"array, got {type(gradient).__name__}"
            )
        if not gradient.size:
            return weights, gradient
        b1, b2 = self._number("b1", key), self._number("b2", key)
        bound = self._bound_to(key, weights, self._rule or _thincs_rule(self.use_radam, b2))
        if _takes_betas(bound.rule):
            bound.set("betas", (b1, b2))
        bound.set("eps", self._number("eps", key))
        for name in self._scheduled:
            bound.set(name, self._now(name, key))
        lr, L2 = self._number("learn_rate", key), self._number("L2", key)
        grad_clip = self._number("grad_clip", key)
        if lr_scale != 1.0:
            lr *= checked("Optimizer", "lr_scale", AMOUNT, lr_scale)
        if L2 and not self.L2_is_weight_decay and grad_clip:
            bound.set("lr", lr)
            bound.plan.check((gradient,))
            gradient += L2 * weights
            L2 = 0.0
        self._set_rates(bound, lr, L2)
        count = self.nr_update[key] + 1
        if bound.average is not None:
            bound.set("ema_decay", min((1.0 + count) / (10.0 + count), 0.9999))
        bound.set("grad_scale", _excess(gradient, grad_clip) if grad_clip else 1.0)
        bound.plan.step((gradient,), self._num_threads)
        self.nr_update[key] = count
        if bound.average is not None:
            self.averages[key] = bound.average
        return weights, gradient

    def _set_rates(self, bound: _Bound, lr: float, L2: float) -> None:
        """Learning rate and decay as the kernel takes them."""
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
        """The value of a schedule at this step; thinc 8 keeps it in the schedule's place."""
        value = getattr(self, name)
        return value(self._step, **self._schedule_args(key)) if callable(value) else value

    def _number(self, name: str, key: Key) -> float:
        """One of thinc's numbers at this step, checked where it is another than before."""
        value = self._now(name, key)
        if value is not self._seen.get(name):
            checked("Optimizer", *_NUMBERS[name], value)
            self._seen[name] = value
        return value

    # ----------------------------------------------------------------- arrays and their plans

    def _bound_to(self, key: Key, weights: Any, rule: Rule) -> _Bound:
        bound = self._bound.get(key)
        if bound is None or not (bound.is_of(rule, weights) and self._holds(key, bound)):
            bound = self._bound[key] = self._bind(key, weights, rule)
        return bound

    def _holds(self, key: Key, bound: _Bound) -> bool:
        """Whether state, count and average of an array are still what it is bound to."""
        averages = self.averages
        if (averages is None) is not (bound.average is None):
            return False
        if averages is not None and averages.get(key) is not bound.average:
            return False
        if bound.plan.steps[0] != self._count(key, bound.rule):
            return False
        return all(self._home(slot).get(key) is array for slot, array in bound.state.items())

    def _count(self, key: Key, rule: Rule) -> int:
        """Updates so far, as the engine counts them: thinc's RAdam is a step ahead."""
        count = self.nr_update[key]
        if not isinstance(count, (int, np.integer)) or count < 0:
            raise ValueError(
                f"Optimizer: nr_update of {key!r} must be an integer >= 0, got {count!r}"
            )
        return count + (self._rule is None and rule.name == "radam")

    def _bind(self, key: Key, weights: Any, rule: Rule) -> _Bound:
        """A plan for an array that is new, or lies elsewhere than before; its state goes on."""
        label = _label(key)
        _arrays.check_writable("Optimizer", _arrays.named("parameter", label), weights)
        if key in self._bound:
            self._counts[key] = self._bound[key].counts
        if not self.nr_update[key]:  # begins anew, in what thinc has no name for too
            self._counts.pop(key, None)
            for kept in self._state.values():
                kept.pop(key, None)
        needed = {**rule.hyperparameters, **self._fixed, **dict.fromkeys(self._scheduled, True)}
        state = {
            slot: self._home(slot).setdefault(key, _zeros(weights.reshape(-1)))
            for slot in rule.state
            if rule.needs(slot, needed)
        }
        for slot, array in state.items():
            _check_kept(f"{_THINCS.get(slot, slot)} of {label!r}", array, weights)
        average = None
        if self.averages is not None:
            average = self.averages.get(key)
            average = _zeros(weights) if average is None else average
            _check_kept(f"averages of {label!r}", average, weights)
        bound = _Bound(rule, label, weights, state, average)
        for name, value in {**rule.hyperparameters, **self._fixed}.items():
            bound.set(name, value)
        bound.set("zero_grad", True)
        if self._rule is None:
            bound.set("eps_form", "raw")
        count = bound.plan.steps[0] = self._count(key, rule)
        if key in self._counts:
            started, bound.plan.mu_products[0] = self._counts[key]
            bound.plan.started[0] = min(started, count)
        return bound

    @property
    def _decay_form(self) -> str:
        if not self.L2_is_weight_decay:
            return "l2"
        return "decoupled" if self._rule else "independent"

    def _home(self, slot: str) -> dict[Key, np.ndarray]:
        """Where a state's arrays are kept: flat, and thinc's two under thinc's names."""
        if slot in _THINCS:
            return getattr(self, _THINCS[slot])
        return self._state.setdefault(slot, {})

    def __getstate__(self) -> Any:
        counts = {key: bound.counts for key, bound in self._bound.items()}
        own, slots = super().__getstate__()
        return {**own, "_bound": {}, "_counts": {**self._counts, **counts}}, slots

    def __repr__(self) -> str:
        rule = self._rule or CLASSES["radam" if self.use_radam else "adam"].rule
        own = "" if self._rule else "thinc's "
        return f"Optimizer({own}{rule.name}, {len(self.nr_update)} arrays so far)"


class _Bound:
    """One array of a model, bound to the engine with its state and its average."""

    __slots__ = ("average", "plan", "rule", "state", "values", "weights")

    def __init__(
        self,
        rule: Rule,
        label: str,
        weights: np.ndarray,
        state: dict[str, np.ndarray],
        average: np.ndarray | None,
    ) -> None:
        self.rule, self.weights, self.state, self.average = rule, weights, state, average
        arrays: dict[str, list[Any]] = {slot: [None] for slot in rule.state}
        for slot, array in state.items():
            arrays[slot] = [array.reshape(weights.shape)]
        if average is not None:
            arrays["ema"] = [average]
        self.plan = Plan(rule, "Optimizer", (label,), [weights], arrays)
        self.plan.set_groups([0])
        self.values: dict[str, Any] = {}

    def is_of(self, rule: Rule, weights: Any) -> bool:
        """Whether it is bound to this rule and these elements, in the same memory."""
        if self.rule is not rule:
            return False
        return weights is self.weights or _same_memory(weights, self.weights)

    def set(self, name: str, value: Any) -> None:
        """Give the engine a hyperparameter, where the rule has it, or an option."""
        if self.values.get(name, self) == value:
            return
        if name in OPTIONS:
            self.plan.set_option(name, value)
        elif name in self.rule.hyperparameters:
            self.plan.set_hyperparameter(0, name, self.rule.checked("Optimizer", name, value))
        self.values[name] = value

    @property
    def counts(self) -> tuple[int, float]:
        """What a plan counts besides its steps."""
        return int(self.plan.started[0]), float(self.plan.mu_products[0])


def _label(key: Any) -> str:
    return " of node ".join(map(str, reversed(key))) if isinstance(key, tuple) else str(key)


def _check_kept(what: str, array: Any, weights: np.ndarray) -> None:
    """Raise where an array that anyone may have written is no companion of its parameter's."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"Optimizer: {what} must be a NumPy array, got {type(array).__name__}")
    if array.size != weights.size or array.dtype != weights.dtype:
        raise ValueError(
            f"Optimizer: {what} must have {weights.size} elements of {weights.dtype} like its "
            f"parameter, got {array.size} of {array.dtype}"
        )


def _zeros(array: np.ndarray) -> np.ndarray:
    return _arrays.zeros_beside(array, array.dtype)


def _same_memory(a: Any, b: np.ndarray) -> bool:
    """Whether `a` is another view of the very elements of b: a wrapped PyTorch model makes them."""
    return (
        type(a) is np.ndarray
        and a.__array_interface__["data"] == b.__array_interface__["data"]
        and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
    )


def _excess(gradient: np.ndarray, limit: float) -> float:
    """How many times too long a gradient is, or 1."""
    if type(gradient) is not np.ndarray or gradient.dtype not in _arrays.DTYPES:
        return 1.0  # which the engine refuses
    length = norm(gradient.ravel("K"))
    return length / limit if length >= limit else 1.0


def _thincs_rule(use_radam: bool, b2: float) -> Rule:
    return CLASSES["radam" if use_radam else "adam" if b2 > 0 else "sgd"].rule


def _is_scheduled(name: str) -> bool:
    return isinstance(VOCABULARY.get(name), Real)


def _checked_class(
    name: str | None, use_radam: bool, options: dict[str, Any]
) -> type[optimizers.Optimizer] | None:
    """The class of a rule, None for thinc's; its options checked as far as they are numbers."""
    if name is not None and (not isinstance(name, str) or name not in CLASSES):
        raise ValueError(
            f"Optimizer: rule must be None or one of {', '.join(CLASSES)}, {got(name, CLASSES)}"
        )
    if name is not None and use_radam:
        raise ValueError(f"Optimizer: use_radam=True is thinc's own choice, got rule={name!r} too")
    cls: Any = CLASSES[name] if name else None
    known = list(_options_of(cls.rule)) if cls else []
    for option in options:
        if option not in known:
            raise TypeError(
                f"Optimizer: unknown option {option!r}; "
                + (f"here it is {_RENAMED[option]}; " if option in _RENAMED else "")
                + (f"{name} has {', '.join(known)}" if cls else "there are some with a rule alone")
            )
    if cls is None:
        return None
    numbers = {k: v for k, v in options.items() if not _is_scheduled(k) or _is_number(v)}
    scheduled = {k: lambda step: 0.5 for k in options if k not in numbers}
    cls(np.zeros(1), **numbers, **scheduled)
    return cls


def _is_number(value: Any) -> bool:
    return not (callable(value) or isinstance(value, list) or hasattr(value, "__next__"))


def _checked_number(name: str, value: Any) -> Any:
    """One of thinc's numbers, checked, or a schedule of it, as thinc takes it."""
    if not _is_number(value) and value != []:
        return _hosted(value)
    return checked("Optimizer", *_NUMBERS[name], value, " or a schedule of such")


def _hosted(value: Any) -> Any:
    """A callable of the step as thinc's kind of schedule; all else as it is."""
    if not callable(value) or (_Schedule is not None and isinstance(value, _Schedule)):
        return value
    if _Schedule is None:
        return (value(step) for step in itertools.count())
    return _Schedule("optkern", _scheduled, attrs={"schedule": value})


def _scheduled(schedule: Any, step: int, **_: Any) -> Any:
    return schedule.attrs["schedule"](step)


# --------------------------------------------------------------------------- by name


def SGD(learn_rate: Any, **settings: Any) -> Optimizer:
    """thinc's SGD, with its arguments."""
    return Optimizer(learn_rate, beta1=0.0, beta2=0.0, **settings)


def Adam(learn_rate: Any = 0.001, **settings: Any) -> Optimizer:
    """thinc's Adam, with its arguments."""
    return Optimizer(learn_rate, **settings)


def RAdam(learn_rate: Any = 0.001, **settings: Any) -> Optimizer:
    """thinc's RAdam, with its arguments."""
    return Optimizer(learn_rate, use_radam=True, **settings)


def _register() -> None:
    """Name an optimizer for each rule in thinc's registry: ``@optimizers = "optkern.Lion.v1"``."""
    for made in (SGD, Adam, RAdam):
        made.__signature__ = inspect.signature(getattr(_thinc, made.__name__))  # type: ignore
        _thinc.registry.optimizers(f"optkern.{made.__name__}.v1")(made)
    for cls in CLASSES.values():
        if cls.__name__ not in ("SGD", "Adam", "RAdam"):
            made = globals()[cls.__name__] = _maker(cls.rule)
            _thinc.registry.optimizers(f"optkern.{cls.__name__}.v1")(made)


def _maker(rule: Rule) -> Callable[..., Optimizer]:
    def make(learn_rate: Any = rule.hyperparameters["lr"], **settings: Any) -> Optimizer:
        return Optimizer(learn_rate, rule=rule.name, **settings)

    unheard = {"rule", "use_radam", "options"}
    unheard |= set() if _takes_betas(rule) else {"beta1", "beta2"}
    unheard |= set() if "eps" in rule.hyperparameters else {"eps"}
    # Without annotations: what reads a configuration makes a schema of them.
    named = inspect.signature(Optimizer).parameters.values()
    parameters = [p.replace(annotation=p.empty) for p in named if p.name not in unheard]
    parameters[0] = parameters[0].replace(default=rule.hyperparameters["lr"])
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in _options_of(rule).items()
    ]
    make.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    make.__doc__ = f"`Optimizer` with the rule {rule.name}."
    return make


_register()

# --------------------------------------------------------------------------- Ops

# Adam's bias corrections of so late a step are 1, for eps too: thinc has put them into the rate.
_LATE = 2**53
# Elements at a time: of so few the kernel makes no plan, which would cost it 250 us.
_PIECE = 49152


@_thinc.registry.ops("OptkernOps")
class Ops(_api.NumpyOps):  # type: ignore[name-defined,misc]
    """thinc's NumpyOps with optkern's Adam: ``with use_ops("optkern"):``.

    thinc's own optimizers do not ask for the current Ops; `accelerate` makes them take this one.
    """

    name = "optkern"

    def adam(
        self,
        weights: np.ndarray,
        gradient: np.ndarray,
        mom1: np.ndarray,
        mom2: np.ndarray,
        beta1: float,
        beta2: float,
        eps: float,
        learn_rate: float,
        mod_rate: float = 1.0,
    ) -> tuple[np.ndarray, ...]:
        """One step on flat arrays, in place; the gradient is zero afterwards, and mod_rate unused.

        learn_rate has the bias corrections in it, and eps is added to the uncorrected root.
        """
        # Python numbers, and eps in its default form: what the kernel takes its short way with.
        rates: dict[str, Any] = {
            "lr": float(learn_rate),
            "betas": (float(beta1), float(beta2)),
            "eps": float(eps),
        }
        for first in range(0, len(weights), _PIECE):
            w, g, m, v = (a[first : first + _PIECE] for a in (weights, gradient, mom1, mom2))
            kernels.adam(w, g, m, v, **rates, step=_LATE)
            g[...] = 0
        return weights, gradient, mom1, mom2


_active: ContextVar[bool] = ContextVar("accelerate", default=False)
_lock = threading.Lock()
_entered = 0  # contexts in all threads
_original = _thinc.get_array_ops
_ops = Ops()


def _array_ops(array: Any) -> Any:
    """The Ops of an array: optkern's for NumPy's where the calling thread has asked for it."""
    return _ops if _active.get() and isinstance(array, np.ndarray) else _original(array)


@contextlib.contextmanager
def accelerate() -> Iterator[None]:
    """While this lasts, thinc's own optimizers in the calling thread use `Ops`.

    For training code that makes its optimizer itself. `Optimizer` does more in its pass.
    """
    global _entered
    with _lock:
        _entered += 1
        _thinc.get_array_ops = _array_ops  # type: ignore[attr-defined]
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)
        with _lock:
            _entered -= 1
            if _entered == 0:
                _thinc.get_array_ops = _original  # type: ignore[attr-defined]


# --------------------------------------------------------------------------- curvature


@spelled
def objective(
    model: Any, X: Any, Y: Any, loss: Any = None, *, L2: float = 0.0, batch_size: int = 1024
) -> Objective:
    """What training a model with a loss descends, over all of the data, for `optkern.curvature`.

    ``x, loss, grad = objective(model, X, Y)``, then ``curvature.classify(x, grad, loss=loss)``.

    The value is the one whose gradient thinc's loss gives, not the one thinc reports: for
    `CategoricalCrossentropy`, under a Softmax, the cross-entropy; for `L2Distance` half the squared
    error; always the mean over the examples. Dropout is off. The arithmetic is float64 if the
    model's layers give the same result in it, or else float32, which the dtype of x then shows.

    Parameters
    ----------
    model : thinc.model.Model
        Initialized, without wrapped models of other libraries; not modified.
    X : list, ndarray or Ragged
        What the model takes; anything else that it takes goes through in one piece.
    Y : list or ndarray
        As many truths as there are in X.
    loss : thinc loss, callable or None
        None: `CategoricalCrossentropy` or, where the model gives a list, its form for sequences.
        A callable ``(guesses, truths) -> (gradient, value)``, as thinc's are called, must give the
        mean over its batch.
    L2 : float
        Of the optimizer, where it is added to the gradient.
    batch_size : int
        Examples that go through the model at a time.

    Returns
    -------
    Objective
        Unpacks as ``x, loss, grad``. x is a list of copies, in the order of ``for node in
        model.walk() for name in node.param_names``, of the parameters that get a gradient.

    Raises
    ------
    TypeError, ValueError
        Where the model is none of thinc's, is not initialized or wraps another library's, where X
        and Y do not fit, or where the gradient is not that of the value: to find out takes two
        passes over the data for each parameter.
    """
    if not isinstance(model, _api.Model):
        raise TypeError(f"objective: model must be a thinc Model, got {type(model).__name__}")
    for node in model.walk():
        if node.shims:
            raise ValueError(f"objective: {node.name} wraps another library's model, not thinc's")
        unset = [name for name in node.param_names if not node.has_param(name)]
        if unset:
            raise ValueError(f"objective: {unset[0]} of {node.name} is not set: initialize first")
    if not hasattr(Y, "__len__"):
        raise TypeError(f"objective: Y must be an array or a list, got {type(Y).__name__}")
    batch_size = check_count("objective", "batch_size", batch_size, 1)
    for name, value in (("X", X), ("Y", Y)):
        if isinstance(value, (str, bytes)) or not getattr(value, "ndim", hasattr(value, "__len__")):
            came = type(value).__name__
            raise TypeError(f"objective: {name} must be a list or an array of rows, got {came}")
    if not len(Y) or (_is_sliced(X) and len(X) != len(Y)):
        raise ValueError(f"objective: X and Y must be of one length > 0, got {len(X)} and {len(Y)}")
    checked("objective", "L2", AMOUNT, L2)
    total = _Total(model, X, Y, loss, L2, batch_size, np.float32)
    if not total.where:
        raise ValueError("objective: no parameter of the model gets a gradient")
    with contextlib.suppress(TypeError, ValueError):
        double = _Total(model, X, Y, loss, L2, batch_size, np.float64)
        # A layer that reads float64 as float32 gives something, but not this.
        value = total.loss(total.nearby())
        if abs(double.loss(double.nearby()) - value) <= 1e-3 * abs(value) + 1e-5:
            total = double
    total.refuse_another_gradient()
    return Objective(total.point(), total.loss, total.grad)


class _DoubleOps(_api.NumpyOps):  # type: ignore[name-defined,misc]
    """NumpyOps that makes float64 where thinc asks for float32."""

    def alloc(self, shape: Any, *, dtype: Any = "float32", zeros: bool = True) -> Any:
        return super().alloc(shape, dtype=_doubled(dtype), zeros=zeros)

    def asarray(self, data: Any, dtype: Any = None) -> Any:
        return super().asarray(data, dtype=_doubled(dtype))

    def gemm(self, x: Any, y: Any, **options: Any) -> Any:
        """NumPy's, as thinc 8 has it for float32 alone; of a mixture, a layer does not double."""
        if x.dtype != y.dtype:
            raise TypeError(f"objective: a layer multiplies {x.dtype} and {y.dtype}")
        return _api.Ops.gemm(self, x, y, **options)


def _doubled(dtype: Any) -> Any:
    return "float64" if dtype is not None and np.dtype(dtype) == np.float32 else dtype


def _is_sliced(data: Any) -> bool:
    return isinstance(data, (list, np.ndarray, _api.Ragged))


def _cast(data: Any, dtype: Any) -> Any:
    """The floats in a model's input as another dtype."""
    if isinstance(data, np.ndarray):
        return data.astype(dtype) if data.dtype.kind == "f" else data
    if isinstance(data, list):
        return [_cast(part, dtype) for part in data]
    if isinstance(data, _api.Ragged):
        return _api.Ragged(_cast(data.dataXd, dtype), data.lengths)
    return data


class _Total:
    """A model's loss and gradient over all of the data, batch by batch."""

    def __init__(
        self, model: Any, X: Any, Y: Any, loss: Any, L2: float, batch_size: int, dtype: Any
    ) -> None:
        self.model = copy.deepcopy(model)
        _api.set_dropout_rate(self.model, 0.0)
        self.X, self.Y = _cast(X, dtype), _cast(Y, dtype)
        self.L2, self.dtype = L2, dtype
        self.batch = batch_size if _is_sliced(X) and batch_size < len(Y) else len(Y)
        self.measured: Callable[[Any, Any], tuple[Any, float]] | None = None
        self.given = loss
        for node in self.model.walk():
            node.ops = _DoubleOps() if dtype == np.float64 else _api.NumpyOps()
            params = {(node.id, name): node.get_param(name) for name in node.param_names}
            node._params = _backends.ParamServer(params)  # without the gradients of the user's
        self.where = [(node, name) for node in self.model.walk() for name in node.param_names]
        self.start = [np.array(node.get_param(name), dtype) for node, name in self.where]
        self._over_all(self.start, backward=True)
        # What a layer gives no gradient for is not trained, an LSTM's initial state for one.
        trained = [node.has_grad(name) for node, name in self.where]
        self.where = list(itertools.compress(self.where, trained))
        self.start = list(itertools.compress(self.start, trained))
        for node, name in self.where:
            self._refuse_dtype(f"the gradient of {name}", node.get_grad(name))

    def _refuse_dtype(self, what: str, array: Any) -> None:
        if isinstance(array, np.ndarray) and array.dtype != self.dtype:
            raise TypeError(f"objective: {what} is {array.dtype}, not {np.dtype(self.dtype)}")

    def point(self) -> list[np.ndarray]:
        """The trained parameters of the model as it came, copied."""
        return [a.copy() for a in self.start]

    def nearby(self) -> list[np.ndarray]:
        """A point a tenth of the parameters' size away: at the first one much may be zero."""
        rng = np.random.default_rng(0)
        size = math.sqrt(sum(float(np.vdot(a, a)) for a in self.start))
        scale = 0.1 * size / math.sqrt(sum(a.size for a in self.start)) or 0.1
        moved = [a + scale * rng.standard_normal(a.shape) for a in self.start]
        return [a.astype(self.dtype) for a in moved]

    def loss(self, x: Sequence[np.ndarray]) -> float:
        return self._over_all(x, backward=False)

    def grad(self, x: Sequence[np.ndarray]) -> list[np.ndarray]:
        for (node, name), a in zip(self.where, x):
            node.set_grad(name, np.zeros_like(a))
        self._over_all(x, backward=True)
        return [
            node.get_grad(name) + self.dtype(self.L2) * a for (node, name), a in zip(self.where, x)
        ]

    def _over_all(self, x: Sequence[np.ndarray], backward: bool) -> float:
        for (node, name), a in zip(self.where, x):
            node.set_param(name, np.array(a, self.dtype, order="C"))
        total = self.L2 / 2 * sum(float(np.vdot(a, a)) for a in x)
        n = len(self.Y)
        for first in range(0, n, self.batch):
            X, Y = self._piece(self.X, first), self._piece(self.Y, first)
            guesses, backprop = self.model.begin_update(X)
            gradient, value = self._measure(guesses, Y)
            share = len(Y) / n
            total += share * value
            if backward:
                backprop(_times(gradient, share))
        return total

    def _piece(self, data: Any, first: int) -> Any:
        return data if self.batch == len(self.Y) else data[first : first + self.batch]

    def _measure(self, guesses: Any, truths: Any) -> tuple[Any, float]:
        """The gradient and the value of a batch's mean loss."""
        for part in guesses if isinstance(guesses, list) else [guesses]:
            self._refuse_dtype("what the model gives", part)
        if self.measured is None:
            self.measured = _potential(self.given, guesses)
        pair = self.measured(guesses, truths)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(
                f"objective: loss must give a tuple (gradient, value), got {type(pair).__name__}"
            )
        return pair[0], float(pair[1])

    def refuse_another_gradient(self) -> None:
        """Raise ValueError where the loss does not rise as its gradient says.

        Along the gradient, which any projection of the true one passes, and along a random
        direction of each parameter, which none but the true one does.
        """
        x = self.nearby()
        g = self.grad(x)
        slope = math.sqrt(sum(float(np.vdot(a, a)) for a in g))
        value = abs(self.loss(x))
        if not math.isfinite(value + slope):
            raise ValueError(
                f"objective: the loss is {value:.3g} and its gradient's norm {slope:.3g} near the "
                "model's parameters: X, Y and the parameters must be finite"
            )
        if slope and value:
            h = (1e-5 if self.dtype == np.float64 else 3e-3) * value / slope
            along = [a / self.dtype(slope) for a in g]
            found = self._rise(x, along, h)
            if not abs(found - slope) <= 0.1 * slope:
                _refuse_slope("it", found, slope)
        rng = np.random.default_rng(1)
        apart = math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in zip(x, self.start)))
        h = (1e-4 if self.dtype == np.float64 else 0.1) * apart / math.sqrt(sum(a.size for a in x))
        for i, (node, name) in enumerate(self.where):
            along = [np.zeros_like(a) for a in x]
            along[i][...] = rng.standard_normal(along[i].shape)
            said = float(np.vdot(g[i], along[i]))
            found = self._rise(x, along, h)
            # A random direction's slope may be small beside the gradient, and beside rounding.
            margin = 0.1 * (abs(said) + float(np.linalg.norm(g[i])))
            margin += 30 * float(np.finfo(self.dtype).eps) * value / h
            if abs(found - said) <= margin:
                continue
            margin += 3 * abs(found - self._rise(x, along, 2 * h))  # of a kink or a steep curve
            if not abs(found - said) <= margin:
                _refuse_slope(f"a direction of {name} of {node.name}", found, said)

    def _rise(self, x: Sequence[np.ndarray], along: Sequence[np.ndarray], h: float) -> float:
        """The slope of the loss by central differences."""
        up, down = ([a + self.dtype(s * h) * b for a, b in zip(x, along)] for s in (1, -1))
        return (self.loss(up) - self.loss(down)) / (2 * h)


def _refuse_slope(what: str, found: float, said: float) -> None:
    raise ValueError(
        f"objective: the loss does not give the gradient of its value: along {what} the value "
        f"rises by {found:.3g}, the gradient says {said:.3g} (a CategoricalCrossentropy needs a "
        "Softmax as the model's last layer; thinc's LSTM gives another gradient, and so does a "
        "layer that stops it)"
    )


def _times(gradient: Any, share: float) -> Any:
    """A share of a gradient of arrays, or of a list of them, in its own dtype."""
    if isinstance(gradient, list):
        return [_times(part, share) for part in gradient]
    return gradient if share == 1 else gradient * gradient.dtype.type(share)


def _potential(loss: Any, guesses: Any) -> Callable[[Any, Any], tuple[Any, float]]:
    """``(guesses, truths) -> (gradient, value)`` of a batch's mean, for what thinc calls losses."""
    sequences = isinstance(guesses, list)
    if loss is None and sequences:
        loss = _api.SequenceCategoricalCrossentropy()
    elif loss is None:
        loss = _api.CategoricalCrossentropy()
    if isinstance(loss, _api.SequenceCategoricalCrossentropy):
        return lambda g, t: _sequence_crossentropy(loss.cc, g, t)
    if isinstance(loss, _api.CategoricalCrossentropy):
        return lambda g, t: _crossentropy(loss, g, t, len(g))
    if isinstance(loss, _api.L2Distance):
        return _squared
    if isinstance(loss, _api.CosineDistance):
        share = (lambda g: 1) if loss.normalize else len
        return lambda g, t: (loss.get_grad(g, t) / share(g), loss.get_loss(g, t) / share(g))
    if not callable(loss):
        raise TypeError(
            "objective: loss must be a loss of thinc, a callable (guesses, truths) -> (gradient, "
            f"value) or None, got {type(loss).__name__}"
        )
    return loss


def _squared(guesses: Any, truths: Any) -> tuple[np.ndarray, float]:
    """Half the squared error; nothing is broadcast."""
    if np.shape(truths) != guesses.shape:
        raise ValueError(
            f"objective: Y must have the shape that the model gives, {guesses.shape} for a batch, "
            f"got {np.shape(truths)}"
        )
    error = guesses - truths
    return error / len(error), 0.5 * float(np.sum(error**2)) / len(error)


def _crossentropy(loss: Any, guesses: Any, truths: Any, n: int) -> tuple[np.ndarray, float]:
    """Cross-entropy divided by n; what is masked does not count."""
    target, mask = loss.convert_truths(truths, guesses)
    if (mask != mask[:, :1]).any():
        raise ValueError(
            "objective: a CategoricalCrossentropy with neg_prefix descends no function"
        )
    logs = np.log(np.maximum(guesses, np.finfo(guesses.dtype).tiny))
    return (guesses - target) * mask / n, -float(np.sum(mask * target * logs)) / n


def _sequence_crossentropy(loss: Any, guesses: Any, truths: Any) -> tuple[list[Any], float]:
    """The sum over each sequence, the mean over sequences."""
    pairs = [_crossentropy(loss, g, t, len(guesses)) for g, t in zip(guesses, truths, strict=True)]
    return [gradient for gradient, _ in pairs], sum(value for _, value in pairs)


spell_names(__name__)
