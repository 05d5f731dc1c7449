"""
7. Sharpness, and the rate it allows
====================================

The largest eigenvalue says how sharp a minimum is, and with it how large a learning rate may be: at
``lr = 2 / lambda_max`` plain descent swings across the valley for ever, beyond it the swing grows.
Momentum and Adam have other limits; `optkern.curvature.max_stable_lr` knows them.
"""

import matplotlib.pyplot as plt
import numpy as np

import optkern
from optkern import curvature

spectrum = np.array([0.5, 1.0, 20.0])

# %%
# The certified sharpness, and what each rule may take here:

print(curvature.sharpness(np.diag(spectrum)))
LIMITS = {}
for name, options in {
    "plain": {},
    "momentum .9": {"momentum": 0.9},
    "Nesterov .9": {"momentum": 0.9, "nesterov": True},
}.items():
    opt = optkern.SGD(np.ones(3), lr=0.01, **options)
    LIMITS[name] = options, float(curvature.max_stable_lr(opt, np.diag(spectrum)))
    print(f"{name}: lr up to {LIMITS[name][1]:.4f}")

# %%
# Five percent below the limit, and five percent above:

figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
for ax, share in zip(axes, (0.95, 1.05)):
    for (name, (options, limit)), colour in zip(LIMITS.items(), ("#0072B2", "#D55E00", "#009E73")):
        w, losses = np.ones(3), []
        opt = optkern.SGD(w, lr=share * limit, **options)
        for _ in range(120):
            losses.append(float(spectrum @ w**2) / 2)
            opt.step(spectrum * w)
        ax.semilogy(losses, color=colour, label=name)
    ax.set(title=f"lr = {share:g} of the limit", xlabel="step", ylabel="loss", ylim=(1e-6, 1e6))
axes[0].legend(frameon=False)
figure.tight_layout()
plt.show()
