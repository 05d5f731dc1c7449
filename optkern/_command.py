"""The command line before it runs: an environment that is wrong stops the import already."""

from __future__ import annotations

import sys
from pathlib import PurePath


def refuse(error: ValueError) -> None:
    """In the command ``optkern``, or ``python -m optkern``, exit with 2 after one sentence.

    Elsewhere nothing is done: there the error is the importing program's.
    """
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":  # while the module to run is looked for
        given = sys.orig_argv
        program = given[given.index("-m") + 1] if "-m" in given else ""
    if PurePath(program).name.removesuffix(".exe") in ("optkern", "optkern.cli"):
        print(f"optkern: error: {error}", file=sys.stderr)
        raise SystemExit(2)
