"""What the solvers share: parameters as one flat vector, a counted closure, the report."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from ..curvature.asking import ChangedError, refuse_replaced
from ..curvature.operators import Point, out_of_range
from ..curvature.recurrence import dot
from ..kernels import buffers
from ..kernels.atomic import commit
from ..kernels.immutable import immutable
from ..kernels.names import hint, spelled
from ..kernels.turn import Turn
from ..optimizers.given import differing, warn_of_replaced, written
from ..optimizers.refused import Params
from ..rules.domains import check_callable, check_count, check_threads

Closure = Callable[[], tuple[Any, Any]]

TOLERANCE_GRAD = 1e-7  # the default
LITTLE_GRADIENT = 0.01  # of the loss, per unit of a parameter: what a gradient within it is little


@immutable
class Report:
    """Hold what a call of ``step`` did; `print` it for the sentence.

    Attributes
    ----------
    iterations : int
        In this call.
    gradients : int
        Calls of the closure (a loss and a gradient each), those for difference products included.
    products : int
        Exact Hessian-vector products.
    initial_value, value : float
        The loss before, and where the parameters are now (as last evaluated).
    gradient_max : float
        The largest magnitude in the gradient that belongs to `value`.
    converged : bool
        One of the tolerances was met; False where a budget or the callback ended it.
    status : str
        Why it ended, in a sentence.
    """

    iterations: int
    gradients: int
    products: int
    initial_value: float
    value: float
    gradient_max: float
    converged: bool
    status: str

    def __str__(self) -> str:
        return (
            f"{self.status}; loss {self.initial_value:.6g} -> {self.value:.6g} in "
            f"{self.iterations} iterations, {self.gradients} gradients"
            + (f", {self.products} products" if self.products else "")
        )


Callback = Callable[[Report], Any]


def real_loss(owner: str, loss: Any) -> float:
    """Check a closure's loss and return it as a float."""
    try:
        array = np.asarray(loss)
        if array.size == 1 and array.dtype.kind in "fiu":
            return float(array.reshape(())[()])
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{owner}: the closure's loss must be a real number, got {loss!r:.80}")


class Parameters(Point):
    """Read and write the user's parameters as one vector of their widest dtype."""

    def __init__(self, owner: str, params: Any) -> None:
        super().__init__(owner, params, "params")
        for number, override in enumerate(self.structure.overrides):
            if override:
                raise ValueError(
                    f"{owner}: all parameters share one set of options, "
                    f"group {number} has {sorted(override)}"
                )
        for label, array in zip(self.structure.labels, self.arrays):
            buffers.check_writable(owner, buffers.named("parameter", label), array)

    def find(self) -> None:
        """Refuse what was replaced in the containers that the parameters came in."""
        self.structure.refuse_apart()
        if not self.structure.contents.same():
            self.structure.refuse_changes(
                "write into the array (p[...] = ...), or call rebind with the new arrays",
                "construct a new solver to fit it too, or leave it out with rebind(params)",
            )

    def refuse_changed(self, who: str, x: np.ndarray | None) -> None:
        """Refuse what a user's function has made of parameters that it may only read.

        Raises
        ------
        ChangedError
            Where a container holds another array than the one that is trained, or the arrays no
            longer hold x (None: whatever they hold).
        """
        way_out = "; call rebind with the new arrays after this step"
        refuse_replaced(who, self.structure, way_out)
        first = 0
        for label, array in zip(self.structure.labels, [] if x is None else self.arrays):
            assert x is not None
            with np.errstate(all="ignore"):  # of a trial step that is out of range
                piece = x[first : first + array.size].reshape(array.shape).astype(array.dtype)
                same = np.array_equal(array, piece) or np.array_equal(array, piece, equal_nan=True)
            if not same:
                raise ChangedError(
                    f"{self.owner}: {who} has written to {buffers.named('parameter', label)}: the "
                    f"step is the solver's to take, {who} may only read the parameters (does an "
                    "optimizer step there?)"
                )
            first += array.size

    def rebind(self, params: Any) -> None:
        """Take other arrays of the same structure, shapes and dtypes."""
        structure = self.structure.rebound(params)
        for label, new, old in zip(structure.labels, structure.arrays, self.arrays):
            what = buffers.named("parameter", label)
            buffers.check_writable(self.owner, what, new)
            if new.shape != old.shape or new.dtype != old.dtype:
                raise ValueError(
                    f"{self.owner}: {what} must have shape {old.shape} and dtype {old.dtype}, "
                    f"got {new.shape} and {new.dtype}"
                )
        named = [buffers.named("parameter", label) for label in structure.labels]
        buffers.refuse_overlap(self.owner, zip(named, structure.arrays))
        self.structure, self.arrays = structure, structure.arrays

    def gather(self, grads: Any) -> np.ndarray:
        """Gather gradients as one vector, a copy; None in an array's place is zero."""
        out = np.zeros(self.n, self.dtype)
        first = 0
        flat = self.structure.flatten(grads, "grads")
        for label, g, array in zip(self.structure.labels, flat, self.arrays):
            if g is not None:
                what = buffers.named("gradient of parameter", label)
                g = buffers.as_gradient(self.owner, what, g, array)
                out[first : first + array.size] = g.reshape(-1)
            first += array.size
        return out

    def layout(self) -> list[list[Any]]:
        """Return the name and shape of each parameter, in the order of the vectors."""
        return [[x, list(a.shape)] for x, a in zip(self.structure.labels, self.arrays)]

    def places(self, owner: str, layout: Any) -> np.ndarray:
        """Find where the elements stand in vectors of another layout.

        Parameters go by their names.
        """
        own = self.layout()
        if not isinstance(layout, list) or sorted(map(repr, layout)) != sorted(map(repr, own)):
            raise ValueError(f"{owner}: the state is of the parameters {layout!r}, not {own!r}")
        first, places = 0, {}
        for label, shape in layout:
            places[label] = np.arange(first, first + math.prod(shape))
            first += math.prod(shape)
        return np.concatenate([places[label] for label, _ in own])


