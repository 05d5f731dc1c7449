"""What closures and callbacks do to parameters that they may only read: refused, nothing torn."""

from dataclasses import dataclass

import numpy as np
import pytest

import optkern
from optkern import curvature
from optkern.solvers import LBFGS, SAM, NewtonLanczos
from optkern.solvers._problem import Parameters

MAKERS = {
    "LBFGS": lambda p: LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
    "fixed": lambda p: LBFGS(p, lr=0.3, max_iter=4),
    "NewtonLanczos": lambda p: NewtonLanczos(p, max_iter=3),
    "SAM": lambda p: SAM(optkern.Adam(p, lr=0.1), rho=0.5),
    "SAM follow": lambda p: SAM(optkern.Adam(p, lr=0.1, follow=True), rho=0.5),
}
every_solver = pytest.mark.parametrize("name", MAKERS)
every_flat_solver = pytest.mark.parametrize("name", ["LBFGS", "fixed", "NewtonLanczos"])


@dataclass
class Layer:
    w: np.ndarray
    b: np.ndarray


class Quartic:
    """A bowl in any container, and what a closure does besides at one of its calls."""

    def __init__(self, p, read, act=lambda: None, at=1):
        self.p, self.read, self.act, self.at, self.calls = p, read, act, at, 0

    def __call__(self):
        self.calls += 1
        arrays = self.read(self.p)
        loss = sum(float((a**2 + a**4).sum()) for a in arrays)
        grads = [2 * a + 4 * a**3 for a in arrays]
        if self.calls == self.at:
            self.act()
        return loss, self.arranged(grads)

    def arranged(self, grads):
        w, b = grads
        if isinstance(self.p, dict) and "deep" in self.p:
            return {"deep": [{"w": w}, b]}
        if isinstance(self.p, list):
            return [w, b]
        return Layer(w, b) if isinstance(self.p, Layer) else {"w": w, "b": b}


def values():
    return np.array([1.0, -0.5, 2.0]), np.array([0.25, -1.5])


def in_dict():
    w, b = values()
    p = {"w": w, "b": b}
    return p, lambda p: [p["w"], p["b"]], lambda a: p.__setitem__("w", a), "'w'"


def in_list():
    p = list(values())
    return p, list, lambda a: p.__setitem__(0, a), "0"


def nested():
    w, b = values()
    p = {"deep": [{"w": w}, b]}
    read = lambda p: [p["deep"][0]["w"], p["deep"][1]]  # noqa: E731
    return p, read, lambda a: p["deep"][0].__setitem__("w", a), "'deep.0.w'"


def in_fields():
    p = Layer(*values())
    return p, lambda p: [p.w, p.b], lambda a: setattr(p, "w", a), "'w'"


FORMS = {"dict": in_dict, "list": in_list, "nested": nested, "fields": in_fields}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [1, 2, 4])
@every_solver
def test_an_array_replaced_in_a_closure_is_refused(name, at, form):
    if name.startswith("SAM") and at == 4:
        pytest.skip("it calls a closure twice")
    p, read, put, label = FORMS[form]()
    trained = read(p)
    start = [a.copy() for a in trained]
    solver = MAKERS[name](p)
    closure = Quartic(p, read, lambda: put(read(p)[0] * 1.0), at)
    with pytest.raises(ValueError, match=rf"closure has replaced parameter {label} in its cont"):
        solver.step(closure)
    assert closure.calls == at  # said at once
    if at == 1 or name.startswith("SAM"):
        assert all(map(np.array_equal, trained, start))
    reached = sum(float((a**2 + a**4).sum()) for a in trained)
    assert reached <= sum(float((a**2 + a**4).sum()) for a in start)
    # As the message has it, with the new arrays.
    (solver.optimizer if name.startswith("SAM") else solver).rebind(p)
    before, report = Quartic(p, read)()[0], solver.step(Quartic(p, read))
    assert report.initial_value == before
    assert Quartic(p, read)()[0] < before


