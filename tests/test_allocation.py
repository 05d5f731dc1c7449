"""A failed allocation, whichever it is, leaves an optimizer before or after, and able to step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SHIM = r"""
#define _GNU_SOURCE
#include <stddef.h>
static long left=0;
void arm(long k){left=k;}
long remaining(void){return left;}
static int fail(void){ if(left>0 && --left==0) return 1; return 0; }
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*,size_t);
void* malloc(size_t n){ return fail()?NULL:__libc_malloc(n);}
void* calloc(size_t a,size_t b){ return fail()?NULL:__libc_calloc(a,b);}
void* realloc(void*p,size_t n){ return fail()?NULL:__libc_realloc(p,n);}
"""

SWEEP = """
import ctypes, sys
from pathlib import Path
import test_atomic as t
shim, tmp, stride = ctypes.CDLL(None), Path(sys.argv[1]), int(sys.argv[2])
shim.arm.argtypes, shim.remaining.restype = [ctypes.c_long], ctypes.c_long
state = t.saved(tmp)
for name, operation in t.OPERATIONS.items():
    opt, more = t.prepared(tmp, name)
    old = t.picture(opt)
    operation(opt, {**more, "state": state})
    done, k, left = t.picture(opt), 1, 0
    while left == 0:
        opt, more = t.prepared(tmp, name)
        given = {**more, "state": state}
        shim.arm(k)
        try:
            operation(opt, given)
        except MemoryError:
            pass
        left = shim.remaining()
        shim.arm(0)
        assert t.picture(opt) in (old, done), (name, k)
        if opt.averages_are_in:
            opt.swap_out()
        assert t.goes_on(opt) and t.whole(tmp), (name, k)
        k += stride
"""


SOLVERS = """
import ctypes, sys
import numpy as np
import test_solvers_atomic as t
shim, name, stride = ctypes.CDLL(None), sys.argv[1], int(sys.argv[2])
shim.arm.argtypes, shim.remaining.restype = [ctypes.c_long], ctypes.c_long
p = t.start()
solver, reached = t.MAKERS[name](p), [t.vector(p)]
options = {} if name == "SAM" else {"callback": lambda _: reached.append(t.vector(p))}
for _ in range(2):
    solver.step(t.problem(p), **options)
    reached.append(t.vector(p))
left, k, failures = 0, 1, 0
while left == 0:
    p = t.start()
    solver, closure = t.MAKERS[name](p), t.problem(p)
    shim.arm(k)
    try:
        for _ in range(2):
            solver.step(closure)
    except MemoryError:
        failures += 1
    left = shim.remaining()
    shim.arm(0)
    assert any(np.array_equal(t.vector(p), x) for x in reached), (name, k)
    memory = solver.state_dict()
    for s, y in zip(memory.get("s", ()), memory.get("y", ()), strict=True):
        assert np.allclose(y, t.BENDING * s, rtol=1e-6, atol=1e-12), (name, k)
    before = closure()[0]
    solver.load_state_dict(memory)
    assert solver.step(closure).value <= before, (name, k)
    k += stride
assert failures > 50 // stride, (name, failures)
"""


MONITOR = """
import ctypes
import numpy as np
import optkern
shim = ctypes.CDLL(None)
shim.arm.argtypes, shim.remaining.restype = [ctypes.c_long], ctypes.c_long
grads = {"w": np.full(3, 0.3)}

def begun(records):
    opt = optkern.Adam({"w": np.linspace(1.0, 2.0, 3)}, lr=optkern.schedules.Cosine(0.1, T_max=9))
    monitor = optkern.Monitor(every=1)
    for k in range(records + 1):
        opt.step(grads)
        if k < records:
            monitor.record(3.0 - k, grads, opt)
    return monitor, opt

def seen(monitor):
    return monitor.losses.tolist(), [repr(look) for look in monitor.looks]

failures = 0
for records in range(5):
    monitor, opt = begun(records)
    old = seen(monitor)
    monitor.record(1.5, grads, opt)
    done, left, k = seen(monitor), 0, 1
    while left == 0:
        monitor, opt = begun(records)
        shim.arm(k)
        try:
            monitor.record(1.5, grads, opt)
        except MemoryError:
            failures += 1
        left = shim.remaining()
        shim.arm(0)
        assert seen(monitor) in (old, done), (records, k)
        for loss in (1.4, 1.3, 1.2, 1.1):
            opt.step(grads)
            monitor.record(loss, grads, opt)
        assert monitor.losses[-4:].tolist() == [1.4, 1.3, 1.2, 1.1]
        k += 1
