"""Give the reader of GGUF headers what nobody should write, and look that it reads or refuses.

    python tools/fuzz_gguf.py --count 1000000 --seed 1

Each example is a small file: keys of every type, tensors of every type, then mistakes: bytes, numbers and
lengths changed, pieces cut out or doubled. It must be refused by a FormatError of one line, or be read: then
tensors lie within the file, aligned, without overlap and under names of their own, all values can be shown,
and a header that is taken apart and filled anew (:mod:`transcode.containers.gguf.form`) says the same. Prints
how often what came of it, and the slowest example; the exit code is 1 if anything else was seen.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from transcode.containers.gguf import header  # noqa: E402
from transcode.containers.gguf.form import GgufForm  # noqa: E402
from transcode.containers.gguf.types import TYPES  # noqa: E402
from transcode.core.typed import whole  # noqa: E402
from transcode.errors import FormatError  # noqa: E402

__all__ = ["example", "judge", "main"]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_TYPES = (0, 1, 2, 3, 6, 7, 8, 10, 12, 14, 20, 23, 24, 26, 30, 39, 40)
_KEYS = (
    "a",
    "general.architecture",
    "general.alignment",
    "comfy.gguf.orig_shape.w",
    "split.no",
    "tc.padding",
    "é",
)
_NUMBERS = (
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    255,
    1 << 16,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    1 << 63,
    (1 << 64) - 1,
)
_FORM = GgufForm()


def _text(raw: bytes, order: str) -> bytes:
    return struct.pack(f"{order}Q", len(raw)) + raw


def _value(dice: random.Random, order: str, depth: int = 0) -> tuple[int, bytes]:
    kind = dice.choice((*_SCALARS, 8, 8, 9, 9))
    if kind == 8:
        return 8, _text(
            bytes(dice.choices(range(256) if dice.random() < 0.2 else range(32, 127), k=dice.randrange(9))),
            order,
        )
    if kind == 9 and depth < 5:
        of = dice.choice((*_SCALARS, 8, 9))
        count = dice.randrange(4)
        body = b""
        for _ in range(count):
            if of in _SCALARS:
                body += bytes(struct.calcsize(_SCALARS[of]))
            elif of == 8:
                body += _text(b"x" * dice.randrange(3), order)
            else:
                body += _value_array(dice, order, depth + 1)
        return 9, struct.pack(f"{order}IQ", of, count) + body
    kind = kind if kind in _SCALARS else 4
    code = _SCALARS[kind]
    if kind == 7:
        return 7, bytes([dice.randrange(2)])
    if code in "fd":
        return kind, struct.pack(f"{order}{code}", dice.uniform(-9, 9))
    return kind, struct.pack(f"{order}{code}", dice.choice((1, 8, 32, 64, 100)))


def _value_array(dice: random.Random, order: str, depth: int) -> bytes:
    if depth >= 5:
        return struct.pack(f"{order}IQ", 4, 0)
    while True:
        kind, body = _value(dice, order, depth)
        if kind == 9:
            return body


def example(dice: random.Random) -> bytes:
    """A file, right or wrong."""
    order = ">" if dice.random() < 0.1 else "<"
    keys = [dice.choice(_KEYS) for _ in range(dice.randrange(5))]
    if dice.random() < 0.9:
        keys = list(dict.fromkeys(keys))
    front = b""
    alignment = 32
    for key in keys:
        kind, body = _value(dice, order)
        if key == "general.alignment" and dice.random() < 0.9:
            alignment = dice.choice((8, 16, 32, 64, 4096))
            kind, body = 4, struct.pack(f"{order}I", alignment)
        front += _text(key.encode(), order) + struct.pack(f"{order}I", kind) + body
    at = 0
    count = dice.randrange(4)
    for number in range(count):
        lengths = [dice.choice((32, 64, 256)), *(dice.randrange(4) for _ in range(dice.randrange(3)))]
        kind = dice.choice(_TYPES)
        size = TYPES[kind].bits // 8
        nbytes = size * (lengths[0] // TYPES[kind].elements)
        for length in lengths[1:]:
            nbytes *= length
        front += _text(b"w" if number == 0 else b"t%d" % dice.randrange(number * 9 + 1), order)
        front += struct.pack(f"{order}I{len(lengths)}QIQ", len(lengths), *lengths, kind, at)
        at += nbytes
        at += -at % alignment
    raw = b"GGUF" + struct.pack(f"{order}IQQ", dice.choice((2, 3, 3, 3)), count, len(keys)) + front
    raw += bytes(-len(raw) % alignment) + bytes(at)
    for _ in range(dice.choice((0, 0, 0, 1, 1, 2, 3))):
        raw = _spoilt(dice, raw, order)
    return raw


def _spoilt(dice: random.Random, raw: bytes, order: str) -> bytes:
    if not raw:
        return raw
    at = dice.randrange(min(len(raw), 600))
    way = dice.randrange(6)
    if way == 0:
        return raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :]
    if way == 1:
        return raw[:at] + struct.pack(f"{order}Q", dice.choice(_NUMBERS)) + raw[at + 8 :]
    if way == 2:
        return raw[:at] + struct.pack(f"{order}I", dice.choice(_NUMBERS) & 0xFFFFFFFF) + raw[at + 4 :]
    if way == 3:
        return raw[:at]
    other = dice.randrange(min(len(raw), 600))
    low, high = sorted((at, other))
    return raw[:low] + raw[high:] if way == 4 else raw[:high] + raw[low:]


def judge(raw: bytes) -> str:
    """What became of a file, in a word or two. Raises AssertionError for what should not be."""
    try:
        read = header.read(BytesIO(raw), "m.gguf")
    except FormatError as error:
        if "\n" in str(error):
            raise AssertionError("more than a line") from error
        return "refused"
    end, names = read.data_start, set()
    for one in read.entries:
        assert one.start >= end, "overlaps"
        assert (one.start - read.data_start) % read.alignment == 0, "is not aligned"
        end = one.start + one.spec.nbytes
        assert one.name not in names, "named twice"
        names.add(one.name)
    assert end <= len(raw) or not read.entries, "lies behind the end"
    for value in read.metadata.values():
        whole(value)
    head = raw[: read.data_start]
    bare = _FORM.bare(head)
    if read.big:
        return "read, big-endian"
    filled = _FORM.fit(bare, len(bare) + -len(bare) % read.alignment + read.alignment * 4)
    assert filled is not None or read.alignment < 32, "cannot be filled"
    if filled is not None:
        then = _FORM.parse(filled, len(raw) - len(head) + len(filled), "m.gguf")
        tensors = tuple((one.name, one.spec, one.start - read.data_start) for one in read.entries)
        assert then.tensors == tensors, "other tensors once it is filled"
        assert list(then.metadata.items()) == list(read.metadata.items()), "other metadata once it is filled"
    return "read"


def main(argv: Sequence[str] | None = None, say: Callable[[str], object] = print) -> int:
    """Run it. Returns 1 where something was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    dice = random.Random(args.seed)
    seen: Counter[str] = Counter()
    slowest, begun = 0.0, time.monotonic()
    for number in range(args.count):
        raw = example(dice)
        start = time.perf_counter()
        try:
            seen[judge(raw)] += 1
        except Exception as error:  # whatever it is, it is what is looked for
            seen["WRONG"] += 1
            say(f"example {number}: {type(error).__name__}: {error}: {raw[:400].hex()}")
        slowest = max(slowest, time.perf_counter() - start)
    listed = ", ".join(f"{what}: {count:,}" for what, count in seen.most_common())
    say(
        f"{args.count:,} files in {time.monotonic() - begun:.0f} s: {listed};"
        f" the slowest took {slowest * 1e3:.0f} ms"
    )
    return int("WRONG" in seen)


if __name__ == "__main__":
    sys.exit(main())
