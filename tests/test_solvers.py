"""LBFGS takes torch's steps, NewtonLanczos leaves saddles, SAM is two gradients of any rule."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ISAS, Snapshot, assert_same_bits, every_dtype, every_rule
from curvature_cases import linear_network, polished, product_saddle, rosenbrock_hessian
from curvature_networks import Network, flat

import optkern
from optkern.kernels import runtime
from optkern.solvers import LBFGS, SAM, NewtonLanczos, _two_loop, reference

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import problems

TWO = problems.rosenbrock()
TEN = problems.rosenbrock(10)


def closure_of(problem, x):
    return lambda: (problem.loss(x), problem.grad(x))


def run(solver, problem, x, **kwargs):
    return solver.step(closure_of(problem, x), **kwargs)


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


# --------------------------------------------------------------------------- NewtonLanczos


def product_hessian(w):
    cross = 4 * w[0] * w[1] - 2
    return np.array([[2 * w[1] ** 2, cross], [cross, 2 * w[0] ** 2]])


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "differences"])
@pytest.mark.parametrize("seed", range(5))
@every_dtype
def test_from_the_product_saddle_to_its_minimum(dtype, seed, exact):
    loss, grad = product_saddle()
    w = np.zeros(2, dtype)
    hvp = (lambda v: product_hessian(w).astype(dtype) @ v) if exact else None
    tolerance = 1e-7 if dtype == np.float64 else 1e-4
    solver = NewtonLanczos(w, seed=seed, tolerance_grad=tolerance)
    report = solver.step(lambda: (loss(w), grad(w)), hvp)
    assert report.converged and report.initial_value == 1
    assert report.value < 1e-8
    assert (report.products > 0) == exact


@pytest.mark.parametrize("seed", range(5))
@every_dtype
def test_from_a_saddle_of_index_six_past_the_next_ones(dtype, seed):
    loss, grad = linear_network()
    p = [np.zeros((2, 3), dtype), np.zeros((3, 2), dtype)]
    tolerance = 1e-7 if dtype == np.float64 else 1e-3
    report = NewtonLanczos(p, seed=seed, tolerance_grad=tolerance).step(lambda: (loss(p), grad(p)))
    assert report.converged and report.initial_value == 7
    np.testing.assert_allclose(report.value, 0.5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_from_rosenbrocks_saddle_to_a_minimum(seed):
    problem = problems.rosenbrock(4)
    x = polished([-0.656125, 0.443120, 0.204312, 0.041743])
    assert np.linalg.eigvalsh(rosenbrock_hessian(x))[0] < -0.5
    solver = NewtonLanczos(x, seed=seed)
    report = run(solver, problem, x, hvp=lambda v: rosenbrock_hessian(x) @ v)
    assert report.converged
    assert np.linalg.eigvalsh(rosenbrock_hessian(x))[0] > 0.3
    assert np.abs(problem.grad(x)).max() < 1e-6


def test_off_a_maximum():
    x = np.zeros(50)
    report = NewtonLanczos(x).step(
        lambda: (float(-(x @ x) / 2 + (x @ x) ** 2 / 4), (x @ x - 1) * x)
    )
    np.testing.assert_allclose(report.value, -0.25)


def test_a_gradient_without_the_way_out_does_not_hide_it():
    """x0^4/4 - x0^2/2 + x1^2/2 from x0 = 0: every gradient stays on the line to the saddle."""
    x = np.array([0.0, 3.0])
    report = NewtonLanczos(x).step(
        lambda: (
            float(x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2),
            np.array([x[0] ** 3 - x[0], x[1]]),
        )
    )
    np.testing.assert_allclose([abs(x[0]), x[1]], [1, 0], atol=1e-6)
    np.testing.assert_allclose(report.value, -0.25)
    y = np.array([0.0, 3.0])
    NewtonLanczos(y, check_matvecs=0).step(
        lambda: (
            float(y[0] ** 4 / 4 - y[0] ** 2 / 2 + y[1] ** 2 / 2),
            np.array([y[0] ** 3 - y[0], y[1]]),
        )
    )
    assert y[0] == 0  # so the check is what found it


def test_beside_a_saddle_the_first_step_goes_to_the_edge_of_the_region():
    loss, grad = product_saddle()
    w = np.array([1e-6, 2e-6])
    NewtonLanczos(w, max_iter=1, radius=0.5).step(lambda: (loss(w), grad(w)))
    np.testing.assert_allclose(np.linalg.norm(w), 0.5, rtol=1e-3)
    assert w[0] > 0.3 and w[1] > 0.3


def test_a_monkey_saddle_does_no_harm():
    """Its Hessian vanishes at 0: there is no curvature to follow."""
    x = np.zeros(2)
    report = NewtonLanczos(x, max_iter=3).step(
        lambda: (
            float(x[0] ** 3 - 3 * x[0] * x[1] ** 2),
            np.array([3 * x[0] ** 2 - 3 * x[1] ** 2, -6 * x[0] * x[1]]),
        )
    )
    assert np.isfinite(x).all() and report.value <= 0


@pytest.mark.parametrize("make", [LBFGS, NewtonLanczos])
@pytest.mark.parametrize("n", [0, 1])
def test_the_smallest_problems(make, n):
    x = np.full(n, 3.0)
    report = make(x).step(lambda: (float(x @ x), 2 * x))
    assert report.converged and np.abs(x).max(initial=0) < 1e-6


@every_dtype
def test_a_gradient_that_underflows_is_the_end(dtype):
    x = np.array([1e-25, -1e-30], dtype)
    solver = NewtonLanczos(x, tolerance_grad=0, tolerance_change=0, check_matvecs=0)
    report = solver.step(
        lambda: (0.0, (x * dtype(1e-15)) * dtype(1e-280 if dtype == np.float64 else 1))
    )
    assert report.converged and "underflown" in report.status


@pytest.mark.slow
@pytest.mark.parametrize("make", problems.SMALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "differences"])
def test_from_anywhere_it_ends_where_curvature_is_not_negative(make, exact):
    problem, ended = make(), 0
    for seed in range(100):
        x = np.random.default_rng(seed).uniform(-4, 4, 2)
        hvp = (lambda v, x=x: problem.hvp(x, v)) if exact else None
        report = NewtonLanczos(x, max_iter=60).step(closure_of(problem, x), hvp)
        assert np.isfinite(x).all() and report.value <= report.initial_value
        if np.abs(problem.grad(x)).max() < 1e-6:
            ended += 1
            h = np.array([problem.hvp(x, e) for e in np.eye(2)])
            assert np.linalg.eigvalsh(h)[0] > -1e-4 * np.abs(h).max()
    assert ended >= 60  # Beale also falls for ever towards infinity, Ackley ends in a tip


def test_a_minimum_is_left_alone():
    x = np.ones(10)
    report = run(NewtonLanczos(x), TEN, x)
    assert report.converged and report.iterations == 0
    assert "no negative curvature" in report.status
    assert np.array_equal(x, np.ones(10))


def test_a_quadratic_takes_one_full_step():
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    h, x = (q * np.linspace(1, 5, 8)) @ q.T, rng.standard_normal(8)
    solver = NewtonLanczos(x, radius=100.0)
    report = solver.step(lambda: (float(x @ h @ x) / 2, h @ x), lambda v: h @ v)
    assert report.iterations <= 12 and np.abs(x).max() < 1e-6


def test_a_tanh_network_in_float32():
    network = Network("tanh", 4, 6, 2, 40, seed=1, decay=0.01)
    p = network.cast(np.float32)
    solver = NewtonLanczos(p, max_iter=40, tolerance_grad=1e-4)
    report = solver.step(lambda: (network.loss(p), network.grad(p)))
    q = network.params
    NewtonLanczos(q).step(lambda: (network.loss(q), network.grad(q)), lambda v: network.hvp(q, v))
    assert report.converged
    np.testing.assert_allclose(report.value, network.loss(q), rtol=0.05)


def test_a_difference_step_that_overflows_is_shortened():
    """Beyond 1 the first difference step, 1.5e-8 (1 + |x|), leaves the function's domain."""
    x = np.array([1.0, 1e8])

    def closure():
        with np.errstate(all="ignore"):
            room = 1 + 1e-2 - x[0]
            g = np.array([1 / room if room > 0 else np.nan, 1e-8 * (x[1] - 1e8)]) - [90, 0]
            loss = -np.log(room) - 90 * x[0] if room > 0 else np.inf
            return float(loss), g

    report = NewtonLanczos(x, tolerance_grad=1e-3).step(closure)
    assert np.isfinite(report.value) and report.value < report.initial_value


