"""Optimizers to look at."""

import numpy as np
import pytest
from conftest import (
    ordinary,
)

from optkern.optimizers import CLASSES

SHAPES = ((4, 3), (5,), (), (2, 0))

every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)


def arrays(seed=0, dtype=np.float64, shapes=SHAPES):
    return [
        ordinary(dtype, int(np.prod(s)), 100 * seed + k).reshape(s) for k, s in enumerate(shapes)
    ]


CALLS = [arrays(seed) for seed in range(1, 6)]


def as_list(x):
    return list(x)


def as_tuple(x):
    return tuple(x)


def as_dict(x):
    return {f"w{k}": value for k, value in enumerate(x)}


STRUCTURES = {"list": as_list, "tuple": as_tuple, "dict": as_dict}


def state_arrays(opt, label):
    return [x for x in opt.state[label].values() if isinstance(x, np.ndarray)]


def refused(opt, g):
    with pytest.raises(ValueError, match="parameter 1"):
        opt.step([g, np.ones(3)])
