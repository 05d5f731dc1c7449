"""Interrupted, out of memory, beside another thread: what was or what is to be, never between."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_bits
from interruption import PACKAGE, Interrupt, interrupted

import optkern
from optkern.kernels import reference


def new(cls=optkern.Adam, **options):
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((6, 5)), "b": rng.standard_normal(4)}
    return cls(params, **{"lr": 0.1, "ema_decay": 0.9, **options})


def gradients(k):
    rng = np.random.default_rng(k)
    return {"W": rng.standard_normal((6, 5)), "b": rng.standard_normal(4)}


def falling(step):
    return 0.1 / (1 + step)


def as_text(value):
    if isinstance(value, dict):
        return {str(key): as_text(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(x) for x in value]
    return value.tobytes() if isinstance(value, np.ndarray) else value


def picture(opt):
    """Everything that an optimizer is, to be compared."""
    bound = [a.ctypes.data == b.ctypes.data for a, b in zip(opt.session.plan.params, opt.params)]
    rest = (opt.session.schedules, opt.on_nonfinite, bound)
    return repr(
        as_text((opt.state_dict(), opt.params, opt.session.options, opt.param_groups, rest))
    )


def enter_and_leave(opt):
    with opt.averaged():
        pass


def saved(tmp_path):
    other = new()
    for k in range(3):
        other.step(gradients(10 + k))
    optkern.save(tmp_path / "a.npz", other)
    return other.state_dict()


NINTH = gradients(9)
OPERATIONS = {
    "construct": lambda opt, more: optkern.Adam(more["params"], lr=falling, clip_norm=1.0),
    "step": lambda opt, more: opt.step(NINTH),
    "step_rows": lambda opt, more: opt.step_rows({"W": [4, 1], "b": None}, ROWS),
    "flush": lambda opt, more: opt.flush(),
    "reset": lambda opt, more: opt.reset("W"),
    "save": lambda opt, more: optkern.save(more["path"].with_name("b.npz"), opt),
    "add_param_group": lambda opt, more: opt.add_param_group({"params": [np.ones(3)], "lr": 0.2}),
    "write_state": lambda opt, more: opt.state["W"].update(exp_avg=np.ones((6, 5)), step=9),
    "clear_state": lambda opt, more: opt.state.clear(),
    "swap_in": lambda opt, more: opt.swap_in(),
    "averaged": lambda opt, more: enter_and_leave(opt),
    "load_state_dict": lambda opt, more: opt.load_state_dict(more["state"]),
    "load": lambda opt, more: optkern.load(more["path"], opt),
    "load_in_parts": lambda opt, more: optkern.load(more["path"], opt, strict=False),
    "rebind": lambda opt, more: opt.rebind({k: v.copy() for k, v in more["params"].items()}),
    "write_a_group": lambda opt, more: opt.param_groups[0].update(lr=0.5, weight_decay=0.1),
    "write_amsgrad": lambda opt, more: opt.param_groups[0].update(amsgrad=True),
    "write_an_option": lambda opt, more: setattr(opt, "clip_norm", 1.0),
    "write_lookahead": lambda opt, more: setattr(opt, "lookahead", (2, 0.5)),
    "write_ema": lambda opt, more: setattr(opt, "ema_decay", None),
    "steps": lambda opt, more: setattr(opt, "steps", 77),
    "on_nonfinite": lambda opt, more: setattr(opt, "on_nonfinite", "skip"),
}


ROWS = {"W": np.ones((2, 5)), "b": None}
NEEDED = {"step_rows": {"ema_decay": None}, "flush": {"accumulate": 3}}


def prepared(tmp_path, name):
    opt = new(lr=falling, **NEEDED.get(name, {}))
    for k in range(2):
        opt.step(gradients(k))
    path = tmp_path / "a.npz"
    return opt, {"state": None, "path": path, "params": dict(zip("Wb", opt.params, strict=True))}


def goes_on(opt):
    """Whether the next update is taken."""
    grads = gradients(5)
    grads = grads if len(opt.param_groups) == 1 else [grads, [np.ones(3)]]
    return opt.step(grads) or opt.flush()


def whole(tmp_path):
    """Whether what has been saved is a checkpoint, where anything has, and nothing is left over."""
    if (path := tmp_path / "b.npz").exists():
        optkern.load(path, new(lr=falling))
    return {p.name for p in tmp_path.iterdir()} <= {"a.npz", "b.npz", "shim.c", "shim.so"}


LONG = {
    *("load_state_dict", "load", "load_in_parts", "rebind", "write_amsgrad", "write_ema"),
    *("construct", "add_param_group", "save", "reset", "write_state", "clear_state"),
}


@pytest.mark.parametrize(
    ("name", "stride"),
    [(name, 97 if name in LONG else 7) for name in OPERATIONS]
    + [pytest.param(name, 1, marks=pytest.mark.slow) for name in OPERATIONS],
)
def test_an_exception_at_any_line_leaves_old_or_new(tmp_path, name, stride):
    state = saved(tmp_path)
    opt, more = prepared(tmp_path, name)
    old = picture(opt)
    OPERATIONS[name](opt, {**more, "state": state})
    done = picture(opt)
    seen = set()
    for line in itertools.count(1, stride):
        opt, more = prepared(tmp_path, name)
        act = functools.partial(OPERATIONS[name], opt, {**more, "state": state})
        reached = interrupted(line, act)
        now = picture(opt)
        assert now in (old, done), f"torn at line {line}"
        seen.add(now)
        if opt.averages_are_in:
            opt.swap_out()
        assert goes_on(opt) and whole(tmp_path)
        if not reached:
            break
    assert seen == {old, done}


def test_swap_out_is_interrupted_before_or_after():
    for line in itertools.count(1):
        opt = new()
        opt.step(gradients(0))
        plain = [p.copy() for p in opt.params]
        opt.swap_in()
        inside = [p.copy() for p in opt.params]
        reached = interrupted(line, opt.swap_out)
        expected = inside if opt.averages_are_in else plain
        assert all(np.array_equal(a, b) for a, b in zip(opt.params, expected, strict=True))
        if not reached:
            break
    assert not opt.averages_are_in


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"accumulate": 3}, {"clip_norm": 1.0}], ids=str)
def test_a_signal_in_a_long_step_comes_before_or_after_all_that_counts(options, threads):
    p, g = np.zeros(2_000_000, np.float32), np.ones(2_000_000, np.float32)
    opt = optkern.Adam(p, num_threads=threads, **options)

    def interrupt(*_):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(4):
            with pytest.raises(Interrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.004)
                while True:
                    opt.step(g)
            twin = optkern.Adam(np.zeros(4, np.float32), **options)
            for _ in range(opt.steps * opt.accumulate + opt.session.plan.accumulated):
                twin.step(np.ones(4, np.float32) if not options.get("clip_norm") else g[:4])
            assert opt.state[0]["step"] == opt.steps == twin.steps
            if not options.get("clip_norm"):
                assert p[0] == twin.params[0][0] and p[-1] == p[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --------------------------------------------------------------------------- threads and forks


class Waiting:
    """A gradient that shares its memory only when it is told to: a step is under way until then."""

    def __init__(self, array):
        self.array, self.asked, self.go = array, threading.Event(), threading.Event()

    @property
    def __array_interface__(self):
        self.asked.set()
        assert self.go.wait(60)
        return self.array.__array_interface__


@pytest.fixture
def stepping(request):
    """An optimizer, and a thread in the middle of its step."""
    rows = request.node.name.endswith("[step_rows]")
    opt = new(ema_decay=None if rows else 0.9)
    opt.step(gradients(0))
    g = gradients(1)
    waiting = g["b"] = Waiting(g["b"])
    thread = threading.Thread(target=opt.step, args=(g,))
    thread.start()
    assert waiting.asked.wait(60)
    yield opt
    waiting.go.set()
    thread.join()
    assert opt.steps == 2


@pytest.mark.parametrize("name", sorted({*OPERATIONS} - {"steps", "on_nonfinite", "construct"}))
def test_beside_another_threads_step_everything_is_refused(tmp_path, stepping, name):
    state = saved(tmp_path)
    more = {"state": state, "path": tmp_path / "a.npz", "params": dict(zip("Wb", stepping.params))}
    with pytest.raises(RuntimeError, match="a step is under way already, in another thread"):
        OPERATIONS[name](stepping, more)


def test_nothing_is_saved_beside_another_threads_step(tmp_path, stepping):
    with pytest.raises(RuntimeError, match=r"Adam: a step is under way already.*optkern\.save"):
        optkern.save(tmp_path / "torn.npz", stepping)
    with pytest.raises(RuntimeError, match=r"a step is under way already.*state_dict"):
        stepping.state_dict()
    assert not (tmp_path / "torn.npz").exists()


def test_a_step_is_refused_beside_what_reads_the_state():
    opt = new()
    inside, go = threading.Event(), threading.Event()

    def reading():
        inside.set()
        assert go.wait(60)
        return opt.state_dict()  # it may come again itself

    thread = threading.Thread(target=opt.session.plan.alone, args=("a long look", reading))
    thread.start()
    assert inside.wait(60)
    with pytest.raises(RuntimeError, match="a long look is under way already, in another thread"):
        opt.step(gradients(0))
    go.set()
    thread.join()
    assert opt.step(gradients(0)) is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_in_the_middle_of_a_step_may_step(stepping):
    child = os.fork()
    if child == 0:
        os._exit(0 if stepping.step(gradients(3)) is True and stepping.steps == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --------------------------------------------------------------------------- memory


def test_norms_do_not_depend_on_the_order_in_memory():
    rng = np.random.default_rng(0)
    start = rng.standard_normal((7, 31, 40))
    grads = [rng.standard_normal(start.shape) for _ in range(4)]
    orders = [
        start.copy(),
        start.copy(order="F"),
        start.transpose(2, 0, 1).copy().transpose(1, 2, 0),
        start[:, ::-1].copy()[:, ::-1],
        np.repeat(start, 2, axis=1)[:, ::2],
    ]
    for cls in (optkern.SGD, optkern.LARS, optkern.LAMB):
        for options in ({"clip_norm": 1.0}, {"clip_norm_per_tensor": 0.5, "accumulate": 2}):
            results = []
            for p, threads in itertools.product(orders, (1, 2)):
                p = p.copy(order="K") if p.flags.forc else p + 0 * p
                opt = cls(p, lr=0.1, num_threads=threads, **options)
                for k, g in enumerate(grads):
                    opt.step(g if k % 2 else np.asfortranarray(g))
                results.append(p)
            assert all(np.array_equal(results[0], p) for p in results)
    assert reference.sum_of_squares(orders[1]) == reference.sum_of_squares(orders[0])


SMALL_STACK = """
import sys, threading, numpy as np, optkern
from optkern.curvature import recurrence
threading.stack_size(65536)
threads = int(sys.argv[1])
g = np.ones((300, 200), np.float32)
def strided(): return np.zeros((300, 200, 2), np.float32)[..., 0]
works = {}
for cls in optkern.optimizers.CLASSES.values():
    average = {} if cls.rule.average else {"ema_decay": 0.9}
    works[cls.__name__] = cls(strided(), num_threads=threads, clip_norm=1.0, **average).step
    works[cls.__name__ + " plain"] = cls(strided(), num_threads=threads).step
