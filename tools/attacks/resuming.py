"""Runs with ``--resume`` that are killed, or find the disk full, until one ends: the same bytes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from .engine import (
    Attack,
    Injection,
    Outcome,
    Tally,
    command,
    dying,
    kill_threads_at,
    ptrace_works,
    spread,
)
from .scenarios import Facts, facts, save

__all__ = ["ATTACKS", "clear", "noting"]

_WAYS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "int8, a file": ("out.safetensors", ("--scheme", "int8")),
    "nvfp4, a file": ("out.safetensors", ("--scheme", "nvfp4")),
    "int8, a folder": ("out", ("--scheme", "int8", "--max-tensors", "1")),
    "copy, into a folder": ("out", ("--max-tensors", "1", "--force")),
}
_DEATHS = 40
"""After so many, a run of that trial is let live."""


class _Trial:
    """A command that is played in a folder of its own, and what it must give."""

    def __init__(self, root: Path, dst: str, options: tuple[str, ...], tally: Tally, rows: int = 256) -> None:
        self.place, self.source = root / "place", root / "source"
        self.place.mkdir(exist_ok=True)
        save(self.source, 7, rows=rows, columns=256)
        self.out = self.place / dst
        self.options = options
        self.tally = tally
        self.args = [
            "run", str(self.source), str(self.out), *options, "--tile", "16KiB", "-w", "1", "--resume"
        ]  # fmt: skip
        whole = command(self.args)
        assert whole.code == 0, whole.text
        self.right: Facts = facts(self.out)

    def killed(self, number: int) -> Outcome:
        """It, killed before a call."""
        return command(self.args, install=noting(self.place, number))

    def calls(self) -> int:
        """About how many calls it makes: the first at which none is killed any more."""
        number = 64
        while True:
            clear(self.place)
            if self.killed(number).signal != signal.SIGKILL:
                return number
            number *= 2

    def check_between(self, where: str) -> None:
        """What is there must be nothing, or all; without what leads to the rest while it is written anew."""
        now = facts(self.out) if self.out.exists() else {}
        lacks = self.right.keys() - now.keys()
        if now and (
            any(now[name] != self.right.get(name) for name in now)
            or not all(name.endswith(".json") for name in lacks)
        ):
            self.tally.add("MIXED", f"{self.out.name} {self.options}: {where}")

    def check_end(self, outcome: Outcome, where: str, *, stopped: bool) -> None:
        """Judge the run that got to its end, and what it left."""
        what = f"{self.out.name} {self.options}: {where}"
        if (wrong := outcome.fault()) is not None:
            self.tally.add(wrong[0], f"{what}: {wrong[1]}")
        elif outcome.code == 2 and stopped and "exists already" in outcome.text:
            self.tally.add("whole when stopped")  # after the rename, before the end
        elif outcome.code != 0:
            self.tally.add("WRONG", f"{what}: exit {outcome.code}: {outcome.text[-300:]}")
        if facts(self.out) != self.right:
            self.tally.add("WRONG", f"{what}: other bytes")
        elif stopped:
            self.tally.add("resumed")
        again = () if "--force" in self.options else ("--force",)
        if command([*self.args, *again]).code != 0:
            self.tally.add("WRONG", f"{what}: the run after it failed")
        if list(self.place.rglob("*transcode-part*")):
            self.tally.add("LEFTOVER", what)


def _again_and_again(dst: str, options: tuple[str, ...]) -> Attack:
    """Killed at random calls, until one gets to its end."""

    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        trial = _Trial(root, dst, options, tally)
        calls = trial.calls()
        for _ in range(count or calls):
            if time.monotonic() > until:
                break
            clear(trial.place)
            tally.add("trials")
            deaths = 0
            while True:
                outcome = trial.killed(dice.randint(1, calls) if deaths < _DEATHS else 1 << 30)
                if outcome.signal != signal.SIGKILL:
                    break
                deaths += 1
                tally.add("kills")
                trial.check_between(f"after {deaths} kills")
            trial.check_end(outcome, f"after {deaths} kills", stopped=bool(deaths))

    return attack


def _at_system_calls(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """Killed at the entry of every system call of any of its threads, and resumed: once from each state of
    the files in which that leaves them, as all that a run finds are files.
    """
    if not ptrace_works():
        tally.notes.append("ptrace is not allowed here: not run")
        return
    trial = _Trial(root, *_WAYS["int8, a file"], tally, rows=32)

    def killed(number: int) -> bool:
        clear(trial.place)

        def run() -> None:
            noting(trial.place, 1 << 30)()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            from transcode.cli import main

            main(trial.args)

        return kill_threads_at(number, run)

    calls = 256
    while killed(calls):
        calls *= 2
    low = calls // 2
    while low + 16 < calls:  # about where they end; it differs a little from run to run
        middle = (low + calls) // 2
        low, calls = (middle, calls) if killed(middle) else (low, middle)
    judged: set[str] = set()
    for number in spread(calls, count, dice.randrange(calls)):
        if time.monotonic() > until:
            tally.notes.append(f"of {calls} calls, then the time was over")
            break
        tally.add("trials")
        stopped = killed(number)
        tally.add("kills", "") if stopped else tally.add("ended before")
        left = _state(trial.place)
        if left in judged:  # most calls change no file
            tally.add("left what another did")
            continue
        judged.add(left)
        trial.check_between(f"killed at system call {number}")
        trial.check_end(command(trial.args), f"killed at system call {number}", stopped=True)


def _full(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """The disk is full from some write on, and has room again: of a real one where that can be mounted."""
    with _small_disk(root / "place") as real:
        tally.notes.append("a tmpfs" if real else "injected: needs root on Linux for a real one")
        trial = _Trial(root, *_WAYS["int8, a file"], tally)
        for _ in range(count or 200):
            if time.monotonic() > until:
                break
            clear(trial.place)
            tally.add("trials")
            number = dice.randint(1, 90)
            outcome = command(trial.args, install=_filling(trial.place, number, real))
            (trial.place / "filler").unlink(missing_ok=True)
            where = f"full at write {number}"
            if outcome.code == 2 and "No space left" in outcome.text:
                tally.add("refused")
                trial.check_between(where)
                outcome = command(trial.args)
                trial.check_end(outcome, where, stopped=True)
            else:
                trial.check_end(outcome, where, stopped=False)


def _filling(place: Path, number: int, real: bool) -> Callable[[], None]:
    """From the N-th write on the disk is full; nothing is reserved before, as some file systems cannot."""

    def install() -> None:
        from transcode.execution import working
        from transcode.io import system

        working._INTERVAL = 0.0
        system._fallocate = None
        write, seen = system._pwrite, 0

        def full(fd: int, data: memoryview, offset: int) -> int:
            nonlocal seen
            seen += 1
            if seen == number and real:
                with open(place / "filler", "wb", buffering=0) as filler:
                    try:
                        while True:
                            filler.write(bytes(4096))
                    except OSError:
                        pass
            if seen >= number and not real:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, data, offset)

        system._pwrite = full

    return install


@contextmanager
def _small_disk(place: Path) -> Iterator[bool]:
    """A tmpfs of 4 MiB at a folder; False where none can be mounted."""
    place.mkdir()
    mounted = False
    if sys.platform.startswith("linux") and os.geteuid() == 0:
        args = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
        mounted = subprocess.run(args, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], capture_output=True, check=False)


def noting(place: Path, number: int) -> Callable[[], None]:
    """What a child does first: die before its N-th call, and note what is done all the time."""

    def install() -> None:
        from transcode.execution import working

        working._INTERVAL = 0.0
        Injection(place, number, dying(signal.SIGKILL)).install()

    return install


def _state(place: Path) -> str:
    """A digest of all that lies in a folder: names, modes, bytes; not the times."""
    digest = sha256()
    for path in sorted(place.rglob("*")):
        content = b"" if path.is_dir() else path.read_bytes()
        digest.update(f"{path.relative_to(place)}\0{path.lstat().st_mode}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def clear(place: Path) -> None:
    """Empty a folder."""
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


ATTACKS: Mapping[str, Attack] = {
    **{name: _again_and_again(dst, options) for name, (dst, options) in _WAYS.items()},
    "at system calls": _at_system_calls,
    "the disk was full": _full,
}
