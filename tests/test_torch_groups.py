"""Groups that a torch user takes away, puts in and replaces: as in torch, or said."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="extra `torch`")

from optkern.integrations import torch as ours  # noqa: E402


def made(where, name="Adam", **options):
    """Three parameters with gradients, the first two in an optimizer that has taken a step."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(n, 3).double()) for n in (1, 2, 4)]
    for p in params:
        p.grad = torch.randn_like(p)
    opt = getattr(where, name)(params[:2], lr=0.1, **options)
    opt.step()
    return opt, params


def clear_and_add(opt, params):
    opt.param_groups.clear()
    opt.add_param_group({"params": params[1:], "lr": 0.5})


def clear_step_and_add(opt, params):
    opt.param_groups.clear()
    opt.step()
    opt.zero_grad(set_to_none=False)
    opt.add_param_group({"params": params})
    params[0].grad += 1


def replace_all(opt, params):
    opt.param_groups = [{**opt.param_groups[0], "params": [params[2]]}]


def replace_by_nothing(opt, params):
    opt.param_groups = []
    opt.step()
    assert opt.param_groups == [] and repr(opt)


def delete_one(opt, params):
    opt.add_param_group({"params": [params[2]], "lr": 0.7})
    opt.step()
    del opt.param_groups[0]


def delete_a_middle_one(opt, params):
    opt.param_groups = [{**opt.defaults, "params": [p], "lr": 0.1 * (k + 1)} for k, p in
                        enumerate(params)]  # fmt: skip
    opt.step()
    del opt.param_groups[1]


def append_parameter(opt, params):
    opt.param_groups[0]["params"].append(params[2])


def extend_parameters(opt, params):
    opt.param_groups[0]["params"] += [params[2]]


def pop_parameter(opt, params):
    opt.param_groups[0]["params"].pop(0)


def clear_parameters(opt, params):
    opt.param_groups[0]["params"].clear()


def clear_parameters_and_add(opt, params):
    opt.param_groups[0]["params"].clear()
    opt.step()
    opt.add_param_group({"params": params[:1]})


def empty_group_first(opt, params):
    opt.param_groups.insert(0, {**opt.defaults, "params": []})
    opt.step()
    opt.param_groups[0]["params"].append(params[2])


def append_group(opt, params):
    opt.param_groups.append({**opt.defaults, "params": [params[2]], "lr": 0.3})


def insert_group(opt, params):
    opt.param_groups.insert(0, {**opt.defaults, "params": [params[2]], "lr": 0.3})


def reverse(opt, params):
    opt.add_param_group({"params": [params[2]], "lr": 0.7})
    opt.param_groups.reverse()


def swap(opt, params):
    opt.add_param_group({"params": [params[2]], "lr": 0.7})
    groups = opt.param_groups
    groups[0]["params"], groups[1]["params"] = groups[1]["params"], groups[0]["params"]


def as_tuples(opt, params):
    opt.param_groups[0]["params"] = tuple(params)


def another_parameter(opt, params):
    opt.param_groups[0]["params"][0] = params[2]


def forget_state(opt, params):
    opt.state.clear()


def forget_one(opt, params):
    del opt.state[params[0]]


def come_back(opt, params):
    group = opt.param_groups.pop()
    opt.step()
    opt.param_groups.append(group)


def copy_without(opt, params):
    opt.param_groups.clear()
    again = pickle.loads(pickle.dumps(copy.deepcopy(opt)))
    assert again.param_groups == []
    again.step()
    again.add_param_group({"params": params[:1]})
    opt.add_param_group({"params": params[:1]})


def save_without(opt, params):
    opt.param_groups.clear()
    opt.state.clear()
    saved = opt.state_dict()
    assert saved["param_groups"] == [] and saved["state"] == {}
    opt.load_state_dict(saved)
    opt.add_param_group({"params": params})


CHANGES = [
    *(clear_and_add, clear_step_and_add, replace_all, replace_by_nothing, delete_one),
    *(delete_a_middle_one, append_parameter, extend_parameters, pop_parameter, clear_parameters),
    *(clear_parameters_and_add, empty_group_first, append_group, insert_group, reverse, swap),
    *(as_tuples, another_parameter, forget_state, forget_one, come_back, copy_without),
    save_without,
]


def outcome(where, name, change):
    opt, params = made(where, name, **({"momentum": 0.9} if name == "SGD" else {}))
    change(opt, params)
    for _ in range(2):
        opt.step()
    state = [dict(opt.state.get(p, {})) for p in params]
    return params, [group["lr"] for group in opt.param_groups], state


