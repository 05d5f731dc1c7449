"""Do the tests see a changed line? Changes some, one at a time, and counts those that stay unseen.

``python tools/mutants.py monitor solvers --sample 40 --seed 0``, or ``make mutants``.

1. mutmut 3.8 leaves alone what is decorated (all properties, all that takes keywords) and module
   constants: the thresholds are what is asked about. cosmic-ray 8.7 moves every number by one,
   which any test sees of a threshold of .05, and turns each comparison into all the others: a third
   of its mutants. Neither runs just the tests that execute the line; here a mutant takes seconds.
2. A mutant is one change: a number (integers by one, others halved and doubled, so that a threshold
   is tried from both sides), an operator, a condition, a statement left out. Texts, annotations,
   asserts and what is written into messages stay as they are.
3. The tree is copied; what is built in place serves for the copy. Every mutant's tests are those of
   its room that execute its line, the fastest first, until one fails. One that runs on (four times
   as long as the tests took) has been seen too. They run in forks of a process that has pytest and
   NumPy: a fork is ready in a tenth of a new process's second.
4. Rooms are sampled: the share of a sample of n is known to +- 1.96 sqrt(p (1 - p) / n).
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy.testing  # noqa: F401 - for the forks
import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTEST = ["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-m", "not slow"]
# Of each room: its files, and the tests that it has to be held up by.
ROOMS = {
    "monitor": ("monitor/*.py", "test_diagnose.py test_monitor*.py test_solvers_closures.py"),
    "solvers": ("solvers/*.py", "test_solvers*.py test_newton*.py test_sam.py"),
    "checkpoint": ("checkpoint/*.py", "test_checkpoint*.py"),
    "optimizers": (
        "optimizers/*.py",
        "test_optimizers*.py test_fused*.py test_state*.py test_atomic.py test_bad_*.py "
        "test_structures.py test_compact*.py test_slips.py test_mixed.py test_routing.py "
        "test_session.py test_writes.py test_containers.py test_copies.py test_pickles.py "
        "test_docstrings.py test_checkpoint_given.py test_names_elsewhere.py test_muon.py "
        "test_decay_forms.py test_edges_walk.py test_thinc_arrays.py test_checkpoint_refusals.py",
    ),
}
COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}


class Mutant(NamedTuple):
    """One change of a file."""

    path: Path
    line: int
    column: int
    what: str
    source: str  # of the changed file
    everywhere: bool  # the line is executed at import


# --------------------------------------------------------------------------- changes


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Give what a node may be replaced by, with a word on it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        if isinstance(value, bool):
            yield f"{value} -> {not value}", ast.Constant(not value)
        elif isinstance(value, int):
            for other in (value + 1, value - 1):
                yield f"{value} -> {other}", ast.Constant(other)
        elif math.isfinite(value):
            for other in (0.5 * value, 2 * value) if value else (1.0,):
                yield f"{value} -> {other}", ast.Constant(other)
    elif isinstance(node, ast.Compare):
        for place, op in enumerate(node.ops):
            for other in COMPARED[type(op)]:
                new = copy.deepcopy(node)
                new.ops[place] = other()
                yield f"{type(op).__name__} -> {other.__name__}", new
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        other = COMPUTED[type(node.op)]
        new = copy.deepcopy(node)
        new.op = other()
        yield f"{type(node.op).__name__} -> {other.__name__}", new
    elif isinstance(node, ast.BoolOp):
        new = copy.deepcopy(node)
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"{type(node.op).__name__} -> {type(new.op).__name__}", new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        if not isinstance(node.operand, ast.Constant):
            yield f"{type(node.op).__name__} left out", node.operand
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        if isinstance(node.test, (ast.Name, ast.Attribute, ast.Call, ast.NamedExpr)):
            new = copy.deepcopy(node)
            new.test = ast.UnaryOp(ast.Not(), new.test)
            yield "condition negated", new
    elif isinstance(
        node, (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Continue, ast.Break)
    ):
        documents = isinstance(node, ast.Expr) and isinstance(node.value, (ast.Constant, ast.Yield))
        if not documents:
            yield f"{type(node).__name__} left out", ast.Pass()


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, bool]]:
    """Give each place where a node may change: parent, field, position there, run at import."""

    def walk(node: ast.AST, imported: bool) -> Iterator[tuple[ast.AST, str, int | None, bool]]:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_ignores"):
                continue
            for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                skipped = (ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom, ast.AnnAssign)
                if not isinstance(child, ast.AST) or isinstance(child, skipped):
                    if isinstance(child, ast.AnnAssign) and child.value is not None:
                        yield child, "value", None, imported
                        yield from walk(child.value, imported)
                    continue
                if isinstance(child, ast.Assign) and imported:
                    yield from walk(child, imported)  # a constant left out is a NameError
                    continue
                if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                    continue
                yield node, name, place, imported
                inside = isinstance(node, (ast.FunctionDef, ast.Lambda)) and name == "body"
                yield from walk(child, imported and not inside)

    return walk(tree, True)


def mutants(path: Path) -> list[Mutant]:
    """Give all changes of a file that compile to something else than the file does."""
    tree = ast.parse(path.read_text())
    found = []
    for parent, name, place, imported in places(tree):
        field = getattr(parent, name)
        node = field if place is None else field[place]
        for what, other in changes(node):
            _put(parent, name, place, other)
            source = ast.unparse(ast.fix_missing_locations(tree))
            _put(parent, name, place, node)
            found.append(Mutant(path, node.lineno, node.col_offset, what, source, imported))
    return found


def _put(parent: ast.AST, name: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[place] = node


# --------------------------------------------------------------------------- a room


class Room:
    """A room's files and tests in a copy of the tree."""

    def __init__(self, name: str, root: Path) -> None:
        self.root = root
        files, tests = ROOMS[name]
        self.files = [p for glob in files.split() for p in sorted((root / "optkern").glob(glob))]
        self.tests = [p for glob in tests.split() for p in sorted((root / "tests").glob(glob))]
        self.notes = self._notes()

    def _pytest(self, arguments: list[str], seconds: float, **environment: str) -> bool:
        """Run tests and return whether all have passed in time."""
        said = self.root / "said"
        child = os.fork()
        if child == 0:  # with pytest and NumPy imported, and nothing of optkern
            code = 9
            try:
                text = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(text, 1)
                os.dup2(text, 2)
                os.chdir(self.root)
                sys.path[:0] = [str(self.root), str(self.root / "tools")]
                os.environ.update(environment)
                code = int(pytest.main([*PYTEST, *arguments]))
            finally:
                os._exit(code)
        code = _exit_code(child, seconds)
        if environment and code:
            raise SystemExit(f"the tests fail as they are:\n{said.read_text()[-2000:]}")
        return code == 0

    def _notes(self) -> dict[str, Any]:
        """Note which lines each test executes, and how long it takes."""
        out = self.root / "executed.json"
        files = os.pathsep.join(map(str, self.files))
        where = {"EXECUTED_FILES": files, "EXECUTED_OUT": str(out)}
        self._pytest(["-p", "executed", *map(str, self.tests)], 3600, **where)
        return dict(json.loads(out.read_text()))

    def unseen(self, mutant: Mutant) -> bool:
        """Return whether all tests pass with a change."""
        name, line = str(mutant.path), mutant.line
        last = self._last(mutant)
        wanted = {
            test: seconds
            for test, (seconds, lines) in self.notes.items()
            if name in lines and (mutant.everywhere or any(line <= k <= last for k in lines[name]))
        }
        if not wanted:
            return True
        listed = self.root / "wanted"
        listed.write_text("\n".join(sorted(wanted, key=wanted.__getitem__)))
        before = mutant.path.read_text()
        mutant.path.write_text(mutant.source)
        try:
            return self._pytest([f"@{listed}"], 30 + 4 * sum(wanted.values()))
        finally:
            mutant.path.write_text(before)

    @staticmethod
    def _last(mutant: Mutant) -> int:
        """Return the last line of the statement that a change is in: all of them count as its."""
        ends = [mutant.line]
        for node in ast.walk(ast.parse(mutant.path.read_text())):
            simple = isinstance(node, ast.stmt) and not hasattr(node, "body")
            if simple and node.lineno <= mutant.line <= (node.end_lineno or 0):
                ends.append(node.end_lineno or node.lineno)
        return max(ends)


