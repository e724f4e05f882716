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

from ..core.user_cache import private_folder, read_sealed, write_sealed
from .elf import Image
from .machine import processor
from .notice import trouble

__all__ = ["Kept", "cache_folder", "keep", "kept"]

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
        return _unpacked(read_sealed(path), _key(name, made_for))
    except FileNotFoundError:
        return None
    except OSError as error:
        trouble(f"compiled kernels in {folder} cannot be read ({error}); they are compiled anew")
        return None
    except (ValueError, KeyError, TypeError, struct.error):
        trouble(f"{path} is damaged; the kernel is compiled anew")
        return None


def keep(name: str, made_for: str, code: Kept) -> None:
    """Write the code of a kernel."""
    folder = cache_folder()
    if folder is None:
        return
    try:
        write_sealed(_path(folder, name, made_for), _packed(code, _key(name, made_for)))
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
    return struct.pack("<II", len(text), len(machine)) + text + machine


def _unpacked(body: bytes, key: str) -> Kept:
    """What :func:`_packed` packed; raises ValueError, KeyError, TypeError or struct.error."""
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

    ``NUMBA_CACHE_DIR`` wins, else :func:`~transcode.core.user_cache.private_folder`. The name carries a
    digest of the versions, of all kernel sources and of the processor.
    """
    leaf = f"kernels-{hashlib.sha256(_versions().encode()).hexdigest()[:16]}"
    said = os.environ.get("NUMBA_CACHE_DIR")
    if said:
        return Path(said) / leaf
    folder = private_folder()
    return None if folder is None else folder / leaf


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
