"""Writes the stubs of what the rule table generates: ``python tests/stubs.py``.

The signatures of the twins and of the optimizer classes exist at run time only, so type checkers
and editors need them written out. `test_stubs.py` fails when they no longer match.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from tables import tables

import optkern
from optkern import rules
from optkern.optimizers import CLASSES, MATRIX_CLASSES
from optkern.rules.domains import Optional, Polynomials

PACKAGE = Path(__file__).parent.parent / "optkern"

OPTIMIZERS_HEAD = """\
# Written by tests/stubs.py from the rule table.
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import Signature
from types import EllipsisType
from typing import Any, Literal, TypeAlias

import numpy as np
from _typeshed import DataclassInstance
from numpy.typing import NDArray

from ..kernels.threads import ThreadReport
from ..rules import Rule
from .change import Change as Change
from .change import Counts as Counts
from .loading import refuse_impossible as refuse_impossible
from .session import Session as Session

Array: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]
Gradient: TypeAlias = NDArray[np.floating[Any]] | None
Group: TypeAlias = Mapping[str, Any]
Triple: TypeAlias = tuple[float, float, float]
Params: TypeAlias = (
    Array
    | Sequence[Params | None]
    | Mapping[str, Params | None]
    | Iterator[Params]
    | DataclassInstance
    | Sequence[Group]
)
Gradients: TypeAlias = (
    Gradient
    | Sequence[Gradients]
    | Mapping[str, Gradients]
    | Iterator[Gradients]
    | DataclassInstance
)
Indices: TypeAlias = NDArray[np.integer[Any]] | Sequence[int] | EllipsisType | None
Rows: TypeAlias = (
    Indices
    | Sequence[Indices]
    | Mapping[str, Indices]
    | Sequence[Indices | Sequence[Indices] | Mapping[str, Indices]]
)
Number: TypeAlias = float | Callable[[int], float]
Pair: TypeAlias = tuple[float, float] | Callable[[int], tuple[float, float]]

class ParamGroup(dict[str, Any]): ...

class _Zeroing(int):
    def __call__(self, grads: Gradients | None = None) -> None: ...

class _ZeroGrad:
    def __get__(self, optimizer: Any, owner: type | None = None) -> _Zeroing: ...
    def __set__(self, optimizer: Any, value: bool) -> None: ...

class Optimizer:
    rule: Rule
    __signature__: Signature
    zero_grad: _ZeroGrad
    steps: int
    skipped_steps: int
    follow: bool
    strict_grads: bool
    @property
    def param_groups(self) -> tuple[ParamGroup, ...]: ...
    @property
    def num_threads(self) -> int | None: ...
    @num_threads.setter
    def num_threads(self, value: int | None) -> None: ...
    @property
    def on_nonfinite(self) -> str: ...
    @on_nonfinite.setter
    def on_nonfinite(self, value: str) -> None: ...
    @property
    def state_dtype(self) -> Literal["bfloat16", "int8"] | None: ...
    @property
    def master_weights(self) -> bool: ...
    @property
    def weight_rounding(self) -> Literal["stochastic", "nearest"]: ...
    @property
    def seed(self) -> int: ...
    @property
    def params(self) -> tuple[Array, ...]: ...
    @property
    def state(self) -> dict[int | str, dict[str, Any]]: ...
    def step(self, grads: Gradients) -> bool: ...
    def step_rows(self, rows: Rows, grads: Gradients) -> bool: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None: ...
    def reset(self, names: str | int | Iterable[str | int] | None = None) -> None: ...
    def flush(self) -> bool: ...
    def rebind(self, params: Params) -> None: ...
    def add_param_group(self, group: Group) -> None: ...
    def thread_report(self) -> ThreadReport: ...
    @property
    def session(self) -> Session: ...
    @property
    def last_grad_norm(self) -> float | None: ...
    @property
    def averages_are_in(self) -> bool: ...
    def swap_in(self) -> None: ...
    def swap_out(self) -> None: ...
    def averaged(self) -> AbstractContextManager[None]: ...
{options}
def not_trained(opt: Any, x: Any) -> str: ...
def renewed(master: NDArray[Any], array: NDArray[Any]) -> NDArray[Any]: ...
def no_attribute(owner: str, name: str, options: Iterable[str], groups: Iterable[str]) -> str: ...
def name_of_mode(name: str, there: str = "opt") -> Any: ...
def unwrapped(owner: str, opt: Any) -> Any: ...
def no_optimizer(owner: str, opt: Any) -> str: ...

CLASSES: dict[str, type[Optimizer]]
MATRIX_CLASSES: tuple[type[Optimizer], ...]
MIXED: Rule
OF_WEIGHTS: tuple[str, ...]
"""

KERNELS_HEAD = """\
# Written by tests/stubs.py from the rule table.
from collections.abc import {collections}
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

