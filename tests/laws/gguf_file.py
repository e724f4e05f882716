"""GGUF files written as ``ggml/docs/gguf.md`` has them, with nothing of transcode."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

NUMBERS = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 8,
    "Q4_K": 12,
    "I8": 24,
    "I32": 26,
    "I64": 27,
    "F64": 28,
    "BF16": 30,
}
SCALARS = {
    "uint8": (0, "B"), "int8": (1, "b"), "uint16": (2, "H"), "int16": (3, "h"), "uint32": (4, "I"),
    "int32": (5, "i"), "float32": (6, "f"), "bool": (7, "?"), "uint64": (10, "Q"), "int64": (11, "q"),
    "float64": (12, "d"),
}  # fmt: skip


def text(value: str | bytes, order: str = "<") -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(f"{order}Q", len(raw)) + raw


def value(kind: str, of: Any, order: str = "<") -> bytes:
    """Type and value: ``("uint32", 7)``, ``("string", "a")``, ``("array", ("int32", [1, 2]))``."""
    if kind == "string":
        return struct.pack(f"{order}I", 8) + text(of, order)
    if kind == "array":
        inner, items = of
        number = {"string": 8, "array": 9}[inner] if inner in ("string", "array") else SCALARS[inner][0]
        body = b"".join(value(inner, item, order)[4:] for item in items)
        return struct.pack(f"{order}IIQ", 9, number, len(items)) + body
    number, code = SCALARS[kind]
    return struct.pack(f"{order}I{code}", number, of)


def gguf(
    tensors: Iterable[tuple[str, int, tuple[int, ...], bytes]],
    metadata: Mapping[str, tuple[str, Any]],
    *,
    order: str = "<",
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A file.

    Args:
        tensors: name, number of the type, shape with the outermost dimension first, bytes.
        metadata: key -> type and value, see :func:`value`.
        order: ``<`` or ``>``.
    """
    tensors = list(tensors)
    head = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors), len(metadata))
    for key, (kind, of) in metadata.items():
        head += text(key, order) + value(kind, of, order)
    at = 0
    data = b""
    for name, number, shape, raw in tensors:
        head += text(name, order) + struct.pack(
            f"{order}I{len(shape)}QIQ", len(shape), *shape[::-1], number, at
        )
        data += raw + bytes(-len(raw) % alignment)
        at = len(data)
    return head + bytes(-len(head) % alignment) + data
