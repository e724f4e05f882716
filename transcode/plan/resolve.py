"""From a request and a flow to a plan: a row of steps, each of which knows a little more.

Facts of tensors first, then their parts under a convention's names, then files and offsets, then what stands
in headers and beside the weights. Nothing is written, and no byte of a tensor is read unless a stage must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import field
from itertools import islice
from pathlib import Path
from typing import Any

from .. import catalog
from ..catalog.components import component_table
from ..catalog.limits import holds
from ..consumers import record, side_files, torchao
from ..consumers.components import own_metadata
from ..consumers.markers import with_markers
from ..consumers.pipeline_files import pipeline_files
from ..consumers.spell import Speller
from ..consumers.stored import stored_quantized
from ..containers import table as containers
from ..core.dtypes import CODED
from ..core.flow import Flow
from ..core.losses import losses
from ..core.output import PlannedFile, SideFile, Unit
from ..core.paths import real
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.scheme import Encoding
from ..core.spec import tallied
from ..core.tensor import LazyTensor
from ..core.text import count
from ..core.uncollected import uncollected
from ..errors import PlanError
from ..schemes import SCHEMES, describe
from ..schemes.base import GROUPS
from ..voice import called
from . import devices
from . import layout as cutting
from .location import destination, refuse_destination, refuse_format, refuse_name
from .plan import Log, Plan
from .request import Request, bears_name

__all__ = ["default_convention", "resolve"]

_DEFAULT_SHARD = 5_000_000_000
_ENCODED = catalog.DEFAULT
"""The convention of what is quantized, where neither the user nor a stage names one."""


@uncollected()
def resolve(request: Request, flow: Flow, on_scan: Callable[[str, float], None] | None = None) -> Plan:
    """The plan of what ``flow`` becomes under ``request``.

    Args:
        on_scan: called with a text and a fraction in 0..1 while a stage looks at bytes.

    Raises:
        TranscodeError: anything that can be known to fail.
    """
    refuse_destination(request.dst, flow.source)
    convention = catalog.convention(request.convention or default_convention(request, flow))
    if request.convention is not None:
        refuse_format(request.dst, convention)
    planning = Planning(
        convention=convention.name,
        allow_unmatched=request.allow_unmatched,
        workers=request.performance.threads,
        measure=request.performance.measure,
        lossless=request.lossless,
        on_scan=on_scan,
    )
    draft = Draft(request, flow, convention, planning)
    for step in STEPS:
        step(draft)
    return draft.plan()


@dataclass
class Draft:
    """What is known of a plan so far.

    Attributes:
        tensors: from facts of the source to facts of the output; with stored parts from ``spell_parts`` on.
        units: what must stay together, in the order of the tensors.
        layout, stem: how the output is cut, and what its file names begin with.
        cut: names of weight files, each with what goes into it.
        prefixes: of weight files that are models for themselves: what is taken off their names.
        record: of how the output was made.
        metadata: of every weight file.
        files: weight files, to the byte.
        side: small files; the index comes last.
    """

    request: Request
    flow: Flow
    convention: catalog.Convention
    planning: Planning
    tensors: list[LazyTensor] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    layout: str = "single_file"
    stem: str = ""
    cut: cutting.Cut = field(default_factory=list)
    prefixes: dict[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    files: tuple[PlannedFile, ...] = ()
    side: list[SideFile] = field(default_factory=list)

    def plan(self) -> Plan:
        """All of it, as a value."""
        planning, source = self.planning, self.flow.source
        return Plan(
            source=source.path,
            destination=destination(self.request.dst),
            folder=self.request.folder,
            tensors=tuple(self.tensors),
            files=self.files,
            side_files=tuple(self.side),
            log=Log(tuple(planning.notes), tuple(planning.warnings), tuple(planning.dropped)),
            inputs=tuple(file for read in (source, *planning.inputs) for file in read.inputs),
            stored=planning.stored,
            summary={
                "layout": self.layout,
                **{key: self.record[key] for key in ("convention", "schemes", "digest")},
            },
            own=len(source.inputs),
        )


def say_remarks(draft: Draft) -> None:
    """What the source and the reader of the recipe have to say."""
    for text in draft.flow.source.notes:
        draft.planning.note(text)
    for text in draft.request.remarks:
        draft.planning.warn(text)


def apply_stages(draft: Draft) -> None:
    """The facts after the last stage."""
    draft.tensors = draft.flow.tensors(draft.planning)
    if not draft.tensors:
        raise PlanError("no tensor is left to write", file=draft.flow.source.path)


def repack_quantized(draft: Draft) -> None:
    """What came in quantized goes out as the convention that was asked for stores it, or the one whose files
    hold nothing else."""
    own = containers.writer(draft.convention.single_file("x")).convention == draft.convention.name
    if (own or draft.request.convention is not None) and (stored := stored_quantized(draft.tensors)):
        from ..stages.repack import repack

        draft.tensors = repack(draft.tensors, stored, draft.convention, draft.planning)
    if (whose := draft.flow.whose) and not draft.planning.asked:
        said = " and ".join(filter(None, (whose.convention, whose.scheme)))
        idle = f"the source is said to hold {said}, but no quantized tensor is decoded or repacked"
        if not draft.planning.allow_unmatched:
            raise PlanError(
                idle,
                file=draft.flow.source.path,
                hint=f"leave {called('from_convention')}, {called('from_scheme')} out",
            )
        draft.planning.warn(idle)


def add_markers(draft: Draft) -> None:
    """The tensors by which a consumer tells how the others are quantized."""
    draft.tensors = with_markers(draft.tensors, draft.convention, draft.planning)


def choose_workers(draft: Draft) -> None:
    """Say on what the plan would run here, and refuse rows that the memory cannot hold."""
    wanted, planning = draft.request.performance, draft.planning
    performance = devices.fitted(wanted, draft.tensors)
    if performance.threads < wanted.threads:
        planning.note(
            f"{performance.threads} of {wanted.threads} workers run: the widest rows leave"
            f" {wanted.memory} bytes of memory too few for more ({called('memory')})"
        )
    chosen = devices.choose(performance, draft.tensors)
    if wanted.workers is not None and chosen.performance.threads < performance.threads:
        planning.note(
            f"{chosen.performance.threads} of {wanted.threads} workers run: more would wait for each other,"
            " over smaller tiles"
        )
    if chosen.names:
        planning.note(f"schemes are computed on {', '.join(chosen.names)}")


def say_idle(draft: Draft) -> None:
    """Which performance options do nothing in this plan."""
    performance, planning = draft.request.performance, draft.planning
    if any(tensor.scheme is not None for tensor in draft.tensors):
        return
    if performance.measure:
        planning.warn("measure: nothing is quantized, so there is nothing to measure")
    if performance.device not in ("cpu", "auto"):
        planning.warn(f"device {performance.device}: only schemes are computed there, none is used")


def spell_parts(draft: Draft) -> None:
    """Names, dtypes and layouts of stored parts, as the convention has them."""
    by_block = _layout(draft.request, draft.flow) == "by_block"
    block_of = _numbering(draft.tensors) if by_block else lambda _: None
    spell = Speller(draft.convention, draft.planning)
    for number, tensor in enumerate(draft.tensors):
        draft.tensors[number], stored = spell(tensor)
        draft.units.append(Unit(number, stored, block_of(tensor)))


def refuse_losses(draft: Draft) -> None:
    """Where no value may change: what would change one, or the remark that nothing does."""
    if not draft.request.lossless:
        return
    lost = {tensor.name: loss for tensor in draft.tensors for loss in islice(losses(tensor), 1)}
    if lost:
        (name, loss), *others = lost.items()
        more = f", and so do {len(others)} others" if len(others) > 1 else ", and so does another"
        raise PlanError(
            f"would lose: {loss}{more if others else ''}",
            tensor=name,
            hint=f"leave {called('lossless')} out, or exclude what is encoded anew",
        )
    shown = count(len(draft.tensors), "tensor")
    draft.planning.note(f"lossless: no value of {shown} changes; where only values tell, the run does")


def say_coded(draft: Draft) -> None:
    """That codes stay as they are where no stage asked how they are stored."""
    if draft.planning.asked:
        return
    kinds: Counter[str] = Counter()
    for spec, times in tallied(tensor.spec for tensor in draft.tensors if tensor.scheme is None):
        if spec.dtype.name in CODED and len(spec.shape) > 1:
            kinds[spec.dtype.name] += times
    if kinds:
        draft.planning.note(
            f"as they are stored: {count(kinds.total(), 'tensor')} of {', '.join(kinds)};"
            f" {called('dequantize', 'bf16')} decodes what is quantized, {called('cast', 'bf16')} takes FP8"
            " without scales"
        )


def say_shared(draft: Draft) -> None:
    """Which tensors are one in the source: a safetensors file holds each of them in full."""
    owners: dict[str, list[str]] = {}
    for tensor in draft.tensors:
        if tensor.shares is not None:
            owners.setdefault(tensor.shares, []).append(tensor.name)
    for names in owners.values():
        if len(names) > 1:
            draft.planning.note(
                f"{', '.join(names)} share their bytes in the source; each is written in full",
                tensor=names[0],
                kind="shared",
            )


def say_place(draft: Draft) -> None:
    """That a file would stand among those of the source. A folder below it is a model for itself."""
    request, source = draft.request, draft.flow.source.path
    among = not request.folder and real(request.dst).parent == real(source)
    if among and source.is_dir():
        draft.planning.warn(
            f"{request.dst} lies among the source's files, so that folder will hold two models"
        )


def cut_files(draft: Draft) -> None:
    """Which tensors go into which file."""
    request, convention = draft.request, draft.convention
    draft.layout, draft.stem = _layout(request, draft.flow), request.name or draft.flow.source.stem
    if request.name is not None and not bears_name(draft.layout, convention):
        idle = (
            f"name: {request.name!r} does nothing: {convention.name} has its own names for the layout"
            f" {draft.layout}"
        )
        if not request.tolerant:
            raise PlanError(idle, hint="leave the name out")
        draft.planning.warn(idle)
    if request.folder and draft.layout == "components":
        held = component_table().held(unit.stored[0].name for unit in draft.units)
        draft.prefixes = {one.file: one.prefix for one in held.all}
        draft.cut = cutting.components(draft.units, held)
    else:
        draft.cut = _cut(request, draft.units, draft.layout, draft.stem, convention)
    most = request.max_shard_size
    over = [] if most is None else [unit for unit in draft.units if unit.nbytes > most]
    if over:
        draft.planning.warn(
            f"max_shard_size: {len(over)} of {len(draft.units)} tensors are larger than {most} bytes:"
            " each is in a file of its own"
        )
    for name, _ in draft.cut:
        for part in name.split("/"):
            refuse_name(part, Path(request.dst) / name)
    cutting.check_names(draft.cut, draft.tensors)


def make_record(draft: Draft) -> None:
    """How the output was made, with the digest of the recipe."""
    request = draft.request
    schemes = {scheme.name for scheme in _schemes(draft.tensors)}
    limits = {"max_shard_size": request.max_shard_size, "max_tensors": request.max_tensors}
    given = {key: value for key, value in limits.items() if value is not None}
    arguments = draft.flow.steps, draft.layout, draft.convention.name, schemes, given
    draft.record = record.make(*arguments)
    held = _held(draft.tensors)
    encodes = any(step.encodes for step in draft.flow.steps)
    untold = _kept(draft.tensors) or record.leaves_out(draft.record, held) if encodes else _unusual(held)
    if untold:
        draft.record = record.make(*arguments, held)


def merge_metadata(draft: Draft) -> None:
    """The source's as far as it is still true, the convention's, the user's, the record: later ones win."""
    planning, carried = draft.planning, draft.flow.source.metadata
    still = bool(planning.coded) or not planning.decoded
    kept = {key: value for key, value in {**carried, **planning.replaced}.items() if value is not None}
    metadata = {
        **_known_by(draft),
        **torchao.without(kept),
        **_listing(draft),
        **draft.convention.metadata,
        **_asked_by_schemes(draft),
        "format": "pt",  # loaders of transformers refuse metadata without it
        **dict(draft.request.metadata),
        record.KEY: record.dumps(draft.record, before=carried.get(record.KEY), still=still),
    }
    parts = [part for unit in draft.units for part in unit.stored]
    adopted = containers.writer(draft.cut[0][0]).adopt(metadata, parts)
    draft.metadata = dict(adopted.metadata)
    for text in adopted.notes:
        planning.note(text)
    for text in adopted.warnings:
        planning.warn(text)


