"""Sources that change while they are read: no output, an error that names the source, no death by SIGBUS."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from pathlib import Path

from .engine import Attack, Tally, command
from .scenarios import save

__all__ = ["ATTACKS"]

_SHAPE = {"rows": 256, "columns": 4096}  # each of 4 F32 tensors: 16 MiB


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()  # the same command writes the same bytes


def _attack(change: str, *options: str) -> Attack:
    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        save(root / "source", 3, **_SHAPE)
        whole = root / "source" / "model.safetensors"
        kept, other, dst = root / "kept", root / "other", root / "out.safetensors"
        shutil.copy2(whole, kept)
        save(root / "others", 7, **_SHAPE)
        shutil.move(root / "others" / "model.safetensors", other)
        size = whole.stat().st_size
        args = ["run", str(whole), str(dst), "--force", "-w", "2", "--memory", "4MB", *options]
        assert (first := command(args)).code == 0, first
        began = time.monotonic()
        assert command(args).code == 0
        took = time.monotonic() - began
        right = _digest(dst)
        for trial in range(count or 50):
            if time.monotonic() > until:
                break
            dst.unlink(missing_ok=True)
            shutil.copy2(kept, whole)
            moment, at = dice.uniform(took * 0.1, took), dice.randrange(size)

            def meanwhile(pid: int, moment: float = moment, at: int = at) -> None:
                time.sleep(moment)
                if change == "cut":
                    os.truncate(whole, at)
                elif change == "cut and grown":
                    os.truncate(whole, at)
                    os.truncate(whole, size)
                elif change == "overwritten":
                    with open(whole, "r+b") as file:
                        file.seek(at)
                        file.write(bytes([dice.randrange(1, 60)]) * 4096)  # finite, whatever it is
                elif change == "replaced":
                    shutil.copy2(other, root / "replacing")
                    os.replace(root / "replacing", whole)
                else:
                    whole.unlink()

            outcome = command(args, meanwhile=meanwhile)
            where = (
                f"{change}{' '.join(options)}: trial {trial} after {moment:.4f} of {took:.4f} s at byte {at}"
            )
            tally.add("trials")
            if (wrong := outcome.fault()) is not None:
                tally.add(wrong[0], f"{where}: {wrong[1]}")
            elif outcome.code == 0:
                # Right is also the output of a source that had changed before it was opened.
                if (now := _digest(dst)) != right and (command(args).code or _digest(dst) != now):
                    tally.add("WRONG", f"{where}: exit code 0, and the output is not that of the source")
                tally.add("done before it")
            elif dst.exists():
                tally.add("WRONG", f"{where}: exit code {outcome.code}, and there is an output")
            elif whole.name not in outcome.text:
                tally.add("UNNAMED", f"{where}: {outcome.text}")
            else:
                tally.add("refused, source named")
            if left := [path.name for path in root.glob(".*")]:
                tally.add("LEFTOVER", f"{where}: {left}")

    return attack


_WAYS = {
    "a copy": (),
    "int8": ("--scheme", "int8"),
    "int8, read": ("--scheme", "int8", "--no-mmap"),
    "cast": ("--cast", "bf16"),
}
_CHANGES = ("cut", "cut and grown", "overwritten", "replaced", "removed")
ATTACKS = {
    f"{change}, {way}": _attack(change, *options) for change in _CHANGES for way, options in _WAYS.items()
}
