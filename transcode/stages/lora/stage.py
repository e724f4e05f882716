"""Merge LoRAs into the weights that they were trained for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ...catalog.lora import lora_names
from ...core.event import Event
from ...core.flow import Transform
from ...core.planning import Planning
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...core.value import interned
from ...errors import PlanError
from ..facts import facts_of
from ..options import LoraOptions
from .files import BOTH, LoraFile, for_noise, parse_lora

if TYPE_CHECKING:
    from .delta import Added

__all__ = ["Lora", "LoraFile", "parse_lora"]


@dataclass(frozen=True)
class Lora(LoraOptions, Transform):
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
    """

    def of_twin(self, noise: str) -> Lora | None:
        """With the LoRAs that are for that model. Raises RecipeError: it is not said of one."""
        files = for_noise(self.files, noise)
        return replace(self, files=files) if files else None

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
        homes = Homes(shapes, names, self.keys, self.prefix, lambda: facts_of(planning))
        added: dict[str, list[Added]] = defaultdict(list)
        events: dict[str, list[Event]] = defaultdict(list)
        if aside := next((file for file in self.files if file.noise not in (None, BOTH)), None):
            raise PlanError(
                f"lora: {aside.path} is for the model of {aside.noise} noise, and the source is one model",
                hint=f"leave {aside.noise}= out, or name the folder of both",
            )
        for path, strength, alpha, _ in self.files:
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


def _as_rows(tensor: LazyTensor, added: list[Added]) -> LazyTensor:
    """A stack of matrices as one of all their rows, so that tiles need not hold whole ones."""
    from .delta import Difference
    from .places import Placed, Whole
    from .stacked import Stacked

    def of_stack(delta: object) -> bool:
        rows = len(tensor.spec.shape) == 3 and isinstance(delta, Placed) and len(delta.shape) == 2
        return rows or isinstance(delta, Stacked)

    if not any(of_stack(addition.delta) for addition in added):
        return tensor
    for addition in added:
        if not (of_stack(addition.delta) or isinstance(addition.delta, Difference | Whole)):
            raise PlanError(
                f"is a stack of matrices for one LoRA, and none for another ({addition.delta.described()})",
                tensor=tensor.name, hint="are both for this model?",
            )  # fmt: skip
    return tensor.evolve(spec=Spec(tensor.spec.dtype, (tensor.spec.rows, tensor.spec.columns)))
