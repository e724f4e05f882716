"""What the converter's lists of keys select, as patterns of transcode."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from transcode.core.patterns import Pattern

__all__ = ["at_component", "listed", "patterns"]


def listed(words: Sequence[str] | None) -> list[str] | None:
    """Keys with spaces or commas between them; ``none`` is the empty list, None that nothing was said."""
    if words is None:
        return None
    keys = [key for word in words for key in word.split(",") if key]
    return [] if keys == ["none"] else keys


def at_component(index: int, keys: Iterable[str]) -> str:
    """The pattern of names whose component ``index``, counted from 0, is one of the keys."""
    return rf"re:^(?:[^.]+\.){{{index}}}(?:{'|'.join(map(re.escape, keys))})(?:\.|$)"


def patterns(flag: str, keys: Iterable[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The patterns of keys, and warnings.

    The converter looked for keys anywhere in a name, so that ``ca`` also meant ``scale``. Here a key is one
    word or several: no letter may stand before or behind its letters, no digit before or behind its digits.
    A key with a wildcard, or one that begins with ``re:``, is a pattern of transcode already. Keys that
    select nothing are left out, as they may be written for several models.

    Args:
        flag: for the warnings.
        names: of the tensors that the patterns are for.
    """
    made: list[str] = []
    warnings: list[str] = []
    for key in keys:
        pattern = _pattern(key, names)
        found = [name for name in names if Pattern(pattern).matches(name)]
        inside = [name for name in names if key in name and name not in found]
        if inside:
            warnings.append(
                f"{flag} {key}: means whole words: not {inside[0]!r}"
                + (f" and {len(inside) - 1} more" if len(inside) > 1 else "")
                + f", which only have it inside a word; write '*{key}*' for those too"
            )
        if found:
            made.append(pattern)
        elif not inside:
            warnings.append(f"{flag} {key}: is in no name")
    return made, warnings


def _pattern(key: str, names: Sequence[str]) -> str:
    if key.startswith("re:") or any(char in key for char in "*?["):
        return key
    before, after = (_boundary(key[0], "<!"), _boundary(key[-1], "!"))
    words = f"re:{before}{re.escape(key)}{after}"
    whole = key.strip(".")
    if whole:
        # Say it plainly where that means the same.
        plain, exact = Pattern(whole), Pattern(words)
        if all(plain.matches(name) == exact.matches(name) for name in names):
            return whole
    return words


def _boundary(char: str, look: str) -> str:
    if char.isalpha():
        return f"(?{look}[A-Za-z])"
    return rf"(?{look}\d)" if char.isdigit() else ""
