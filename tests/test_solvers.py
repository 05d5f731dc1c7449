"""LBFGS takes torch's steps, NewtonLanczos leaves saddles, SAM is two gradients of any rule."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ISAS, assert_same_bits, every_dtype
from curvature_networks import Network, flat

import optkern
from optkern.kernels import runtime
from optkern.solvers import LBFGS, SAM, NewtonLanczos, _two_loop, reference

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import problems
from solved import (
    TEN,
    run,
)

TWO = problems.rosenbrock()


# --------------------------------------------------------------------------- the two loops


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 5])
@every_dtype
def test_two_loops_equal_their_twin(isa, threads, dtype):
    runtime.use_isa(isa)
    for n in (0, 1, 17, 4097, 9001):
        rng = np.random.default_rng(n)
        for k in (0, 1, 2, 5):
            s, y = ([rng.standard_normal(n).astype(dtype) for _ in range(k)] for _ in range(2))
            g, rho = rng.standard_normal(n).astype(dtype), list(rng.uniform(0.01, 1, k))
            outs = [np.empty_like(g), np.empty_like(g)]
            got = _two_loop.two_loop(outs[0], g, s, y, rho, 0.3, threads)
            expected = reference.two_loop(outs[1], g, s, y, rho, 0.3)
            assert_same_bits(outs[0], outs[1])
            assert np.float64(got).tobytes() == np.float64(expected).tobytes()


def test_two_loops_are_the_inverse_of_bfgs():
    rng = np.random.default_rng(0)
    n, k, gamma = 6, 4, 0.7
    h = gamma * np.eye(n)
    s, y, rho = [], [], []
    for _ in range(k):
        a, b = rng.standard_normal((2, n))
        b *= np.sign(a @ b)
        s, y, rho = [*s, a], [*y, b], [*rho, 1 / (a @ b)]
        v = np.eye(n) - rho[-1] * np.outer(b, a)
        h = v.T @ h @ v + rho[-1] * np.outer(a, a)
    g, out = rng.standard_normal(n), np.empty(n)
    slope = _two_loop.two_loop(out, g, s, y, rho, gamma)
    np.testing.assert_allclose(out, -h @ g, rtol=1e-10)
    np.testing.assert_allclose(slope, -g @ h @ g, rtol=1e-10)


def test_two_loops_refuse_what_does_not_fit():
    g = np.ones(4)
    with pytest.raises(ValueError, match="1 y, 1 rho"):
        _two_loop.two_loop(np.empty(4), g, [g], [], [], 1.0)
    with pytest.raises(ValueError, match="4 elements, got 3"):
        _two_loop.two_loop(np.empty(4), g, [np.ones(3)], [g], [1.0], 1.0)


# --------------------------------------------------------------------------- torch


def torch_path(start, loss, calls, shift, **options):
    """Where torch.optim.LBFGS is after each call, from the start times 1 + shift."""
    torch = pytest.importorskip("torch", reason="the steps are compared with torch.optim.LBFGS")
    t = torch.tensor(start * (1 + shift), requires_grad=True)
    solver = torch.optim.LBFGS([t], **options)

    def closure():
        solver.zero_grad()
        value = loss(t)
        value.backward()
        return value

    path = []
    for _ in range(calls):
        solver.step(closure)
        path.append(t.detach().numpy().copy())
    return path, solver.state[t]


def our_path(start, loss, grad, calls, **options):
    x = start.copy()
    solver = LBFGS(x, **options)
    path = []
    for _ in range(calls):
        solver.step(lambda: (loss(x), grad(x)))
        path.append(x.copy())
    return path, solver


def logistic():
    """Logistic regression with weight decay, in NumPy and in torch."""
    rng = np.random.default_rng(0)
    a, label = rng.standard_normal((80, 12)), np.sign(rng.standard_normal(80))

    def loss(w):
        return float(np.mean(np.log1p(np.exp(-label * (a @ w)))) + 0.05 * (w @ w))

    def grad(w):
        return a.T @ (-label / (1 + np.exp(label * (a @ w)))) / 80 + 0.1 * w

    def of_tensor(w):
        import torch

        z = torch.tensor(label) * (torch.tensor(a) @ w)
        return torch.log1p(torch.exp(-z)).mean() + 0.05 * (w @ w)

    return np.full(12, 2.0), loss, grad, of_tensor


def rosenbrock_tensor(t):
    return (100 * (t[1:] - t[:-1] ** 2) ** 2 + (1 - t[:-1]) ** 2).sum()


WOLFE = {"line_search_fn": "strong_wolfe"}


@pytest.mark.parametrize(
    "options",
    [
        WOLFE,
        WOLFE | {"max_iter": 3, "history_size": 4},
        WOLFE | {"max_iter": 7, "max_eval": 5, "lr": 0.3},
        {"lr": 0.5},
        {"lr": 0.8, "max_iter": 4, "history_size": 2},
        {"tolerance_grad": 1e-3},
        {"tolerance_change": 1e-4, "lr": 0.1},
    ],
    ids=str,
)
def test_lbfgs_goes_where_torch_goes(options):
    start, loss, grad, of_tensor = logistic()
    theirs, state = torch_path(start, of_tensor, 8, 0.0, **options)
    ours, solver = our_path(start, loss, grad, 8, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= 1e-10
    assert solver.gradients == state["func_evals"]
    assert solver.iterations == state["n_iter"]


@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("options", [WOLFE | {"max_iter": 5}, {"lr": 0.5, "max_iter": 5}], ids=str)
def test_lbfgs_goes_where_torch_goes_on_rosenbrock(n, options):
    """Its valley magnifies rounding: torch from a start one rounding error off is the measure."""
    problem = problems.rosenbrock(n)
    theirs, state = torch_path(problem.start, rosenbrock_tensor, 8, 0.0, **options)
    shifted, _ = torch_path(problem.start, rosenbrock_tensor, 8, 2.0**-52, **options)
    ours, solver = our_path(problem.start, problem.loss, problem.grad, 8, **options)
    drift = 1e-13
    for a, b, c in zip(ours, theirs, shifted, strict=True):
        drift = max(drift, np.abs(b - c).max())
        assert np.abs(a - b).max() <= 100 * drift
    assert drift < 1e-6  # or this would show nothing
    assert solver.gradients == state["func_evals"]


# --------------------------------------------------------------------------- LBFGS


@every_dtype
def test_lbfgs_takes_any_structure(dtype):
    network = Network("tanh", 4, 5, 2, 30, seed=0, decay=0.01)
    together = flat(network.params).astype(dtype)
    params = network.cast(dtype)
    params["w1"] = np.asfortranarray(params["w1"])
    results = []
    for form in ("dict", "list", "groups"):
        p = {k: w.copy(order="K") for k, w in params.items()}
        names = list(p)
        given = {
            "dict": p,
            "list": list(p.values()),
            "groups": [{"params": [p[k]]} for k in names],
        }[form]

        def closure(p=p, form=form, names=names):
            g = network.grad(p)
            arranged = {
                "dict": g,
                "list": list(g.values()),
                "groups": [[g[k]] for k in names],
            }[form]
            return network.loss(p), arranged

        report = LBFGS(given, line_search_fn="strong_wolfe", max_iter=10).step(closure)
        assert report.value < 0.5 * report.initial_value
        assert all(p[k].dtype == dtype for k in p)
        results.append(flat(p))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])
    assert not np.array_equal(results[0], together)


def test_a_missing_gradient_is_zero():
    x, y = np.ones(2), np.ones(3)
    LBFGS([x, y]).step(lambda: (float(x @ x), [2 * x, None]))
    assert np.abs(x).max() < 1e-6
    assert np.array_equal(y, np.ones(3))


@pytest.mark.parametrize("make", [LBFGS, NewtonLanczos])
def test_the_bits_do_not_depend_on_threads(make):
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.1, 10, 20000)
    results = []
    for threads in (1, 2, 3):
        x = np.ones(20000)
        make(x, max_iter=6, num_threads=threads).step(
            lambda x=x: (float(np.sum(scales * np.cosh(x))), scales * np.sinh(x))
        )
        results.append(x)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_a_loss_that_is_not_finite_is_kept_out():
    """log x has no value beyond 0: the search comes back, a fixed step is taken back."""

    def closure():
        with np.errstate(all="ignore"):
            return float(np.sum(x - np.log(x))), 1 - 1 / x

    x = np.array([0.001, 4.0])
    report = LBFGS(x, lr=10.0, line_search_fn="strong_wolfe", max_iter=200).step(closure)
    np.testing.assert_allclose(x, 1, atol=1e-3)
    assert np.isfinite(report.value)
    x = np.array([4.0, 5.0])
    report = LBFGS(x, lr=100.0).step(closure)
    assert "not finite" in report.status and not report.converged
    assert np.isfinite(x).all() and np.isfinite(report.value)


@pytest.mark.parametrize("make", [lambda x: LBFGS(x, **WOLFE), NewtonLanczos])
@pytest.mark.parametrize("start", [1.0, 30.0])
def test_a_gradient_of_the_wrong_sign_is_no_convergence(make, start):
    x = np.full(3, start)
    report = make(x).step(lambda: (float(x @ x), -2 * x))
    assert not report.converged and report.status.startswith("stopped: no ")
    assert np.array_equal(x, np.full(3, start))


@every_dtype
def test_at_the_rounding_of_the_loss_the_line_search_has_converged(dtype):
    """No step lowers 1e6 + x'x any more, though the gradient is not small enough."""
    x = np.array([1.0, -2.0], dtype)
    report = LBFGS(x, tolerance_grad=0, tolerance_change=0, max_iter=100, **WOLFE).step(
        lambda: (dtype(1e6) + dtype(x @ x), 2 * x)
    )
    assert report.converged, report.status
    assert np.abs(x).max() < 1e-2 if dtype == np.float64 else np.abs(x).max() < 1


