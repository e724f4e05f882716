"""Names of tensors that differ in numbers of blocks, in one line; nothing else is ever left out of a name.

A number of a name is that of a block if it counts modules alike: ``0`` to ``39`` of ``blocks.0`` to
``blocks.39``, of which each has ``attn.q.weight``. The ``0`` and ``2`` of ``ffn.0`` and ``ffn.2`` are two
layers of one sequence, and stay apart.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from ..core.records import dataclass

__all__ = ["Row", "braced", "fold", "starred"]

T = TypeVar("T")

_NUMBER = re.compile(r"(?<![^.])(\d+)(?![^.])")
_FLAT_NUMBER = re.compile(r"(?<![^._])(\d+)(?![^._])")
"""Numbers of names whose dots are underscores, as those of LoRAs of one style."""

_FLAT = ("lora_", "lycoris_")
_OF_LAYERS = re.compile(r"\.(weight|bias|_?lora_|lora\.|hada_|lokr_|_weight)")
"""What begins the name of a part of one layer: no module stands between the number and it."""

_LONGEST = 20
_LIST = 8


@dataclass(frozen=True)
class Row(Generic[T]):
    """Tensors that are alike in all that is shown of them.

    Attributes:
        parts: of the name: texts, and between them what stands for the numbers of blocks.
        key: all in which they are equal.
        items: the tensors.
    """

    parts: tuple[str, ...]
    key: Hashable
    items: tuple[T, ...]

    @property
    def name(self) -> str:
        """That of the only tensor; else the pattern of all names.

        ``*`` stands for all numbers of blocks that there are, ``{1..3}`` for some of them, ``{q,k}`` for
        names that are alike.
        """
        return "".join(self.parts)


def fold(named: Iterable[tuple[str, Hashable, T]]) -> list[Row[T]]:
    """Put what is alike into one row each, in the order of the first of them.

    Args:
        named: of each tensor its name, all that must be equal for a row, and the tensor.
    """
    entries = list(named)
    read, totals = _patterns([name for name, _, _ in entries])
    groups: dict[tuple[tuple[str, ...], Hashable], list[int]] = {}
    for at, ((texts, _), (_, key, _)) in enumerate(zip(read, entries, strict=True)):
        groups.setdefault((texts, key), []).append(at)
    rows = []
    for (pattern, key), members in groups.items():
        marks = _marks([read[at][1] for at in members], whole=len(members) == totals[pattern])
        rows.append(Row(_filled(pattern, marks), key, tuple(entries[at][2] for at in members)))
    return rows


def starred(names: Sequence[str]) -> list[str]:
    """Names with ``*`` for the numbers of blocks."""
    return ["*".join(texts) for texts, _ in _patterns(names)[0]]


_Read = tuple[tuple[str, ...], tuple[int, ...]]
"""The texts of a name around the numbers of blocks, and these."""


def _patterns(names: Sequence[str]) -> tuple[list[_Read], Counter[tuple[str, ...]]]:
    """How each name reads; and how many have each text."""
    flat = {name for name in names if name.startswith(_FLAT)}
    first = _Place("", names if not flat else [name for name in names if name not in flat], _NUMBER)
    places = [first, _Place("", flat, _FLAT_NUMBER)]
    for place in places:
        places += place.behind()
    for place in reversed(places):
        place.settle()
    known = {**places[0].read, **places[1].read} if flat else first.read
    read = [known[name] for name in names]
    return read, Counter(texts for texts, _ in read)


class _Place:
    """A place in names: what stands in front of it is the same in all of them, but for numbers of blocks.

    So layers that are alike are looked at once, whatever they are of: what stands behind a number of blocks
    is read in places of its own, each text of it once.

    Args:
        head: of the text that stands there, what is known of it already.
        rests: of the names, from there on.
        number: what is a number in them.

    Attributes:
        read: how each of the rests reads.
    """

    def __init__(self, head: str, rests: Iterable[str], number: re.Pattern[str]) -> None:
        self._head = head
        self._rests = rests
        self._number = number
        self._counted: list[tuple[str, list[tuple[str, str, str]], _Place]] = []
        self._told: list[tuple[str, str, str, _Place]] = []
        self.read: dict[str, _Read] = {}

    def behind(self) -> Iterator[_Place]:
        """The places behind the next number."""
        containers: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for rest in self._rests:
            text, *behind = self._number.split(rest, 1)
            if behind:
                containers[text].append((rest, behind[0], behind[1]))
            else:
                self.read[rest] = (self._head + rest,), ()
        for text, members in containers.items():
            if _are_blocks((number, rest) for _, number, rest in members):
                place = _Place("", dict.fromkeys(rest for _, _, rest in members), self._number)
                self._counted.append((self._head + text, members, place))
                yield place
                continue
            apart: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
            for member in members:
                apart[member[1]].append(member)
            for number, alike in apart.items():
                place = _Place(self._head + text + number, [rest for _, _, rest in alike], self._number)
                self._told += ((whole, number, rest, place) for whole, _, rest in alike)
                yield place

    def settle(self) -> None:
        """Read the rests, by what stands behind their numbers."""
        for text, members, place in self._counted:
            longer: dict[tuple[str, ...], tuple[str, ...]] = {}  # of which there is one for many
            for whole, number, rest in members:
                texts, numbers = place.read[rest]
                if texts not in longer:
                    longer[texts] = text, *texts
                self.read[whole] = longer[texts], (int(number), *numbers)
        for whole, _, rest, place in self._told:
            self.read[whole] = place.read[rest]


def _are_blocks(children: Iterable[tuple[str, str]]) -> bool:
    """Whether numbers count modules alike, by each number and what stands behind it in names."""
    behind: dict[str, set[str]] = defaultdict(set)
    for number, rest in children:
        behind[number].add(rest)
    if len(behind) < 2 or any(len(number) > 9 or number != str(int(number)) for number in behind):
        return False  # no indexes of a list
    indices = sorted(map(int, behind))
    runs = indices[-1] - indices[0] + 1 == len(indices)
    often = Counter(rest for rests in behind.values() for rest in rests)
    deep = {rest for rest, times in often.items() if times > 1 and _has_module(rest)}
    if deep:
        return runs or len(behind) > 2
    alike = len({frozenset(rests) for rests in behind.values()}) == 1
    return runs and alike and len(behind) > 3


def _has_module(rest: str) -> bool:
    """Whether a module stands between a number and what is stored."""
    return "." in rest[1:] and _OF_LAYERS.match(rest) is None


def _marks(indices: Sequence[tuple[int, ...]], *, whole: bool) -> list[str]:
    """What stands for the numbers of a row, place by place."""
    columns = [sorted(set(column)) for column in zip(*indices, strict=True)]
    return ["*" if whole and len(column) > 1 else _said(column) for column in columns]


def _said(numbers: Sequence[int]) -> str:
    """Numbers in few characters: ``3``, ``{0..2,7}``."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = [f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    text = ",".join(said)
    if len(text) > _LONGEST:
        text = f"{','.join(said[:2])},...,{said[-1]}"
    return f"{{{text}}}"


