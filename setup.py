"""Build: stamps the spans once per instruction set and compiles them with exact floating point."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def missing() -> list[str]:
    """What a build takes and this machine has not; asked before anything else is imported."""
    found = []
    if sys.platform != "win32":
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        if not shutil.which(compiler[0]):
            found.append(f"a C compiler ({compiler[0]} is not found)")
        elif said := complaint(compiler):
            found.append(f"a C compiler that works ({compiler[0]}: {said})")
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            found.append("Python's headers (Python.h)")
    if not (find_spec("venv") and find_spec("ensurepip")) and sys.argv[1:] == ["needs"]:
        found.append("venv with ensurepip")
    return found


ONE_LINE = "#include <stdio.h>\nint main(void) { return 0; }\n"


def complaint(compiler: list[str], program: str = ONE_LINE) -> str:
    """What a compiler says to a program; '' where it compiles it.

    On macOS there is a cc before there are tools, and on Linux one may be there without the C
    library's headers.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "program.c"
        source.write_text(program)
        done = subprocess.run(
            [*compiler, "-c", str(source), "-o", str(source.with_suffix(".o"))],
            capture_output=True, text=True,
        )  # fmt: skip
    if not done.returncode:
        return ""
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line.lower()] or lines
    return wrong[0].replace(str(source), source.name) if wrong else f"exit code {done.returncode}"


def repository() -> str:
    """Where the sources can be browsed: GitHub's runners say it; '' where nobody does."""
    server, name = (os.environ.get(f"GITHUB_{x}", "") for x in ("SERVER_URL", "REPOSITORY"))
    return f"{server}/{name}" if server and name else ""


def index_page() -> str:
    """README.md as an index shows it, where a link must say its host: absolute, or text alone."""
    url, commit = repository(), os.environ.get("GITHUB_SHA") or "HEAD"

    def absolute(link: re.Match) -> str:
        image, label, target = link.groups()
        if "://" in target:
            return link[0]
        if not url or target.startswith("#"):
            return "" if image else label
        return f"{image}[{label}]({url}/{'raw' if image else 'blob'}/{commit}/{target})"

    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", absolute, text)


if absent := missing():
    sys.exit(
        f"optkern: to build it, {' and '.join(absent)} must be there: "
        "on Debian and Ubuntu `apt install python3-dev python3-venv gcc make`, "
        "on Fedora `dnf install python3-devel gcc make`, "
        "on macOS `xcode-select --install` and a Python from python.org or Homebrew"
    )
if sys.argv[1:] == ["needs"]:  # what the Makefile asks first, of a Python that has nothing yet
    sys.exit()

if sys.argv[1:] == ["beside"]:  # Python started in this folder takes the sources: let them run
    _build = Path(__file__).resolve().parent / "build"
    for _made in _build.glob(f"lib.*/optkern/**/*{sysconfig.get_config_var('EXT_SUFFIX')}"):
        shutil.copy2(_made, _build.parent.joinpath(*_made.relative_to(_build).parts[1:]))
    sys.exit()

if sys.argv[1:] == ["page"]:  # what twine's check and the tests read
    print(index_page())
    sys.exit()

import multiprocessing
import threading
from copy import copy

import numpy
from Cython import Tempita
from Cython.Build import cythonize
from Cython.Build.Dependencies import DependencyTree
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext  # after it distutils is setuptools' own
from setuptools.modified import newer_group

from distutils.ccompiler import new_compiler  # isort: skip
from distutils.sysconfig import customize_compiler  # isort: skip
from distutils.util import get_platform  # isort: skip

ROOT = Path(__file__).parent
KERNELS = ROOT / "optkern" / "kernels"
STAMPED = ROOT / "build" / "stamped"
MSVC = sys.platform == "win32"

