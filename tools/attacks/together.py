"""Commands at the same time: each either does its work or says that another one is at it."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from .engine import LIMIT, Attack, Outcome, Tally, start, wait
from .scenarios import LONG, facts, save

__all__ = ["ATTACKS"]


def _race(commands: list[list[str]], dice: random.Random) -> list[Outcome]:
    """Run commands at nearly the same time."""
    running = []
    for args in commands:
        said = tempfile.TemporaryFile()  # noqa: SIM115
        running.append((start(args, said.fileno()), said))
        time.sleep(dice.choice((0, 0, 0.005, 0.03)))
    ended = []
    for pid, said in running:
        status, hung = wait(pid, LIMIT)
        said.seek(0)
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = None if killed else os.WEXITSTATUS(status)
        ended.append(Outcome(code, killed, said.read().decode(errors="replace"), hung))
        said.close()
    return ended


def _faults(ended: list[Outcome], tally: Tally, where: str) -> None:
    tally.add("trials")
    for outcome in ended:
        if (wrong := outcome.fault()) is not None:
            tally.add(wrong[0], f"{where}: {wrong[1]}")
        tally.add("done" if outcome.code == 0 else "refused")


def _runs(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """Two runs into one folder in use, and somebody who looks at it."""
    dst = root / "out"
    commands = []
    for number in range(2):
        save(root / f"source-{number}", 50 * number)
        commands.append(
            ["run", str(root / f"source-{number}"), str(dst), "--max-tensors", "1", "--force", "-w", "1"]
        )
    right = []
    for args in commands:
        (alone,) = _race([args], dice)
        assert alone.code == 0, alone
        right.append(facts(dst))
    for trial in range(count or 50):
        if time.monotonic() > until:
            break
        ended = _race([*commands, ["inspect", str(dst), "--json"]], dice)
        _faults(ended, tally, f"trial {trial}")
        now = facts(dst)
        if now not in right:
            tally.add("MIXED", f"trial {trial}: {[outcome.text for outcome in ended]}")
        if left := [path.name for path in dst.glob(".*")]:
            tally.add("LEFTOVER", f"trial {trial}: {left}")


def _meta(kinds: tuple[str, ...], values: tuple[str, ...]) -> Attack:
    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        save(root / "source", 3, columns=4096)
        path, dst = root / "m.safetensors", root / "out.safetensors"
        for trial in range(count or 50):
            if time.monotonic() > until:
                break
            shutil.copy(root / "source" / "model.safetensors", path)
            dst.unlink(missing_ok=True)
            before = facts(path)[""]["tensors"]
            commands: list[list[str]] = []
            for number, (kind, value) in enumerate(zip(kinds, values, strict=True)):
                if kind == "meta":
                    commands.append(["meta", "set", str(path), f"k{number}={value}"])
                else:
                    commands.append(["run", str(path), str(dst), "-w", "1"])
            dice.shuffle(commands)
            ended = _race(commands, dice)
            where = f"trial {trial}: {[outcome.text[-300:] for outcome in ended]}"
            _faults(ended, tally, where)
            now: dict[str, Any] = facts(path)[""]
            if now["tensors"] != before:
                tally.add("WRONG", f"{where}: tensors changed")
            for args, outcome in zip(commands, ended, strict=True):
                if args[0] == "meta":
                    key, value = args[3].split("=")
                    if (now["metadata"].get(key) == value) != (outcome.code == 0):
                        tally.add("WRONG", f"{where}: {key} of an edit that ended with {outcome.code}")
                elif (outcome.code == 0) != dst.exists():
                    tally.add("WRONG", f"{where}: exit code {outcome.code}, output: {dst.exists()}")
                elif dst.exists() and facts(dst)[""]["tensors"] != before:
                    tally.add("WRONG", f"{where}: the run read tensors that were being moved")
            if left := [name.name for name in root.glob(".*")]:
                tally.add("LEFTOVER", f"{where}: {left}")

    return attack


ATTACKS = {
    "two runs": _runs,
    "meta and meta, overwriting": _meta(("meta",) * 3, ("a", "b", "c")),
    "meta and meta, growing": _meta(("meta",) * 3, (LONG, "b", LONG)),
    "run and meta, overwriting": _meta(("run", "meta"), ("", "a")),
    "run and meta, growing": _meta(("run", "meta", "meta"), ("", LONG, "b")),
}
