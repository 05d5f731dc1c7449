"""Compact state in an optimizer: what is kept, refused and trained."""

import copy
import importlib.util
import itertools
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from compact_runs import (
    STATE_DTYPES,
    arrays,
    dtype_of,
    every_rule,
    every_state_dtype,
    option_sets,
    parts,
    raw,
    run_both,
)
from conftest import Snapshot, assert_same_bits, ordinary

import optkern
from optkern.kernels import codecs, reference
from optkern.optimizers import CLASSES

has_ml_dtypes = importlib.util.find_spec("ml_dtypes") is not None

needs_bfloat16 = pytest.mark.skipif(not has_ml_dtypes, reason="needs ml_dtypes (extra bfloat16)")


# --------------------------------------------------------------------------- the optimizer


@every_state_dtype
def test_memory(state_dtype):
    opt = optkern.Adam(np.zeros(2560, np.float32), state_dtype=state_dtype)
    per_param = {"bfloat16": 2, "int8": 1 + 1 / 256}[state_dtype]
    for slot in ("exp_avg", "exp_avg_sq"):
        state = opt.state[0][slot]
        assert state.nbytes == 2560 * per_param
        assert state.shape == (2560,)
        assert state.state_dtype == state_dtype
        assert state_dtype in repr(state)
        assert np.asarray(state).dtype == np.float32
    assert state_dtype in repr(opt)


@every_state_dtype
def test_new_state_is_memory_that_nobody_has_touched(state_dtype, made_resident):
    grown = made_resident(
        "p = np.zeros(100_000_000, np.float32)",
        f"opt = optkern.Adam(p, state_dtype={state_dtype!r})",
    )
    assert grown < 20e6  # huge pages: 2 MB each


@every_state_dtype
@pytest.mark.parametrize("order", ("C", "F"))
def test_compact_state_is_loaded_from_memory_of_any_kind(state_dtype, order):
    p, q = (np.zeros((30, 20), np.float32) for _ in range(2))
    g = ordinary(np.float32, 600, 0).reshape(p.shape)
    opt, other = (optkern.Adam(x, state_dtype=state_dtype) for x in (p, q))
    opt.step(g)
    saved = opt.state_dict()
    for name, a in saved["state"][0].items():
        if isinstance(a, np.ndarray):
            saved["state"][0][name] = a = a.copy(order=order)
            a.flags.writeable = False
    other.load_state_dict(saved)
    q[...] = p
    opt.step(g)
    other.step(g)
    assert_same_bits(q, p)


def new_optimizer(cls, p, state_dtype, master=True, seed=7):
    options = {"momentum": 0.9} if cls is optkern.SGD else {}
    return cls(p, **options, state_dtype=state_dtype, master_weights=master, seed=seed)


@every_rule
@pytest.mark.parametrize("state_dtype", (None, *STATE_DTYPES))
def test_resuming_is_exact(rule, state_dtype):
    """By state dict, into another seed and memory order; by pickle; by deepcopy."""
    cls = CLASSES[rule.name]
    p = arrays(np.float16, (600,))[0].reshape(20, 30)
    opt = new_optimizer(cls, p, state_dtype)
    gradients = [arrays(np.float16, (600,), 10 + k, 0.1)[0].reshape(20, 30) for k in range(6)]
    for g in gradients[:3]:
        opt.step(g)
    others = [new_optimizer(cls, p.copy(order="F"), state_dtype, seed=8)]
    others[0].load_state_dict(pickle.loads(pickle.dumps(opt.state_dict())))
    others += [pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)]
    for g in gradients[3:]:
        for one in (opt, *others):
            one.step(g)
    for one in others:
        assert_same_bits(raw(np.array(one.params[0])), raw(p))
        for slot, state in opt.state[0].items():
            if isinstance(state, (np.ndarray, codecs.Compact)):
                for a, b in zip(parts(state), parts(one.state[0][slot]), strict=True):
                    np.testing.assert_array_equal(a, b)
    assert others[0].seed == (7 if state_dtype else 8)


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
@every_state_dtype
def test_from_disk(tmp_path, name, state_dtype):
    p = arrays(dtype_of(name), (600,))[0]
    opt = new_optimizer(optkern.AdamW, p, state_dtype)
    opt.step(arrays(np.float32, (600,), 3)[0])
    optkern.save(tmp_path / "state.npz", opt)
    q = np.zeros_like(p)
    other = new_optimizer(optkern.AdamW, q, state_dtype, seed=0)
    optkern.load(tmp_path / "state.npz", other)
    for one in (opt, other):
        one.step(arrays(np.float32, (600,), 4)[0])
    assert_same_bits(raw(q), raw(p))
    assert_same_bits(other.state[0]["master"], opt.state[0]["master"])


