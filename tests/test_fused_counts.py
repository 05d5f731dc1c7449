"""Options that count calls: `max_skips`, and `accumulate` as a schedule."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from conftest import Snapshot, assert_same_bits, copies
from fused_runs import Twin, arrays, assert_equal_twin, with_gaps

import optkern
from optkern.schedules import Linear, MultiStep, Piecewise

BAD, GOOD = np.array([1.0, np.nan]), np.ones(2)
WORDS = r"SGD: gradient of parameter 0 holds NaN or inf, after 2 calls .*\(max_skips\); nothing"


def skipping(**more):
    return optkern.SGD(np.ones(2), lr=0.125, on_nonfinite="skip", max_skips=2, **more)


@pytest.mark.parametrize("more", ({}, {"clip_norm": 1.0}, {"zero_grad": True}), ids=str)
def test_one_call_more_than_may_be_skipped_is_an_error(more):
    opt = skipping(**more)
    for _ in range(2):  # a good call in between begins to count anew
        assert [opt.step(BAD.copy()) for _ in range(2)] == [False, False]
        g = BAD.copy()
        before, state = Snapshot(*opt.params, g), pickle.dumps(opt.state_dict())
        for _ in range(2):
            with pytest.raises(ValueError, match=WORDS):
                opt.step(g)
        before.assert_untouched()
        assert pickle.dumps(opt.state_dict()) == state
        assert opt.step(GOOD.copy()) is True
    assert opt.skipped_steps == 4 and opt.steps == 2
    opt.max_skips = None
    assert [opt.step(BAD.copy()) for _ in range(9)] == [False] * 9


def test_it_counts_on_in_copies_files_and_new_plans(tmp_path):
    opt = skipping()
    opt.step(BAD)
    opt.step(BAD)
    loaded, resumed = skipping(), skipping()
    loaded.load_state_dict(opt.state_dict())
    optkern.save(tmp_path / "run.npz", opt)
    optkern.load(tmp_path / "run.npz", resumed)
    opt.ema_decay = 0.5  # another plan
    for one in (opt, loaded, resumed, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        with pytest.raises(ValueError, match=WORDS):
            one.step(BAD)
    loaded.load_state_dict(skipping().state_dict())
    assert loaded.step(BAD) is False


def test_rows_and_accumulated_calls_count_too():
    opt = optkern.SGD(np.ones((3, 2)), on_nonfinite="skip", max_skips=1)
    assert opt.step_rows([0], BAD[None]) is False
    with pytest.raises(ValueError, match="after 1 calls that were skipped"):
        opt.step_rows([0], BAD[None])
    assert opt.step_rows([0], GOOD[None]) is True
    opt = skipping(accumulate=2)
    assert [opt.step(g) for g in (BAD, BAD, GOOD, BAD, BAD)] == [False] * 5
    with pytest.raises(ValueError, match=WORDS):
        opt.step(BAD)
    assert opt.step(GOOD) is True


@pytest.mark.parametrize("way", ["propagate", "raise"])
def test_a_limit_of_skips_where_none_is_skipped_is_refused(way):
    words = f"SGD: max_skips=1 is a limit of calls that .*='skip' leaves out, and .* is '{way}'"
    with pytest.raises(ValueError, match=words):
        optkern.SGD(np.ones(2), max_skips=1, on_nonfinite=way)
    opt = optkern.SGD(np.ones(2), on_nonfinite=way)
    with pytest.raises(ValueError, match=words):
        opt.max_skips = 1
    opt.on_nonfinite = "skip"
    opt.max_skips = 1
    with pytest.raises(ValueError, match=words):
        opt.on_nonfinite = way
    assert opt.on_nonfinite == "skip"
    assert not opt.step(BAD)
    opt.max_skips = None
    opt.on_nonfinite = way


@pytest.mark.parametrize("way", ["a dict", "a file"])
def test_a_limit_of_skips_is_loaded_where_calls_are_skipped(tmp_path, way):
    """Nothing has been loaded where it is refused; once the word is set, all is."""
    old, p = optkern.SGD(np.ones(2), lr=0.5, on_nonfinite="skip", max_skips=1), np.ones(2)
    assert old.step(GOOD)
    optkern.save(tmp_path / "run.npz", old)
    opt = optkern.SGD(p, on_nonfinite="raise")

    def load():
        if way == "a dict":
            opt.load_state_dict(old.state_dict())
        else:
            optkern.load(tmp_path / "run.npz", opt)

    with pytest.raises(ValueError, match=r"max_skips=1 is a limit .* on_nonfinite is 'raise'"):
        load()
    assert (opt.max_skips, opt.steps, opt.param_groups[0]["lr"]) == (None, 0, 1e-3)
    assert (p == 1).all()
    opt.on_nonfinite = "skip"
    load()
    assert (opt.max_skips, opt.steps, opt.param_groups[0]["lr"]) == (1, 1, 0.5)


def test_a_rate_beyond_the_largest_is_refused():
    beyond = "lr=0.2 is beyond max_lr=0.1, which for decay_form='corrected' is the largest"
    with pytest.raises(ValueError, match=f"AdamW: {beyond}"):
        optkern.AdamW(np.ones(2), lr=0.2, max_lr=0.1, decay_form="corrected")
    opt = optkern.AdamW(
        np.ones(2), lr=Linear(0.1, end=0.3, total_iters=2), max_lr=0.1, decay_form="corrected"
    )
    assert opt.step(GOOD)
    before = opt.params[0].copy()
    with pytest.raises(ValueError, match=beyond):
        opt.step(GOOD)
    assert (opt.params[0] == before).all() and opt.steps == 1
    opt.param_groups[0]["lr"] = 0.1 * (1 + 1e-12)  # by rounding
    with pytest.raises(ValueError, match=beyond):
        opt.param_groups[0]["lr"] = 0.2


def test_torch_counts_on():
    torch = pytest.importorskip("torch", reason="trains its tensors")
    from optkern.integrations.torch import SGD

    p = torch.nn.Parameter(torch.ones(2))
    opt = SGD([p], lr=0.1, on_nonfinite="skip", max_skips=1)
    p.grad = torch.tensor([1.0, float("nan")])
    opt.step()
    p.data = p.data.clone()  # bound anew
    with pytest.raises(ValueError, match="after 1 calls that were skipped"):
        opt.step()


# --------------------------------------------------------------------------- accumulate


def windows(step):
    return (1, 3, 2)[step % 3]


@pytest.mark.parametrize("options", ({}, {"clip_norm": 1.0, "zero_grad": True, "ema_decay": 0.9}))
def test_windows_of_a_schedule_are_those_of_numbers(options):
    opt = optkern.Adam(arrays(), accumulate=windows, **options)
    twin = Twin(opt.rule, arrays(), accumulate=windows(0), **options)
    for k, grads in enumerate(with_gaps([arrays(seed) for seed in range(1, 14)])):
        twin.options["accumulate"] = windows(opt.steps)
        assert opt.step(copies(grads)) is twin.step(copies(grads)), k
    assert opt.steps == 7 and opt.accumulate is windows
    assert_equal_twin(opt, twin)


def test_schedules_of_floats_give_counts():
    p, q = np.ones(2), np.ones(2)
    opt = optkern.SGD(p, lr=0.5, accumulate=MultiStep(1, milestones=[2, 3], gamma=2))
    assert [opt.step(GOOD) for _ in range(8)] == [True, True, False, True] + [False] * 3 + [True]
    optkern.SGD(q, lr=2.0).step(GOOD)
    assert_same_bits(p, q)
    with pytest.raises(ValueError, match=r"SGD: at step 0: accumulate must be .*got 1\.5"):
        optkern.SGD(p, accumulate=lambda step: 1.5)
    with pytest.raises(TypeError, match="accumulate must be a number or a callable step -> number"):
        optkern.SGD(p, accumulate=lambda: 2)
    opt = optkern.SGD(p, accumulate=lambda step: 1 - step)
    assert opt.step(GOOD) is True
    with pytest.raises(ValueError, match="SGD: at step 1: accumulate must be an integer"):
        opt.step(GOOD)


def test_a_schedule_between_whole_numbers_is_told_where_it_is_given():
    words = (
        r"accumulate must be whole at every step, Linear\(.*gives 1\.03 at step 1; schedules\.Piece"
    )
    with pytest.raises(ValueError, match=f"SGD: {words}"):
        optkern.SGD(np.ones(2), accumulate=Linear(1, end=4, total_iters=100))
    opt = optkern.SGD(np.ones(2))
    with pytest.raises(ValueError, match=words):
        opt.accumulate = Linear(1, end=4, total_iters=100)
    opt.accumulate = Piecewise({0: 1, 2: 3}, interpolate="hold")  # as it says
    assert [opt.step(GOOD) for _ in range(5)] == [True, True, False, False, True]


IDLE = {
    "accumulate_form is of several calls": {"accumulate_form": "sum"},
    "dampening is of momentum": {"dampening": 0.5},
    "master_weights is for float16": {"master_weights": True},
    "weight_rounding is for float16": {"weight_rounding": "nearest"},
    "seed is of random rounding": {"seed": 3},
}
READ = {"momentum": 0.9, "accumulate": 2}


@pytest.mark.parametrize("words", IDLE)
def test_what_nothing_reads_is_told(words):
    with pytest.warns(UserWarning, match=f"SGD: {words}.* it does nothing") as w:
        optkern.SGD(np.ones(2), **IDLE[words])
    assert w[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optkern.SGD(np.ones(2, np.float16), **READ | IDLE[words])


@pytest.mark.parametrize("calls", (1, 2, 3, 5))
def test_goes_on_from_a_file_in_any_window(calls, tmp_path):
    def make():
        return optkern.Adam(arrays(), accumulate=windows)

    whole, opt, resumed = make(), make(), make()
    for seed in range(calls):
        assert whole.step(arrays(seed)) is opt.step(arrays(seed))
    optkern.save(tmp_path / "run.npz", opt)
    optkern.load(tmp_path / "run.npz", resumed)
    for seed in range(calls, 9):
        assert whole.step(arrays(seed)) is resumed.step(arrays(seed))
    assert_same_bits(whole.params, resumed.params)


def test_flush_takes_what_there_is_of_a_window():
    p = np.zeros(2)
    opt = optkern.SGD(p, lr=1.0, accumulate=lambda step: 4)
    opt.step(GOOD)
    opt.step(3 * GOOD)
    assert opt.flush() is True
    assert_same_bits(p, -2 * GOOD)
