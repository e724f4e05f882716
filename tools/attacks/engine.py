"""Commands run in children that are killed, interrupted or given errors at a chosen call.

Two ways of choosing. :class:`Injection` counts the calls that Python makes to the system for files below a
folder, in any thread, and works everywhere; :func:`kill_at` counts real system calls under ptrace(2), of
actions with one thread.
"""

from __future__ import annotations

import builtins
import ctypes
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "BAD",
    "CALLS",
    "Attack",
    "Injection",
    "Outcome",
    "Tally",
    "command",
    "fork",
    "kill_at",
    "kill_threads_at",
    "ptrace_works",
    "survives",
    "tear",
]

CALLS = (
    "open", "close", "stat", "lstat", "fstat", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir",
    "listdir", "scandir", "read", "preadv", "write", "pwrite", "ftruncate", "truncate", "fchmod", "fchown",
    "utime",
)  # fmt: skip
"""Functions of ``os`` that are counted; Python's own ``open`` is too."""

BAD = ("MIXED", "WRONG", "TRACEBACK", "SIGNAL DEATH", "HANG", "BOMB", "UNNAMED", "LEFTOVER")
"""What must not be seen."""

LIMIT = 60.0
"""Seconds after which a child hangs."""


@dataclass
class Tally:
    """What was seen how often, with some examples of what must not be seen."""

    seen: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, example: str = "") -> None:
        """Count one more."""
        self.seen[what] += 1
        if what in BAD and len(self.examples) < 20:
            self.examples.append(f"{what}: {example}"[:2000])

    def to_json(self) -> dict[str, Any]:
        """For the parent, and for ``--json``."""
        return {"seen": dict(self.seen), "examples": self.examples, "notes": self.notes}


Attack = Callable[[Path, random.Random, int, float, Tally], None]
"""``attack(folder, dice, trials, until, tally)``; ``until`` is a moment of the monotonic clock."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, or the signal that killed it; and what it said."""

    code: int | None
    signal: int | None
    text: str
    hung: bool = False

    def fault(self) -> tuple[str, str] | None:
        """What is wrong with how it ended, whatever it had to do: a key of :data:`BAD`, and why."""
        if self.hung:
            return "HANG", self.text
        if self.signal is not None and self.signal != signal.SIGKILL:
            return "SIGNAL DEATH", f"signal {self.signal}: {self.text}"
        if "Traceback" in self.text or "fault of transcode" in self.text or self.code == 70:
            return "TRACEBACK", self.text
        if "out of memory" in self.text:
            return "BOMB", self.text
        if self.code == 2 and not any(": error: " in line for line in self.text.splitlines()):
            return "UNNAMED", f"exit 2 without an error: {self.text!r}"
        if self.code not in (None, 0, 1, 2, 130):
            return "WRONG", f"exit code {self.code}: {self.text}"
        return None


