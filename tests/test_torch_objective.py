"""The graph of the gradient at a point is kept: what products are, and what they cost."""

import copy
import operator
from types import SimpleNamespace

import numpy as np
import pytest

from optkern import curvature

torch = pytest.importorskip("torch", reason="needs PyTorch: make test EXTRAS=torch")

from optkern.integrations.torch import objective  # noqa: E402

nn = torch.nn
DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(30, 4, generator=DRAWN)
Y = torch.randint(0, 3, (30,), generator=DRAWN)
CROSS = nn.functional.cross_entropy


class Counted(nn.Module):
    """A network that counts its forward passes, over all of its copies."""

    passes = 0

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x):
        Counted.passes += 1
        return self.layers(x)


class Listed(nn.Module):
    """Its forward pass reads a list that is made anew from the parameters, not attributes."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3, bias=False)
        self.weights = [self.first.weight, self.last.weight]

    def forward(self, x):
        return torch.tanh(x @ self.weights[0].t() + self.first.bias) @ self.weights[1].t()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.again, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.again.weight = self.inner.weight

    def forward(self, x):
        return self.out(torch.tanh(self.again(torch.tanh(self.inner(x)))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.out = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.out(self.cells(x.reshape(len(x), 2, 2))[0][:, -1])


def normed():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, 3))


def frozen():
    net = Counted()
    net.layers[0].weight.requires_grad_(False)
    return net


def unused():
    net = Counted()
    net.idle = nn.Parameter(torch.ones(2))
    return net


NETS = (Counted, Listed, Tied, Recurrent, normed, frozen, unused)


def made(net=Counted):
    torch.manual_seed(0)
    return net()


def hessian(net):
    """The dense Hessian, by torch."""
    wide = copy.deepcopy(net).double().eval()
    leaves = [p for p in wide.parameters() if p.requires_grad]
    loss = CROSS(wide(X.double()), Y)
    first = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in first])
    rows = []
    for g in flat:
        row = [torch.zeros_like(p) for p in leaves]
        if g.requires_grad:
            row = torch.autograd.grad(g, leaves, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([r.reshape(-1) for r in row]))
    return torch.stack(rows).detach().numpy()


def random_like(x, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(a.shape) for name, a in x.items()}


def flat(v):
    return np.concatenate([a.reshape(-1) for a in v.values()])


@pytest.mark.parametrize("memory", [2**30, 0], ids=["kept", "anew"])
@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("net", NETS)
def test_products_are_those_of_the_dense_hessian(net, batch_size, memory):
    net = made(net)
    at = objective(net, X, Y, CROSS, batch_size, memory=memory)
    dense = hessian(net)
    for seed in range(3):
        v = random_like(at.x, seed)
        product = at.hvp(v)
        assert [(a.dtype, a.shape) for a in product.values()] == [
            (np.float64, a.shape) for a in at.x.values()
        ]
        np.testing.assert_allclose(flat(product), dense @ flat(v), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("batch_size, batches", [(None, 1), (8, 4)])
def test_a_product_is_no_forward_pass(batch_size, batches):
    at = objective(made(), X, Y, CROSS, batch_size)
    v = random_like(at.x)
    Counted.passes = 0
    first = at.hvp(v)
    # One of some rows to measure, and two to try a product beside a difference.
    assert Counted.passes == batches + 3
    for seed in range(5):
        at.hvp(random_like(at.x, seed))
    again = at.hvp(v)
    assert Counted.passes == batches + 3
    assert all(np.array_equal(first[name], again[name]) for name in first)


def saved_bytes(batch_size):
    """What one batch's graph takes: the least memory with which one less pass is made."""
    low, high = 0, 2**24
    while high - low > 1:
        middle = (low + high) // 2
        at = objective(made(), X, Y, CROSS, batch_size, memory=middle)
        at.hvp(at.x)
        Counted.passes = 0
        at.hvp(at.x)
        low, high = (low, middle) if Counted.passes < -(-30 // batch_size) else (middle, high)
    return high


def test_memory_bounds_what_is_kept():
    one = saved_bytes(10)
    gradient = 8 * sum(p.numel() for p in made().parameters())
    # At least the gradient, the batch and the hidden layer; not more than a few of each.
    least = gradient + 8 * 10 * (4 + 5 + 3)
    assert least <= one <= 6 * least
    v = random_like(objective(made(), X, Y, CROSS).x)
    numbers = []
    for memory, passes in ((0, 3), (one - 1, 3), (one, 2), (2 * one, 1), (3 * one, 0)):
        at = objective(made(), X, Y, CROSS, 10, memory=memory)
        at.hvp(v)
        Counted.passes = 0
        numbers.append(flat(at.hvp(v)))
        assert Counted.passes == passes
    assert all(np.array_equal(n, numbers[0]) for n in numbers)


def test_products_stay_at_the_point_that_was_given():
    net = made()
    dense = hessian(net)
    at = objective(net, X, Y, CROSS)
    v = random_like(at.x)
    at.hvp(v)
    moved = {name: a + 1 for name, a in at.x.items()}
    at.loss(moved), at.grad(moved)
    for a in at.x.values():
        a += 2
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    np.testing.assert_allclose(flat(at.hvp(v)), dense @ flat(v), rtol=1e-10, atol=1e-13)


def test_loss_and_grad_are_not_touched_by_products():
    plain, used = (objective(made(), X, Y, CROSS, 8, dtype=d) for d in ("float64", "float32"))
    used.hvp(used.x)
    assert used.loss(used.x) == plain.loss(plain.x)
    assert np.array_equal(flat(used.grad(used.x)), flat(plain.grad(plain.x)))


def test_in_place_layers():
    net = made(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3), nn.SiLU(inplace=True)))
    expected = hessian(copy.deepcopy(net))
    at = objective(net, X, Y, CROSS)
    for seed in range(2):
        v = random_like(at.x, seed)
        np.testing.assert_allclose(flat(at.hvp(v)), expected @ flat(v), rtol=1e-10, atol=1e-13)


