"""Copies of whole files: what an edit falls back on, and the full backup."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...errors import PlanError, TranscodeError
from ...io.system import clone, free_space, reserve, start_writeback, sync, sync_folder, write_at
from . import undo

__all__ = ["Progress", "keep_copy", "silent", "stream"]

Progress = Callable[[int, int], None]
_CHUNK = 16 << 20


def silent(done: int, total: int) -> None:
    """Progress that nobody looks at."""


def stream(
    fd: int, path: str, head: bytes, data_start: int, *, keep_mtime: bool = False, progress: Progress = silent
) -> str:
    """Write a new file beside ``path``: ``head``, then what ``fd`` holds from ``data_start`` on; synced.

    It has the permissions, owner and extended attributes of the old file. Returns its name.

    Raises:
        PlanError: too little space.
        TranscodeError: the owner cannot be kept.
    """
    new = undo.new_path(path)
    size = os.fstat(fd).st_size - data_start
    _check_space(path, len(head) + size)
    try:
        out = _create(new)
        try:
            _keep_owner(fd, out, path)
            reserve(out, len(head) + size, Path(new))
            write_at(out, memoryview(head), 0)
            _transfer(fd, data_start, out, len(head), size, progress)
            _keep_attributes(path, new, out, keep_mtime)
            sync(out)
        finally:
            os.close(out)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
    return new


def keep_copy(fd: int, path: str, progress: Progress = silent) -> Path:
    """Copy a file to ``<path>.backup``, sharing its blocks where the file system can (reflink).

    A copy that exists is kept as it is: it is the older state, and never overwritten.
    """
    copy = undo.full_backup_path(path)
    if os.path.exists(copy):
        return Path(copy)
    new = undo.new_path(path)
    size = os.fstat(fd).st_size
    try:
        out = _create(new)
        try:
            if not clone(fd, out):
                _check_space(path, size)
                reserve(out, size, Path(new))
                _transfer(fd, 0, out, 0, size, progress)
            _keep_attributes(path, new, out, keep_mtime=True)
            sync(out)
        finally:
            os.close(out)
        os.replace(new, copy)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
    sync_folder(Path(path).parent)
    return Path(copy)


def _create(path: str) -> int:
    # What a killed copy left went when the file was locked; whatever has the name now is not ours.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)


def _check_space(path: str, needed: int) -> None:
    free = free_space(Path(path).parent)
    if needed > free:
        raise PlanError(
            f"a copy of the file needs {needed} bytes, the disk has {free} left",
            file=path,
            hint="free some space",
        )


def _keep_owner(fd: int, out: int, path: str) -> None:
    if not hasattr(os, "fchown"):
        return
    old, new = os.fstat(fd), os.fstat(out)
    if (old.st_uid, old.st_gid) == (new.st_uid, new.st_gid):
        return
    try:
        os.fchown(out, old.st_uid, old.st_gid)
    except PermissionError:
        raise TranscodeError(
            f"the file must be copied, and a copy could not keep its owner {old.st_uid}:{old.st_gid}",
            file=path,
            hint="run the command as its owner",
        ) from None


def _keep_attributes(path: str, new: str, out: int, keep_mtime: bool) -> None:
    import shutil  # costs as much as the rest of an edit, and copies are rare

    shutil.copystat(path, new)
    if not keep_mtime:
        os.utime(new)


def _transfer(fd: int, start: int, out: int, to: int, size: int, progress: Progress) -> None:
    done = 0
    while done < size:
        progress(done, size)
        copied = _copy_range(fd, out, min(_CHUNK, size - done), start + done, to + done)
        if not copied:
            raise TranscodeError("the file shrank while it was copied")
        start_writeback(out, to + done, copied)
        done += copied
    progress(size, size)


def _copy_range(fd: int, out: int, size: int, start: int, to: int) -> int:
    if hasattr(os, "copy_file_range"):  # in the kernel, and by reference on file systems that can
        try:
            return os.copy_file_range(fd, out, size, start, to)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                raise
    data = undo.read_at(fd, size, start)
    write_at(out, memoryview(data), to)
    return len(data)
