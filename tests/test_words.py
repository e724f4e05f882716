"""The words of the package: cross-references name something that exists, variables say what they hold.

A reference is a role of reStructuredText (``:func:`NAME```). Its name is looked up as a reader would: in the
class where it stands and those it is derived from, in the module, and from the root; with dots before it as
the module would import it or, with one dot, from the package (``.core.expr.Expr``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import check_layers
import pytest

PACKAGE = Path(__file__).parent.parent / "transcode"
ROLE = re.compile(r":(?:mod|func|class|meth|data|attr|obj|exc|const):`~?([^`]+)`")


@dataclass
class Scope:
    """What a module or a class defines, and what it takes from elsewhere; of a class, its bases and lines."""

    name: str
    names: dict[str, Scope | None] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    bases: list[str] = field(default_factory=list)
    lines: range = range(0)


class House:
    """All modules of a package, read and not imported."""

    def __init__(self, root: Path) -> None:
        self.paths = dict(check_layers.modules(root))
        self.modules = {name: self._module(name, path) for name, path in self.paths.items()}

    def _module(self, name: str, path: Path) -> Scope:
        scope = Scope(name)
        for one in check_layers.imports(name, path, self.paths):
            if one.name is None:
                scope.taken[one.module.rpartition(".")[2]] = one.module
            else:
                scope.taken[one.name] = f"{one.module}.{one.name}"
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):  # an import under another name
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    if alias.asname and alias.name.rpartition(".")[2] in scope.taken:
                        scope.taken[alias.asname] = scope.taken[alias.name.rpartition(".")[2]]
        self._define(scope, tree.body)
        return scope

    def _define(self, scope: Scope, body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                inner = Scope(scope.name, lines=range(node.lineno, (node.end_lineno or node.lineno) + 1))
                inner.bases = [ast.unparse(base).partition("[")[0] for base in node.bases]
                self._define(inner, node.body)
                scope.names[node.name] = inner
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                scope.names[node.name] = None
                for inside in ast.walk(
                    node
                ):  # what a method sets of its object, a function inside a function
                    if isinstance(inside, ast.Attribute) and isinstance(inside.ctx, ast.Store):
                        scope.names.setdefault(inside.attr, None)
                    elif isinstance(inside, ast.FunctionDef | ast.ClassDef):
                        scope.names.setdefault(inside.name, None)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for inside in ast.walk(target):
                        if isinstance(inside, ast.Name):
                            scope.names[inside.id] = None
            elif isinstance(node, ast.If | ast.Try):
                self._define(scope, [*node.body, *node.orelse])

    def finds(self, scope: Scope, dotted: str, seen: frozenset[str] = frozenset()) -> bool:
        """Whether ``dotted`` leads to something from a module or class."""
        first, _, rest = dotted.partition(".")
        if first in scope.names:
            inner = scope.names[first]
            return not rest or (inner is not None and self.finds(inner, rest))
        if first in scope.taken and scope is self.modules[scope.name] and f"{scope.name}.{first}" not in seen:
            seen |= {f"{scope.name}.{first}"}
            return self.leads(".".join(filter(None, [scope.taken[first], rest])), seen)
        module = self.modules[scope.name]
        return any(
            (found := self.scope(module, base)) is not None and self.finds(found, dotted)
            for base in scope.bases
        )

    def scope(self, module: Scope, dotted: str) -> Scope | None:
        """The class that a module knows by this name."""
        if isinstance(inner := module.names.get(dotted), Scope):
            return inner
        first, _, rest = dotted.partition(".")
        owner, _, name = ".".join(filter(None, [module.taken.get(first, first), rest])).rpartition(".")
        if owner in self.modules and self.modules[owner] is not module:
            return self.scope(self.modules[owner], name)
        return None

    def leads(self, dotted: str, seen: frozenset[str] = frozenset()) -> bool:
        """Whether ``dotted`` is the whole name of something, here or in another package."""
        parts = dotted.split(".")
        for cut in range(len(parts), 0, -1):
            if (module := self.modules.get(".".join(parts[:cut]))) is not None:
                return cut == len(parts) or self.finds(module, ".".join(parts[cut:]), seen)
        return parts[0] != check_layers.ROOT and _is_elsewhere(parts[0])

    def known(self, module: Scope, line: int, reference: str) -> bool:
        """Whether a reference in a line of a module names something."""
        name = reference.lstrip(".")
        if dots := len(reference) - len(name):
            package = (
                module.name
                if self.paths[module.name].name == "__init__.py"
                else module.name.rpartition(".")[0]
            )
            beside = ".".join([*package.split(".")[: package.count(".") + 2 - dots], name])
            return self.leads(beside) or (dots == 1 and self.leads(f"{check_layers.ROOT}.{name}"))
        inside = [one for one in module.names.values() if one is not None and line in one.lines]
        return any(self.finds(scope, name) for scope in [*inside, module]) or self.leads(name)

    def broken(self) -> Iterator[str]:
        """References that name nothing, with file and line."""
        for name, path in self.paths.items():
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                for reference in ROLE.findall(line):
                    if not self.known(self.modules[name], number, reference):
                        yield f"{path}:{number}: {reference}"


@cache
def _is_elsewhere(package: str) -> bool:
    return find_spec(package) is not None


def test_references_of_the_package_name_what_exists():
    assert list(House(PACKAGE).broken()) == []


@pytest.mark.parametrize(
    "reference",
    [
        ":func:`here`",
        ":class:`Here`",
        ":meth:`Here.do`",
        ":meth:`do`",
        ":attr:`field`",
        ":attr:`~Here.set`",
        ":meth:`inherited`",
        ":data:`HERE`",
        ":class:`Base`",
        ":mod:`.other`",
        ":func:`.other.there`",
        ":func:`other.there`",
        ":func:`.room.other.there`",
        ":mod:`..errors`",
        ":mod:`~transcode.room.other`",
        ":func:`transcode.room.other.there`",
        ":func:`re.sub`",
    ],
)
def test_what_exists_is_found(tmp_path, reference):
    assert list(house(tmp_path, reference).broken()) == []


@pytest.mark.parametrize(
    "reference",
    [
        ":func:`there`",
        ":meth:`there`",
        ":meth:`Here.gone`",
        ":attr:`Here.do.more`",
        ":mod:`.gone`",
        ":func:`.other.gone`",
        ":mod:`...errors`",
        ":mod:`transcode.gone`",
        ":func:`transcode.room.other.gone`",
        ":func:`no_such_package.gone`",
    ],
)
def test_what_does_not_exist_is_named(tmp_path, reference):
    [line] = house(tmp_path, reference).broken()
    assert line.startswith(str(tmp_path / "transcode/room/mine.py:12: "))


def house(folder: Path, reference: str) -> House:
    """A package of two modules, with a reference in a method's docstring."""
    room = folder / "transcode/room"
    room.mkdir(parents=True)
    for empty in (folder / "transcode/__init__.py", folder / "transcode/errors.py", room / "__init__.py"):
        empty.touch()
    (room / "other.py").write_text("class Base:\n    def inherited(self): ...\ndef there(): ...\n")
    (room / "mine.py").write_text(
        f"""from . import other
from .other import Base
HERE = 1
def here(): ...
class Here(Base):
    field: int

    def __init__(self):
        self.set = 1

    def do(self):
        '''See {reference}.'''
"""
    )
    return House(folder / "transcode")


