"""The changes of one LoRA file: pairs, other adapters, whole tensors, and what each counts for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...catalog.lora import LoraNames
from ...containers.checkpoint import Source
from ...containers.source import open_source
from ...core.dtypes import FLOATS
from ...core.paths import located
from ...core.tensor import LazyTensor
from ...errors import PlanError, unsigned
from .contents import Change, Contents, count
from .delta import Added, Delta, Difference, LowRank, Mix
from .kinds import Gathered, Product, decompose, gather
from .places import Tokens, Whole
from .scaling import Scaling, read_scaling, stated_alpha
from .sorting import Roles, Sorted, sort_keys
from .stacked import Stacked

__all__ = ["read"]

_READABLE = (*FLOATS, "F8_E4M3", "F8_E5M2")


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
    return _Reader(source, located(unsigned(path)), strength, alpha, names, read_scaling(source)).read(table)


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
        sorted_keys = sort_keys(table, self._names, self._path)
        changes, stacked = self._stacked(sorted_keys)
        for base in sorted_keys.adapted:
            pair = sorted_keys.pairs.get(base) if base not in stacked else None
            changes += self._module(
                base, pair, sorted_keys.kinds.get(base) or {}, sorted_keys.alphas.get(base)
            )
        for base, (leaf, *others), tensor in sorted_keys.differences:
            delta = Difference(self._path, self._float(tensor))
            change = self._change(tensor.name, base, leaf, delta, self._strength, "difference")
            changes.append(replace(change, others=tuple(others)))
        changes += [self._tokens(base, tensor) for base, tensor in sorted_keys.tokens.items()]
        # A model is no LoRA: it would take the place of all that the source holds.
        whole = not changes and not self._scaling.known
        replaced = [] if whole else [self._whole(tensor) for tensor in sorted_keys.others]
        changes += [change for change in replaced if change is not None]
        known = {change.key for change in changes}
        unknown = [tensor.name for tensor in sorted_keys.others if tensor.name not in known]
        if self._alpha is not None and sorted_keys.adapted and not self._used_alpha:
            rest = (
                "all pairs have their own" if sorted_keys.pairs else "nothing in it takes one that has none"
            )
            self._warnings.append(f"{self._path.name}: alpha {self._alpha:g} is not used: {rest}")
        notes = [f"lora {self._path.name}: {count(changes)}, strength {self._strength:g}"]
        return Contents(
            self._source,
            self._path,
            tuple(sorted(changes, key=lambda change: change.key)),
            tuple(unknown),
            tuple(self._scaling.unmatched([_inner(base) for base in sorted_keys.adapted])),
            whole and bool(sorted_keys.others),
            tuple(notes),
            tuple(self._warnings),
        )

    def _module(
        self, base: str, pair: Roles | None, kinds: dict[str, Roles], alpha: LazyTensor | None
    ) -> Iterator[Change]:
        """The changes of one module, all but its differences."""
        if alpha is not None:
            stated_alpha(self._path, alpha)
        options = self._scaling.options(base)
        results: list[Product | Gathered] = []
        if pair is not None and "dora" not in kinds and options is not None and options.dora:
            raise self._error(next(iter(pair.values())).name, "is of DoRA by its options, but no magnitude is"
                              f" there for {base!r}", "is the file complete?")  # fmt: skip
        if pair is not None:
            results.append(self._pair(base, pair, alpha))
        for kind, roles in kinds.items():
            for role, tensor in roles.items():
                if role != "on_input":
                    self._float(tensor)
            if kind != "dora":
                results += gather(kind, self._path, base, roles, alpha, options, self._factor_of)
        magnitudes = kinds.get("dora")
        if magnitudes is not None and not any(isinstance(result, Product) for result in results):
            named = next(iter(magnitudes.values())).name
            raise self._error(named, f"is a magnitude of DoRA, whose factors are missing for {base!r}",
                              "is the file complete?")  # fmt: skip
        for result in results:
            if isinstance(result, Product):
                if magnitudes is None:
                    scale = self._strength * result.factor
                    yield self._change(result.key, base, "weight", result.delta, scale, result.description)
                    continue
                result = decompose(result, self._path, magnitudes, self._finite(result.key, result.factor))
            yield replace(
                self._change(result.key, base, result.leaf, result.delta, self._strength, result.description),
                optional=result.optional,
            )
        if pair is not None and (bias := pair.get("bias")) is not None:
            factor, said = self._factor_of(base, pair["down"].spec.shape[0], alpha)
            delta = Difference(self._path, bias)
            yield self._change(bias.name, base, "bias", delta, self._strength * factor, f"bias{said}")

    def _pair(self, base: str, roles: Roles, alpha: LazyTensor | None) -> Product:
        self._both(base, roles)
        for tensor in roles.values():
            self._float(tensor)
        pair = LowRank(self._path, roles["up"], roles["down"], roles.get("mid"))
        if (why := pair.disagree()) is not None:
            raise self._error(pair.up.name, why, "is the file complete?")
        factor, said = self._factor_of(base, pair.rank, alpha)
        return Product(pair.up.name, pair, factor, f"rank {pair.rank}{said}")

    def _both(self, base: str, roles: Roles) -> None:
        """Refuse a factor without the other."""
        for role in ("up", "down"):
            if role not in roles:
                named = next(iter(roles.values())).name
                raise self._error(named, f"has no partner: the {role} of {base!r} is missing",
                                  "is the file complete?")  # fmt: skip

    def _stacked(self, sorted_keys: Sorted) -> tuple[list[Change], set[str]]:
        """The changes of parameters that were adapted themselves, and the bases that they come from.

        PEFT nests a wrapper into the next for each parameter of a module, the first one innermost.
        """
        pairs = sorted_keys.pairs
        changes: list[Change] = []
        nested: dict[str, list[str]] = defaultdict(list)
        for base in pairs:
            nested[_inner(base)].append(base)
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
                if (alpha := sorted_keys.alphas.get(base)) is not None:
                    raise self._error(
                        alpha.name, "is an alpha beside what target_parameters names, whose alpha"
                        " adapter_config.json says", "keep one of them",
                    )  # fmt: skip
                changes.append(self._parameter(module, parameter, base, pairs[base]))
                taken.add(base)
        return changes, taken

    def _parameter(self, module: str, parameter: str, base: str, roles: Roles) -> Change:
        """The change of a parameter that holds one matrix, or one for each expert."""
        self._both(base, roles)
        for role in roles.keys() - {"up", "down"}:
            raise self._error(roles[role].name, f"is a {role} beside what target_parameters names",
                              "merge it with PEFT")  # fmt: skip
        up, down = self._float(roles["up"]), self._float(roles["down"])
        rank, factor, said = self._scaling.of_parameter(module, parameter, down.spec.shape[0])
        pair: Stacked | LowRank = Stacked(self._path, up, down, rank)
        if down.spec.shape[0] == rank:
            pair = LowRank(self._path, up, down)
        if (why := pair.disagree()) is not None:
            raise self._error(up.name, why, "is the file complete?")
        scale = self._strength * factor
        return self._change(up.name, module, parameter, pair, scale, f"{pair.described()}{said}")

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
        return self._change(tensor.name, base, "weight", delta, self._strength, delta.described())

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
            value = stated_alpha(self._path, alpha)
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
        warning = f"{self._path.name}: an alpha of 0 counts as absent"
        if warning not in self._warnings:
            self._warnings.append(warning)

    def _float(self, tensor: LazyTensor) -> LazyTensor:
        if tensor.spec.dtype.name not in _READABLE:
            raise self._error(
                tensor.name, f"is {tensor.spec.dtype.name}, a LoRA is of plain floats", "decode it first"
            )
        return tensor

    def _change(
        self, key: str, base: str, leaf: str, delta: Delta | Mix, scale: float, description: str
    ) -> Change:
        return Change(key, base, leaf, Added(delta, self._finite(key, scale)), description)

    def _finite(self, key: str, scale: float) -> np.float32:
        if not math.isfinite(np.float32(scale)):
            raise self._error(key, f"counts {scale!r} times, which is beyond float32", "lower the strength")
        return np.float32(scale)

    def _error(self, key: str, what: str, hint: str) -> PlanError:
        return PlanError(what, file=self._path, tensor=key, hint=hint)


def _inner(base: str) -> str:
    """The module that PEFT's wrappers of its parameters are for."""
    while base.endswith(".base_layer"):
        base = base.removesuffix(".base_layer")
    return base
