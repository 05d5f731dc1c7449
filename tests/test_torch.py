"""PyTorch's optimizers by optkern: torch's trajectories, state dicts, schedulers and habits."""

import copy
import importlib
import inspect
import io
import pickle
import sys
import warnings
import weakref

import numpy as np
import pytest
from conftest import ordinary

import optkern
from optkern import curvature

torch = pytest.importorskip("torch", reason="needs PyTorch: make test EXTRAS=torch")

from test_torch_parity import GRIDS, grid  # noqa: E402

from optkern.integrations import torch as ours  # noqa: E402
from optkern.integrations.torch import tensors as tensor_memory  # noqa: E402

nn = torch.nn


def every_class(test):
    """Each of torch's classes; NAdam's product of momentum factors is of the default dtype."""
    return pytest.mark.usefixtures("in_double")(pytest.mark.parametrize("name", GRIDS)(test))


@pytest.fixture
def in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


ALONE = ("Lion", "LARS", "LAMB")  # torch has none of these
EXACT = {"rtol": 1e-10, "atol": 1e-13}
SHAPES = ((7,), (3, 4), (), (4, 4), (0, 2), (2, 3, 2))


def tensors(dtype=torch.float64, shapes=SHAPES):
    """Fresh parameters; the second does not lie in C order."""
    made = [torch.tensor(ordinary(np.float64, int(np.prod(s)), k).reshape(s)) for k, s in
            enumerate(shapes)]  # fmt: skip
    made[1] = made[1].t().contiguous().t()
    return [t.to(dtype).requires_grad_() for t in made]


def give_gradients(params, step, missing=()):
    for i, p in enumerate(params):
        g = torch.tensor(ordinary(np.float64, p.numel(), 1000 * step + i).reshape(tuple(p.shape)))
        # In the parameter's order: torch's fused kernels take another order for this one.
        p.grad = None if i in missing else torch.empty_like(p).detach().copy_(g)


class Both:
    """The same parameters twice, and an optimizer of each library over them."""

    def __init__(self, name, dtype=torch.float64, groups=None, **options):
        self.name, self.options = name, options
        self.ours, self.theirs = tensors(dtype), tensors(dtype)
        self.steps = 0
        self.opts = [
            getattr(library, name)(self.grouped(params, groups), **options)
            for library, params in ((ours, self.ours), (torch.optim, self.theirs))
        ]

    @staticmethod
    def grouped(params, groups):
        if groups is None:
            return params
        return [{"params": params[:2], **groups[0]}, {"params": params[2:], **groups[1]}]

    def run(self, steps=5, missing=()):
        for _ in range(steps):
            for params, opt in zip((self.ours, self.theirs), self.opts, strict=True):
                give_gradients(params, self.steps, missing)
                opt.step()
            self.steps += 1
        return self

    def assert_close(self, message="", **tolerance):
        for a, b in zip(self.ours, self.theirs, strict=True):
            torch.testing.assert_close(
                a, b, **(tolerance or EXACT), msg=lambda m: f"{message}: {m}"
            )


def model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3)).to(dtype)


torch.manual_seed(0)
X = torch.randn(40, 5)
Y = torch.randint(0, 3, (40,))


def train(net, opt, steps=10, scheduler=None):
    for _ in range(steps):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(X.to(next(net.parameters()).dtype)), Y)
        loss.backward()
        opt.step()
        if scheduler is not None:
            metric = (loss.item(),) if "Plateau" in type(scheduler).__name__ else ()
            scheduler.step(*metric)


