"""What the solvers remember, and refuse to be told; where a call ends, and what it leaves."""

import math

import numpy as np
import pytest

import optkern
from optkern import LBFGS, NewtonLanczos
from optkern.solvers._problem import Parameters, check_loaded, refuse_unknown
from optkern.solvers.enriched import Race
from optkern.solvers.krylov import ExactCall
from optkern.solvers.pairs import Pairs, check_vector, loaded_pairs
from optkern.solvers.products import Products

STATE = {"krylov": True, "spent": 3, "patience": 7, "rate": 0.5}


def test_a_race_is_loaded_as_it_was_saved():
    race = Race(True, 3, 7, 0.5)
    assert race.saved() == STATE and Race.loaded("f", STATE) == race
    assert Race.loaded("f", {**STATE, "krylov": np.bool_(False), "spent": 0}).krylov is False
    assert Race.loaded("f", {**STATE, "patience": 1, "rate": 0.0}) == Race(True, 3, 1, 0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "race must have the keys krylov, spent, patience, rate"),
        ({"spent": -1}, "race's spent"),
        ({"patience": 0}, "race's patience"),
        ({"rate": -0.5}, "race's rate"),
        ({"krylov": 1}, "race's krylov must be a bool, got 1"),
        ({"more": 1}, "race must have the keys"),
    ],
)
def test_what_is_no_race_is_refused(change, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Race.loaded("f", [1] if change is None else {**STATE, **change})
    with pytest.raises(ValueError, match="must have the keys"):
        Race.loaded("f", {"krylov": True})


def two_pairs():
    point = Parameters("f", {"a": np.zeros(2), "b": np.zeros(1)})
    pairs = Pairs()
    for k in (1.0, 2.0):
        pairs = pairs.added(k * np.arange(1.0, 4), np.full(3, k), 4.0, 2.0, 5)
    return point, pairs.saved(point)


def test_pairs_are_loaded_as_they_were_saved():
    point, state = two_pairs()
    again = loaded_pairs("f", state, point)
    assert [list(s) for s in again.s] == [[1, 2, 3], [2, 4, 6]] and again.rho == [0.25, 0.25]
    assert [list(y) for y in again.y] == [[1, 1, 1], [2, 2, 2]] and again.gamma == 2.0
    other = Parameters("f", {"b": np.zeros(1), "a": np.zeros(2)})  # found by their names
    assert [list(s) for s in loaded_pairs("f", state, other).s] == [[3, 1, 2], [6, 2, 4]]
    assert loaded_pairs("f", {**state, "gamma": 0.0}, point).gamma == 0.0
    assert loaded_pairs("f", {**state, "rho": np.array([0.0, 1.0])}, point).rho == [0.0, 1.0]
    none = Pairs().saved(point)
    assert none["s"].shape == (0, 3) == none["y"].shape and none["s"] is not none["y"]
    assert loaded_pairs("f", none, point).s == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rho", np.zeros((1, 2)), "rho must be one-dimensional float64"),
        ("rho", np.zeros(2, np.float32), "rho must be one-dimensional float64"),
        ("rho", np.array([0.5, -0.5]), r"rho must hold finite numbers in \[0, inf\)"),
        ("rho", np.array([0.5, np.inf]), "rho must hold finite"),
        ("s", np.zeros((1, 3)), r"s must have shape \(2, 3\)"),
        ("y", np.zeros((2, 3), np.float32), "y must have shape"),
        ("s", np.array([[1, 2, np.nan], [1, 2, 3]]), "s and y must be finite"),
        ("y", np.array([[1, 2, np.inf], [1, 2, 3]]), "s and y must be finite"),
        ("gamma", -0.5, "gamma"),
        ("layout", [["a", [2]], ["b", [2]]], "the state is of the parameters"),
        ("layout", None, "the state is of the parameters"),
    ],
)
def test_what_are_no_pairs_is_refused(name, value, words):
    point, state = two_pairs()
    with pytest.raises(ValueError, match=words):
        loaded_pairs("f", {**state, name: value}, point)


