"""Products: exact ones of every kind, differences with a measured step, and what is refused."""

import numpy as np
import pytest
from conftest import spread
from curvature_cases import rotated
from curvature_networks import Network, flat

from optkern import curvature
from optkern.curvature.accepting import as_operator
from optkern.curvature.gradients import FlatGradient
from optkern.curvature.operators import Point

DTYPES = [np.float32, np.float64]


def network(activation, seed=0, steps=1000):
    return Network(activation, 8, 20, 3, 200, seed).train(steps, 0.1)


def in_float32(net):
    """A gradient that answers in float32, whatever it is asked with."""
    return lambda p: net.grad({k: np.asarray(w, np.float32) for k, w in p.items()})


def shaped(vector, like):
    parts = np.split(vector, np.cumsum([w.size for w in like.values()])[:-1])
    return {k: part.reshape(w.shape) for part, (k, w) in zip(parts, like.items())}


def hessian(net):
    n = flat(net.params).size
    rows = [flat(net.hvp(net.params, shaped(e, net.params))) for e in np.eye(n)]
    return np.stack(rows)


# --------------------------------------------------------------------------- exact products


class Matvec:
    def __init__(self, h):
        self.shape, self.dtype, self.h = h.shape, h.dtype, h

    def matvec(self, v):
        return self.h @ v


def test_every_kind_of_operator_gives_the_same():
    class Times:
        shape = (40, 40)

        def __matmul__(self, v):
            return h @ v

    h = rotated(np.linspace(-1, 3, 40))
    kinds = [(h, None), (lambda v: h @ v, 40), (Matvec(h), None), (Times(), None)]
    values = [curvature.lanczos(op, n, tol=1e-10).eigenvalue_min for op, n in kinds]
    assert np.allclose(values, -1, atol=1e-9) and np.ptp(values) < 1e-12
    single = curvature.lanczos(h.astype(np.float32))
    assert single.eigenvector_min.dtype == np.float32
    assert curvature.lanczos(h, dtype=np.float32).eigenvector_min.dtype == np.float32
    assert curvature.lanczos(np.diag([1, 2, 3])).eigenvalue_min == pytest.approx(1)


def test_scipy_operators_work():
    sparse = pytest.importorskip("scipy.sparse")
    h = sparse.diags_array(
        [np.full(99, -1.0), np.full(100, 2.0), np.full(99, -1.0)], offsets=[-1, 0, 1]
    )
    found = curvature.lanczos(h.tocsr(), which="both", tol=1e-10)
    assert found.eigenvalue_max == pytest.approx(2 - 2 * np.cos(100 * np.pi / 101), abs=1e-8)
    linear = pytest.importorskip("scipy.sparse.linalg").aslinearoperator(h)
    assert curvature.lanczos(linear, tol=1e-8).eigenvalue_min == pytest.approx(
        2 - 2 * np.cos(np.pi / 101), abs=1e-6
    )


def test_the_vector_is_read_only_and_a_returned_view_of_it_is_fine():
    def writes(v):
        v[0] = 1
        return v

    with pytest.raises(ValueError, match="read-only"):
        curvature.lanczos(writes, 5)
    assert curvature.lanczos(lambda v: v, 5).eigenvalue_min == pytest.approx(1)
    buffer = np.empty(50)
    d = np.linspace(-2, 5, 50)
    reused = curvature.lanczos(lambda v: np.multiply(d, v, out=buffer), 50, tol=1e-8)
    assert reused.eigenvalue_min == pytest.approx(-2)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("x_scale", (0.0, 1.0))
@pytest.mark.parametrize("size", (1e-20, 1e-16, 1e-13, 1e-9))
def test_steps_beside_the_origin_are_not_lost_in_the_gradient(size, x_scale, dtype):
    """x says nothing about the size of what the gradient adds it to."""
    data = np.linspace(-2, 2, 200, dtype=dtype)

    def grad(x):
        return np.array([np.mean(x[0] - data), -2 * x[1]], dtype)

    verdict = curvature.classify(np.array([size, 0.0], dtype), grad, x_scale=x_scale, grad_tol=1)
    assert verdict.kind == "saddle"
    assert verdict.eigenvalue_max == pytest.approx(1, rel=0.02)


