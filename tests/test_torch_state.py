"""State of the torch adapter: its dicts, its tensors, optkern's checkpoints."""

import copy
import io

import numpy as np
import pytest

import optkern

torch = pytest.importorskip("torch", reason="needs PyTorch: make test EXTRAS=torch")
from test_torch_parity import GRIDS  # noqa: E402
from torch_models import (  # noqa: E402
    ALONE,
    EXACT,
    Both,
    X,
    Y,
    assert_same_models,
    cross_entropy,
    every_class_but,
    give_gradients,
    model,
    nn,
    replace_data,
    tensors,
    train,
)

from optkern.integrations import torch as ours  # noqa: E402

torch.manual_seed(0)

STATES = {
    "SGD": ({}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}),
    "Adam": ({}, {"amsgrad": True}, {"fused": True, "weight_decay": 0.1}, {"foreach": True}),
    "AdamW": ({}, {"foreach": False}),
    "RMSprop": ({}, {"centered": True, "momentum": 0.5}),
    "NAdam": ({}, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
}


# --------------------------------------------------------------------------- state dicts


@every_class_but()
def test_state_dicts_both_ways(name):
    for options in STATES.get(name, ({},)):
        both = Both(name, lr=0.05, **options).run(3).run(2, missing=(1,))
        mine, other = (opt.state_dict() for opt in both.opts)
        assert set(mine["state"]) == set(other["state"])
        for i, entry in other["state"].items():
            assert set(mine["state"][i]) == {k for k, v in entry.items() if v is not None}
        other = copy.deepcopy(other)  # torch's own loading keeps the tensors it is given
        lr = 0.05 if name == "ASGD" else 0.03  # which takes another a step later in torch
        for opt, state in zip(both.opts, (other, mine), strict=True):
            for group in state["param_groups"]:
                group["lr"] = lr
            opt.load_state_dict(state)
            assert opt.param_groups[0]["lr"] == lr
        both.run(4).assert_close(str(options))
        assert set(torch.optim.__dict__[name](tensors()).defaults) <= {
            *mine["param_groups"][0],
            "decoupled_weight_decay",
        }


