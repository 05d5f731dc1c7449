"""
14. Random search against grid search
=====================================

Of two hyperparameters often one matters. A grid of nine tries three values of it, nine random draws
try nine. Both by scikit-learn's searches, on its network with optkern's steps: the rate of Adam and
the decay of the weights, of which over this range only the rate counts.
"""

import warnings

import lesson
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import loguniform
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier

from optkern.integrations.sklearn import accelerate

warnings.simplefilter("ignore", ConvergenceWarning)
X, y, _, _ = lesson.digits(300)
LOW, HIGH = (1e-5, 1.0), (1e-7, 1e-3)
model = MLPClassifier((24,), batch_size=32, max_iter=12, random_state=0)

# %%
# What matters: each alone, the other in the middle

alone = {}
for name, (low, high), other in (
    ("learning_rate_init", LOW, {"alpha": [1e-5]}),
    ("alpha", HIGH, {"learning_rate_init": [3e-3]}),
):
    grid = {name: np.geomspace(low, high, 9)} | other
    with accelerate():
        search = GridSearchCV(model, grid, cv=3).fit(X, y)
    alone[name] = search.cv_results_["mean_test_score"]
ranges = {name: np.ptp(scores) for name, scores in alone.items()}
lesson.claim(
    "of two hyperparameters often one matters",
    f"accuracy changes by {ranges['learning_rate_init']:.1%} along the rate, by "
    f"{ranges['alpha']:.1%} along the decay",
    bool(ranges["learning_rate_init"] > 5 * ranges["alpha"]),
)

# %%
# Nine tries each. The grid's place is chance, too: it is moved by up to a cell, seven times; the
# random search has seven seeds.


def grid_search(seed):
    """Nine tries on a grid that begins somewhere in the first cell of both ranges."""
    shift = np.random.default_rng(seed).random(2)
    axes = [
        np.exp(np.log(low) + (np.arange(3) + u) / 3 * np.log(high / low))
        for (low, high), u in zip((LOW, HIGH), shift)
    ]
    with accelerate():
        grid = {"learning_rate_init": axes[0], "alpha": axes[1]}
        return GridSearchCV(model, grid, cv=3).fit(X, y).cv_results_


def random_search(seed):
    ranges = {"learning_rate_init": loguniform(*LOW), "alpha": loguniform(*HIGH)}
    with accelerate():
        search = RandomizedSearchCV(model, ranges, n_iter=9, cv=3, random_state=seed)
        return search.fit(X, y).cv_results_


runs = {
    name: [search(seed) for seed in range(7)]
    for name, search in (("grid", grid_search), ("random", random_search))
}
best = {name: [r["mean_test_score"].max() for r in some] for name, some in runs.items()}
print("seed    " + "".join(f"{k:8}" for k in range(7)))
for name, values in best.items():
    print(f"{name:8}" + "".join(f"{v:8.1%}" for v in values))
worst = {name: min(values) for name, values in best.items()}
lesson.claim(
    "random search finds a better point than a grid of as many tries",
    f"mean of the best {np.mean(best['random']):.1%} and {np.mean(best['grid']):.1%} (random, "
    f"grid), the unluckiest {worst['random']:.1%} and {worst['grid']:.1%}, random ahead or level "
    f"{sum(a >= b for a, b in zip(best['random'], best['grid']))} times of 7",
    bool(np.mean(best["random"]) > np.mean(best["grid"])),
)

figure, axes = plt.subplots(1, 3, figsize=(13, 4))
for ax, (name, some) in zip(axes, runs.items()):
    rates, decays = (
        np.array(some[0][f"param_{p}"], float) for p in ("learning_rate_init", "alpha")
    )
    dots = ax.scatter(rates, decays, c=some[0]["mean_test_score"], cmap="cividis", edgecolor="k")
    ax.set(xscale="log", yscale="log", xlim=LOW, ylim=HIGH, title=f"{name}, its first run")
    ax.set(xlabel="rate", ylabel="decay")
    figure.colorbar(dots, ax=ax, label="accuracy")
for k, (name, scores) in enumerate(alone.items()):
    axes[2].plot(np.arange(9), scores, label=name, **lesson.style(k))
axes[2].set(title="accuracy along each alone", xlabel="low to high", ylim=(0, 1.25))
axes[2].legend()
lesson.show(figure, "plot_14_random_search.py")