def test_what_is_lost_from_a_container_is_refused():
    p, read, _, _ = in_dict()
    for make in MAKERS.values():
        p, read, _, _ = in_dict()
        w, start = p["w"], p["w"].copy()
        with pytest.raises(ValueError, match=r"closure has changed .* missing \['w'\]"):
            make(p).step(Quartic(p, read, lambda p=p: p.pop("w")))
        assert np.array_equal(w, start)


def test_a_new_view_of_the_same_memory_is_no_replacement():
    for make in MAKERS.values():
        p, read, put, _ = in_dict()
        w, start = p["w"], p["w"].copy()
        make(p).step(Quartic(p, read, lambda p=p, put=put: put(p["w"][:])))
        assert not np.array_equal(w, start)


def test_sam_follows_what_was_replaced_between_its_steps():
    p, read, put, _ = in_dict()
    solver = MAKERS["SAM follow"](p)
    solver.step(Quartic(p, read))
    put(p["w"] * 1.0)
    new = p["w"].copy()
    solver.step(Quartic(p, read))
    assert not np.array_equal(p["w"], new)


@every_flat_solver
def test_callbacks_and_products_that_replace_are_refused(name):
    p, read, put, _ = in_dict()
    with pytest.raises(ValueError, match="callback has replaced parameter 'w'"):
        MAKERS[name](p).step(Quartic(p, read), callback=lambda _: put(p["w"] * 1.0))
    if name != "NewtonLanczos":
        return
    p, read, put, _ = in_dict()

    def hvp(v):
        put(p["w"] * 1.0)
        return v

    with pytest.raises(ValueError, match="hvp has replaced parameter 'w'"):
        MAKERS[name](p).step(Quartic(p, read), hvp)


# --------------------------------------------------------------------------- writes


@pytest.mark.parametrize("at", [1, 2])
@every_flat_solver
def test_parameters_written_in_a_closure_are_refused(name, at):
    for step in ("by hand", "by an optimizer"):
        p, read, _, _ = in_dict()
        inner = optkern.SGD(p, lr=0.1)
        start = p["b"].copy()

        def act(p=p, inner=inner, step=step):
            if step == "by hand":
                p["b"] *= 0.5
            else:
                inner.step({"w": None, "b": p["b"].copy()})

        with pytest.raises(ValueError, match="closure has written to parameter 'b'"):
            MAKERS[name](p).step(Quartic(p, read, act, at))
        assert np.array_equal(p["b"], start)  # the last point that was reached


@every_flat_solver
def test_a_callback_may_write_where_it_stops(name):
    p, read, _, _ = in_dict()

    def write(report):
        p["w"][...] = 7.0

    with pytest.raises(ValueError, match="callback has written to parameter 'w'"):
        MAKERS[name](p).step(Quartic(p, read), callback=write)
    assert not (p["w"] == 7).any()
    report = MAKERS[name](p).step(Quartic(p, read), callback=lambda r: write(r) or True)
    assert "stopped by the callback" in report.status
    assert (p["w"] == 7).all()


def test_hvp_that_writes_is_refused():
    p, read, _, _ = in_dict()

    def hvp(v):
        p["w"] += 1e-9
        return v

    with pytest.raises(ValueError, match="hvp has written to parameter 'w'"):
        NewtonLanczos(p).step(Quartic(p, read), hvp)


def test_what_is_not_a_number_is_no_write():
    """A fixed step too long for the numbers: the closure has not written what the step has."""
    p = {"w": np.full(3, 1e150), "b": np.full(2, 1e150)}
    solver = LBFGS(p, lr=1e300, max_iter=3)
    report = solver.step(lambda: (1.0, {k: np.full_like(v, -1e150) for k, v in p.items()}))
    assert "written" not in report.status
    point = Parameters("LBFGS", {"w": np.ones(2)})
    nowhere = np.array([np.nan, 1.0])
    point.write(nowhere)
    point.refuse_changed("closure", nowhere)
    point.arrays[0][1] = 2.0
    with pytest.raises(ValueError, match="closure has written to parameter 'w'"):
        point.refuse_changed("closure", nowhere)


