"""
5. Which rules leave which basins
=================================

Ackley's function has a hundred local minima around one global one. From 200 starts each rule is
run at the best of several learning rates of its own, so that none is flattered by the rate.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

STARTS, STEPS = 200, 600
starts = np.random.default_rng(0).uniform(-4, 4, (STARTS, 2))


def ackley(x, y):
    root = np.sqrt((x**2 + y**2) / 2)
    waves = (np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y)) / 2
    return -20 * np.exp(-0.2 * root) - np.exp(waves) + np.e + 20


def grad(p):
    root = np.maximum(np.sqrt((p**2).mean(1, keepdims=True)), 1e-300)
    waves = np.cos(2 * np.pi * p).mean(1, keepdims=True)
    return 2 * np.exp(-0.2 * root) * p / root + np.pi * np.exp(waves) * np.sin(2 * np.pi * p)


# %%
# The rules work element by element, so that all starts are one array. The rate falls to zero along
# a cosine: what is counted is the basin, not how well a rule comes to rest.

RULES = {
    "SGD": (optkern.SGD, {}),
    "SGD, momentum .9": (optkern.SGD, {"momentum": 0.9}),
    "SGD, momentum .99": (optkern.SGD, {"momentum": 0.99}),
    "Adagrad": (optkern.Adagrad, {}),
    "RMSprop": (optkern.RMSprop, {}),
    "Adam": (optkern.Adam, {}),
    "Lion": (optkern.Lion, {}),
}
RATES = np.geomspace(1e-4, 10, 21)


def ends(rule, options, lr, steps=STEPS):
    p = starts.copy()
    opt = rule([p], lr=optkern.schedules.Cosine(lr, T_max=steps), **options)
    for _ in range(steps):
        opt.step([grad(p)])
    return p


def found(p):
    return float((np.abs(p).max(1) < 0.5).mean())  # in the basin of the global minimum


shares = {
    name: np.array([found(ends(rule, options, lr)) for lr in RATES])
    for name, (rule, options) in RULES.items()
}
small = {name: values[RATES < 2e-3].max() for name, values in shares.items()}
best = {name: (values.max(), RATES[values.argmax()]) for name, values in shares.items()}
at_home = found(starts)
lesson.claim(
    "a rule with momentum or an adaptive rate leaves local minima in which descent stays",
    f"in the global basin at the start: {at_home:.0%}; at the end, best rate: "
    + ", ".join(f"{name} {share:.0%} (lr {lr:.2g})" for name, (share, lr) in best.items()),
    "NO: the length of the first steps counts, which every rule owes to its rate; plain descent "
    f"at its best reaches {best['SGD'][0]:.0%}"
    if best["SGD"][0] > 2 * at_home
    else best["Adam"][0] > 2 * best["SGD"][0],
)
lesson.claim(
    "with small steps no rule finds the global basin from another",
    "best share with a rate below 2e-3: "
    + ", ".join(f"{name} {share:.0%}" for name, share in small.items()),
    max(small.values()) < at_home + 0.05
    or "NO: " + ", ".join(name for name, share in small.items() if share >= at_home + 0.05) + " do",
)

figure, axes = plt.subplots(1, 2, figsize=(12, 4.6))
grid = np.linspace(-4.2, 4.2, 160)
lesson.surface(axes[0], ackley, grid, grid, levels=20)
for k, name in enumerate(("SGD", "SGD, momentum .9", "Adam")):
    rule, options = RULES[name]
    p = np.array([[-3.1, 2.1]])
    opt = rule([p], lr=optkern.schedules.Cosine(best[name][1], T_max=STEPS), **options)
    points = np.array([p[0].copy() for _ in range(STEPS) if opt.step([grad(p)])])
    axes[0].plot(*points.T, marker=".", ms=2, label=name, **{**lesson.style(k), "lw": 0.8})
axes[0].set(title="one start, best rates", xlim=(-4.2, 4.2), ylim=(-4.2, 4.2))
axes[0].legend(fontsize=8)
for k, (name, values) in enumerate(shares.items()):
    axes[1].semilogx(RATES, values, label=name, **lesson.style(k))
axes[1].axhline(at_home, color="grey", lw=0.8)
axes[1].set(title="share of 200 starts in the global basin", xlabel="learning rate", ylim=(0, 1.02))
axes[1].legend(fontsize=8)
lesson.show(figure, "plot_05_ackley.py")
