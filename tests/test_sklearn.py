"""scikit-learn's MLPs under optkern: the same models to rounding, and what they could not do."""

import copy
import pickle
import re
import threading
import warnings

import numpy as np
import pytest

import optkern

pytest.importorskip("sklearn", reason="needs scikit-learn: make test EXTRAS=sklearn")
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier
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

from optkern.integrations.sklearn import MLPOptimizer, accelerate

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Of two runs whose updates differ by rounding, after some tens of updates.
CLOSE = {np.float64: {"rtol": 0, "atol": 1e-13}, np.float32: {"rtol": 0, "atol": 1e-5}}

SOLVERS = {
    "adam": {"solver": "adam"},
    "adam's numbers": {"solver": "adam", "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-2},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "momentum": 0.7},
    "no momentum": {"solver": "sgd", "momentum": 0.0},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1},
    "early stopping": {"solver": "adam", "early_stopping": True, "n_iter_no_change": 3},
    "weights decay": {"solver": "adam", "alpha": 0.5},
    "no shuffle": {"solver": "sgd", "shuffle": False, "batch_size": 32},
}


def assert_same_model(ours, theirs, dtype=np.float64):
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.loss_curve_ == pytest.approx(theirs.loss_curve_, abs=CLOSE[dtype]["atol"])
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, **CLOSE[dtype])


# --------------------------------------------------------------------------- the same models


@pytest.mark.parametrize("dtype", (np.float64, np.float32))
@pytest.mark.parametrize("solver", SOLVERS)
def test_fit_gives_scikit_learns_coefficients(solver, dtype):
    options = SOLVERS[solver]
    theirs = classifier(**options).fit(X.astype(dtype), Y)
    with accelerate():
        ours = classifier(**options).fit(X.astype(dtype), Y)
    assert isinstance(ours._optimizer, MLPOptimizer)
    assert not isinstance(theirs._optimizer, MLPOptimizer)
    assert_same_model(ours, theirs, dtype)
    if solver != "adam":  # its learning_rate is the folded one
        started = options["solver"] == "sgd"
        assert not started or ours._optimizer.learning_rate == theirs._optimizer.learning_rate


@pytest.mark.parametrize("solver", ("adam", "sgd"))
def test_regressor(solver):
    make = regressor(solver=solver)
    theirs = clone(make).fit(X, T)
    with accelerate():
        ours = clone(make).fit(X, T)
    assert_same_model(ours, theirs)


@pytest.mark.parametrize("kind", ("csr_matrix", "csr_array", "csc_array"))
def test_sparse_input(kind):
    sparse = pytest.importorskip("scipy.sparse")
    S = getattr(sparse, kind)(np.where(np.abs(X) > 1, X, 0))
    theirs = classifier().fit(S, Y)
    with accelerate():
        ours = classifier().fit(S, Y)
    assert_same_model(ours, theirs)


def test_sample_weights_of_another_dtype():
    w = rng.uniform(0.5, 2, len(X))
    theirs = classifier().fit(X, Y, sample_weight=w)
    with accelerate():
        ours = classifier().fit(X, Y, sample_weight=w)
    assert_same_model(ours, theirs)


def test_warm_start_starts_the_state_anew_as_scikit_learn_does():
    models = classifier(warm_start=True, max_iter=3), classifier(warm_start=True, max_iter=3)
    for _ in range(3):
        models[0].fit(X, Y)
        with accelerate():
            models[1].fit(X, Y)
        assert_same_model(models[1], models[0])
        assert models[1]._optimizer.optimizer.steps == 3 * 4


def test_partial_fit_keeps_the_state():
    theirs, ours = classifier(), classifier()
    for _ in range(4):
        theirs.partial_fit(X, Y, classes=[0, 1, 2])
        with accelerate():
            ours.partial_fit(X, Y, classes=[0, 1, 2])
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        np.testing.assert_allclose(a, b, **CLOSE[np.float64])
    assert ours._optimizer.optimizer.steps == 4 * 4


def test_a_fitted_model_goes_on_without_the_context():
    with accelerate():
        ours = classifier(max_iter=3).fit(X, Y)
    theirs = classifier(max_iter=3).fit(X, Y)
    for model in (ours, theirs):
        model.partial_fit(X, Y)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], **CLOSE[np.float64])


def test_lbfgs_has_no_step_to_accelerate():
    plain = classifier(solver="lbfgs").fit(X, Y)
    with accelerate(), pytest.warns(RuntimeWarning, match="'lbfgs' of this MLPClassifier has no"):
        ours = classifier(solver="lbfgs").fit(X, Y)
    np.testing.assert_array_equal(ours.coefs_[0], plain.coefs_[0])
    for asked, words in ((accelerate("lion"), "'lion'"), (accelerate(clip_norm=1.0), "clip_norm=")):
        with (
            pytest.raises(ValueError, match=rf"accelerate\({words}.*use solver='adam' or 'sgd'"),
            asked,
        ):
            classifier(solver="lbfgs").fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        classifier(solver="lbfgs", max_iter=2).fit(X, Y)


