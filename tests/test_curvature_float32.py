"""Networks whose gradients are float32: noise is called noise, and no claim is wrong for it."""

import numpy as np
import pytest
from test_curvature_differences import wrong_claims

from optkern import curvature


def gelu(z):
    return 0.5 * z * (1 + np.tanh(0.7978845608 * (z + 0.044715 * z**3)))


def gelu_slope(z):
    t = np.tanh(0.7978845608 * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * 0.7978845608 * (1 + 3 * 0.044715 * z * z)


ACTIVATIONS = {
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "gelu": (gelu, gelu_slope),
}


def perceptron(name, inputs, hidden, rows, seed):
    """The gradient of a regression's loss, in the dtype of the weights, and how many these are."""
    act, slope = ACTIVATIONS[name]
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, inputs))
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.standard_normal(rows)

    def grad(w):
        data, target = X.astype(w.dtype), y.astype(w.dtype)
        W, b, v = np.split(w, [hidden * inputs, hidden * (inputs + 1)])
        z = data @ W.reshape(hidden, inputs).T + b
        h = act(z).astype(w.dtype)
        r = (h @ v - target) / w.dtype.type(rows)
        dz = (r[:, None] * v) * slope(z).astype(w.dtype)
        return np.concatenate([(dz.T @ data).ravel(), dz.sum(0), h.T @ r])

    return grad, hidden * (inputs + 2)


def lstm(hidden, steps, rows, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((rows, steps)), rng.standard_normal(rows)
    size = 4 * hidden * (hidden + 2)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def forward(U, kind):
        h = c = np.zeros((rows, hidden), kind)
        tape = []
        for t in range(steps):
            into = np.concatenate([h, X[:, t : t + 1].astype(kind), np.ones((rows, 1), kind)], 1)
            i, f, q, g = np.split(into @ U.T, 4, axis=1)
            i, f, q, g = sigmoid(i), sigmoid(f), sigmoid(q), np.tanh(g)
            new = f * c + i * g
            tape.append((into, i, f, q, g, c, np.tanh(new)))
            h, c = q * np.tanh(new), new
        return h, tape

    def grad(w):
        U, out = w[:size].reshape(4 * hidden, hidden + 2), w[size:]
        h, tape = forward(U, w.dtype)
        r = (h @ out - y.astype(w.dtype)) / w.dtype.type(rows)
        dh, dU = r[:, None] * out, np.zeros_like(U)
        dc = np.zeros_like(dh)
        for into, i, f, q, g, c, t in reversed(tape):
            dc = dc + dh * q * (1 - t * t)
            gates = (dc * g * i * (1 - i), dc * c * f * (1 - f), dh * t * q * (1 - q))
            da = np.concatenate([*gates, dc * i * (1 - g * g)], 1)
            dU += da.T @ into
            dh, dc = (da @ U)[:, :hidden], dc * f
        return np.concatenate([dU.ravel(), h.T @ r])

    return grad, size + hidden


NETWORKS = {
    "tanh": lambda seed: perceptron("tanh", 4, 3, 40, seed),
    "wide tanh": lambda seed: perceptron("tanh", 12, 10, 100, seed),
    "gelu": lambda seed: perceptron("gelu", 4, 3, 40, seed),
    "wide gelu": lambda seed: perceptron("gelu", 12, 10, 100, seed),
    "lstm": lambda seed: lstm(3, 6, 40, seed),
}


def in_single(grad):
    return lambda w: grad(w.astype(np.float32))


def exact_to_ten_digits(grad, x):
    """The Hessian at the float32 point, by differences of float64 gradients."""
    x = x.astype(np.float64)
    h = [(grad(x + 1e-5 * e) - grad(x - 1e-5 * e)) / 2e-5 for e in np.eye(len(x))]
    return (np.array(h) + np.array(h).T) / 2


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
@pytest.mark.parametrize("size", [1e-3, 0.5, 5.0, 50.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_float32_gradients_are_smooth_and_noisy(name, size, seed):
    grad, n = NETWORKS[name](seed)
    x = (size * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)
    with np.errstate(over="ignore"):
        h = exact_to_ten_digits(grad, x)
        v = curvature.classify(x, in_single(grad), grad_tol=1e9, seed=seed)
    assert not wrong_claims(v, h), str(v)
    assert "not smooth" not in str(v)
    if v.kind == "inconclusive":
        assert "float32" in str(v) and "float64" in str(v)
    if v.kind == "inconclusive" and size < 50:
        # The advice: gradients in float64, asked at the same point.
        assert curvature.classify(x, grad, grad_tol=1e9, seed=seed).kind != "inconclusive"


@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_a_quadratic_in_float32_is_not_called_unlike(condition):
    d = np.r_[np.random.default_rng(0).uniform(0.5, 1, 4999), condition]
    c = np.random.default_rng(1).standard_normal(5000)
    single, shift = d.astype(np.float32), c.astype(np.float32)
    x = shift + np.float32(1e-8)
    v = curvature.classify(x, lambda w: single * (w.astype(np.float32) - shift), max_matvecs=60)
    assert v.kind != "inconclusive" or "float64 gradients" in str(v)
    assert curvature.classify(x, lambda w: d * (w - shift), max_matvecs=60).kind != "inconclusive"


@pytest.mark.parametrize("off", [0.0, 1e-8, 1.0, 1e4])
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("n", [51, 5000])
def test_a_quadratic_off_its_minimum_is_smooth(n, condition, off):
    rng = np.random.default_rng(n)
    d = np.geomspace(1, condition, n)
    c = rng.standard_normal(n)
    v = curvature.classify(c + off * rng.standard_normal(n), lambda w: d * (w - c), max_matvecs=40)
    assert v.kind in ("minimum", "not_stationary") or "budget" in str(v)
