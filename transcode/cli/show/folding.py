"""Names of tensors that differ in numbers of blocks, in one line; nothing else is ever left out of a name.

A number of a name is that of a block if it counts modules alike: ``0`` to ``39`` of ``blocks.0`` to
``blocks.39``, of which each has ``attn.q.weight``. The ``0`` and ``2`` of ``ffn.0`` and ``ffn.2`` are two
layers of one sequence, and stay apart.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Row", "fold"]

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
        name: of the only one; else the pattern of all names, where ``*`` stands for all numbers of blocks
            that there are, ``{1..3}`` for some of them, and ``{q,k}`` for names that are alike.
        items: the tensors.
    """

    name: str
    items: tuple[T, ...]


def fold(named: Iterable[tuple[str, Hashable, T]], *, widest: int | None = None) -> list[Row[T]]:
    """Put what is alike into one row each, in the order of the first of them.

    Args:
        named: of each tensor its name, all that must be equal for a row, and the tensor.
        widest: columns that ``{q,k}`` may make of a name; None if it may not.
    """
    entries = list(named)
    texts, numbers, totals = _patterns([name for name, _, _ in entries])
    groups: dict[tuple[tuple[str, ...], Hashable], list[int]] = {}
    for at, (_, key, _) in enumerate(entries):
        groups.setdefault((texts[at], key), []).append(at)
    rows: list[tuple[tuple[str, ...], Hashable, list[int]]] = []
    for (pattern, key), members in groups.items():
        indices = [numbers[at] for at in members]
        marks = _marks(indices, whole=len(members) == totals[pattern])
        rows.append((_filled(pattern, marks), key, members))
    if widest is not None:
        rows = _braced(rows, widest)
    return [
        Row(
            "".join(name) if len(members) > 1 else entries[members[0]][0],
            tuple(entries[at][2] for at in members),
        )
        for name, _, members in rows
    ]


def _patterns(
    names: Sequence[str],
) -> tuple[list[tuple[str, ...]], list[tuple[int, ...]], Counter[tuple[str, ...]]]:
    """Of each name its text around the numbers of blocks, and these; and how many have each text."""
    pieces = [(_FLAT_NUMBER if name.startswith(_FLAT) else _NUMBER).split(name) for name in names]
    heads = [pieces_of[0] for pieces_of in pieces]
    texts: list[list[str]] = [[] for _ in names]
    numbers: list[list[int]] = [[] for _ in names]
    depth = 0
    open_names = [at for at, parts in enumerate(pieces) if len(parts) > 1]
    while open_names:
        place = 2 * depth + 1
        containers: dict[tuple[tuple[str, ...], str], list[int]] = defaultdict(list)
        for at in open_names:
            containers[tuple(texts[at]), heads[at]].append(at)
        for members in containers.values():
            counted = _are_blocks((pieces[at][place], "".join(pieces[at][place + 1 :])) for at in members)
            for at in members:
                if counted:
                    texts[at].append(heads[at])
                    numbers[at].append(int(pieces[at][place]))
                    heads[at] = pieces[at][place + 1]
                else:
                    heads[at] += "".join(pieces[at][place : place + 2])
        depth += 1
        open_names = [at for at in open_names if len(pieces[at]) > 2 * depth + 1]
    whole = [(*text, head) for text, head in zip(texts, heads, strict=True)]
    return whole, [tuple(one) for one in numbers], Counter(whole)


def _are_blocks(children: Iterable[tuple[str, str]]) -> bool:
    """Whether numbers count modules alike, by each number and what stands behind it in names."""
    behind: dict[str, set[str]] = defaultdict(set)
    for number, rest in children:
        if len(number) > 9 or number != str(int(number)):
            return False  # no index of a list
        behind[number].add(rest)
    if len(behind) < 2:
        return False
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
    return re.search(r"[._]", rest[1:]) is not None and _OF_LAYERS.match(rest) is None


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


def _braced(
    rows: list[tuple[tuple[str, ...], Hashable, list[int]]], widest: int
) -> list[tuple[tuple[str, ...], Hashable, list[int]]]:
    """Rows that differ in one word of their names as one, with ``{q,k}``: of modules, then of parts."""
    for back in (2, 1):
        families: dict[Hashable, list[int]] = {}
        for number, (name, key, members) in enumerate(rows):
            words = name[-1].split(".")
            if len(words) < back + 1 or _plain(words[-back]) is None:
                families[number] = [number]
                continue
            rest = (name[:-1], tuple(words[:-back]), tuple(words[len(words) - back + 1 :]))
            families.setdefault((rest, key, len(members)), []).append(number)
        merged: dict[int, tuple[tuple[str, ...], Hashable, list[int]]] = {}
        for alike in families.values():
            for bunch in _bunches([rows[number] for number in alike], back, widest):
                first = next(number for number in alike if rows[number][2][0] == bunch[0][2][0])
                merged[first] = _joined(bunch, back)
        rows = [merged[number] for number in sorted(merged)]
    return rows


def _plain(word: str) -> str | None:
    """The word if it is none of a number or of what has been put together."""
    return None if not word or word.isdigit() or "{" in word or "*" in word else word


def _bunches(
    rows: Sequence[tuple[tuple[str, ...], Hashable, list[int]]], back: int, widest: int
) -> Iterable[list[tuple[tuple[str, ...], Hashable, list[int]]]]:
    """Rows cut where the name of all would be too wide, or has too many words."""
    bunch: list[tuple[tuple[str, ...], Hashable, list[int]]] = []
    for row in rows:
        if bunch and (len(bunch) >= _LIST or len("".join(_joined([*bunch, row], back)[0])) > widest):
            yield bunch
            bunch = []
        bunch.append(row)
    if bunch:
        yield bunch


def _joined(
    bunch: Sequence[tuple[tuple[str, ...], Hashable, list[int]]], back: int
) -> tuple[tuple[str, ...], Hashable, list[int]]:
    name, key, members = bunch[0]
    if len(bunch) == 1:
        return name, key, members
    words = name[-1].split(".")
    words[-back] = "{" + ",".join(row[0][-1].split(".")[-back] for row in bunch) + "}"
    return (*name[:-1], ".".join(words)), key, [at for row in bunch for at in row[2]]
