"""How an optimizer prints, what it does with what is not finite, lists of the twins."""

import copy
import gc
import os
import pickle
import threading
import weakref

import numpy as np
import pytest
from conftest import (
    Snapshot,
    assert_same_bits,
    busiest_options,
    copies,
    every_dtype,
    every_rule,
    shortest,
    training_streams,
)
from optimized import (
    CALLS,
    SHAPES,
    arrays,
    as_dict,
    as_list,
    every_class,
    state_arrays,
)

import optkern
from optkern.kernels.engine import EDGES

# --------------------------------------------------------------------------- repr


def test_repr_says_what_is_not_default():
    text = repr(optkern.Adam(arrays(), lr=0.5, amsgrad=True))
    assert text == "Adam(4 arrays of 18 elements, lr=0.5, amsgrad=True)"
    assert repr(optkern.SGD(np.ones(1234))) == "SGD(1 array of 1,234 elements, lr=0.001)"


def test_repr_of_groups():
    opt = optkern.Adam([{"params": np.ones(3), "lr": 0.5}, {"params": np.ones(2), "eps": 1e-3}])
    lines = repr(opt).splitlines()
    assert lines[0].startswith("Adam(2 arrays of 5 elements")
    assert "lr=0.5" in lines[1] and "eps" not in lines[1]
    assert "lr=0.001" in lines[2] and "eps=0.001" in lines[2]


BAD = (np.nan, np.inf, -np.inf)

bad_values = pytest.mark.parametrize("bad", BAD, ids=str)


# --------------------------------------------------------------------------- not finite


def spoiled(grads, bad, which=1, where=-1):
    grads = copies(grads)
    grads[which].reshape(-1)[where] = bad
    return grads


@bad_values
def test_propagate_is_the_default_and_lets_it_through(bad):
    params = arrays()
    opt = optkern.SGD(params, lr=1.0)
    before = arrays()
    assert opt.step(spoiled(CALLS[0], bad)) is True
    assert not np.isfinite(params[1][-1])
    assert_same_bits(params[1][:-1], before[1][:-1] - CALLS[0][1][:-1])
    assert opt.steps == 1 and opt.skipped_steps == 0


@every_class
@bad_values
def test_skip_does_nothing_and_says_so(cls, bad):
    params, others = arrays(), arrays()
    opt, plain = cls(params, on_nonfinite="skip"), cls(others)
    assert opt.step(CALLS[0]) is True
    plain.step(CALLS[0])
    for k in range(1, 4):
        before = Snapshot(*params, *(a for i in range(4) for a in state_arrays(opt, i)))
        assert opt.step(spoiled(CALLS[k], bad, which=k % 3)) is False
        before.assert_untouched()
        assert opt.steps == 1 and opt.skipped_steps == k
        assert [opt.state[i]["step"] for i in range(4)] == [1] * 4
    assert opt.step(CALLS[1]) is True
    plain.step(CALLS[1])
    assert_same_bits(params, others)


@bad_values
@pytest.mark.parametrize("named", (False, True))
def test_raise_names_the_parameter(bad, named):
    structure = as_dict if named else as_list
    params = arrays()
    opt = optkern.Adam(structure(params), on_nonfinite="raise")
    opt.step(structure(CALLS[0]))
    before = Snapshot(*params)
    label = "'w1'" if named else "1"
    with pytest.raises(ValueError, match=f"gradient of parameter {label} holds NaN or inf"):
        opt.step(structure(spoiled(CALLS[1], bad)))
    before.assert_untouched()
    assert opt.steps == 1 and opt.skipped_steps == 0
    assert opt.step(structure(CALLS[1])) is True