def test_a_linear_loss_has_no_curvature():
    at = objective(made(lambda: nn.Linear(4, 3)), X, Y, lambda output, y: output.mean())
    for _ in range(2):
        assert not flat(at.hvp(random_like(at.x))).any()


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("f4"), torch.float32])
def test_float32_products(dtype):
    net = made()
    dense = hessian(net)
    at = objective(net, X, Y, CROSS, dtype=dtype)
    v = random_like(at.x)
    error = flat(at.hvp(v)) - dense @ flat(v)
    assert 0 < np.abs(error).max() < 3e-6 * np.abs(dense @ flat(v)).max()
    # Any length of v will do.
    for length in (1e-60, 1e60):
        long = at.hvp({name: length * a for name, a in v.items()})
        np.testing.assert_allclose(flat(long) / length, dense @ flat(v), rtol=0, atol=1e-5)
    assert not flat(at.hvp({name: 0 * a for name, a in v.items()})).any()


def test_a_float32_loss_module_with_weights():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    exact, single = (objective(made(), X, Y, loss, dtype=d) for d in ("float64", "float32"))
    v = random_like(exact.x)
    np.testing.assert_allclose(flat(single.hvp(v)), flat(exact.hvp(v)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"dtype": "float16"}, ValueError, "dtype must be float64 or float32, got 'float16'"),
        ({"dtype": torch.bfloat16}, ValueError, "float64 or float32, got torch.bfloat16"),
        ({"dtype": None}, ValueError, "float64 or float32, got None"),
        ({"dtype": 3}, ValueError, "float64 or float32, got 3"),
        ({"memory": -1}, ValueError, r"memory must be a finite number in \[0, inf\), got -1"),
        ({"memory": "1 GiB"}, ValueError, "memory must be .* got '1 GiB'"),
    ],
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words):
        objective(made(), X, Y, CROSS, **options)


def test_a_loss_that_is_a_word():
    with pytest.raises(TypeError, match=r"loss_fn must be a callable .* got 'mse'"):
        objective(made(), X, Y, "mse")


def test_a_direction_of_another_shape():
    at = objective(made(), X, Y, CROSS)
    v = random_like(at.x)
    v["layers.0.bias"] = np.ones(1)
    with pytest.raises(ValueError, match=r"hvp: 'layers.0.bias' must have shape \(5,\), got \(1,"):
        at.hvp(v)


# --------------------------------------------------------------------------- the whole object


@pytest.mark.parametrize("form", ["exact", "float32", "differences"])
def test_curvature_takes_an_objective(form):
    net = made()
    spectrum = np.linalg.eigvalsh(hessian(net))
    at = objective(net, X, Y, CROSS, dtype="float32" if form == "float32" else "float64")
    if form == "differences":
        at = SimpleNamespace(x=at.x, grad=at.grad)
    near = {"exact": 1e-9, "float32": 1e-5, "differences": 1e-5}[form] * spectrum[-1]
    sharp = curvature.sharpness(at, tol=1e-6)
    assert sharp.eigenvalue_max == pytest.approx(spectrum[-1], abs=max(near, 1e-6 * spectrum[-1]))
    low = curvature.lanczos(at, which="smallest", tol=1e-6)
    assert low.eigenvalue_min == pytest.approx(spectrum[0], abs=max(near, 1e-6 * spectrum[-1]))
    if form == "differences":  # the rest goes the same way, and takes seconds
        return
    total = curvature.trace(at)
    assert abs(total.value - spectrum.sum()) <= max(4 * total.standard_error, near * len(spectrum))
    density = curvature.spectral_density(at)
    assert density.grid[0] <= spectrum[0] and density.grid[-1] >= spectrum[-1]


def test_n_and_dtype_beside_an_objective():
    at = objective(made(), X, Y, CROSS)
    n = sum(map(operator.attrgetter("size"), at.x.values()))
    narrow = curvature.sharpness(at, n, dtype=np.float32).eigenvalue_max
    assert narrow == pytest.approx(curvature.sharpness(at).eigenvalue_max, rel=1e-4)
    with pytest.raises(ValueError, match=f"lanczos: n is 3, but the operator has {n}"):
        curvature.lanczos(at, 3)


@pytest.mark.parametrize(
    "thing", [None, "hvp", SimpleNamespace(x=np.ones(2)), SimpleNamespace(hvp=abs)]
)
def test_what_is_no_operator(thing):
    with pytest.raises(TypeError, match="or x with hvp or grad; got"):
        curvature.sharpness(thing)
