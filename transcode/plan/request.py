"""What is asked of an output: where, how cut, for which consumer; whatever the flow may be."""

from __future__ import annotations

import os
from dataclasses import field, replace
from typing import Any, Self

from .. import catalog
from ..consumers import record
from ..containers import table as containers
from ..core.performance import Performance
from ..core.records import dataclass
from ..errors import RecipeError
from .options import OutputOptions

__all__ = ["Request", "bears_name"]


@dataclass(frozen=True)
class Request(OutputOptions):
    """An output in safetensors. Beside its options:

    Args:
        performance: how to run.
        remarks: what the reader of a recipe has to say of it: warnings of the plan.
        tolerant: options that do nothing here are warnings, not errors, as configurations of other programs
            say what all of their layouts might need.
        config_from: a folder of a pipeline of Diffusers, whose configurations, scheduler and tokenizers go
            into one that is written with the layout ``components``.
    """

    performance: Performance = field(default_factory=Performance)
    remarks: tuple[str, ...] = ()
    tolerant: bool = False
    config_from: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not str(self.dst):
            raise RecipeError("no destination: the path is empty")
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
        if self.config_from is not None and self.layout != "components":
            raise RecipeError(
                "config_from: only the layout components has models whose configurations could be taken",
                hint="leave it out",
            )
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
        target, output = self.stated("target"), self.strict().stated("output")
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
