"""No write is lost: whatever looks as if it could be set takes effect or is refused in words."""

import copy
import inspect
import operator
import pickle
import threading

import numpy as np
import pytest
from test_atomic import Waiting

import optkern
from optkern.kernels.rules import OPTIONS
from optkern.optimizers import CLASSES

every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)


def trained(cls=optkern.Adam, **options):
    params = {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, "f4")}
    opt = cls(params, lr=0.01, **options)
    opt.step({name: np.sin(p + 1) for name, p in params.items()})
    return opt


def whole(opt):
    """All that an optimizer is made of."""
    saved = opt.state_dict()
    return pickle.dumps((saved, [p.tobytes() for p in opt.params], opt.num_threads))


# What a public attribute may be set to; all others are read alone.
SETTABLE = {
    "steps": 7,
    "skipped_steps": 3,
    "num_threads": 1,
    "on_nonfinite": "skip",
    "follow": True,
    "strict_grads": False,
    "clip_norm": 2.5,
    "clip_norm_per_tensor": 2.5,
    "clip_value": 2.5,
    "grad_scale": 0.5,
    "accumulate": 2,
    "accumulate_form": "sum",
    "lookahead": (3, 0.25),
    "ema_decay": 0.75,
    "zero_grad": True,
    "centralize": True,
    "adaptive_clip": (0.5, 0.125),
    "adaptive_clip_head": True,
    "unit_layout": "out_in",
    "clip_update_rms": 0.5,
    "cautious": True,
    "max_skips": 2,
    "project": (-0.5, 0.5),
}


def test_every_public_attribute_takes_effect_or_is_refused():
    for name in dir(optkern.Adam):
        opt = trained()
        if name.startswith("_") and not name.startswith("__"):
            continue
        before = whole(opt)
        value = SETTABLE.get(name)
        if name == "max_skips":
            opt.on_nonfinite = "skip"  # without which it would limit nothing
        if name in SETTABLE:
            setattr(opt, name, value)
            assert getattr(opt, name) == value and type(opt).__name__ == "Adam"
            with pytest.raises((TypeError, ValueError), match=f"Adam: {name} must be"):
                setattr(opt, name, "neither")
            with pytest.raises(AttributeError):
                delattr(opt, name)
            assert getattr(opt, name) == value
        else:
            for bad in (None, 3, {}, []):
                with pytest.raises(AttributeError, match=rf"Adam: {name} |opt.param_groups\[0\]"):
                    setattr(opt, name, bad)
            assert whole(opt) == before
    assert set(OPTIONS) <= set(SETTABLE)


@every_class
def test_a_class_and_its_rule_stay(cls):
    opt = cls(np.ones(3))
    for name, value in (("rule", optkern.SGD.rule), ("__class__", optkern.SGD), ("__dict__", {})):
        with pytest.raises(AttributeError, match=rf"{cls.__name__}: {name} cannot be set; .*const"):
            setattr(opt, name, value)
    mine = type("Mine", (cls,), {})(np.ones(3))
    with pytest.raises(AttributeError, match="Mine: rule cannot be set"):
        mine.rule = None
    assert type(opt) is cls and opt.rule is cls.rule and opt.step(np.ones(3)) is True


def test_parameters_are_written_in_place_and_replaced_by_rebind():
    opt = trained()
    before, first = whole(opt), opt.params[0]
    other = np.zeros((2, 3), np.float32)
    for write in (
        lambda p: p.__setitem__(0, other),
        lambda p: p.__setitem__(slice(None), [other]),
        lambda p: p.__setitem__("w", other),
        lambda p: p.__setitem__(9, other),
        lambda p: p.__delitem__(0),
        lambda p: p.append(other),
        lambda p: p.extend([other]),
        lambda p: p.insert(0, other),
        lambda p: p.remove(first),
        lambda p: p.pop(),
        lambda p: p.clear(),
        lambda p: p.sort(),
        lambda p: p.reverse(),
        lambda p: setattr(p, "w", other),
    ):
        with pytest.raises(TypeError, match=r"opt\.rebind\(params\)"):
            write(opt.params)
    for write in ("opt.params += [other]", "opt.params *= 2", "opt.params |= [other]"):
        with pytest.raises(TypeError):
            exec(write)
    assert whole(opt) == before
    opt.params[0] *= 2
    assert opt.params[0] is first and whole(opt) != before
    opt.params[0][...] = 5
    assert opt.params[0][0, 0] == 5
    assert type(pickle.loads(pickle.dumps(opt.params))) is tuple
    opt.rebind(dict(zip("wb", opt.params, strict=True)))


