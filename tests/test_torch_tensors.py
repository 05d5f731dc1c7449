"""Tensors of all kinds, attributes and curvature in the torch adapter."""

import copy
import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest

import optkern
from optkern import curvature

torch = pytest.importorskip("torch", reason="needs PyTorch: make test EXTRAS=torch")
from test_torch_parity import GRIDS  # noqa: E402
from torch_models import (  # noqa: E402
    ALONE,
    SCHEDULERS,
    X,
    Y,
    assert_same_models,
    cross_entropy,
    give_gradients,
    model,
    nn,
    tensors,
    train,
)

from optkern.integrations import torch as ours  # noqa: E402
from optkern.integrations.torch import tensors as tensor_memory  # noqa: E402

torch.manual_seed(0)


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


# --------------------------------------------------------------------------- curvature


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
        "anything": "there are opt.adaptive_clip, opt.adaptive_clip_head, opt.cautious, ",
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
