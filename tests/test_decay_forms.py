"""Decay of the later forms: corrected (AdamC) and cautious, which to a rule are decoupled decay."""

import warnings

import numpy as np
import pytest
from conftest import DTYPES, ISAS, RULES, assert_same_bits, ordinary

import optkern
from optkern import kernels, reference
from optkern.kernels import runtime
from optkern.optimizers import CLASSES

DECAYING = [rule for rule in RULES.values() if "decay_form" in rule.hyperparameters]
every_rule = pytest.mark.parametrize("rule", DECAYING, ids=lambda rule: rule.name)
FORMS = ({"decay_form": "corrected", "max_lr": 0.3}, {"decay_form": "cautious"})


def streams(rule, dtype, size=999):
    """A parameter, a gradient and state as steps have left them."""
    p, g, *state = (ordinary(dtype, size, k) for k in range(2 + len(rule.state)))
    p[:5], g[3:8] = (0, -0.0, np.inf, np.nan, 1e-30), 0
    return [p, g, *(abs(a) if s in rule.nonnegative else a for s, a in zip(rule.state, state))]


@every_rule
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_is_reference(rule, dtype):
    more = [{"maximize": True}] + [
        {name: value}
        for name, value in {"momentum": 0.9, "amsgrad": True, "centered": True, "lr": 3.0}.items()
        if name in rule.hyperparameters
    ]
    for form in FORMS:
        for options in ({}, *more):
            hyper = {"lr": 0.1, "weight_decay": 0.4, "step": 3, **form, **options}
            ours, theirs = streams(rule, dtype), streams(rule, dtype)
            getattr(kernels, rule.name)(*ours, **hyper)
            getattr(reference, rule.name)(*theirs, **hyper)
            assert_same_bits(ours, theirs)


@every_rule
def test_corrected_is_decoupled_with_a_share_of_the_decay(rule):
    ours, theirs = streams(rule, np.float64), streams(rule, np.float64)
    run = getattr(kernels, rule.name)
    run(*ours, lr=0.125, max_lr=0.5, weight_decay=0.5, decay_form="corrected", step=3)
    run(*theirs, lr=0.125, weight_decay=0.125, decay_form="decoupled", step=3)
    assert_same_bits(ours, theirs)


@every_rule
def test_cautious_decays_where_the_step_does_not_oppose_it(rule):
    """Each element is that of a step with decoupled decay, or without any, as the step goes."""
    if rule.trust == "direction":
        pytest.skip("decay is a part of its direction: below")
    if rule.average is not None:
        pytest.skip("it goes by the step of z: tests/test_schedule_free.py")
    taken = {}
    for name, hyper in {
        "cautious": {"weight_decay": 0.5, "decay_form": "cautious"},
        "decayed": {"weight_decay": 0.5, "decay_form": "decoupled"},
        "plain": {"weight_decay": 0.0, "decay_form": "decoupled"},
    }.items():
        arrays = streams(rule, np.float64)
        getattr(kernels, rule.name)(*arrays, lr=0.1, step=3, **hyper)
        taken[name] = arrays
    p = streams(rule, np.float64)[0]
    with np.errstate(invalid="ignore"):
        opposed = (p - taken["plain"][0]) * p < 0
    assert 0 < opposed.sum() < opposed.size
    pairs = zip(taken["plain"], taken["decayed"], strict=True)  # state may be of the weights
    assert_same_bits(taken["cautious"], [np.where(opposed, a, b) for a, b in pairs])


def test_cautious_lamb_adds_decay_to_its_direction_where_it_agrees():
    rng = np.random.default_rng(1)
    p, m = rng.normal(size=50), rng.normal(size=50)
    g, v, start = m.copy(), m * m, p.copy()
    wd, lr = 0.5, 0.1
    optkern.kernels.lamb(
        p, g, m.copy(), v.copy(), lr=lr, weight_decay=wd, decay_form="cautious", eps=0.0,
        step=10**9,
    )  # fmt: skip
    d = np.sign(g)
    d = np.where(d * start >= 0, d + wd * start, d)
    expected = start - lr * np.linalg.norm(start) / np.linalg.norm(d) * d
    np.testing.assert_allclose(p, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ("adamw", "sgd", "lamb", "lars"))
