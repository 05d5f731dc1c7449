"""Momentum whose matrix is made orthogonal: every direction is stepped along alike.

``buf += (1 - momentum) * (g - buf); u = g + momentum * (buf - g)`` (``nesterov``; else ``buf``);
``p -= lr * ratio * X``, where X is u with its singular values near 1, by ``ns_steps`` steps of
Newton-Schulz. ``ratio`` is ``sqrt(max(1, outputs / inputs))`` (``adjust_lr_fn="original"``) or
``0.2 * sqrt(max(p.shape))`` (``"match_rms_adamw"``: Adam's rates fit). ``layout`` says which axis
the outputs are: of ``x @ W`` the last (``"in_out"``), of torch's Linear the first (``"out_in"``).

For weights of two axes; biases, embeddings and the head want another rule (`optkern.Mixed`). The
bits are those of the same products in NumPy (`optkern.rules.matrices`): they depend on its BLAS.
There is no ``state_dtype``: what rounds the momentum differently in each element has no small
singular values left, and these are what it makes large.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is
scalable for LLM training", 2025; Amsel et al., "The Polar Express", 2025.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arithmetic import ascended, flush, keep_agreeing, moved
from .domains import Choice, Count, Polynomials
from .matrices import orthogonalise
from .row import Rule, Slot, Values
from .units import LAYOUTS

PRESETS = {
    "original": ((3.4445, -4.7750, 2.0315),),
    "quintic": (
        (4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": (
        (8.237312490495555, -23.157747414558198, 16.680568411445915),
        (4.082441999064835, -2.893047735332586, 0.5252849256975648),
        (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
        (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
        (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
    ),
}  # fmt: skip
ADJUST = ("original", "match_rms_adamw")


def factor_of(shape: tuple[int, ...], own: Any) -> float:
    """Compute what ``adjust_lr_fn`` lengthens a step by; ``own`` as `shape_direction` has it."""
    (rows, columns), adjust, layout = shape, int(own[5]), int(own[6])
    if ADJUST[adjust] == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    inputs, outputs = (columns, rows) if LAYOUTS[layout] == "out_in" else (rows, columns)
    return math.sqrt(max(1.0, outputs / max(inputs, 1)))


def make_orthogonal(u: np.ndarray, own: Any, eps: float, factor: float) -> None:
    """Put the orthogonal matrix that these numbers of a rule's own ask for in a direction's place.

    ``own`` begins with the preset or -1, three coefficients, how many steps, adjustment, layout.
    """
    preset, steps = int(own[0]), int(own[4])
    coefficients = (tuple(own[1:4]),) if preset < 0 else list(PRESETS.values())[preset]
    chosen = [coefficients[min(k, len(coefficients) - 1)] for k in range(steps)]
    with np.errstate(all="ignore"):
        orthogonalise(u, chosen, eps, factor)


def shape_direction(u: np.ndarray, whole: Any, h: Any) -> None:
    """Make a direction orthogonal, in place, and as large as ``adjust_lr_fn`` says."""
    make_orthogonal(u, h["own"], h["eps"], factor_of(u.shape, h["own"]))


def formula(p, g, buf, h):
    g = ascended(p, g, h)
    u = asked_direction(g, buf, h)
    shape_direction(u, (), h.exact)
    if h.keeps_agreeing:
        keep_agreeing(u, g)
    p[...] = moved(p, h.rate * u, u, h)


def asked_direction(g, buf, h):
    """Move the momentum on by an ascended gradient and return what is made orthogonal."""
    buf[...] = flush(h.momentum * buf + h.gain * g)
    return np.ascontiguousarray(h.gain1 * g + h.beta1 * buf)


def too_many_steps(hyper: Values) -> str | None:
    """Say where more steps are asked for than there are coefficients."""
    name = hyper["ns_coefficients"]
    if name in PRESETS and name != "original" and hyper["ns_steps"] > len(PRESETS[name]):
        return (
            f"ns_coefficients={name!r} are those of {len(PRESETS[name])} steps at most, "
            f"got ns_steps={hyper['ns_steps']}"
        )
    return None


RULE = Rule(
    class_name="Muon",
    arrays=(Slot("momentum_buffer"),),
    hyperparameters={
        "lr": 1e-3, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True,
        "ns_coefficients": "original", "eps": 1e-7, "ns_steps": 5, "adjust_lr_fn": "original",
        "layout": "in_out", "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={
        "ns_coefficients": Polynomials(
            "coefficients of the polynomials that make a matrix orthogonal", tuple(PRESETS)
        ),
        "ns_steps": Count("how many of them are taken"),
        "adjust_lr_fn": Choice(
            "a step is larger by sqrt(max(1, outputs / inputs)), or by 0.2 * sqrt(longer side), "
            "with which it is as large as Adam's",
            ADJUST,
            none="original",
        ),
        "layout": Choice("the axes of a weight: x @ W has in_out, torch's Linear out_in", LAYOUTS),
    },
    variants=((), ("DIRECTION",), ("APPLY",)),
    constants=("preset", "a", "b", "c", "steps", "adjust", "layout"),
    conflicting=("ns_coefficients", "ns_steps"),
    conflict=too_many_steps,
    numpy=formula,
    matrices=shape_direction,
    axes=2,
    exact="the bits of the same numpy.matmul calls, which depend on NumPy's BLAS and its threads",
    not_compact={"": "rounding gives the momentum singular values that it has not"},
    trial_lr=0.02,
    names={"torch": "Muon", "optax": "contrib.muon", "keras": "Muon"},
)  # fmt: skip
