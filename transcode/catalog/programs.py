"""Loads ``formats/programs/*.yaml``: what programs that load checkpoints take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import strict
from .folders import find, listing
from .proven import proven

__all__ = ["PLACES", "Program", "Way", "program", "programs"]

PLACES = ("file", "folder", "either")
_CONTAINERS = ("safetensors", "torch")


@dataclass(frozen=True)
class Way:
    """One loader of a program.

    Attributes:
        by: what it is called, where a program has several.
        containers: names of the formats of files that it reads.
        place: what it is pointed at, one of :data:`PLACES`.
        config: whether config.json must stand beside the weights.
        names: what weight files must be called; any where there are none.
        metadata: keys that the header must have.
        conventions: convention -> schemes of it that it is known to load; None for all.
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
    names: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    conventions: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
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
        ways: its loaders.
        gguf: how it loads GGUF, in words; None if it does not.
        only: whether it loads no other family than those of its ways.
        never: families that it surely does not load.
        instead: what to do where nothing here makes files for it.
        runs: families that ``instead`` is for; all where there are none.
    """

    name: str
    title: str
    file: str
    ways: tuple[Way, ...]
    gguf: str | None = None
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
        top.get("gguf", strict.Node.string, None),
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
        names=top.get("names", _strings, ()),
        metadata=top.get("metadata", _strings, ()),
        conventions=top.get("conventions", _conventions, _NO_CONVENTIONS),
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


def _families(node: strict.Node) -> dict[str, tuple[str, ...]]:
    return {name: tuple(child.strings()) for name, child in node.mapping().items()}


def _strings(node: strict.Node) -> tuple[str, ...]:
    return tuple(node.strings())