RIDDLES = {"found", "made", "told", "mine"}
"""Variables that say what befell a thing and not what it is."""

CLEAR = (
    "core",
    "codecs",
    "io",
    "catalog",
    "containers",
    "cli",
    "plan",
    "execution",
    "recipe",
    "schemes",
    "stages/lora",
)
"""Rooms without them."""


@pytest.mark.parametrize("room", CLEAR)
def test_variables_say_what_they_hold(room):
    paths = sorted((PACKAGE / room).rglob("*.py"))
    assert paths
    assert [riddle for path in paths for riddle in riddles(path.read_text("utf-8"), path.name)] == []


def riddles(source: str, file: str) -> Iterator[str]:
    """Variables and parameters that must be solved."""
    for node in ast.walk(ast.parse(source)):
        name = node.arg if isinstance(node, ast.arg) else None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.ExceptHandler):
            name = node.name
        if name in RIDDLES:
            yield f"{file}:{node.lineno}: {name}"


@pytest.mark.parametrize(
    "source",
    [
        "made = 1",
        "for found in x: pass",
        "def f(told): ...",
        "try: ...\nexcept E as mine: ...",
        "f(found := 1)",
    ],
)
def test_riddles_are_seen(source):
    assert len(list(riddles(source, "m.py"))) == 1
