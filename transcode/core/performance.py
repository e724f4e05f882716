"""How much of the machine a run may use."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ..errors import RecipeError
from ..voice import called
from . import kinds
from .option import SAME, SPEED, Declared, option
from .size import parse_size

__all__ = ["MIN_TILE", "Performance", "parse_size"]

_MAX_TILE = 8 << 20
MIN_TILE = 64 << 10
_MOST_WORKERS = 4096
"""More than machines have processors; and each takes memory and time to start, whatever there is to do."""


@dataclass(frozen=True)
class Performance(Declared):
    """How a plan is carried out: changes time and memory, never a byte of the output."""

    workers: int | None = option(
        kinds.COUNT,
        "Threads; as many as can be of use without it.",
        default=None,
        most=_MOST_WORKERS,
        key="num_workers",
        group=SPEED,
        flag="-w --workers",
        run=SAME,
        carries=True,
    )
    memory: int = option(
        kinds.SIZE,
        "For the tiles of all workers together.",
        default=128 * 10**6,
        group=SPEED,
        run=SAME,
        carries=True,
    )
    tile: int | None = option(
        kinds.SIZE,
        "Source bytes that a worker handles at a time.",
        default=None,
        group=SPEED,
        run=SAME,
        about="Follows from memory without it.",
        carries=True,
    )
    drop_cache: bool = option(
        kinds.FLAG,
        "Keep the kernel's page cache small too.",
        default=False,
        group=SPEED,
        run=SAME,
        about="Behind reads and behind writes.",
        carries=True,
    )
    device: str = option(
        kinds.TEXT,
        "cpu, cuda, cuda:0,cuda:1, or auto: a GPU where one pays.",
        default="cpu",
        group=SPEED,
        run=SAME,
        metavar="DEVICE",
        names="devices",
        carries=True,
        about="The bytes are the same. ``cuda`` is the first GPU.",
    )
    device_memory: int = option(
        kinds.SIZE,
        "Of each GPU, for the tiles on it.",
        default=4 * 10**9,
        group=SPEED,
        run=SAME,
        carries=True,
    )
    measure: bool = option(
        kinds.FLAG, "Report what quantizing loses of each tensor (SQNR).", default=False, group=SPEED,
        run=SAME, about="Decodes what is encoded, which takes longer.",
    )  # fmt: skip
    resume: bool = option(
        kinds.FLAG, "Go on where an interrupted run stopped.", default=False, group=SPEED, run=SAME,
        about="And keep what is done if this one is interrupted.", carries=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"cpu|auto|cuda|cuda:\d+(,cuda:\d+)*", self.device):
            raise RecipeError(
                f"device: {self.device!r} is no device", hint="write cpu, auto, cuda, cuda:0 or cuda:0,cuda:1"
            )
        names = self.device.split(",")
        if len(set(names)) < len(names):
            raise RecipeError(f"device: {self.device!r} names a GPU twice")
        if self.measure and self.resume:
            raise RecipeError(
                "measure and resume: of what an earlier run encoded no loss is known",
                hint=f"leave {called('resume')} or {called('measure')} out",
            )
        if self.device == "cpu" and self.device_memory != Performance.device_memory:
            raise RecipeError(
                "device_memory does nothing on the CPU", hint="name a device too, as cuda:0, or leave it out"
            )

    @property
    def threads(self) -> int:
        """How many workers may run."""
        if self.workers is not None:
            return self.workers
        if hasattr(os, "sched_getaffinity"):
            return max(len(os.sched_getaffinity(0)), 1)
        return os.cpu_count() or 1

    def tile_bytes(self, room: float = 4) -> int:
        """Source bytes that a worker deals with at a time.

        Args:
            room: what a tile takes over its size, see :meth:`.core.expr.Expr.room`.
        """
        if self.tile is not None:
            return self.tile
        return min(max(int(self.memory / (room * self.threads)), MIN_TILE), _MAX_TILE)