def assert_same_models(a, b, **tolerance):
    for (name, one), (_, other) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        torch.testing.assert_close(one, other, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


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


@every_class
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


# --------------------------------------------------------------------------- state dicts

STATES = {
    "SGD": ({}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}),
    "Adam": ({}, {"amsgrad": True}, {"fused": True, "weight_decay": 0.1}, {"foreach": True}),
    "AdamW": ({}, {"foreach": False}),
    "RMSprop": ({}, {"centered": True, "momentum": 0.5}),
    "NAdam": ({}, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
}


@every_class
def test_state_dicts_both_ways(name):
    for options in STATES.get(name, ({},)):
        both = Both(name, lr=0.05, **options).run(3).run(2, missing=(1,))
        mine, other = (opt.state_dict() for opt in both.opts)
        assert set(mine["state"]) == set(other["state"])
        for i, entry in other["state"].items():
            assert set(mine["state"][i]) == {k for k, v in entry.items() if v is not None}
        other = copy.deepcopy(other)  # torch's own loading keeps the tensors it is given
        for opt, state in zip(both.opts, (other, mine), strict=True):
            for group in state["param_groups"]:
                group["lr"] = 0.03
            opt.load_state_dict(state)
            assert opt.param_groups[0]["lr"] == 0.03
        both.run(4).assert_close(str(options))
        assert set(torch.optim.__dict__[name](tensors()).defaults) <= {
            *mine["param_groups"][0],
            "decoupled_weight_decay",
        }


@every_class
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


@every_class
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


def replace_data(opt, params):
    params[0].data = params[0].data * 2
    params[5].data = params[5].data.clone(memory_format=torch.contiguous_format)


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


@pytest.fixture(params=("this torch", "an older one"))
def exchange(request, monkeypatch):
    """An older torch has no C functions of DLPack, and counts one tensor's changes at a time."""

    def increment(tensor):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError("expected a Tensor")
        increment_version(tensor)

    increment_version = torch.autograd.graph.increment_version
    if request.param == "an older one":
        monkeypatch.setattr(tensor_memory, "exchange", tensor_memory.PlainExchange())
        monkeypatch.setattr(torch.autograd.graph, "increment_version", increment)


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


# --------------------------------------------------------------------------- torch's habits

SCHEDULERS = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda k: 0.9**k),
    "StepLR": lambda s, o: s.StepLR(o, 3),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.1, total_steps=20),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 1e-3, 0.1, step_size_up=4),
    "ReduceLROnPlateau": lambda s, o: s.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, total_iters=4), s.ExponentialLR(o, 0.8)], [4]
    ),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler([s.LinearLR(o), s.ExponentialLR(o, 0.9)]),
    "SWALR": lambda s, o: torch.optim.swa_utils.SWALR(o, 0.05, anneal_epochs=5),
}


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


# --------------------------------------------------------------------------- tensors of all kinds


@pytest.mark.filterwarnings("ignore:Using backward", "ignore:grad and param do not obey")
def test_memory_formats_and_odd_gradients(exchange):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, library in zip(nets, (ours, torch.optim), strict=True):
        net.to(memory_format=torch.channels_last)
        opt = library.AdamW(net.parameters(), lr=0.01)
        for k in range(3):
            torch.manual_seed(k)
            opt.zero_grad()
            net(torch.randn(5, 3, 4, 4)).square().mean().backward(create_graph=k == 1)
            net[2].weight.grad = net[2].weight.grad.t().contiguous().t()
            net[2].bias.grad = torch.tensor(0.5).expand(2)
            net[0].bias.grad = torch._neg_view(torch.arange(4.0))
            opt.step()
    assert_same_models(*nets)


def test_gradients_without_memory(exchange):
    params = [torch.ones(1000, requires_grad=True) for _ in range(2)]
    opt = ours.SGD(params, lr=0.1)
    params[0].grad = torch._efficientzerotensor(1000)
    opt.step()
    assert params[0].eq(1).all()
    params[0].grad, params[1].grad = torch.ones(1000), torch.ones(1000)
    params[1].grad.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match="SGD: gradient of parameter 1 has no memory"):
        opt.step()
    assert params[0].eq(1).all()


def test_gradients_let_go_during_a_step_stay_until_it_is_over(exchange):
    p = torch.ones(100_000, requires_grad=True)
    others = []

    def scale(step):
        if p.grad is not None:
            p.grad = None
            others.extend(
                torch.full((100_000,), 9.0) for _ in range(5)
            )  # in the place that is free
        return 1.0

    opt = ours.SGD([p], lr=0.25, grad_scale=scale)
    p.grad = torch.full((100_000,), 2.0)
    opt.step()
    assert others and p.eq(0.5).all()


