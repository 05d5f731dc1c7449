"""Values that never change: frozen dataclasses whose methods are shared instead of generated.

A frozen dataclass has six methods written as text and compiled when its class is made, half a
millisecond in all, and an import of optkern makes forty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, overload

from .names import bound_arguments

if TYPE_CHECKING:
    from inspect import Signature

_Class = TypeVar("_Class", bound=type)


@overload
def immutable(cls: _Class, /) -> _Class: ...
@overload
def immutable(*, eq: bool) -> Callable[[_Class], _Class]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: Any = None, /, *, eq: bool = True) -> Any:
    """Make a class a frozen dataclass; what it has written itself stays.

    ``eq=False``: what holds arrays is equal to itself alone.
    """
    if cls is None:
        return lambda cls: _made(cls, eq)
    return _made(cls, eq)


def _made(cls: Any, eq: bool) -> Any:
    own = vars(cls).keys() | ({"__repr__"} if cls.__repr__ is not object.__repr__ else set())
    cls = dataclass(init=False, repr=False, eq=False)(cls)
    known = cls.__dataclass_fields__.values()
    cls._given_fields = tuple(x for x in known if "ClassVar" not in str(x.type))
    methods = {**_OF_ALL, **(_OF_EQUALS if eq else {})}
    for name, method in methods.items():
        if name not in own:
            setattr(cls, name, method)
    return cls


class _SignatureOfFields:
    """Make a class's signature when it is asked for: by `help`, by an editor, by an error."""

    def __get__(self, one: object, cls: Any) -> Signature:
        if one is not None:  # what a call of the value takes is another matter
            raise AttributeError("__signature__")
        from inspect import Parameter, Signature

        kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        parameters = [
            Parameter(
                one.name,
                kinds[bool(one.kw_only)],
                default=Parameter.empty if _is_required(one) else _default(one),
                annotation=one.type,
            )
            for one in cls._given_fields
        ]
        return Signature(sorted(parameters, key=lambda x: x.kind), return_annotation=None)


def _is_required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


# --------------------------------------------------------------------------- the shared methods


def _init(self: Any, /, *args: Any, **kwargs: Any) -> None:
    taken = self._given_fields
    places = [x.name for x in taken if not x.kw_only]
    given = dict(zip(places, args)) | kwargs
    missing = [x.name for x in taken if x.name not in given]
    if (
        len(given) != len(args) + len(kwargs)
        or len(given) + len(missing) != len(taken)
        or any(_is_required(x) for x in taken if x.name in missing)
    ):
        cls = type(self)
        bound_arguments(cls.__name__, cls.__signature__, args, kwargs)  # says what is wrong
    values = {x.name: given[x.name] if x.name in given else _default(x) for x in taken}
    kept = {x.name for x in fields(self)}
    vars(self).update({name: value for name, value in values.items() if name in kept})
    if hasattr(self, "__post_init__"):  # it gets what only the constructor takes
        self.__post_init__(*[value for name, value in values.items() if name not in kept])


def _repr(self: Any) -> str:
    shown = (f"{x.name}={getattr(self, x.name)!r}" for x in fields(self) if x.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _set(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _values(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, x.name) for x in fields(value))


def _equals(self: Any, other: object) -> bool:
    return NotImplemented if type(other) is not type(self) else _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash(_values(self))


_OF_ALL = {
    "__init__": _init,
    "__repr__": _repr,
    "__setattr__": _set,
    "__delattr__": _delete,
    "__signature__": _SignatureOfFields(),
}
_OF_EQUALS = {"__eq__": _equals, "__hash__": _hash}
