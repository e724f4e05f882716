"""Metadata of safetensors and GGUF files, read and edited in place: what ``transcode meta`` does, for Python.

>>> import transcode as tc                                                            # doctest: +SKIP
>>> tc.meta.get("model.safetensors")                                                  # doctest: +SKIP
>>> tc.meta.set("model.safetensors", {"author": "me"})                                # doctest: +SKIP

An edit overwrites the header where the new one fits, else grows the file at its front without moving the
tensors, else copies it. Before the first byte changes the old header is on disk beside the file: a killed
edit is undone by the next access. All functions take a file, an index, or a folder of shards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..containers.compare import Change
    from ..containers.edit.edit import Edited
    from .checks import Difference, Validation, diff, get, validate
    from .edits import EditOptions, Edits, backup, clear, delete, rename, restore, restore_copy, set
    from .embedding import embed

__all__ = [
    "Change",
    "Difference",
    "EditOptions",
    "Edited",
    "Edits",
    "Validation",
    "backup",
    "clear",
    "delete",
    "diff",
    "embed",
    "get",
    "rename",
    "restore",
    "restore_copy",
    "set",
    "validate",
]

_HOMES = {
    "Change": "..containers.compare",
    "Edited": "..containers.edit.edit",
    **dict.fromkeys(("Difference", "Validation", "diff", "get", "validate"), ".checks"),
    "embed": ".embedding",
}


def __getattr__(name: str) -> Any:
    # The commands that edit do without the rest: it loads when it is asked for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    wanted = getattr(import_module(_HOMES.get(name, ".edits"), __name__), name)
    globals()[name] = wanted
    return wanted


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
