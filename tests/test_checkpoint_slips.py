"""Averages in place, bad input and crashes while saving."""

from __future__ import annotations

import copy
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkpointed import (
    assert_same_state,
    every_format,
    everything,
    gradients,
    halfway,
    new_adam,
    new_params,
    other_params,
    refused_strictly,
)
from conftest import assert_same_bits

import optkern
from optkern.checkpoint import format

# --------------------------------------------------------------------------- averages in place


def swapped():
    opt = halfway(new_params(), ema_decay=0.5)
    opt.swap_in()
    return opt


WHILE_IN = {
    "load": lambda opt, path: optkern.load(path, opt),
    "load in parts": lambda opt, path: optkern.load(path, opt, strict=False),
    "load the state": lambda opt, path: optkern.load(path, opt, params=False),
    "load_state_dict": lambda opt, path: opt.load_state_dict(swapped().state_dict()),
    "save the state": lambda opt, path: optkern.save("y", opt, params=False),
}


@pytest.mark.parametrize("case", WHILE_IN)
def test_no_weights_are_lost_while_the_averages_are_in(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optkern.save("x", halfway(new_params(), ema_decay=0.5))
    opt = swapped()
    before = everything(opt)
    with pytest.raises(RuntimeError, match="the averages are in the parameters' place; call swap"):
        WHILE_IN[case](opt, "x")
    assert everything(opt) == before
    assert os.listdir() == ["x"]
    opt.swap_out()
    WHILE_IN[case](opt, "x")


def test_a_file_with_the_averages_in_is_loaded_whole_or_put_right(tmp_path):
    opt, plain = swapped(), halfway(new_params(), ema_decay=0.5)
    optkern.save(tmp_path / "x", opt)
    other = halfway(new_params(), ema_decay=0.5)
    refused_strictly(tmp_path / "x", other, "was saved while the averages were in", params=False)
    other = optkern.Adam(other_params(), ema_decay=0.5)
    optkern.load(tmp_path / "x", other, strict=False)
    assert not other.averages_are_in
    assert_same_bits([other.params[1], other.state["W"]["ema"]],
                     [plain.params[0], plain.state["W"]["ema"]])  # fmt: skip
    other = optkern.Adam(new_params())
    report = optkern.load(tmp_path / "x", other, strict=False)
    assert report == ((), ("state/W/ema", "state/b/ema"), (), None)
    assert not other.averages_are_in
    assert_same_bits(other.params, plain.params)


def test_other_groups_keep_their_hyperparameters(tmp_path):
    saved = new_adam(3, lr=0.5)
    optkern.save(tmp_path / "x", saved)
    params = new_params()
    groups = [{"params": {"W": params["W"]}}, {"params": {"b": params["b"]}, "lr": 0.25}]
    opt = optkern.Adam(groups)
    assert optkern.load(tmp_path / "x", opt, strict=False).mismatched_keys == ("param_groups",)
    assert [group["lr"] for group in opt.param_groups] == [0.001, 0.25]
    assert_same_bits(opt.state["b"]["exp_avg"], saved.state["b"]["exp_avg"])
    assert opt.steps == 3


# --------------------------------------------------------------------------- bad input


def holding_itself():
    extra = {}
    extra["more"] = [extra]
    return extra


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda o: optkern.save(3, o),
            TypeError,
            "optkern.save: path must be a name or a path, got",
        ),
        (lambda o: optkern.save("", o), TypeError, "path must be a name or a path, got ''"),
        (lambda o: optkern.save(b"x", o), TypeError, "path must be a name or a path"),
        (lambda o: optkern.load(None, o), TypeError, "optkern.load: path must be a name"),
        (
            lambda o: optkern.save("x", {"W": 1}),
            TypeError,
            "opt must be an optkern optimizer, got dict",
        ),
        (lambda o: optkern.load("x", optkern.Adam), TypeError, "opt must be an optkern optimizer"),
        (
            lambda o: optkern.save("x", o, params=1),
            TypeError,
            "params must be True or False, got 1",
        ),
        (lambda o: optkern.load("x", o, strict="no"), TypeError, "strict must be True or False"),
        (
            lambda o: optkern.save("x", o, extra={"f": print}),
            TypeError,
            "extra/f must be made of arr",
        ),
        (
            lambda o: optkern.save("x", o, extra={1.5: 2}),
            TypeError,
            "a key of extra must be a name",
        ),
        (lambda o: optkern.save("x", o, extra=[1j]), TypeError, "extra/0 must be made of arrays"),
        (
            lambda o: optkern.save("x", o, extra=np.array([{}])),
            TypeError,
            "extra must hold numbers",
        ),
        (
            lambda o: optkern.save("no/x", o),
            FileNotFoundError,
            "optkern.save: No such file.*'no/x'",
        ),
        (lambda o: optkern.save(".", o), OSError, "optkern.save: not a regular file: '.'"),
        (lambda o: optkern.save("new/", o), IsADirectoryError, "the name of a folder, .*: 'new/'"),
        (lambda o: optkern.save("new/.", o), IsADirectoryError, "the name of a folder, .*'new/.'"),
        (lambda o: optkern.save("a\0b", o), ValueError, "optkern.save: path must be a name that a"),
        (lambda o: optkern.load("\ud800", o), ValueError, "optkern.load: path must be a name that"),
        (lambda o: optkern.save("x", o, extra=holding_itself()), ValueError, "extra is nested too"),
    ],
)
def test_bad_input_is_a_sentence(call, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = new_adam(1)
    before = everything(opt)
    with pytest.raises(error, match=message):
        call(opt)
    assert os.listdir() == []
    assert everything(opt) == before


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs /dev/null")
def test_a_device_is_not_replaced():
    with pytest.raises(OSError, match=r"optkern.save: not a regular file: '/dev/null'"):
        optkern.save("/dev/null", new_adam())
    assert not os.path.isfile("/dev/null")


def test_without_safetensors(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    path = tmp_path / "run.safetensors"
    with pytest.raises(ImportError, match=r"optkern.save: .* pip install safetensors"):
        optkern.save(path, new_adam())
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"")
    with pytest.raises(ImportError, match=r"optkern.load: .* pip install safetensors"):
        optkern.load(path, new_adam())


def test_what_safetensors_cannot_hold(target):
    path = target("safetensors")
    with pytest.raises(TypeError, match="safetensors cannot hold this"):
        optkern.save(path, new_adam(), extra=np.zeros(3, np.complex128))
    assert not os.path.exists(path)


# --------------------------------------------------------------------------- crashes


@every_format
@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(kind, failing, target, monkeypatch):
    path = target(kind)
    optkern.save(path, new_adam(1))
    old = Path(path).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "write":
        writer = "_write_npz" if kind == "npz" else "_write_safetensors"
        write = getattr(format, writer)

        def half(file, arrays, text):
            write(file, arrays, text)
            file.truncate(100)
            full()

        monkeypatch.setattr(format, writer, half)
    else:
        monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match=f"optkern.save: No space left on device: {path!r}") as raised:
        optkern.save(path, new_adam(2))
    assert raised.value.errno == errno.ENOSPC
    assert Path(path).read_bytes() == old
    assert os.listdir(Path(path).parent) == [Path(path).name]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX modes")
