"""
8b. Where a full batch is stuck
===============================

At a critical point of the full loss the full batch has no gradient and stands still. Mini-batches'
losses differ from it, and so do their critical points: they go on. Measured from a saddle and from
a bad local minimum, beside what a small push does.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern.curvature import classify

# %%
# 150 digits of 0 to 3, of which the first four principal components are kept; 4 inputs, 2 tanh
# units, 4 classes, decay .01. With 22 weights Newton's iterations find critical points to rounding.

few = lesson.FewDigits()
loss, grad, FULL, UPDATES = few.loss, few.grad, len(few.y), 2000


def critical(seed, updates):
    """Return the critical point beside where the full batch has come after so many updates."""
    w = few.start(seed)
    opt = optkern.SGD([w], lr=0.1, momentum=0.9)
    for _ in range(updates):
        opt.step([grad(w)])
    return few.critical(w)


def run(start, batch, lr, seed=0):
    """Return the full loss every 10 updates, and that to which the full batch then comes."""
    w, rng, losses = start.copy(), np.random.default_rng(seed), []
    opt = optkern.SGD([w], lr=lr)
    for k in range(UPDATES):
        if k % 10 == 0:
            losses.append(loss(w))
        rows = rng.integers(FULL, size=batch) if batch < FULL else slice(None)
        opt.step([few.loss_and_grad(w, rows)[1]])
    opt = optkern.SGD([w], lr=0.5, momentum=0.9)
    for _ in range(400):
        opt.step([grad(w)])
    return np.array(losses), loss(w)


saddle, minimum, best = critical(3, 60), critical(0, 600), critical(3, 600)
for name, w in {"saddle": saddle, "local minimum": minimum, "the best found": best}.items():
    print(f"{name}: loss {loss(w):.4f}, |w| {np.linalg.norm(w):.1f}, "
          f"|gradient| {np.linalg.norm(grad(w)):.0e}; {classify(w, grad, loss=loss)}")  # fmt: skip
print()

# %%
# From exactly the saddle, all at the same rate; then the full batch again, from beside it


def left(losses, start):
    """Return after how many updates the loss has fallen by .01, or None."""
    return 10 * int(np.argmax(losses < loss(start) - 0.01)) or None


still = run(saddle, FULL, 0.5)
noisy = [run(saddle, 16, 0.5, seed) for seed in range(10)]
after = [left(losses, saddle) for losses, _ in noisy]
gone, level = [n for n in after if n], max(v[-50:].mean() for v, _ in noisy)
lesson.claim(
    "a full batch is stuck where mini-batches, whose losses differ, go on",
    f"at the saddle, rate .5: after {UPDATES} updates the full batch has changed the loss by "
    f"{abs(still[0][-1] - still[0][0]):.0e}; batch 16 leaves in {len(gone)} of 10 seeds, after "
    f"{min(gone, default=None)} to {max(gone, default=None)} updates, and is at {level:.3f} or "
    f"lower, at rest at {max(end for _, end in noisy):.4f}",
    bool(len(gone) == 10 and level < loss(saddle) - 0.01 and left(still[0], saddle) is None),
)
way = few.start(1) / np.linalg.norm(few.start(1))
pushed = {d: run(saddle + d * way, FULL, 0.5)[0] for d in (1e-3, 1e-6)}
late = {d: left(losses, saddle) for d, losses in pushed.items()}
lesson.claim(
    "only noise gets off a saddle",
    f"pushed by 1e-3 the full batch leaves after {late[1e-3]} updates, by 1e-6 after {late[1e-6]}; "
    f"noise, which pushes on and on, after {max(gone, default=None)} at the latest",
    None in late.values() or "NO: any small push is enough",
)

# %%
# From exactly the local minimum

ends = {
    (batch, lr): [run(minimum, batch, lr, seed)[1] for seed in range(10 if batch < FULL else 1)]
    for batch, lr in ((2, 0.3), (16, 1.0), (2, 1.0), (FULL, 1.0))
}
better = {key: np.mean(np.array(e) < loss(minimum) - 0.01) for key, e in ends.items()}
lesson.claim(
    "mini-batches leave a bad local minimum, too",
    f"in a better one after {UPDATES} updates: "
    + ", ".join(f"batch {b} at rate {lr:g} {share:.0%}" for (b, lr), share in better.items()),
    "partly: they leave the point, but its basin only where their noise is large"
    if better[2, 1.0] > 0.3 > max(better[2, 0.3], better[16, 1.0])
    else bool(min(better[2, 0.3], better[16, 1.0]) > 0.3),
)

figure, axes = plt.subplots(1, 2, figsize=(11, 4))
shown = {"full batch": still[0], "batch 16": noisy[0][0]}
shown |= {f"full, pushed by {d:.0e}": losses for d, losses in pushed.items()}
for k, (name, losses) in enumerate(shown.items()):
    axes[0].plot(10 * np.arange(len(losses)), losses, label=name, **lesson.style(k))
axes[0].set(title="from the saddle, rate 0.5", xlabel="update", ylabel="loss of all images")
axes[0].legend()
for k, values in enumerate(ends.values()):
    beside = k + (np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else 0)
    axes[1].plot(np.broadcast_to(beside, len(values)), values, "osd^"[k], color=lesson.COLOURS[k])
for k, (name, w) in enumerate({"the local minimum": minimum, "the best found": best}.items()):
    axes[1].axhline(loss(w), label=name, zorder=0, **{**lesson.style(6 - k), "lw": 0.9})
names = [f"batch {batch}\nrate {lr:g}" for batch, lr in ends]
axes[1].set(title="from the local minimum: loss at rest", xlim=(-0.5, 3.5))
axes[1].set(xticks=range(4), xticklabels=names)
axes[1].legend()
lesson.show(figure, "plot_08b_full_batch_stuck.py")
