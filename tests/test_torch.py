"""PyTorch's optimizers by optkern: torch's trajectories, state dicts, schedulers and habits."""

import copy
import inspect
import pickle
import warnings
import weakref

import numpy as np
import pytest

import optkern

torch = pytest.importorskip("torch", reason="needs PyTorch: make test EXTRAS=torch")
from test_torch_parity import GRIDS, grid  # noqa: E402
from torch_models import (  # noqa: E402
    ALONE,
    EXACT,
    SCHEDULERS,
    Both,
    X,
    Y,
    assert_same_models,
    every_class,
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


# --------------------------------------------------------------------------- trajectories


@every_class
@pytest.mark.parametrize("stride", (3, pytest.param(1, marks=pytest.mark.slow)))
def test_option_grid(name, stride):
    for options in [*grid(name)][::stride]:
        Both(name, **options).run(4).assert_close(str(options))


@every_class
def test_option_grid_in_float32(name):
    unit = torch.finfo(torch.float32).eps
    for options in [*grid(name)][::7]:
        both = Both(name, torch.float32, **options).run(6)
        both.assert_close(str(options), rtol=8 * unit, atol=8 * unit)


# ASGD takes a changed lr at once, torch's a step later; Rprop has no decay, and torch takes it in.
@every_class_but("ASGD", "Rprop")
def test_groups_that_are_written_added_and_left_without_gradients(name):
    first = {"lr": 0.02, "maximize": True}
    second = {"weight_decay": 0.3} | ({"betas": (0.6, 0.8)} if "betas" in GRIDS[name] else {})
    both = Both(name, groups=(first, second), lr=0.01).run(3).run(3, missing=(0, 2))
    for opt in both.opts:
        opt.param_groups[0]["lr"] = torch.tensor(0.05) if opt is both.opts[0] else 0.05
        opt.param_groups[1]["weight_decay"] = 0.1
    both.run(3, missing=(1,))
    for params, opt in zip((both.ours, both.theirs), both.opts, strict=True):
        params.append(torch.ones(3, dtype=torch.float64, requires_grad=True))
        opt.add_param_group({"params": params[-1:], "lr": 0.3})
    both.run(4)
    both.assert_close()


def test_momentum_switched_on_and_off():
    both = Both("SGD", lr=0.1, dampening=0.4).run(3)
    for momentum in (0.9, 0.0, 0.5):
        for opt in both.opts:
            opt.param_groups[0]["momentum"] = momentum
        both.run(3)
    both.assert_close()


def test_a_learning_rate_tensor_that_is_written_in_place():
    lr = torch.tensor(0.1)
    both = Both("SGD", lr=0.1)
    both.opts[0].param_groups[0]["lr"] = lr
    both.run(2)
    lr.fill_(0.5)
    both.opts[1].param_groups[0]["lr"] = 0.5
    both.run(2).assert_close(rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ALONE)
def test_rules_torch_does_not_have_are_optkerns_bits(name):
    params = tensors()
    arrays = [p.detach().numpy().copy(order="K") for p in params]
    opt = getattr(ours, name)(params, lr=0.01, weight_decay=0.1)
    plain = getattr(optkern, name)(arrays, lr=0.01, weight_decay=0.1)
    for step in range(4):
        give_gradients(params, step)
        opt.step()
        plain.step([p.grad.numpy() for p in params])
    for p, array in zip(params, arrays, strict=True):
        assert (p.detach().numpy() == array).all()


@every_class
def test_signature_is_torchs_and_then_optkerns(name):
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    found = inspect.signature(getattr(ours, name)).parameters
    assert [*found][: len(theirs)] == [*theirs]
    for keyword, parameter in theirs.items():
        assert found[keyword].default == parameter.default
        assert found[keyword].kind is parameter.kind
    assert {"decay_form", "clip_norm", "num_threads"} <= set(found)
    values = [p.default for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    both = tensors(), tensors()
    a, b = (
        getattr(library, name)(params, *values)
        for library, params in zip((ours, torch.optim), both, strict=True)
    )
    assert {k: a.param_groups[0][k] for k in a.defaults if k in b.defaults} == {
        k: b.param_groups[0][k] for k in b.defaults if k in a.defaults
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_inputs_of_torchs_own_tests():
    """torch's list of settings that its tests run each optimizer with, and of what is refused."""
    common = pytest.importorskip("torch.testing._internal.common_optimizers", exc_type=ImportError)
    known = [info for info in common.optim_db if info.optim_cls.__name__ in GRIDS]
    assert len(known) == len(GRIDS)
    tried = refused = 0
    for info in known:
        name = info.optim_cls.__name__
        for case in info.optim_inputs_func(device="cpu"):
            if case.kwargs.get("capturable") or case.kwargs.get("differentiable"):
                continue
            both = Both(name, **copy.deepcopy(case.kwargs)).run(4)
            both.assert_close(f"{name} {case.desc}", rtol=1e-6, atol=1e-8)
            tried += 1
        for case in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
            bad = case.optimizer_error_input
            if case.error_on is common.OptimizerErrorEnum.CONSTRUCTION_ERROR:
                if isinstance(bad.kwargs.get("lr"), torch.Tensor) and bad.kwargs["lr"].numel() == 1:
                    continue  # torch cannot read it in its fast ways
                with pytest.raises((TypeError, ValueError)):
                    getattr(ours, name)(bad.params, **bad.kwargs)
                refused += 1
    assert tried > 50 and refused > 15


# --------------------------------------------------------------------------- torch's habits


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ("SGD", "Adam"))
def test_schedulers(name, scheduler):
    nets = model(dtype=torch.float64), model(dtype=torch.float64)
    options = {"momentum": 0.9} if name == "SGD" else {}
    rates = []
    for net, library in zip(nets, (ours, torch.optim), strict=True):
        opt = getattr(library, name)(net.parameters(), lr=0.01, **options)
        made = SCHEDULERS[scheduler](torch.optim.lr_scheduler, opt)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of the order of their steps
            warnings.filterwarnings("ignore", message="The epoch parameter")
            train(net, opt, 10, made)
        rates.append(opt.param_groups[0]["lr"])
    assert rates[0] == rates[1] != 0.01
    assert_same_models(*nets, **EXACT)


def test_closures_hooks_and_their_order():
    seen = []
    net = model()
    opt = ours.SGD(net.parameters(), lr=0.1)
    opt.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    opt.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    opt.register_state_dict_pre_hook(lambda o: seen.append("save"))
    opt.register_load_state_dict_pre_hook(lambda o, d: seen.append(sorted(d)))
    opt.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))

    def closure():
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(X), Y)
        loss.backward()
        seen.append("closure")
        return loss

    with torch.no_grad():
        first = opt.step(closure)
    assert opt.step(closure) < first
    opt.load_state_dict(opt.state_dict())
    cycle = ["before", "closure", "after"]
    assert seen == [*cycle, *cycle, "save", ["param_groups", "state"], "loaded"]
    assert opt.step() is None