@every_solver
def test_a_closure_that_steps_its_own_solver_is_refused(name):
    for at in (1, 2):
        p, read, _, _ = in_dict()
        start = {k: v.copy() for k, v in p.items()}
        solver = MAKERS[name](p)
        closure = Quartic(p, read)
        closure.act, closure.at = lambda s=solver, c=closure: s.step(c), at
        with pytest.raises(RuntimeError, match="under way"):
            solver.step(closure)
        assert all(np.array_equal(p[k], start[k]) for k in p)
        if name.startswith("SAM"):
            grads = {k: v.copy() for k, v in p.items()}
            closure = Quartic(p, read, lambda s=solver, g=grads: s.optimizer.step(g), at)
            with pytest.raises(RuntimeError, match="under way"):
                solver.step(closure)
            assert all(np.array_equal(p[k], start[k]) for k in p)
            assert solver.steps == 0


# --------------------------------------------------------------------------- what is returned


@pytest.mark.parametrize("products", [False, True])
@every_solver
def test_one_buffer_returned_each_time_gives_the_same_steps(name, products):
    if products and name != "NewtonLanczos":
        pytest.skip("takes no hvp")
    ends = []
    for shared in (False, True):
        p, read, _, _ = in_dict()
        buffers = {k: np.empty_like(v) for k, v in p.items()}
        rows = {k: np.empty_like(v) for k, v in p.items()}
        plain = Quartic(p, read)

        def into(out, found, shared=shared):
            if not shared:
                return found
            for k, v in found.items():
                out[k][...] = v
            return out

        def closure(plain=plain, buffers=buffers, into=into):
            loss, grads = plain()
            return loss, into(buffers, grads)

        def hvp(v, p=p, rows=rows, into=into):
            return into(rows, {k: (2 + 12 * p[k] ** 2) * v[k] for k in v})

        solver = MAKERS[name](p)
        for _ in range(3):
            solver.step(closure, *([hvp] if products else []))
        ends.append(np.concatenate([p["w"], p["b"]]).tobytes())
    assert ends[0] == ends[1]


@every_flat_solver
def test_gradients_that_are_the_parameters_themselves(name):
    """Of |p|^2 / 2: what is returned changes with the next trial step."""
    ends = []
    for alias in (False, True):
        p, _, _, _ = in_dict()

        def closure(p=p, alias=alias):
            loss = 0.5 * sum(float(a @ a) for a in p.values())
            return loss, (p if alias else {k: v.copy() for k, v in p.items()})

        solver = MAKERS[name](p)
        for _ in range(2):
            solver.step(closure)
        ends.append(np.concatenate([p["w"], p["b"]]).tobytes())
    assert ends[0] == ends[1]


def test_sam_refuses_gradients_that_are_the_parameters():
    p, _, _, _ = in_dict()
    start = {k: v.copy() for k, v in p.items()}
    solver = MAKERS["SAM"](p)
    with pytest.raises(ValueError, match=r"gradient of parameter 'w' .*overlap"):
        solver.step(lambda: (1.0, p))
    assert all(np.array_equal(p[k], start[k]) for k in p)
    solver.step(lambda: (1.0, {k: v.copy() for k, v in p.items()}))


# --------------------------------------------------------------------------- curvature, diagnose


class Saddle:
    """w^4 - w^2 + b^2 at 0, with a function that puts what it is called with into x's dict."""

    def __init__(self, where=0.0):
        self.p = {"w": np.full(2, where), "b": np.full(1, where)}
        self.own = dict(self.p)
        self.calls, self.at = 0, 1

    def replacing(self, function):
        def asked(x):
            self.calls += 1
            if self.calls == self.at:
                self.p["w"] = x["w"]  # as a network is handed a trial point
            return function(x)

        return asked

    @staticmethod
    def loss(x):
        return float((x["w"] ** 4 - x["w"] ** 2).sum() + x["b"] @ x["b"])

    @staticmethod
    def grad(x):
        return {"w": 4 * x["w"] ** 3 - 2 * x["w"], "b": 2 * x["b"]}

    @staticmethod
    def hvp(v):
        return {"w": -2.0 * v["w"], "b": 2.0 * v["b"]}