def _known_by(draft: Draft) -> dict[str, str]:
    """By which keys readers of such files know the model, where they have a word for its family."""
    own = containers.writer(draft.cut[0][0]).convention
    known_by = (draft.convention if own is None else catalog.convention(own)).known_by
    family = catalog.detect([tensor.name for tensor in draft.tensors]) if known_by else None
    if family is None:
        return {}
    model = (family.name, family.spelling)
    return {key: values[model] for key, values in known_by.items() if model in values}


def _listing(draft: Draft) -> dict[str, str]:
    """What metadata says of each tensor, where the consumer looks for that, or the source's still holds."""
    own = draft.convention.listing is not None
    listed = [tensor for tensor in draft.tensors if own or tensor.scheme is None]
    return torchao.listing(listed, draft.flow.source.metadata)


def _asked_by_schemes(draft: Draft) -> dict[str, str]:
    """What the consumer looks for in metadata where tensors of some schemes are.

    Raises:
        PlanError: it is for the user to say, and is not said.
    """
    given, asked = dict(draft.request.metadata), dict[str, str]()
    for scheme, tensor in _schemes(draft.tensors).items():
        rule = draft.convention.schemes.get(scheme.name)
        for said in () if rule is None else rule.metadata:
            if not holds(said.when, scheme):
                continue
            asked |= said.keys
            for key, values in said.asks.items():
                if key not in given:
                    options = ", ".join(f"{option}={value}" for option, value in said.when.items())
                    raise PlanError(
                        f"{draft.convention.name} reads {scheme.name} with {options} only where metadata has"
                        f" {key}",
                        tensor=tensor,
                        hint=f"pass {called('metadata', key)}: {values}",
                    )
    return asked


