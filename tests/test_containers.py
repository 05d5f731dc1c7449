"""What stands in the parameters' containers beside arrays, and what comes into them later."""

import collections
import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

import optkern
from optkern import curvature


def ones(*shape):
    return np.ones(shape)


@dataclasses.dataclass
class Layer:
    W: Any
    activation: Any = "relu"


RESTING = {
    "None": lambda W, b: {"l1": {"W": W}, "l2": None, "b": b},
    "None in a list": lambda W, b: [{"W": W}, None, b],
    "flat": lambda W, b: {"W": W, "b": b, "n": None},
    "flat list": lambda W, b: [W, None, b],
    "deque": lambda W, b: collections.deque([{"W": W}, b]),
    "UserList": lambda W, b: {"a": collections.UserList([W, b])},
    "integers": lambda W, b: {0: {"W": W}, 1: b},
    "settings": lambda W, b: {"a": Layer(W), "b": Layer(b, np.tanh)},
    "iterator inside": lambda W, b: {"a": iter([W, None]), "b": b},
    "iterators in it": lambda W, b: (iter([x]) for x in (W, b)),
    "view inside": lambda W, b: [{"W": W, "b": b}.values()],
}


def arrays_of(x):
    """The two arrays of a structure, however they lie in it."""
    if isinstance(x, np.ndarray):
        return [x]
    if isinstance(x, collections.abc.Mapping):
        x = list(x.values())
    elif dataclasses.is_dataclass(x):
        x = [x.W]
    return [] if x is None else [a for entry in x for a in arrays_of(entry)]


@pytest.mark.parametrize("case", RESTING)
def test_all_take_what_lies_in_a_container(case, tmp_path):
    make = RESTING[case]

    def grads(x):
        W, b = arrays_of(x)
        return make(4 * W, 2 * b)

    def loss(x):
        W, b = arrays_of(x)
        return float(2 * (W**2).sum() + (b**2).sum())

    def fresh():
        W, b = np.array([3.0, -2.0]), np.array([1.0])
        return W, b, make(W, b)

    def twos():
        return make(np.full(2, 2.0), np.full(1, 2.0))

    W, b, x = fresh()
    opt, monitor = optkern.Adam(x, lr=0.1, ema_decay=0.5), optkern.Monitor(every=1)
    for _ in range(3):
        opt.step(twos())
        monitor.record(loss=1.0, grads=twos(), opt=opt)
    assert monitor.looks[-1].gradient_norm == pytest.approx(12**0.5)
    optkern.save(tmp_path / "x", opt)
    other = optkern.Adam(make(W.copy(), b.copy()), lr=0.1, ema_decay=0.5)
    optkern.load(tmp_path / "x", other)
    again = pickle.loads(pickle.dumps(opt))
    for one in (opt, other, again):
        one.step(twos())
        np.testing.assert_array_equal(opt.params[0], one.params[0])
    np.testing.assert_array_equal(W, opt.params[0])
    with opt.averaged():
        assert opt.averages_are_in
    for solver in (optkern.LBFGS, optkern.NewtonLanczos):
        W, b, x = fresh()
        solver(x).step(lambda W=W, b=b: (loss([W, b]), make(4 * W, 2 * b)))
        assert abs(W).max() < 1e-3 and abs(b).max() < 1e-3
    W, b, x = fresh()
    sam = optkern.SAM(optkern.SGD(x, lr=0.1))
    sam.step(lambda: (loss([W, b]), make(4 * W, 2 * b)))
    assert abs(W[0]) < 3
    x = make(np.zeros(2), np.zeros(1))
    assert curvature.classify(x, grad=grads, loss=loss).kind == "minimum"
    W, b, x = fresh()
    vector, views = optkern.flatten(x)
    np.testing.assert_array_equal(vector, [3, -2, 1])
    vector[:] = 7
    assert [a.tolist() for a in arrays_of(views)] == [[7, 7], [7]]


# --------------------------------------------------------------------------- what comes later