def test_products_that_are_not_finite_are_refused():
    x = TEN.start.copy()
    before = Snapshot(x)
    with pytest.raises(FloatingPointError, match="product 1 holds NaN"):
        run(NewtonLanczos(x), TEN, x, hvp=lambda v: v * np.nan)
    before.assert_untouched()


# --------------------------------------------------------------------------- scipy


def scipy_gradients(problem, method):
    """What bench/bench_solvers.py counts for scipy's solvers."""
    pytest.importorskip("scipy", reason="the counts are compared with scipy.optimize")
    import bench_solvers

    return bench_solvers.run(bench_solvers.PEERS[method], problem)[1]


@pytest.mark.parametrize("make", problems.SMALL, ids=lambda make: make.__name__)
def test_no_more_than_twice_scipys_gradients(make):
    problem = make()
    better = min(scipy_gradients(problem, m) for m in ("scipy L-BFGS-B", "scipy trust-krylov"))
    import bench_solvers

    for name, method in bench_solvers.OURS.items():
        _, gradients, loss, largest, _ = bench_solvers.run(method, problem)
        assert gradients <= 2 * better, name
        assert loss < 1e-10, name
        assert largest < 1e-6 or make is problems.ackley, name


@pytest.mark.parametrize("make", [problems.rosenbrock, problems.beale, problems.himmelblau])
def test_from_random_starts_products_are_saved_where_a_step_tells_as_much(make):
    """A step in the whole space teaches its curvature: fresh products took 1.4 to 1.6 times."""
    pytest.importorskip("scipy", reason="the counts are compared with scipy.optimize")
    import bench_solvers

    methods = bench_solvers.PEERS | {"ours": bench_solvers.newton}
    counts = bench_solvers.from_random_starts(make, methods, 10)
    better = np.minimum(*(counts[name] for name in bench_solvers.PEERS))
    assert counts["ours"].sum() <= 1.35 * better.sum()


