"""An import of optkern loads what it runs, and nothing of the standard library that is slow."""

import dataclasses
import subprocess
import sys

import pytest

import optkern
from optkern.rules import loops_part

# Together they took a third of the import: each is loaded by what uses it.
SLOW = {
    "ctypes", "difflib", "email", "hashlib", "importlib.metadata", "json", "pathlib", "platform",
    "shutil", "socket", "tempfile", "urllib.parse", "zipfile",
}  # fmt: skip


def test_an_import_loads_nothing_that_is_slow():
    program = (
        "import sys, numpy; before = set(sys.modules); import optkern; "
        "print(*set(sys.modules) - before, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "optkern.kernels.engine" in done.stdout, done.stderr
    assert not SLOW & set(done.stdout.split())


def test_an_import_loads_the_loops_of_several_rules_at_a_time():
    """A module for each rule took longer to load, to build, and more of a wheel."""
    program = "import sys, optkern; print(*(x for x in sys.modules if '_span_' in x), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    parts = {loops_part(rule) for rule in optkern.RULES}
    name = f"optkern.kernels._span_{optkern.isa()}"
    assert {name, *(f"{name}_{part}" for part in parts)} == {*done.stdout.split()}, done.stderr
    assert len(parts) <= 6


def test_an_import_writes_no_methods_of_dataclasses_and_no_docstrings():
    """They took a quarter: values share methods, and what is told is made when asked for."""
    program = (
        "import dataclasses, functools, inspect, numpy; made, written = [], []; "
        "create, parameter = dataclasses._create_fn, inspect.Parameter.__init__; "
        "dataclasses._create_fn = lambda *x, **y: made.append(x[0]) or create(*x, **y); "
        "inspect.Parameter.__init__ = lambda *x, **y: written.append(1) or parameter(*x, **y); "
        "import optkern; print(len(made), len(written)); "
        "dataclasses.make_dataclass('Some', ['x']); optkern.Adam.__signature__; print(len(made))"
    )
    if not hasattr(dataclasses, "_create_fn"):
        pytest.skip("this Python writes the methods of dataclasses in another way")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    of_import, arguments, after = map(int, done.stdout.split())
    assert of_import <= 10, done.stderr  # the rows of the rules are one
    assert arguments < 900
    assert after > of_import
