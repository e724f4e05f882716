"""Kill an edit at every system call, and look at what is left. Run as a program, by ``test_edit_crash.py``.

``python killing.py FOLDER WAY MODE`` prints JSON. A child is forked for every trial and run under ptrace,
which stops it at the entry of each system call; at the N-th it gets SIGKILL, for N = 1, 2, ... until the edit
runs to its end. The kernel does not carry out a call at whose entry the process is killed, so the trials
together show every state in which a process can die between two calls. A write can also be cut short in its
middle: MODE ``torn`` has each write stop after some of its bytes, and dies.

A process of its own, so that the forks are of a process with one thread, and no library under test but the
storage layer is loaded.
"""

from __future__ import annotations

import json
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from attacks.engine import kill_at, survives, tear

from transcode.containers.safetensors.edit import edit, undo
from transcode.io import insert_range

DATA = bytes(range(256)) * 40 + b"odd"
OLD = {"format": "pt", "a": "old"}
SHORT, LONG = "n", "n" * 9000


def torn(number: int, part: float, action: Callable[[], object]) -> bool:
    """Run an action in a child whose N-th write stops after a part of its bytes, and kills it there."""

    def patched() -> None:
        tear(number, part)
        action()

    return not survives(patched)


def make(path: Path) -> None:
    """A small file as other tools write them: data at a multiple of 8, little room."""
    table = {"__metadata__": OLD, "t": {"dtype": "U8", "shape": [len(DATA)], "data_offsets": [0, len(DATA)]}}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (16 - len(text) % 8)
    for other in path.parent.iterdir():
        other.unlink()
    path.write_bytes(struct.pack("<Q", len(text)) + text + DATA)


def contents(path: Path) -> tuple[dict[str, str], bytes]:
    """Metadata and data of a file, read without the code under test. Raises ValueError if it is broken."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    begin, end = table["t"]["data_offsets"]
    data = raw[8 + length :]
    if (begin, end) != (0, len(data)):
        raise ValueError("the data section does not fit")
    return table["__metadata__"], data


class Trials:
    """Counts what was found after each kill, and checks it."""

    def __init__(self, path: Path, new: dict[str, str]) -> None:
        self.path = path
        self.new = new
        self.seen: Counter[str] = Counter()

    def judge(self) -> None:
        try:
            contents(self.path)
        except ValueError:
            self.seen["broken before repair"] += 1
        names = {entry.name for entry in self.path.parent.iterdir()}
        self.seen["repaired"] += bool(names & {".m.transcode-undo", ".m.transcode-new"})
        head = undo.read(self.path)  # what every command does before it reads a header
        metadata, data = contents(self.path)
        assert data == DATA, "tensors changed"
        assert metadata == dict(head.metadata)
        assert metadata in (OLD, self.new), metadata
        self.seen["old" if metadata == OLD else "new"] += 1
        left = {entry.name for entry in self.path.parent.iterdir()}
        assert left <= {"m", "m.header-backup"}, left


def main(folder: str, way: str, mode: str) -> None:
    path = Path(folder) / "m"
    value = SHORT if way == "overwrite" else LONG
    if way == "copy":
        insert_range.can_insert = lambda folder: False
    trials = Trials(path, {**OLD, "a": value})

    def action() -> None:
        done = edit.edit(path, lambda metadata: {**metadata, "a": value})
        assert done.way == way, done.way

    # Once in this process, so that modules loaded on demand don't make the first trials longer than the last.
    make(path)
    action()
    make(path)
    if mode == "calls":
        number = 1
        make(path)
        while kill_at(number, action):
            trials.judge()
            make(path)
            number += 1
        trials.seen["calls"] = number - 1
    elif mode == "torn":
        for part in (0.0, 0.01, 0.5, 0.999, 1.0):
            number = 1
            make(path)
            while torn(number, part, action):
                trials.judge()
                make(path)
                number += 1
    elif mode == "repair":
        # Kill the repair, too: at each of its calls, after the edit was killed at each of some of its own.
        number, broken = 1, []
        make(path)
        while kill_at(number, action):
            if (path.parent / ".m.transcode-undo").exists():
                broken.append(number)
            make(path)
            number += 1
        for number in broken[:: max(len(broken) // 6, 1)]:
            inner = 1
            while True:
                make(path)
                kill_at(number, action)
                again = kill_at(inner, lambda: undo.repair(path))
                trials.judge()
                if not again:
                    break
                inner += 1
    print(json.dumps(trials.seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