def test_a_gradient_may_reuse_its_buffer_and_write_to_what_it_gets():
    """A gradient that returns the same array each time must not look like a zero Hessian."""
    d, buffer = np.array([1.0, -2.0, 3.0]), np.empty(3)

    def grad(x):
        np.multiply(d, x, out=buffer)
        x[:] = np.nan
        return buffer

    def loss(x):
        value = 0.5 * float(np.sum(d * x * x))
        x[:] = np.nan
        return value

    x = np.zeros(3)
    for options in ({}, {"hvp": lambda v: np.multiply(d, v, out=buffer)}):
        verdict = curvature.classify(x, grad, loss=loss, eigenvalue_tol=1e-9, **options)
        assert verdict.kind == "saddle" and verdict.eigenvalue_min == pytest.approx(-2)
        assert not x.any()
    assert curvature.escape(x, verdict, loss=loss, grad=grad).moved and np.isfinite(x).all()
    echo = curvature.classify(np.zeros(3), lambda x: x)
    assert echo.kind == "minimum" and echo.eigenvalue_max == pytest.approx(1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_structures(dtype):
    """x, gradients, products and directions in every params structure; x is not modified."""
    d = {
        "a": np.array([[1.0, 2.0], [3.0, -4.0]], dtype),
        "b": np.array(5.0, dtype),
        "c": np.zeros(0, dtype),
    }
    zeros = {k: np.zeros_like(w) for k, w in d.items()}

    def as_dict(x):
        return {k: d[k] * x[k] for k in x}

    def as_list(x):
        return [w * v for w, v in zip(d.values(), x, strict=True)]

    def as_groups(x):
        return [{"a": d["a"] * x[0]["a"]}, [d["b"] * x[1][0], d["c"]]]

    groups = [{"params": {"a": zeros["a"]}, "lr": 1.0}, {"params": [zeros["b"], zeros["c"]]}]
    cases = [
        (zeros, as_dict),
        (list(zeros.values()), as_list),
        (tuple(zeros.values()), as_list),
        (groups, as_groups),
        (zeros["a"], lambda x: d["a"] * x),
        (np.asfortranarray(zeros["a"]), lambda x: d["a"] * x),
        (zeros["a"][:, ::-1], lambda x: d["a"] * x),
    ]
    for x, grad in cases:
        for hvp in (None, grad):
            verdict = curvature.classify(x, grad, hvp, eigenvalue_tol=1e-6)
            assert verdict.kind == "saddle"
            assert verdict.eigenvalue_min == pytest.approx(-4, rel=1e-5)
            way = verdict.escape_direction
            assert type(way) is (list if x is groups else type(x))
            peak = (
                way[0]["a"]
                if x is groups
                else way
                if isinstance(x, np.ndarray)
                else (way["a"] if isinstance(x, dict) else way[0])
            )
            assert peak.dtype == dtype and abs(peak[1, 1]) > 0.99 and peak.shape == (2, 2)
    assert all(not w.any() for w in zeros.values())
    assert curvature.escape(zeros, curvature.classify(zeros, as_dict), grad=as_dict).moved
    assert zeros["a"][1, 1] != 0


def test_mixed_dtypes():
    x = [np.zeros(3, np.float32), np.zeros(2)]

    def grad(p):
        return [np.float32([1, 2, 3]) * p[0], np.array([-1.0, 4.0]) * p[1]]

    verdict = curvature.classify(x, grad)
    assert verdict.kind == "saddle" and [w.dtype for w in verdict.escape_direction] == [
        np.float32,
        float,
    ]


# --------------------------------------------------------------------------- differences


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_r_operator_is_the_hessian(activation):
    """Symmetric, and what differences give (for ReLU before training: no kink is near)."""
    net = network(activation, steps=1000 if activation == "tanh" else 0)
    h = hessian(net)
    assert np.abs(h - h.T).max() < 1e-13
    v = np.random.default_rng(1).standard_normal(len(h))
    step = 1e-6
    x = flat(net.params)
    ends = [flat(net.grad(shaped(x + s * step * v, net.params))) for s in (1, -1)]
    assert np.allclose((ends[0] - ends[1]) / (2 * step), h @ v, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(5))
def test_differences_against_the_r_operator(dtype, seed):
    """On tanh: a random direction, the top and the bottom one; the error is what is claimed."""
    net = network("tanh", seed)
    h = hessian(net)
    values, vectors = np.linalg.eigh(h)
    grad = net.grad if dtype is np.float64 else in_float32(net)
    rng = np.random.default_rng(seed)
    op = curvature.hvp_from_grad(grad, net.cast(dtype))
    start = rng.standard_normal(len(h))
    op.prepare((start / np.linalg.norm(start)).astype(dtype))
    assert op.n == len(h) and op.dtype == dtype
    largest = np.abs(values).max()
    for v in (rng.standard_normal(len(h)), vectors[:, -1], vectors[:, 0]):
        v = (v / np.linalg.norm(v)).astype(dtype)
        measured = op.measure(v)
        error = np.linalg.norm(measured.product - h @ v)
        assert error < (1e-9 if dtype is np.float64 else 1e-3) * largest
        assert error < 2 * measured.noise and measured.noise < 20 * error + 1e-12
        assert not measured.kink
        assert np.linalg.norm(op(v) - h @ v) < 2 * op.noise + error


def test_float64_differences_for_float32_parameters():
    """A gradient that answers float64 with float64 is differentiated there, whatever x is."""
    net = network("tanh")
    op = curvature.hvp_from_grad(net.grad, net.cast(np.float32))
    v = np.random.default_rng(0).standard_normal(op.n)
    exact = flat(
        net.hvp(
            {k: w.astype(np.float32).astype(float) for k, w in net.params.items()},
            shaped(v, net.params),
        )
    )
    assert op.dtype == np.float64
    assert np.linalg.norm(op(v) - exact) < 1e-7 * np.linalg.norm(exact)


def test_products_on_structures():
    net = network("tanh")
    op = curvature.hvp_from_grad(net.grad, net.params)
    v = shaped(np.random.default_rng(0).standard_normal(op.n), net.params)
    product = op(v)
    assert set(product) == set(v)
    assert np.allclose(flat(product), flat(net.hvp(net.params, v)), atol=1e-6)
    assert not op(np.zeros(op.n)).any()


@spread(3, activation=["tanh", "relu"], seed=range(5))
def test_verdicts_by_differences_and_by_exact_products_agree(activation, seed):
    net = network(activation, seed)
    for decay in (0.0, 1.0):
        net.decay = decay
        options = {"grad_tol": 1e9, "seed": seed}
        exact = curvature.classify(
            net.params, net.grad, lambda v: net.hvp(net.params, v), **options
        )
        differences = curvature.classify(net.params, net.grad, **options)
        true = np.linalg.eigvalsh(hessian(net))
        assert exact.kind in ("saddle", "minimum") and differences.kind in (
            exact.kind,
            "inconclusive",
        )
        if activation == "tanh":
            assert differences.kind == exact.kind
        # What a product has shown counts, however small it is beside the largest.
        assert exact.kind == ("saddle" if true[0] < -2 * exact.resolution else "minimum")
        assert exact.shallow == (exact.kind == "saddle" and true[0] > -0.01 * true[-1])
        for verdict in (exact, differences):
            slack = 1e-8 + verdict.resolution
            assert (
                verdict.bounds_min[0] <= true[0] + 1e-9 and true[0] <= verdict.bounds_min[1] + slack
            )


def on_a_kink(seed):
    """A ReLU network one of whose units is exactly at its kink for one sample."""
    net = network("relu", seed)
    z = net.x @ net.params["w1"]
    net.params["b1"][3] = -z[7, 3]
    assert (net.x @ net.params["w1"] + net.params["b1"])[7, 3] == 0
    return net


@spread(5, dtype=DTYPES, seed=range(20))
def test_a_kink_is_inconclusive(dtype, seed):
    net = on_a_kink(seed)
    if dtype is np.float32:
        net.params = net.cast(np.float32)
        z = net.x.astype(np.float32) @ net.params["w1"]
        net.params["b1"][3] = -z[7, 3]
    grad = net.grad if dtype is np.float64 else in_float32(net)
    verdict = curvature.classify(net.params, grad, grad_tol=1e9, seed=seed)
    assert verdict.kind == "inconclusive"
    if dtype is np.float64:
        assert "not smooth" in str(verdict)
    # The exact product sees the Hessian of the smooth pieces.
    exact = curvature.classify(net.params, grad, lambda v: net.hvp(net.params, v), grad_tol=1e9)
    assert exact.kind in ("saddle", "minimum")


def test_smooth_noise_is_not_a_kink():
    rng = np.random.default_rng(0)
    d = np.linspace(1, 5, 300)

    def rounded(x):
        g = d * x
        return g * (1 + 1e-9 * rng.standard_normal(len(g)))

    op = curvature.hvp_from_grad(rounded, rng.standard_normal(300))
    op.prepare(np.full(300, 300**-0.5))
    assert not op.kink and 0 < op.noise < 1e-3


@pytest.mark.parametrize("seed", range(10))
def test_stochastic_gradients_never_certify_a_minimum(seed):
    rng = np.random.default_rng(seed)
    d = np.linspace(1, 5, 50)

    def noisy(x):
        return d * x + 1e-3 * rng.standard_normal(50)

    for hvp in (None, lambda v: d * v):
        verdict = curvature.classify(np.ones(50) * 1e-4, noisy, hvp, grad_tol=1, seed=seed)
        assert verdict.kind == "inconclusive" and "stochastic" in str(verdict)
        assert verdict.bounds_min[0] == -np.inf
    d[0] = -5
    verdict = curvature.classify(np.ones(50) * 1e-4, noisy, lambda v: d * v, grad_tol=1, seed=seed)
    assert verdict.kind == "saddle"  # that much is certain


# --------------------------------------------------------------------------- refusals


def test_bad_operators():
    with pytest.raises(ValueError, match="square"):
        curvature.lanczos(np.zeros((3, 4)))
    with pytest.raises(TypeError, match="real"):
        curvature.lanczos(np.eye(3) * 1j)
    with pytest.raises(ValueError, match="NaN"):
        curvature.lanczos(np.diag([1.0, np.nan]))
    with pytest.raises(TypeError, match="n is needed"):
        curvature.lanczos(lambda v: v)
    with pytest.raises(TypeError, match="got int"):
        curvature.lanczos(3, 4)
    with pytest.raises(ValueError, match="n is 4, but the operator has 3"):
        curvature.lanczos(np.eye(3), 4)
    with pytest.raises(ValueError, match=r"shape \(5,\), got \(4,\)"):
        curvature.lanczos(lambda v: v[:4], 5)
    with pytest.raises(TypeError, match="complex"):
        curvature.lanczos(lambda v: v * 1j, 5)
    with pytest.raises(TypeError, match="float16"):
        curvature.lanczos(np.eye(3), dtype=np.float16)
    with pytest.raises(FloatingPointError, match="NaN or inf"):
        curvature.lanczos(lambda v: v * np.nan, 5)
    with pytest.raises(FloatingPointError):
        curvature.lanczos(lambda v: v * 1e300, 5)
    with pytest.raises(ValueError, match="square"):
        as_operator("me", Matvec(np.zeros((2, 3))))


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"tol": -1}, ValueError, "tol must be"),
        ({"tol": "a"}, ValueError, "tol must be"),
        ({"confidence": 1.0}, ValueError, "confidence must be"),
        ({"confidence": 0}, ValueError, "confidence must be"),
        ({"max_matvecs": 0}, ValueError, "max_matvecs must be"),
        ({"max_matvecs": 2.5}, ValueError, "max_matvecs must be"),
        ({"max_matvecs": None}, TypeError, "max_matvecs must be"),
        ({"memory": -1}, ValueError, "memory must be"),
        ({"seed": -3}, ValueError, "seed must be"),
        ({"which": "lowest"}, ValueError, "which must be"),
        ({"start": np.zeros(3)}, ValueError, "norm > 0"),
        ({"start": np.ones(4)}, ValueError, "shape"),
        ({"start": [1, 2, 3]}, ValueError, "got list"),
        ({"num_threads": 0}, ValueError, "num_threads"),
    ],
)
def test_bad_options_of_lanczos(options, error, words):
    with pytest.raises(error, match=words):
        curvature.lanczos(np.eye(3), **options)


