"""The source distribution has every file of the repository, and its list warns of nothing."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from setuptools._distutils.filelist import FileList

ROOT = Path(__file__).parent.parent
# What setuptools takes by itself.
ITS_OWN = {"README.md", "LICENSE", "MANIFEST.in", "setup.py", "pyproject.toml"}


@pytest.fixture
def listed(monkeypatch):
    """What MANIFEST.in names, of the files that git knows, and what it warns of."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git repository")
    tracked = done.stdout.split("\n")[:-1]
    files, warned = FileList(), []
    files.allfiles = [name.replace("/", os.sep) for name in tracked]
    monkeypatch.setattr("setuptools._distutils.filelist.log.warning", lambda *x: warned.append(x))
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        files.process_template_line(line)
    return set(tracked), {name.replace(os.sep, "/") for name in files.files}, warned


def test_every_line_finds_files_and_none_takes_any_away(listed):
    """A line that finds nothing is a warning in the output of every build."""
    _, _, warned = listed
    assert warned == []
    assert "exclude" not in (ROOT / "MANIFEST.in").read_text()


def test_every_file_is_in_the_distribution(listed):
    tracked, found, _ = listed
    modules = {x for x in tracked if x.startswith("optkern/") and x.endswith(".py")}
    hidden = {x for x in tracked if x.startswith(".")}
    assert tracked - hidden - modules - ITS_OWN == found


def named(requirements):
    """Take the packages' names, without a template's own."""
    return {
        re.match(r"[\w-]+", x)[0].replace("_", "-").lower() for x in requirements if x[0] != "$"
    }


def test_who_tries_a_wheel_installs_what_the_suite_takes():
    """Beside the extra `test`: a Python without a GIL, and conda-forge's tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    takes = named(project["project"]["optional-dependencies"]["test"])
    (own,) = [x["test-requires"] for x in project["tool"]["cibuildwheel"]["overrides"]]
    assert takes - named(own) == {"safetensors"}  # which has no such wheels
    recipe = (ROOT / "tools" / "conda-forge" / "recipe.yaml").read_text(encoding="utf-8")
    (asked,) = re.findall(r"run: \[(.*)\]", recipe)
    # Its files are a few that take the rest of `test` for nothing.
    given = named(x.strip(' "') for x in asked.split(","))
    assert takes - given == {"hypothesis", "ml-dtypes", "safetensors"}
