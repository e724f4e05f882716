"""A plan: every output file, header, offset and job, with no tensor byte read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

from .. import __version__
from .event import Event, Remark
from .spec import Spec
from .tensor import LazyTensor

__all__ = ["Input", "Log", "Place", "Plan", "PlannedFile", "SideFile"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one part goes: ``[begin, end)`` in the data section of a file."""

    name: str
    spec: Spec
    tensor: int
    role: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class PlannedFile:
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

    def __reduce__(self) -> tuple[Any, ...]:
        # By columns: a model of experts has hundreds of thousands of places.
        return _planned, (self.name, self.header, self.tail, *zip(*map(_FIELDS, self.places), strict=True))

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + (self.places[-1].end if self.places else 0) + len(self.tail)


_FIELDS = attrgetter(*(one.name for one in fields(Place)))


def _planned(name: str, header: bytes, tail: bytes, *columns: tuple[Any, ...]) -> PlannedFile:
    return PlannedFile(name, header, tuple(map(Place, *columns)) if columns else (), tail)


@dataclass(frozen=True, slots=True)
class SideFile:
    """A small file beside the weights: written from ``content``, or copied."""

    name: str
    content: bytes | Path


class Input(Protocol):
    """A file that a run reads, as it was when it was opened."""

    @property
    def url(self) -> str:
        """Where it is, as messages name it."""

    @property
    def path(self) -> Path | None:
        """The local file; None where there is none."""

    @property
    def identity(self) -> tuple[int | str, ...]:
        """By what it is known to be the same."""

    def verify(self) -> None:
        """Raise FormatError if it is not what it was."""


@dataclass(frozen=True, slots=True)
class Log:
    """What planning has to say.

    Attributes:
        notes: remarks on the whole, such as which family was recognised.
        warnings: what the user should look at.
        dropped: tensors that left the flow, and why.
    """

    notes: tuple[Remark, ...] = ()
    warnings: tuple[Remark, ...] = ()
    dropped: tuple[tuple[LazyTensor, Event], ...] = ()


@dataclass(frozen=True)
class Plan:
    """A recipe resolved against a source.

    Attributes:
        source: what is read.
        destination: the file or folder that appears when the run succeeds.
        folder: whether the destination is a folder.
        tensors: the tensors of the flow, in the order in which they are read.
        files: weight files, in the order in which they appear.
        side_files: index, config, tokenizer...; the index comes last.
        log: notes, warnings, and what was dropped.
        inputs: the files that are read, the source's first.
        stored: dtype and shape of each of the source's tensors, by its name in the source.
        summary: facts of the recipe for people and JSON: scheme, convention, family, layout, digest.
    """

    source: Path
    destination: Path
    folder: bool
    tensors: tuple[LazyTensor, ...]
    files: tuple[PlannedFile, ...]
    side_files: tuple[SideFile, ...]
    log: Log
    inputs: tuple[Input, ...] = ()
    stored: Mapping[str, Spec] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides the output: version and recipe, the inputs and what they are known by,
        every header, every small file. Where the output goes and how it is computed are no part of it.
        """
        whole = hashlib.sha256()
        facts = {
            "version": __version__,
            "recipe": self.summary.get("digest"),
            "inputs": [[one.url, *one.identity] for one in self.inputs],
            "files": [[file.name, hashlib.sha256(file.header).hexdigest()] for file in self.files],
        }
        whole.update(json.dumps(facts, sort_keys=True).encode())
        for side in self.side_files:
            content = side.content if isinstance(side.content, bytes) else str(side.content).encode()
            whole.update(f"\0{side.name}\0".encode() + content)
        return whole.hexdigest()

    @property
    def bytes_in(self) -> int:
        """Bytes of all the source's tensors, as it stores them; headers are not counted."""
        if self.stored:
            return sum(spec.nbytes for spec in self.stored.values())
        tensors = [*self.tensors, *(tensor for tensor, _ in self.log.dropped)]
        return sum(tensor.spec.nbytes for tensor in tensors)

    @property
    def bytes_read(self) -> int:
        """Bytes of the source's tensors that the run reads: those that are left, and once more where a look
        at the whole tensor comes first.
        """
        return sum(self.before(t).nbytes * (2 if t.needs else 1) for t in self.tensors)

    @property
    def bytes_out(self) -> int:
        """Bytes of all tensors in the weight files, markers included."""
        return sum(place.spec.nbytes for file in self.files for place in file.places)

    @property
    def file_bytes(self) -> int:
        """Bytes of all weight files, with their headers."""
        return sum(file.size for file in self.files)

    def before(self, tensor: LazyTensor) -> Spec:
        """Dtype and shape that a tensor has in the source, before any stage changed it."""
        return self.stored.get(tensor.source, tensor.spec)

    def destinations(self) -> dict[tuple[int, str], tuple[int, int]]:
        """``(tensor, role) -> (file, byte in that file)``."""
        return {
            (place.tensor, place.role): (number, len(file.header) + place.begin)
            for number, file in enumerate(self.files)
            for place in file.places
        }

    def to_json(self) -> dict[str, Any]:
        """All of it, for scripts: each tensor's fate, each file's entries.

        ``dtype`` and ``shape`` of a tensor are those in the source; what it becomes is ``stored``.
        """
        stored: dict[int, list[dict[str, Any]]] = {}
        for file in self.files:
            for place in file.places:
                stored.setdefault(place.tensor, []).append(
                    {
                        "name": place.name,
                        "role": place.role,
                        "dtype": place.spec.dtype.name,
                        "shape": list(place.spec.shape),
                        "file": file.name,
                        "offset": len(file.header) + place.begin,
                    }
                )
        tensors = [
            {
                "source": tensor.source,
                "name": tensor.name,
                "dtype": self.before(tensor).dtype.name,
                "shape": list(self.before(tensor).shape),
                "fate": list(map(str, tensor.fate)) or ["keep"],
                "stored": stored.get(number, []),
            }
            for number, tensor in enumerate(self.tensors)
        ]
        dropped = [
            {
                "source": tensor.source,
                "dtype": self.before(tensor).dtype.name,
                "shape": list(self.before(tensor).shape),
                "fate": list(map(str, (*tensor.fate, why))),
                "stored": [],
            }
            for tensor, why in self.log.dropped
        ]
        return {
            "source": str(self.source),
            "destination": str(self.destination),
            **self.summary,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "file_bytes": self.file_bytes,
            "files": [
                {"name": file.name, "size": file.size, "tensors": len(file.places)} for file in self.files
            ],
            "side_files": [side.name for side in self.side_files],
            "notes": list(map(str, self.log.notes)),
            "warnings": list(map(str, self.log.warnings)),
            "tensors": tensors,
            "dropped": dropped,
        }