assert failures > 10, failures
"""


FUNCTIONS = """
import ctypes, sys
import numpy as np
import optkern
shim = ctypes.CDLL(None)
shim.arm.argtypes, shim.remaining.restype = [ctypes.c_long], ctypes.c_long
for name, states in (("lars", 1), ("lamb", 2)):
    for size in (7, 40000):
        start = [np.linspace(0.5, 2.0, size) for _ in range(2)] + [np.zeros(size)] * states
        done = [a.copy() for a in start]
        function = getattr(optkern.kernels, name)
        function(*done, step=2)
        k, left, failures = 1, 0, 0
        while left == 0:
            arrays = [a.copy() for a in start]
            shim.arm(k)
            try:
                function(*arrays, step=2)
            except MemoryError:
                failures += 1
            left = shim.remaining()
            shim.arm(0)
            shown = [a.tobytes() for a in arrays]
            assert shown in ([a.tobytes() for a in start], [a.tobytes() for a in done]), (name, k)
            k += 1
        assert failures >= 3, (name, failures)   # norms take blocks, sums and scratch
"""


PLAN = """
import ctypes, gc, sys, types
import numpy as np
from optkern.kernels.engine import Plan
from optkern.rules import RULES
shim = ctypes.CDLL(None)
shim.arm.argtypes, shim.remaining.restype = [ctypes.c_long], ctypes.c_long

def disarmed():
    while True:
        try:
            left = shim.remaining()
            shim.arm(0)
            return left
        except (MemoryError, ctypes.ArgumentError):   # ctypes too takes memory
            pass

rule = next(rule for rule in RULES if rule.name == "adam")
arrays = [np.ones(3) for _ in range(1 + len(rule.slots))]
held = arrays * 1000   # what is dropped once too often shall not be freed
# Nor shall code: from 3.12 on Python drops it twice where there is no memory for its function.
functions = [x for x in gc.get_objects() if type(x) is types.FunctionType]
codes = [function.__code__ for function in functions]
for code in codes:
    codes += [inner for inner in code.co_consts if type(inner) is types.CodeType]
codes *= 100
state = {slot: [array] for slot, array in zip(rule.slots, arrays[1:])}
before, k, left, failures = [sys.getrefcount(a) for a in arrays], 1, 0, 0
while left == 0:
    shim.arm(k)
    try:
        Plan(rule, "me", [0], arrays[:1], state)
    except MemoryError:
        failures += 1
    left = disarmed()
    lost = [n - sys.getrefcount(a) for a, n in zip(arrays, before)]
    assert max(lost) <= 0, (k, lost)
    k += 1
assert failures > 50, failures
"""


# Steps of every storage and way: staged, rounded at random, by norms, by rows, by matrices.
STEPS = """
import ctypes, sys
import numpy as np
import optkern
import test_atomic as t
shim, name, stride = ctypes.CDLL(None), sys.argv[1], int(sys.argv[2])
shim.arm.argtypes, shim.remaining.restype = [ctypes.c_long], ctypes.c_long

def numbers(shape, k, dtype=np.float32):
    return np.random.default_rng(k).standard_normal(shape).astype(dtype)

def strided():
    return [np.asfortranarray(numbers((40, 130), 1)), numbers((9, 8), 2)[::2, ::-1]]

def half():
    return [numbers((7, 5), 1, np.float16), numbers(4, 2, np.float16)]

def single():
    return [numbers((7, 5), 1), numbers(300, 2)]

def mixed(p):
    groups = [{"params": [p[0]], "rule": "Muon"}, {"params": [p[1]], "rule": "AdamW"}]
    return optkern.Mixed(groups, clip_norm=1.0)

MAKERS = {
    "strided": lambda: optkern.LAMB(strided(), clip_norm=0.5, lookahead=(1, 0.5)),
    "accumulated": lambda: optkern.Adan(strided(), accumulate=2, adaptive_clip=0.1),
    "int8": lambda: optkern.Adam(single(), state_dtype="int8", on_nonfinite="skip"),
    "masters": lambda: optkern.AdamW(half(), master_weights=True, zero_grad=True),
    "rounded": lambda: optkern.SGD(half(), momentum=0.9, cautious=True),
    "factors": lambda: optkern.Adafactor(single()),
    "eigenbases": lambda: optkern.SOAP(single()),
    "several": lambda: mixed(single()),
    "averaging": lambda: optkern.ScheduleFreeAdamW(single()),
    "rows": lambda: optkern.Adagrad(single(), clip_norm=0.5, project=(-2, 2), zero_grad=True),
    "threads": lambda: optkern.RAdam([numbers(40000, 1), numbers(3, 2)], num_threads=2),
}

def step(opt, k):
    g = [numbers(p.shape, 9 + k, p.dtype) for p in opt.params]
    if name == "rows":
        return lambda: opt.step_rows([[2, 0, 2], ...], [g[0][:3], g[1]])
    if name == "several":
        g = [[x] for x in g]
    return lambda: opt.step(g)

def prepared():
    opt = MAKERS[name]()
    step(opt, 0)()
    return opt, step(opt, 1)

