"""Writes into an optimizer's state, resets, the last partial window, gradients set to zero."""

import array
import copy
import pickle
import threading

import numpy as np
import pytest
from conftest import Snapshot, assert_same_bits, possible

import optkern
from optkern.kernels import rules
from optkern.optimizers import CLASSES

every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)


def trained(cls, steps=3, **options):
    params = {"W": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.ones(2)}
    opt = cls(params, lr=0.01, **options)
    for k in range(steps):
        opt.step({name: np.sin(p + k) for name, p in params.items()})
    return params, opt


# --------------------------------------------------------------------------- writes


@every_class
def test_a_written_entry_is_what_the_next_step_uses(cls):
    """The same as a load of a state dict with that entry."""
    params, opt = trained(cls, **({"momentum": 0.9} if cls.rule.name == "sgd" else {}))
    other = copy.deepcopy(opt)
    saved = other.state_dict()
    for slot in saved["state"]["W"]:
        if slot in cls.rule.state:
            saved["state"]["W"][slot] = np.full((2, 3), 0.25)
            opt.state["W"][slot] = np.full((2, 3), 0.25)
    saved["state"]["W"]["step"] = opt.state["W"]["step"] = 7
    other.load_state_dict(saved)
    for which in (opt, other):
        which.step({"W": np.ones((2, 3)), "b": np.ones(2)})
    assert opt.state["W"]["step"] == 8 and opt.state["b"]["step"] == 4
    assert_same_bits([params["W"], params["b"]], other.params)


def test_a_whole_entry_and_several():
    _, opt = trained(optkern.Adam)
    zeros = np.zeros((2, 3))
    opt.state["W"] = {"exp_avg": zeros, "exp_avg_sq": zeros, "step": 0}
    assert opt.state["W"]["step"] == 0 and not opt.state["W"]["exp_avg"].any()
    opt.state["b"].update(step=9, exp_avg=np.ones(2))
    opt.state["b"] |= {"exp_avg_sq": np.ones(2)}
    entry = opt.state["b"]
    assert entry["step"] == 9 and entry["exp_avg"].tolist() == entry["exp_avg_sq"].tolist() == [
        1,
        1,
    ]


def test_what_is_written_is_a_copy_and_the_view_shows_it():
    _, opt = trained(optkern.Adam)
    state, mine = opt.state, np.full(2, 0.5)
    state["b"]["exp_avg"] = mine
    assert state["b"]["exp_avg"].tolist() == [0.5, 0.5] and state["b"]["exp_avg"] is not mine
    state["b"]["exp_avg"][0] = 2.0  # live
    assert opt.state["b"]["exp_avg"].tolist() == [2.0, 0.5] and mine[0] == 0.5


def test_compact_state_takes_values_and_codes():
    p = np.ones(300, np.float32)
    opt = optkern.Adam(p, state_dtype="int8")
    opt.step(np.linspace(-1, 1, 300, dtype=np.float32))
    before = opt.state[0]["exp_avg"].copy()
    opt.state[0]["exp_avg"] = np.full(300, 0.5, np.float32)
    np.testing.assert_allclose(np.asarray(opt.state[0]["exp_avg"]), 0.5, rtol=1e-4)
    opt.state[0]["exp_avg"] = before
    assert_same_bits(np.asarray(opt.state[0]["exp_avg"]), np.asarray(before))
    with pytest.raises(ValueError, match=r"exp_avg_sq of parameter 0 must be Compact\(int8"):
        opt.state[0]["exp_avg_sq"] = before
    with pytest.raises(ValueError, match=r"shape \(300,\), got \(3,\)"):
        opt.state[0]["exp_avg"] = np.ones(3, np.float32)