def test_what_an_exceptions_frames_hold_has_an_owner(exchange):
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.full((3,), float("nan"))
    with pytest.raises(ValueError, match="holds NaN or inf") as caught:
        ours.SGD([p], lr=0.1, on_nonfinite="raise").step()
    held = [
        value
        for entry in caught.traceback
        for values in entry.frame.f_locals.values()
        if isinstance(values, (list, tuple))
        for value in values
        if isinstance(value, np.ndarray)
    ]
    assert held and all(a.flags.owndata or a.base is not None for a in held)


@pytest.mark.skipif(
    isinstance(tensor_memory.exchange, tensor_memory.PlainExchange), reason="needs torch >= 2.10"
)
def test_the_exchange_takes_lists_that_match():
    one = torch.ones(3)
    with pytest.raises(ValueError, match="1 tensors have 0 counterparts"):
        tensor_memory.exchange.over([one], [])
    assert tensor_memory.exchange.over([one, None], [None, one.numpy()]) == [one, None]
    assert not tensor_memory.exchange.are([one], [])
    assert not tensor_memory.exchange.are([one], [None]) and not tensor_memory.exchange.are(
        [None], [one.numpy()]
    )


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_half_precision(dtype):
    """As optkern has it: float32 state and arithmetic, the weights rounded to nearest."""
    if dtype is torch.bfloat16:
        pytest.importorskip("ml_dtypes", reason="needs ml_dtypes: make test EXTRAS=bfloat16")
    params = tensors(dtype)
    wide = [p.detach().float().requires_grad_() for p in params]
    opt = ours.Adam(params, lr=0.01)
    give_gradients(params, 0)
    opt.step()
    for p, w in zip(params, wide, strict=True):
        w.grad = p.grad.float()
    torch.optim.Adam(wide, lr=0.01).step()
    for p, w in zip(params, wide, strict=True):
        torch.testing.assert_close(p, w.to(dtype), rtol=0.01, atol=1e-6)
        assert opt.state[p]["exp_avg"].dtype == torch.float32


