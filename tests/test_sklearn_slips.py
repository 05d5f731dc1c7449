"""What `accelerate` refuses, and what it says of curvature."""

import sys
import warnings
from functools import partial
from types import ModuleType

import numpy as np
import pytest

import optkern
from optkern import curvature

pytest.importorskip("sklearn", reason="needs scikit-learn: make test EXTRAS=sklearn")
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network import _multilayer_perceptron as mlp
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer
from sklearn_models import (
    T,
    X,
    Y,
    classifier,
    regressor,
    rng,
    weights,
)

from optkern.integrations import _host
from optkern.integrations.sklearn import MLPOptimizer, accelerate, objective

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("make", (MLPOptimizer, accelerate))
@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (["adamm"], {}, ValueError, "rule must be one of 'sgd', .*'adamm'"),
        (["adam"], {"schedule": "cosine"}, ValueError, "schedule must be a callable.*'cosine'"),
        (["adam"], {"lr": -1}, ValueError, "Adam: lr must be a finite number.*-1"),
        ([["adam"]], {}, ValueError, "rule must be one of 'sgd'"),
        (["adam"], {"momentum": 0.9}, TypeError, "Adam: .*'momentum'"),
        (["adam"], {"power_t": "x"}, ValueError, "power_t must be a finite number, got 'x'"),
        (["adam"], {"num_threads": 0}, ValueError, "Adam: num_threads"),
        (["sgd"], {"lr": lambda t: 1, "schedule": "adaptive"}, ValueError, "lr is a callable"),
    ],
)
def test_bad_arguments_are_refused_at_once(make, arguments, options, error, words):
    with pytest.raises(error, match=words):
        make(*arguments, **options)


def test_another_models_optimizer_is_refused():
    ours = classifier(max_iter=1)
    ours._optimizer = MLPOptimizer()
    ours.partial_fit(X, Y, classes=[0, 1, 2])
    other = MLPClassifier((3,), random_state=0)
    other._optimizer = ours._optimizer
    with pytest.raises(ValueError, match="Adam: params must have 6 entries, got 4"):
        other.partial_fit(X, Y, classes=[0, 1, 2])
    wider = classifier().set_params(hidden_layer_sizes=(8, 5))
    wider._optimizer = ours._optimizer
    with pytest.raises(ValueError, match=r"Adam: parameter 0 must have shape \(8, 7\)"):
        wider.partial_fit(X, Y, classes=[0, 1, 2])
    ours.partial_fit(X, Y)
    assert ours._optimizer.optimizer.steps == 8


def test_a_host_that_is_missing_or_too_old(monkeypatch):
    monkeypatch.setattr("sklearn.__version__", "1.6.1")
    words = r"needs sklearn 1.7 or newer, found 1.6.1: pip install 'scikit-learn>=1.7'"
    with pytest.raises(ImportError, match=words), accelerate():
        pass
    assert mlp.AdamOptimizer is AdamOptimizer
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs sklearn 1.7 or newer, which is not installed"):
        objective(None, X, Y)


