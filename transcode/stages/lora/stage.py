"""Merge LoRAs into the weights that they were trained for."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ...catalog.lora import lora_names
from ...core.arguments import number
from ...core.arguments import path as path_of
from ...core.event import Event
from ...core.flow import Transform
from ...core.planning import Planning
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...core.value import interned
from ...errors import PlanError, RecipeError
from ...io import hub

if TYPE_CHECKING:
    from .delta import Added

__all__ = ["Lora", "LoraFile", "parse_lora"]


class LoraFile(NamedTuple):
    """One LoRA to merge.

    Attributes:
        path: a safetensors or PyTorch file, or the folder of one.
        strength: factor of all that it adds.
        alpha: for its low-rank pairs that say no alpha of their own; they count ``alpha / rank`` times, or
            once without it.
    """

    path: str
    strength: float = 1.0
    alpha: float | None = None


_TEXT = re.compile(r"(.+?)(?::([-+.\deE]*))?(?::([-+.\deE]*))?", re.DOTALL)


def parse_lora(text: str) -> LoraFile:
    """Read ``PATH``, ``PATH:strength`` or ``PATH:strength:alpha``; an empty strength is 1.

    What follows a colon and is no number belongs to the path.
    """
    match = _TEXT.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        path, strength, alpha = match.groups()
        return LoraFile(path, float(strength or 1), float(alpha) if alpha else None)
    except ValueError:
        return LoraFile(text)


def _files(files: Any) -> tuple[LoraFile, ...]:
    """LoRAs from what a caller may give: a path, or several paths and ``(path, strength, alpha)`` tuples."""
    if isinstance(files, str | PathLike) or not isinstance(files, Iterable) or isinstance(files, LoraFile):
        files = (files,)
    loras = []
    for entry in files:
        fields = (
            (entry,)
            if isinstance(entry, str | PathLike)
            else tuple(entry)
            if isinstance(entry, Iterable)
            else ()
        )
        if not 1 <= len(fields) <= 3:
            raise RecipeError(f"lora: {entry!r} is no path, nor a path with a strength and an alpha")
        path, strength, alpha = (*fields, 1.0, None)[:3] if len(fields) < 2 else (*fields, None)[:3]
        file = path_of("lora", path)
        loras.append(
            LoraFile(
                file,
                number(f"lora: {file}: strength", strength),
                None if alpha is None else number(f"lora: {file}: alpha", alpha),
            )
        )
    return tuple(loras)


@dataclass(frozen=True)
class Lora(Transform):
    """Merge LoRAs and adapters of other kinds into the plain float tensors of a model.

    ``W' = round(float32(W) + s1 * (up1 @ down1) + s2 * ...)`` with ``s = strength * alpha / rank``: all of it
    in float32, LoRAs in the order given, and one rounding, to nearest even, to the dtype that ``W`` has. So a
    stage behind this one sees exactly what it would read from a file with the merged model, and merging and
    quantizing in one pass gives the same bytes as in two.

    The alpha of a pair is its own (``.alpha``); else the one given with the file; else what
    ``adapter_config.json`` or the file's metadata say; else the rank. A stored alpha of 0 counts as absent,
    as trainers mean it. Differences (``.diff``, ``.diff_b``, ``.diff_m``) count ``strength`` times, whatever
    the alpha. Tensors that were trained whole, and rows of embeddings that were, take the place of the
    model's before anything of the same file is added: ``W' = s * new + (1 - s) * W`` with ``s = strength``.

    Other kinds, whose formulas stand in :mod:`.products`, :mod:`.rows`, :mod:`.turns` and
    :mod:`.turned_inputs`: LoHa and LoKr add another product; DoRA, GLoRA, IA3, OFT and BOFT change the
    tensor that those before have made, and count strength as said there. DoRA of inputs looks at the whole
    tensor first.

    Pairs fit matrices ``[O, I]`` and convolutions ``[O, I, *kernel]``, which count as ``[O, I * kernel]``;
    stacks of matrices (experts) take differences, and pairs of PEFT's ``target_parameters``. What the model
    joins or keeps apart where the LoRA does not is changed by rows. Besides headers, alphas are read while
    planning.

    Args:
        files: the LoRAs.
        keys: how they spell the names of modules: ``"same"`` as the model does, ``"convert"`` as another
            spelling of its kind does, ``"auto"`` either. What stands before names (``diffusion_model.``,
            ``transformer.``, ``lora_unet_`` with underscores for dots ...) is understood in any case.
        prefix: only tensors whose names begin with this are meant; LoRAs name them without it.
    """

    kind: ClassVar[str] = "lora"

    files: tuple[LoraFile, ...]
    keys: str = "auto"
    prefix: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", _files(self.files))
        if not self.files:
            raise RecipeError("lora: no file is named")
        from .targets import KEYS

        if self.keys not in KEYS:
            raise RecipeError(f"lora: keys: {self.keys!r} is not one of {', '.join(KEYS)}")
        for path, strength, alpha in self.files:
            if not math.isfinite(strength):
                raise RecipeError(f"lora: {path}: strength {strength!r} is not a finite number")
            if alpha is not None and (not math.isfinite(alpha) or alpha == 0):
                raise RecipeError(
                    f"lora: {path}: alpha {alpha!r} is not a number other than 0", hint="leave it out"
                )

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Find each key's tensor from names and shapes; deltas are computed tile by tile."""
        # Most runs merge nothing, and the start of each would load all that merging needs.
        from .keys import read
        from .merge import merge
        from .placing import placements
        from .targets import Homes
        from .tied import refuse_untied

        tensors = list(tensors)
        table = {tensor.name: tensor for tensor in tensors}
        names = lora_names()
        shapes = {tensor.name: tensor.spec.shape for tensor in tensors}
        homes = Homes(shapes, names, self.keys, self.prefix)
        added: dict[str, list[Added]] = defaultdict(list)
        events: dict[str, list[Event]] = defaultdict(list)
        for path, strength, alpha in self.files:
            contents = read(path, strength, alpha, names)
            planning.inputs.append(contents.source)
            placed = placements(contents, homes, table, planning)
            refuse_untied(contents, placed, table, planning)
            for name, change, what in placed:
                added[name].append(change)
                events[name].append(interned(Event("lora", f"{contents.path.name} x {strength:g}, {what}")))
        for tensor in tensors:
            if tensor.name not in added:
                yield tensor
                continue
            fate = (*tensor.fate, *events[tensor.name])
            # It is no longer what other names of the same stored bytes mean.
            # Its rows lie in memory, where the stages behind reckon with a view of the file.
            value, needs = merge(_as_rows(tensor, added[tensor.name]), added[tensor.name])
            yield tensor.evolve(value=value, needs=(*tensor.needs, *needs), fate=fate, shares=None, cost=4)

    def config(self) -> dict[str, Any]:
        """Paths, and the rest where it differs from the default."""
        config: dict[str, Any] = {"paths": [file.path for file in self.files]}
        if any(file.strength != 1 for file in self.files):
            config["strengths"] = [file.strength for file in self.files]
        if any(file.alpha is not None for file in self.files):
            config["alphas"] = [file.alpha for file in self.files]
        if self.keys != "auto":
            config["keys"] = self.keys
        if self.prefix is not None:
            config["prefix"] = self.prefix
        return config

    def recorded(self) -> dict[str, Any]:
        """The names of the files instead of their paths; of a model on the hub also its revision."""
        return {**self.config(), "paths": [hub.recorded(file.path) for file in self.files]}


def _as_rows(tensor: LazyTensor, added: list[Added]) -> LazyTensor:
    """A stack of matrices as one of all their rows, so that tiles need not hold whole ones."""
    from .delta import Difference
    from .places import Whole
    from .stacked import Stacked

    if not any(isinstance(addition.delta, Stacked) for addition in added):
        return tensor
    for addition in added:
        if not isinstance(addition.delta, Stacked | Difference | Whole):
            raise PlanError(
                f"is a stack of matrices for one LoRA, and none for another ({addition.delta.described()})",
                tensor=tensor.name, hint="are both for this model?",
            )  # fmt: skip
    return tensor.evolve(spec=Spec(tensor.spec.dtype, (tensor.spec.rows, tensor.spec.columns)))
