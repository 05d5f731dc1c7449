"""
9. Flat and sharp minima
========================

Small batches are said to end in flat minima, large ones in sharp ones, and flat ones to be right
more often on new data. Where both end is measured: the sharpness (the largest eigenvalue of the
Hessian), the density of the whole spectrum, and the accuracy on images that were not trained on.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern.curvature import hvp_from_grad, sharpness, spectral_density

X, y, X_test, y_test = lesson.digits(600)
SMALL, FULL = 16, 600


def train(batch, lr, seed=0, target=0.02, most=6000):
    """Train to a loss on all images, so that both are equally good in training."""
    net, rng = lesson.MLP(64, 24, 10, seed=seed), np.random.default_rng(seed)
    opt = optkern.SGD(net.params, lr=lr)
    for update in range(most):
        rows = rng.permutation(len(y))[:batch] if batch < len(y) else slice(None)
        opt.step(net.loss_and_grads(net.params, X[rows], y[rows])[1])
        if update % 50 == 49 and net.loss(net.params, X, y) < target:
            break
    return net


def hessian(net):
    return hvp_from_grad(lambda params: net.loss_and_grads(params, X, y)[1], net.params)


def judged(net):
    """Return sharpness, share of the spectrum above a tenth of it, mean eigenvalue, test, loss."""
    sharp = sharpness(hessian(net), certify=False).eigenvalue_max
    density = spectral_density(hessian(net), steps=40, vectors=4)
    share, mean = density.mean(lambda e: 1.0 * (e > 0.1 * sharp))[0], density.mean(lambda e: e)[0]
    right = net.accuracy(net.params, X_test, y_test)
    return sharp, share, mean, right, net.loss(net.params, X, y)


# %%
# The same training loss, by small batches and by all images at once
# -------------------------------------------------------------------
# Three pairs: the same rate, a small rate for both, and the full batch with a rate as large as it
# bears; three seeds each.

RUNS = {
    "batch 16, rate 0.3": (SMALL, 0.3),
    "full batch, rate 0.3": (FULL, 0.3),
    "batch 16, rate 0.05": (SMALL, 0.05),
    "full batch, rate 1": (FULL, 1.0),
}
nets = {name: [train(*run, seed=s) for s in range(3)] for name, run in RUNS.items()}
found = {name: np.array([judged(net) for net in some]) for name, some in nets.items()}
print("run                    sharpness  above 10 % of it  mean eigenvalue   test  loss")
for name, (sharp, share, mean, right, loss) in ((n, rows.mean(0)) for n, rows in found.items()):
    print(f"{name:22}{sharp:10.2f}{share:18.2%}{mean:17.4f}{right:7.1%}{loss:6.3f}")
small, full = (found[name] for name in list(RUNS)[:2])
sharper = full[:, 0].mean() / small[:, 0].mean()
lesson.claim(
    "large batches end in sharper minima than small ones",
    f"at a training loss of .02 the full batch ends where the curvature is {sharper:.2f} times "
    f"that of batch 16 (seeds: {', '.join(map('{:.2f}'.format, full[:, 0] / small[:, 0]))})",
    lesson.held((full[:, 0] > 1.1 * small[:, 0]).all(), sharper > 0.9, "not shown: alike here"),
)
lesson.claim(
    "the whole spectrum is sharper there, not its edge alone",
    f"mean eigenvalue {full[:, 2].mean():.4f} and {small[:, 2].mean():.4f} (full batch, batch 16); "
    f"above a tenth of their own largest lie {full[:, 1].mean():.1%} and {small[:, 1].mean():.1%}",
    bool((full[:, 2] > 1.1 * small[:, 2]).all()),
)
low, high = found["batch 16, rate 0.05"], found["full batch, rate 1"]
flatter = low[:, 0].mean() > small[:, 0].mean(), high[:, 0].mean() < full[:, 0].mean()
lesson.claim(
    "the rate matters too: larger steps end where it is flatter",
    f"batch 16 with a sixth of the rate: sharpness {low[:, 0].mean():.1f} for "
    f"{small[:, 0].mean():.1f}; the full batch with three times the rate: "
    f"{high[:, 0].mean():.1f} for {full[:, 0].mean():.1f}",
    lesson.held(all(flatter), any(flatter), "partly: at one of both batches"),
)
gain, scatter = small[:, 3].mean() - full[:, 3].mean(), small[:, 3].std() + full[:, 3].std()
lesson.claim(
    "flatter minima are right more often on new images",
    f"test accuracy of batch 16 {small[:, 3].mean():.1%} +- {small[:, 3].std():.1%}, of the full "
    f"batch {full[:, 3].mean():.1%} +- {full[:, 3].std():.1%}",
    lesson.held(gain > scatter, gain > -scatter, "not shown: the difference is within the scatter"),
)

# %%
# And sharpness is no property of what is classified how: three times the last layer is three times
# as sure of everything, and right as often.

net = nets["batch 16, rate 0.3"][0]
scaled = lesson.MLP(64, 24, 10)
scaled.params = [p * (3.0 if k >= 2 else 1.0) for k, p in enumerate(net.params)]
before, after = judged(net), judged(scaled)
lesson.claim(
    "sharpness alone tells how good a minimum is",
    f"the last layer times three: the same images right ({before[3]:.1%} and {after[3]:.1%} of the "
    f"test), sharpness {before[0]:.2f} and {after[0]:.2f}",
    bool(abs(before[0] - after[0]) < 0.1 * before[0]),
)

figure, axes = plt.subplots(1, 2, figsize=(11, 4))
for k, name in enumerate(list(RUNS)[:2]):
    density = spectral_density(hessian(nets[name][0]), steps=60, vectors=4)
    axes[0].semilogy(density.grid, np.maximum(density.density, 1e-3), label=name, **lesson.style(k))
axes[0].set(title="density of the Hessian's eigenvalues", xlabel="eigenvalue")
for k, (name, rows) in enumerate(found.items()):
    axes[1].plot(rows[:, 0], rows[:, 3], "osd^"[k], color=lesson.COLOURS[k], label=name)
axes[1].set(title="test accuracy against sharpness", xlabel="sharpness")
for ax in axes:
    ax.legend()
lesson.show(figure, "plot_09_flat_and_sharp.py")