BAD = {
    "number": (lambda: ours.Adam([torch.ones(3)], lr=-1), ValueError, "Adam: group 0: lr must be"),
    "word": (lambda: ours.Adam([torch.ones(3)], lr="x"), TypeError, "lr must be a finite number"),
    "tensor": (lambda: ours.Adam([torch.ones(3)], lr=torch.ones(2)), ValueError, "lr must be"),
    "schedule": (
        lambda: ours.Adam([torch.ones(3)], lr=lambda k: 0.1), TypeError, "torch.optim.lr_scheduler"
    ),
    "keyword": (lambda: ours.Adam([torch.ones(3)], momentum=0.1), TypeError, "Adam has none"),
    "accumulate": (lambda: ours.Adam([torch.ones(3)], accumulate=2), TypeError, "'accumulate'"),
    "graph": (lambda: ours.Adam([torch.ones(3)], capturable=True), ValueError, "capturable=True"),
    "differentiable": (
        lambda: ours.SGD([torch.ones(3)], differentiable=True), ValueError, "differentiable=True"
    ),
    "nesterov": (lambda: ours.SGD([torch.ones(3)], nesterov=True), ValueError, "nesterov=True"),
    "device": (lambda: ours.Adam([torch.ones(3, device="meta")]), TypeError, "must be on the CPU"),
    "complex": (lambda: ours.Adam([torch.ones(3).to(torch.complex64)]), TypeError, "complex64"),
    "integer": (lambda: ours.Adam([torch.ones(3, dtype=torch.int64)]), TypeError, "torch.int64"),
    "float8": (
        lambda: ours.Adam([torch.ones(3).to(torch.float8_e5m2)]), TypeError, "does not share"
    ),
    "sparse": (lambda: ours.Adam([torch.eye(3).to_sparse()]), TypeError, "must be a dense tensor"),
    "lazy": (lambda: ours.Adam(nn.LazyLinear(2).parameters()), ValueError, "run its lazy module"),
    "expanded": (lambda: ours.Adam([torch.ones(1).expand(3)]), ValueError, "share memory"),
    "overlapping": (
        lambda: (lambda t: ours.Adam([t[:2], t[1:]]))(torch.ones(3)), ValueError, "overlap"
    ),
    "array": (lambda: ours.Adam([np.ones(3)]), TypeError, "can only optimize Tensors"),
    "nothing": (lambda: ours.Adam([]), ValueError, "empty parameter list"),
    "one tensor": (lambda: ours.Adam(torch.ones(3)), TypeError, "iterable of Tensors"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments(what):
    make, error, words = BAD[what]
    with pytest.raises(error, match=words):
        make()


def test_bad_gradients_and_groups_change_nothing():
    torch.manual_seed(0)
    table = nn.Embedding(5, 2, sparse=True)
    w = torch.ones(3, requires_grad=True)
    opt = ours.Adam([w, table.weight], lr=0.1)
    w.grad = torch.ones(3)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match=r"Adam: gradient of parameter 1 must be dense.*SparseAdam"):
        opt.step()
    table.weight.grad = None
    opt.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"Adam.*lr must be a finite number"):
        opt.step()
    opt.param_groups[0]["lr"] = 0.1
    with pytest.raises(TypeError, match="must be on the CPU"):
        opt.add_param_group({"params": [torch.ones(2, device="meta")]})
    with pytest.raises(ValueError, match="betas must be"):
        opt.add_param_group({"params": [torch.ones(2)], "betas": (0.5, 2.0)})
    assert torch.equal(w, torch.ones(3)) and len(opt.param_groups) == 1 and not opt.state
    opt.step()
    torch.testing.assert_close(w, torch.full((3,), 0.9))


def test_a_missing_or_old_host(monkeypatch):
    monkeypatch.setattr("torch.__version__", "2.5.1")
    with pytest.raises(ImportError, match=r"needs torch 2.6 or newer, found 2.5.1: pip install"):
        importlib.reload(ours)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"torch 2.6 or newer, which is not installed"):
        importlib.reload(ours)


# --------------------------------------------------------------------------- curvature


def cross_entropy(output, y):
    return nn.functional.cross_entropy(output, y)