@every_dtype
@pytest.mark.parametrize("size", (1, 2, 15, 16, 17, 511, 513, 20_000, 100_003))
def test_not_finite_is_found_wherever_it_stands(dtype, size):
    opt = optkern.SGD(np.zeros(size, dtype), on_nonfinite="skip")
    g = np.full(size, np.finfo(dtype).max, dtype)
    assert opt.step(g) is True
    for where in {0, 1 % size, size // 2, size - 1}:
        for bad in BAD:
            g[where] = bad
            assert opt.step(g) is False
            assert opt.step(np.repeat(g, 2)[::2]) is False
        g[where] = 0
    assert opt.step(g) is True


def test_not_finite_in_a_gradient_that_is_cast():
    """What counts is what would be used: 1e300 is infinite in float32."""
    opt = optkern.SGD(np.zeros(2, np.float32), on_nonfinite="skip")
    assert opt.step(np.array([0.0, 1e300])) is False
    assert opt.step(np.array([0.0, 1e30])) is True


def test_on_nonfinite_may_be_changed():
    opt = optkern.SGD(np.zeros(2))
    for word, result in (("skip", False), ("propagate", True)):
        opt.on_nonfinite = word
        assert opt.step(np.array([0.0, np.nan])) is result
    with pytest.raises(ValueError, match="on_nonfinite must be one of propagate, skip, raise"):
        opt.on_nonfinite = "ignore"
    assert opt.on_nonfinite == "propagate"


# --------------------------------------------------------------------------- twins with lists


@every_rule
@pytest.mark.parametrize("place", (optkern.kernels, optkern.reference), ids=("kernel", "reference"))
@pytest.mark.parametrize("kind", (list, tuple))
def test_twins_take_lists(rule, place, kind):
    for options in busiest_options(rule):
        streams = [training_streams(np.float64, 2 + len(rule.state), s) for s in SHAPES]
        lists = [kind(copies(x)) for x in zip(*streams, strict=True)]
        assert getattr(place, rule.name)(*lists, step=1, **options) is None
        for one in streams:
            getattr(optkern.reference, rule.name)(*one, step=1, **options)
        assert_same_bits(list(lists[0]), [one[0] for one in streams])


@every_rule
def test_twins_take_state_by_name(rule):
    options = busiest_options(rule)[1]
    streams = training_streams(np.float64, 2 + len(rule.state), (3, 4))
    expected = copies(streams)
    getattr(optkern.reference, rule.name)(*expected, step=1, **options)
    for place in (optkern.kernels, optkern.reference):
        p, g, *state = copies(streams)
        named = dict(zip(rule.state, state, strict=True))
        getattr(place, rule.name)(g=g, p=p, **named, **shortest(rule, options))
        assert_same_bits([p, *state], [expected[0], *expected[2:]])


def test_keywords_of_a_class_in_a_group():
    """As in torch.optim, the class's further keywords may differ between groups."""
    p, q = np.ones(2), np.ones(2)
    opt = optkern.Adagrad([{"params": p, "initial_accumulator_value": 4.0}, {"params": q}])
    assert opt.state[0]["sum"][0] == 4 and opt.state[1]["sum"][0] == 0
    opt = optkern.Adam([{"params": p, "decoupled_weight_decay": True}, {"params": q}])
    assert [group["decay_form"] for group in opt.param_groups] == ["decoupled", "l2"]
    with pytest.raises(ValueError, match="Adam: group 1: decoupled_weight_decay"):
        optkern.Adam([{"params": p}, {"params": q, "decoupled_weight_decay": 1}])


def test_numpy_scalar_as_the_gradient_of_a_scalar_parameter():
    """What np.sum gives for the gradient of a 0-d parameter."""
    p = np.array(1.0)
    assert optkern.SGD(p, lr=0.5).step(np.ones(3).sum())
    assert p == -0.5
    with pytest.raises(ValueError, match="shape"):
        optkern.SGD(np.ones(3)).step(np.float64(1.0))


def test_rebind_takes_names_in_any_order_and_groups():
    p = {"a": np.ones(2), "b": np.ones(3)}
    opt = optkern.SGD(p, lr=1.0)
    new = {"b": np.zeros(3), "a": np.zeros(2)}
    opt.rebind(new)
    opt.step({"a": np.ones(2), "b": 2 * np.ones(3)})
    assert new["a"][0] == -1 and new["b"][0] == -2 and p["a"][0] == 1
    opt = optkern.SGD([{"params": np.ones(2)}, {"params": [np.ones(3)], "lr": 0.5}])
    new = [{"params": np.zeros(2)}, {"params": [np.zeros(3)]}]
    opt.rebind(new)
    opt.step([np.ones(2), [np.ones(3)]])
    assert new[1]["params"][0][0] == -0.5


def test_state_saved_between_the_switch_to_momentum_and_its_first_step():
    p, q = np.ones(2), np.ones(2)
    one, two = optkern.SGD(p, lr=0.1), optkern.SGD(q, lr=0.1)
    for opt in (one, two):
        opt.step(np.ones(2))
        opt.param_groups[0].update(momentum=0.9, dampening=0.5)
    three = optkern.SGD(q, lr=0.1)
    three.load_state_dict(two.state_dict())
    for _ in range(2):
        one.step(np.ones(2))
        three.step(np.ones(2))
    assert p.tobytes() == q.tobytes()


@pytest.mark.parametrize("place", (0, 1, 2))
def test_groups_without_parameters(place):
    """Anywhere, and many: each has hyperparameters all the same."""
    p = np.ones(2)
    groups = [{"params": [], "lr": 9.0}] * 300
    groups.insert((0, 150, 300)[place], {"params": [p], "lr": 0.5})
    opt = optkern.SGD(groups)
    opt.param_groups[-1]["lr"] = 0.5
    grads = [[] if not group["params"] else [np.ones(2)] for group in groups]
    assert opt.step(grads) and p[0] == 0.5
    opt.load_state_dict(opt.state_dict())


def test_one_optimizer_in_several_threads_at_once():
    """A step that finds another under way is refused; what ran has run whole."""
    size = 2_000_000
    p = np.zeros(size, np.float32)
    opt = optkern.SGD(p, lr=1.0, num_threads=1)
    g = np.ones(size, np.float32)
    refused, start = [], threading.Barrier(4)

    def work():
        start.wait()
        for _ in range(20):
            try:
                opt.step(g)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opt.state[0]["step"] == 80 - len(refused)
    assert (p == -(80 - len(refused))).all()
    assert all("one step at a time" in text for text in refused)


def test_step_within_a_step():
    class Meddling(np.ndarray):
        @property
        def shape(self):
            opt.step(np.ones(3))
            return (3,)

    p = np.ones(3)
    opt = optkern.SGD(p, lr=1.0)
    with pytest.raises(RuntimeError, match="one step at a time"):
        opt.step(np.ones(3).view(Meddling))
    assert (p == 1).all()
    assert opt.step(np.ones(3)) and (p == 0).all()


def test_dropped_optimizer_is_freed_at_once():
    opt = optkern.Adam(np.ones(3))
    seen = weakref.ref(opt)
    group = opt.param_groups[0]
    gc.disable()
    try:
        del opt
        assert seen() is None
    finally:
        gc.enable()
    with pytest.raises(ReferenceError, match="optimizer is gone"):
        group["lr"] = 0.1


def test_subclass_of_a_users_own():
    class Mine(optkern.Adam):
        """With a word of its own."""

        def step(self, grads):
            return super().step([g * 2 for g in grads])

    p, q = np.ones(3), np.ones(3)
    Mine([p], lr=0.1).step([np.ones(3)])
    optkern.Adam([q], lr=0.1).step([2 * np.ones(3)])
    assert p.tobytes() == q.tobytes()
    assert optkern.optimizers.CLASSES["adam"] is optkern.Adam
    with pytest.raises(TypeError, match=r"optkern\.Adam"):
        optkern.Optimizer([p])
    with pytest.raises(TypeError, match="derive from the class of a rule"):
        type("Nothing", (optkern.Optimizer,), {})


def test_hyperparameters_are_not_set_on_the_optimizer_in_vain():
    opt = optkern.Adam(np.ones(3))
    for name in ("lr", "betas", "amsgrad"):
        with pytest.raises(AttributeError, match=rf"param_groups\[0\]\['{name}'\]"):
            setattr(opt, name, 1.0)
        with pytest.raises(AttributeError, match="param_groups"):
            getattr(opt, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clip_nrom", "did you mean opt.clip_norm"),
        ("emadecay", "did you mean opt.ema_decay"),
        ("weight_dacay", r"did you mean opt.param_groups\[0\]\['weight_decay'\]"),
        ("learning_rate", r"did you mean opt.param_groups\[0\]\['lr'\]"),
        ("speed", "there are opt.num_threads, .*opt.ema_decay, opt.param_groups.*'lr'"),
        ("", "there are opt.num_threads"),
    ],
)
def test_a_misspelt_attribute_is_not_set_in_vain(name, words):
    opt = optkern.Adam(np.ones(3))
    with pytest.raises(AttributeError, match=rf"Adam has no attribute '{name}' to set; {words}"):
        setattr(opt, name, 1.0)
    assert name not in vars(opt)
    with pytest.raises(
        TypeError, match=r"unknown hyperparameter 'wieght_decay'; did you mean weight_decay\?"
    ):
        opt.param_groups[0]["wieght_decay"] = 0.1
    with pytest.raises(AttributeError, match=r"a group's entries: group\['lr'\] = "):
        opt.param_groups[0].lr = 0.1