def test_a_loss_that_resolves_no_step_is_the_end():
    """At the tip of Ackley's cone; halving the step on down to 1e-33 took 50 gradients more."""
    problem = problems.ackley()
    x = np.random.default_rng(6).uniform(-4, 4, 2)
    solver = NewtonLanczos(x, tolerance_change=0)
    report = solver.step(closure_of(problem, x), lambda v: problem.hvp(x, v))
    assert "no step within the trust region lowers the loss" in report.status
    assert report.value < 1e-14
    assert report.gradients + report.products < 90


def test_a_learned_model_that_fails_is_replaced_by_products():
    """Curvature that jumps: what the last step taught is wrong behind the kink."""
    x = np.array([3.0, 2.0])

    def closure():
        base = np.where(x < 0.5, 199.5 * (x - 0.5) ** 2, 0.0)
        return float(np.sum(x**2 / 2 + base)), x + np.where(x < 0.5, 399 * (x - 0.5), 0.0)

    report = NewtonLanczos(x, tolerance_grad=1e-9).step(
        closure, lambda v: np.where(x < 0.5, 400.0, 1.0) * v
    )
    assert report.converged
    np.testing.assert_allclose(x, 399 * 0.5 / 400, rtol=1e-8)
    assert report.value <= report.initial_value


