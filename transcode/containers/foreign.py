"""Files that hold weights in formats that are not read, or no weights at all."""

from __future__ import annotations

__all__ = ["SUFFIXES", "foreign"]

SUFFIXES = frozenset({
    ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".pb", ".tflite", ".npz", ".npy", ".pkl",
    ".engine", ".mlmodel",
})  # fmt: skip
"""Suffixes of files that hold weights and are not read."""


def foreign(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins like this and is not safetensors, and what to do; None if it may be."""
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself", "run `git lfs pull`"
    if head[8:].lstrip(b" \t\r\n").startswith(b"{"):
        return None  # whatever the eight bytes of its length look like: 60 is b"<"
    if head.startswith((b"GGUF", b"\x89HDF")):
        return "is a GGUF or HDF5 file, which transcode does not read", "convert a safetensors file"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not weights", "download it again"
    return None