@every_class
def test_every_public_attribute_can_be_set_on_a_class_of_ones_own(cls):
    opt = cls(np.ones(3))
    opt.step, opt.skipped_steps, opt._mine = opt.step, 3, 4
    for name in ("clip_nrom", "own"):
        with pytest.raises(
            AttributeError, match=f"{cls.__name__} has no attribute '{name}' to set"
        ):
            setattr(opt, name, 1)
    mine = type(cls.__name__, (cls,), {})(np.ones(3))
    mine.own = 5
    again = pickle.loads(pickle.dumps(opt)) if cls is optkern.SGD else copy.deepcopy(mine)
    assert vars(mine)["own"] == 5 and again.steps == 0


def test_the_count_of_steps_is_checked_when_it_is_written():
    opt = optkern.SGD(np.ones(2), lr=lambda step: 0.1 * (step + 1))
    opt.steps = np.int64(3)
    opt.step(np.ones(2))
    assert (opt.steps, opt.params[0][0]) == (4, 1 - 0.4)
    for bad in (-1, 1.0, "3", None, True, 2**53):
        with pytest.raises(ValueError, match="SGD: steps must be an integer >= 0 and < 2"):
            opt.steps = bad
    other = copy.copy(opt)
    other.step(np.ones(2))
    assert (opt.steps, other.steps) == (4, 5)


