"""
12. Normalised features, batches, layers, groups
================================================

A gradient step is as long as the sharpest direction allows and as useful as the flattest one needs:
the condition number of the Hessian is what counts, and normalising changes it. Features first, then
the activations of hidden layers: by batches, by layers, by groups of a layer.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

(X, y), *others = lesson.digits_in_three(600)
UNITS = np.geomspace(0.1, 10, 64)  # as of features that were measured in other units
unlike, HELD, TEST = X * UNITS, *((images * UNITS, labels) for images, labels in others)
FEATURES = {"as they are": unlike, "normalised": X}
# Not normalised; over the batch; over the layer; over groups of a layer.
MODES = ("none", "batch", "layer", "group")


def condition(eigenvalues):
    """Return the largest eigenvalue over the median of all by magnitude."""
    return eigenvalues[-1] / np.median(np.abs(eigenvalues))


# %%
# Features of unlike units, and the Hessian of a linear model
grams = {name: X.T @ X / len(X) + 1e-6 * np.eye(64) for name, X in FEATURES.items()}
edges = {name: np.linalg.eigvalsh(gram) for name, gram in grams.items()}
cond = {name: condition(e) for name, e in edges.items()}
lesson.claim(
    "features of one scale make the Hessian better conditioned",
    f"largest eigenvalue over the median: {cond['as they are']:.0f} and {cond['normalised']:.0f}",
    cond["normalised"] < 0.3 * cond["as they are"],
)

# %%
# Hidden layers: the whole Hessian of two layers of 8 units, 656 weights, at the start and after 200
# updates at one rate for all

print("""normalised by, features    eigenvalues at the start        after 200 updates
                         largest, over the median  largest, over the median""")
found = {}
for name, X in FEATURES.items():
    for mode in MODES:
        net = lesson.NormalisedMLP(mode, width=8, groups=2)
        both = [net.spectrum(X[:300], y[:300])]
        both.append(net.train(X, y, 32, 0.1, updates=200).spectrum(X[:300], y[:300]))
        found[name, mode] = np.array([condition(e) for e in both])
        print(f"{mode:9}{name:15}" + "".join(f"{e[-1]:9.2f}{condition(e):17.0f}" for e in both))
ratio = {mode: [found[f, mode] / found[f, "none"] for f in FEATURES] for mode in MODES[1:]}
better = [mode for mode, values in ratio.items() if np.max(values) < 1]
lesson.claim(
    "normalised layers make the Hessian better conditioned",
    "the condition number by that without, at the start and later, features as they are, and "
    "normalised: " + "; ".join(f"{m} {np.ravel(v).round(2)}" for m, v in ratio.items()),
    lesson.held(better == list(ratio), better, f"partly: by {' and '.join(better)} alone"),
)

# %%
# What a net of 32 units learns of these features as they are: the best of six rates, chosen by
# images that are in neither training nor test
best = {}
for mode in MODES:
    rate, net = lesson.tuned(mode, (unlike, y), HELD, 32, (0.01, 0.03, 0.1, 0.3, 1.0, 3.0))
    best[mode] = rate, net.accuracy(*TEST, training=False)
    print(f"{mode:6} best rate {rate:5g}, test {best[mode][1]:.1%}")
lesson.claim(
    "normalised layers bear a larger rate and learn more with unlike features",
    f"the best rate {best['none'][0]:g} without, {best['batch'][0]:g} by batches; test "
    f"{best['none'][1]:.1%} and {best['batch'][1]:.1%}",
    best["batch"][0] > best["none"][0] and best["batch"][1] > best["none"][1],
)

# %%
# Convergence: the training loss, each at that rate
curves = {mode: [] for mode in MODES}
for mode, losses in curves.items():
    lesson.NormalisedMLP(mode).train(unlike, y, 32, best[mode][0], losses=losses)
until = {mode: 10 * int(np.argmax(np.array([*v, 0]) < 0.4)) for mode, v in curves.items()}
lesson.claim(
    "normalised layers converge faster",
    "updates until the training loss is below 0.4: "
    + ", ".join(f"{mode} {n}" for mode, n in until.items()),
    lesson.held(
        max(until[mode] for mode in MODES[1:]) < 0.8 * until["none"],
        until["batch"] == min(until.values()) < 0.8 * until["none"],
        "partly: most by batches, and not by all",
    ),
)

figure, axes = plt.subplots(1, 3, figsize=(14, 4))
for k, (name, e) in enumerate(edges.items()):
    axes[0].semilogy(e[::-1], label=name, **lesson.style(k))
axes[0].set(title="eigenvalues of the linear model's Hessian", xlabel="rank")
axes[0].legend()
for k, name in enumerate(FEATURES):
    for later in (0, 1):
        bars = [found[name, mode][later] for mode in MODES]
        look = {"color": lesson.COLOURS[(0, 5)[k]], "hatch": "///" * later, "edgecolor": "k"}
        label = f"features {name}, {('start', 'later')[later]}"
        axes[1].bar(np.arange(4) + 0.2 * (2 * k + later) - 0.3, bars, 0.2, label=label, **look)
axes[1].set(title="condition number of the network's Hessian", yscale="log", ylim=(50, 1e7))
axes[1].set(xticks=range(4), xticklabels=MODES)
axes[1].legend(fontsize=8)
for k, (mode, losses) in enumerate(curves.items()):
    axes[2].semilogy(np.arange(0, 400, 10), losses, label=mode, **lesson.style(k))
axes[2].set(title="training loss, each at its best rate", xlabel="update")
axes[2].legend()
lesson.show(figure, "plot_12_normalisation.py")
