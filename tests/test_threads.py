"""Threads: who decides how many, what a forked child does, and what the environment says."""

import json
import os
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import ISAS, assert_same_bits, ordinary

import optkern
from optkern.kernels import _containers, engine, runtime

needs_openmp = pytest.mark.skipif(not runtime.OPENMP, reason="built without OpenMP: serial")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and forks")
POLICY = "OMP_WAIT_POLICY"

# What the programs below start with. Large enough for many chunks; `count` tells how many threads
# the process has, which is how one sees that a step used them, or did not.
HEAD = """
import json, os, sys
import numpy as np
import optkern
from optkern.kernels import runtime, threads

def count():
    return len(os.listdir("/proc/self/task"))

p, g = np.zeros(1_000_000, np.float32), np.ones(1_000_000, np.float32)

def step(num_threads=None):
    optkern.kernels.sgd(p, g, lr=1.0, num_threads=num_threads)

def say(**values):
    print(json.dumps(values))
"""


@pytest.fixture
def run(run_python):
    """Run a program after HEAD and give what it says."""

    def run(code, timeout=600, **environment):
        result = run_python(HEAD + code, timeout, **environment)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    return run


LIMIT = "say(n=optkern.get_num_threads())"


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# --------------------------------------------------------------------------- how many


@needs_openmp
@pytest.mark.parametrize("n", (1, 2, 3, 7))
def test_own_variable_says_how_many(run, n):
    assert run(LIMIT, OPTKERN_NUM_THREADS=str(n)) == {"n": n}
    assert run(LIMIT, OPTKERN_NUM_THREADS=str(n), OMP_NUM_THREADS="1") == {"n": n}


@pytest.mark.parametrize("value", ("0", "-1", "two", "1.5", "1025", " "))
def test_own_variable_is_validated(run_python, value):
    result = run_python("import optkern", OPTKERN_NUM_THREADS=value)
    assert result.returncode != 0
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ValueError: OPTKERN_NUM_THREADS must be an integer in [1, 1024]")
    assert repr(value) in message


def test_openmps_variable_is_a_limit(run):
    assert run(LIMIT, OMP_NUM_THREADS="1") == {"n": 1}
    assert run(LIMIT, OMP_NUM_THREADS="64")["n"] <= cores()
    train = "opt = optkern.SGD(p)\nfor _ in range(10): opt.step(g)\n"
    assert run(train + "say(n=count())", OMP_NUM_THREADS="1") == {"n": 1}


def test_default_is_what_the_machine_has(run):
    assert 1 <= run(LIMIT)["n"] <= cores()
    assert run(LIMIT, OPTKERN_NUM_THREADS="")["n"] <= cores()


@linux
def test_affinity_is_a_limit(run_python):
    core = min(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, {{{core}}})\n"
    result = run_python(pinned + HEAD + "step(None)\nsay(n=optkern.get_num_threads(), m=count())")
    assert json.loads(result.stdout) == {"n": 1, "m": 1}


@needs_openmp
def test_set_and_get():
    for n in (1, 2, 5):
        optkern.set_num_threads(n)
        assert optkern.get_num_threads() == n
    optkern.set_num_threads(np.int64(3))
    assert optkern.get_num_threads() == 3
    optkern.set_num_threads(None)
    assert 1 <= optkern.get_num_threads() <= cores()


def test_refused_number_changes_nothing():
    optkern.set_num_threads(1)
    for value in (0, -1, 1025, 1.5, "2", True):
        with pytest.raises((TypeError, ValueError), match="num_threads must be"):
            optkern.set_num_threads(value)
        assert optkern.get_num_threads() == 1


@linux
@needs_openmp
def test_limit_is_read_at_each_step(run):
    """The engine may use fewer threads than the limit, never more."""
    said = run(
        """
opt = optkern.SGD(p)
before = count()
optkern.set_num_threads(1)
for _ in range(10):
    opt.step(g)
one = count()
optkern.set_num_threads(3)
for _ in range(10):
    opt.step(g)
say(one=one - before, three=count() - before)
"""
    )
    assert said["one"] == 0
    assert said["three"] == 2, "of ten steps over a million elements some try the threads"


