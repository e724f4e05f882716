"""What files of the catalog say, once they are parsed and proven: held in memory, and on disk between runs.

Both are kept for the time and size of the file, or of each file of a folder. On disk only what comes with
the package is kept: a user's own files are few. What is foreign, damaged or of another state of this code is
not used: the file is parsed anew.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from stat import S_ISDIR
from typing import Any, TypeVar, cast

from ..core.user_cache import private_folder, read_sealed, write_sealed
from .folders import is_shipped

__all__ = ["proven"]

T = TypeVar("T")

_PACKAGE = Path(__file__).resolve().parent.parent

_SOURCES = ("catalog", "codecs", "core", "schemes")
"""Packages whose classes and rules a parsed file is made of."""

_BESIDE = {("functools", "partial"), ("builtins", "frozenset"), ("builtins", "set")}
"""What may be in it besides the package's own classes and functions."""


def proven(load: Callable[[Path], T], path: Path) -> T:
    """What ``load`` makes of a file, or of the files of a folder; always the same object while these are.

    Args:
        load: a function of a module of this package; what it returns can be pickled, and holds nothing that
            depends on other files.
        path: a file, or a folder, which is as its entries are.

    Raises:
        RecipeError: a mistake in the file, as ``load`` says it.
    """
    return cast(T, _held(load, path, _facts([path])))


@lru_cache(maxsize=1024)
def _held(load: Callable[[Path], object], path: Path, facts: str) -> object:
    folder = _folder() if is_shipped(path) else None
    if folder is None:
        return load(path)
    made_for = f"{_state()}\n{load.__module__}:{load.__qualname__}\n{path}\n{facts}\n".encode()
    kept = folder / f"{path.parent.name}-{path.stem}.{load.__name__.strip('_')}"
    try:
        body = read_sealed(kept)
        if body.startswith(made_for):
            return _unpickler()(io.BytesIO(body[len(made_for) :])).load()
    except Exception:  # whatever is wrong with it: it is made anew
        pass
    value = load(path)
    import pickle

    with suppress(OSError):  # the next run parses again, in a fraction of a second
        write_sealed(kept, made_for + pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    return value


@cache
def _unpickler() -> Any:
    """A class of unpicklers that make the package's own objects, and no others."""
    from pickle import Unpickler, UnpicklingError

    package = f"{__name__.partition('.')[0]}."

    class Own(Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if not module.startswith(package) and (module, name) not in _BESIDE:
                raise UnpicklingError(f"{module}.{name}")
            return super().find_class(module, name)

    return Own


@cache
def _folder() -> Path | None:
    folder = private_folder()
    if folder is None:
        return None
    whose = f"{sys.version}\n{_PACKAGE}".encode()  # several checkouts may be used in turns
    return folder / f"catalog-{sha256(whose).hexdigest()[:16]}"


@cache
def _state() -> str:
    """What tells Python's version, and every source that makes these objects."""
    return f"{sys.version} {_facts([_PACKAGE / name for name in _SOURCES])}"


def _facts(paths: Iterable[Path]) -> str:
    """A digest of the time and size of each file, and of each file of a folder."""
    facts: list[str] = []
    for path in paths:
        state = path.stat()
        if not S_ISDIR(state.st_mode):
            facts.append(f"{state.st_mtime_ns} {state.st_size}")
            continue
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_file():
                    state = entry.stat()
                    facts.append(f"{path.name}/{entry.name} {state.st_mtime_ns} {state.st_size}")
    return sha256("\n".join(facts).encode()).hexdigest()
