"""What decides which programs can load a checkpoint: read from headers, small JSON and the names of files."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from pathlib import Path

from .. import catalog
from ..containers import modelsets
from ..containers.checkpoint import Source
from ..containers.foreign import Gguf, gguf
from ..containers.source import open_source
from ..core.paths import located
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.small_json import read_object
from ..core.tensor import LazyTensor
from ..errors import FormatError, NoWeights, PlanError, unsigned
from ..io.named import refuse_empty
from .config.stated import CONFIG, Json
from .evidence import claims
from .group import Reading
from .inspection import ADAPTER, adapters, detected, inside, lost_scales
from .recognise import decipher
from .stored import Stored, plain_fp8, stored_quantized

__all__ = ["Examined", "examine"]

_SUFFIXES = {"safetensors": ".safetensors", "torch": ".bin"}
"""What files of a container end with, where a program looks for them by name."""


@dataclass(frozen=True)
class Examined:
    """Facts of a checkpoint.

    Attributes:
        path: what was looked at.
        broken: why it cannot be read at all, and what to do; None where it can.
        gguf: what its header says, if it is GGUF.
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
        beside: those that another file beside the weights names.
        said: the first statement on how it is quantized, in words; None where there is none.
        coded: whether anything is quantized, as far as names and dtypes tell.
        lost: names of codes whose scales are missing.
        integers: names of matrices of integers of which nothing says whether they are codes.
        uneven: how blocks differ that should be alike, in words; None where they do not.
        shapes: of all tensors by their own names, scales left out; None where it is not known.
        tuned: whether an adapter's config lies beside them.
        indexed: whether an index of the files lies beside them.
        config: config.json; None where there is none.
        config_broken: why it cannot be read; None where it can, or there is none.
        metadata: of the header.
        tensors: all stored tensors.
    """

    path: Path
    broken: str | None = None
    gguf: Gguf | None = None
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
    beside: frozenset[str] = frozenset()
    said: str | None = None
    coded: bool = False
    lost: tuple[str, ...] = ()
    integers: tuple[str, ...] = ()
    uneven: str | None = None
    shapes: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    tuned: bool = False
    indexed: bool = False
    config: Json | None = None
    config_broken: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors: tuple[LazyTensor, ...] = ()

    @property
    def schemes(self) -> tuple[str, ...]:
        """Names of the schemes of what is quantized, each once."""
        return tuple(dict.fromkeys(reading.scheme.name for reading in self.readings.values()))

    @cached_property
    def modules(self) -> Mapping[str, Reading]:
        """How each quantized tensor is read, by its own name."""
        return {reading.name: reading for reading in self.readings.values()}

    @cached_property
    def plain_matrices(self) -> tuple[str, ...]:
        """Weights of linear layers, as far as names tell, that are not quantized."""
        return tuple(
            name
            for name, shape in self.shapes.items()
            if name.endswith(".weight")
            and shape is not None
            and len(shape) == 2
            and name not in self.modules
            and not (self.family is not None and self.family.is_embedding(name))
        )

    @property
    def architecture(self) -> str | None:
        """Of a GGUF file."""
        return None if self.gguf is None else self.gguf.architecture

    @property
    def suffix(self) -> str:
        """What its files end with, where a program looks for them by name."""
        return _SUFFIXES.get(self.container, "")

    def called(self, stem: str) -> bool:
        """Whether all files are called by a stem, alone or with the numbers of shards."""
        for name in self.files:
            base, ending = name[: -len(self.suffix)], name[-len(self.suffix) :]
            shard = modelsets.shard(base)
            named = base if shard is None else f"{shard['stem']}{base[shard.end('count') :]}"
            if ending != self.suffix or named != stem:
                return False
        return True


def examine(path: str | os.PathLike[str]) -> Examined:
    """Look at a checkpoint.

    Raises:
        FormatError: there is nothing at that path.
        NoWeights: there is no checkpoint.
    """
    refuse_empty(path)
    where = located(unsigned(os.fspath(path)))
    header = gguf(where)
    if header is not None:
        return Examined(where, gguf=header, broken=header.broken, files=(where.name,))
    shard = modelsets.shard(where.stem)
    if shard is not None and int(shard["count"]) > 1 and where.is_file():
        whole = f"is one of {int(shard['count'])} shards, which alone are no model: ask of its folder"
        return Examined(where, broken=whole)
    try:
        with open_source(path) as source:
            return _facts(where, source)
    except NoWeights:
        raise
    except FormatError as error:
        if not where.exists():
            raise
        return Examined(where, broken=str(error))


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
    lost, integers = lost_scales(tensors, stored.parts, statements)
    unknown = next((claim.title for claim in statements if not claim.conventions), None)
    if stored.foreign:
        foreign = next(iter(stored.foreign.values()))[0]
    elif unknown is not None and (stored.tensors or lost):
        foreign = unknown
    elif stored.tensors and not lost:
        try:
            conventions, readings = decipher(tensors, planning, stored=stored)
        except PlanError as error:
            undecided = str(error)
    shapes = _shapes(tensors, stored, readings)
    family = detected(shapes)
    in_files = [claim for claim in statements if claim.said.partition(" ")[0].endswith(".json")]
    config, config_broken = _config(source)
    return Examined(
        path,
        container=_container(source),
        files=tuple(file.path.name for file in source.files),
        folder=path.is_dir(),
        adapter=_adapter(source),
        family=family,
        others=tuple(inside(shapes, family)),
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
        stated=frozenset(name for claim in in_files for name in claim.conventions),
        beside=frozenset(
            name for claim in in_files if not claim.said.startswith(CONFIG) for name in claim.conventions
        ),
        said=next((claim.said for claim in statements), None),
        coded=bool(stored) or bool(lost),
        lost=() if stored.foreign else tuple(lost),
        integers=tuple(integers),
        uneven=_uneven(shapes, family),
        shapes=shapes,
        tuned=any(side.name == ADAPTER for side in source.side_files),
        indexed=_indexed(source),
        config=config,
        config_broken=config_broken,
        metadata=source.metadata,
        tensors=tuple(tensors),
    )


def _config(source: Source) -> tuple[Json | None, str | None]:
    """config.json, or why it cannot be read."""
    path = next((side for side in source.side_files if side.name == CONFIG), None)
    try:
        return (None if path is None else read_object(path)), None
    except FormatError as error:
        return None, str(error)


def _shapes(
    tensors: list[LazyTensor], stored: Stored, readings: Mapping[str, Reading]
) -> dict[str, tuple[int, ...] | None]:
    shapes: dict[str, tuple[int, ...] | None] = {}
    for tensor in tensors:
        name = tensor.name
        if name in readings:
            shapes[readings[name].name] = readings[name].spec.shape
        elif name in stored.foreign:
            shapes[f"{name.removesuffix(stored.foreign[name][1][0])}.weight"] = None
        elif name in stored.tensors:
            shapes[stored.tensors[name]] = None
        elif name not in stored.parts and not _is_companion(name):
            shapes[name] = tensor.spec.shape
    return shapes


def _is_companion(name: str) -> bool:
    """Whether it is a scale of the inputs of a layer, or of a cache, or a marker."""
    conventions = catalog.every_convention()
    return catalog.is_marker(name, conventions) or any(
        name.rpartition(".")[2] in one.cache
        or any(template.after and name.endswith(template.after) for template in one.inputs)
        for one in conventions
    )


def _uneven(shapes: Mapping[str, object], family: catalog.Family | None) -> str | None:
    """Which tensor a block of the model lacks that all others like it have, in words."""
    if family is None:
        return None
    kinds: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in shapes:
        for block in family.policy.blocks:
            if (match := block.regex.search(name)) is not None:
                kinds[f"{name[: match.start()]}{block.path}"][int(match[1])].add(name[match.end() :])
                break
    for path, blocks in kinds.items():
        gap = next((number for number in range(max(blocks)) if number not in blocks), None)
        if gap is not None:
            return f"{path.format(i=gap)} is missing, of {max(blocks) + 1}"
        for number, held in blocks.items():
            most = max(blocks.values(), key=len)
            if held < most:  # blocks of another kind have something of their own
                lacks = min(most - held).lstrip(".")
                return f"{path.format(i=number)} has no {lacks}, as others of the {len(blocks)} have"
    return None


def _indexed(source: Source) -> bool:
    """Whether an index of the files lies beside them."""
    if not source.files:
        return False
    first = source.files[0].path
    return (first.parent / f"{source.stem}{first.suffix}.index.json").is_file()


def _container(source: Source) -> str:
    from ..containers import table

    kind = table.of_name(source.files[0].path.name) if source.files else None
    return "" if kind is None else kind.name


def _adapter(source: Source) -> str | None:
    """What it is, where it is an adapter by the names of most of its tensors."""
    kinds, certain = adapters(source)
    return ", ".join(kinds) if certain else None
