"""
11. Cross-entropy against the squared error
===========================================

Behind a softmax the squared error is flat where the network is sure and wrong: its gradient has a
factor p (1 - p), which is nearly zero there. Cross-entropy has none. The two error surfaces over
two weights, and training from a bad start. And for two classes a softmax and a sigmoid agree.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

(X, y), HELD, TEST = lesson.digits_in_three(600)
ONE_HOT = np.eye(10)[y]


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def cross_entropy(z):
    p = softmax(z)
    return float(-np.log(np.maximum(p[range(len(y)), y], 1e-300)).mean()), (p - ONE_HOT) / len(y)


def squared_error(z):
    p = softmax(z)
    d = p - ONE_HOT
    return float((d * d).sum(1).mean()), 2 * p * (d - (d * p).sum(1, keepdims=True)) / len(y)


# %%
# One sample of two classes, the wrong one ahead by z: the slope

z = np.array([0.0, 2.0, 5.0, 10.0, 20.0])
wrong = 1 / (1 + np.exp(-z))
slopes = {"cross-entropy": wrong, "squared error": 4 * wrong * wrong * (1 - wrong)}
print("ahead by       " + "".join(f"{v:9g}" for v in z))
for name, slope in slopes.items():
    print(f"{name:15}" + "".join(f"{v:9.2g}" for v in slope))
lesson.claim(
    "the squared error is flat where the network is sure and wrong, cross-entropy steep",
    f"slope by the score 10 ahead: {slopes['squared error'][3]:.1e} and "
    f"{slopes['cross-entropy'][3]:.2f}",
    bool(slopes["squared error"][3] < 1e-3 < slopes["cross-entropy"][3]),
)

# %%
# Training from a good start and from a bad one, which is sure of class 0 whatever it sees: that
# bias is 12. Each loss has the best of six rates for each start, chosen by images held out.


def train(loss, lr, bad, updates=600):
    W, b = np.zeros((64, 10)), np.zeros(10)
    b[0] = 12.0 if bad else 0.0
    opt, right = optkern.SGD([W, b], lr=lr, momentum=0.9), []
    for _ in range(updates):
        d = loss(X @ W + b)[1]
        opt.step([X.T @ d, d.sum(0)])
        right.append([((A @ W + b).argmax(1) == t).mean() for A, t in (HELD, TEST)])
    return np.array(right)


LOSSES = {"cross-entropy": cross_entropy, "squared error": squared_error}
RATES, runs = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0), {}
for name, loss in LOSSES.items():
    for bad in (False, True):
        held = max((train(loss, lr, bad) for lr in RATES), key=lambda right: right[:, 0].mean())
        runs[name, bad] = held[:, 1]
late = {key: 1 + int(np.argmax(right > 0.8)) for key, right in runs.items()}
lesson.claim(
    "from a bad start the squared error stands still, cross-entropy goes on",
    f"updates to 80 % of the test, each at its best rate: from zero {late['cross-entropy', False]} "
    f"and {late['squared error', False]} (cross-entropy, squared error); from the bad start "
    f"{late['cross-entropy', True]} and {late['squared error', True]}",
    late["squared error", True] > 2 * late["cross-entropy", True],
)
ahead = runs["cross-entropy", False][-1] - runs["squared error", False][-1]
lesson.claim(
    "cross-entropy is also more accurate in the end",
    f"test accuracy after 600 updates from zero: {runs['cross-entropy', False][-1]:.1%} and "
    f"{runs['squared error', False][-1]:.1%} with the squared error",
    lesson.held(ahead > 0.003, ahead > -0.003, "not here: from a good start both end alike"),
)

# %%
# Two classes: a softmax of two scores is a sigmoid of their difference

rows = y < 2
A, t = X[rows], y[rows]
two, one = np.zeros((64, 2)), np.zeros(64)
opts = optkern.SGD([two], lr=0.05), optkern.SGD([one], lr=0.1)
for _ in range(100):
    d = (softmax(A @ two) - np.eye(2)[t]) / len(t)
    opts[0].step([A.T @ d])
    opts[1].step([A.T @ ((1 / (1 + np.exp(-A @ one)) - t) / len(t))])
gap = np.abs(softmax(A @ two)[:, 1] - 1 / (1 + np.exp(-A @ one))).max()
lesson.claim(
    "sigmoid and softmax agree on two classes",
    f"100 updates, the sigmoid's rate twice the softmax's: probabilities differ by {gap:.0e}",
    bool(gap < 1e-12),
)

figure, axes = plt.subplots(1, 3, figsize=(13, 4))
line = np.linspace(-8, 8, 81)
for ax, (name, loss) in zip(axes, LOSSES.items()):
    values = [[loss(np.tile([u, v] + [0] * 8, (len(y), 1)))[0] for u in line] for v in line]
    ax.contour(line, line, values, 25, cmap=lesson.HEIGHTS, linewidths=0.7)
    ax.set(title=f"{name} over two biases, weights 0", xlabel="bias of 0", ylabel="bias of 1")
for k, (key, right) in enumerate(runs.items()):
    label = f"{key[0]}{', bad start' if key[1] else ''}"
    axes[2].semilogx(np.arange(1, 601), right, label=label, **lesson.style(k))
axes[2].set(title="test accuracy", xlabel="update")
axes[2].legend(loc="lower right", fontsize=8)
lesson.show(figure, "plot_11_cross_entropy.py")
