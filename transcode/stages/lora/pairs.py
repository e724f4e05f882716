"""The pairs of a LoRA's file, as its keys and its options say them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...catalog.lora import LoraNames, lora_names
from ...containers.source import open_source
from ...core.dtypes import FLOATS
from ...core.tensor import LazyTensor
from ...errors import PlanError
from ...voice import called
from .delta import LowRank
from .scaling import Scaling, read_scaling, stated_alpha
from .sorting import Roles, Sorted, sort_keys
from .written import STYLES

__all__ = ["Pairs"]


class Pairs:
    """What a file holds, asked for another spelling; all errors name the file.

    Attributes:
        names: how adapters spell what they hold.
        sorted: the keys by module and role.
        scaling: what its options say.
    """

    def __init__(self, tensors: Iterable[LazyTensor], path: Path, to: str) -> None:
        self._path, self._to = path, to
        self.names: LoraNames = lora_names()
        table = {tensor.name: tensor for tensor in sorted(tensors, key=lambda one: one.name)}
        self.sorted: Sorted = sort_keys(table, self.names, path)
        with open_source(path, mmap=False) as source:
            self.scaling: Scaling = read_scaling(source)

    def pair(self, base: str) -> Roles:
        """The factors of a module, both of them, and its magnitude as ``scale``."""
        roles = dict(self.sorted.pairs[base])
        for role in ("up", "down"):
            if role not in roles:
                raise self.error(
                    self.key(base),
                    f"has no partner: the {role} of {base!r} is missing",
                    "is the file complete?",
                )
        options = self.scaling.options(base)
        dora = self.sorted.kinds.get(base, {}).get("dora")
        if dora is not None or (options is not None and options.dora):
            if dora is None or "scale" not in dora or not STYLES[self._to].kinds:
                raise self.error(
                    self.key(base),
                    "is of DoRA, to whose norms LyCORIS adds an epsilon and PEFT none",
                    f"merge it into a model: {called('lora')}",
                )
            roles["scale"] = dora["scale"]
        for tensor in roles.values():
            if tensor.spec.dtype.name not in FLOATS:
                raise self.error(
                    tensor.name, f"is {tensor.spec.dtype.name}, a LoRA is of plain floats", "decode it first"
                )
        fault = LowRank(self._path, roles["up"], roles["down"], roles.get("mid")).disagree()
        if fault is not None:
            raise self.error(self.key(base), fault, "is the file complete?")
        if self.scaling.parameters(base):
            raise self.error(
                self.key(base), "is of a parameter that PEFT's target_parameters names", "keep PEFT's names"
            )
        return roles

    def alpha(self, base: str, rank: int) -> float:
        """alpha of a pair; the rank where nothing says one, or 0."""
        own = self.sorted.alphas.get(base)
        if own is not None and (value := stated_alpha(self._path, own)) != 0:
            return value
        factor, _ = self.scaling(base, rank)
        value = factor * rank
        if value / rank != factor:
            raise self.error(
                self.key(base),
                f"counts {factor!r} times, which no alpha says exactly",
                "merge it into a model",
            )
        return value

    def matrix(self, tensor: LazyTensor) -> LazyTensor:
        if len(tensor.spec.shape) != 2:
            raise self.error(
                tensor.name, f"is {tensor.spec}, whose rows cannot be put elsewhere", "merge it into a model"
            )
        return tensor

    def key(self, base: str) -> str:
        """A key of a module, for errors."""
        pair = self.sorted.pairs.get(base)
        return min(tensor.name for tensor in pair.values()) if pair else base

    def error(self, key: str, what: str, hint: str) -> PlanError:
        return PlanError(what, file=self._path, tensor=key, hint=hint)
