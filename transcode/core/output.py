"""What becomes of tensors: parts under their final names, the files that they go into, and where in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .records import dataclass
from .shown import Overview, Shown
from .spec import Spec
from .text import count, size
from .value import Value, pack, plentiful, unpack

__all__ = ["Place", "PlannedFile", "SideFile", "Stored", "Unit"]


@plentiful
@dataclass(frozen=True, slots=True)
class Stored:
    """A part under its final name."""

    name: str
    role: str
    spec: Spec


@plentiful
@dataclass(frozen=True, slots=True)
class Unit:
    """What must stay in one file: all parts of one tensor.

    Attributes:
        tensor: index of the tensor in the flow.
        stored: its parts under their final names.
        block: number of the block it belongs to, where files are cut by it; None outside blocks.
    """

    tensor: int
    stored: tuple[Stored, ...]
    block: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum([part.spec.nbytes for part in self.stored])


@plentiful
@dataclass(frozen=True, slots=True)
class Place(Value):
    """Where one part goes: ``[begin, end)`` in the data section of a file."""

    name: str
    spec: Spec
    tensor: int
    role: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True, repr=False)
class PlannedFile(Shown):
    """One output file, known to the byte but for its tensors' values.

    Attributes:
        header: what stands before the data section.
        places: in the order of their bytes. Between them a format may leave gaps, which are zero.
        tail: what stands behind the data section.
    """

    name: str
    header: bytes
    places: tuple[Place, ...]
    tail: bytes = b""

    def overview(self) -> Overview:
        """Its name and size."""
        held = count(len({place.tensor for place in self.places}), "tensor")
        return Overview(f"PlannedFile {self.name}: {held}, {size(self.size)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _planned, (self.name, self.header, self.tail, pack(self.places))

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + (self.places[-1].end if self.places else 0) + len(self.tail)


def _planned(name: str, header: bytes, tail: bytes, places: Any) -> PlannedFile:
    return PlannedFile(name, header, tuple(unpack(places)), tail)


@dataclass(frozen=True, slots=True, repr=False)
class SideFile(Shown):
    """A small file beside the weights: written from ``content``, or copied."""

    name: str
    content: bytes | Path

    def overview(self) -> Overview:
        """Its name, and what it comes from."""
        origin = size(len(self.content)) if isinstance(self.content, bytes) else f"copy of {self.content}"
        return Overview(f"SideFile {self.name}: {origin}")
