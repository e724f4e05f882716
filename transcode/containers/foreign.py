"""Files that hold weights in formats that are not read, or no weights at all."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from ..core.records import dataclass
from ..io.system import open_file

__all__ = ["SUFFIXES", "Gguf", "foreign", "gguf"]

SUFFIXES = frozenset({
    ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".pb", ".tflite", ".npz", ".npy", ".pkl",
    ".engine", ".mlmodel",
})  # fmt: skip
"""Suffixes of files that hold weights and are not read."""


_ORIGINAL = "take the safetensors file that it was made from"


def foreign(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins like this and is not safetensors, and what to do; None if it may be."""
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself", "run `git lfs pull`"
    if head.startswith(b"GGUF"):
        return f"is a GGUF file{_gguf(head)}, not safetensors", "let its name end in .gguf"
    if head[8:].lstrip(b" \t\r\n").startswith(b"{"):
        return None  # whatever the eight bytes of its length look like: 60 is b"<"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file, which transcode does not read", _ORIGINAL
    if head.lstrip()[:1] == b"<":
        return "is a web page, not weights", "download it again"
    return None


@dataclass(frozen=True)
class Gguf:
    """What the header of a GGUF file says.

    Attributes:
        version: 2 or 3 of those that are in use; 0 where the file ends before it.
        tensors: how many it holds.
        architecture: value of ``general.architecture``; None where that is not among the first keys.
        broken: why it is no GGUF that can be read; None where nothing shows that.
    """

    version: int
    tensors: int
    architecture: str | None
    broken: str | None = None


_MAGIC = b"GGUF"

_GGUF_HEAD = 65536
"""Bytes in which the architecture is looked for: llama.cpp writes it first."""

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of each type of value but texts (8) and lists (9): ``enum gguf_type`` of ggml's gguf.h."""

_TEXT = 8


def gguf(path: Path) -> Gguf | None:
    """What a GGUF file is, or the first of a folder that holds no other weights; None for anything else."""
    try:
        if path.is_dir():
            weights = sorted(
                name for name in os.listdir(path) if name.endswith((".gguf", ".safetensors", ".bin"))
            )
            if not weights or not all(name.endswith(".gguf") for name in weights):
                return None
            path = path / weights[0]
        with open_file(path) as file:
            head = file.read(_GGUF_HEAD)
    except OSError:
        return None
    return _header(head) if head.startswith(_MAGIC) else None


def _header(head: bytes) -> Gguf:
    """The layout of llama.cpp's GGUF behind its magic: version, number of tensors, number of keys, the keys
    with their values; 32 bits, then 64 bits each. Big-endian files have a version whose low half is zero.
    """
    if len(head) < 24:
        return Gguf(0, 0, None, "is a GGUF file that ends within its header")
    order = "<" if int.from_bytes(head[4:8], "little") & 0xFFFF else ">"
    version, tensors, keys = struct.unpack_from(f"{order}IQQ", head, 4)
    if version not in (2, 3):
        return Gguf(
            version, tensors, None, f"is a GGUF file of version {version}, which nobody reads any more"
        )
    if not tensors:
        return Gguf(version, 0, None, "is a GGUF file without tensors")
    return Gguf(version, tensors, _architecture(head, order, keys))


def _architecture(head: bytes, order: str, keys: int) -> str | None:
    at = 24
    try:
        for _ in range(keys):
            (length,) = struct.unpack_from(f"{order}Q", head, at)
            key, at = head[at + 8 : at + 8 + length], at + 8 + length
            (kind,) = struct.unpack_from(f"{order}I", head, at)
            at += 4
            if kind == _TEXT:
                (length,) = struct.unpack_from(f"{order}Q", head, at)
                value, at = head[at + 8 : at + 8 + length], at + 8 + length
                if key == b"general.architecture":
                    return value.decode() if len(value) == length else None
            elif kind in _SCALARS:
                at += _SCALARS[kind]
            else:
                return None
    except (struct.error, UnicodeDecodeError):
        pass
    return None


def _gguf(head: bytes) -> str:
    """Version and number of tensors, where the header has them."""
    if len(head) < 24:
        return ""
    header = _header(head)
    many = "1 tensor" if header.tensors == 1 else f"{header.tensors} tensors"
    return f" of version {header.version} with {many}" if header.version in (2, 3) else ""
