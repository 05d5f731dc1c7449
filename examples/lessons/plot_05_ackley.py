"""
5. Which rules leave which basins
=================================

Ackley's function has a hundred local minima around one global one. From 200 starts each rule is
run at 21 learning rates: how many runs end in another basin than the start's, how many in a better
one, and how many in the global one?
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


def ends(rule, options, lr, steps=STEPS, p=starts):
    p = p.copy()
    opt = rule([p], lr=optkern.schedules.Cosine(lr, T_max=steps), **options)
    for _ in range(steps):
        opt.step([grad(p)])
    return p


def minimum(p):
    """Return whole numbers that name the minimum in whose basin p is: small steps lead to it."""
    return np.round(ends(optkern.SGD, {}, 0.01, 400, p))


def counted(p):
    """Return the shares that end in another basin than the start's, in a better, in the global."""
    home = minimum(starts)
    better = ackley(*p.T) < ackley(*home.T) - 1e-9
    return (p != home).any(1).mean(), better.mean(), (p == 0).all(1).mean()


shares = {}
for name, (rule, options) in RULES.items():
    p = minimum(np.concatenate([ends(rule, options, lr) for lr in RATES]))
    shares[name] = np.array([counted(q) for q in p.reshape(len(RATES), STARTS, 2)])
at_home = counted(minimum(starts))[2]
best = {name: int(v[:, 1].argmax()) for name, v in shares.items()}  # most in a better basin
stays = RATES[shares["SGD"][:, 0] == 0].max()  # the largest rate at which descent leaves none
below = {name: v[stays >= RATES].max(0) for name, v in shares.items()}
print(f"""in the global basin at the start: {at_home:.0%}
                    at the rate of most better   most at rates up to {stays:.2g}
                    rate  left better global     left better global""")
for name, k in best.items():
    columns = ["".join(f"{v:7.0%}" for v in part) for part in (shares[name][k], below[name])]
    print(f"{name:18}{RATES[k]:6.2g}{'   '.join(columns)}")
stuck = [name for name, v in below.items() if v[0] < 0.05][1:]
left, _, found = shares["SGD"][best["SGD"]]
lesson.claim(
    "a rule with momentum or an adaptive rate leaves local minima in which descent stays",
    f"at rates up to {stays:.2g} descent leaves none of 200 basins, momentum .9 up to "
    f"{below['SGD, momentum .9'][0]:.0%}, momentum .99 {below['SGD, momentum .99'][0]:.0%}, Adam "
    f"{below['Adam'][0]:.0%}; at {RATES[best['SGD']]:.2g} descent leaves {left:.0%}, and ends in "
    f"the global basin in {found:.0%} of its runs",
    f"partly: so far all but {' and '.join(stuck)} do; at a larger rate descent leaves, too"
    if stuck and left > 0.5
    else not stuck,
)
small = {name: v[RATES < 2e-3, 2].max() for name, v in shares.items()}
lesson.claim(
    "with small steps no rule finds the global basin from another",
    "most there with a rate below 2e-3: "
    + ", ".join(f"{name} {share:.0%}" for name, share in small.items()),
    max(small.values()) < at_home + 0.05
    or "NO: " + ", ".join(n for n, share in small.items() if share >= at_home + 0.05) + " does",
)

figure, axes = plt.subplots(1, 3, figsize=(14, 4.6))
grid = np.linspace(-4.2, 4.2, 160)
lesson.surface(axes[0], ackley, grid, grid, levels=20)
for k, name in enumerate(("SGD", "SGD, momentum .9", "Adam")):
    rule, options = RULES[name]
    p = np.array([[-3.1, 2.1]])
    opt = rule([p], lr=optkern.schedules.Cosine(RATES[best[name]], T_max=STEPS), **options)
    points = np.array([p[0].copy() for _ in range(STEPS) if opt.step([grad(p)])])
    axes[0].plot(*points.T, marker=".", ms=2, label=name, **{**lesson.style(k), "lw": 0.8})
axes[0].set(title="one start, best rates", xlim=(-4.2, 4.2), ylim=(-4.2, 4.2))
axes[0].legend(fontsize=8)
for column, what in enumerate(("another", "a better")):
    for k, (name, values) in enumerate(shares.items()):
        axes[1 + column].semilogx(RATES, values[:, column], label=name, **lesson.style(k))
    axes[1 + column].set(title=f"share that ends in {what} basin", xlabel="learning rate")
axes[1].legend(fontsize=8)
lesson.show(figure, "plot_05_ackley.py")
