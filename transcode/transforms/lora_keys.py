"""The keys of one LoRA file, put together: pairs, differences, alphas, and what each counts for."""

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
from .lora_delta import Added, Delta, Difference, LowRank
from .lora_places import Tokens, Whole
from .lora_scaling import Scaling, read_scaling
from .lora_stacked import Stacked

__all__ = ["Change", "Contents", "read"]

_READABLE = (*FLOATS, "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Change:
    """What a file adds to one parameter.

    Attributes:
        key: a key that it comes from.
        base: the module, as the file names it.
        leaf: last component of the parameter's name.
        added: what is added.
        told: what it is, for the report.
    """

    key: str
    base: str
    leaf: str
    added: Added
    told: str

    def of(self, added: Added) -> Change:
        """The same change, better known."""
        return replace(self, added=added)


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        source: the file.
        path: as it was given.
        changes: by key.
        unknown: keys that no rule understands.
        unmatched: patterns of its options that are for none of its modules.
        whole: it holds nothing but whole tensors, and nothing says that it is a LoRA.
        notes: what a user should know of it.
        warnings: what a user should look at.
    """

    source: Source
    path: Path
    changes: tuple[Change, ...]
    unknown: tuple[str, ...]
    unmatched: tuple[str, ...]
    whole: bool
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
        self._used_alpha = False
        self._warnings: list[str] = []

    def read(self, table: dict[str, LazyTensor]) -> Contents:
        pairs: dict[str, dict[str, LazyTensor]] = defaultdict(dict)
        alphas: dict[str, LazyTensor] = {}
        differences: list[tuple[str, str, LazyTensor]] = []
        unsupported: dict[str, list[str]] = defaultdict(list)
        tokens: dict[str, LazyTensor] = {}
        others: list[LazyTensor] = []
        for key, tensor in table.items():
            if (found := self._factor(key)) is not None:
                role, base = found
                if role in pairs[base]:
                    raise self._error(key, f"is a second {role} of {base!r}", "keep one adapter of the file")
                pairs[base][role] = tensor
            elif (kind := self._unsupported(key)) is not None:
                unsupported[kind].append(key)
            elif (alpha_base := _base(key, self._names.alpha)) is not None:
                alphas[alpha_base] = tensor
            elif (difference := self._difference(key)) is not None:
                differences.append((*difference, tensor))
            elif (embedding := _base(key, self._names.tokens)) is not None:
                tokens[embedding] = tensor
            else:
                others.append(tensor)
        for kind, keys in unsupported.items():
            raise self._error(
                keys[0], f"is of {kind}, which cannot be merged ({len(keys)} such keys)",
                "merge it with the tool that it comes from",
            )  # fmt: skip
        changed = {base for base, _, _ in differences} | pairs.keys()
        for base, tensor in alphas.items():
            if base not in changed:
                raise self._error(tensor.name, "is an alpha without a pair", "is the file complete?")
        changes: list[Change] = []
        stacked, bases = self._stacked(pairs)
        changes += stacked
        for base, roles in pairs.items():
            if base not in bases:
                changes += self._pair(base, roles, alphas.get(base))
        for base, leaf, tensor in differences:
            delta = Difference(self._path, self._float(tensor))
            changes.append(self._change(tensor.name, base, leaf, delta, self._strength, "difference"))
        changes += [self._tokens(base, tensor) for base, tensor in tokens.items()]
        # A model is no LoRA: it would take the place of all that the source holds.
        whole = not changes and not self._scaling.known
        replaced = [] if whole else [self._whole(tensor) for tensor in others]
        changes += [change for change in replaced if change is not None]
        known = {change.key for change in changes}
        unknown = [tensor.name for tensor in others if tensor.name not in known]
        if self._alpha is not None and pairs and not self._used_alpha:
            self._warnings.append(
                f"{self._path.name}: alpha {self._alpha:g} is not used: all pairs have their own"
            )
        notes = [f"lora {self._path.name}: {_count(changes)}, strength {self._strength:g}"]
        return Contents(
            self._source,
            self._path,
            tuple(sorted(changes, key=lambda change: change.key)),
            tuple(unknown),
            tuple(self._scaling.unmatched([_module(base) for base in pairs])),
            whole and bool(others),
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

    def _difference(self, key: str) -> tuple[str, str] | None:
        for regex, leaf in self._names.differences.items():
            if match := regex.fullmatch(key):
                return match[1], leaf
        return None

    def _pair(self, base: str, roles: dict[str, LazyTensor], alpha: LazyTensor | None) -> Iterable[Change]:
        self._both(base, roles)
        for tensor in roles.values():
            self._float(tensor)
        pair = LowRank(self._path, roles["up"], roles["down"], roles.get("mid"))
        if (why := pair.disagree()) is not None:
            raise self._error(pair.up.name, why, "is the file complete?")
        factor, said = self._factor_of(base, pair.rank, alpha)
        scale = self._strength * factor
        told = f"rank {pair.rank}{said}"
        yield self._change(pair.up.name, base, "weight", pair, scale, told)
        if (bias := roles.get("bias")) is not None:
            delta = Difference(self._path, bias)
            yield self._change(bias.name, base, "bias", delta, scale, f"bias{said}")

    def _both(self, base: str, roles: dict[str, LazyTensor]) -> None:
        """Refuse a factor without the other."""
        for role in ("up", "down"):
            if role not in roles:
                named = next(iter(roles.values())).name
                raise self._error(named, f"has no partner: the {role} of {base!r} is missing",
                                  "is the file complete?")  # fmt: skip

    def _stacked(self, pairs: dict[str, dict[str, LazyTensor]]) -> tuple[list[Change], set[str]]:
        """The changes of parameters that were adapted themselves, and the bases that they come from.

        PEFT nests a wrapper into the next for each parameter of a module, the first one innermost.
        """
        changes: list[Change] = []
        nested: dict[str, list[str]] = defaultdict(list)
        for base in pairs:
            nested[_module(base)].append(base)
        taken: set[str] = set()
        for module, bases in nested.items():
            parameters = self._scaling.parameters(module)
            if not parameters:
                continue
            order = self._names.stacked
            named = next(iter(pairs[bases[0]].values())).name
            if len(parameters) != len(bases):
                raise self._error(
                    named, f"is of one of {len(bases)} parameters of {module!r}; target_parameters names"
                    f" {', '.join(parameters)}", "is the file complete?",
                )  # fmt: skip
            if len(parameters) > 1 and not set(parameters) <= set(order):
                raise self._error(
                    named, f"is of one of {', '.join(parameters)}; which one, no name tells",
                    "merge it with PEFT",
                )  # fmt: skip
            if len(parameters) > 1:
                parameters = sorted(parameters, key=order.index)
            bases = sorted(bases, key=len, reverse=True)
            for base, parameter in zip(bases, parameters, strict=True):
                changes.append(self._parameter(module, parameter, base, pairs[base]))
                taken.add(base)
        return changes, taken

    def _parameter(self, module: str, parameter: str, base: str, roles: dict[str, LazyTensor]) -> Change:
        """The change of a parameter that holds one matrix, or one for each expert."""
        self._both(base, roles)
        up, down = self._float(roles["up"]), self._float(roles["down"])
        rank, factor, said = self._scaling.of_parameter(module, parameter, down.spec.shape[0])
        pair: Stacked | LowRank = Stacked(self._path, up, down, rank)
        if down.spec.shape[0] == rank:
            pair = LowRank(self._path, up, down)
        if (why := pair.disagree()) is not None:
            raise self._error(up.name, why, "is the file complete?")
        scale = self._strength * factor
        return self._change(up.name, module, parameter, pair, scale, f"{pair.told()}{said}")

    def _tokens(self, base: str, tensor: LazyTensor) -> Change:
        rows = self._scaling.tokens(base)
        if rows is None:
            raise self._error(
                tensor.name, "holds rows of an embedding, but which ones is not said",
                "put its adapter_config.json, with trainable_token_indices, beside it",
            )  # fmt: skip
        shape = self._float(tensor).spec.shape
        if len(shape) != 2 or shape[0] != len(rows) or len(set(rows)) < len(rows) or min(rows) < 0:
            raise self._error(
                tensor.name, f"is {tensor.spec}, trainable_token_indices names {len(set(rows))} rows",
                "use the options that the file was saved with",
            )  # fmt: skip
        delta = Tokens(self._path, tensor, tuple(rows))
        return self._change(tensor.name, base, "weight", delta, self._strength, delta.told())

    def _whole(self, tensor: LazyTensor) -> Change | None:
        """What a key changes that is a parameter's own name."""
        name = tensor.name
        for regex, replacement in self._names.whole:
            name = regex.sub(replacement, name)
        if tensor.spec.dtype.name not in _READABLE:
            return None
        base, _, leaf = name.rpartition(".")
        return self._change(tensor.name, base, leaf, Whole(self._path, tensor), self._strength, "replaced")

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

    def _change(self, key: str, base: str, leaf: str, delta: Delta, scale: float, told: str) -> Change:
        if not math.isfinite(np.float32(scale)):
            raise self._error(key, f"counts {scale!r} times, which is beyond float32", "lower the strength")
        return Change(key, base, leaf, Added(delta, np.float32(scale)), told)

    def _error(self, key: str, what: str, hint: str) -> PlanError:
        return PlanError(what, file=self._path, tensor=key, hint=hint)


def _base(key: str, endings: Iterable[re.Pattern[str]]) -> str | None:
    return next((match[1] for regex in endings if (match := regex.fullmatch(key))), None)


def _module(base: str) -> str:
    """The module that PEFT's wrappers of its parameters are for."""
    while base.endswith(".base_layer"):
        base = base.removesuffix(".base_layer")
    return base


def _count(changes: Iterable[Change]) -> str:
    """``"400 pairs of rank 64, 80 differences"``."""
    ranks: dict[int, int] = defaultdict(int)
    others = whole = 0
    for change in changes:
        if isinstance(change.added.delta, LowRank | Stacked):
            ranks[change.added.delta.rank] += 1
        elif isinstance(change.added.delta, Whole | Tokens):
            whole += 1
        else:
            others += 1
    told = [
        f"{count} {'pair' if count == 1 else 'pairs'} of rank {rank}" for rank, count in sorted(ranks.items())
    ]
    if others:
        told.append(f"{others} {'difference' if others == 1 else 'differences'}")
    if whole:
        told.append(f"{whole} trained whole")
    return ", ".join(told) or "nothing"
