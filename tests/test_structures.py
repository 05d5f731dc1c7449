"""Parameters as people arrange them: nested containers, replaced arrays, groups that come later."""

import collections
import copy
import dataclasses
import itertools
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest

import optkern
from optkern import curvature
from optkern.kernels.structures import Structure


@dataclasses.dataclass
class Layer:
    W: Any
    b: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    W: Any
    inner: Any


@dataclasses.dataclass
class Dense:
    name: str
    W: Any
    units: int
    activation: Any = None
    kernel: tuple = (1,)
    rate: float = dataclasses.field(default=0.5, metadata={"static": True})


class Named(NamedTuple):
    W: Any
    activation: Any


class Pair(NamedTuple):
    W: Any
    b: Any


def ones(*shape):
    return np.ones(shape)


def net(make):
    """Each structure with its names; ``make`` gives its arrays."""
    return {
        "nested dict": (
            {"l1": {"W": make(2, 3), "b": make(3)}, "out": make(1)},
            ["l1.W", "l1.b", "out"],
        ),
        "layers": (
            [{"W": make(2), "b": make(1)}, {}, {"W": make(3)}],
            ["0.W", "0.b", "2.W"],
        ),
        "tuples": ([(make(2), make(1)), (), (make(3), None)], ["0.0", "0.1", "2.0"]),
        "named tuples": ([Pair(make(2), make(1)), Pair(make(2), None)], ["0.W", "0.b", "1.W"]),
        "dataclass": (Layer(make(2)), ["W"]),
        "dataclasses": ({"a": Layer(make(2), make(1)), "f": Frozen(make(1), [make(2)])},
                        ["a.W", "a.b", "f.W", "f.inner.0"]),
        "array beside a dict": ([make(2), {"W": make(1)}], ["0", "1.W"]),
        "None at the top": (
            {"l1": {"W": make(2)}, "l2": None, "a": make(1)}, ["l1.W", "a"],
        ),
        "a layer and None": ([{"W": make(2)}, None, {"W": make(1)}], ["0.W", "2.W"]),
        "an array and None": ([make(2), None, make(1)], [0, 2]),
        "a flat dict and None": ({"a": make(2), "n": None}, ["a"]),
        "deque": (collections.deque([make(2), make(1)]), [0, 1]),
        "UserList": ({"a": collections.UserList([make(2), None])}, ["a.0"]),
        "UserDict": (collections.UserDict(a=make(2)), ["a"]),
        "integers": ({0: {"W": make(2)}, 1: {"W": make(1)}}, ["0.W", "1.W"]),
        "flat integers": ({0: make(2), np.int64(3): make(1), "b": make(1)}, [0, 3, "b"]),
        "settings": (
            [Dense("relu", make(2), 3, np.tanh, (3, 3), 0.1), Dense("id", make(1), 1)],
            ["0.W", "1.W"],
        ),
        "named settings": ([Named(make(2), "relu"), Named(make(1), None)], ["0.W", "1.W"]),
        "lists of lists": ({"W": [make(1), [make(2)]]}, ["W.0", "W.1.0"]),
        "two groups": (
            [{"params": [{"W": make(2)}], "lr": 0.5}, {"params": [{"W": make(1)}, make(2)]}],
            ["0.W", "1.W", "2"],
        ),
    }  # fmt: skip


CASES = list(net(ones))


def gradients(params):
    """Twos in the places of the arrays, of groups without their dicts."""
    groups = isinstance(params, list) and isinstance(params[0], dict) and "params" in params[0]
    return [group["params"] for group in params] if groups else params


def twos(*shape):
    return np.full(shape, 2.0)


@pytest.mark.parametrize("case", CASES)
def test_structures_are_taken_as_they_are(case, tmp_path):
    params, names = net(ones)[case]
    grads = gradients(net(twos)[case][0])
    opt, other = optkern.Adam(params, lr=0.25), optkern.Adam(net(ones)[case][0], lr=0.25)
    assert list(opt.state) == names
    flat = [np.ones(p.shape) for p in opt.params]
    alone = optkern.Adam(flat, lr=0.25)
    if case == "two groups":
        alone = optkern.Adam([{"params": flat[:1], "lr": 0.5}, {"params": flat[1:]}], lr=0.25)
    for _ in range(3):
        assert opt.step(grads)
        given = [np.full(p.shape, 2.0) for p in flat]
        alone.step([given[:1], given[1:]] if case == "two groups" else given)
    for p, q in zip(opt.params, flat):
        np.testing.assert_array_equal(p, q)
    optkern.save(tmp_path / "x", opt)
    optkern.load(tmp_path / "x", other)
    opt.step(grads), other.step(grads)
    for p, q in zip(opt.params, other.params):
        np.testing.assert_array_equal(p, q)
    vector, views = optkern.flatten(params)
    assert vector.size == sum(p.size for p in opt.params)
    assert list(optkern.SGD(views).state) == names
    vector[:] = 7
    assert all((p == 7).all() for p in optkern.SGD(views).params)


