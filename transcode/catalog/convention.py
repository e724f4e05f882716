"""Conventions: how one consumer spells and lays out what is stored of a tensor."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import field, replace
from functools import cached_property

from ..codecs.shapes import View
from ..core.codec import Codec
from ..core.dtypes import BLOCKS, FLOATS
from ..core.patterns import Pattern
from ..core.records import dataclass
from ..errors import RecipeError
from ..voice import called
from .limits import Limit, Partly, holds, plain
from .setting import Setting
from .template import StoredNames, Template

__all__ = [
    "CONFIGS",
    "GROUP_INDEX",
    "IMPLIED",
    "LISTINGS",
    "SHAPE",
    "VALUES",
    "WORKSPACE",
    "ZERO_POINT",
    "Convention",
    "Files",
    "Marker",
    "PartRule",
    "Said",
    "SchemeRule",
]

VALUES = "values"

MODEL = "model"
"""What states the shape of a tensor where no part does: its bias, or the class that config.json names."""

SHAPE = "shape"
"""Role of a part that no scheme makes: the shape of the tensor, for consumers whose codes do not tell it."""

ZERO_POINT, GROUP_INDEX, WORKSPACE = "zero_point", "group_index", "workspace"
IMPLIED = (ZERO_POINT, GROUP_INDEX, WORKSPACE)
"""Roles of parts that a consumer may ask for where the scheme makes none: zeros, the group of each column,
room that a kernel counts in.
"""

CONFIGS = (
    "compressed-tensors", "modelopt", "fp8", "gptq", "gptq-v2", "awq", "bitsandbytes", "mlx", "quark",
    "torchao", "quanto", "sdnq", "hqq", "nunchaku-lite",
)  # fmt: skip
"""Dialects of ``quantization_config``, by their ``quant_method``."""

LISTINGS = ("torchao",)
"""Whose words they are in which metadata says of each tensor what it is."""
_STEM = "{stem}"


@dataclass(frozen=True)
class PartRule:
    """How one part is stored.

    Attributes:
        name: template of its stored name.
        codecs: what its bytes go through, in order; none where they are stored as the scheme has them.
        turned: of a stack of matrices, each of which lies transposed: a view puts them back.
    """

    name: Template
    codecs: tuple[Codec, ...] = ()
    turned: bool = False

    @property
    def dtype(self) -> str | None:
        """Safetensors name of the dtype that the rule says it is stored under, None where it says none."""
        return next((one.dtype for one in reversed(self.codecs) if isinstance(one, View)), None)

    def bound(self, scheme: object) -> PartRule:
        """As parts of a certain scheme are stored: with its widths and groups, where codecs ask for them."""
        codecs = tuple(codec.bound(scheme) for codec in self.codecs)
        return self if codecs == self.codecs else replace(self, codecs=codecs)

    @property
    def moves(self) -> tuple[Codec, ...]:
        """The codecs that change bytes; the others only call them by another dtype or shape."""
        return tuple(one for one in self.codecs if one.moves)


@dataclass(frozen=True)
class Marker:
    """An extra tensor that only says something to the consumer.

    Attributes:
        name: template; without a placeholder it is written once, else for every quantized tensor.
        dtype: safetensors name.
        shape: its shape.
        data: its bytes.
        when: options that the scheme must have for it to be written.
        silent: keys of its JSON, beside those of ``data``, that say nothing of how values are decoded.
        unless: option that the scheme must not have, with that value, for it to be written.
        fills: further keys of its JSON -> the options whose values they have.
        assumed: values that the consumer takes where such keys are missing.
    """

    name: Template
    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)
    when: Mapping[str, object] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    unless: Mapping[str, object] = field(default_factory=dict)
    fills: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, object] = field(default_factory=dict)

    def of(self, scheme: object) -> Marker | None:
        """The marker of a scheme with certain options, None if that has none."""
        if not holds(self.when, scheme) or (self.unless and holds(self.unless, scheme)):
            return None
        if not self.fills:
            return self
        options = {key: plain(getattr(scheme, option)) for key, option in self.fills.items()}
        data = json.dumps({**json.loads(self.data), **options}).encode()
        return replace(self, shape=(len(data),), data=data, fills={})

    @property
    def everywhere(self) -> bool:
        """Whether it is written for every quantized tensor, not once."""
        return self.name.placeholder is not None


@dataclass(frozen=True)
class Said:
    """What metadata of a file must say where tensors of a scheme are in it.

    Attributes:
        when: options that the scheme must have.
        keys: what is written.
        asks: keys that the user must give, and what they may be, in words.
    """

    when: Mapping[str, object]
    keys: Mapping[str, str]
    asks: Mapping[str, str]


@dataclass(frozen=True)
class SchemeRule:
    """What a consumer makes of one scheme.

    Attributes:
        scheme: name of the scheme.
        options: scheme options that this consumer needs, unless the user sets them.
        reads: option -> values that the consumer reads; all others are refused.
        partly: options outside ``reads`` that some of its loaders read; they are written with a warning.
        parts: role -> how it is stored; those of the scheme, and ``shape``, which every tensor then gets.
        also: the same, for other ways in which files of this consumer have it: read, never written.
        markers: extra tensors.
        shares_scales: whether fused groups must share their global scale.
        rows: N must be a multiple of this, or the consumer's kernel refuses.
        columns: K likewise.
        limits: further conditions on a tensor.
        metadata: what that of a file must say.
        needs: roles of parts without which the consumer loads nothing: those of a calibration.
        implies: roles that the consumer asks for where the scheme makes no such part, of :data:`IMPLIED`.
        shaped: role of the part that states the shape of the tensor, where that of the codes does not;
            :data:`MODEL` where no part does.
        rows_of: role of the part that has the rows of the tensor, where codes are a line of all of them.
        computes: dtype that the consumer decodes to, whatever that of the model is, so that the model must
            have it too; None where it decodes to the model's.
    """

    scheme: str
    options: Mapping[str, object] = field(default_factory=dict)
    reads: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    partly: tuple[Partly, ...] = ()
    parts: Mapping[str, PartRule] = field(default_factory=dict)
    also: tuple[Mapping[str, PartRule], ...] = ()
    markers: tuple[Marker, ...] = ()
    shares_scales: bool = False
    rows: int = 1
    columns: int = 1
    limits: tuple[Limit, ...] = ()
    needs: tuple[str, ...] = ()
    implies: tuple[str, ...] = ()
    shaped: str = ""
    rows_of: str = ""
    computes: str | None = None
    metadata: tuple[Said, ...] = ()

    def limits_for(self, scheme: object) -> tuple[Limit, ...]:
        """The conditions on a tensor of a scheme with such options."""
        conditional = (one.of(scheme) for one in self.limits)
        return Limit(self.rows, self.columns), *(one for one in conditional if one is not None)

    def unread(self, scheme: object) -> dict[str, object]:
        """The options of a scheme, with their values, that the consumer does not read."""
        options = {option: plain(getattr(scheme, option, None)) for option in self.reads}
        unread = {option: value for option, value in options.items() if value not in self.reads[option]}
        for option, value in getattr(scheme, "unseen", {}).items():
            if option not in self.tells and option not in self.reads and getattr(scheme, option) != value:
                unread[option] = getattr(scheme, option)
        return unread

    def legal(self, scheme: object, option: str) -> tuple[object, ...]:
        """The values of an option that the consumer reads, where it does not read all."""
        return self.reads[option] if option in self.reads else (getattr(scheme, "unseen", {})[option],)

    @property
    def tells(self) -> frozenset[str]:
        """Options of the scheme whose values stand in markers."""
        return frozenset(option for marker in self.markers for option in marker.fills.values())

    @property
    def readings(self) -> tuple[Mapping[str, PartRule], ...]:
        """All ways in which parts are found, the one that is written first."""
        return (self.parts, *self.also)

    @property
    def stacks(self) -> Mapping[str, PartRule] | None:
        """How a stack of matrices is stored that the consumer has transposed; None where it has none."""
        return next((parts for parts in self.also if parts["codes"].turned), None)

    @property
    def marked(self) -> bool:
        """Whether the consumer takes a tensor for quantized only where a marker says so."""
        return any(marker.everywhere for marker in self.markers)

    def markers_for(self, scheme: object) -> tuple[Marker, ...]:
        """The extra tensors that belong to a tensor of a scheme with such options."""
        own = (marker.of(scheme) for marker in self.markers)
        return tuple(marker for marker in own if marker is not None)


@dataclass(frozen=True)
class Files:
    """How a consumer's files are called. ``{stem}`` stands for the name of the output.

    Attributes:
        single_file: name of the only file.
        block: name of a block's file, with ``{i}``.
        apart: files of the layout ``apart``: name -> patterns of the stored names that belong into it.
        rest: name of the file of what is outside blocks, or belongs into no file of ``apart``.
        chunk: name of a chunk, with ``{i}`` (from 1), ``{j}`` (from 0), ``{n}`` (how many).
        alone: name of a chunk that is the only one.
        index: name of the index.
        indexed: layouts that get an index.
        total_size: what the index sums up: bytes of ``"tensors"``, or of ``"files"`` with their headers.
        sort_keys: whether the index is sorted by tensor name, else in the order of the files.
    """

    single_file: str = "{stem}.safetensors"
    block: str = "block_{i}.safetensors"
    apart: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)
    rest: str = "non_block.safetensors"
    chunk: str = "{stem}-{i:05d}-of-{n:05d}.safetensors"
    alone: str = "{stem}.safetensors"
    index: str = "{stem}.safetensors.index.json"
    indexed: tuple[str, ...] = ("by_block", "chunked")
    total_size: str = "tensors"
    sort_keys: bool = True


@dataclass(frozen=True)
class Convention:
    """How one consumer spells things; works in both directions.

    Attributes:
        name: e.g. ``"lightx2v"``.
        title: for people.
        file: the YAML it comes from.
        schemes: what it makes of each scheme it can read; empty when it knows plain tensors only.
        files: names of files.
        metadata: header metadata of every file.
        config: dialect of the ``quantization_config`` that the consumer looks for in config.json, one of
            :data:`CONFIGS`; None where it needs none.
        known_by: keys of metadata by which the consumer knows a model: key -> family and spelling -> value.
        listing: in whose words metadata says of each tensor what it is, one of :data:`LISTINGS`; what it does
            not say so, the consumer does not load. None where it needs none.
        dims: numbers of dimensions that it can take quantized; empty leaves that to the scheme.
        joins: whether it joins fused groups, and all experts of a layer, into one matrix each, whose members
            must then be quantized alike.
        pads: whether it takes tensors that were padded.
        methods: further values of ``quant_method`` that mean this convention.
        inputs: templates of what is stored beside a quantized tensor and does not concern its values, such as
            the scales of inputs: dropped when the tensor is decoded.
        settings: what stands beside a quantized tensor and says only how it was made: likewise.
        cache: last name components of the scales of the key and value cache: dropped when all is decoded.
        transposes: names of stacks of matrices, each of which lies transposed in plain files of the consumer.
        told_by: templates of the parts that tell its layers from those of another maker, who names codes and
            scales so too; then a model is of it only where config.json says so. Empty where names tell.
        unwritten: why nothing can be written so, for conventions that are only read; else None.
    """

    name: str
    title: str
    file: str
    schemes: Mapping[str, SchemeRule]
    files: Files
    metadata: Mapping[str, str]
    config: str | None = None
    known_by: Mapping[str, Mapping[tuple[str, str], str]] = field(default_factory=dict)
    listing: str | None = None
    dims: tuple[int, ...] = ()
    joins: bool = False
    pads: bool = False
    methods: tuple[str, ...] = ()
    inputs: tuple[Template, ...] = ()
    settings: tuple[Setting, ...] = ()
    cache: tuple[str, ...] = ()
    transposes: tuple[Pattern, ...] = ()
    told_by: tuple[Template, ...] = ()
    unwritten: str | None = None

    def scheme(self, scheme: str) -> SchemeRule:
        """The rule of one scheme.

        Raises:
            RecipeError: the consumer cannot read that scheme.
        """
        try:
            return self.schemes[scheme]
        except KeyError:
            known = f"it knows {', '.join(self.schemes)}" if self.schemes else "it knows plain tensors only"
            raise RecipeError(
                f"convention {self.name} has no spelling for scheme {scheme!r}",
                hint=f"{known}; choose another with {called('convention')}",
            ) from None

    def scheme_options(self, scheme: str) -> Mapping[str, object]:
        """Options of a scheme that this consumer needs, unless the user sets them. Raises RecipeError."""
        return self.scheme(scheme).options

    def part(self, role: str, scheme: str | None = None) -> PartRule:
        """How a part of a tensor is stored.

        Args:
            role: role of the part; ``values`` are those of a plain tensor.
            scheme: name of the tensor's scheme. It can be left out where all schemes of the convention
                store parts of that role alike.

        Raises:
            RecipeError: the convention knows no such scheme, or no such part of it.
        """
        if role == VALUES:
            return _PLAIN
        rules = [self.scheme(scheme)] if scheme is not None else list(self.schemes.values())
        matching = [rule.parts[role] for rule in rules if role in rule.parts]
        if not matching:
            of = f" of {scheme}" if scheme is not None else ""
            stored = ", ".join(dict.fromkeys(role for rule in rules for role in rule.parts))
            raise RecipeError(
                f"convention {self.name} has no place for the {role}{of}",
                hint=f"it stores {stored or 'plain tensors only'}; change the options of the scheme",
            )
        if any(part.name != matching[0].name for part in matching):
            raise RecipeError(f"convention {self.name} spells the {role} of each scheme differently")
        return matching[0]

    def spell(self, name: str, role: str, scheme: str | None = None) -> str:
        """The stored name of a part.

        Raises:
            RecipeError: as :meth:`part`.
            PlanError: the template cannot take this name.
        """
        return self.part(role, scheme).name.spell(name)

    @property
    def block_files(self) -> tuple[str, str]:
        """Name of a block's file, with ``{i}`` to be formatted, and of the file of what is outside blocks."""
        return self.files.block, self.files.rest

    def file_of(self, stored: str) -> str:
        """Name of the file that a stored name goes into, in the layout ``apart``.

        Raises:
            RecipeError: the consumer knows no such files.
        """
        if not self.files.apart:
            raise RecipeError(
                f"convention {self.name} names no files for the layout apart", hint="choose another layout"
            )
        for name, patterns in self.files.apart.items():
            if any(pattern.matches(stored) for pattern in patterns):
                return name
        return self.files.rest

    def single_file(self, stem: str) -> str:
        """Name of the only file of an output called ``stem``."""
        return self.files.single_file.replace(_STEM, stem)

    def chunk_file(self, stem: str) -> str:
        """Name of a chunk, with ``{i}`` (from 1), ``{j}`` (from 0) and ``{n}`` (how many) to be formatted."""
        return self.files.chunk.replace(_STEM, stem.replace("{", "{{").replace("}", "}}"))

    def alone_file(self, stem: str) -> str:
        """Name of a chunk that is the only one."""
        return self.files.alone.replace(_STEM, stem)

    def index_name(self, layout: str, stem: str) -> str | None:
        """Name of the index of a layout, None where it has none."""
        return self.files.index.replace(_STEM, stem) if layout in self.files.indexed else None

    def group(
        self, stored: Collection[str], dtypes: Mapping[str, str] | None = None
    ) -> dict[str, dict[str, str]]:
        """The inverse of :meth:`spell`: stored names gathered into tensors.

        A name counts as the codes of a quantized tensor when a companion (a scale) is stored beside it, or
        when the convention spells codes as no plain tensor is spelled. Markers are left out.

        Args:
            stored: all stored names.
            dtypes: safetensors dtype of each, where known: a plain float has no codes, whatever stands
                beside it.

        Returns:
            tensor name -> role -> stored name, in the order of ``stored`` by each tensor's first part.
            A plain tensor has the role ``values``.
        """
        names = stored if isinstance(stored, StoredNames) else StoredNames(stored)
        codes = self._coded(names, dtypes or {})
        marks = self._markers_among(names)
        taken: dict[str, tuple[str, str]] = {}
        for name, rules in codes.items():
            for parts in rules:
                for role, part in parts.items():
                    spelled = part.name.spell(name)
                    if spelled in stored:
                        taken.setdefault(spelled, (name, role))
        groups: dict[str, dict[str, str]] = {}
        for spelled in stored:
            if spelled in taken:
                name, role = taken[spelled]
                groups.setdefault(name, {})[role] = spelled
            elif spelled not in marks:
                groups.setdefault(spelled, {})[VALUES] = spelled
        return groups

    def _coded(
        self, stored: StoredNames, dtypes: Mapping[str, str]
    ) -> dict[str, list[Mapping[str, PartRule]]]:
        """Names of the quantized tensors, each with the parts of the schemes that would spell it so."""
        readings: dict[str, list[Mapping[str, PartRule]]] = {}
        blocks = {name for name in stored if dtypes.get(name) in BLOCKS}
        for scheme, parts in ((one.scheme, parts) for one in self.schemes.values() for parts in one.readings):
            codes = parts["codes"].name
            if list(parts) == ["codes"] and codes.text == "{name}":  # blocks, which hold their scales
                wanted = scheme.rpartition("ggml_")[2].upper()
                readings.update({name: [parts] for name in blocks if dtypes[name] == wanted})
                continue
            companions = [part.name for role, part in parts.items() if role != "codes"]
            telling = companions if codes.text in ("{name}", "{stem}.weight") else [codes]
            for template in telling:
                for name in stored.unspell(template):
                    if codes.placeholder == "stem" and not name.endswith(".weight"):
                        continue
                    body = codes.spell(name)
                    if body in stored and dtypes.get(body) not in FLOATS:
                        known = readings.setdefault(name, [])
                        if parts not in known:
                            known.append(parts)
        return readings

    def is_marker(self, stored: str) -> bool:
        """Whether a stored name is that of an extra tensor with no values of the model, prefixed or not."""
        return bool(self._marks) and bool(self._markers_among(StoredNames((stored,))))

    @property
    def file_markers(self) -> frozenset[str]:
        """Names of the extra tensors of which a file has one, whatever it holds."""
        return frozenset(mark.text for mark in self._marks if mark.placeholder is None)

    def _markers_among(self, stored: StoredNames) -> set[str]:
        return {name for mark in self._marks for name in stored.like(mark)}

    @cached_property
    def _marks(self) -> tuple[Template, ...]:
        """Names of markers, each once."""
        return tuple(dict.fromkeys(one.name for rule in self.schemes.values() for one in rule.markers))


_PLAIN = PartRule(Template("{name}"))
