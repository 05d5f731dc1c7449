"""
7. Adaptive rates
=================

Each coordinate its own rate, from the gradients it has seen: what that gains on a valley, how
AdaGrad's rate shrinks, and how RMSProp's memory meets a cliff.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

# %%
# One valley, five rules, each at the best of those rates at which the loss is never above that of
# the start: wilder ones hit the bottom by luck, too
# -------------------------------------------------------------------------------------------------

H = np.array([1.0, 100.0])


def descend(rule, lr, steps=500, **options):
    p = np.array([-2.0, 0.7])
    opt = rule([p], lr=lr, **options)
    return np.array([[-2.0, 0.7]] + [p.copy() for _ in range(steps) if opt.step([H * p])])


rules = {
    "gradient descent": (optkern.SGD, {}),
    "momentum": (optkern.SGD, {"momentum": 0.8}),
    "AdaGrad": (optkern.Adagrad, {}),
    "RMSProp": (optkern.RMSprop, {"alpha": 0.9}),
    "Adam": (optkern.Adam, {}),
}
steps, ways, lengths = {}, {}, {}
for name, (rule, options) in rules.items():
    with np.errstate(over="ignore", invalid="ignore"):
        paths = [descend(rule, lr, **options) for lr in np.geomspace(1e-3, 3, 30)]
        losses = np.array([np.nan_to_num(path**2 @ H / 2, nan=np.inf) for path in paths])
    wild = (losses.min(1) >= 1e-3) | (losses > losses[:, :1]).any(1)
    done = (losses < 1e-3).argmax(1) + 1e9 * wild
    steps[name] = int(done.min())
    ways[name] = way = paths[int(done.argmin())][: steps[name] + 1]
    lengths[name] = np.hypot(*np.diff(way, axis=0).T).sum() / np.hypot(*(way[-1] - way[0]))
lesson.claim(
    "adaptive rules go straight where a valley makes gradient descent zig-zag",
    "steps to a loss of 1e-3, and the length of the way by the distance: "
    + ", ".join(f"{name} {n}, {lengths[name]:.2f}" for name, n in steps.items()),
    all(
        found[name] < 0.8 * found["gradient descent"]
        for name in ("AdaGrad", "RMSProp", "Adam")
        for found in (steps, lengths)
    ),
)

# %%
# AdaGrad's rate falls as 1 / sqrt(t); RMSProp's memory at a cliff
# ----------------------------------------------------------------


def moves(rule, gradients, **options):
    p = np.zeros(1)
    opt = rule([p], lr=0.01, **options)
    points = [p.copy() for g in gradients if opt.step([np.array([g])])]
    return np.abs(np.diff(np.array(points)[:, 0], prepend=0))


ones = np.ones(1000)
shrunk = moves(optkern.Adagrad, ones)
lesson.claim(
    "AdaGrad's rate shrinks on and on",
    f"under a constant gradient the 1000th step is 1/{shrunk[0] / shrunk[-1]:.1f} of the first "
    f"(sqrt(1000) = {np.sqrt(1000):.1f}), RMSProp's {moves(optkern.RMSprop, ones)[-1]:.3f} = lr",
    bool(abs(shrunk[0] / shrunk[-1] - np.sqrt(1000)) < 0.5),
)
cliff = np.where(np.arange(1500) == 300, 100.0, 1.0)
after, taken = {}, {}
for alpha in (0.9, 0.99, 0.999):
    taken[f"RMSProp, alpha {alpha}"] = far = moves(optkern.RMSprop, cliff, alpha=alpha)
    after[alpha] = far[300], int((far[301:] < 0.005).sum())
taken["AdaGrad"] = moves(optkern.Adagrad, cliff)
lesson.claim(
    "a longer memory (alpha) makes RMSProp step farther off a cliff and rest longer behind it",
    "step on the cliff, and steps below half the rate after it: "
    + ", ".join(f"alpha {a}: {step:.3f}, {rest}" for a, (step, rest) in after.items()),
    after[0.9][0] < after[0.999][0] and after[0.9][1] < after[0.999][1],
)

figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
grid = np.linspace(-2.2, 2.2, 80)
lesson.surface(axes[0], lambda x, y: (x**2 + 100 * y**2) / 2, grid, grid / 2)
for k, (name, way) in enumerate(ways.items()):
    axes[0].plot(*way.T, label=name, **lesson.style(k))
axes[0].set(title="a valley", xlim=(-2.2, 2.2), ylim=(-1.1, 1.1))
for k, (name, far) in enumerate(taken.items()):
    axes[1].semilogy(far, label=name, **lesson.style(k))
axes[1].set(title="steps; the gradient is 1, and once 100", xlabel="step")
for ax in axes:
    ax.legend(fontsize=7)
lesson.show(figure, "plot_07_adaptive_rates.py")
