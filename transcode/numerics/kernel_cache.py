"""Compiled kernels on disk, never trusted: what is damaged is compiled anew, what cannot be kept is not."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

from .notice import trouble

__all__ = ["checked"]

_DIGEST = hashlib.sha256().digest_size


class _Files(IndexDataCacheFile):  # type: ignore[misc]
    """numba's files, each behind its SHA-256: unpickling runs code, and what comes of it is run."""

    def _load_index(self) -> dict[Any, str]:
        try:
            index = self._load_data(self._index_name)
        except FileNotFoundError:
            return {}
        if index is None:
            return {}
        version, stamp, overloads = index
        table: dict[Any, str] = overloads
        return table if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._save_data(self._index_name, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as file:
            raw = file.read()
        digest, data = raw[:_DIGEST], raw[_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            trouble(f"{self._data_path(name)} is damaged; the kernel is compiled anew")
            return None
        return pickle.loads(data)

    def _save_data(self, name: str, data: Any) -> None:
        packed = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(packed).digest() + packed)


class _Cache(FunctionCache):  # type: ignore[misc]
    """numba's cache of one function, whose failures cost time and nothing else."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file: Any = _Files(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            trouble(f"compiled kernels in {self.cache_path} cannot be read ({error}); they are compiled anew")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            trouble(
                f"compiled kernels cannot be kept in {self.cache_path} ({error}); the next run compiles again"
            )


def checked(compiled: Any) -> None:
    """Give a dispatcher of numba such a cache in place of its own."""
    compiled._cache = _Cache(compiled.py_func)
