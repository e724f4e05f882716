"""The layers of a model as loaders see them: which linear modules are quantized, and which are not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from ... import catalog
from ...core.dtypes import FLOATS
from ...core.planning import Planning
from ...core.records import dataclass
from ...core.tensor import LazyTensor
from ...errors import PlanError
from .stated import KEY

__all__ = ["Layers", "layers_of"]

_WEIGHT = ".weight"
_HEAD = "lm_head"


@dataclass(frozen=True)
class Layers:
    """Modules of a model, by what was done to them.

    Attributes:
        quantized: module -> its tensor.
        kept: linear modules that are not quantized, sorted.
    """

    quantized: Mapping[str, LazyTensor]
    kept: tuple[str, ...]

    def kept_by_prefix(self, planning: Planning) -> list[str]:
        """The kept modules, for a loader that takes each name for the beginning of others.

        What would hide a quantized layer is left out: the router ``mlp.gate`` beside ``mlp.gate_proj``, which
        loaders never quantize anyway.
        """
        names = sorted(self.quantized)
        listed = []
        for module in self.kept:
            at = bisect_left(names, module)
            if at < len(names) and names[at].startswith(module):
                planning.warn(
                    f"{KEY}: {module} is not listed as unquantized, its name is the beginning of {names[at]}",
                    tensor=module,
                    kind="hidden",
                )
            else:
                listed.append(module)
        return listed


def layers_of(tensors: Sequence[LazyTensor]) -> Layers:
    """The layers of an output, from its tensors with their schemes.

    Raises:
        PlanError: an embedding is quantized.
    """
    family = catalog.detect([tensor.name for tensor in tensors]) or catalog.generic_family()
    quantized = {}
    kept = set()
    for tensor in tensors:
        module = tensor.name.removesuffix(_WEIGHT)
        if tensor.scheme is not None:
            if family.is_embedding(tensor.name, tensor.spec.shape):
                raise PlanError(
                    f"an embedding cannot be {tensor.scheme.name} here: loaders quantize linear layers only",
                    tensor=tensor.name,
                    hint="exclude it",
                )
            quantized[module] = tensor
        elif (
            tensor.name.endswith(_WEIGHT)
            and len(tensor.spec.shape) == 2
            and tensor.spec.dtype.name in FLOATS
            and not family.is_embedding(tensor.name, tensor.spec.shape)
        ):
            kept.add(module)
    if not any(_is_head(module) for module in (*quantized, *kept)):
        kept.add(_HEAD)  # tied to the embedding it is stored nowhere, and a linear layer all the same
    return Layers(quantized, tuple(sorted(kept)))


def _is_head(module: str) -> bool:
    return module.rsplit(".", 1)[-1] == _HEAD
