"""Codes of one table as those of another, against a search among all values."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.schemes import make
from transcode.schemes.grid import EXACT, LOSSY, LOWEST, NOTHING, tables

SPEC = Spec(DTYPES["F32"], (256, 256))
KINDS = [
    ("mxfp4", {}), ("mxfp6", {}), ("mxfp6", {"format": "e3m2"}), ("mxfp8", {}), ("mxfp8", {"format": "e5m2"}),
    ("nvfp4", {}), ("int4", {"group_size": 32}), ("int8", {}), ("int8", {"symmetric": False}),
    ("fp8", {"qmax": 14}),
]  # fmt: skip


@pytest.mark.parametrize("old", KINDS, ids=str)
@pytest.mark.parametrize("new", KINDS, ids=str)
def test_codes_go_to_the_nearest_value(old, new):
    one, other = (make(name, **options).grid(SPEC) for name, options in (old, new))
    codes, states = tables(one, other, 3)
    reached = np.isfinite(other.table) & (np.abs(other.table) <= other.reach)
    usable = np.flatnonzero(reached)
    reachable, values = other.table[usable].astype(np.float64), one.table.astype(np.float64)
    finite = np.isfinite(values)
    zeros = np.signbit(other.table[usable][reachable == 0])
    for exponent in (LOWEST, -9, -3, -1, 0, 1, 3):
        row = exponent - LOWEST
        assert (states[row, : values.size][~finite] == NOTHING).all()
        wanted, chosen = values[finite] * 2.0**exponent, codes[row, : values.size][finite]
        assert reached[chosen].all()
        away = np.abs(reachable - wanted[:, None])
        least = away.min(axis=1)
        got = other.table[chosen].astype(np.float64)
        assert np.array_equal(np.abs(got - wanted), least)
        among = away == least[:, None]
        lowest = np.where(among, reachable, np.inf).min(axis=1)
        highest = np.where(among, reachable, -np.inf).max(axis=1)
        assert (chosen[lowest != highest] % 2 == 0).all()  # halfway
        assert np.array_equal(states[row, : values.size][finite], np.where(least == 0, EXACT, LOSSY))
        if zeros.any():
            null = wanted == 0
            assert np.array_equal(np.signbit(got[null]), np.signbit(values[finite][null]))


def test_what_lies_within_what():
    def grid(name, shape=(256, 512), **options):
        return make(name, **options).grid(Spec(DTYPES["F32"], shape))

    tile = grid("fp8", granularity="block")
    row = grid("fp8", granularity="block", block=(1, 128))
    channel, tensor = grid("fp8"), grid("fp8", granularity="tensor")
    assert row.within(tile)
    assert not tile.within(row)
    assert row.within(channel)
    assert not channel.within(row)
    assert all(one.within(tensor) for one in (tile, row, channel, tensor))
    assert not tensor.within(channel)
    assert grid("mxfp4").within(tile)
    assert grid("nvfp4").within(grid("mxfp4"))
    assert not grid("mxfp4").within(grid("nvfp4"))
    low = (4, 64, 512)  # a stack whose matrices are lower than a block, and one scale for them all
    assert not grid("fp8", low, granularity="tensor").within(grid("fp8", low, granularity="block"))
    assert grid("fp8", low, granularity="block").within(grid("fp8", low, granularity="tensor"))


def test_blocks_and_values_do_not_tell_all_of_some():
    assert make("int8", rotate=16).grid(SPEC) is None
    assert make("w4a8").grid(SPEC) is None
    assert make("nvfp4_awq").grid(SPEC) is None
