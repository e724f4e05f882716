"""Files of a plan, those whose names differ in one number in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...core.output import PlannedFile
from ...core.records import dataclass

__all__ = ["Files", "folded"]

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Files:
    """Files under one name, in which ``*`` stands for what differs."""

    name: str
    files: tuple[PlannedFile, ...]

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return sum(file.size for file in self.files)

    @property
    def tensors(self) -> int:
        """Of all of them."""
        return sum(len(file.places) for file in self.files)


def folded(files: Sequence[PlannedFile]) -> list[Files]:
    """Files whose names differ in one number only, together: ``model-0000*-of-00002.safetensors``."""
    texts: dict[tuple[str, ...], list[PlannedFile]] = {}
    for file in files:
        texts.setdefault(tuple(_DIGITS.split(file.name)[::2]), []).append(file)
    rows = []
    for group in texts.values():
        numbers = list(zip(*(_DIGITS.split(file.name)[1::2] for file in group), strict=True))
        differing = [column for column in numbers if len(set(column)) > 1]
        if len(group) > 1 and len(differing) == 1:
            names = [file.name for file in group]
            before, after = _shared(names), _shared([name[::-1] for name in names])[::-1]
            least = min(map(len, names)) - len(before)
            rows.append(Files(f"{before}*{after[max(len(after) - least, 0) :]}", tuple(group)))
        else:
            rows += [Files(file.name, (file,)) for file in group]
    return rows


def _shared(names: Sequence[str]) -> str:
    """What all names begin with."""
    first, last = min(names), max(names)
    length = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return first[: min(len(first), len(last)) if length is None else length]
