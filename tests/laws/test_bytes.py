"""Laws of bytes that lie somewhere: all implementations give the same of them, and see when they change."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from standins.server import serving

from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.errors import FormatError
from transcode.io.bytes import Bytes
from transcode.io.local import MappedFile
from transcode.io.named import locate

from .memory import MemoryFolder

DATA = np.random.default_rng(5).integers(0, 256, 3 * 4096 + 17, np.uint8).tobytes()


@dataclass(frozen=True)
class Place:
    """Where bytes lie: how they are opened, and how they are replaced behind the back of whoever reads."""

    open: Callable[[], Bytes]
    put: Callable[[bytes], object]


def _local(folder: Path, **how: bool) -> Place:
    path = folder / "m.bin"
    path.write_bytes(DATA)

    def put(data: bytes) -> None:
        (folder / "new").write_bytes(data)
        os.replace(folder / "new", path)

    return Place(lambda: MappedFile(path, **how), put)


def _memory(folder: Path) -> Place:
    held = MemoryFolder("mem://x", {"m.bin": DATA})
    return Place(lambda: held.open("m.bin"), lambda data: held.put("m.bin", data))


def _web(folder: Path) -> Place:
    site = SITES.enter_context(serving({"/m.bin": DATA}))

    def put(data: bytes) -> None:
        site.files["/m.bin"] = data

    return Place(lambda: locate(f"{site.url}/m.bin").open(), put)


SITES = ExitStack()


@pytest.fixture(autouse=True)
def sites():
    with SITES:
        yield


PLACES: dict[str, Callable[[Path], Place]] = {
    "mapped": _local,
    "mapped, cache dropped": lambda folder: _local(folder, drop_cache=True),
    "read": lambda folder: _local(folder, mmap=False),
    "memory": _memory,
    "web": _web,
}
RANGES = [(0, 0), (0, 1), (0, len(DATA)), (1, 4096), (4095, 4097), (4096, 8192), (len(DATA) - 1, len(DATA))]


@pytest.fixture(params=PLACES)
def place(request, tmp_path):
    return PLACES[request.param](tmp_path)


@pytest.mark.parametrize("view", [True, False])
def test_any_range_again_and_in_any_order(place, view):
    file = place.open()
    assert file.size == len(DATA)
    for begin, end in [*RANGES, *reversed(RANGES)]:
        got = file.bytes(begin, end, Scratch(), view=view)
        assert (got.dtype, got.ndim, got.tobytes()) == (np.uint8, 1, DATA[begin:end])


def test_a_view_cannot_be_written_to(place):
    got = place.open().bytes(0, 100, Scratch())
    if not got.flags.owndata and got.base is not None and not got.flags.writeable:
        with pytest.raises(ValueError, match="read-only"):
            got[0] = 1
    assert place.open().bytes(0, 100, Scratch()).tobytes() == DATA[:100]


def test_a_reader_begins_at_the_first_byte(place):
    file = place.open()
    file.bytes(500, 600, Scratch())
    with file.open() as reader, file.open() as other:
        assert reader.read(10) == DATA[:10]
        assert other.read() == DATA
        reader.seek(4000)
        assert reader.read(200) == DATA[4000:4200]


@pytest.mark.parametrize("name", ["U8", "BF16", "F32", "F64", "F4"])
@pytest.mark.parametrize("offset", [0, 1, 8, 4093])
def test_rows_of_a_tensor(place, name, offset):
    """In the carrier, aligned, and not writable; those of packed dtypes as bytes."""
    spec = Spec(DTYPES[name], (9, 16))
    file, size = place.open(), spec.nbytes // 9
    for start, stop in ((0, 9), (2, 3), (8, 9), (4, 4)):
        got = file.rows(offset, spec, start, stop, Scratch())
        assert got.tobytes() == DATA[offset + start * size : offset + stop * size]
        assert got.flags.c_contiguous
        if not spec.dtype.packed:
            assert got.dtype == spec.dtype.carrier
            assert got.shape == (stop - start, 16)
            assert got.flags.aligned


def test_the_same_bytes_are_known_by_the_same(place):
    one, other = place.open(), place.open()
    assert one.identity == other.identity
    assert one.url == other.url
    one.verify()
    place.put(DATA[::-1])
    with pytest.raises(FormatError) as caught:
        one.verify()
    assert str(caught.value).startswith(f"{one.url}: ")
    assert place.open().identity != other.identity


def test_after_a_close_it_reads_again(place):
    file = place.open()
    before = file.bytes(10, 30, Scratch())
    file.close()
    assert file.bytes(10, 30, Scratch()).tobytes() == before.tobytes() == DATA[10:30]
    file.close()
    file.close()


@pytest.mark.parametrize("name", [name for name in PLACES if name != "memory"])
def test_where_it_is_can_be_pickled(name, tmp_path):
    """Memory is no place that another process could read."""
    file = PLACES[name](tmp_path).open()
    file.bytes(0, 10, Scratch())
    again = pickle.loads(pickle.dumps(file))
    assert again == file
    assert again.identity == file.identity
    assert again.bytes(5, 500, Scratch()).tobytes() == DATA[5:500]
