"""What is looked at and when, what is drawn, and how a diagnosis is put together from it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from test_monitor_thresholds import FLAT, helix, recorded, turning
from turning import turn

import optkern
from optkern import Monitor
from optkern.monitor import record
from optkern.monitor.drawing import draw
from optkern.monitor.edge import Edge
from optkern.monitor.record import Look, Sample, few

# --------------------------------------------------------------------------- what is looked at


@pytest.mark.parametrize(("sizes", "all_of_it"), [((200, 56), True), ((200, 57), False)])
def test_up_to_256_elements_are_looked_at_all(sizes, all_of_it):
    arrays = [np.arange(n, dtype=np.float32) for n in sizes]
    sample = Sample(arrays, 0)
    assert (len(sample.of(arrays)) == sum(sizes) and sample.factor == 1.0) == all_of_it


def test_a_sample_takes_every_so_many_elements_of_eight_arrays():
    arrays = [np.arange(1000.0), np.arange(40.0), np.arange(31.0), np.zeros(0)]
    counts = set()
    for seed in range(20):
        sample = Sample(arrays, seed)
        values, first = sample.of(arrays), 0
        assert len(sample.places) == 8
        for k, _, count in sample.places:
            piece = values[first : first + count]
            stride = {0: 31, 1: 1, 2: 1}[k]
            assert (np.diff(piece) == stride).all() and 0 <= piece[0] < stride
            assert piece[-1] + stride >= arrays[k].size
            first += count
            counts.add((k, piece[0]))
        assert first == len(values)
        assert sample.factor == pytest.approx(math.sqrt(1071 / first), rel=1e-12)
        assert sample.norm(np.array([3.0, 4.0])) == pytest.approx(5 * sample.factor)
    assert sum(k == 0 for k, _ in counts) > 25  # where each begins is drawn


def test_the_seed_draws_what_is_looked_at():
    arrays = [np.arange(5000.0)]
    assert (Sample(arrays, 3).of(arrays) == Sample(arrays, 3).of(arrays)).all()
    one, two = Sample(arrays, 3).of(arrays), Sample(arrays, 4).of(arrays)
    assert len(one) != len(two) or (one != two).any()


def test_missing_and_strided_arrays_in_a_sample():
    a, b = np.arange(12.0).reshape(3, 4), np.arange(4.0)
    sample = Sample([a, b], 0)
    np.testing.assert_array_equal(sample.of([a, None]), [*range(12), 0, 0, 0, 0])
    np.testing.assert_array_equal(sample.of([np.asfortranarray(a), b]), [*range(12), 0, 1, 2, 3])
    assert Sample([], 0).of([]).shape == (0,) and sample.of([a, b]).dtype == np.float64


@pytest.mark.parametrize(("size", "stride"), [(10, 1), (63, 1), (64, 2), (320, 10)])
def test_a_few_elements_of_an_array(size, stride):
    np.testing.assert_array_equal(np.arange(size)[few(size)], np.arange(0, size, stride))


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_cosines_of_any_magnitude(scale):
    cosine = record._cosine(scale * np.array([1.0, 0.0]), scale * np.array([3.0, 4.0]))
    assert cosine == pytest.approx(0.6)
    for other in (np.zeros(2), np.array([np.inf, 1.0])):
        assert math.isnan(record._cosine(scale * np.ones(2), other))


# --------------------------------------------------------------------------- when


class Clock:
    """Time that goes on by a tick with every look at it, and by a pace with every record."""

    def __init__(self, tick):
        self.now, self.tick = 0.0, tick

    def perf_counter(self):
        self.now += self.tick
        return self.now


def looked(monkeypatch, count, tick, **options):
    clock = Clock(tick)
    monkeypatch.setattr(record, "time", clock)
    monitor = Monitor(**options)
    for _ in range(count):
        clock.now += 1.0
        monitor.record(1.0, np.ones(1))
    return [look.record for look in monitor.looks]


def test_looks_that_cost_nothing_are_taken_in_a_row(monkeypatch):
    assert looked(monkeypatch, 40, 1e-9) == list(range(0, 38, 3))


def test_looks_take_a_fifth_of_a_percent_of_the_time(monkeypatch):
    """Three calls of one tick each, in five hundred of them a record: 500 x 3 ticks a look."""
    for tick, records in ((0.02, 30), (0.04, 60)):
        found = looked(monkeypatch, 2000, tick)[-4:]
        assert set(np.diff(found)) <= {records + 1, records + 2, records + 3}, found


def test_looks_are_taken_when_the_run_is_a_sixth_longer(monkeypatch):
    expected, at = [], 0
    while at < 398:
        expected.append(at)
        count = at + 3
        at = count + max(1, int(count / 6)) - 1
    assert looked(monkeypatch, 400, 1.0) == expected


@pytest.mark.parametrize("every", (1, 2, 3, 7))
def test_looks_at_every_so_many_records(monkeypatch, every):
    step = max(every, 3)
    assert looked(monkeypatch, 30, 1.0, every=every) == list(range(0, 28, step))


# --------------------------------------------------------------------------- what was seen


def test_the_way_and_what_is_left_of_it():
    """Moves of length 1, of which so much goes one way; the trail holds every third place."""
    for along in (0.25, 0.75):
        monitor = recorded(FLAT, helix(along))
        assert monitor._travelled() == pytest.approx(57 * along, rel=1e-9)
        assert monitor._straightness(0) == pytest.approx(along, rel=1e-9)
        assert monitor._straightness(48) == pytest.approx(along, rel=1e-9)
        assert math.isnan(monitor._straightness(52))  # two looks
        assert len(monitor._trail) == 20
    assert Monitor()._travelled() == 0.0 and math.isnan(Monitor()._straightness(0))
    monitor = recorded(FLAT, np.zeros((60, 3)))
    assert math.isnan(monitor._straightness(0)) and monitor._travelled() == 0.0


def test_a_call_that_takes_no_step_is_no_look():
    p = np.ones(3)
    opt, monitor = optkern.SGD(p, lr=0.1, accumulate=2), Monitor(every=1)
    for _ in range(12):
        opt.step(np.ones(3))
        monitor.record(1.0, np.ones(3), opt)
    assert [look.record for look in monitor.looks] == [0, 4, 8]
    assert all(look.update_norm == pytest.approx(0.1 * math.sqrt(3)) for look in monitor.looks)


def test_what_clip_value_leaves():
    p = np.ones(2)
    opt, monitor = optkern.SGD(p, lr=0.1, clip_value=1.0), Monitor(every=1)
    for _ in range(3):
        opt.step(np.array([3.0, 4.0]))
        monitor.record(1.0, np.array([3.0, 4.0]), opt)
    assert monitor.looks[0].kept == pytest.approx(math.sqrt(2) / 5)
    assert monitor.looks[0].gradient_norm == pytest.approx(5.0)


def parts_run(steps, second, grads=True, every=1):
    """Two parameters, of which the second one's gradient is given by a function of the record."""
    p = {"a": np.ones(2), "b": np.full(40, 2.0)}
    opt, monitor = optkern.SGD(p, lr=1e-3), Monitor(every=every)
    for k in range(steps):
        g = {"a": np.ones(2), "b": second(k)}
        opt.step(g)
        monitor.record(1.0, g if grads else None, opt)
    return monitor, p


