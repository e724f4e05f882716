"""Which tensors of a scheme a consumer can take, and which options only some of its loaders read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field, replace

from ..core.records import dataclass
from . import strict

__all__ = ["Limit", "Partly", "experts_of", "holds", "limit", "partly"]

_EXPERT = re.compile(r"^(.*\bexperts)\.\d+\.")


def experts_of(name: str) -> str | None:
    """The module that holds all experts of a layer, for a tensor of one of them: ``a.experts`` of
    ``a.experts.3.up_proj.weight``; None for any other tensor.
    """
    match = _EXPERT.match(name) if "experts." in name else None
    return None if match is None else match[1]


def holds(when: Mapping[str, object], scheme: object) -> bool:
    """Whether a scheme has all of these options."""
    return all(plain(getattr(scheme, option, None)) == value for option, value in when.items())


def plain(value: object) -> object:
    """An option as YAML would have it: lists for tuples."""
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Limit:
    """What a tensor must be for the consumer's loader or kernel to take it.

    Attributes:
        rows: N must be a multiple of this.
        columns: K likewise; or the name of the option that says of what.
        fused_rows: N must be a multiple of this where the consumer joins the tensor with others; the last of
            those joined need not, as nothing comes behind it.
        experts: whether the experts of a mixture can be of this scheme at all.
        when: options that the scheme must have for this to hold.
        why: who asks for it, for the plan.
        concerns: the programs whose demand it is; empty for all that read the convention.
        unless: what spares a program that it concerns, such as a GPU; None where nothing does.
    """

    rows: int = 1
    columns: int | str = 1
    fused_rows: int = 1
    experts: bool = True
    when: Mapping[str, object] = field(default_factory=dict)
    why: str = "which the consumer's kernel needs"
    concerns: tuple[str, ...] = ()
    unless: str | None = None

    def of(self, scheme: object) -> Limit | None:
        """The limit in numbers for a scheme with certain options; None if it does not hold for it."""
        if not holds(self.when, scheme):
            return None
        if isinstance(self.columns, int):
            return self
        return replace(self, columns=int(getattr(scheme, self.columns)))


@dataclass(frozen=True)
class Partly:
    """What only some of the consumer's loaders read.

    Attributes:
        when: the option and its value; with ``experts``, options that the scheme must have.
        by: who reads it, and who does not.
        experts: whether it is the experts of a mixture that only some of them read.
        spares: the programs that do not read it.
    """

    when: Mapping[str, object]
    by: str
    experts: bool = False
    spares: tuple[str, ...] = ()


def limit(node: strict.Node) -> Limit:
    """Read an entry of ``limits``. Raises RecipeError."""
    top = node.mapping()
    condition = Limit(
        rows=top.get("rows", lambda child: child.integer(1), 1),
        columns=top.get(
            "columns", lambda child: child.string() if child.kind == "text" else child.integer(1), 1
        ),
        fused_rows=top.get("fused_rows", lambda child: child.integer(1), 1),
        experts=top.get("experts", strict.Node.boolean, True),
        when=_options(top.find("when")),
        why=top.need("why").string(),
        concerns=tuple(top.get("for", strict.Node.strings, ())),
        unless=top.get("unless", strict.Node.string, None),
    )
    top.reject_unknown()
    return condition


def partly(node: strict.Node) -> Partly:
    """Read an entry of ``partly``. Raises RecipeError."""
    top = node.mapping()
    experts = top.get("experts", strict.Node.boolean, False)
    when = _options(top.find("when") if experts else top.need("when"))
    exception = Partly(when, top.need("by").string(), experts, tuple(top.get("not", strict.Node.strings, ())))
    top.reject_unknown()
    return exception


def _options(node: strict.Node | None) -> Mapping[str, object]:
    return {} if node is None else {key: child.plain() for key, child in node.mapping().items()}
