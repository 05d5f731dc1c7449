"""
2. What momentum is
===================

A sum of all past gradients, each weighed less the older it is: in two forms, as a moving average,
and with Nesterov's look ahead. On a quadratic it allows larger rates; and chosen anew at each step
it is conjugate gradient.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

gradients = np.random.default_rng(0).standard_normal((50, 4))
mu, lr, T = 0.9, 0.1, len(gradients)


def run(**options):
    p = np.zeros(4)
    opt = optkern.SGD([p], lr=lr, **options)
    for g in gradients:
        opt.step([g])
    return p


# %%
# The weighted sum
# ----------------
# Unrolled, the buffer is sum mu^(t-s) g_s; the classical form writes the same with -lr inside.

weights = (1 - mu ** np.arange(T, 0, -1)) / (1 - mu)  # of each gradient in the final point
by_hand = -lr * weights @ gradients
ahead = -lr * (1 + mu * weights) @ gradients  # Nesterov: g + mu * buffer
ends = [run(momentum=mu, momentum_form=form) for form in ("torch", "classical", "average")]
expected = by_hand, by_hand, (1 - mu) * by_hand, ahead  # the average: v = mu v + (1-mu) g
ends.append(run(momentum=mu, nesterov=True))
errors = [np.abs(end - there).max() for end, there in zip(ends, expected, strict=True)]
lesson.claim(
    "a momentum update is the weighted sum of all past gradients; as a moving average of them it "
    "is the same with lr / (1 - mu)",
    "largest difference after 50 random gradients: torch's form {:.0e}, the classical {:.0e}, "
    "the average {:.0e}, Nesterov's (mu times the buffer added once more) {:.0e}".format(*errors),
    max(errors) < 1e-12,
)

# %%
# The largest rate on a quadratic: lr * lambda may be 2 without momentum, 2 (1 + mu) with it.


def largest_rate(mu):
    low, high = 0.0, 5.0
    while high - low > 1e-3:
        lr, p = (low + high) / 2, np.ones(1)
        opt = optkern.SGD([p], lr=lr, momentum=mu)
        for _ in range(4000):
            opt.step([p.copy()])
        low, high = (lr, high) if abs(p[0]) < 1 else (low, lr)
    return low


bounds = {}
for m in (0.0, 0.5, 0.9):
    opt = optkern.SGD([np.ones(1)], lr=0.1, momentum=m)
    known = optkern.curvature.max_stable_lr(opt, lambda v: v)
    bounds[m] = (largest_rate(m), 2 * (1 + m), known.estimate)
lesson.claim(
    "momentum allows a larger learning rate: 2 becomes 2 (1 + mu)",
    "; ".join(
        f"mu = {m}: tried {b[0]:.2f}, theory {b[1]:.1f}, max_stable_lr {b[2]:.2f}"
        for m, b in bounds.items()
    ),
    all(abs(b[0] - b[1]) < 0.02 and abs(b[2] - b[1]) < 0.02 for b in bounds.values()),
)

# %%
# On a quadratic of 20 dimensions: plain steps and momentum at their best rate, and momentum whose
# rate and mu are those that conjugate gradient works out at each step

D, root, COUNT = np.geomspace(1, 50, 20), np.sqrt(50), 14
chosen, points = lesson.conjugate_gradient(D, np.ones(20), COUNT)
chosen = {
    "plain": [(2 / 51, 0.0)] * 60,
    "momentum": [((2 / (root + 1)) ** 2, ((root - 1) / (root + 1)) ** 2)] * 60,
    "conjugate gradient": chosen,
}
left = {}
for name, pairs in chosen.items():
    p = np.ones(20)
    opt, left[name] = optkern.SGD([p], lr=1, momentum=0.5, momentum_form="classical"), [1.0]
    for pair in pairs:
        opt.param_groups[0].update(zip(("lr", "momentum"), pair))
        opt.step([D * p])
        left[name].append(p @ (D * p) / D.sum())
apart = np.abs(p - points[-1]).max()
lesson.claim(
    "conjugate gradient is momentum whose rate and mu are chosen anew at each step, and faster",
    f"{apart:.0e} apart after {COUNT} steps; of the loss is left then: "
    + ", ".join(f"{name} {loss[COUNT]:.0e}" for name, loss in left.items()),
    bool(apart < 1e-9) and 100 * left["conjugate gradient"][COUNT] < left["momentum"][COUNT],
)

figure, axes = plt.subplots(1, 3, figsize=(14, 4))
age = np.arange(60)
for k, m in enumerate((0.5, 0.9, 0.99)):
    axes[0].plot(age, m**age, label=f"momentum {m}", **lesson.style(k))
axes[0].set(title="what a gradient counts in the update", xlabel="its age, in steps")
tried = np.linspace(0, 0.95, 9)
axes[1].plot(tried, 2 * (1 + tried), label="2 (1 + momentum)", **lesson.style(0))
axes[1].plot(tried, [largest_rate(m) for m in tried], "o", color="k", label="tried")
axes[1].set(title="largest stable rate where the curvature is 1", xlabel="momentum", ylim=(0, 4.2))
for k, (name, loss) in enumerate(left.items()):
    axes[2].semilogy(loss, label=name, **lesson.style(k))
axes[2].set(title="a quadratic: share of the loss that is left", xlabel="step")
for ax in axes:
    ax.legend()
lesson.show(figure, "plot_02_momentum.py")
