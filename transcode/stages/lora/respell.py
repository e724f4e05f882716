"""A file of a LoRA in another spelling: keys, names of modules, which rows lie together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from ...catalog.lora import lora_names
from ...catalog.spelling import Hit
from ...core.planning import Planning
from ...core.tensor import LazyTensor
from ...voice import called
from .assembled import Block, assemble
from .finite import finite
from .joins import alike, heights_of
from .modules import WEIGHT, Modules
from .others import Others
from .pairs import Pairs, renamed
from .portions import Unportioned, rows_taken
from .ranks import of_ranks, used
from .reordered import in_joined, of_parts
from .sizes import Size, state
from .sorting import Roles
from .written import STYLES, Module

__all__ = ["is_lora", "respell"]


def is_lora(tensors: Iterable[LazyTensor]) -> bool:
    """Whether most of the tensors are those of adapters."""
    names, held = lora_names(), [tensor.name for tensor in tensors]
    scaled = {name.removesuffix(".on_input") for name in held if name.endswith(".on_input")}  # of IA3
    known = (names.holds(name) or name.removesuffix(WEIGHT) in scaled for name in held)
    return 2 * sum(known) > len(held)


def respell(
    tensors: list[LazyTensor], to: str, model: str | None, planning: Planning
) -> Iterator[LazyTensor]:
    """The tensors of a LoRA as another program spells them.

    Args:
        to: one of :data:`.written.STYLES`.
        model: family; None to tell it by the names of modules.

    Raises:
        PlanError: something cannot be said exactly in that spelling.
    """
    assert planning.source is not None
    for tensor in _Respelling(tensors, to, model, planning).all():
        yield finite(planning.source, tensor)


class _Respelling:
    def __init__(self, tensors: list[LazyTensor], to: str, model: str | None, planning: Planning) -> None:
        assert planning.source is not None
        self._to, self._style, self._planning = to, STYLES[to], planning
        self._file = Pairs(tensors, planning.source, to)
        self._modules = Modules(self._file, to, model, planning)
        self._sizes: dict[str, Size] = {}

    def all(self) -> Iterator[LazyTensor]:
        """See :func:`respell`."""
        held = self._file.sorted
        for tensor in (*held.others, *held.tokens.values()):
            raise self._file.error(tensor.name, f"is nothing that {self._to} has a name for", "drop it first")
        joined: dict[str, dict[int, tuple[Module, Hit]]] = defaultdict(dict)
        for base in held.pairs:
            module = self._modules.of[base]
            hit = self._modules.hit(module)
            if hit is None or hit.rule.renames:
                yield from self._plain(module, hit)
            elif not self._modules.moves_rows(hit):
                raise self._file.error(
                    self._file.key(base),
                    f"is of elements that {self._to} has in another order",
                    "merge it into a model, and convert that",
                )
            elif hit.rule.swapped or self._modules.forward:
                yield from self._split(module, hit)
            else:
                joined[hit.others[0]][hit.part] = (module, hit)
        for name, parts in joined.items():
            yield from self._joined(name.removesuffix(WEIGHT), parts)
        others = Others(self._file, self._modules, self._to)
        yield from others.adapters({*joined})
        yield from others.differences()
        state(self._sizes, self._to, self._planning)

    # What is written of a pair.

    def _plain(self, module: Module, hit: Hit | None) -> Iterator[LazyTensor]:
        roles, name = self._file.pair(module.base), self._modules.renamed(module, hit)
        yield from self._written(name, module.text, module.base, roles)

    def _written(
        self, name: str, text: int, base: str, roles: Roles, alpha: float | None = None
    ) -> Iterator[LazyTensor]:
        """The tensors of a pair, under the names of the program; the magnitudes beside it."""
        style, spelled = self._style, self._modules.spelled(name, text, self._file.key(base))
        if "bias" in roles:
            raise self._file.error(
                roles["bias"].name, f"is a bias of a factor, which {self._to} does not read", "drop it"
            )
        yield renamed(roles["up"], f"{spelled}{style.up}")
        yield renamed(roles["down"], f"{spelled}{style.down}")
        if (mid := roles.get("mid")) is not None:
            if not style.kinds:
                raise self._file.error(
                    mid.name, f"is a core, which {self._to} does not read", "merge it into a model"
                )
            yield renamed(mid, f"{spelled}.lora_mid.weight")
        if (scale := roles.get("scale")) is not None:
            yield renamed(scale, f"{spelled}.dora_scale")
        if (magnitude := roles.get("magnitude")) is not None:
            yield renamed(magnitude, f"{spelled}.lora_magnitude_vector")
        rank = roles["down"].spec.shape[0]
        own = self._file.sorted.alphas.get(base) if alpha is None else None
        value = self._file.alpha(base, rank) if alpha is None else alpha
        if style.alphas:
            if own is not None:
                yield renamed(own, f"{spelled}.alpha")
            elif value != rank:
                yield self._file.number(f"{spelled}.alpha", value, self._file.key(base), rank)
            return
        self._sizes[spelled] = Size(rank, value, magnitude is not None)
        if len({size.dora for size in self._sizes.values()}) > 1:
            raise self._file.error(
                self._file.key(base),
                f"is of DoRA or others are, of which {self._to} reads all or none",
                f"merge it into a model: {called('lora')}",
            )

    def _split(self, module: Module, hit: Hit) -> Iterator[LazyTensor]:
        """A pair of a joined module as pairs of its parts: rows of up, and down for each."""
        roles = self._file.pair(module.base)
        up, down = self._file.matrix(roles["up"]), self._file.matrix(roles["down"])
        rows, rule = up.spec.shape[0], hit.rule
        columns = down.spec.shape[1]
        alpha = self._file.alpha(module.base, down.spec.shape[0])
        if rule.swapped and not rule.swaps(rows, columns):
            yield from self._plain(module, hit)
            return
        self._file.scale(module.base, rows)
        if rule.swapped:
            half = rows // 2
            swapped = dict(roles)
            for role in swapped.keys() & {"up", "scale"}:
                tensor = self._file.matrix(roles[role])
                blocks = [Block(tensor, half, rows, 0), Block(tensor, 0, half, rows - half)]
                swapped[role] = assemble("", tensor.spec.shape, blocks, "its halves change places")
            yield from self._written(self._modules.renamed(module, hit), 0, module.base, swapped)
            return
        counts = self._file.counts(hit, self._file.key(module.base), rows, columns)
        key = self._file.key(module.base)
        parts: list[tuple[str, Roles]] = []
        for other, some in zip(
            hit.others, of_parts(rule, counts, columns, self._modules.facts, key), strict=True
        ):
            part = dict(roles)
            for role in part.keys() & {"up", "scale"}:
                part[role] = rows_taken(self._file.matrix(roles[role]), some)
            parts.append((other.removesuffix(WEIGHT), part))
        kept = [used(part) for _, part in parts]
        for (name, part), ranks in zip(parts, kept, strict=True):
            if ranks or not any(kept):
                less, counting = of_ranks(part, ranks, alpha) if ranks else (part, alpha)
                yield from self._written(name, 0, module.base, less, counting)

    def _joined(self, name: str, parts: dict[int, tuple[Module, Hit]]) -> Iterator[LazyTensor]:
        """Pairs of parts as one of the joined module: one down where all are alike, else in blocks."""
        rule = next(iter(parts.values()))[1].rule
        pairs = {part: self._file.pair(module.base) for part, (module, _) in parts.items()}
        for part, (module, _) in parts.items():
            self._file.scale(module.base, pairs[part]["up"].spec.shape[0])
        first = min(parts)
        base = parts[first][0].base
        factors = {}
        for part, (module, _) in parts.items():
            rank = pairs[part]["down"].spec.shape[0]
            factors[part] = self._file.alpha(module.base, rank) / rank
        kinds = {(one["up"].spec.dtype.name, one["down"].spec.dtype.name) for one in pairs.values()}
        columns = {self._file.matrix(one["down"]).spec.shape[1] for one in pairs.values()}
        if len(kinds) > 1 or len(columns) > 1 or len(set(factors.values())) > 1:
            raise self._file.error(
                self._file.key(base),
                f"and other parts of {name!r} differ in dtype, inputs or scale",
                "one pair cannot hold them: merge it into a model",
            )
        for one in pairs.values():
            for role in one.keys() - {"up", "down", "scale"}:
                raise self._file.error(
                    one[role].name,
                    f"is beside a pair that goes into {name!r}, which has no place for it",
                    "merge it into a model",
                )
        scaled = ["scale" in one for one in pairs.values()]
        known = {part: one["up"].spec.shape[0] for part, one in pairs.items()}
        try:
            heights = heights_of(rule, known, columns.copy().pop())
        except Unportioned as why:
            raise self._file.error(
                self._file.key(base), f"{why}: those of {name!r}", "merge it into a model"
            ) from None
        if any(scaled) and not (all(scaled) and len(pairs) == len(rule.right)):
            raise self._file.error(
                self._file.key(base),
                f"is of DoRA, and not all parts of {name!r} are",
                "merge it into a model",
            )
        downs = [one["down"] for one in pairs.values()]
        same = alike(downs)
        ups: list[Block] = []
        lows: list[Block] = []
        rank = row = 0
        for part, height in enumerate(heights):
            if part in pairs:
                up, down = self._file.matrix(pairs[part]["up"]), self._file.matrix(pairs[part]["down"])
                ups.append(Block(up, 0, height, row, 0 if same else rank))
                if not (same and lows):
                    lows.append(Block(down, 0, down.spec.shape[0], rank))
                    rank += down.spec.shape[0]
            row += height
        did = f"joined of {len(pairs)} of {len(heights)} parts"
        roles: Roles = {
            "up": assemble("", (row, rank), ups, did),
            "down": downs[0] if same else assemble("", (rank, columns.pop()), lows, did),
        }
        if all(scaled):
            tall, at = [], 0
            for part, height in enumerate(heights):
                tall.append(Block(self._file.matrix(pairs[part]["scale"]), 0, height, at))
                at += height
            roles["scale"] = assemble("", (row, 1), tall, did)
        key = self._file.key(base)
        order = in_joined(rule, heights, downs[0].spec.shape[1], self._modules.facts, key)
        if order is not None:
            roles |= {role: rows_taken(roles[role], order) for role in roles.keys() & {"up", "scale"}}
        factor = factors[first]
        if factor * rank / rank != factor:
            raise self._file.error(
                self._file.key(base),
                f"counts {factor!r} times, which no alpha says exactly",
                "merge it into a model",
            )
        yield from self._written(name, 0, base, roles, factor * rank)