def test_a_loaded_state_dict_is_a_copy():
    p = np.zeros(300, np.float32)
    opt = optkern.Adam(p, state_dtype="int8")
    opt.step(ordinary(np.float32, 300, 0))
    saved = opt.state_dict()
    assert all(isinstance(x, (int, float, np.ndarray)) for x in saved["state"][0].values())
    opt.load_state_dict(saved)
    before = Snapshot(*saved["state"][0].values())
    opt.step(ordinary(np.float32, 300, 1))
    before.assert_untouched()


def test_seeds_differ_and_repeat():
    outcomes = []
    for seed in (0, 0, 1):
        p = np.zeros(1000, np.float32)
        opt = optkern.Adam(p, state_dtype="bfloat16", seed=seed)
        for step in range(5):
            opt.step(ordinary(np.float32, 1000, step))
        outcomes.append(p)
    assert_same_bits(outcomes[0], outcomes[1])
    assert (outcomes[0] != outcomes[2]).any()


@every_rule
@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_master_weights_are_a_float32_run(rule, name):
    """The master takes exactly the float32 steps; the parameter is its rounding."""
    dtype = dtype_of(name)
    p = arrays(dtype, (700,))[0]
    q = codecs.widened(p).copy()
    options = option_sets(rule)[1]
    half = CLASSES[rule.name](p, **options, master_weights=True)
    full = CLASSES[rule.name](q, **options)
    for step in range(5):
        g = arrays(dtype, (700,), step, 1e-3)[0]
        half.step(g)
        full.step(codecs.widened(g))
        assert_same_bits(half.state[0]["master"], q)
        rounded = np.empty_like(p)
        codecs.write_rounded(rounded, q)
        assert_same_bits(raw(p), raw(rounded))


def test_master_weights_of_mixed_parameters():
    p = {"half": np.ones(5, np.float16), "single": np.ones(5, np.float32), "double": np.ones(5)}
    opt = optkern.Adam(p, master_weights=True)
    opt.step({name: np.ones(5) for name in p})
    assert ["master" in entry for entry in opt.state.values()] == [True, False, False]
    assert opt.master_weights and "master_weights=True" in repr(opt)


def test_weights_written_by_hand_count_after_rebind():
    p = np.ones(4, np.float16)
    opt = optkern.SGD(p, lr=1e-4, master_weights=True)
    opt.step(np.ones(4, np.float32))  # below half of what float16 resolves at 1
    master = opt.state[0]["master"].copy()
    assert (p == 1).all() and (master < 1).all()
    p[:2] = 3.0
    opt.rebind(p)
    np.testing.assert_array_equal(opt.state[0]["master"], [3, 3, *master[2:]])
    opt.step(np.zeros(4, np.float32))
    np.testing.assert_array_equal(p, [3, 3, 1, 1])


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_weights_loaded_before_the_first_step_count(name):
    """A master made at construction would bring the old ones back with the first step."""
    weights = arrays(dtype_of(name), (5, 300))
    opt = optkern.LARS([np.ones_like(w) for w in weights], lr=0.5, master_weights=True)
    fine = np.float32(1 + 2**-20) * codecs.widened(weights[1])  # rounds to the weights
    opt.state[1]["master"][...] = fine
    for p, w in zip(opt.params, weights, strict=True):
        p[...] = w
    assert_same_bits(opt.state[0]["master"], codecs.widened(weights[0]))
    assert_same_bits(opt.state[1]["master"], fine)
    run_both(opt, lambda step: arrays(np.dtype(np.float32), (5, 300), seed=step + 1))


