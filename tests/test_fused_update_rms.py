"""The option `clip_update_rms`: a smaller lr where gradients exceed their second moments."""

import numpy as np
import pytest
from conftest import RULES, assert_same_bits, ordinary
from fused_runs import assert_no_order_shows, run_of_every_order

import optkern
from optkern.optimizers import CLASSES


def test_it_is_stable_adamws():
    """Wortsman et al., "Stable and low-precision training", 2023, algorithm 2."""
    p, m, v = ordinary(np.float64, 40, 1), np.zeros(40), np.zeros(40)
    ours, shorter = p.copy(), 0
    opt = optkern.AdamW(ours, lr=0.1, weight_decay=0.2, eps=1e-3, clip_update_rms=1.0)
    for t in range(1, 9):
        g = ordinary(np.float64, 40, 10 + t) * (30 if t == 5 else 1)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        mean, second = m / (1 - 0.9**t), v / (1 - 0.999**t)
        rms = np.sqrt(np.mean(g * g / np.maximum(second, 1e-6)))
        lr, shorter = 0.1 / max(1.0, rms), shorter + (rms > 1.0)
        p = p * (1 - lr * 0.2) - lr * mean / (np.sqrt(second) + 1e-3)
        opt.step(g)
        np.testing.assert_allclose(ours, p, rtol=1e-12)
    assert 0 < shorter < 8


@pytest.mark.parametrize("name", ("adamw", "rmsprop"))
def test_edges_orders_threads_and_instruction_sets(name):
    """Squares are summed in C order, whatever the order in memory and the accumulators hold."""
    rule, options = RULES[name], {"accumulate": 2, "clip_norm": 1.0, "clip_update_rms": 0.3}
    hyper = {"weight_decay": 0.1, "lr": 0.3}
    start, calls = run_of_every_order(((3,), (1025, 3), (4097,), (70, 80), (0,), (6, 9, 100)))
    start[5] = start[5].transpose(1, 0, 2)
    for grads in calls:
        grads[5] = grads[5].reshape(start[5].shape)
    assert_no_order_shows(rule, start, calls, hyper, **options)


# What each rule's second moment is of, and its root, from its own state after a step.
ROOTS = {
    "rmsprop": lambda g, s, h: (g, np.sqrt(s["square_avg"])),
    "adadelta": lambda g, s, h: (g, np.sqrt(s["square_avg"] + h["eps"])),
    **dict.fromkeys(
        ("adam", "nadam", "radam", "ademamix", "laprop"),
        lambda g, s, h: (g, corrected(s["exp_avg_sq"], h, s)),
    ),
    "adabelief": lambda g, s, h: (g - s["exp_avg"], corrected(s["exp_avg_var"], h, s)),
}


def corrected(v, hyper, entry):
    return np.sqrt(v / (1 - hyper["betas"][1] ** entry["step"]))


@pytest.mark.parametrize("form", ("l2", "decoupled", "independent", "corrected"))
@pytest.mark.parametrize("name", ROOTS)
def test_a_step_is_one_of_a_smaller_lr(name, form):
    """Decay that goes by the learning rate is smaller with it."""
    hyper = {"weight_decay": 0.1, "decay_form": form, "lr": 0.1, "eps": 1e-9}
    most = {"max_lr": 0.2} if form == "corrected" else {}
    p, shorter = ordinary(np.float64, 40, 1), 0
    q = p.copy()
    opt = CLASSES[name](p, **hyper, **most, clip_update_rms=0.9)
    plain = CLASSES[name](q, **hyper, **most)
    for t in range(1, 12):
        g = ordinary(np.float64, 40, 10 + t) * (30 if t == 8 else 1)
        probe = CLASSES[name](q.copy(), **hyper, **most)
        probe.load_state_dict(plain.state_dict())
        probe.step(g)
        above, root = ROOTS[name](
            g + (0.1 * q if form == "l2" else 0), probe.state[0], probe.param_groups[0]
        )
        rms = np.sqrt(np.mean((above / np.maximum(root, 1e-9)) ** 2))
        share = min(1.0, 0.9 / rms) if name != "radam" or t > 5 else 1.0
        shorter += share < 1
        plain.param_groups[0].update({k: v * share for k, v in {"lr": 0.1, **most}.items()})
        opt.step(g)
        plain.step(g)
        plain.param_groups[0].update({"lr": 0.1, **most})
        np.testing.assert_allclose(p, q, rtol=1e-11)
    assert shorter > 0


def test_gradients_that_are_zero_or_none_are_no_change():
    p, q = np.ones(3), np.ones(3)
    opt, plain = optkern.Adam(p, eps=0.0, clip_update_rms=1e9), optkern.Adam(q, eps=0.0)
    for g in (np.ones(3), np.array([1e-30, -1e-300, 5.0]), np.full(3, np.nan)):
        opt.step(g)
        plain.step(g)
        assert_same_bits(p, q)
    p = np.ones(3)
    optkern.Adam(p, clip_update_rms=1.0).step(np.zeros(3))
    assert_same_bits(p, np.ones(3))


def test_other_rules_and_rows_refuse_it():
    for cls in CLASSES.values():
        if cls.rule.has_relative or "lr" not in cls.rule.hyperparameters:
            continue
        with pytest.raises(ValueError, match=rf"{cls.__name__}: clip_update_rms is not possible"):
            cls(np.ones(2), clip_update_rms=1.0)
    with pytest.raises(ValueError, match=r"clip_update_rms=1\.0 has no row-wise form"):
        optkern.Adam(np.ones((2, 2)), clip_update_rms=1.0).step_rows([0], np.ones((1, 2)))