# What bit-identity takes: no contraction to FMA, no reassociation. What speed takes: without
# -fno-math-errno square roots are not vectorised, without -fno-trapping-math the denormal flush.
EXACT = ["/O2", "/fp:precise"] if MSVC else [
    *("-O3", "-g0"),
    *("-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    "-fno-asynchronous-unwind-tables",  # wheels have 3 % less, debuggers no frames of these modules
]  # fmt: skip
# What hands work to the loops is no faster at -O3 than at -O2, but at -Os the smallest call takes
# 1.2 times as long. All other modules are at -Os.
OF_EACH_STEP = {
    "_call", "_capi", "_choice", "_constants", "_containers", "dlpack", "engine", "runtime", "turn",
}  # fmt: skip
# gcc's jump threading splits a maximum into two paths and, when it vectorises, computes the square
# root and the division of both: AMSGrad and centered RMSProp took twice the time.
NO_JUMP_THREADING = ["-fno-thread-jumps"]
# Of a loop with flags that it does not know gcc makes up to eight: no time, unless a rule is light.
NO_COPIES = ["-fno-unswitch-loops"]
# Loops over 64 elements stay loops: no time was seen on v4. On v3 RMSProp with int8 state took 1.04
# times as long, momentum 1.06 on both.
STAY_LOOPS = ["--param=max-completely-peel-times=4"]
# As fast as -O3 and a tenth smaller: for loops of old processors, where new ones have others, and
# for the loops of these modules.
VECTORS = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"]
LOOPS_OF_THEIR_OWN = {"rows", "vectors", "_two_loop", "_recorder"}
# Cython's `inline` as an order: as a wish, gcc leaves some of the many loops as calls once a file
# has grown, and in these the flags are no constants (clipped Adam: 13.6 ns against .7 on v3).
AT_ALL_EVENTS = "__forceinline" if MSVC else "inline __attribute__((always_inline))"
ALWAYS_INLINE = [f"-DCYTHON_INLINE={AT_ALL_EVENTS}"]
BORROWS = ["-DOPTKERN_BORROWS=1"]  # baseline's loops for what is shorter than a vector
# 512-bit vectors: twice the speed of 256-bit ones in cache with clang, no loss with gcc.
ISA_FLAGS = {"v3": ["/arch:AVX2"], "v4": ["/arch:AVX512"]} if MSVC else {
    "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}  # fmt: skip
# OPTKERN_SANITIZE=address or thread builds what `make sanitize` runs the tests on: what they report
# has lines, and ends the process. Under -O3 such a build takes four times as long.
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
SANITIZE = SANITIZERS.get(os.environ.get("OPTKERN_SANITIZE", ""), [])
SANITIZED = [*SANITIZE, "-O1", "-g1", "-fno-omit-frame-pointer"] if SANITIZE else []
# Names that no one asks for are a tenth of the files. (Elsewhere linkers have other words for it.)
STRIP = ["-Wl,-s"] if sys.platform == "linux" and not SANITIZE else []
DEFINES = [(f"NPY_{x}", "NPY_2_0_API_VERSION") for x in ("NO_DEPRECATED_API", "TARGET_VERSION")]
# OPTKERN_ABI3=1 builds one binary for all versions of Python from 3.11 on, by its limited API; what
# `make abi3` keeps possible. Calls are slower by it: what is a macro elsewhere is a function there.
ABI3 = os.environ.get("OPTKERN_ABI3") == "1"
FUNCTIONS = {
    "PyFloat_AS_DOUBLE": "PyFloat_AsDouble",
    "PyList_GET_ITEM": "PyList_GetItem", "PyList_GET_SIZE": "PyList_Size",
    "PyTuple_GET_ITEM": "PyTuple_GetItem", "PyTuple_GET_SIZE": "PyTuple_Size",
    "PyTuple_SET_ITEM": "PyTuple_SetItem",
}  # fmt: skip
if ABI3:
    DEFINES += [("Py_LIMITED_API", "0x030B0000"), *FUNCTIONS.items()]


def is_x86_64() -> bool:
    """Whether the compiler's target is x86-64, which the name of the host does not tell.

    Emscripten, Windows for ARM64 and a universal macOS build, which is not one target, are built
    on hosts that are.
    """
    if MSVC:
        return get_platform() == "win-amd64"
    compiler = new_compiler()
    customize_compiler(compiler)
    return not complaint(
        compiler.compiler_so, "#if !defined(__x86_64__)\n#error another target\n#endif\n"
    )


def specification() -> ModuleType:
    """The package `optkern.rules`, which imports nothing of optkern and needs no build."""
    folder = ROOT / "optkern" / "rules"
    spec = spec_from_file_location(
        "optkern_rules", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rules = specification()
STAMPED_RULES = (*rules.RULES, *rules.MATRIX_RULES)


def touches(rule, slot, flags) -> bool:
    """Whether a variant of a rule touches a state array."""
    return slot.needed_with is None or rule.structural[slot.needed_with] in flags


def fetches_from(rule):
    """From how many elements on a rule's loop asks memory for what comes next; "": never.

    That is longer than plain SGD's loop, and takes light ones time that they have not in cache:
    they ask for large arrays alone, or for a thread's chunk but what is before its first line.
    """
    light = rules.loops_part(rule) == "light"
    if not all(any(touches(rule, x, flags) for x in rule.streams) for flags in rule.variants):
        return str(1 << 18) if light or rule in rules.LIMITS else ""
    return "16384 - 64" if light else "SHORT"


def compacts(variants, used):
    """The variants of a rule with loops of their own over compact state.

    They have state, which the rows do not refuse to be compact, and do not leave to pieces.
    """
    rest = {x.upper() for rule in rules.RULES for x in (*rule.not_compact, *rule.by_pieces)}
    kept = [not rest & set(flags.split(" | ")) for flags in variants]
    return [(k, x) for k, x in enumerate(variants) if used[k] and kept[k]]


def asks(rule):
    """List what a rule gives with nothing written: its variant, those flags and their loop's.

    Its gradients over what a step divides them by, which of its elements agree with these, or the
    direction that a norm bounds.
    """
    found = []
    for k, names in enumerate(rule.variants):
        flags = " | ".join(names) or "0"
        if "DIRECTION" in names:
            found += [(k, flags, flags)] if rule.bounded else []
            continue
        if rule.has_relative:
            found.append((k, f"RELATIVE | {flags}", f"RELATIVE | GUARD | {flags}"))
        if rule.may_be_cautious:
            agreement = f"AGREEMENT | {flags}"
            found.append((k, agreement, f"GUARD | CAUTIOUS | {agreement}"))
    return found


def cases(rule, variant):
    """List the loops of a variant, the rarest first: which flags choose it, and what it takes."""
    found, rare = [], "decays | SCALES | GUARD | "
    if "DIRECTION" not in variant and "APPLY" not in variant:
        if rule.has_relative:
            found.append(("h.flags & RELATIVE", f"{rare}RELATIVE | "))
        if rule.may_be_cautious:
            found.append(("h.flags & CAUTIOUS", f"{rare}CAUTIOUS | (h.flags & WARY) | "))
    return [
        *found,
        ("h.flags & GUARD", f"{rare}(h.flags & WARY) | "),
        ("h.flags & SCALES", "decays | SCALES | "),
        ("decays", "decays | "),
        ("True", ""),
    ]


SPAN_PARTS = {"IN_C": "c", "VECTORS": "vectors", "ASKING": "asked", "COMPACTING": "compact"}


def stamp(name: str, rows: list, isa: str) -> str:
    """Write the loops of some rows, for one instruction set or for all; the path of the file."""
    source = (KERNELS / "_span.pyx.tp").read_text(encoding="utf-8")
    for place, part in SPAN_PARTS.items():
        text = (KERNELS / f"_span_{part}.pyx.tp").read_text(encoding="utf-8")
        source = source.replace(f"{{{{{place}}}}}\n", text)
    text = Tempita.Template(source).substitute(
        isa=isa,
        CORE=rows == list(rules.LIMITS),
        LOOPS=[
            (
                row.formula,
                len(row.streams),
                [" | ".join(flags) or "0" for flags in row.variants],
                [
                    [k for k, slot in enumerate(row.streams) if touches(row, slot, flags)]
                    for flags in row.variants
                ],
                ["uint8" if slot.nonnegative else "int8" for slot in row.streams],
            )
            for row in rows
        ],
        STATE="abcdefgh"[: rules.MAX_STATE],
        ROWS={row.formula: rules.loops_hash(row) for row in rows},
        ASKED={row.formula: [] if row in rules.LIMITS else asks(row) for row in rows},
        CASES={row.formula: partial(cases, row) for row in rows},
        FACTORED={row.formula: "APPLY | OWN1" for row in rows if row.has_factors},
        compacts=compacts,
        COMPACT=[row.formula for row in rows if row.compact_loop],
        MASTERS=[row.formula for row in rows if row.master_loop],
        AHEAD={row.formula: fetches_from(row) for row in rows},
    )
    path = STAMPED / "optkern" / "kernels" / f"{name}.pyx"
    write_if_changed(path, text)
    return str(path.relative_to(ROOT))


# In the C of formulas' loops this stands for the instruction set: it is translated once for all.
ANY_ISA = "_span_ISA_"


def spans(isas: list[str]) -> list[Extension]:
    """The loops, to be translated: what rules share for each instruction set, formulas for any."""
    core = {f"_span_{isa}": (list(rules.LIMITS), isa) for isa in isas}
    own = {}
    for x in STAMPED_RULES:
        if x.formula == x.name:
            own.setdefault(ANY_ISA + rules.loops_part(x), ([], ""))[0].append(x)
    return [
        extension(f"optkern/kernels/{name}", stamp(name, *rows))
        for name, rows in (core | own).items()
    ]


def for_each_isa(ext: Extension, isas: list[str]) -> list[Extension]:
    """The extensions that are compiled of a translated one: of loops one for an instruction set."""
    if "._span_" not in ext.name:
        return [ext]
    made, (source,) = [], map(Path, ext.sources)
    for isa in isas if ANY_ISA in ext.name else [ext.name.rpartition("_span_")[2]]:
        its_own, text = f"_span_{isa}_", source.read_text(encoding="utf-8")
        written = source.with_name(source.name.replace(ANY_ISA, its_own))
        write_if_changed(written, text.replace(ANY_ISA, its_own))
        one = copy(ext)
        one.name, one.sources = ext.name.replace(ANY_ISA, its_own), [str(written)]
        own = ISA_FLAGS.get(isa, []) + (BORROWS if isa != isas[0] == "baseline" else [])
        one.extra_compile_args = [*EXACT, *ALWAYS_INLINE, *own, *SANITIZED]
        made.append(one)
    return made


def stamp_derivations() -> None:
    """Write the table that finds the derivation of a rule's constants."""
    stems = list(dict.fromkeys(rule.formula for rule in STAMPED_RULES))
    lines = [f"from optkern.kernels.formulas.{x} cimport derive as derive_{x}" for x in stems]
    lines += [
        "from optkern.kernels._constants cimport constants_t, derive_t, hyper_t",
        "from optkern.kernels.formulas._limits cimport derive as derive_limit",
        "",
        "",
        "cdef inline derive_t stamped_derivation(str stem):",
        *(f'    if stem == "{x}":\n        return derive_{x}' for x in stems),
        '    if stem.startswith("limit"):\n        return derive_limit',
        "    return NULL",
    ]
    write_if_changed(STAMPED / "optkern" / "kernels" / "_derivations.pxd", "\n".join(lines) + "\n")


def write_if_changed(path: Path, text: str) -> None:
    """Write a file, unless it says that already: what depends on it is not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def extension(place: str, source: str = "") -> Extension:
    """The extension of a place in the tree, with its source, if that lies elsewhere."""
    name = place.rpartition("/")[2]
    fast = OF_EACH_STEP | LOOPS_OF_THEIR_OWN
    level = [] if MSVC else ["-O2" if name in fast else "-Os"]
    return Extension(
        place.replace("/", "."),
        [source or f"{place}.pyx"],
        include_dirs=[numpy.get_include(), "optkern/include"],
        define_macros=DEFINES,
        extra_compile_args=[*EXACT, *level, *SANITIZED],
        extra_link_args=[*STRIP, *SANITIZE],
        py_limited_api=ABI3,
    )


class Progress:
    """How far a build has come: one line that changes in a terminal, else a line for each part."""

    WIDTH = 24

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done, self.said = what, total, 0, False
        self.begin, self.turn = time.monotonic(), threading.Lock()
        self.terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def advance(self, name: str, seconds: float, parts: int = 1) -> None:
        with self.turn:  # several compilers at a time
            self.done, self.said = self.done + parts, True
            if self.terminal:
                full = self.WIDTH * self.done // self.total
                bar = "#" * full + "." * (self.WIDTH - full)
                line = f"{self.what} [{bar}] {self.done}/{self.total} {name}"
                print(f"\r{line[:79]:79}", end="", flush=True)
            else:
                place = f"[{self.done:2}/{self.total}]"
                print(f"{self.what} {place} {name}  {seconds:.0f} s", flush=True)

    def end(self) -> None:
        if self.terminal and self.said:
            took = f"{self.what}: done in {time.monotonic() - self.begin:.0f} s"
            print(f"\r{took:79}", flush=True)


class BuildExt(build_ext):
    """Adds OpenMP to the runtime where the compiler has it, and says how far the build has come."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        if getattr(self, "editable_mode", False):  # setuptools builds that in a folder for once
            place = f"{self.plat_name}-{sys.implementation.cache_tag}"
            self.build_lib = str(ROOT / "build" / f"lib.{place}")
            self.build_temp = str(ROOT / "build" / f"temp.{place}")

    def build_extensions(self) -> None:
        openmp = self.openmp_flags()
        # clang does not know the flags and warns.
        gcc = self.links(["-Werror", *NO_JUMP_THREADING, *NO_COPIES])
        for ext in self.extensions:
            if gcc and "._span_" in ext.name:
                ext.extra_compile_args += NO_JUMP_THREADING + NO_COPIES * ("_part" in ext.name)
                ext.extra_compile_args += STAY_LOOPS * ("_span_v4_part" in ext.name)
            old = "._span_baseline" in ext.name and len(levels) > 1
            if gcc and not SANITIZE and (old or ext.name.rpartition(".")[2] in LOOPS_OF_THEIR_OWN):
                ext.extra_compile_args += VECTORS
            if ext.name.endswith(".runtime"):
                ext.extra_compile_args += openmp
                ext.extra_link_args += [] if MSVC else openmp
        self.drop_other_spans(Path(self.build_lib))
        self.rebuild_if_changed()
        self.stale = [ext.name for ext in self.extensions if self.is_stale(ext)]
        self.progress = Progress("compiling", len(self.stale))
        super().build_extensions()
        self.progress.end()

    def is_stale(self, ext: Extension) -> bool:
        """Whether an extension has to be compiled, as `build_extension` decides it."""
        made = self.get_ext_fullpath(ext.name)
        return (
            self.force
            or ext.name in self.changed
            or bool(newer_group([*ext.sources, *ext.depends], made, "newer"))
        )

    def build_extension(self, ext: Extension) -> None:
        begin = time.monotonic()
        if ext.name in self.changed:
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        super().build_extension(ext)
        if ext.name in self.stale:
            self.progress.advance(ext.name, time.monotonic() - begin)

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        self.drop_other_spans(ROOT)

    def drop_other_spans(self, tree: Path) -> None:
        """Remove loops that an earlier build has left and none makes now: wheels had them."""
        made = {Path(self.get_ext_filename(ext.name)).name for ext in self.extensions}
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for isa in levels:
            for left in (tree / "optkern" / "kernels").glob(f"_span_{isa}_*{suffix}"):
                if left.name not in made:
                    left.unlink()

    def rebuild_if_changed(self) -> None:
        """Compile anew what another compiler, or other flags, have compiled at the last build."""
        compiler = getattr(self.compiler, "compiler_so", [])
        stamp = Path(self.build_temp) / "flags.json"
        before = json.loads(stamp.read_text()) if stamp.exists() else {}
        now = {x.name: [compiler, x.extra_compile_args, x.extra_link_args] for x in self.extensions}
        self.changed = {name for name, flags in now.items() if before.get(name) != flags}
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(json.dumps(before | now, indent=0))

    def openmp_flags(self) -> list[str]:
        if os.environ.get("OPTKERN_OPENMP", "1") == "0":
            print("optkern: OPTKERN_OPENMP=0, building without OpenMP: one thread")
            return []
        flags = ["/openmp"] if MSVC else ["-fopenmp"]
        if self.links(flags, "#include <omp.h>\nint main(void) { return omp_get_max_threads(); }"):
            print(f"optkern: building with OpenMP ({' '.join(flags)})")
            return flags
        print("optkern: this compiler has no OpenMP: building for one thread", file=sys.stderr)
        return []

    def links(self, flags: list[str], program: str = "int main(void) { return 0; }") -> bool:
        """Whether a small program compiles and links with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(program)
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=flags
                )
                self.compiler.link_executable(
                    objects, str(Path(folder) / "probe"), extra_postargs=[] if MSVC else flags
                )
            except Exception as error:  # distutils raises what its compiler class likes
                print(f"optkern: probe with {' '.join(flags)}: {error}", file=sys.stderr)
                return False
        return True


def cythonized(extensions: list[Extension]) -> list[Extension]:
    """The extensions as C, translated anew where a source of ours or NumPy's version has changed.

    pip's isolated builds install NumPy anew each time: by its files' dates all would be compiled.
    """

    DependencyTree.timestamp = lambda _, name: os.path.getmtime(name) if ours(name) else 0
    stamp = ROOT / "build" / "numpy"
    changed = stamp.exists() and stamp.read_text() != numpy.__version__
    # Its workers would run this file again where they are not forked.
    forks = sys.platform == "linux" and multiprocessing.get_start_method() == "fork"
    jobs = (os.cpu_count() or 1) if forks else 0
    made, progress, start = [], Progress("translating to C", len(extensions)), time.time()
    for k in range(0, len(extensions), 4 * jobs or 1):  # not all at once: one sees how far it is
        part, begin = extensions[k : k + (4 * jobs or 1)], time.monotonic()
        made += cythonize(
            part,
            nthreads=jobs,
            include_path=[str(ROOT), str(STAMPED)],
            build_dir="build/cython",
            # An import leaves the GIL of a free-threaded Python off.
            compiler_directives={"language_level": 3, "freethreading_compatible": True},
            force=changed or None,  # None: by the dates
            quiet=True,
        )
        if any(os.path.getmtime(ext.sources[0]) >= start for ext in made[k:]):
            progress.advance(part[-1].name, time.monotonic() - begin, len(part))
        else:
            progress.done += len(part)
    progress.end()
    for ext in made:
        ext.depends = [name for name in ext.depends if ours(name)]
        for source in ext.sources:
            mend_append(Path(source))
    stamp.write_text(numpy.__version__)
    return made


def mend_append(source: Path) -> None:
    """Drop the item of a list that cannot grow once, in the C that Cython 3.3 has written.

    Its `[f(x) for x in xs]` drops it in the function that appends, and in the caller again: a
    MemoryError there took a reference from an array of the user's, which was freed in use.
    """
    appended = "    int result = PyList_Append(list, x);\n"
    text = source.read_text(encoding="utf-8")
    mended = text.replace(
        f"{appended}    Py_DECREF(x);\n",
        f"{appended}    if (result == 0) Py_DECREF(x);  /* else the caller drops it */\n",
    )
    write_if_changed(source, mended)


def ours(name: str) -> bool:
    """Whether a file lies among the sources."""
    path = Path(name).resolve()
    return path.is_relative_to(ROOT.resolve()) and "site-packages" not in path.parts


stamp_derivations()
levels = possible = ["baseline", *(ISA_FLAGS if is_x86_64() else ())]
# For whoever tries a rule: OPTKERN_BUILD_ISA=baseline builds one instruction set alone.
if wanted := os.environ.get("OPTKERN_BUILD_ISA"):
    levels = [isa for isa in possible if isa in wanted.split(",")]
    if not levels:
        sys.exit(f"OPTKERN_BUILD_ISA={wanted!r}: for this target there is {', '.join(possible)}")
sources = sorted((ROOT / "optkern").rglob("*.pyx"))
extensions = [
    *(extension(path.relative_to(ROOT).with_suffix("").as_posix()) for path in sources),
    *spans(levels),
]

url = repository()
PAGES = {"Source": "", "Issues": "/issues", "Changelog": "/blob/HEAD/CHANGELOG.md"}
setup(
    long_description=index_page(),
    long_description_content_type="text/markdown",
    project_urls={name: f"{url}{x}" for name, x in PAGES.items() if url},
    ext_modules=[one for ext in cythonized(extensions) for one in for_each_isa(ext, levels)],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
