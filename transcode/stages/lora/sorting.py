"""The keys of one LoRA file, each put to what it is a part of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path

from ...catalog.lora import LoraNames, Regex
from ...core.records import dataclass
from ...core.tensor import LazyTensor
from ...errors import PlanError

__all__ = ["Roles", "Sorted", "sort_keys"]

Roles = dict[str, LazyTensor]
"""The tensors of one adapter of one module, by what they are in it."""


@dataclass(frozen=True)
class Sorted:
    """The tensors of a file by what their keys say.

    Attributes:
        pairs: base -> the factors of a LoRA.
        kinds: base -> kind -> the tensors of another adapter.
        alphas: base -> alpha.
        differences: base, names that the parameter may have, and what is added to it.
        tokens: base -> rows of an embedding.
        others: whatever no rule understands: a parameter, if its name is one.
    """

    pairs: dict[str, Roles] = field(default_factory=lambda: defaultdict(dict))
    kinds: dict[str, dict[str, Roles]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(dict)))
    alphas: dict[str, LazyTensor] = field(default_factory=dict)
    differences: list[tuple[str, tuple[str, ...], LazyTensor]] = field(default_factory=list)
    tokens: dict[str, LazyTensor] = field(default_factory=dict)
    others: list[LazyTensor] = field(default_factory=list)

    @property
    def adapted(self) -> tuple[str, ...]:
        """The bases of all adapters."""
        return tuple(dict.fromkeys((*self.pairs, *self.kinds)))


def sort_keys(table: Mapping[str, LazyTensor], names: LoraNames, path: Path) -> Sorted:
    """Sort the tensors of a file by their keys.

    Args:
        table: the tensors by key.
        names: what keys look like.
        path: of the file, for errors.

    Raises:
        PlanError: a second tensor for one place, an alpha of nothing, a kind that cannot be merged.
    """
    sorted_keys = Sorted()
    unsupported: dict[str, list[str]] = defaultdict(list)
    marked = {_base(key, names.kinds["ia3"]["on_input"]) for key in table}
    for key, tensor in table.items():
        if (factor := _factor(key, names)) is not None:
            role, base = factor
            _put(sorted_keys.pairs[base], role, base, tensor, path)
        elif (kind := _unsupported(key, names)) is not None:
            unsupported[kind].append(key)
        elif (adapter := _kind(key, names, marked)) is not None:
            kind, role, base = adapter
            _put(sorted_keys.kinds[base][kind], role, base, tensor, path)
        elif (of_alpha := _base(key, names.alpha)) is not None:
            sorted_keys.alphas[of_alpha] = tensor
        elif (difference := _difference(key, names)) is not None:
            sorted_keys.differences.append((*difference, tensor))
        elif (embedding := _base(key, names.tokens)) is not None:
            sorted_keys.tokens[embedding] = tensor
        else:
            sorted_keys.others.append(tensor)
    for kind, keys in unsupported.items():
        raise PlanError(
            f"is of {kind}, which cannot be merged ({len(keys)} such keys)", file=path, tensor=keys[0],
            hint="merge it with the tool that it comes from",
        )  # fmt: skip
    changed = (
        {base for base, _, _ in sorted_keys.differences} | sorted_keys.pairs.keys() | sorted_keys.kinds.keys()
    )
    for base, tensor in sorted_keys.alphas.items():
        if base not in changed:
            raise PlanError(
                "is an alpha without a pair", file=path, tensor=tensor.name, hint="is the file complete?"
            )
    return sorted_keys


def _put(roles: Roles, role: str, base: str, tensor: LazyTensor, path: Path) -> None:
    if role in roles:
        raise PlanError(
            f"is a second {role} of {base!r}", file=path, tensor=tensor.name,
            hint="keep one adapter of the file",
        )  # fmt: skip
    roles[role] = tensor


def _factor(key: str, names: LoraNames) -> tuple[str, str] | None:
    """Role and base of a factor."""
    for style in names.styles:
        for role, regex in style.roles.items():
            if match := regex.fullmatch(key):
                return role, "".join(match.groups())
    return None


def _unsupported(key: str, names: LoraNames) -> str | None:
    for kind, endings in names.unsupported.items():
        if _base(key, endings) is not None:
            return kind
    return None


def _difference(key: str, names: LoraNames) -> tuple[str, tuple[str, ...]] | None:
    """Base of a difference, and names that the parameter may have."""
    for regex, leaf in names.differences.items():
        if match := regex.fullmatch(key):
            return match[1], (leaf,)
    for regex, leaves in names.norms.items():
        if match := regex.fullmatch(key):
            return match[1], leaves
    return None


def _kind(key: str, names: LoraNames, marked: set[str | None]) -> tuple[str, str, str] | None:
    """Kind, role and base of a key of another adapter."""
    for kind, roles in names.kinds.items():
        for role, endings in roles.items():
            if (base := _base(key, endings)) is None:
                continue
            # Any module has a weight: it is one of IA3 only beside the mark of IA3.
            if kind != "ia3" or base in marked:
                return kind, role, base
    return None


def _base(key: str, endings: Iterable[Regex]) -> str | None:
    return next((match[1] for regex in endings if (match := regex.fullmatch(key))), None)
