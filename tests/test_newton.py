"""NewtonLanczos, and scipy's solvers beside it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Snapshot, every_dtype
from curvature_cases import linear_network, polished, product_saddle, rosenbrock_hessian
from curvature_networks import Network

from optkern.solvers import LBFGS, NewtonLanczos

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import problems
from solved import (
    TEN,
    closure_of,
    run,
)

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
