"""Files that weigh columns: importance matrices of llama.cpp, and tensors of one vector to a weight.

Importance matrices are GGUF with ``NAME.in_sum2`` and ``NAME.counts`` (llama.cpp, ``tools/imatrix``), or the
older ``.dat``: int32 number of entries; of each int32 length of the name, the name, int32 calls, int32 number
of values, float32 sums of mean squares of all calls; what follows is not needed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ....containers.checkpoint import Source, SourceFile
from ....containers.source import open_source
from ....containers.stored import stored
from ....core.dtypes import DTYPES, FLOATS
from ....core.paths import located
from ....core.records import dataclass
from ....core.spec import Spec
from ....core.tensor import LazyTensor
from ....errors import FormatError
from ....io.bytes import Bytes
from ....io.folder import File
from ....io.named import locate
from .columns import Stored

__all__ = ["MARK", "WeightFile", "digest", "open_weights", "split"]

_SUMS, _COUNTS = ".in_sum2", ".counts"
MARK = "#sha256:"
"""What stands between a path and the digest that the file must have."""

_MOST_ENTRIES, _LONGEST = 1 << 22, 4096


class _Entry(NamedTuple):
    sums: LazyTensor
    counts: LazyTensor | None
    calls: int


@dataclass(frozen=True)
class WeightFile:
    """An opened file.

    Attributes:
        path: as messages name it.
        source: what a plan watches.
        entries: by the names of the weights.
    """

    path: str
    source: Source
    entries: Mapping[str, _Entry]

    def columns(self, name: str, width: int, row: int | None = None) -> Stored:
        """The weights that an entry gives for matrices of so many columns, or one row of them."""
        sums, counts, calls = self.entries[name]
        return Stored(self.path, name, sums, counts, calls, row, width)


def split(path: str) -> tuple[str, str | None]:
    """A path, and the digest that may stand behind it, after ``#sha256:``."""
    file, mark, digest = path.rpartition(MARK)
    return (file, digest) if mark else (path, None)


def digest(path: str) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        FormatError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=path) from None


def open_weights(path: str) -> WeightFile:
    """Open a file of weights; behind its path may stand the digest that it must have.

    Raises:
        FormatError: it is none, is damaged, or has another digest.
    """
    path, wanted = split(path)
    place = locate(path)
    if not isinstance(place, File):
        raise FormatError("is a folder", file=path, hint="name the file that weighs columns")
    if wanted is not None and (had := digest(path)) != wanted.lower():
        raise FormatError(
            f"has the SHA-256 {had[:16]}..., not {wanted[:16]}...", file=path,
            hint="it is not the file that is meant",
        )  # fmt: skip
    raw = place.open()
    head = _bytes(raw, 0, min(8, raw.size))
    if head[:4] != b"GGUF" and head[:2] != b"PK" and not head[8:9] and not _is_safetensors(raw, head):
        return _legacy(path, raw)
    source = open_source(path)
    tensors = {tensor.name: tensor for tensor in source.tensors}
    entries: dict[str, _Entry] = {}
    for name, tensor in tensors.items():
        if not name.endswith(_SUMS):
            continue
        base = name.removesuffix(_SUMS)
        counts = tensors.get(base + _COUNTS)
        if counts is None or tensor.spec.numel % max(counts.spec.numel, 1) or not counts.spec.numel:
            raise FormatError(f"has no {base}{_COUNTS} that fits it", file=path, tensor=name)
        _refuse_codes(path, tensor, counts)
        entries[base] = _Entry(tensor, counts, 1)
    if not entries and head[:4] == b"GGUF":
        raise FormatError(
            f"is no importance matrix: no tensor of it ends in {_SUMS}", file=path,
            hint="name the imatrix that llama-imatrix made, not the model",
        )  # fmt: skip
    if not entries:
        for name, tensor in tensors.items():
            _refuse_codes(path, tensor)
            if not 1 <= len(tensor.spec.shape) <= 2 or not tensor.spec.numel:
                raise FormatError(
                    f"is {tensor.spec}, where a vector to a weight is expected", file=path, tensor=name,
                    hint="hold one weight for each column of a matrix, float32 [K]",
                )  # fmt: skip
            entries[name] = _Entry(tensor, None, 1)
    if not entries:
        raise FormatError("holds no weights of columns", file=path)
    return WeightFile(path, source, entries)


def _refuse_codes(path: str, *tensors: LazyTensor) -> None:
    for tensor in tensors:
        if tensor.spec.dtype.name not in FLOATS:
            raise FormatError(f"is {tensor.spec}, not a float", file=path, tensor=tensor.name)


def _is_safetensors(raw: Bytes, head: bytes) -> bool:
    if len(head) < 8:
        return False
    (size,) = struct.unpack("<Q", head)
    return 2 <= size <= raw.size - 8 and _bytes(raw, 8, 9) == b"{"


def _bytes(raw: Bytes, begin: int, end: int) -> bytes:
    with raw.open() as file:
        file.seek(begin)
        return file.read(end - begin)


def _legacy(path: str, raw: Bytes) -> WeightFile:
    def wrong(what: str) -> FormatError:
        return FormatError(
            f"is no importance matrix: {what}", file=path,
            hint="give what llama-imatrix made, or a safetensors file of vectors",
        )  # fmt: skip

    entries: dict[str, _Entry] = {}
    with raw.open() as file:

        def number(what: str) -> int:
            data = file.read(4)
            if len(data) < 4:
                raise wrong(f"it ends before {what}")
            value: int = struct.unpack("<i", data)[0]
            return value

        count = number("the number of its entries")
        if not 1 <= count <= _MOST_ENTRIES:
            raise wrong(f"it says that it has {count} entries")
        for at in range(count):
            length = number(f"the name of entry {at}")
            if not 1 <= length <= _LONGEST:
                raise wrong(f"the name of entry {at} has {length} characters")
            data = file.read(length)
            try:
                name = data.decode()
            except UnicodeDecodeError:
                raise wrong(f"the name of entry {at} is no text") from None
            calls, values = number(f"the calls of {name!r}"), number(f"the values of {name!r}")
            begin = file.tell()
            if values < 1 or begin + 4 * values > raw.size:
                raise wrong(f"{name!r} has {values} values, which do not lie in the file")
            if name in entries:
                raise wrong(f"{name!r} is there twice")
            sums = stored(raw, name, Spec(DTYPES["F32"], (values,)), begin)
            entries[name] = _Entry(sums, None, max(calls, 1))
            file.seek(begin + 4 * values)
    place = located(raw.url)
    files = (SourceFile(place, raw.size, len(entries), {}),)
    tensors = tuple(entry.sums for entry in entries.values())
    return WeightFile(path, Source(place, files, tensors, {}, (), place.stem, (), (raw,)), entries)