{imports}

Array: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]
Arrays: TypeAlias = Array | Sequence[Array]
Gradients: TypeAlias = NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]] | None]
State: TypeAlias = Array | Compact | Sequence[Array | Compact | None] | None
Indices: TypeAlias = NDArray[np.integer[Any]] | Sequence[int]
Rows: TypeAlias = Indices | Sequence[Indices | None]
{extra}"""


AROUND = """\
def sum_of_squares(x: Array, factor: float = ...) -> float: ...
def add_halves(x: NDArray[np.float64]) -> NDArray[np.float64]: ...
def gradient_norms(
    params: Sequence[Array], grads: Sequence[Array | None]
) -> tuple[float, list[float]]: ...

class Held(list[Array | None]):
    unit: float

def accumulate(held: Sequence[Array | None], grads: Sequence[Array | None]) -> Held: ...
def has_room(held: Array) -> bool: ...
def approach(average: Array, p: Array, weight: float) -> None: ...
def limits_of(options: Mapping[str, Any], stored: str) -> tuple[float, float]: ...
def confine(x: Array, limits: tuple[float, float]) -> None: ...
def fused_step(
    rule: Rule,
    params: Sequence[Array],
    grads: Sequence[Array | None],
    state: Mapping[str, Sequence[Array | None]],
    hyperparameters: Sequence[dict[str, Any]],
    held: Sequence[Array | None] | None = ...,
    calls: int = ...,
    stored: Sequence[str] | None = ...,
    heads: Sequence[bool] | None = ...,
    **options: Any,
) -> float: ..."""


def annotation(rule: rules.Rule | None, name: str, schedules: bool) -> str:
    """The type of a hyperparameter; ``schedules``: whether it may be a callable of the step."""
    domain = None
    if rule is not None and name in rule.hyperparameters:
        domain = rule.domain(name)
    elif rule is not None and name in rule.settings:
        domain = rule.settings[name].domain
        schedules = False
    if name == "num_threads":
        return "int | None"
    if name == "on_nonfinite":
        return 'Literal["propagate", "skip", "raise"]'
    if name in rules.OPTIONS:
        default, domain = rules.OPTIONS[name]
        return option(domain) + (" | None" if default is None else "")
    if name == "state_dtype":
        return 'Literal["bfloat16", "int8"] | None'
    if name in ("master_weights", "follow", "strict_grads"):
        return "bool"
    if name == "weight_rounding":
        return 'Literal["stochastic", "nearest"] | None'
    if name == "seed":
        return "int"
    if isinstance(domain, Polynomials):
        words = ", ".join(f'"{word}"' for word in domain.words)
        return f"Literal[{words}] | Triple"
    if isinstance(domain, rules.Choice):
        return "Literal[" + ", ".join(f'"{word}"' for word in domain.words) + "]"
    if isinstance(domain, rules.Switch):
        return "bool"
    if isinstance(domain, rules.Count):
        return "int"
    if isinstance(domain, rules.Numbers):
        parts = ["float | None" if isinstance(x, Optional) else "float" for x in domain.parts]
        pair = f"tuple[{', '.join(parts)}]"
        if schedules:
            return "Pair" if parts == ["float", "float"] else f"{pair} | Callable[[int], {pair}]"
        return pair
    absent = " | None" if isinstance(domain, Optional) else ""
    return ("Number" if schedules else "float") + absent


def option(domain: rules.Domain) -> str:
    """The type of an option around the rule, as the attribute has it."""
    if isinstance(domain, rules.Real):
        return "Number"
    if isinstance(domain, rules.Cycle):
        return "tuple[int, float]"
    if isinstance(domain, rules.Ratio):
        return "float | tuple[float, float]"
    if isinstance(domain, rules.Box):
        return 'Literal["nonnegative"] | tuple[float, float]'
    if isinstance(domain, rules.Choice):
        return "Literal[" + ", ".join(f'"{word}"' for word in domain.words) + "]"
    return "bool" if isinstance(domain, rules.Switch) else "int | Callable[[int], float]"


def arguments(
    rule: rules.Rule, signature: inspect.Signature, first: dict[str, str], schedules: bool
) -> str:
    """The lines of a signature, one argument each."""
    lines, keyword_only = [], False
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            lines.append("*")
            keyword_only = True
        kind = first.get(name) or annotation(rule, name, schedules)
        default = "" if parameter.default is inspect.Parameter.empty else " = ..."
        lines.append(f"{name}: {kind}{default}")
    return "".join(f"    {line},\n" for line in lines)


def optimizers() -> str:
    options = "".join(
        f"    {name}: {annotation(None, name, schedules=True)}\n"
        for name in rules.OPTIONS
        if name != "zero_grad"  # a descriptor: it can be called, too
    )
    made = (*CLASSES.values(), *MATRIX_CLASSES)
    classes = ["Mixed", "Optimizer", *(cls.__name__ for cls in made)]
    classes.sort(key=lambda name: (not name.isupper(), name))  # as linters want them
    names = "".join(f'    "{name}",\n' for name in classes)
    text = OPTIMIZERS_HEAD.replace("{options}", options) + f"\n__all__ = [\n{names}]\n"
    for cls in (*made, optkern.Mixed):
        body = arguments(cls.rule, cls.__signature__, {"params": "Params"}, schedules=True)
        body = "".join(f"    {line}\n" for line in ["    self,", *body.splitlines()])
        text += f"\nclass {cls.__name__}(Optimizer):\n    def __init__(\n{body}    ) -> None: ...\n"
    return text


def twins(module: object, imports: str, extra: str) -> str:
    collections = "Mapping, Sequence" if "Mapping" in extra else "Sequence"
    text = KERNELS_HEAD.format(collections=collections, imports=imports, extra=extra) + "\n"
    names = {rule.name: rule for rule in (*optkern.RULES, *rules.MATRIX_RULES)}
    names |= {f"{rule.name}_rows": rule for rule in rules.ROW_RULES}
    first = {"p": "Arrays", "rows": "Rows", "g": "Gradients"}
    for name, rule in names.items():
        signature = inspect.signature(getattr(module, name))
        types = {**first, **dict.fromkeys(rule.state, "State")}
        result = "dict[str, float]" if rule.pool else "None"
        body = arguments(rule, signature, types, schedules=False)
        text += f"def {name}(\n{body}) -> {result}: ...\n"
    return text


def adapters() -> str:
    """Write the classes that torch's room makes of those in `CLASSES` and `MATRIX_CLASSES`."""
    names = [cls.__name__ for cls in (*CLASSES.values(), *MATRIX_CLASSES)]
    head = (
        "# Written by tests/stubs.py from the rule table.\n"
        "from .adapter import Adapter\nfrom .model_loss import objective as objective\n\n"
    )
    return head + "".join(f"class {name}(Adapter): ...\n" for name in names)


