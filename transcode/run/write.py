"""The end of a flow: spell the parts, cut them into files, plan, and write."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import catalog
from ..consumers import record, side_files
from ..consumers.markers import marked
from ..consumers.spell import spell
from ..containers import table as containers
from ..core import given
from ..core.flow import Flow
from ..core.output import SideFile, Stored, Unit
from ..core.paths import real
from ..core.performance import Performance
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError, RecipeError
from ..plan import devices
from ..plan import layout as cutting
from ..plan.location import refuse_destination
from ..plan.plan import Log, Plan
from ..stages.repack import repack
from .carry import carry_out, check, fitted
from .execute import Progress, Report

__all__ = ["LAYOUTS", "Write"]

LAYOUTS = ("single_file", "by_block", "chunked", "apart")
_DEFAULT_SHARD = 5_000_000_000


@dataclass(frozen=True)
class Write:
    """Write the flow to safetensors.

    Args:
        dst: a file if it ends in ``.safetensors``, else a folder, which is made if it is absent.
        layout: ``single_file``, ``by_block``, ``chunked`` or ``apart`` (the files that the convention names);
            without it one file, or chunks where the source has several files and the destination is a
            folder.
        convention: the consumer's; without it ``nunchaku`` if the flow packs for nunchaku, ``lightx2v`` if it
            quantizes, that of the spelling if it converts, else ``plain``.
        name: stem of the file names; the source's own without it.
        max_shard_size: most bytes of tensors in a chunk.
        max_tensors: most stored tensors in a chunk, instead of a size.
        copy_metadata: config, tokenizer and other small files come along into a folder.
        metadata: more metadata, which wins over the source's.
        force: an existing destination is replaced.
        allow_unmatched: rules that match nothing are warnings.
        performance: how to run.
        remarks: what the reader of a recipe has to say of it: warnings of the plan.
        tolerant: options that do nothing here are warnings, not errors, as configurations of other programs
            say what all of their layouts might need.
    """

    dst: str | Path
    layout: str | None = None
    convention: str | None = None
    name: str | None = None
    max_shard_size: int | None = None
    max_tensors: int | None = None
    copy_metadata: bool = True
    metadata: tuple[tuple[str, str], ...] = ()
    force: bool = False
    allow_unmatched: bool = False
    performance: Performance = field(default_factory=Performance)
    on_progress: Callable[[Progress], None] | None = None
    remarks: tuple[str, ...] = ()
    tolerant: bool = False

    def __post_init__(self) -> None:
        given.path("dst", self.dst)
        for key in ("layout", "convention", "name"):
            if (value := getattr(self, key)) is not None:
                given.text(key, value)
        for key in ("max_shard_size", "max_tensors"):
            if (value := getattr(self, key)) is not None:
                given.number(key, value)
        object.__setattr__(self, "metadata", given.pairs("metadata", self.metadata, sign="="))
        if not str(self.dst):
            raise RecipeError("no destination: the path is empty")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise RecipeError(f"layout: {self.layout!r} is not one of {', '.join(LAYOUTS)}")
        if self.max_shard_size is not None and self.max_tensors is not None:
            raise RecipeError("a chunk is limited by max_shard_size or by max_tensors, not by both")
        limited = self.max_shard_size is not None or self.max_tensors is not None
        if limited and self.layout not in (None, "chunked"):
            raise RecipeError(f"layout {self.layout}: only chunked takes a limit of size or number")
        if any(key == record.KEY for key, _ in self.metadata):
            raise RecipeError(
                f"metadata: {record.KEY!r} is the record of how the file was made",
                hint="use another key",
            )
        if self.max_tensors is not None and self.max_tensors < 1:
            raise RecipeError(f"max_tensors: {self.max_tensors} is not a positive number")
        if self.folder and self.name is not None and os.sep in self.name:
            raise RecipeError(f"name: {self.name!r} is a path, not a name")
        if not self.folder and limited:
            raise RecipeError(
                f"{self.dst}: max_shard_size and max_tensors cut into several files",
                hint="name a folder instead",
            )
        if not self.folder and self.name is not None:
            raise RecipeError(
                f"{self.dst}: the path names the file already, name {self.name!r} does nothing",
                hint="name a folder, or leave the name out",
            )
        if not self.folder and self.layout not in (None, "single_file"):
            raise RecipeError(
                f"{self.dst}: one file cannot hold the layout {self.layout}", hint="name a folder instead"
            )

    @property
    def folder(self) -> bool:
        """Whether the destination is a folder."""
        return containers.written(str(self.dst)) is None

    def plan(self, flow: Flow) -> Plan:
        """Resolve the flow; nothing is written. See :class:`core.plan.Plan`.

        Raises:
            PlanError: anything that can be known to fail.
        """
        refuse_destination(self.dst)
        convention = catalog.convention(self.convention or _default_convention(flow))
        planning = Planning(
            convention=convention.name,
            allow_unmatched=self.allow_unmatched,
            workers=self.performance.threads,
            measure=self.performance.measure,
            on_scan=self._scan,
        )
        for text in flow.source.notes:
            planning.note(text)
        for text in self.remarks:
            planning.warn(text)
        tensors = flow.tensors(planning)
        if not tensors:
            raise PlanError("no tensor is left to write", file=flow.source.path)
        if self.convention is not None:
            tensors = repack(tensors, convention, planning)
        tensors = marked(tensors, convention, planning)
        fitting = fitted(self.performance, tensors)
        if fitting.threads < self.performance.threads:
            planning.note(
                f"{fitting.threads} of {self.performance.threads} workers run: the widest rows leave"
                f" {self.performance.memory} bytes of memory too few for more (--memory)"
            )
        gpus = devices.choose(fitting, tensors).names
        if gpus:
            planning.note(f"schemes are computed on {', '.join(gpus)}")
        self._tell_idle(tensors, planning)
        block_of = _numbering(tensors)
        units = []
        for number, tensor in enumerate(tensors):
            tensors[number], names = spell(tensor, convention, planning)
            stored = [Stored(names[part.role], part.role, part.spec) for part in tensors[number].parts]
            units.append(Unit(number, tuple(stored), block_of(tensor)))
        _note_shared(tensors, planning)
        # A folder below it is a model for itself.
        among = not self.folder and real(self.dst).parent == real(flow.source.path)
        if among and flow.source.path.is_dir():
            planning.warn(f"{self.dst} lies among the source's files, so that folder will hold two models")
        layout = self._layout(flow)
        self._check_name(layout, convention, planning)
        stem = self.name or flow.source.stem
        cut = self._cut(units, layout, stem, convention)
        schemes = {tensor.scheme.name for tensor in tensors if tensor.scheme is not None}
        limits = {"max_shard_size": self.max_shard_size, "max_tensors": self.max_tensors}
        said = {key: value for key, value in limits.items() if value is not None}
        made = record.make(flow.steps, layout, convention.name, schemes, said)
        metadata = self._metadata(flow, made, convention, planning)

        cutting.check_names(cut, tensors)
        files = tuple(
            containers.writer(name).lay_out(name, held, metadata, file=self.dst) for name, held in cut
        )
        side: list[SideFile] = []
        if self.folder and self.copy_metadata:
            side += side_files.side_files(flow, tensors, {file.name for file in files}, planning)
        else:
            side_files.note_config(tensors, convention, planning)
        if self.folder:
            side += side_files.index(files, layout, stem, convention)
        return Plan(
            source=flow.source.path,
            destination=Path(self.dst),
            folder=self.folder,
            tensors=tuple(tensors),
            files=files,
            side_files=tuple(side),
            log=Log(tuple(planning.notes), tuple(planning.warnings), tuple(planning.dropped)),
            inputs=tuple(one for source in (flow.source, *planning.inputs) for one in source.inputs),
            stored=planning.stored,
            summary={"layout": layout, **{key: made[key] for key in ("convention", "schemes", "digest")}},
        )

    def check(self, plan: Plan) -> None:
        """Refuse a destination that cannot be written: what a dry run reports and a run insists on."""
        check(plan, force=self.force)

    def run(self, flow: Flow) -> Report:
        """Plan, refuse what can be refused, write.

        Raises:
            TranscodeError: see its leaves; nothing appears under the destination's name.
        """
        began = time.monotonic()
        plan = self.plan(flow)
        self.check(plan)
        report = carry_out(plan, self.performance, self.on_progress)
        return replace(report, seconds=time.monotonic() - began)

    def config(self) -> dict[str, Any]:
        """The recipe's ``target`` and ``output`` sections."""
        target: dict[str, Any] = {}
        if self.convention is not None:
            target["convention"] = self.convention
        for key in ("layout", "max_shard_size", "max_tensors"):
            if (value := getattr(self, key)) is not None:
                target[key] = value
        output: dict[str, Any] = {"path": str(self.dst)}
        if (name := self.strict().name) is not None:
            output["name"] = name
        if not self.copy_metadata:
            output["copy_metadata"] = False
        if self.metadata:
            output["metadata"] = dict(self.metadata)
        for key in ("force", "allow_unmatched"):
            if getattr(self, key):
                output[key] = True
        return {**({"target": target} if target else {}), "output": output}

    def _tell_idle(self, tensors: Sequence[LazyTensor], planning: Planning) -> None:
        """Say what of the performance options does nothing in this plan."""
        if any(tensor.scheme is not None for tensor in tensors):
            return
        if self.performance.measure:
            planning.warn("measure: nothing is quantized, so there is nothing to measure")
        if self.performance.device not in ("cpu", "auto"):
            planning.warn(f"device {self.performance.device}: only schemes are computed there, none is used")

    def _check_name(self, layout: str, convention: catalog.Convention, planning: Planning) -> None:
        """Refuse a name that no file would bear."""
        if self.name is None or _bears_name(layout, convention):
            return
        told = (
            f"name: {self.name!r} does nothing: {convention.name} has its own names for the layout {layout}"
        )
        if not self.tolerant:
            raise PlanError(told, hint="leave the name out")
        planning.warn(told)

    def _layout(self, flow: Flow) -> str:
        if self.layout is not None:
            return self.layout
        if self.max_shard_size is not None or self.max_tensors is not None:
            return "chunked"
        return "chunked" if self.folder and len(flow.source.files) > 1 else "single_file"

    def _cut(
        self, units: Sequence[Unit], layout: str, stem: str, convention: catalog.Convention
    ) -> cutting.Cut:
        if not self.folder:
            return cutting.single_file(units, Path(self.dst).name)
        if layout == "single_file":
            return cutting.single_file(units, convention.single_file(stem))
        if layout == "by_block":
            return cutting.by_block(units, *convention.block_files)
        if layout == "apart":
            return cutting.apart(units, convention.file_of)
        limit = self.max_shard_size if self.max_tensors is not None or self.max_shard_size else _DEFAULT_SHARD
        pattern = convention.chunk_file(stem)
        alone = convention.alone_file(stem)
        return cutting.chunked(units, pattern, alone, max_bytes=limit, max_tensors=self.max_tensors)

    def _metadata(
        self, flow: Flow, made: Mapping[str, Any], convention: catalog.Convention, planning: Planning
    ) -> dict[str, str]:
        carried = {**flow.source.metadata, **planning.replaced}
        still = bool(planning.coded) or not planning.decoded
        return {
            **{key: value for key, value in carried.items() if value is not None},
            **convention.metadata,
            "format": "pt",  # loaders of transformers refuse metadata without it
            **dict(self.metadata),
            record.KEY: record.dumps(made, before=flow.source.metadata.get(record.KEY), still=still),
        }

    def _scan(self, stage: str, fraction: float) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(int(fraction * 1000), 1000, stage, 0.0))

    def strict(self) -> Write:
        """The same, without what does nothing and the remarks on it."""
        name = self.name
        if self.tolerant and self.layout is not None and self.convention is not None:
            name = name if _bears_name(self.layout, catalog.convention(self.convention)) else None
        return replace(self, remarks=(), tolerant=False, name=name)

    def with_progress(self, on_progress: Callable[[Progress], None] | None) -> Write:
        """The same, reporting its progress."""
        return replace(self, on_progress=on_progress)