SHARED = [name for name in ours.__all__ if hasattr(torch.optim, name)]


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("name", SHARED)
def test_what_torchs_classes_keep_goes_here_and_back(name):
    """torch's optimizer of this name goes on from what was here as from its own, and ours too."""
    shapes = ((3, 4), (4, 6)) if name == "Muon" else ((3, 4), (5,), (2, 3, 4))
    rng = torch.Generator().manual_seed(3)
    start = [torch.randn(shape, generator=rng) for shape in shapes]
    runs = [[torch.nn.Parameter(p.clone()) for p in start] for _ in range(3)]

    def step(*pairs):
        for grads in [[torch.randn(p.shape, generator=rng) for p in start] for _ in range(4)]:
            for params, opt in pairs:
                for p, g in zip(params, grads, strict=True):
                    p.grad = g.clone()
                opt.step()

    theirs = getattr(torch.optim, name)(runs[0], lr=0.02)
    step((runs[0], theirs))
    for params in runs[1:]:
        for p, q in zip(params, runs[0], strict=True):
            p.data.copy_(q.data)
    here = getattr(ours, name)(runs[1])
    here.load_state_dict(copy.deepcopy(theirs.state_dict()))
    saved = here.state_dict()
    again = getattr(torch.optim, name)(runs[2])
    again.load_state_dict(saved)
    for p, q in zip(runs[0], runs[2], strict=True):
        kept, came = ({k: v for k, v in o.state[x].items() if v is not None}
                      for o, x in ((theirs, p), (again, q)))  # fmt: skip
        assert set(kept) <= set(came) <= {*kept, "step"}
        for slot, value in kept.items():
            torch.testing.assert_close(came[slot], value, rtol=1e-12, atol=0, check_dtype=False)
    step((runs[0], theirs), (runs[1], here), (runs[2], again))
    rough = {"rtol": 0.0, "atol": 2e-3} if name == "Muon" else EXACT  # torch's is in bfloat16
    for p, q, r in zip(*runs, strict=True):
        torch.testing.assert_close(r, p, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(q, p, **rough)


@every_class_but()
def test_a_new_optimizer_of_either_library_goes_on(name):
    for options in STATES.get(name, ({},)):
        both = Both(name, lr=0.05, **options).run(4, missing=(2,))
        states = [copy.deepcopy(opt.state_dict()) for opt in both.opts]
        both.opts = [
            getattr(library, name)(params)
            for library, params in ((ours, both.ours), (torch.optim, both.theirs))
        ]
        for opt, state in zip(both.opts, reversed(states), strict=True):
            opt.load_state_dict(state)
        both.run(4).assert_close(str(options))


@pytest.mark.parametrize("name", [*GRIDS, *ALONE])
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_saving_and_going_on_bit_for_bit(name, dtype):
    runs = []
    for interrupted in (False, True):
        params = tensors(dtype)
        opt = getattr(ours, name)(params, lr=0.01)
        for step in range(6):
            if interrupted and step == 3:
                file = io.BytesIO()
                torch.save(opt.state_dict(), file)
                file.seek(0)
                opt = getattr(ours, name)(params)
                opt.load_state_dict(torch.load(file, weights_only=True))
            give_gradients(params, step)
            opt.step()
        runs.append(params)
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_a_state_dict_is_a_copy_and_what_is_loaded_is_copied():
    params = tensors()
    opt = ours.Adam(params)
    give_gradients(params, 0)
    opt.step()
    saved = opt.state_dict()
    other = ours.Adam(tensors())
    other.load_state_dict(saved)
    before = copy.deepcopy(saved)
    for step, (some, one) in enumerate(((params, opt), (other.param_groups[0]["params"], other))):
        give_gradients(some, step)
        one.step()
    for i, entry in saved["state"].items():
        for key, value in entry.items():
            assert torch.equal(value, before["state"][i][key])


BAD_STATES = {
    "another rule": lambda s: s["state"][0].pop("exp_avg"),
    "no count": lambda s: s["state"][0].pop("step"),
    "a bad count": lambda s: s["state"][0].update(step=-1.0),
    "another shape": lambda s: s["state"][0].update(exp_avg=torch.zeros(3)),
    "an array": lambda s: s["state"][0].update(exp_avg=np.zeros(7)),
    "a bad number": lambda s: s["param_groups"][0].update(lr=-1.0),
    "on a graph": lambda s: s["param_groups"][0].update(capturable=True),
    "other groups": lambda s: s["param_groups"].append(s["param_groups"][0]),
    "other sizes": lambda s: s["param_groups"][0].update(params=[0]),
    "no entry": lambda s: s["state"].update({0: 5}),
    "no state": lambda s: s.pop("state"),
    "no groups": lambda s: s.pop("param_groups"),
}


@pytest.mark.parametrize("what", BAD_STATES)
def test_a_bad_state_dict_changes_nothing(what):
    params, twin = tensors(), tensors()
    opts = [ours.Adam(p, lr=0.1) for p in (params, twin)]
    for p, opt in zip((params, twin), opts, strict=True):
        give_gradients(p, 0)
        opt.step()
    bad = opts[0].state_dict()
    BAD_STATES[what](bad)
    with pytest.raises((TypeError, ValueError)):
        opts[0].load_state_dict(bad)
    for p, opt in zip((params, twin), opts, strict=True):
        give_gradients(p, 1)
        opt.step()
    assert all(map(torch.equal, params, twin))
    assert opts[0].param_groups[0]["lr"] == 0.1


def test_the_state_of_another_rule_is_refused():
    with pytest.raises(TypeError, match=r"Adam.load_state_dict: expected a dict, got NoneType"):
        ours.Adam(tensors()).load_state_dict(None)
    both = Both("SGD", momentum=0.9, lr=0.1).run(1)
    with pytest.raises(ValueError, match="'momentum_buffer', which is of another rule"):
        ours.Adam(tensors()).load_state_dict(both.opts[1].state_dict())


# --------------------------------------------------------------------------- the state itself


@every_class_but("ASGD")  # whose eta and mu are in its state dict alone
def test_state_is_torchs_in_names_and_shared_with_numpy(name):
    for options in STATES.get(name, ({},)):
        both = Both(name, **options)
        assert len(both.opts[0].state) == len(both.opts[1].state)
        both.run(2)
        for a, b in zip(both.ours, both.theirs, strict=True):
            mine, other = (opt.state[p] for opt, p in zip(both.opts, (a, b), strict=True))
            assert set(mine) == {k for k, v in other.items() if v is not None}
            for key, value in mine.items():
                torch.testing.assert_close(value.double(), other[key].double(), **EXACT)
        state = both.opts[0].optimizer.state
        for i, p in enumerate(both.ours):
            for key, tensor in both.opts[0].state[p].items():
                if isinstance(state[i][key], np.ndarray) and tensor.numel():
                    assert np.shares_memory(tensor.numpy(), state[i][key])


def test_state_written_in_place_counts():
    both = Both("Adam", lr=0.1).run(3)
    for params, opt in zip((both.ours, both.theirs), both.opts, strict=True):
        entry = opt.state[params[0]]
        entry["exp_avg"].zero_()
        entry["step"].fill_(1)
    both.run(3).assert_close()


def replace_entries(opt, params):
    entry = opt.state[params[0]]
    entry["exp_avg"] = torch.ones_like(params[0])


def replace_entry(opt, params):
    opt.state[params[1]] = {k: v.clone() * 2 for k, v in opt.state[params[1]].items()}


def replace_state(opt, params):
    opt.state = type(opt.state)(dict)


def clear_state(opt, params):
    opt.state.clear()


def drop_entry(opt, params):
    del opt.state[params[0]]


def transpose_in_place(opt, params):
    """The same memory, read in another order."""
    square = params[3]
    square.data = square.data.t()


def replace_data_of_state(opt, params):
    entry = opt.state[params[0]]
    entry["exp_avg"].data = torch.ones_like(params[0])
    entry["step"].data = torch.tensor(1.0, dtype=torch.float64)


def share_state(opt, params):
    """Moves the memory under tensors that stay the same."""
    for entry in opt.state.values():
        for tensor in entry.values():
            tensor.share_memory_()


def flatten_and_back(opt, params):
    some = [params[0], params[2], params[5]]
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(some) * 0.5, some)