def full(p):
    return {"a": np.ones(2), "b": np.full(40, 2.0)}


@pytest.mark.parametrize("nothing", [None, np.zeros(40)])
@pytest.mark.parametrize(("steps", "said"), [(7, False), (8, True)])
def test_three_looks_tell_that_a_parameter_gets_no_gradient(nothing, steps, said):
    monitor, p = parts_run(steps, lambda k: nothing)
    text = monitor._unfed(p, full, monitor.opt)
    assert ("in 3 looks no gradient but None or zeros came for parameter 'b'" in text) == said


def test_one_gradient_in_a_look_is_enough():
    monitor, p = parts_run(12, lambda k: np.eye(1, 40, 3)[0] if k == 7 else None)
    assert monitor._fed == [True, True] and monitor._unfed(p, full, monitor.opt) == ""
    monitor, p = parts_run(12, lambda k: None)
    assert monitor._fed == [True, False] and monitor._feedings == 4
    other = optkern.SGD(p, lr=0.1)
    assert monitor._unfed(p, full, other) == "" == monitor._unfed({"a": np.ones(2)}, full, None)


@pytest.mark.parametrize(("size", "fed"), [(0, True), (1, False), (2, False)])
def test_a_parameter_without_elements_misses_no_gradient(size, fed):
    p = {"a": np.ones(2), "b": np.ones(size)}
    opt, monitor = optkern.SGD(p, lr=1e-3), Monitor(every=1)
    for _ in range(9):
        g = {"a": np.ones(2), "b": np.zeros(size)}
        opt.step(g)
        monitor.record(1.0, g, opt)
    assert monitor._fed == [True, fed]