def _numbering(tensors: Sequence[LazyTensor]) -> Callable[[LazyTensor], int | None]:
    """Which block each tensor belongs to, by its name, or by that in the source where it was changed."""
    if (family := catalog.detect([tensor.name for tensor in tensors])) is not None:
        return lambda tensor: family.block_of(tensor.name)
    if (original := catalog.detect([tensor.source for tensor in tensors])) is not None:
        return lambda tensor: original.block_of(tensor.source)
    generic = catalog.generic_family()
    return lambda tensor: generic.block_of(tensor.name)


def _note_shared(tensors: Sequence[LazyTensor], planning: Planning) -> None:
    """Say which tensors are one in the source: a safetensors file holds each of them in full."""
    owners: dict[str, list[str]] = {}
    for tensor in tensors:
        if tensor.shares is not None:
            owners.setdefault(tensor.shares, []).append(tensor.name)
    for names in owners.values():
        if len(names) > 1:
            planning.note(
                f"{', '.join(names)} share their bytes in the source; each is written in full",
                tensor=names[0],
                kind="shared",
            )


def _default_convention(flow: Flow) -> str:
    kinds = {step.kind for step in flow.steps}
    if "nunchaku" in kinds or "quantize" in kinds:
        return "nunchaku" if "nunchaku" in kinds else "lightx2v"
    spellings = [getattr(step, "to", "") for step in flow.steps if step.kind == "convert"]
    return spellings[-1] if spellings and spellings[-1] in catalog.conventions() else "plain"


def _bears_name(layout: str, convention: catalog.Convention) -> bool:
    """Whether any file of a layout bears the name of the output, and not one that the consumer prescribes."""
    mark = "\0"
    names = [convention.index_name(layout, mark) or ""]
    if layout == "single_file":
        names.append(convention.single_file(mark))
    elif layout == "chunked":
        names += [convention.chunk_file(mark), convention.alone_file(mark)]
    return any(mark in name for name in names)