@pytest.mark.slow
def test_no_more_than_twice_scipys_gradients_on_a_network():
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="small products on one thread")
    problem = problems.digits()
    with threadpoolctl.threadpool_limits(1):
        compare_on_the_network(problem)


def compare_on_the_network(problem):
    better = scipy_gradients(problem, "scipy L-BFGS-B")  # trust-krylov takes nine times as many
    import bench_solvers

    for name, method in bench_solvers.OURS.items():
        _, gradients, loss, largest, _ = bench_solvers.run(method, problem)
        assert gradients <= 2 * better, name
        assert loss < 0.094 and largest < 1e-6, name


@pytest.mark.parametrize(
    "make", [*problems.SMALL, lambda: problems.rosenbrock(10)], ids=lambda make: make.__name__
)
def test_the_problems_derivatives(make):
    problem = make()
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = problem.start + 0.3 * rng.standard_normal(problem.start.size)
        v, h = rng.standard_normal(x.size), 1e-6
        slope = (problem.loss(x + h * v) - problem.loss(x - h * v)) / (2 * h)
        np.testing.assert_allclose(problem.grad(x) @ v, slope, rtol=1e-6, atol=1e-6)
        product = (problem.grad(x + h * v) - problem.grad(x - h * v)) / (2 * h)
        np.testing.assert_allclose(problem.hvp(x, v), product, rtol=1e-6, atol=1e-6)


# --------------------------------------------------------------------------- SAM


def worst_nearby(params, grads, rho, adaptive):
    """p + rho g / ||g|| in NumPy, summed as the engine sums."""
    from optkern.curvature.reference import dot

    near, e, square = {}, {}, 0.0
    for k, p in params.items():
        x = np.ravel(p * grads[k] if adaptive else grads[k])
        square += dot(x, x)
        e[k], near[k] = p * p * grads[k] if adaptive else grads[k], p.copy()
    for k in params:
        optkern.reference.sgd(near[k], e[k], lr=rho / np.sqrt(square), maximize=True)
    return near


@every_rule
@every_dtype
@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_is_the_rule_with_the_gradient_nearby(rule, dtype, adaptive):
    cls = optkern.optimizers.CLASSES[rule.name]
    network = Network("tanh", 3, 4, 2, 20, seed=0)
    ours, plain = network.cast(dtype), network.cast(dtype)
    sam, alone = SAM(cls(ours), rho=0.07, adaptive=adaptive), cls(plain)
    for _ in range(5):
        report = sam.step(closure_of(network, ours))
        assert report.value == network.loss(plain)
        near = worst_nearby(plain, network.grad(plain), 0.07, adaptive)
        alone.step(network.grad(near))
        for k in ours:
            assert_same_bits(ours[k], plain[k])
    assert sam.gradients == 10 and sam.steps == 5


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_half_precision(adaptive):
    x = np.linspace(-1, 2, 300).astype(np.float16)
    seen = []

    def closure():
        seen.append(x.astype(np.float64))
        return float(seen[-1] @ seen[-1]), 2 * x

    sam = SAM(optkern.SGD(x, lr=0.01), rho=2.0, adaptive=adaptive)
    for _ in range(20):
        sam.step(closure)
    g = 2 * seen[0]
    e = (
        2 * seen[0] ** 2 * g / np.linalg.norm(seen[0] * g)
        if adaptive
        else 2 * g / np.linalg.norm(g)
    )
    np.testing.assert_allclose(seen[1] - seen[0], e, atol=2e-3)
    assert np.abs(x).max() < np.abs(seen[0]).max()


