"""Sharded optimizers: bit for bit the dense ones, whatever is cut where; what ranks agree on.

The ranks are threads here, over five operations in NumPy (mpi_ranks.py); those of
test_mpi_processes.py are real ones.
"""

import weakref

import mpi_ranks
import numpy as np
import pytest
from conftest import spread

import optkern
import optkern.mpi
from optkern.mpi.layout import BLOCK, Layout, Wanted
from optkern.ranks import agreement
from optkern.rules import MATRIX_RULES, RULES

Sharded, RankError = optkern.mpi.Sharded, optkern.mpi.RankError
rng = np.random.default_rng(3)
SHAPES = {"W": (90, 130), "b": (130,), "s": (), "e": (0, 3), "V": (70, 120)}
AROUND = {
    "plain": {},
    "clipped": {"clip_norm": 1.0, "weight_decay": 0.1},
    "accumulated": {"accumulate": 2, "ema_decay": 0.9, "clip_norm": 0.5},
    "whole": {"clip_norm_per_tensor": 0.5, "clip_value": 0.1},
    "cautious": {"cautious": True, "lookahead": (2, 0.5)},
    "rms": {"clip_update_rms": 1.0, "zero_grad": True},
    "units": {"centralize": True, "adaptive_clip": 0.01},
    "compact": {"state_dtype": "int8"},
}


def values(shapes=SHAPES, dtype=np.float32, seed=1, scale=1.0):
    draw = np.random.default_rng(seed)
    return {k: np.array(scale * draw.standard_normal(s), dtype) for k, s in shapes.items()}


def train(opt, params, steps=4, gradient=values, dtype=np.float32):
    for k in range(steps):
        opt.step({n: g for n, g in gradient(dtype=dtype, seed=50 + k).items() if n in params})
    return params


def compared(ranks, make, shapes=SHAPES, dtype=np.float32, gradient=values, bucket=30_000):
    """Train dense and sharded; the parameters of each rank must have the dense ones' bits."""
    dense_params = values(shapes, dtype)
    dense = make(optkern, dense_params)
    train(dense, dense_params, gradient=gradient, dtype=dtype)

    def work(rank):
        params = values(shapes, dtype, seed=1 if rank.rank == 0 else 9)  # rank 0's are taken
        opt = make(Sharding(rank, bucket), params)
        train(opt, params, gradient=gradient, dtype=dtype)
        assert opt.last_grad_norm == dense.last_grad_norm and opt.steps == dense.steps
        return params

    for params in mpi_ranks.run(ranks, work):
        for name in params:
            assert params[name].tobytes() == dense_params[name].tobytes(), name


class Sharding:
    """Stand in the place of the module: its classes are sharded."""

    def __init__(self, rank, bucket):
        self.rank, self.bucket = rank, bucket

    def __getattr__(self, name):
        cls = getattr(optkern, name)
        return lambda params, **options: Sharded(
            cls, params, comm=self.rank, bucket_bytes=self.bucket, **options
        )


def possible(rule, options):
    """Leave out what a rule does not have: the weight decay of some, options that it refuses."""
    options = {k: v for k, v in options.items() if k != "weight_decay" or k in rule.hyperparameters}
    try:
        getattr(optkern, rule.class_name)(values(), **options)
    except ValueError as error:
        if "not possible" not in str(error):
            raise
        pytest.skip(str(error)[:80])
    return options


@spread(one_in=16, rule=RULES, around=list(AROUND), ranks=(1, 2, 4))
def test_every_rule_is_the_dense_one_bit_for_bit(rule, around, ranks):
    options = possible(rule, AROUND[around])
    compared(ranks, lambda where, params: getattr(where, rule.class_name)(params, **options))


@pytest.mark.parametrize("rule", MATRIX_RULES, ids=lambda rule: rule.name)
def test_matrix_rules_are_given_whole_matrices(rule):
    shapes = {"W": (12, 9), "V": (7, 12), "U": (3, 3)}

    def small(dtype, seed):
        return values(shapes, dtype, seed)

    options = {"clip_norm": 1.0}
    compared(2, lambda w, p: getattr(w, rule.class_name)(p, **options), shapes, gradient=small)