class Attention(nn.Module):
    """Tied weights, a frozen one, integers in, attention, normalisation, dropout."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.embed.weight
        self.block.linear1.bias.requires_grad_(False)

    def forward(self, x):
        return self.out(self.block(self.embed(x)).mean(1))


def recurrent():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(5, 3, batch_first=True)

        def forward(self, x):
            return self.lstm(x[:, None].expand(-1, 2, -1))[0][:, -1]

    return Last()


def inplace():
    return nn.Sequential(nn.Softplus(), nn.ELU(inplace=True), nn.Linear(5, 3), nn.Dropout(0.5))


TOKENS = torch.randint(0, 6, (40, 3))
OBJECTIVES = {
    "network": (model, X, Y, cross_entropy),
    "arrays": (model, X.numpy(), Y.numpy(), nn.CrossEntropyLoss()),
    "sum": (model, X, Y, nn.CrossEntropyLoss(reduction="sum")),
    "squares": (model, X, torch.randn(40, 3), nn.MSELoss()),
    "attention": (Attention, TOKENS, TOKENS[:, 0], nn.CrossEntropyLoss()),
    "recurrent": (recurrent, X, torch.randn(40, 3), nn.MSELoss()),
    "in place": (inplace, X, Y, cross_entropy),
    "linear": (lambda: nn.Linear(5, 1), X, torch.ones(40, 1), lambda o, y: (o * y).mean()),
}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_objective(case):
    make, inputs, targets, loss_fn = OBJECTIVES[case]
    torch.manual_seed(0)
    net = make()
    net.train()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    before = copy.deepcopy(net.state_dict())
    at = ours.objective(net, inputs, targets, loss_fn)
    x, loss, grad = at
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert list(x) == list(trained)
    wide = copy.deepcopy(net).double().eval()
    data = [torch.as_tensor(a) for a in (inputs, targets)]
    data = [a.double() if a.is_floating_point() else a.clone() for a in data]
    expected = loss_fn(wide(data[0].clone()), data[1])
    assert loss(x) == pytest.approx(expected.item(), rel=1e-12)
    leaves = [p for p in wide.parameters() if p.requires_grad]
    for name, g in zip(x, torch.autograd.grad(expected, leaves), strict=True):
        np.testing.assert_allclose(grad(x)[name], g.numpy(), rtol=1e-9, atol=1e-13)
    rng = np.random.default_rng(0)
    v = {name: rng.standard_normal(a.shape) for name, a in x.items()}
    h = 1e-5
    ahead, behind = (grad({k: a + s * h * v[k] for k, a in x.items()}) for s in (1, -1))
    product = at.hvp(v)
    for name in x:
        difference = (ahead[name] - behind[name]) / (2 * h)
        scale = max(np.abs(difference).max(), 1e-3)
        np.testing.assert_allclose(product[name], difference, rtol=0, atol=1e-6 * scale)
    batched = ours.objective(net, inputs, targets, loss_fn, batch_size=7)
    assert batched.loss(x) == pytest.approx(expected.item(), rel=1e-12)
    for name in x:
        np.testing.assert_allclose(batched.grad(x)[name], grad(x)[name], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(batched.hvp(v)[name], product[name], rtol=1e-8, atol=1e-12)
    assert net.training and all(p.grad.eq(1).all() for p in net.parameters())
    assert all(torch.equal(a, before[k]) for k, a in net.state_dict().items())


def test_objective_judges_a_saddle_and_leaves_it():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False))
    for p in net.parameters():
        nn.init.zeros_(p)
    target = X[:, :1] - X[:, 1:2]
    at = ours.objective(net, X[:, :4], target, nn.MSELoss())
    exact = curvature.classify(at.x, at.grad, at.hvp, at.loss)
    x, loss, grad = at
    for verdict in (exact, curvature.classify(x, grad=grad, loss=loss)):
        assert verdict.kind == "saddle"
    start = loss(x)
    assert curvature.escape(x, exact, loss=loss, grad=grad).moved
    net.load_state_dict({k: torch.tensor(a) for k, a in x.items()}, strict=False)
    assert nn.functional.mse_loss(net(X[:, :4]), target).item() < start


def test_monitor_and_diagnosis():
    torch.manual_seed(0)
    net = nn.Linear(5, 1).double()
    data, target = X.double(), torch.randn(40, 1, dtype=torch.float64)
    opt = ours.SGD(net.parameters(), lr=0.2)
    monitor = optkern.Monitor()
    for _ in range(400):
        opt.zero_grad()
        loss = nn.functional.mse_loss(net(data), target)
        loss.backward()
        opt.step()
        monitor.record(loss.item(), opt=opt.optimizer)
    at = ours.objective(net, data, target, nn.MSELoss())
    assert monitor.diagnose(at.x, at.grad, at.loss, at.hvp).kind == "minimum"


def test_a_monitor_takes_the_optimizer_or_the_one_inside():
    looks = []
    for inside in (False, True):
        net = model()
        opt, monitor = ours.SGD(net.parameters(), lr=0.1), optkern.Monitor(every=1)
        for _ in range(30):
            train(net, opt, 1)
            monitor.record(1.0, opt=opt.optimizer if inside else opt)
        looks.append(monitor.looks)
        assert str(monitor.diagnose(opt=opt)) == str(monitor.diagnose(opt=opt.optimizer))
    assert len(looks[0]) >= 9 and repr(looks[0]) == repr(looks[1])
    with pytest.raises(TypeError, match=r"got torch.optim.adam.Adam"):
        optkern.Monitor().record(1.0, opt=torch.optim.Adam(net.parameters()))


# --------------------------------------------------------------------------- attributes


@pytest.mark.parametrize("name", (*GRIDS, *ALONE))
def test_an_attribute_that_means_nothing_is_refused(name):
    opt = getattr(ours, name)(tensors(), lr=0.1)
    said = {
        "nun_threads": r"did you mean opt\.num_threads\?",
        "clipnorm": r"did you mean opt\.clip_norm",
        "lr": r"did you mean opt\.param_groups\[0\]\['lr'\]",
        "accumulate": "there are|did you mean",  # not on tensors
        "anything": "there are opt.clip_norm, ",
    }
    for attribute, message in said.items():
        with pytest.raises(AttributeError, match=f"^{name} has no attribute '{attribute}' to set"):
            setattr(opt, attribute, 2)
        with pytest.raises(AttributeError, match=message):
            setattr(opt, attribute, 2)
        assert not hasattr(opt, attribute)

    class Own(getattr(ours, name)):
        pass

    own = Own(tensors(), lr=0.1)
    own.anything = 2
    assert own.anything == 2


def test_options_are_attributes():
    net = model()
    opt = ours.SGD(net.parameters(), lr=0.1, momentum=0.9, clip_norm=5.0)
    assert opt.clip_norm == 5.0 and opt.num_threads is None and opt.ema_decay is None
    opt.num_threads, opt.clip_norm, opt.on_nonfinite = 1, 1e-3, "skip"
    assert opt.optimizer.num_threads == 1 and opt.optimizer.on_nonfinite == "skip"
    before = copy.deepcopy(net)
    train(net, opt, 1)
    way = [(a - b).detach() for a, b in zip(net.parameters(), before.parameters(), strict=True)]
    assert sum(float(w.square().sum()) for w in way) ** 0.5 < 1.1e-4
    for name, value in (("clip_norm", -1), ("num_threads", "x"), ("on_nonfinite", "ship")):
        was = getattr(opt, name)
        with pytest.raises((TypeError, ValueError), match=f"SGD: {name} must be"):
            setattr(opt, name, value)
        assert getattr(opt, name) == was
    opt.ema_decay = 0.9  # its state is there at once
    assert all("ema" in entry for entry in opt.state.values())
    train(net, opt, 2)
    again = copy.deepcopy(opt)
    assert again.ema_decay == 0.9 and again.num_threads == 1 and again.clip_norm == 1e-3
    saved = opt.state_dict()["state"]
    for i, average in enumerate(opt.optimizer.session.plan.state["ema"]):
        np.testing.assert_array_equal(saved[i]["ema"].numpy(), average)
    with pytest.raises(AttributeError, match="zero_grad is torch's method"):
        opt.zero_grad = True
    opt.zero_grad()  # whatever the option's name is
    assert all(p.grad is None for p in net.parameters())
    opt.optimizer.zero_grad = True
    nn.functional.cross_entropy(net(X), Y).backward()
    opt.step()
    assert all(not p.grad.any() for p in net.parameters())


def test_what_torch_sets_on_optimizers_is_allowed():
    net = model()
    opt = ours.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedulers = torch.optim.lr_scheduler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for make in SCHEDULERS.values():  # each wraps `step`
            make(schedulers, opt)
    seen = []
    handle = opt.register_step_post_hook(lambda *args: seen.append(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    twins = [opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for twin in twins:
        params = twin.param_groups[0]["params"]
        before = [p.detach().clone() for p in params]
        loss = sum(p.square().sum() for p in params)
        scaler.scale(loss).backward()
        scaler.step(twin)
        scaler.update()
        assert any(not torch.equal(p, q) for p, q in zip(params, before, strict=True))
        with pytest.raises(AttributeError, match="no attribute 'mometum' to set"):
            twin.mometum = 0.5
    assert seen == [1]
    handle.remove()
    opt.step = opt.step  # as torch.compile and the schedulers do
    opt.state, opt.param_groups, opt.defaults = opt.state, opt.param_groups, opt.defaults
    opt._own_business = 3
    del opt.step


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
