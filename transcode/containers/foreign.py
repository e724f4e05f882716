"""Files that hold weights in formats that are not read, or no weights at all."""

from __future__ import annotations

import struct

__all__ = ["SUFFIXES", "foreign"]

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


def _gguf(head: bytes) -> str:
    """Version and number of tensors, as the header of llama.cpp's GGUF has them behind its magic (versions 2
    and 3: 32 bits, 64 bits; big-endian files have a version whose low half is zero).
    """
    if len(head) < 16:
        return ""
    order = "<" if int.from_bytes(head[4:8], "little") & 0xFFFF else ">"
    version, tensors = struct.unpack_from(f"{order}IQ", head, 4)
    many = "1 tensor" if tensors == 1 else f"{tensors} tensors"
    return f" of version {version} with {many}" if version in (2, 3) else ""