def replace_parameter(opt, params):
    """As densification of point clouds does it."""
    stored = opt.state.pop(params[0])
    new = torch.cat([params[0].detach(), torch.ones(2, dtype=params[0].dtype)]).requires_grad_()
    for key in ("exp_avg", "exp_avg_sq"):
        stored[key] = torch.cat([stored[key], torch.zeros(2, dtype=new.dtype)])
    opt.param_groups[0]["params"][0] = params[0] = new
    opt.state[new] = stored


@pytest.mark.parametrize(
    "change",
    (replace_entries, replace_entry, replace_state, clear_state, drop_entry, replace_data,
     replace_data_of_state, share_state, flatten_and_back, transpose_in_place, replace_parameter),
)  # fmt: skip
def test_what_is_replaced_between_steps_counts(change, exchange):
    both = Both("Adam", lr=0.1).run(3)
    for params, opt in zip((both.ours, both.theirs), both.opts, strict=True):
        change(opt, params)
    both.run(3).assert_close()
    assert opt_counts(both.opts[0]) == opt_counts(both.opts[1])


def opt_counts(opt):
    return [entry["step"].item() for entry in opt.state_dict()["state"].values()]


def test_memory_moved_to_other_processes_is_followed():
    nets = model(), model()
    opts = ours.AdamW(nets[0].parameters()), torch.optim.AdamW(nets[1].parameters())
    for net, opt in zip(nets, opts, strict=True):
        train(net, opt, 2)
        net.share_memory()
        train(net, opt, 2)
    assert_same_models(*nets)


def test_a_model_made_double_before_its_first_step():
    both = [model(), model()]
    opts = ours.Adam(both[0].parameters()), torch.optim.Adam(both[1].parameters())
    for net, opt in zip(both, opts, strict=True):
        net.double()
        train(net, opt, 5)
    assert_same_models(*both, **EXACT)


# --------------------------------------------------------------------------- optkern's checkpoints