def test_sam_puts_the_parameters_back_exactly():
    x = np.array([0.1, 0.3], np.float32)
    seen = []

    def closure():
        seen.append(x.copy())
        return float(x @ x), 2 * x

    SAM(optkern.SGD(x, lr=0.0), rho=0.5).step(closure)
    assert_same_bits(x, seen[0])
    moved = seen[1] - seen[0]
    np.testing.assert_allclose(np.linalg.norm(moved), 0.5, rtol=1e-6)
    np.testing.assert_allclose(moved / 0.5, x / np.linalg.norm(x), rtol=1e-5)


def test_sam_goes_to_the_flat_part_of_a_valley():
    """(1 - w1 w2)^2 is zero along a curve; its curvature there, 2 |w|^2, is least at (1, 1)."""
    loss, grad = product_saddle()
    ends = []
    for rho in (0.0, 0.2):
        w = np.array([3.0, 0.5])
        sam = SAM(optkern.SGD(w, lr=0.02), rho=rho)
        for _ in range(2000):
            sam.step(lambda w=w: (loss(w), grad(w)))
        ends.append(w @ w)
    assert ends[0] > 8
    assert ends[1] < 2.2


def test_sam_without_a_direction_is_the_plain_rule():
    x = np.array([1.0, 2.0])
    sam = SAM(optkern.SGD(x, lr=0.1), rho=0.0)
    assert sam.step(lambda: (0.0, np.ones(2))).gradients == 1
    np.testing.assert_allclose(x, [0.9, 1.9])
    assert SAM(optkern.SGD(x), rho=1.0).step(lambda: (0.0, np.zeros(2))).gradients == 1


def test_sam_leaves_gradients_that_are_not_finite_to_the_rule():
    x = np.ones(2)

    def bad():
        return np.nan, np.array([np.nan, 1.0])

    skipping = SAM(optkern.SGD(x, on_nonfinite="skip"))
    report = skipping.step(bad)
    assert report.iterations == 0 and "not finite" in report.status
    assert skipping.optimizer.skipped_steps == 1 and np.array_equal(x, np.ones(2))
    with pytest.raises(ValueError, match="NaN or inf"):
        SAM(optkern.SGD(x, on_nonfinite="raise")).step(bad)
    assert np.array_equal(x, np.ones(2))


@pytest.mark.parametrize("maximize", (False, True))
def test_sam_looks_at_the_worst_neighbour(maximize):
    """Below a maximum that is sought, and above a minimum."""
    p, seen = np.array([1.0]), []
    sign = -1 if maximize else 1

    def closure():
        seen.append(float(p[0]))
        return sign * float(p[0] ** 2), sign * 2 * p

    optkern.SAM(optkern.SGD(p, lr=0.1, maximize=maximize), rho=0.5).step(closure)
    assert seen == [1.0, 1.5]
    assert p[0] == pytest.approx(1 - 0.1 * 2 * 1.5)


@pytest.mark.parametrize("loss", ("3", None, 1j))
def test_sam_wants_a_real_loss(loss):
    p = np.ones(2)
    with pytest.raises(TypeError, match="SAM: the closure's loss must be a real number"):
        optkern.SAM(optkern.SGD(p, lr=0.1)).step(lambda: (loss, p.copy()))
    assert (p == 1).all()


@pytest.mark.parametrize("line_search", (None, "strong_wolfe"))
def test_lbfgs_with_an_lr_of_zero_stops_and_says_so(line_search):
    x = np.ones(3)
    opt = optkern.LBFGS(x, lr=lambda step: 0.0, line_search_fn=line_search)
    report = opt.step(lambda: (float(x @ x), 2 * x))
    assert "lr is 0" in str(report) and not report.converged
    assert (x == 1).all()


def test_sam_says_when_a_gradient_was_accumulated():
    x = np.ones(2)
    sam = SAM(optkern.SGD(x, lr=0.1, accumulate=2))
    first, second = (sam.step(lambda: (float(x @ x), 2 * x)) for _ in range(2))
    assert first.iterations == 0 and "accumulated" in first.status
    assert second.iterations == 1 and second.status == "one step"
    assert sam.optimizer.skipped_steps == 0