def test_groups_are_written_entry_by_entry():
    opt = trained()
    before, groups = whole(opt), opt.param_groups
    for write in (
        lambda: groups.__setitem__(0, {}),
        lambda: groups.__setitem__(0, {"lr": 1.0}),
        lambda: groups.append({"params": []}),
        lambda: groups.__delitem__(0),
        lambda: setattr(groups, "lr", 1.0),
    ):
        with pytest.raises(TypeError, match=r"opt\.param_groups\[0\]\['lr'\].*add_param_group"):
            write()
    group = groups[0]
    for write in (group.clear, group.popitem, lambda: group.pop("lr")):
        with pytest.raises(TypeError, match="none can be removed"):
            write()
    for name in ("lrs", "params"):
        with pytest.raises(KeyError, match=f"a group has no '{name}'"):
            group.setdefault(name, 1.0)
    with pytest.raises(TypeError):
        group["betas"][0] = 0.5
    with pytest.raises(AttributeError, match=r"group\['lr'\] = "):
        group.lr = 0.1
    assert group.setdefault("lr", 9.0) == 0.01 and whole(opt) == before
    opt.param_groups[0] |= {"lr": 0.5}
    group |= {"eps": 1e-3}
    twin = trained()
    twin.param_groups[0].update(lr=0.5, eps=1e-3)
    assert dict(group) == dict(twin.param_groups[0])
    for each in (opt, twin):
        each.step({"w": np.ones((2, 3), "f4"), "b": np.ones(2, "f4")})
    assert all(np.array_equal(a, b) for a, b in zip(opt.params, twin.params, strict=True))


@pytest.mark.parametrize(
    "schedule", (optkern.schedules.Cosine(0.1, 10), optkern.schedules.Plateau(0.1))
)
def test_a_schedule_that_is_held_cannot_be_changed_in_vain(schedule):
    held = optkern.SGD(np.ones(2), lr=schedule).param_groups[0]["lr"]
    names = [name for name in (*vars(held), "anything") if not name.startswith("_")]
    for name in names:
        before = held(0)
        try:
            setattr(held, name, 0.01)
        except (AttributeError, TypeError, ValueError) as error:
            assert name in str(error) and held(0) == before
        else:
            assert getattr(held, name) == 0.01


# --------------------------------------------------------------------------- state


def test_a_part_of_a_parameters_state_is_not_the_whole():
    opt = trained()
    before, zeros = whole(opt), np.zeros((2, 3), np.float32)
    for part, lacks in (({}, "step"), ({"step": 0}, "exp_avg"), ({"exp_avg": zeros}, "step")):
        words = rf"has no '{lacks}'; opt.state\['w'\].update.*opt.reset\('w'\)"
        for write in (opt.state.__setitem__, lambda k, v: opt.state.update({k: v})):
            with pytest.raises(ValueError, match=words):
                write("w", part)
    with pytest.raises(ValueError, match="has no 'exp_avg_sq'"):  # nor is another one written
        opt.state |= {"b": dict(opt.state["b"], step=0), "w": {"step": 0, "exp_avg": zeros}}
    assert whole(opt) == before
    opt.state |= {"w": {"step": 0, "exp_avg": zeros, "exp_avg_sq": zeros}}
    assert opt.state["w"]["step"] == 0 and opt.state["b"]["step"] == 1
    opt.state["b"] |= {"step": 4}
    assert opt.state["b"]["step"] == 4 and opt.state.setdefault("b", {})["step"] == 4


def test_an_entry_is_put_back_while_nothing_has_been_accumulated():
    opt = trained(accumulate=2)
    opt.flush()
    kept = opt.state["w"]["exp_avg"]
    opt.state["w"] |= {"step": 5}
    opt.state["w"] = opt.state["w"]
    assert opt.state["w"]["step"] == 5 and np.array_equal(opt.state["w"]["exp_avg"], kept)


