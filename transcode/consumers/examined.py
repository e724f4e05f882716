"""What decides which programs can load a checkpoint: read from headers, small JSON and the names of files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import catalog
from ..catalog.lora import lora_names
from ..containers import modelsets
from ..containers.checkpoint import Source
from ..containers.source import open_source
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import FormatError, PlanError, RecipeError
from .config.stated import CONFIG, Json, read_json
from .evidence import claims
from .group import Reading
from .recognise import decipher
from .stored import plain_fp8, stored_quantized

__all__ = ["Examined", "examine"]

_OTHERS = ("vae", "text encoder", "other model")
"""Labels of the generic family for what belongs to another model of an all-in-one file."""


@dataclass(frozen=True)
class Examined:
    """Facts of a checkpoint.

    Attributes:
        path: what was looked at.
        broken: why it cannot be read at all, and what to do; None where it can.
        gguf: whether it is GGUF.
        container: name of the format of its files.
        files: names of the weight files.
        folder: whether a folder was named.
        adapter: what shows that it is a LoRA or another adapter; None where nothing does.
        family: the model that it is of, in its spelling; None where none is known.
        others: labels of other models in the file.
        dtypes: how many matrices there are of each dtype, of those that are not quantized.
        bare_fp8: how many tensors are FP8 without a scale.
        foreign: what it is called how it is quantized, where transcode does not decode that.
        undecided: why it is not certain how it is quantized.
        conventions: those that read what is quantized, the best first.
        readings: how each quantized tensor is read, by stored name of its codes.
        stated: conventions that config.json or a file beside it names.
        config: config.json; None where there is none.
        metadata: of the header.
        tensors: all stored tensors.
    """

    path: Path
    broken: str | None = None
    gguf: bool = False
    container: str = ""
    files: tuple[str, ...] = ()
    folder: bool = False
    adapter: str | None = None
    family: catalog.Family | None = None
    others: tuple[str, ...] = ()
    dtypes: Mapping[str, int] = field(default_factory=dict)
    bare_fp8: int = 0
    foreign: str | None = None
    undecided: str | None = None
    conventions: tuple[catalog.Convention, ...] = ()
    readings: Mapping[str, Reading] = field(default_factory=dict)
    stated: frozenset[str] = frozenset()
    config: Json | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors: tuple[LazyTensor, ...] = ()

    @property
    def schemes(self) -> tuple[str, ...]:
        """Names of the schemes of what is quantized, each once."""
        return tuple(dict.fromkeys(reading.scheme.name for reading in self.readings.values()))


def examine(path: str | os.PathLike[str]) -> Examined:
    """Look at a checkpoint.

    Raises:
        FormatError: there is nothing at that path.
    """
    where = Path(path)
    if _is_gguf(where):
        return Examined(where, gguf=True, files=(where.name,))
    shard = modelsets.shard(where.stem)
    if shard is not None and int(shard["count"]) > 1 and where.is_file():
        count = int(shard["count"])
        return Examined(
            where, broken=f"is one of {count} shards, which alone are no model: ask of its folder"
        )
    try:
        with open_source(path) as source:
            return _facts(where, source)
    except FormatError as error:
        if not where.exists():
            raise
        return Examined(where, broken=str(error))


def _is_gguf(path: Path) -> bool:
    """Whether it is a file of GGUF, or a folder of nothing else."""
    try:
        if path.is_dir():
            weights = [name for name in os.listdir(path) if name.endswith((".gguf", ".safetensors", ".bin"))]
            return bool(weights) and all(name.endswith(".gguf") for name in weights)
        with open(path, "rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def _facts(path: Path, source: Source) -> Examined:
    tensors = list(source.tensors)
    names = [tensor.name for tensor in tensors]
    stored = stored_quantized(tensors)
    statements = claims(source.metadata, source.side_files, names)
    foreign = undecided = None
    conventions: list[catalog.Convention] = []
    readings: Mapping[str, Reading] = {}
    planning = Planning(
        metadata=source.metadata,
        source=source.path,
        side_files=source.side_files,
        stored={tensor.name: tensor.spec for tensor in tensors},
    )
    unknown = next((claim.title for claim in statements if not claim.conventions), None)
    if stored.foreign:
        foreign = next(iter(stored.foreign.values()))[0]
    elif unknown is not None:
        foreign = unknown
    elif stored.tensors:
        try:
            conventions, readings = decipher(tensors, planning, stored=stored)
        except PlanError as error:
            undecided = str(error)
    lonely = _lonely(tensors, readings, stored.parts)
    logical = [stored.tensors.get(name, name) for name in names]  # codes may have names of their own
    family = _family(logical)
    return Examined(
        path,
        broken=None if lonely is None else f"{lonely}, so its values cannot be known",
        container=_container(source),
        files=tuple(file.path.name for file in source.files),
        folder=path.is_dir(),
        adapter=_adapter(source),
        family=family,
        others=_others(names) if family is None or family.prefix else (),
        dtypes=Counter(
            tensor.spec.dtype.name
            for tensor in tensors
            if tensor.name not in stored.parts and len(tensor.spec.shape) > 1
        ),
        bare_fp8=len(plain_fp8(tensors, stored)),
        foreign=foreign,
        undecided=undecided,
        conventions=tuple(conventions),
        readings=readings,
        stated=frozenset(
            name
            for claim in statements
            if claim.said.partition(" ")[0].endswith(".json")
            for name in claim.conventions
        ),
        config=next((read_json(side) for side in source.side_files if side.name == CONFIG), None),
        metadata=source.metadata,
        tensors=tuple(tensors),
    )


def _lonely(tensors: list[LazyTensor], readings: Mapping[str, Reading], parts: Container[str]) -> str | None:
    """What says that codes lie there without their scales, in a model of which others have theirs."""
    lonely = [
        tensor
        for tensor in tensors
        if readings
        and tensor.name.endswith(".weight")
        and len(tensor.spec.shape) > 1
        and tensor.spec.dtype.kind in ("int", "uint")
        and tensor.name not in readings
        and tensor.name not in parts
    ]
    if not lonely:
        return None
    return f"{lonely[0].name} is {lonely[0].spec.dtype.name} and has no scale ({len(lonely)} like it)"


def _family(names: list[str]) -> catalog.Family | None:
    try:
        return catalog.detect(names)
    except RecipeError:
        return None  # it fits two: its names do not tell


def _container(source: Source) -> str:
    from ..containers import table

    kind = table.of_name(source.files[0].path.name) if source.files else None
    return "" if kind is None else kind.name


def _adapter(source: Source) -> str | None:
    """What shows that most of it are the tensors of a LoRA or another adapter."""
    known = lora_names()
    held = [tensor.name for tensor in source.tensors if known.holds(tensor.name)]
    if held and 2 * len(held) > len(source.tensors):
        return f"{len(held)} of {len(source.tensors)} tensors are named like {held[0]!r}"
    return None


def _others(names: list[str]) -> tuple[str, ...]:
    """What other models an all-in-one file holds."""
    generic = catalog.generic_family(names)
    labels = (generic.is_target(name)[1] for name in names if name.endswith(".weight"))
    return tuple(dict.fromkeys(why.label for why in labels if why.kind == "never" and why.label in _OTHERS))