def lay_out_files(draft: Draft) -> None:
    """Headers and offsets, by the rules of the container."""
    count, stored = len(draft.cut), sum(len(unit.stored) for unit in draft.units)
    draft.files = tuple(
        containers.writer(name).lay_out(
            name,
            units,
            _metadata_of(name, draft),
            split=containers.Split(number, count, stored) if count > 1 else None,
            file=draft.request.dst,
        )
        for number, (name, units) in enumerate(draft.cut)
    )


def add_side_files(draft: Draft) -> None:
    """Config, tokenizer and others beside the weights, or what a single file cannot have; the index last."""
    names = {file.name for file in draft.files}
    if draft.request.folder and draft.request.copy_metadata:
        draft.side += side_files.side_files(draft.flow, draft.tensors, names, draft.planning)
    else:
        side_files.note_config(draft.tensors, draft.convention, draft.planning)
    if draft.request.folder:
        draft.side += side_files.index(draft.files, draft.layout, draft.stem, draft.convention)
    if draft.prefixes:
        models = {
            name.partition("/")[0]: [part for unit in units for part in unit.stored]
            for name, units in draft.cut
        }
        draft.side += pipeline_files(models, draft.request.config_from, draft.planning)


STEPS: tuple[Callable[[Draft], None], ...] = (
    say_remarks,
    apply_stages,
    repack_quantized,
    add_markers,
    choose_workers,
    say_idle,
    spell_parts,
    refuse_losses,
    say_coded,
    say_shared,
    say_place,
    cut_files,
    make_record,
    merge_metadata,
    lay_out_files,
    add_side_files,
)
"""In this order: what a step needs was found by those before it."""