COMING = {
    "dict": (lambda: {"w": ones(2)}, lambda p: p.update(new=ones(3)), "'new'"),
    "nested": (lambda: {"a": {"W": ones(2)}}, lambda p: p["a"].update(b=ones(3)), "'a.b'"),
    "a layer": (lambda: {"a": {"W": ones(2)}}, lambda p: p.update(b={"W": ones(3)}), "'b.W'"),
    "empty": (lambda: {"w": ones(2), "a": {}}, lambda p: p["a"].update(b=ones(3)), "'a.b'"),
    "in None's place": (lambda: {"w": ones(2), "n": None}, lambda p: p.update(n=ones(3)), "'n'"),
    "list": (lambda: [ones(2)], lambda p: p.append(ones(3)), "1"),
    "inner list": (lambda: {"a": [ones(2)]}, lambda p: p["a"].append(ones(3)), "'a.1'"),
    "layers": (lambda: [{"W": ones(2)}], lambda p: p.append({"W": ones(3)}), "'1.W'"),
    "deque": (lambda: collections.deque([ones(2)]), lambda p: p.append(ones(3)), "1"),
    "OrderedDict": (
        lambda: collections.OrderedDict(w=ones(2)), lambda p: p.update(new=ones(3)), "'new'",
    ),
    "UserDict": (lambda: collections.UserDict(w=ones(2)), lambda p: p.update(n=ones(3)), "'n'"),
    "integers": (lambda: {0: ones(2)}, lambda p: p.update({1: ones(3)}), "1"),
    "a field's": (lambda: Layer(ones(2), None), lambda p: vars(p).update(activation=ones(3)),
                  "'activation'"),
    "front": (lambda: [ones(2), ones(2)], lambda p: p.append(ones(3)), "2"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMING)
def test_an_array_that_comes_later_is_an_error_or_followed(case, tmp_path):
    make, change, name = COMING[case]
    params = make()
    grads = copy.deepcopy(params)
    opt = optkern.Adam(params, ema_decay=0.5)
    opt.step(grads)
    before = opt.params[0].copy()
    change(params)
    new = [a for a in arrays_of(params) if a.size == 3] or [params.activation]
    for act in (
        lambda: opt.step(grads),
        opt.swap_in,
        lambda: optkern.save(tmp_path / "y", opt),
        lambda: optkern.SAM(opt).step(lambda: (1.0, grads)),
    ):
        with pytest.raises(ValueError, match=rf"parameter {name} has come into.*add_param_group"):
            act()
    assert opt.steps == 1
    np.testing.assert_array_equal(opt.params[0], before)
    opt.add_param_group({"params": {"another": new[0]}})  # as the message has it
    assert opt.step([grads, {"another": ones(3)}])
    assert (new[0] < 1).all()

    params = make()
    opt = optkern.Adam(params)
    change(params)
    with pytest.raises(ValueError, match="leave it out with rebind"):
        opt.step(grads)
    opt.rebind(params)
    assert opt.step(grads) and opt.step(grads)

    params = make()
    opt = optkern.Adam(params, follow=True, ema_decay=0.5)
    opt.step(grads)
    change(params)
    new = [a for a in arrays_of(params) if a.size == 3] or [params.activation]
    assert opt.step(copy.deepcopy(params))
    assert (new[0] < 1).all() and new[0] is opt.params[-1]
    assert sorted(entry["step"] for entry in opt.state.values())[0] == 1
    alone = optkern.Adam(ones(3), ema_decay=0.5)
    alone.step(ones(3))
    np.testing.assert_array_equal(new[0], alone.params[0])
    state = opt.state[next(k for k, p in zip(opt.state, opt.params) if p is new[0])]
    np.testing.assert_array_equal(state["ema"], alone.state[0]["ema"])


def test_what_comes_and_is_no_parameter():
    params = {"w": ones(2), "l": {"W": ones(1)}}
    opt = optkern.SGD(params, lr=1.0)
    grads = {"w": ones(2), "l": {"W": ones(1)}}
    params["count"], params["name"], params["label"] = 3, "net", np.arange(3)
    params["view"] = params["w"][:1]
    params["self"] = params
    assert opt.step(grads) and opt.step(grads)


def test_what_was_left_out_stays_out():
    params = {"w": ones(2)}
    opt = optkern.SGD(params, lr=1.0)
    params["cache"] = ones(3)
    opt.rebind(params)
    params["w"] = params["w"][:]  # looked at anew
    assert opt.step({"w": ones(2)})
    params["other"] = ones(1)
    with pytest.raises(ValueError, match="parameter 'other' has come"):
        opt.step({"w": ones(2)})
    with pytest.raises(ValueError, match="parameter 'other' has come"):
        opt.add_param_group({"params": {"more": ones(4)}})
    with pytest.raises(ValueError, match="parameter 'other' has come"):
        opt.step({"w": ones(2)})
    assert (params["other"] == 1).all() and len(opt.params) == 1


def test_two_that_come_and_a_replaced_one_are_followed():
    params = {"w": ones(2), "v": ones(1)}
    opt = optkern.SGD(params, lr=1.0, momentum=0.5, follow=True)
    opt.step({"w": ones(2), "v": ones(1)})
    params["a"], params["w"], params["b"] = ones(3), ones(2), ones(4)
    grads = {k: np.ones(p.shape) for k, p in params.items()}
    opt.step(grads)
    assert params["w"].tolist() == [-0.5] * 2 and params["a"].tolist() == [0] * 3
    assert params["v"].tolist() == [-1.5] and params["b"].tolist() == [0] * 4
    assert list(opt.state) == ["w", "v", "a", "b"]


def test_lists_that_moved_up_are_no_growth():
    params = [ones(2), ones(2)]
    opt = optkern.SGD(params, lr=1.0, follow=True)
    params.insert(0, ones(2))
    with pytest.raises(ValueError, match=r"parameter 0 \(and 1 more\).*at its end alone"):
        opt.step([ones(2)] * 3)
    assert all((p == 1).all() for p in params) and opt.steps == 0


@pytest.mark.parametrize("follow", [False, True])
def test_what_goes_is_an_error(follow):
    for params, change, grads in (
        ({"w": ones(2), "v": ones(1)}, lambda p: p.pop("v"), {"w": ones(2), "v": ones(1)}),
        ({"w": ones(2), "v": ones(1)}, lambda p: p.pop("v"), {"w": ones(2)}),
        ([ones(2), ones(1)], list.pop, [ones(2), ones(1)]),
        ([{"params": [ones(2)]}, {"params": [ones(1)]}], list.pop, [[ones(2)], [ones(1)]]),
    ):
        opt = optkern.SGD(params, follow=follow)
        change(params)
        with pytest.raises(ValueError, match="container of the parameters has been changed"):
            opt.step(grads)
        assert opt.steps == 0


def test_a_group_that_comes_later():
    params = [{"params": [ones(2)]}]
    opt = optkern.SGD(params, lr=1.0)
    params.append({"params": [ones(1)], "lr": 0.5})
    with pytest.raises(ValueError, match=r"parameter 'group 1.*' has come.*add_param_group"):
        opt.step([[ones(2)]])
    opt.add_param_group(params[1])
    assert opt.step([[ones(2)], [ones(1)]]) and params[1]["params"][0] == 0.5


@pytest.mark.parametrize("make", [optkern.LBFGS, optkern.NewtonLanczos])
def test_solvers_say_what_has_come(make):
    x = {"w": ones(2)}
    solver = make(x)
    x["new"] = ones(1)
    closure = lambda: (float((x["w"] ** 2).sum()), {"w": 2 * x["w"]})  # noqa: E731
    with pytest.raises(ValueError, match=r"parameter 'new' has come.*rebind\(params\)"):
        solver.step(closure)
    solver.rebind(x)
    solver.step(closure)
    assert abs(x["w"]).max() < 1e-3


def test_diagnose_says_what_has_come():
    p = {"w": ones(3)}
    opt, monitor = optkern.SGD(p, lr=0.1), optkern.Monitor()
    grad = lambda q: {"w": 2 * q["w"]}  # noqa: E731
    for _ in range(5):
        opt.step(grad(p))
        monitor.record(loss=1.0, grads=grad(p), opt=opt)
    p["new"] = ones(2)
    assert "parameter 'new' has come into" in str(monitor.diagnose(p, grad=grad))


# --------------------------------------------------------------------------- in themselves


def loops():
    p, q, r = {"W": ones(1)}, [ones(1)], {"a": [{"W": ones(1)}]}
    p["self"], r["a"][0]["up"] = p, r
    q.append(q)
    layer = Layer(ones(1))
    layer.activation = [layer]
    groups = [{"params": {"W": ones(1)}}]
    groups[0]["params"]["net"] = groups[0]["params"]
    return {"dict": p, "list": q, "far": r, "dataclass": layer, "groups": groups}


@pytest.mark.parametrize("case", loops())
def test_what_contains_itself_is_said(case, tmp_path):
    x = loops()[case]
    for take in (
        optkern.SGD,
        optkern.LBFGS,
        optkern.flatten,
        lambda x: curvature.classify(x, grad=lambda y: y),
        lambda x: optkern.SGD(ones(1)).add_param_group({"params": x}),
        lambda x: optkern.Monitor().record(loss=1.0, grads=x),
    ):
        with pytest.raises(ValueError, match=r"contains itself: it is the (dict|list|Layer) that"):
            take(x)


def test_extra_that_contains_itself_is_said(tmp_path):
    extra = {"a": []}
    extra["a"].append(extra)
    with pytest.raises(ValueError, match=r"itself|deep"):
        optkern.save(tmp_path / "x", optkern.SGD(ones(1)), extra=extra)


def test_without_end_is_said():
    class Endless(collections.UserDict):
        def __init__(self):
            self.data = {"a": None}

        def __getitem__(self, key):
            return Endless()

        def values(self):
            return [Endless()]

    with pytest.raises(ValueError, match="containers deep"):
        optkern.SGD(Endless())


@pytest.mark.parametrize("cls", (optkern.NAdam, optkern.ScheduleFreeSGD), ids=lambda c: c.__name__)
def test_what_is_handed_from_step_to_step_begins_for_an_array_that_comes(cls):
    params, alone = {"a": np.ones(3)}, np.ones(2)
    opt, other = cls(params, lr=0.01, follow=True), cls(alone, lr=0.01)
    opt.step({"a": np.ones(3)})
    params["b"] = np.ones(2)
    for _ in range(3):
        opt.step({"a": np.ones(3), "b": np.ones(2)})
        other.step(np.ones(2))
    assert params["b"].tobytes() == alone.tobytes()
