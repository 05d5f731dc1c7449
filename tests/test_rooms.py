"""The house: imports run downward, rooms use each other's public names, files and classes fit."""

import re
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import rooms

HOUSE = rooms.House()

# One word, one meaning: names that several modules define, for these reasons alone.
SAME_MEANING = {
    "__all__": "Python's",
    "RULE": "the row of each rule's file",
    "formula": "the NumPy formula of each rule's file",
    "preconditioner": "what a rule divides by, in its own file",
    "Recurrence": "the reference of the compiled one",
    "main": "what a command runs",
    "MINIMUM": "the oldest version of a host that its room works with",
    "objective": "the public function of each host",
    "accelerate": "the public context of each host",
    "Report": "public in both rooms",
    **dict.fromkeys(("SGD", "Adam", "sgd", "adam", "rmsprop", "Optimizer"), "hosts' own names"),
    "Schedule": "thinc's own name for what it is here",
    "torch": "the host, imported where it is used",
}


def test_one_word_has_one_meaning():
    assert set(HOUSE.namesakes()) == set(SAME_MEANING)


# A docstring says what its function or class does: with one of these verbs, or another put here.
VERBS = """
    Accept Add Allow Answer Apply Arrange Ask Begin Bind Bound Bridge Bring Build Call Change
    Check Choose Classify Climb Collect Combine Compare Compile Compress Compute Convert Copy
    Count Cut Decide Declare Decode Derive Descend Describe Divide Do Draw Encode End Enter
    Estimate Evaluate Exchange Exit Expand Extend Fall Fill Find Flatten Fold Follow Form
    Freeze Gather Get Give Go Group Grow Hash Hold Import Integrate Iterate Join Judge Keep
    Know Lay Leave Lengthen Let List Load Look Make Measure Merge Minimize Mix Move Multiply
    Name Note Number Open Order Orthogonalise Owe Pack Parse Part Pick Place Point Predict Prepare
    Print Put Raise Read Rebuild Record Refuse Remember Remove Repeat Replace Report Resolve
    Restore Restrict Return Rise Round Run Say Scale Search See Set Share Shorten Show Solve
    Sort Spend Split Spread Stand Step Store Sum Tabulate Take Tell Test Time Track Train Try
    Turn Update View Wait Walk Warn Watch Widen Write Yield
""".split()  # noqa: SIM905 - a list of 130 words in quotes is harder to read


def test_docstrings_begin_with_a_verb():
    found = [
        f"{place} {name}: {said}"
        for place, name, said in HOUSE.docstrings()
        if said.split()[0].rstrip(",:;") not in VERBS
    ]
    assert found == []


# Sentences about numbers, words and flags are rules/domains.py's; the demo's options argparse's;
# a key of thinc's is named where it is read at each step.
SIMPLE = r"must be (True or False|callable|an integer >=|one of '|a finite number|in \[1, 1024)"


def test_arguments_are_checked_in_one_place():
    found = [
        f"{module.place}: {line.strip()}"
        for module in HOUSE.modules
        if module.is_python and module.room != "demo" and module.name != "optkern.rules.domains"
        for line in module.text.splitlines()
        if re.search(SIMPLE, line)
    ]
    assert len(found) == 1 and "nr_update of" in found[0]


def test_imports_run_downward():
    assert HOUSE.upward() == []


def test_no_circle():
    assert HOUSE.circles() == []


def test_no_private_name_of_another_package():
    assert [f"{place} {what}" for place, _, what in HOUSE.private_uses()] == []


def test_files_fit():
    assert HOUSE.long_files() == []
    tests = {p.name: len(p.read_text().splitlines()) for p in (ROOT / "tests").glob("*.py")}
    assert {name: n for name, n in tests.items() if n > rooms.MAX_LINES} == {}


def test_classes_fit():
    assert HOUSE.long_classes() == []


def test_the_drawing_is_current():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert rooms.drawn(text, rooms.drawing(HOUSE)) == text, "python tools/rooms.py --draw"


# --------------------------------------------------------------------------- the test can fail

PLANTED = {
    "upward": ("kernels/early.py", "from ..monitor import record", "upward"),
    "upward, within a function": (
        "curvature/early.py",
        "def late():\n    import optkern.integrations.torch",
        "upward",
    ),
    "upward in Cython": ("kernels/early.pyx", "from optkern.curvature.run cimport run", "upward"),
    "no room": ("attic.py", "from . import kernels\n", "upward"),
    "circle": ("kernels/early.py", "from . import late", "circles"),
    "private module": ("monitor/early.py", "from ..kernels._formulas import adam", "private"),
    "private module, whole": ("monitor/early.py", "from ..kernels import _formulas", "private"),
    "private attribute": ("demo/early.py", "def f(x):\n    return x._secret", "private"),
    "by its string": ("demo/early.py", "def f(x):\n    return getattr(x, '_secret')", "private"),
    "private in Cython": (
        "solvers/early.pyx",
        "from optkern.kernels._formulas cimport (\n    adam,\n)",
        "private",
    ),
    "long file": ("demo/early.py", "x = 1\n" * 601, "long_files"),
    "long class": ("demo/early.py", "class A:\n" + "    x = 1\n" * 400, "long_classes"),
    "long class in Cython": (
        "kernels/early.pyx",
        "cdef class A:\n" + "    x = 1\n\n" * 201 + "\ncdef int x\n",
        "long_classes",
    ),
}
SOUND = {
    "kernels/__init__.py": "",
    "kernels/_formulas.py": "def adam():\n    return 0\n",
    "kernels/late.py": "from . import early, _formulas\nfrom ._formulas import adam\n",
    "kernels/rows.py": "class Rows:\n    def __init__(self):\n        self._secret = 1\n",
    "curvature/run.py": "from ..kernels.rows import Rows\nimport numpy\n",
    "curvature/words.pyx": '"""\nfrom optkern.monitor import what is said in a text\n"""\n',
    "monitor/record.py": "from ..curvature.run import Rows\nx = Rows()._replace(a=1)\n",
    "integrations/torch.py": "import torch\nx = torch._foreach_add\n",
}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    monkeypatch.setattr(rooms, "ROOT", tmp_path)

    def make(**files):
        for name, text in {**SOUND, **files}.items():
            path = tmp_path / "optkern" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return rooms.House(tmp_path)

    return make


CHECKS = ("upward", "circles", "private", "long_files", "long_classes")


def test_a_sound_house(planted):
    house = planted()
    for check in CHECKS:
        assert getattr(house, check)() == [], check


@pytest.mark.parametrize("case", PLANTED)
def test_what_breaks_a_rule_is_found(planted, case):
    name, text, check = PLANTED[case]
    house = planted(**{name: text})
    found = [c for c in CHECKS if getattr(house, c)()]
    assert found == [check] or (check == "upward" and found == ["upward", "circles"])
