"""Hostile files: mutated headers, pickles, undo and commit records, recipes and indexes.

Every case ends in the right reading or in one line of error, within its memory and time; headers are also
given to the reference reader, and where the two disagree the reason is counted.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import time
import traceback
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .engine import Attack, Tally, command
from .scenarios import facts, save

__all__ = ["ATTACKS", "MEMORY", "SECONDS", "Slow", "compared"]

MEMORY = 512 << 20
"""Bytes by which a case may let the process grow."""
SECONDS = 20

_NUMBERS = (
    b"0",
    b"-0",
    b"-1",
    b"1e3",
    b"1.0",
    b"2147483648",
    b"18446744073709551615",
    b"18446744073709551616",
    b"00",
)
_TOKENS = (
    *_NUMBERS, b"null", b"true", b"[]", b"{}", b'""', b"NaN", b'"\\ud800"', b'"\\u0000"', b"[[[[", b"\xff",
    b"\x00", b'"F64"', b'"F4"', b'"f32"', b'"__metadata__"', b'"dtype"', b'"shape"', b'"data_offsets"', b",",
    b":", b" ", b"\n",
)  # fmt: skip


def mutated(raw: bytes, dice: random.Random, tokens: tuple[bytes, ...] = _TOKENS) -> bytes:
    """One to three mistakes in a text of JSON, YAML or the like."""
    now = bytearray(raw)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        at = dice.randrange(len(now) + 1)
        end = min(at + dice.choice((1, 1, 2, 5, 20, 60)), len(now))
        kind = dice.randrange(10)
        if kind == 0 and at < len(now):
            now[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del now[at:end]
        elif kind == 2:
            now[at:at] = now[at:end]
        elif kind == 3:
            now[at:at] = dice.choice(tokens)
        else:
            # A whole word or number, so that the rest stays well formed.
            words = [found.span() for found in re.finditer(rb'"[^"]*"|-?\d+|true|null', bytes(now))]
            if words:
                low, high = dice.choice(words)
                other = dice.choice(words)
                now[low:high] = dice.choice(tokens) if kind < 7 else now[other[0] : other[1]]
    return bytes(now)


class Slow(BaseException):
    """A case that took too long; not an Exception, which handlers would take."""


def cases(run: Callable[[int], str], count: int, until: float, tally: Tally, root: Path) -> None:
    """Number of cases, in a child of bounded memory that goes on behind a case which killed it."""
    first = 0
    told = root / "told"
    while first < count and time.monotonic() < until:
        told.write_text("")
        pid = os.fork()
        if pid == 0:
            _child(run, first, count, until, told)
        _, status = os.waitpid(pid, 0)
        for text in told.read_text().splitlines():
            number, what, example = text.split(" ", 2)
            first = int(number) + 1
            tally.add("trials")
            tally.add(what.replace("_", " "), f"case {number}: {json.loads(example)}")
        if os.WIFSIGNALED(status):
            tally.add("SIGNAL DEATH", f"case {first}: signal {os.WTERMSIG(status)}")
            first += 1
        elif os.WEXITSTATUS(status) == 3:
            break


def _child(run: Callable[[int], str], first: int, count: int, until: float, told: Path) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    def late(number: int, frame: Any) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, late)
    status = 0
    with open(told, "a") as out:
        for number in range(first, count):
            if time.monotonic() > until:
                status = 3
                break
            example = ""
            signal.alarm(SECONDS)
            try:
                what = run(number)
                if "\n" in what:
                    what, example = what.split("\n", 1)
            except Slow:
                what = "HANG"
            except MemoryError:
                what, example = "BOMB", traceback.format_exc()[-800:]
            except BaseException:
                what, example = "TRACEBACK", traceback.format_exc()[-800:]
            signal.alarm(0)
            out.write(f"{number} {what.replace(' ', '_')} {json.dumps(example)}\n")
            if what.isupper() or number % 256 == 0:
                out.flush()
        out.flush()
    os._exit(status)


_BASES = (
    b'{"__metadata__":{"format":"pt","n":"\xc3\xa4"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
    b'"v.\\u00e9":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"e":{"dtype":"I64","shape":[0,3],'
    b'"data_offsets":[22,22]},"s":{"dtype":"F8_E4M3","shape":[],"data_offsets":[22,23]},'
    b'"q":{"dtype":"F4","shape":[2,3],"data_offsets":[23,26]}}  ',
    b'{"a":{"dtype":"U8","shape":[26],"data_offsets":[0,26]}}',
    b'{"b":{"dtype":"F16","shape":[13,1],"data_offsets":[0,26]},"__metadata__":{}}',
)

_REASONS = (
    (r"shape \[(.*, )?0(, .*)?\] of \w+ overflows", "a size beyond 64 bits behind a 0, which hides it there"),
    (r"twice", "a key stands twice, of which the reference takes the last"),
    (r"the entry is a JSON array", "an entry as an array, which the reference's parser takes for a struct"),
)


def compared(raw: bytes, path: Path) -> str:
    """What becomes of a file of these bytes, here and in the reference reader; behind ``WRONG``, why."""
    import safetensors

    from transcode.containers.safetensors import header
    from transcode.errors import TranscodeError

    path.write_bytes(raw)
    try:
        head = header.read(path)
        ours: Any = sorted(
            (
                e.name,
                e.spec.dtype.name,
                list(e.spec.shape),
                raw[head.data_start + e.begin : head.data_start + e.end],
            )
            for e in head.entries
        )
    except TranscodeError as error:
        if "\n" in str(error):
            return f"WRONG\nan error of several lines: {error}"
        ours = error
    try:
        found = safetensors.deserialize(raw)  # type: ignore[no-untyped-call]
        theirs: Any = sorted((n, i["dtype"], list(i["shape"]), bytes(i["data"])) for n, i in found)
    except Exception as error:
        theirs = error
    if isinstance(ours, Exception) and isinstance(theirs, Exception):
        return "both refuse"
    if isinstance(theirs, Exception):
        return f"WRONG\nonly the reference refuses: {theirs}: {raw!r}"
    if isinstance(ours, Exception):
        # Of two keys alike, the first may be wrong in itself: that is what is told then.
        told = "twice" if _has_a_key_twice(raw) else str(ours)
        for pattern, reason in _REASONS:
            if re.search(pattern, told):
                return f"only we refuse: {reason}"
        return f"WRONG\nonly we refuse: {ours}: {raw!r}"
    return "both read the same" if ours == theirs else f"WRONG\nread differently: {raw!r}"


def _has_a_key_twice(raw: bytes) -> bool:
    found = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        table = dict(pairs)
        found = found or len(table) < len(pairs)
        return table

    with suppress(ValueError, RecursionError):
        size = int.from_bytes(raw[:8], "little")
        json.loads(raw[8 : 8 + size].decode("utf-8"), object_pairs_hook=look)
    return found


def _headers(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    path = root / "m.safetensors"
    seed = dice.random()
    data = bytes(range(100, 126))

    def run(number: int) -> str:
        mine = random.Random(f"{seed} {number}")
        text = mutated(mine.choice(_BASES), mine)
        length = (
            len(text) if mine.random() < 0.97 else mine.choice((0, 1, len(text) + 1, 1 << 40, (1 << 64) - 1))
        )
        raw = struct.pack("<Q", length) + text + (data if mine.random() < 0.97 else data[:-1])
        return compared(raw, path)

    cases(run, count, until, tally, root)


def _torch_file(root: Path) -> bytes:
    import torch

    weights = {f"blocks.{i}.w": torch.arange(64.0).reshape(8, 8) + i for i in range(3)}
    tied = weights["blocks.0.w"]
    state = {
        "model": {**weights, "tied": tied, "t": tied.t(), "p": torch.nn.Parameter(torch.ones(3))},
        "epoch": 3,
        "args": None,
    }
    torch.save(state, root / "m.pt")
    return (root / "m.pt").read_bytes()


def _bombs() -> list[bytes]:
    """Small pickles that ask for much, each a fault that some reader had."""
    head = b"\x80\x02"
    found = [
        head + b"r\xff\xff\xff\x7f" + b".",  # a memo index
        head + b"\x8b\xff\xff\xff\x7f" + b"1" * 8 + b".",  # a long integer's length
        head + b"X\xff\xff\xff\x7fabc.",
        head + b"B\xff\xff\xff\x7fabc.",
        head + b"(" * 500_000 + b"l" * 500_000 + b".",
        head + b"]" * 300_000 + b"a" * 299_999 + b".",
    ]
    doubled = (
        head
        + b"]q\x00"
        + b"".join(b"(h" + bytes([i]) + b"h" + bytes([i]) + b"lq" + bytes([i + 1]) for i in range(60))
        + b"."
    )
    keys = (
        head
        + b"}q\x00"
        + b"".join(
            b"}(X\x01\x00\x00\x00ah"
            + bytes([i])
            + b"X\x01\x00\x00\x00bh"
            + bytes([i])
            + b"uq"
            + bytes([i + 1])
            for i in range(60)
        )
        + b"."
    )
    text = head + b"X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x00" + b"(" + b"h\x00" * 100_000 + b"t."
    return [*found, doubled, keys, text]


def _pickles(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    from transcode.containers.source import open_source
    from transcode.errors import TranscodeError

    try:
        raw = _torch_file(root)
    except ImportError:
        tally.notes.append("torch is not installed: not run")
        return
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    seed = dice.random()
    bombs = _bombs()
    tokens = (
        *(bytes([op]) for op in range(0x28, 0x98)),
        b"h\x00",
        b"q\x01",
        b"\x8c\x02ab",
        b"ctorch\ndevice\n",
        b"cos\nsystem\n",
    )
    path = root / "m.pt"

    def run(number: int) -> str:
        mine = random.Random(f"{seed} {number}")
        if number < 2 * len(bombs):
            pickled = bombs[number // 2]
        elif mine.random() < 0.2:
            now = bytearray(raw)
            for _ in range(mine.randrange(1, 5)):
                now[mine.randrange(len(now))] = mine.randrange(256)
            path.write_bytes(now)
            pickled = b""
        else:
            pickled = mutated(parts[name], mine, tokens)
        if pickled and number % 2:
            path.write_bytes(pickled)
        elif pickled:
            with zipfile.ZipFile(path, "w") as out:
                for part, content in parts.items():
                    out.writestr(part, pickled if part == name else content)
        try:
            with open_source(path) as found:
                for tensor in found.tensors:
                    tensor.numpy()
            return "read"
        except TranscodeError as error:
            return f"WRONG\nan error of several lines: {error}" if "\n" in str(error) else "refused"

    cases(run, count, until, tally, root)


def _inspected(path: Path, tally: Tally, where: str) -> str:
    outcome = command(["inspect", str(path)], memory=MEMORY, limit=SECONDS)
    if (wrong := outcome.fault()) is not None:
        tally.add(wrong[0], f"{where}: {wrong[1][-800:]}")
    return "read" if outcome.code == 0 else "refused"


def _undo(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    from transcode.containers.edit import undo

    save(root / "s", 1)
    whole = root / "s" / "model.safetensors"
    raw = whole.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    other = raw[:start].replace(b'"old"', b'"own"')
    record = undo.Record(len(raw), 0, other, raw[:start].replace(b'"old"', b'"new"')).pack()
    path = root / "m.safetensors"
    beside = Path(undo.undo_path(str(path)))
    for trial in range(count):
        if time.monotonic() > until:
            break
        path.write_bytes(raw)
        if beside.is_symlink() or beside.exists():
            beside.unlink()
        kind = dice.randrange(7)
        if kind == 0:
            beside.symlink_to(
                dice.choice(
                    ["nowhere", "/dev/zero", beside.name, str(whole), "/etc/passwd", "/proc/self/mem"]
                )
            )
        elif kind == 1:
            os.mkfifo(beside)
        elif kind == 2:
            beside.write_bytes(record[:12])
            os.truncate(beside, dice.choice((1 << 20, 1 << 32, 1 << 40)))
        elif kind == 3:
            beside.write_bytes(dice.randbytes(dice.choice((0, 4, 34, 60, 500))))
        elif kind == 4:
            beside.write_bytes(record)  # of another file of the same layout
        else:
            now = bytearray(record)
            for _ in range(dice.randrange(1, 4)):
                now[dice.randrange(4, len(now))] ^= 1 << dice.randrange(8)
            if dice.random() < 0.6:  # past the checksum
                import zlib

                now[4:8] = struct.pack("<I", zlib.crc32(bytes(now[8:])))
            beside.write_bytes(now)
        tally.add("trials")
        where = f"undo record of kind {kind}, trial {trial}"
        tally.add(_inspected(path, tally, where))
        if path.read_bytes() != raw:
            tally.add("WRONG", f"{where}: the file is another one now")
        if whole.read_bytes() != raw:
            tally.add("WRONG", f"{where}: what a link leads to was changed")


def _commits(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
    import zlib

    from transcode.io import commit

    save(root / "new", 1)
    out, outside = root / "out", root / "outside.safetensors"
    outside.write_bytes(b"mine")
    names = ("model.safetensors", "config.json")
    evil = (
        "../outside.safetensors",
        "/etc/passwd",
        ".",
        "..",
        "",
        "a/b",
        "x\0y",
        ".transcode-part",
        "lock",
        7,
        None,
        ["a"],
    )
    for trial in range(count):
        if time.monotonic() > until:
            break
        shutil.rmtree(out, ignore_errors=True)
        save(out, 2)
        old = facts(out)
        hidden = out / commit.PART
        (hidden / commit.FILES).mkdir(parents=True)
        hidden.chmod(0o700)
        for name in names:
            shutil.copy(root / "new" / name, hidden / commit.FILES / name)
        new = facts(root / "new")
        listed: list[Any] = [name for name in names if dice.random() < 0.8] + dice.choices(
            evil, k=dice.randrange(3)
        )
        table: Any = {"names": listed, "old": {str(name): [1, 2] for name in listed}}
        body = json.dumps(table).encode()
        if dice.random() < 0.5:
            body = mutated(body, dice)
        raw = b"%08x\n" % zlib.crc32(body) + body
        if dice.random() < 0.2:
            raw = dice.randbytes(dice.randrange(300))
        target = hidden / "commit"
        if dice.random() < 0.1:
            target.symlink_to(dice.choice(["nowhere", "/dev/zero", "commit", "/etc/passwd"]))
        else:
            target.write_bytes(raw)
        tally.add("trials")
        where = f"commit record, trial {trial}: {raw[:200]!r}"
        tally.add(_inspected(out, tally, where))
        try:
            now = facts(out)
        except ValueError as error:
            now = {"broken": str(error)}
        if now not in (old, new):
            tally.add("MIXED", f"{where}: {sorted(now)}")
        if outside.read_bytes() != b"mine":
            tally.add("WRONG", f"{where}: a file outside of the folder was changed")


_RECIPE = b"""source: {path: SRC, type: auto}
steps:
  - drop: ['blocks.2']
  - rename: {rules: [['^blocks', layers]]}
  - cast: bf16
  - quantize: {scheme: int8, include: ['head'], options: {granularity: channel}}