def _filled(pattern: Sequence[str], marks: Sequence[str]) -> tuple[str, ...]:
    parts = [pattern[0]]
    for mark, text in zip(marks, pattern[1:], strict=True):
        parts += [mark, text]
    return tuple(parts)


def braced(rows: Sequence[Row[T]], widest: int) -> list[Row[T]]:
    """Rows that differ in one word of their names as one, with ``{q,k}``: of modules, then of parts.

    Args:
        widest: columns that such a name may take.
    """
    rows = list(rows)
    for back in (2, 1):
        families: dict[Hashable, list[int]] = {}
        for number, row in enumerate(rows):
            words = row.parts[-1].split(".")
            if len(words) < back + 1 or not _is_plain(words[-back]):
                families[number] = [number]
                continue
            rest = (row.parts[:-1], tuple(words[:-back]), tuple(words[len(words) - back + 1 :]))
            families.setdefault((rest, row.key, len(row.items)), []).append(number)
        merged: dict[int, Row[T]] = {}
        for alike in families.values():
            for bunch in _bunches(alike, rows, back, widest):
                merged[bunch[0]] = _joined([rows[number] for number in bunch], back)
        rows = [merged[number] for number in sorted(merged)]
    return rows


def _is_plain(word: str) -> bool:
    """Whether it is neither a number nor anything that has been put together."""
    return bool(word) and not (word.isdigit() or "{" in word or "*" in word)


def _bunches(numbers: Sequence[int], rows: Sequence[Row[T]], back: int, widest: int) -> Iterator[list[int]]:
    """Numbers of rows, cut where the name of all would be too wide, or has too many words."""
    bunch: list[int] = []
    for number in numbers:
        together = [rows[other] for other in (*bunch, number)]
        if bunch and (len(bunch) >= _LIST or len(_joined(together, back).name) > widest):
            yield bunch
            bunch = []
        bunch.append(number)
    yield bunch


def _joined(bunch: Sequence[Row[T]], back: int) -> Row[T]:
    first = bunch[0]
    if len(bunch) == 1:
        return first
    words = first.parts[-1].split(".")
    words[-back] = "{" + ",".join(row.parts[-1].split(".")[-back] for row in bunch) + "}"
    items = tuple(item for row in bunch for item in row.items)
    return Row((*first.parts[:-1], ".".join(words)), first.key, items)