def test_zero_grad_frees_and_zeroes():
    params = tensors()
    opt = ours.SGD(params, lr=0.1)
    give_gradients(params, 0)
    opt.step()
    opt.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in params)
    before = [p.detach().clone() for p in params]
    opt.step()
    assert all(map(torch.equal, before, params))
    held = weakref.ref(params[0].grad)
    opt.zero_grad()
    assert held() is None and params[0].grad is None
    opt.step()


@pytest.mark.parametrize("duplicate", (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))))
def test_copies_go_on_alike(duplicate):
    net = model()
    opt = ours.NAdam(net.parameters(), lr=0.05, clip_norm=0.5, ema_decay=0.9)
    train(net, opt, 3)
    twin, other = duplicate((net, opt))
    for a, b in ((net, opt), (twin, other)):
        train(a, b, 3)
    assert_same_models(net, twin, rtol=0, atol=0)
    assert other.optimizer.clip_norm == 0.5
    assert not any(
        np.shares_memory(a.detach().numpy(), b.detach().numpy())
        for a, b in zip(net.parameters(), twin.parameters(), strict=True)
    )


def test_backward_through_weights_that_have_changed_is_refused(exchange):
    w = torch.ones(3, requires_grad=True)
    loss = (w**3).sum()
    loss.backward(retain_graph=True)
    ours.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_compiled_training_step():
    nets = model(), model()
    opts = ours.Adam(nets[0].parameters()), torch.optim.Adam(nets[1].parameters())

    @torch.compile(backend="eager")
    def step(net, opt):
        opt.zero_grad()
        nn.functional.cross_entropy(net(X), Y).backward()
        opt.step()

    for _ in range(3):
        step(nets[0], opts[0])
    train(nets[1], opts[1], 3)
    assert_same_models(*nets)


def test_averaged_models_and_clipping_of_torchs():
    nets = [model(), model(), model()]
    averages = [torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    ) for net in nets[:2]]  # fmt: skip
    opts = [
        ours.Adam(nets[0].parameters(), lr=0.05),
        torch.optim.Adam(nets[1].parameters(), lr=0.05),
        ours.Adam(nets[2].parameters(), lr=0.05, clip_norm=0.1, ema_decay=0.9, zero_grad=True),
    ]
    for k, (net, opt) in enumerate(zip(nets, opts, strict=True)):
        for _ in range(5):
            nn.functional.cross_entropy(net(X), Y).backward()
            if k < 2:
                nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            opt.step()
            if k < 2:
                averages[k].update_parameters(net)
                opt.zero_grad()
    for other in nets[1:]:
        assert_same_models(nets[0], other, rtol=1e-5, atol=1e-6)
    assert opts[2].optimizer.last_grad_norm > 0.1
    # torch's average begins with the first step's result, optkern's with what was there before.
    with opts[2].optimizer.averaged():
        assert not torch.equal(nets[2][0].weight, nets[0][0].weight)
    assert_same_models(nets[0], nets[2], rtol=1e-5, atol=1e-6)