@pytest.mark.parametrize(
    "scale, lr, said",
    [
        (1.0, 1e-4, "no parameter moved by more than tolerance_change"),
        (1.0, 2.0, "the loss changed by less than tolerance_change"),  # from 1 to -1
        (0.01, 1.0, "the slope along the direction is below tolerance_change"),
    ],
)
def test_each_of_three_tolerances_ends_lbfgs(scale, lr, said):
    x = np.ones(1)
    report = LBFGS(x, lr=lr, tolerance_change=1e-3).step(
        lambda: (scale * float(x @ x) / 2, scale * x)
    )
    assert not report.converged and said in report.status
    assert report.status.startswith("stopped: ") and "above tolerance_grad" in report.status


def test_lbfgs_far_from_the_minimum_has_not_converged():
    """Raw years: torch's tolerance_change ends it at .69 where .32 can be had."""
    rng = np.random.default_rng(0)
    years = rng.integers(1990, 2020, 200).astype(float)
    label = (years + rng.normal(0, 5, 200) > 2005) * 1.0
    a, w = np.column_stack([years, np.ones(200)]), np.zeros(2)

    def closure():
        z = a @ w
        loss = np.mean(np.logaddexp(0, z) - label * z)
        return float(loss), a.T @ (1 / (1 + np.exp(-z)) - label) / 200

    report = LBFGS(w, max_iter=1000, **WOLFE).step(closure)
    assert not report.converged and "tolerance_change = 1e-09" in report.status
    report = LBFGS(w, max_iter=1000, tolerance_change=1e-16, tolerance_grad=1e-5, **WOLFE).step(
        closure
    )
    assert report.converged and report.value < 0.3176
    assert "tolerance_grad" in report.status