def test_a_folder_that_cannot_be_written_to(tmp_path, run_python):
    (tmp_path / "x").mkdir()
    optkern.save(tmp_path / "x" / "run", new_adam(1))
    old = (tmp_path / "x" / "run").read_bytes()
    (tmp_path / "x").chmod(0o555)
    tmp_path.chmod(0o755)
    done = run_python(
        "import numpy as np, optkern, os\n"
        # All that a save imports: the package may lie where another user may not read.
        "optkern.save('first', optkern.SGD(np.ones(3)))\n"
        "if os.geteuid() == 0:\n"
        "    os.seteuid(65534)\n"  # root may write anywhere
        "try:\n"
        "    optkern.save('x/run', optkern.SGD(np.ones(3)))\n"
        "except PermissionError as error:\n"
        "    print(error)\n"
    )
    expected = "[Errno 13] optkern.save: Permission denied: 'x/run'\n"
    assert (done.stdout, done.stderr) == (expected, "")
    assert (tmp_path / "x" / "run").read_bytes() == old
    assert os.listdir(tmp_path / "x") == ["run"]


@pytest.mark.skipif(os.name == "nt", reason="needs resource limits")
def test_a_write_that_the_system_refuses(tmp_path, run_python):
    done = run_python(
        "import optkern, numpy as np, resource, signal\n"
        "opt = optkern.Adam(np.ones(100_000))\n"
        "optkern.save('x', opt)\n"  # which imports all that it needs, before files are limited
        "old = open('x', 'rb').read()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    optkern.save('x', opt)\n"
        "except OSError as error:\n"
        "    print(error)\n"
        "assert open('x', 'rb').read() == old\n"
    )
    assert (done.stdout, done.stderr) == ("[Errno 27] optkern.save: File too large: 'x'\n", "")
    assert os.listdir(tmp_path) == ["x"]


