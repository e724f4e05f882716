"""Bounds from the table are bounds, and close ones, of the errors in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics import sweep
from transcode.numerics.jit import kernel
from transcode.numerics.vectors import least

F, U = np.float32, np.uint32
GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
VALUES = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)


@kernel
def every_bound(values, shared, exact, codes, table, places, alone, covered):
    lowest = sweep.lowest_row(shared)
    sweep.fill(shared, exact, table)
    for b in range(codes.shape[0]):
        sweep.look_up(values, b * 16, np.int64(codes[b]), lowest, places)
        covered[b] = sweep.covers(np.int64(codes[b]), np.float32(covered[b]), lowest)
        for count in range(1, 13):
            bounds = sweep.sums(U(codes[b]), count, table, places, b * 16)
            alone[b, count - 1] = least(bounds)


@kernel
def bounds_of(errors, codes, out):
    for k in range(errors.shape[0]):
        out[k] = sweep.bound(errors[k], U(codes[k]))


@kernel
def fits(shared, out):
    for k in range(shared.shape[0]):
        out[k] = sweep.suits(shared[k])


def errors_of(values, scales):
    """Squared errors ``[n, scales]`` of blocks, in float64."""
    share = np.abs(values)[:, None, :] / scales[..., None]
    gap = share - GRID[np.searchsorted((GRID[1:] + GRID[:-1]) / 2, share)]
    return ((gap * scales[..., None]) ** 2).sum(-1)


@pytest.mark.parametrize("shared", [1.0, 0.0123, 7.7e-5, 3.9e12, 2.0**-60])
@pytest.mark.parametrize("exact", [True, False])
def test_the_least_of_some_scales(shared, exact):
    shared = F(shared)
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(8, 115), 4).astype(np.uint8)
    unit = float(shared) * VALUES[codes]
    values = (
        rng.uniform(-1, 1, (codes.size, 16)) * (unit * rng.uniform(1, 8.5, codes.size))[:, None]
    ).astype(F)
    values[:, 5] = 0
    if exact:
        values = values.astype(ml_dtypes.bfloat16).astype(F)
    flat = values.reshape(-1).view(U)
    flat.setflags(write=False)
    bounds = np.empty((codes.size, 12), np.uint32)
    covered = np.abs(values).max(1).astype(F)
    every_bound(
        flat, shared, exact, codes, sweep.table(Scratch()), np.empty(flat.size, np.uint16), bounds, covered
    )
    assert covered.all()
    number = np.minimum(codes[:, None].astype(int) + np.arange(12), 126)
    octave = float(shared) * 2.0 ** ((codes >> 3).astype(int) - 7)
    errors = (
        errors_of(values.astype(np.float64), float(shared) * VALUES[number]) / (octave**2)[:, None] * 1024
    )
    # What is rounded to zero under all scales is left out: so much the errors are all above the sums.
    below = np.abs(values) < 0.2499 * octave[:, None]
    dropped = (np.where(below, values, 0) ** 2).sum(1) / octave**2 * 1024
    best = np.minimum.accumulate(errors, 1)
    assert (bounds <= np.minimum(best + 1, 65535)).all()
    if exact:
        slack = sweep.SLACK + dropped[:, None] * 1.02 + 64
        assert (bounds >= np.minimum(best, 65535) - slack).all()
    assert np.median(bounds / best) > (0.97 if exact else 0.8)


def test_what_a_reached_error_lets_through():
    errors = np.array([0, 1, 3.5, 1e9], F)
    codes = np.array([56, 56, 64, 8], np.uint8)
    out = np.empty(4, np.uint32)
    bounds_of(errors, codes, out)
    np.testing.assert_array_equal(out, [2, 1026, 898, 65535])


def test_multipliers_for_which_there_is_a_table():
    shared = np.array([2.0**-61, 2.0**-60, 1, 2.0**60, 2.0**61, np.inf], F)
    out = np.empty(6, bool)
    fits(shared, out)
    assert out.tolist() == [False, True, True, True, False, False]