@pytest.mark.parametrize("make", [LBFGS, NewtonLanczos])
def test_the_callback_sees_progress_and_stops(make):
    x, seen = TEN.start.copy(), []

    def callback(report):
        seen.append(report)
        return len(seen) == 4

    report = run(make(x), TEN, x, callback=callback)
    assert report.status == "stopped by the callback" and report.iterations == 4
    assert [r.iterations for r in seen] == [1, 2, 3, 4]
    assert report.value == TEN.loss(x) == seen[-1].value
    assert report.gradient_max == np.abs(TEN.grad(x)).max()


@pytest.mark.parametrize("make", [LBFGS, NewtonLanczos])
def test_an_error_in_the_closure_leaves_a_point_that_was_reached(make):
    x, calls, reached = TEN.start.copy(), [], []

    def closure():
        calls.append(x.copy())
        if len(calls) == 30:
            raise RuntimeError("mine")
        return TEN.loss(x), TEN.grad(x)

    options = WOLFE | {"tolerance_change": 0} if make is LBFGS else {}
    solver = make(x, max_iter=100, **options)
    with pytest.raises(RuntimeError, match="mine"):
        solver.step(closure, callback=lambda r: reached.append(r.value))
    assert TEN.loss(x) == reached[-1]
    assert not np.array_equal(x, calls[-1])
    solver.max_iter = 200
    assert run(solver, TEN, x).converged  # and the next call goes on


