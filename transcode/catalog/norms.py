"""Loads ``formats/ggml/norms.yaml``: which norm stands before a matrix."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from ..core.records import dataclass
from . import strict
from .folders import find

__all__ = ["Norms", "norms"]


@dataclass(frozen=True, slots=True)
class _Rule:
    norm: str
    before: tuple[str, ...]


@dataclass(frozen=True)
class Norms:
    """The table.

    Attributes:
        rules: in order.
        plus_one: values of ``model_type`` of models whose norms multiply by one more than they store.
    """

    rules: tuple[_Rule, ...]
    plus_one: frozenset[str]

    def __call__(self, name: str, names: Collection[str]) -> str | None:
        """The weight of the norm before a matrix; None where none is known.

        Args:
            name: of the matrix.
            names: of all tensors of the model.
        """
        bare = name.removesuffix(".weight")
        for rule in self.rules:
            for module in rule.before:
                match = _pattern(module).fullmatch(bare)
                if match is None:
                    continue
                norm = f"{match[1]}{rule.norm}.weight"
                if norm in names:
                    return norm
        return None


@lru_cache(maxsize=512)
def _pattern(module: str) -> re.Pattern[str]:
    # Only of numbered blocks: elsewhere the same names mean other things.
    inside = r"\d+".join(map(re.escape, module.split("{i}")))
    return re.compile(rf"((?:.*\.)?\d+\.){inside}")


def norms() -> Norms:
    """The table.

    Raises:
        RecipeError: a mistake in its file.
    """
    top = strict.catalog_file(find("ggml", "norms"), "ggml")
    rules = []
    for node in top.need("rules").sequence():
        rule = node.mapping()
        rules.append(
            _Rule(
                rule.need("norm").string(),
                tuple(rule.need("before").strings()),
            )
        )
        rule.reject_unknown()
    plus_one = frozenset(top.get("plus_one", lambda child: child.strings(), ()))
    top.reject_unknown()
    return Norms(tuple(rules), plus_one)