def _schemes(tensors: Sequence[LazyTensor]) -> dict[Encoding, str]:
    """What tensors are encoded as, in the order of the first of them, each with the name of one."""
    named = {id(tensor.scheme): tensor for tensor in tensors if tensor.scheme is not None}
    return {tensor.scheme: tensor.name for tensor in named.values() if tensor.scheme is not None}


def _held(tensors: Sequence[LazyTensor]) -> list[tuple[str, dict[str, Any]]]:
    """The schemes of tensors with the options that tell how codes are read."""
    schemes: dict[tuple[str, str], dict[str, Any]] = {}
    for scheme in _schemes(tensors):
        if scheme.name in SCHEMES:
            options = {key: getattr(scheme, key) for key in describe(scheme.name)[1] if key in _READ_BY}
            unit = options.pop("granularity", None)
            for key, of in (("group_size", "group"), ("block", "block")):
                if unit not in (None, of):
                    options.pop(key, None)
            options = {key: list(one) if isinstance(one, tuple) else one for key, one in options.items()}
            schemes.setdefault((scheme.name, repr(options)), options)
    return [(name, options) for (name, _), options in schemes.items()]


def _unusual(held: Sequence[tuple[str, dict[str, Any]]]) -> bool:
    """Whether some have groups or blocks of a size that is tried only where it is told."""
    sizes = (size for _, options in held for size in (options.get("group_size"), *options.get("block", ())))
    return any(size not in (None, 1, *GROUPS) for size in sizes)


