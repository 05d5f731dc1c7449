"""Values that are refused."""

import contextlib

import numpy as np
import pytest
from conftest import (
    ordinary,
)

import optkern
from optkern.optimizers import CLASSES

PLACES = {"kernels": optkern.kernels, "reference": optkern.reference}

every_place = pytest.mark.parametrize("place", PLACES)

every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)


@contextlib.contextmanager
def refused(error, *words):
    """An exception of this type is raised, and its message holds all of these words."""
    with pytest.raises(error) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} is not in: {caught.value}"


def ones(*shape, dtype=np.float64):
    return np.ones(shape, dtype)


def read_only(a):
    a.flags.writeable = False
    return a


def swapped(a):
    return a.astype(a.dtype.newbyteorder())


def every_array(opt):
    state = [x for entry in opt.state.values() for x in entry.values()]
    return [*opt.params, *state]


BASE = ordinary(np.float64, 64, 0)


def build(structure):
    """Parameters of a structure and correct gradients for them."""
    shapes = {"W": (3, 4), "b": (4,), "s": ()}
    params = {k: ordinary(np.float64, int(np.prod(s)), 1).reshape(s) for k, s in shapes.items()}
    grads = {k: ordinary(np.float64, int(np.prod(s)), 2).reshape(s) for k, s in shapes.items()}
    if structure == "array":
        return params["W"], grads["W"]
    if structure == "list":
        return list(params.values()), list(grads.values())
    if structure == "dict":
        return params, grads
    groups = [{"params": [params["W"], params["b"]]}, {"params": {"s": params["s"]}}]
    return groups, [[grads["W"], grads["b"]], {"s": grads["s"]}]


W, B, S = build("list")[1]


def changed(saved, **changes):
    return {**saved, **changes}


def entry(saved, label, **changes):
    """The state dict with another entry for one parameter."""
    return changed(saved, state={**saved["state"], label: {**saved["state"][label], **changes}})


def group(saved, **changes):
    return changed(saved, param_groups=[{**saved["param_groups"][0], **changes}])