def quadratic(x):
    return x


@pytest.mark.parametrize(
    "x, options, error, words",
    [
        ([], {}, ValueError, "x is empty|params is empty"),
        (3.0, {}, TypeError, "must be an array"),
        ([1.0], {}, TypeError, "must be a NumPy array"),
        (np.zeros(3, int), {}, TypeError, "int64"),
        (np.zeros(3, complex), {}, TypeError, "complex"),
        (np.array([1.0, np.nan]), {}, ValueError, "NaN or inf"),
        (np.zeros(3), {"grad": 5}, TypeError, "grad must be callable"),
        (np.zeros(3), {"hvp": 5}, TypeError, "hvp must be callable"),
        (np.zeros(3), {"loss": 5}, TypeError, "loss must be callable"),
        (np.zeros(3), {"grad": lambda x: x[:2]}, ValueError, r"shape \(3,\), got \(2,\)"),
        (np.zeros(3), {"grad": lambda x: None}, TypeError, "must be an array, got None"),
        (np.zeros(3), {"grad": lambda x: x * np.nan}, ValueError, r"grad\(x\) holds NaN"),
        (np.zeros(3), {"hvp": lambda v: v[:2]}, ValueError, "what hvp returns"),
        (np.zeros(3), {"loss": lambda v: np.nan}, ValueError, r"loss\(x\) is nan"),
        (np.zeros(3), {"curvature_tol": -1}, ValueError, "curvature_tol"),
        (np.zeros(3), {"grad_tol": np.inf}, ValueError, "grad_tol"),
        (np.zeros(3), {"x_scale": -1}, ValueError, "x_scale"),
        (np.zeros(3), {"step": 0}, ValueError, "step must be"),
        (np.zeros(3), {"confidence": 2}, ValueError, "confidence"),
        ({"a": np.zeros(2)}, {"grad": lambda x: [x["a"]]}, TypeError, "dict like the parameters"),
        ({"a": np.zeros(2)}, {"grad": lambda x: {"b": x["a"]}}, ValueError, "missing"),
    ],
)
def test_bad_arguments_of_classify(x, options, error, words):
    options = {"grad": quadratic, **options}
    with pytest.raises(error, match=words):
        curvature.classify(x, **options)


