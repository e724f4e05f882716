"""Compilation of kernels: lazily, once per machine, with a word to the user when it takes seconds."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import numba.extending
from numba.core import event

from ..core.paths import home
from .kernel_cache import checked
from .notice import compile_starts, trouble

__all__ = ["cache_folder", "instruction", "kernel", "lane"]

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile a function on its first call for each combination of argument types, and keep the code on disk.

    It runs without the GIL and with IEEE semantics: no fast-math, division by zero gives infinity.
    """
    with _caching_in(cache_folder()) as cached:
        compiled: F = numba.njit(nogil=True, error_model="numpy")(function)
        if cached:
            try:
                checked(compiled)
            except (RuntimeError, OSError) as error:  # numba's, where it can keep nothing
                trouble(f"compiled kernels cannot be kept ({error}); the next run compiles again")
    return compiled


def lane(function: F) -> F:
    """A scalar helper that is inlined into kernels."""
    compiled: F = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation of lanes and kernels that is given as LLVM instructions, as numba's ``intrinsic``."""
    intrinsic: Callable[..., Any] = numba.extending.intrinsic(function)
    return intrinsic


class _Listener(event.Listener):  # type: ignore[misc]
    """Hears of every kernel that is compiled, but not of those that come from the cache."""

    def on_start(self, event: Any) -> None:
        compile_starts()

    def on_end(self, event: Any) -> None:
        pass


event.register("numba:compile", _Listener())


@cache
def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None where nothing can be written.

    ``NUMBA_CACHE_DIR`` wins. Otherwise the user's cache folder, never the package's own, which may be
    read-only; else a private folder among the temporary files. The name carries a digest of all kernel
    sources: numba itself looks only at the file of the kernel, not at those of the helpers that it inlines.
    """
    if numba.config.CACHE_DIR:
        return Path(numba.config.CACHE_DIR)
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    leaf = f"kernels-{digest.hexdigest()[:16]}"
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    for folder in (_user_cache(), Path(tempfile.gettempdir()) / f"transcode-{user}"):
        if folder is not None and _private(folder):
            return folder / leaf
    return None


def _user_cache() -> Path | None:
    """Where the user's caches lie, if anywhere: containers have users without a home."""
    said = {"win32": os.environ.get("LOCALAPPDATA"), "darwin": None}.get(
        sys.platform, os.environ.get("XDG_CACHE_HOME")
    )
    if said:
        return Path(said) / "transcode"
    below = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    at = home()
    return None if at is None else at / below / "transcode"


def _private(folder: Path) -> bool:
    """Whether a folder can be written, and by nobody else: what lies in the cache is run."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        mine = not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not state.st_mode & 0o022)
        with tempfile.TemporaryFile(dir=folder):
            return mine
    except OSError:
        return False


@contextmanager
def _caching_in(folder: Path | None) -> Iterator[bool]:
    """Point numba's cache at a folder while a function is declared, which is when numba looks."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = "" if folder is None else str(folder)
    try:
        yield folder is not None
    finally:
        numba.config.CACHE_DIR = before
