"""The small files beside the weights: config, tokenizer and others of the source, and the index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import catalog
from ..core import small_json
from ..core.flow import Flow
from ..core.output import PlannedFile, SideFile
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError
from .evidence import CONFIG, MODELOPT, beyond, config_keys, read_json, without_claims
from .partial_config import partly, partly_modelopt
from .quantization_config import KEY, computes, quantization_config

__all__ = ["index", "note_config", "side_files"]

_DTYPES = ("dtype", "torch_dtype")
"""Where config.json says in which dtype a model is loaded; the second is read by older releases too."""

_TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def side_files(
    flow: Flow, tensors: Sequence[LazyTensor], taken: set[str], planning: Planning
) -> list[SideFile]:
    """Those of the source that still say the truth of the output.

    Where the architecture was spelled anew, its configuration is derived anew too: that of the source belongs
    to another class. Where tensors are quantized, config.json says so in the words of the convention's
    consumer; where they are no longer, it does not.

    Args:
        taken: names of the weight files.
    """
    found = {
        path.name: SideFile(path.name, path) for path in flow.source.side_files if path.name not in taken
    }
    if any(step.respells for step in flow.steps):
        given = found.pop(CONFIG, None)
        made = _derived(tensors, None if given is None else _read(given.content))
        if made is not None:
            text = json.dumps(made, indent=2, sort_keys=True)
            found[CONFIG] = SideFile(CONFIG, f"{text}\n".encode())
        else:
            planning.warn(
                f"no {CONFIG} is written: that of the source is another program's, and none can be derived"
            )
    _say_quantized(found, flow, tensors, planning)
    _say_dtype(found, flow, tensors, planning)
    return list(found.values())


def note_config(tensors: Sequence[LazyTensor], convention: catalog.Convention, planning: Planning) -> None:
    """Say what the consumer will miss where no side files are written."""
    if convention.config is not None and any(tensor.scheme is not None for tensor in tensors):
        planning.note(
            f"{convention.name}: loaders need a {CONFIG} with the {KEY} of these tensors; it is written with"
            " the other side files, into a folder"
        )


def _say_quantized(
    found: dict[str, SideFile], flow: Flow, tensors: Sequence[LazyTensor], planning: Planning
) -> None:
    """Put ``quantization_config`` into config.json, take it out, or let it say what is left."""
    side = found.get(CONFIG)
    config = None if side is None else _read(side.content)
    if side is not None and config is None:
        planning.warn(f"{CONFIG} is no JSON object: it goes along as it is")
    dialect = None if planning.convention is None else catalog.convention(planning.convention).config
    made = None if dialect is None else quantization_config(tensors, dialect, planning)
    stated = config is not None and bool(config_keys(config))
    if made is not None:
        if side is None:
            planning.note(f"no {CONFIG} is written: loaders need one with the {KEY} of these tensors")
        if config is not None:
            if more := beyond(config):
                raise PlanError(
                    f"{CONFIG} says {more}, without which its tensors are not those of the model",
                    hint="take a source without it, or take it out if it is not true",
                )
            if stated and not planning.decoded:
                planning.warn(f"{CONFIG}: {KEY} of the source is replaced")
            told = {**without_claims(config), KEY: made.config}
            if (dtype := computes(tensors, catalog.convention(str(planning.convention)))) is not None:
                told = _with_dtype(told, _TORCH[dtype], planning)
            found[CONFIG] = _json(CONFIG, told, indent=2)
            found.pop(MODELOPT, None)
            found |= {name: _json(name, content, indent=4) for name, content in made.files.items()}
    elif planning.decoded and (MODELOPT in found or stated):
        if planning.coded:
            _say_some(found, config, tensors, planning)
            return
        found.pop(MODELOPT, None)
        if config is not None:
            found[CONFIG] = _json(CONFIG, without_claims(config), indent=2)
        what = "stored otherwise" if any(tensor.scheme is not None for tensor in tensors) else "decoded"
        planning.note(f"{CONFIG}: {KEY} of the source is left out, its tensors are {what}")


def _say_some(
    found: dict[str, SideFile],
    config: dict[str, Any] | None,
    tensors: Sequence[LazyTensor],
    planning: Planning,
) -> None:
    """Name the decoded layers as those that are not quantized."""
    decoded = [tensor.name for tensor in tensors if tensor.source in planning.decoded]
    coded = [tensor.name for tensor in tensors if tensor.source in planning.coded]
    if config is not None and config_keys(config):
        found[CONFIG] = _json(CONFIG, partly(config, decoded, coded), indent=2)
    if MODELOPT in found and (stated := _read(found[MODELOPT].content)) is not None:
        found[MODELOPT] = _json(MODELOPT, partly_modelopt(stated, decoded, coded), indent=4)
    planning.note(f"{CONFIG}: {KEY} lists the decoded layers as not quantized")


def _say_dtype(
    found: dict[str, SideFile], flow: Flow, tensors: Sequence[LazyTensor], planning: Planning
) -> None:
    """Let ``dtype`` (``torch_dtype``) of config.json be that of the weights, where they changed theirs.

    That is where all float matrices that are not quantized have one dtype. A config that says none stays so.
    """
    side = found.get(CONFIG)
    if side is None or not any(step.retypes for step in flow.steps):
        return
    if planning.convention is not None and computes(tensors, catalog.convention(planning.convention)):
        return  # that dtype is said already, whatever the weights that are kept have
    held = {
        tensor.spec.dtype.name
        for tensor in tensors
        if tensor.plain and len(tensor.spec.shape) >= 2 and tensor.spec.dtype.kind == "float"
    }
    config = _read(side.content)
    name = _TORCH.get(next(iter(held))) if len(held) == 1 else None
    if config is None or name is None:
        return
    parts = [value for key, value in config.items() if key.endswith("_config") and key != KEY]
    changed = False
    for holder in (config, *parts):
        for key in _DTYPES:
            if isinstance(holder, dict) and isinstance(holder.get(key), str):
                said = holder[key].removeprefix("torch.")
                changed |= said != name
                holder[key] = name if said != name else holder[key]
    if changed:
        found[CONFIG] = _json(CONFIG, config, indent=2)


def _with_dtype(config: dict[str, Any], dtype: str, planning: Planning) -> dict[str, Any]:
    """The configuration of a model that is loaded in another dtype than its own: loaders do not cast what
    they decode, and products of two dtypes fail.
    """
    keys = [key for key in _DTYPES if key in config] or [_DTYPES[-1]]
    if any(config.get(key) != dtype for key in keys):
        given = config.get(keys[0], "not said")
        planning.note(f"{CONFIG}: {keys[0]} is {dtype}, to which its tensors are decoded, instead of {given}")
    parts = {key: _nested(value, dtype) for key, value in config.items() if key != KEY}
    return {**config, **parts, **dict.fromkeys(keys, dtype)}


def _nested(value: Any, dtype: str) -> Any:
    """The same in the configurations of parts of a model."""
    if not isinstance(value, dict):
        return value
    made = {key: _nested(one, dtype) for key, one in value.items()}
    return {key: dtype if key in _DTYPES and isinstance(one, str) else one for key, one in made.items()}


def _json(name: str, content: dict[str, Any], indent: int) -> SideFile:
    return SideFile(name, f"{small_json.spell(content, indent=indent)}\n".encode())


def _read(content: bytes | Path) -> dict[str, Any] | None:
    if isinstance(content, bytes):
        return small_json.object_or_none(content)
    return read_json(content)


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