@pytest.mark.parametrize("ranks", (1, 2, 4))
def test_sums_over_all_arrays_are_of_all_ranks(ranks):
    """Prodigy's d: also where a rank has no array of the rule, or the only one with a gradient."""

    shapes = {"W": (90, 130), "b": (130,), "V": (70, 120)}

    def all_of_them(dtype, seed):
        return values(shapes, dtype, 5)  # one way on and on: d grows

    def some(dtype, seed):
        given = all_of_them(dtype, seed)
        return {k: g if seed % 3 != 1 or k == "b" else None for k, g in given.items()}

    def make(where, params):
        groups = [
            {"params": {k: params[k] for k in "WV"}, "weight_decay": 0.1, "d0": 1e-4},
            {"params": {"b": params["b"]}, "lr": 0.5, "d0": 1e-4},
        ]
        return Grouped(where.Prodigy(groups, clip_norm=100.0), groups)

    def plain(where, params):
        return where.Prodigy(params, d0=1e-4)

    class Grouped:
        def __init__(self, opt, groups):
            self.opt, self.groups = opt, groups

        def step(self, given):
            return self.opt.step([{k: given.get(k) for k in g["params"]} for g in self.groups])

        def __getattr__(self, name):
            return getattr(self.opt, name)

    for how, gradient in ((make, some), (plain, all_of_them), (plain, some)):
        compared(ranks, how, shapes, gradient=gradient)
    alone = values(shapes)
    dense = plain(optkern, alone)
    train(dense, alone, gradient=some)
    assert dense.d > 1e-4


def test_several_rules_and_groups():
    def make(where, params):
        return where.Mixed(
            optkern.groups(params, muon="Muon", rule="AdamW", head=("V",), lr=0.01), clip_norm=1.0
        )

    compared(2, make, {"W": (90, 130), "b": (130,), "V": (70, 120)})


def test_groups_keep_their_hyperparameters():
    def make(where, params):
        groups = [
            {"params": [params["W"], params["V"]], "weight_decay": 0.1},
            {"params": [params["b"]], "lr": 0.5, "weight_decay": 0.0},
        ]
        return Grouped(where.AdamW(groups, lr=0.1), params)

    class Grouped:
        def __init__(self, opt, params):
            self.opt = opt

        def step(self, g):
            return self.opt.step([[g["W"], g["V"]], [g["b"]]])

        def __getattr__(self, name):
            return getattr(self.opt, name)

    compared(2, make, {"W": (90, 130), "b": (130,), "V": (70, 120)})


@pytest.mark.parametrize("master", (False, True))
def test_16_bits_are_added_in_float32(master):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype in (np.float16, bfloat16):
        options = {"lr": 0.1, "clip_norm": 1.0, "master_weights": master}
        compared(2, lambda w, p, o=options: w.AdamW(p, **o), dtype=dtype)

    def work(rank):  # 1 + 2**-8 is no bfloat16: a sum in 16 bits would be 1
        p = np.zeros(3, bfloat16)
        opt = Sharded(optkern.SGD, p, comm=rank, lr=1.0, master_weights=True)
        opt.step(np.full(3, 1.0 if rank.rank else 1 + 2**-7, bfloat16))
        return opt.share.state[0]["master"]

    assert any((m == -(1 + 2**-8)).all() and m.size for m in mpi_ranks.run(2, work))


@pytest.mark.parametrize("scale", (1e200, 1e-200))
def test_norms_beyond_the_range_of_squares(scale):
    def far(dtype, seed):
        draw = values(dtype=dtype, seed=seed)
        return {k: g * scale if k in ("W", "b") else g * min(scale, 1) for k, g in draw.items()}

    compared(2, lambda w, p: w.SGD(p, lr=0.1, clip_norm=1.0), dtype=np.float64, gradient=far)


