"""An import of optkern loads what it runs, and nothing of the standard library that is slow."""

import subprocess
import sys

# Together they took a third of the import: each is loaded by what uses it.
SLOW = {
    "ctypes", "difflib", "email", "hashlib", "importlib.metadata", "json", "pathlib", "platform",
    "shutil", "socket", "tempfile", "urllib.parse", "zipfile",
}  # fmt: skip


def test_an_import_loads_nothing_that_is_slow():
    program = (
        "import sys, numpy; before = set(sys.modules); import optkern; "
        "print(*set(sys.modules) - before, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "optkern.kernels.engine" in done.stdout, done.stderr
    assert not SLOW & set(done.stdout.split())
