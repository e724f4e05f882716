"""Loads ``formats/programs/*.yaml``: what programs that load checkpoints take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from ..core.records import dataclass
from . import strict
from .folders import find, listing
from .models import KEYS
from .proven import proven

__all__ = [
    "IGNORED",
    "PLACES",
    "REFUSED",
    "Gguf",
    "Method",
    "Program",
    "Statements",
    "Way",
    "program",
    "programs",
]

PLACES = ("file", "folder", "either")
_CONTAINERS = ("safetensors", "torch")


IGNORED, REFUSED = "ignored", "refused"


@dataclass(frozen=True)
class Method:
    """What a loader asks of a config's words on how tensors are quantized.

    Attributes:
        plain: what it makes of tensors that are not quantized though the words say so, where that is not
            certain; None where it surely cannot use them.
        needs: dotted paths that must be there, ``*`` for any key.
        takes: dotted path -> the values that it knows. What is not there is fine.
        converts: the same, where tensors are otherwise than it takes them, which a conversion mends.
    """

    plain: str | None = None
    needs: tuple[str, ...] = ()
    takes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    converts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Statements:
    """Where a loader reads how tensors are quantized, and which words it knows.

    Attributes:
        keys: of config.json, the first that is there counts.
        any_case: whether it takes a ``quant_method`` in capitals, too.
        unknown: what becomes of a ``quant_method`` that it does not know: :data:`IGNORED` or :data:`REFUSED`.
        unnamed: the same for none; None where that is not known.
        methods: ``quant_method`` -> what it asks for.
    """

    keys: tuple[str, ...]
    any_case: bool
    unknown: str
    unnamed: str | None
    methods: Mapping[str, Method]


@dataclass(frozen=True)
class Gguf:
    """How a program loads GGUF.

    Attributes:
        by: how, in words.
        architectures: values of ``general.architecture`` that it knows; empty where that is not known here.
    """

    by: str
    architectures: tuple[str, ...]


@dataclass(frozen=True)
class Way:
    """One loader of a program.

    Attributes:
        by: what it is called, where a program has several.
        containers: names of the formats of files that it reads.
        place: what it is pointed at, one of :data:`PLACES`.
        config: whether config.json must stand beside the weights.
        names: stems of what weight files must be called, by container; any where there are none.
        index: whether shards must have an index file beside them.
        models: the library whose classes it builds by what config.json says; None where it does not.
        statements: how it reads what config.json says of quantization; None where it reads none.
        metadata: keys that the header must have.
        conventions: convention -> schemes of it that it is known to load; None for all.
        refuses: convention -> scheme -> why it surely does not load that.
        experts: convention -> scheme -> why it is not certain of the experts of a mixture.
        tiles: convention -> scheme -> rows and columns that its kernel is known to take multiples of.
        plain: whether it loads tensors that are not quantized.
        bare_fp8: whether it loads FP8 that no scale belongs to.
        foreign: what other ways to quantize that it loads are called in ``formats/foreign``.
        families: family -> its spellings that it loads.
        writes: the convention to write for it.
    """

    by: str = ""
    containers: tuple[str, ...] = ()
    place: str = "either"
    config: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    index: bool = False
    models: str | None = None
    statements: Statements | None = None
    metadata: tuple[str, ...] = ()
    conventions: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    refuses: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    experts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tiles: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    plain: bool = False
    bare_fp8: bool = False
    foreign: tuple[str, ...] = ()
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    writes: str | None = None


@dataclass(frozen=True)
class Program:
    """A program that loads checkpoints.

    Attributes:
        name: e.g. ``"vllm"``.
        title: for people.
        file: the YAML it comes from.
        version: of the program, whose source the rules are read from; None where they are of no certain one.
        ways: its loaders.
        gguf: how it loads GGUF; None if it does not.
        only: whether it loads no other family than those of its ways.
        never: families that it surely does not load.
        instead: what to do where nothing here makes files for it.
        runs: families that ``instead`` is for; all where there are none.
    """

    name: str
    title: str
    file: str
    ways: tuple[Way, ...]
    version: str | None = None
    gguf: Gguf | None = None
    only: bool = False
    never: tuple[str, ...] = ()
    instead: str | None = None
    runs: tuple[str, ...] = ()

    def advice(self, family: str | None) -> str | None:
        """What to do with a model of a family, or of none that is known, where nothing here makes files."""
        return self.instead if family is None or not self.runs or family in self.runs else None


def programs() -> list[str]:
    """Names of all programs, sorted; parses nothing."""
    return list(listing("programs"))


def program(name: str) -> Program:
    """A program by its name.

    Raises:
        RecipeError: no such program, or a mistake in its file.
    """
    return proven(_program, find("programs", name))


def _program(path: Path) -> Program:
    top = strict.catalog_file(path, "program")
    loaded = Program(
        path.stem,
        top.need("title").string(),
        str(path),
        tuple(_way(child) for child in top.need("ways").sequence()),
        top.get("version", strict.Node.string, None),
        top.get("gguf", _gguf, None),
        top.get("only", strict.Node.boolean, False),
        top.get("never", _strings, ()),
        top.get("instead", strict.Node.string, None),
        top.get("runs", _strings, ()),
    )
    top.reject_unknown()
    return loaded


def _way(node: strict.Node) -> Way:
    top = node.mapping()
    way = Way(
        by=top.get("by", strict.Node.string, ""),
        containers=tuple(child.choice(_CONTAINERS) for child in top.need("containers").sequence()),
        place=top.need("place").choice(PLACES),
        config=top.get("config", strict.Node.boolean, False),
        names=top.get("names", _names, {}),
        index=top.get("index", strict.Node.boolean, False),
        models=top.get("models", lambda child: child.choice(KEYS), None),
        statements=top.get("statements", _statements, None),
        metadata=top.get("metadata", _strings, ()),
        conventions=top.get("conventions", _conventions, _NO_CONVENTIONS),
        refuses=top.get("refuses", _reasons, {}),
        experts=top.get("experts", _reasons, {}),
        tiles=top.get("tiles", _tiles, {}),
        plain=top.get("plain", strict.Node.boolean, False),
        bare_fp8=top.get("bare_fp8", strict.Node.boolean, False),
        foreign=top.get("foreign", _strings, ()),
        families=top.get("families", _families, _NO_FAMILIES),
        writes=top.get("writes", strict.Node.string, None),
    )
    top.reject_unknown()
    return way


_NO_CONVENTIONS: Mapping[str, tuple[str, ...] | None] = {}
_NO_FAMILIES: Mapping[str, tuple[str, ...]] = {}


def _conventions(node: strict.Node) -> dict[str, tuple[str, ...] | None]:
    return {
        name: None if child.kind == "text" and child.choice(("all",)) else tuple(child.strings())
        for name, child in node.mapping().items()
    }


def _reasons(node: strict.Node) -> dict[str, dict[str, str]]:
    return {
        name: {scheme: why.string() for scheme, why in child.mapping().items()}
        for name, child in node.mapping().items()
    }


def _tiles(node: strict.Node) -> dict[str, dict[str, tuple[int, int]]]:
    return {
        name: {scheme: _tile(tile) for scheme, tile in child.mapping().items()}
        for name, child in node.mapping().items()
    }


def _tile(node: strict.Node) -> tuple[int, int]:
    rows, columns = (child.integer(1) for child in node.sequence())
    return rows, columns


def _families(node: strict.Node) -> dict[str, tuple[str, ...]]:
    return {name: tuple(child.strings()) for name, child in node.mapping().items()}


def _strings(node: strict.Node) -> tuple[str, ...]:
    return tuple(node.strings())


def _names(node: strict.Node) -> dict[str, str]:
    return {key: child.string() for key, child in node.mapping().items()}


def _gguf(node: strict.Node) -> Gguf:
    top = node.mapping()
    loaded = Gguf(top.need("by").string(), tuple(top.get("architectures", strict.Node.strings, ())))
    top.reject_unknown()
    return loaded


def _statements(node: strict.Node) -> Statements:
    top = node.mapping()
    outcomes = (IGNORED, REFUSED)
    loaded = Statements(
        tuple(top.need("keys").strings()),
        top.get("any_case", strict.Node.boolean, False),
        top.need("unknown").choice(outcomes),
        top.get("unnamed", lambda child: child.choice(outcomes), None),
        {
            **dict.fromkeys(top.need("methods").strings(), Method()),
            **{name: _method(child) for name, child in top.get("asks", _members, {}).items()},
        },
    )
    top.reject_unknown()
    return loaded


def _members(node: strict.Node) -> dict[str, strict.Node]:
    return dict(node.mapping().items())


def _method(node: strict.Node) -> Method:
    top = node.mapping()
    loaded = Method(
        top.get("plain", strict.Node.string, None),
        tuple(top.get("needs", strict.Node.strings, ())),
        top.get("takes", _values, {}),
        top.get("converts", _values, {}),
    )
    top.reject_unknown()
    return loaded


def _values(node: strict.Node) -> dict[str, tuple[Any, ...]]:
    return {path: tuple(one.plain() for one in values.sequence()) for path, values in node.mapping().items()}
