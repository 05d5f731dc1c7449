"""An optimizer and its parameters, copied together: tied as they were, or it is said."""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import pickle

import numpy as np
import pytest

import optkern
from optkern import SGD, Adam


class _Apart(pickle.Pickler):
    """Writes an array wherever it meets it, as joblib does."""

    def __init__(self, file, arrays):
        super().__init__(file)
        self.arrays = arrays

    def persistent_id(self, obj):
        if type(obj) is not np.ndarray:
            return None
        self.arrays.append(obj.copy())
        return len(self.arrays) - 1


class _Again(pickle.Unpickler):
    arrays = ()

    def persistent_load(self, pid):
        return self.arrays[pid].copy()


def apart(obj):
    file, arrays = io.BytesIO(), []
    _Apart(file, arrays).dump(obj)
    reader = _Again(io.BytesIO(file.getvalue()))
    reader.arrays = arrays
    return reader.load()


def by_joblib(obj, **kwargs):
    joblib = pytest.importorskip("joblib")
    file = io.BytesIO()
    joblib.dump(obj, file, **kwargs)
    file.seek(0)
    return joblib.load(file)


def out_of_band(obj):
    buffers = []
    dumped = pickle.dumps(obj, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(dumped, buffers=[bytearray(buffer.raw()) for buffer in buffers])


def by_cloudpickle(obj):
    return pickle.loads(pytest.importorskip("cloudpickle").dumps(obj))


WAYS = {
    "pickle": lambda obj: pickle.loads(pickle.dumps(obj)),
    "deepcopy": copy.deepcopy,
    "out of band": out_of_band,
    "cloudpickle": by_cloudpickle,
    "apart": apart,
    "joblib": by_joblib,
    "joblib, compressed": lambda obj: by_joblib(obj, compress=3),
}
EVERY = pytest.mark.parametrize("way", WAYS)


def weights():
    return {"w": np.ones((3, 2)), "b": np.ones(2)}


def gradients():
    return {"w": np.ones((3, 2)), "b": np.ones(2)}


@EVERY
@pytest.mark.parametrize("first", ["params", "opt"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_container_and_its_optimizer_come_back_tied(way, first, begun):
    params = weights()
    opt = Adam(params, lr=0.1)
    if begun:
        opt.step(gradients())
    both = {"params": params, "opt": opt}
    copied = WAYS[way](both if first == "params" else dict(reversed(both.items())))
    for _ in range(3):
        assert opt.step(gradients()) and copied["opt"].step(gradients())
    for name, array in params.items():
        np.testing.assert_array_equal(copied["params"][name], array)
        assert copied["params"][name] is not array
    copied["params"]["w"] = copied["params"]["w"] * 2
    with pytest.raises(ValueError, match="'w' has been replaced"):
        copied["opt"].step(gradients())


@EVERY
def test_groups_lists_and_layers_come_back_tied(way):
    w, layer = [np.ones(3)], {"W": np.ones(2), "b": np.ones(1)}
    grads = [[np.ones(3)], {"W": np.ones(2), "b": np.ones(1)}]
    opt = Adam([{"params": w}, {"params": layer, "lr": 0.5}], lr=0.1)
    copied = WAYS[way]({"w": w, "layer": layer, "opt": opt})
    opt.step(grads), copied["opt"].step(grads)
    assert copied["w"][0].tobytes() == w[0].tobytes() != np.ones(3).tobytes()
    assert copied["layer"]["W"].tobytes() == layer["W"].tobytes() != np.ones(2).tobytes()
    layers = [{"W": np.ones(2)}, {"W": np.ones(3)}]
    copied = WAYS[way]({"layers": layers, "opt": SGD(list(layers), lr=1.0)})
    copied["opt"].step([{"W": np.ones(2)}, {"W": np.ones(3)}])
    assert not copied["layers"][0]["W"].any() and not copied["layers"][1]["W"].any()


class Net:
    def __init__(self, one):
        self.W, self.b = np.ones(3), np.ones(2)
        self.opt = SGD(self.W if one else [self.W, self.b], lr=1.0)
        self.grads = np.ones(3) if one else [np.ones(3), np.ones(2)]

    def arrays(self):
        return [self.W] if len(self.opt.session.labels) == 1 else [self.W, self.b]


@EVERY
@pytest.mark.parametrize("one", [True, False])
def test_arrays_without_a_container_of_the_user_are_tied_or_told(way, one):
    net = WAYS[way](Net(one))
    if way in ("apart", "joblib", "joblib, compressed"):
        for _ in range(2):
            with pytest.raises(ValueError, match=r"parameter 0.* came out of a copy .*rebind"):
                net.opt.step(net.grads)
        assert all(a.all() for a in net.arrays())
        net.opt.rebind(net.W if one else net.arrays())
    assert net.opt.step(net.grads)
    assert not any(a.any() for a in net.arrays())


@dataclasses.dataclass
class Model:
    w: np.ndarray


def test_whoever_takes_the_arrays_from_the_copy_trains_them():
    for params, grads in ((np.ones(2), np.ones(2)), (Model(np.ones(2)), Model(np.ones(2)))):
        opt = apart(apart(SGD(params, lr=1.0)))
        with pytest.raises(ValueError, match=r"or take these from opt\.params"):
            opt.step(grads)
        (array,) = opt.params
        assert opt.step(grads) and not array.any()


def test_some_of_the_arrays_are_told_of():
    layer, lone = {"W": np.ones(2)}, np.ones(3)
    copied = apart({"layer": layer, "lone": lone, "opt": SGD([layer, lone], lr=1.0)})
    grads = [{"W": np.ones(2)}, np.ones(3)]
    with pytest.raises(ValueError, match="parameter '1' came out of a copy"):
        copied["opt"].step(grads)
    with pytest.raises(ValueError, match="came out of a copy"):
        copied["opt"].add_param_group({"params": [np.ones(1)]})
    copied["opt"].rebind([copied["layer"], copied["lone"]])
    assert copied["opt"].step(grads) and not copied["lone"].any() and not copied["layer"]["W"].any()


def test_what_was_replaced_before_the_first_step_is_told_as_ever():
    params = weights()
    copied = apart({"params": params, "opt": Adam(params)})
    copied["params"]["w"] = np.ones((3, 2))
    with pytest.raises(ValueError, match="'w' has been replaced"):
        copied["opt"].step(gradients())


@pytest.mark.parametrize("solver", [optkern.LBFGS, optkern.NewtonLanczos])
@EVERY
def test_solvers_come_back_tied_or_say_it(solver, way):
    def closure():
        return float((params["w"] ** 2).sum()), {"w": 2 * params["w"]}

    params = {"w": np.ones(3)}
    copied = WAYS[way]({"params": params, "opt": solver(params)})
    params = copied["params"]
    copied["opt"].step(closure)
    assert abs(params["w"]).max() < 1e-6
    copied = WAYS[way]({"w": np.ones(3), "opt": solver(np.ones(3))})
    if way in ("apart", "joblib"):
        with pytest.raises(ValueError, match="came out of a copy"):
            copied["opt"].step(lambda: (0.0, np.zeros(3)))


def test_a_schedule_that_leads_back_to_the_optimizer_is_copied_from_any_end():
    class Schedule:
        def __call__(self, step):
            return 1.0

    schedule = Schedule()
    groups = [{"params": [np.ones(2)], "lr": schedule}]
    schedule.opt = SGD(groups)
    for root in (groups, groups[0], schedule.opt):
        copied = copy.deepcopy(root)
        if root is schedule.opt:
            groups = copied.param_groups
        else:
            groups = copied if isinstance(copied, list) else [copied]
        opt = groups[0]["lr"].opt
        assert opt.step([[np.ones(2)]]) and not opt.params[0].any()


def test_a_dropped_optimizer_leaves_its_containers_at_once():
    """No cycle keeps the user's arrays until the collector runs."""

    gc.disable()
    try:
        params = weights()
        opt = Adam(params)
        pickle.dumps(opt)
        del opt
        assert len(gc.get_referrers(params)) == 0
    finally:
        gc.enable()
