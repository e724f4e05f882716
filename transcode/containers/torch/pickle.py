"""PyTorch checkpoints read without torch, tensor by tensor, from where their bytes lie.

Two containers exist. The one of today is a zip file (``torch/serialization.py``, ``_save``):
``<root>/data.pkl`` is a pickle of the object, in which each tensor names a storage, and ``<root>/data/<key>``
holds that storage's bytes, stored and not compressed. The old one (``_legacy_save``) is a row of pickles
(magic number, protocol version, byte order, the object, the keys of its storages), followed by each storage:
its number of elements as a little-endian i64, then its bytes.

The pickles are read by :mod:`.unpickle`, which cannot run code: what is neither a tensor nor plain data is an
inert placeholder.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import PurePosixPath
from typing import IO, Any

from ...core.event import Event
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...errors import FormatError
from ...io.bytes import Bytes
from ...io.local import MappedFile
from ..ranks import ZERO_TOOL
from ..stored import contiguous, extent, stored, strided
from .arrays import Values, array_tensor
from .names import NAMES, Storage, Tensor, persistent
from .roots import ASK, Leaf, find_root, flatten, transform
from .unpickle import Unpickler

__all__ = ["LEGACY_MAGIC", "read_object", "read_pickle", "read_tensors"]

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of the magic number, with which files of the old container begin."""

_LEGACY_VERSION = 1001
_LONGEST_PICKLE = 1 << 28


@dataclass(frozen=True, slots=True)
class _Contents:
    value: object
    places: dict[str, tuple[int, int]]
    """Byte of the file at which each storage begins, and its bytes."""


def read_tensors(
    file: Bytes, *, root_key: str | None = None
) -> tuple[list[LazyTensor], dict[str, str], list[str]]:
    """The tensors of a checkpoint's state dict, by offset; metadata (there is none); notes.

    Args:
        root_key: where the state dict lies in the file, as keys joined by dots; ``"."`` is the top.

    Raises:
        FormatError: the file is damaged, wants to run code, or it is not clear where its tensors lie.
    """
    contents = _load(file)
    root, notes = find_root(contents.value, root_key, file.url)
    leaves, more = flatten(root, file.url)
    _check_not_partitioned(contents.value, leaves, file.url)
    make = _Maker(file, contents, leaves.values())
    tensors = [make(name, leaf) for name, leaf in leaves.items()]
    tensors.sort(key=lambda item: item[0])
    return (
        [tensor for _, tensor in tensors],
        {},
        [f"{PurePosixPath(file.url).name}: {note}" for note in (*notes, *more)],
    )


def read_pickle(path: str | PathLike[str]) -> Any:
    """As :func:`read_object`, of a local file."""
    try:
        return read_object(MappedFile(path))
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=path) from None


def read_object(file: Bytes) -> Any:
    """The object of a PyTorch file: nested dicts, lists, tuples and scalars with LazyTensor leaves.

    A tensor is named by the keys that lead to it, joined by dots. Nothing of a tensor is read.

    Raises:
        FormatError: the file is damaged or wants to run code.
    """
    contents = _load(file)
    leaves: list[Leaf] = []
    transform(contents.value, lambda name, leaf: leaves.append(leaf), file.url)
    make = _Maker(file, contents, leaves)
    return transform(contents.value, lambda name, leaf: make(name, leaf)[1], file.url)


# tensors


def _check_not_partitioned(value: object, leaves: dict[str, Leaf], path: str) -> None:
    """Refuse what a rank of DeepSpeed's ZeRO stage 3 saves: every weight empty, its shape said beside."""
    shapes = value.get("param_shapes") if isinstance(value, dict) else None
    groups = [group for group in shapes if isinstance(group, dict)] if isinstance(shapes, list) else []
    for group in groups if groups or not isinstance(shapes, dict) else [shapes]:
        for name, shape in group.items():
            leaf = leaves.get(str(name))
            if leaf is not None and leaf.shape == (0,) and type(shape) is tuple and 0 not in shape:
                raise FormatError(
                    f"is empty, its parameters of shape {list(shape)} lie in the files of all ranks"
                    " (ZeRO stage 3)",
                    file=path,
                    tensor=str(name),
                    hint=f"join them first: {ZERO_TOOL}",
                )


