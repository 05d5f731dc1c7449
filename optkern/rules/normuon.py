"""Muon whose neurons step alike: each output's row is divided by the root of its second moment.

X as Muon has it (`optkern.Muon`: momentum, ``ns_steps`` of Newton-Schulz); then, of one number an
output, ``v += (1 - beta2) * (mean(X**2) - v); u = X / (sqrt(v) + eps)``, and
``p -= lr * ratio * u * ||X|| / (||u|| + eps)``, which is as long as Muon's step. ``ratio`` is
Muon's for the same ``adjust_lr_fn``; ``"rms"``: the step's root mean square is 0.2 (the paper's
algorithm 1). The outputs are the last axis of ``x @ W`` (``layout="in_out"``), the first of torch's
Linear (``"out_in"``); another layout begins with another v.

For weights of two axes; the bits are those of the same products and sums in NumPy. There is no
``state_dtype``, for Muon's reason.

Li et al., "NorMuon: making Muon more efficient and scalable", 2025 (arXiv 2510.05491).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arithmetic import ascended, flush, keep_agreeing, moved
from .domains import Choice
from .muon import ADJUST, LAYOUTS, asked_direction, factor_of, make_orthogonal
from .muon import RULE as MUON
from .row import Form, Slot, Values

LEAST_NORM = 1e-7  # below which a direction is not made longer, as Muon's eps
RMS = "rms"
AT_A_TIME = 64  # copied at a time for sums: no array of the matrix's size


def outputs_of(shape: Form, hyper: Values) -> Form:
    """Give one number for each output: along the first axis of torch's layout, else the last."""
    return (shape[0], 1) if hyper["layout"] == LAYOUTS[1] else (1, shape[1])


def squares_of(u: np.ndarray, form: Form) -> np.ndarray:
    """Sum a matrix's squares over the axis of which ``form`` has one, in float64.

    Some rows at a time and always in C order: sums' bits depend on the order in memory.
    """
    sums, by_rows = np.zeros(form), form == (len(u), 1)
    for first in range(0, len(u), AT_A_TIME):
        part = np.array(u[first : first + AT_A_TIME], np.float64, order="C")
        part *= part
        if by_rows:
            part.sum(axis=1, keepdims=True, out=sums[first : first + AT_A_TIME])
        else:
            sums += part.sum(axis=0, keepdims=True)
    return sums


def shape_neurons(u: np.ndarray, whole: Any, h: Any) -> None:
    """Make a direction orthogonal and its outputs alike, in place, and move their moment on."""
    own, eps, (v,) = h["own"], h["eps"], whole
    make_orthogonal(u, own, LEAST_NORM, 1.0)
    if not u.size:
        return
    with np.errstate(all="ignore"):
        squares = squares_of(u, v.shape)
        now = v + h["gain2"] * (squares * (v.size / u.size) - v)
        v[...] = flush(now.astype(v.dtype))
        divisor = np.sqrt(now) + eps
        length = math.sqrt((squares / divisor**2).sum()) + eps
        if int(own[5]) == len(ADJUST):
            wanted = 0.2 * math.sqrt(u.size)
        else:
            wanted = factor_of(u.shape, own) * math.sqrt(squares.sum())
        u *= (wanted / length / divisor).astype(u.dtype)


def formula(p, g, buf, v, h):
    g = ascended(p, g, h)
    u = asked_direction(g, buf, h)
    shape_neurons(u, (v,), h.exact)
    if h.keeps_agreeing:
        keep_agreeing(u, g)
    p[...] = moved(p, h.rate * u, u, h)


RULE = MUON.replace(
    class_name="NorMuon",
    not_relative="whose directions are made orthogonal",
    arrays=(
        Slot("momentum_buffer"),
        Slot(
            "second_momentum_buffer", nonnegative=True, form=outputs_of, whole=True,
            holds="an output",
        ),
    ),
    hyperparameters={
        "lr": 2e-2, "weight_decay": 0.0, "momentum": 0.95, "beta2": 0.95, "nesterov": True,
        "ns_coefficients": "original", "eps": 1e-10, "ns_steps": 5, "adjust_lr_fn": "original",
        "layout": "in_out", "maximize": False, "decay_form": "decoupled", "step": 1,
    },
    domains={
        **MUON.domains,
        "adjust_lr_fn": Choice(
            "a step is as long as Muon's by this word, or its root mean square is 0.2",
            (*ADJUST, RMS), none=ADJUST[0],
        ),
    },
    numpy=formula,
    matrices=shape_neurons,
    shared_formula="muon",
    names={},
)  # fmt: skip
