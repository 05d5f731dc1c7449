"""
13b. Newton's step, and what curvature foresees
===============================================

Newton's plain step goes to the nearest critical point of any kind, a saddle too; where the
curvature is negative NewtonLanczos goes downhill. And what a quadratic model of one step foresees,
beside a linear one.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern.curvature import hvp_from_grad

X, y, _, _ = lesson.digits(800)
net = lesson.MLP(64, 32, 10)

# %%
# Near a saddle: loss (1 - ab)^2 has one at the origin and a valley of minima


def valley(w):
    a, b = w
    r = 1 - a * b
    return r * r, np.array([-2 * r * b, -2 * r * a])


def curvature(w):
    a, b = w
    return np.array([[2 * b * b, 4 * a * b - 2], [4 * a * b - 2, 2 * a * a]])


newton, descent, krylov = (np.array([0.2, 0.1]) for _ in range(3))
paths = {"Newton": [newton.copy()], "gradient descent": [descent.copy()]}
sgd = optkern.SGD(descent, lr=0.1)
for _ in range(60):
    newton = newton - np.linalg.solve(curvature(newton), valley(newton)[1])
    sgd.step(valley(descent)[1])
    paths["Newton"].append(newton)
    paths["gradient descent"].append(descent.copy())
optkern.NewtonLanczos(krylov).step(lambda: valley(krylov), hvp=lambda v: curvature(krylov) @ v)
found = {"Newton": newton, "gradient descent": descent, "NewtonLanczos": krylov}
lesson.claim(
    "Newton's plain step is drawn to saddles, which others leave",
    ", ".join(f"{name}: loss {valley(w)[0]:.0e}" for name, w in found.items()),
    valley(newton)[0] > 0.99 and max(valley(descent)[0], valley(krylov)[0]) < 1e-6,
)

# %%
# One step of several lengths, foreseen by the gradient and by gradient and curvature

loss, grads = net.loss_and_grads(net.params, X, y)
flat = np.concatenate([g.ravel() for g in grads])
H = hvp_from_grad(lambda p: net.loss_and_grads(p, X, y)[1], net.params)
bend, lengths = float(flat @ H.matvec(flat)), np.geomspace(0.01, 3, 30)
true = [net.loss([p - t * g for p, g in zip(net.params, grads)], X, y) - loss for t in lengths]
models = {"first order": -lengths * (flat @ flat)}
models["second order"] = models["first order"] + lengths**2 / 2 * bend
errors = {name: np.abs(np.array(true) - model) for name, model in models.items()}
lesson.claim(
    "the curvature foresees what a step gains, the slope alone promises too much",
    f"error of the promised change at a rate of {lengths[12]:.2f}: {errors['first order'][12]:.1e} "
    f"by the slope, {errors['second order'][12]:.1e} with curvature; at {lengths[-1]:.0f} "
    f"{errors['first order'][-1]:.1f} and {errors['second order'][-1]:.1f}",
    bool(errors["second order"][12] < 0.3 * errors["first order"][12]),
)
paths["NewtonLanczos"] = [paths["Newton"][0], krylov]
figure, axes = plt.subplots(1, 2, figsize=(11, 4))
grid = np.linspace(-0.4, 1.6, 80)
lesson.surface(axes[0], lambda a, b: (1 - a * b) ** 2, grid, grid)
for k, (name, path) in enumerate(paths.items()):
    axes[0].plot(*np.array(path).T, marker=".", label=name, **lesson.style(k))
for k, (name, values) in enumerate({"measured": np.array(true), **models}.items()):
    axes[1].semilogx(lengths, values, label=name, **lesson.style(k))
axes[1].set_ylim(1.5 * min(true), 1)
for ax, title in zip(axes, ("from beside a saddle", "change of the loss by a step's rate")):
    ax.set_title(title)
    ax.legend()
lesson.show(figure, "plot_13b_newton.py")
