"""What is dear to compute and small to hold, while it is in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol, TypeVar

__all__ = ["CachedMatrix", "MatrixCache"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class CachedMatrix(Hashable, Protocol[T_co]):
    """What has a matrix that is kept in memory while it is in use. Implementations are frozen dataclasses."""

    def matrix(self) -> T_co:
        """The matrix, computed anew."""


class MatrixCache:
    """Arrays by what they are made of; the least recently used are let go beyond a limit. Thread-safe.

    Nothing is computed under the lock: others can be had meanwhile, and whoever wants the same waits for it.

    Args:
        limit: bytes that stay; the last one stays whatever its size.
        least: so many entries stay whatever their size.
    """

    def __init__(self, limit: int = 8 << 20, least: int = 1) -> None:
        self._limit = limit
        self._least = least
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, object] = OrderedDict()
        self._computing: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """``make()``, an array or a mapping to arrays, remembered under a key."""
        with self._lock:
            if key in self._kept:
                return self._had(key)  # type: ignore[no-any-return]
            lock = self._computing.setdefault(key, threading.Lock())
        with lock:
            with self._lock:
                if key in self._kept:
                    return self._had(key)  # type: ignore[no-any-return]
            matrix = make()
            with self._lock:
                self._kept[key] = matrix
                self._computing.pop(key, None)
                held = sum(map(_nbytes, self._kept.values()))
                while len(self._kept) > self._least and held > self._limit:
                    held -= _nbytes(self._kept.popitem(last=False)[1])
            return matrix

    def _had(self, key: Hashable) -> Any:
        self._kept.move_to_end(key)
        return self._kept[key]


def _nbytes(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_nbytes, value.values()))
    return int(value.nbytes)