def test_without_gradients_what_has_moved_is_told():
    monitor, p = parts_run(9, lambda k: None, grads=False)
    assert "since record 0 no step has moved parameter 'b'" in monitor._unfed(p, full, monitor.opt)
    monitor, p = parts_run(8, lambda k: None, grads=False)
    assert monitor._unfed(p, full, monitor.opt) == ""
    monitor, p = parts_run(9, lambda k: np.ones(40), grads=False)
    assert monitor._unfed(p, full, monitor.opt) == ""


@pytest.mark.parametrize(("skipped", "said"), [(9, False), (10, True)])
def test_ten_skipped_steps_in_a_row_are_said(skipped, said):
    p = np.ones(2)
    opt, monitor = optkern.SGD(p, lr=0.1, on_nonfinite="skip"), Monitor(every=1)
    for k in range(30):
        g = np.full(2, np.nan if k >= 30 - skipped else 1.0)
        opt.step(g)
        monitor.record(1.0, g, opt)
    text = monitor._skipped(opt)
    assert (text != "") == said
    if said:
        assert text.startswith("no step has been applied since record 19 at the latest: 10 of 30")
    assert monitor._skipped(optkern.SGD(p, lr=0.1)) == ""


# --------------------------------------------------------------------------- changes of the data


def jumped_run(after):
    losses = np.repeat([1.0, 3.0], 42)
    rates = np.where(np.arange(84) < 42, 1.0, after)
    return recorded(losses, turning(0.0, 84), rates=list(rates))


@pytest.mark.parametrize(
    ("after", "asked"), [(1.49, True), (1.51, False), (0.51, True), (0.49, False)]
)
def test_a_jump_is_asked_about_where_lr_is_the_same_by_half(after, asked):
    text = str(jumped_run(after).diagnose())
    assert ("at record 42 the loss goes from 1 to 3 in one record" in text) == asked
    if asked:
        assert jumped_run(after).diagnose().records == 84
        assert jumped_run(after).diagnose().loss == 3.0


def test_of_a_run_that_maximizes_the_negative_is_told():
    monitor = recorded(np.linspace(1, 5, 60), turning(0.0), maximize=True)
    found = monitor.diagnose()
    assert found.kind == "falling" and "said of the negative loss" in str(found)
    assert found.loss == pytest.approx(-4.5, abs=0.2)


def test_looks_of_the_windows_count_or_of_half_the_run():
    monitor = recorded(np.ones(100), np.r_[turning(0.9, 50), turning(-0.9, 50)])
    assert monitor._evidence(monitor._trend(1.0), None).reversal == pytest.approx(-0.9)
    monitor = Monitor()
    monitor.looks = [Look(k, 1.0, 1.0, 1.0, c) for k, c in ((300, 0.9), (600, 0.3), (999, 0.5))]
    for _ in range(2500):
        monitor.record(1.0)
    seen = monitor._evidence(monitor._trend(1.0), None)  # from 1500 on there are none
    assert math.isnan(seen.reversal)
    monitor.looks = [Look(k, 1.0, 1.0, 1.0, c) for k, c in ((1260, 0.9), (1300, 0.3), (1499, 0.5))]
    assert monitor._evidence(monitor._trend(1.0), None).reversal == 0.5
    monitor.looks[0] = Look(1249, 1.0, 1.0, 1.0, 0.9)
    assert math.isnan(monitor._evidence(monitor._trend(1.0), None).reversal)


# --------------------------------------------------------------------------- at the point


def stopped(x, grad, losses=FLAT, moves=None, rates=None, loss=None, hvp=None, **options):
    moves = turning(0.0, len(losses)) if moves is None else moves
    monitor = recorded(losses, moves, rates=rates, **options)
    return monitor.diagnose(np.array(x, float), grad=grad, loss=loss, hvp=hvp)


def bowl(x):
    return x


