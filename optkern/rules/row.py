"""What a row says: everything about a rule that is not its formula for one element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, dataclass_transform

from .domains import Domain, Switch
from .flags import FLAGS
from .options import OPTION_SLOTS, checked_option
from .vocabulary import VOCABULARY

Values = Mapping[str, Any]

MAX_CARRIED = 3  # numbers that its steps hand on: CARRIED in kernels/_constants.pxd
MAX_STATE = 4  # state arrays of a rule's loop: with these, MAX_STREAMS in kernels/span.pxd is full
MAX_WHOLE = 8  # those beside it

Form = tuple[int, ...]


class Slot(NamedTuple):
    """Hold a state array of a rule.

    Attributes
    ----------
    name : str
    needed_with : str or None
        The hyperparameter that must be on for it to be needed; None: always.
    nonnegative : bool
        Whether it is a sum, an average or a maximum of squares or magnitudes; else it has signs.
    start : float or str
        What its elements begin with: a number, the hyperparameter or setting that says it, or
        ``"weights"``: what the parameter holds at its first step.
    form : callable or None
        (the parameter's shape, hyperparameters) -> its own shape, or None where such a parameter
        has none. None: it is shaped like the parameter.
    whole : bool
        Whether the rule takes it as a whole, where its loop takes all others element by element:
        what has a form of its own is, unless that form is the parameter's wherever there is one.
    holds : str
        What it has a number of, in the table of rules: ``"a row"``; of others, an element.
    """

    name: str
    needed_with: str | None = None
    nonnegative: bool = False
    start: float | str = 0.0
    form: Callable[[Form, Values], Form | None] | None = None
    whole: bool = False
    holds: str = ""


class ClassKeyword(NamedTuple):
    """Hold a keyword of a rule's class that is none of its hyperparameters.

    Attributes
    ----------
    default : value
    domain : Domain
    before : str
        The hyperparameter that it stands in front of in the signature.
    means : (str, str) or None
        Where it is on, it is another way to say that this hyperparameter has this value.
    """

    default: Any
    domain: Domain
    before: str
    means: tuple[str, str] | None = None


DECOUPLED = {
    "decoupled_weight_decay": ClassKeyword(
        False,
        Switch("the same as decay_form='decoupled'"),
        "maximize",
        ("decay_form", "decoupled"),
    ),
}


def _no_conflict(values: Values) -> str | None:
    return None


NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False)
class Unchanging:
    """Hold what is given by keywords: the annotated names, once and for all.

    As a frozen dataclass does, whose methods Python would compile in each import of optkern.
    """

    named: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls.named += tuple(cls.__annotations__)

    def __init__(self, **given: Any) -> None:
        kind = type(self)
        if unknown := [name for name in given if name not in kind.named]:
            raise TypeError(f"a {kind.__name__} has no {unknown[0]!r}")
        if absent := [x for x in kind.named if x not in given and not hasattr(kind, x)]:
            raise TypeError(f"a {kind.__name__} must be given {absent[0]!r}")
        defaults = {name: getattr(kind, name) for name in kind.named if name not in given}
        vars(self).update(defaults | given)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name!r} of {self!r} cannot be set: replace() gives another row")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name!r} of {self!r} cannot be deleted")

    def replace(self, **changes: Any) -> Self:
        """Give the same row but for these changes."""
        return type(self)(**{name: vars(self)[name] for name in self.named} | changes)


class Rule(Unchanging):
    """Hold one row of the table.

    Attributes
    ----------
    name : str
        The rule's stem everywhere: file, kernel, reference, tests. The file's, if left out.
    class_name : str
        Of its class in `optkern` and in the integrations.
    document : str
        Of that class: the docstring of the rule's file, if left out.
    place : int
        Where it stands in the table; rules without a place follow, by name.
    arrays : tuple of Slot
        Its state arrays in the order of the formula's arguments.
    hyperparameters : mapping of str to default
        In the order of the class's positional arguments. ``max_lr`` comes with ``decay_form``.
    domains : mapping of str to Domain
        Of the hyperparameters that are its own, or mean something else than in `VOCABULARY`. The
        derivation finds their numbers in ``o.own``, one after the other; ``lr`` in ``o.lr``.
    narrower : mapping of str to Domain
        Of those that mean what they mean in `VOCABULARY`, and may be less here.
    settings : mapping of str to Setting
        Further keywords of the class.
    constants : tuple of str
        The names of its own constants, in the order of ``h.own``.
    variants : tuple of tuples of str
        The combinations of structural flags (flags.py) that get a loop of their own, because they
        decide which arrays are touched: an option that is off then costs nothing.
    own_flags : mapping of str to str
        Which hyperparameter sets which of the flags OWN1 to OWN4, where a slot is needed with it.
    conflicting : tuple of str
        Hyperparameters that may exclude others.
    conflict : callable
        Hyperparameters -> a sentence about the ones that do, or None.
    numpy : callable
        The formula in NumPy: ``numpy(p, g, *state, h)``.
    shared_formula : str or None
        The rule whose compiled formula and derivation this one uses.
    trust : str or None
        What the norm of p is divided by in a tensor's trust ratio: the norm of the ``"gradient"``,
        or of the ``"direction"`` that the formula gives before it is applied.
    bounded : bool
        Whether the DIRECTION that the formula gives, with nothing written, is applied with a norm
        of 1 at most.
    counted : tuple of str
        The hyperparameters any of which, where it is on, lets the constants depend on the number of
        the step; ``"step"`` itself: always.
    carried : tuple of str
        The hyperparameters that each step takes from the last one's constants; their defaults are
        what the first one takes.
    begins_with : str or None
        The hyperparameter that, while it is off, keeps the state from beginning: the step at which
        it comes on is the state's first.
    derived : mapping of str to callable
        What torch.optim's class keeps in its state beside what this one does: (hyperparameters,
        number of the last step) -> it.
    rests_first : int
        How many first steps change nothing but state (and decay), with the defaults.
    begins_at_once : bool
        Whether torch.optim's class shows its state before the first step.
    has_rows : bool
        Whether it has a row-wise form, `<rule>_rows`: an element's update depends on no other, and
        users of embeddings ask for it.
    has_relative : bool
        Whether its loop can give the gradient over what its step divides by (RELATIVE), which
        `clip_update_rms` asks for.
    not_relative : str
        Why it has none.
    compact_loop : bool
        Whether it gets a loop of its own over compact state: by pieces the codecs wait for the
        division and the square root, in one loop they are done in their shade.
    master_loop : bool
        Whether it gets one beside float32 masters of parameters of 16 bits, too.
    by_pieces : tuple of str
        The hyperparameters with which it goes by pieces all the same: they are set too rarely for
        what a loop takes to build (AMSGrad's a fifth of Adam's).
    light : bool
        Whether its arithmetic is so little that flags tested at each element show (SGD in cache: 7
        to 37 %): of its loops there are copies for each value of a flag, twice as much code.
    matrices : callable or None
        ``matrices(u, whole, h)`` makes of a direction, in place, what is stepped along. ``whole``
        are copies of the state arrays that it takes as a whole (None where one is absent), in their
        order: what it writes there is the state once the step is taken. ``h`` are the step's
        constants by name, in double precision; ``h["own"]`` the rule's own.
    pool : callable or None
        ``pool(p, u, state, h)`` computes the numbers that a parameter, what its gradient has been
        made and its state add to the sums over all parameters that a step depends on.
    settle : callable or None
        ``settle(constants, sums)`` puts what follows from these sums into the constants of each:
        `APPLY` among the flags.
    axes : int or None
        Of how many axes its parameters are; None: of any number.
    most_axes : int or None
        Of how many axes they are at most.
    exact : str
        What its kernel and its reference agree on.
    average : callable or None
        (a parameter, its state with what its steps hand on) -> the average of weights that the rule
        itself takes, which `averaged` puts in the parameter's place; None: it takes none.
    not_compact : mapping of str to str
        Why compact state is refused: where this hyperparameter is on, or, under ``""``, always.
    scales_by_itself : bool
        Whether a step divides by the gradient's size, so that clipping hardly shortens it.
    curvature_follows : bool
        Whether its second moments shrink with the gradients of a bounce, and its largest stable
        rate with them.
    stable_factor : callable or None
        Hyperparameters -> the largest stable lr times curvature (`curvature.max_stable_lr`).
    preconditioner : callable or None
        (a parameter's state, hyperparameters) -> what a step divides the gradient by, in float64;
        None: by nothing.
    mini_batches : bool
        Whether it may be fed gradients of mini-batches; sign-based rules for full batches may not.
    cases : mapping of str to hyperparameters
        Further rows of the benchmark.
    trial_lr : float or None
        A rate that trains a small network; None: the default.
    names : mapping of str to str
        What it is called in ``torch``, ``optax`` and ``keras``, where they have it.
    """

    hyperparameters: Mapping[str, Any]
    name: str = ""
    class_name: str = ""
    document: str = ""
    place: int = 1000
    arrays: tuple[Slot, ...] = ()
    domains: Mapping[str, Domain] = NONE
    narrower: Mapping[str, Domain] = NONE
    settings: Mapping[str, ClassKeyword] = NONE
    constants: tuple[str, ...] = ()
    variants: tuple[tuple[str, ...], ...] = ((),)
    own_flags: Mapping[str, str] = NONE
    conflicting: tuple[str, ...] = ()
    conflict: Callable[[Values], str | None] = _no_conflict
    numpy: Callable[..., None] | None = None
    shared_formula: str | None = None
    trust: str | None = None
    bounded: bool = False
    counted: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    begins_with: str | None = None
    derived: Mapping[str, Callable[[Values, float], float]] = NONE
    rests_first: int = 0
    begins_at_once: bool = False
    has_rows: bool = False
    has_relative: bool = False
    not_relative: str = "which divides by no running second moment"
    compact_loop: bool = False
    master_loop: bool = False
    by_pieces: tuple[str, ...] = ()
    light: bool = False
    matrices: Callable[[Any, Any, Values], None] | None = None
    pool: Callable[[Any, Any, Any, Values], tuple[float, ...]] | None = None
    settle: Callable[[Any, Any], list[Values]] | None = None
    axes: int | None = None
    most_axes: int | None = None
    exact: str = "every bit, with any number of threads, on any instruction set"
    average: Callable[[Any, Values], Any] | None = None
    not_compact: Mapping[str, str] = NONE
    scales_by_itself: bool = True
    curvature_follows: bool = False
    stable_factor: Callable[[Values], float] | None = None
    preconditioner: Callable[[Values, Values], Any] | None = None
    mini_batches: bool = True
    cases: Mapping[str, Values] = NONE
    trial_lr: float | None = None
    names: Mapping[str, str] = NONE

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if len(self.streams) > MAX_STATE or len(self.wholes) > MAX_WHOLE:
            raise ValueError(
                f"a rule has {MAX_STATE} state arrays at most in its loop and {MAX_WHOLE} beside "
                f"it, {self.name} has more"
            )
        if "decay_form" in self.hyperparameters and "max_lr" not in self.hyperparameters:
            items = list(self.hyperparameters.items())
            items.insert([name for name, _ in items].index("decay_form") + 1, ("max_lr", 0.0))
            vars(self)["hyperparameters"] = dict(items)

    def __repr__(self) -> str:
        return f"<rule {self.name}>"

    @cached_property
    def state(self) -> tuple[str, ...]:
        """Name the state arrays: all that any option needs."""
        return tuple(slot.name for slot in self.arrays)

    @cached_property
    def streams(self) -> tuple[Slot, ...]:
        """Return the state that its loop takes element by element."""
        return tuple(slot for slot in self.arrays if not slot.whole)

    @cached_property
    def wholes(self) -> tuple[Slot, ...]:
        """Return the state that it takes as a whole."""
        return tuple(slot for slot in self.arrays if slot.whole)

    @property
    def is_whole(self) -> bool:
        """Return whether an element's update depends on others: on its array's, or on all."""
        return bool(self.matrices or self.pool or self.wholes)

    @property
    def has_factors(self) -> bool:
        """Return whether it keeps its second moment in rows and columns (kernels/_factors.pxi)."""
        return self.matrices is None and bool(self.wholes)

    @property
    def may_be_cautious(self) -> bool:
        """Return whether its loop may leave elements out: of a matrix `keep_agreeing` does."""
        others = self.trust, self.matrices, self.pool, self.average
        return all(x is None for x in others)

    @cached_property
    def slots(self) -> dict[str, str | None]:
        """Return each state array with the hyperparameter that it is needed with; None: always."""
        return {slot.name: slot.needed_with for slot in self.arrays}

    @cached_property
    def of_weights(self) -> tuple[str, ...]:
        """Name the state arrays that begin with what the parameter holds."""
        return tuple(slot.name for slot in self.arrays if slot.start == "weights")

    @cached_property
    def nonnegative(self) -> frozenset[str]:
        """Return the state arrays that have no signs."""
        return frozenset(slot.name for slot in self.arrays if slot.nonnegative)

    @property
    def formula(self) -> str:
        """Return the stem of its compiled formula."""
        return self.shared_formula or self.name

    @cached_property
    def structural(self) -> dict[str, str]:
        """Return the flag that each hyperparameter sets which a state array is needed with."""
        return {
            switch: self.own_flags.get(switch, switch.upper())
            for switch in self.slots.values()
            if switch is not None
        }

    @cached_property
    def first_carried(self) -> tuple[float, ...]:
        """Return what the first step takes where others take what steps hand on, and zeros."""
        first = [float(self.hyperparameters[name]) for name in self.carried]
        return (*first, *[0.0] * (MAX_CARRIED - len(first)))

    def flag(self, slot: str) -> int:
        """Give the flag without which a state array is not touched; 0: it always is."""
        switch = self.slots[slot]
        return 0 if switch is None else FLAGS[self.structural[switch]]

    def domain(self, name: str) -> Domain:
        """Say what a hyperparameter of this rule may be."""
        return self.domains.get(name) or self.narrower.get(name) or VOCABULARY[name]

    def checked(self, owner: str, name: str, value: Any) -> Any:
        """Check a value as this rule's hyperparameter of this name holds it."""
        return checked_option(owner, name, value, self.domain(name))

    def start_of(self, slot: str, values: Values, weights: Any = 0.0) -> Any:
        """Find what a state array's elements begin with, under hyperparameters and settings.

        ``weights`` are what the parameter holds.
        """
        start = next(own.start for own in self.arrays if own.name == slot)
        if start == "weights":
            return weights
        return values[start] if isinstance(start, str) else start

    def needs(self, slot: str, hyperparameters: Values) -> bool:
        """Tell whether these hyperparameters (a callable counts as on) touch the state ``slot``."""
        switch = self.slots[slot]
        return switch is None or bool(hyperparameters[switch])

    def form(self, slot: str, shape: Form, hyperparameters: Values) -> Form | None:
        """Give the shape of a state array beside a parameter's; None: it has none under these."""
        if slot not in self.slots or not self.needs(slot, hyperparameters):
            return None
        own = next(x.form for x in self.arrays if x.name == slot)
        return tuple(shape) if own is None else own(tuple(shape), hyperparameters)

    def is_stream(self, slot: str) -> bool:
        """Tell whether what has this name is one number an element, as options' arrays are."""
        return all(x.name != slot for x in self.wholes)

    def stream_number(self, slot: str) -> int:
        """Return the place of a state array among those that a step may go through."""
        names = (own.name for own in self.streams)
        return (*names, *OPTION_SLOTS, "master").index(slot)

    def counts(self, hyperparameters: Values) -> bool:
        """Tell whether the constants depend on the number of the step under these."""
        return any(hyperparameters[name] for name in self.counted)

    def check(self, owner: str, hyperparameters: Values) -> dict[str, Any]:
        """Check all hyperparameters; fill in the missing ones from the defaults."""
        unknown = [name for name in hyperparameters if name not in self.hyperparameters]
        if unknown:
            known = ", ".join(self.hyperparameters)
            raise TypeError(f"{owner}: unknown hyperparameter {unknown[0]!r}; it has {known}")
        values = dict(self.hyperparameters)
        for name, value in hyperparameters.items():
            values[name] = self.checked(owner, name, value)
        self.refuse_conflict(owner, values)
        return values

    def refuse_conflict(self, owner: str, values: Values) -> None:
        """Raise ValueError where these hyperparameters exclude each other."""
        sentence = self.conflict(values)
        if values.get("decay_form") == "corrected" and not values["max_lr"]:
            sentence = "decay_form='corrected' needs max_lr, the largest learning rate of the run"
        if sentence:
            raise ValueError(f"{owner}: {sentence}")

    def refuse_axes(self, owner: str, what: str, shape: Form) -> None:
        """Raise ValueError where a parameter, ``what``, has other axes than the rule is for."""
        if self.axes is not None and len(shape) != self.axes:
            kind = "matrices" if self.axes == 2 else f"arrays of {self.axes} axes"
            raise ValueError(
                f"{owner}: {self.class_name} is for {kind}, {what} has shape {shape}; give it "
                "another rule, in an optimizer of its own or by optkern.Mixed"
            )
        if self.most_axes is not None and len(shape) > self.most_axes:
            raise ValueError(
                f"{owner}: {self.class_name} is for arrays of {self.most_axes} axes at most, "
                f"{what} has shape {shape}; give it a view of {self.most_axes}, "
                "p.reshape(len(p), -1), or another rule, by optkern.Mixed"
            )

    def refuse_compact(self, owner: str, state_dtype: str, values: Values) -> None:
        """Raise ValueError where these hyperparameters cannot have compact state."""
        for name, reason in self.not_compact.items():
            if not name or values.get(name):
                stored = f"state_dtype={state_dtype!r}"
                what = (
                    f"{name}=True is not possible with {stored}"
                    if name
                    else (f"{stored} is not possible with this rule")
                )
                raise ValueError(f"{owner}: {what}: {reason}")

    def __deepcopy__(self, memo: Any) -> Rule:
        return self