# --------------------------------------------------------------------------- copies


def test_pickle_goes_on_bit_for_bit():
    ours = classifier()
    ours._optimizer = MLPOptimizer("radam", lr=0.01, schedule="invscaling", weight_decay=0.1)
    ours.partial_fit(X, Y, classes=[0, 1, 2])
    # With an array changed behind the optimizer's back too, as early stopping does.
    ours.coefs_ = [w.copy() for w in ours.coefs_]
    copy = pickle.loads(pickle.dumps(ours))
    assert repr(copy._optimizer) == repr(ours._optimizer)
    for model in (ours, copy):
        model.partial_fit(X, Y)
    for a, b in zip(weights(copy), weights(ours), strict=True):
        assert np.array_equal(a, b)
    assert copy._optimizer.learning_rate == ours._optimizer.learning_rate
    assert copy._optimizer.optimizer.steps == ours._optimizer.optimizer.steps == 8


def test_pickle_keeps_a_schedule_and_its_place():
    schedule = optkern.schedules.warmup(6, then=optkern.schedules.Cosine(0.02, T_max=10))
    ours = classifier()
    ours._optimizer = MLPOptimizer("adamw", schedule=schedule)
    ours.partial_fit(X, Y, classes=[0, 1, 2])
    copy = pickle.loads(pickle.dumps(ours))
    for model in (ours, copy):
        model.partial_fit(X, Y)
        assert model._optimizer.learning_rate == schedule(8)
    assert all(map(np.array_equal, weights(copy), weights(ours)))


def test_pickle_holds_no_second_copy_of_the_weights():
    with accelerate():
        ours = MLPClassifier((400,), max_iter=1, random_state=0).fit(X, Y)
    theirs = MLPClassifier((400,), max_iter=1, random_state=0).fit(X, Y)
    assert len(pickle.dumps(ours)) < 1.1 * len(pickle.dumps(theirs))


def test_clone_drops_the_optimizer():
    with accelerate():
        ours = classifier(max_iter=2).fit(X, Y)
    fresh = clone(ours)
    assert not hasattr(fresh, "_optimizer")
    assert not isinstance(fresh.fit(X, Y)._optimizer, MLPOptimizer)


# --------------------------------------------------------------------------- the context


def test_names_are_put_back_even_after_an_error():
    before = mlp.AdamOptimizer, mlp.SGDOptimizer
    assert before[0] is AdamOptimizer
    with pytest.raises(ZeroDivisionError), accelerate(), accelerate("sgd"):
        assert mlp.AdamOptimizer is not before[0]
        raise ZeroDivisionError
    assert (mlp.AdamOptimizer, mlp.SGDOptimizer) == before
    with pytest.raises(TypeError, match="unexpected keyword"), accelerate(momentun=0.5):
        classifier().fit(X, Y)
    assert (mlp.AdamOptimizer, mlp.SGDOptimizer) == before


def test_the_innermost_context_holds():
    def rule():
        return classifier(max_iter=1).fit(X, Y)._optimizer.rule

    outer = accelerate("lion")
    with outer:
        with accelerate("adamw"), outer:
            assert rule() == "lion"
        with accelerate():
            assert rule() == "adam"
        assert rule() == "lion"
        with pytest.raises(KeyError), accelerate("sgd"):
            raise KeyError
        assert rule() == "lion"


def test_as_a_decorator():
    @accelerate("adagrad")
    def fit(again=0):
        if again:
            fit(again - 1)
        return classifier(max_iter=1).fit(X, Y)._optimizer

    assert fit(2).rule == "adagrad"
    assert mlp.AdamOptimizer is AdamOptimizer