def test_partial_load_goes_by_path(tmp_path):
    opt = optkern.Adam({"a": {"W": ones(2)}, "b": {"W": ones(3)}})
    opt.step({"a": {"W": ones(2)}, "b": {"W": ones(3)}})
    optkern.save(tmp_path / "x", opt)
    other = optkern.Adam({"a": {"W": ones(2)}, "c": {"W": ones(3)}})
    report = optkern.load(tmp_path / "x", other, strict=False)
    assert "params/c.W" in report.missing_keys and "params/b.W" in report.unexpected_keys
    np.testing.assert_array_equal(other.params[0], opt.params[0])


def test_flat_names_are_what_they_were():
    assert list(optkern.SGD(Pair(ones(1), ones(2))).state) == [0, 1]
    assert list(optkern.SGD([{"params": ones(1)}, {"params": [ones(1)]}]).state) == [0, 1]
    groups = [{"params": {"W": ones(1), "b": ones(1)}}, {"params": (ones(1), ones(1))}]
    assert list(optkern.SGD(groups).state) == ["W", "b", 2, 3]


@pytest.mark.parametrize(
    "make", [iter, lambda p: {"a": p[0], "b": p[1]}.values()], ids=("iter", "values")
)
def test_iterators(make):
    params = [ones(2), ones(3)]
    opt = optkern.SGD(make(params), lr=1.0)
    opt.step(make([ones(2), ones(3)]))
    assert all((p == 0).all() for p in params)
    opt = optkern.SGD([{"params": make(params)}], lr=1.0)
    opt.step([make([ones(2), ones(3)])])
    assert all((p == -1).all() for p in params)


def test_none_rests_and_none_is_no_parameter():
    params = {"a": Layer(ones(2), None), "b": [ones(1), ones(1)]}
    opt = optkern.Adam(params)
    opt.step({"a": Layer(ones(2)), "b": None})
    assert (params["a"].W < 1).all() and (params["b"][0] == 1).all()
    assert [entry["step"] for entry in opt.state.values()] == [1, 0, 0]
    with pytest.raises(ValueError, match=r"grads of 'a.b' must be None like the parameter"):
        opt.step({"a": Layer(ones(2), ones(1)), "b": None})
    with pytest.raises(TypeError, match="grads must be a dict like the parameters, got NoneType"):
        opt.step(None)


def test_gradients_may_name_a_part():
    params = {"a": {"W": ones(2), "b": ones(1)}, "c": ones(1)}
    opt = optkern.SGD(params, lr=1.0)
    with pytest.raises(ValueError, match=r"grads of 'a' must have.*missing \['b'\]"):
        opt.step({"a": {"W": ones(2)}, "c": ones(1)})
    opt.strict_grads = False
    opt.step({"a": {"W": ones(2)}})
    assert [p.sum() for p in opt.params] == [0, 1, 1]
    with pytest.raises(ValueError, match=r"left over \['w'\]"):
        opt.step({"a": {"w": ones(2)}})
    with pytest.raises(ValueError, match="strict_grads must be True or False, got 1"):
        optkern.SGD(ones(1), strict_grads=1)
    monitor = optkern.Monitor(every=1)
    for _ in range(4):
        opt.step({"a": {"W": ones(2)}})
        monitor.record(loss=1.0, grads={"a": {"W": ones(2)}}, opt=opt)
    assert monitor.looks[-1].gradient_norm == pytest.approx(2**0.5)
    grads = {"a": {"W": ones(2)}}
    opt.zero_grad(grads)
    assert (grads["a"]["W"] == 0).all()
    rows = optkern.SGD({"E": ones(3, 2), "F": ones(2, 2)}, lr=1.0, strict_grads=False)
    rows.step_rows({"E": [1]}, {"E": ones(1, 2)})
    assert rows.params[0].sum() == 4 and rows.params[1].sum() == 4