def test_entries_are_not_attributes():
    opt = trained(state_dtype="int8")
    before = whole(opt)
    entry = opt.state["w"]
    for write in (
        lambda: setattr(opt.state, "w", {}),
        lambda: setattr(entry, "step", 0),
        lambda: setattr(entry["exp_avg"], "codes", entry["exp_avg"].codes * 0),
        lambda: setattr(entry["exp_avg"], "values", 0),
        lambda: setattr(opt, "state", {}),
        lambda: setattr(opt, "state", trained().state),
    ):
        with pytest.raises(AttributeError):
            write()
    assert whole(opt) == before
    with pytest.raises(TypeError, match="give it back"):
        entry["exp_avg"][0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(entry["exp_avg"])[...] = 7
    mine = np.array(entry["exp_avg"])
    mine[...] = 0.5
    entry["exp_avg"] = mine
    np.testing.assert_allclose(np.asarray(opt.state["w"]["exp_avg"]), 0.5, rtol=1e-3)


@pytest.mark.parametrize("state_dtype", (None, "bfloat16", "int8"))
@pytest.mark.parametrize("bad", (-1.0, -1e-30, np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("cls", (optkern.Adam, optkern.RMSprop, optkern.Adadelta, optkern.Adagrad))
def test_a_second_moment_that_no_steps_leave_is_refused(cls, state_dtype, bad):
    opt = trained(cls, state_dtype=state_dtype)
    before = whole(opt)
    for slot in optkern.kernels.rules.NONNEGATIVE & set(opt.state["w"]):
        values = np.ones((2, 3), np.float32)
        values[1, 2] = bad
        with pytest.raises(ValueError, match=rf"{slot} of parameter 'w' must .*got .* at \[1, 2"):
            opt.state["w"][slot] = values
        if state_dtype and bad < 0 and bad > -2:
            with pytest.raises(ValueError, match="no negative numbers"):
                opt.state["w"][slot].encode(values)
    assert whole(opt) == before


@pytest.mark.parametrize("state_dtype", (None, "bfloat16", "int8"))
def test_a_load_refuses_a_second_moment_that_is_none_beside_a_first_that_is(state_dtype, tmp_path):
    opt = trained(state_dtype=state_dtype)
    for slot, bad in (("exp_avg_sq", np.nan), ("exp_avg", np.nan)):
        saved = opt.state_dict()
        entry = saved["state"]["w"]
        if state_dtype == "int8":
            entry[slot][...] = entry[slot + "_scales"][...] = 255
        else:
            entry[slot][1, 2] = 0x7FC0 if state_dtype else bad
        if slot == "exp_avg_sq":
            before = whole(opt)
            with pytest.raises(ValueError, match="exp_avg_sq of parameter 'w' must be a number"):
                opt.load_state_dict(saved)
            assert whole(opt) == before
        else:  # NaN comes by gradients, and is to be found again
            opt.load_state_dict(saved)
            assert np.isnan(np.asarray(opt.state["w"]["exp_avg"])[1, 2])


# --------------------------------------------------------------------------- words


def test_zero_grad_speaks_of_itself():
    opt = trained(optkern.SGD)
    for call, words in (
        (lambda: opt.zero_grad(set_to_none=True), "set_to_none has nothing to set"),
        (lambda: opt.zero_grad(set_to_none=False), "set_to_none has nothing to set"),
        (
            lambda: opt.zero_grad(grad=None),
            "unexpected keyword argument 'grad'; did you mean grads",
        ),
        (lambda: opt.zero_grad(1, 2), "too many positional arguments"),
        (lambda: opt.zero_grad(), "give them"),
    ):
        with pytest.raises(TypeError, match=f"^SGD.zero_grad: .*{words}"):
            call()
    grads = {"w": np.ones((2, 3)), "b": np.ones(2)}
    opt.zero_grad(grads=grads)
    assert not grads["w"].any() and not grads["b"].any()


ACTS = {
    "a write of steps": lambda opt: setattr(opt, "steps", 5),
    "a write of skipped_steps": lambda opt: setattr(opt, "skipped_steps", 5),
    "a write of clip_norm": lambda opt: setattr(opt, "clip_norm", 1.0),
    "a write of zero_grad": lambda opt: setattr(opt, "zero_grad", True),
    "a write of lr and eps": lambda opt: opt.param_groups[0].update(lr=0.1, eps=1e-3),
    "a write of lr": lambda opt: opt.param_groups[0].__setitem__("lr", 0.1),
    "a read of state": lambda opt: opt.state,
    "copying or pickling it": pickle.dumps,
    "state_dict": lambda opt: opt.state_dict(),
    "reset": lambda opt: opt.reset(),
    "rebind": lambda opt: opt.rebind({"w": np.ones(2), "b": np.ones(2)}),
    "swap_in": lambda opt: opt.swap_in(),
    "add_param_group": lambda opt: opt.add_param_group({"params": np.ones(2)}),
}


def test_beside_another_threads_step_the_public_act_is_named():
    opt = optkern.Adam({"w": np.zeros(2), "b": np.zeros(2)}, ema_decay=0.5)
    waiting = Waiting(np.ones(2))
    held = opt.state["w"]
    thread = threading.Thread(target=opt.step, args=({"w": np.ones(2), "b": waiting},))
    thread.start()
    assert waiting.asked.wait(60)
    try:
        for what, act in ACTS.items():
            words = f"^Adam: a step is under way already, .*; {what} has to wait for its end$"
            with pytest.raises(RuntimeError, match=words):
                act(opt)
        with pytest.raises(RuntimeError, match="a write of state has to wait"):
            held["step"] = 3
        opt.num_threads, opt.on_nonfinite = 1, "skip"  # of the next step
    finally:
        waiting.go.set()
        thread.join()
    assert opt.steps == 1 and opt.state["w"]["step"] == 1 and opt.clip_norm is None
    assert inspect.isclass(type(opt))


STEPS = {
    "step": lambda opt: opt.step({"w": np.ones(2), "b": np.ones(2)}),
    "flush": lambda opt: opt.flush(),
    "step_rows": lambda opt: opt.step_rows({"w": [0], "b": None}, {"w": np.ones(1), "b": None}),
}


@pytest.mark.parametrize("scheduled", ({"lr": lambda step: 0.1}, {"clip_norm": lambda step: 1.0}))
def test_a_step_with_a_schedule_is_refused_as_one_without(scheduled):
    """Beside another step, or within another act, of the same thread or not."""
    acts = {k: v for k, v in STEPS.items() if k != "step_rows" or "lr" in scheduled}
    opt = optkern.Adam({"w": np.zeros(2), "b": np.zeros(2)}, **scheduled)
    waiting = Waiting(np.ones(2))
    thread = threading.Thread(target=opt.step, args=({"w": np.ones(2), "b": waiting},))
    thread.start()
    assert waiting.asked.wait(60)
    try:
        for act in acts.values():
            with pytest.raises(RuntimeError, match=r"an optimizer takes one step at a time$"):
                act(opt)
    finally:
        waiting.go.set()
        thread.join()
    for act in acts.values():
        with pytest.raises(RuntimeError, match=r"a look is under way .*; a step has to wait for"):
            opt.session.alone("a look", act, opt)
    assert opt.steps == 1


@pytest.mark.parametrize(
    "solver", (optkern.LBFGS, optkern.NewtonLanczos, lambda p: optkern.SAM(optkern.SGD(p), rho=0.1))
)
def test_parameters_of_a_solver_are_not_replaced_in_a_list(solver):
    opt = solver([np.ones(3)])
    with pytest.raises(TypeError, match=r"opt\.rebind\(params\)"):
        opt.params[0] = np.zeros(3)


def test_a_parameter_replaced_while_the_averages_are_in():
    """The weights are back in the arrays that are trained, and the one that is not is told."""
    for how in ("context", "calls"):
        params = {"w": np.ones(3)}
        opt = optkern.SGD(params, lr=0.1, ema_decay=0.5)
        for _ in range(2):
            opt.step({"w": np.ones(3)})
        trained = params["w"]
        with pytest.raises(ValueError, match="'w' has been replaced"):
            if how == "context":
                with opt.averaged():
                    params["w"] = params["w"] * 2
            else:
                opt.swap_in()
                params["w"] = params["w"] * 2
                opt.swap_out()
        assert not opt.averages_are_in
        np.testing.assert_allclose(trained, 0.8)


def test_writes_to_a_monitor():
    monitor = optkern.Monitor()
    with pytest.raises(AttributeError, match="did you mean curvature_every"):
        monitor.curvature_evry = 3
    with pytest.raises(AttributeError, match="constructor"):
        monitor.curvature_every = 3
    with pytest.raises(ValueError, match="every must be"):
        monitor.every = -3
    monitor.every = 7
    assert monitor.every == 7


def test_a_call_without_arguments_names_what_was_called():
    with pytest.raises(TypeError, match=r"Optimizer\.step\(\) missing"):
        optkern.Adam([np.ones(2)]).step()


GROUPS_WITHOUT_A_LIST = [
    {"params": np.ones(3), "lr": 0.1},
    {"params": [np.ones(3)], "weight_decay": np.float64(0.1)},
    {"params": {"w": np.ones(3)}, "lr": lambda step: 0.1},
    {"params": [np.ones(3)], "decay_form": "decoupled"},
]


@pytest.mark.parametrize("group", GROUPS_WITHOUT_A_LIST)
def test_a_group_goes_into_a_list(group):
    (setting,) = set(group) - {"params"}
    with pytest.raises(TypeError, match=f"{setting}.*a group goes into a list: "):
        optkern.AdamW(group)
    assert optkern.AdamW([group]).step([_like(group["params"])])
    assert optkern.AdamW({"params": np.ones(3)}).step({"params": np.ones(3)})  # a name as any


def _like(params):
    if isinstance(params, dict):
        return {name: np.ones_like(array) for name, array in params.items()}
    return [np.ones_like(a) for a in params] if isinstance(params, list) else np.ones_like(params)


@pytest.mark.parametrize("state_dtype", ["int8", "bfloat16"])
def test_compact_state_says_how_it_is_written(state_dtype):
    opt = optkern.Adam([np.ones(3, np.float32)], state_dtype=state_dtype)
    opt.step([np.ones(3, np.float32)])
    compact = opt.state[0]["exp_avg"]
    before = np.asarray(compact)
    for name in ("__imul__", "__iadd__", "__isub__", "__itruediv__", "__ipow__", "__mul__"):
        with pytest.raises(TypeError, match=r"no operators; np\.asarray"):
            getattr(operator, name)(compact, 2)
    with pytest.raises(TypeError, match=r"np\.asarray\(it\) \* 2"):
        opt.state[0]["exp_avg"] *= 2
    for name in ("fill", "mean", "dtype"):
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'; np\.asarray\(it\) has"):
            getattr(compact, name)
    with pytest.raises(AttributeError, match="no attribute 'exp'"):
        compact.exp()
    it = opt.state[0]["exp_avg"]
    opt.state[0]["exp_avg"] = np.asarray(it) * 2  # as the message says
    np.testing.assert_array_equal(opt.state[0]["exp_avg"], 2 * before)
    copied = copy.deepcopy(pickle.loads(pickle.dumps(opt.state[0]["exp_avg"])))
    np.testing.assert_array_equal(copied, 2 * before)


def test_a_gradient_in_a_container_of_its_own_is_told_to_come_out():
    opt, monitor = optkern.Adam(np.ones(3)), optkern.Monitor()
    for grads in ([np.ones(3)], (np.ones(3),), {"w": np.ones(3)}):
        said = rf"got {type(grads).__name__} around one array; .* give the array that is in it"
        with pytest.raises(TypeError, match=f"Adam: .*{said}"):
            opt.step(grads)
        with pytest.raises(TypeError, match=f"Monitor.record: .*{said}"):
            monitor.record(1.0, grads, opt)
    with pytest.raises(TypeError, match=r"optkern\.flatten"):
        opt.step([np.ones(2), np.ones(1)])
    assert len(monitor) == 0 and opt.step(np.ones(3))


def test_reports_are_read_alone(tmp_path):
    opt = optkern.Adam(np.ones(3))
    optkern.save(tmp_path / "x.npz", opt)
    null = optkern.curvature.null(np.eye(3), ["translations"])
    for report in (opt.thread_report(), optkern.load(tmp_path / "x.npz", opt), null):
        for name in [*vars(report), "anything"]:
            with pytest.raises(AttributeError, match="cannot be set"):
                setattr(report, name, 3)
        with pytest.raises(AttributeError):
            del report.anything
        assert repr(pickle.loads(pickle.dumps(report))) == repr(report)
    with pytest.raises(AttributeError, match=r"set opt\.num_threads"):
        opt.thread_report().threads = 3


def test_a_groups_dict_is_copied_and_param_groups_is_live():
    groups = [{"params": [np.ones(3)], "lr": 0.5}]
    opt = optkern.SGD(groups)
    groups[0]["lr"] = 0.1  # another optimizer may be made of it
    opt.step([[np.ones(3)]])
    assert (opt.params[0] == 0.5).all() and "param_groups has those that are live" in opt.__doc__