def test_sam_leaves_parameters_without_gradient_alone():
    a, b = np.ones(2), np.ones(2)
    seen = []

    def closure():
        seen.append(b.copy())
        return 0.0, {"a": 2 * a, "b": None}

    SAM(optkern.SGD({"a": a, "b": b}, lr=0.1)).step(closure)
    assert np.array_equal(seen[1], np.ones(2)) and np.array_equal(b, np.ones(2))
    assert a[0] != 1


def test_sam_puts_the_parameters_back_after_an_error():
    x, calls = np.ones(2), []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("mine")
        return 0.0, x.copy()

    sam = SAM(optkern.Adam(x))
    with pytest.raises(RuntimeError, match="mine"):
        sam.step(closure)
    assert np.array_equal(x, np.ones(2)) and sam.steps == 0


# --------------------------------------------------------------------------- bad input


BAD = [
    (lambda x: LBFGS(x, lr=-1), ValueError, "LBFGS: lr must be a finite number in"),
    (lambda x: LBFGS(x, max_iter=0), ValueError, "max_iter must be an integer >= 1, got 0"),
    (lambda x: LBFGS(x, max_eval="1"), TypeError, "max_eval must be an integer >= 1"),
    (lambda x: LBFGS(x, tolerance_grad=np.nan), ValueError, "tolerance_grad"),
    (lambda x: LBFGS(x, history_size=0), ValueError, "history_size"),
    (lambda x: LBFGS(x, line_search_fn="wolfe"), ValueError, "None or 'strong_wolfe', got 'wolfe'"),
    (lambda x: LBFGS(x, num_threads=0), ValueError, "num_threads"),
    (lambda x: LBFGS([]), ValueError, "params is empty"),
    (lambda x: LBFGS([x, x]), ValueError, "array 0 of params and array 1 of params overlap"),
    (lambda x: LBFGS(x.astype(int)), TypeError, "float32 or float64, got int64"),
    (lambda x: LBFGS([{"params": x, "lr": 1.0}]), ValueError, r"group 0 has \['lr'\]"),
    (lambda x: LBFGS(x * np.nan), ValueError, "holds NaN or inf"),
    (lambda x: NewtonLanczos(x, radius=0.0), ValueError, "radius must be a finite number in"),
    (lambda x: NewtonLanczos(x, max_matvecs=0), ValueError, "max_matvecs"),
    (lambda x: NewtonLanczos(x, check_matvecs=-1), ValueError, "check_matvecs"),
    (lambda x: NewtonLanczos(x, seed=-1), ValueError, "seed"),
    (lambda x: SAM(x), TypeError, "one of optkern's, got ndarray"),
    (lambda x: SAM(optkern.SGD(x), rho=-1), ValueError, "SAM: rho must be"),
    (lambda x: SAM(optkern.SGD(x), adaptive=2), ValueError, "adaptive must be True or False"),
    (
        lambda x: LBFGS(x, lr=b"1"),
        ValueError,
        r"lr must be a finite number in \[0, inf\), got b'1'",
    ),
    (lambda x: LBFGS(x, lr=np.True_), ValueError, "lr must be a finite number in .*got np.True_"),
    (lambda x: LBFGS(x, lr=10**400), ValueError, "lr must be a finite number in .*got 1000"),
    (lambda x: LBFGS(x, max_iter=-(10**400)), ValueError, "max_iter must be an integer >= 1, got"),
    (lambda x: LBFGS(x, max_iter=np.inf), ValueError, "max_iter must be an integer >= 1, got inf"),
    (lambda x: LBFGS(x, line_search_fn=np.array(["a", "b"])), ValueError, "None or 'strong_wolfe'"),
    (lambda x: SAM(optkern.SGD(x), rho=np.array([1.0])), ValueError, "SAM: rho must be"),
    (lambda x: SAM(SAM(optkern.SGD(x))), TypeError, "one of optkern's, got SAM"),
    (lambda x: SAM(optkern.SGD), TypeError, "one of optkern's, got type"),
]