@pytest.mark.parametrize("how", ("skip", "raise"))
@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_nonfinite_half_precision_gradients(how, name):
    p = arrays(dtype_of(name), (2000,))[0]
    opt = optkern.Adam(p, state_dtype="int8", on_nonfinite=how)
    for strange in (np.inf, np.nan):
        g = np.zeros(p.size, p.dtype)
        g[1999] = strange
        before = Snapshot(
            p, *(a for x in ("exp_avg", "exp_avg_sq") for a in opt.state[0][x].arrays)
        )
        if how == "raise":
            with pytest.raises(ValueError, match="NaN or inf"):
                opt.step(g)
        else:
            assert not opt.step(g)
        before.assert_untouched()
        g[1999] = 1
        assert opt.step(g)


@needs_bfloat16
def test_bfloat16_gradients_of_every_parameter():
    bfloat16 = dtype_of("bfloat16")
    for dtype in (np.float32, np.float64, np.float16, bfloat16):
        p = np.ones(300, dtype)
        g = arrays(bfloat16, (300,))[0]
        opt = optkern.SGD(p, lr=0.5)
        q = p.copy()
        optkern.SGD(q, lr=0.5).step(codecs.widened(g))
        opt.step(g)
        assert_same_bits(raw(p), raw(q))
        opt.step(g.astype(np.float64))  # and back: the dtype may change from call to call
        opt.step(g[::-1][::-1])


def test_ml_dtypes_is_not_imported(run_python):
    done = run_python("import sys, optkern; print('ml_dtypes' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "options, error, words",
    (
        ({"state_dtype": "int4"}, ValueError, "state_dtype must be None, 'bfloat16', 'int8'"),
        ({"state_dtype": np.int8}, ValueError, "state_dtype must be"),
        ({"state_dtype": np.zeros(2)}, ValueError, "state_dtype must be"),
        ({"seed": -1}, ValueError, r"seed must be an integer in \[0, 2\*\*64\), got -1"),
        ({"seed": 2**64}, ValueError, "seed must be"),
        ({"seed": 0.5}, TypeError, "seed must be"),
        ({"seed": True}, TypeError, "seed must be"),
        ({"master_weights": 1}, ValueError, "master_weights must be True or False, got 1"),
    ),
)
def test_bad_options(options, error, words):
    with pytest.raises(error, match=f"Adam: {words}"):
        optkern.Adam(np.zeros(3, np.float32), **options)


@every_state_dtype
def test_float64_parameters_have_no_compact_state(state_dtype):
    params = {"a": np.zeros(3, np.float32), "b": np.zeros(3)}
    with pytest.raises(ValueError, match=f"Adam: state_dtype='{state_dtype}'.*'b' is float64"):
        optkern.Adam(params, state_dtype=state_dtype)


@every_state_dtype
def test_centered_averages_are_not_compact(state_dtype):
    p = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="RMSprop: centered=True is not possible with state_dtype"):
        optkern.RMSprop(p, centered=True, state_dtype=state_dtype)
    opt = optkern.RMSprop(p, state_dtype=state_dtype)
    with pytest.raises(ValueError, match="centered"):
        opt.param_groups[0]["centered"] = True
    opt.step(np.ones(3, np.float32))


@pytest.mark.parametrize("name", ("float16", "bfloat16"))
def test_bad_half_precision_arrays(name):
    dtype = dtype_of(name)
    p = np.zeros(4, dtype)
    frozen = p.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 0 is read-only"):
        optkern.Adam(frozen)
    with pytest.raises(ValueError, match="overlap"):
        optkern.Adam([p[:3], p[1:]])
    opt = optkern.Adam(p)
    with pytest.raises(ValueError, match="overlaps parameter 0 in memory"):
        opt.step(p)
    with pytest.raises(ValueError, match="shape"):
        opt.step(np.zeros(3, dtype))
    with pytest.raises(TypeError, match="real floating"):
        opt.step(np.zeros(4, np.int16))
    with pytest.raises(ValueError, match="must have shape"):
        opt.rebind(np.zeros(4, np.float32))
    opt.step(np.ones(4, dtype))


def without(entry, name):
    return {k: v for k, v in entry.items() if k != name}