def test_a_fit_in_another_thread_is_not_touched():
    inside, outside = threading.Event(), threading.Event()
    kinds = {}

    def other():
        inside.wait(10)
        kinds["before"] = classifier(max_iter=1).fit(X, Y)._optimizer
        with accelerate("lion"):
            kinds["own"] = classifier(max_iter=1).fit(X, Y)._optimizer
            outside.set()
            first.join(10)  # who has left its own context by then
            kinds["still"] = classifier(max_iter=1).fit(X, Y)._optimizer

    def one():
        with accelerate():
            inside.set()
            outside.wait(10)
            kinds["one"] = classifier(max_iter=1).fit(X, Y)._optimizer

    first, second = threading.Thread(target=one), threading.Thread(target=other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in (first, second):
            thread.start()
        for thread in (first, second):
            thread.join(20)
    assert isinstance(kinds["before"], AdamOptimizer)
    assert [kinds[k].rule for k in ("own", "still", "one")] == ["lion", "lion", "adam"]
    assert mlp.AdamOptimizer is AdamOptimizer


class Accelerated(MLPClassifier):
    fit = accelerate()(MLPClassifier.fit)


def test_a_decorated_fit_goes_along_to_joblibs_workers():
    from joblib import parallel_config
    from sklearn.model_selection import GridSearchCV

    model = Accelerated((4,), max_iter=2, random_state=0)
    search = GridSearchCV(model, {"alpha": [1e-3, 1.0]}, cv=2, scoring=was_accelerated)
    with parallel_config("threading", n_jobs=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, Y)
    assert (search.cv_results_["mean_test_score"] == 1).all()
    assert mlp.AdamOptimizer is AdamOptimizer


def was_accelerated(model, X, y):
    return float(isinstance(model._optimizer, MLPOptimizer))


@pytest.mark.slow
def test_scikit_learns_own_tests_pass(run_python):
    code = """
import pytest
from optkern.integrations import sklearn as ours

updates = 0

class Counted(ours.MLPOptimizer):
    def update_params(self, params, grads):
        global updates
        updates += 1
        super().update_params(params, grads)

ours.MLPOptimizer = Counted
with ours.accelerate():
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    code = pytest.main([*options, "--pyargs", "sklearn.neural_network.tests"])
assert updates > 1000, updates
raise SystemExit(code)
"""
    result = run_python(code, timeout=300)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "passed" in result.stdout


# --------------------------------------------------------------------------- other rules


@pytest.mark.parametrize("rule", optkern.RULES, ids=lambda rule: rule.name)
def test_every_rule_trains(rule):
    lr = {"adadelta": 1.0, "lars": 3.0}.get(rule.name, 0.01)
    if rule.name in ("sgd", "asgd", "adagrad", "schedulefreesgd"):
        lr = 0.3
    before = classifier(max_iter=1).fit(X, Y).loss_
    with accelerate(rule.name, lr=lr):
        ours = classifier(max_iter=40).fit(X, Y)
    assert ours._optimizer.optimizer.rule is rule
    assert ours.loss_ < 0.9 * before


def test_a_rule_takes_the_models_learning_rate_unless_told_otherwise():
    with accelerate("adamw"):
        assert classifier(max_iter=1).fit(X, Y)._optimizer.learning_rate == 0.02
    with accelerate("adamw", lr=0.5):
        assert classifier(max_iter=1).fit(X, Y)._optimizer.learning_rate == 0.5
    with accelerate("adamw", schedule=lambda step: 1 / (1 + step)):
        assert classifier(max_iter=1).fit(X, Y)._optimizer.learning_rate == 1 / 5


ADAM = {"beta_1": 0.5, "beta_2": 0.99, "epsilon": 1e-3}
RATE = {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.25}
TAKEN = [  # the model's, the rule and what is laid over, what is taken, what is said to be left out
    (ADAM, "adamw", {}, {"betas": (0.5, 0.99), "eps": 1e-3, "eps_form": "raw"}, None),
    (ADAM, "lamb", {}, {"betas": (0.5, 0.99), "eps": 1e-3}, None),
    (ADAM, "adamw", {"betas": (0.8, 0.9)}, {"betas": (0.8, 0.9), "eps": 1e-3}, None),
    (ADAM, "lion", {}, {"betas": (0.9, 0.99)}, "beta_1 and beta_2 and epsilon of this"),
    ({"epsilon": 1e-3}, "sgd", {}, {"momentum": 0.0}, r"'sgd'\): epsilon of this model"),
    ({}, "lamb", {}, {"eps": 1e-6}, None),
    ({}, "lion", {}, {"betas": (0.9, 0.99)}, None),
    ({"solver": "sgd", "momentum": 0.3}, "adamw", {}, {"betas": (0.9, 0.999)}, "momentum of this"),
    ({"solver": "sgd", "momentum": 0.0}, "adamw", {}, {}, r"'adamw'\): momentum of this"),
    ({"solver": "sgd", "momentum": 0.3}, "sgd", {}, {"momentum": 0.3, "nesterov": True}, None),
    ({"solver": "sgd"}, "sgd", {"momentum": 0.0}, {"momentum": 0.0, "nesterov": False}, None),
    (RATE, "lion", {}, {"schedule": "invscaling", "power_t": 0.25}, None),
    (RATE, "lion", {"lr": 0.1}, {"schedule": "invscaling", "power_t": 0.25}, None),
    (RATE, "lion", {"schedule": lambda step: 0.1}, {"schedule": None}, None),
    (RATE, "sgd", {"lr": lambda step: 0.1}, {"schedule": None, "momentum": 0.9}, None),
]


@pytest.mark.parametrize(("model", "rule", "settings", "wanted", "said"), TAKEN)
def test_a_rule_takes_what_means_the_same_to_it_and_says_what_does_not(
    model, rule, settings, wanted, said
):
    with accelerate(rule, **settings), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = classifier(max_iter=1, **model).fit(X, Y)._optimizer
    group = {**vars(made), **made.optimizer.param_groups[0]}
    assert {name: group[name] for name in wanted} == wanted
    own = [w for w in caught if "accelerate" in str(w.message)]
    assert len(own) == (said is not None)
    if said:
        assert re.search(said, str(own[0].message)) and own[0].filename == __file__


def test_settings_without_a_rule_are_laid_over_the_solvers():
    with accelerate(weight_decay=0.25, on_nonfinite="skip"):
        ours = classifier(max_iter=1, beta_1=0.5).fit(X, Y)._optimizer.optimizer
    group = ours.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["eps_form"]) == (0.25, (0.5, 0.999), "raw")
    assert ours.on_nonfinite == "skip"