def test_sums_of_calls_beyond_the_range():
    """Accumulators of one rank come near the end: those of all are held at a smaller scale."""

    def large(dtype, seed):
        draw = values(dtype=dtype, seed=seed, scale=1e-3)
        draw["V"] = np.full(SHAPES["V"], 1.6e38, dtype)
        return draw

    options = {"lr": 0.1, "accumulate": 4, "clip_norm": 1.0}
    compared(2, lambda w, p: w.SGD(p, **options), gradient=large)


def test_gradients_are_averaged_and_steps_repeat():
    def work(rank):
        params = values()
        opt = Sharded(optkern.AdamW, params, comm=rank, lr=0.1, clip_norm=1.0)
        for k in range(3):
            opt.step(values(seed=10 * k + rank.rank))
        return params

    first, again = mpi_ranks.run(3, work), mpi_ranks.run(3, work)
    dense = values()
    opt = optkern.AdamW(dense, lr=0.1, clip_norm=1.0)
    for k in range(3):
        parts = [values(seed=10 * k + r) for r in range(3)]
        opt.step({n: (parts[0][n] + parts[1][n] + parts[2][n]) / np.float32(3) for n in dense})
    for params in (*first, *again):
        for name in params:
            assert params[name].tobytes() == dense[name].tobytes(), name


def test_state_is_shared_out():
    def work(rank):
        opt = Sharded(optkern.Adam, {"W": np.zeros((1000, 100), np.float32)}, comm=rank)
        opt.step({"W": np.ones((1000, 100), np.float32)})
        return opt.report()

    for report in mpi_ranks.run(4, work):
        assert report.state_bytes <= 2 * 4 * 100_000 / 4 + 2 * 4 * BLOCK
        assert report.bytes_moved == pytest.approx(2 * 4 * 100_000 * 3 / 4, rel=0.01)
        assert "rank" in str(report) and report.steps == 1


def test_weights_written_by_hand_count_and_views_are_the_arrays():
    def work(rank):
        p = np.ones((100, 100), np.float32)
        opt = Sharded(optkern.SGD, p.T, comm=rank, lr=1.0)
        p[...] = 5
        opt.step(np.ones((100, 100), np.float32))
        q = np.ones(5, np.float32)
        other = Sharded(optkern.SGD, q, comm=rank, lr=1.0, write_back=False)
        other.gradients[...] = 0.5
        other.step(other.gradients)
        return p, q, other.views

    for p, q, view in mpi_ranks.run(2, work):
        assert (p == 4).all() and (q == 1).all() and (view == 0.5).all()


def test_a_bucket_is_stepped_while_others_are_sent():
    """The first one's parameters are on their way before the next one's gradients are awaited."""
    events = []

    class Watched(mpi_ranks.ThreadRank):
        def __init__(self, rank):
            vars(self).update(vars(rank))

        def reduce_scatter(self, send, counts, receive):
            request = super().reduce_scatter(send, counts, receive)
            request.wait = lambda: events.append("gradients are here")
            return request

        def all_gather(self, buffer, counts):
            events.append("parameters go")
            return super().all_gather(buffer, counts)

    def work(rank):
        params = values()
        opt = Sharded(
            optkern.Adam,
            params,
            comm=Watched(rank) if rank.rank == 0 else rank,
            bucket_bytes=30_000,
        )
        opt.step(values(seed=5))
        if rank.rank == 0:  # whose events they are
            events.clear()
        opt.step(values(seed=6))
        optkern.ranks.agreement_of(opt.ranks).close()
        assert opt.steps == 2 and len(opt.layout.buckets) == 3

    mpi_ranks.run(2, work)
    events = events[1:]  # what ranks agree on goes before
    assert events == ["gradients are here", "parameters go"] * 3


def test_averages_on_all_ranks():
    def work(rank):
        params = values()
        opt = Sharded(optkern.SGD, params, comm=rank, lr=0.1, ema_decay=0.5)
        train(opt, params)
        with opt.averaged():
            with pytest.raises(RuntimeError, match="averages"):
                opt.step(values())
            inside = {k: p.copy() for k, p in params.items()}
        return inside, params

    dense_params = values()
    dense = optkern.SGD(dense_params, lr=0.1, ema_decay=0.5)
    train(dense, dense_params)
    for inside, params in mpi_ranks.run(2, work):
        assert all((params[k] == dense_params[k]).all() for k in params)
        with dense.averaged():
            assert all((inside[k] == dense_params[k]).all() for k in params)