class _Maker:
    """Makes lazy tensors of a file, knowing which of them overlap."""

    def __init__(self, file: Bytes, contents: _Contents, leaves: Iterable[Leaf]) -> None:
        self._file = file
        self._places = contents.places
        self._shared = _overlaps([leaf for leaf in leaves if isinstance(leaf, Tensor)])

    def __call__(self, name: str, tensor: Leaf) -> tuple[int, LazyTensor]:
        """The tensor, and the byte of the file at which it begins; 0 for an array, inside of the pickle."""
        if isinstance(tensor, Values):
            return 0, array_tensor(name, tensor)
        assert isinstance(tensor, Tensor)

        def wrong(what: str, hint: str | None = None) -> FormatError:
            return FormatError(what, file=self._file.url, tensor=name, hint=hint)

        if tensor.refused is not None:
            raise wrong(tensor.refused, "save it as an ordinary tensor")
        assert tensor.storage is not None
        if tensor.kind.dtype is None:
            raise wrong(f"has the dtype {tensor.kind.name}, which safetensors lacks", "cast it before saving")
        place = self._places.get(tensor.storage.key)
        if place is None:
            raise wrong(f"its storage {tensor.storage.key!r} is not in the file", "is the download complete?")
        at, held = place
        if not 0 <= held - tensor.storage.nbytes < tensor.storage.kind.itemsize:
            raise wrong(f"its storage has {held} bytes, the pickle says {tensor.storage.nbytes}")
        size = tensor.kind.itemsize
        needed = (tensor.offset + extent(tensor.shape, tensor.strides)) * size
        if 0 not in tensor.shape and needed > held:
            raise wrong(f"it reaches to byte {needed} of its storage, which has {held}")
        dtype, shape = tensor.kind.dtype, tensor.shape
        if dtype.packed:
            if not shape:
                raise wrong("is a scalar of a packed dtype")
            shape = (*shape[:-1], shape[-1] * 2)
        spec = Spec(dtype, shape)
        begin = at + tensor.offset * size if 0 not in shape else at
        shares = self._shared.get(tensor)
        if shares is not None:
            shares = f"{self._file.url}:{shares}"
        if contiguous(tensor.shape, tensor.strides):
            return begin, stored(self._file, name, spec, begin, shares=shares)
        return begin, strided(
            self._file, name, spec, begin, tensor.shape, tensor.strides, shares=shares
        ).evolve(did=Event("gather", "it was not contiguous"))  # fmt: skip


def _overlaps(tensors: list[Tensor]) -> dict[Tensor, str]:
    """A key for each run of tensors of one storage whose bytes overlap."""
    ranges: dict[str, list[tuple[int, int, Tensor]]] = {}
    for tensor in tensors:
        if tensor.storage is not None and 0 not in tensor.shape:
            begin = tensor.offset * tensor.kind.itemsize
            end = begin + extent(tensor.shape, tensor.strides) * tensor.kind.itemsize
            ranges.setdefault(tensor.storage.key, []).append((begin, end, tensor))
    keys: dict[Tensor, str] = {}
    for storage, spans in ranges.items():
        spans.sort(key=lambda item: item[:2])
        run: list[Tensor] = []
        reach = first = -1
        for begin, end, tensor in [*spans, (1 << 80, 0, spans[0][2])]:
            if begin >= reach:
                if len(run) > 1:
                    keys.update(dict.fromkeys(run, f"{storage}+{first}"))
                run, first = [], begin
            run.append(tensor)
            reach = max(reach, end)
    return keys


# containers


def _load(opened: Bytes) -> _Contents:
    path = opened.url
    try:
        with opened.open() as file:
            head = file.read(512)
            file.seek(0)
            if head.startswith(b"PK\x03\x04"):
                return _load_zip(file, path)
            if head.startswith(LEGACY_MAGIC):
                return _load_legacy(file, path)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror or error}", file=path) from None
    if head[257:262] == b"ustar":
        raise FormatError(
            "is a tar file, as torch wrote before version 0.2", file=path,
            hint=ASK,
        )  # fmt: skip
    raise FormatError("is not a PyTorch checkpoint", file=path, hint="is the download complete?")


def _load_zip(file: IO[bytes], path: str) -> _Contents:
    def wrong(what: str, hint: str | None = None) -> FormatError:
        return FormatError(what, file=path, hint=hint)

    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
        raise wrong(f"its zip directory is damaged: {error}", "is the download complete?") from None
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if members.setdefault(member.filename, member) is not member:
            raise wrong(f"its zip directory names {member.filename!r} twice")
    roots = [
        name.removesuffix("data.pkl")
        for name in members
        if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in members):
            raise wrong("is a TorchScript program, not a checkpoint", ASK)
        raise wrong("is a zip file but not a PyTorch checkpoint: it has no data.pkl")
    root = roots[0]
    order = members.get(f"{root}byteorder")
    if order is not None and (byte_order := _member(file, order, path)) != b"little":
        raise wrong(
            f"its byte order is {byte_order[:16].decode('latin1')!r}, only little-endian files are read"
        )
    if f"{root}constants.pkl" in members:
        raise wrong("is a TorchScript program, not a checkpoint", ASK)

    pickle = members[f"{root}data.pkl"]
    value = Unpickler(io.BytesIO(_member(file, pickle, path)), NAMES, persistent, path).load()
    prefix = f"{root}data/"
    places = {
        name.removeprefix(prefix): (_locate(file, member, path, archive.start_dir), member.file_size)
        for name, member in members.items()
        if name.startswith(prefix)
    }
    return _Contents(value, places)