def test_a_point_could_fall_that_could_gain_what_would_be_missed():
    """Half the gradient's square over the curvature, beside a ten thousandth of the level."""
    still = 1e-9 * turning(0.0)

    def rests(e):
        x, grad = [3.0 + e, 4.0, 0.0], lambda x: x - np.array([3.0, 4.0, 0.0])
        return stopped(x, grad, moves=still, hvp=bowl).kind == "minimum"

    assert turn(rests, 0.2, 1e-4, 18) == pytest.approx(math.sqrt(2e-4), rel=1e-3)

    def far(size):
        moves = size * turning(0.0)
        return stopped([0.0, 0.0, 0.0], bowl, moves=moves, hvp=bowl).kind == "minimum"

    assert turn(far, 0.2, 1e-4, 18) == pytest.approx(math.sqrt(2e-4), rel=1e-3)


def test_at_rest_the_way_on_depends_on_the_curvature():
    still = 1e-9 * turning(0.0)
    zero = np.zeros(3)
    found = stopped(zero, bowl, moves=still)
    assert found.kind == "minimum" and "lower is only to be had elsewhere" in str(found)
    saddle = np.array([1.0, -1.0, 1.0])
    found = stopped(zero, lambda x: saddle * x, moves=still)
    assert found.kind == "saddle" and "curvature.escape(x, diagnosis.verdict" in str(found)
    found = stopped(zero, lambda x: -x, moves=still)
    assert found.kind == "maximum" and "is the sign of the gradient right?" in str(found)
    rising = np.r_[np.ones(30), np.linspace(1.0, 1.2, 30)]
    found = stopped(zero, bowl, rising, moves=still)
    assert found.kind == "inconclusive" and "are x and grad those of the run?" in str(found)


def slope(x):
    """All but flat: a long way to go straight ahead."""
    return np.array([1.0, 0.0, 0.0]) + 1e-3 * x


def test_a_plateau_in_words():
    straight = helix(0.9)
    found = stopped([0.0] * 3, slope, moves=straight, rates=[1.0] * 60)
    assert found.kind == "plateau"
    assert "but the gradient is not small relative to its curvature" in str(found)
    assert "lr = 1 is far below the 2e+03 that is stable here" in str(found)
    found = stopped([0.0] * 3, slope, moves=straight, clip_norm=0.05, rates=[1.0] * 60)
    assert found.kind == "plateau" and "clip_norm = 0.05 cuts every step" in str(found)
    found = stopped([0.0] * 3, slope, moves=0 * straight, rates=[1.0] * 60)
    assert found.kind == "plateau" and "lost in the rounding" in str(found)
    found = stopped([0.0] * 3, slope, moves=straight, rates=[0.0] * 60)
    assert found.kind == "plateau" and "lr is 0" in str(found)


def test_what_does_not_fall_in_words():
    found = stopped([0.0] * 3, slope, moves=turning(0.0), rates=[1.0] * 60)
    assert found.kind == "plateau" and "60 steps at lr = 1 are together less" in str(found)
    found = stopped([0.0] * 3, slope, moves=turning(0.0), rates=[100.0] * 60)
    assert found.kind == "inconclusive" and "the updates lead nowhere" in str(found)
    rising = np.linspace(1.0, 1.2, 60)
    found = stopped([0.0] * 3, slope, rising, helix(0.9), rates=[1.0] * 60)
    assert found.kind == "inconclusive" and "though the updates keep their direction" in str(found)
    above = np.r_[1.0, np.full(59, 3.0)]
    found = stopped([0.0] * 3, slope, above, helix(0.9), rates=[1.0] * 60)
    assert found.kind == "inconclusive" and "above where it began (1): " in str(found)
    creeping = np.full(200, 0.1)
    creeping[:50] = np.linspace(9.0, 0.1, 50)
    creeping[100:] -= 2e-3 * np.linspace(0, 1, 100)
    found = stopped([0.0] * 3, slope, creeping, helix(0.9, 200), rates=[1.0] * 200)
    assert found.kind == "falling" and ": it still falls; lr = 1 is far below" in str(found)
    found = stopped([0.0] * 3, slope, creeping, turning(-0.9, 200), rates=[1.0] * 200)
    assert found.kind == "inconclusive" and "a bounce or noise" in str(found)


def test_a_higher_rate_that_was_tried_in_vain_is_not_advised():
    """Centralised, the gradient of equal weights of a unit is nothing at any rate."""
    w = np.zeros((6, 1))
    opt = optkern.SGD(w, lr=optkern.schedules.Cosine(0.1, T_max=200), centralize=True)
    monitor = optkern.Monitor()
    for _ in range(200):
        monitor.record(0.5 * float(((w - 1) ** 2).sum()), w - 1, opt)
        opt.step(w - 1)
    found = monitor.diagnose(
        w, lambda x: x - 1, lambda x: 0.5 * float(((x - 1) ** 2).sum()), opt=opt
    )
    assert found.kind == "plateau" and "raise lr" not in str(found)
    assert "lr = 0.1, 0.01, 0.001 with grad gain nothing" in str(found)
    assert "centralize takes the mean" in str(found) and "centralize=False" in str(found)


