"""
12b. Whose mean and deviation: at test time, and in small batches
=================================================================

Batch normalisation takes means and deviations of a batch. At test time there may be none, and
running averages stand in; in training a batch of two says little. Layer and group normalisation
take them of one sample.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

UNITS = np.geomspace(0.1, 10, 64)  # features of unlike units
TRAINING, HELD, TEST = ((X * UNITS, y) for X, y in lesson.digits_in_three(600))
MODES = ("none", "batch", "layer", "group")

# %%
# Rates are chosen by images that are in neither training nor test.
best = {
    batch: {mode: lesson.tuned(mode, TRAINING, HELD, batch, rates) for mode in MODES}
    for batch, rates in ((32, (0.03, 0.1, 0.3, 1.0)), (2, (0.003, 0.01, 0.03, 0.1)))
}
test = {
    batch: {mode: net.accuracy(*TEST, training=False) for mode, (_, net) in some.items()}
    for batch, some in best.items()
}
for batch, some in test.items():
    print(
        f"batch {batch:2}:", *(f"{m} {v:.1%} (rate {best[batch][m][0]:g})" for m, v in some.items())
    )

# %%
# At test time: how many images come at once
net, (X, y) = best[32]["batch"][1], TEST
sizes = (2, 4, 8, 16, 32, 64, 128, 390)
own = []
for size in sizes:
    starts = range(0, len(y) - size + 1, size)
    own.append(np.mean([net.accuracy(X[k : k + size], y[k : k + size]) for k in starts]))
running = test[32]["batch"]
enough = [size for size, right in zip(sizes, own) if right > running - 0.02]
lesson.claim(
    "at test time the running averages are needed",
    "right by their own statistics: "
    + ", ".join(f"{size} at once {right:.1%}" for size, right in zip(sizes, own))
    + f"; by the averages {running:.1%}",
    f"yes for few images at once; from {enough[0]} on they do as well by their own"
    if own[0] < running - 0.1 and enough
    else not enough,
)

# %%
# And trained with batches of two
lesson.claim(
    "layer and group normalisation do with batches of two what batch normalisation cannot",
    ", ".join(f"{mode} {value:.1%}" for mode, value in test[2].items()),
    min(test[2]["layer"], test[2]["group"]) > test[2]["batch"] + 0.02,
)
figure, axes = plt.subplots(1, 2, figsize=(10, 4))
axes[0].semilogx(sizes, own, marker="o", label="their own statistics", **lesson.style(0))
axes[0].axhline(running, label="running averages", **lesson.style(1))
axes[0].set(title="batch normalisation, test accuracy", xlabel="images at once")
for k, (batch, some) in enumerate(test.items()):
    look = {"color": lesson.COLOURS[5 * k], "hatch": "///" * k, "label": f"batches of {batch}"}
    axes[1].bar(np.arange(4) + 0.4 * k - 0.2, some.values(), 0.4, **look)
axes[1].set(title="test accuracy by training", xticks=range(4), xticklabels=MODES, ylim=(0, 1.25))
for ax in axes:
    ax.legend()
lesson.show(figure, "plot_12b_statistics.py")