for kind in ("bfloat16", "int8"):
    works[kind] = optkern.Adam(strided(), state_dtype=kind, num_threads=threads).step
adding = optkern.Adam(strided(), accumulate=2, zero_grad=True, num_threads=threads)
adding.step(g.copy())
works["accumulate"] = lambda g: adding.step(g.copy())
rows = optkern.Adam(strided(), num_threads=threads)
works["rows"] = lambda g: rows.step_rows([3, 3, 7], g[:3])
p = strided()
works["twin"] = lambda g: optkern.kernels.lamb(p, g, strided(), strided(), step=1) is None
x = np.ones(60000, np.float32)
works["project"] = lambda g: len(recurrence.project([x, x], x, threads)) == 2
works["subtract"] = lambda g: recurrence.subtract(x.copy(), x, [x], [1.0], x, threads) == 0
done = []
for name, work in works.items():
    thread = threading.Thread(target=lambda: done.append(bool(work(g))))
    thread.start(); thread.join()
assert done == [True] * len(works), done
print(len(done))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.skipif(sys.platform == "win32", reason="stacks are larger there")
def test_a_thread_of_64_kb_is_enough(threads, run_python):
    code = f"import sys\nsys.argv.append({str(threads)!r})\n{SMALL_STACK}"
    run = run_python(code, timeout=300, OMP_STACKSIZE="64k")
    assert run.returncode == 0, run.stderr[-2000:]


