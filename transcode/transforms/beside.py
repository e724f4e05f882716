"""The small files beside the weights: config, tokenizer and others of the source, and the index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import catalog
from ..core.flow import Flow
from ..core.plan import PlannedFile, SideFile
from ..core.planning import Planning
from ..core.tensor import LazyTensor

__all__ = ["index", "side_files"]

_CONFIG = "config.json"


def side_files(
    flow: Flow, tensors: Sequence[LazyTensor], taken: set[str], planning: Planning
) -> list[SideFile]:
    """Those of the source that still say the truth of the output.

    Where the architecture was spelled anew, its configuration is derived anew too: that of the source belongs
    to another class.

    Args:
        taken: names of the weight files.
    """
    found = {
        path.name: SideFile(path.name, path) for path in flow.source.side_files if path.name not in taken
    }
    if any(step.kind == "convert" for step in flow.steps):
        given = found.pop(_CONFIG, None)
        made = _derived(tensors, None if given is None else _read(given.content))
        if made is not None:
            text = json.dumps(made, indent=2, sort_keys=True)
            found[_CONFIG] = SideFile(_CONFIG, f"{text}\n".encode())
        else:
            planning.warn(
                f"no {_CONFIG} is written: that of the source is another program's, and none can be derived"
            )
    return list(found.values())


def _read(path: bytes | Path) -> dict[str, Any] | None:
    if isinstance(path, bytes):
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _derived(tensors: Sequence[LazyTensor], given: dict[str, Any] | None) -> dict[str, Any] | None:
    family = catalog.detect([tensor.name for tensor in tensors])
    if family is None:
        return None
    return family.config({tensor.name: tensor.spec.shape for tensor in tensors}, given)


def index(
    files: Sequence[PlannedFile], layout: str, stem: str, convention: catalog.Convention
) -> list[SideFile]:
    """The index that the consumer expects beside several files."""
    name = convention.index_name(layout, stem=stem)
    if name is None or len(files) == 1:
        return []
    weight_map = {place.name: file.name for file in files for place in file.places}
    if convention.files.total_size == "files":
        total = sum(file.size for file in files)
    else:
        total = sum(place.spec.nbytes for file in files for place in file.places)
    text = json.dumps(
        {"metadata": {"total_size": total}, "weight_map": weight_map},
        indent=2,
        sort_keys=convention.files.sort_keys,
    )
    return [SideFile(name, f"{text}\n".encode())]
