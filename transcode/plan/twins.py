"""One plan of two models that take turns: each is planned by itself, and both appear together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import catalog
from ..catalog.twins import Arrangement, arrangements
from ..consumers.pipeline_files import pair_files
from ..core.event import Event, Remark
from ..core.flow import Flow, below
from ..core.output import PlannedFile, SideFile
from ..core.records import dataclass
from ..core.source import Twin
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..io.named import locate
from .location import destination
from .plan import Log, Plan
from .request import Request
from .resolve import default_convention, resolve

__all__ = ["resolve_all"]


def resolve_all(request: Request, flow: Flow, on_scan: Callable[[str, float], None] | None = None) -> Plan:
    """The plan of what ``flow`` becomes under ``request``, whether that is one model or two.

    Args:
        on_scan: see :func:`.resolve.resolve`.

    Raises:
        TranscodeError: anything that can be known to fail.
    """
    flows = flow.twins()
    if not flows:
        return resolve(request, flow, on_scan)
    if not request.folder:
        raise PlanError(
            "these are two models, which one file cannot hold",
            file=flow.source.path,
            hint=f"name a folder, or take one of them: {flow.source.path}/{flow.source.twins[0].name}",
        )
    convention = request.convention or default_convention(request, flow)
    spelling = _spelling(flow)
    arrangement = _arrangement(flow, spelling, convention)
    parts = [_Part(twin, *_plan(request, twin, own, arrangement, convention, on_scan)) for twin, own in flows]
    side: list[SideFile] = []
    log = Log(tuple(map(Remark, flow.source.notes)))
    if not arrangement.files and request.copy_metadata:
        notes: list[str] = []
        models = {arrangement.names[part.twin.noise]: part.shapes for part in parts}
        side = pair_files(models, locate(str(flow.source.path)), notes.append)
        log = replace(log, notes=(*log.notes, *map(Remark, notes)))
    return _joined(request, flow, parts, side, log)


@dataclass(frozen=True, slots=True)
class _Part:
    """The plan of one of the two.

    Attributes:
        within: what stands before the names of its files in the folder of both.
    """

    twin: Twin
    plan: Plan
    within: str

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its tensors, whatever parts they are stored in."""
        return {tensor.name: tensor.spec.shape for tensor in self.plan.tensors}


def _spelling(flow: Flow) -> str | None:
    """How the names of the output are spelled: as was asked for, else as they are."""
    asked = [step.consumer for step in flow.steps if step.respells]
    if asked:
        return asked[-1]
    family = catalog.detect([tensor.name for tensor in flow.source.twins[0].source.tensors])
    return None if family is None else family.spelling


def _arrangement(flow: Flow, spelling: str | None, convention: str) -> Arrangement:
    """How the two lie beside each other: as who is to load them has them, else as they came."""
    if any(step.respells or step.encodes for step in flow.steps) or convention != "plain":
        return next(one for one in arrangements() if one.fits(spelling, convention))
    twins = flow.source.twins
    files = all(len(twin.source.files) == 1 and twin.source.path.is_file() for twin in twins)
    return Arrangement({twin.noise: twin.name for twin in twins}, files)


def _plan(
    request: Request,
    twin: Twin,
    flow: Flow,
    arrangement: Arrangement,
    convention: str,
    on_scan: Callable[[str, float], None] | None,
) -> tuple[Plan, str]:
    """The plan of one of them, and what stands before the names of its files."""
    name = arrangement.names[twin.noise]
    if not arrangement.files:
        return resolve(replace(request, dst=f"{request.dst}/{name}"), flow, on_scan), f"{name}/"
    stem = request.name or (None if twin.source.path.is_file() else Path(request.dst).name)
    name = twin.name if stem is None else name.replace("{stem}", stem)
    file = catalog.convention(convention).single_file(name)
    own = replace(request, dst=f"{request.dst}/{file}", name=None)
    return resolve(own, flow, on_scan), ""


def _joined(request: Request, flow: Flow, parts: list[_Part], side: list[SideFile], log: Log) -> Plan:
    """Both plans as one, which is carried out as a whole or not at all."""
    tensors: list[LazyTensor] = []
    files: list[PlannedFile] = []
    stored: dict[str, Any] = {}
    for part in parts:
        files += (_moved(file, part.within, len(tensors)) for file in part.plan.files)
        tensors += below(part.twin.name, part.plan.tensors)
        stored |= {f"{part.twin.name}/{name}": spec for name, spec in part.plan.stored.items()}
    plans = [part.plan for part in parts]
    return Plan(
        source=flow.source.path,
        destination=destination(request.dst),
        folder=True,
        tensors=tuple(tensors),
        files=tuple(files),
        side_files=(
            *(replace(one, name=part.within + one.name) for part in parts for one in part.plan.side_files),
            *side,
        ),
        log=Log(
            _merged(log.notes, *((part.twin, part.plan.log.notes) for part in parts)),
            _merged((), *((part.twin, part.plan.log.warnings) for part in parts)),
            tuple(one for part in parts for one in _dropped(part)),
        ),
        inputs=tuple(
            dict.fromkeys(
                [
                    *(one for plan in plans for one in plan.inputs[: plan.own]),
                    *(one for plan in plans for one in plan.inputs[plan.own :]),
                ]
            )
        ),
        stored=stored,
        summary=_summary(plans),
        own=sum(plan.own for plan in plans),
    )


def _moved(file: PlannedFile, within: str, by: int) -> PlannedFile:
    """A file of one plan among those of both, where its tensors have other numbers."""
    places = tuple(replace(place, tensor=place.tensor + by) for place in file.places)
    return replace(file, name=within + file.name, places=places)


def _merged(first: Iterable[Remark], *parts: tuple[Twin, Iterable[Remark]]) -> tuple[Remark, ...]:
    """Remarks of both: what is said of each alike once, the rest with the name of the model."""
    lists = [list(remarks) for _, remarks in parts]
    common = [remark for remark in lists[0] if remark in lists[1]]
    own = [
        replace(
            remark,
            text=f"{twin.name}/{remark.text}" if remark.tensor else f"{twin.name}: {remark.text}",
            tensor=remark.tensor and f"{twin.name}/{remark.tensor}",
        )
        for (twin, _), remarks in zip(parts, lists, strict=True)
        for remark in remarks
        if remark not in common
    ]
    return tuple(dict.fromkeys((*first, *common, *own)))


def _dropped(part: _Part) -> Iterable[tuple[LazyTensor, Event]]:
    tensors = below(part.twin.name, (tensor for tensor, _ in part.plan.log.dropped))
    return zip(tensors, (why for _, why in part.plan.log.dropped), strict=True)


def _summary(plans: list[Plan]) -> Mapping[str, Any]:
    """The facts of both: schemes of either, and one digest of the two."""
    digests = "\0".join(str(plan.summary["digest"]) for plan in plans)
    schemes = dict.fromkeys(scheme for plan in plans for scheme in plan.summary["schemes"])
    whole = f"sha256:{hashlib.sha256(digests.encode()).hexdigest()}"
    return {**plans[0].summary, "schemes": [*schemes], "digest": whole}