def test_a_schedule_runs_by_the_batch():
    """As an optimizer in a loop of one's own over the same batches."""
    calls = []

    def schedule(step):
        calls.append(step)
        return 0.1 * 0.9**step

    ours = classifier(shuffle=False)
    ours._optimizer = MLPOptimizer("adamw", schedule=schedule, weight_decay=0.1)
    ours.partial_fit(X, Y, classes=[0, 1, 2])
    assert sorted(set(calls)) == [0, 1, 2, 3]
    plain = classifier(shuffle=False)
    plain._optimizer = OwnLoop(optkern.AdamW, lr=schedule, weight_decay=0.1)
    plain.partial_fit(X, Y, classes=[0, 1, 2])
    for a, b in zip(weights(ours), weights(plain), strict=True):
        assert np.array_equal(a, b)


class OwnLoop:
    """The least that an MLP calls."""

    def __init__(self, cls, **options):
        self.cls, self.options, self.opt = cls, options, None

    def update_params(self, params, grads):
        self.opt = self.opt or self.cls(params, **self.options)
        self.opt.step(grads)

    def iteration_ends(self, t):
        pass


def test_adaptive_for_any_rule(capsys):
    opt = MLPOptimizer("lion", lr=1e-5, schedule="adaptive")
    assert opt.trigger_stopping("Flat.", True) is False
    assert opt.learning_rate == 1e-5 / 5
    opt.trigger_stopping("Flat.", False)
    assert opt.trigger_stopping("Flat.", True) is True
    assert capsys.readouterr().out == (
        "Flat. Setting learning rate to 0.000002\nFlat. Learning rate too small. Stopping.\n"
    )


def test_invscaling_for_any_rule():
    opt = MLPOptimizer("adamax", lr=0.5, schedule="invscaling", power_t=0.5)
    opt.update_params([np.ones(2)], [np.ones(2)])
    opt.iteration_ends(3)
    assert opt.learning_rate == opt.optimizer.param_groups[0]["lr"] == 0.25


def test_the_learning_rate_can_be_written():
    opt = MLPOptimizer("sgd", lr=0.5)
    opt.learning_rate = 0.25
    p = np.ones(1)
    opt.update_params([p], [np.ones(1)])
    assert p[0] == 0.75
    opt.learning_rate = 0.5
    opt.update_params([p], [np.ones(1)])
    assert p[0] == 0.25
    for bad in (-1.0, "fast", np.nan):
        with pytest.raises(ValueError, match="MLPOptimizer: learning_rate must be a finite number"):
            opt.learning_rate = bad
        assert opt.learning_rate == 0.5
        with pytest.raises(ValueError, match="learning_rate must be a finite number"):
            MLPOptimizer().learning_rate = bad  # before the first update too


def test_an_attribute_that_means_nothing_is_refused():
    opt = MLPOptimizer("adam")
    for twin in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        for name in ("lerning_rate", "lr", "power_t"):  # the last two no longer mean anything
            with pytest.raises(AttributeError, match=f"no attribute '{name}' .*opt.learning_rate"):
                setattr(twin, name, 0.1)

    class Own(MLPOptimizer):
        pass

    own = Own()
    own.anything = 1
    assert own.anything == 1


def test_the_rest_of_optkern_says_what_serves_instead(tmp_path):
    opt, monitor = MLPOptimizer("adam"), optkern.Monitor(every=1)
    for call in (optkern.save, optkern.load):
        with pytest.raises(TypeError, match=r"MLPOptimizer: pickle.dump\(model, file\)"):
            call(tmp_path / "x.npz", opt)
    with pytest.raises(TypeError, match="which has no state before its first update"):
        monitor.record(1.0, None, opt)
    p = np.ones(3)
    for _ in range(3):
        opt.update_params([p], [np.ones(3)])
        monitor.record(1.0, None, opt)
    assert monitor.looks[0].lr == 0.001 and monitor.looks[0].update_norm > 0