def test_a_rate_of_nothing_comes_before_the_point():
    rates = [1.0] * 20 + [1e-6] * 40

    def gains(x):
        return 0.5 * float(x @ x)

    found = stopped([1.0, 0.0, 0.0], bowl, rates=rates, loss=gains, moves=helix(0.9))
    assert found.kind == "plateau" and "raise lr before anything else" in str(found)
    assert "though 50 steps of the rule at lr = 1 with grad lower" in str(found)
    found = stopped([1.0, 0.0, 0.0], bowl, rates=rates, moves=helix(0.9))
    assert found.kind == "plateau" and "though a step could gain 0.5; raise" in str(found)
    found = stopped([0.0] * 3, bowl, rates=rates, moves=1e-9 * helix(0.9))
    assert found.kind == "minimum" and "was not tried (give loss): " in str(found)
    found = stopped([0.0] * 3, bowl, rates=rates, loss=gains, moves=1e-9 * helix(0.9))
    assert found.kind == "minimum"
    assert "and 150 steps of the rule at lr = 1, 0.1, 0.01 with grad gain nothing" in str(found)


def test_what_the_record_decides_in_words():
    falling = np.linspace(5, 1, 60)
    text = str(recorded(falling, helix(0.9), rates=[1.0] * 60).diagnose())
    assert text.startswith("falling: the loss still falls: by 1.0") and text.endswith("; go on")
    text = str(recorded(falling, turning(-0.9), rates=[1.0] * 60).diagnose())
    assert text.endswith("(cosine -0.90): try a lower lr")
    text = str(recorded(falling, helix(0.9), rates=[0.0] * 60).diagnose())
    assert text.startswith("inconclusive: the loss fell by 1 to 1.47") and "lr is 0" in text


def test_a_function_that_is_not_one_is_said():
    found = stopped([1.0, 0.5, 0.0], bowl, loss=lambda x: -float(x @ x))
    assert found.kind == "inconclusive" and "the loss stays about 1" in str(found)
    exploding = np.r_[np.ones(40), 2.0 ** np.arange(20)]
    found = stopped([1.0, 0.5, 0.0], bowl, exploding, loss=lambda x: -float(x @ x))
    assert found.kind == "exploding" and "; yet " in str(found)


# --------------------------------------------------------------------------- edges and drawings


def test_two_over_lr():
    def edge(lr):
        return Edge(0, lr, 1.0, 1.0, 1.0, 3)

    assert edge(0.5).stable == 4.0 and edge(0.0).stable == math.inf


class Axis:
    """Note what is drawn."""

    def __init__(self):
        self.lines, self.calls = {}, []

    def plot(self, *data, label, **style):
        self.lines[label] = data, style

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **options: self.calls.append((name, *args, *options.values()))


def a_run(losses=(3.0, 2.0, 1.0), edges=(), **more):
    looks = [Look(0, 0.5, 4.0, 2.0, 0.25), Look(2, 0.25, 3.0, 1.0, -0.5)]
    values = {
        "losses": np.array(losses),
        "looks": looks,
        "edges": edges,
        "val_losses": [],
        "val_records": [],
    }
    return SimpleNamespace(**{**values, **more})


def test_three_axes_are_drawn():
    axes = [Axis() for _ in range(3)]
    assert list(draw(a_run(), axes)) == axes
    top, middle, bottom = axes
    assert list(top.lines) == ["loss"] and list(top.lines["loss"][0][0]) == [3, 2, 1]
    assert top.calls == [("set_yscale", "log"), ("legend", "best")]
    assert middle.lines["gradient norm"][0] == ([0, 2], [4.0, 3.0], ".-")
    assert middle.lines["update norm"][0] == ([0, 2], [2.0, 1.0], ".--")
    assert middle.calls == [("set_yscale", "log"), ("legend", "best")]
    assert bottom.lines["learning rate"][0] == ([0, 2], [0.5, 0.25])
    assert bottom.lines["update cosine"][0] == ([0, 2], [0.25, -0.5], "--")
    assert bottom.calls == [("legend", "best"), ("set_xlabel", "record")]
    colours = {s["color"] for axis in axes for _, s in axis.lines.values()}
    assert colours == {"#0072B2", "#D55E00"}
    for axis in (middle, bottom):
        assert len({s["color"] for _, s in axis.lines.values()}) == 2
    assert {s.get("lw") for _, s in middle.lines.values()} == {0.8}
    assert {s.get("ms") for _, s in middle.lines.values()} == {3}
    assert top.lines["loss"][1]["lw"] == 0.8 == bottom.lines["update cosine"][1]["lw"]


