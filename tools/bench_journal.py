"""What the journal of a run costs: the same conversions with it as it is, and with nothing noted.

    python tools/bench_journal.py [--json] [--rounds N] [--size BYTES] [--folder FOLDER]

One of each after the other, round by round, in one process: a drift of the machine meets all. The least
of all rounds counts, in seconds of the processor and on the clock. ``share`` is what the journal adds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

import transcode as tc
from transcode.core.size import parse_size
from transcode.execution import working

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


def once(path: Path, out: Path, interval: float) -> tuple[float, float]:
    """Seconds of the processor and on the clock of one conversion to int8."""
    working._INTERVAL = interval
    cpu, clock = time.process_time(), time.perf_counter()
    tc.open(path) | tc.quantize("int8") | tc.write(out, force=True)
    return time.process_time() - cpu, time.perf_counter() - clock


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=parse_size, default=parse_size("1GB"))
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    every = working._INTERVAL
    folder = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        path = source(folder, chosen.size)
        cases = {"journal": every, "often": 0.1, "none": 1e9}
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        once(path, folder / "o.safetensors", every)  # kernels and the page cache
        for _ in range(chosen.rounds):
            for name, interval in cases.items():
                took[name].append(once(path, folder / "o.safetensors", interval))
    finally:
        shutil.rmtree(folder)
    least = {name: [min(one[i] for one in rounds) for i in (0, 1)] for name, rounds in took.items()}
    table = {
        name: {
            "cpu": round(cpu, 3),
            "clock": round(clock, 3),
            "share_cpu": round(cpu / least["none"][0] - 1, 4),
            "share_clock": round(clock / least["none"][1] - 1, 4),
        }
        for name, (cpu, clock) in least.items()
    }
    if chosen.json:
        print(json.dumps(table, indent=1))
        return
    print(f"{'':10}{'cpu s':>10}{'clock s':>10}{'cpu':>9}{'clock':>9}")
    for name, row in table.items():
        shares = f"{100 * row['share_cpu']:+8.1f}%{100 * row['share_clock']:+8.1f}%"
        print(f"{name:10}{row['cpu']:10.3f}{row['clock']:10.3f}{shares}")


if __name__ == "__main__":
    main()
