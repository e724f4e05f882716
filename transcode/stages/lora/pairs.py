"""The pairs of a LoRA's file, as its keys and its options say them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...catalog.lora import LoraNames, lora_names
from ...catalog.spelling import Hit
from ...containers.source import open_source
from ...core.dtypes import FLOATS, dtype
from ...core.event import Event
from ...core.expr import Constant
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain
from ...errors import PlanError
from ...voice import called
from .delta import LowRank
from .scaling import Scaling, read_scaling, stated_alpha
from .sorting import Roles, Sorted, sort_keys
from .written import STYLES

__all__ = ["Pairs", "renamed"]


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
        """The factors of a module, and magnitudes: LyCORIS' as ``scale``, PEFT's as ``magnitude``."""
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
            role = "scale" if STYLES[self._to].kinds else "magnitude"
            if dora is None or role not in dora:
                raise self.error(
                    self.key(base),
                    "is of DoRA, to whose norms LyCORIS adds an epsilon and PEFT none",
                    f"merge it into a model: {called('lora')}",
                )
            roles[role] = dora[role]
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

    def number(self, name: str, value: float, key: str, rank: int) -> LazyTensor:
        """An alpha. Raises PlanError where F32 does not hold what it makes of the rank."""
        stored = np.float32(value)
        if np.float32(float(stored) / rank) != np.float32(value / rank):
            raise self.error(
                key, f"has an alpha of {value!r}, which F32 does not hold", "merge it into a model"
            )
        spec = Spec(dtype("F32"), ())
        return plain(name, spec, Constant(spec, stored.tobytes())).evolve(
            did=Event("add", "alpha, as the options say it")
        )

    def counts(self, hit: Hit, key: str, rows: int, columns: int | None) -> list[int]:
        """Rows of each part of a joined module. Raises PlanError where it is none of such parts."""
        counts = hit.rule.counts(rows, columns)
        if counts is None:
            raise self.error(
                key, f"has {rows} rows, not those of {', '.join(hit.others)}", "is it for this family?"
            )
        return counts

    def stated(self, alpha: LazyTensor) -> float:
        """What an alpha says. Raises PlanError where it is not one finite number."""
        return stated_alpha(self._path, alpha)

    def scale(self, base: str, rows: int) -> None:
        """Refuse magnitudes of inputs, where rows move: all rows decide what these count. And PEFT's."""
        if (peft := self.sorted.kinds.get(base, {}).get("dora", {}).get("magnitude")) is not None:
            raise self.error(
                peft.name,
                f"has magnitudes of PEFT's, which {self._to} cannot have elsewhere",
                f"merge it into a model: {called('lora')}",
            )
        scale = self.sorted.kinds.get(base, {}).get("dora", {}).get("scale")
        if scale is not None and (scale.spec.numel != rows or scale.spec.shape[0] != rows):
            raise self.error(
                scale.name,
                "has magnitudes of inputs, of which all rows decide, so that none can be put elsewhere",
                f"merge it into a model: {called('lora')}",
            )

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


def renamed(tensor: LazyTensor, name: str) -> LazyTensor:
    """A tensor under another name."""
    if tensor.name == name:
        return tensor
    return tensor.evolve(name=name, did=Event("rename", f"{tensor.name} -> {name}"))
