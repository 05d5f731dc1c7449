"""An import of optkern loads what it runs, and nothing of the standard library that is slow."""

import ast
import operator
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import spread

import optkern
from optkern._later import ROOMS
from optkern.rules import MATRIX_RULES, ROW_RULES, loops_part

# Together they took a third of the import: each is loaded by what uses it.
SLOW = {
    "copy", "ctypes", "dataclasses", "difflib", "email", "fnmatch", "hashlib", "importlib.metadata",
    "importlib.util", "json", "pathlib", "pkgutil", "platform", "shutil", "socket", "tempfile",
    "urllib.parse", "zipfile",
}  # fmt: skip


def loaded_by(program: str) -> set[str]:
    """Run a program in a process of its own; the modules that it loads beside NumPy's."""
    program = (
        f"import sys, numpy; before = set(sys.modules); {program}; "
        "print(*set(sys.modules) - before, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert "optkern.kernels.engine" in done.stdout, done.stderr
    return {*done.stdout.split()}


def rooms_of(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("optkern.")}


def test_an_import_loads_nothing_that_is_slow():
    assert not SLOW & loaded_by("import optkern")


def test_an_import_and_a_step_load_no_room_that_they_do_without():
    """These rooms took half of an import."""
    step = "p = numpy.ones(3); optkern.Adam(p, lr=lambda step: .1).step(p.copy())"
    for program in ("import optkern", f"import optkern; {step}"):
        rooms = rooms_of(loaded_by(program))
        assert {"kernels", "optimizers", "rules"} <= rooms
        assert not rooms & {*ROOMS, "_recorder", "ranks"}


@spread(3, room=ROOMS)
def test_a_room_and_its_names_are_loaded_when_they_are_asked_for(room):
    for name in (room, *ROOMS[room]):
        for program in (f"import optkern; optkern.{name}", f"from optkern import {name}"):
            assert f"optkern.{room}" in loaded_by(program)
    module = getattr(optkern, room)
    assert sys.modules[f"optkern.{room}"] is module
    for name in ROOMS[room]:
        assert getattr(optkern, name) is getattr(module, name) is vars(optkern)[name]


def test_names_are_told_before_their_rooms_are_loaded():
    modules = loaded_by(
        "import optkern; names = {*dir(optkern)}; assert {*optkern.__all__} <= names; "
        "from optkern._later import ROOMS; assert {*ROOMS} <= names; "
        "assert not any(hasattr(optkern, name) for name in ('_repr_html_', '__wrapped__'))"
    )
    assert not rooms_of(modules) & {*ROOMS}
    modules = loaded_by("from optkern import *; assert Monitor.__name__ == 'Monitor'; SAM")
    public = {room for room in ROOMS if room in optkern.__all__ or ROOMS[room]}
    assert public <= rooms_of(modules)


def test_a_misspelt_name_is_told_without_its_room():
    with pytest.raises(AttributeError, match=r"'Moniter'; did you mean Monitor\?"):
        operator.attrgetter("Moniter")(optkern)
    program = (
        "import optkern\ntry: optkern.classify\n"
        "except AttributeError as error: print('it is optkern.curvature.classify' in str(error))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_type_checkers_are_told_the_same_names():
    tree = ast.parse(Path(optkern.__file__).read_text(encoding="utf-8"))
    (block,) = (x for x in tree.body if isinstance(x, ast.If))
    told = {(x.module, name.name) for x in block.body for name in x.names}
    names = {(room, name) for room in ROOMS for name in ROOMS[room]}
    assert told == names | {(None, room) for room in ROOMS if room in optkern.__all__}


def test_pickles_find_their_rooms():
    opt = optkern.LBFGS(np.ones(3))
    data = [optkern.schedules.Cosine(0.1, 10), opt, optkern.Monitor()]
    program = f"import pickle, optkern; print(*map(type, pickle.loads({pickle.dumps(data)!r})))"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == " ".join(str(type(x)) for x in data).split(), done.stderr


def test_rooms_loaded_late_are_kept_where_optkern_leaves_sys_modules():
    loaded_by(
        "import optkern; old = optkern.SAM, optkern.curvature; "
        "[sys.modules.pop(x) for x in [*sys.modules] if x.startswith('optkern')]; import optkern; "
        "assert (optkern.SAM, optkern.curvature) == old"
    )


def test_an_import_loads_the_loops_of_several_rules_at_a_time():
    """A module for each rule took longer to load, to build, and more of a wheel."""
    program = "import sys, optkern; print(*(x for x in sys.modules if '_span_' in x), sep='\\n')"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    parts = {loops_part(rule) for rule in optkern.RULES}
    loops = "optkern.kernels._span_"  # what is shorter than a vector is the baseline's
    expected = {f"{loops}{isa}_{part}" for isa in (optkern.isa(), "baseline") for part in parts}
    assert {f"{loops}{optkern.isa()}", *expected} == {*done.stdout.split()}, done.stderr
    assert len(parts) <= 6


def test_an_import_writes_no_docstrings_and_few_signatures():
    """They took a quarter: what classes and twins tell is made when it is asked for."""
    program = (
        "import inspect, numpy; written, parameter = [], inspect.Parameter.__init__; "
        "inspect.Parameter.__init__ = lambda *x, **y: written.append(1) or parameter(*x, **y); "
        "import optkern; print(len(written)); optkern.Adam.__signature__; "
        "optkern.reference.adam; print(len(written))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    of_import, after = map(int, done.stdout.split())
    assert of_import < 200, done.stderr  # those of the compiled functions for rows
    assert after > of_import + 40


def test_twins_are_made_once_and_told_before():
    reference = optkern.reference
    names = {x.name for x in (*optkern.RULES, *MATRIX_RULES)} | {
        f"{x.name}_rows" for x in ROW_RULES
    }
    assert names <= {*dir(reference)}
    for name in names:
        twin = getattr(reference, name)
        assert twin is getattr(reference, name)
        assert (twin.__name__, twin.__module__) == (name, "optkern.kernels.reference")
        assert pickle.loads(pickle.dumps(twin)) is twin
    modules = loaded_by("from optkern.kernels.reference import adam, sgd_rows; adam.formula")
    assert "optkern.kernels.reference" in modules
