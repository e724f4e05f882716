"""Runs with ``--resume`` that are killed again and again until one gets to its end: the same bytes."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .engine import Attack, Injection, Tally, command, dying
from .scenarios import facts, save

__all__ = ["ATTACKS"]

_WAYS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "int8, a file": ("out.safetensors", ("--scheme", "int8")),
    "nvfp4, a file": ("out.safetensors", ("--scheme", "nvfp4")),
    "int8, a folder": ("out", ("--scheme", "int8", "--max-tensors", "1")),
    "copy, into a folder": ("out", ("--max-tensors", "1", "--force")),
}
_DEATHS = 40
"""After so many, a run of that trial is let live."""


def _killed(dst: str, options: tuple[str, ...]) -> Attack:
    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        place, source = root / "place", root / "source"
        place.mkdir()
        save(source, 7, rows=256, columns=256)
        out = place / dst
        args = ["run", str(source), str(out), *options, "--tile", "16KiB", "-w", "1"]
        whole = command(args)
        assert whole.code == 0, whole.text
        right = facts(out)
        calls = _calls(args, place)
        for _ in range(count or calls):
            if time.monotonic() > until:
                break
            _clear(place)
            tally.add("trials")
            deaths = 0
            while True:
                number = dice.randint(1, calls) if deaths < _DEATHS else 1 << 30
                outcome = command([*args, "--resume"], install=_installing(place, number))
                if outcome.signal != signal.SIGKILL:
                    break
                deaths += 1
                tally.add("kills")
                if out.exists() and facts(out) != right:
                    tally.add("MIXED", f"{dst} {options}: after {deaths} kills")
            if (wrong := outcome.fault()) is not None:
                tally.add(wrong[0], f"{dst} {options}: {wrong[1]}")
            elif outcome.code == 2 and deaths and "exists already" in outcome.text:
                tally.add("whole when killed")  # after the rename, before the end
            elif outcome.code != 0:
                tally.add("WRONG", f"{dst} {options}: exit {outcome.code}: {outcome.text[-300:]}")
            if facts(out) != right:
                tally.add("WRONG", f"{dst} {options}: other bytes after {deaths} kills")
            elif deaths:
                tally.add("resumed")
            if command([*args, "--resume", *(() if "--force" in options else ("--force",))]).code != 0:
                tally.add("WRONG", f"{dst} {options}: the run after it failed")
            if list(place.rglob("*transcode-part*")):
                tally.add("LEFTOVER", f"{dst} {options}")

    return attack


def _installing(place: Path, number: int) -> Callable[[], None]:
    def install() -> None:
        from transcode.execution import working

        working._INTERVAL = 0.0  # what is done is noted all the time
        Injection(place, number, dying(signal.SIGKILL)).install()

    return install


def _calls(args: list[str], place: Path) -> int:
    """About how many calls a run makes: the first at which none is killed any more."""
    number = 64
    while True:
        _clear(place)
        if command(args, install=_installing(place, number)).signal != signal.SIGKILL:
            return number
        number *= 2


def _clear(place: Path) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


ATTACKS: Mapping[str, Attack] = {name: _killed(dst, options) for name, (dst, options) in _WAYS.items()}
