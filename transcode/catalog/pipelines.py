"""Loads ``formats/foreign/pipelines.yaml``: the pipelines of Diffusers whose models one file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..core.records import dataclass
from . import strict
from .folders import find
from .proven import proven

__all__ = ["Part", "Pipeline", "pipelines"]


@dataclass(frozen=True, slots=True)
class Part:
    """A model of a pipeline.

    Attributes:
        library: whose class it is.
        kind: that class.
        family: which its tensors are of.
        prefix: of its names in an all-in-one file; None where that follows from its folder.
        spelling: of its names there; None for the family's usual one.
    """

    library: str
    kind: str
    family: str
    prefix: str | None = None
    spelling: str | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A class of pipelines.

    Attributes:
        name: e.g. ``"FluxPipeline"``.
        parts: by subfolder, e.g. ``"text_encoder_2"``.
        beside: subfolders without weights that it loads, too.
    """

    name: str
    parts: Mapping[str, Part]
    beside: tuple[str, ...] = ()


def pipelines() -> Mapping[str, Pipeline]:
    """All, by the class.

    Raises:
        RecipeError: a mistake in the file, with its line.
    """
    return proven(_table, find("foreign", "pipelines"))


def _table(path: Path) -> dict[str, Pipeline]:
    top = strict.catalog_file(path, "foreign")
    table = {
        name: _pipeline(name, child.mapping()) for name, child in top.need("pipelines").mapping().items()
    }
    top.reject_unknown()
    return table


def _pipeline(name: str, top: strict.Mapping) -> Pipeline:
    beside = top.get("beside", strict.Node.strings, ())
    parts = {folder: _part(one) for folder, one in top.items() if folder != "beside"}
    return Pipeline(name, parts, tuple(beside))


def _part(node: strict.Node) -> Part:
    top = node.mapping()
    part = Part(
        top.get("library", strict.Node.string, "diffusers"),
        top.need("class").string(),
        top.need("family").string(),
        top.get("prefix", strict.Node.string, None),
        top.get("spelling", strict.Node.string, None),
    )
    top.reject_unknown()
    return part
