"""Safetensors as an entry of the table: how its files are recognised, opened and laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from os import PathLike
from typing import TYPE_CHECKING, ClassVar

from ...core.typed import Typed
from ...errors import PlanError
from ...voice import called
from ..container import Adopted, Contents, Heading, MetadataLimits, Split, Writable
from ..edit import undo
from . import header, headertext

if TYPE_CHECKING:  # commands that look at metadata alone do without
    from ...core.dtypes import DType
    from ...core.output import PlannedFile, Stored, Unit
    from ...io.bytes import Bytes
    from ...io.folder import File

__all__ = ["ORDER", "Safetensors"]

ORDER = (
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ",
    "F8_E5M2FNUZ", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
)  # fmt: skip
"""The dtypes that a header can name, as the reference serializer orders them (``safetensors/src/tensor.rs``,
enum ``Dtype``): files hold the last first."""

_RANK = {name: rank for rank, name in enumerate(ORDER)}


class Safetensors(Writable):
    """The format of Hugging Face."""

    name: ClassVar[str] = "safetensors"
    title: ClassVar[str] = "safetensors"
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)
    indexed: ClassVar[str | None] = ".safetensors"
    loose: ClassVar[bool] = False
    rooted: ClassVar[bool] = False
    metadata: ClassVar[MetadataLimits | None] = MetadataLimits(headertext.MOST_KEYS, header.MAX_HEADER)
    edited: ClassVar[bool] = True
    convention: ClassVar[str | None] = None

    def begins(self, head: bytes) -> bool:
        # A GGUF file of 123 tensors has that byte there, too; its magic would be a header of a gigabyte.
        return head[8:9] == b"{" and not head.startswith(b"GGUF")

    def settle(self, file: File) -> None:
        if file.path is not None:
            undo.repair(file.path)

    def open(self, file: Bytes, *, root_key: str | None = None) -> Contents:
        from ..stored import stored

        read = partial(header.read_from, file)
        parsed = read() if file.path is None else undo.steadily(file.path, read)
        tensors = [
            stored(file, entry.name, entry.spec, parsed.data_start + entry.begin) for entry in parsed.entries
        ]
        return Contents(tensors, parsed.metadata)

    def heading(self, file: Bytes, *, lenient: bool = False) -> Heading:
        read = partial(header.read_from, file, lenient=lenient)
        parsed = read() if file.path is None else undo.steadily(file.path, read)
        return Heading(
            parsed.metadata,
            [(entry.name, entry.spec, parsed.data_start + entry.begin) for entry in parsed.entries],
        )

    def adopt(self, metadata: Mapping[str, str], parts: Sequence[Stored]) -> Adopted:
        """Values of other types become text; what is many, as tokens are, or untrue here is left out."""
        left = [key for key, value in metadata.items() if isinstance(value, Typed) and value.full is not None]
        local = {key for key, value in metadata.items() if isinstance(value, Typed) and value.local}
        kept = {key: str(value) for key, value in metadata.items() if key not in local and key not in left}
        notes = (f"metadata {', '.join(left)}: only short values become text, these are left out",)
        return Adopted(kept, notes if left else ())

    def lay_out(
        self,
        name: str,
        units: Sequence[Unit],
        metadata: Mapping[str, str],
        *,
        split: Split | None = None,
        file: str | PathLike[str] | None = None,
    ) -> PlannedFile:
        """Order parts as the reference serializer does: wide dtypes first, then by name.

        So every part starts at a multiple of its item size without padding between parts, which the format
        forbids.
        """
        from ...core.output import Place, PlannedFile

        _check_metadata(metadata, file)
        by_dtype: dict[DType, list[tuple[str, Stored, int]]] = {}
        for unit in units:
            for part in unit.stored:
                if not (part.name.isascii() or header.is_text(part.name)):
                    raise PlanError(
                        "its name holds half of a surrogate pair",
                        file=file,
                        tensor=ascii(part.name),
                        hint="rename it",
                    )
                kind = part.spec.dtype
                if kind not in by_dtype:
                    _check_dtype(part, file)
                    by_dtype[kind] = []
                by_dtype[kind].append((part.name, part, unit.tensor))
        places = []
        at = 0
        for kind in sorted(by_dtype, key=lambda kind: _RANK[kind.name], reverse=True):
            parts = by_dtype.pop(kind)
            parts.sort(key=itemgetter(0))  # code points sort as their UTF-8 does
            for stored_name, part, tensor in parts:
                spec = part.spec
                end = at + spec.nbytes
                places.append(Place(stored_name, spec, tensor, part.role, at, end))
                at = end
        return PlannedFile(name, header.render(places, metadata, room=_room(at), file=file), tuple(places))


def _check_dtype(part: Stored, file: str | PathLike[str] | None) -> None:
    if part.spec.dtype.name not in _RANK:
        raise PlanError(
            f"its dtype {part.spec.dtype} is none that safetensors can name",
            file=file,
            tensor=part.name,
            hint="cast it"
            if part.spec.dtype.elements == 1
            else f"decode it: {called('dequantize')}; or write a file whose name ends in .gguf",
        )


def _check_metadata(metadata: Mapping[str, str], file: str | PathLike[str] | None) -> None:
    if len(metadata) > headertext.MOST_KEYS:
        raise PlanError(
            f"metadata has {len(metadata)} keys, more than the {headertext.MOST_KEYS} that are read",
            file=file,
        )
    for pair in metadata.items():
        for text in pair:
            if not header.is_text(text):
                raise PlanError(
                    f"metadata {pair[0]!r:.80}: {text!r:.80} holds half of a surrogate pair",
                    file=file,
                    hint="use another text",
                )


def _room(data_size: int) -> int:
    """Spare header bytes to leave: enough for a model's config in a big file, little in a small one."""
    return min(max(data_size >> 12, 512), 64 << 10)
