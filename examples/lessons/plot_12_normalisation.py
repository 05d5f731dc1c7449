"""
12. Normalised features, batches, layers, groups
================================================

A gradient step is as long as the sharpest direction allows and as useful as the flattest one needs:
the condition number of the Hessian is what counts, and normalising changes it. Features first, then
the activations of hidden layers; which statistics hold at test time; and layer and group
normalisation, which need no batch.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern.curvature import hvp_from_grad, lanczos

X, y, X_test, y_test = lesson.digits(600)
UNITS = np.geomspace(0.1, 10, 64)  # as of features that were measured in other units
# Not normalised; over the batch; over the layer; over four groups of a layer.
MODES = ("none", "batch", "layer", "group")


def train(mode, scale, batch, lr, updates=400, losses=None):
    net, rng = lesson.NormalisedMLP(mode), np.random.default_rng(0)
    opt = optkern.SGD(net.params, lr=lr)
    for k in range(updates):
        if losses is not None and k % 10 == 0:
            losses.append(net.loss(X * scale, y))
        rows = rng.permutation(len(y))[:batch]
        opt.step(net.gradients(net.params, X[rows] * scale, y[rows], learn=True))
    return net


# %%
# Features of unlike units, and the Hessian of a linear model
grams = {"as they are": (X * UNITS).T @ (X * UNITS), "normalised": X.T @ X}
edges = {name: np.linalg.eigvalsh(G / len(X) + 1e-6 * np.eye(64)) for name, G in grams.items()}
cond = {name: e[-1] / np.median(e) for name, e in edges.items()}
lesson.claim(
    "features of one scale make the Hessian better conditioned",
    f"largest eigenvalue over the median: {cond['as they are']:.0f} and {cond['normalised']:.0f}",
    cond["normalised"] < 0.3 * cond["as they are"],
)

# %%
# Hidden layers: the sharpest direction at the start, and the best of six rates (by the test)
sharp, best = {}, {}
for mode in MODES:
    net = lesson.NormalisedMLP(mode)
    hvp = hvp_from_grad(lambda w, n=net: n.gradients(w, X * UNITS, y), net.params)
    sharp[mode] = lanczos(hvp, which="largest", certify=False).eigenvalue_max
    rates = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    nets = [train(mode, UNITS, 32, lr) for lr in rates]
    test = [n.accuracy(X_test * UNITS, y_test, training=False) for n in nets]
    best[mode] = rates[int(np.argmax(test))], max(test), nets[int(np.argmax(test))]
    print(f"{mode:6} lambda_max {sharp[mode]:7.2f}  best rate {best[mode][0]:5g}  {max(test):6.1%}")
lesson.claim(
    "normalised layers bear a larger rate and learn more with unlike features",
    f"lambda_max {sharp['none']:.1f} without, {sharp['batch']:.2f} by batches; the best rate "
    f"{best['none'][0]:g} and {best['batch'][0]:g}, test {best['none'][1]:.1%} and "
    f"{best['batch'][1]:.1%}",
    best["batch"][0] > best["none"][0] and best["batch"][1] > best["none"][1],
)

# %%
# Convergence: the training loss, each at that rate
curves = {mode: [] for mode in MODES}
for mode, losses in curves.items():
    train(mode, UNITS, 32, best[mode][0], losses=losses)
until = {mode: 10 * int(np.argmax(np.array(v) < 0.4)) for mode, v in curves.items()}
lesson.claim(
    "normalised layers converge faster",
    "updates until the training loss is below 0.4: "
    + ", ".join(f"{mode} {n}" for mode, n in until.items()),
    max(until[mode] for mode in MODES[1:]) < 0.8 * until["none"]
    or "partly: most by batches, and not by all",
)

# %%
# At test time, and with batches of two
net = best["batch"][2]
alone = np.mean(
    [net.accuracy(X_test[k : k + 2] * UNITS, y_test[k : k + 2]) for k in range(0, 400, 2)]
)
running = net.accuracy(X_test * UNITS, y_test, training=False)
lesson.claim(
    "at test time the running averages are needed",
    f"pairs of images by their own statistics {alone:.1%}, by the averages {running:.1%}",
    bool(running > alone + 0.1),
)
pairs = {
    m: max(
        train(m, UNITS, 2, lr).accuracy(X_test * UNITS, y_test, training=False)
        for lr in (0.01, 0.1)
    )
    for m in MODES
}
lesson.claim(
    "layer and group normalisation do with batches of two what batch normalisation cannot",
    ", ".join(f"{mode} {value:.1%}" for mode, value in pairs.items()),
    min(pairs["layer"], pairs["group"]) > pairs["batch"] + 0.02,
)
figure, axes = plt.subplots(1, 3, figsize=(13, 4))
for k, (name, e) in enumerate(edges.items()):
    axes[0].semilogy(e[::-1], label=name, **lesson.style(k))
axes[0].set(title="eigenvalues of the linear model's Hessian", xlabel="rank")
axes[0].legend()
for k, (mode, losses) in enumerate(curves.items()):
    axes[1].semilogy(np.arange(0, 400, 10), losses, label=mode, **lesson.style(k))
axes[1].set(title="training loss, each at its best rate", xlabel="update")
axes[1].legend()
bars = {"batches of 32": [best[m][1] for m in MODES], "of two": [*pairs.values()]}
for k, (what, right) in enumerate(bars.items()):
    look = {"color": lesson.COLOURS[5 * k], "hatch": "/" * k, "label": what}
    axes[2].bar(np.arange(4) + 0.4 * k - 0.2, right, 0.4, **look)
axes[2].set(title="test accuracy", xticks=range(4), xticklabels=MODES, ylim=(0, 1.3))
axes[2].legend()
lesson.show(figure, "plot_12_normalisation.py")
