"""scikit-learn's MLPClassifier
============================

The same model faster, another rule, and where it has stopped.

pip install '.[sklearn]' && python examples/sklearn_mlp.py
"""

import time
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import optkern
from optkern.integrations.sklearn import MLPOptimizer, accelerate, objective

warnings.simplefilter("ignore", ConvergenceWarning)
X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split((X / 16).astype(np.float32), y, random_state=0)
settings = {"hidden_layer_sizes": (200,), "batch_size": 32, "max_iter": 10, "random_state": 0}

# Two lines: the context, and the fit inside it.
start = time.perf_counter()
plain = MLPClassifier(**settings).fit(X, y)
between = time.perf_counter()
with accelerate():
    ours = MLPClassifier(**settings).fit(X, y)
end = time.perf_counter()
difference = max(np.abs(a - b).max() for a, b in zip(plain.coefs_, ours.coefs_, strict=True))
print(f"fit {between - start:.2f} s, accelerated {end - between:.2f} s: {difference:.0e} apart")

# Another rule, with a schedule of the completed batches: 43 an epoch, 10 epochs.
schedule = optkern.schedules.warmup(43, then=optkern.schedules.Cosine(4e-3, T_max=387))
with accelerate("adamw", schedule=schedule, weight_decay=0.05):
    decayed = MLPClassifier(**settings).fit(X, y)
scores = [f"{model.score(X_test, y_test):.3f}" for model in (ours, decayed)]
print(f"test accuracy: Adam {scores[0]}, AdamW {scores[1]}")

# partial_fit keeps its optimizer, so there one is put in its place.
stream = MLPClassifier(hidden_layer_sizes=(200,), random_state=0)
stream._optimizer = MLPOptimizer("lion", lr=3e-3)
for first in range(0, len(X), 64):
    stream.partial_fit(X[first : first + 64], y[first : first + 64], classes=np.arange(10))
print(f"one pass over a stream with Lion: {stream.score(X_test, y_test):.3f}")

# Where has it stopped? Two lines more.
smooth = MLPClassifier((20,), activation="tanh", alpha=0.1, max_iter=100, random_state=0).fit(X, y)
x, loss, grad = objective(smooth, X, y)
print(optkern.curvature.classify(x, grad=grad, loss=loss))
