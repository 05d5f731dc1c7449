"""What to say about a name that nobody knows: the one that was meant, or the ones there are."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from ..rules.domains import brief as brief
from ..rules.domains import got as got
from ..rules.domains import nearest

if TYPE_CHECKING:
    import argparse

_Spelled = TypeVar("_Spelled", bound=Callable[..., Any])

# What other libraries call these: too unlike for a comparison of letters.
_ELSEWHERE = {
    "learning_rate": "lr",
    "step_size": "lr",
    "stepsize": "lr",
    "eta": "lr",
    "alpha": "lr",
    "learning_rate_init": "lr",
    "beta1": "betas",
    "beta2": "betas",
    "beta_1": "betas",
    "beta_2": "betas",
    "b1": "betas",
    "b2": "betas",
    "epsilon": "eps",
    "l2": "weight_decay",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "clipnorm": "clip_norm_per_tensor",
    "global_clipnorm": "clip_norm",
    "max_norm": "clip_norm",
    "max_grad_norm": "clip_norm",
    "clipvalue": "clip_value",
    "gradient_accumulation_steps": "accumulate",
    "ema_momentum": "ema_decay",
    "threads": "num_threads",
    "n_jobs": "num_threads",
    "tolerance": "tol",
    "mu": "momentum",
    "rho": "alpha",  # Keras' of RMSprop
    "ema": "ema_decay",
    "grad_clip": "clip_norm clip_value",
    "gradient_clip": "clip_norm clip_value",
    "clip_grad": "clip_norm clip_value",
    "clip": "clip_norm clip_value",
    "clip_grad_norm": "clip_norm",
    "grad_clip_norm": "clip_norm",
    "gradient_clip_val": "clip_norm clip_value",
    "clip_grad_value": "clip_value",
    **dict.fromkeys(
        ("use_gc", "gc", "gradient_centralization", "centralize_gradient"), "centralize"
    ),
    **dict.fromkeys(
        ("agc", "adaptive_grad_clip", "agc_clip_val", "agc_clipping_value"), "adaptive_clip"
    ),
}

_VECTORS = "every array is stepped alike here: give those of one axis to AdamW, by optkern.Mixed"

# What a reference has and a rule here has not, and what to do instead.
_INSTEAD = {
    "mars_type": "there is MARS-AdamW alone, no MARS-Lion and no MARS-Shampoo: leave it out",
    "is_approx": "last_grad is the gradient of the step before; to be exact, write that of this "
    "step's batch at the weights before into opt.state[i]['last_grad']",
    "slice_p": "all elements have a part in the estimate of d, not every k-th element",
    "fsdp_in_use": "all parameters are here: leave it out",
    "decouple": "decay_form='decoupled' or 'l2'",
    **dict.fromkeys(("optimize_1d", "lr_1d", "betas_1d", "weight_decay_1d"), _VECTORS),
}
# Hyperparameters of some rules, which others have nothing like.
_OF_SOME = (
    "eps",
    "betas",
    "alpha",
    "rho",
    "momentum",
    "dampening",
    "nesterov",
    "amsgrad",
    "centered",
)
# torch.optim's choices of an implementation.
_IMPLEMENTATIONS = ("foreach", "fused", "capturable", "differentiable")


class NoSuchNameError(KeyError, ValueError):
    """Say that a name has no place; in a sentence, which a KeyError would quote."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def meant(name: object, known: Iterable[str], cutoff: float = 0.66) -> list[str]:
    """Name the known ones that ``name`` may be meant for: two at the most, the nearest first."""
    known = list(known)
    bare = _bare(name)
    if same := [key for key in known if _bare(key) == bare]:
        return same[:1]
    alias = [key for key in _ELSEWHERE.get(str(name).lower(), "").split() if key in known]
    if alias:
        return alias
    return nearest(str(name), known, cutoff)


def _bare(name: object) -> str:
    """Cut from a name how it may be written: case, and what joins words."""
    return str(name).replace("_", "").replace("-", "").lower()