def test_a_last_window_is_flushed():
    def make(where, params):
        return where.SGD(params, lr=0.1, accumulate=3, clip_norm=1.0)

    def work(rank):
        params = values()
        opt = make(Sharding(rank, 10_000), params)
        train(opt, params, steps=2)
        assert opt.flush() is True and opt.flush() is False
        return params

    dense_params = values()
    dense = make(optkern, dense_params)
    train(dense, dense_params, steps=2)
    dense.flush()
    for params in mpi_ranks.run(2, work):
        assert all((params[k] == dense_params[k]).all() for k in params)


def test_new_arrays_in_the_parameters_places():
    """As `Optimizer.rebind`: the state stays, and what the new arrays hold counts."""
    dense_params = values()
    dense = optkern.AdamW(dense_params, lr=0.1)
    train(dense, dense_params, steps=2)
    others = values(seed=7)
    dense.rebind(others)
    train(dense, others, steps=2)

    def work(rank):
        params, new = values(), values(seed=7)
        opt = Sharded(optkern.AdamW, params, comm=rank, lr=0.1, bucket_bytes=30_000)
        train(opt, params, steps=2)
        kept = {k: p.copy() for k, p in params.items()}
        wrong = {**new, "b": np.zeros(3, np.float32)} if rank.rank == 1 else new
        with pytest.raises((ValueError, RankError)) as error:
            opt.rebind(wrong)
        said.append(str(error.value))
        opt.rebind(new)
        train(opt, new, steps=2)
        assert all((params[k] == kept[k]).all() for k in params)
        return new

    said = []
    for new in mpi_ranks.run(2, work):
        assert all(new[k].tobytes() == others[k].tobytes() for k in new)
    assert any("rank 1 could not rebind" in text for text in said)
    assert any("'b' must have shape (130,)" in text for text in said)
    opt = Sharded(optkern.SGD, values(), comm=optkern.mpi.Alone(), lr=1.0, write_back=False)
    with pytest.raises(ValueError, match="write into views"):
        opt.rebind(values())