# --------------------------------------------------------------------------- exact resume


def halves(make, state_of, steps=3):
    """The parameters after 2 N calls, and after N, a state dict, another solver and N more."""
    straight, resumed = TEN.start.copy(), TEN.start.copy()
    solver = make(straight)
    for _ in range(2 * steps):
        run(solver, TEN, straight)
    first = make(resumed)
    for _ in range(steps):
        run(first, TEN, resumed)
    saved = state_of(first)
    kept = resumed.copy()
    run(first, TEN, resumed)  # what happens later is not in the state dict
    resumed[...] = kept
    second = make(resumed)
    second.load_state_dict(saved)
    for _ in range(steps):
        run(second, TEN, resumed)
    return straight, resumed, solver, second


every_solver = pytest.mark.parametrize(
    "make",
    [
        lambda x: LBFGS(x, max_iter=4, history_size=5, line_search_fn="strong_wolfe"),
        lambda x: LBFGS(x, lr=lambda step: 0.3 + 0.1 * step, max_iter=3),
        lambda x: NewtonLanczos(x, max_iter=3),
        lambda x: SAM(optkern.Adam(x, lr=0.01), rho=0.1),
        lambda x: SAM(optkern.SGD(x, lr=1e-4, momentum=0.9), rho=lambda s: 0.01 * s, adaptive=True),
    ],
    ids=["lbfgs", "lbfgs fixed", "newton", "sam", "asam"],
)


@every_solver
def test_resuming_is_exact(make):
    straight, resumed, a, b = halves(make, lambda solver: solver.state_dict())
    assert_same_bits(resumed, straight)
    assert (a.gradients, a.steps) == (b.gradients, b.steps)
    assert repr(a.state_dict()) == repr(b.state_dict())


@every_solver
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_resuming_from_a_file_is_exact(make, kind, tmp_path):
    if kind == "safetensors":
        pytest.importorskip("safetensors", reason="extra `safetensors`")
    path = tmp_path / f"run.{kind}"
    straight, x, y = TEN.start.copy(), TEN.start.copy(), np.zeros(10)
    solver, first, second = make(straight), make(x), make(y)
    for _ in range(6):
        run(solver, TEN, straight)
    optkern.save(path, first)  # before the first step, when there is nothing to remember
    optkern.load(path, second)
    for _ in range(3):
        run(second, TEN, y)
    optkern.save(path, second, extra={"epoch": 3})
    third = make(x)
    assert optkern.load(path, third).extra == {"epoch": 3}
    for _ in range(3):
        run(third, TEN, x)
    assert_same_bits(x, straight)
    assert repr(third.state_dict()) == repr(solver.state_dict())


def test_a_file_of_something_else_is_refused(tmp_path):
    x = TEN.start.copy()
    made = [LBFGS(x), NewtonLanczos(x), SAM(optkern.Adam(x)), optkern.Adam(x)]
    names = ["LBFGS", "NewtonLanczos", "SAM", "an optimizer"]
    for k, (name, opt) in enumerate(zip(names, made)):
        optkern.save(tmp_path / "x", opt)
        for j, other in enumerate(made):
            if j == k:
                assert optkern.load(tmp_path / "x", other)[:3] == ((), (), ())
                continue
            for strict in (True, False):
                with pytest.raises(ValueError, match=f"x: holds the state of {name}, not of "):
                    optkern.load(tmp_path / "x", other, strict=strict)
    optkern.save(tmp_path / "x", LBFGS({"a": x[:4], "b": x[4:]}))
    with pytest.raises(ValueError, match="it lacks params/0; it also has params/a, params/b"):
        optkern.load(tmp_path / "x", LBFGS(x))
    report = optkern.load(tmp_path / "x", LBFGS({"a": x[:4], "b": x[4:7].copy()}), strict=False)
    assert report.mismatched_keys == ("params/b", "optimizer")
    solver = LBFGS(x)
    run(solver, TEN, x)
    optkern.save(tmp_path / "x", solver, params=False)
    x[:] = TEN.start
    optkern.load(tmp_path / "x", solver, params=False)
    assert np.array_equal(x, TEN.start)
    with pytest.raises(ValueError, match=r"x: LBFGS\.load_state_dict: s must have shape"):
        optkern.load(tmp_path / "x", LBFGS(np.ones(3)), params=False)
    report = optkern.load(tmp_path / "x", LBFGS(np.ones(3)), params=False, strict=False)
    assert report.mismatched_keys == ("optimizer",)


