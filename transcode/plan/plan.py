"""A plan: every output file, header, offset and job, with no tensor byte read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.event import Event, Remark
from ..core.output import PlannedFile, SideFile
from ..core.records import dataclass
from ..core.shown import Overview, Shown, Table
from ..core.source import Input
from ..core.spec import Spec, tallied
from ..core.tensor import LazyTensor
from ..core.text import change, count, size
from ..core.value import pack, unpack
from .fates import Fate, fates

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
        own: how many of the inputs are the source's.
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
    own: int = 0

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
            return sum(spec.nbytes * times for spec, times in tallied(self.stored.values()))
        tensors = [*self.tensors, *(tensor for tensor, _ in self.log.dropped)]
        return sum(tensor.spec.nbytes for tensor in tensors)

    @property
    def bytes_read(self) -> int:
        """Bytes of the source's tensors that the run reads: those that are left, and once more where a look
        at the whole tensor comes first.
        """
        return sum(self.before(t).nbytes * (2 if t.needs else 1) for t in self.tensors)

    @property
    def elsewhere(self) -> bool:
        """Whether some of what is read is not on this machine."""
        return any(one.path is None for one in self.inputs)

    @property
    def bytes_fetched(self) -> int:
        """Bytes of tensors that come over a network, as often as they are read; headers are not counted."""
        if not self.elsewhere:
            return 0
        from .transfer import transfer  # most sources are here

        return transfer(self.tensors)

    @property
    def bytes_out(self) -> int:
        """Bytes of all tensors in the weight files, markers included."""
        held = tallied(place.spec for file in self.files for place in file.places)
        return sum(spec.nbytes * times for spec, times in held)

    @property
    def file_bytes(self) -> int:
        """Bytes of all weight files, with their headers."""
        return sum(file.size for file in self.files)

    def before(self, tensor: LazyTensor) -> Spec:
        """Dtype and shape that a tensor has in the source, before any stage changed it."""
        return self.stored.get(tensor.source, tensor.spec)

    @property
    def tensors_in(self) -> int:
        """How many tensors the source stores: codes and scales each count."""
        return len(self.stored) if self.stored else len(self.tensors) + len(self.log.dropped)

    @property
    def tensors_out(self) -> int:
        """How many tensors the weight files hold, scales and markers included."""
        return sum(len(file.places) for file in self.files)

    def fates(self) -> list[Fate]:
        """What becomes of every tensor: of :attr:`tensors`, in their order, then of what was dropped."""
        return fates(self.tensors, self.log.dropped, self.stored)

    @property
    def totals(self) -> str:
        """Tensors as the source and as the output store them: ``87 -> 107 tensors, 402 kB -> 291 kB``. What
        headers and their room take is told of files.
        """
        return (
            f"{change(self.tensors_in, self.tensors_out, 'tensor')},"
            f" {size(self.bytes_in)} -> {size(self.bytes_out)}"
        )

    def overview(self) -> Overview:
        """What it would do, and what there is to say."""
        done: dict[str, list[Fate]] = {}
        for fate in self.fates():
            done.setdefault(fate.deed, []).append(fate)
        kinds = ", ".join(f"{len(alike)} {deed}" for deed, alike in list(done.items())[:8])
        facts = ", ".join(
            f"{key} {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
            for key, value in self.summary.items()
        )
        files = f"{count(len(self.files), 'file')} of {size(self.file_bytes)}"
        lines = [f"{self.totals}, {files}", kinds, facts, *self.log.overview().lines]
        rows = [
            (deed, len(alike), size(sum(f.bytes_in for f in alike)), size(sum(f.bytes_out for f in alike)))
            for deed, alike in done.items()
        ]
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
            **({"bytes_fetched": self.bytes_fetched} if self.elsewhere else {}),
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
