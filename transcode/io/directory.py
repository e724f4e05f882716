"""A folder held open: names are looked up in it and nowhere else, whatever happens to the path meanwhile."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ..errors import PlanError
from . import system

__all__ = ["Directory", "claim"]

_BINARY = getattr(os, "O_BINARY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BY_DESCRIPTOR = {os.open, os.unlink, os.stat, os.mkdir, os.rmdir, os.rename} <= os.supports_dir_fd


class Directory:
    """A folder by its descriptor where the system can do that, else by its path. A context manager.

    Attributes:
        path: the name by which it was opened; for messages, and for systems without descriptors of folders.
    """

    def __init__(self, path: Path, within: Directory | None = None) -> None:
        """Open a folder, which must not be a link itself; ``within`` it is looked up by its last name.

        Raises:
            OSError: it is absent, no folder or a link.
        """
        self.path = path
        self._fd: int | None = None
        if _BY_DESCRIPTOR:
            flags = os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW
            if within is None:
                self._fd = os.open(path, flags)
            else:
                self._fd = os.open(path.name, flags, dir_fd=within._fd)
        elif not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(20, "Not a directory", str(path))

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let it go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """A descriptor of a file in it; never of one that a link leads to."""
        return os.open(self._name(name), flags | _BINARY | _NOFOLLOW, mode, dir_fd=self._fd)

    def stat(self, name: str) -> os.stat_result | None:
        """What is known of a name, of a link itself; None where there is no such name."""
        try:
            return os.stat(self._name(name), dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """All names in it, sorted."""
        if self._fd is None:
            return sorted(os.listdir(self.path))
        # By a descriptor of its own: on btrfs one lists no names that came after it was opened.
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._fd)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def mkdir(self, name: str, mode: int = 0o777) -> None:
        """Make a folder in it."""
        os.mkdir(self._name(name), mode, dir_fd=self._fd)

    def unlink(self, name: str) -> None:
        """Take a file or a link out of it; nothing where there is none."""
        with suppress(FileNotFoundError):
            os.unlink(self._name(name), dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Take a file, a link or a whole folder out of it; nothing where there is none."""
        known = self.stat(name)
        if known is None or not stat.S_ISDIR(known.st_mode):
            self.unlink(name)
        elif self._fd is None:
            shutil.rmtree(self._name(name))
        else:
            shutil.rmtree(name, dir_fd=self._fd)

    def move(self, name: str, to: Directory, new: str) -> None:
        """Give a file or folder of it another place, in one step, over what has that name."""
        if self._fd is None:
            os.replace(self._name(name), to._name(new))
        else:
            os.replace(name, new, src_dir_fd=self._fd, dst_dir_fd=to._fd)

    def sync(self) -> None:
        """Make its names durable, where folders can be synced."""
        if self._fd is not None:
            system.sync_names(self._fd)

    def nbytes(self) -> int:
        """Bytes on disk of the files in it and in all folders below it."""
        return sum(self._sizes())

    def _sizes(self) -> Iterator[int]:
        for name in self.names():
            known = self.stat(name)
            if known is None:
                continue
            if stat.S_ISDIR(known.st_mode):
                with suppress(OSError), Directory(self.path / name, self) as inner:
                    yield from inner._sizes()
            else:
                yield _on_disk(known)

    def _name(self, name: str) -> str:
        return name if self._fd is not None else str(self.path / name)


def _on_disk(known: os.stat_result) -> int:
    blocks = getattr(known, "st_blocks", None)
    return known.st_size if blocks is None else blocks * 512


def claim(path: Path, *, make: bool = True) -> Directory:
    """Make a folder that nobody else may look into, or take one over that a run of ours made.

    Args:
        make: make it where it is absent.

    Raises:
        PlanError: the name is a link, a file, or another user's folder: what lies there is not ours to clear.
        OSError: the system refused.
    """
    is_new = False
    if make:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            is_new = True
    known = os.lstat(path)
    if not stat.S_ISDIR(known.st_mode):
        what = f"a link to {os.readlink(path)}" if stat.S_ISLNK(known.st_mode) else "no folder"
        raise PlanError(
            f"is {what}; this name is for the unfinished files of a run", file=path, hint="remove it"
        )
    # Not where we have just made it: some file systems give all that lies on them to one user.
    if not is_new and hasattr(os, "geteuid") and known.st_uid != os.geteuid():
        raise PlanError(
            f"belongs to another user (uid {known.st_uid}), who has a run under way or left unfinished files",
            file=path,
            hint="write elsewhere, or have it removed",
        )
    folder = Directory(path)
    if folder._fd is not None:
        if not os.path.samestat(os.fstat(folder._fd), known):
            folder.close()
            raise PlanError("was exchanged while it was opened", file=path, hint="write elsewhere")
        with suppress(OSError):  # file systems without modes
            os.fchmod(folder._fd, 0o700)
    return folder
