"""Real file systems: images are mounted where the kernel has them, and runs and edits made on each."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import faults
from .engine import Attack, Tally, command
from .scenarios import SCENARIOS, Stage

__all__ = ["ATTACKS"]

_MAKE = {
    "tmpfs": (),
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
    "vfat": ("mkfs.vfat",),
}
_SIZE = 320 << 20  # the least that xfs takes


def _mount(name: str, root: Path) -> str:
    """Mount a new file system at ``root/mnt``; empty, or why that cannot be."""
    place = root / "mnt"
    place.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root on Linux"
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    if name not in known:
        return "this kernel does not have it"
    if name == "tmpfs":
        args = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    else:
        if shutil.which(_MAKE[name][0]) is None:
            return f"{_MAKE[name][0]} is not installed"
        image = root / "image"
        with open(image, "wb") as file:
            file.truncate(_SIZE)
        subprocess.run([*_MAKE[name], str(image)], check=True, capture_output=True)
        args = ["mount", "-o", "loop", "-t", name, str(image), str(place)]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    return done.stderr.strip()[:200]


def _way(stage: Stage) -> str:
    """Which way an edit takes there."""
    with contextlib.ExitStack() as held:
        if stage.scenario.held:
            held.enter_context(open(stage.dst, "rb"))
        said = command([*stage.args(), "--json"]).text
    return str(re.findall(r'"way": "(\w+)"', said)[0])


def _attack(name: str) -> Attack:
    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        if why := _mount(name, root):
            tally.notes.append(f"not run: {why}")
            return
        try:
            ways = []
            for scenario in SCENARIOS:
                place = root / "mnt" / scenario.name.replace(" ", "-").replace(":", "")
                place.mkdir()
                stage = Stage(place, scenario)
                if scenario.edit:
                    stage.reset()
                    ways.append(f"{scenario.name[6:]}: {_way(stage)}")
                outcome = stage.play()
                tally.add("trials")
                stage.judge(outcome, tally, f"{name}: {scenario.name}")
                faults.kill_calls(stage, dice, max(count // 4, 2), until, tally)
                faults.errors(stage, dice, max(count // 8, 1), until, tally)
                shutil.rmtree(place)
            tally.notes.append("ways of meta: " + ", ".join(ways))
        finally:
            for _ in range(20):
                if (
                    subprocess.run(["umount", str(root / "mnt")], capture_output=True, check=False).returncode
                    == 0
                ):
                    break
                time.sleep(0.1)

    return attack


ATTACKS = {name: _attack(name) for name in _MAKE}
