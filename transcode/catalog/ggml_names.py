"""Loads ``formats/ggml/names.yaml``: what llama.cpp calls the matrices of language models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from ..core.records import dataclass
from . import strict
from .folders import find

__all__ = ["LlamaName", "LlamaNames", "llama_names"]

_NUMBER = r"(\d+)"


class LlamaName(NamedTuple):
    """What llama.cpp calls a matrix.

    Attributes:
        module: within its block, or in the model: ``attn_q``, ``output``.
        block: number of the block; None outside of blocks.
        expert: number of the expert whose matrix it is, where llama.cpp stacks those of all.
    """

    module: str
    block: int | None = None
    expert: int | None = None

    @property
    def name(self) -> str:
        """Of the tensor there."""
        return f"{self.module}.weight" if self.block is None else f"blk.{self.block}.{self.module}.weight"


@dataclass(frozen=True)
class LlamaNames:
    """Both kinds of names.

    Attributes:
        blocks: what stands before the number of a block elsewhere.
        modules: llama.cpp's name -> those of others, within a block.
        model: likewise outside of blocks.
        inputs: modules of a block that have the same inputs.
    """

    blocks: tuple[str, ...]
    modules: Mapping[str, tuple[str, ...]]
    model: Mapping[str, tuple[str, ...]]
    inputs: tuple[tuple[str, ...], ...]

    def alike(self, module: str) -> tuple[str, ...]:
        """Modules that have the inputs of one, itself first."""
        return (module, *(one for group in self.inputs if module in group for one in group if one != module))

    def __call__(self, name: str) -> LlamaName | None:
        """What llama.cpp calls a tensor of either kind of name; None where that is not known."""
        bare = name.removesuffix(".weight")
        own = _OWN.fullmatch(bare)
        if own is not None:
            return LlamaName(own[2], int(own[1]))
        if bare in self.model:
            return LlamaName(bare)
        for module, others in self.model.items():
            if bare in others:
                return LlamaName(module)
        block, inside = _patterns(self)
        match = block.fullmatch(bare)
        if match is None:
            return None
        number, rest = int(match[1]), match[2]
        for pattern, module in inside:
            fit = pattern.fullmatch(rest)
            if fit is not None:
                return LlamaName(module, number, int(fit[1]) if fit.groups() else None)
        return None


_OWN = re.compile(r"blk\.(\d+)\.([a-z0-9_]+)")


@lru_cache(maxsize=8)
def _compiled(
    blocks: tuple[str, ...], modules: tuple[tuple[str, tuple[str, ...]], ...]
) -> tuple[re.Pattern[str], tuple[tuple[re.Pattern[str], str], ...]]:
    before = "|".join(map(re.escape, blocks))
    inside = tuple(
        (re.compile(_NUMBER.join(map(re.escape, other.split("{e}")))), module)
        for module, others in modules
        for other in others
    )
    return re.compile(rf"(?:{before})\.(\d+)\.(.+)"), inside


def _patterns(names: LlamaNames) -> tuple[re.Pattern[str], tuple[tuple[re.Pattern[str], str], ...]]:
    return _compiled(names.blocks, tuple(names.modules.items()))


def llama_names() -> LlamaNames:
    """The table.

    Raises:
        RecipeError: a mistake in its file.
    """
    top = strict.catalog_file(find("ggml", "names"), "ggml")
    blocks = tuple(child.string() for child in top.need("blocks").sequence())
    modules, model = (
        {name: tuple(child.strings()) for name, child in top.need(key).mapping().items()}
        for key in ("modules", "model")
    )
    inputs = tuple(tuple(child.strings()) for child in top.need("inputs").sequence())
    top.reject_unknown()
    return LlamaNames(blocks, modules, model, inputs)