def _locate(file: IO[bytes], member: zipfile.ZipInfo, path: str, limit: int) -> int:
    """Byte at which the bytes of a stored member begin (APPNOTE.TXT 4.3.7)."""

    def wrong(what: str, hint: str | None = None) -> FormatError:
        return FormatError(f"its member {member.filename!r} {what}", file=path, hint=hint)

    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise wrong("is compressed", "unzip the file and zip it again without compression (zip -0)")
    if member.flag_bits & 1:
        raise wrong("is encrypted")
    if not 0 <= member.header_offset <= limit:
        raise wrong("lies outside the file", "is the download complete?")
    file.seek(member.header_offset)
    raw = file.read(30)
    if len(raw) < 30 or not raw.startswith(b"PK\x03\x04"):
        raise wrong("is not where the zip directory says")
    name, extra = struct.unpack("<HH", raw[26:30])
    spelled = file.read(name)
    if spelled != member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437", "replace"):
        raise wrong("has another name in front of its bytes")
    begin: int = member.header_offset + 30 + name + extra
    if begin + member.file_size > limit:
        raise wrong("reaches into the zip directory", "is the download complete?")
    # A damaged length of the extra field would shift every byte unseen; but what follows a member is known:
    # another header, the directory, or a descriptor, whose signature may be left out.
    file.seek(begin + member.file_size)
    after = file.read(4)
    if not after.startswith(b"PK") and not (member.flag_bits & 8 and after == struct.pack("<I", member.CRC)):
        raise wrong("does not end where the next one begins")
    return begin


def _size(file: IO[bytes]) -> int:
    at = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(at)
    return size


def _member(file: IO[bytes], member: zipfile.ZipInfo, path: str) -> bytes:
    """The bytes of a small member, checked against its checksum."""
    if member.file_size > _LONGEST_PICKLE:
        raise FormatError(f"its member {member.filename!r} has {member.file_size} bytes", file=path)
    file.seek(_locate(file, member, path, _size(file)))
    raw = file.read(member.file_size)
    if member.CRC and zlib.crc32(raw) != member.CRC:  # torch can be told to leave checksums out
        raise FormatError(f"its member {member.filename!r} does not match its checksum", file=path)
    return raw


def _load_legacy(file: IO[bytes], path: str) -> _Contents:
    def wrong(what: str) -> FormatError:
        return FormatError(what, file=path, hint="is the download complete?")

    def load(resolve: Callable[[object], object] = persistent) -> Any:
        return Unpickler(file, NAMES, resolve, path).load()

    size = _size(file)
    file.seek(len(LEGACY_MAGIC))
    if (version := load()) != _LEGACY_VERSION:
        shown = version if isinstance(version, int) else f"a {type(version).__name__}"
        raise wrong(f"its protocol version is {shown}, not {_LEGACY_VERSION}")
    system = load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise FormatError("its byte order is big, only little-endian files are read", file=path)
    storages: dict[str, Storage] = {}

    def remember(described: object) -> object:
        storage = persistent(described)
        return storages.setdefault(storage.key, storage) if isinstance(storage, Storage) else storage

    value = load(remember)
    keys = load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise wrong("the keys of its storages are damaged")
    places: dict[str, tuple[int, int]] = {}
    at = file.tell()
    for key in keys:
        file.seek(at)
        raw = file.read(8)
        storage = storages.get(key)
        if storage is None or len(raw) < 8 or key in places:
            raise wrong(f"its storage {key[:40]!r} is damaged")
        count: int = struct.unpack("<q", raw)[0]
        held = count * storage.kind.itemsize
        if count < 0 or at + 8 + held > size:
            raise wrong(f"its storage {key[:40]!r} claims {count} elements, more than the file holds")
        places[key] = (at + 8, held)
        at += 8 + held
    if at != size:
        raise wrong(f"has {size - at} bytes behind its storages")
    return _Contents(value, places)