BAD = {
    "shape": ("exp_avg", np.ones(3), ValueError, "Adam.state: exp_avg of parameter 'W' must have"),
    "dtype": ("exp_avg", np.ones((2, 3), np.float32), ValueError, "dtype float64 like its"),
    "list": ("exp_avg", [[0.0] * 3] * 2, TypeError, "must be a NumPy array"),
    "name": ("exp_agv", np.ones((2, 3)), ValueError, "has no 'exp_agv'; did you mean exp_avg"),
    "no place": ("max_exp_avg_sq", np.ones((2, 3)), ValueError, "has no 'max_exp_avg_sq'"),
    "count": ("step", -1, ValueError, "step of parameter 'W' must be an integer >= 0"),
    "no count": ("step", 1.5, ValueError, "got 1.5"),
    "held": ("accumulator", np.ones((2, 3)), ValueError, "has accumulated no gradients"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_write_changes_nothing(case):
    name, value, error, words = BAD[case]
    _, opt = trained(optkern.Adam)
    before = Snapshot(*opt.params, *(a for e in opt.state.values() for a in e.values()))
    with pytest.raises(error, match=words):
        opt.state["W"].update({"step": 1, name: value})
    assert opt.state["W"]["step"] == 3
    before.assert_untouched()


@pytest.mark.parametrize(
    ("name", "slot"), (("ScheduleFreeSGD", "z"), ("ScheduleFreeAdamW", "z"), ("Prodigy", "p0"))
)
def test_what_begins_as_the_weights_is_not_written_before_the_first_step(name, slot):
    """The first step wrote over it with the weights, and the view showed them at once."""
    p = np.ones((2, 3))
    opt = getattr(optkern, name)(p)
    mine = np.full((2, 3), 0.25)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"begins '{slot}' as the weights"):
            opt.state[0][slot] = mine
        assert_same_bits(opt.state[0][slot], p)
        opt.state[0][slot] = p.copy()
        opt.step(np.ones((2, 3)))
        opt.state[0]["step"] = 0
    opt.state[0].update({"step": 4, slot: mine})
    assert_same_bits(opt.state[0][slot], mine)


def test_what_would_vanish_is_refused():
    _, opt = trained(optkern.Adam)
    for write in (
        lambda: opt.state.pop("W"),
        lambda: opt.state.popitem(),
        lambda: opt.state.setdefault("c", {}),
        lambda: opt.state["W"].pop("step"),
        lambda: opt.state["W"].clear(),
        lambda: opt.state["W"].__delitem__("exp_avg"),
    ):
        with pytest.raises(TypeError, match=r"opt.reset\(names\)"):
            write()
    with pytest.raises(KeyError, match="no parameter 'w'"):
        opt.state["w"] = {"step": 0}
    with pytest.raises(TypeError, match="state of parameter 'W' must be a dict, got int"):
        opt.state["W"] = 3
    assert opt.state["W"]["step"] == 3


def test_no_write_while_averages_are_in():
    _, opt = trained(optkern.Adam, ema_decay=0.9)
    with opt.averaged():
        for write in (lambda: opt.state["W"].update(step=0), opt.reset, opt.state.clear):
            with pytest.raises(RuntimeError, match="call swap_out first"):
                write()
    assert opt.state["W"]["step"] == 3


def test_views_copy_as_plain_dicts():
    _, opt = trained(optkern.Adam)
    for plain in (pickle.loads(pickle.dumps(opt.state)), copy.deepcopy(opt.state)):
        assert type(plain) is dict and type(plain["W"]) is dict and plain["W"]["step"] == 3


# --------------------------------------------------------------------------- reset


@every_class
@pytest.mark.parametrize("how", ("reset", "clear", "del"))
def test_after_a_reset_training_goes_as_from_the_start(cls, how):
    options = {"adagrad": {"initial_accumulator_value": 0.5}, "sgd": {"momentum": 0.9}}
    options = options.get(cls.rule.name, {})
    options |= possible(cls.rule, {"accumulate": 2, "lookahead": (2, 0.5), "ema_decay": 0.5})
    params, opt = trained(cls, **options)
    if how == "reset":
        opt.reset()
    elif how == "clear":
        opt.state.clear()
    else:
        for label in list(opt.state):
            del opt.state[label]
    fresh = {name: p.copy() for name, p in params.items()}
    other = cls(fresh, lr=0.01, **options)
    for k in range(4):
        grads = {name: np.cos(p + k) for name, p in params.items()}
        assert opt.step(grads) == other.step({n: g.copy() for n, g in grads.items()})
    assert_same_bits(list(params.values()), list(fresh.values()))
    for label, entry in other.state.items():
        for slot, value in entry.items():
            assert_same_bits(np.asarray(opt.state[label][slot], float), np.asarray(value, float))


def test_a_reset_of_some_leaves_the_others_and_the_schedules():
    _, opt = trained(optkern.NAdam)
    kept = opt.state["b"]["exp_avg"].copy()
    opt.reset("W")
    assert opt.state["W"]["step"] == 0 and opt.state["W"]["mu_product"] == 1.0
    assert not opt.state["W"]["exp_avg"].any()
    assert opt.state["b"]["step"] == 3 and opt.steps == 3
    assert_same_bits(opt.state["b"]["exp_avg"], kept)
    opt.reset(["b"])
    assert opt.state["b"]["step"] == 0
    listed = optkern.Adam([np.ones(2), np.ones(2)])
    listed.step([np.ones(2), np.ones(2)])
    listed.reset(1)
    assert [listed.state[k]["step"] for k in (0, 1)] == [1, 0]


def test_a_reset_of_nobody():
    _, opt = trained(optkern.Adam)
    with pytest.raises(KeyError, match=r"Adam\.reset: there is no parameter 'w'; did you mean W\?"):
        opt.reset(["b", "w"])
    with pytest.raises(KeyError, match="there is no parameter 2"):
        opt.reset(2)
    with pytest.raises(TypeError, match="names must be None, or names or positions"):
        opt.reset(0.5)
    assert opt.state["b"]["step"] == 3


# --------------------------------------------------------------------------- the last window


@pytest.mark.parametrize("form", ("mean", "sum"))
@every_class
def test_flush_takes_the_update_of_the_calls_there_were(cls, form):
    """As if the window had been that long."""
    calls = [np.linspace(-1, 1, 5) * k for k in (1, 2, 3)]
    options = {"lr": 0.1, "clip_norm": 1.0, "accumulate_form": form, "ema_decay": 0.5}
    options = possible(cls.rule, options)
    p, q = np.ones(5), np.ones(5)
    opt, other = cls(p, accumulate=8, **options), cls(q, accumulate=3, **options)
    assert [opt.step(g) for g in calls] == [False] * 3
    assert opt.flush() and [other.step(g) for g in calls] == [False, False, True]
    assert_same_bits(p, q)
    if "ema_decay" in options:
        assert_same_bits(opt.state[0]["ema"], other.state[0]["ema"])
    assert opt.steps == other.steps == 1 and opt.accumulate == 8
    assert not opt.flush() and opt.steps == 1
    assert [opt.step(g) for g in calls] == [False] * 3  # a whole window again


def test_flush_of_parts_and_of_bad_sums():
    p = {"a": np.zeros(1), "b": np.zeros(1)}
    opt = optkern.SGD(p, lr=1.0, accumulate=4, accumulate_form="sum")
    opt.step({"a": np.array([1e308]), "b": None})
    opt.step({"a": np.array([1e308]), "b": None})
    opt.on_nonfinite = "skip"
    assert not opt.flush() and opt.skipped_steps == 1 and not p["a"].any()
    assert opt.state_dict()["accumulated"] == 2
    opt.on_nonfinite = "raise"
    with pytest.raises(ValueError, match="gradient of parameter 'a' holds NaN or inf"):
        opt.flush()
    opt.reset()
    opt.step({"a": np.array([2.0]), "b": None})
    assert opt.flush() and p["a"][0] == -2 and p["b"][0] == 0
    assert opt.state["a"]["step"] == 1 and opt.state["b"]["step"] == 0


def test_flush_runs_the_schedules_and_is_refused_on_averages():
    p = np.zeros(1)
    opt = optkern.SGD(p, lr=lambda step: 1.0 + step, accumulate=2, ema_decay=0.5)
    opt.step(np.ones(1)), opt.step(np.ones(1)), opt.step(np.ones(1))
    opt.flush()
    assert p[0] == -1 - 2
    opt.step(np.ones(1))
    with opt.averaged(), pytest.raises(RuntimeError, match="swap_out"):
        opt.flush()
    assert opt.flush()


# --------------------------------------------------------------------------- zero_grad


def test_zero_grad_is_an_option_and_torchs_method():
    p, g = [np.ones(2), np.ones(3)], [np.ones(2), None]
    opt = optkern.SGD(p)
    assert not opt.zero_grad and repr(opt.zero_grad) == "False"
    with pytest.raises(TypeError, match=r"SGD.zero_grad: .* opt.zero_grad\(grads\)"):
        opt.zero_grad()
    opt.zero_grad(g)
    assert not g[0].any()
    opt.zero_grad = True
    assert opt.zero_grad == True  # noqa: E712 - as an option it compares as one
    g[0][:] = 1
    opt.step(g)
    opt.zero_grad()
    assert not g[0].any() and opt.state_dict()["options"] == {"zero_grad": True}
    frozen = np.ones(3)
    frozen.flags.writeable = False
    g = [np.ones(2), frozen]
    with pytest.raises(ValueError, match="gradient of parameter 1 is read-only"):
        opt.zero_grad(g)
    assert g[0].all()


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_a_skipped_gradient_of_another_library_is_zeroed(bad):
    g = array.array("d", [1.0, bad, 1.0])
    opt = optkern.SGD(np.zeros(3), zero_grad=True, on_nonfinite="skip")
    assert not opt.step(g) and opt.skipped_steps == 1
    assert list(g) == [0, 0, 0]


def elsewhere(act):
    """What an action raises in another thread, or None."""
    raised = []

    def run():
        try:
            act()
            raised.append(None)
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0]