def test_bad_arguments_of_escape():
    x = np.zeros(2)
    verdict = curvature.classify(x, lambda w: np.array([1.0, -1.0]) * w)
    loss = lambda w: float(w[0] ** 2 - w[1] ** 2)  # noqa: E731
    locked = np.zeros(2)
    locked.flags.writeable = False
    cases = [
        (x, verdict, {}, TypeError, "loss or grad"),
        (x, None, {"loss": loss}, TypeError, "verdict must come from classify"),
        (x, verdict, {"loss": loss, "by": "luck"}, ValueError, "by must be"),
        (x, verdict, {"loss": loss, "by": "noise"}, TypeError, "needs both"),
        (locked, verdict, {"loss": loss}, ValueError, "read-only"),
        (np.zeros(3), verdict, {"loss": loss}, ValueError, "escape_direction"),
        (x, curvature.classify(x, quadratic), {"loss": loss}, ValueError, r"\(minimum\) has no"),
        (x, verdict, {"loss": lambda w: np.inf}, ValueError, r"loss\(x\) is inf"),
    ]
    for point, judged, options, error, words in cases:
        with pytest.raises(error, match=words):
            curvature.escape(point, judged, **options)
    assert not x.any()
    assert curvature.escape(x, verdict, loss=loss).moved and x[1] != 0


def test_nothing_to_judge():
    assert curvature.classify(np.zeros(0), quadratic).kind == "degenerate"
    nothing = curvature.lanczos(np.zeros((0, 0)))
    assert nothing.eigenvalue_min is None and not nothing.converged and nothing.matvecs == 0


def test_a_gradient_that_takes_only_float32():
    d = np.array([1, -2], np.float32)

    def picky(x):
        if x.dtype != np.float32:
            raise TypeError("float32 only")
        return d * x

    point = Point("me", np.zeros(2, np.float32))
    assert FlatGradient("me", picky, point).dtype == np.float32
    assert curvature.classify(np.zeros(2, np.float32), picky).kind == "saddle"
