"""
7b. Adam late in a run, warm-up, and momentum that is tuned as well
===================================================================

Adam divides by the root of its second moments. Late in a run these are small, and a step is large:
the loss bursts. A rate that decays cures it. A warm-up is for the other end, where the moments have
seen little. And is an adaptive rule always better than momentum, once both rates are searched?
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern.schedules import Cosine, warmup

X, y, X_test, y_test = lesson.digits(1200)
SEEDS = range(5)


def train(rule, lr, epochs=15, batch=50, seed=0, scale=1.0, **options):
    """Return the losses of the steps, and the accuracies in training and test."""
    net = lesson.MLP(64, 32, 10, seed=seed, scale=scale)
    rng, losses = np.random.default_rng(seed), []
    opt = rule(net.params, lr=lr, **options)
    for _ in range(epochs):
        order = rng.permutation(len(y))
        for k in range(0, len(y), batch):
            rows = order[k : k + batch]
            loss, grads = net.loss_and_grads(net.params, X[rows], y[rows])
            opt.step(grads)
            losses.append(loss)
    return losses, net.accuracy(net.params, X, y), net.accuracy(net.params, X_test, y_test)


# %%
# The late burst: across a valley, whose bottom was reached long ago while it goes on along it
# --------------------------------------------------------------------------------------------

STEPS, H = 6000, np.array([0.01, 10.0])
bursts, far = {}, {}
for name, lr, betas in (
    ("constant rate", 0.05, (0.9, 0.99)),
    ("cosine to zero", Cosine(0.05, T_max=STEPS), (0.9, 0.99)),
    ("constant, beta2 .999", 0.05, (0.9, 0.999)),
):
    p = np.array([-50.0, 1.0])
    opt = optkern.Adam([p], lr=lr, betas=betas)
    across = np.array([abs(p[1]) for _ in range(STEPS) if opt.step([H * p])])
    bursts[name] = across[:1000].min(), across[1000:3000].max(), across[-500:].max()
    far[name] = across[::10] + 1e-25
lesson.claim(
    "Adam bursts late in a run, and a decaying rate cures it",
    "nearest to the bottom in 1000 steps, farthest in the next 2000, and in the last 500: "
    + ", ".join(f"{n} {x[0]:.0e}, {x[1]:.0e}, {x[2]:.0e}" for n, x in bursts.items()),
    lesson.held(
        max(bursts["cosine to zero"][1:]) < 1e-3 < bursts["constant rate"][1],
        10 * bursts["cosine to zero"][2] < 1e-3 < bursts["constant rate"][1],
        "partly: bursts come all the same, but become small with the rate",
    ),
)

# %%
# Warm-up: the largest rate that trains, with and without
# -------------------------------------------------------

RATES = np.geomspace(3e-3, 1, 9)
warm = {
    name: [np.mean([train(optkern.Adam, how(lr), 5, seed=s)[1] for s in SEEDS]) for lr in RATES]
    for name, how in (("none", float), ("60 steps", lambda lr: warmup(60, then=lr)))
}
gain = np.array(warm["60 steps"]) - np.array(warm["none"])
at_best = max(warm["60 steps"]) - max(warm["none"])
lesson.claim(
    "a warm-up lets larger rates train",
    f"training accuracy gained at rates from {RATES[0]:.0e} to 1: "
    + ", ".join(f"{g:+.1%}" for g in gain)
    + f"; best rate against best rate {at_best:+.1%}",
    lesson.held(at_best > 0.01, gain.max() > 0.05, "partly: only where the rate is too large"),
)

# %%
# Adaptive against tuned momentum: the same budget of eight rates for each rule, five seeds
# -----------------------------------------------------------------------------------------

rows = {}
for name, (rule, options, rates) in {
    "momentum": (optkern.SGD, {"momentum": 0.9}, np.geomspace(1e-3, 1, 8)),
    "RMSProp": (optkern.RMSprop, {}, np.geomspace(1e-4, 0.1, 8)),
    "Adam": (optkern.Adam, {}, np.geomspace(1e-4, 0.1, 8)),
}.items():
    runs = [[train(rule, lr, seed=s, **options) for s in SEEDS] for lr in rates]
    best = max(runs, key=lambda of_rate: np.mean([run[1] for run in of_rate]))
    rows[name] = np.array([run[1:] for run in best])
lesson.claim(
    "an adaptive rule is always better than momentum",
    "accuracy in training and test, mean and deviation over five seeds: "
    + ", ".join(
        f"{n} {a.mean(0)[0]:.1%}, {a.mean(0)[1]:.1%} +- {a.std(0)[1]:.1%}" for n, a in rows.items()
    ),
    bool(rows["Adam"].mean(0)[1] > rows["momentum"].mean(0)[1] + rows["momentum"].std(0)[1]),
)

figure, axes = plt.subplots(1, 3, figsize=(13, 4))
for k, (name, across) in enumerate(far.items()):
    axes[0].semilogy(across, label=name, **{**lesson.style(k), "lw": 1})
axes[0].set(title="Adam: distance from the valley's bottom", xlabel="step / 10")
for k, (name, accuracies) in enumerate(warm.items()):
    axes[1].semilogx(RATES, accuracies, label=f"warm-up: {name}", **lesson.style(k))
axes[1].set(title="Adam, five epochs", xlabel="learning rate", ylabel="training accuracy")
for k, (name, accuracies) in enumerate(rows.items()):
    for j, _ in enumerate(("training", "test")):
        axes[2].errorbar(j + k / 10, accuracies[:, j].mean(), accuracies[:, j].std(), fmt="o^s"[k],
                         color=lesson.COLOURS[k], label=name if j == 0 else None)  # fmt: skip
axes[2].set(title="accuracy, best of eight rates", xticks=(0.1, 1.1), xticklabels=("train", "test"))
for ax in axes:
    ax.legend()
lesson.show(figure, "plot_07b_adam_and_momentum.py")
