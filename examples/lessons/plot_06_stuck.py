"""
6. Stuck, though the gradient is not small
==========================================

A loss that stops falling need not be near a critical point: with a rate beyond 2 / lambda_max the
steps swing across the valley and the gradient stays large. Nor is a small gradient an end: around a
saddle it grows again, only late where there are many dimensions.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern.curvature import lanczos

X, y, _, _ = lesson.digits(300)
net = lesson.MLP(64, 16, 10)


def gradient(params):
    return net.loss_and_grads(params, X, y)[1]


def full_loss(params):
    return net.loss(params, X, y)


def norm(grads):
    return float(np.sqrt(sum((g * g).sum() for g in grads)))


# %%
# A rate that is too large
# ------------------------
# A small rate first; from step 150 on one that swings. `diagnose` is asked at the end.


def train(late_lr, steps=500):
    params = [p.copy() for p in net.params]
    opt, monitor = optkern.SGD(params, lr=0.05), optkern.Monitor()
    log = []
    for step in range(steps):
        if step == 150:
            opt.param_groups[0]["lr"] = late_lr
        loss, grads = net.loss_and_grads(params, X, y)
        opt.step(grads)
        monitor.record(loss, grads, opt)
        log.append((loss, norm(grads)))
    return params, monitor, np.array(log)


params, monitor, swinging = train(5.0)
said = monitor.diagnose(params, grad=gradient, loss=full_loss)
sharpest = lanczos(optkern.curvature.hvp_from_grad(gradient, params), which="largest")
_, _, calm = train(0.05)
limit = 2 / sharpest.eigenvalue_max
before, loss, slope = swinging[-200:-150, 0].mean(), *swinging[-50:].mean(0)
lesson.claim(
    "training can be stuck while the gradient is not small",
    f"with the rate 5.0 the loss was {before:.2f} and 150 steps later {loss:.2f}, its gradient's "
    f"norm {slope:.2f} (with .05: {calm[-1, 0]:.2f} and {calm[-1, 1]:.2f}); 2 / lambda_max is "
    f"{limit:.2f} there; diagnose says: {said.kind}",
    bool(slope > 1.5 * calm[-1, 1] and limit < 5.0 and said.kind == "oscillating"),
)

# %%
# Around a saddle
# ---------------
# f = sum (a_i x_i^2)/2 with one direction down, from 1 beside the saddle in a random direction: the
# share of that direction in the start, and with it the time on the plateau, depends on n.


def plateau(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    x /= np.linalg.norm(x)
    a = np.append(rng.uniform(0.2, 2, n - 1), -0.05)
    opt, norms = optkern.SGD([x], lr=0.5), []
    while a[-1] * x[-1] ** 2 > -1.0:  # until the way down is what counts
        g = a * x
        norms.append(np.linalg.norm(g))
        opt.step([g])
    return norms


sizes = (2, 10, 100, 1000, 10_000)
lengths, flattest = (
    np.array([[(len(r), min(r)) for r in (plateau(n, seed) for seed in range(20))] for n in sizes])
    .mean(1)
    .T
)
lesson.claim(
    "in high dimension the plateau around a saddle is longer and flatter",
    "; ".join(
        f"n = {n}: {steps:.0f} steps, smallest gradient {least:.0e}"
        for n, steps, least in zip(sizes, lengths, flattest, strict=True)
    ),
    bool(np.all(np.diff(lengths) > 0) and np.all(np.diff(flattest) < 0)),
)

figure, axes = plt.subplots(1, 3, figsize=(13, 4))
for column, name in enumerate(("loss", "gradient norm")):
    for k, (run, label) in enumerate(((calm, "lr .05"), (swinging, "lr 5.0 from step 150"))):
        axes[column].semilogy(run[:, column], label=label, **lesson.style(k))
    axes[column].set(title=name, xlabel="step")
axes[0].legend()
axes[1].set_title(f"gradient norm; 2 / lambda_max is {limit:.2f}")
for k, n in enumerate((10, 10_000)):
    norms = plateau(n, 0)
    axes[2].semilogy(norms, **lesson.style(k))
    lesson.label_end(axes[2], len(norms), norms[-1], f"n = {n}", k)
axes[2].set(title="gradient norm around a saddle", xlabel="step")
axes[2].set_xlim(right=1.4 * len(norms))
lesson.show(figure, "plot_06_stuck.py")
