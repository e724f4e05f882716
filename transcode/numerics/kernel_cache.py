"""Compiled kernels on disk, never trusted: what is damaged is compiled anew, what cannot be kept is not.

One file holds one kernel for one combination of argument types. It begins with the SHA-256 of the rest, and
names what it was made for; it appears under its name complete, by rename, so processes that compile at once
do not disturb each other. Nothing of it is unpickled, but it is run: folders that others can write are not
used.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..core.paths import home
from .elf import Image
from .machine import processor
from .notice import trouble

__all__ = ["Kept", "cache_folder", "keep", "kept"]

_DIGEST = hashlib.sha256().digest_size

Kept = tuple[Image | bytes, str]
"""Code, linked or as an object file, and the type of what the function returns."""


def kept(name: str, made_for: str) -> Kept | None:
    """The code of a kernel, if it is kept and fine.

    Args:
        name: the kernel, and the argument types.
        made_for: all else that it depends on besides :func:`cache_folder`; differs for another kernel.
    """
    folder = cache_folder()
    if folder is None:
        return None
    path = _path(folder, name, made_for)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        trouble(f"compiled kernels in {folder} cannot be read ({error}); they are compiled anew")
        return None
    try:
        return _unpacked(data, _key(name, made_for))
    except (ValueError, KeyError, TypeError, struct.error):
        trouble(f"{path} is damaged; the kernel is compiled anew")
        return None


def keep(name: str, made_for: str, code: Kept) -> None:
    """Write the code of a kernel."""
    folder = cache_folder()
    if folder is None:
        return
    data = _packed(code, _key(name, made_for))
    path = _path(folder, name, made_for)
    part = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with open(part, "xb") as file:
                file.write(data)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        trouble(f"compiled kernels cannot be kept in {folder} ({error}); the next run compiles again")


def _path(folder: Path, name: str, made_for: str) -> Path:
    kernel = name.partition("(")[0]
    return folder / f"{kernel}-{_key(name, made_for)[:16]}.kernel"


@cache
def _key(name: str, made_for: str) -> str:
    return hashlib.sha256("\0".join((_versions(), name, made_for)).encode()).hexdigest()


def _packed(code: Kept, key: str) -> bytes:
    machine, result = code
    head: dict[str, Any] = {"for": key, "returns": result}
    if isinstance(machine, Image):
        head |= {"entry": machine.entry, "moved": machine.moved, "outside": machine.outside}
        machine = machine.code
    text = json.dumps(head).encode()
    body = struct.pack("<II", len(text), len(machine)) + text + machine
    return hashlib.sha256(body).digest() + body


def _unpacked(data: bytes, key: str) -> Kept:
    """What :func:`_packed` packed; raises ValueError, KeyError, TypeError or struct.error."""
    body = data[_DIGEST:]
    if hashlib.sha256(body).digest() != data[:_DIGEST]:
        raise ValueError("damaged")
    length, size = struct.unpack_from("<II", body)
    head = json.loads(body[8 : 8 + length])
    code = body[8 + length :]
    if head["for"] != key or len(code) != size:
        raise ValueError("made for something else")
    if "entry" not in head:
        return code, head["returns"]
    return Image(code, head["entry"], head["moved"], head["outside"]), head["returns"]


# Where --------------------------------------------------------------------------------------------------


@cache
def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None where nothing can be written.

    ``NUMBA_CACHE_DIR`` wins. Otherwise the user's cache folder, never the package's own, which may be
    read-only; else a private folder among the temporary files. The name carries a digest of the versions, of
    all kernel sources and of the processor.
    """
    leaf = f"kernels-{hashlib.sha256(_versions().encode()).hexdigest()[:16]}"
    said = os.environ.get("NUMBA_CACHE_DIR")
    if said:
        return Path(said) / leaf
    user_cache = _user_cache()
    if user_cache is not None and _private(user_cache):
        return user_cache / leaf
    from tempfile import gettempdir

    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    temporary = Path(gettempdir()) / f"transcode-{user}"
    return temporary / leaf if _private(temporary) else None


@cache
def _versions() -> str:
    """All that any kernel depends on: Python, the compiler and its settings, sources, the processor."""
    told = [sys.version, sys.platform, _compiler(), processor()]
    told += sorted(
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR"
    )
    for source in sorted(Path(__file__).parent.glob("*.py")):
        told.append(hashlib.sha256(source.read_bytes()).hexdigest())
    return "\0".join(told)


def _compiler() -> str:
    """The versions of numba and llvmlite, without importing them."""
    versions = []
    for name in ("numba", "llvmlite"):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            versions.append(f"{name}: none")
            continue
        try:  # both are versioned by versioneer, which writes this file
            versions.append(Path(spec.origin).with_name("_version.py").read_text(encoding="utf-8"))
        except OSError:
            versions.append(__import__(name).__version__)
    return "\0".join(versions)


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
        return mine and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False
