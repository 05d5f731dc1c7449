"""The report of `optkern demo --report`, as anyone gets it: a short run, on the site as it is."""

from __future__ import annotations

import subprocess
import sys

from .writing import Folder

RULES = ("sgd", "adam", "adamw", "lion", "schedulefreeadamw", "muon")
COMMAND = ("demo", "--no-plot", "--epochs", "5", "--rules", *RULES)


def write(folder: Folder) -> None:
    """Train, and write the page; once, as another run differs in its times alone."""
    page = folder.picture("extra/report.html")
    if page.exists():
        return
    done = subprocess.run(
        [sys.executable, "-m", "optkern", *COMMAND, "--report", str(page)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"optkern {' '.join(COMMAND)} --report: {done.stdout}{done.stderr}")
