"""What a diagnosis asks the curvature and its functions for, and how it puts the answer."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from test_monitor_looks import bowl, slope, stopped
from test_monitor_thresholds import FLAT, helix, recorded, turning
from test_monitor_verdicts import at

import optkern
from optkern import Monitor, curvature
from optkern.curvature.operators import Point
from optkern.monitor import edge, monitor, stall

# --------------------------------------------------------------------------- the largest lr


def limits(monkeypatch, values, **known):
    """Ask for the limit where so many places give these; the places that were asked about."""
    places, answers = [], iter(values)

    def operator(self, point, place):
        places.append(place)
        return "operator"

    def ask(opt, op, tol, **options):
        assert op == "operator" and tol == 0.02 and options == {"seed": 7}
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(value=0.9 * answer, estimate=answer)

    monkeypatch.setattr(stall.ByCurvature, "_operator", operator)
    monkeypatch.setattr(curvature, "max_stable_lr", ask)
    self = at(options={"seed": 7}, **known)
    self._bottom = lambda point: "bottom"
    self._ask_for_limit(self.point, valley=len(values) > 1)
    return self, places


def test_the_least_limit_of_both_places_counts(monkeypatch):
    for values, least in (([4.0], 4.0), ([4.0, 3.0], 3.0), ([3.0, 4.0], 3.0)):
        self, places = limits(monkeypatch, values)
        assert (self.limit, self.stable) == (least, 0.9 * least)
        assert len(places) == len(values) and (places[0] == [3.0, 4.0]).all()
        assert len(values) == 1 or places[1] == "bottom"
        assert self.no_limit == ""


def test_where_no_limit_is_known_the_reason_is_said(monkeypatch):
    opt = optkern.SGD(np.ones(2), lr=0.1)
    opt.step(np.ones(2))
    self, _ = limits(monkeypatch, [ValueError("no limit here")], opt=opt)
    assert self.no_limit == "no limit here" and math.isnan(self.limit)
    self, _ = limits(monkeypatch, [3.0], opt=optkern.SAM(opt))
    assert self.no_limit.startswith("SAM's limit")
    self, _ = limits(monkeypatch, [3.0], opt=optkern.SGD(np.ones(3), lr=0.1))
    assert self.no_limit == "x has other elements than the optimizer"
    self, _ = limits(monkeypatch, [3.0], opt=optkern.SGD([np.ones(1), np.ones(1)], lr=0.1))
    assert self.no_limit == "" and self.limit == 3.0


@pytest.mark.parametrize(("count", "more"), [(1, ""), (3, ""), (4, " and more")])
def test_parameters_that_took_no_step_are_named(count, more):
    opt = optkern.Adam({f"p{k}": np.ones(1) for k in range(count)}, lr=0.1)
    names = ", ".join(repr(f"p{k}") for k in range(min(count, 3)))
    said = at(opt=opt)._without_limit("error")
    assert said.endswith(f"no step was taken of parameter {names}{more}")
    opt.step({f"p{k}": np.ones(1) for k in range(count)})
    assert at(opt=opt)._without_limit("error") == "error"


def test_products_are_the_users_at_x_and_differences_elsewhere():
    self = at(raw_hvp=lambda v: 5 * v, raw=lambda x: 2 * x)
    x = self.point.vector()
    v = np.array([0.6, 0.8])
    np.testing.assert_allclose(self._operator(self.point, x)(v), 5 * v)
    np.testing.assert_allclose(self._operator(self.point, x + 1)(v), 2 * v, rtol=1e-5)
    self.raw_hvp = None
    np.testing.assert_allclose(self._operator(self.point, x)(v), 2 * v, rtol=1e-5)


def test_a_bounce_is_at_the_edge_from_a_twentieth_below():
    """The limit itself is 2 for curvature 1; between the walls for one that bounces alone."""
    seen = []

    def grad(x):
        seen.append(float(x[0]))
        return np.asarray(x)

    found = stopped([1.0, 0.0, 0.0], grad, moves=turning(-0.9), rates=[1.95] * 60, hvp=bowl)
    assert found.kind == "oscillating" and found.max_stable_lr == pytest.approx(2.0, rel=0.03)
    assert min(seen) < -0.5  # where the slope has turned
    seen.clear()
    found = stopped([1.0, 0.0, 0.0], grad, moves=helix(0.9), rates=[1.95] * 60, hvp=bowl)
    assert found.kind != "oscillating" and min(seen) > -0.5


def test_without_an_optimizer_no_limit_is_asked():
    run = Monitor(every=1)
    for k in range(60):
        run.record(1.0, np.array([1.0, (-1.0) ** k, 0.0]))
    found = run.diagnose(np.array([1.0, 0.0, 0.0]), grad=bowl)
    assert found.kind == "inconclusive" and math.isnan(found.max_stable_lr)
    assert "record opt too" in str(found) or "noise" in str(found)


# --------------------------------------------------------------------------- words beside


@pytest.mark.parametrize("rule", [optkern.SGD, optkern.Adam])
def test_unlike_units_are_named_where_a_way_on_is_missing(monkeypatch, rule):
    monkeypatch.setattr(stall, "in_unlike_units", lambda verdict: "in odd units")

    def said(kind="plateau", text="it rests", matter=True, opt=True):
        opt = rule(np.ones(2), lr=0.1) if opt else None
        self = at(opt=opt, pinned=None)
        v = SimpleNamespace(stationary=SimpleNamespace(units_matter=matter))
        return self._said(kind, text, v).explanation

    plain = ", or take a rule that scales by itself" * (rule is optkern.SGD)
    for kind in stall.STALLS:
        assert said(kind) == "it rests; in odd units" + plain
    assert said(opt=False) == "it rests; in odd units"
    assert said("minimum") == "it rests" == said(matter=False)
    for told in stall.TOLD:
        assert said(text=told) == told


def test_what_falls_and_could_fall_farther():
    falling = np.linspace(5, 1, 60)
    found = stopped([1.0, 2.0, 3.0], bowl, falling, helix(0.9))
    assert found.kind == "falling" and str(found).endswith("; go on")
    run = recorded(falling, helix(0.9))
    run._fed = [False]
    found = run.diagnose(np.array([1.0, 2.0, 3.0]), grad=bowl)
    assert "; go on; yet in 20 looks no gradient but None or zeros came for parameter" in str(found)
    assert "is it detached" in str(found) and found.kind == "falling"
    flat = recorded(FLAT, helix(0.9))
    flat._fed = [False]
    found = flat.diagnose(np.array([1.0, 2.0, 3.0]), grad=bowl)
    assert found.kind == "plateau" and "is it detached" in str(found)


def test_a_minimum_of_loss_and_decay_is_named_once():
    x = np.zeros(3)
    run = recorded(FLAT, 1e-9 * turning(0.0), weight_decay=0.1, decay_form="l2")
    found = run.diagnose(x, grad=bowl)
    assert found.kind == "minimum"
    assert str(found).count("minimum of the loss plus the weight decay") == 1
    assert "at a minimum of the loss plus the weight decay" in str(found)


def test_parameters_without_a_gradient_are_said_to_be_left_out():
    def grad(x):
        return {"a": x["a"], "b": None}

    p = {"a": np.zeros(2), "b": np.ones(2)}
    run = Monitor(every=1)
    opt = optkern.SGD(p, lr=1e-9)
    for _ in range(60):
        opt.step({"a": np.ones(2), "b": None})
        run.record(1.0, {"a": np.ones(2), "b": None}, opt)
    found = run.diagnose(p, grad=grad)
    assert found.kind in ("minimum", "plateau") and "'b'" in str(found)
    assert str(found).count("'b'") == 1


# --------------------------------------------------------------------------- steps that are tried


@pytest.mark.parametrize("maximize", [False, True])
def test_steps_are_tried_once_and_at_finite_points(monkeypatch, maximize):
    calls = []

    def tried(rule, point, grad, loss, lr):
        calls.append(
            (rule, list(point.vector()), loss(np.array([2.0, 0.0, 0.0])), lr, point.pinned)
        )
        return "tried"

    monkeypatch.setattr(monitor, "sign_or_rate", tried)
    run = recorded(FLAT, turning(0.0), rates=[0.25] * 60, maximize=maximize)
    trend = run._trend(-1.0 if maximize else 1.0)
    trend.negated = maximize
    x = np.array([1.0, 2.0, 3.0])
    ask = run._asking(trend, run.opt, x, bowl, lambda x: float(x @ x), None)
    assert not calls and ask() == "tried" == ask()
    assert calls == [(run.opt, [1, 2, 3], -4.0 if maximize else 4.0, 0.25, [False])]
    pinned = SimpleNamespace(pinned=[True])
    assert run._asking(trend, run.opt, x, bowl, lambda x: 0.0, pinned)() == "tried"
    assert calls[1][4] == [True]
    x[1] = np.nan
    assert run._asking(trend, run.opt, x, bowl, lambda x: 0.0, None)() == ""
    assert run._asking(trend, None, np.ones(3), bowl, lambda x: 0.0, None)() == ""


# --------------------------------------------------------------------------- edges


def test_an_eigenvalue_is_asked_for_from_the_last_ones_vector(monkeypatch):
    asked = []
    real = edge.lanczos

    def lanczos(op, which, **options):
        asked.append((which, options))
        return real(op, which=which, **options)

    monkeypatch.setattr(edge, "lanczos", lanczos)
    scales = np.array([9.0, 1.0, 2.0, 3.0])
    for maximize, which in ((False, "largest"), (True, "smallest")):
        asked.clear()
        x = np.ones(4)
        opt = optkern.SGD(x, lr=1e-3, maximize=maximize)
        run = Monitor(curvature_every=2, hvp=lambda v: scales * v)
        for _ in range(5):
            opt.step(np.ones(4))
            run.record(1.0, np.ones(4), opt)
        assert [e.record for e in run.edges] == [0, 2, 4] and len(asked) == 3
        sharpness = -1.0 if maximize else 9.0
        np.testing.assert_allclose([e.sharpness for e in run.edges], sharpness, rtol=0.01)
        assert [w for w, _ in asked] == [which] * 3
        for record, (_, options) in zip((0, 2, 4), asked, strict=True):
            start = options.pop("start", None)
            assert options == {"tol": 0.01, "max_matvecs": 40, "seed": record}
            assert (start is None) == (record == 0)
            if start is not None:  # the vector, disturbed by a tenth
                vector = np.eye(4)[1 if maximize else 0]
                off = start - vector * np.sign(start @ vector)
                assert 0.02 < np.linalg.norm(off) < 0.25


def test_a_record_that_fails_leaves_nothing():
    x = np.ones(3)
    opt, run = optkern.SGD(x, lr=0.1), Monitor(every=1)
    for _ in range(4):
        opt.step(np.ones(3))
        run.record(1.0, np.ones(3), opt, val_loss=2.0)
    assert run.val_records == [0, 1, 2, 3] and list(run.val_losses) == [2.0] * 4
    before = len(run.looks), len(run._trail)
    with pytest.raises((TypeError, ValueError)):
        run.record(1.0, np.ones(3), opt, val_loss="no")
    assert len(run) == 4 and run.val_records == [0, 1, 2, 3]
    assert (len(run.looks), len(run._trail)) == before
    opt.step(np.ones(3))
    run.record(1.0, np.ones(3), opt, val_loss=5.0)
    assert run.val_records == [0, 1, 2, 3, 4] and run.val_losses[-1] == 5.0


def test_sizes_of_gradients_that_are_none():
    run = Monitor(every=1)
    for _ in range(6):
        run.record(1.0, [np.array([3.0, 4.0]), None])
    assert run._sample.sizes == [2, 0] and run.looks[0].gradient_norm == pytest.approx(5.0)
    assert len(run.looks) == 2
    for _ in range(3):
        run.record(1.0, [np.array([3.0, 4.0]), np.array([12.0])])
    assert run._sample.sizes == [2, 1] and run.looks[-1].gradient_norm == pytest.approx(13.0)


def test_no_plateau_where_nothing_was_seen_of_the_updates():
    found = Monitor()
    for _ in range(60):
        found.record(1.0)
    said = found.diagnose(np.zeros(3), grad=slope)
    assert said.kind == "inconclusive" and "the updates were not seen often enough" in str(said)
    assert Point("d", np.zeros(3)).n == 3


# --------------------------------------------------------------------------- another place


def trained_beside(of):
    """Train ``w`` by an optimizer that was given another array; diagnose ``of`` the two."""
    mine, w = np.ones(3), 2 * np.ones(3)
    opt, seen = optkern.SGD((mine,), lr=0.1, ema_decay=0.9), Monitor()
    for _ in range(100):
        opt.step((2 * w,))
        seen.record(loss=float((w**2).sum()), grads=(2 * w,), opt=opt)
    average = opt.state[0]["ema"]
    grad, loss = (lambda q: (2 * q[0],)), (lambda q: float((q[0] ** 2).sum()))
    return str(seen.diagnose((of(mine, w, average),), grad=grad, loss=loss))


def test_a_place_that_is_not_the_optimizers_is_told():
    """``self.w = self.w * 2`` after a tuple was given: no container shows it."""
    said = trained_beside(lambda mine, w, average: w)
    assert "x is not what SGD trains" in said and "rebind" in said


@pytest.mark.parametrize(
    "of",
    [
        lambda mine, w, average: mine,
        lambda mine, w, average: mine[:],
        lambda mine, w, average: mine.copy(),
        lambda mine, w, average: mine.astype(np.float32),
        lambda mine, w, average: average.copy(),
    ],
)
def test_a_copy_or_an_average_is_where_the_optimizer_is(of):
    assert "x is not" not in trained_beside(of)
