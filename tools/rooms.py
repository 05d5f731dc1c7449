"""Read the imports of optkern's sources, and draw its rooms and the arrows between them.

``python tools/rooms.py`` prints what breaks the house's rules, ``--draw`` writes the drawing into
CONTRIBUTING.md. Python is read by `ast`, Cython by its import lines, which look like Python's.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "optkern"
SUFFIXES = (".py", ".pyx", ".pxd", ".pxi", ".tp")
MAX_LINES, MAX_CLASS_LINES = 600, 400

# In CONTRIBUTING.md the drawing stands between these.
MARKS = ("<!-- rooms: python tools/rooms.py --draw -->", "<!-- end of the rooms -->")

# From the bottom up: a room imports from its own floor and from those before it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("process",),
    ("rules",),
    ("kernels",),
    ("ranks",),
    ("curvature",),
    ("optimizers", "schedules"),
    ("solvers", "checkpoint"),
    ("monitor",),
    ("integrations", "mpi"),
    ("optkern",),
    ("bench", "demo", "cli"),
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
# The modules that lie beside the rooms, and the rooms that they belong to.
BESIDE = {
    "__init__": "optkern",
    "__main__": "cli",
    "cli": "cli",
    "_capi": "kernels",
    "_elsewhere": "process",
    "_moved": "process",
    "_recorder": "monitor",
    "diagnose": "monitor",
    "fits": "monitor",
    "_versions": "kernels",
    "_command": "process",
    "_interrupts": "process",
    "_kept": "process",
    "_later": "process",
    "_once": "process",
}


@dataclass(frozen=True)
class Import:
    """One name that a module imports: `name` of the module `target`, or the module alone."""

    line: int
    target: str
    name: str | None


@dataclass(frozen=True)
class Module:
    """A source file, with what it imports."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def name(self) -> str:
        """Its dotted name; an included file's is its own."""
        parts = list(self.path.relative_to(ROOT).parts)
        parts[-1] = parts[-1].partition(".")[0]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """The dotted name of the folder that it lies in."""
        return ".".join(self.path.relative_to(ROOT).parts[:-1])

    @property
    def home(self) -> str:
        """The package that it belongs to: what lies beside the rooms belongs to one of them."""
        return f"{PACKAGE}.{self.room}" if self.package == PACKAGE else self.package

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def is_python(self) -> bool:
        return self.path.suffix == ".py"

    @property
    def room(self) -> str:
        return room_of(self.name)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text) if self.is_python else ast.parse(_import_lines(self.text))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """What of ours it imports, at whatever depth; `include` lines of Cython left out."""
        return tuple(_imports(self.tree, self.package))


def room_of(name: str) -> str:
    """Give the room of a module by its dotted name."""
    first = name.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]
    if first in FLOOR_OF and first != PACKAGE:
        return first
    return BESIDE.get(first or "__init__", f"{PACKAGE}/{first}, which has no room")


def _import_lines(text: str) -> str:
    """Give the imports and cimports of a Cython source as Python's; lines keep their numbers."""
    pattern = r"^ *(?:from +[\w.]+ +c?import +(?:\([^)]*\)|[^\n]*)|c?import +[^\n]*)"
    lines = [""] * (text.count("\n") + 1)
    # What stands between triple quotes is no import.
    bare = re.sub(r'"""(?s:.*?)"""', lambda found: "\n" * found.group().count("\n"), text)
    for found in re.finditer(pattern, bare, re.MULTILINE):
        number = bare.count("\n", 0, found.start())
        line = re.sub(r"\bcimport\b", "import", found.group().strip())
        line = re.sub(r"{{.*?}}", "each", line)  # in a template: one name for all that it makes
        lines[number] = " ".join(line.split("#")[0].split())
    return "\n".join(lines)


