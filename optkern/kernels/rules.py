"""The rule table: every update rule, its state and its hyperparameters, in one list.

The build stamps its loops from this table; the twins, the optimizers, their documentation, the
tests and the benchmarks walk it. It imports nothing but the standard library, so that setup.py
can read it before anything is compiled.
"""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# --------------------------------------------------------------------------- the vocabulary
#
# One name means one thing in every rule: a domain says what a value may be, checks it, and gives
# the doubles that the constants of a step are derived from (`hyper_t` in _constants.pxd).


def as_number(value: Any) -> float | None:
    """The float that ``value`` stands for, or None if it is NaN or stands for no such thing."""
    if isinstance(value, (bool, complex, str, bytes)) or not hasattr(value, "__float__"):
        return None
    if getattr(getattr(value, "dtype", None), "kind", "f") in "bcmM":  # NumPy's bool, complex, time
        return None
    if getattr(value, "ndim", 0):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


class Real(NamedTuple):
    """A real number in an interval; a finite one, unless `infinite`."""

    meaning: str
    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    infinite: bool = False

    @property
    def allowed(self) -> str:
        left = "(" if self.open_low else "["
        right = ")" if self.open_high or (self.high == math.inf and not self.infinite) else "]"
        kind = "number" if self.infinite else "finite number"
        return f"a {kind} in {left}{self.low:g}, {self.high:g}{right}"

    def check(self, value: Any) -> float | None:
        number = as_number(value)
        if number is None or (math.isinf(number) and not self.infinite):
            return None
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return number if above and below else None

    def encode(self, value: float) -> tuple[float, ...]:
        return (value,)


class Pair(NamedTuple):
    """Two numbers of one interval, such as Adam's betas."""

    meaning: str
    each: Real

    @property
    def allowed(self) -> str:
        return f"two numbers, each {self.each.allowed}"

    def check(self, value: Any) -> tuple[float, float] | None:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            return None
        first, second = value
        pair = (self.each.check(first), self.each.check(second))
        return None if None in pair else pair  # type: ignore[return-value]

    def encode(self, value: tuple[float, float]) -> tuple[float, ...]:
        return value


class Count(NamedTuple):
    """A positive integer that a double holds exactly."""

    meaning: str
    allowed: str = "an integer in [1, 2**53]"

    def check(self, value: Any) -> int | None:
        try:
            number = operator.index(value)
        except TypeError:
            return None
        return number if 1 <= number <= 2**53 and not isinstance(value, bool) else None

    def encode(self, value: int) -> tuple[float, ...]:
        return (float(value),)


class Flag(int):
    """True or False where a bool will not do, because it is to have methods."""

    def __repr__(self) -> str:
        return repr(bool(self))


class Switch(NamedTuple):
    """On or off."""

    meaning: str
    allowed: str = "True or False"

    def check(self, value: Any) -> bool | None:
        if isinstance(value, (bool, Flag)) or type(value).__name__ == "bool":
            return bool(value)
        return None

    def encode(self, value: bool) -> tuple[float, ...]:
        return (float(value),)


class Choice(NamedTuple):
    """One of a few words; the order is the order of the enum in _constants.pxd."""

    meaning: str
    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(repr(word) for word in self.words)

    def check(self, value: Any) -> str | None:
        return value if isinstance(value, str) and value in self.words else None

    def encode(self, value: str) -> tuple[float, ...]:
        return (float(self.words.index(value)),)


class Cycle(NamedTuple):
    """How often, and how far: Lookahead's k and alpha."""

    meaning: str
    allowed: str = "a pair (k, alpha), k an integer in [1, 2**53], alpha a finite number in (0, 1]"

    def check(self, value: Any) -> tuple[int, float] | None:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            return None
        k = Count("").check(value[0])
        alpha = Real("", 0.0, 1.0, open_low=True).check(value[1])
        return None if k is None or alpha is None else (k, alpha)

    def encode(self, value: tuple[int, float]) -> tuple[float, ...]:
        return (float(value[0]), value[1])


Domain = Real | Pair | Count | Switch | Choice | Cycle

