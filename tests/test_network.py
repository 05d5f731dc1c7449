"""The demo's network: its gradients against finite differences, its layers by hand."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import optkern
from optkern.demo import network as module
from optkern.demo.network import Network, mean_squared_error, softmax_cross_entropy

SIZES = (5, 4, 6, 3)


def problem(loss: str, samples: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    X = rng.standard_normal((samples, SIZES[0]))
    classes = loss == "cross_entropy"
    return X, rng.integers(SIZES[-1], size=samples) if classes else rng.standard_normal(
        (samples, SIZES[-1])
    )


def shaken(network: Network) -> Network:
    """The network away from its start, where gamma = 1 and beta = b = 0 would hide mistakes."""
    rng = np.random.default_rng(8)
    for p in network.params.values():
        p += 0.3 * rng.standard_normal(p.shape)
    return network


def finite_difference(network: Network, p: np.ndarray, index: tuple, X, y, h: float = 1e-6):
    old, losses = p[index], []
    for moved in (old + h, old - h):
        p[index] = moved
        losses.append(network.loss_and_grads(X, y)[0])
    p[index] = old
    return (losses[0] - losses[1]) / (2 * h)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_every_gradient_is_the_finite_difference(loss, activation):
    network = shaken(Network(SIZES, loss, activation, np.float64, seed=3))
    X, y = problem(loss)
    _, grads = network.loss_and_grads(X, y)
    assert set(grads) == {"W1", "gamma1", "beta1", "W2", "gamma2", "beta2", "W3", "b3"}
    for name, p in network.params.items():
        assert grads[name].shape == p.shape
        expected = np.empty_like(p)
        for index in np.ndindex(p.shape):
            expected[index] = finite_difference(network, p, index, X, y)
        assert np.abs(expected).max() > 1e-3, f"{name}: the check would see nothing"
        np.testing.assert_allclose(grads[name], expected, rtol=1e-6, atol=1e-8, err_msg=name)


def test_cross_entropy_of_equal_scores_is_log_of_the_classes():
    loss, d = softmax_cross_entropy(np.zeros((2, 4)), np.array([0, 3]))
    assert loss == pytest.approx(np.log(4))
    np.testing.assert_allclose(d, [[-0.375, 0.125, 0.125, 0.125], [0.125, 0.125, 0.125, -0.375]])


def test_cross_entropy_of_huge_scores_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        loss, d = softmax_cross_entropy(np.array([[1e30, -1e30]], np.float32), np.array([0]))
    assert loss == 0
    assert not d.any()


def test_mean_squared_error_by_hand():
    loss, d = mean_squared_error(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 0], [0, 4]]))
    assert loss == (4 + 9) / 4
    np.testing.assert_array_equal(d, [[0, 1], [1.5, 0]])


def test_flat_targets_are_a_column():
    X, y = problem("mse")
    results = [
        Network((5, 4, 1), "mse", seed=1).loss_and_grads(X, targets)
        for targets in (y[:, 0], y[:, :1])
    ]
    assert results[0][0] == results[1][0]
    for name, g in results[0][1].items():
        np.testing.assert_array_equal(g, results[1][1][name])


def test_batch_normalisation_undoes_a_scale():
    """Ten times the weights before it change nothing but through its eps."""
    X, y = problem("cross_entropy", samples=64)
    network = Network(SIZES, dtype=np.float64)
    loss, grads = network.loss_and_grads(X, y)
    network.params["W1"] *= 10
    scaled_loss, scaled_grads = network.loss_and_grads(X, y)
    assert scaled_loss == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(scaled_grads["W1"], grads["W1"] / 10, rtol=1e-2, atol=1e-5)


def test_running_statistics_reach_those_of_the_data():
    X, y = problem("mse", samples=50)
    network = Network((5, 4, 3), "mse", dtype=np.float64)
    for _ in range(300):
        network.loss_and_grads(X, y)
    z = X @ network.params["W1"]
    np.testing.assert_allclose(network.running["mean1"], z.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(network.running["variance1"], z.var(axis=0, ddof=1), rtol=1e-6)


def test_prediction_normalises_with_the_running_statistics():
    X, _ = problem("mse")
    network = shaken(Network((5, 4, 3), "mse", dtype=np.float64))
    network.running["mean1"][:] = [1, 2, 3, 4]
    network.running["variance1"][:] = [4, 9, 16, 25]
    p = network.params
    z = (X @ p["W1"] - [1, 2, 3, 4]) / np.sqrt(np.array([4, 9, 16, 25]) + 1e-5)
    expected = np.maximum(p["gamma1"] * z + p["beta1"], 0) @ p["W2"] + p["b2"]
    np.testing.assert_allclose(network.predict(X), expected, rtol=1e-12)
    # A sample's prediction does not depend on its company, and predicting learns nothing.
    np.testing.assert_allclose(network.predict(X[2:3]), expected[2:3], rtol=1e-12)
    np.testing.assert_array_equal(network.running["mean1"], [1, 2, 3, 4])


def test_a_classifier_predicts_the_label_with_the_largest_output():
    X, _ = problem("cross_entropy")
    network = shaken(Network(SIZES))
    labels = network.predict(X)
    assert labels.shape == (len(X),)
    assert len(set(labels)) > 1
    np.testing.assert_array_equal(labels, network.outputs(X).argmax(axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_one_dtype_throughout(dtype, loss):
    X, y = problem(loss)
    X, y = X.astype(dtype), y if loss == "cross_entropy" else y.astype(dtype)
    network = Network(SIZES, loss, "tanh", dtype)
    value, grads = network.loss_and_grads(X, y)
    assert type(value) is float
    for arrays in (network.params, network.running, grads):
        assert {a.dtype for a in arrays.values()} == {np.dtype(dtype)}
    assert network.outputs(X).dtype == dtype


def test_the_start_is_the_seed():
    first, again, other = Network(SIZES, seed=1), Network(SIZES, seed=1), Network(SIZES, seed=2)
    assert first.params["W1"].tobytes() == again.params["W1"].tobytes()
    assert first.params["W1"].tobytes() != other.params["W1"].tobytes()
    assert set(first.params["gamma1"]) == {1}
    assert set(first.params["beta1"]) == set(first.params["b3"]) == {0}
    assert first.size == 5 * 4 + 4 * 6 + 6 * 3 + 2 * (4 + 6) + 3


def imported(path: Path) -> set[str]:
    """The modules that a source file imports, relative ones with their dots."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            names |= {start} | {f"{start}.{alias.name}" for alias in node.names}
    return names


def test_the_network_knows_nothing_of_optkern_and_nothing_below_knows_the_demo():
    assert not [n for n in imported(Path(module.__file__)) if n.startswith((".", "optkern"))]
    package = Path(optkern.__file__).parent
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any("demo" in name.split(".") for name in imported(path))
    }
    assert users == {"cli.py"}