def test_instruction_sets_threads_and_options_around(name):
    sizes = (3, 40_001)
    rule = RULES[name]
    for form in FORMS:
        hyper = {"lr": 0.1, "weight_decay": 0.3, **form}
        seen = []
        for isa in ISAS:
            runtime.use_isa(isa)
            for threads in (1, 3):
                p = [ordinary(np.float32, size, k) for k, size in enumerate(sizes)]
                opt = CLASSES[name](p, num_threads=threads, clip_norm=1.0, grad_scale=2.0, **hyper)
                for seed in (5, 6):
                    opt.step([ordinary(np.float32, size, seed) for size in sizes])
                seen.append(p)
        p = [ordinary(np.float32, size, k) for k, size in enumerate(sizes)]
        values = {**rule.hyperparameters, **hyper}
        state = {s: [np.full_like(x, rule.start_of(s, values, x)) for x in p] for s in rule.state}
        for step, seed in enumerate((5, 6), 1):
            grads = [ordinary(np.float32, size, seed) for size in sizes]
            values = {**rule.hyperparameters, **hyper, "step": step}
            reference.fused_step(rule, p, grads, state, [values] * 2, clip_norm=1.0, grad_scale=2.0)
        for one in seen:
            assert_same_bits(one, p)


@pytest.mark.parametrize("state_dtype", ("bfloat16", "int8"))
def test_compact_state_and_rows_take_them(state_dtype):
    for form in FORMS:
        p, q = ordinary(np.float32, 1030, 1), ordinary(np.float32, 1030, 1)
        hyper = {"lr": 0.25, "weight_decay": 0.3, **form}
        optkern.AdamW(p, state_dtype=state_dtype, **hyper).step(g := ordinary(np.float32, 1030, 2))
        optkern.AdamW(q, **hyper).step(g)
        assert_same_bits(p, q)  # the first step is taken from state that nothing has rounded
        p, q = (ordinary(np.float32, 40, 1).reshape(8, 5) for _ in range(2))
        optkern.AdamW(p, **hyper).step_rows([1, 3], g[:10].reshape(2, 5))
        optkern.AdamW(rows := q[[1, 3]], **hyper).step(g[:10].reshape(2, 5))
        q[[1, 3]] = rows
        assert_same_bits(p, q)


def test_a_schedule_has_its_largest_rate_beside_it():
    p = np.ones(2)
    with pytest.raises(ValueError, match="SGD: decay_form='corrected' needs max_lr, the largest"):
        optkern.SGD(p, decay_form="corrected")
    with pytest.raises(ValueError, match="sgd: decay_form='corrected' needs max_lr"):
        kernels.sgd(p, np.ones(2), decay_form="corrected")
    with pytest.raises(ValueError, match=r"decay_form must be .*did you mean 'cautious'"):
        optkern.SGD(p, decay_form="cautios")
    rates = (0.1, 0.4, 0.2)
    opt = optkern.SGD(
        p, lr=lambda step: rates[step % 3], max_lr=0.4, weight_decay=0.5, decay_form="corrected"
    )
    with pytest.raises(ValueError, match="needs max_lr"):
        opt.param_groups[0]["max_lr"] = 0
    expected = 1.0
    for lr in rates:
        opt.step(np.zeros(2))
        expected *= 1 - lr * lr / 0.4 * 0.5
    np.testing.assert_allclose(p, expected, rtol=1e-15)
    other = optkern.SGD(
        np.ones(2), lr=lambda step: rates[step % 3], max_lr=1.0, decay_form="corrected"
    )
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]["max_lr"] == 0.4


def test_a_largest_rate_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match=r"SGD: max_lr=0\.1 is read by decay_form='corrected' al"):
        optkern.SGD(np.ones(2), max_lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optkern.SGD(np.ones(2), lr=0.1, max_lr=0.1, weight_decay=0.1, decay_form="corrected")
        groups = [{"params": np.ones(2), "decay_form": "corrected"}, {"params": np.ones(2)}]
        optkern.SGD(groups, lr=0.1, max_lr=0.1)  # of the whole, and one group reads it


def test_files_from_before_have_no_max_lr():
    opt = optkern.SGD(np.ones(2), momentum=0.9)
    opt.step(np.ones(2))
    saved = opt.state_dict()
    del saved["param_groups"][0]["max_lr"]
    other = optkern.SGD(np.ones(2), momentum=0.9)
    other.load_state_dict(saved)
    assert other.param_groups[0]["max_lr"] == 0


def test_largest_stable_rates_count_corrected_decay_and_refuse_cautious():
    """At the rate that is given a bounce neither grows nor dies: 1 - decay - lr * c = -1."""
    c, wd, most = 3.0, 2.0, 0.9
    hyper = {"weight_decay": wd, "decay_form": "corrected", "max_lr": most}
    found = optkern.curvature.max_stable_lr(optkern.SGD(np.ones(2), **hyper), np.diag([c, 1.0]))
    lr = found.estimate
    assert lr * lr / most * wd + lr * c == pytest.approx(2, rel=1e-9)
    with pytest.raises(ValueError, match=r"max_stable_lr: no stability limit .*'cautious'"):
        optkern.curvature.max_stable_lr(
            optkern.SGD(np.ones(2), weight_decay=1.0, decay_form="cautious"), np.eye(2)
        )
