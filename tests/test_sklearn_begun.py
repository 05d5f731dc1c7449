"""`accelerate` around partial_fit of a network that has begun to train: its moments go on."""

import copy
import pickle
import threading
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: make test EXTRAS=sklearn")

from sklearn.base import clone
from sklearn.neural_network import MLPClassifier

from optkern.integrations.sklearn import MLPOptimizer, accelerate

rng = np.random.default_rng(0)
X = rng.standard_normal((60, 6))
Y = (X @ rng.standard_normal((6, 3))).argmax(axis=1)

SOLVERS = {
    "adam": {"solver": "adam"},
    "sgd": {"solver": "sgd"},
    "sgd, plain momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "sgd, no momentum": {"solver": "sgd", "momentum": 0.0},
    "sgd, invscaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "sgd, adaptive": {"solver": "sgd", "learning_rate": "adaptive"},
}


def begun(dtype=float, calls=2, **options):
    settings = {"learning_rate_init": 0.02, "random_state": 0, "batch_size": 20}
    model = MLPClassifier(hidden_layer_sizes=(5,), **{**settings, **options})
    for _ in range(calls):
        model.partial_fit(X.astype(dtype), Y, classes=[0, 1, 2])
    return model


def weights(model):
    return np.concatenate([a.ravel() for a in (*model.coefs_, *model.intercepts_)])


COPIES = {
    "itself": lambda model: model,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "deep copy": copy.deepcopy,
}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", SOLVERS)
def test_moments_go_on_as_scikit_learns_would(solver, dtype, copied):
    alone, ours = begun(dtype, **SOLVERS[solver]), begun(dtype, **SOLVERS[solver])
    ours = COPIES[copied](ours)
    for _ in range(3):
        alone.partial_fit(X.astype(dtype), Y)
        with accelerate(), warnings.catch_warnings():
            warnings.simplefilter("error")
            ours.partial_fit(X.astype(dtype), Y)
    assert isinstance(ours._optimizer, MLPOptimizer) and ours.coefs_[0].dtype == dtype
    np.testing.assert_allclose(weights(ours), weights(alone), rtol=20 * np.finfo(dtype).eps)
    ours.partial_fit(X.astype(dtype), Y)  # after the block it goes on
    assert isinstance(ours._optimizer, MLPOptimizer)


def test_settings_are_laid_over_the_solvers_own_and_adamw_goes_on_from_adam():
    model = begun()
    before = [m.copy() for m in model._optimizer.ms]
    with accelerate("adamw", weight_decay=0.1, ema_decay=0.9, lr=0.0):
        model.partial_fit(X[:20], Y[:20])
    inner = model._optimizer.optimizer
    assert inner.param_groups[0]["weight_decay"] == 0.1 and inner.state[0]["step"] == 7
    assert abs(inner.state[0]["exp_avg"] / 0.9 - before[0]).max() < 0.1 * abs(before[0]).max() + 1
    model = begun(solver="sgd")
    with accelerate(clip_norm=1.0, lr=0.5):
        model.partial_fit(X, Y)
    assert model._optimizer.learning_rate == 0.5 and model._optimizer.optimizer.clip_norm == 1.0


@pytest.mark.parametrize(
    "settings",
    [("lion", {}), ("sgd", {}), ("rmsprop", {"lr": 0.1})],
)
def test_another_rule_is_said_to_do_nothing_and_what_it_advises_works(settings):
    rule, more = settings
    model = begun()
    with accelerate(rule, **more), pytest.warns(RuntimeWarning, match="goes on with") as caught:
        model.partial_fit(X, Y)
    (warning,) = caught
    assert warning.filename == __file__ and "AdamOptimizer" in str(warning.message)
    advice = str(warning.message).partition("set model._optimizer = ")[2].partition(" from ")[0]
    model._optimizer = eval(advice)
    with accelerate(rule, **more), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model.partial_fit(X, Y)
    assert model._optimizer.rule == rule


def test_what_this_context_has_begun_is_silent_and_another_is_said():
    model = begun(calls=0)
    for _ in range(2):
        with accelerate("lion"), warnings.catch_warnings():
            warnings.simplefilter("error")
            model.partial_fit(X, Y, classes=[0, 1, 2])
    for other, more in (("adamw", {}), ("lion", {"lr": 0.5}), (None, {"clip_norm": 1.0})):
        with accelerate(other, **more), pytest.warns(RuntimeWarning, match=r"MLPOptimizer\('lion'"):
            model.partial_fit(X, Y)
    with accelerate(), warnings.catch_warnings():
        warnings.simplefilter("error")
        model.partial_fit(X, Y)
    assert model._optimizer.rule == "lion"


def test_a_begun_model_in_another_thread_is_said():
    model, caught = begun(), []

    def work():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            model.partial_fit(X, Y)
        caught.extend(found)

    with accelerate():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert "open in another thread" in str(caught[0].message)
    assert not isinstance(model._optimizer, MLPOptimizer)


def test_warm_starts_and_clones_are_optkerns():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = begun(calls=1, warm_start=True, max_iter=2)
        with accelerate():
            assert isinstance(model.fit(X, Y)._optimizer, MLPOptimizer)
            assert isinstance(clone(model).fit(X, Y)._optimizer, MLPOptimizer)


def test_the_users_own_optimizer_is_left_alone():
    class Own:
        learning_rate = 0.1

        def update_params(self, params, grads):
            pass

        def iteration_ends(self, samples):
            pass

        def trigger_stopping(self, message, verbose):
            return True

    model = begun()
    model._optimizer = own = Own()
    before = weights(model)
    with accelerate():
        model.partial_fit(X, Y)
    assert model._optimizer is own and (weights(model) == before).all()