def _imports(tree: ast.Module, package: str) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield Import(node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            target = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                target = ".".join([*base, *filter(None, [node.module])])
            if target.split(".")[0] == PACKAGE:
                for alias in node.names:
                    yield Import(node.lineno, target, alias.name)


class House:
    """All sources below optkern/, and what breaks the rules among them."""

    def __init__(self, root: Path = ROOT) -> None:
        paths = sorted(p for s in SUFFIXES for p in (root / PACKAGE).rglob(f"*{s}"))
        self.modules = [Module(path) for path in paths if "__pycache__" not in path.parts]
        self.names = {module.name for module in self.modules}

    def target(self, found: Import) -> str:
        """Give the module that an import is of, where a name may be a module itself."""
        inner = f"{found.target}.{found.name}"
        return inner if inner in self.names else found.target

    @cached_property
    def arrows(self) -> dict[tuple[str, str], list[str]]:
        """The imports from room to room, by (from, to): where each stands."""
        arrows: dict[tuple[str, str], list[str]] = defaultdict(list)
        for module in self.modules:
            for found in module.imports:
                room = room_of(self.target(found))
                if room != module.room:
                    said = f"{module.place}:{found.line} imports {self.target(found)}"
                    arrows[module.room, room].append(said)
        return dict(arrows)

    def upward(self) -> list[str]:
        """List the imports of a higher floor's modules, and rooms that have no floor."""
        return [
            place
            for (here, there), places in self.arrows.items()
            for place in places
            if FLOOR_OF.get(there, 99) > FLOOR_OF.get(here, -1)
        ]

    def circles(self) -> list[str]:
        """List the circles among modules, and among rooms."""
        graph: dict[str, set[str]] = defaultdict(set)
        for module in self.modules:
            for found in module.imports:
                if self.target(found) != module.name:
                    graph[module.name].add(self.target(found))
        rooms: dict[str, set[str]] = defaultdict(set)
        for here, there in self.arrows:
            rooms[here].add(there)
        return [" <-> ".join(sorted(c)) for g in (graph, rooms) for c in _components(g)]

    def private(self) -> list[str]:
        """List the private names of another package that are imported, or read from an object."""
        return [f"{place} {what}" for place, _, what in self.private_uses()]

    def private_uses(self) -> Iterator[tuple[str, str, str]]:
        """Give each use of a private name outside of its package: place, room, what is used.

        What is private in a room is the whole room's, what lies beside the rooms everyone's; a
        private attribute belongs to the packages whose classes and modules define one so named.
        """
        defined: dict[str, set[str]] = defaultdict(set)
        for module in self.modules:
            if module.is_python:
                for name in _defined_privates(module.tree):
                    defined[name].add(module.home)
        for module in self.modules:
            for found in module.imports:
                whole = self.target(found)
                whole += f".{found.name}" if found.name and not whole.endswith(found.name) else ""
                if any(map(_is_private, whole.split("."))) and not self.is_at_home(module, found):
                    yield f"{module.place}:{found.line}", module.room, f"imports {whole}"
            if module.is_python:
                for line, name in _read_privates(module.tree):
                    owners = defined.get(name, set())
                    if owners and module.home not in owners:
                        rooms = " and ".join(sorted(map(room_of, owners)))
                        yield f"{module.place}:{line}", module.room, f"reads .{name} of {rooms}"

    def is_at_home(self, module: Module, found: Import) -> bool:
        """Whether an import stays within a room, or is of a module beside the rooms."""
        target = self.target(found)
        return room_of(target) == module.room or target.count(".") <= (target in self.names)

    def long_files(self) -> list[str]:
        counts = {m.place: len(m.text.splitlines()) for m in self.modules}
        return [f"{place}: {n} lines" for place, n in counts.items() if n > MAX_LINES]

    def long_classes(self) -> list[str]:
        return [
            f"{module.place}: {name} has {lines} lines"
            for module in self.modules
            for name, lines in _classes(module)
            if lines > MAX_CLASS_LINES
        ]

    def docstrings(self) -> Iterator[tuple[str, str, str]]:
        """Give every function's and class's first sentence: place, name, sentence."""
        for module in self.modules:
            if not module.is_python:
                yield from _cython_docstrings(module)
                continue
            for node in ast.walk(module.tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    said = ast.get_docstring(node)
                    if said:
                        yield f"{module.place}:{node.lineno}", node.name, said.split("\n\n")[0]

    def namesakes(self) -> dict[str, list[str]]:
        """Give the names that more than one module defines at its top, with the modules.

        Of Cython's modules the classes count: other names there are C's or have twins in Python.
        """
        homes: dict[str, list[str]] = defaultdict(list)
        for module in self.modules:
            if module.is_python:
                names = set(_defined(module.tree))
            else:
                is_source = module.path.suffix == ".pyx"
                names = {name for name, _ in _classes(module)} if is_source else set()
            for name in names:
                homes[name].append(module.place)
        return {name: places for name, places in sorted(homes.items()) if len(places) > 1}


def _cython_docstrings(module: Module) -> Iterator[tuple[str, str, str]]:
    """Give what stands indented between triple quotes, below a line that ends in a colon; no C."""
    for found in re.finditer(r':[^\S\n]*(?:#.*)?\n[^\S\n]+"""(.*?)"""', module.text, re.S):
        said = found[1].strip()
        if not said.startswith(("#", "/*")):
            line = module.text.count("\n", 0, found.start(1)) + 1
            yield f"{module.place}:{line}", "", said.split("\n\n")[0]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            inner = (x for t in node.targets for x in (t.elts if isinstance(t, ast.Tuple) else [t]))
            yield from (x.id for x in inner if isinstance(x, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def _defined_privates(tree: ast.Module) -> Iterator[str]:
    """Give the private attributes that a module's classes make, and its own private names."""
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and _is_own(node) and isinstance(node.ctx, ast.Store):
            name = node.attr
        if _is_private(name):
            yield name


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "model", "type")


def _read_privates(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give the private attributes read from other objects than a class's own; not named tuples'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and not _is_own(node):
            if node.attr in ("_replace", "_asdict", "_fields"):
                continue
            yield node.lineno, node.attr
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("getattr", "setattr", "hasattr", "delattr")
            and len(node.args) > 1
            and isinstance(node.args[1], ast.Constant)
            and isinstance(node.args[1].value, str)
            and _is_private(node.args[1].value)
        ):
            yield node.lineno, node.args[1].value


def _classes(module: Module) -> Iterator[tuple[str, int]]:
    if module.is_python:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                yield node.name, (node.end_lineno or 0) - node.lineno + 1
        return
    lines = module.text.splitlines()
    heads = [k for k, line in enumerate(lines) if re.match(r"(cdef )?class \w+", line)]
    for head in heads:
        end = head + 1
        while end < len(lines) and (not lines[end] or lines[end][0] in " \t#)"):
            end += 1
        while not lines[end - 1].strip():
            end -= 1
        yield re.sub(r"(cdef )?class (\w+).*", r"\2", lines[head]), end - head


def _components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Give the sets of nodes that reach each other (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = set()
            while node not in component:
                component.add(stack.pop())
            if len(component) > 1:
                found.append(component)

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def drawing(house: House) -> str:
    """Draw the floors from the top down, and for each room the rooms that it imports from.

    An arrow that two others make (demo -> monitor -> curvature) is left out.
    """
    below: dict[str, set[str]] = {room: set() for room in FLOOR_OF}
    for here, there in house.arrows:
        below[here].add(there)

    def reached(room: str) -> set[str]:
        return below[room].union(*(reached(other) for other in below[room]))

    wide = max(map(len, FLOOR_OF))
    lines = []
    for floor in reversed(FLOORS):
        for room in floor:
            skipped = set().union(*(reached(other) for other in below[room]))
            direct = sorted(below[room] - skipped, key=lambda other: (-FLOOR_OF[other], other))
            lines.append(f"{room:{wide}} -> {', '.join(direct)}" if direct else room)
        lines.append("")
    return "\n".join(lines[:-1])


def drawn(text: str, picture: str) -> str:
    """Give CONTRIBUTING's text with the drawing between its marks."""
    head, mark, rest = text.partition(MARKS[0])
    _, end, tail = rest.partition(MARKS[1])
    return f"{head}{mark}\n```\n{picture}\n```\n{end}{tail}"


def main() -> None:
    house = House()
    if "--draw" in sys.argv[1:]:
        path = ROOT / "CONTRIBUTING.md"
        path.write_text(drawn(path.read_text(), drawing(house)))
        return
    for check in (house.upward, house.circles, house.private, house.long_files, house.long_classes):
        broken = check()
        print(f"{check.__name__}: {len(broken)}")
        for place in broken:
            print(f"  {place}")


if __name__ == "__main__":
    sys.exit(main())