def hint(
    name: object,
    known: Iterable[str],
    there: str = "there are",
    said: Callable[[str], str] = str,
) -> str:
    """Say which of the known names was meant, or all of them where none is near.

    ``said`` gives the words for a name.
    """
    known = list(known)
    near = meant(name, known)
    if near:
        return f"did you mean {' or '.join(map(said, near))}?"
    return f"{there} {', '.join(map(said, known))}"


def misspelt(name: object, known: Iterable[str]) -> str:
    """Say what was meant by a key among which others have keys of their own; '' where it is one.

    ``initial_lr``, ``max_momentum`` and ``weight_decay_scale`` hold a known name whole: they say
    what they are.
    """
    known = list(known)
    whole = any(f"_{other}_" in f"_{name}_" for other in known)
    near = [] if whole else meant(name, known, cutoff=0.8)
    return f"did you mean {' or '.join(near)}?" if near else ""


def spell_names(
    module: str,
    names: Callable[[], Iterable[str]] | None = None,
    said: str = "",
    elsewhere: Callable[[str], str] = lambda name: "",
    makers: Mapping[str, Callable[[], Any]] = MappingProxyType({}),
) -> None:
    """Let a module say what was meant by a name that it does not have.

    Not for `optkern.kernels`: Python looks up a name in a module that has a ``__getattr__`` by a
    slower way, 13 to 25 ns more where the smallest call takes 140. There Python itself names the
    nearest where it shows the error.

    Parameters
    ----------
    module : str
        Its ``__name__``. It gets its ``__getattr__`` here, not in its text: type checkers take a
        module that has one there for one that has every name.
    names : callable, optional
        ``() -> names`` to compare with; default its ``__all__``, or what it defines.
    said : str
        What it is called, where it is known by another name.
    elsewhere : callable, optional
        ``name -> where it is``, in a sentence, or ``''``.
    makers : mapping, optional
        What makes further objects of the module, each when it is asked for first.
    """
    space = vars(sys.modules[module])

    def __getattr__(name: str) -> Any:
        if name in makers:
            return space.setdefault(name, makers[name]())
        hint = ""
        if not name.startswith("__") and not (hint := elsewhere(name)):
            near = meant(name, names() if names else _public(space))
            hint = f"did you mean {' or '.join(near)}?" if near else ""
        hint = hint and f"; {hint}"
        # Python adds a guess of its own, which may be another, where an error names no object.
        raise AttributeError(
            f"module {said or module!r} has no attribute {name!r}{hint}", name=name, obj=None
        )

    space["__getattr__"] = __getattr__
    if makers:
        space["__dir__"] = lambda: sorted({*space, *makers})


def _public(space: Mapping[str, Any]) -> Iterable[str]:
    """Return the names that a module gives out."""
    own = space["__name__"]
    return space.get("__all__") or [
        name
        for name, value in space.items()
        if not name.startswith("_") and getattr(value, "__module__", None) == own
    ]


def pip_install(*packages: str) -> str:
    """Write the command that installs packages for the Python that runs, as for .venv/bin/optkern.

    The first pip on the way may be another Python's.
    """
    import shlex
    import shutil

    found = shutil.which("pip")
    beside = os.path.dirname(sys.executable)
    own = not sys.executable or (found and os.path.dirname(found) == beside)
    pip = "pip" if own else f"{shlex.quote(sys.executable)} -m pip"
    return f"{pip} install {shlex.join(packages)}"


def said_of_options(message: str, parser: argparse.ArgumentParser) -> str:
    """Add to an argparse message the option that was meant by one that is not there."""
    known = {x for action in parser._actions for x in action.option_strings}
    for action in parser._actions:
        for inner in action.choices.values() if isinstance(action.choices, dict) else ():
            if isinstance(inner, type(parser)):  # a command's own options
                known |= {x for own in inner._actions for x in own.option_strings}
    start, _, rest = message.partition("unrecognized arguments: ")
    near = meant(rest.split("=")[0].split()[0], sorted(known)) if rest and not start else []
    return message + f"; did you mean {' or '.join(near)}?" * bool(near)


