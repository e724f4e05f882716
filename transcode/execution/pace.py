"""A limit of bytes a second that all threads of a run share."""

from __future__ import annotations

import threading
import time

__all__ = ["Pace"]


class Pace:
    """Tells who has read how long to wait; thread-safe.

    Args:
        rate: bytes a second, together; None for no limit.
    """

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._due = time.monotonic()
        self._lock = threading.Lock()

    def spend(self, nbytes: int) -> float:
        """Bytes were read; returns the seconds until the next may be."""
        if self._rate is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now) + nbytes / self._rate
            return self._due - now
