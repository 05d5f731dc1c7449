"""The demo network's exact Hessian products, and what differences of its gradient make of them."""

import numpy as np
import pytest

from optkern import curvature
from optkern.demo.data import Data
from optkern.demo.hessian import hessian_product
from optkern.demo.judgement import TrainingLoss, judge
from optkern.demo.network import Network

LOSSES, ACTIVATIONS = ("cross_entropy", "mse"), ("tanh", "relu")


def problem(loss="cross_entropy", activation="tanh", sizes=(6, 8, 7, 3), samples=40, seed=1):
    """A network in float64 away from its start, with data and a direction."""
    rng = np.random.default_rng(seed)
    network = Network(sizes, loss, activation, np.float64, seed)
    for array in network.params.values():
        array += 0.1 * rng.standard_normal(array.shape)
    X = rng.standard_normal((samples, sizes[0]))
    classes = rng.integers(0, sizes[-1], samples)
    y = classes if loss == "cross_entropy" else rng.standard_normal((samples, sizes[-1]))
    return network, X, y, direction(network, rng)


def direction(network, rng):
    return {name: rng.standard_normal(a.shape) for name, a in network.params.items()}


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays.values()])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_product_is_the_derivative_of_the_gradient(loss, activation):
    """In every array: dense, gamma, beta, bias."""
    network, X, y, v = problem(loss, activation)
    h = 1e-6

    def gradient(t):
        moved = {name: a + t * v[name] for name, a in network.params.items()}
        return network.at(moved).loss_and_grads(X, y)[1]

    ahead, behind = gradient(h), gradient(-h)
    for name, product in hessian_product(network, X, y, v).items():
        difference = (ahead[name] - behind[name]) / (2 * h)
        np.testing.assert_allclose(product, difference, rtol=0, atol=1e-8 * abs(difference).max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_product_is_symmetric_and_leaves_the_network_alone(loss, activation):
    network, X, y, v = problem(loss, activation)
    before = {k: a.copy() for k, a in {**network.params, **network.running}.items()}
    w = direction(network, np.random.default_rng(5))
    left = flat(w) @ flat(hessian_product(network, X, y, v))
    right = flat(v) @ flat(hessian_product(network, X, y, w))
    assert left == pytest.approx(right, rel=1e-12)
    for name, array in {**network.params, **network.running}.items():
        assert np.array_equal(array, before[name])


def test_product_of_a_network_that_is_sure_is_symmetric():
    """Where p - 1 rounds to 0 beside probabilities of 1e-40: Rprop gets there in the demo."""
    network, X, _, v = problem()
    for name in ("W3", "b3"):
        network.params[name] *= 6e4
    outputs = np.sort(network.batch_outputs(X), axis=1)
    assert (outputs[:, -1] - outputs[:, -2]).min() > 60  # 1 + exp(-40) is 1
    y = network.batch_outputs(X).argmax(axis=1)
    w = direction(network, np.random.default_rng(5))
    left = flat(w) @ flat(hessian_product(network, X, y, v))
    right = flat(v) @ flat(hessian_product(network, X, y, w))
    assert left != 0
    assert left / right == pytest.approx(1, rel=1e-9)


def test_batch_loss_is_the_loss_of_the_gradients():
    network, X, y, _ = problem()
    assert network.batch_loss(X, y) == network.loss_and_grads(X, y)[0]


@pytest.mark.parametrize("seed", range(5))
def test_measured_differences_agree_with_exact_products_on_tanh(seed):
    """In float64 to eight digits, and the measured error is no less than the true one's third."""
    network, X, y, v = problem(seed=seed)
    operator = curvature.hvp_from_grad(
        lambda x: network.at(x).loss_and_grads(X, y)[1], network.params
    )
    length = np.linalg.norm(flat(v))
    unit = flat(v) / length
    exact = flat(hessian_product(network, X, y, {name: a / length for name, a in v.items()}))
    error = np.linalg.norm(operator(unit) - exact)
    assert error < 1e-7 * np.linalg.norm(exact)
    assert error < 3 * operator.noise


def small_data(seed):
    """Two noisy classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 60)
    X = (rng.standard_normal((60, 3)) + y[:, None]).astype(np.float32)
    return Data("two classes", X, y, X, y, 2, "cross_entropy")


def dense_hessian(at):
    n = flat(at.x).size
    columns = []
    for j in range(n):
        unit, first, v = np.zeros(n), 0, {}
        unit[j] = 1
        for name, a in at.x.items():
            v[name] = unit[first : first + a.size].reshape(a.shape)
            first += a.size
        columns.append(flat(at.hvp(v)))
    return np.array(columns)


@pytest.mark.parametrize("seed", range(4))
def test_judgement_agrees_with_the_dense_hessian(seed):
    """The verdict's bounds hold the true extreme eigenvalues of a network's whole Hessian."""
    data = small_data(seed)
    network = Network((3, 4, 2), activation="tanh", seed=seed)
    for _ in range(200):
        _, grads = network.loss_and_grads(data.X_train, data.y_train)
        for name, p in network.params.items():
            p -= 0.3 * grads[name]
    before = {name: a.copy() for name, a in network.params.items()}
    result = judge(network, data)
    values = np.linalg.eigvalsh(dense_hessian(TrainingLoss(network, data)))
    verdict = result.verdict
    slack = 1e-9 * abs(values).max()
    assert verdict.bounds_min[0] - slack <= values[0] <= verdict.bounds_min[1] + slack
    assert verdict.bounds_max[0] - slack <= values[-1] <= verdict.bounds_max[1] + slack
    if verdict.kind == "saddle":
        assert values[0] < 0 < values[-1]
        assert result.escaped.moved and result.escaped.gain > 0
    assert verdict.kind != "maximum"
    for name, a in network.params.items():
        assert np.array_equal(a, before[name])
