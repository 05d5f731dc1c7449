"""
10. Weight decay, dropout, augmentation
=======================================

With few labels a network learns its samples by heart. Decay pulls the weights to zero: as a term of
the gradient (L2) or beside it (decoupled), which adaptive rules tell apart. Beside it other means.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

PARTS = [((X * 6.017 + 4.884) / 16, y) for X, y in lesson.digits_in_three(100)]
X, y = PARTS[0]
DECAYS = (0.0, 2e-4, 2e-3, 2e-2, 4e-2, 0.1, 0.3)


def upside_down(images, rng):
    turned = images.reshape(-1, 8, 8)[:, ::-1].reshape(images.shape)
    return np.where(rng.random((len(images), 1)) < 0.5, turned, images)


def train(seed=0, rule=optkern.AdamW, change=None, dropout=0.0, updates=1500, **options):
    """Return norm, distance from the start, accuracies (training, held out, test), weights."""
    net, rng = lesson.MLP(64, 64, 10, seed=seed), np.random.default_rng(seed)
    start = np.concatenate([p.ravel() for p in net.params])
    opt = rule(net.params, **{"lr": 3e-3} | options)
    for _ in range(updates):
        rows = rng.permutation(len(y))[:32]
        images = X[rows] if change is None else change(X[rows], rng)
        opt.step(net.dropout_grads(images, y[rows], dropout, rng))
    end = np.concatenate([p.ravel() for p in net.params])
    scores = [net.accuracy(net.params, *data) for data in PARTS]
    return np.linalg.norm(end), np.linalg.norm(end - start), *scores, end


def mean_of(**options):
    return np.mean([train(seed, **options)[:5] for seed in range(3)], axis=0)


# %%
# Decoupled decay and L2, from none to far too much
decoupled = np.array([mean_of(weight_decay=10 * d) for d in DECAYS])
l2 = np.array([mean_of(rule=optkern.Adam, weight_decay=d) for d in DECAYS])
print("decay   norm, distance, held out: decoupled (times 10), L2")
for d, *both in zip(DECAYS, decoupled, l2):
    print(f"{d:6}", *(f"{r[0]:9.1f}{r[1]:8.1f}{r[3]:9.1%}" for r in both))
lesson.claim(
    "decay makes the weights smaller",
    f"from {l2[0, 0]:.1f} to {l2[3, 0]:.1f} with L2 of {DECAYS[3]}, to {decoupled[3, 0]:.1f} with "
    f"decoupled {10 * DECAYS[3]}",
    bool((np.diff(l2[:, 0]) < 0).all() and (np.diff(decoupled[:, 0]) < 0.05).all()),
)
near = 0.9 * l2[0, 1]
lesson.claim(
    "decay holds the weights near their start",
    f"their distance from it: {decoupled[0, 1]:.1f} without, {decoupled[4, 1]:.1f} with decoupled "
    f"{10 * DECAYS[4]}, {l2[4, 1]:.1f} with L2 of {DECAYS[4]}",
    lesson.held(decoupled[4, 1] < near, l2[4, 1] < near, "partly: L2 does, decoupled hardly"),
)

# %%
# Which weights shrink: those of pixels that are always white have no gradient, and decay is all
# there is. Adam divides L2's pull by the root of its own square: these go fastest.

dead, start, left = np.ptp(X, axis=0) == 0, lesson.MLP(64, 64, 10).params[0], {}
for rule, decay in ((optkern.AdamW, 0.02), (optkern.Adam, 2e-3)):
    W = train(rule=rule, weight_decay=decay)[5][: 64 * 64].reshape(64, 64)
    left[rule] = np.abs(W[dead]).mean() / np.abs(start[dead]).mean()
lesson.claim(
    "L2 under Adam shrinks weights without a gradient most; decoupled decay treats all alike",
    f"of the weights of {dead.sum()} pixels that are always white {left[optkern.AdamW]:.0%} are "
    f"left with decoupled decay .02, {left[optkern.Adam]:.0%} with L2 of .002",
    bool(left[optkern.Adam] < 0.5 * left[optkern.AdamW]),
)

# %%
# The gap between training and test, and what else narrows it; the decay is chosen by other images

found = [(row[3], optkern.AdamW, 10 * d) for d, row in zip(DECAYS, decoupled)][1:]
found += [(row[3], optkern.Adam, d) for d, row in zip(DECAYS, l2)][1:]
_, rule, decay = max(found, key=lambda run: run[0])
RUNS = {
    "nothing": {},
    "decay": {"rule": rule, "weight_decay": decay},
    "dropout": {"dropout": 0.5},
    "noise": {"change": lambda images, rng: images + 0.2 * rng.standard_normal(images.shape)},
    "upside down": {"change": upside_down},
}
scores = {name: mean_of(**{"weight_decay": 0.0} | run)[[2, 4]] for name, run in RUNS.items()}
print("accuracy in training, in test, and the gap")
for name, (training, right) in scores.items():
    print(f"{name:12}{training:7.1%}{right:7.1%}{training - right:7.1%}")
test = {name: right[1] for name, right in scores.items()}
lesson.claim(
    "decay is what helps most against few labels",
    f"test accuracy {test['nothing']:.1%} as it is, {test['dropout']:.1%} with dropout, "
    f"{test['noise']:.1%} with noise, {test['decay']:.1%} with decay {decay:g} in {rule.__name__}",
    bool(test["decay"] > max(test["dropout"], test["noise"])),
)
lesson.claim(
    "augmentation that the world does not make harms",
    f"half of the images upside down: {test['upside down']:.1%} for {test['nothing']:.1%}",
    bool(test["upside down"] < test["nothing"]),
)
figure, axes = plt.subplots(1, 3, figsize=(13, 4))
for ax, column, title in zip(axes, (0, 1), ("norm of the weights", "distance from the start")):
    for k, (name, rows) in enumerate((("decoupled, times 10", decoupled), ("L2", l2))):
        ax.plot(range(7), rows[:, column], label=name, **lesson.style(k))
    ax.set(title=title, xlabel="decay", xticks=range(7), xticklabels=DECAYS)
axes[0].legend()
for k, part in enumerate(("training", "test")):
    right = [both[k] for both in scores.values()]
    axes[2].barh(np.arange(5) - 0.4 * k, right, 0.4, color=lesson.COLOURS[5 * k], label=part)
axes[2].set(title="accuracy, 100 labels", xlim=(0.6, 1.25), yticks=range(5), yticklabels=RUNS)
axes[2].legend(loc="right")
lesson.show(figure, "plot_10_weight_decay.py")