FORMS = {
    "an array": lambda p: (p["W"], p["W"]),
    "a list": lambda p: ([p["W"], [p["b"]]], [p["W"], [p["b"]]]),
    "groups": lambda p: ([{"params": p["W"], "lr": 0.2}, {"params": {"b": p["b"]}}],
                         [p["W"], {"b": p["b"]}]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_views_alone_are_trained_and_what_was_given_is_let_go(form):
    def work(rank):
        params = values()
        seen = weakref.ref(params["W"])
        opt = Sharded(optkern.Adam, FORMS[form](params)[0], comm=rank, lr=0.1, write_back=False)
        del params
        assert seen() is None
        for k in range(2):
            opt.step(FORMS[form](values(seed=5 + k))[1])
        return [view.tobytes() for view in opt.memory.views]

    params = values()
    dense = optkern.Adam(FORMS[form](params)[0], lr=0.1)
    for k in range(2):
        dense.step(FORMS[form](values(seed=5 + k))[1])
    for found in mpi_ranks.run(2, work):
        assert found == [p.tobytes() for p in dense.params]


# --------------------------------------------------------------------------- what is not finite


@pytest.mark.parametrize("clip_norm", (None, 1.0))
@pytest.mark.parametrize("place", ("W", "V"))
def test_nan_on_one_rank_is_skipped_by_all(clip_norm, place):
    def work(rank):
        params = values()
        opt = Sharded(
            optkern.Adam, params, comm=rank, clip_norm=clip_norm, on_nonfinite="skip", max_skips=1
        )
        grads = values(seed=5)
        if rank.rank == 1:
            grads[place][3, 3] = np.nan
        before = {k: p.copy() for k, p in params.items()}
        assert opt.step(grads) is False and (opt.steps, opt.skipped_steps) == (0, 1)
        assert all((params[k] == before[k]).all() for k in params)
        with pytest.raises(ValueError, match=rf"'{place}' holds NaN or inf, after 1 calls"):
            opt.step(grads)
        return opt.step(values(seed=5))

    assert mpi_ranks.run(2, work) == [True, True]


# --------------------------------------------------------------------------- what ranks agree on


def caught(make):
    """Return each rank's error."""

    def work(rank):
        with pytest.raises((RankError, TypeError, ValueError)) as error:
            make(rank, rank.rank == 1)
        return f"{error.type.__name__}: {error.value}"

    return mpi_ranks.run(2, work)


DIFFERING = {
    "lr of 0.2": (lambda r, odd: {"lr": 0.2 if odd else 0.1}, "'lr': rank 0 has 0.1, rank 1 0.2"),
    "an option": (lambda r, odd: {"clip_norm": 2.0 if odd else None}, "'clip_norm': rank 0 has nu"),
    "a setting": (lambda r, odd: {"on_nonfinite": "skip" if odd else "raise"}, "'on_nonfinite'"),
    "a schedule": (
        lambda r, odd: {"lr": optkern.schedules.Cosine(0.1, 9) if odd else 0.1},
        "'lr': rank 0 has 0.1, rank 1 ",
    ),
    "a timeout": (lambda r, odd: {"timeout": -1 if odd else 60}, "timeout must be"),
    "a flag": (lambda r, odd: {"write_back": "no" if odd else True}, "write_back must be"),
    "buckets": (lambda r, odd: {"bucket_bytes": 0 if odd else 9}, "bucket_bytes must be"),
    "a slip": (lambda r, odd: {"bettas": (0, 0)} if odd else {}, "did you mean betas"),
}


@pytest.mark.parametrize("case", DIFFERING)
def test_ranks_that_differ_in_options(case):
    options, said = DIFFERING[case]
    for text in caught(
        lambda rank, odd: Sharded(optkern.AdamW, values(), comm=rank, **options(rank, odd))
    ):
        assert said in text


PARAMS = {
    "shapes": ({"W": np.ones(3)}, {"W": np.ones(4)}, "shapes 'W' [0]: rank 0 has 3, rank 1 4"),
    "dtypes": ({"W": np.ones(3)}, {"W": np.ones(3, np.float32)}, "dtypes 'W'"),
    "names": ({"W": np.ones(3)}, {"V": np.ones(3)}, 'names [0]: rank 0 has "W", rank 1 "V"'),
    "number": ([np.ones(3)], [np.ones(3)] * 1 + [np.ones(2)], "names: rank 0 has [0], rank 1 [0,"),
    "refused": ([np.ones(3)], [np.ones(3, int)], "float32 or float64, got int64"),
}


@pytest.mark.parametrize("case", PARAMS)
def test_ranks_that_differ_in_parameters(case):
    mine, theirs, said = PARAMS[case]
    for text in caught(
        lambda rank, odd: Sharded(optkern.AdamW, theirs if odd else mine, comm=rank)
    ):
        assert said in text


def test_ranks_that_differ_in_version(monkeypatch):
    versions = iter(("1.0", "1.1"))
    monkeypatch.setattr(optkern.mpi.facts, "version_here", lambda: next(versions))
    for text in caught(lambda rank, odd: Sharded(optkern.AdamW, values(), comm=rank)):
        assert "ranks disagree on optkern's version" in text


def test_what_a_step_refuses_on_one_rank_is_done_on_none():
    def work(rank):
        odd, params = rank.rank == 1, values()
        opt = Sharded(optkern.AdamW, params, comm=rank, lr=0.1)
        before = {k: p.copy() for k, p in params.items()}
        grads = values(seed=2)
        said = []

        def refused(act):
            with pytest.raises((RankError, TypeError, ValueError)) as error:
                act()
            said.append(f"{error.type.__name__}: {error.value}")

        refused(lambda: opt.step({**grads, "b": np.ones(2)} if odd else grads))
        refused(lambda: opt.step({**grads, "b": None} if odd else grads))
        refused(lambda: opt.step({"W": grads["W"]} if odd else grads))
        refused(lambda: opt.flush() if odd else opt.step(grads))
        opt.param_groups[0]["lr"] = 0.5 if odd else 0.1
        refused(lambda: opt.step(grads))
        opt.param_groups[0]["lr"] = 0.1
        assert all((params[k] == before[k]).all() for k in params)
        assert opt.step(grads) and opt.steps == 1
        return said

    calm, odd = mpi_ranks.run(2, work)
    assert [text.split(":")[0] for text in odd[:3]] == ["ValueError", "RankError", "ValueError"]
    assert "rank 1 could not take step 1" in calm[0] and "shape (130,), got (2,)" in calm[0]
    assert "which gradients are None" in calm[1] and "rank 1 could not" in calm[2]
    assert "rank 0 is about to take step 1" in calm[3] and "rank 1 to flush" in odd[3]
    assert "'lr': rank 0 has 0.1, rank 1 0.5" in calm[4] == odd[4][:0] + calm[4]


def test_a_destroyed_group_is_not_spoken_to(monkeypatch):
    spoken = []

    class Group:
        rank, size, closed = 0, 2, False

        def all_gather(self, buffer, counts):
            spoken.append(len(buffer))
            return optkern.mpi.Alone.Done()

    monkeypatch.setattr(agreement, "_open", [])
    agreement.Agreement(Group())
    agreement.say_goodbye()
    Group.closed = True
    agreement.say_goodbye()
    assert len(spoken) == 1


def test_what_is_refused_everywhere():
    alone = optkern.mpi.Alone()
    with pytest.raises(TypeError, match="must be a class of optkern's, such as"):
        Sharded("AdamW", values(), comm=alone)
    with pytest.raises(TypeError, match="comm must be a communicator of mpi4py"):
        Sharded(optkern.AdamW, values(), comm=3)
    with pytest.raises(ValueError, match="follow=True is not possible"):
        Sharded(optkern.AdamW, values(), comm=alone, follow=True)
    with pytest.raises(ValueError, match="timeout"):
        Sharded(optkern.AdamW, values(), comm=alone, timeout=-1)
    opt = Sharded(optkern.AdamW, values(), comm=alone)
    with pytest.raises(AttributeError, match="did you mean step or steps"):
        opt.stepz  # noqa: B018
    with pytest.raises(ValueError, match="give it to the constructor"):
        opt.centralize = True
    for name, way in (("step_rows", "zeros in the other rows"), ("add_param_group", "construct")):
        with pytest.raises(AttributeError, match=f"{name} is not possible .*{way}"):
            getattr(opt, name)
    opt.clip_norm = 2.0
    assert opt.clip_norm == 2.0 and "Sharded(AdamW(" in repr(opt)


# --------------------------------------------------------------------------- the layout


@pytest.mark.parametrize("ranks", (1, 2, 3, 4, 7))
def test_each_element_has_one_owner(ranks):
    arrays = [
        Wanted(shape, np.dtype(dtype), whole, float(np.prod(shape)))
        for shape in ((90_000,), (3, 5), (), (0, 2), (300, 200), (40_000,))
        for dtype in (np.float32, np.float64)
        for whole in (False, True)
    ]
    layout = Layout(arrays, ranks, 200_000)
    for i, (array, pieces) in enumerate(zip(arrays, layout.pieces)):
        ends = [piece.first for piece in pieces[1:]]
        assert [piece.stop for piece in pieces[:-1]] == ends
        assert (pieces[0].first, pieces[-1].stop) == (0, array.size)
        assert all(end % BLOCK == 0 for end in ends)
        assert len(pieces) == 1 or not array.whole
        assert sum(i in bucket.arrays for bucket in layout.buckets) == 1
    loads = [
        sum(p.stop - p.first for row in layout.pieces for p in row if p.rank == r)
        for r in range(ranks)
    ]
    assert max(loads) <= sum(loads) / ranks + 2 * 90_000
