"""Loads ``formats/foreign/pipelines.yaml``: the pipelines of Diffusers whose models one file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from ..core.records import dataclass
from . import strict
from .derive import Derivation, derivation, derivation_of
from .folders import find
from .proven import proven

__all__ = ["Part", "Pipeline", "pipelines"]

_WHEN = "when"
_WORDS = ("alike", "beside", "pipeline", "says", _WHEN)
"""Keys of a pipeline that are no subfolders."""


@dataclass(frozen=True, slots=True)
class Part:
    """A model of a pipeline.

    Attributes:
        library: whose class it is.
        kind: that class.
        family: which its tensors are of.
        prefix: of its names in an all-in-one file; None where that follows from its folder.
        spelling: of its names there; None for the family's usual one.
        config: what its ``config.json`` says in this pipeline beside what the family derives.
        untold: keys of that file which tensors do not always tell -> what to do without them.
    """

    library: str
    kind: str
    family: str
    prefix: str | None = None
    spelling: str | None = None
    config: Derivation | None = None
    untold: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A class of pipelines.

    Attributes:
        name: e.g. ``"FluxPipeline"``.
        parts: by subfolder, e.g. ``"text_encoder_2"``.
        beside: subfolders without weights that it loads, too -> library and class.
        when: of the model that denoises; None where its family is enough.
        says: subfolder -> keys of the index, which it has where that model is there.
        alike: classes whose models have the same tensors.
    """

    name: str
    parts: Mapping[str, Part]
    beside: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    when: Derivation | None = None
    says: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    alike: tuple[str, ...] = ()

    def is_for(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether a model that denoises, of one of its families, is one of this pipeline's."""
        return self.when is None or (self.when(shapes) or {}).get(_WHEN) is True


def pipelines() -> Mapping[str, Pipeline]:
    """All, by the class, or by a title where there are several of one class: the first that fits is taken.

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
    beside = {name: _class(one) for name, one in top.get("beside", lambda one: one.mapping().items(), ())}
    said = top.get("says", lambda one: one.mapping().items(), ())
    says = {folder: {key: value.plain() for key, value in one.mapping().items()} for folder, one in said}
    when = top.get(_WHEN, lambda one: derivation_of({_WHEN: one}), None)
    alike = tuple(top.get("alike", strict.Node.strings, ()))
    kind = top.get("pipeline", strict.Node.string, name)
    parts = {folder: _part(one) for folder, one in top.items() if folder not in _WORDS}
    return Pipeline(kind, parts, beside, when, says, alike)


def _class(node: strict.Node) -> tuple[str, str]:
    match node.strings():
        case [library, kind]:
            return library, kind
    raise node.error("is no class", "write its library and its name")


def _part(node: strict.Node) -> Part:
    top = node.mapping()
    part = Part(
        top.get("library", strict.Node.string, "diffusers"),
        top.need("class").string(),
        top.need("family").string(),
        top.get("prefix", strict.Node.string, None),
        top.get("spelling", strict.Node.string, None),
        top.get("config", derivation, None),
        {key: one.string() for key, one in top.get("untold", lambda child: child.mapping().items(), ())},
    )
    top.reject_unknown()
    return part