def _exit_code(child: int, seconds: float) -> int:
    """Wait for a process; one that runs on is killed, and has failed."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*", default=list(ROOMS), metavar="room")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a file's name")
    asked = parser.parse_args()
    sys.dont_write_bytecode = True  # of a source that changes within the clock's resolution
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "optkern"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", ".venv", "build"))
        for name in asked.rooms:
            begin, room = time.perf_counter(), Room(name, root)
            every = [m for p in room.files if asked.only in p.name for m in mutants(p)]
            drawn = random.Random(asked.seed).sample(every, min(asked.sample, len(every)))
            survivors = 0
            for mutant in drawn:
                if room.unseen(mutant):
                    survivors += 1
                    where = f"{mutant.path.relative_to(root)}:{mutant.line}:{mutant.column}"
                    text = mutant.path.read_text().splitlines()[mutant.line - 1].strip()
                    print(f"  unseen: {where}: {mutant.what}: {text}", flush=True)
            share = 1 - survivors / len(drawn)
            wide = 1.96 * math.sqrt(share * (1 - share) / len(drawn))
            print(
                f"{name}: {share:.0%} +- {wide:.0%} seen ({len(drawn) - survivors} of {len(drawn)} "
                f"drawn from {len(every):,}, seed {asked.seed}; "
                f"{(time.perf_counter() - begin) / 60:.0f} min)",
                flush=True,
            )


if __name__ == "__main__":
    main()