target: {convention: lightx2v, layout: by_block}
output: {path: DST, metadata: {a: b}, force: true}
performance: {num_workers: 2, memory: 512MB}
"""
_YAML = (
    *_NUMBERS, b"[]", b"{}", b"null", b"~", b"!!python/object:os.system x", b"&a ", b"*a", b"<<: ", b"- ",
    b"? ", b": ", b"'", b'"', b"|", b"%TAG", b"---\n", b"\t", b"\xff", b"{a: " * 50, b"[" * 2000, b"9" * 5000,
    b"2026-11-28", b"re:(a+)+$",
)  # fmt: skip


def _texts(which: str) -> Attack:
    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        source = root / "source"
        save(source, 1)
        base = _RECIPE.replace(b"SRC", os.fsencode(source)).replace(b"DST", os.fsencode(root / "out"))
        target, args = root / "r.yaml", ["run", "--config", str(root / "r.yaml"), "-n"]
        if which != "recipes":
            (source / "model.safetensors").rename(source / "model-00001-of-00001.safetensors")
            names = [f"blocks.{i}.w.weight" for i in range(3)] + ["head.weight"]
            table = {
                "metadata": {"total_size": 8192},
                "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors"),
            }
            (source / "model.safetensors.index.json").write_text(json.dumps(table))
            if which == "indexes":
                target = source / "model.safetensors.index.json"
            else:
                target = source / "config.json"
                target.write_text(
                    json.dumps(
                        {
                            "architectures": ["A"],
                            "torch_dtype": "float32",
                            "quantization_config": {
                                "quant_method": "fp8",
                                "weight_block_size": [128, 128],
                                "modules_to_not_convert": ["head"],
                            },
                        }
                    )
                )
            base = target.read_bytes()
            args = ["run", str(source), str(root / "out"), "-n"]
        for trial in range(count):
            if time.monotonic() > until:
                break
            raw = mutated(base, dice, _YAML if which == "recipes" else _TOKENS)
            target.write_bytes(raw)
            outcome = command(args, memory=MEMORY, limit=SECONDS)
            tally.add("trials")
            tally.add("planned" if outcome.code == 0 else "refused")
            if (wrong := outcome.fault()) is not None:
                tally.add(wrong[0], f"{which}, trial {trial}: {raw[:1500]!r}: {wrong[1][-600:]}")
            if (root / "out").exists():
                tally.add("WRONG", f"{which}, trial {trial}: a dry run wrote")

    return attack


ATTACKS = {
    "headers": (_headers, 400),
    "pickles": (_pickles, 40),
    "undo records": (_undo, 1),
    "commit records": (_commits, 1),
    "recipes": (_texts("recipes"), 2),
    "indexes": (_texts("indexes"), 2),
    "configurations": (_texts("configurations"), 2),
}
"""Each with its trials for one of ``--count``."""
