"""Run the lessons one after the other, and say what each takes: `make lessons`.

`python tools/lessons.py [--within SECONDS] [SCRIPT ...]`; the pictures go into build/lessons,
or where OPTKERN_LESSONS says. It fails where a lesson fails, and where all together take longer
than the SECONDS, 12 minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "examples" / "lessons").glob("plot_*.py"))


def main() -> None:
    """Run them; end where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="*", type=Path, default=SCRIPTS)
    parser.add_argument("--within", type=float, default=720.0, help="seconds, for all together")
    given = parser.parse_args()
    pictures = Path(os.environ.get("OPTKERN_LESSONS") or ROOT / "build" / "lessons")
    pictures.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for script in given.scripts:
        print(f"== {script.stem}", flush=True)
        start = time.monotonic()
        ran = subprocess.run(
            [sys.executable, script],
            env={**os.environ, "OPTKERN_LESSONS": str(pictures)},
            check=False,
        )
        if ran.returncode:
            sys.exit(f"{script.name} failed: exit status {ran.returncode}")
        print(f"{script.stem}: {time.monotonic() - start:.1f} s\n", flush=True)
    took = time.monotonic() - began
    print(f"{len(given.scripts)} lessons: {took:.1f} s, of {given.within:g} they may take")
    if took > given.within:
        sys.exit(f"the lessons take longer than {given.within:g} s together")


if __name__ == "__main__":
    main()
