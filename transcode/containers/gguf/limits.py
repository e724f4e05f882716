"""What begins a GGUF file, keys that say how it lies, and the bounds within which one is read.

Apart from the reader, which commands that never meet such a file do without.
"""

from __future__ import annotations

__all__ = ["FILLER", "MAGIC", "MAX_HEADER", "MOST_KEYS", "ORIG_SHAPE"]

MAGIC = b"GGUF"

ORIG_SHAPE = "comfy.gguf.orig_shape."
"""Of ComfyUI-GGUF: the shape of a tensor that ggml cannot hold as it is; the tensor's name follows."""

MAX_HEADER = 256 << 20
"""Most bytes before the data section; the largest vocabularies have a tenth."""

MOST_KEYS = 100_000
"""Most keys of metadata."""

FILLER = "tc.padding"
"""Key of a text that only fills space, so that tensors can stay where they are when metadata changes, and of
nothing else. Short, so that it fits wherever as much as the usual alignment of 32 bytes is left."""
