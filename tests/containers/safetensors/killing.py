"""Kill an edit at every system call, and look at what is left. Run as a program, by ``test_edit_crash.py``.

``python killing.py FOLDER WAY MODE [gguf]`` prints JSON. A child is forked for every trial and run under
ptrace, which stops it at the entry of each system call; at the N-th it gets SIGKILL, for N = 1, 2, ...
until the edit runs to its end. The kernel does not carry out a call at whose entry the process is killed,
so the trials together show every state in which a process can die between two calls. A write can also be
cut short in its middle: MODE ``torn`` has each write stop after some of its bytes, and dies.

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

from transcode.containers.edit import edit, undo
from transcode.io import insert_range

DATA = bytes(range(256)) * 40 + b"odd"
OLD = {"format": "pt", "a": "old"}
GGUF = False
"""Whether files are of that format; of safetensors else."""

SHORT, LONG = "n", "n" * 9000


def torn(number: int, part: float, action: Callable[[], object]) -> bool:
    """Run an action in a child whose N-th write stops after a part of its bytes, and kills it there."""

    def patched() -> None:
        tear(number, part)
        action()

    return not survives(patched)


def make(path: Path) -> None:
    """A small file as other tools write them: data at a multiple of 8 or 32, little room."""
    if GGUF:
        for other in path.parent.iterdir():
            other.unlink()
        path.write_bytes(gguf(OLD, {"t": DATA}))
        return
    table = {"__metadata__": OLD, "t": {"dtype": "U8", "shape": [len(DATA)], "data_offsets": [0, len(DATA)]}}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (16 - len(text) % 8)
    for other in path.parent.iterdir():
        other.unlink()
    path.write_bytes(struct.pack("<Q", len(text)) + text + DATA)


def gguf(metadata: dict[str, str], tensors: dict[str, bytes], alignment: int = 32) -> bytes:
    """A GGUF file of texts and bytes (I8)."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    front, data = b"", b""
    for key, value in metadata.items():
        front += text(key) + struct.pack("<I", 8) + text(value)
    if alignment != 32:
        front += text("general.alignment") + struct.pack("<II", 4, alignment)
    for name, raw in tensors.items():
        front += text(name) + struct.pack("<IQIQ", 1, len(raw), 24, len(data))
        data += raw + bytes(-len(raw) % alignment)
    count = len(metadata) + (alignment != 32)
    front = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + front
    return front + bytes(-len(front) % alignment) + data


def read_gguf(raw: bytes) -> tuple[dict[str, str], bytes]:
    """Texts of a GGUF file, and the bytes of its one tensor. Raises ValueError if it is broken."""
    at, alignment = 24, 32
    if raw[:8] != b"GGUF" + struct.pack("<I", 3):
        raise ValueError("no GGUF")
    tensors, keys = struct.unpack_from("<QQ", raw, 8)

    def text() -> str:
        nonlocal at
        (size,) = struct.unpack_from("<Q", raw, at)
        if size > len(raw):
            raise ValueError("too long a text")
        at += 8 + size
        return raw[at - size : at].decode()

    metadata: dict[str, str] = {}
    try:
        if keys > 100 or tensors != 1:
            raise ValueError("too many")
        for _ in range(keys):
            key = text()
            (kind,) = struct.unpack_from("<I", raw, at)
            at += 4
            if kind == 4:
                (alignment,) = struct.unpack_from("<I", raw, at)
                at += 4
            elif kind == 8:
                metadata[key] = text()
            else:
                raise ValueError("another type")
        name = text()
        facts = struct.unpack_from("<IQIQ", raw, at)
    except struct.error as error:
        raise ValueError(str(error)) from None
    begin = -(-(at + 24) // alignment) * alignment
    if name != "t" or facts[0] != 1 or facts[2:] != (24, 0):
        raise ValueError("other facts")
    end = begin + facts[1]
    if len(raw) != -(-end // alignment) * alignment:
        raise ValueError("the data section does not fit")
    if set(metadata.pop("tc.padding", " ")) - {" "}:
        raise ValueError("not filled by spaces")
    return metadata, raw[begin:end]


def contents(path: Path) -> tuple[dict[str, str], bytes]:
    """Metadata and data of a file, read without the code under test. Raises ValueError if it is broken."""
    raw = path.read_bytes()
    if GGUF:
        return read_gguf(raw)
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


def main(folder: str, way: str, mode: str, form: str = "") -> None:
    global GGUF
    GGUF = form == "gguf"
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
        for number in broken[:: max(len(broken) // 3, 1)]:
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