@pytest.mark.parametrize("make, error, message", BAD, ids=range(len(BAD)))
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make(np.ones(3))


MISSPELT = [
    (LBFGS, "max_iters", "LBFGS has no attribute 'max_iters' to set; did you mean max_iter?"),
    (NewtonLanczos, "raduis", "did you mean radius?"),
    (NewtonLanczos, "lr", "there are max_iter, max_matvecs, radius"),
    (lambda x: SAM(optkern.SGD(x)), "roh", "SAM has no attribute 'roh' to set; did you mean rho?"),
    (lambda x: SAM(optkern.SGD(x)), "steps", "there are optimizer, rho, adaptive, gradients"),
]


@pytest.mark.parametrize("make, name, message", MISSPELT, ids=[row[1] for row in MISSPELT])
def test_an_attribute_is_not_set_in_vain(make, name, message):
    solver = make(np.ones(3))
    with pytest.raises(AttributeError, match=message):
        setattr(solver, name, 3)
    own = type("Own", (type(solver),), {"__module__": "mine"})(*[
        solver.optimizer if isinstance(solver, SAM) else np.ones(3)
    ])  # fmt: skip
    own.seen = 3
    assert own.seen == 3


def test_an_optimizer_that_is_taken_from_sam():
    x = np.ones(3)
    sam = SAM(optkern.SGD(x))
    sam.optimizer = None
    with pytest.raises(TypeError, match="SAM: optimizer must be one of optkern's, got NoneType"):
        sam.step(lambda: (1.0, x.copy()))
    assert (x == 1).all()


def test_a_read_only_parameter():
    x = np.ones(3)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 0 is read-only"):
        LBFGS(x)


BAD_CLOSURES = [
    (3, TypeError, "closure must be callable, got int"),
    (lambda x: 1.0, TypeError, r"must return \(loss, grads\), got float"),
    (lambda x: ("a", x), TypeError, "loss must be a real number, got 'a'"),
    (lambda x: (1j, x), TypeError, "loss must be a real number"),
    (lambda x: (1.0, x[:2]), ValueError, r"shape \(3,\), got \(2,\)"),
    (lambda x: (1.0, [x]), TypeError, "must be a NumPy array or None, got list"),
    (lambda x: (1.0, x.astype(int)), TypeError, "real floating point, got int64"),
    (lambda x: (np.inf, x), ValueError, "at the start is not finite"),
    (lambda x: (1.0, x * np.nan), ValueError, "at the start is not finite"),
]


@pytest.mark.parametrize("solver", [LBFGS, NewtonLanczos])
@pytest.mark.parametrize("closure, error, message", BAD_CLOSURES, ids=range(len(BAD_CLOSURES)))
def test_bad_closures(solver, closure, error, message):
    x = np.ones(3)
    before = Snapshot(x)
    made = solver(x)
    with pytest.raises(error, match=message):
        made.step((lambda: closure(x)) if callable(closure) else closure)
    before.assert_untouched()
    assert made.step(lambda: (float(x @ x), 2 * x)).converged


def test_bad_callbacks_and_products():
    x = np.ones(3)

    def good():
        return float(x @ x), 2 * x

    with pytest.raises(TypeError, match="callback must be callable"):
        LBFGS(x).step(good, callback=1)
    with pytest.raises(TypeError, match="hvp must be callable"):
        NewtonLanczos(x).step(good, hvp=1)
    with pytest.raises(ValueError, match=r"what hvp returns: array 0 must have shape \(3,\)"):
        NewtonLanczos(x).step(good, hvp=lambda v: v[:2])
    with pytest.raises(TypeError, match=r"SAM: closure must return \(loss, grads\)"):
        SAM(optkern.SGD(x)).step(lambda: 1.0)
    assert np.array_equal(x, np.ones(3))
