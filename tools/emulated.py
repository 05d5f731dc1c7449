"""Run the bit tests on another processor, emulated: `make arm`, `make s390x` (big-endian).

Takes Debian's or Ubuntu's `debootstrap qemu-user-static` and the cross compiler
(`gcc-aarch64-linux-gnu`, `gcc-s390x-linux-gnu`), and root for debootstrap. Python, NumPy and pytest
of that processor are Debian's, unpacked under build/<processor>; the kernels are compiled here.

`python tools/emulated.py arm64 [pytest arguments]`; without arguments: the recorded training runs,
`optkern selfcheck`'s bits and a part of tests/test_rules.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Of s390x Debian's mirrors have not all that trixie's updates name.
SUITES = {"arm64": "trixie", "s390x": "sid"}
PACKAGES = "python3,python3-numpy,python3-dev,python3-pytest,libgomp1"
# Debian's word, and GNU's and qemu's.
PROCESSORS = {"arm64": "aarch64", "s390x": "s390x"}
TESTS = ["tests/test_recorded.py", "tests/test_rules.py", "-k", "recorded or training or option"]


def shell(*words: object, **options: object) -> None:
    """Run a command; end where it fails."""
    subprocess.run([str(word) for word in words], check=True, **options)


def unpack(processor: str, tree: Path) -> None:
    """Fetch Python and NumPy of a processor, and unpack them; nothing of them is run."""
    fetched = tree.parent / "fetched"
    shell(
        *("debootstrap", "--download-only", "--variant=minbase", f"--arch={processor}"),
        *(f"--include={PACKAGES}", SUITES[processor], fetched, "http://deb.debian.org/debian"),
    )
    # What the others lie in comes first: /lib is a link.
    found = sorted((fetched / "var/cache/apt/archives").glob("*.deb"))
    found.sort(key=lambda package: not package.name.startswith("base-files"))
    for package in found:
        shell("dpkg-deb", "-x", package, tree)


def build(machine: str, tree: Path, place: Path) -> None:
    """Compile the kernels for a processor, against its Python's headers."""
    (python,) = (tree / "usr/include").glob("python3.*")
    include = f"-I{python} -idirafter {tree}/usr/include"
    compiler = f"{os.environ.get('CCACHE', '')} {machine}-linux-gnu-gcc".strip()
    environment = {
        **os.environ,
        "CC": f"{compiler} {include}",
        "LDSHARED": f"{machine}-linux-gnu-gcc -shared",
        "SETUPTOOLS_EXT_SUFFIX": ".so",
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
    }
    shell(
        *(sys.executable, "setup.py", "-q", "build"),
        *(f"--build-base={place}", f"--build-lib={place}/lib"),
        cwd=ROOT,
        env=environment,
    )


# Of a listing: the loops with which a rule updates numbers of one dtype, and what they are made of.
UPDATE = r"<(\w+_(?:part\d+|light)_[a-z]+_f(?:32|64)_whole)>:\n(.*?)(?:\n\n|\Z)"


def look_at_loops(machine: str, place: Path) -> None:
    """Each rule's loops multiply vectors, and none of them fuses a product with a sum."""
    if machine != "aarch64":
        return
    looked = 0
    for path in sorted(place.glob("temp*/**/_span_baseline_*.o")):  # these have names
        shown = [f"{machine}-linux-gnu-objdump", "-d", "--no-show-raw-insn", str(path)]
        text = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
        for name, loops in re.findall(UPDATE, text, re.S):
            vectors = len(re.findall(r"\bfmul\s+v\d+\.(?:4s|2d)", loops))
            fused = len(re.findall(r"\b(?:fmla|fmls|fn?madd|fn?msub)\b", loops))
            looked += 1
            if fused or not vectors:
                sys.exit(f"{name}: {vectors} products of vectors, {fused} fused operations")
    if not looked:
        sys.exit(f"there are no loops to look at in {place}")


def main() -> int:
    """Fetch what is not there, compile what has changed, run the tests."""
    if len(sys.argv) < 2 or sys.argv[1] not in PROCESSORS:
        sys.exit(__doc__)
    processor, chosen = sys.argv[1], sys.argv[2:]
    machine, place = PROCESSORS[processor], ROOT / "build" / processor
    tree = place / "tree"
    if not (tree / "usr/bin/python3").exists():
        unpack(processor, tree)
    build(machine, tree, place)
    look_at_loops(machine, place)
    environment = {**os.environ, "PYTHONPATH": f"{place}/lib", "OPENBLAS_NUM_THREADS": "1"}
    # Debian's links to the BLAS of one's choice are made by what would have to be run.
    libraries = ":".join(f"/usr/lib/{machine}-linux-gnu/{name}" for name in ("blas", "lapack"))
    python = [f"qemu-{machine}-static", "-L", tree, "-E", f"LD_LIBRARY_PATH={libraries}"]
    python.append(tree / "usr/bin/python3")
    shell(*python, "-c", "import optkern; optkern.show_versions()", env=environment, cwd="/")
    if not chosen:
        shell(*python, "-P", "tests/recorded.py", "check", env=environment, cwd=ROOT)
    tests = chosen or TESTS
    # Without the options of pyproject.toml, some of which are of plugins that Debian has not there.
    plain = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "not slow and not large"]
    ran = [*python, "-P", "-m", "pytest", *plain, *tests]
    return subprocess.run(list(map(str, ran)), env=environment, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