@pytest.mark.parametrize(("lowest", "logarithmic"), [(0.0, False), (1e-9, True)])
def test_losses_above_zero_are_drawn_by_their_logarithm(lowest, logarithmic):
    axes = [Axis() for _ in range(3)]
    draw(a_run((1.0, lowest), val_losses=[7.0], val_records=[1]), axes)
    assert (("set_yscale", "log") in axes[0].calls) == logarithmic
    assert axes[0].lines["validation loss"][0] == ([1], [7.0], "--")


def edges(ruled=1.0, limit=2.0, sharpness=1.0):
    return [Edge(k, 0.5, sharpness, ruled, 4.0 * limit / 2, 3) for k in (0, 10)]


@pytest.mark.parametrize(
    ("options", "drawn"),
    [
        ({}, ["sharpness", "2 / lr"]),
        ({"ruled": 1.04}, ["sharpness", "2 / lr"]),
        ({"ruled": 1.06}, ["sharpness", "2 / lr", "preconditioned sharpness"]),
        ({"limit": 2.1}, ["sharpness", "2 / lr", "the rule's limit / lr"]),
        ({"ruled": math.nan, "limit": math.nan}, ["sharpness", "2 / lr"]),
    ],
)
def test_a_fourth_axis_has_the_curvature(options, drawn):
    axes = [Axis() for _ in range(4)]
    draw(a_run(edges=edges(**options)), axes)
    last = axes[3]
    assert list(last.lines) == drawn
    assert last.lines["sharpness"][0] == ([0, 10], [1.0, 1.0], ".-")
    assert last.lines["2 / lr"][0] == ([0, 10], [4.0, 4.0], ":")
    styles = {label: tuple(style.values()) for label, (_, style) in last.lines.items()}
    assert styles["sharpness"][1:] == (1, 4) and styles["2 / lr"][1:] == (1.5,)
    if "preconditioned sharpness" in drawn:
        assert last.lines["preconditioned sharpness"][0] == ([0, 10], [1.06, 1.06], "x-")
        assert styles["preconditioned sharpness"][1:] == (1, 4)
    if "the rule's limit / lr" in drawn:
        assert last.lines["the rule's limit / lr"][0] == ([0, 10], [4.2, 4.2], "--")
        assert styles["the rule's limit / lr"][1:] == (1.5,)
    assert last.calls == [
        ("set_yscale", "log"),
        ("set_ylabel", "curvature"),
        ("legend", "best"),
        ("set_xlabel", "record"),
    ]
    assert ("set_xlabel", "record") not in axes[2].calls


def test_what_was_not_known_is_no_line_of_its_own():
    """Where the first measurement failed, the rest of both may still be the same."""
    axes = [Axis() for _ in range(4)]
    first = Edge(0, 0.5, math.nan, math.nan, math.nan, 3)
    draw(a_run(edges=[first, *edges()]), axes)
    assert (
        list(axes[3].lines) == ["sharpness", "2 / lr"] or "the rule's limit / lr" in axes[3].lines
    )
    assert "preconditioned sharpness" not in axes[3].lines


@pytest.mark.parametrize(("sharpness", "logarithmic"), [(0.0, False), (-1.0, False), (1e-9, True)])
def test_curvature_above_zero_is_drawn_by_its_logarithm(sharpness, logarithmic):
    axes = [Axis() for _ in range(4)]
    draw(a_run(edges=edges(sharpness=sharpness)), axes)
    assert (("set_yscale", "log") in axes[3].calls) == logarithmic


@pytest.mark.parametrize(("given", "measured", "asked"), [(2, 0, 3), (3, 2, 4), (4, 0, 3)])
def test_as_many_axes_as_are_drawn(given, measured, asked):
    with pytest.raises(ValueError, match=f"axes must be {asked} Axes, got {given}"):
        draw(a_run(edges=edges()[:measured]), [Axis()] * given)
