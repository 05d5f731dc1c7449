"""A walk over magnitudes, rules and options: finite in, finite out, where the result is a number.

What the result is comes from the NumPy formulas in a wider dtype (float64 for float32, long double
for float64), from the same arrays at each step: their range is so wide that nothing leaves it.
"""

import numpy as np
import pytest
from conftest import refuses

from optkern.kernels import reference
from optkern.optimizers import CLASSES

WIDER = {np.float32: np.float64, np.float64: np.longdouble}
EXPONENTS = {np.float32: (-45, 38), np.float64: (-320, 308)}
CHOICES = {
    "lr": (0.0, 1e-8, 1e-3, 1.0, 3.0, 1e4),
    "eps": (0.0, 1e-60, 1e-30, 1e-8, 1.0, 1e4),
    "weight_decay": (0.0, 0.0, 1e-4, 0.1, 0.9, 1.0, 10.0),
    "decay_form": ("l2", "l2", "decoupled", "independent"),
    "betas": ((0.9, 0.999), (0.0, 0.0), (0.99, 0.9), (0.5, 0.99999)),
    "alpha": (0.99, 0.0, 1.0),
    "rho": (0.9, 0.5),
    "momentum": (0.0, 0.9, 1.0),
    "momentum_form": ("torch", "classical", "average"),
    "eps_form": ("corrected", "raw"),
    "lr_decay": (0.0, 0.1),
    "trust_coefficient": (1e-3, 0.1),
} | dict.fromkeys(("nesterov", "amsgrad", "centered", "maximize", "adapt"), (False, True))
OPTIONS = {
    "clip_norm": (None, 1.0, 1e-30, 1e30),
    "clip_norm_per_tensor": (None, None, 2.0),
    "clip_value": (None, None, 1e-3, 1e37),
    "grad_scale": (1.0, 1.0, 2.0**-30, 0.3, 65536.0),
}


def drawn(rng, choices, names):
    return {k: v[rng.integers(len(v))] for k, v in choices.items() if k in names}


def numbers(rng, dtype, n=24):
    """Finite numbers of all magnitudes, or of one; 0, the largest and the smallest among them."""
    low, high = EXPONENTS[dtype]
    exponents = rng.uniform(low, high, n)
    if rng.random() < 0.5:
        exponents = np.clip(rng.uniform(low, high) + rng.uniform(-3, 3, n), low, high)
    x = (rng.choice([-1, 1], n) * 10.0**exponents).astype(dtype)
    if rng.random() < 0.5:
        largest = np.finfo(dtype).max
        x[rng.integers(n, size=3)] = rng.choice([0, largest, -largest, np.finfo(dtype).tiny], 3)
    return x


def hyperparameters(rng, rule):
    hyper = drawn(rng, CHOICES, rule.hyperparameters)
    if hyper.get("momentum") == 0 or hyper.get("nesterov"):
        hyper["momentum"] = 0.9 if hyper.get("nesterov") else 0.0
    if len(rule.hyperparameters.get("betas", ())) == 3:
        hyper["betas"] = (*hyper["betas"], 0.9)
    return hyperparameters(rng, rule) if refuses(rule, hyper) else hyper


def representable(x, dtype):
    with np.errstate(invalid="ignore"):
        return np.abs(x) <= 0.999 * np.finfo(dtype).max


def shrink(rule, hyper):
    """What multiplies a weight: its decay, if that is no part of the gradient or the direction."""
    decoupled = 0 if rule.trust == "direction" else hyper["lr"]
    by = {"l2": 0, "independent": 1, "decoupled": decoupled}[hyper["decay_form"]]
    return 1 - hyper["weight_decay"] * by


def result(rule, p, g, state, hyper, options, dtype):
    """Take the step in the wider dtype: the weight, and the state by name."""
    wide = WIDER[dtype]
    q = p.astype(wide)
    state = {k: [a.astype(wide)] for k, a in state.items()}
    for slot in rule.state:
        state.setdefault(slot, [np.zeros_like(q)])
    reference.fused_step(rule, [q], [g.astype(wide)], state, [hyper], **options)
    return q, {slot: state[slot][0] for slot in rule.state}


def beyond(rule, state, dtype):
    """Tell where squares have overflown, which a trust ratio makes felt everywhere."""
    squares = [state[slot.name] for slot in rule.arrays if slot.nonnegative]
    return any(not representable(x, dtype).all() for x in squares)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_what_is_a_number_comes_out_as_one(name, dtype):
    walk(name, dtype, 6, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_what_is_a_number_comes_out_as_one_at_length(name, dtype):
    walk(name, dtype, 120, 1)


def walk(name, dtype, runs, seed):
    if np.finfo(WIDER[dtype]).maxexp <= np.finfo(dtype).maxexp:
        pytest.skip("no wider dtype here")
    rule, rng = CLASSES[name].rule, np.random.default_rng(seed)
    checked = 0
    for _ in range(runs):
        hyper = hyperparameters(rng, rule)
        options = drawn(rng, OPTIONS, ("clip_value", "grad_scale"))
        if name == "ftrl":  # weights are computed from the sum of gradients: a row of docs/range.md
            options["grad_scale"] = 1.0
        if dtype is np.float32:
            options |= drawn(rng, OPTIONS, ("clip_norm", "clip_norm_per_tensor"))
        if rule.trust:  # its ratio tells of every element, also of moments that have underflown
            hyper["eps"] = max(hyper["eps"], 1e-8)
            hyper["weight_decay"] = min(hyper["weight_decay"], 1.0)  # a row of docs/range.md
            hyper["adapt"] &= dtype is np.float32  # norms are of doubles
        p = numbers(rng, dtype)
        opt = CLASSES[name](p, **hyper, **options)
        full = {**rule.hyperparameters, **hyper}
        alive = np.ones(p.size, bool)
        for step in range(1, 6):
            g = numbers(rng, dtype)
            before = {k: a.copy() for k, a in opt.state[0].items() if isinstance(a, np.ndarray)}
            full["step"] = step
            full |= {name: opt.state[0][name] for name in rule.carried}
            with np.errstate(all="ignore"):
                q, state = result(rule, p, g, before, full, options, dtype)
                kept = p * shrink(rule, full)
            weights = p.copy()
            opt.step(g)
            if rule.trust and beyond(rule, state, dtype):
                break
            signed = [
                state[s.name] for s in rule.arrays if s.name == "acc_delta" or not s.nonnegative
            ]
            for x in (q, *signed, q - kept, kept):  # a row each of docs/range.md
                alive &= representable(x, dtype)
            for i in np.flatnonzero(alive & ~np.isfinite(p)):
                state = {k: a[i] for k, a in before.items()}
                came = f"p={weights[i]!r} g={g[i]!r} {state}"
                pytest.fail(f"{hyper} {options} step {step}: {came}: {p[i]}, not {q[i]}")
            checked += alive.sum()
            if not np.isfinite(p).all() and (rule.trust or options.get("clip_norm")):
                break  # it is in the norms of all
            p[~np.isfinite(p)] = 0
    assert checked > 20 * runs