def test_the_disk_has_the_content_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def watched(descriptor):
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    optkern.save(tmp_path / "x", new_adam())
    if sys.platform == "linux":
        assert calls == ["file", "rename", "folder"]


# Forks at each line that `save` runs, and kills the fork there without any clean-up.
KILLED_AT_EACH_LINE = """
import os, sys
import numpy as np
import optkern
from optkern.checkpoint import format

def make(value):
    return optkern.SGD(np.full(9, value), lr=0.1)

def save_and_die(moment):
    lines = 0
    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename != optkern.checkpoint.format.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == moment:
                os._exit(9)
        return trace
    sys.settrace(trace)
    optkern.save(NAME, make(2.0))
    os._exit(0)

seen, moment, status = [], 0, 9
optkern.save(NAME, make(1.0))
while status == 9:
    moment += STRIDE
    child = os.fork()
    if child == 0:
        save_and_die(moment)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    opt = make(0.0)
    optkern.load(NAME, opt)
    seen.append(opt.params[0][0])
    if status == 9 and seen[-1] == 2.0:
        optkern.save(NAME, make(1.0))
assert status == 0, status
print(moment, *sorted(set(seen)))
"""


@pytest.mark.parametrize(
    ("kind", "stride"),
    [
        ("npz", 5),
        *(pytest.param(kind, 1, marks=pytest.mark.slow) for kind in ("npz", "safetensors")),
    ],
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_line_the_file_is_the_old_or_the_new_one(kind, stride, target, run_python):
    program = KILLED_AT_EACH_LINE.replace("NAME", repr(target(kind)))
    done = run_python(program.replace("STRIDE", str(stride)))
    assert (done.returncode, done.stderr) == (0, "")
    moments, old, new = done.stdout.split()
    assert int(moments) > 100
    assert (old, new) == ("1.0", "2.0")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_any_time_the_file_is_whole(tmp_path):
    """A process saves on and on; 20 times it is killed, and what is there loads."""
    code = (
        "import optkern, numpy as np\n"
        "p = np.zeros(300_000)\n"
        "opt = optkern.SGD(p, lr=1.0)\n"
        "while True:\n"
        "    p[:] += 1\n"
        "    optkern.save('x', opt)\n"
        "    print(p[0], flush=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(optkern.__file__).parent.parent)}
    rng = np.random.default_rng(0)
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE
        )
        try:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.1))
        finally:
            process.kill()
            said = process.communicate()[0].split()
        p = np.zeros(300_000)
        optkern.load(tmp_path / "x", optkern.SGD(p))
        last = float(said[-1]) if said else 1.0
        assert (p == p[0]).all()
        assert last <= p[0] <= last + 1


def test_an_interrupt_leaves_no_other_file(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optkern.save(tmp_path / "x", new_adam())
    assert os.listdir(tmp_path) == []


def test_a_copy_of_an_optimizer_loads_the_same(tmp_path):
    opt = new_adam(2)
    optkern.save(tmp_path / "x", opt)
    other = copy.deepcopy(opt)
    other.step(gradients(new_params(), 2))
    optkern.load(tmp_path / "x", other)
    assert_same_state(opt, other)


@pytest.mark.parametrize("where", ("update", "hexdigest"))
def test_a_digest_whose_allocation_fails_is_a_memory_error(where, tmp_path, monkeypatch):
    """OpenSSL says ValueError: "not able to copy ctx"; the old file stays."""
    opt = optkern.SGD(np.ones(3))
    path = tmp_path / "run.npz"
    optkern.save(path, opt)
    before = path.read_bytes()

    class Digest:
        def update(self, block):
            self.fail("update")

        def hexdigest(self):
            self.fail("hexdigest")
            return "0" * 64

        def fail(self, name):
            if name == where:
                raise ValueError("[digital envelope routines] not able to copy ctx")

    monkeypatch.setattr(format.hashlib, "sha256", Digest)
    with pytest.raises(MemoryError, match="SHA-256: an allocation failed"):
        optkern.save(path, opt)
    assert path.read_bytes() == before
    with pytest.raises(MemoryError, match="SHA-256: an allocation failed"):
        optkern.load(path, opt)
