"""What a build says where something is missing: one sentence, before anything is compiled."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="asks for a compiler and headers on POSIX alone"),
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the sources"),
]
HOW = (
    "on Debian and Ubuntu `apt install python3-dev python3-venv gcc make`, "
    "on Fedora `dnf install python3-devel gcc make`, on macOS `xcode-select --install`"
)


def asked(change="", **environment):
    """`python setup.py needs` of a Python that a line of code has changed."""
    script = f"import runpy, sys; sys.argv = ['setup.py', 'needs']; {change}; "
    return subprocess.run(
        [sys.executable, "-I", "-c", script + "runpy.run_path('setup.py', run_name='__main__')"],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def compiler(folder, text):
    path = folder / "a compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"'{path}'"


NOTHING = "pass"
NO_HEADERS = "import sysconfig; sysconfig.get_path = lambda *_: '/nowhere'"
NO_VENV = (
    "import importlib.util as u; find = u.find_spec; "
    "u.find_spec = lambda name: None if name == 'ensurepip' else find(name)"
)


@pytest.mark.parametrize(
    ("change", "cc", "absent"),
    [
        (NOTHING, "no-such-cc -m64", "a C compiler (no-such-cc is not found)"),
        (NO_HEADERS, "true", "Python's headers (Python.h)"),
        (NO_VENV, "true", "venv with ensurepip"),
        (NO_VENV, "no-such-cc", "a C compiler (no-such-cc is not found) and venv with ensurepip"),
    ],
)
def test_what_is_missing_is_named_with_how_to_get_it(change, cc, absent):
    done = asked(change, CC=cc)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"optkern: to build it, {absent} must be there: {HOW}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo note: xcode >&2; echo 'error: no developer tools' >&2; exit 1", "error: no dev"),
        ("echo 'program.c:1: fatal error: stdio.h: No such file'; exit 1", "program.c:1: fatal"),
        ("exit 3", "exit code 3"),
    ],
)
def test_a_compiler_that_does_not_compile_is_told_by_what_it_says(text, said, tmp_path):
    done = asked(NOTHING, CC=compiler(tmp_path, text))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"a C compiler that works ({tmp_path}/a compiler: {said}" in done.stderr


def test_nothing_is_said_where_all_is_there(tmp_path):
    done = asked(NOTHING, CC=compiler(tmp_path, "exit 0"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("target", "levels"), [("elsewhere", "baseline"), ("here", "baseline, v3, v4")]
)
def test_the_instruction_sets_are_the_targets_not_the_hosts(target, levels, tmp_path):
    """A compiler whose target is another one, as Emscripten's and those for ARM are."""
    if target == "here" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("this machine has no v3")
    asks = "for x; do case $x in *.c) ! grep -q __x86_64__ $x; exit;; esac; done"
    cc = compiler(tmp_path, asks if target == "elsewhere" else "exit 0")
    done = subprocess.run(
        [sys.executable, "setup.py", "build"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "CC": cc, "OPTKERN_BUILD_ISA": "none of these"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.endswith(f"none of these': for this target there is {levels}\n")


def test_the_page_on_an_index_has_links_with_hosts_or_none(tmp_path):
    """There a link within the repository leads nowhere."""

    def links(**environment):
        known = {k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
        done = subprocess.run(
            [sys.executable, "setup.py", "page"], cwd=ROOT, env={**known, **environment},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return set(re.findall(r"\]\(([^)\s]+)\)", done.stdout)), done.stdout

    found, page = links()
    assert all("://" in link for link in found) and "more on installing" in page
    found, _ = links(
        GITHUB_SERVER_URL="https://h.example", GITHUB_REPOSITORY="a/b", GITHUB_SHA="c0ffee"
    )
    assert {f"https://h.example/a/b/{x}" for x in ("raw/c0ffee/docs/demo.png",
            "blob/c0ffee/docs/install.md")} <= found  # fmt: skip
    assert all("://" in link for link in found)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """What `setup.py` puts into a wheel beside its modules, and says of it where GitHub builds."""
    place = tmp_path_factory.mktemp("packed")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(place),
         "build_py", "--build-lib", str(place / "lib")],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=600,
        env={**os.environ, "GITHUB_SERVER_URL": "https://h.example", "GITHUB_REPOSITORY": "a/b"},
    )  # fmt: skip
    return place


@pytest.mark.slow
def test_a_wheel_says_its_version_and_where_its_project_lives(packed):
    said = (packed / "optkern.egg-info" / "PKG-INFO").read_text(encoding="utf-8")
    versions = (ROOT / "optkern" / "_versions.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"', versions, re.M)
    assert f"\nVersion: {version}\n" in said
    assert "version =" not in (ROOT / "pyproject.toml").read_text().partition("[tool.")[0]
    urls = dict(re.findall(r"^Project-URL: (\w+), (\S+)$", said, re.M))
    assert urls == {
        "Source": "https://h.example/a/b", "Issues": "https://h.example/a/b/issues",
        "Changelog": "https://h.example/a/b/blob/HEAD/CHANGELOG.md",
    }  # fmt: skip


@pytest.mark.slow
def test_a_wheel_has_what_c_and_cython_import_and_nothing_that_only_a_build_reads(packed):
    files = {x.relative_to(packed / "lib").as_posix() for x in packed.rglob("lib/**/*.*")}
    assert {"optkern/__init__.pxd", "optkern/_capi.pxd", "optkern/include/optkern.h"} <= files
    assert {"optkern/py.typed", "optkern/demo/assets/page.css"} <= files
    assert not [x for x in files if x.endswith((".pyx", ".pxi", ".tp"))]
    assert len([x for x in files if x.endswith(".pxd")]) == 2


@pytest.mark.slow
def test_the_source_distribution_has_all_that_a_build_reads(packed):
    listed = {*(packed / "optkern.egg-info" / "SOURCES.txt").read_text().splitlines()}
    kinds = (".py", ".pyx", ".pxd", ".pxi", ".tp", ".h", ".pyi")
    ours = [x for x in (ROOT / "optkern").rglob("*") if x.suffix in kinds]
    assert {x.relative_to(ROOT).as_posix() for x in ours} <= listed
    assert {"setup.py", "pyproject.toml", "README.md", "CHANGELOG.md"} <= listed
