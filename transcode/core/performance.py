"""How much of the machine a run may use."""

from __future__ import annotations

import os
import re
import sys

from ..errors import RecipeError
from . import kinds
from .option import OUTPUT, SAME, SPEED, Declared, option
from .records import dataclass
from .size import parse_size

__all__ = ["MIN_TILE", "Performance", "parse_size"]

_MAX_TILE = 8 << 20
MIN_TILE = 64 << 10
_MOST_WORKERS = 4096
"""More than machines have processors; and each takes memory and time to start, whatever there is to do."""


@dataclass(frozen=True)
class Performance(Declared):
    """How a plan is carried out: time, memory and what is told beside; never a byte of the weights."""

    workers: int | None = option(
        kinds.COUNT,
        "Threads; as many as are of use without it.",
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
        "Tiles of all workers together.",
        default=128 * 10**6,
        group=SPEED,
        run=SAME,
        carries=True,
    )
    tile: int | None = option(
        kinds.SIZE,
        "Source bytes of a worker at a time.",
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
        kinds.FLAG, "Report what quantizing loses (SQNR).", default=False, group=SPEED,
        run=SAME, about="Decodes what is encoded, which takes longer.",
    )  # fmt: skip
    resume: bool = option(
        kinds.FLAG, "Go on where an interrupted run stopped.", default=False, group=SPEED, run=SAME,
        about="And keep what is done if this one is interrupted.", carries=True,
    )  # fmt: skip
    checksums: bool = option(
        kinds.FLAG, "SHA-256 of files and tensors, beside too.", default=False, group=OUTPUT,
        run=SAME, carries=True,
        about="In ``NAME.sha256``, or ``SHA256SUMS`` in a folder, for ``sha256sum -c``.",
    )  # fmt: skip
    attest: bool = option(
        kinds.FLAG, "In-toto Statement beside the output.", default=False, group=OUTPUT,
        run=SAME, carries=True,
        about="In ``NAME.intoto.json``, or ``transcode.intoto.json`` in a folder; for model-signing to sign.",
    )  # fmt: skip
    max_read_rate: int | None = option(
        kinds.SIZE, "Bytes a second that are read at most.", default=None, group=SPEED, run=SAME,
        carries=True,
    )  # fmt: skip
    nice: int | None = option(
        kinds.COUNT, "Niceness of the workers, 1 to 19.", default=None, most=19, group=SPEED,
        run=SAME, carries=True,
    )  # fmt: skip
    reserve_disk: int | None = option(
        kinds.SIZE, "Bytes of the disk that stay free.", default=None, group=SPEED, run=SAME, carries=True,
        about="Refused if they would not; and stopped if others take them under way.",
    )  # fmt: skip
    part: str | None = option(
        kinds.TEXT, "One part of the work; the last one joins.", default=None, group=SPEED, run=SAME,
        metavar="K/N", carries=True,
        about="As 3/64, for machines that share a folder: each part may be run anywhere, at any time, again.",
    )  # fmt: skip

    cluster: str | None = option(
        kinds.TEXT, "On all machines of a Ray cluster.", default=None, group=SPEED, run=SAME,
        metavar="CLUSTER", carries=True,
        about="ray, or ray://HOST:PORT. They share the folders of source and output. Without a cluster one is"
        " made of this machine.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part is not None:
            known = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.part)
            if known is None or not 1 <= int(known[1]) <= int(known[2]):
                raise RecipeError(
                    f"part: {self.part!r} is no part", hint="write 1/64 for the first of 64, to 64/64"
                )
        if self.cluster is not None and re.fullmatch(r"ray(://\S+)?", self.cluster) is None:
            raise RecipeError(
                f"cluster: {self.cluster!r} is no cluster", hint="write ray, or ray://HOST:PORT"
            )
        if self.cluster is not None and self.part is not None:
            raise RecipeError("cluster: a part is done here", hint="leave part or cluster out")
        if not re.fullmatch(r"cpu|auto|cuda|cuda:\d+(,cuda:\d+)*", self.device):
            raise RecipeError(
                f"device: {self.device!r} is no device", hint="write cpu, auto, cuda, cuda:0 or cuda:0,cuda:1"
            )
        names = self.device.split(",")
        if len(set(names)) < len(names):
            raise RecipeError(f"device: {self.device!r} names a GPU twice")
        if self.device == "cpu" and self.device_memory != Performance.device_memory:
            raise RecipeError(
                "device_memory does nothing on the CPU", hint="name a device too, as cuda:0, or leave it out"
            )

        if self.nice is not None and sys.platform != "linux":
            raise RecipeError(
                "nice: threads have no niceness of their own here",
                hint="start the whole command with nice(1)",
            )

    @property
    def share(self) -> tuple[int, int] | None:
        """Which part, from 1 on, of how many; None where all is done here."""
        if self.part is None:
            return None
        number, _, count = self.part.partition("/")
        return int(number), int(count)

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