def test_no_step_is_lost_between_a_states_reading_and_its_writing(monkeypatch):
    said = []
    opt = optkern.Adam(np.zeros(3), lr=1.0)
    opt.step(np.ones(3))
    new_state = opt.session.new_state

    def watched(slot, array, group):
        said.append(elsewhere(lambda: opt.step(np.ones(3))))
        return new_state(slot, array, group)

    monkeypatch.setattr(opt.session, "new_state", watched)
    opt.state[0]["exp_avg"] = np.zeros(3)
    opt.reset()
    assert said and all("is under way already" in str(words) for words in said)
    assert opt.steps == 1


def test_a_flush_finds_a_replaced_array_or_follows_it():
    for follow in (False, True):
        params = {"w": np.zeros(2)}
        opt = optkern.SGD(params, lr=1.0, accumulate=2, follow=follow)
        opt.step({"w": np.ones(2)})
        trained, params["w"] = params["w"], np.full(2, 5.0)
        if follow:
            assert opt.flush() and np.array_equal(params["w"], [4.0, 4.0])
        else:
            with pytest.raises(ValueError, match=r"'w' has been replaced.*rebind"):
                opt.flush()
        assert not trained.any()


def test_a_frozen_branch_may_become_none():
    params = {"w": np.ones(2), "frozen": {"x": None}}
    opt = optkern.SGD(params, lr=1.0)
    params["frozen"] = None
    assert opt.step({"w": np.ones(2), "frozen": None}) and not params["w"].any()


