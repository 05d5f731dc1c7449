"""Whoever knows torch.optim knows optkern: the same names, defaults, meaning and numbers."""

import inspect
import itertools

import numpy as np
import pytest
from conftest import ordinary

import optkern

torch = pytest.importorskip(
    "torch", reason="parity with torch.optim needs PyTorch: make test EXTRAS=peers"
)

STEPS = 25
# Keywords of torch.optim that say how, not what.
MACHINERY = {"foreach", "fused", "capturable", "differentiable"}
DECAY = {"weight_decay": (0.0, 0.1)}
WAYS = {"maximize": (False, True)}
DECOUPLED = {"decoupled_weight_decay": (False, True)}
BETAS = {"betas": ((0.9, 0.999), (0.5, 0.7))}
# Every option of each class, at its default and elsewhere.
GRIDS = {
    "SGD": {
        "lr": (1e-3, 0.1), "momentum": (0.0, 0.9), "dampening": (0.0, 0.4),
        "nesterov": (False, True), **DECAY, **WAYS,
    },
    "Adagrad": {
        "lr": (1e-2, 0.1), "lr_decay": (0.0, 0.3), "initial_accumulator_value": (0.0, 0.5),
        "eps": (1e-10, 1e-3), **DECAY, **WAYS,
    },
    "RMSprop": {
        "lr": (1e-2,), "alpha": (0.99, 0.5), "eps": (1e-8, 1e-2), "momentum": (0.0, 0.8),
        "centered": (False, True), **DECAY, **WAYS,
    },
    "Adadelta": {"lr": (1.0, 0.3), "rho": (0.9, 0.5), "eps": (1e-6, 1e-3), **DECAY, **WAYS},
    "Adam": {
        "lr": (1e-3,), "eps": (1e-8, 1e-2), "amsgrad": (False, True), **BETAS, **DECAY, **WAYS,
        **DECOUPLED,
    },
    "AdamW": {
        "lr": (1e-3,), "eps": (1e-8, 1e-2), "amsgrad": (False, True), **BETAS, **DECAY, **WAYS,
    },
    "Adamax": {"lr": (2e-3, 0.1), "eps": (1e-8, 1e-2), **BETAS, **DECAY, **WAYS},
    "NAdam": {
        "lr": (2e-3,), "eps": (1e-8, 1e-2), "momentum_decay": (4e-3, 0.3), **BETAS, **DECAY,
        **WAYS, **DECOUPLED,
    },
    "RAdam": {
        "lr": (1e-3, 0.1), "eps": (1e-8, 1e-2), "betas": ((0.9, 0.999), (0.5, 0.9)), **DECAY,
        **WAYS, **DECOUPLED,
    },
    "ASGD": {
        "lr": (1e-2, 0.3), "lambd": (1e-4, 0.2), "alpha": (0.75, 0.3), "t0": (1e6, 4.0), **DECAY,
        **WAYS,
    },
    "Rprop": {
        "lr": (1e-2, 0.3), "etas": ((0.5, 1.2), (0.3, 2.0)),
        "step_sizes": ((1e-6, 50.0), (0.02, 0.1)), **WAYS,
    },
}  # fmt: skip
SHAPES = ((7,), (3, 4), (), (0, 2))

every_class = pytest.mark.parametrize("name", GRIDS)


def grid(name):
    axes = GRIDS[name]
    for values in itertools.product(*axes.values()):
        options = dict(zip(axes, values, strict=True))
        if options.get("nesterov") and (not options["momentum"] or options["dampening"]):
            continue
        yield options


