"""What a LoRA's file holds besides pairs, in another spelling: LoHa and other kinds, differences, norms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import NamedTuple

from ...catalog.spelling import Hit
from ...core.tensor import LazyTensor
from ...errors import PlanError
from ...voice import called
from .joins import heights_of, joined, stacked
from .modules import WEIGHT, Modules
from .pairs import Pairs, renamed
from .portions import Matrix, Portion, Unportioned, matrix_of, portion, rows_taken
from .reordered import in_joined, of_parts
from .sorting import Roles
from .written import STYLES, Module

__all__ = ["Others"]

_MERGE = "merge it into a model"


class _Held(NamedTuple):
    """What a file has of one module: adapters by kind, or differences by ending."""

    module: Module
    kinds: Mapping[str, Roles]
    matrix: Matrix
    key: str
    alpha: LazyTensor | None = None


class Others:
    """All of a file but its pairs.

    Args:
        file: it.
        modules: what it is for.
        to: one of :data:`.written.STYLES`.
    """

    def __init__(self, file: Pairs, modules: Modules, to: str) -> None:
        self._file, self._modules, self._to, self._style = file, modules, to, STYLES[to]

    def adapters(self, pairs: Collection[str]) -> Iterator[LazyTensor]:
        """Adapters of other kinds: as they are, their rows, or those of several parts as one.

        Args:
            pairs: weights of joined modules that pairs are for.

        Raises:
            PlanError: none says the same in that spelling.
        """
        parts: dict[str, dict[int, tuple[Hit, _Held]]] = defaultdict(dict)
        for base, kinds in self._file.sorted.kinds.items():
            if base in self._file.sorted.pairs and not kinds.keys() - {"dora"}:
                continue
            held = self._adapter(base, kinds)
            hit = self._modules.hit(held.module)
            if hit is not None and self._joins(hit, held):
                parts[hit.others[0]][hit.part] = hit, held
                continue
            for name, some in self._parts(hit, held):
                spelled = self._modules.spelled(name, held.module.text, held.key)
                number = 0.0 if held.alpha is None else self._file.stated(held.alpha)
                for kind, roles in kinds.items():
                    taken = roles
                    if some is not None:
                        with self._refused(held.key, kind):
                            taken = portion(kind, roles, some, held.matrix.rows or 0, number)
                    for role, tensor in taken.items():
                        yield renamed(tensor, f"{spelled}{roles[role].name.removeprefix(base)}")
                if held.alpha is not None:
                    yield renamed(held.alpha, f"{spelled}.alpha")
        for name, members in parts.items():
            yield from self._joined(name, members, name in pairs)

    def differences(self) -> Iterator[LazyTensor]:
        """Differences, of norms too: as they are, their rows, or those of several parts together.

        Raises:
            PlanError: the other spelling has no such, or has elements in another order.
        """
        parts: dict[tuple[str, str], dict[int, tuple[Hit, LazyTensor]]] = defaultdict(dict)
        for base, leaves, tensor in self._file.sorted.differences:
            module, key = self._modules.of[base], tensor.name
            ending = key.removeprefix(base)
            if not self._style.kinds or leaves[0] in self._style.unread:
                raise self._error(key, f"is a difference, which {self._to} does not read so")
            if leaves[0] == "weight" and base in self._file.sorted.adapted and not self._style.beside:
                raise self._error(
                    key, f"is a difference beside an adapter, of which {self._to} reads one alone"
                )
            shape = tensor.spec.shape
            matrix = Matrix(shape[0] if shape else None, prod(shape[1:]) if len(shape) > 1 else None)
            held, hit = _Held(module, {}, matrix, key), self._modules.hit(module)
            if hit is not None and self._joins(hit, held):
                parts[hit.others[0], ending][hit.part] = hit, tensor
                continue
            for name, some in self._parts(hit, held):
                taken = tensor if some is None else rows_taken(tensor, some)
                yield renamed(taken, f"{self._modules.spelled(name, module.text, key)}{ending}")
        for (name, ending), members in parts.items():
            (hit, first), *_ = members.values()
            rows = {part: one.spec.shape[0] for part, (_, one) in members.items()}
            columns = prod(first.spec.shape[1:]) if len(first.spec.shape) > 1 else None
            with self._refused(first.name, "a difference"):
                heights = heights_of(hit.rule, rows, columns)
                whole = stacked({part: one for part, (_, one) in members.items()}, heights)
            facts = self._modules.facts
            if (order := in_joined(hit.rule, heights, columns, facts, first.name)) is not None:
                whole = rows_taken(whole, order)
            yield renamed(whole, f"{self._modules.spelled(name.removesuffix(WEIGHT), 0, first.name)}{ending}")

    def _adapter(self, base: str, kinds: Mapping[str, Roles]) -> _Held:
        key = min(tensor.name for roles in kinds.values() for tensor in roles.values())
        own = self._file.scaling.options(base) is not None or any(kind.endswith("_peft") for kind in kinds)
        if own and self._to == "peft":
            which = " and ".join(kind.removesuffix("_peft") for kind in kinds)
            raise self._error(key, f"is of {which} in PEFT's own names, which it reads as they are")
        unread = kinds.keys() if not self._style.kinds else kinds.keys() & self._style.unread
        if unread:
            which = " and ".join(unread)
            raise self._error(key, f"is of {which}, which {self._to} does not read so")
        if own:
            raise self._file.error(key, "is of PEFT's, which LyCORIS scales otherwise", _MERGE)
        alpha = None if base in self._file.sorted.pairs else self._file.sorted.alphas.get(base)
        if alpha is not None:
            self._file.stated(alpha)
        return _Held(self._modules.of[base], kinds, matrix_of(kinds), key, alpha)

    def _joins(self, hit: Hit, held: _Held) -> bool:
        """Whether it goes into a joined module. Raises PlanError where elements move."""
        if hit.rule.renames:
            return False
        if not self._modules.moves_rows(hit):
            raise self._file.error(
                held.key,
                f"is of elements that {self._to} has in another order",
                f"{_MERGE}: {called('lora')}",
            )
        if held.matrix.rows is None:
            raise self._file.error(
                held.key,
                f"is for unknown rows, which {self._to} has otherwise",
                f"{_MERGE}: {called('lora')}",
            )
        return not hit.rule.swapped and not self._modules.forward

    def _parts(self, hit: Hit | None, held: _Held) -> Iterator[tuple[str, Portion | None]]:
        """The modules that it is for in the other spelling, each with the rows of it that it has; all of it
        where that is None."""
        if hit is None or hit.rule.renames:
            yield self._modules.renamed(held.module, hit), None
            return
        rows, columns = held.matrix.rows or 0, held.matrix.columns
        if hit.rule.swapped:
            half = rows // 2
            swaps = hit.rule.swaps(rows, columns) and rows % 2 == 0
            yield self._modules.renamed(held.module, hit), [(half, half), (0, half)] if swaps else None
            return
        counts = self._file.counts(hit, held.key, rows, columns)
        parts = of_parts(hit.rule, counts, columns, self._modules.facts, held.key)
        for other, some in zip(hit.others, parts, strict=True):
            yield other.removesuffix(WEIGHT), some

    def _joined(
        self, name: str, members: Mapping[int, tuple[Hit, _Held]], beside: bool
    ) -> Iterator[LazyTensor]:
        """One adapter for those of parts."""
        (hit, first), *_ = members.values()
        kinds = {kind for _, held in members.values() for kind in held.kinds}
        with self._refused(first.key, " and ".join(sorted(kinds))):
            if beside or len(kinds - {"dora"}) > 1:
                raise Unportioned("has an adapter of another kind beside it")
            rows = {part: held.matrix.rows or 0 for part, (_, held) in members.items()}
            heights = heights_of(hit.rule, rows, first.matrix.columns)
            some = {part: held for part, (_, held) in members.items()}
            alphas = [0.0 if one.alpha is None else self._file.stated(one.alpha) for one in some.values()]
            whole = {
                kind: joined(kind, {part: one.kinds.get(kind, {}) for part, one in some.items()}, heights)
                for kind in sorted(kinds)
            }
            order = in_joined(hit.rule, heights, first.matrix.columns, self._modules.facts, first.key)
            if order is not None:
                total = sum(heights)
                whole = {kind: portion(kind, of, order, total, alphas[0]) for kind, of in whole.items()}
            spelled = self._modules.spelled(name.removesuffix(WEIGHT), 0, first.key)
            if "loha" in kinds:
                yield from self._alpha(spelled, whole["loha"], some.values(), alphas)
            elif len(set(alphas)) > 1 or ("oft" in kinds and any(alphas)):
                raise Unportioned("has another alpha in other parts, or one that constrains them")
            elif first.alpha is not None:
                yield renamed(first.alpha, f"{spelled}.alpha")
        for kind, roles in whole.items():
            for role, tensor in roles.items():
                ending = first.kinds[kind][role].name.removeprefix(first.module.base)
                yield renamed(tensor, f"{spelled}{ending}")

    def _alpha(
        self, spelled: str, whole: Roles, members: Collection[_Held], alphas: Collection[float]
    ) -> Iterator[LazyTensor]:
        """alpha of a product whose rank is the sum of others': each counts as often as it did."""
        ranks = [one.kinds["loha"]["w1_b"].spec.shape[0] for one in members]
        factors = {(alpha or rank) / rank for alpha, rank in zip(alphas, ranks, strict=True)}
        if len(factors) > 1:
            raise Unportioned("counts more in some parts than in others")
        factor, rank = factors.pop(), whole["w1_b"].spec.shape[0]
        if factor != 1:
            key = next(iter(members)).key
            yield self._file.number(f"{spelled}.alpha", factor * rank, key, rank)

    def _error(self, key: str, what: str) -> PlanError:
        return self._file.error(key, what, f"{_MERGE}: {called('lora')}")

    def _refused(self, key: str, kind: str) -> _Refused:
        return _Refused(self._file, self._to, key, kind)


class _Refused:
    """Turns the reason why rows cannot be had into an error that names the file and the key."""

    def __init__(self, file: Pairs, to: str, key: str, kind: str) -> None:
        self._file, self._to, self._key, self._kind = file, to, key, kind

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Unportioned):
            raise self._file.error(
                self._key, f"is of {self._kind} and {error}, so {self._to} cannot have its rows elsewhere",
                f"{_MERGE}: {called('lora')}",
            ) from None  # fmt: skip
