"""Weight files as they lie on the disk, read without any library that may not know a dtype."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

__all__ = ["indexed", "raw"]


def raw(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Dtype, shape and bytes of all tensors of a folder; torch and numpy do not read F6, nor numpy F8."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        header.pop("__metadata__", None)
        for name, facts in header.items():
            begin, end = facts["data_offsets"]
            found[name] = facts["dtype"], facts["shape"], content[8 + size + begin : 8 + size + end]
    return found


def indexed(folder: Path) -> dict[str, str]:
    """The file of each tensor: what the index says, which is what the reference library finds."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            held |= dict.fromkeys(file.keys(), path.name)
    assert held == index["weight_map"]
    return held