@pytest.fixture(autouse=True)
def scalars_in_double():
    """torch keeps NAdam's product of momentum factors in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Pair:
    """The same parameters twice, and an optimizer of each library over them."""

    def __init__(self, name, dtype=np.float64, groups=None, **options):
        starts = [ordinary(dtype, int(np.prod(s)), k).reshape(s) for k, s in enumerate(SHAPES)]
        self.dtype = dtype
        self.ours = [p.copy() for p in starts]
        self.theirs = [torch.tensor(p, requires_grad=True) for p in starts]
        self.grouped = groups is not None
        ours, theirs = self.ours, self.theirs
        if groups:
            ours = [{"params": ours[:2], **groups[0]}, {"params": ours[2:], **groups[1]}]
            theirs = [{"params": theirs[:2], **groups[0]}, {"params": theirs[2:], **groups[1]}]
        self.opt = getattr(optkern, name)(ours, **options)
        self.torch = getattr(torch.optim, name)(theirs, **options)

    def run(self, steps=STEPS, first=0, missing=()):
        """Steps of both; ``missing`` parameters have no gradient."""
        for k in range(first, first + steps):
            grads = [
                None
                if i in missing
                else ordinary(self.dtype, p.size, 1000 * k + i).reshape(p.shape)
                for i, p in enumerate(self.ours)
            ]
            for p, g in zip(self.theirs, grads, strict=True):
                p.grad = None if g is None else torch.tensor(g)
            self.torch.step()
            self.opt.step([grads[:2], grads[2:]] if self.grouped else grads)

    def set(self, group, **options):
        for name, value in options.items():
            self.opt.param_groups[group][name] = value
            self.torch.param_groups[group][name] = value

    def assert_close(self, **tolerance):
        for ours, theirs in zip(self.ours, self.theirs, strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), **tolerance)


EXACT = {"rtol": 1e-12, "atol": 1e-14}


@every_class
def test_option_grid_in_float64(name):
    for options in grid(name):
        pair = Pair(name, **options)
        pair.run()
        pair.assert_close(**EXACT, err_msg=str(options))


@every_class
def test_option_grid_in_float32(name):
    """Within a unit in the last place per step, for parameters of order one."""
    unit = np.finfo(np.float32).eps
    for options in grid(name):
        pair = Pair(name, np.float32, **options)
        pair.run()
        pair.assert_close(rtol=STEPS * unit, atol=STEPS * unit, err_msg=str(options))


@every_class
def test_state_has_the_same_names_and_numbers(name):
    for options in grid(name):
        pair = Pair(name, **options)
        pair.run(8)
        for i, tensor in enumerate(pair.theirs):
            theirs, ours = pair.torch.state[tensor], pair.opt.state[i]
            if name != "SGD":
                assert ours["step"] == theirs["step"]
            known = {"step", "eta", "mu"}  # ours follow from the number of the step
            arrays = {k: v for k, v in theirs.items() if k not in known and v is not None}
            assert set(arrays) <= set(ours)
            assert set(ours) - set(arrays) <= {"step"}
            for slot, value in arrays.items():
                np.testing.assert_allclose(ours[slot], value.numpy(), **EXACT, err_msg=slot)


@every_class
def test_parameter_groups(name):
    first = {"lr": 0.02, "maximize": True}
    second = {"weight_decay": 0.3, "betas": (0.6, 0.8)}
    second = {key: value for key, value in second.items() if key in GRIDS[name]}
    pair = Pair(name, groups=(first, second), lr=0.01)
    pair.run()
    pair.assert_close(**EXACT)


@pytest.mark.parametrize("name", sorted(set(GRIDS) - {"ASGD"}))  # which takes lr a step later there
def test_hyperparameters_changed_midway(name):
    pair = Pair(name, groups=({}, {"lr": 0.03}), lr=0.01)
    pair.run(7)
    pair.set(0, lr=0.05, **({"weight_decay": 0.2} if "weight_decay" in GRIDS[name] else {}))
    pair.set(1, lr=0.001, maximize=True)
    pair.run(7, first=7)
    if "betas" in GRIDS[name]:
        pair.set(0, betas=(0.7, 0.8))
    pair.set(1, maximize=False)
    pair.run(7, first=14)
    pair.assert_close(**EXACT)


@pytest.mark.parametrize("dampening", (0.0, 0.4))
def test_momentum_switched_on_midway(dampening):
    """The first velocity is the gradient itself, at whichever step the momentum begins."""
    pair = Pair("SGD", lr=0.1)
    pair.run(5)
    pair.set(0, momentum=0.9, dampening=dampening)
    pair.run(5, first=5)
    pair.set(0, momentum=0.0)
    pair.run(2, first=10)
    pair.set(0, momentum=0.5)
    pair.run(5, first=12)
    pair.assert_close(**EXACT)


@every_class
def test_parameter_that_has_no_gradient_for_a_while(name):
    options = {"momentum": 0.9, "dampening": 0.4} if name == "SGD" else {}
    pair = Pair(name, lr=0.01, **options)
    pair.run(4, missing=(0, 2))
    pair.run(4, first=4, missing=(1,))
    pair.run(8, first=8)
    pair.assert_close(**EXACT)


# --------------------------------------------------------------------------- signatures


def signatures(name):
    ours = inspect.signature(getattr(optkern, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    return ours, theirs


@every_class
def test_every_keyword_of_torch_is_there_with_its_default(name):
    ours, theirs = signatures(name)
    for keyword, parameter in theirs.items():
        if keyword in MACHINERY | {"params"}:
            continue
        assert keyword in ours
        assert ours[keyword].default == parameter.default, keyword
        assert type(ours[keyword].default) in (type(parameter.default), float)


@every_class
def test_positional_arguments_come_in_torchs_order(name):
    ours, theirs = signatures(name)
    names = [k for k, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    # What follows an argument that says how cannot be given by position without it.
    names = list(itertools.takewhile(lambda k: k not in MACHINERY, names))
    assert list(ours)[: len(names)] == names
    assert all(ours[k].kind is ours[k].POSITIONAL_OR_KEYWORD for k in names)
    values = {k: theirs[k].default for k in names[1:]}
    p = np.ones(3)
    opt = getattr(optkern, name)(p, *values.values())
    for keyword in set(values) & set(opt.param_groups[0]):
        assert opt.param_groups[0][keyword] == values[keyword]


@every_class
def test_grid_covers_every_keyword(name):
    _, theirs = signatures(name)
    assert set(GRIDS[name]) == set(theirs) - MACHINERY - {"params"}


def test_classes_are_torchs():
    shared = {n for n in optkern.__all__ if hasattr(torch.optim, n)} - {"Optimizer", "LBFGS"}
    assert shared == {*GRIDS, "Muon", "Adafactor"}  # whose tests are files of their own