@pytest.mark.parametrize("name", ("SGD", "Adam", "NAdam", "Lion"))
@pytest.mark.parametrize("inside", (False, True))
@pytest.mark.parametrize("fresh", (False, True))
def test_optkerns_checkpoints_go_on_exactly(tmp_path, name, inside, fresh):
    path = tmp_path / "run.npz"
    options = {"momentum": 0.9} if name == "SGD" else {}
    options |= {"lr": 0.01, "clip_norm": 1.0, "ema_decay": 0.9}

    def begin():
        net = model()
        return net, getattr(ours, name)(net.parameters(), **options)

    net, opt = begin()
    train(net, opt, 4)
    opt.param_groups[0]["lr"] = 0.02
    optkern.save(path, opt.optimizer if inside else opt, extra={"epoch": 4})
    train(net, opt, 3)
    other, again = begin()
    if not fresh:
        train(other, again, 2)
    report = optkern.load(path, again.optimizer if inside else again)
    assert report.extra == {"epoch": 4} and not report.missing_keys
    if not inside:  # it shows at once what has been loaded
        assert again.param_groups[0]["lr"] == 0.02
        assert all("ema" in entry for entry in again.state.values())
    train(other, again, 3)
    for (_, one), p in zip(other.named_parameters(), net.parameters(), strict=True):
        assert torch.equal(one, p)
    assert again.param_groups[0]["lr"] == 0.02
    one, two = opt.state_dict(), again.state_dict()
    assert one["state"].keys() == two["state"].keys()
    for i, entry in one["state"].items():
        assert entry.keys() == two["state"][i].keys()
        for key, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(two["state"][i][key])), key


def test_a_checkpoint_of_no_steps_takes_the_state_away(tmp_path):
    path, net = tmp_path / "run.npz", model()
    opt = ours.Adam(net.parameters(), lr=0.01)
    optkern.save(path, opt)
    train(net, opt, 2)
    optkern.load(path, opt)
    assert opt.state_dict()["state"] == {} or not any(opt.state_dict()["state"].values())
    other = model()
    theirs = torch.optim.Adam(other.parameters(), lr=0.01)
    train(net, opt, 2)
    train(other, theirs, 2)
    for one, p in zip(other.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one, p, rtol=1e-5, atol=1e-6)


def test_another_librarys_optimizer_is_no_optkern_optimizer(tmp_path):
    theirs = torch.optim.Adam([torch.ones(3, requires_grad=True)])
    for call in (optkern.save, optkern.load):
        with pytest.raises(TypeError, match=r"an optkern optimizer, got torch.optim.adam.Adam"):
            call(tmp_path / "x.npz", theirs)
    assert not list(tmp_path.iterdir())


BAD_OBJECTIVES = {
    "model": ((lambda x: x, X, Y, cross_entropy), TypeError, "must be a torch.nn.Module"),
    "rows": ((model(), X, Y[:9], cross_entropy), ValueError, "got 40 and 9"),
    "none": ((model(), X[:0], Y[:0], cross_entropy), ValueError, "got 0 and 0"),
    "number": ((model(), X, 3.0, cross_entropy), ValueError, "y must have a row for each"),
    "batches": ((model(), X, Y, cross_entropy, 0), ValueError, "batch_size must be"),
    "frozen": ((nn.Tanh(), X, Y, cross_entropy), ValueError, "no parameter that requires"),
    "complex": ((nn.Linear(5, 3, dtype=torch.cfloat), X, Y, cross_entropy), TypeError, "real"),
    "weights": (
        (model(), X, Y, nn.CrossEntropyLoss(torch.ones(3)), 9), ValueError, "weighted by class"
    ),
    "ignored": ((model(), X, Y, nn.CrossEntropyLoss(ignore_index=1), 9), ValueError, "some rows"),
    "ignored by the function": (
        (model(), X, torch.where(torch.arange(40) < 38, Y, -100), nn.functional.cross_entropy, 9),
        ValueError,
        "some rows",
    ),
    "ignored within": (
        (model(), X, torch.where(torch.arange(40) < 5, -100, Y), cross_entropy, 9),
        ValueError,
        "put together from batches",
    ),
    "sum": (
        (model(), X, Y, lambda o, y: nn.functional.cross_entropy(o, y, reduction="sum"), 9),
        ValueError,
        "must be a mean over the rows",
    ),
    "sum of the rest": (
        (
            model(),
            X,
            torch.where(torch.arange(40) < 15, -100, Y),
            lambda o, y: nn.functional.cross_entropy(o, y, reduction="sum"),
            7,
        ),
        ValueError,
        "must be a mean over the rows",
    ),
    "root": ((model(), X, X[:, :3], lambda o, y: (o - y).norm(), 1), ValueError, "for 3 rows"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_OBJECTIVES)
def test_bad_objectives(what):
    arguments, error, words = BAD_OBJECTIVES[what]
    with pytest.raises(error, match=words):
        ours.objective(*arguments)


def test_a_loss_that_is_not_one_number():
    at = ours.objective(model(), X, Y, nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match="loss_fn must give a tensor with one number"):
        at.loss(at.x)