# --------------------------------------------------------------------------- what no steps leave

UNSIGNED = [
    (cls, slot) for cls in CLASSES.values() for slot in cls.rule.state if slot in rules.NONNEGATIVE
]
every_unsigned = pytest.mark.parametrize(
    "cls, slot", UNSIGNED, ids=lambda x: getattr(x, "__name__", x)
)
ON = {"max_exp_avg_sq": {"amsgrad": True}}


def moment(value, dtype=np.float64):
    """A state array in which one element is wrong."""
    array = np.full((2, 3), 0.25, dtype)
    array[1, 2] = value
    return array


@pytest.mark.parametrize("value", (-1.0, -5e-324, -np.inf), ids=str)
@every_unsigned
def test_a_negative_square_is_neither_written_nor_loaded(cls, slot, value):
    params, opt = trained(cls, **ON.get(slot, {}))
    before = Snapshot(*params.values()), opt.state_dict()
    saved = opt.state_dict()
    saved["state"]["W"][slot] = moment(value)
    said = f"{slot} of parameter 'W' must (not be negative|be finite), got {value} at"
    with pytest.raises(ValueError, match=f"{cls.__name__}.state: {said}"):
        opt.state["W"][slot] = moment(value)
    with pytest.raises(ValueError, match=rf"load_state_dict: {slot} .*negative.* at \[1, 2\]"):
        opt.load_state_dict(saved)
    before[0].assert_untouched()
    np.testing.assert_equal(opt.state_dict(), before[1])


