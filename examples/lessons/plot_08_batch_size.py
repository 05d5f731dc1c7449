"""
8. How large a batch
====================

A batch of one is many cheap, noisy updates an epoch, the full batch one dear and exact one. What
that costs in time, where it ends, and what shuffling does.
"""

import time

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

X, y, X_test, y_test = lesson.digits(1200)
BATCHES = (1, 4, 16, 64, 256, 1200)
RATES = {1: 0.003, 4: 0.01, 16: 0.03, 64: 0.1, 256: 0.3, 1200: 0.5}


def train(batch, epochs=10, seed=0, shuffle=True, X=X, y=y):
    """Return seconds per update, and the accuracies in training and test."""
    net = lesson.MLP(64, 32, 10, seed=seed)
    opt = optkern.SGD(net.params, lr=RATES[batch], momentum=0.9)
    rng, order, began = np.random.default_rng(seed), np.arange(len(y)), time.time()
    for _ in range(epochs):
        if shuffle:
            rng.shuffle(order)
        for k in range(0, len(y), batch):
            rows = order[k : k + batch]
            opt.step(net.loss_and_grads(net.params, X[rows], y[rows])[1])
    seconds = (time.time() - began) / opt.steps
    return seconds, net.accuracy(net.params, X, y), net.accuracy(net.params, X_test, y_test)


# %%
# Time and accuracy, from one sample to all of them: ten epochs, three seeds

rows = {batch: np.median([train(batch, seed=s) for s in range(3)], axis=0) for batch in BATCHES}
per_update = {batch: row[0] for batch, row in rows.items()}
updates = {batch: -(-len(y) // batch) for batch in BATCHES}  # in an epoch
per_epoch = {batch: per_update[batch] * updates[batch] for batch in BATCHES}
print("batch  us/update  updates/epoch  ms/epoch  training   test")
for b, (_, *right) in rows.items():
    print(f"{b:5}{per_update[b] * 1e6:11.0f}{updates[b]:15}{per_epoch[b] * 1e3:10.1f}"
          f"{right[0]:10.1%}{right[1]:7.1%}")  # fmt: skip
lesson.claim(
    "a larger batch makes an update dearer and an epoch cheaper",
    f"batch 1 against 64: {per_update[64] / per_update[1]:.1f} times the time of an update, "
    f"1/{per_epoch[1] / per_epoch[64]:.0f} of that of an epoch; 64 against 1200: "
    f"{per_update[1200] / per_update[64]:.1f} and 1/{per_epoch[64] / per_epoch[1200]:.1f}",
    per_epoch[1] > 5 * per_epoch[64] and per_update[1200] > 2 * per_update[1],
)
longer = train(1200, epochs=750)[1:]  # as many updates as batch 16 has in ten epochs
lesson.claim(
    "after the same number of epochs small batches are ahead",
    f"ten epochs: training {rows[16][1]:.1%} with batch 16, {rows[1200][1]:.1%} with all; after as "
    f"many updates the full batch has {longer[0]:.1%} (test {longer[1]:.1%}, 16 {rows[16][2]:.1%})",
    bool(rows[16][1] > rows[1200][1] + 0.05),
)

# %%
# Shuffling, where the samples come sorted by class

by_class = np.argsort(y, kind="stable")
X_, y_ = X[by_class], y[by_class]
sorted_ = {
    how: np.mean([train(16, 5, s, how, X_, y_)[2] for s in range(3)]) for how in (True, False)
}
lesson.claim(
    "samples must be shuffled",
    f"test accuracy of sorted samples: shuffled {sorted_[True]:.1%}, as they come "
    f"{sorted_[False]:.1%}",
    sorted_[True] > sorted_[False] + 0.05,
)

figure, axes = plt.subplots(1, 2, figsize=(9, 4))
for k, (name, values) in enumerate((("update", per_update), ("epoch", per_epoch))):
    axes[0].loglog(BATCHES, [1e3 * values[b] for b in BATCHES], label=name, **lesson.style(k))
axes[0].set(title="time, ms", xlabel="batch")
for k, part in enumerate(("training", "test")):
    axes[1].semilogx(BATCHES, [rows[b][k + 1] for b in BATCHES], label=part, **lesson.style(k))
axes[1].set(title="accuracy after ten epochs", xlabel="batch")
for ax in axes:
    ax.legend()
lesson.show(figure, "plot_08_batch_size.py")
