"""A stage that was asked for and does nothing: why not, and what to do."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...catalog.lora import lora_names
from ...containers import table
from ...core.planning import Planning
from ...core.tensor import LazyTensor
from ...errors import PlanError

__all__ = ["refuse_adapter", "refuse_nothing"]

_NUMBER = re.compile(r"\d+")
_REASONS = 2
_ADAPTER = "adapter_config.json"


def refuse_nothing(scheme: str, kept: Iterable[tuple[LazyTensor, str]], planning: Planning) -> None:
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
    matrices = [(tensor, why) for tensor, why in matrices if why != "not a weight"] or matrices
    reasons: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for _, why in matrices or kept:
        # Behind a misfit stands why the tensor was chosen, behind a name its numbers.
        kind = _NUMBER.sub("*", why.partition(" (")[0])
        reasons[kind] += 1
        shown.setdefault(kind, why.partition(" (")[0])
    total = sum(reasons.values())
    if reasons:
        count = f"{total} matrices" if matrices else f"{total} tensors"
        parts = [f"{number} of {count}: {shown[kind]}" for kind, number in reasons.most_common(_REASONS)]
        rest = len(reasons) - len(parts)
        told = "; ".join(parts) + (f"; and {rest} more reasons" if rest else "")
    else:
        told = "there are no tensors"
    what = f"quantize: no tensor becomes {scheme}: {told}"
    if not planning.allow_unmatched:
        stored = "is not a plain float" in told or "quantized already" in told
        hint = "decode the source first, with --dequantize" if stored else "choose others, or leave it out"
        raise PlanError(what, hint=f"{hint}; --dry-run -v --allow-unmatched tells of each tensor")
    planning.warn(what)


def refuse_adapter(tensors: Sequence[LazyTensor], planning: Planning) -> None:
    """Refuse to quantize an adapter (a LoRA) as if it were a model.

    Raises:
        PlanError: most of the tensors are named like those of a LoRA, or adapter_config.json stands beside.
    """
    names = lora_names()
    found = [tensor.source for tensor in tensors if names.holds(tensor.source)]
    told = f"{len(found)} of {len(tensors)} tensors are named like {found[0]!r}" if found else ""
    if 2 * len(found) <= len(tensors):
        if not _is_adapter(planning.source):
            return
        told = f"{_ADAPTER} stands beside it"
    raise PlanError(
        f"is a LoRA or another adapter, not a model: {told}",
        file=planning.source,
        hint="merge it into its model (transcode run MODEL DST --lora FILE --scheme ...);"
        " to quantize it all the same, name the tensors with --include",
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
    files = [name for name in os.listdir(folder) if table.of_name(name) is not None]
    return bool(files) and all(name.startswith("adapter_") for name in files)
