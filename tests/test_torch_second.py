"""Products of torch's second derivatives: weight_norm's are right, wrong ones are told."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test EXTRAS=torch")

from optkern import curvature  # noqa: E402
from optkern.integrations.torch import objective  # noqa: E402

nn = torch.nn
DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(30, 6, generator=DRAWN)
Y = torch.randint(0, 3, (30,), generator=DRAWN)
CROSS = nn.functional.cross_entropy


class Sine(torch.autograd.Function):
    """Its backward pass hides from autograd that the slope depends on the input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.detach().cos()


class Wrong(nn.Module):
    def forward(self, x):
        return Sine.apply(x)


class Propagating(nn.Module):
    """Wants all of its rows, as graph networks do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("links", torch.eye(30).roll(1, 0))

    def forward(self, x):
        return torch.tanh(self.links @ self.layer(x))


def network(inner, first=None):
    torch.manual_seed(0)
    return nn.Sequential(first or nn.Linear(6, 5), inner, nn.Linear(5, 3))


def off(at):
    """How far a product is from the difference of two gradients, relative to it."""
    rng, h = np.random.default_rng(0), 1e-5
    v = {name: rng.standard_normal(a.shape) for name, a in at.x.items()}
    product = at.hvp(v)
    ahead, behind = (at.grad({k: a + s * h * v[k] for k, a in at.x.items()}) for s in (1, -1))
    gap = size = 0.0
    for name, seen in product.items():
        difference = (ahead[name] - behind[name]) / (2 * h)
        gap += np.sum((seen - difference) ** 2)
        size += np.sum(difference**2)
    return np.sqrt(gap / size)


@pytest.mark.parametrize("dtype, within", [("float64", 1e-7), ("float32", 1e-5)])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(dim, dtype, within):
    """Its fused kernel is differentiated wrongly; the objective's products are right."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5), dim=dim)
    at = objective(network(nn.Tanh(), layer), X, Y, CROSS, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert off(at) < within
        assert curvature.sharpness(at).converged  # nothing unsymmetric either


def test_weight_norm_as_torch_has_it_is_told(monkeypatch):
    """Without what mends it: this is the fault, and the notice is the check's."""
    from optkern.integrations.torch import second_derivatives

    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
    at = objective(network(nn.Tanh(), layer), X, Y, CROSS)
    monkeypatch.setattr(second_derivatives, "_weight_norm", torch._weight_norm)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        error = off(at)
    if error < 1e-6:
        pytest.skip("this torch differentiates it rightly")
    assert [w.category for w in said] == [RuntimeWarning]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_a_wrong_second_derivative_is_told_once_and_differences_are_right(batch_size, dtype):
    net = network(Wrong())
    at = objective(net, X, Y, CROSS, batch_size, dtype=dtype)
    before = {name: a.clone() for name, a in net.state_dict().items()}
    with pytest.warns(RuntimeWarning, match="not the derivatives of the gradient") as said:
        assert off(at) > 0.01
        at.hvp(at.x)
    assert len(said) == 1 and "classify(at.x, at.grad, loss=at.loss)" in str(said[0].message)
    assert all(torch.equal(a, before[name]) for name, a in net.state_dict().items())
    with warnings.catch_warnings():  # the advice, followed
        warnings.simplefilter("error")
        curvature.classify(at.x, at.grad, loss=at.loss)


def zeros():
    net = network(nn.ReLU())
    for p in net.parameters():
        nn.init.zeros_(p)
    return net


@pytest.mark.parametrize(
    "net",
    [
        zeros,
        Propagating,
        lambda: network(nn.ReLU()),
        lambda: network(nn.PReLU()),
        lambda: nn.Linear(6, 3),
    ],
    ids=["all kinks", "all rows at once", "relu", "prelu", "linear"],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_false_alarm(net, dtype):
    at = objective(net(), X, Y, CROSS, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at.hvp(at.x)


def test_no_false_alarm_for_a_linear_loss():
    at = objective(nn.Linear(6, 1), X, Y, lambda out, y: out.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not at.hvp(at.x)["weight"].any()
