"""scikit-learn's MLPs where their fits and their arrays go: joblib's workers, threads, copies."""

import copy
import io
import multiprocessing
import pickle
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: make test EXTRAS=sklearn")

import joblib
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier

from optkern.integrations.sklearn import MLPOptimizer, accelerate

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
X = rng.standard_normal((90, 6))
Y = (X @ rng.standard_normal((6, 3))).argmax(axis=1)


def classifier(**options):
    settings = {"learning_rate_init": 0.02, "max_iter": 6, "random_state": 0, "batch_size": 15}
    return MLPClassifier((5,), **{**settings, **options})


def rule_of(model, X, y):
    """As a score: 2 with lion, 1 with another of optkern's rules, 0 without."""
    optimizer = model._optimizer
    return float(isinstance(optimizer, MLPOptimizer)) + (getattr(optimizer, "rule", "") == "lion")


def falling(step):
    return 0.01 / (1 + step)


def fitted(model):
    return model.fit(X, Y)


# --------------------------------------------------------------------------- workers


@pytest.mark.parametrize(
    "backend", ("loky", "threading", pytest.param("multiprocessing", marks=pytest.mark.slow))
)
def test_joblibs_workers_train_as_the_caller_asked(backend):
    with joblib.parallel_config(backend, n_jobs=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with accelerate("lion", lr=falling):
            inside = cross_val_score(classifier(), X, Y, cv=2, scoring=rule_of)
            search = GridSearchCV(classifier(), {"alpha": [0.1, 1.0]}, cv=2, scoring=rule_of)
            search.fit(X, Y)
            bag = BaggingClassifier(classifier(), 2, random_state=0).fit(X, Y)
            tasks = [joblib.delayed(fitted)(classifier()) for _ in range(2)]
            models = joblib.Parallel()(tasks)  # joblib itself, and a list
        outside = cross_val_score(classifier(), X, Y, cv=2, scoring=rule_of)
    assert inside.tolist() == [2, 2]
    assert search.cv_results_["mean_test_score"].tolist() == [2, 2]
    assert [rule_of(model, X, Y) for model in (*bag.estimators_, *models)] == [2] * 4
    assert outside.tolist() == [0, 0]


def test_the_same_weights_with_workers_as_without():
    with accelerate("lion"):
        one = cross_val_score(classifier(), X, Y, cv=3)
        two = cross_val_score(classifier(), X, Y, cv=3, n_jobs=2)
    np.testing.assert_array_equal(one, two)


def test_tasks_sent_lazily_take_the_context_of_the_call():
    with joblib.parallel_config("threading", n_jobs=2):
        with accelerate("lion"):
            results = joblib.Parallel(return_as="generator", pre_dispatch=1)(
                joblib.delayed(fitted)(classifier(max_iter=1)) for _ in range(4)
            )
        assert [rule_of(model, X, Y) for model in results] == [2] * 4


def test_the_innermost_context_goes_along():
    with joblib.parallel_config("threading", n_jobs=2), accelerate("lion"):
        with accelerate("adamw"):
            inner = cross_val_score(classifier(), X, Y, cv=2, scoring=rule_of)
        outer = cross_val_score(classifier(), X, Y, cv=2, scoring=rule_of)
    assert inner.tolist() == [1, 1] and outer.tolist() == [2, 2]


def test_joblib_is_left_as_it_was():
    before = joblib.Parallel.__call__, MLPClassifier._fit_lbfgs, ProcessPoolExecutor.submit
    with accelerate(), accelerate("lion"):
        assert joblib.Parallel.__call__ is not before[0]
    after = joblib.Parallel.__call__, MLPClassifier._fit_lbfgs, ProcessPoolExecutor.submit
    assert after == before


def test_a_fit_in_a_thread_of_ones_own_says_that_it_is_scikit_learns():
    said = []

    def fit():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            said.append((classifier().fit(X, Y), [str(w.message) for w in caught]))

    with accelerate("lion"):
        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()
    (model, messages), own = said[0], "this fit is scikit-learn's own"
    assert rule_of(model, X, Y) == 0 and any(own in message for message in messages)
    fit()
    assert not any("optkern" in message for message in said[1][1])


@pytest.mark.slow
def test_a_process_pools_workers_train_as_the_caller_asked():
    """Also those that have been started before, and not after the block."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before = pool.submit(classifier(max_iter=1).fit, X, Y)
        with accelerate("lion"):
            inside = [
                pool.submit(classifier(max_iter=1).fit, X, Y),
                pool.submit(fitted, model=classifier(max_iter=1)),
            ]
            mapped = list(pool.map(fitted, [classifier(max_iter=1)]))
        said = pytest.warns(RuntimeWarning, match=r"cannot be pickled, .*own \(")
        with accelerate("lion", lr=lambda step: 0.1), said as caught:
            unpickled = pool.submit(fitted, classifier(max_iter=1))
        assert caught[0].filename == __file__
        after = pool.submit(fitted, classifier(max_iter=1))
        models = [before.result(), *(f.result() for f in inside), *mapped]
        models += [unpickled.result(), after.result()]
    assert [rule_of(model, X, Y) for model in models] == [0, 2, 2, 2, 0, 0]


# --------------------------------------------------------------------------- the network's arrays


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("way", (lambda model: model, by_pickle, by_joblib, copy.deepcopy))
@pytest.mark.parametrize("options", ({"early_stopping": True}, {}), ids=str)
def test_averages_go_where_the_network_looks(way, options):
    with accelerate("adam", ema_decay=0.9):
        model = way(classifier(**options).fit(X, Y))
    optimizer = model._optimizer.optimizer
    before = [w.copy() for w in (*model.coefs_, *model.intercepts_)]
    averages = [entry["ema"].copy() for entry in optimizer.state.values()]
    with optimizer.averaged():
        for w, average in zip((*model.coefs_, *model.intercepts_), averages, strict=True):
            np.testing.assert_array_equal(w, average)
    for w, old in zip((*model.coefs_, *model.intercepts_), before, strict=True):
        np.testing.assert_array_equal(w, old)


@pytest.mark.parametrize("way", (by_pickle, by_joblib, copy.deepcopy))
def test_an_unpickled_partial_fit_has_its_optimizer_at_once(way):
    model = classifier()
    model._optimizer = MLPOptimizer("adamw", lr=0.01, ema_decay=0.5)
    assert model._optimizer.optimizer is None
    for _ in range(3):
        model.partial_fit(X, Y, classes=[0, 1, 2])
    other = way(model)
    assert other._optimizer.optimizer.steps == model._optimizer.optimizer.steps
    assert other._optimizer.optimizer.params[0] is other.coefs_[0]
    for either in (model, other):
        either.partial_fit(X, Y)
    np.testing.assert_array_equal(model.coefs_[0], other.coefs_[0])


def test_a_dropped_network_is_not_kept_alive():
    model = classifier(max_iter=1)
    with accelerate("lion"):
        optimizer = model.fit(X, Y)._optimizer
    steps = optimizer.optimizer.steps
    del model
    assert optimizer._network() is None and optimizer.optimizer.steps == steps


def test_an_optimizer_that_is_held_notices_what_a_network_puts_in_an_arrays_place():
    with accelerate("adam", ema_decay=0.5):
        clf = MLPClassifier((4,), max_iter=3, random_state=0).fit(X, X[:, 0] > 0)
    held = clf._optimizer.optimizer
    with held.averaged():
        pass
    clf.coefs_[0] = clf.coefs_[0] * 2
    with pytest.raises(ValueError, match=r"parameter 0 .*rebind"), held.averaged():
        pass
    again = clf._optimizer.optimizer  # bound anew, as each step binds it
    before = clf.coefs_[0].copy()
    with again.averaged():
        assert (clf.coefs_[0] != before).any()
    arrays = clf.coefs_
    del clf, again
    assert held.params[0] is arrays[0]
    held.step([np.ones_like(p) for p in held.params])  # they outlive the network
    assert [type(p) for p in pickle.loads(pickle.dumps(held)).params] == [np.ndarray] * 4
