"""Kills, signals and errors at calls and at random moments, and writes that stop in their middle."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .engine import Injection, Outcome, Tally, dying, failing, ptrace_works, spread, tear
from .scenarios import Stage

__all__ = ["ERRORS", "SIGNALS", "errors", "kill_calls", "kill_random", "real_calls", "signals", "torn"]

ERRORS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EDQUOT)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RERUN = 7


def _installing(stage: Stage, number: int, act: Callable[[str], Any]) -> Callable[[], None]:
    return Injection(stage.place, number, act).install


def kill_calls(stage: Stage, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """SIGKILL before every call that concerns the output."""
    for trial, number in enumerate(spread(stage.calls, count, dice.randrange(stage.calls))):
        if time.monotonic() > until:
            break
        outcome = stage.play(_installing(stage, number, dying(signal.SIGKILL)))
        where = f"{stage.scenario.name}: killed at call {number}"
        tally.add("trials")
        stage.judge(outcome, tally, where)
        if trial % _RERUN == 0 and not stage.scenario.edit:
            stage.rerun(tally, where)


def kill_random(stage: Stage, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """SIGKILL at any moment of a command."""
    began = time.monotonic()
    stage.play()
    whole = time.monotonic() - began
    for trial in range(count):
        if time.monotonic() > until:
            break
        moment = dice.uniform(0, whole * 1.05)
        outcome = stage.play(after=(moment, signal.SIGKILL))
        where = f"{stage.scenario.name}: killed after {moment:.4f} of {whole:.4f} s"
        tally.add("trials")
        stage.judge(outcome, tally, where)
        if trial % _RERUN == 0 and not stage.scenario.edit:
            stage.rerun(tally, where)


def signals(stage: Stage, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """SIGINT, SIGTERM and SIGHUP at every call and at any moment."""
    began = time.monotonic()
    stage.play()
    whole = time.monotonic() - began
    for trial, number in enumerate(spread(stage.calls, count, dice.randrange(stage.calls))):
        if time.monotonic() > until:
            break
        which = SIGNALS[trial % len(SIGNALS)]
        if trial % 4 == 3:
            moment = dice.uniform(0.01, whole)
            outcome = stage.play(after=(moment, which))
            where = f"{stage.scenario.name}: signal {which} after {moment:.4f} s"
        else:
            outcome = stage.play(_installing(stage, number, dying(which)))
            where = f"{stage.scenario.name}: signal {which} at call {number}"
        tally.add("trials")
        if outcome.signal in (which,) and trial % 4 == 3:
            tally.add("before it listened")  # as any program that has just begun
        else:
            if outcome.code == 130 and "nothing was written" in outcome.text:
                tally.add("interrupted")
            stage.judge(outcome, tally, f"{where}: {outcome.code} {outcome.text[-200:]}")
            continue
        stage.judge(_as_killed(outcome), tally, where)


def _as_killed(outcome: Outcome) -> Outcome:
    """An outcome that is judged by what it left alone."""
    return replace(outcome, signal=int(signal.SIGKILL), text="")


def errors(stage: Stage, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """An error of the system in the place of every call."""
    points = [(number, code) for number in range(1, stage.calls + 1) for code in ERRORS]
    dice.shuffle(points)
    for trial, (number, code) in enumerate(points[: count or None]):
        if time.monotonic() > until:
            break
        outcome = stage.play(_installing(stage, number, failing(code)))
        where = f"{stage.scenario.name}: {errno.errorcode[code]} at call {number}"
        tally.add("trials")
        tally.add(
            "refused" if outcome.code == 2 else "went on" if outcome.code == 0 else f"exit {outcome.code}"
        )
        stage.judge(outcome, tally, f"{where}: {outcome.code} {outcome.text[-300:]}")
        if trial % _RERUN == 0 and not stage.scenario.edit:
            stage.rerun(tally, where)


def torn(stage: Stage, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """A write that stops after a part of its bytes, and the process with it."""
    for trial in range(count):
        if time.monotonic() > until:
            break
        number, part = 1 + trial % 12, dice.random()

        outcome = stage.play(partial(tear, number, part))
        if outcome.code == 0:  # there were fewer writes
            continue
        tally.add("trials")
        stage.judge(
            outcome, tally, f"{stage.scenario.name}: write {number} stopped after {part:.0%}: trial {trial}"
        )


def real_calls(root: Path, what: str, mode: str, tally: Tally) -> None:
    """SIGKILL at the entry of every system call of an edit (a way of it), or of ``commit``, under ptrace."""
    if not ptrace_works():
        tally.notes.append("ptrace is not allowed here: not run")
        return
    import json

    repo = Path(__file__).parents[2]
    program = "io/committing.py" if what == "commit" else "containers/safetensors/killing.py"
    args = [mode] if what == "commit" else [what, mode]
    done = subprocess.run(
        [sys.executable, str(repo / "tests" / program), str(root), *args],
        env={**os.environ, "PYTHONPATH": f"{repo}:{repo / 'tools'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        if what == "insert" and "AssertionError: copy" in done.stderr:
            tally.notes.append("this file system cannot insert: not run")
            return
        tally.add("WRONG", f"{what} {mode}: {done.stderr[-800:]}")
        return
    found = json.loads(done.stdout)
    for key in ("old", "new"):
        tally.seen[key] += found.get(key, 0)
    tally.seen["trials"] += found.get("old", 0) + found.get("new", 0)