opt, act = prepared()
old = t.picture(opt)
act()
done, left, k, failures = t.picture(opt), 0, 1, 0
while left == 0:
    opt, act = prepared()
    shim.arm(k)
    try:
        act()
    except MemoryError:
        failures += 1
    left = shim.remaining()
    shim.arm(0)
    assert t.picture(opt) in (old, done), (name, k)
    step(opt, 2)()
    k += stride
"""


CURVATURE = """
import ctypes, sys
import numpy as np
from optkern import curvature
shim, name, stride = ctypes.CDLL(None), sys.argv[1], int(sys.argv[2])
shim.arm.argtypes, shim.remaining.restype = [ctypes.c_long], ctypes.c_long
n = 12
spectrum = np.linspace(-1.0, 3.0, n)
x = {"a": np.zeros(5), "b": np.zeros(7)}

def gradient(x):
    g = spectrum * np.concatenate([x["a"], x["b"]])
    return {"a": g[:5], "b": g[5:]}

def loss(x):
    flat = np.concatenate([x["a"], x["b"]])
    return 0.5 * float(spectrum @ (flat * flat))

def ends():
    found = curvature.lanczos(np.diag(spectrum), which="both", seed=1)
    return found.eigenvalue_min, found.eigenvalue_max

def verdict():
    v = curvature.classify(x, gradient, loss=loss, seed=1)
    return v.kind, v.eigenvalue_min, v.bounds_min

def exact():
    v = curvature.classify(np.zeros(n), lambda x: spectrum * x, hvp=lambda v: spectrum * v, seed=1)
    return v.kind, v.eigenvalue_min, v.bounds_min

def trace():
    found = curvature.trace(np.diag(spectrum), seed=1)
    return repr(found)

WORK = {"lanczos": ends, "verdict": verdict, "exact": exact, "trace": trace}
done, left, k, failures = WORK[name](), 0, 1, 0
while left == 0:
    shim.arm(k)
    try:
        now = WORK[name]()
    except MemoryError:
        failures += 1
        now = done
    left = shim.remaining()
    shim.arm(0)
    assert now == done, (name, k, now, done)
    assert not x["a"].any() and not x["b"].any(), (name, k)
    k += stride
assert failures > 10 // stride, failures
"""


pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads over glibc"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]


def with_failing_allocations(folder, script, *arguments, **environment):
    """Run a script in a process whose allocations can be made to fail."""
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={
            **os.environ,
            "LD_PRELOAD": str(library),
            "PYTHONPATH": os.pathsep.join(paths),
            **environment,
        },
        cwd=folder,  # a checkout would hide what is installed
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize("stride", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_the_kth_allocation_fails(tmp_path, stride):
    with_failing_allocations(tmp_path, SWEEP, str(tmp_path), str(stride))


@pytest.mark.parametrize(
    ("name", "stride"),
    [("LBFGS", 53), ("SAM", 17), ("NewtonLanczos", 307)]
    + [pytest.param(name, 1, marks=pytest.mark.slow) for name in ("LBFGS", "fixed", "SAM")]
    + [pytest.param("NewtonLanczos", 5, marks=pytest.mark.slow)],
)
def test_the_kth_allocation_of_a_solver_fails(tmp_path, name, stride):
    """NumPy's reductions fail without a word: that is a MemoryError too."""
    with_failing_allocations(tmp_path, SOLVERS, name, str(stride))


EVERY_STEP = (
    *("strided", "accumulated", "int8", "masters", "rounded", "factors", "eigenbases", "several"),
    *("averaging", "rows", "threads"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_STEP)
def test_the_kth_allocation_of_any_step_fails(tmp_path, name):
    with_failing_allocations(tmp_path, STEPS, name, "1")


@pytest.mark.parametrize(
    ("name", "stride"),
    [("lanczos", 9)]
    + [pytest.param(k, 1, marks=pytest.mark.slow) for k in ("lanczos", "trace")]
    + [pytest.param("exact", 5, marks=pytest.mark.slow)]
    + [pytest.param("verdict", 301, marks=pytest.mark.slow)],
)
def test_the_kth_allocation_of_a_look_at_curvature_fails(tmp_path, name, stride):
    """The same verdict, or a MemoryError; the parameters are where they were."""
    with_failing_allocations(tmp_path, CURVATURE, name, str(stride))


def test_the_kth_allocation_of_a_record_fails(tmp_path):
    """What a Monitor has recorded is the old or the new, and it goes on."""
    with_failing_allocations(tmp_path, MONITOR)


def test_the_kth_allocation_of_a_function_fails(tmp_path):
    """LARS and LAMB make room for norms, before they write."""
    with_failing_allocations(tmp_path, FUNCTIONS)


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="a Python without a GIL has no allocator but its own",
)
def test_the_kth_allocation_of_a_plan_takes_no_reference(tmp_path):
    """Cython 3.3 drops the item of a list that cannot grow twice; setup.py mends its C."""
    with_failing_allocations(tmp_path, PLAN, PYTHONMALLOC="malloc")
