"""Where this user's caches lie, and files of them: not trusted where others can write, nor when damaged."""

from __future__ import annotations

import os
import sys
from hashlib import sha256
from pathlib import Path

from .paths import home

__all__ = ["private_folder", "read_sealed", "write_sealed"]

_DIGEST = 32


def private_folder() -> Path | None:
    """A folder that this user alone can write, made if need be; None where there is none.

    The user's cache folder, never the package's own, which may be read-only; else a private one among the
    temporary files. What lies in it may be run, so folders that others can write are not used.
    """
    user_cache = _user_cache()
    if user_cache is not None and _private(user_cache):
        return user_cache
    from tempfile import gettempdir

    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    temporary = Path(gettempdir()) / f"transcode-{user}"
    return temporary if _private(temporary) else None


def read_sealed(path: Path) -> bytes:
    """What :func:`write_sealed` wrote.

    Raises:
        OSError: the file cannot be read, or is not there.
        ValueError: it is damaged.
    """
    data = path.read_bytes()
    body = data[_DIGEST:]
    if _digest(body) != data[:_DIGEST]:
        raise ValueError("damaged")
    return body


def write_sealed(path: Path, body: bytes) -> None:
    """Write a file that begins with the SHA-256 of the rest.

    It appears under its name complete, by rename, so processes that write it at once do not disturb each
    other.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(part, "xb") as file:
            file.write(_digest(body) + body)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()


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
    """Whether a folder can be written, and by nobody else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
        private = not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not state.st_mode & 0o022)
        return private and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False