def check_keywords(
    owner: str,
    kwargs: Iterable[str],
    known: Iterable[str],
    instead: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Check that keywords are known; ``instead`` says of some that are not what to write.

    Raises
    ------
    TypeError
        Naming ``owner`` and, of a keyword that is not there, the one that was meant.
    """
    known = list(known)
    for name in kwargs:
        if name not in known:
            what = hint(name, known, "the arguments are") if known else "there are none"
            if name in _OF_SOME and "weight_decay" in known and not meant(name, known):
                what = f"{owner} has none"
            if name in _IMPLEMENTATIONS:
                what = "it chooses among torch's implementations, here there is one: leave it out"
            what = instead.get(name) or _INSTEAD.get(name, what)
            raise TypeError(f"{owner}: unexpected keyword argument {name!r}; {what}")


def bound_arguments(
    owner: str,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    instead: Mapping[str, str] = MappingProxyType({}),
) -> inspect.BoundArguments:
    """Bind a call's arguments to their names.

    Raises
    ------
    TypeError
        Naming ``owner`` and, of a keyword that is not there, the one that was meant.
    """
    check_keywords(owner, kwargs, signature.parameters, instead)
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise TypeError(f"{owner}: {error}; the arguments are {known}") from None


def spelled(function: _Spelled) -> _Spelled:
    """Let a function, or a class as it is made, say which keyword was meant where one is misspelt.

    ``function`` may be a function, an ``__init__`` or a class.
    """
    if isinstance(function, type):
        function.__init__ = spelled(function.__init__)  # type: ignore[misc]
        return function
    return _checking(function, _keywords(function))


def passing_on(
    inner: Callable[..., Any], without: Iterable[str] = ()
) -> Callable[[_Spelled], _Spelled]:
    """Do as `spelled` for a function that hands keywords on to ``inner``, but for some."""
    return taking([name for name in _keywords(inner) if name not in without])


def taking(
    names: Iterable[str], instead: Mapping[str, str] = MappingProxyType({})
) -> Callable[[_Spelled], _Spelled]:
    """Do as `spelled` for a function that takes these keywords besides its own.

    ``instead`` says of some that it does not take what to write.
    """

    def decorate(function: _Spelled) -> _Spelled:
        own = _keywords(function)
        return _checking(function, own + [name for name in names if name not in own], instead)

    return decorate


def _checking(
    function: _Spelled, names: list[str], instead: Mapping[str, str] = MappingProxyType({})
) -> _Spelled:
    known = frozenset(names)
    method = next(iter(_parameters(function)), "") == "self"
    act = "" if function.__name__ == "__init__" else f".{function.__name__}"

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if kwargs and not known.issuperset(kwargs):
            owner = f"{type(args[0]).__name__}{act}" if method and args else function.__qualname__
            if method and args and not act:
                _refuse_of_step(owner, args[0], kwargs, names)
            check_keywords(owner, kwargs, names, instead)
        try:
            return function(*args, **kwargs)
        except (SystemError, RuntimeError) as error:  # as NumPy says that no memory is left
            from .turn import refuse_unsaid

            refuse_unsaid(function.__qualname__, error)
            raise

    return checked  # type: ignore[return-value]


def _refuse_of_step(owner: str, one: Any, kwargs: Iterable[str], known: list[str]) -> None:
    """Raise TypeError for what the constructor does not take, and step does."""
    step = getattr(type(one), "step", None)
    taken = [] if step is None else [name for name in _keywords(step) if name not in known]
    for name in kwargs:
        if name not in known and not meant(name, known) and (of_step := meant(name, taken)):
            raise TypeError(
                f"{owner}: unexpected keyword argument {name!r}; {of_step[0]} belongs to step"
            )


def _keywords(function: Callable[..., Any]) -> list[str]:
    """Return the names that a function takes as keywords."""
    return [name for name in _parameters(function) if name != "self"]


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters that can be given as keywords, in their order."""
    code = getattr(function, "__code__", None)
    if code and not hasattr(function, "__wrapped__") and not hasattr(function, "__signature__"):
        # As `inspect` says it, in a fortieth of the time: an import asks a hundred functions.
        end = code.co_argcount + code.co_kwonlyargcount
        return list(code.co_varnames[code.co_posonlyargcount : end])
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [x.name for x in inspect.signature(function).parameters.values() if x.kind in kinds]
