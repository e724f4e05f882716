"""A file of a LoRA in another spelling: keys, names of modules, which rows lie together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ... import catalog
from ...catalog.family import Family
from ...catalog.lora import lora_names
from ...catalog.spelling import Direction, Hit
from ...core.dtypes import dtype
from ...core.event import Event
from ...core.expr import Constant
from ...core.planning import Planning
from ...core.spec import Spec
from ...core.tensor import LazyTensor, plain
from ...voice import called
from .assembled import Block, assemble
from .pairs import Pairs
from .sizes import Size, state
from .sorting import Roles
from .written import STYLES, Module, dotted, words_of

__all__ = ["is_lora", "respell"]

_WEIGHT = ".weight"

_UNETS = ("sd1", "sdxl")
_KOHYA = {"sd1": "diffusers"}
"""Families whose modules kohya spells otherwise than ComfyUI."""


def is_lora(tensors: Iterable[LazyTensor]) -> bool:
    """Whether most of the tensors are those of adapters."""
    names, tensors = lora_names(), list(tensors)
    return 2 * sum(names.holds(tensor.name) for tensor in tensors) > len(tensors)


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
    return _Respelling(tensors, to, model, planning).all()


class _Respelling:
    def __init__(self, tensors: list[LazyTensor], to: str, model: str | None, planning: Planning) -> None:
        assert planning.source is not None
        self._to, self._style, self._planning = to, STYLES[to], planning
        self._file = Pairs(tensors, planning.source, to)
        bases = [*self._file.sorted.adapted, *(base for base, _, _ in self._file.sorted.differences)]
        self._modules = {base: self._module(base) for base in bases}
        own = [one for one in self._modules.values() if not one.text]
        self._family, self._direction = self._recognise(own, model)
        self._sizes: dict[str, Size] = {}
        self._text_numbers = {one.text for one in self._modules.values() if one.text}

    def all(self) -> Iterator[LazyTensor]:
        """See :func:`respell`."""
        held = self._file.sorted
        for tensor in (*held.others, *held.tokens.values()):
            raise self._file.error(tensor.name, f"is nothing that {self._to} has a name for", "drop it first")
        joined: dict[str, dict[int, tuple[Module, Hit]]] = defaultdict(dict)
        for base in held.pairs:
            module = self._modules[base]
            hit = self._hit(module)
            if hit is None or hit.rule.renames:
                yield from self._plain(module, hit)
            elif not hit.rule.by_rows:
                raise self._file.error(
                    self._file.key(base),
                    f"is of elements that {self._to} has in another order",
                    "merge it into a model, and convert that",
                )
            elif hit.rule.swapped or self._forward:
                yield from self._split(module, hit)
            else:
                joined[hit.others[0]][hit.part] = (module, hit)
        for name, parts in joined.items():
            yield from self._joined(name.removesuffix(_WEIGHT), parts)
        for base, kinds in held.kinds.items():
            if base not in held.pairs or kinds.keys() - {"dora"}:
                yield from self._kinds(base, kinds)
        yield from self._differences()
        state(self._sizes, self._to, self._planning)

    @property
    def _forward(self) -> bool:
        return self._direction is not None and self._direction.forward

    # What a module is called.

    def _module(self, base: str) -> Module:
        names = self._file.names
        for prefix, number in names.text_flat_prefixes.items():
            if base.startswith(prefix):
                return Module(base, dotted(base[len(prefix) :], frozenset()), number)
        for prefix, numbers in names.text_prefixes.items():
            if base.startswith(prefix):
                if len(numbers) > 1:
                    raise self._file.error(
                        self._file.key(base),
                        "is of a text encoder whose number no name tells",
                        "rename it first",
                    )
                return Module(base, base[len(prefix) :], numbers[0])
        for prefix in names.flat_prefixes:
            if base.startswith(prefix):
                flat = base[len(prefix) :].lstrip("_")
                return Module(base, dotted(flat, frozenset()), flat=flat)
        bare = base
        while prefix := next((one for one in names.prefixes if bare.startswith(one)), ""):
            bare = bare[len(prefix) :]
        return Module(base, bare)

    def _recognise(self, own: list[Module], model: str | None) -> tuple[Family | None, Direction | None]:
        """The family whose rules know all modules, and the direction to the spelling that is asked for."""
        fitting: list[tuple[Family, Direction | None, tuple[str, ...], object]] = []
        near: tuple[int, str, str] = (
            0,
            "",
            "",
        )  # most modules that a family knows, it, and one that it does not
        for key in [model] if model is not None else catalog.families():
            family = catalog.family(key)
            wanted = self._spelling(family)
            for (left, right), conversion in family.conversions.items():
                for spelling, other, forward in ((left, right, True), (right, left, False)):
                    direction = Direction(conversion, forward)
                    words = words_of(conversion.rules, left=forward)
                    names = tuple(one.named(words) for one in own)
                    hits = [direction.find(f"{name}{_WEIGHT}") for name in names]
                    if not names or wanted not in (spelling, other):
                        continue
                    if None in hits:
                        known = len(hits) - hits.count(None)
                        near = max(near, (known, family.name, own[hits.index(None)].base))
                        continue
                    spellings: tuple[tuple[str, ...], ...] = tuple((name,) for name in names)
                    if wanted != spelling:
                        spellings = tuple(tuple(map(_bare, hit.others)) for hit in hits if hit is not None)
                    if self._style.flat:
                        spellings = tuple(tuple(one.replace(".", "_") for one in some) for some in spellings)
                    fitting.append((family, None if wanted == spelling else direction, names, spellings))
        if len({spellings for _, _, _, spellings in fitting}) > 1:
            families = ", ".join(dict.fromkeys(family.name for family, _, _, _ in fitting))
            raise self._file.error(
                next(iter(self._modules)), f"may be of any of {families}", f"say which with {called('model')}"
            )
        if fitting:
            family, chosen, names, _ = fitting[0]
            for module, name in zip(own, names, strict=True):
                self._modules[module.base] = replace(module, name=name)
            how = "keep their names" if chosen is None else f"as {self._spelling(family)} has them"
            self._planning.note(f"convert a LoRA to {self._to}: family {family.name}, modules {how}")
            return family, chosen
        if (
            any(base.startswith(self._file.names.flat_prefixes) for base in self._modules)
            and not self._style.flat
        ):
            raise self._file.error(
                next(iter(self._modules)),
                "is of no known family, so its underscores may be dots or not",
                f"name the family with {called('model')}",
            )
        if model is not None and near[2]:
            raise self._file.error(
                near[2],
                f"is no module of {model} that has a name for {self._to}",
                "drop it, or name another family",
            )
        unknown = f"convert a LoRA to {self._to}: of no known family, modules keep their names"
        if 2 * near[0] > len(own):
            self._planning.warn(f"{unknown}; {near[1]} has most of them, but not {near[2]!r}")
        else:
            self._planning.note(unknown)
        return None, None

    def _spelling(self, family: Family) -> str | None:
        if self._to == "kohya" and family.name in _KOHYA:
            return _KOHYA[family.name]
        if self._to in ("diffusers", "peft"):
            return "diffusers" if "diffusers" in family.spellings else None
        return next((name for name, one in family.spellings.items() if "ComfyUI" in one.title), None)

    def _hit(self, module: Module) -> Hit | None:
        if module.text or self._direction is None:
            return None
        return self._direction.find(f"{module.name}{_WEIGHT}")

    def _renamed(self, module: Module, hit: Hit | None) -> str:
        return module.name if hit is None else hit.others[0].removesuffix(_WEIGHT)

    def _spelled(self, name: str, text: int, key: str) -> str:
        """A module as the program spells it, with what stands before."""
        style = self._style
        if text:
            if style.text is None:
                raise self._file.error(
                    key,
                    f"is of a text encoder, and {self._to} keeps one model in a file",
                    "drop it, or convert it by itself",
                )
            number = "" if text == 1 and self._text_numbers == {1} and self._is("sd1") else str(text)
            prefix = style.text.replace("{n}", number).replace("{_n}", "" if text == 1 else f"_{text}")
            return prefix + (name.replace(".", "_") if prefix.startswith("lora_te") else name)
        prefix = style.unet if self._family is not None and self._family.name in _UNETS else style.prefix
        return prefix + (name.replace(".", "_") if style.flat else name)

    def _is(self, family: str) -> bool:
        return self._family is not None and self._family.name == family

    # What is written of a pair.

    def _plain(self, module: Module, hit: Hit | None) -> Iterator[LazyTensor]:
        roles, name = self._file.pair(module.base), self._renamed(module, hit)
        yield from self._written(name, module.text, module.base, roles)

    def _written(
        self, name: str, text: int, base: str, roles: Roles, alpha: float | None = None
    ) -> Iterator[LazyTensor]:
        """The tensors of a pair, under the names of the program; the magnitudes beside it."""
        style, spelled = self._style, self._spelled(name, text, self._file.key(base))
        if "bias" in roles:
            raise self._file.error(
                roles["bias"].name, f"is a bias of a factor, which {self._to} does not read", "drop it"
            )
        yield _called(roles["up"], f"{spelled}{style.up}")
        yield _called(roles["down"], f"{spelled}{style.down}")
        if (mid := roles.get("mid")) is not None:
            if not style.kinds:
                raise self._file.error(
                    mid.name, f"is a core, which {self._to} does not read", "merge it into a model"
                )
            yield _called(mid, f"{spelled}.lora_mid.weight")
        if (scale := roles.get("scale")) is not None:
            yield _called(scale, f"{spelled}.dora_scale")
        rank = roles["down"].spec.shape[0]
        own = self._file.sorted.alphas.get(base) if alpha is None else None
        value = self._file.alpha(base, rank) if alpha is None else alpha
        if style.alphas:
            if own is not None:
                yield _called(own, f"{spelled}.alpha")
            elif value != rank:
                yield self._number(f"{spelled}.alpha", value, self._file.key(base), rank)
            return
        self._sizes[spelled] = Size(rank, value)

    def _number(self, name: str, value: float, key: str, rank: int) -> LazyTensor:
        stored = np.float32(value)
        if np.float32(float(stored) / rank) != np.float32(value / rank):
            raise self._file.error(
                key, f"has an alpha of {value!r}, which F32 does not hold", "merge it into a model"
            )
        spec = Spec(dtype("F32"), ())
        return plain(name, spec, Constant(spec, stored.tobytes())).evolve(
            did=Event("add", "alpha, as the options say it")
        )

    def _split(self, module: Module, hit: Hit) -> Iterator[LazyTensor]:
        """A pair of a joined module as pairs of its parts: rows of up, and down for each."""
        roles = self._file.pair(module.base)
        up, down = self._file.matrix(roles["up"]), self._file.matrix(roles["down"])
        rows, rule = up.spec.shape[0], hit.rule
        columns = down.spec.shape[1]
        alpha = self._file.alpha(module.base, down.spec.shape[0])
        if rule.swapped:
            if not rule.swaps(rows, columns):
                yield from self._plain(module, hit)
                return
            half = rows // 2
            swapped = dict(roles)
            for role in swapped.keys() & {"up", "scale"}:
                tensor = self._file.matrix(roles[role])
                blocks = [Block(tensor, half, rows, 0), Block(tensor, 0, half, rows - half)]
                swapped[role] = assemble("", tensor.spec.shape, blocks, "its halves change places")
            yield from self._written(self._renamed(module, hit), 0, module.base, swapped)
            return
        counts = rule.counts(rows, columns)
        if counts is None:
            raise self._file.error(
                self._file.key(module.base),
                f"has {rows} rows, not those of {', '.join(hit.others)}",
                "is it for this family?",
            )
        at = 0
        for other, count in zip(hit.others, counts, strict=True):
            part = dict(roles)
            for role in part.keys() & {"up", "scale"}:
                tensor = self._file.matrix(roles[role])
                shape = (count, *tensor.spec.shape[1:])
                part[role] = assemble(
                    "", shape, [Block(tensor, at, at + count)], f"rows {at} to {at + count - 1}"
                )
            yield from self._written(other.removesuffix(_WEIGHT), 0, module.base, part, alpha)
            at += count

    def _joined(self, name: str, parts: dict[int, tuple[Module, Hit]]) -> Iterator[LazyTensor]:
        """Pairs of parts as one of the joined module: one down where all are alike, else in blocks."""
        rule = next(iter(parts.values()))[1].rule
        pairs = {part: self._file.pair(module.base) for part, (module, _) in parts.items()}
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
        heights = self._heights(
            name,
            rule.rows,
            len(rule.right),
            {p: one["up"].spec.shape[0] for p, one in pairs.items()},
            columns.copy().pop(),
            base,
        )
        if any(scaled) and not (all(scaled) and len(pairs) == len(rule.right)):
            raise self._file.error(
                self._file.key(base),
                f"is of DoRA, and not all parts of {name!r} are",
                "merge it into a model",
            )
        downs = [one["down"] for one in pairs.values()]
        alike = all(_same(downs[0], one) for one in downs[1:])
        ups: list[Block] = []
        lows: list[Block] = []
        rank = row = 0
        for part, height in enumerate(heights):
            if part in pairs:
                up, down = self._file.matrix(pairs[part]["up"]), self._file.matrix(pairs[part]["down"])
                ups.append(Block(up, 0, height, row, 0 if alike else rank))
                if not (alike and lows):
                    lows.append(Block(down, 0, down.spec.shape[0], rank))
                    rank += down.spec.shape[0]
            row += height
        did = f"joined of {len(pairs)} of {len(heights)} parts"
        roles: Roles = {
            "up": assemble("", (row, rank), ups, did),
            "down": downs[0] if alike else assemble("", (rank, columns.pop()), lows, did),
        }
        if all(scaled):
            tall, at = [], 0
            for part, height in enumerate(heights):
                tall.append(Block(self._file.matrix(pairs[part]["scale"]), 0, height, at))
                at += height
            roles["scale"] = assemble("", (row, 1), tall, did)
        factor = factors[first]
        if factor * rank / rank != factor:
            raise self._file.error(
                self._file.key(base),
                f"counts {factor!r} times, which no alpha says exactly",
                "merge it into a model",
            )
        yield from self._written(name, 0, base, roles, factor * rank)

    def _heights(
        self, name: str, rows: tuple[int, ...], count: int, known: Mapping[int, int], columns: int, base: str
    ) -> list[int]:
        """Rows of all parts of a joined module, of which some have no pair."""
        heights: list[int | None] = [known.get(part) for part in range(count)]
        if not rows:
            heights = [next(iter(known.values()))] * count
        else:
            heights = [
                have if have is not None else None if times < 0 else times * columns
                for have, times in zip(heights, rows, strict=True)
            ]
        whole = [height for height in heights if height is not None]
        if len(whole) < count or any(heights[part] != height for part, height in known.items()):
            raise self._file.error(
                self._file.key(base),
                f"is of a part of {name!r}, of which others have unknown rows",
                "merge it into a model",
            )
        return whole

    # All else.

    def _kinds(self, base: str, kinds: Mapping[str, Roles]) -> Iterator[LazyTensor]:
        """Adapters of other kinds: as they are, below a module that is one in both spellings."""
        module = self._modules[base]
        hit = self._hit(module)
        key = self._file.key(base)
        if not self._style.kinds:
            raise self._file.error(
                key,
                f"is of {' and '.join(kinds)}, which {self._to} does not read so",
                f"merge it into a model: {called('lora')}",
            )
        if self._file.scaling.options(base) is not None or any(kind.endswith("_peft") for kind in kinds):
            raise self._file.error(
                key, "is of PEFT's, which LyCORIS scales otherwise", "merge it into a model"
            )
        if hit is not None and not hit.rule.renames:
            raise self._file.error(
                key,
                f"is of {' and '.join(kinds)}, which cannot be split over rows, or joined",
                f"merge it into a model: {called('lora')}",
            )
        spelled = self._spelled(self._renamed(module, hit), module.text, key)
        for roles in kinds.values():
            for tensor in roles.values():
                yield _called(tensor, f"{spelled}{tensor.name.removeprefix(base)}")
        if base not in self._file.sorted.pairs and (alpha := self._file.sorted.alphas.get(base)) is not None:
            yield _called(alpha, f"{spelled}.alpha")

    def _differences(self) -> Iterator[LazyTensor]:
        for base, _, tensor in self._file.sorted.differences:
            module = self._modules[base]
            hit = self._hit(module)
            if not self._style.kinds:
                raise self._file.error(
                    tensor.name,
                    f"is a difference, which {self._to} does not read so",
                    f"merge it into a model: {called('lora')}",
                )
            if hit is not None and not hit.rule.renames:
                raise self._file.error(
                    tensor.name,
                    f"is a difference of rows that {self._to} keeps otherwise",
                    f"merge it into a model: {called('lora')}",
                )
            spelled = self._spelled(self._renamed(module, hit), module.text, tensor.name)
            yield _called(tensor, f"{spelled}{tensor.name.removeprefix(base)}")


def _called(tensor: LazyTensor, name: str) -> LazyTensor:
    if tensor.name == name:
        return tensor
    return tensor.evolve(name=name, did=Event("rename", f"{tensor.name} -> {name}"))


def _same(one: LazyTensor, other: LazyTensor) -> bool:
    return one.spec == other.spec and one.numpy().tobytes() == other.numpy().tobytes()


def _bare(name: str) -> str:
    return name.removesuffix(_WEIGHT)
