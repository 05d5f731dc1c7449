"""
13. Schedules, and L-BFGS for full batches
==========================================

A rate that falls lets the noise of mini-batches die away; a warm-up is to spare the first steps.
L-BFGS learns the curvature from differences of full gradients, and from noise learns nonsense.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern.schedules import Cosine, Step, warmup

X, y, X_test, y_test = lesson.digits(800)
STEPS = 2000
# One label in ten is wrong: noise that no rate can learn away.
labels = np.where(np.random.default_rng(1).random(800) < 0.1, (y + 3) % 10, y)


def losses_of(lr, seed=0, batch=8):
    net, rng = lesson.MLP(64, 32, 10, seed=seed), np.random.default_rng(seed)
    opt, losses = optkern.SGD(net.params, lr=lr, momentum=0.9), []
    for k in range(STEPS):
        rows = rng.permutation(len(y))[:batch]
        opt.step(net.loss_and_grads(net.params, X[rows], labels[rows])[1])
        if k % 25 == 24:
            losses.append(net.loss(net.params, X, labels))
    return losses


# %%
# Schedules side by side, over three seeds, from a rate that is good and from one that is too large

RATES = 0.03, 0.1
SCHEDULES = {
    "constant": lambda lr: lr,
    "by steps": lambda lr: Step(lr, STEPS // 3, 0.2),
    "cosine": lambda lr: Cosine(lr, STEPS),
    "warm-up, cosine": lambda lr: warmup(STEPS // 10, then=Cosine(lr, STEPS - STEPS // 10)),
}
curves = {
    (name, lr): np.mean([losses_of(made(lr), seed) for seed in range(3)], axis=0)
    for name, made in SCHEDULES.items()
    for lr in RATES
}
end = {key: np.mean(curve[-8:]) for key, curve in curves.items()}
for name in SCHEDULES:
    print(
        f"{name:16} training loss at a rate of .03 {end[name, 0.03]:.3f}, .1 {end[name, 0.1]:.3f}"
    )
falls = {lr: max(end[n, lr] for n in ("cosine", "by steps")) < end["constant", lr] for lr in RATES}
lesson.claim(
    "a falling rate ends lower than a constant one",
    f"training loss at a rate of .03: constant {end['constant', 0.03]:.3f}, cosine "
    f"{end['cosine', 0.03]:.3f}, by steps {end['by steps', 0.03]:.3f}; of .1: "
    f"{end['constant', 0.1]:.3f}, {end['cosine', 0.1]:.3f}, {end['by steps', 0.1]:.3f}",
    lesson.held(
        all(falls.values()),
        falls[0.1],
        "partly: where the rate is large for the noise; a good one may fall too soon",
    ),
)
gain = 1 - end["warm-up, cosine", 0.1] / end["cosine", 0.1]
lesson.claim(
    "a warm-up helps where the rate is large",
    f"cosine with and without: {end['warm-up, cosine', 0.1]:.3f} and {end['cosine', 0.1]:.3f} at "
    f".1, {end['warm-up, cosine', 0.03]:.3f} and {end['cosine', 0.03]:.3f} at .03",
    lesson.held(gain > 0.05, gain > -0.05, "hardly, in a net this small"),
)

# %%
# L-BFGS, with all images and with batches of 64, beside Adam; 80,000 gradients of images for each

net = lesson.MLP(64, 32, 10)
ends = {}
for name, batch, calls, inner in (("full", 800, 5, 20), ("batches", 64, 1250, 1)):
    params, rng = [p.copy() for p in net.params], np.random.default_rng(0)
    opt = optkern.LBFGS(params, lr=1.0, max_iter=inner)
    for _ in range(calls):
        rows = rng.permutation(len(y))[:batch]
        opt.step(lambda p=params, r=rows: net.loss_and_grads(p, X[r], y[r]))
    ends[name] = net.loss(params, X, y)
params, rng = [p.copy() for p in net.params], np.random.default_rng(0)
opt = optkern.Adam(params, lr=3e-3)
for _ in range(1250):
    rows = rng.permutation(len(y))[:64]
    opt.step(net.loss_and_grads(params, X[rows], y[rows])[1])
ends["Adam"] = net.loss(params, X, y)
lesson.claim(
    "L-BFGS is for full batches",
    f"training loss: {ends['full']:.1e} with all at once, {ends['batches']:.1e} with batches of "
    f"64; Adam with these {ends['Adam']:.1e}",
    not ends["batches"] < 10 * max(ends["full"], ends["Adam"]),
)
figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
for ax, lr in zip(axes, RATES):
    for k, name in enumerate(SCHEDULES):
        ax.semilogy(np.arange(25, STEPS + 1, 25), curves[name, lr], label=name, **lesson.style(k))
    ax.set(title=f"training loss, rate {lr}", xlabel="update")
    ax.legend()
lesson.show(figure, "plot_13_schedules_and_lbfgs.py")