def makers() -> str:
    """Write the functions that thinc's room makes of the classes of rules that it has."""
    pooled = [cls.__name__ for cls in MATRIX_CLASSES if cls.rule.pool]
    made = (*CLASSES.values(), *MATRIX_CLASSES)
    names = [cls.__name__ for cls in made if cls.__name__ not in pooled]
    head = (
        "# Written by tests/stubs.py from the rule table.\n"
        "from typing import Any\n\n"
        "from .library import MINIMUM as MINIMUM\nfrom .model_loss import objective as objective\n"
        "from .ops import Ops as Ops\nfrom .ops import accelerate as accelerate\n"
        "from .optimizer import Key as Key\nfrom .optimizer import Optimizer as Optimizer\n\n"
    )
    made = "def {}(learn_rate: Any = ..., **settings: Any) -> Optimizer: ...\n"
    return head + "".join(map(made.format, names))


def stubs() -> dict[Path, str]:
    """The path of every written stub with its text."""
    return {
        PACKAGE / "optimizers" / "__init__.pyi": optimizers(),
        PACKAGE / "integrations" / "torch" / "__init__.pyi": adapters(),
        PACKAGE / "integrations" / "thinc" / "__init__.pyi": makers(),
        PACKAGE / "kernels" / "__init__.pyi": twins(
            optkern.kernels,
            "from . import reference as reference\nfrom .codecs import Compact\n"
            "from .rules import RULES as RULES",
            "\nTriple: TypeAlias = tuple[float, float, float]\nopenmp_policy: str\n",
        ),
        PACKAGE / "kernels" / "reference.pyi": twins(
            optkern.reference,
            "from .codecs import Compact\nfrom .rules import Rule",
            "\nTriple: TypeAlias = tuple[float, float, float]\n"
            "\ndef update(\n"
            "    rule: Rule,\n    p: NDArray[Any],\n    g: NDArray[Any],\n"
            "    state: Sequence[NDArray[Any] | Compact | None],\n"
            "    hyperparameters: dict[str, Any],\n"
            "    seed: int = ...,\n    tensor: int = ...,\n"
            "    master: NDArray[np.float32] | None = ...,\n"
            ") -> None: ...\n"
            "\nclass Constants:\n"
            "    def __init__(\n"
            "        self, rule: Rule, hyperparameters: dict[str, Any], dtype: np.dtype[Any]\n"
            "    ) -> None: ...\n"
            "    def __getattr__(self, name: str) -> Any: ...\n\n" + AROUND,
        ),
    }


if __name__ == "__main__":
    for path, text in {**stubs(), **tables()}.items():
        path.write_text(text)
        print(path)
