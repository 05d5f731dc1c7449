"""The way to a host: imported when it is needed, refused in plain words where it does not serve."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

from ..kernels.rules import Domain, Real
from ..rules import MATRIX_RULES
from ..rules.domains import checked_by

# What pip calls a package that is imported by another name.
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def said_of_whole(name: Any) -> str:
    """Say of a rule that takes parameters as a whole why a host does not have it; else ``""``."""
    rule = next((x for x in MATRIX_RULES if name in (x.name, x.class_name)), None)
    if rule is None:
        return ""
    if rule.pool is not None:
        return (
            f"{rule.class_name} steps by sums over all parameters, of which here each is stepped "
            f"by itself: optkern.{rule.class_name} steps them together in your own loop"
        )
    if rule.axes is None:
        return (
            f"{rule.class_name} keeps state of other shapes than its parameters', for which there "
            f"is no place here: optkern.{rule.class_name} steps a network's arrays in your own loop"
        )
    return (
        f"{rule.class_name} is for matrices, and here one rule trains the biases as well: "
        f"in a loop of your own optkern.Mixed gives each its rule"
    )


def host(module: str, extra: str, minimum: str) -> ModuleType:
    """Import a module of a host whose top-level package has at least this version.

    Parameters
    ----------
    module : str
        Dotted, such as ``"sklearn.neural_network"``.
    extra : str
        The extra of optkern that installs the host.
    minimum : str
        The lowest version that serves, such as ``"1.7"``.

    Raises
    ------
    ImportError
        Where the host is missing or too old; names the minimum and the command that installs it.
    """
    package = module.partition(".")[0]
    # The host itself: true however optkern came here, be it from an index or a clone.
    remedy = f"pip install '{_DISTRIBUTIONS.get(package, package)}>={minimum}'"
    try:
        top = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # the host is there, and lacks something itself
        raise ImportError(
            f"optkern.integrations.{extra} needs {package} {minimum} or newer, "
            f"which is not installed: {remedy}",
            name=package,
        ) from None
    found = getattr(top, "__version__", None) or metadata.version(package)
    if _numbers(found) < _numbers(minimum):
        raise ImportError(
            f"optkern.integrations.{extra} needs {package} {minimum} or newer, "
            f"found {found}: {remedy}",
            name=package,
        )
    return importlib.import_module(module)


class _AnyNumber:
    """Allow any finite number."""

    allowed = "a finite number"
    check = staticmethod(Real("", -math.inf).check)


FINITE: Any = _AnyNumber()
AMOUNT = Real("", 0.0)
SHARE = Real("", 0.0, 1.0)
DECAY_RATE = Real("", 0.0, 1.0, open_high=True)


def checked_host_argument(owner: str, name: str, domain: Domain, value: Any, more: str = "") -> Any:
    """Check a host's argument as its domain holds it; ValueError, in the host's words, if not.

    ``more`` says what else would have been allowed.
    """
    return checked_by(owner, name, value, domain, more=more, wrong_type=ValueError)


def _numbers(version: str) -> tuple[int, ...]:
    """Read ``1.10.0rc1`` as (1, 10)."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


@dataclass(frozen=True)
class Objective:
    """Hold a host's model as `optkern.curvature` takes it; unpacks as ``x, loss, grad``.

    Attributes
    ----------
    x : ndarray or list of ndarray
        The point, a copy of the model's parameters.
    loss : callable
        ``x -> float``, over all the data.
    grad : callable
        ``x -> gradient``, in x's structure.
    hvp : callable or None
        ``v -> H v`` at the point, exact, where the host can do it.
    """

    x: Any
    loss: Callable[[Any], float]
    grad: Callable[[Any], Any]
    hvp: Callable[[Any], Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.loss, self.grad))
