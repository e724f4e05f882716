"""The scheme of each tensor where a mix of types is asked for (:mod:`...catalog.mixes`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...catalog.mixes import Mixer, mixes
from ...core.dtypes import FLOATS
from ...core.event import Reason
from ...core.scheme import Scheme
from ...core.tensor import LazyTensor
from ...errors import RecipeError
from .choice import Choice

__all__ = ["Mixing", "base_of"]


def base_of(name: str, options: object) -> str:
    """The scheme of most tensors of a mix; the name itself where it is none.

    Raises:
        RecipeError: options are given for a mix.
    """
    mix = mixes().mixes.get(name)
    if mix is None:
        return name
    if options:
        raise RecipeError(f"{name} is a mix of types, which have no options", hint="leave them out")
    return mix.base


class Mixing:
    """What a mix makes of the tensors of a model.

    Args:
        name: of the mix.
        tensors: all of the model.
        make: the scheme of a name.
    """

    def __init__(self, name: str, tensors: Sequence[LazyTensor], make: Callable[[str], Scheme]) -> None:
        self._name = name
        self._mixer = Mixer(name, {tensor.name: tensor.spec.shape for tensor in tensors})
        self._table = mixes()
        self._make = make

    def takes(self, tensor: LazyTensor, why: Reason) -> bool:
        """Whether it quantizes a matrix outside of blocks that families keep: embeddings, and the head."""
        matrix = tensor.plain and tensor.spec.dtype.name in FLOATS and len(tensor.spec.shape) == 2
        return matrix and why.kind in ("never", "not a target") and self._mixer.outside(tensor.name)

    def __call__(self, tensor: LazyTensor, why: Reason) -> tuple[Scheme, Reason]:
        """The scheme of a tensor that is chosen, with the reason."""
        chosen = self._mixer(tensor.name)
        name, said = chosen.scheme, f"{self._name}: {chosen.kind}" if chosen.kind else self._name
        scheme = self._make(name)
        while tensor.spec.columns % scheme.multiple[1] and name in self._table.fallback:
            said += f", {tensor.spec.columns} columns are no blocks of {name}"
            name = self._table.fallback[name]
            scheme = self._make(name)
        return scheme, replace(why, text=f"{why.text}; {said}")

    def narrow(self, tensor: LazyTensor, choice: Choice) -> bool:
        """Whether a tensor that stays, and is stored in fewer bits, becomes F32."""
        short = tensor.plain and tensor.spec.dtype.name in ("BF16", "F16")
        single = self._table.is_single(tensor.name, tensor.spec.shape)
        return short and single and choice.may_cast(tensor)