def test_a_vector_has_its_shape_and_dtype():
    check_vector("f", "v", np.zeros(3), (3,), np.float64)
    for bad in (np.zeros(2), np.zeros(3, np.float32), [0.0] * 3):
        with pytest.raises(ValueError, match="f: v must have shape"):
            check_vector("f", "v", bad, (3,), np.float64)


def stepped_lbfgs():
    x = np.array([3.0, -2.0])
    opt = LBFGS([x], lr=0.1, max_iter=3)
    opt.step(lambda: (0.5 * float(x @ x), [x.copy()]))
    return opt


@pytest.mark.parametrize("missing", ["direction", "gradient"])
def test_a_direction_comes_with_its_gradient(missing):
    opt = stepped_lbfgs()
    state = opt.state_dict()
    assert state["direction"] is not opt._d and (state["direction"] == opt._d).all()
    with pytest.raises(ValueError, match="direction and gradient must both be None, or neither"):
        opt.load_state_dict({**state, missing: None})
    with pytest.raises(ValueError, match=f"{missing} must have shape"):
        opt.load_state_dict({**state, missing: np.zeros(3)})
    with pytest.raises(ValueError, match="t must"):
        opt.load_state_dict({**state, "t": -0.1})
    fresh = LBFGS([np.zeros(2)])
    assert fresh.state_dict()["direction"] is None and fresh.state_dict()["gradient"] is None
    fresh.load_state_dict({**state, "t": 0.0})
    assert fresh._t == 0.0 and fresh.steps == 1
    assert (fresh.iterations, fresh.gradients) == (opt.iterations, opt.gradients) == (2, 3)