VOCABULARY: dict[str, Domain] = {
    "lr": Real("learning rate", 0.0),
    "betas": Pair("decay rates of the running averages", Real("", 0.0, 1.0, open_high=True)),
    "eps": Real("added to the denominator", 0.0),
    "alpha": Real("decay rate of the squared average", 0.0, 1.0),
    "rho": Real("decay rate of the squared averages", 0.0, 1.0),
    "momentum": Real("momentum factor", 0.0, 1.0),
    "dampening": Real("dampening of the gradient in the momentum buffer", 0.0, 1.0),
    "lr_decay": Real("decay of the learning rate: lr / (1 + (step - 1) * lr_decay)", 0.0),
    "momentum_decay": Real("decay of the momentum schedule", 0.0),
    "mu_product": Real("product of the momentum factors of the steps taken so far", 0.0, 1.0),
    "weight_decay": Real("weight decay coefficient", 0.0),
    "nesterov": Switch("look ahead along the momentum"),
    "centered": Switch("normalise by the estimated variance instead of the second moment"),
    "amsgrad": Switch("divide by the largest second moment seen"),
    "maximize": Switch("ascend instead of descend"),
    "decay_form": Choice(
        "weight decay is added to the gradient, shrinks p by lr * weight_decay, or by weight_decay",
        ("l2", "decoupled", "independent"),
    ),
    "eps_form": Choice(
        "eps is added after bias correction, or to the uncorrected square root",
        ("corrected", "raw"),
    ),
    "momentum_form": Choice(
        "buf = mu*buf + g, p -= lr*buf; or v = mu*v - lr*g, p += v; "
        "or v = mu*v + (1-mu)*g, p -= lr*v",
        ("torch", "classical", "average"),
    ),
    "step": Count("the step being taken, counted from 1"),
    "trust_coefficient": Real("share of a tensor's norm that a step may move it by", 0.0),
    "adapt": Switch("scale each tensor's step by its trust ratio"),
}

# What an optimizer does around its rule, whatever the rule: name -> (default, domain), and None is
# off. The gradient is unscaled, its norm taken, then clipped: by all tensors' norm together, by its
# own, by value. After the rule come Lookahead, the average, and zeros for the gradient.
_LIMIT = Real("", 0.0, open_low=True, infinite=True)
OPTIONS: dict[str, tuple[Any, Domain]] = {
    "clip_norm": (
        None,
        _LIMIT._replace(meaning="largest norm of all gradients together; inf: measure it alone"),
    ),
    "clip_norm_per_tensor": (None, _LIMIT._replace(meaning="largest norm of each gradient")),
    "clip_value": (None, Real("largest magnitude of a gradient's element", 0.0, open_low=True)),
    "grad_scale": (
        1.0,
        # Its inverse is a number of float32 too.
        Real("what the gradients come multiplied by", 2.0**-126, 2.0**126),
    ),
    "accumulate": (1, Count("calls of step whose gradients make one update")),
    "accumulate_form": (
        "mean",
        Choice("an update takes the mean of its calls' gradients, or their sum", ("mean", "sum")),
    ),
    "zero_grad": (False, Switch("set the gradients to zero once they have been used")),
    "lookahead": (
        None,
        Cycle("every k-th step, the fraction alpha of the way from the slow weights to p"),
    ),
    "ema_decay": (
        None,
        Real("decay rate of the parameters' running average", 0.0, 1.0, open_high=True),
    ),
}

# What a step may do about NaN or inf in a gradient.
ON_NONFINITE = ("propagate", "skip", "raise")

# The state arrays of these, each with the option that needs it, in the order of the streams.
OPTION_SLOTS = {"accumulator": "accumulate", "slow": "lookahead", "ema": "ema_decay"}


def checked(owner: str, name: str, value: Any) -> Any:
    """``value`` as hyperparameter ``name`` holds it.

    Raises
    ------
    TypeError, ValueError
        Naming ``owner``, ``name``, what came and what is allowed.
    """
    default, domain = OPTIONS.get(name) or (0, VOCABULARY[name])
    if value is None and default is None:
        return None
    good = domain.check(value)
    if good is None:
        wrong_type = isinstance(domain, (Real, Count)) and not hasattr(value, "__float__")
        raise (TypeError if wrong_type else ValueError)(
            f"{owner}: {name} must be {domain.allowed}{' or None' if default is None else ''}, "
            f"got {value!r}"
        )
    return good


# --------------------------------------------------------------------------- the rules


