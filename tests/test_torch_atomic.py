"""Interrupted at any line, torch's optimizer here is what it was or what it is to be."""

from __future__ import annotations

import copy
import itertools
import sys
import threading

import interruption
import pytest

torch = pytest.importorskip("torch", reason="needs torch: make test EXTRAS=torch")
import optkern.integrations.torch as ot  # noqa: E402

WHERE = (interruption.PACKAGE, sys.modules["torch.optim.optimizer"].__file__)


def interrupted(line, act):
    """Raise at the line-th line of optkern or of torch's base class; return whether it came."""
    return interruption.interrupted(line, act, WHERE)


def new(cls=ot.NAdam, steps=2, lr=0.1, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2)
    opt = cls(
        [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.1}], lr, **options
    )
    for _ in range(steps):
        give_gradients(opt)
        opt.step()
    give_gradients(opt)
    return opt


def give_gradients(opt):
    for k, p in enumerate(p for group in opt.param_groups for p in group["params"]):
        p.grad = torch.full_like(p, 0.3 + k)


def plainly(value):
    if isinstance(value, dict):
        return {str(key): plainly(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [plainly(x) for x in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def picture(opt):
    """Return what is seen without a call, what a call gives, and the inner optimizer's own."""
    params = [p for group in opt.param_groups for p in group["params"]]
    seen = {
        "groups": plainly(opt.param_groups),
        "state": [plainly(opt.state.get(p, {})) for p in params],
    }
    inner = opt.optimizer
    assert [float(opt.state.get(p, {}).get("step", 0)) for p in params] == [
        float(inner.state[i]["step"]) for i in range(len(params))
    ]
    assert [g["lr"] for g in opt.param_groups] == [g["lr"] for g in inner.param_groups]
    state_dict = plainly(opt.state_dict())
    assert state_dict["state"] == {str(i): s for i, s in enumerate(seen["state"]) if s}
    return repr((plainly(params), seen, state_dict, inner.steps, inner.clip_norm))


def other_state():
    return new(steps=5, lr=0.7).state_dict()


OPERATIONS = {
    "first_step": (0, lambda opt, more: opt.step()),
    "step": (2, lambda opt, more: opt.step()),
    "step_after_a_written_count": (2, lambda opt, more: opt.step()),
    "step_of_replaced_state": (2, lambda opt, more: opt.step()),
    "load_state_dict": (2, lambda opt, more: opt.load_state_dict(more)),
    "inner_load": (2, lambda opt, more: (opt.optimizer.load_state_dict(more), opt.state_dict())),
    "add_param_group": (2, lambda opt, more: opt.add_param_group({"params": [torch.ones(2)]})),
    "state_dict": (2, lambda opt, more: opt.state_dict()),
    "write_a_rate": (2, lambda opt, more: (opt.param_groups[1].update(lr=0.5), opt.state_dict())),
    "write_an_option": (2, lambda opt, more: setattr(opt, "clip_norm", 0.5)),
}


def prepared(name):
    steps, act = OPERATIONS[name]
    opt = new(steps=steps)
    if name == "step_of_replaced_state":
        p = opt.param_groups[0]["params"][0]
        opt.state[p]["exp_avg"] = torch.full_like(p, 2.0)
    if name == "step_after_a_written_count":
        for entry in opt.state.values():
            entry["step"].fill_(7.0)
    more = other_state() if name == "load_state_dict" else None
    if name == "inner_load":
        more = new(steps=5, lr=0.7).optimizer.state_dict()
    return opt, lambda: act(opt, copy.deepcopy(more))


def stepped(opt):
    give_gradients(opt)
    opt.step()
    return picture(opt)


def check_operation(name, lines):
    """Raise at these lines, one run each: the optimizer is old or new, and so is where it goes."""
    pictures = []
    for done in (False, True):
        opt, act = prepared(name)
        if done:
            act()
        if name == "write_a_rate":  # the write itself is a dict's, which is made at once
            opt.param_groups[1]["lr"] = 0.5
        pictures.append((picture(opt), stepped(opt)))
    reached = 0
    for line in lines:
        opt, act = prepared(name)
        if not interrupted(line, act):
            break
        if name == "write_a_rate":
            opt.param_groups[1]["lr"] = 0.5
        found = picture(opt), stepped(opt)
        assert found in pictures, (name, line)
        reached = line
    return reached


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupted_at_every_third_line(name):
    assert check_operation(name, itertools.count(1, 3)) > 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupted_at_some_lines(name):
    """Every eleventh line from the end of what a whole run takes, where most is written."""
    _, act = prepared(name)
    total = lines_of(act)
    check_operation(name, range(max(1, total - 11 * 30), total + 1, 11))


def lines_of(act):
    return interruption.lines_of(act, WHERE)


def test_what_the_inner_optimizer_resets_is_shown():
    opt = new()
    opt.optimizer.reset()
    assert all("exp_avg" not in entry or not entry["exp_avg"].any() for entry in opt.state.values())
    inner = opt.optimizer
    for i, p in enumerate(p for group in opt.param_groups for p in group["params"]):
        assert float(opt.state[p].get("step", 0)) == inner.state[i]["step"] == 0


def test_a_graph_made_before_an_interrupted_step_is_refused_where_weights_have_moved():
    moved = 0
    for line in range(1, lines_of(new().step) + 1, 3):
        opt = new()
        p = opt.param_groups[0]["params"][0]
        loss, before = (p * p).sum(), p.detach().clone()
        interrupted(line, opt.step)
        if torch.equal(p, before):
            loss.backward()
            continue
        moved += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    assert moved > 3


def test_a_count_that_is_held_shows_an_interrupted_step():
    for line in range(1, lines_of(new().step) + 1, 3):
        opt = new()
        held = opt.state[opt.param_groups[0]["params"][0]]["step"]
        interrupted(line, opt.step)
        assert float(held) == opt._binding.inner.steps


def test_a_graph_made_before_an_exchange_of_averages_is_refused():
    opt = new(ema_decay=0.9)
    p = opt.param_groups[0]["params"][0]
    loss = (p * p).sum()
    with opt.optimizer.averaged(), pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_what_is_done_to_the_optimizer_inside_is_shown():
    opt = new()
    p = opt.param_groups[1]["params"][0]
    inner, groups = opt.optimizer, opt.param_groups
    inner.param_groups[1]["lr"] = 0.7
    assert [g["lr"] for g in opt.param_groups] == [0.1, 0.7]
    inner.param_groups[1]["lr"] = 0.8
    groups[1]["lr"] = 0.9  # which has been written later, and where torch's users write
    opt.step()
    assert inner.param_groups[1]["lr"] == opt.param_groups[1]["lr"] == 0.9
    inner.step([[torch.ones(2, 2).numpy()], [torch.ones(2).numpy()]])
    assert float(opt.state[p]["step"]) == inner.steps == 4
    opt.state[p]["step"].fill_(9.0)
    assert opt.optimizer.state[1]["step"] == 9


def test_a_parameter_that_begins_later_leaves_the_tensors_of_others():
    opt = new(steps=0)
    first, second = (g["params"][0] for g in opt.param_groups)
    second.grad = None
    opt.step()
    held = dict(opt.state[first])
    give_gradients(opt)
    opt.step()
    assert all(opt.state[first][name] is tensor for name, tensor in held.items())
    assert float(held["step"]) == 2 and float(opt.state[second]["step"]) == 1


@pytest.mark.parametrize("name", ("load_state_dict", "add_param_group", "state_dict"))
def test_beside_another_threads_step_it_is_refused(name):
    opt = new()
    _, act = OPERATIONS[name]
    more, inside, go = new(steps=5).state_dict(), threading.Event(), threading.Event()

    def wait():
        inside.set()
        assert go.wait(60)

    thread = threading.Thread(target=opt._binding.alone, args=("a step", wait))
    thread.start()
    assert inside.wait(60)
    before = plainly(opt.param_groups)
    with pytest.raises(RuntimeError, match="a step is under way already, in another thread"):
        act(opt, more)
    go.set()
    thread.join()
    assert plainly(opt.param_groups) == before and opt.optimizer.steps == 2


def test_users_hooks_see_a_state_dict_as_it_is_at_every_load():
    opt, seen = new(), []
    saved = opt.state_dict()
    for line in (30, 60, 90):
        interrupted(line, lambda: opt.load_state_dict(saved))
    opt.register_load_state_dict_pre_hook(lambda _, sd: seen.append(type(sd["state"][0])))
    for _ in range(2):
        opt.load_state_dict(saved)
    assert seen == [dict, dict]


@pytest.mark.parametrize("twice", (copy.copy, copy.deepcopy))
def test_a_copy_after_an_interrupted_step_is_of_what_it_left(twice):
    for line in range(1, lines_of(new().step) + 1, 7):
        opt = new()
        interrupted(line, opt.step)
        other = twice(opt)
        assert [float(e["step"]) for e in other.state.values()] == [opt.optimizer.steps] * 2
