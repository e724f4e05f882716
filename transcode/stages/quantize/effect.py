"""A stage that was asked for and does nothing: why not, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...catalog.lora import lora_names
from ...consumers.fit import Decision
from ...containers import table
from ...core.dtypes import DType
from ...core.event import Reason
from ...core.planning import Planning
from ...core.tensor import LazyTensor
from ...core.text import count
from ...errors import PlanError
from ...voice import called

__all__ = ["refuse_adapter", "refuse_nothing", "refuse_unweighed"]

_REASONS = 2
_ADAPTER = "adapter_config.json"


def refuse_nothing(scheme: str, kept: Iterable[tuple[LazyTensor, Reason]], planning: Planning) -> None:
    """Say that nothing is quantized, and why: the reasons that most tensors have.

    Args:
        scheme: name of the scheme that was asked for.
        kept: all tensors, each with the reason for which it is not quantized.

    Raises:
        PlanError: unless stages without effect are allowed.
    """
    kept = list(kept)
    # Nobody wonders why a bias stays.
    matrices = [(tensor, why) for tensor, why in kept if not tensor.plain or len(tensor.spec.shape) > 1]
    matrices = [(tensor, why) for tensor, why in matrices if why.kind != "not a weight"] or matrices
    alike: dict[object, list[Reason]] = {}
    for _, why in matrices or kept:
        alike.setdefault(why.alike, []).append(why)
    reasons = sorted(alike.values(), key=len, reverse=True)
    most = reasons[:_REASONS]
    what = f"quantize: no tensor becomes {scheme}: {_counted(reasons, 'matrices' if matrices else 'tensors')}"
    if not planning.allow_unmatched:
        coded = any(whys[0].kind in ("not a float", "quantized already") for whys in most)
        hint = (
            f"decode the source first, with {called('dequantize', 'bf16')}"
            if coded
            else "choose others, or leave it out"
        )
        raise PlanError(what, hint=f"{hint}; {called('dry_run')} tells of each tensor")
    planning.warn(what)


def refuse_unweighed(decided: Iterable[Decision]) -> None:
    """Refuse schemes that are of no use where all columns count alike.

    Raises:
        PlanError: a tensor would become such.
    """
    for tensor, action, _ in decided:
        if action is not None and not isinstance(action, DType) and action.needs_weights:
            raise PlanError(
                f"cannot become {action.name} without weights of its columns: it would be of no use",
                tensor=tensor.name,
                hint=f"pass {called('importance', 'FILE')} with what llama-imatrix made, or norm or sinq",
            )


def _counted(reasons: Sequence[Sequence[Reason]], tensors: str) -> str:
    """The first reasons, each with the number of tensors that have it, or one that is alike."""
    if not reasons:
        return "there are no tensors"
    total = sum(map(len, reasons))
    parts = [f"{len(whys)} of {total} {tensors}: {_shown(whys)}" for whys in reasons[:_REASONS]]
    rest = len(reasons) - len(parts)
    return "; ".join(parts) + (f"; and {count(rest, 'more reason')}" if rest else "")


def _shown(whys: Sequence[Reason]) -> str:
    """The words that most of them have."""
    return Counter(why.text for why in whys).most_common(1)[0][0]


def refuse_adapter(tensors: Sequence[LazyTensor], planning: Planning) -> None:
    """Refuse to quantize an adapter (a LoRA) as if it were a model.

    Raises:
        PlanError: most of the tensors are named like those of a LoRA, or adapter_config.json stands beside.
    """
    names = lora_names()
    factors = [tensor.source for tensor in tensors if names.holds(tensor.source)]
    if 2 * len(factors) > len(tensors):
        evidence = f"{len(factors)} of {len(tensors)} tensors are named like {factors[0]!r}"
    elif _is_adapter(planning.source):
        evidence = f"{_ADAPTER} stands beside it"
    else:
        return
    raise PlanError(
        f"is a LoRA or another adapter, not a model: {evidence}",
        file=planning.source,
        hint=f"merge it into its model ({called('merge')});"
        f" to quantize it all the same, name the tensors with {called('include')}",
    )


def _is_adapter(source: Path | None) -> bool:
    """Whether the source is what an adapter_config.json is about: ``adapter_model.*``, or a folder of it."""
    if source is None:
        return False
    folder = source if source.is_dir() else source.parent
    if not (folder / _ADAPTER).is_file():
        return False
    if not source.is_dir():
        return source.name.startswith("adapter_")
    files = [one.name for one in folder.iterdir() if table.of_name(one.name) is not None]
    return bool(files) and all(name.startswith("adapter_") for name in files)