class Rule(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    name : str
        The rule's stem everywhere: kernel, reference, formula, tests.
    slots : mapping of str to (str or None)
        Its state arrays in order, each with the hyperparameter that must be on for the array to be
        needed (None: always).
    hyperparameters : mapping of str to default
        In the order of the class's positional arguments.
    variants : tuple of tuples of str
        The combinations of structural flags (_constants.pxd) that get a loop of their own, because
        they decide which arrays are touched: an option that is off then costs nothing.
    conflicting : tuple of str
        Hyperparameters that may exclude others.
    conflict : callable
        Hyperparameters -> a sentence about the ones that do, or None.
    shared_formula : str or None
        The rule whose formula this one uses, where they differ in defaults or constants alone.
    trust : str or None
        What the norm of p is divided by in a tensor's trust ratio: the norm of the ``"gradient"``,
        or of the ``"direction"`` that the formula gives before it is applied.
    counted : tuple of str
        The hyperparameters any of which, where it is on, lets the constants depend on the number of
        the step; ``"step"`` itself: always.
    """

    name: str
    slots: Mapping[str, str | None]
    hyperparameters: Mapping[str, Any]
    variants: tuple[tuple[str, ...], ...] = ((),)
    conflicting: tuple[str, ...] = ()
    conflict: Callable[[Mapping[str, Any]], str | None] = lambda hyper: None
    shared_formula: str | None = None
    trust: str | None = None
    counted: tuple[str, ...] = ()

    @property
    def state(self) -> tuple[str, ...]:
        """The names of the parameter-shaped state arrays: all that any option needs."""
        return tuple(self.slots)

    @property
    def formula(self) -> str:
        return self.shared_formula or self.name

    def needs(self, slot: str, hyperparameters: Mapping[str, Any]) -> bool:
        """Whether these hyperparameters (a callable counts as on) touch the state ``slot``."""
        switch = self.slots[slot]
        return switch is None or bool(hyperparameters[switch])

    def counts(self, hyperparameters: Mapping[str, Any]) -> bool:
        """Whether the constants depend on the number of the step under these hyperparameters."""
        return any(hyperparameters[name] for name in self.counted)

    def check(self, owner: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """All hyperparameters, checked, the missing ones from the defaults."""
        unknown = [name for name in hyperparameters if name not in self.hyperparameters]
        if unknown:
            known = ", ".join(self.hyperparameters)
            raise TypeError(f"{owner}: unknown hyperparameter {unknown[0]!r}; it has {known}")
        values = dict(self.hyperparameters)
        for name, value in hyperparameters.items():
            values[name] = checked(owner, name, value)
        self.refuse_conflict(owner, values)
        return values

    def refuse_conflict(self, owner: str, values: Mapping[str, Any]) -> None:
        """Raise ValueError where these hyperparameters exclude each other."""
        sentence = self.conflict(values)
        if sentence:
            raise ValueError(f"{owner}: {sentence}")


def _sgd_conflict(hyper: Mapping[str, Any]) -> str | None:
    if hyper["nesterov"] and (not hyper["momentum"] or hyper["dampening"]):
        return (
            "nesterov=True needs momentum > 0 and dampening = 0, "
            f"got momentum={hyper['momentum']!r} and dampening={hyper['dampening']!r}"
        )
    if hyper["dampening"] and hyper["momentum_form"] != "torch":
        return (
            f"dampening={hyper['dampening']!r} has a meaning in momentum_form='torch' alone, "
            f"got momentum_form={hyper['momentum_form']!r}"
        )
    return None


_BETAS = (0.9, 0.999)

_ADAM = Rule(
    "adam",
    {"exp_avg": None, "exp_avg_sq": None, "max_exp_avg_sq": "amsgrad"},
    {
        "lr": 1e-3, "betas": _BETAS, "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
        "maximize": False, "decay_form": "l2", "eps_form": "corrected", "step": 1,
    },
    variants=((), ("AMSGRAD",)),
    counted=("step",),
)  # fmt: skip

# fmt: off
RULES: tuple[Rule, ...] = (
    Rule(
        "sgd",
        {"momentum_buffer": "momentum"},
        {
            "lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
            "maximize": False, "decay_form": "l2", "momentum_form": "torch", "step": 1,
        },
        variants=((), ("MOMENTUM",), ("MOMENTUM", "NESTEROV")),
        counted=("dampening",),
        conflicting=("nesterov", "dampening"),
        conflict=_sgd_conflict,
    ),
    Rule(
        "adagrad",
        {"sum": None},
        {
            "lr": 1e-2, "lr_decay": 0.0, "weight_decay": 0.0, "eps": 1e-10,
            "maximize": False, "decay_form": "l2", "step": 1,
        },
        counted=("lr_decay",),
    ),
    Rule(
        "rmsprop",
        {"square_avg": None, "grad_avg": "centered", "momentum_buffer": "momentum"},
        {
            "lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0,
            "centered": False, "maximize": False, "decay_form": "l2", "step": 1,
        },
        variants=((), ("CENTERED",), ("MOMENTUM",), ("CENTERED", "MOMENTUM")),
    ),
    Rule(
        "adadelta",
        {"square_avg": None, "acc_delta": None},
        {
            "lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0,
            "maximize": False, "decay_form": "l2", "step": 1,
        },
    ),
    _ADAM,
    _ADAM._replace(
        name="adamw",
        hyperparameters={
            **_ADAM.hyperparameters, "weight_decay": 1e-2, "decay_form": "decoupled",
        },
        shared_formula="adam",
    ),
    Rule(
        "adamax",
        {"exp_avg": None, "exp_inf": None},
        {
            "lr": 2e-3, "betas": _BETAS, "eps": 1e-8, "weight_decay": 0.0,
            "maximize": False, "decay_form": "l2", "step": 1,
        },
        counted=("step",),
    ),
    Rule(
        "nadam",
        {"exp_avg": None, "exp_avg_sq": None},
        {
            "lr": 2e-3, "betas": _BETAS, "eps": 1e-8, "weight_decay": 0.0, "momentum_decay": 4e-3,
            "maximize": False, "decay_form": "l2", "step": 1, "mu_product": 1.0,
        },
        counted=("step",),
    ),
    Rule(
        "radam",
        {"exp_avg": None, "exp_avg_sq": None},
        {
            "lr": 1e-3, "betas": _BETAS, "eps": 1e-8, "weight_decay": 0.0,
            "maximize": False, "decay_form": "l2", "step": 1,
        },
        variants=((), ("RECTIFIED",)),
        counted=("step",),
    ),
    Rule(
        "lion",
        {"exp_avg": None},
        {
            "lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0,
            "maximize": False, "decay_form": "decoupled", "step": 1,
        },
    ),
    Rule(
        "lars",
        {"momentum_buffer": "momentum"},
        {
            "lr": 1.0, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
            "trust_coefficient": 1e-3, "eps": 1e-8, "adapt": True,
            "maximize": False, "decay_form": "l2", "momentum_form": "classical", "step": 1,
        },
        variants=((), ("MOMENTUM",), ("MOMENTUM", "NESTEROV")),
        counted=("dampening",),
        conflicting=("nesterov", "dampening"),
        conflict=_sgd_conflict,
        shared_formula="sgd",
        trust="gradient",
    ),
    Rule(
        "lamb",
        {"exp_avg": None, "exp_avg_sq": None},
        {
            "lr": 1e-3, "betas": _BETAS, "eps": 1e-6, "weight_decay": 1e-2, "adapt": True,
            "maximize": False, "decay_form": "decoupled", "step": 1,
        },
        # The last: the direction once more, of state that has moved already.
        variants=((), ("DIRECTION",), ("APPLY",), ("DIRECTION", "APPLY")),
        counted=("step",),
        trust="direction",
    ),
)
# fmt: on

# The state that is a sum, an average or a maximum of squares or magnitudes; all else has signs.
NONNEGATIVE = frozenset(
    {"sum", "square_avg", "acc_delta", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"}
)

# The rules that have a row-wise form, `<rule>_rows`: an element's update depends on no other
# element, and users of embeddings ask for it.
ROW_RULES: tuple[Rule, ...] = tuple(
    rule for rule in RULES if rule.name in ("sgd", "adagrad", "rmsprop", "adam", "adamw")
)

# Not update rules, and in no public list: the cheapest loops over p, g and k state arrays, which
# leave every value as it is. The benchmark measures the machine's limit with them.
LIMITS: tuple[Rule, ...] = tuple(
    Rule(f"limit{k}", {f"state{j}": None for j in range(k)}, {"step": 1}) for k in range(4)
)


def rows_hash() -> int:
    """A hash of what the build stamps from this table: each row's position, slots and loops.

    The engine finds a rule by its position, so loops of another table would run other rules.
    """
    rows = [
        (rule.name, rule.formula, list(rule.slots.items()), rule.variants, rule.trust)
        for rule in (*RULES, *LIMITS)
    ]
    text = repr((rows, sorted(NONNEGATIVE), list(VOCABULARY), list(OPTIONS)))
    return zlib.crc32(text.encode())
