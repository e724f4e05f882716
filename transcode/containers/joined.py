"""Several sources as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import FormatError
from .checkpoint import Source

__all__ = ["join_sources"]


def join_sources(sources: Sequence[Source]) -> Source:
    """One source with the tensors of several, in their order.

    Metadata is that of all; where two disagree the first one's counts, and a note says so.

    Raises:
        FormatError: two hold a tensor of the same name.
    """
    where: dict[str, Path] = {}
    metadata: dict[str, str] = {}
    notes: list[str] = []
    for source in sources:
        notes += source.notes
        for tensor in source.tensors:
            if tensor.name in where:
                raise FormatError(f"is also in {where[tensor.name]}", file=source.path, tensor=tensor.name)
            where[tensor.name] = source.path
        for key, value in source.metadata.items():
            if metadata.setdefault(key, value) != value:
                notes.append(
                    f"metadata {key!r} of {source.path.name} differs from that before and is left out"
                )
    first = sources[0]
    return Source(
        first.path,
        tuple(file for source in sources for file in source.files),
        tuple(tensor for source in sources for tensor in source.tensors),
        metadata,
        first.side_files,
        first.stem,
        tuple(notes),
        tuple(file for source in sources for file in source.inputs),
    )