def run_of(s, opt, hvp=None):
    monitor = optkern.Monitor(every=1, curvature_every=hvp and 30, hvp=hvp)
    for _ in range(60):
        grads = s.grad(s.p)
        opt.step(grads)
        monitor.record(s.loss(s.p), grads, opt)
    return monitor


CALLS = {
    "classify: grad": lambda s, r: curvature.classify(s.p, r(s.grad)),
    "classify: hvp": lambda s, r: curvature.classify(s.p, s.grad, r(s.hvp)),
    "classify: loss": lambda s, r: curvature.classify(s.p, s.grad, s.hvp, r(s.loss)),
    "lanczos: grad": lambda s, r: curvature.lanczos(curvature.hvp_from_grad(r(s.grad), s.p)),
    "trace: hvp": lambda s, r: curvature.trace(r(s.hvp), x=s.p),
    "landscape: loss": lambda s, r: curvature.landscape.line(s.p, r(s.loss), points=3),
    "ball: grad": lambda s, r: curvature.ball_sharpness(s.p, s.loss, r(s.grad), rho=0.1),
    "escape: loss": lambda s, r: curvature.escape(s.p, s.verdict, loss=r(s.loss)),
    "escape: grad": lambda s, r: curvature.escape(s.p, s.verdict, grad=r(s.grad)),
    "noise: loss": lambda s, r: curvature.escape(s.p, by="noise", loss=r(s.loss), grad=s.grad),
    "diagnose: grad": lambda s, r: s.monitor.diagnose(s.p, r(s.grad)),
    "diagnose: loss": lambda s, r: s.monitor.diagnose(s.p, s.grad, r(s.loss)),
    "diagnose: hvp": lambda s, r: s.monitor.diagnose(s.p, s.grad, hvp=r(s.hvp)),
}


@pytest.mark.parametrize("call", CALLS)
def test_functions_that_replace_the_arrays_of_x_are_refused(call):
    s = Saddle()
    s.verdict = curvature.classify(s.p, s.grad)
    s.monitor = run_of(s, optkern.SGD(s.p, lr=0.01))
    assert s.verdict.kind == "saddle"
    s.at = -1
    CALLS[call](s, s.replacing)
    last = s.calls
    s.own["w"][:] = 0.0  # whence escape has moved it
    name = call.split(": ")[1]
    for at in {1, last // 3 + 1, last // 2 + 1, last - 1 or 1, last}:
        s.p.update(s.own)
        s.at, s.calls = at, 0
        with pytest.raises(ValueError, match=rf"{name} has replaced array 'w' of x in its cont"):
            CALLS[call](s, s.replacing)
        assert s.calls == at  # said at once
        assert not s.own["w"].any()  # escape has not moved it


def test_a_function_that_replaces_and_then_fails_does_not_have_the_old_array_moved():
    """A loss outside of its domain is a step too long; but this one has changed x, too."""
    s = Saddle()
    verdict = curvature.classify(s.p, s.grad)

    def loss(x):
        if x["w"].any():
            s.p["w"] = x["w"]
            raise ValueError("outside")
        return s.loss(x)

    with pytest.raises(ValueError, match="loss has replaced array 'w' of x"):
        curvature.escape(s.p, verdict, loss=loss)
    assert not s.own["w"].any()


def test_an_hvp_that_replaces_while_a_run_is_recorded_is_refused():
    def record(follow, at):
        s = Saddle(0.5)
        s.at = at
        opt = optkern.Adam(s.p, lr=0.01, follow=follow)
        monitor = optkern.Monitor(curvature_every=1, hvp=s.replacing(s.hvp))
        opt.step(s.grad(s.p))
        try:
            monitor.record(1.0, s.grad(s.p), opt)
        except ValueError as error:
            assert len(monitor) == len(monitor.edges) == 0
            return s.calls, str(error)
        return s.calls, ""

    last, said = record(False, -1)
    assert not said
    for at in range(1, last + 1):
        calls, said = record(False, at)
        assert "hvp has replaced parameter 'w' in its container" in said
        assert calls == at
    assert record(True, 1)[1] == ""
