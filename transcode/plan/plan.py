"""A plan: every output file, header, offset and job, with no tensor byte read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.event import Event, Remark, deed
from ..core.output import PlannedFile, SideFile
from ..core.shown import Overview, Shown, Table
from ..core.source import Input
from ..core.spec import Spec
from ..core.tensor import LazyTensor
from ..core.text import count, size
from ..core.value import pack, unpack

__all__ = ["Log", "Plan"]

_REMARKS = 5
"""Remarks that are shown."""


@dataclass(frozen=True, slots=True, repr=False)
class Log(Shown):
    """What planning has to say.

    Attributes:
        notes: remarks on the whole, such as which family was recognised.
        warnings: what the user should look at.
        dropped: tensors that left the flow, and why.
    """

    notes: tuple[Remark, ...] = ()
    warnings: tuple[Remark, ...] = ()
    dropped: tuple[tuple[LazyTensor, Event], ...] = ()

    def overview(self) -> Overview:
        """How much there is, and the first of it."""
        head = f"{count(len(self.warnings), 'warning')}, {count(len(self.notes), 'note')}"
        lines = [f"warning: {remark}" for remark in self.warnings[:_REMARKS]]
        lines += [f"note: {remark}" for remark in self.notes[:_REMARKS]]
        return Overview(f"Log: {head}, {count(len(self.dropped), 'tensor')} dropped", lines)


@dataclass(frozen=True, repr=False)
class Plan(Shown):
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

    def __reduce__(self) -> tuple[Any, ...]:
        held = {one.name: getattr(self, one.name) for one in fields(self)}
        return _plan, (pack(held.pop("tensors")), held)

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

    def fates(self) -> dict[str, tuple[int, int, int]]:
        """What becomes of the tensors: by :func:`.core.event.deed` how many there are, and their bytes in the
        source and in the output.
        """
        fates: dict[str, tuple[int, int, int]] = {}
        of_all = [(deed(tensor.fate), tensor, tensor.nbytes) for tensor in self.tensors]
        of_all += [
            ("into others" if why.kind == "absorb" else "drop", tensor, 0) for tensor, why in self.log.dropped
        ]
        for label, tensor, after in of_all:
            number, before, kept = fates.get(label, (0, 0, 0))
            fates[label] = (number + 1, before + self.before(tensor).nbytes, kept + after)
        return fates

    @property
    def totals(self) -> str:
        """Tensors and files in one line: ``87 tensors, 402 kB -> 291 kB, 1 file of 301 kB``."""
        # Tensors with tensors: what headers and their room take is told apart.
        return (
            f"{count(len(self.tensors), 'tensor')}, {size(self.bytes_in)} -> {size(self.bytes_out)},"
            f" {count(len(self.files), 'file')} of {size(self.file_bytes)}"
        )

    def overview(self) -> Overview:
        """What it would do, and what there is to say."""
        fates = self.fates()
        kinds = ", ".join(f"{number} {label}" for label, (number, *_) in list(fates.items())[:8])
        facts = ", ".join(
            f"{key} {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
            for key, value in self.summary.items()
        )
        lines = [self.totals, kinds, facts, *self.log.overview().lines]
        rows = [(label, n, size(before), size(after)) for label, (n, before, after) in fates.items()]
        tables = (
            Table(("fate", "tensors", "before", "after"), rows, len(rows), (1, 2, 3)),
            Table(
                ("file", "tensors", "size"),
                ((file.name, len(file.places), size(file.size)) for file in self.files),
                len(self.files),
                (1, 2),
            ),
        )
        return Overview(f"Plan {self.source} -> {self.destination}", [line for line in lines if line], tables)

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


def _plan(tensors: Any, held: Mapping[str, Any]) -> Plan:
    return Plan(tensors=tuple(unpack(tensors)), **held)
