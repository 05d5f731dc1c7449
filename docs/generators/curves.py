"""The picture on a rule's page: a small network on handwritten digits, beside the same with SGD."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import lesson
import matplotlib
import numpy as np

import optkern
from optkern.rules import Rule

from .writing import titled

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STEPS, BATCH = 300, 100


def rate_of(rule: Rule) -> float:
    """Return the rate that trains a small network."""
    return float(rule.hyperparameters["lr"] if rule.trial_lr is None else rule.trial_lr)


def optimizer_of(rule: Rule, cls: Any, params: list[Any]) -> Any:
    """Make the optimizer: for a rule of matrices alone AdamW takes the biases."""
    lr = rate_of(rule)
    if rule.matrices is None:
        return cls(params, lr=lr)
    return optkern.Mixed(
        [
            {"params": [p for p in params if p.ndim == 2], "rule": cls, "lr": lr},
            {"params": [p for p in params if p.ndim != 2], "rule": optkern.AdamW, "lr": 2e-3},
        ]
    )


def arranged(rule: Rule, grads: list[Any]) -> list[Any]:
    """Arrange gradients as the optimizer's parameters are."""
    if rule.matrices is None:
        return grads
    return [[g for g in grads if g.ndim == 2], [g for g in grads if g.ndim != 2]]


@cache
def losses(name: str) -> tuple[np.ndarray, float]:
    """Train with a rule; return the loss on all training digits at each tenth step, and lr."""
    from .rules import CLASS_OF

    cls = CLASS_OF[name]
    rule = cls.rule
    X, y, _, _ = lesson.digits()
    net = lesson.MLP(64, 32, 10)
    params = [p.copy() for p in net.params]
    opt = optimizer_of(rule, cls, params)
    rng, found = np.random.default_rng(0), []
    for step in range(STEPS + 1):
        if step % 10 == 0:
            found.append(net.loss(params, X, y))
        batch = rng.integers(0, len(y), BATCH) if rule.mini_batches else slice(None)
        opt.step(arranged(rule, net.loss_and_grads(params, X[batch], y[batch])[1]))
    return np.array(found), rate_of(rule)


def draw(rule: Rule, path: Path) -> None:
    """Draw a rule's run beside SGD's."""
    steps = np.arange(0, STEPS + 1, 10)
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for k, name in enumerate(dict.fromkeys((rule.name, "sgd"))):
        loss, lr = losses(name)
        axes.semilogy(steps, loss, label=f"{name}, lr={lr:g}", **lesson.style(k))
    axes.set(xlabel="step", ylabel="loss on all training digits")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def part(rule: Rule) -> str:
    """Show the picture, and say what it is of."""
    loss, lr = losses(rule.name)
    batches = f"batches of {BATCH}" if rule.mini_batches else "full batches"
    return (
        titled("A run", "-")
        + f"\nA network 64-32-10 (tanh) on 1,200 handwritten digits, {STEPS} steps with {batches} "
        f"and ``lr={lr:g}``: the loss falls from {loss[0]:.3g} to {loss[-1]:.2g}. One rate each, "
        "not tuned: it shows that the rule trains, not which rule is better.\n\n"
        f".. image:: {rule.name}.png\n   :alt: Loss against step, {rule.class_name} and SGD\n"
    )