def test_the_vectors_of_lbfgs_are_found_by_the_parameters_names(tmp_path):
    def make(order):
        x = {"a": TEN.start[:4].copy(), "b": TEN.start[4:].reshape(2, 3).copy()}
        return {name: x[name] for name in order}

    def advance(solver, x):
        def closure():
            point = np.concatenate([x["a"], x["b"].ravel()])
            g = TEN.grad(point)
            return TEN.loss(point), {"a": g[:4], "b": g[4:].reshape(2, 3)}

        solver.step(closure)

    x, y = make("ab"), make("ba")
    first, second = (LBFGS(p, max_iter=4, **WOLFE) for p in (x, y))
    advance(first, x)
    optkern.save(tmp_path / "x", first)
    optkern.load(tmp_path / "x", second)
    for solver, point in ((first, x), (second, y)):
        advance(solver, point)
    for name in "ab":
        np.testing.assert_allclose(y[name], x[name], rtol=1e-9)
    x["b"] = x["b"].reshape(3, 2)
    with pytest.raises(ValueError, match=r"the state is of the parameters .*'b', \[2, 3\]"):
        optkern.load(tmp_path / "x", LBFGS(x), params=False)


def test_a_plateau_of_a_solver_is_saved_too(tmp_path):
    from optkern.schedules import Plateau

    def made(x):
        rate, radius = Plateau(1.0, patience=0), Plateau(0.1, patience=0)
        return LBFGS(x, lr=rate), SAM(optkern.SGD(x), rho=radius), rate, radius

    x = np.ones(3)
    lbfgs, sam, *schedules = made(x)
    for schedule in schedules:
        for _ in range(4):
            schedule.observe(1.0)
    other, around, *others = made(x)
    for solver, new in ((lbfgs, other), (sam, around)):
        optkern.save(tmp_path / "x", solver)
        optkern.load(tmp_path / "x", new)
    assert [s.state_dict() for s in others] == [s.state_dict() for s in schedules]
    assert others[0](0) < 1.0


def test_options_are_restored_and_bad_states_refused():
    x = TEN.start.copy()
    a, b = LBFGS(x, lr=0.5, max_iter=7), LBFGS(x)
    run(a, TEN, x)
    b.load_state_dict(a.state_dict())
    assert (b.lr, b.max_iter, b.iterations) == (0.5, 7, 7)
    good = a.state_dict()
    bad = [
        (good | {"solver": "SAM"}, "state of 'SAM', not 'LBFGS'"),
        ({k: v for k, v in good.items() if k != "rho"}, "has no 'rho'"),
        (good | {"s": good["s"][:, 1:]}, r"s must have shape \(\d, 10\)"),
        (good | {"direction": good["direction"].astype(np.float32)}, "dtype float64"),
        (good | {"options": good["options"] | {"lr": -1.0}}, "lr must be"),
        (good | {"options": {"lr": 1.0}}, "options must have the keys lr, max_iter"),
        (good | {"iterations": -1}, "iterations must be an integer >= 0"),
        (good | {"gamma": np.nan}, "gamma must be a finite number"),
        (good | {"rho": np.ones((2, 2))}, "rho must be one-dimensional float64"),
        (optkern.Adam(x.copy()).state_dict(), "state of 'adam', not 'LBFGS'"),
        (good | {"rho": good["rho"] * np.nan}, r"rho must hold finite numbers in \[0, inf\), got"),
        (good | {"rho": -good["rho"]}, r"rho must hold finite numbers in \[0, inf\), got"),
        (good | {"s": good["s"] * np.nan}, "s and y must be finite, got NaN or inf"),
        (good | {"gradient": None}, "direction and gradient must both be None, or neither"),
        (good | {"more": 1}, "the dict also has 'more', for which there is no place"),
    ]
    before = b.state_dict()
    for state, message in bad:
        with pytest.raises(ValueError, match=message):
            b.load_state_dict(state)
        assert repr(b.state_dict()) == repr(before)
    with pytest.raises(TypeError, match="expected a dict, got int"):
        b.load_state_dict(3)
    newton = NewtonLanczos(x)
    with pytest.raises(ValueError, match="10 elements"):
        NewtonLanczos(np.ones(3)).load_state_dict(newton.state_dict())