@linux
@needs_openmp
@pytest.mark.parametrize("n", (2, 3, 5))
def test_call_uses_the_threads_it_is_given(run, n):
    said = run(f"before = count()\nstep({n})\nsay(more=count() - before)")
    assert said == {"more": n - 1}


@linux
def test_one_thread_never_enters_the_runtime(run):
    said = run(
        """
before = count()
step(1)
opt = optkern.Adam(p, num_threads=1)
opt.step(g)
small = optkern.Adam(np.zeros(1000))
small.num_threads = 4
small.step(np.ones(1000))
optkern.reference.sgd(p, g)
say(more=count() - before)
"""
    )
    assert said == {"more": 0}


@needs_openmp
def test_threadpoolctl_is_honoured(run_python):
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    code = """
import threadpoolctl
optkern.set_num_threads(4)
said = {"before": optkern.get_num_threads()}
with threadpoolctl.threadpool_limits(2, user_api="openmp"):
    said["two"] = optkern.get_num_threads()
with threadpoolctl.threadpool_limits(1, user_api="openmp"):
    said["one"] = optkern.get_num_threads()
    start = count()
    for _ in range(10):
        step()
    said["more"] = count() - start
said["after"] = optkern.get_num_threads()
say(**said)
"""
    result = run_python(HEAD + code, OMP_NUM_THREADS="4")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert said == {"before": 4, "two": 2, "one": 1, "more": 0, "after": 4}


def test_any_number_of_threads_gives_the_same_bits():
    outcomes = []
    for n in (1, 2, 3, 5, 64, 1024, None):
        p, g = np.zeros(200_001, np.float32), ordinary(np.float32, 200_001, 1)
        opt = optkern.Adam(p, num_threads=n)
        for _ in range(3):
            opt.step(g)
        outcomes.append(p)
    for p in outcomes[1:]:
        assert_same_bits(p, outcomes[0])


def test_choice_of_the_engine_gives_the_same_bits():
    """Through its trials of one thread and of many, and after."""
    optkern.set_num_threads(2)
    p, q = (np.zeros(70_000) for _ in range(2))
    free, single = optkern.Adam(p), optkern.Adam(q, num_threads=1)
    g = ordinary(np.float64, 70_000, 1)
    for _ in range(20):
        free.step(g)
        single.step(g)
    assert_same_bits(p, q)