# --------------------------------------------------------------------------- builds and modules


def test_a_class_is_bound_to_its_rule_by_its_base_not_its_name():
    class Lion(optkern.SGD):
        pass

    p = np.ones(3)
    Lion(p, lr=0.5).step(np.full(3, 0.5))
    assert np.array_equal(p, np.full(3, 0.75))
    assert optkern.optimizers.CLASSES["lion"] is optkern.Lion


STALE = """
from pathlib import Path
path = Path("optkern/rules/lion.py")
text = path.read_text()
path.unlink()
row = 'arrays=(Slot("exp_avg"),),'
assert row in text
path.write_text(text.replace(row, 'arrays=(Slot("exp_avg", nonnegative=True),),'))
"""


def linked(tmp_path, without=""):
    """The package, file by file, in a folder of the test's own; what runs code there."""
    folder = tmp_path / "optkern"
    for path in Path(PACKAGE).rglob("*"):
        left_out = without and path.match(without)
        if path.is_file() and "__pycache__" not in path.parts and not left_out:
            to = folder / path.relative_to(PACKAGE)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.symlink_to(path)
    brought = Path(PACKAGE).with_name("optkern.libs")  # by a wheel
    if brought.exists():
        (tmp_path / "optkern.libs").symlink_to(brought)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(code):
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


