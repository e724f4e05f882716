"""What the journal of a run costs, counted inside it: the time of the processor in all that it does.

    python tools/bench_journal.py [--json] [--rounds N] [--size BYTES] [--folder FOLDER]

A conversion as it is (``journal``: noted every ten seconds), noted ten times a second (``often``) and only
at its end (``none``), one of each after the other. ``share`` is the time of noting of all time of the
processor, which does not depend on what else the machine does; medians of all rounds. Syncs before a line
send to the disk what the end of a run would, only sooner: they are counted apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import transcode as tc
from transcode.core.size import parse_size
from transcode.execution import journal, working
from transcode.execution.keeping import Keeping

Patch = Callable[[object, str, object], None]
"""Sets an attribute of an object to a value, for as long as a conversion takes."""

ROWS = 4096


def source(folder: Path, size: int) -> Path:
    """A checkpoint of that many bytes, of matrices in F16."""
    from safetensors.numpy import save_file

    draw = np.random.default_rng(0)
    matrix = draw.standard_normal((ROWS, ROWS), np.float32).astype(np.float16)
    count = max(size // matrix.nbytes, 1)
    path = folder / "source.safetensors"
    save_file({f"blocks.{i}.ffn.0.weight": matrix for i in range(count)}, path)
    return path


def _clock() -> float:
    """Seconds that two looks at the clock of a thread are apart where nothing is between them."""
    return median(-time.thread_time() + time.thread_time() for _ in range(999))


_CLOCK = _clock()


class Counted:
    """Seconds of the processor inside functions that call none of each other, by what they are for.

    Attributes:
        cpu: seconds, of the thread that calls.
        calls: how many.
        nbytes: of the journal's lines.
    """

    def __init__(self) -> None:
        self.cpu = {"noting": 0.0, "syncing": 0.0}
        self.calls = {"noting": 0, "syncing": 0}
        self.nbytes = 0
        self._lock = threading.Lock()

    def around(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is counted."""

        def call(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return real(*args, **options)
            finally:
                took = time.thread_time() - began
                with self._lock:
                    self.cpu[kind] += took - _CLOCK
                    self.calls[kind] += 1

        return call

    def install(self, patch: Patch) -> None:
        """Count all that is done for a journal: what tiles tell, what is written, what is synced before."""
        for name in ("note", "take"):
            patch(journal.Ledger, name, self.around("noting", getattr(journal.Ledger, name)))
        patch(journal, "begin", self.around("noting", journal.begin))
        patch(Keeping, "_sync", self.around("syncing", Keeping._sync))
        extend, line = self.around("noting", journal.extend), journal._line

        def counted(table: object) -> bytes:
            body = line(table)
            self.nbytes += len(body)
            return body

        patch(journal, "extend", extend)
        patch(journal, "_line", counted)


def once(path: Path, out: Path, interval: float) -> dict[str, float]:
    """What one conversion to int8 took, and how much of that was for its journal."""
    undo: list[tuple[object, str, object]] = []

    def patch(owner: object, name: str, value: object) -> None:
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    counted = Counted()
    try:
        patch(working, "_INTERVAL", interval)
        counted.install(patch)
        cpu, clock = time.process_time(), time.perf_counter()
        tc.open(path) | tc.quantize("int8") | tc.write(out, force=True)
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    finally:
        for one in reversed(undo):
            setattr(*one)
    return {
        "cpu": cpu,
        "clock": clock,
        "noting": counted.cpu["noting"],
        "syncing": counted.cpu["syncing"],
        "syncs": counted.calls["syncing"],
        "bytes": counted.nbytes,
        "share": counted.cpu["noting"] / cpu,
        "share_synced": sum(counted.cpu.values()) / cpu,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=parse_size, default=parse_size("1GB"))
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=chosen.folder))
    cases = {"journal": working._INTERVAL, "often": 0.1, "none": 1e9}
    took: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    try:
        path = source(folder, chosen.size)
        once(path, folder / "o.safetensors", 1e9)  # kernels and the page cache
        for _ in range(chosen.rounds):
            for name, interval in cases.items():
                took[name].append(once(path, folder / "o.safetensors", interval))
    finally:
        shutil.rmtree(folder)
    table = {
        name: {key: round(median(one[key] for one in rounds), 6) for key in rounds[0]}
        for name, rounds in took.items()
    }
    if chosen.json:
        print(json.dumps(table, indent=1))
        return
    print(
        f"{'':8}{'cpu s':>8}{'clock s':>9}{'noting ms':>11}{'syncs':>7}{'syncing ms':>12}{'bytes':>8}"
        f"{'share':>9}{'with syncs':>12}"
    )
    for name, row in table.items():
        print(
            f"{name:8}{row['cpu']:8.3f}{row['clock']:9.3f}{1000 * row['noting']:11.3f}{row['syncs']:7.0f}"
            f"{1000 * row['syncing']:12.3f}{row['bytes']:8.0f}{100 * row['share']:8.3f}%"
            f"{100 * row['share_synced']:11.3f}%"
        )


if __name__ == "__main__":
    main()
