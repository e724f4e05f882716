"""Times for people."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: ``12 ms``, ``4.1 s``, ``2 min 05 s``, ``1 h 20 min``."""
    if seconds < 0.9995:
        return f"{max(round(seconds * 1000), 1)} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