def test_a_stale_build_is_refused(tmp_path):
    run = linked(tmp_path)
    good = run("import optkern; print(optkern.__file__)")
    assert good.returncode == 0 and str(tmp_path) in good.stdout, good.stderr
    assert run(STALE).returncode == 0
    stale = run("import optkern")
    assert "ImportError" in stale.stderr and "build again" in stale.stderr


@pytest.mark.skipif(optkern.isa() == "baseline", reason="borrows from none")
def test_loops_that_borrow_from_missing_ones_are_refused(tmp_path):
    result = linked(tmp_path, without="_span_baseline_light.*")("import optkern")
    assert "ImportError" in result.stderr and "_span_baseline_light" in result.stderr


@pytest.mark.parametrize(("without", "missing"), [("*.so", "_capi"), ("runtime.*.so", "runtime")])
def test_a_folder_that_is_not_built_says_so(without, missing, tmp_path):
    if not next(Path(PACKAGE).rglob("*.pyx"), None) or not next(Path(PACKAGE).rglob("*.so"), None):
        pytest.skip("installed without its sources")
    last = linked(tmp_path, without)("import optkern").stderr.splitlines()[-1]
    assert last.startswith("ImportError: optkern is not built in ")
    assert f"{missing} is not there" in last and last.endswith("run pip install -e .")


def test_optkern_is_imported_again_after_it_left_sys_modules(run_python):
    code = """
import sys, numpy as np, optkern
for own in (False, True):
    for name in [n for n in sys.modules if n == "optkern" or own and n.startswith("optkern.")]:
        del sys.modules[name]
    import optkern
    for dtype in (None, "int8"):
        p = np.ones(300, np.float32)
        opt = optkern.Adam(p, lr=.5, state_dtype=dtype)
        assert opt.step(np.ones(300, np.float32)) and p[0] == .5
    import optkern.checkpoint, optkern.curvature as c
    optkern.kernels.sgd(p, p.copy(), lr=.5)
    assert optkern.checkpoint.save is optkern.save and c is optkern.curvature
"""
    run = run_python(code, timeout=600)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("act", ["observe", "load_state_dict"])
def test_an_exception_at_any_line_leaves_a_plateau_as_it_was_or_as_it_is_to_be(act):
    def begun():
        schedule = optkern.schedules.Plateau(0.1, patience=0, cooldown=2)
        schedule.observe(1.0)
        return schedule

    other = {"value": 0.01, "best": 0.5, "num_bad_epochs": 3, "cooldown_counter": 1}
    given = {"observe": 2.0, "load_state_dict": other}[act]
    schedule = begun()
    old = schedule.state_dict()
    getattr(schedule, act)(given)
    done, seen = schedule.state_dict(), []
    for line in itertools.count(1):
        schedule = begun()
        reached = interrupted(line, lambda schedule=schedule: getattr(schedule, act)(given))
        assert schedule.state_dict() in (old, done), f"torn at line {line}"
        seen.append(schedule.state_dict())
        if not reached:
            break
    assert seen[0] == old and seen[-1] == done != old


def test_any_thread_may_note_that_sums_come_near_the_range():
    """Several do at once; with `make sanitize` one sees how."""
    outcomes = []
    for n in (1, 3):
        p, g = np.ones(100_000, np.float32), np.full(100_000, 1e38, np.float32)
        opt = optkern.SGD(p, lr=1e-40, accumulate=6, num_threads=n)
        for _ in range(6):
            opt.step(g)
        outcomes.append(p)
    assert np.all(outcomes[0] < 1)
    assert_same_bits(*outcomes)