class CountedClosure:
    """Call a user's closure on flat vectors, and count its calls."""

    def __init__(self, point: Parameters, closure: Closure) -> None:
        check_callable(point.owner, optional=False, closure=closure)
        self.point = point
        self.closure = closure
        self.gradients = 0

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return loss and gradient at x, which the parameters hold afterwards."""
        self.point.write(x)
        self.gradients += 1
        answer = self.closure()
        self.point.refuse_changed("closure", x)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise TypeError(
                f"{self.point.owner}: closure must return (loss, grads), "
                f"got {type(answer).__name__}"
            )
        loss, grads = answer
        return real_loss(self.point.owner, loss), self.point.gather(grads)

    def trial(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Evaluate a step that may be too long: what overflows there is no one's fault."""
        with np.errstate(all="ignore"):
            return self(x)

    def start(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return loss and gradient at x, where the parameters are; refuse those not finite."""
        loss, g = self(x)
        if not (math.isfinite(loss) and np.isfinite(g).all()):
            raise ValueError(
                f"{self.point.owner}: loss or gradient at the start is not finite (loss {loss})"
            )
        if not math.isfinite(dot(g, g)):
            raise out_of_range(self.point.owner, "elements of the gradient", largest(g))
        return loss, g


def largest(x: np.ndarray) -> float:
    """Return the largest magnitude in a vector; 0 for one without elements."""
    return float(np.abs(x).max(initial=0.0))


def check_loaded(owner: str, solver: str, loaded: Any, keys: set[str]) -> None:
    """Refuse a state dict of something else."""
    if not isinstance(loaded, Mapping):
        raise TypeError(f"{owner}: expected a dict, got {type(loaded).__name__}")
    came = loaded.get("solver", loaded.get("rule"))
    if came != solver:
        raise ValueError(f"{owner}: this is the state of {came!r}, not {solver!r}")
    missing = sorted(keys - set(loaded))
    if missing:
        raise ValueError(f"{owner}: the dict has no {missing[0]!r}")
    more = sorted(map(str, set(loaded) - keys - {"solver"}))
    if more:
        raise ValueError(f"{owner}: the dict also has {more[0]!r}, for which there is no place")


def refuse_unknown(solver: object, name: str, settable: Iterable[str]) -> None:
    """Refuse to set on one of the library's own classes what means nothing there."""
    cls = type(solver)
    own = cls.__module__.startswith(__package__)
    if not own or name.startswith("_") or name in settable:
        return
    raise AttributeError(f"{cls.__name__} has no attribute {name!r} to set; {hint(name, settable)}")


def refuse_asked(solver: object, name: str, there: Iterable[str]) -> NoReturn:
    """Say which attributes there are instead of one that is asked for."""
    more = "" if name.startswith("_") else f"; {hint(name, there)}"
    said = f"{type(solver).__name__} has no attribute {name!r}{more}"
    raise AttributeError(said, name=name, obj=None)  # Python would add a guess of its own


class SolverSession:
    """Show a solver to `optkern.save` and `load`: parameters, options and state.

    Parameters
    ----------
    solver : Solver
    """

    __slots__ = ("_solver",)

    def __init__(self, solver: Solver) -> None:
        self._solver = solver

    @property
    def labels(self) -> list[Any]:
        """Return the parameters' names, or positions."""
        return self._solver._point.structure.labels

    @property
    def options(self) -> tuple[str, ...]:
        """Return the names of the attributes that are options."""
        return self._solver._options

    def alone(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function while no step is under way; RuntimeError where one is."""
        return self._solver._turn.alone(what, function, *args)

    def reading(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that only reads, which a step's own callback may do too."""
        return self._solver._turn.reading(what, function, *args)

    def find_parameters(self) -> None:
        """Refuse what was replaced in the containers that the parameters came in."""
        self._solver._point.find()

    def prepare(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Check a state dict and return the attributes that loading it binds."""
        return self._solver._loaded(state_dict)


class Solver(ABC):
    """Share what `LBFGS` and `NewtonLanczos` have: options, counts, their state.

    An option stands twice: in the signature, with its default, and in `_domains`, with what it
    may be. ``_now`` holds them as they were checked last, with `threads`.
    """

    # name: how it is checked, as (owner, name, value, ...), and what it is checked with.
    _domains: ClassVar[Mapping[str, tuple[Any, ...]]]
    _scheduled: ClassVar[frozenset[str]] = frozenset()  # options that may be callables of the step
    _now: SimpleNamespace
    _counts: tuple[str, ...] = ("steps", "iterations", "gradients")
    _point: Parameters
    _turn: Turn
    _owner: ClassVar[str]  # whom messages name
    steps: int
    iterations: int
    gradients: int
    num_threads: int | None

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_unknown(self, name, (*self._options, "num_threads", *self._counts))
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # for which every name would be there

        def __getattr__(self, name: str) -> Any:
            refuse_asked(self, name, (*self._options, "num_threads", *self._counts))

    @property
    def _options(self) -> tuple[str, ...]:
        return tuple(self._domains)

    def _take_options(self, given: Mapping[str, Any]) -> None:
        """Keep what a constructor was given, and check it."""
        for name in (*self._domains, "num_threads"):
            setattr(self, name, given[name])
        self.steps = self.iterations = self.gradients = 0
        self._read_options()

    def _read_options(self, owner: str = "") -> None:
        """Check all options as they are now, callables by their value."""
        owner = owner or self._owner
        now = SimpleNamespace(threads=check_threads(owner, self.num_threads))
        for name, (check, *rest) in self._domains.items():
            value = getattr(self, name)
            if name in self._scheduled and callable(value):
                value = value(self.steps)
            setattr(now, name, check(owner, name, value, *rest))
        self._now = now

    @property
    def session(self) -> SolverSession:
        """Return what checkpoints use: parameters, options and state."""
        return SolverSession(self)

    @property
    def params(self) -> Params:
        """Return the parameters, flat, in their order."""
        self._point.structure.found()
        return Params(self._point.arrays)

    @spelled
    def rebind(self, params: Any) -> None:
        """Go on with new arrays in the parameters' places.

        Parameters
        ----------
        params : same structure, shapes and dtypes as at construction

        Raises
        ------
        TypeError, ValueError
            Where they are of another form; nothing has been modified then.
        """
        self._turn.alone("rebind", self._point.rebind, params)

    def _option(self, name: str) -> Any:
        """Return an option as a state dict has it: of a callable what it gives now."""
        value = getattr(self, name)
        return value(self.steps) if callable(value) else value

    def state_dict(self) -> dict[str, Any]:
        """Copy everything that `load_state_dict` needs: arrays, numbers and strings.

        Raises
        ------
        RuntimeError
            While a step is under way, but from its own callback.
        """
        return self._turn.reading("state_dict", self._saved)

    def _saved(self) -> dict[str, Any]:
        return {
            "solver": type(self).__name__,
            "options": {name: self._option(name) for name in self._options},
            **{name: getattr(self, name) for name in self._counts},
            **self._memory(),
        }

    @spelled
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, options included; a callable one stays.

        Of others that were given here the loaded ones hold, with a warning before the first step.

        Raises
        ------
        TypeError, ValueError
            Where the dict is of another solver or other parameters; nothing is modified then.
        """
        self._turn.alone("load_state_dict", self._load, state_dict)

    def _load(self, state_dict: Mapping[str, Any]) -> None:
        loaded = self._loaded(state_dict)
        if not self.steps:
            options = {f"options/{name}": loaded[name] for name in self._options}
            replaced = differing(written(self, "options")[0], options)
            warn_of_replaced(f"{type(self).__name__}.load_state_dict", replaced)
        commit(None, [(vars(self), loaded)])

    def __getstate__(self) -> dict[str, Any]:
        return self._turn.reading("a copy", dict, vars(self))

    def _loaded(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes that `load_state_dict` binds."""
        owner = f"{type(self).__name__}.load_state_dict"
        check_loaded(owner, type(self).__name__, state_dict, set(self._saved()))
        options = state_dict["options"]
        if not isinstance(options, Mapping) or set(options) != set(self._options):
            raise ValueError(f"{owner}: options must have the keys {', '.join(self._options)}")
        memory = self._checked_memory(owner, state_dict)
        new = {name: check_count(owner, name, state_dict[name], 0) for name in self._counts}
        new |= {k: v for k, v in options.items() if not callable(getattr(self, k))}
        trial = copy(self)
        vars(trial).update(new)
        trial._read_options(owner)
        return vars(trial) | memory

    @abstractmethod
    def _memory(self) -> dict[str, Any]:
        """Return what the next step needs besides options and counts."""

    @abstractmethod
    def _checked_memory(self, owner: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Check the same out of a state dict; return it as attributes."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._options)
        return f"{type(self).__name__}({self._point.n:,} elements, {shown})"


def or_none(check: Callable[..., Any], *rest: Any) -> tuple[Any, ...]:
    """Make a domain that allows None besides what ``check`` does."""

    def checked(owner: str, name: str, value: Any) -> Any:
        return None if value is None else check(owner, name, value, *rest)

    return (checked,)


class SolverCall(ABC):
    """Run one call of a solver's ``step``: where it is, and what it has done."""

    f: float
    g: np.ndarray
    initial: float

    def __init__(self, solver: Any, objective: CountedClosure, callback: Callback | None) -> None:
        self.solver = solver
        self.objective = objective
        self.callback = callback
        self.point: Parameters = solver._point
        self.point.find()
        self.x = self.point.vector()
        self.iterations = self.products = 0

    def run(self) -> Report:
        """Iterate; after an error the parameters are at the last point that was reached."""
        try:
            self.f, self.g = self.objective.start(self.x)
            self.initial = self.f
            reason, converged = self._iterate()
            if converged and not self._is_little():
                reason, converged = self._scaled_down(), False
            self.solver.steps += 1
            return self._report(reason, converged)
        except BaseException:
            self.point.write(self.x)
            raise
        finally:
            self.solver.gradients += self.objective.gradients

    @abstractmethod
    def _iterate(self) -> tuple[str, bool]:
        """Iterate until something ends it; return what, and whether it has converged."""

    def _is_little(self) -> bool:
        """Return whether the gradient at the end is next to nothing beside the losses seen.

        Within a tolerance of 1e-7 is every gradient of a function of 1e-9. Who gives a larger one
        has said what counts; where earlier calls have come here, it was small beside theirs.
        """
        solver, most = self.solver, largest(self.g)
        here_before = self.iterations == 0 < solver.iterations
        if here_before or not 0 < most <= solver._now.tolerance_grad <= TOLERANCE_GRAD:
            return True
        return most <= LITTLE_GRADIENT * max(abs(self.initial), abs(self.f))

    def _scaled_down(self) -> str:
        return (
            f"stopped: max|g| = {largest(self.g):.2g} <= tolerance_grad, which says little of a "
            f"loss of {self.f:.2g}: scale the function up, or lower tolerance_grad"
        )

    def _callback_stops(self) -> bool:
        """Return whether the callback, where there is one, wants to stop here."""
        if self.callback is None:
            return False
        stop = bool(self.solver._turn.rest(self.callback, self._report("running", False)))
        # Who stops may put back what was best.
        self.point.refuse_changed("callback", None if stop else self.x)
        return stop

    def _report(self, reason: str, converged: bool) -> Report:
        return Report(
            self.iterations,
            self.objective.gradients,
            self.products,
            self.initial,
            self.f,
            largest(self.g),
            converged,
            reason,
        )
