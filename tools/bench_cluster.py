"""How long a conversion takes on a Ray cluster of this machine, of 1, 2, 4 processes of one thread each.

    python tools/bench_cluster.py [--json] [--rounds N] [--size BYTES] [--processes 1,2,4]

Of ``int4`` with a search, which processors limit, beside one process without Ray. Each cluster is warm: one
run before has started its processes and compiled their kernels. The least of all rounds counts; outputs must
be those of the run without Ray. More processes than processors only share them: the first line has both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_journal

import transcode as tc
from transcode.core.size import parse_size


def once(path: Path, out: Path, **how: Any) -> float:
    """Seconds on the clock of one conversion."""
    began = time.perf_counter()
    tc.open(path) | tc.quantize("int4", optimize="mse") | tc.write(out, workers=1, force=True, **how)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    import ray

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=parse_size, default=parse_size("1GB"))
    parser.add_argument("--processes", default="1,2,4")
    chosen = parser.parse_args()
    table: dict[str, Any] = {"processors": len(os.sched_getaffinity(0))}
    folder = Path(tempfile.mkdtemp())
    try:
        path = bench_journal.source(folder, chosen.size)
        right, out = folder / "right.safetensors", folder / "out.safetensors"
        table["alone"] = round(min(once(path, right) for _ in range(1 + chosen.rounds)), 2)
        for count in map(int, chosen.processes.split(",")):
            ray.init("local", num_cpus=count, include_dashboard=False, logging_level="ERROR")
            took = [once(path, out, cluster="ray") for _ in range(1 + chosen.rounds)]
            ray.shutdown()
            assert out.read_bytes() == right.read_bytes(), f"{count} processes: other bytes"
            table[str(count)] = {"cold": round(took[0], 2), "warm": round(min(took[1:]), 2)}
    finally:
        shutil.rmtree(folder)
    if chosen.json:
        print(json.dumps(table, indent=1))
        return
    print(f"{table['processors']} processors; without Ray {table['alone']:.2f} s")
    print(f"{'processes':>10}{'first run':>11}{'warm s':>9}{'beside 1':>10}")
    rows = [(key, row) for key, row in table.items() if isinstance(row, dict)]
    for key, row in rows:
        print(f"{key:>10}{row['cold']:>11.2f}{row['warm']:>9.2f}{rows[0][1]['warm'] / row['warm']:>9.2f}x")


if __name__ == "__main__":
    main()
