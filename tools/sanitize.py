"""Build the kernels with a sanitizer, and run tests on them: `make sanitize`.

`python tools/sanitize.py address [test ...]` takes AddressSanitizer and UndefinedBehaviorSanitizer,
`thread` takes ThreadSanitizer, both gcc's. GCC's OpenMP runtime waits in ways that a sanitizer does
not see, and each chunk would be reported: LLVM's, which has the same entry points, is loaded in its
place, and tells it by `libarcher` (Debian, Ubuntu: `apt install libomp-dev`).

Python itself is as it is: the sanitizer is preloaded. Leaks are not looked for, since Python keeps
at its end what it has; `tests/test_allocation.py` counts references.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Arrays of any layout and storage, in threads, by rows; what chance makes; what is out of range.
# Of threads those that neither fork, which it does not follow, nor count threads, of which it has
# some, nor ask GCC's runtime for its settings.
THREADS = "recorded or (atomic and thread) or same_bits or several_python_threads"
TESTS = {
    "address": ["rows", "programs", "recorded", "rules", "layouts", "compact", "checkpoint_forged"],
    "thread": ["recorded", "atomic", "threads", "-k", THREADS],
}
OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:allocator_may_return_null=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1"},
}


def runtime_of(kind: str) -> list[str]:
    """Find the libraries to preload."""
    compiler = shlex.split(os.environ.get("CC") or "gcc")
    names = ["libasan.so", "libubsan.so"] if kind == "address" else ["libtsan.so"]
    found = []
    for name in names:
        asked = [*compiler, f"-print-file-name={name}"]
        path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            sys.exit(f"sanitize: {compiler[-1]} has no {name}")
        found.append(path)
    if kind == "thread":
        there = sorted(Path("/usr/lib").glob("llvm-*/lib/libarcher.so"))
        if not there:
            sys.exit("sanitize: there is no libarcher.so of LLVM's OpenMP (apt install libomp-dev)")
        os.environ["LD_LIBRARY_PATH"] = str(there[-1].parent)
        found.append(str(there[-1].with_name("libomp.so.5")))
    return found


def main() -> int:
    """Build into build/<kind>, where nothing else looks; run pytest there."""
    if len(sys.argv) < 2 or sys.argv[1] not in TESTS:
        sys.exit(__doc__)
    kind, chosen = sys.argv[1], sys.argv[2:]
    preload = runtime_of(kind)
    place = ROOT / "build" / kind
    environment = {**os.environ, "OPTKERN_SANITIZE": kind}
    # What is written by hand for AVX-512 (kernels/_bytes.pxd) is seen with OPTKERN_BUILD_ISA=v4.
    environment.setdefault("OPTKERN_BUILD_ISA", "baseline")
    built = [sys.executable, "setup.py", "-q", "build", f"--build-base={place}"]
    subprocess.run([*built, f"--build-lib={place}/lib"], cwd=ROOT, env=environment, check=True)
    environment |= OPTIONS[kind]
    environment |= {"LD_PRELOAD": " ".join(preload), "PYTHONMALLOC": "malloc"}
    environment["PYTHONPATH"] = f"{place}/lib"
    chosen = chosen or [
        f"tests/test_{name}.py" if (ROOT / f"tests/test_{name}.py").exists() else name
        for name in TESTS[kind]
    ]
    run = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    run.append("--capture=sys")  # the sanitizer's report would end with the process, unread
    if kind == "thread":  # whose shadow memory has fixed places
        run = ["setarch", platform.machine(), "-R", *run]
    return subprocess.run(run, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
