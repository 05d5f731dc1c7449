"""scikit-learn's MLPClassifier and MLPRegressor, trained by optkern's rules.

1. `fit` makes its own optimizer at every call, from two names in its module; `accelerate` exchanges
   them for the length of a `with` block. What stands there then asks which settings hold in the
   calling thread; joblib's tasks take them along (`_carried.py`). A fit in another thread gets
   scikit-learn's optimizer, and a warning that says so.
2. `partial_fit` keeps the optimizer it finds, so there an `MLPOptimizer` is simply put in place.
3. Early stopping, warm starts and unpickling put new arrays into `coefs_`: state is kept by
   position, and the arrays are compared by identity at every update (a microsecond) and
   whenever somebody asks for the optimizer.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

from ..kernels.names import check_keywords, spell_names, spelled
from ..optimizers import CLASSES, Optimizer, no_attribute
from ..rules.domains import check_word
from ._begun import HEIRS, continue_from, moments
from ._carried import carry, carry_to_processes
from ._host import AMOUNT, FINITE, Objective, checked_host_argument, host, said_of_whole
from ._mlp_loss import Total, targets
from ._network_arrays import NetworkArrays
from ._taken import SOLVERS, adam_options, sgd_options, taken

MINIMUM = "1.7"
# Rows that go through the network at a time where all the data is summed over.
_ROWS = 4096
_SCHEDULES = ("constant", "invscaling", "adaptive")
# Keywords of MLPOptimizer that are not the rule's.
_OWN = ("rule", "schedule", "power_t")


def _sklearn(module: str) -> ModuleType:
    return host(f"sklearn.{module}", "sklearn", MINIMUM)


class MLPOptimizer:
    """Let one of optkern's rules be the optimizer of a scikit-learn MLP.

    ``clf._optimizer = MLPOptimizer("adamw", lr=1e-3)`` before the first `partial_fit`; for `fit`
    see `accelerate`. Picklable along with its model.

    Parameters
    ----------
    rule : str
        ``"sgd"``, ``"adamw"``, ``"lion"``: the name of any row of `optkern.RULES`.
    lr : float, callable or None
        Learning rate, or a callable of the completed updates (batches); None: the rule's default.
    schedule : callable, str or None
        A callable of the completed updates that gives the learning rate, in lr's place; or what
        scikit-learn calls ``"constant"``, ``"invscaling"`` and ``"adaptive"``, which start from lr.
    power_t : float
        The exponent of ``"invscaling"``.
    **options
        Every other argument of the rule's class: betas, weight_decay, num_threads and so on.

    Attributes
    ----------
    learning_rate : float
        The rule's lr at the next update; may be written. (With scikit-learn's own Adam it is lr
        with the bias correction folded in.)
    optimizer : optkern.Optimizer or None
        What does the work, on the arrays that the network holds now; None before the first update.
        With ``ema_decay`` or a schedule-free rule its ``averaged()`` puts the averages in the
        network's place, as for a prediction; `fit` leaves the weights themselves there, with early
        stopping those of the best epoch (the averages are the last update's).

    Raises
    ------
    TypeError, ValueError
        On a rule or an option that optkern does not have, at once.

    Examples
    --------
    >>> from optkern.integrations.sklearn import MLPOptimizer
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = make_classification(random_state=0)
    >>> clf = MLPClassifier((8,), random_state=0)
    >>> clf._optimizer = MLPOptimizer("adamw", lr=1e-2)
    >>> clf.partial_fit(X, y, classes=[0, 1])._optimizer.optimizer.steps
    1
    """

    # What `optkern.save` and `load` say of it: a schedule's learning rate is not in the optimizer.
    instead = dict.fromkeys(
        ("optkern.save", "optkern.load"), "pickle.dump(model, file) keeps it along with its model"
    )

    def __init__(
        self,
        rule: str = "adam",
        *,
        lr: float | Callable[[int], float] | None = None,
        schedule: Callable[[int], float] | str | None = None,
        power_t: float = 0.5,
        **options: Any,
    ) -> None:
        if why := said_of_whole(rule):
            raise ValueError(f"MLPOptimizer: rule={rule!r}: {why}")
        check_word("MLPOptimizer", "rule", rule, CLASSES)
        check_keywords(CLASSES[rule].__name__, options, [*_OWN, *_options_of(rule)])
        if callable(schedule):
            lr, schedule = schedule, None
        elif schedule is not None:
            allowed = f"a callable step -> lr or one of {', '.join(_SCHEDULES)}"
            check_word("MLPOptimizer", "schedule", schedule, _SCHEDULES, allowed)
        if callable(lr) and schedule in ("invscaling", "adaptive"):
            raise ValueError(
                f"MLPOptimizer: schedule={schedule!r} changes a number; lr is a callable, {lr!r}"
            )
        self.rule = rule
        self.schedule = schedule
        self.power_t = checked_host_argument("MLPOptimizer", "power_t", FINITE, power_t)
        self.options = options
        self.lr = CLASSES[rule].rule.hyperparameters["lr"] if lr is None else lr
        self._lr = self.lr  # as "invscaling", "adaptive" or the user have changed it
        self._optimizer: Optimizer | None = None
        self._bound: tuple[Any, ...] = ()
        self._network: Callable[[], Any] = _nobody  # weakly, whose arrays these are
        self._saved: dict[str, Any] | None = None
        self._made([np.zeros(1)])

    def _made(self, params: Sequence[Any]) -> Optimizer:
        cls: Callable[..., Optimizer] = CLASSES[self.rule]
        return cls(params, lr=self._lr, **self.options)

    @property
    def optimizer(self) -> Optimizer | None:
        network = self._network()
        if hasattr(network, "coefs_") and (self._optimizer or self._saved):
            self._bind([*network.coefs_, *network.intercepts_])
        return self._optimizer

    def _bind(self, params: list[np.ndarray]) -> Optimizer:
        """Take these arrays for the network's; give the optimizer over them."""
        if self._optimizer is None:
            optimizer = self._made(self._watched(params))
            if self._saved is not None:
                optimizer.load_state_dict(self._saved)
                self._saved = None
            self._optimizer, self._bound = optimizer, tuple(params)
        elif len(params) != len(self._bound) or any(
            new is not old for new, old in zip(params, self._bound)
        ):
            self._optimizer.rebind(self._watched(params))
            self._bound = tuple(params)
        return self._optimizer

    def _watched(self, params: Sequence[Any]) -> Sequence[Any]:
        """Give the network's own lists, where these are theirs: what is replaced is noticed."""
        own = NetworkArrays(self._network)
        same = len(own) == len(params) and all(a is b for a, b in zip(own, params))
        return own if same else list(params)

    def begin_with(self, network: Any, steps: int, entries: Sequence[dict[str, Any]]) -> None:
        """Take over a network's arrays and what another optimizer has kept of them."""
        params, self._network = [*network.coefs_, *network.intercepts_], weakref.ref(network)
        self._optimizer = continue_from(self._made(self._watched(params)), steps, entries)
        self._bound = tuple(params)

    def numbers(self) -> dict[str, Any]:
        """Return the arguments but for the rule."""
        own = {"lr": self.lr, "schedule": self.schedule, "power_t": self.power_t}
        return {**own, **self.options}

    def alike(self, other: MLPOptimizer) -> bool:
        """Return whether another one was made with the same arguments."""
        return self.rule == other.rule and self.numbers() == other.numbers()

    @property
    def learning_rate(self) -> float:
        steps = self._optimizer.steps if self._optimizer else 0
        return self._lr(steps) if callable(self._lr) else self._lr

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if not callable(value):
            checked_host_argument("MLPOptimizer", "learning_rate", AMOUNT, value)
        if self._optimizer is not None:
            self._optimizer.param_groups[0]["lr"] = value
        self._lr = value

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a name that means nothing, or no longer does, as `optkern.Optimizer` does."""
        known = name[:1] == "_" or name in ("learning_rate", "optimizer")
        if type(self) is MLPOptimizer and not known and "_saved" in vars(self):
            raise AttributeError(no_attribute("MLPOptimizer", name, ("learning_rate",), ()))
        super().__setattr__(name, value)

    # ----------------------------------------------------------------- what an MLP calls

    def update_params(self, params: list[np.ndarray], grads: list[np.ndarray]) -> None:
        """Take one step; ``coefs_ + intercepts_`` are updated in place."""
        if self._network() is None:
            self._find_network()
        self._bind(params).step(grads)

    def _find_network(self) -> None:
        """Note the network that called `update_params`, which does not say who it is.

        Its frame does; it is looked at once. Without it nobody could tell where `fit` leaves its
        weights in the end: early stopping and unpickling make new arrays.
        """
        caller = sys._getframe(2).f_locals.get("self")
        if getattr(caller, "_optimizer", None) is self:
            self._network = weakref.ref(caller)

    def iteration_ends(self, time_step: int) -> None:
        """Take note after an epoch, with the samples seen so far."""
        if self.schedule == "invscaling":
            self.learning_rate = self.lr / (time_step + 1) ** self.power_t

    def trigger_stopping(self, msg: str, verbose: bool) -> bool:
        """Say whether to stop when the loss no longer falls; "adaptive" first divides lr by 5."""
        stop, outcome = True, "Stopping."
        if self.schedule == "adaptive":
            stop, outcome = self.learning_rate <= 1e-6, "Learning rate too small. Stopping."
        if not stop:
            self.learning_rate /= 5.0
            outcome = f"Setting learning rate to {self.learning_rate:f}"
        if verbose:
            print(f"{msg} {outcome}")
        return stop

    # ----------------------------------------------------------------- copies

    def __getstate__(self) -> dict[str, Any]:
        # Not the arrays: the model brings its own, and they are bound when they are needed.
        kept = {**self.__dict__, "_optimizer": None, "_bound": (), "_network": self._network()}
        if self._optimizer is not None:
            kept["_saved"] = self._optimizer.state_dict()
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        network = kept.pop("_network", None)
        self.__dict__.update(kept)
        self._network = _nobody if network is None else weakref.ref(network)

    def __repr__(self) -> str:
        settings = {"lr": self.lr, "schedule": self.schedule, **self.options}
        shown = [f"{name}={value!r}" for name, value in settings.items() if value is not None]
        return f"MLPOptimizer({', '.join([repr(self.rule), *shown])})"


def _options_of(rule: str) -> list[str]:
    """Name the keywords of a rule's class, but for the parameters."""
    return [name for name in inspect.signature(CLASSES[rule]).parameters if name != "params"]


def _nobody() -> None:
    """Stand for a weak reference to no network."""


# --------------------------------------------------------------------------- fit


# The settings of the `with` blocks that this thread is in, the innermost last.
_active: ContextVar[tuple[accelerate, ...]] = ContextVar("accelerate", default=())
_lock = threading.Lock()
_undo: list[Callable[[], None]] = []  # of what `_exchange` has done
_entered = 0  # blocks in all threads


class accelerate(ContextDecorator):
    """Let `fit` of scikit-learn's MLPs update its weights through optkern while this lasts.

    With no arguments the solver's own rule and numbers are kept, and the fitted coefficients are
    scikit-learn's to rounding in float64; in float32 they differ as two orders of summation do.
    It may be nested and used again. It holds for fits in the calling thread and in what joblib
    or a `ProcessPoolExecutor` gets from there, as in ``GridSearchCV(n_jobs=2)``; a fit in any other
    thread warns that it is scikit-learn's; processes started otherwise (`multiprocessing`, dask)
    need the class below. `partial_fit` of a model that has begun to train goes on with its moments
    in the solver's own rule (or ``"adamw"`` after Adam). It is a decorator too, for fits that run
    anywhere, other processes included: a class with ``fit = accelerate()(MLPClassifier.fit)``.

    Parameters
    ----------
    rule : str or None
        Another rule in the solver's place, for ``solver="adam"`` and ``"sgd"`` alike. What means
        the same to it is the model's unless settings say otherwise: ``learning_rate_init`` and its
        course, and to rules that keep Adam's two moments ``beta_1``, ``beta_2`` and ``epsilon``.
    **settings
        Arguments of `MLPOptimizer`: lr, schedule, and every option of the rule. Without a rule they
        are laid over the solver's own.

    Raises
    ------
    ImportError
        Where scikit-learn is missing or older than 1.7.
    TypeError, ValueError
        On a rule or an option that optkern does not have; in ``fit`` with ``solver="lbfgs"``, which
        has no update step, where a rule or an option was asked for.

    Warns
    -----
    RuntimeWarning
        Of numbers of the solver's, other than by default, that the rule does not take over.
        By a ``fit`` that trains as if this were not there: with ``solver="lbfgs"``, in a thread
        that is not joblib's, or by `partial_fit` of a model that has begun with another rule.

    Examples
    --------
    >>> from optkern.integrations.sklearn import accelerate
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = make_classification(random_state=0)
    >>> with accelerate():
    ...     clf = MLPClassifier((8,), max_iter=2000, random_state=0).fit(X, y)
    >>> type(clf._optimizer).__name__
    'MLPOptimizer'
    """

    def __init__(self, rule: str | None = None, **settings: Any) -> None:
        self.rule = rule
        self.settings = settings
        if rule is not None:
            MLPOptimizer(rule, **settings)
            return
        known = [name for solver, _ in SOLVERS.values() for name in _options_of(solver)]
        check_keywords("accelerate", settings, dict.fromkeys([*_OWN, *known]))

    def optimizer(self, solver: str, own: dict[str, Any]) -> MLPOptimizer:
        """Make the optimizer for one fit of a solver with these numbers."""
        if self.rule is None:
            return MLPOptimizer(solver, **{**own, **self.settings})
        return MLPOptimizer(self.rule, **{**self._taken(solver, own)[0], **self.settings})

    def warn_of_left(self, solver: str, own: dict[str, Any]) -> None:
        """Warn of what a model's solver was told that the rule of this fit does not take over."""
        left = [] if self.rule is None else self._taken(solver, own)[1]
        if left:
            _warn(
                f"accelerate({self.asked()}): {' and '.join(left)} of this model "
                f"(solver={solver!r}) have no equal in {self.rule!r} and are left out; "
                "the rule's own options are arguments of accelerate"
            )

    def _taken(self, solver: str, own: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        defaults = next(made() for name, made in SOLVERS.values() if name == solver)
        return taken(self.rule or solver, solver, own, defaults, self.settings)

    def asked(self) -> str:
        """Return the arguments as they were written."""
        rule = [repr(self.rule)] if self.rule is not None else []
        return ", ".join([*rule, *(f"{name}={value!r}" for name, value in self.settings.items())])

    def __enter__(self) -> accelerate:
        global _entered
        with _lock:
            if _entered == 0:
                _exchange(_sklearn("neural_network._multilayer_perceptron"))
            _entered += 1
        _active.set((*_active.get(), self))
        return self

    def __exit__(self, *exception: object) -> None:
        global _entered
        _active.set(_active.get()[:-1])
        with _lock:
            _entered -= 1
            if _entered == 0:
                while _undo:
                    _undo.pop()()

    def _recreate_cm(self) -> accelerate:  # a decorated function may call itself
        return self


def _exchange(module: ModuleType) -> None:
    missing = [name for name in SOLVERS if not hasattr(module, name)]
    if missing:
        raise ImportError(
            f"optkern.integrations.sklearn: this scikit-learn has no {missing[0]} in "
            f"{module.__name__}; optkern knows scikit-learn {MINIMUM} to 1.9",
            name="sklearn",
        )
    for name, (solver, translated) in SOLVERS.items():
        original = getattr(module, name)
        setattr(module, name, functools.partial(_made_for_fit, original, solver, translated))
        _undo.append(functools.partial(setattr, module, name, original))
    network = module.BaseMultilayerPerceptron
    fit_lbfgs = network._fit_lbfgs

    @functools.wraps(fit_lbfgs)
    def refusing(self: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_lbfgs(type(self).__name__)
        return fit_lbfgs(self, *args, **kwargs)

    fit_stochastic = network._fit_stochastic

    @functools.wraps(fit_stochastic)
    def taking_over(self: Any, *args: Any, **kwargs: Any) -> Any:
        incremental = inspect.signature(fit_stochastic).bind(self, *args, **kwargs)
        if incremental.arguments.get("incremental") and hasattr(self, "_optimizer"):
            _go_on(self, module)
        return fit_stochastic(self, *args, **kwargs)

    for name, function in (("_fit_lbfgs", refusing), ("_fit_stochastic", taking_over)):
        _undo.append(functools.partial(setattr, network, name, getattr(network, name)))
        setattr(network, name, function)
    _undo.append(carry(importlib.import_module("joblib"), _innermost))
    _undo.append(carry_to_processes(_innermost, _warn_unpickled))


def _innermost() -> accelerate | None:
    """Return the settings that hold in the calling thread."""
    active = _active.get()
    return active[-1] if active else None


def _refuse_lbfgs(model: str) -> None:
    own = _innermost()
    if own is None:
        return
    what = f"solver='lbfgs' of this {model} has no update step"
    if own.rule is not None or own.settings:
        raise ValueError(
            f"accelerate({own.asked()}): {what} that could take it; use solver='adam' or "
            "'sgd', or fit this model outside the context"
        )
    _warn(f"accelerate: {what}; this fit is scikit-learn's own")


def _go_on(model: Any, module: ModuleType) -> None:
    """Take over what a model has begun with, or warn that `partial_fit` keeps it."""
    own, found = _innermost(), model._optimizer
    known = [
        (solver, translated)
        for name, (solver, translated) in SOLVERS.items()
        if isinstance(found, getattr(module, name).args[0])
    ]
    if own is None:
        if known:
            _warn_elsewhere()
        return
    if isinstance(found, MLPOptimizer):
        asked = own.rule is not None or own.settings
        if asked and not found.alike(_wanted(own, model, found)):
            _warn_kept(own, found)
    elif known:
        solver, translated = known[0]
        if own.rule in (None, *HEIRS[solver]):
            names = inspect.signature(translated).parameters
            numbers = translated(**{name: getattr(found, name) for name in names})
            new = own.optimizer(solver, numbers)
            own.warn_of_left(solver, numbers)
            new.begin_with(model, *moments(solver, found))
            if solver == "sgd" and not {"lr", "schedule"} & set(own.settings):
                new.learning_rate = found.learning_rate
            model._optimizer = new
        else:
            _warn_kept(own, found)


def _wanted(own: accelerate, model: Any, found: MLPOptimizer) -> MLPOptimizer:
    """Make what a context asks for in the place of what was found, with the latter's lr."""
    if own.rule is None:
        return own.optimizer(found.rule, found.numbers())
    own_numbers = {**_numbers_of(model), "lr": found.lr}
    return own.optimizer(model.solver, own_numbers)


def _numbers_of(model: Any) -> dict[str, Any]:
    """Return the numbers of a model's solver in optkern's words."""
    if model.solver == "adam":
        return adam_options(model.learning_rate_init, model.beta_1, model.beta_2, model.epsilon)
    start, nesterov = model.learning_rate_init, model.nesterovs_momentum
    return sgd_options(start, model.learning_rate, model.momentum, nesterov, model.power_t)


def _warn_kept(own: accelerate, found: Any) -> None:
    what = repr(found)
    if not isinstance(found, MLPOptimizer):
        what = f"scikit-learn's {type(found).__name__}"
    _warn(
        f"accelerate({own.asked()}): partial_fit goes on with {what}, with which this model has "
        "begun to train; to begin anew with what is asked for, set model._optimizer = "
        f"MLPOptimizer({own.asked()}) from optkern.integrations.sklearn before partial_fit"
    )


def _warn_elsewhere() -> None:
    _warn(
        "accelerate: optkern's context is open in another thread and does not hold in this "
        "one; this fit is scikit-learn's own. Open it here, or give the model a class with "
        "fit = accelerate()(MLPClassifier.fit)"
    )


def _warn_unpickled(reason: str) -> None:
    _warn(
        "accelerate: its arguments cannot be pickled, and do not hold in the processes of a "
        f"ProcessPoolExecutor; fits there are scikit-learn's own ({reason})"
    )


def _warn(message: str) -> None:
    """Warn who has called scikit-learn."""
    frame, depth = sys._getframe(1), 3
    own = ("sklearn.", "optkern.")
    while frame.f_back is not None and frame.f_back.f_globals.get("__name__", "").startswith(own):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, RuntimeWarning, stacklevel=depth)


def _made_for_fit(
    original: Callable[..., Any],
    solver: str,
    translated: Callable[..., dict[str, Any]],
    params: list[np.ndarray],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Make the optimizer of one fit: optkern's where the calling thread has asked for it."""
    own = _innermost()
    if own is None:
        _warn_elsewhere()
        return original(params, *args, **kwargs)
    numbers = translated(*args, **kwargs)
    own.warn_of_left(solver, numbers)
    return own.optimizer(solver, numbers)


# --------------------------------------------------------------------------- curvature


@spelled
def objective(model: Any, X: Any, y: Any) -> Objective:
    """Describe what a fitted MLP has been minimising, over all data, for `optkern.curvature`.

    The loss is the one scikit-learn reports as `loss_`, in float64: the mean over the samples and
    the L2 penalty, which weighs ``alpha / 2`` per batch and not per sample with ``solver="adam"``
    and ``"sgd"``. Only a squared error of several outputs is summed over them, where `loss_` shows
    their mean: the sum is what scikit-learn's gradient descends. With ``activation="relu"`` the
    loss has kinks, and the verdict may say so.

    Parameters
    ----------
    model : MLPClassifier or MLPRegressor
        Fitted; not modified.
    X : array or sparse matrix, shape (n_samples, n_features)
    y : array, shape (n_samples,) or (n_samples, n_outputs)

    Returns
    -------
    Objective
        Unpacks as ``x, loss, grad``, for ``curvature.classify(x, grad=grad, loss=loss)``. x is a
        list, float64 copies of ``coefs_ + intercepts_``; once `curvature.escape` moved it, back by
        ``for w, new in zip(clf.coefs_ + clf.intercepts_, x): w[...] = new``.

    Raises
    ------
    TypeError, ValueError
        Where the model is no MLP or is not fitted, or X and y are not of its shape or classes.

    Examples
    --------
    >>> from optkern.integrations.sklearn import objective
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = make_classification(random_state=0)
    >>> clf = MLPClassifier((8,), max_iter=2000, random_state=0).fit(X, y)
    >>> x, loss, grad = objective(clf, X, y)
    >>> bool(abs(loss(x) - clf.loss_) < 0.01)
    True
    """
    mlp = _sklearn("neural_network._multilayer_perceptron")
    if not isinstance(model, mlp.BaseMultilayerPerceptron):
        raise TypeError(
            f"objective: model must be an MLPClassifier or MLPRegressor, got {type(model).__name__}"
        )
    _sklearn("utils.validation").check_is_fitted(model)
    X = _sklearn("utils").check_array(X, accept_sparse="csr", dtype=np.float64)
    if X.shape[1] != model.n_features_in_:
        raise ValueError(
            f"objective: X must have the model's {model.n_features_in_} features, got {X.shape[1]}"
        )
    over = Total(model, X, targets(model, y, X.shape[0]), _ROWS)
    x = [np.array(a, np.float64) for a in (*model.coefs_, *model.intercepts_)]
    return Objective(x, over.loss, over.grad)


spell_names(__name__)
