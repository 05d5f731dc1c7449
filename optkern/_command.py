"""What stops the import already: an environment that is wrong, a folder that is not built."""

from __future__ import annotations

import os
import sys


def refuse(error: ValueError) -> None:
    """Exit with 2 after one sentence in the command ``optkern``, or ``python -m optkern``.

    Elsewhere nothing is done: there the error is the importing program's.
    """
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m":  # while the module to run is looked for
        given = sys.orig_argv
        program = given[given.index("-m") + 1] if "-m" in given else ""
    if os.path.basename(program).removesuffix(".exe") in ("optkern", "optkern.cli"):
        print(f"optkern: error: {error}", file=sys.stderr)
        raise SystemExit(2)


def refuse_unbuilt(error: ImportError) -> None:
    """Raise ImportError, in a sentence, where compiled modules are missing beside their sources."""
    from importlib.machinery import EXTENSION_SUFFIXES
    from pathlib import Path

    folder = Path(__file__).parent
    missing = [
        source.with_suffix("").relative_to(folder.parent)
        for source in sorted(folder.rglob("*.pyx"))
        if not any(source.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES)
    ]
    if missing:
        raise ImportError(
            f"optkern is not built in {folder}: {'.'.join(missing[0].parts)} is not there; to use "
            "an installed optkern, start `python -P`, or Python in another folder; to build it "
            "here, run pip install -e ."
        ) from error