class Injection:
    """Does something at the N-th call that concerns files below a folder; to be installed in a child."""

    def __init__(
        self, root: Path, number: int, act: Callable[[str], Any], calls: Iterable[str] = CALLS
    ) -> None:
        """``act`` is given the name of the call; what it returns true for stands for the call itself.

        ``calls``: functions of ``os`` that are counted, beside Python's ``open`` and our own ``pwrite``.
        """
        self.calls = calls
        self.root = os.path.realpath(root)
        self.number = number
        self.act = act
        self.seen = 0
        self._lock = threading.Lock()
        self._busy = threading.local()

    def install(self) -> None:
        """Patch this process, for good."""
        from transcode.io import system

        for name in self.calls:
            if hasattr(os, name):
                setattr(os, name, self._counted(name, getattr(os, name)))
        builtins.open = self._counted("open()", builtins.open)
        system._pwrite = self._counted("pwrite", system._pwrite)

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if getattr(self._busy, "now", False):
                return real(*args, **options)
            self._busy.now = True
            try:
                concerns = self._concerns(args, options)
                if concerns:
                    with self._lock:
                        self.seen += 1
                        mine = self.seen == self.number
                    if mine:
                        if name == "close":
                            real(*args, **options)
                        if self.act(name):
                            return None
            finally:
                self._busy.now = False
            return real(*args, **options)

        return call

    def _concerns(self, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if not args:
            return False
        first = args[0]
        if isinstance(first, int) or "dir_fd" in options or "src_dir_fd" in options:
            fd = first if isinstance(first, int) else options.get("dir_fd", options.get("src_dir_fd"))
            try:
                first = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                return fd is not None and not Path("/proc/self/fd").is_dir()
        try:
            return os.path.abspath(os.fsdecode(first)).startswith(self.root)
        except TypeError:
            return False


def failing(code: int) -> Callable[[str], Any]:
    """An act that answers with an error of the system."""

    def act(name: str) -> Any:
        raise OSError(code, os.strerror(code))

    return act


def dying(number: int) -> Callable[[str], Any]:
    """An act that sends this process a signal."""

    def act(name: str) -> Any:
        os.kill(os.getpid(), number)

    return act


def command(
    args: list[str],
    *,
    install: Callable[[], None] | None = None,
    after: tuple[float, int] | None = None,
    meanwhile: Callable[[int], None] | None = None,
    memory: int | None = None,
    limit: float = LIMIT,
) -> Outcome:
    """Run the command line in a forked child.

    Args:
        install: what the child does first.
        after: seconds after which it is sent a signal, and that signal.
        meanwhile: what the parent does while it runs, given its id.
        memory: bytes by which its address space may grow.
        limit: seconds after which it is killed and counts as hung.
    """
    with tempfile.TemporaryFile() as said:
        pid = start(args, said.fileno(), install, memory)
        began = time.monotonic()
        if after is not None:
            time.sleep(after[0])
            os.kill(pid, after[1])
        if meanwhile is not None:
            meanwhile(pid)
        status, hung = wait(pid, limit - (time.monotonic() - began))
        said.seek(0)
        text = said.read().decode(errors="replace")
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return Outcome(None if killed else os.WEXITSTATUS(status), killed, text, hung)


def start(
    args: list[str], out: int, install: Callable[[], None] | None = None, memory: int | None = None
) -> int:
    """Fork a child that runs the command line, and return its id; what it says goes to a descriptor."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if memory is not None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        from transcode.cli import main

        if install is not None:
            install()
        main(args)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        code = 70
    try:
        sys.stderr.flush()
        sys.stdout.flush()
    finally:
        os._exit(code)


def wait(pid: int, limit: float) -> tuple[int, bool]:
    """The status of a child, and whether it had to be killed because it did not end."""
    deadline = time.monotonic() + limit
    pause = 0.0005
    while True:
        got, status = os.waitpid(pid, os.WNOHANG)
        if got:
            return status, False
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1], True
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


# Real system calls, of actions with one thread.

_SYSCALL, _SETOPTIONS = 24, 0x4200
_SYSGOOD, _EXITKILL = 1, 0x100000


def ptrace(request: int, pid: int, data: int = 0) -> None:
    """ptrace(2), of Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, pid, None, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def ptrace_works() -> bool:
    """Whether a process may trace its children here."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return not kill_at(1 << 30, lambda: None)
    except (AssertionError, OSError):
        return False


def tear(number: int, part: float) -> None:
    """From now on the N-th write of this process stops after a part of its bytes, and the process with it."""
    from transcode.io import system

    seen = 0

    def write(fd: int, data: memoryview, offset: int) -> int:
        nonlocal seen
        seen += 1
        if seen == number:
            os.pwrite(fd, data[: int(len(data) * part)], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return os.pwrite(fd, data, offset)

    system._pwrite = write


def fork(action: Callable[[], object]) -> int:
    """Run an action in a child; returns its id. It ends with 1, and says why, if the action raises."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    return pid


def survives(action: Callable[[], object]) -> bool:
    """Run an action in a child; False if it was killed.

    Raises:
        AssertionError: the action raised.
    """
    _, status = os.waitpid(fork(action), 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "the action failed"
    return True


def kill_at(number: int, action: Callable[..., object], prepare: Callable[[], object] | None = None) -> bool:
    """Run an action in a child, killed at the entry of its N-th system call. False if it ended before.

    What ``prepare`` does comes first, is not counted, and is given to the action.
    """

    def traced() -> None:
        prepared = () if prepare is None else (prepare(),)
        ptrace(0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        action(*prepared)

    pid = fork(traced)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status), "ptrace is not allowed here"
    ptrace(_SETOPTIONS, pid, _SYSGOOD | _EXITKILL)
    entries, entering = 0, True
    deliver = 0
    while True:
        ptrace(_SYSCALL, pid, deliver)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert os.WIFEXITED(status), status
            assert os.WEXITSTATUS(status) == 0, "the edit failed"
            return False
        stopped = os.WSTOPSIG(status)
        if stopped != signal.SIGTRAP | 0x80:
            deliver = stopped
            continue
        deliver = 0
        if entering:
            entries += 1
            if entries == number:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return True
        entering = not entering


_CLONES, _ALL = 0x8, 0x40000000


def kill_threads_at(number: int, action: Callable[[], object]) -> bool:
    """As :func:`kill_at`, of the system calls of all threads together, in the order in which they come.

    The process must have no other child.
    """

    def traced() -> None:
        ptrace(0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        action()

    pid = fork(traced)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSTOPPED(status), "ptrace is not allowed here"
    ptrace(_SETOPTIONS, pid, _SYSGOOD | _EXITKILL | _CLONES)
    inside: dict[int, bool] = {pid: False}
    entries, killed = 0, False
    ptrace(_SYSCALL, pid)
    while True:
        thread, status = os.waitpid(-1, _ALL)
        if not os.WIFSTOPPED(status):
            if thread != pid:
                continue
            assert killed or os.WIFEXITED(status), status
            return killed
        stopped = os.WSTOPSIG(status)
        deliver = 0
        if stopped == signal.SIGTRAP | 0x80:
            inside[thread] = not inside.get(thread, False)
            entries += inside[thread]
            if inside[thread] and entries == number:
                os.kill(pid, signal.SIGKILL)
                killed = True
        elif thread in inside and status >> 16 == 0:  # no clone, and not the first stop of a new thread
            deliver = stopped
        inside.setdefault(thread, False)
        with suppress(OSError):  # it is being killed
            ptrace(_SYSCALL, thread, deliver)


def spread(total: int, count: int, offset: int) -> Iterator[int]:
    """``count`` of the numbers 1 to ``total``, evenly; all of them for 0."""
    if count <= 0 or count >= total:
        yield from range(1, total + 1)
        return
    for step in range(count):
        yield 1 + (offset + step * total // count) % total
