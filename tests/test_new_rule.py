"""A new rule is its file, its compiled formula and its paper test; all else is made from these.

CONTRIBUTING's example, docs/new_rule, is put into a copy of the tree, built for one instruction set
and run through what all rules are run through.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "new_rule"
PLACES = {
    "softstep.py": "optkern/rules/softstep.py",
    "softstep.pxd": "optkern/kernels/formulas/softstep.pxd",
    "test_softstep.py": "tests/test_softstep.py",
}


def test_the_example_is_short():
    lines = [len((EXAMPLE / name).read_text().splitlines()) for name in PLACES]
    assert sorted(path.name for path in EXAMPLE.iterdir() if path.is_file()) == sorted(PLACES)
    assert len(lines) <= 4 and sum(lines) <= 120
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for place in PLACES.values():
        assert place.replace("softstep", "<rule>") in text


def copy_of_the_tree(to):
    """The sources and what has been built of them, with the dates that a build goes by."""
    for name in ("optkern", "tests", "build"):
        if (ROOT / name).is_dir():
            unwanted = shutil.ignore_patterns("__pycache__", ".*", "_span_v3*so", "_span_v4*so")
            shutil.copytree(ROOT / name, to / name, ignore=unwanted)
    (to / "docs").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "CONTRIBUTING.md", "docs/rules.md"):
        shutil.copy2(ROOT / name, to / name)


@pytest.mark.slow
def test_a_rule_is_added_in_three_files(tmp_path):
    copy_of_the_tree(tmp_path)
    for name, place in PLACES.items():
        shutil.copy(EXAMPLE / name, tmp_path / place)
    environment = {**os.environ, "OPTKERN_BUILD_ISA": "baseline", "PYTHONPATH": str(tmp_path)}
    environment.pop("OPTKERN_ISA", None)

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path, env=environment, timeout=1800, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run("setup.py", "-q", "build_ext", "--inplace")
    run("tests/stubs.py")
    assert "class SoftStep(Optimizer)" in (tmp_path / "optkern/optimizers/__init__.pyi").read_text()
    assert "optkern.integrations.thinc:SoftStep" in (tmp_path / "pyproject.toml").read_text()
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", "softstep or SoftStep")
    tests = ("test_softstep", "test_rules", "test_bad_input", "test_stubs", "test_compact")
    tests += ("test_thinc", "test_thinc_arrays", "test_sklearn")  # its hosts ask for no rule
    said = run("-m", "pytest", *options, *(f"tests/{name}.py" for name in tests))
    assert "failed" not in said and int(said.rsplit(" passed")[0].split()[-1]) > 80, said[-500:]
