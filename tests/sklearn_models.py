"""Estimators that scikit-learn's tests fit."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: make test EXTRAS=sklearn")
from sklearn.neural_network import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)

X = rng.standard_normal((150, 8))

Y = (X @ rng.standard_normal((8, 3))).argmax(axis=1)

T = np.tanh(X @ rng.standard_normal((8, 2)))


def classifier(**options):
    settings = {"learning_rate_init": 0.02, "max_iter": 12, "random_state": 0, "batch_size": 40}
    return MLPClassifier((7, 5), **{**settings, **options})


def regressor(**options):
    settings = {"hidden_layer_sizes": (6,), "max_iter": 9, "random_state": 1}
    return MLPRegressor(**{**settings, "learning_rate_init": 0.01, **options})


def weights(model):
    return model.coefs_ + model.intercepts_
