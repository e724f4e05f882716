"""How much of the machine a run may use, and sizes as people write them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ..errors import RecipeError

__all__ = ["MIN_TILE", "Performance", "parse_size"]

_MAX_TILE = 8 << 20
MIN_TILE = 64 << 10
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
          "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip


def parse_size(text: str | int) -> int:
    """Bytes of ``"5GB"``, ``"512MB"``, ``"64MiB"`` or a number; powers of ten unless spelled with an i.

    Raises:
        RecipeError: not a positive size.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        value = float(text)
    elif not isinstance(text, str):
        raise RecipeError(f"{text!r} is not a size", hint="write 5GB, 512MB, 64MiB or a number of bytes")
    else:
        digits = text.strip().rstrip("bBiIkKmMgGtT ")
        unit = text.strip()[len(digits) :].strip().lower()
        try:
            value = float(digits) * _UNITS[unit]
        except (ValueError, KeyError):
            raise RecipeError(f"{text!r} is not a size", hint="write 5GB, 512MB or 64MiB") from None
    if not 1 <= value < 2**63:
        raise RecipeError(f"{text!r} is not a positive size that a file can have")
    return int(value)


@dataclass(frozen=True)
class Performance:
    """How a plan is carried out: changes time and memory, never a byte of the output.

    Args:
        workers: threads; all processors that the process may use without it.
        memory: bytes that the tiles of all workers may take together.
        tile: bytes of source values in a tile; follows from memory without it.
        drop_cache: keep the kernel's page cache small too, behind reads and writes.
        device: ``"cpu"``; ``"cuda"`` (the first GPU), ``"cuda:1"``, several as ``"cuda:0,cuda:1"``; or
            ``"auto"``, a GPU where one pays.
        device_memory: bytes of each GPU's memory that its workers may take together.
        measure: decode what is encoded, and report what each tensor lost.
    """

    workers: int | None = None
    memory: int = 128 * 10**6
    tile: int | None = None
    drop_cache: bool = False
    device: str = "cpu"
    device_memory: int = 4 * 10**9
    measure: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not re.fullmatch(
            r"cpu|auto|cuda|cuda:\d+(,cuda:\d+)*", self.device
        ):
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
        if self.workers is not None and (type(self.workers) is not int or self.workers < 1):
            raise RecipeError(f"workers: {self.workers} is not a positive number")

    def config(self) -> dict[str, object]:
        """What differs from the defaults: the recipe's ``performance`` section."""
        plain = Performance()
        named = {"workers": "num_workers", "memory": "memory", "tile": "tile", "drop_cache": "drop_cache",
                 "device": "device", "device_memory": "device_memory", "measure": "measure"}  # fmt: skip
        return {
            key: getattr(self, attribute)
            for attribute, key in named.items()
            if getattr(self, attribute) != getattr(plain, attribute)
        }

    @property
    def threads(self) -> int:
        """How many workers run."""
        if self.workers is not None:
            return self.workers
        if hasattr(os, "sched_getaffinity"):
            return max(len(os.sched_getaffinity(0)), 1)
        return os.cpu_count() or 1

    @property
    def tile_bytes(self) -> int:
        """Source bytes that a worker deals with at a time.

        A tile needs its output, and float32 values on the way from one stage to the next: four times its
        size covers every transform there is.
        """
        if self.tile is not None:
            return self.tile
        return min(max(self.memory // (4 * self.threads), MIN_TILE), _MAX_TILE)
