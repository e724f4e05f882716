"""Model families: how each is recognised, what of it is quantized, how its tensors are spelled."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field, replace

from ..core.event import Reason
from ..core.nearest import guess
from ..core.records import dataclass
from ..errors import RecipeError
from ..voice import called
from .derive import Derivation
from .folders import listing
from .policy import Policy
from .recognise import Signature, fold
from .spelling import Conversion, Direction

__all__ = ["Family", "Spelling", "spelling_hint"]


def spelling_hint(name: str, known: Collection[str]) -> str:
    """What to do about a spelling that is none of the known ones."""
    hint = f"known: {', '.join(known)}{guess(name, known)}"
    if name in listing("conventions"):
        by = called("convention", name)
        return f"{name} is a convention, by which files are written: pass {by}; spellings {hint}"
    return hint


@dataclass(frozen=True)
class Spelling:
    """One way to name the tensors of a family.

    Attributes:
        name: e.g. ``"lightx2v"``.
        title: who uses it, for people.
        signature: how it is recognised; None when it cannot be.
        policy: what to quantize in it.
        config: how its ``config.json`` follows from the tensors; None when that is not known.
    """

    name: str
    title: str
    signature: Signature | None
    policy: Policy
    config: Derivation | None = None


@dataclass(frozen=True)
class Family:
    """One model architecture, seen in one of its spellings.

    Attributes:
        name: e.g. ``"wan_dit"``.
        title: for people.
        file: the YAML it comes from.
        spellings: by name; the first is the family's own.
        spelling: the one that this object speaks.
        prefix: what stands before every name of the model, e.g. ``"model.diffusion_model."``.
        refines: families that this one is a special case of: where both fit, this one is meant.
        fallback: whether it is the policy for models of no known family.
        conversions: (spelling, spelling) -> how names of the first become names of the second, and back.
        others: further tables between two of them, for models that the first ones do not hold for.
    """

    name: str
    title: str
    file: str
    spellings: Mapping[str, Spelling]
    spelling: str
    prefix: str = ""
    refines: tuple[str, ...] = ()
    fallback: bool = False
    conversions: Mapping[tuple[str, str], Conversion] = field(default_factory=dict, repr=False)
    others: tuple[tuple[tuple[str, str], Conversion], ...] = field(default=(), repr=False)

    @property
    def policy(self) -> Policy:
        """What to quantize in this spelling."""
        return self.spellings[self.spelling].policy

    def spelled(self, spelling: str, prefix: str | None = None) -> Family:
        """The same family in another spelling.

        Raises:
            RecipeError: the family has no such spelling.
        """
        if spelling not in self.spellings:
            raise RecipeError(
                f"family {self.name} has no spelling {spelling!r}",
                hint=spelling_hint(spelling, self.spellings),
            )
        return replace(self, spelling=spelling, prefix=self.prefix if prefix is None else prefix)

    def fit(
        self, names: Collection[str], shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> Family | None:
        """The family in the spelling, and with the prefix, that these names have; None when none fits.

        Of several spellings the one that leaves the least to a prefix is meant:
        ``language_model.model.layers`` is a spelling of its own, not ``model.layers`` behind a prefix; of
        such the one that asks for the most.
        """
        return self.fit_folded(fold(names), shapes)

    def fit_folded(
        self, names: list[str], shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> Family | None:
        """As :meth:`fit`, of names that are folded already."""
        fitting = [
            self.spelled(spelling.name, prefix)
            for spelling in self.spellings.values()
            if spelling.signature is not None
            and (prefix := spelling.signature.fit_folded(names, shapes)) is not None
        ]
        return min(fitting, key=_least, default=None)

    def block_of(self, name: str) -> int | None:
        """Number of the block that a tensor belongs to, None outside blocks."""
        return self.policy.block_of(name)

    def is_target(
        self, name: str, shape: tuple[int, ...] | None = None, convention: str | None = None
    ) -> tuple[bool, Reason]:
        """Whether a tensor is to be quantized, and why; see :meth:`Policy.is_target`."""
        return self.policy.is_target(name, shape, convention)

    def is_embedding(self, name: str, shape: tuple[int, ...] | None = None) -> bool:
        """Whether a tensor is never quantized because it is an embedding."""
        _, why = self.is_target(name, shape)
        return why.kind == "never" and why.label == "embedding"

    def is_adapter(self, name: str) -> bool:
        """Whether a tensor stays as it is, dtype included."""
        return self.policy.is_adapter(name)

    def group_of(self, name: str) -> str | None:
        """Key of the fused group a tensor belongs to: equal for all its members, None for the others."""
        return self.policy.group_of(name)

    def is_followed(self, name: str) -> bool:
        """Whether another tensor of its fused group stands behind it; see :meth:`Policy.is_followed`."""
        return self.policy.is_followed(name)

    def converts_to(self) -> tuple[str, ...]:
        """The spellings that names of this one can be converted to."""
        return tuple(
            {b if a == self.spelling else a: None for a, b in self.conversions if self.spelling in (a, b)}
        )

    def directions(self, to: str) -> list[Direction]:
        """How names of this spelling, without the prefix, become those of another: one table for each kind of
        model that :attr:`.spelling.Conversion.holds` tells apart.

        Raises:
            RecipeError: the family has no such spelling, or no rules between the two.
        """
        self.spelled(to)
        tables = [
            Direction(conversion, first == self.spelling)
            for (first, second), conversion in (*self.conversions.items(), *self.others)
            if {first, second} == {self.spelling, to}
        ]
        if tables and self.spelling != to:
            return tables
        known = ", ".join(self.converts_to()) or "none"
        raise RecipeError(
            f"family {self.name} cannot be converted from {self.spelling} to {to}", hint=f"known: {known}"
        )

    def direction(self, to: str, facts: Mapping[str, object] | None = None) -> Direction:
        """The table for one model of :meth:`directions`: that which names it, else the first.

        Args:
            to: the other spelling.
            facts: keys of the model's config.json.

        Raises:
            RecipeError: see there.
        """
        tables = self.directions(to)
        stating = (one for one in tables if facts and one.conversion.holds)
        holding = (one for one in stating if one.conversion.holds_for(facts or {}))
        return next(holding, tables[0])

    def convert(self, name: str, to: str) -> str | None:
        """A name in another spelling, without the prefix; None when no rule knows the name, or it is not one
        tensor there, row for row.

        Args:
            name: a stored name or a module's name in this spelling, behind the prefix if there is one.
            to: the other spelling; one's own only takes the prefix off.

        Raises:
            RecipeError: the family has no such spelling, or no rules between the two.
        """
        self.spelled(to)
        if not name.startswith(self.prefix):
            return None
        name = name[len(self.prefix) :]
        return name if to == self.spelling else self.direction(to).rename(name)

    def config(
        self, shapes: Mapping[str, tuple[int, ...]], source_config: Mapping[str, object] | None = None
    ) -> dict[str, object] | None:
        """The ``config.json`` that belongs to these tensors; None when it cannot be told.

        Args:
            shapes: shape of every tensor, by its name in this spelling.
            source_config: the configuration that came with the source, in whatever spelling: it says what
                shapes cannot, such as the number of heads.
        """
        derive = self.spellings[self.spelling].config
        if derive is None:
            return None
        size = len(self.prefix)
        within = {name[size:]: shape for name, shape in shapes.items() if name.startswith(self.prefix)}
        return derive(within, source_config)

    @property
    def constants(self) -> frozenset[str]:
        """Keys of that configuration whose values are the same for all models of the family."""
        derive = self.spellings[self.spelling].config
        return frozenset() if derive is None else derive.constants


def _least(fitted: Family) -> tuple[int, int]:
    signature = fitted.spellings[fitted.spelling].signature
    return len(fitted.prefix), 0 if signature is None else -len(signature.all)
