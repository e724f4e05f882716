"""Rows of a tensor that begins at any byte, through the protocol alone."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.io.bytes import read_rows


class Counted:
    """Bytes in memory, which remember how they were asked for."""

    def __init__(self, data):
        self.data = np.frombuffer(data, np.uint8)
        self.asked = []

    def bytes(self, begin, end, scratch, *, view=True):
        self.asked.append((begin, end, view))
        return self.data[begin:end] if view else self.data[begin:end].copy()


@pytest.mark.parametrize(
    ("name", "carrier"), [("F32", "<f4"), ("BF16", "<u2"), ("I8", "<i1"), ("F64", "<f8")]
)
@pytest.mark.parametrize("offset", [0, 8, 3])
def test_rows_of_whole_bytes(name, carrier, offset):
    spec = Spec(DTYPES[name], (5, 3))
    raw = np.random.default_rng(1).integers(0, 256, 200, np.uint8).tobytes()
    file = Counted(raw)
    size = np.dtype(carrier).itemsize
    rows = read_rows(file, offset, spec, 1, 4, Scratch())
    begin = offset + 3 * size
    assert rows.shape == (3, 3)
    assert rows.tobytes() == raw[begin : begin + 9 * size]
    assert rows.dtype == carrier
    assert file.asked == [(begin, begin + 9 * size, begin % size == 0)]


def test_rows_of_less_than_a_byte_come_as_their_bytes():
    spec = Spec(DTYPES["F4"], (6, 4))
    raw = bytes(range(40))
    file = Counted(raw)
    assert read_rows(file, 5, spec, 2, 4, Scratch()).tolist() == [9, 10, 11, 12]
    spec = Spec(DTYPES["F6_E2M3"], (8, 4))
    assert read_rows(file, 0, spec, 0, 2, Scratch()).tolist() == [0, 1, 2, 3, 4, 5]


def test_no_rows():
    spec = Spec(DTYPES["F32"], (4, 2))
    assert read_rows(Counted(bytes(64)), 0, spec, 2, 2, Scratch()).shape == (0, 2)
