"""Check that imports inside ``transcode`` only go down its layers, and costly packages stay in their places.

    voice <- errors <- core <- numerics, io <- codecs <- schemes, catalog <- containers <- consumers <- stages
           <- plan <- execution <- inspection, meta <- api, recipe, verification <- cli

Four rules, read off the source without running it:

1. A module imports only from its own layer or those below; deferred and type-only imports count too.
2. Packages of one layer may use each other, but not in a circle.
3. No circle of modules that need each other in any way: deferred and type-only imports count too.
4. Some packages belong to one part of the house (``RESTRICTED``), and torch is never loaded with a module.

Prints a line for each violation, and exits with 1 if there is any.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

__all__ = ["LAYERS", "Import", "check", "imports"]

ROOT = "transcode"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("voice",),
    ("errors",),
    ("core",),
    ("numerics", "io"),
    ("codecs",),
    ("schemes", "catalog"),
    ("containers",),
    ("consumers",),
    ("stages",),
    ("plan",),
    ("execution",),
    ("inspection", "meta"),
    ("api", "recipe", "verification"),
    ("cli",),
    ("__init__", "__main__"),
)

RESTRICTED: Mapping[str, tuple[str, ...]] = {
    "click": ("cli",),
    "rich": ("cli",),
    "numba": ("numerics",),
    "llvmlite": ("numerics",),
    "mmap": ("io",),
    "fcntl": ("io",),
    "ray": ("execution",),
    "safetensors": (),
}
"""Packages that only these parts may import, at any time."""

DEFERRED: Mapping[str, tuple[str, ...]] = {"torch": ("transcode.numerics.gpu",)}
"""Packages that are imported inside functions only, but for these modules and what lies in them."""

ROOT_NAMES = frozenset({"__version__"})
"""What modules may take from the package itself."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target, as a module name where it is known to be one.

    Attributes:
        module: dotted name of the module imported from, or of the module itself.
        name: the name taken from it by ``from ... import``, unless that is a module too.
        when: ``load`` with the module, ``call`` inside a function, ``type`` under ``TYPE_CHECKING``.
    """

    importer: str
    file: Path
    line: int
    module: str
    name: str | None
    when: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package in folder ``root``, by dotted name."""
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Iterable[str]) -> Iterator[Import]:
    """The imports of one module; ``known`` tells submodules from names."""
    known = frozenset(known)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, when: str) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, path, node.lineno, alias.name, None, when)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known:
                    yield Import(name, path, node.lineno, inner, None, when)
                else:
                    yield Import(name, path, node.lineno, base, alias.name, when)
        elif isinstance(node, ast.If) and _type_checking(node.test):
            for statement in node.body:
                yield from visit(statement, "type")
            for statement in node.orelse:
                yield from visit(statement, when)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, "call" if function and when == "load" else when)

    return visit(ast.parse(path.read_text("utf-8"), str(path)), "load")


def _type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _part(module: str) -> str:
    """The part of the house a module lies in: the second component of its name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def check(root: Path) -> list[str]:
    """Violations of the rules in the package in folder ``root``, one line each."""
    known = modules(root)
    found = [one for name, path in known.items() for one in imports(name, path, known)]
    inside = [one for one in found if one.module.split(".")[0] == ROOT]
    outside = [one for one in found if one.module.split(".")[0] != ROOT]
    return [
        *_unplaced(known),
        *_upwards(inside),
        *_circles_of_parts(inside),
        *_circles_of_modules(inside, known),
        *_tangles(inside, known),
        *_misplaced(outside),
    ]


def _level(part: str) -> int | None:
    return next((level for level, parts in enumerate(LAYERS) if part in parts), None)


def _unplaced(known: Mapping[str, Path]) -> Iterator[str]:
    for name, path in known.items():
        if _level(_part(name)) is None:
            yield f"{path}:1: {_part(name)} is in no layer; place it in LAYERS"


def _upwards(found: Iterable[Import]) -> Iterator[str]:
    for one in found:
        if one.module == ROOT:
            if one.name not in ROOT_NAMES and one.importer != f"{ROOT}.__main__":
                yield f"{one}: takes {one.name or 'everything'} from {ROOT} itself, which lies above"
            continue
        above, below = _level(_part(one.importer)), _level(_part(one.module))
        if above is not None and below is not None and below > above:
            yield f"{one}: {_part(one.importer)} imports {one.module}, which lies above it"


def _circles_of_parts(found: Iterable[Import]) -> Iterator[str]:
    graph: dict[str, set[str]] = {}
    for one in found:
        user, used = _part(one.importer), _part(one.module)
        if user != used and one.module != ROOT:
            graph.setdefault(user, set()).add(used)
    # Circles through several layers need an import upwards, which is told already.
    for parts in LAYERS:
        inner = {part: graph.get(part, set()) & set(parts) for part in parts}
        if circle := _circle(inner):
            yield f"{ROOT}: these use each other in a circle: {' -> '.join(circle)}"


def _circles_of_modules(found: Iterable[Import], known: Mapping[str, Path]) -> Iterator[str]:
    graph: dict[str, set[str]] = {}
    for one in found:
        if one.when == "load" and one.module in known and one.module not in (ROOT, one.importer):
            graph.setdefault(one.importer, set()).add(one.module)
    if circle := _circle(graph):
        yield f"{known[circle[0]]}:1: modules load each other in a circle: {' -> '.join(circle)}"


def _tangles(found: Iterable[Import], known: Mapping[str, Path]) -> Iterator[str]:
    graph: dict[str, set[str]] = {}
    for one in found:
        part = _part(one.importer)  # circles through several are told as what they are
        if one.module in known and one.module != one.importer and part == _part(one.module):
            graph.setdefault(one.importer, set()).add(one.module)
    circle = _circle(graph)
    # One of loading is told already.
    if circle and not any(_circles_of_modules(found, known)):
        yield f"{known[circle[0]]}:1: modules need each other in a circle: {' -> '.join(circle)}"


def _circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # graphlib lists predecessors first; here an edge means "imports", so the list is read backwards.
        return list(reversed(error.args[1]))
    return None


def _misplaced(found: Iterable[Import]) -> Iterator[str]:
    for one in found:
        package = one.module.split(".")[0]
        allowed = RESTRICTED.get(package)
        if allowed is not None and _part(one.importer) not in allowed and one.when != "type":
            where = f"only {', '.join(allowed)} may" if allowed else "the package must not"
            yield f"{one}: imports {package}: {where}"
        homes = DEFERRED.get(package)
        if homes is not None and one.when == "load" and not _within(one.importer, homes):
            yield f"{one}: loads {package} with the module; import it in the function that needs it"


def _within(module: str, homes: Iterable[str]) -> bool:
    return any(module == home or module.startswith(home + ".") for home in homes)


def main(argv: list[str]) -> int:
    """Check the package in the folder given, else the one beside this file; returns the exit code."""
    root = Path(argv[0]) if argv else Path(__file__).resolve().parent.parent / ROOT
    found = check(root)
    for line in found:
        print(line)
    print(f"{len(modules(root))} modules, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