def test_a_pair_that_holds_a_schedule():
    half, opt = optkern.schedules.Linear(0.9, 0.8, 10), optkern.Adam(np.ones(2))
    for make in (
        lambda pair: optkern.Adam(np.ones(2), betas=pair),
        lambda pair: optkern.Adam([{"params": np.ones(2), "betas": pair}]),
        lambda pair: opt.param_groups[0].update(betas=pair),
    ):
        for pair in ((half, 0.99), [0.9, lambda step: 0.99]):
            with pytest.raises(
                TypeError, match=r"betas must be .*schedules\.Pair\(first, second\)"
            ):
                make(pair)


def failing_rebuilds():
    def amsgrad(opt, p):
        opt.param_groups[0]["amsgrad"] = True

    def load(opt, p):
        donor = optkern.Adam(np.ones(3), lr=7.0, amsgrad=True)
        for _ in range(5):
            donor.step(np.ones(3))
        opt.load_state_dict(donor.state_dict())

    return {"amsgrad": amsgrad, "load": load}


@pytest.mark.parametrize("case", failing_rebuilds())
def test_rebuild_that_fails_changes_nothing(case):
    """A parameter made read-only meanwhile cannot be bound again."""
    p = np.ones(3)
    opt = optkern.Adam(p)
    opt.step(np.ones(3))
    hyper, saved = dict(opt.param_groups[0]), opt.state_dict()
    p.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        failing_rebuilds()[case](opt, p)
    p.flags.writeable = True
    assert dict(opt.param_groups[0]) == hyper
    assert opt.steps == 1 and opt.state[0]["step"] == 1
    twin = optkern.Adam(q := p.copy())
    twin.load_state_dict(saved)
    opt.step(np.ones(3))
    twin.step(np.ones(3))
    assert p.tobytes() == q.tobytes()


def test_schedule_that_fails_when_it_is_written_is_not_kept():
    p = np.ones(3)
    opt = optkern.SGD(p, lr=0.5)
    calls = []

    def moody(step):
        calls.append(step)
        if len(calls) > 1:
            raise ZeroDivisionError
        return 0.1

    with pytest.raises(ZeroDivisionError):
        opt.param_groups[0]["lr"] = moody
    assert opt.param_groups[0]["lr"] == 0.5
    opt.step(np.ones(3))
    assert p[0] == 0.5


def test_momentum_callable_that_begins_at_zero():
    """The first velocity is the gradient itself then too."""
    p, q = np.ones(2), np.ones(2)
    late = optkern.SGD(p, lr=0.1, momentum=lambda step: 0.9 if step >= 2 else 0.0, dampening=0.5)
    plain = optkern.SGD(q, lr=0.1)
    for _ in range(2):
        late.step(np.ones(2))
        plain.step(np.ones(2))
    plain = optkern.SGD(q, lr=0.1, momentum=0.9, dampening=0.5)
    for _ in range(3):
        late.step(np.ones(2))
        plain.step(np.ones(2))
    assert p.tobytes() == q.tobytes()


def test_shallow_copy_keeps_its_own_binding():
    p = np.ones(2)
    opt = optkern.SGD(p, lr=1.0)
    other = copy.copy(opt)
    other.rebind(q := np.zeros(2))
    opt.step(np.ones(2))
    other.step(np.ones(2))
    assert p[0] == 0 and q[0] == -1 and opt.params[0] is p


@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "int8"])
def test_shallow_copy_has_moments_of_its_own(state_dtype):
    """The parameters are shared; shared moments would be moved by both, and counted by each."""
    p = np.ones(300, np.float32)
    opt = optkern.Adam(p, lr=0.1, state_dtype=state_dtype)
    opt.step(np.ones(300, np.float32))
    mine = np.array(np.asarray(opt.state[0]["exp_avg"]))
    other = copy.copy(opt)
    other.step(np.full(300, 5, np.float32))
    assert other.params[0] is p and (opt.steps, other.steps) == (1, 2)
    assert_same_bits([np.asarray(opt.state[0]["exp_avg"])], [mine])
    assert np.asarray(other.state[0]["exp_avg"])[0] != np.asarray(mine)[0]


def test_more_threads_than_work_are_not_started():
    """Three chunks need three threads, whatever was asked for."""
    before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None
    if before is None:
        pytest.skip("needs /proc to count threads")
    size = 3 * EDGES["CHUNK"]
    opt = optkern.SGD(np.ones(size), num_threads=500)
    opt.step(np.ones(size))
    assert len(os.listdir("/proc/self/task")) <= max(before, 1) + 8
