"""
15b. A loss that blows up, and which model to keep
==================================================

A consistency loss on logits that blows up, and the record of the run that shows where it began.
And which of several models to keep: the training loss likes the largest, which learns wrong labels
by heart, too.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

X, y, X_test, y_test = lesson.digits(1000)
TRAIN = X[:600], y[:600]

# %%
# A consistency loss on logits, ||z(x) - z(x')||^2 of two noisy views, from update 200 on. Logits
# have no bound: with its curvature beyond 2 / lr the loss blows up, and the record shows where.

W, rng, monitor, lr = np.zeros((64, 10)), np.random.default_rng(0), optkern.Monitor(), 0.05
opt, stable = optkern.SGD([W], lr=lr), None
for update in range(600):
    views = [TRAIN[0] + 0.5 * rng.standard_normal(TRAIN[0].shape) for _ in range(2)]
    D, weight = views[0] - views[1], 40.0 * (update >= 200)
    z = views[0] @ W
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(np.maximum(p[range(600), TRAIN[1]], 1e-300)).mean()
    loss += weight * ((D @ W) ** 2).sum() / 600
    g = (views[0].T @ (p - np.eye(10)[TRAIN[1]]) + 2 * weight * D.T @ (D @ W)) / 600
    if stable is None and lr * 2 * weight * np.linalg.eigvalsh(D.T @ D / 600)[-1] > 2:
        stable = update
    with np.errstate(all="ignore"):
        opt.step([g])
    monitor.record(float(loss), [g], opt)
    if not loss < 1e100:
        break
seen = monitor.diagnose()
lesson.claim(
    "a loss that blows up is caught where it begins",
    f"the curvature is beyond 2 / lr from update {stable} on; diagnose says {seen.kind}, from "
    f"record {seen.began} on (loss {monitor.losses[seen.began]:.0f}); it ends at {loss:.0e}",
    seen.kind == "exploding" and abs(seen.began - stable) < 10,
)

# %%
# Which model to keep: by the training loss, or by images held out of it

SIZES = (1, 2, 4, 8, 32, 128)
few, held = (X[:200], y[:200].copy()), (X[600:], y[600:])
few[1][::5] = (few[1][::5] + 3) % 10  # every fifth label is wrong


def trained(hidden):
    net, rng = lesson.MLP(64, hidden, 10), np.random.default_rng(0)
    opt = optkern.Adam(net.params, lr=3e-3)
    for _ in range(1500):
        picked = rng.permutation(200)[:32]
        opt.step(net.loss_and_grads(net.params, few[0][picked], few[1][picked])[1])
    return [net.loss(net.params, *data) for data in (few, held, (X_test, y_test))]


rows = np.array([trained(hidden) for hidden in SIZES])
by = {part: int(rows[:, k].argmin()) for k, part in enumerate(("training", "validation", "test"))}
gain = rows[by["training"], 2] - rows[by["validation"], 2]
lesson.claim(
    "models are chosen by validation, not by the training loss",
    f"units chosen by training loss {SIZES[by['training']]} (test loss "
    f"{rows[by['training'], 2]:.3f}), by validation {SIZES[by['validation']]} "
    f"({rows[by['validation'], 2]:.3f}); the test's own best {rows[:, 2].min():.3f}",
    lesson.held(gain > 0, gain == 0, "both choose alike here"),
)
figure, axes = plt.subplots(1, 2, figsize=(11, 4))
axes[0].semilogy(monitor.losses, **lesson.style(0))
for k, (at, text) in enumerate(((stable, "beyond 2 / lr"), (seen.began, "diagnose: it begins"))):
    axes[0].axvline(at, label=text, **lesson.style(k + 1))
axes[0].set(title="a consistency loss that blows up", xlabel="update")
for k, part in enumerate(by):
    axes[1].loglog(SIZES, rows[:, k], label=part, **lesson.style(k))
axes[1].set(title="loss by hidden units", xlabel="units")
for ax in axes:
    ax.legend()
lesson.show(figure, "plot_15b_caught_and_chosen.py")