BAD = {
    "typo of params": ([{"param": ones(2), "lr": 0.1}], TypeError, r"'0.lr'.*group 0 has no 'para"),
    "one without params": ([{"params": ones(1)}, {"W": ones(1)}], TypeError, "group 1 has no 'par"),
    "array among groups": ([{"params": ones(1)}, ones(1)], TypeError, "entry 1 is no dict"),
    "two of one name": ({"a.b": ones(1), "a": {"b": ones(1)}}, ValueError, "have the name 'a.b'"),
    "one array twice": ([Layer(x := ones(1)), Layer(x)], ValueError, "'0.W' and parameter '1.W' o"),
    "a word": ([{"W": ones(1), "name": "dense"}], TypeError, "'0.name' must be a NumPy array"),
    "nested numbers": ({"a": {"W": [1.0, 2.0]}}, TypeError, r"'a.W' must be.*optkern.flatten"),
    "numbers": ([1.0, 2.0], TypeError, r"parameter 0 must be a NumPy array, got float.*np.array"),
    "keys": ({"a": {(0,): ones(1)}}, TypeError, r"'a' has the key \(0,\), neither a name nor an i"),
    "True": ({True: ones(1)}, TypeError, "params has the key True, neither a name nor an integer"),
    "0 and '0'": ({"a": {0: ones(1), "0": ones(1)}}, ValueError, "have the name 'a.0'"),
    "None alone": ({"a": None, "b": [None]}, ValueError, "params is empty"),
    "a float": (Layer(ones(1), 0.5), TypeError, r"'b' must be a NumPy.*metadata=\{.static.: True"),
    "no end": ({"a": itertools.repeat(ones(1))}, ValueError, "'a': an iterator gives more than"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_structures(case):
    params, error, words = BAD[case]
    with pytest.raises(error, match=words):
        optkern.Adam(params)


def test_tables_are_told_the_way():
    pandas = pytest.importorskip("pandas")
    for table in (pandas.Series([1.0, 2.0]), pandas.DataFrame({"a": [1.0, 2.0]})):
        for params in (table, [table], {"w": table}, [{"W": table}]):
            with pytest.raises(TypeError, match=r"\.to_numpy\(\)"):
                optkern.SGD(params)
        with pytest.raises(TypeError, match=r"\.to_numpy\(\)"):
            optkern.flatten([table])
        p = np.array(table.to_numpy())  # as the message has it
        opt = optkern.SGD(p, lr=1.0)
        with pytest.raises(TypeError, match=r"gradient of parameter 0.*\.to_numpy\(\)"):
            opt.step(table)
        assert opt.step(np.array(table.to_numpy())) and (p == 0).all()
    opt = optkern.SGD(ones(2))
    for grads in ([1.0, 2.0], {"W": ones(2)}):
        with pytest.raises(TypeError, match=r"gradient of parameter 0.*optkern\.flatten"):
            opt.step(grads)


# --------------------------------------------------------------------------- replaced arrays


def replace(container, key):
    if isinstance(container, (dict, list)):
        container[key] = container[key] * 2
    else:
        setattr(container, key, getattr(container, key) * 2)


PLACES = {
    "dict": (lambda: {"w": ones(2), "v": ones(1)}, lambda p: replace(p, "w"), "'w'"),
    "list": (lambda: [ones(2), ones(1)], lambda p: replace(p, 0), "0"),
    "nested": (lambda: {"a": {"W": ones(2)}}, lambda p: replace(p["a"], "W"), "'a.W'"),
    "layer": (lambda: [Layer(ones(2))], lambda p: replace(p[0], "W"), "'0.W'"),
    "in a tuple": (lambda: ([ones(2)], ones(1)), lambda p: replace(p[0], 0), "'0.0'"),
    "container": (
        lambda: {"a": {"W": ones(2)}}, lambda p: p.update(a={"W": ones(2)}), "'a.W'",
    ),
    "group": (lambda: [{"params": [ones(2)]}], lambda p: replace(p[0]["params"], 0), "0"),
    "a group's": (lambda: [{"params": ones(2)}], lambda p: p[0].update(params=ones(2)), "0"),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_replaced_array_is_an_error_or_followed(place, tmp_path):
    make, change, name = PLACES[place]
    params = make()
    grads = gradients(copy.deepcopy(params))
    opt = optkern.Adam(params, ema_decay=0.5)
    opt.step(grads)
    optkern.save(tmp_path / "x", opt)
    change(params)
    before = [p.copy() for p in opt.params]
    sam = optkern.SAM(opt)
    for act in (
        lambda: opt.step(grads),
        lambda: sam.step(lambda: (1.0, grads)),
        opt.swap_in,
        lambda: optkern.save(tmp_path / "y", opt),
        lambda: optkern.load(tmp_path / "x", opt),
    ):
        with pytest.raises(ValueError, match=rf"parameter {name} has been replaced.*rebind"):
            act()
    assert opt.steps == 1 and not (tmp_path / "y").exists()
    for p, q in zip(opt.params, before):
        np.testing.assert_array_equal(p, q)
    opt.rebind(params)  # as the message has it
    assert opt.step(grads) and opt.steps == 2

    params = make()
    opt = optkern.Adam(params, follow=True)
    opt.step(grads)
    change(params)
    opt.step(grads)
    now = optkern.SGD(params).params
    assert all(a is b for a, b in zip(opt.params, now))
    assert all(entry["step"] == 2 for entry in opt.state.values())


@pytest.mark.parametrize("value", [[1.0, 2.0], (1.0, 2.0), 1.0, {"a": np.ones(2)}], ids=repr)
def test_what_is_no_array_is_told_how_to_become_one_in_rows_too(value):
    with pytest.raises(TypeError, match=r"np\.array makes|optkern\.flatten makes"):
        optkern.SGD(np.ones(2)).step_rows([0, 1], value)


def test_rows_of_a_replaced_array():
    params = {"E": ones(3, 2)}
    opt = optkern.SGD(params)
    params["E"] = params["E"].copy()
    with pytest.raises(ValueError, match="'E' has been replaced"):
        opt.step_rows({"E": [1]}, {"E": ones(1, 2)})


def test_a_replaced_array_of_another_form_is_not_followed():
    params = {"w": ones(2)}
    opt = optkern.SGD(params, follow=True)
    params["w"] = ones(3)
    with pytest.raises(ValueError, match=r"parameter 'w' must have shape \(2,\)"):
        opt.step({"w": ones(3)})
    del params["w"]
    with pytest.raises(ValueError, match=r"container of the parameters has been changed"):
        opt.step({"w": ones(2)})


def test_what_is_in_place_is_no_replacement():
    params = {"w": ones(2), "v": ones(1)}
    opt = optkern.SGD(params, lr=1.0)
    grads = {"w": ones(2), "v": ones(1)}
    params["w"] *= 2
    params["v"] = params["v"][:]  # another view of the same memory
    params["more"] = "what is no parameter"
    params["w"] = params.pop("w")  # another order
    assert opt.step(grads) and opt.step(grads)
    assert (params["w"] == 0).all() and (params["v"] == -1).all()
    opt.follow = True
    params["w"] = ones(2)
    assert opt.step(grads) and (params["w"] == 0).all()
    opt.follow = False
    params["v"], params["w"] = params["w"][:1], ones(2)
    with pytest.raises(ValueError, match=r"parameter 'w' \(and 1 more\) has been replaced"):
        opt.step(grads)


def test_looking_changes_nothing():
    params = collections.defaultdict(lambda: ones(2), a=ones(2))
    opt = optkern.SGD(params)
    del params["a"]
    with pytest.raises(ValueError, match=r"container of the parameters.*missing \['a'\]"):
        opt.step({"a": ones(2)})
    assert not params


@pytest.mark.parametrize("follow", [False, True])
def test_none_in_the_place_of_a_container(follow):
    params = {"a": {"W": ones(2)}}
    opt = optkern.SGD(params, follow=follow)
    params["a"] = None
    with pytest.raises((TypeError, ValueError), match=r"SGD: parameter 'a.W'"):
        opt.step({"a": {"W": ones(2)}})
    with pytest.raises(TypeError, match=r"SGD: parameter 'a.W' must be a NumPy array, got None"):
        opt.rebind(params)
    params["a"] = {"W": ones(2)}
    opt.rebind(params)
    assert opt.step({"a": {"W": ones(2)}})


class Windows(dict):
    """Gives another view of its arrays at each look."""

    def __getitem__(self, key):
        return dict.__getitem__(self, key)[:]

    def items(self):
        return [(key, self[key]) for key in self]

    def values(self):
        return [self[key] for key in self]

    def get(self, key, default=None):
        return self[key]


def test_entries_that_are_only_viewed():
    import array
    import types

    torch = pytest.importorskip("torch")
    values = {"w": torch.ones(2), "v": array.array("d", [1.0])}
    for params in (values, types.MappingProxyType(values), Windows(w=ones(2), v=ones(1))):
        opt = optkern.SGD(params, lr=0.5)
        grads = {"w": np.ones(2, np.asarray(params["w"]).dtype), "v": ones(1)}
        assert opt.step(grads) and opt.step(grads)
        assert float(params["w"][0]) in (0.0, -1.0)
    opt = optkern.SGD(values)
    values["w"] = torch.ones(2)
    with pytest.raises(ValueError, match="'w' has been replaced"):
        opt.step({"w": np.ones(2, "f4"), "v": ones(1)})


def test_copies_hold_their_own_containers():
    params, grads = {"a": [ones(2)]}, {"a": [ones(2)]}
    opt = optkern.SGD(params, lr=1.0)
    q, other = pickle.loads(pickle.dumps((params, opt)))
    params["a"][0] = ones(2)
    assert other.step(grads) and (q["a"][0] == 0).all()
    q["a"][0] = ones(2)
    with pytest.raises(ValueError, match=r"'a.0' has been replaced"):
        other.step(grads)

    @dataclasses.dataclass
    class Local:  # which cannot be pickled
        W: Any

    opt = optkern.SGD(Local(ones(2)), lr=1.0)
    other = pickle.loads(pickle.dumps(opt))
    assert other.step(Local(ones(2))) and (other.params[0] == 0).all()


def test_rebind_takes_the_new_container():
    old, new = {"w": ones(2)}, {"w": ones(2)}
    opt = optkern.SGD(old, lr=1.0)
    opt.rebind(new)
    old["w"] = ones(2)
    opt.step({"w": ones(2)})
    assert (new["w"] == 0).all()
    new["w"] = ones(2)
    with pytest.raises(ValueError, match="replaced"):
        opt.step({"w": ones(2)})


@pytest.mark.parametrize("make", [optkern.LBFGS, optkern.NewtonLanczos])
def test_solvers(make):
    x = {"a": Layer(np.array([3.0, -2.0])), "b": (np.array([1.0]), None)}

    def closure():
        grads = {"a": Layer(2 * x["a"].W), "b": (2 * x["b"][0], None)}
        return float((x["a"].W ** 2).sum() + (x["b"][0] ** 2).sum()), grads

    solver = make(x)
    x["a"].W = x["a"].W.copy()
    with pytest.raises(ValueError, match=r"'a.W' has been replaced.*rebind"):
        solver.step(closure)
    solver.rebind(x)
    solver.step(closure)
    assert abs(x["a"].W).max() < 1e-3 and abs(x["b"][0]).max() < 1e-3
    with pytest.raises(ValueError, match=r"parameter 'a.W' must have shape"):
        solver.rebind({"a": Layer(ones(3)), "b": x["b"]})


def test_curvature_on_a_structure():
    x = [Layer(np.zeros(2), np.zeros(1)), {"c": np.zeros(1)}]

    def grad(y):
        assert type(y[0]) is Layer
        return [Layer(2 * y[0].W, 2 * y[0].b), {"c": -3 * y[1]["c"]}]

    verdict = curvature.classify(x, grad=grad)
    assert verdict.kind == "saddle"
    assert abs(verdict.escape_direction[1]["c"][0]) == pytest.approx(1)
    assert type(verdict.escape_direction[0]) is Layer


def test_diagnose_says_that_the_container_holds_others():
    p = {"w": ones(3)}
    opt, monitor = optkern.SGD(p, lr=0.1), optkern.Monitor()
    grad = lambda q: {"w": 2 * q["w"]}  # noqa: E731
    for _ in range(5):
        opt.step(grad(p))
        monitor.record(loss=1.0, grads=grad(p), opt=opt)
    p["w"] = p["w"] * 2
    said = monitor.diagnose(p, grad=grad)
    assert said.kind == "inconclusive"
    assert "parameter 'w' has been replaced" in str(said) and "rebind" in str(said)
    opt.rebind(p)
    assert "replaced" not in str(monitor.diagnose(p, grad=grad))


# --------------------------------------------------------------------------- add_param_group


def test_add_param_group_starts_new_state_and_leaves_the_old():
    p, q = {"w": ones(2)}, {"v": ones(3)}
    opt = optkern.Adam(p, lr=0.5, betas=(0.5, 0.5))
    opt.step({"w": ones(2)})
    moment = opt.state["w"]["exp_avg"]
    opt.add_param_group({"params": q, "lr": 0.25})
    assert list(opt.state) == ["w", "v"]
    assert [entry["step"] for entry in opt.state.values()] == [1, 0]
    assert opt.state["w"]["exp_avg"] is moment
    assert [g["lr"] for g in opt.param_groups] == [0.5, 0.25]
    assert opt.param_groups[1]["betas"] == (0.5, 0.5)
    alone, other = (
        optkern.Adam(ones(2), lr=0.5, betas=(0.5, 0.5)),
        optkern.Adam(ones(3), lr=0.25, betas=(0.5, 0.5)),
    )
    alone.step(ones(2))
    opt.step([{"w": ones(2)}, {"v": ones(3)}])
    alone.step(ones(2)), other.step(ones(3))
    np.testing.assert_array_equal(p["w"], alone.params[0])
    np.testing.assert_array_equal(q["v"], other.params[0])
    opt.param_groups[1]["lr"] = 0.125
    opt.step([{"w": None}, {"v": ones(3)}])
    other.param_groups[0]["lr"] = 0.125
    other.step(ones(3))
    np.testing.assert_array_equal(q["v"], other.params[0])
    again = optkern.Adam([{"params": {"w": ones(2)}}, {"params": {"v": ones(3)}}])
    again.load_state_dict(opt.state_dict())
    assert again.param_groups[1]["lr"] == 0.125


@pytest.mark.parametrize(
    "options", [{}, {"ema_decay": 0.5}, {"accumulate": 2}, {"lookahead": (2, 0.5)}]
)
def test_add_param_group_with_options(options):
    opt = optkern.SGD([ones(2)], lr=1.0, momentum=0.5, **options)
    opt.step([ones(2)])
    opt.add_param_group({"params": ones(1)})
    opt.step([[ones(2)], ones(1)])
    pickle.loads(pickle.dumps(opt)).step([[ones(2)], ones(1)])
    assert list(opt.state) == [0, 1]


def test_add_param_group_begins_with_the_rules_start():
    opt = optkern.Adagrad(ones(2), initial_accumulator_value=3.0)
    opt.step(ones(2))
    opt.add_param_group({"params": [ones(1)], "initial_accumulator_value": 5.0})
    assert opt.state[0]["sum"][0] == 4 and opt.state[1]["sum"][0] == 5


REFUSED = {
    "no dict": ([ones(1)], TypeError, "a group must be a dict"),
    "no params": ({"lr": 1.0}, TypeError, "no 'params'"),
    "empty": ({"params": []}, ValueError, "params of group 1 is empty"),
    "name": ({"params": {"w": ones(1)}}, ValueError, "two groups have a parameter 'w'"),
    "hyperparameter": ({"params": ones(1), "lr": -1}, ValueError, "group 1: lr must be"),
    "unknown": ({"params": ones(1), "speed": 1}, TypeError, "group 1: unknown hyperparameter"),
    "integers": ({"params": np.ones(1, int)}, TypeError, "must be float"),
}


@pytest.mark.parametrize("case", [*REFUSED, "the same"])
def test_add_param_group_refuses_as_a_whole(case):
    p = {"w": ones(2)}
    group, error, words = REFUSED.get(case, ({"params": p["w"]}, ValueError, "overlap"))
    opt = optkern.Adam(p, lr=1.0)
    opt.step({"w": ones(2)})
    before = repr(opt), opt.session.plan, opt.session.structure
    with pytest.raises(error, match=words):
        opt.add_param_group(group)
    assert (repr(opt), opt.session.plan, opt.session.structure) == before
    assert opt.step({"w": ones(2)})


def test_add_param_group_while_the_averages_are_in():
    opt = optkern.Adam(ones(2), ema_decay=0.5)
    opt.step(ones(2))
    opt.swap_in()
    with pytest.raises(RuntimeError, match="add_param_group: the averages are in"):
        opt.add_param_group({"params": ones(1)})


def test_the_key_params_alone_decides():
    assert not Structure("x", [{"W": ones(1)}]).grouped
    assert not Structure("x", {"params": {"W": ones(1)}}).grouped
    assert Structure("x", {"params": {"W": ones(1)}}).labels == ["params.W"]
    assert Structure("x", [{"params": {"W": ones(1)}}]).labels == ["W"]


def test_a_group_without_parameters():
    p = np.ones(2)
    opt = optkern.SGD([{"params": None}, {"params": [p]}], lr=1.0)
    assert opt.step([None, [np.ones(2)]]) and (p == 0).all()
    opt.rebind([{"params": None}, {"params": [np.ones(2)]}])
    with pytest.raises(TypeError, match=r"must be an array.* got NoneType"):
        optkern.SGD(None)