def test_a_state_of_something_else_is_refused():
    state = {"solver": "S", "a": 1}
    check_loaded("f", "S", state, {"a"})
    for loaded, words in (
        ([], "expected a dict, got list"),
        ({"solver": "T", "a": 1}, "this is the state of 'T', not 'S'"),
        ({"rule": "adam", "a": 1}, "this is the state of 'adam', not 'S'"),
        ({"solver": "S"}, "the dict has no 'a'"),
        ({**state, "b": 1}, "the dict also has 'b', for which there is no place"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            check_loaded("f", "S", loaded, {"a"})

    class Own(LBFGS):
        pass

    refuse_unknown(Own([np.ones(1)]), "mine", ())
    with pytest.raises(AttributeError, match="has no attribute 'mine' to set"):
        refuse_unknown(LBFGS([np.ones(1)]), "mine", ())


# --------------------------------------------------------------------------- where a call ends


def bowl(x):
    return lambda: (0.5 * float(x @ x), [x.copy()])


@pytest.mark.parametrize("make", [LBFGS, NewtonLanczos])
def test_a_callback_that_stops_is_no_convergence(make):
    x = np.array([3.0, -2.0, 1.0])
    opt = make([x])
    seen = []

    def callback(report):
        seen.append((report.iterations, report.status, report.converged))
        return True

    report = opt.step(bowl(x), callback=callback)
    assert report.status == "stopped by the callback" and not report.converged
    assert seen == [(1, "running", False)] and (opt.iterations, opt.steps) == (1, 1)
    assert report.iterations == 1 and opt.gradients == report.gradients
    again = opt.step(bowl(x), callback=callback)
    assert (opt.steps, opt.iterations) == (2, 1 + again.iterations)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_after_a_step_is_taken_back(bad, line_search):
    x = np.array([3.0])
    start = x.copy()

    def closure():
        out = x[0] != 3.0
        loss = math.inf if out and bad == "loss" else float(x @ x)
        return loss, [np.array([math.inf if out and bad == "gradient" else 6.0])]

    opt = LBFGS([x], line_search_fn=line_search)
    report = opt.step(closure)
    assert not report.converged and (x == start).all() and report.value == 9.0
    assert report.status.startswith("stopped: no") and report.gradients > 1


def test_a_slope_at_the_tolerance_goes_on():
    for slope, gradients in ((0.26, 2), (0.24, 1)):  # its square beside tolerance_change
        x = np.array([slope])
        opt = LBFGS([x], tolerance_change=0.0625, tolerance_grad=0.0, max_iter=5)
        report = opt.step(bowl(x))
        assert (report.gradients > 1) == (gradients > 1)
        assert gradients > 1 or "the slope along the direction is below" in report.status
        assert report.converged == (gradients > 1)


def test_an_lr_of_nothing_ends_before_it_begins():
    x = np.array([3.0])
    report = LBFGS([x], lr=0.0).step(bowl(x))
    assert report.status == "stopped: lr is 0, so that nothing moves" and not report.converged
    assert (report.iterations, report.gradients) == (0, 1)
    x[:] = 0.0
    assert LBFGS([x], lr=0.0).step(bowl(x)).converged


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_product_that_is_not_finite_leaves_the_parameters(bad):
    x = np.array([3.0, -2.0])
    with pytest.raises((ValueError, FloatingPointError)):
        NewtonLanczos([x]).step(bowl(x), hvp=lambda v: [bad * v[0]])
    assert list(x) == [3.0, -2.0]


def test_products_are_asked_for_where_the_parameters_are():
    """Of a saddle, too, whose way down is tried and taken back."""
    x, places = np.array([0.0, 0.0]), []
    scales = np.array([1.0, -1.0])

    def hvp(v):
        places.append(x.copy())
        return [scales * v[0]]

    def closure():
        return 0.5 * float(scales @ (x * x)) + float(x[1] ** 4), [
            scales * x + np.array([0.0, 4 * x[1] ** 3])
        ]

    opt = NewtonLanczos([x], max_iter=1)
    report = opt.step(closure, hvp=hvp)
    assert all((p == 0).all() for p in places) and report.products == len(places)
    assert report.value < -0.05 and abs(x[1]) > 0.3 and opt._checks == 1
    assert opt.radius >= abs(x[1])


def test_no_way_down_is_said_and_nothing_moves():
    """A product that feigns negative curvature where the loss rises."""
    x = np.zeros(2)
    report = NewtonLanczos([x]).step(bowl(x), hvp=lambda v: [-v[0]])
    assert "curvature -1 along which no step lowers the loss" in report.status
    assert (x == 0).all() and report.value == 0.0 and report.converged


def test_a_gradient_of_rounding_is_followed_down_a_saddle():
    """The way with the slope, where there is one; else the better of both."""
    for slope, sign in ((1e-9, -1), (-1e-9, 1)):
        x = np.zeros(1)

        def closure(x=x, slope=slope):
            return float(slope * x[0] - x[0] ** 2 + x[0] ** 4), [slope - 2 * x + 4 * x**3]

        report = NewtonLanczos([x], max_iter=1).step(
            closure, hvp=lambda v, x=x: [(12 * x**2 - 2) * v[0]]
        )
        assert report.iterations == 1 and np.sign(x[0]) == sign


def test_iterations_are_counted():
    x = np.array([1.0, 1.0])

    def quartic():
        return float(np.sum(x**4)), [4 * x**3]

    opt = NewtonLanczos([x], max_iter=3, tolerance_grad=0.0)
    report = opt.step(quartic, hvp=lambda v: [12 * x**2 * v[0]])
    assert report.iterations == 3 == opt.iterations and "max_iter = 3 iterations" in report.status
    assert not report.converged
    report = opt.step(quartic, hvp=lambda v: [12 * x**2 * v[0]])
    assert opt.iterations == 6 and opt.steps == 2 and opt.products == 2 * report.products


def test_the_noise_of_exact_products_is_ten_roundings():
    x = np.ones(2, np.float32)
    opt = NewtonLanczos([x])
    call = object.__new__(ExactCall)
    for u in (2.0**-24, 2.0**-53):
        call.u = u
        assert call._noise(3.0) == 30 * u
    assert opt.max_matvecs == 50 and opt.check_matvecs == 30 and opt.max_iter == 100
    assert (opt.radius, opt.tolerance_grad, opt.tolerance_change, opt.seed) == (1.0, 1e-7, 1e-9, 0)
    lbfgs = LBFGS([x])
    assert (lbfgs.lr, lbfgs.max_iter, lbfgs.max_eval, lbfgs.history_size) == (1.0, 20, None, 100)
    assert (lbfgs.tolerance_grad, lbfgs.tolerance_change) == (1e-7, 1e-9)
    sam = optkern.SAM(optkern.SGD([x], lr=0.1))
    assert (sam.rho, sam.adaptive, sam.gradients) == (0.05, False, 0)


def test_products_surveyed_once_are_not_verified_again():
    p = object.__new__(Products)
    p.surveyed = "surveyed"
    p.verify(np.ones(2))
    p.surveyed, p.last = None, None
    p.verify(np.ones(0))  # without elements there is nothing to verify


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_a_step_of_sam_in_numbers(rho):
    x = np.array([3.0, 4.0])
    opt = optkern.SAM(optkern.SGD([x], lr=0.1), rho=rho)
    reports = []
    report = opt.step(lambda: (float(x @ x), [2 * x]), callback=reports.append)
    assert report is reports[0] and report.status == "one step" and not report.converged
    assert (report.iterations, report.products, report.value) == (1, 0, 25.0)
    assert report.gradients == (2 if rho else 1) == opt.gradients and report.gradient_max == 8.0
    assert report.initial_value == 25.0 and opt.steps == 1
    np.testing.assert_allclose(x, 0.8 * np.array([3.0, 4.0]) - 0.2 * rho * np.array([0.6, 0.8]))


def test_options_of_sam_around_its_optimizer():
    opt = optkern.SAM(optkern.SGD([np.ones(2)], lr=0.1), rho=lambda step: 0.5 + step)
    assert opt.state_dict()["rho"] == 0.5 and opt.session.saved()["gradients"] == 0
    state = {**opt.state_dict(), "rho": 0.25, "gradients": 4, "adaptive": True}
    opt.load_state_dict(state)
    assert callable(opt.rho) and opt.gradients == 4 and opt.adaptive is True
    plain = optkern.SAM(optkern.SGD([np.ones(2)], lr=0.1), rho=0.25)
    plain.load_state_dict(state)
    assert plain.rho == 0.25
    for name, value in (("rho", -0.1), ("adaptive", 1), ("gradients", -1)):
        with pytest.raises((TypeError, ValueError), match=name):
            plain.load_state_dict({**state, name: value})


# --------------------------------------------------------------------------- gradients alone


def valley(x):
    """A quadratic of unlike curvatures, and its closure."""
    scales = np.array([1.0, 3.0, 10.0, 40.0])
    return lambda: (0.5 * float(scales @ (x * x)), [scales * x])


@pytest.mark.parametrize("krylov", [False, True])
def test_a_step_of_either_kind_leaves_its_pair(krylov):
    x = np.array([1.0, -1.0, 0.5, 0.25])
    start = x.copy()
    opt = NewtonLanczos([x], max_iter=1, radius=0.1)
    opt._race = Race(krylov)
    grads = [valley(x)()[1][0]]
    report = opt.step(valley(x))
    grads.append(valley(x)()[1][0])
    assert report.iterations == 1 and opt._race.rate > 0
    gained = (report.initial_value - report.value) / (report.gradients - 1)
    assert opt._race == Race(krylov, report.gradients - 1, 5, opt._race.rate)
    assert opt._race.rate == pytest.approx(gained)
    if krylov:
        assert len(opt._pairs.s) == 1
    np.testing.assert_allclose(sum(opt._pairs.s), x - start, rtol=1e-9)
    np.testing.assert_allclose(sum(opt._pairs.y), grads[1] - grads[0], rtol=1e-9)
    assert opt._pairs.rho[-1] == pytest.approx(1 / float(opt._pairs.s[-1] @ opt._pairs.y[-1]))


def test_an_error_leaves_what_was_learned_before_it():
    x = np.array([1.0, -1.0, 0.5, 0.25])
    seen, calls = [], iter(range(999))

    def closure():
        if next(calls) == 17:
            raise RuntimeError("enough")
        return valley(x)()

    opt = NewtonLanczos([x], radius=0.1, max_matvecs=3)
    with pytest.raises(RuntimeError, match="enough"):
        opt.step(closure, callback=lambda report: seen.append((x.copy(), len(opt._pairs.s))))
    assert seen and (x == seen[-1][0]).all() and len(opt._pairs.s) == seen[-1][1] > 0
    assert opt.gradients == 18 and opt.steps == 0


def test_pairs_are_forgotten_where_a_saddle_is_left():
    """They know of no curvature but positive."""
    x = np.array([1.0, 0.0])

    def closure():
        return float(0.5 * x[0] ** 2 - 0.5 * x[1] ** 2 + x[1] ** 4 / 4), [
            np.array([x[0], x[1] ** 3 - x[1]])
        ]

    opt = NewtonLanczos([x], max_iter=30)
    seen = []
    report = opt.step(closure, callback=lambda report: seen.append((len(opt._pairs.s), abs(x[1]))))
    left = next(k for k, (_, out) in enumerate(seen) if out > 0.1)
    assert left > 0 and seen[left - 1][0] > 0 and seen[left][0] == 0
    assert report.converged and report.value == pytest.approx(-0.25)


def test_a_gradient_whose_square_vanishes_is_no_convergence():
    x = np.array([1.0])
    for search in (None, "strong_wolfe"):
        opt = LBFGS([x], tolerance_grad=0.0, line_search_fn=search)
        report = opt.step(lambda: (1.0, [np.array([1e-200])]))
        assert "the gradient's square vanishes" in report.status and not report.converged


def test_an_iteration_that_changes_next_to_nothing_is_no_convergence():
    x = np.array([1.0])
    report = LBFGS([x], lr=1e-4, tolerance_change=1e-3, tolerance_grad=0.0).step(bowl(x))
    assert "no parameter moved by more than" in report.status and not report.converged
    report = NewtonLanczos([x], tolerance_change=9.0, tolerance_grad=0.0, radius=99.0).step(
        lambda: (float(np.cosh(x[0])), [np.sinh(x)]), hvp=lambda v: [np.cosh(x) * v[0]]
    )
    assert "stopped: no parameter moved by more" in report.status and not report.converged
    assert report.iterations == 1


@pytest.mark.parametrize("make", [LBFGS, NewtonLanczos])
def test_arrays_of_another_form_are_not_bound(make):
    old = {"a": np.ones(2), "b": np.ones(3)}
    opt = make(old)
    for new in ({"a": np.ones(3), "b": np.ones(3)}, {"a": np.ones(2, np.float32), "b": np.ones(3)}):
        with pytest.raises(
            ValueError, match=r"parameter 'a' must have shape \(2,\) and dtype float64"
        ):
            opt.rebind(new)
    whole = np.ones(5)
    with pytest.raises(ValueError, match="memory"):
        opt.rebind({"a": whole[:2], "b": whole[1:4]})
    frozen = np.ones(2)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="'a'"):
        opt.rebind({"a": frozen, "b": np.ones(3)})
    assert opt.params[0] is old["a"]
    new = {"a": np.zeros(2), "b": np.zeros(3)}
    opt.rebind(new)
    assert opt.params[0] is new["a"] and opt.params[1] is new["b"]
