"""Runs the command line on Linux without what Windows, or macOS, lacks: ``windows.py windows ARGS...``.

What it cannot show: how their own calls behave. Of Windows three rules are put in place: what a process has
open or mapped can be neither replaced nor removed, and locks keep out whoever reads.
"""

from __future__ import annotations

import builtins
import errno
import mmap
import os
import signal
import sys
import tempfile
import types
from pathlib import Path

import click  # noqa: F401  # what is not ours asks for the platform when it is loaded
import numba  # noqa: F401
import numpy as np  # noqa: F401
import rich.console  # noqa: F401
import safetensors.numpy  # noqa: F401
import yaml  # noqa: F401

LINUX = (
    "posix_fadvise",
    "copy_file_range",
    "sched_getaffinity",
    "posix_fallocate",
    "O_TMPFILE",
    "O_DIRECT",
    "sendfile",
)
POSIX = (
    "preadv", "pread", "pwrite", "pwritev", "fchmod", "fchown", "chown", "geteuid", "getuid", "getgid",
    "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "fork", "mkfifo", "getpgid",
    "setsid", "fdatasync", "sync", "uname",
)  # fmt: skip
BLOCKED = ("fcntl", "resource", "pwd", "grp", "termios", "posix_ipc")


def remove(holder: object, *names: str) -> None:
    for name in names:
        if hasattr(holder, name):
            delattr(holder, name)


def held() -> set[str]:
    """Real paths of what this process has open or mapped."""
    paths = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            paths.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    with builtins.open("/proc/self/maps") as maps:
        paths |= {line.split(maxsplit=5)[5].strip() for line in maps if len(line.split(maxsplit=5)) == 6}
    return paths


def refuse_held(real, *positions):
    def call(*args, **options):
        for position in positions:
            path = os.path.realpath(args[position])
            if os.path.isfile(path) and path in held():
                raise PermissionError(errno.EACCES, "The process cannot access the file", str(args[position]))
        return real(*args, **options)

    return call


def windows() -> None:
    import fcntl

    from numba.core import caching  # noqa: F401

    lock = types.ModuleType("msvcrt")
    lock.LK_NBLCK, lock.LK_UNLCK = 2, 0

    def locking(fd: int, mode: int, nbytes: int) -> None:
        assert nbytes == 1
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        assert os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).endswith("lock"), (
            "readers would be kept out"
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    lock.locking = locking
    remove(os, *LINUX, *POSIX)
    os.O_BINARY = 0
    os.supports_dir_fd, os.supports_fd = set(), {os.stat}
    remove(mmap, "MADV_DONTNEED", "MADV_WILLNEED")
    remove(signal, "SIGHUP", "SIGBUS", "SIGURG")
    for name in BLOCKED:
        sys.modules[name] = None
    sys.modules["msvcrt"] = lock
    tempfile._O_TMPFILE_WORKS = False
    sys.platform = "win32"
    from transcode.io import system

    system.WINDOWS = True
    os.replace = os.rename = refuse_held(os.replace, 0, 1)
    os.unlink = os.remove = refuse_held(os.unlink, 0)


def darwin() -> None:
    remove(os, *LINUX)
    tempfile._O_TMPFILE_WORKS = False
    sys.platform = "darwin"


if __name__ == "__main__":
    {"windows": windows, "darwin": darwin}[sys.argv[1]]()
    if sys.argv[2].endswith(".py"):
        exec(compile(Path(sys.argv[2]).read_text(), sys.argv[2], "exec"))
    else:
        from transcode.cli import main

        main(sys.argv[2:])
