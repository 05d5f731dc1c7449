"""Solvers interrupted, and beside another thread: they can go on, and nothing torn is saved."""

from __future__ import annotations

import copy
import itertools
import threading

import numpy as np
import pytest
from interruption import Interrupt, interrupted

import optkern
from optkern.solvers import LBFGS, SAM, NewtonLanczos

BENDING = np.linspace(0.5, 4.0, 7)
BUSY = "a step is under way already, in another thread or in a callback"
MAKERS = {
    "LBFGS": lambda p: LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
    "fixed": lambda p: LBFGS(p, lr=0.3, max_iter=4),
    "NewtonLanczos": lambda p: NewtonLanczos(p, max_iter=3),
    "SAM": lambda p: SAM(optkern.Adam(p, lr=0.1), rho=0.5),
}


def start():
    return {"a": np.linspace(1.0, 2.0, 4), "b": np.full(3, -1.5)}


def problem(p, before=lambda: None):
    """A quadratic with the Hessian diag(BENDING)."""

    def closure():
        before()
        x = np.concatenate([p["a"], p["b"]])
        g = BENDING * x
        return 0.5 * float(x @ g), {"a": g[:4], "b": g[4:]}

    return closure


def vector(p):
    return np.concatenate([p["a"], p["b"]])


@pytest.mark.parametrize(
    ("name", "stride"),
    [("LBFGS", 29), ("fixed", 29), ("NewtonLanczos", 101), ("SAM", 29)]
    + [pytest.param(name, 2, marks=pytest.mark.slow) for name in MAKERS if name != "NewtonLanczos"]
    + [pytest.param("NewtonLanczos", 7, marks=pytest.mark.slow)],
)
def test_an_exception_at_any_line_leaves_a_point_that_was_reached(name, stride):
    p = start()
    solver, reached = MAKERS[name](p), [vector(p)]
    options = {} if name == "SAM" else {"callback": lambda _: reached.append(vector(p))}
    for _ in range(2):
        solver.step(problem(p), **options)
        reached.append(vector(p))
    for line in itertools.count(1, stride):
        p = start()
        solver, closure = MAKERS[name](p), problem(p)

        def act(solver=solver, closure=closure):
            for _ in range(2):
                solver.step(closure)

        hit = interrupted(line, act)
        assert any(np.array_equal(vector(p), x) for x in reached), f"torn at line {line}"
        memory = solver.state_dict()
        for s, y in zip(memory.get("s", ()), memory.get("y", ()), strict=True):
            assert np.allclose(y, BENDING * s, rtol=1e-6, atol=1e-12), f"torn at line {line}"
        before = closure()[0]
        solver.load_state_dict(memory)
        assert solver.step(closure).value <= before
        if not hit:
            break


@pytest.mark.parametrize("name", MAKERS)
def test_a_closure_that_raises_leaves_a_point_that_was_reached(name):
    p = start()
    solver, reached = MAKERS[name](p), [vector(p)]
    options = {} if name == "SAM" else {"callback": lambda _: reached.append(vector(p))}
    for _ in range(3):
        solver.step(problem(p), **options)
        reached.append(vector(p))
    for k in range(1, 5):
        p, calls = start(), itertools.count(1)

        def before(calls=calls, k=k):
            if next(calls) == k:
                raise Interrupt

        solver = MAKERS[name](p)
        with pytest.raises(Interrupt):
            for _ in range(3):
                solver.step(problem(p, before))
        assert any(np.array_equal(vector(p), x) for x in reached)
        value = problem(p)()[0]
        assert solver.step(problem(p)).value <= value


@pytest.mark.parametrize("name", MAKERS)
def test_beside_another_threads_step_everything_is_refused(tmp_path, name):
    p, asked, go, calls = start(), threading.Event(), threading.Event(), itertools.count(1)
    solver, path, before = MAKERS[name](p), tmp_path / "a.npz", tmp_path / "b.npz"
    optkern.save(before, solver)
    memory = solver.state_dict()

    def wait():  # where the parameters are elsewhere
        if next(calls) == 2:
            asked.set()
            assert go.wait(60)

    thread = threading.Thread(target=solver.step, args=(problem(p, wait),))
    thread.start()
    assert asked.wait(60)
    inner = solver.optimizer if name == "SAM" else solver
    for act in (
        lambda: optkern.save(path, solver),
        lambda: optkern.load(before, solver),
        lambda: solver.load_state_dict(memory),
        lambda: inner.rebind(start()),
        lambda: solver.step(problem(start())),
        lambda: inner.step({"a": np.ones(4), "b": np.ones(3)} if inner is not solver else id),
        solver.state_dict,
        lambda: copy.deepcopy(solver),
    ):
        here = vector(p)
        with pytest.raises(RuntimeError, match=BUSY):
            act()
        assert np.array_equal(vector(p), here)
    go.set()
    thread.join()
    assert not path.exists()
    twin = start()
    MAKERS[name](twin).step(problem(twin))
    assert np.array_equal(vector(p), vector(twin))


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "SAM"])
def test_a_callback_may_save_and_not_load(tmp_path, name):
    p = start()
    solver, saved = MAKERS[name](p), []

    def callback(report):
        saved.append(tmp_path / f"{len(saved)}.npz")
        optkern.save(saved[-1], solver)
        with pytest.raises(RuntimeError, match=BUSY):
            optkern.load(saved[-1], solver)

    solver.step(problem(p), callback=callback)
    assert saved
    q = start()
    optkern.load(saved[-1], MAKERS[name](q))
    x = vector(q)
    assert 0.5 * x @ (BENDING * x) < 0.5 * vector(start()) @ (BENDING * vector(start()))


def test_a_closure_may_not_save_what_sam_perturbs(tmp_path):
    p = start()
    sam = MAKERS["SAM"](p)
    calls = itertools.count(1)

    def save():
        if next(calls) == 2:
            optkern.save(tmp_path / "a.npz", sam)

    before = vector(p)
    with pytest.raises(RuntimeError, match=BUSY):
        sam.step(problem(p, save))
    assert np.array_equal(vector(p), before) and not (tmp_path / "a.npz").exists()
    assert sam.step(problem(p)).iterations == 1


@pytest.mark.parametrize(
    ("make", "name", "meant"),
    [
        (lambda **k: SAM(optkern.SGD(np.ones(2)), **k), "roh", "rho"),
        (lambda **k: LBFGS(np.ones(2), **k), "maxiter", "max_iter"),
        (lambda **k: LBFGS(np.ones(2), **k), "learning_rate", "lr"),
        (lambda **k: NewtonLanczos(np.ones(2), **k), "tolerance_gard", "tolerance_grad"),
    ],
)
def test_a_misspelt_keyword_of_a_solver_says_which_was_meant(make, name, meant):
    with pytest.raises(TypeError, match=rf"'{name}'; did you mean {meant}( or \w+)?\?"):
        make(**{name: 1})