def _kept(tensors: Sequence[LazyTensor]) -> bool:
    """Whether some kept their codes, of which no step tells."""
    return not all(
        any(event.kind in ("quantize", "pack") for event in tensor.fate)
        for tensor in tensors
        if tensor.scheme is not None
    )


_READ_BY = ("format", "granularity", "group_size", "block")
"""Options that dtypes and shapes of parts may leave open."""


def default_convention(request: Request, flow: Flow) -> str:
    """That of the last stage which encodes for one consumer, or of the last spelling, where it has one; where
    what is encoded has none, that of the format of the output.
    """
    encoding = [step for step in flow.steps if step.encodes]
    if encoding:
        container = containers.written(str(request.dst))
        otherwise = _ENCODED if container is None or container.convention is None else container.convention
        named = (step.consumer_of(flow.source, flow.whose) for step in reversed(encoding))
        return next((name for name in named if name is not None), otherwise)
    spellings = [step.consumer for step in flow.steps if step.consumer is not None]
    return spellings[-1] if spellings and spellings[-1] in catalog.conventions() else "plain"


def _numbering(tensors: Sequence[LazyTensor]) -> Callable[[LazyTensor], int | None]:
    """Which block each tensor belongs to, by its name, or by that in the source where it was changed."""
    if (family := catalog.detect([tensor.name for tensor in tensors])) is not None:
        return lambda tensor: family.block_of(tensor.name)
    if (original := catalog.detect([tensor.source for tensor in tensors])) is not None:
        return lambda tensor: original.block_of(tensor.source)
    generic = catalog.generic_family()
    return lambda tensor: generic.block_of(tensor.name)


def _metadata_of(file: str, draft: Draft) -> dict[str, str]:
    """The metadata of one file: of all alike, but where each is a model for itself."""
    prefix = draft.prefixes.get(file)
    return draft.metadata if prefix is None else own_metadata(draft.metadata, prefix)


def _layout(request: Request, flow: Flow) -> str:
    """How the output is cut, where nobody says so: as the source is."""
    if request.layout is not None:
        return request.layout
    if request.max_shard_size is not None or request.max_tensors is not None:
        return "chunked"
    return "chunked" if request.folder and len(flow.source.files) > 1 else "single_file"


def _cut(
    request: Request, units: Sequence[Unit], layout: str, stem: str, convention: catalog.Convention
) -> cutting.Cut:
    if not request.folder:
        return cutting.single_file(units, Path(request.dst).name)
    if layout == "single_file":
        return cutting.single_file(units, convention.single_file(stem))
    if layout == "by_block":
        return cutting.by_block(units, *convention.block_files)
    if layout == "apart":
        return cutting.apart(units, convention.file_of)
    size = request.max_shard_size
    if size is None and request.max_tensors is None:
        size = _DEFAULT_SHARD
    pattern, alone = convention.chunk_file(stem), convention.alone_file(stem)
    return cutting.chunked(units, pattern, alone, max_bytes=size, max_tensors=request.max_tensors)
