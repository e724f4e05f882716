"""Sizes, numbers and names as people read them."""

from __future__ import annotations

__all__ = ["change", "clipped", "count", "duration", "printable", "size"]


def size(nbytes: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def count(number: int, what: str) -> str:
    """``"1 file"``, ``"2 files"``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def change(before: int, after: int, what: str) -> str:
    """``"2 -> 3 files"``; of as many as before, ``"2 files"``."""
    return count(after, what) if before == after else f"{before} -> {count(after, what)}"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: ``12 ms``, ``4.1 s``, ``2 min 05 s``, ``1 h 20 min``."""
    if seconds < 0.9995:
        return f"{max(round(seconds * 1000), 1)} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def clipped(text: str, most: int) -> str:
    """The text; of a longer one the beginning."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: object, most: int = 200) -> str:
    """One line of text, whatever a file may have put into it: what does not print is spelled as an escape.

    Args:
        most: characters, of which there are no more.
    """
    line = str(text)[: most + 1]
    if not line.isprintable():
        line = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
    return clipped(line, most)