def test_steps_of_several_python_threads():
    """Each thread has its own optimizer; the lock is released inside a step."""
    results = {}

    def train(k):
        p = np.zeros(50_000)
        opt = optkern.Adam(p, num_threads=1 + k % 2)
        for step in range(10):
            opt.step(ordinary(np.float64, 50_000, 10 * k + step))
        results[k] = p

    workers = [threading.Thread(target=train, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    parallel = dict(results)
    for k in range(4):
        train(k)
        assert_same_bits(parallel[k], results[k])


@pytest.mark.parametrize("entry", [engine.Plan.step, _containers.Contents.gather])
def test_entry_of_a_step_is_no_object_whose_references_threads_count(entry):
    """Cython's own functions are: without a GIL two threads with an optimizer each wait for it."""
    assert type(entry) is types.MethodDescriptorType


MORE_THAN_CORES = """
import itertools

def trained(make, by_rows, threads):
    rng = np.random.default_rng(1)
    p = rng.standard_normal((300, 500)).astype(np.float32)
    q = rng.standard_normal(77_777).astype(np.float32)
    opt = make([p, q], threads)
    for _ in range(4):
        grads = [rng.standard_normal(x.shape).astype(np.float32) for x in (p, q)]
        if by_rows:
            rows = [rng.integers(0, len(x), 200) for x in (p, q)]
            opt.step_rows(rows, [g[r] for g, r in zip(grads, rows)])
        else:
            opt.step(grads)
    return p.tobytes() + q.tobytes()

MAKERS = {
    "adam": lambda p, n: optkern.Adam(p, num_threads=n),
    "bfloat16": lambda p, n: optkern.AdamW(p, state_dtype="bfloat16", num_threads=n),
    "int8": lambda p, n: optkern.Adam(p, state_dtype="int8", num_threads=n),
    "around": lambda p, n: optkern.SGD(
        p, momentum=0.9, clip_norm=1.0, ema_decay=0.9, zero_grad=True, num_threads=n
    ),
    "lamb": lambda p, n: optkern.LAMB(p, num_threads=n),
    "adafactor": lambda p, n: optkern.Adafactor(p, num_threads=n),
    "rows": lambda p, n: optkern.Adagrad(p, num_threads=n),
}
different = []
for name, make in MAKERS.items():
    one = trained(make, name == "rows", 1)
    different += [
        (name, n) for n in (4, 8) for _ in range(5) if trained(make, name == "rows", n) != one
    ]
"""


@needs_openmp
def test_more_threads_than_cores_give_the_same_bits(run):
    """In a process of its own, so that a hang is one that ends."""
    assert run(MORE_THAN_CORES + "say(different=different)", timeout=120) == {"different": []}


# --------------------------------------------------------------------------- optkern's workers

# What the build finds them by.
HEADER = Path("/usr/include/linux/futex.h")
needs_workers = pytest.mark.skipif(not runtime.WORKERS, reason="OpenMP's own threads are used")
AWAKE = """
import time
opt, few = optkern.SGD(p[:70_000], num_threads=2), g[:70_000]
end, awake = time.perf_counter() + 20, False
while not awake and time.perf_counter() < end:
    opt.step(few)
    awake = runtime.workers_wait()
"""


@linux
@needs_openmp
@pytest.mark.skipif(not HEADER.exists(), reason="built elsewhere, or without the kernel's headers")
def test_linux_has_workers():
    assert runtime.WORKERS


@needs_workers
def test_workers_wait_awake_only_where_calls_follow_at_once(run):
    code = "time.sleep(.001)\nopt.step(few)\nsay(awake=awake, after=runtime.workers_wait())"
    assert run(AWAKE + code) == {"awake": True, "after": False}


@needs_workers
def test_own_passive_policy_holds_for_workers(run):
    code = AWAKE.replace("20", "1") + "say(awake=awake)"
    assert run(code, **{POLICY: "PASSIVE"}) == {"awake": False}


@needs_workers
@pytest.mark.skipif(cores() < 2, reason="one core is all there is")
def test_workers_run_where_the_process_may(run):
    """Whoever takes the first step with several threads may itself be held to one core."""
    said = run("""
import threading, time
before = set(os.listdir("/proc/self/task"))
def first():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    step(3)
thread = threading.Thread(target=first)
thread.start()
thread.join()
workers = set(os.listdir("/proc/self/task")) - before - {str(thread.native_id)}
def cores():
    return [len(os.sched_getaffinity(int(x))) for x in workers]
end = time.monotonic() + 60   # a thread that has been made need not have begun
while len({*cores(), len(os.sched_getaffinity(0))}) > 1 and time.monotonic() < end:
    time.sleep(.01)
say(all=len(os.sched_getaffinity(0)), workers=cores())
""")
    assert said["workers"] == [said["all"]] * 2


@needs_workers
def test_workers_take_no_signals(run):
    """A handler runs in the main thread, whose call it is to end; a fault is the worker's own."""
    said = run("""
import signal, time
before = set(os.listdir("/proc/self/task"))
step(3)
workers = set(os.listdir("/proc/self/task")) - before
def blocked():
    found = set()
    for task in workers:
        with open(f"/proc/self/task/{task}/status") as status:
            (line,) = [line for line in status if line.startswith("SigBlk")]
        mask = int(line.split()[1], 16)
        found |= {(name, mask >> signal.Signals[name] - 1 & 1) for name in ("SIGINT", "SIGSEGV")}
    return sorted(found)
expected = [("SIGINT", 1), ("SIGSEGV", 0)]
end = time.monotonic() + 60   # all are blocked until a thread has begun
while blocked() != expected and time.monotonic() < end:
    time.sleep(.01)
say(blocked=blocked())
""")
    assert said == {"blocked": [["SIGINT", 1], ["SIGSEGV", 0]]}


# --------------------------------------------------------------------------- forked children

# A child that hangs is ended by its alarm, and the parent says so.
FORK = """
import signal

def child(work, limit=10):
    sys.stdout.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(limit)
        try:
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(answer) if status == 0 else f"hangs (status {status})"

start = count()
step(2)
assert count() == start + 1, "the parent must have used its threads"
opt = optkern.Adam(p, num_threads=2)
opt.step(g)
"""


@linux
@needs_openmp
@pytest.mark.parametrize(
    "work",
    ("step()", "step(2)", "opt.step(g)", "opt.step(g.astype(float))",
     "optkern.Adam(p.copy(), num_threads=3).step(g)", "[step() for _ in range(20)]"),
)  # fmt: skip
def test_forked_child_of_a_threaded_parent_is_serial(run, work):
    said = run(
        FORK
        + f"""
def work():
    p[:] = 0
    before = count()
    {work}
    return [optkern.get_num_threads(), count() - before, bool((p != 0).all()) or "copy" in {work!r}]

say(child=child(work), parent=optkern.get_num_threads())
step(2)
""",
        OPTKERN_NUM_THREADS="2",
    )
    assert said == {"child": [1, 0, True], "parent": 2}


@linux
@needs_openmp
def test_forked_child_told_to_use_threads_says_why_it_cannot(run):
    said = run(FORK + "say(child=child(lambda: optkern.set_num_threads(2)))")
    assert said["child"].startswith("RuntimeError: ")
    assert "forked" in said["child"] and "spawn" in said["child"]


@linux
@needs_openmp
@pytest.mark.parametrize(
    "work",
    (
        "step(2)",
        "opt.step(g)",
        "optkern.set_num_threads(2)",
        "optkern.set_num_threads(None), step()",
    ),
)
def test_forked_child_that_sets_one_thread_does_not_hang(run, work):
    """Workers often do; what follows must not enter the runtime that hangs."""
    said = run(
        FORK
        + f"""
def work():
    optkern.set_num_threads(1)
    try:
        {work}
    except RuntimeError:
        pass
    step(2)
    return count()

say(child=child(work))
"""
    )
    assert said == {"child": 1}


@linux
@needs_openmp
def test_grandchild_is_serial_too(run):
    said = run(FORK + "say(child=child(lambda: child(lambda: [step(2), count()])))")
    assert said == {"child": [None, 1]}


@linux
@needs_openmp
def test_child_of_a_parent_without_threads_may_use_them_when_told(run):
    said = run(
        FORK.partition("start = count()")[0]
        + """
def work():
    serial = [optkern.get_num_threads(), count()]
    step(2)
    serial.append(count())
    optkern.set_num_threads(2)
    step(2)
    return [*serial, optkern.get_num_threads(), count()]

say(child=child(work))
""",
        OPTKERN_NUM_THREADS="2",
    )
    assert said == {"child": [1, 1, 1, 2, 2]}


# --------------------------------------------------------------------------- instruction sets


@pytest.mark.parametrize("isa", ISAS)
def test_variable_chooses_the_instruction_set(run, isa):
    said = run(
        """
spans = sorted({"_".join(name.split("_")[:3]) for name in sys.modules if "_span_" in name})
step()
say(isa=optkern.isa(), spans=spans, p=float(p.sum()))
""",
        OPTKERN_ISA=isa,
    )
    spans = sorted({f"optkern.kernels._span_{name}" for name in ("baseline", isa)})
    assert said == {"isa": isa, "spans": spans, "p": -1e6}  # baseline's for what is short


def test_best_instruction_set_is_the_default(run):
    assert run("say(isa=optkern.isa())") == {"isa": ISAS[-1]}
    assert run("say(isa=optkern.isa())", OPTKERN_ISA="") == {"isa": ISAS[-1]}


# --------------------------------------------------------------------------- the wait policy


def shown(text):
    """The lines of show_versions, by their first words."""
    return dict(line.split("  ", 1) for line in text.splitlines())


def test_wait_policy_is_set_for_the_load_alone(run):
    said = run(f"say(policy=os.environ.get({POLICY!r}))")
    assert said == {"policy": None}


@pytest.mark.parametrize("policy", ("active", "passive", "ACTIVE"))
def test_own_wait_policy_is_respected(run_python, policy):
    code = f"import os, optkern; optkern.show_versions(); print('policy ', os.environ[{POLICY!r}])"
    result = run_python(code, **{POLICY: policy})
    rows = shown(result.stdout)
    assert rows["policy"].strip() == policy
    if runtime.OPENMP:
        assert f"wait policy {policy} (from {POLICY})" in rows["openmp"]


@linux
@needs_openmp
def test_runtime_is_loaded_passive(run_python):
    """The runtime itself says what it was told, where it can be asked to."""
    result = run_python("import optkern", OMP_DISPLAY_ENV="TRUE")
    if "OMP_WAIT_POLICY" not in result.stderr:
        pytest.skip("this OpenMP runtime does not print its settings")
    (line,) = [x for x in result.stderr.splitlines() if "OMP_WAIT_POLICY" in x]
    assert "PASSIVE" in line.upper()


def test_show_versions_mentions_what_was_done(run_python):
    rows = shown(run_python("import optkern; optkern.show_versions()").stdout)
    wanted = "wait policy passive" if runtime.OPENMP else "built without OpenMP"
    assert wanted in rows["openmp"]


@linux
@needs_openmp
def test_show_versions_mentions_a_runtime_that_was_there_before(run_python):
    with open("/proc/self/maps") as maps:
        names = {line.split()[-1] for line in maps if "/libgomp" in line or "/libomp" in line}
    loaded = {name for name in names if "/libgomp-" not in name}
    if names and not loaded:
        pytest.skip("a wheel's own copy, which nothing else loads")
    assert loaded, "the engine has OpenMP, so its runtime is here"
    for path in loaded:
        code = f"import ctypes; ctypes.CDLL({path!r}); import optkern; optkern.show_versions()"
        rows = shown(run_python(code).stdout)
        assert f"{os.path.basename(path)} was loaded before optkern" in rows["openmp"]


def test_show_versions(run_python):
    result = run_python("import optkern; optkern.show_versions()", OPTKERN_NUM_THREADS="1")
    rows = shown(result.stdout)
    for name in ("optkern", "python", "numpy", "platform", "compiler", "openmp"):
        assert rows[name].strip()
    assert rows["instruction set"].split()[0] == ISAS[-1]
    assert rows["threads"].split()[0] == "1"
    assert rows["numpy"].strip() == np.__version__


# --------------------------------------------------------------------------- the choice


def test_choice_is_the_faster_one(run):
    """Five threads on one core, woken for each step, take many times as long as one."""
    said = run(
        """
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
optkern.set_num_threads(64)
opt = optkern.SGD(np.zeros(70_000, np.float32))
g = np.ones(70_000, np.float32)
for _ in range(10):
    opt.step(g)
say(choice=opt.session.plan.prefers_threads)
""",
        **{POLICY: "PASSIVE"},
    )
    assert said == {"choice": False}