BAD_STATE = {
    "no scales": (lambda e: without(e, "exp_avg_scales"), "exp_avg_scales"),
    "no codes": (lambda e: without(e, "exp_avg"), "has no 'exp_avg'"),
    "codes of another dtype": (
        lambda e: {**e, "exp_avg": e["exp_avg"].astype(np.float32)},
        "uint8",
    ),
    "codes of another shape": (lambda e: {**e, "exp_avg": e["exp_avg"][:-1]}, "shape"),
    "too few scales": (lambda e: {**e, "exp_avg_scales": e["exp_avg_scales"][:-1]}, "shape"),
    "scales that are no array": (lambda e: {**e, "exp_avg_scales": [1, 2]}, "exp_avg"),
}


@pytest.mark.parametrize("case", BAD_STATE)
def test_bad_compact_state_dicts(case):
    change, words = BAD_STATE[case]
    p = np.zeros(300, np.float32)
    opt = optkern.Adam(p, state_dtype="int8")
    opt.step(np.ones(300, np.float32))
    saved = opt.state_dict()
    saved["state"][0] = change(saved["state"][0])
    before = Snapshot(p, *opt.state[0]["exp_avg"].arrays)
    with pytest.raises(ValueError, match=re.escape(words)):
        opt.load_state_dict(saved)
    before.assert_untouched()
    opt.step(np.ones(300, np.float32))


@pytest.mark.parametrize("mine, theirs", list(itertools.permutations((None, *STATE_DTYPES), 2)))
def test_state_of_another_state_dtype_is_refused(mine, theirs):
    opt = optkern.Adam(np.zeros(3, np.float32), state_dtype=mine)
    other = optkern.Adam(np.zeros(3, np.float32), state_dtype=theirs)
    words = f"saved with state_dtype={theirs!r}, this optimizer has state_dtype={mine!r}"
    with pytest.raises(ValueError, match=re.escape(words)):
        opt.load_state_dict(other.state_dict())


def test_a_missing_master_is_named():
    p = np.zeros(3, np.float16)
    opt = optkern.Adam(p, master_weights=True)
    with pytest.raises(ValueError, match="has no 'master'"):
        opt.load_state_dict(optkern.Adam(p.copy()).state_dict())


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_one_number_as_an_array(state_dtype):
    p, q, g = (np.array(x, np.float32) for x in (1.0, 1.0, 0.5))
    opt, other = (optkern.Adam(x, state_dtype=state_dtype) for x in (p, q))
    state = [other.state[0].get(slot) for slot in opt.rule.state]
    for step in (1, 2):
        opt.step(g)
        hyper = {**opt.rule.hyperparameters, "step": step}
        reference.update(opt.rule, q, g, state, hyper, opt.seed, 0, None)
        assert_same_bits([p], [q])
        for slot, b in zip(opt.rule.state, state):
            if b is not None:
                assert np.asarray(opt.state[0][slot]).shape == ()
                assert_same_bits([np.asarray(opt.state[0][slot])], [np.asarray(b)])


@pytest.mark.slow
@every_state_dtype
def test_compact_states_train(state_dtype):
    """A short piece of what bench/train_compact.py shows."""
    pytest.importorskip("sklearn", reason="scikit-learn's digits")
    path = Path(__file__).parent.parent / "bench" / "train_compact.py"
    spec = importlib.util.spec_from_file_location("train_compact", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_compact"] = module
    spec.loader.exec_module(module)
    run = next(run for run in module.RUNS if run.name == "Adam")
    plain, stored = (module.final_loss(run, 1000, 0, x) for x in (None, state_dtype))
    assert abs(stored / plain - 1) <= module.ALLOWED[state_dtype]


@pytest.mark.parametrize(
    ("state_dtype", "moved"), [("int8", (0.009, 0.0135)), ("bfloat16", (0.99, 1.01))]
)
def test_what_a_spike_does_to_its_block_is_as_documented(state_dtype, moved):
    """docs/compact.md: after 1e6 among 1e-2, a thousand steps of Adam at 1e-3, to three digits."""
    p, g = np.zeros(256, np.float32), np.full(256, 1e-2, np.float32)
    opt = optkern.Adam(p, lr=1e-3, state_dtype=state_dtype)
    spike = g.copy()
    spike[0] = 1e6
    opt.step(spike)
    begin = p[1:].copy()
    for _ in range(1000):
        opt.step(g)
    assert moved[0] <= round(float(np.mean(begin - p[1:])), 3) <= moved[1]