@pytest.mark.parametrize(
    ("found", "minimum", "good"),
    [
        ("1.7", "1.7.0", True), ("1.10.1", "1.9", True), ("2.0rc1", "1.7", True),
        ("1.7.dev0", "1.7", True), ("1.6.9", "1.7", False), ("0.9", "1.7", False),
    ],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(monkeypatch, found, minimum, good):
    module = ModuleType("fakehost")
    module.__version__ = found
    monkeypatch.setitem(sys.modules, "fakehost", module)
    if good:
        assert _host.host("fakehost", "fake", minimum) is module
    else:
        with pytest.raises(ImportError, match=f"fakehost {minimum} or newer, found {found}"):
            _host.host("fakehost", "fake", minimum)


def test_a_scikit_learn_with_other_insides(monkeypatch):
    monkeypatch.delattr(mlp, "SGDOptimizer")
    with pytest.raises(ImportError, match="this scikit-learn has no SGDOptimizer"), accelerate():
        pass
    assert mlp.AdamOptimizer is AdamOptimizer


MODELS = {
    "classes": (classifier, Y),
    "two classes": (classifier, Y == 0),
    "labels": (classifier, np.eye(3, dtype=int)[Y] | (X[:, :3] > 1)),
    "regression": (regressor, T),
    "one output": (regressor, T[:, 0]),
    "counts": (partial(regressor, loss="poisson"), rng.poisson(2, (150, 2)).astype(float)),
}


# --------------------------------------------------------------------------- curvature


@pytest.mark.parametrize("batch_size", (150, 40))
@pytest.mark.parametrize("case", MODELS)
def test_objective_is_the_loss_scikit_learn_reports(case, batch_size):
    """At weights that do not move, an epoch's loss is the objective's: its penalty too."""
    make, y = MODELS[case]
    still = {"solver": "sgd", "learning_rate_init": 1e-300, "max_iter": 1}
    model = make(**still, alpha=0.3, batch_size=batch_size).fit(X, y)
    x, loss, _ = objective(model, X, y)
    error = loss(x) - model.loss_
    if case == "regression":  # half of what the gradient descends: its mean over two outputs
        error -= 0.25 * ((model.predict(X) - y) ** 2).sum(axis=1).mean()
    assert error == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("case", MODELS)
def test_objectives_gradient_is_the_losss(case, monkeypatch):
    monkeypatch.setattr("optkern.integrations.sklearn._ROWS", 64)
    make, y = MODELS[case]
    model = make(activation="tanh", alpha=0.3).fit(X.astype(np.float32), y)
    x, loss, grad = objective(model, X, y)
    before = loss(x)
    direction = [rng.standard_normal(a.shape) for a in x]
    slope = sum(float(np.vdot(g, d)) for g, d in zip(grad(x), direction, strict=True))
    h = 1e-5
    moved = [[a + s * h * d for a, d in zip(x, direction, strict=True)] for s in (1, -1)]
    assert (loss(moved[0]) - loss(moved[1])) / (2 * h) == pytest.approx(slope, rel=1e-6, abs=1e-8)
    assert loss(x) == before
    assert all(a.dtype == np.float64 for a in x)


def test_objective_of_lbfgs_is_what_it_minimised():
    model = regressor(solver="lbfgs", activation="tanh", alpha=0.1, max_iter=60)
    model.fit(X[:, :3], T[:, 0])
    x, loss, grad = objective(model, X[:, :3], T[:, 0])
    assert loss(x) == pytest.approx(model.loss_, rel=1e-12)
    assert max(np.abs(g).max() for g in grad(x)) < 0.05


def test_objective_shows_the_saddle_at_zero_and_the_way_out():
    """Weights of zero have no gradient: no first-order training ever leaves them."""
    x1 = np.linspace(-2, 2, 200)[:, None]
    y1 = np.tanh(3 * x1[:, 0])
    model = regressor(activation="tanh", warm_start=True, max_iter=1, alpha=1e-4).fit(x1, y1)
    for w in weights(model):
        w[...] = 0
    model.fit(x1, y1)
    assert max(np.abs(w).max() for w in weights(model)) < 1e-12
    model.intercepts_[1][...] = 0
    x, loss, grad = objective(model, x1, y1)
    verdict = curvature.classify(x, grad=grad, loss=loss)
    assert verdict.kind == "saddle", verdict
    before = loss(x)
    curvature.escape(x, verdict, loss=loss, grad=grad)
    assert loss(x) < before - 0.01
    assert not any(w.any() for w in weights(model))  # x is a copy
    for w, new in zip(weights(model), x, strict=True):
        w[...] = new
    model.set_params(max_iter=100).fit(x1, y1)
    assert model.loss_ < 0.1 * before


def test_objective_of_sparse_data():
    sparse = pytest.importorskip("scipy.sparse")
    S = np.where(np.abs(X) > 1, X, 0)
    model = classifier(activation="tanh").fit(sparse.csc_array(S), Y)
    x, loss, grad = objective(model, sparse.csc_array(S), Y)
    dense = objective(model, S, Y)
    assert loss(x) == pytest.approx(dense.loss(x), rel=1e-13)
    for a, b in zip(grad(x), dense.grad(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def test_objective_serves_the_diagnosis():
    """A training run of weights that are all zero: it never moves, and the reason is found."""
    x1 = np.linspace(-2, 2, 200)[:, None]
    y1 = np.tanh(3 * x1[:, 0])
    model = regressor(activation="tanh", warm_start=True, max_iter=1, shuffle=False).fit(x1, y1)
    for w in weights(model):
        w[...] = 0
    monitor = optkern.Monitor()
    for value in model.set_params(max_iter=40, n_iter_no_change=50).fit(x1, y1).loss_curve_[1:]:
        monitor.record(value)
    model.intercepts_[1][...] = 0  # rounding of the data's mean
    x, loss, grad = objective(model, x1, y1)
    diagnosis = monitor.diagnose(x, grad=grad, loss=loss)
    assert diagnosis.kind == "saddle", diagnosis


FITTED = classifier(max_iter=1, learning_rate_init=1e-3)

REGRESSOR = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (lambda: (classifier(), X, Y), ValueError, "not fitted"),
        (lambda: ("model", X, Y), TypeError, "objective: model must be an MLP.*got str"),
        (lambda: (FITTED, X[:, :3], Y), ValueError, "objective: X must have.*8 features, got 3"),
        (lambda: (FITTED, X, Y[:9]), ValueError, "objective: y must have X's 150 rows"),
        (lambda: (FITTED, X, Y + 1), ValueError, "objective: y holds .*3.*not one of"),
        (lambda: (FITTED, X * np.nan, Y), ValueError, "NaN"),
        (lambda: (REGRESSOR, X, Y * np.nan), ValueError, "objective: y holds NaN or inf"),
        (
            lambda: (REGRESSOR, X, ["a"] * 150),
            ValueError,
            "objective: y must hold numbers, got <U1",
        ),
        (lambda: (MODELS["one output"][0]().fit(X, T), X, Y), ValueError, "2 outputs, got 1"),
    ],
)
def test_objective_refuses(arguments, error, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FITTED.fit(X, Y)
        REGRESSOR.fit(X, Y)
    with pytest.raises(error, match=words):
        objective(*arguments())


def test_objective_refuses_a_point_of_another_shape():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        REGRESSOR.fit(X, Y)
    x, loss, grad = objective(REGRESSOR, X, Y)
    for call in (loss, grad):
        for bad in (x[:-1], [*x[:-1], np.ones(2)]):
            with pytest.raises(ValueError, match=r"x must be a list of arrays of the shapes \["):
                call(bad)
