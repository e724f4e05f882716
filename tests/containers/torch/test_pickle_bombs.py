"""Small pickles that would grow large: what they name again and again is paid for, and has its limit."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc

import pytest
import torch

from transcode.containers.source import open_source
from transcode.containers.torch.names import NAMES, persistent
from transcode.containers.torch.roots import find_root, flatten, transform
from transcode.containers.torch.unpickle import Unpickler
from transcode.errors import FormatError

BOUND = 80 << 20
"""The constant of the budget, and what fits no count: the stack, and copies of the longest argument."""


def machine(stream: bytes):
    return Unpickler(io.BytesIO(stream), NAMES, persistent, "f").load()


def text(size: int) -> bytes:
    return b"X" + struct.pack("<I", size) + b"a" * size + b"q\x00"


def copies(name: bytes, argument: bytes, count: int) -> bytes:
    """A list of the results of many calls with one argument."""
    return b"(" + argument + b"c" + name + b"q\x01" + b"h\x01h\x00\x85R" * count + b"l."


ITEMS = b"(" + b"K\x01" * 100_000 + b"lq\x00"
DIFFERENT = b"(" + b"".join(b"J" + struct.pack("<i", i) for i in range(30_000)) + b"lq\x00"
PAIRS = b"(" + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(30_000)) + b"lq\x00"
KEYS = b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(1, 30_000))
BOMBS = {
    "devices": copies(b"torch\ndevice\n", text(1 << 18), 1000),
    "lists": copies(b"builtins\nlist\n", ITEMS, 2000),
    "sizes": copies(b"torch\nSize\n", ITEMS, 2000),
    "sets": copies(b"builtins\nset\n", DIFFERENT, 2000),
    "dicts": copies(b"collections\nOrderedDict\n", PAIRS, 2000),
    "encodes": copies(b"_codecs\nencode\n", text(1 << 18), 2000),
    "objects": b"(" + ITEMS + b"0h\x00cevil\nThing\nq\x010" + b"h\x01(h\x00h\x00h\x00tR" * 100
    + b"".join(b"h\x01" + b"(" + b"h\x00" * 100 + b"tR" for _ in range(10)) + b"l.",
    "objects of a long tuple": b"((" + b"]" * 50_000 + b"tq\x00cevil\nThing\nq\x01"
    + b"h\x01h\x00R" * 3000 + b"l.",
    "names": b"(" + text(1 << 20)
    + b"".join(b"h\x00X\x02\x00\x00\x00%02x\x93" % i for i in range(200)) + b"l.",
    "a tensor of a class that copies": b"(" + text(1 << 18)
    + b"\x85q\x00ctorch._tensor\n_rebuild_from_type_v2\nq\x01"
    + b"h\x01(c_codecs\nencode\nctorch\nTensor\nh\x00NtR" * 2000 + b"l.",
    "sets of nothing": b"(" + b"\x8f" * 2_000_000 + b"l.",
    "a memo of one": b"N" + b"\x94" * 3_000_000 + b".",
    "keys of one hash": b"}(" + KEYS + b"u.",
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_stays_within_the_budget(case):
    stream = BOMBS[case]
    tracemalloc.start()
    try:
        machine(stream)
        told = ""
    except FormatError as error:
        told = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < BOUND + 64 * len(stream)
    if case not in ("objects", "a tensor of a class that copies"):  # these keep nothing but references
        assert "its pickle is damaged" in told


def nested(key: str, depth: int, width: int = 1):
    """Dicts in dicts, each of which stands under several keys."""
    made: dict[str, object] = {"w": machine(TENSOR)}
    for _ in range(depth):
        made = {f"{key}{i}": made for i in range(width)}
    return made


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89NtR."
)


@pytest.mark.parametrize(("key", "depth", "width"), [("a" * 500_000, 40, 1), ("a" * 150, 14, 3)])
def test_names_that_are_joined_are_bounded(key, depth, width):
    value = nested(key, depth, width)
    tracemalloc.start()
    with pytest.raises(FormatError, match="has names of more than 4096 characters, or"):
        flatten(value, "f")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500 << 20
    if width == 1:
        with pytest.raises(FormatError, match="has names of more than 4096"):
            transform(value, lambda name, leaf: name, "f")


def test_dicts_that_many_share_are_looked_into_once():
    """Nine levels of a thousand keys each are 10**27 ways, and nine dicts."""
    value: dict[str, object] = {}
    for _ in range(9):
        value = {str(i): value for i in range(1000)}
    with pytest.raises(FormatError, match="holds no tensors"):
        find_root(value, None, "f")
    with pytest.raises(FormatError, match="holds no tensors"):
        find_root(value, ".", "f")


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_training_saves_is_within_the_budget(protocol, tmp_path):
    module = torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(400)])
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    value = {
        "state_dict": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "seen": set(range(300_000)),
        "losses": {i / 3: float(i) for i in range(2000)},
        "args": {f"option {i}": [i, str(i), None] for i in range(20_000)},
    }
    path = tmp_path / "m.pt"
    torch.save(value, path, pickle_protocol=protocol, pickle_module=pickle)
    assert len(open_source(path).tensors) == 800