@pytest.mark.parametrize("name", ("Adam", "SGD"))
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_groups_are_torchs(change, name):
    params, rates, state = outcome(ours, name, change)
    theirs, their_rates, their_state = outcome(torch.optim, name, change)
    assert rates == their_rates
    for mine, other, entry, their_entry in zip(params, theirs, state, their_state, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
        their_entry = {k: v for k, v in their_entry.items() if v is not None}
        assert entry.keys() == their_entry.keys()
        loosely = {"check_dtype": False}  # torch counts in float32
        for slot, value in entry.items():
            torch.testing.assert_close(value, their_entry[slot], rtol=1e-12, atol=1e-12, **loosely)


@pytest.mark.parametrize("options", ({"ema_decay": 0.9}, {"lookahead": (2, 0.5)}, {"clip_norm": 1}))
def test_without_groups_options_of_the_whole_go_on(options):
    opt, params = made(ours, **options)
    opt.param_groups.clear()
    opt.step()
    if "ema_decay" in options:
        with opt.optimizer.averaged():
            pass
    opt.add_param_group({"params": params})
    opt.step()
    assert opt.optimizer.clip_norm == options.get("clip_norm")
    assert opt.optimizer.ema_decay == options.get("ema_decay")


def test_rates_written_inside_stay_with_their_group():
    opt, params = made(ours)
    opt.add_param_group({"params": [params[2]], "lr": 0.7})
    inner = opt.optimizer
    inner.param_groups[1]["lr"] = 0.25
    del opt.param_groups[0]
    opt.step()
    assert [group["lr"] for group in opt.param_groups] == [0.25]
    assert [group["lr"] for group in opt.optimizer.param_groups] == [0.25]


def set_group(key, value):
    return lambda opt, params: opt.param_groups[0].update({key: value(params)})


REFUSED = {
    "none": (lambda opt, params: setattr(opt, "param_groups", None), "a list of groups.*NoneType"),
    "a dict": (lambda opt, params: setattr(opt, "param_groups", {}), "a list of groups.*dict"),
    "tensors": (
        lambda opt, params: setattr(opt, "param_groups", list(params)),
        r"entry 0 of param_groups must be a dict with the key 'params', got Parameter",
    ),
    "a generator": (set_group("params", iter), "group 0: params must be a list.*list_iterator"),
    "a tensor": (set_group("params", lambda p: p[0]), "group 0: params must be a list.*Parameter"),
    "a string": (set_group("params", lambda p: [p[0], "w"]), "parameter 1 must be a tensor.*str"),
    "an array": (
        set_group("params", lambda p: [p[0].detach().numpy()]),
        "parameter 0 must be a tensor, got ndarray.*torch.from_numpy",
    ),
    "no rate": (
        lambda opt, params: opt.param_groups[0].pop("lr"),
        "group 0 has no 'lr'.*add_param",
    ),
    "nothing but tensors": (
        lambda opt, params: opt.param_groups.append({"params": [params[2]]}),
        "group 1 has no 'lr'.*add_param_group",
    ),
    "no params": (lambda opt, params: opt.param_groups[0].pop("params"), "group 0 has no 'params'"),
    "twice": (
        lambda opt, params: opt.param_groups[0]["params"].append(params[0]),
        "parameter 0 and parameter 2 overlap",
    ),
    "a number": (lambda opt, params: opt.param_groups.append(3), "entry 1 of param_groups must"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_groups_that_are_none_are_said(case):
    change, said = REFUSED[case]
    opt, params = made(ours)
    before = copy.deepcopy(params)
    kept = [dict(group, params=list(group["params"])) for group in opt.param_groups]
    with pytest.raises((TypeError, ValueError), match=f"^Adam: .*{said}"):
        change(opt, params)
        opt.step()
    assert all(map(torch.equal, params, before))
    opt.param_groups = kept  # and the next correct call works
    opt.step()
    assert float(opt.state[params[0]]["step"]) == 2


def test_state_of_a_tensor_that_no_group_has_is_said_where_it_is_saved():
    """torch raises KeyError: 139950747892176."""
    opt, params = made(ours)
    opt.param_groups[0]["params"].pop()
    with pytest.raises(ValueError, match=r"of shape \(2, 3\).* no group has.*del opt.state\[p\]"):
        opt.state_dict()
    del opt.state[params[1]]
    assert len(opt.state_dict()["state"]) == 1
