"""Parts of one run, killed and run again; and a source that is deleted while it is read: nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from .engine import Attack, Tally, command, start, wait
from .resuming import clear, noting
from .scenarios import facts, save

__all__ = ["ATTACKS"]

_PARTS = 64
_AT_ONCE = 4
_RANGES = (50, 200, 600, 1500)
"""Calls up to which one is killed: some die early, some late, some not."""


def _many(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """64 parts, four at a time, in any order; a third of them is killed at some moment, and run again."""
    place, source = root / "place", root / "source"
    place.mkdir()
    save(source, 7, rows=256, columns=256)
    for scheme in ("int8", "fp8:granularity=tensor", "nvfp4"):
        words = ["run", str(source), str(place / "out"), "--scheme", scheme, "--max-tensors", "2", "-w", "1"]
        clear(place)
        assert command(words).code == 0
        right = facts(place / "out")
        for _ in range(max(count // 10, 1)):
            if time.monotonic() > until:
                return
            clear(place)
            tally.add("trials")
            queue = list(range(1, _PARTS + 1))
            dice.shuffle(queue)
            doomed = set(dice.sample(queue, _PARTS // 3))
            while queue:
                batch = [queue.pop() for _ in range(min(_AT_ONCE, len(queue)))]
                with tempfile.TemporaryFile() as said:
                    running = {}
                    for number in batch:
                        part = [*words, "--part", f"{number}/{_PARTS}", "--tile", "16KiB"]
                        kill = noting(place, dice.randint(1, 300)) if number in doomed else None
                        running[number] = start(part, said.fileno(), kill)
                    for number, pid in running.items():
                        status, hung = wait(pid, 60)
                        if hung:
                            tally.add("HANG", f"part {number}")
                        elif os.WIFSIGNALED(status):
                            tally.add("kills")
                            doomed.discard(number)
                            queue.insert(0, number)
                        elif os.WEXITSTATUS(status):
                            said.seek(0)
                            tally.add("WRONG", f"part {number}: {said.read()[-400:].decode()}")
            if not (place / "out").exists():  # whoever was to join died when its part was done
                outcome = command(["join", str(place / "out")])
                tally.add("joined by hand")
                if outcome.code:
                    tally.add("WRONG", f"join: {outcome.text[-300:]}")
            if facts(place / "out") != right:
                tally.add("WRONG", f"{scheme}: other bytes")
            if list(place.rglob("*transcode-part*")):
                tally.add("LEFTOVER", scheme)


def _again_and_again(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """Three parts, each killed at calls until it gets to its end, the joining one too."""
    place, source = root / "place", root / "source"
    place.mkdir()
    save(source, 7, rows=256, columns=256)
    words = ["run", str(source), str(place / "out"), "--scheme", "int8", "--max-tensors", "2", "-w", "1"]
    assert command(words).code == 0
    right = facts(place / "out")
    for _ in range(count or 100):
        if time.monotonic() > until:
            return
        clear(place)
        tally.add("trials")
        pending, deaths = [1, 2, 3], 0
        while pending:
            number = dice.choice(pending)
            at = dice.randint(1, dice.choice(_RANGES)) if deaths < 40 else 1 << 30
            outcome = command([*words, "--part", f"{number}/3"], install=noting(place, at))
            if outcome.signal == signal.SIGKILL:
                deaths += 1
                tally.add("kills")
                if (place / "out").exists() and facts(place / "out") != right:
                    tally.add("MIXED", f"after {deaths} kills")
            elif outcome.code == 0 or (outcome.code == 2 and "exists already" in outcome.text):
                pending.remove(number)
            else:
                tally.add("WRONG", f"part {number}: {outcome.text[-300:]}")
                break
        if not (place / "out").exists():
            tally.add("joined by hand")
            command(["join", str(place / "out")])
        if not (place / "out").exists() or facts(place / "out") != right:
            tally.add("WRONG", f"other bytes after {deaths} kills")


def _shards(source: Path) -> None:
    """The checkpoint of one file as one of four."""
    whole = facts(source / "model.safetensors")[""]
    (source / "model.safetensors").unlink()
    where = {}
    for number, (name, (dtype, shape, data)) in enumerate(whole["tensors"].items(), 1):
        text = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
        where[name] = f"model-{number:05}-of-{len(whole['tensors']):05}.safetensors"
        (source / where[name]).write_bytes(len(text).to_bytes(8, "little") + text + data)
    index = {"metadata": {}, "weight_map": where}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))


def _consumed(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    """Killed at calls again and again while it deletes its source; gone on with by what the error says."""
    place, kept = root / "place", root / "kept"
    place.mkdir()
    save(kept, 7, rows=256, columns=256)
    _shards(kept)
    source, out = place / "source", place / "out"
    words = ["run", str(source), str(out), "--scheme", "int8", "--tile", "16KiB", "-w", "1"]
    shutil.copytree(kept, source)
    assert command(words).code == 0
    right = facts(out)
    go_on = ["run", "--plan", str(place / ".out.transcode-part" / "consuming")]
    for _ in range(count or 100):
        if time.monotonic() > until:
            return
        clear(place)
        shutil.copytree(kept, source)
        tally.add("trials")
        deaths, told_so = 0, False
        while True:
            shards = sorted(source.glob("*.safetensors"))
            begun = len(shards) < len(list(kept.glob("*.safetensors")))
            if begun and not out.exists() and not (place / ".out.transcode-part").exists():
                tally.add("WRONG", f"shards are gone, and nothing holds them, after {deaths} kills")
                break
            at = dice.randint(1, dice.choice(_RANGES)) if deaths < 40 else 1 << 30
            told = [*(go_on if begun or told_so else words), "--consume-source"]
            outcome = command(told, install=noting(place, at))
            if not told_so and "go on with it: " in outcome.text:
                told_so = True  # killed when a shard was noted, and before it went
                continue
            if outcome.signal != signal.SIGKILL:
                break
            deaths += 1
            tally.add("kills")
        if outcome.code and not (out.exists() and deaths):
            tally.add("WRONG", f"after {deaths} kills: {outcome.text[-300:]}")
        if not out.exists() or facts(out) != right:
            tally.add("WRONG", f"other bytes after {deaths} kills")
        else:
            tally.add("whole")
        if list(source.glob("*.safetensors")):
            tally.add("WRONG", f"shards are left after {deaths} kills")


ATTACKS: Mapping[str, Attack] = {
    "64, a third killed": _many,
    "three, killed at calls": _again_and_again,
    "of a source that is consumed": _consumed,
}