@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf), ids=str)
@every_class
def test_only_finite_state_is_written(cls, value):
    _, opt = trained(cls, **({"momentum": 0.9} if cls.rule.name == "sgd" else {}))
    before = opt.state_dict()
    for slot in set(cls.rule.state) & set(opt.state["W"]):
        with pytest.raises(
            ValueError, match=f"{slot} of parameter 'W' must be finite, got {value}"
        ):
            opt.state["W"].update({slot: moment(value), "step": 1})
    np.testing.assert_equal(opt.state_dict(), before)


@pytest.mark.parametrize("dtype", ("bfloat16", "int8"))
def test_a_compact_state_is_looked_at_too(dtype):
    p = np.ones((2, 300), np.float32)
    opt = optkern.Adam(p, state_dtype=dtype)
    opt.step(p.copy())
    wrong = np.full(p.shape, 0.25, np.float32)
    wrong[1, 2] = np.nan
    with pytest.raises(ValueError, match="exp_avg_sq of parameter 0 must be finite"):
        opt.state[0]["exp_avg_sq"] = wrong
    if dtype == "bfloat16":  # the codes of int8 have no sign here
        saved = opt.state_dict()
        saved["state"][0]["exp_avg_sq"] |= 0x8000
        with pytest.raises(ValueError, match="exp_avg_sq of parameter 0 must not be negative"):
            opt.load_state_dict(saved)


@pytest.mark.parametrize("cls", (optkern.Adam, optkern.Adamax, optkern.NAdam, optkern.LAMB))
def test_a_second_moment_alone_is_not_nan(cls):
    _, opt = trained(cls)
    (slot,) = set(cls.rule.state) & {"exp_avg_sq", "exp_inf"}
    saved = opt.state_dict()
    saved["state"]["W"][slot] = moment(np.nan)
    with pytest.raises(ValueError, match=rf"{slot} of parameter 'W' must be a number, got nan"):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("g", (np.nan, np.inf, 1e200), ids=str)
@every_class
def test_what_a_run_left_is_loaded_whatever_it_is(cls, g, tmp_path):
    """Gradients that are not finite, or whose squares are not, are propagated by default."""
    options = {"momentum": 0.9} if cls.rule.name == "sgd" else {}
    params, opt = trained(cls, **options)
    opt.reset()  # so that its first step may be all that there was
    for sign in (1, -1, 1):
        opt.step({name: np.full(p.shape, sign * g) for name, p in params.items()})
        optkern.save(tmp_path / "run.npz", opt)
        _, other = trained(cls, **options)
        optkern.load(tmp_path / "run.npz", other)
        np.testing.assert_equal(other.state_dict(), opt.state_dict())


@pytest.mark.parametrize("value", (-1, 2.5, np.nan, True, "3", 2**53), ids=repr)
def test_a_step_count_is_a_whole_number(value):
    _, opt = trained(optkern.Adam)
    saved = opt.state_dict()
    saved["state"]["W"]["step"] = value
    with pytest.raises(ValueError, match="step of parameter 'W' must be an integer >= 0"):
        opt.load_state_dict(saved)
    with pytest.raises(ValueError, match="step of parameter 'W' must be an integer >= 0"):
        opt.state["W"]["step"] = value
    assert opt.state["W"]["step"] == 3


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_made_while_the_averages_are_in_takes_no_step_on_them(how):
    params, opt = trained(optkern.Adam, ema_decay=0.5)
    own = {k: v.copy() for k, v in params.items()}
    opt.swap_in()
    other = copy.deepcopy(opt) if how == "deepcopy" else pickle.loads(pickle.dumps(opt))
    before = [p.copy() for p in other.params]
    assert other.averages_are_in
    with pytest.raises(RuntimeError, match="the averages are in the parameters' place"):
        other.step({k: np.ones_like(v) for k, v in own.items()})
    assert_same_bits(other.params, before)
    other.swap_out()
    assert_same_bits(other.params, list(own.values()))
    assert other.step({k: np.ones_like(v) for k, v in own.items()}) is True
