"""Values that never change do all that a frozen dataclass does, and say what was meant."""

import copy
import dataclasses
import inspect
import pickle
from typing import ClassVar

import numpy as np
import pytest

from optkern.kernels.immutable import immutable


@immutable
class Point:
    """A point."""

    NAME: ClassVar[str] = "point"
    x: float
    y: float = 2.0
    seen: list = dataclasses.field(default_factory=list, repr=False)
    scale: dataclasses.InitVar[float] = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self, scale: float) -> None:
        object.__setattr__(self, "y", self.y * scale)


@immutable(eq=False)
class Held:
    """What holds an array."""

    array: np.ndarray


@dataclasses.dataclass(frozen=True)
class Known:
    """What `Point` is held against."""

    x: float
    y: float = 2.0


def test_it_is_a_frozen_dataclass():
    point = Point(1.0)
    assert dataclasses.is_dataclass(point)
    assert dataclasses.asdict(point) == {"x": 1.0, "y": 2.0, "seen": []}
    assert (Point(1.0), Point(1.0, 3.0), Point(y=3.0, x=1.0)) == (
        point, dataclasses.replace(point, y=3.0, scale=1.0), Point(1.0, 1.0, scale=3.0),
    )  # fmt: skip
    assert repr(point) == "Point(x=1.0, y=2.0)" == repr(Known(1.0)).replace("Known", "Point")
    assert point != Known(1.0) and Point(1.0) != Point(1.5)
    assert Point(1.0).seen is not Point(1.0).seen
    for twin in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        assert twin == point and twin is not point
    with pytest.raises(dataclasses.FrozenInstanceError, match="'x'"):
        point.x = 2.0
    with pytest.raises(dataclasses.FrozenInstanceError, match="'x'"):
        del point.x


def test_it_compares_and_hashes_by_its_fields_or_not_at_all():
    @immutable
    class Pair:
        a: int
        b: int

    assert hash(Pair(1, 2)) == hash(Pair(1, 2)) and len({Pair(1, 2), Pair(1, 2), Pair(2, 1)}) == 2
    held = Held(np.ones(2))
    assert held == held and held != Held(held.array) and hash(held) != hash(Held(held.array))


def test_its_signature_is_the_dataclass_one():
    kept = [str(x) for x in inspect.signature(Known).parameters.values()]
    assert [str(x) for x in inspect.signature(Point).parameters.values()][:2] == kept
    assert str(inspect.signature(Point)).endswith(") -> None")
    assert list(inspect.signature(Point).parameters) == ["x", "y", "seen", "scale"]


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, "Point: missing a required argument: 'x'"),
        ((1, 2, 3, 4), {}, "Point: too many positional arguments"),
        ((1,), {"x": 2}, "Point: multiple values for argument 'x'"),
        ((1,), {"scal": 2}, "Point: unexpected keyword argument 'scal'; did you mean scale?"),
        ((1,), {"NAME": 2}, "Point: unexpected keyword argument 'NAME'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(args, kwargs, said):
    with pytest.raises(TypeError) as caught:
        Point(*args, **kwargs)
    assert str(caught.value).startswith(said)
