"""What is asked of an output: where, how cut, for which consumer; whatever the flow may be."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from .. import catalog
from ..consumers import record
from ..containers import table as containers
from ..core import arguments
from ..core.nearest import guess
from ..core.performance import Performance
from ..errors import RecipeError

__all__ = ["LAYOUTS", "Request", "bears_name"]

LAYOUTS = ("single_file", "by_block", "chunked", "apart")


@dataclass(frozen=True)
class Request:
    """An output in safetensors.

    Args:
        dst: a file if it ends in ``.safetensors``, else a folder, which is made if it is absent.
        layout: ``single_file``, ``by_block``, ``chunked`` or ``apart`` (the files that the convention names);
            without it one file, or chunks where the source has several files and the destination is a
            folder.
        convention: the consumer's; without it ``nunchaku`` if the flow packs for nunchaku, ``lightx2v`` if it
            quantizes, that of the spelling if it converts, else ``plain``.
        name: stem of the file names; the source's own without it.
        max_shard_size: most bytes of tensors in a chunk.
        max_tensors: most stored tensors in a chunk, instead of a size.
        copy_metadata: config, tokenizer and other small files come along into a folder.
        metadata: more metadata, which wins over the source's.
        force: an existing destination is replaced.
        allow_unmatched: rules that match nothing are warnings.
        performance: how to run.
        remarks: what the reader of a recipe has to say of it: warnings of the plan.
        tolerant: options that do nothing here are warnings, not errors, as configurations of other programs
            say what all of their layouts might need.
    """

    dst: str | Path
    layout: str | None = None
    convention: str | None = None
    name: str | None = None
    max_shard_size: int | None = None
    max_tensors: int | None = None
    copy_metadata: bool = True
    metadata: tuple[tuple[str, str], ...] = ()
    force: bool = False
    allow_unmatched: bool = False
    performance: Performance = field(default_factory=Performance)
    remarks: tuple[str, ...] = ()
    tolerant: bool = False

    def __post_init__(self) -> None:
        arguments.path("dst", self.dst)
        for key in ("layout", "convention", "name"):
            if (value := getattr(self, key)) is not None:
                arguments.text(key, value)
        for key in ("max_shard_size", "max_tensors"):
            if (value := getattr(self, key)) is not None:
                arguments.number(key, value)
        object.__setattr__(self, "metadata", arguments.pairs("metadata", self.metadata, sign="="))
        if not str(self.dst):
            raise RecipeError("no destination: the path is empty")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise RecipeError(
                f"layout: {self.layout!r} is not one of {', '.join(LAYOUTS)}{guess(self.layout, LAYOUTS)}"
            )
        if self.max_shard_size is not None and self.max_tensors is not None:
            raise RecipeError("a chunk is limited by max_shard_size or by max_tensors, not by both")
        limited = self.max_shard_size is not None or self.max_tensors is not None
        if limited and self.layout not in (None, "chunked"):
            raise RecipeError(f"layout {self.layout}: only chunked takes a limit of size or number")
        if any(key == record.KEY for key, _ in self.metadata):
            raise RecipeError(
                f"metadata: {record.KEY!r} is the record of how the file was made",
                hint="use another key",
            )
        if self.max_tensors is not None and self.max_tensors < 1:
            raise RecipeError(f"max_tensors: {self.max_tensors} is not a positive number")
        if self.folder and self.name is not None and os.sep in self.name:
            raise RecipeError(f"name: {self.name!r} is a path, not a name")
        if not self.folder and limited:
            raise RecipeError(
                f"{self.dst}: max_shard_size and max_tensors cut into several files",
                hint="name a folder instead",
            )
        if not self.folder and self.name is not None:
            raise RecipeError(
                f"{self.dst}: the path names the file already, name {self.name!r} does nothing",
                hint="name a folder, or leave the name out",
            )
        if not self.folder and self.layout not in (None, "single_file"):
            raise RecipeError(
                f"{self.dst}: one file cannot hold the layout {self.layout}", hint="name a folder instead"
            )

    @property
    def folder(self) -> bool:
        """Whether the destination is a folder."""
        return containers.written(str(self.dst)) is None

    def config(self) -> dict[str, Any]:
        """The recipe's ``target`` and ``output`` sections."""
        target: dict[str, Any] = {}
        if self.convention is not None:
            target["convention"] = self.convention
        for key in ("layout", "max_shard_size", "max_tensors"):
            if (value := getattr(self, key)) is not None:
                target[key] = value
        output: dict[str, Any] = {"path": str(self.dst)}
        if (name := self.strict().name) is not None:
            output["name"] = name
        if not self.copy_metadata:
            output["copy_metadata"] = False
        if self.metadata:
            output["metadata"] = dict(self.metadata)
        for key in ("force", "allow_unmatched"):
            if getattr(self, key):
                output[key] = True
        return {**({"target": target} if target else {}), "output": output}

    def strict(self) -> Self:
        """The same, without what does nothing and the remarks on it."""
        name = self.name
        if self.tolerant and self.layout is not None and self.convention is not None:
            name = name if bears_name(self.layout, catalog.convention(self.convention)) else None
        return replace(self, remarks=(), tolerant=False, name=name)


def bears_name(layout: str, convention: catalog.Convention) -> bool:
    """Whether any file of a layout bears the name of the output, and not one that the consumer prescribes."""
    mark = "\0"
    names = [convention.index_name(layout, mark) or ""]
    if layout == "single_file":
        names.append(convention.single_file(mark))
    elif layout == "chunked":
        names += [convention.chunk_file(mark), convention.alone_file(mark)]
    return any(mark in name for name in names)
