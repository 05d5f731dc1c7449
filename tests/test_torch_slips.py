"""A torch user's slips in groups and state are said; what schedulers and users add is theirs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="extra `torch`")

import optkern  # noqa: E402
from optkern.integrations import torch as ours  # noqa: E402

CLASSES = (
    *("SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
    *("Lion", "LARS", "LAMB"),
)
every_class = pytest.mark.parametrize("cls", [getattr(ours, name) for name in CLASSES])
MISSPELT = {
    "weigth_decay": "weight_decay",
    "weightdecay": "weight_decay",
    "Weight_Decay": "weight_decay",
    "learning_rate": "lr",
    "LR": "lr",
    "maximise": "maximize",
}


def ones(n=2):
    return [torch.ones(3, requires_grad=True) for _ in range(n)]


@pytest.mark.parametrize("name", MISSPELT)
@every_class
def test_a_misspelt_key_of_a_group_is_an_error(cls, name):
    first, second = ones()
    said = rf"{cls.__name__}: group 1: unknown hyperparameter '{name}'; did you mean"
    if MISSPELT[name] not in cls._kind.names:
        pytest.skip("of a hyperparameter that it does not have")
    with pytest.raises(TypeError, match=f"{said} {MISSPELT[name]}"):
        cls([{"params": [first]}, {"params": [second], name: 0.1}])
    opt = cls([first])
    with pytest.raises(TypeError, match=said):
        opt.add_param_group({"params": [second], name: 0.1})
    assert len(opt.param_groups) == 1
    opt.param_groups[0][name] = 0.1  # torch's own dict
    first.grad = torch.ones(3)
    with pytest.raises(TypeError, match=said.replace("group 1", "group 0")):
        opt.step()
    assert torch.equal(first, torch.ones(3))
    del opt.param_groups[0][name]
    opt.step()
    assert not torch.equal(first, torch.ones(3))


def test_an_option_of_the_whole_optimizer_is_none_of_a_group():
    with pytest.raises(TypeError, match="group 0: clip_norm is an option of the whole optimizer"):
        ours.Adam([{"params": ones(), "clip_norm": 1.0}])


FOREIGN = {
    **{"initial_lr": 0.1, "max_lr": 0.2, "min_lr": 1e-4, "swa_lr": 0.1, "lr_scale": 0.5},
    **{"base_momentum": 0.8, "max_momentum": 0.9, "initial_weight_decay": 0.0, "wd_mult": 1.0},
    **{"name": "head", "layer_id": 3, "param_group_name": "x", "tag": None, "rank": 4},
    **{"is_bias": False, "update_proj_gap": 200, "no_decay": True, "param_names": ["a", "b"]},
}


@every_class
def test_keys_of_others_stay(cls):
    params = ones()
    opt = cls([{"params": params, **FOREIGN}])
    params[0].grad = torch.ones(3)
    opt.step()
    opt.param_groups[0]["another"] = 1
    opt.step()
    saved = opt.state_dict()
    other = cls(ones())
    other.load_state_dict(saved)
    assert opt.param_groups[0].items() >= FOREIGN.items()
    assert other.param_groups[0]["layer_id"] == 3


def test_torchs_schedulers_and_averages_pass():
    schedulers = torch.optim.lr_scheduler
    for make in (
        lambda opt: schedulers.StepLR(opt, 1),
        lambda opt: schedulers.OneCycleLR(opt, 0.1, total_steps=9),
        lambda opt: schedulers.CyclicLR(opt, 0.01, 0.1, cycle_momentum=True),
        lambda opt: torch.optim.swa_utils.SWALR(opt, 0.05),
        lambda opt: schedulers.CosineAnnealingWarmRestarts(opt, 3),
    ):
        params = ones()
        opt = ours.SGD(params, lr=0.1, momentum=0.9)
        schedule = make(opt)
        for _ in range(3):
            params[0].grad = torch.ones(3)
            opt.step()
            schedule.step()


# --------------------------------------------------------------------------- state


def trained(cls=None):
    params = ones(1)
    opt = (cls or ours.Adam)(params, lr=0.1)
    params[0].grad = torch.ones(3)
    opt.step()
    return params[0], opt


@pytest.mark.parametrize("value", (-1.0, float("nan"), float("inf"), 2.5))
@pytest.mark.parametrize("how", ("filled", "replaced", "loaded"))
def test_a_count_that_is_none_is_refused(how, value):
    p, opt = trained()
    before = p.detach().clone(), opt.state[p]["exp_avg"].clone()
    said = r"the state of parameter 0: step must be a whole number of steps, got"
    saved = opt.state_dict()
    saved["state"][0]["step"].fill_(value)
    if how == "filled":
        opt.state[p]["step"].fill_(value)
    elif how == "replaced":
        opt.state[p]["step"] = torch.tensor(value)
    with pytest.raises(ValueError, match=said):
        opt.load_state_dict(saved) if how == "loaded" else opt.step()
    assert torch.equal(p, before[0]) and torch.equal(opt.state[p]["exp_avg"], before[1])
    opt.state[p]["step"] = torch.tensor(1.0)
    opt.step()
    assert opt.state[p]["step"] == 2


def test_a_count_that_is_written_counts():
    p, opt = trained()
    opt.state[p]["step"].fill_(7)
    opt.step()
    assert opt.state[p]["step"] == 8 and opt.optimizer.state[0]["step"] == 8


def test_nadams_product_is_checked():
    p, opt = trained(ours.NAdam)
    opt.state[p]["mu_product"].fill_(-1)
    with pytest.raises(ValueError, match="parameter 0: mu_product must be"):
        opt.step()


@pytest.mark.parametrize("how", ("replaced", "loaded"))
@pytest.mark.parametrize("value, rule", ((-1.0, "must not be negative"), (np.nan, "be a number")))
def test_moments_that_no_steps_leave_are_refused(how, value, rule):
    p, opt = trained()
    saved = opt.state_dict()
    saved["state"][0]["exp_avg_sq"][1] = value
    said = rf"exp_avg_sq of parameter 0 must {rule.removeprefix('must ')}, got {value} at"
    with pytest.raises(ValueError, match=said):
        if how == "replaced":
            opt.state[p]["exp_avg_sq"] = torch.full((3,), value)
            opt.step()
        else:
            opt.load_state_dict(saved)


# --------------------------------------------------------------------------- sparse gradients

INDICES = torch.tensor([1, 1, 4])


def embedding(sparse=True):
    torch.manual_seed(0)
    layers = torch.nn.ModuleList([torch.nn.Embedding(5, 3, sparse=sparse), torch.nn.Linear(3, 1)])

    def backward():
        for p in layers.parameters():
            p.grad = None
        (layers[1](layers[0](INDICES)) ** 2).sum().backward()

    return layers, backward


def refused_sparse():
    layers, backward = embedding()
    opt = ours.SGD(layers.parameters(), lr=0.1)
    backward()
    with pytest.raises(TypeError, match="gradient of parameter 0 must be dense") as caught:
        opt.step()
    return layers, opt, str(caught.value)


def weights_after(layers, backward, *opts):
    for _ in range(2):
        backward()
        for opt in opts:
            opt.step()
    return [p.detach().clone() for p in layers.parameters()]


def test_what_a_sparse_gradients_refusal_advises_works():
    layers, opt, said = refused_sparse()
    assert "make the layer with sparse=False" in said
    layers, backward = embedding(sparse=False)
    expected = weights_after(layers, backward, ours.SGD(layers.parameters(), lr=0.1))

    layers, opt, said = refused_sparse()
    assert "p.grad = p.grad.to_dense() before the step" in said
    p = layers[0].weight

    def backward():
        p.grad = layers[1].zero_grad()
        (layers[1](layers[0](INDICES)) ** 2).sum().backward()
        p.grad = p.grad.to_dense()

    assert all(map(torch.equal, weights_after(layers, backward, opt), expected))

    names = ("SparseAdam", "SGD", "Adagrad")
    assert "torch.optim.SparseAdam, or to torch.optim.SGD or Adagrad with weight_decay=0" in said
    for name in names:
        layers, backward = embedding()
        rest = ours.SGD(layers[1].parameters(), lr=0.1)
        before = layers[0].weight.detach().clone()
        own = getattr(torch.optim, name)([layers[0].weight], lr=0.1)
        found = weights_after(layers, backward, own, rest)
        if name == "SGD":
            torch.testing.assert_close(found, expected)
        assert (found[0] != before)[[1, 4]].all() and torch.equal(found[0][0], before[0])


def test_no_memory_left_is_said_as_such(monkeypatch):
    """Not as a tensor that does not share its memory."""
    opt = ours.Adam(ones(1))

    def fails(tensor):
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(torch.Tensor, "numpy", fails)
    with pytest.raises(MemoryError, match="parameter 0: std::bad_alloc"):
        opt.add_param_group({"params": ones(1)})
    monkeypatch.undo()
    assert len(opt.param_groups) == 1


@pytest.mark.parametrize("name", ("Adam", "SGD", "RMSprop", "Adadelta"))
def test_what_a_complex_parameters_refusal_advises_works(name):
    """Its two real numbers each, which torch's own optimizers look at too."""
    torch.manual_seed(0)
    p = torch.randn(3, dtype=torch.complex128)
    with pytest.raises(TypeError, match=r"got torch\.complex128.*; train r = ") as caught:
        getattr(ours, name)([p.requires_grad_()])
    scope = {"torch": torch, "p": p}
    exec(str(caught.value).split("; train ")[1].split(" and compute")[0], scope)
    r = scope["r"]
    assert "torch.view_as_complex(r)" in str(caught.value)
    opts = getattr(ours, name)([r], lr=0.1), getattr(torch.optim, name)([p], lr=0.1)
    for _ in range(4):
        for opt, w in zip(opts, (torch.view_as_complex(r), p), strict=True):
            opt.zero_grad()
            ((w - 1j).abs() ** 2).sum().backward()
            opt.step()
    torch.testing.assert_close(torch.view_as_complex(r.detach()), p.detach(), rtol=1e-9, atol=1e-9)


def test_a_bfloat16_gradient_of_torchs_is_told_the_way_into_numpy():
    p, g = np.ones(3, np.float32), torch.full((3,), 0.5, dtype=torch.bfloat16)
    opt = optkern.SGD(p, lr=1.0)
    with pytest.raises(TypeError, match=r"gradient of parameter 0 .*: give its float\(\)"):
        opt.step(g)
    opt.step(g.float())
    assert (p == 0.5).all()
