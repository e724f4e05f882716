"""The keys of one LoRA file, put together: pairs, other adapters, differences, and what each counts for."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..catalog.lora import LoraNames
from ..core.dtypes import FLOATS
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..storage.source import Source, open_source
from .lora_delta import Added, Delta, Difference, LowRank, Mix
from .lora_kinds import Gathered, Options, Product, decompose, gather
from .lora_products import Hadamard, Kronecker
from .lora_scaling import Scaling, dora_bases, peft_options, read_scaling

__all__ = ["Change", "Contents", "read"]

_READABLE = (*FLOATS, "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Change:
    """What a file adds to one parameter.

    Attributes:
        key: a key that it comes from.
        base: the module, as the file names it.
        leaf: last component of the parameter's name.
        others: other names that the parameter may have.
        added: what is added.
        told: what it is, for the report.
        optional: models without the parameter are right too.
    """

    key: str
    base: str
    leaf: str
    added: Added
    told: str
    optional: bool = False
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        source: the file.
        path: as it was given.
        changes: by key.
        unknown: keys that no rule understands.
        notes: what a user should know of it.
        warnings: what a user should look at.
    """

    source: Source
    path: Path
    changes: tuple[Change, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def read(path: str, strength: float, alpha: float | None, names: LoraNames) -> Contents:
    """Read the header of a LoRA, and its alphas: a few bytes each.

    Args:
        strength: factor of everything in it.
        alpha: for pairs that have none of their own.

    Raises:
        FormatError: not a checkpoint.
        PlanError: a factor without its partner, an alpha without a pair, shapes that disagree, a kind of
            adapter that cannot be merged.
    """
    # Read, not mapped: a factor is used up at once, and of a map the pages around it would stay in memory.
    source = open_source(path, mmap=False)
    table = {tensor.name: tensor for tensor in sorted(source.tensors, key=lambda tensor: tensor.name)}
    return _Reader(source, Path(path), strength, alpha, names, read_scaling(source)).read(table)


class _Reader:
    def __init__(
        self,
        source: Source,
        path: Path,
        strength: float,
        alpha: float | None,
        names: LoraNames,
        scaling: Scaling,
    ) -> None:
        self._source = source
        self._path = path
        self._strength = strength
        self._alpha = alpha
        self._names = names
        self._scaling = scaling
        self._dora = dora_bases(source)
        self._options = None if (found := peft_options(source)) is None else Options(*found)
        self._used_alpha = False
        self._warnings: list[str] = []

    def read(self, table: dict[str, LazyTensor]) -> Contents:
        pairs: dict[str, dict[str, LazyTensor]] = defaultdict(dict)
        kinds: dict[str, dict[str, dict[str, LazyTensor]]] = defaultdict(lambda: defaultdict(dict))
        alphas: dict[str, LazyTensor] = {}
        differences: list[tuple[str, tuple[str, ...], LazyTensor]] = []
        unsupported: dict[str, list[str]] = defaultdict(list)
        unknown: list[str] = []
        marked = {_base(key, self._names.kinds["ia3"]["on_input"]) for key in table}
        for key, tensor in table.items():
            if (found := self._factor(key)) is not None:
                role, base = found
                if role in pairs[base]:
                    raise self._error(key, f"is a second {role} of {base!r}", "keep one adapter of the file")
                pairs[base][role] = tensor
            elif (kind := self._unsupported(key)) is not None:
                unsupported[kind].append(key)
            elif (adapter := self._kind(key, marked)) is not None:
                kind, role, base = adapter
                if role in kinds[base][kind]:
                    raise self._error(key, f"is a second {role} of {base!r}", "keep one adapter of the file")
                kinds[base][kind][role] = self._float(tensor) if role != "on_input" else tensor
            elif (alpha_base := _base(key, self._names.alpha)) is not None:
                alphas[alpha_base] = tensor
            elif (difference := self._difference(key)) is not None:
                differences.append((*difference, tensor))
            else:
                unknown.append(key)
        for kind, keys in unsupported.items():
            raise self._error(
                keys[0], f"is of {kind}, which cannot be merged ({len(keys)} such keys)",
                "merge it with the tool that it comes from",
            )  # fmt: skip
        changed = {base for base, _, _ in differences} | pairs.keys() | kinds.keys()
        for base, tensor in alphas.items():
            if base not in changed:
                raise self._error(tensor.name, "is an alpha without a pair", "is the file complete?")
        changes: list[Change] = []
        for base in dict.fromkeys((*pairs, *kinds)):
            changes += self._module(base, pairs.get(base), kinds.get(base) or {}, alphas.get(base))
        for base, (leaf, *others), tensor in differences:
            delta = Difference(self._path, self._float(tensor))
            change = self._change(tensor.name, base, leaf, delta, self._strength, "difference")
            changes.append(replace(change, others=tuple(others)))
        self._one_by_one(changes)
        if self._alpha is not None and (pairs or kinds) and not self._used_alpha:
            rest = "all pairs have their own" if pairs else "nothing in it takes one that has none"
            self._warnings.append(f"{self._path.name}: alpha {self._alpha:g} is not used: {rest}")
        notes = [f"lora {self._path.name}: {_count(changes)}, strength {self._strength:g}"]
        return Contents(
            self._source,
            self._path,
            tuple(sorted(changes, key=lambda change: change.key)),
            tuple(unknown),
            tuple(notes),
            tuple(self._warnings),
        )

    def _factor(self, key: str) -> tuple[str, str] | None:
        for style in self._names.styles:
            for role, regex in style.roles.items():
                if match := regex.fullmatch(key):
                    return role, match[1]
        return None

    def _unsupported(self, key: str) -> str | None:
        for kind, endings in self._names.unsupported.items():
            if _base(key, endings) is not None:
                return kind
        return None

    def _difference(self, key: str) -> tuple[str, tuple[str, ...]] | None:
        for regex, leaf in self._names.differences.items():
            if match := regex.fullmatch(key):
                return match[1], (leaf,)
        for regex, leaves in self._names.norms.items():
            if match := regex.fullmatch(key):
                return match[1], leaves
        return None

    def _kind(self, key: str, marked: set[str | None]) -> tuple[str, str, str] | None:
        """Kind, role and base of a key of another adapter."""
        for kind, roles in self._names.kinds.items():
            for role, endings in roles.items():
                if (base := _base(key, endings)) is None:
                    continue
                # Any module has a weight: it is one of IA3 only beside the mark of IA3.
                if kind != "ia3" or base in marked:
                    return kind, role, base
        return None

    def _module(
        self,
        base: str,
        pair: dict[str, LazyTensor] | None,
        kinds: dict[str, dict[str, LazyTensor]],
        alpha: LazyTensor | None,
    ) -> Iterable[Change]:
        """The changes of one module, all but its differences."""
        if alpha is not None:
            self._scalar(alpha)
        made: list[Product | Gathered] = []
        if pair is not None and "dora" not in kinds and base.startswith(self._dora):
            raise self._error(next(iter(pair.values())).name, "is of DoRA by its options, but no magnitude is"
                              f" there for {base!r}", "is the file complete?")  # fmt: skip
        if pair is not None:
            made.append(self._pair(base, pair, alpha))
        for kind, roles in kinds.items():
            if kind != "dora":
                made += gather(kind, self._path, base, roles, alpha, self._options, self._factor_of)
        magnitudes = kinds.get("dora")
        if magnitudes is not None and not any(isinstance(one, Product) for one in made):
            named = next(iter(magnitudes.values())).name
            raise self._error(named, f"is a magnitude of DoRA, whose factors are missing for {base!r}",
                              "is the file complete?")  # fmt: skip
        for one in made:
            if isinstance(one, Product):
                if magnitudes is None:
                    scale = self._strength * one.factor
                    yield self._change(one.key, base, "weight", one.delta, scale, one.told)
                    continue
                one = decompose(one, self._path, magnitudes, self._finite(one.key, one.factor))
            yield replace(
                self._change(one.key, base, one.leaf, one.delta, self._strength, one.told),
                optional=one.optional,
            )
        if pair is not None and (bias := pair.get("bias")) is not None:
            factor, said = self._factor_of(base, pair["down"].spec.shape[0], alpha)
            delta = Difference(self._path, bias)
            yield self._change(bias.name, base, "bias", delta, self._strength * factor, f"bias{said}")

    def _pair(self, base: str, roles: dict[str, LazyTensor], alpha: LazyTensor | None) -> Product:
        for role in ("up", "down"):
            if role not in roles:
                named = next(iter(roles.values())).name
                raise self._error(named, f"has no partner: the {role} of {base!r} is missing",
                                  "is the file complete?")  # fmt: skip
        for tensor in roles.values():
            self._float(tensor)
        pair = LowRank(self._path, roles["up"], roles["down"], roles.get("mid"))
        if (why := pair.disagree()) is not None:
            raise self._error(pair.up.name, why, "is the file complete?")
        factor, said = self._factor_of(base, pair.rank, alpha)
        return Product(pair.up.name, pair, factor, f"rank {pair.rank}{said}")

    def _one_by_one(self, changes: Iterable[Change]) -> None:
        """Refuse what depends on an order that no file tells: one that does not just add, beside another."""
        seen: dict[tuple[str, str], Change] = {}
        for change in sorted(changes, key=lambda change: change.key):
            other = seen.setdefault((change.base, change.leaf), change)
            if other is not change and not all(_adds(one) for one in (other, change)):
                raise self._error(
                    change.key, f"({change.told}) changes what {other.key!r} ({other.told}) changes too",
                    "put them in two files, in the order that is meant",
                )  # fmt: skip

    def _factor_of(self, base: str, rank: int, alpha: LazyTensor | None) -> tuple[float, str]:
        """What the product counts for: alpha / rank; 1 where nothing says alpha. And that in words."""
        if alpha is not None:
            value = self._scalar(alpha)
            # Trainers write the alpha that they used, and take 0 for "as the rank": so does every reader
            # that this one must agree with.
            if value != 0:
                return value / rank, f", alpha {value:g}"
            self._warn_zero()
        if self._alpha is not None:
            self._used_alpha = True
            return self._alpha / rank, f", alpha {self._alpha:g}"
        return self._scaling(base, rank)

    def _warn_zero(self) -> None:
        told = f"{self._path.name}: an alpha of 0 counts as absent"
        if told not in self._warnings:
            self._warnings.append(told)

    def _scalar(self, tensor: LazyTensor) -> float:
        if tensor.spec.numel != 1:
            raise self._error(tensor.name, f"is {tensor.spec}, an alpha is one number", "repair the file")
        value = float(np.asarray(tensor.numpy()).astype(np.float64).reshape(()))
        if not math.isfinite(value):
            raise self._error(tensor.name, f"is {value!r}, an alpha is finite", "repair the file")
        return value

    def _float(self, tensor: LazyTensor) -> LazyTensor:
        if tensor.spec.dtype.name not in _READABLE:
            raise self._error(
                tensor.name, f"is {tensor.spec.dtype.name}, a LoRA is of plain floats", "decode it first"
            )
        return tensor

    def _change(self, key: str, base: str, leaf: str, delta: Delta | Mix, scale: float, told: str) -> Change:
        return Change(key, base, leaf, Added(delta, self._finite(key, scale)), told)

    def _finite(self, key: str, scale: float) -> np.float32:
        if not math.isfinite(np.float32(scale)):
            raise self._error(key, f"counts {scale!r} times, which is beyond float32", "lower the strength")
        return np.float32(scale)

    def _error(self, key: str, what: str, hint: str) -> PlanError:
        return PlanError(what, file=self._path, tensor=key, hint=hint)


def _base(key: str, endings: Iterable[re.Pattern[str]]) -> str | None:
    return next((match[1] for regex in endings if (match := regex.fullmatch(key))), None)


def _adds(change: Change) -> bool:
    return isinstance(change.added.delta, LowRank | Difference | Hadamard | Kronecker)


def _count(changes: Iterable[Change]) -> str:
    """``"400 pairs of rank 64, 80 differences"``."""
    ranks: dict[int, int] = defaultdict(int)
    others: dict[str, int] = defaultdict(int)
    for change in changes:
        if isinstance(change.added.delta, LowRank):
            ranks[change.added.delta.rank] += 1
        else:
            others[change.added.delta.told()] += 1
    told = [
        f"{count} {'pair' if count == 1 else 'pairs'} of rank {rank}" for rank, count in sorted(ranks.items())
    ]
    for kind, count in sorted(others.items()):
        told.append(f"{count} {kind}{'s' if kind == 'difference' and count > 1 else ''}")
    return ", ".join(told) or "nothing"