def test_lookahead_and_averages_are_in_the_state_dict():
    runs = []
    for interrupted in (False, True):
        net = model()
        make = lambda net=net: ours.SGD(  # noqa: E731
            net.parameters(), lr=0.1, momentum=0.9, lookahead=(3, 0.5), ema_decay=0.9
        )
        opt = make()
        train(net, opt, 4)
        if interrupted:
            state = opt.state_dict()
            opt = make()
            opt.load_state_dict(state)
        train(net, opt, 4)
        with opt.optimizer.averaged():
            runs.append(copy.deepcopy(net))
    assert_same_models(*runs, rtol=0, atol=0)


@pytest.mark.parametrize("options", ({"ema_decay": 0.9}, {"lookahead": (2, 0.5)}), ids=str)
def test_averages_begin_with_the_weights_that_training_begins_with(options):
    net = nn.Linear(2, 1, bias=False)
    opt = ours.SGD(net.parameters(), lr=0.0, **options)
    net.load_state_dict({"weight": torch.full((1, 2), 7.0)})
    for _ in range(2):
        net.weight.grad = torch.ones(1, 2)
        opt.step()
    if "ema_decay" in options:
        opt.optimizer.swap_in()
    assert net.weight.eq(7).all()


def test_weights_are_safe_from_a_look_at_averages_before_the_first_step():
    net = nn.Linear(2, 1, bias=False)
    opt = ours.SGD(net.parameters(), lr=0.1, ema_decay=0.5)
    net.load_state_dict({"weight": torch.full((1, 2), 7.0)})
    with opt.optimizer.averaged():
        assert net.weight.eq(7).all()
        net.weight.data.zero_()
        assert opt.optimizer.averages_are_in
    assert net.weight.eq(7).all()


def test_weights_come_back_to_where_the_tensors_are_by_then(exchange):
    net = model()
    opt = ours.Adam(net.parameters(), lr=0.1, ema_decay=0.5)
    train(net, opt, 2)
    before, inner = copy.deepcopy(net), opt.optimizer
    with inner.averaged():
        averaged = copy.deepcopy(net)
        net.share_memory()
    for a, b in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)
    for twin in (copy.deepcopy(inner), pickle.loads(pickle.dumps(inner))):
        with twin.averaged():
            assert np.array_equal(twin.params[0], averaged[0].weight.detach().numpy())
    train(net, opt, 1)
    with opt.optimizer.averaged():
        for a, b in zip(net.parameters(), averaged.parameters(), strict=True):
            torch.testing.assert_close(a, (b + opt.state[a]["ema"]) / 2, atol=1e-6, rtol=1e-6)
    net[0].weight.data = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match=r"Adam: parameter 0 has had its shape \(8, 5\) changed"):
        inner.swap_in()


def test_state_made_under_inference_mode_can_be_written_later():
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.ones(3)
    opt = ours.Adam([w], lr=0.1)
    with torch.inference_mode():
        opt.step()
    opt.state[w]["exp_avg"].zero_()
    opt.step()
    assert opt.state[w]["step"].item() == 2


def test_nothing_is_bound_or_saved_while_the_averages_are_in():
    net = model()
    opt = ours.Adam(net.parameters(), lr=0.1, ema_decay=0.5)
    train(net, opt, 3)
    saved = opt.state_dict()
    weight = net[0].weight.detach().clone()
    calls = (opt.step, opt.state_dict, lambda: opt.load_state_dict(saved), lambda: copy.copy(opt))
    with opt.optimizer.averaged():
        averaged = net[0].weight.detach().clone()
        for call in calls:
            with pytest.raises(RuntimeError, match="the averages are in the parameters' place"):
                call()
        assert torch.equal(net[0].weight, averaged)
    assert torch.equal(net[0].weight, weight)


def test_callable_options_count_on_through_replacements_and_copies():
    params = tensors()
    seen = []
    opt = ours.SGD(params, lr=0.1, momentum=0.9, clip_norm=lambda step: seen.append(step) or 1.0)
    for step in range(3):
        give_gradients(params, step)
        opt.step()
    replace_data(opt, params)
    opt.step()
    assert opt.optimizer.steps == 4 and seen[-1] == 3
    other = copy.copy(opt)
    other.step()
    assert other.optimizer.steps == 5


def test_a_group_without_parameters():
    w = torch.ones(3, requires_grad=True)
    opt = ours.SGD([{"params": []}, {"params": [w], "lr": 0.5}], lr=0.1)
    w.grad = torch.ones(3)
    opt.step()
    assert torch.equal(w, torch.full((3,), 0.5))


def test_gradients_that_are_not_finite():
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.tensor([1.0, float("nan"), 1.0])
    skipping = ours.Adam([w], on_nonfinite="skip")
    skipping.step()
    assert torch.equal(w, torch.ones(3)) and skipping.optimizer.skipped_steps == 1
    assert not skipping.state
    with pytest.raises(ValueError, match="Adam: gradient of parameter 0 holds NaN or inf"):
        ours.Adam([w], on_nonfinite="raise").step()
