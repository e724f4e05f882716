"""The search of NVFP4's scales finds what trying all of them finds, to the last bit and among equals too."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics import micro

F = np.float32
LOW, HIGH = 4, 7
VALUES = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(F)


def run(values, shared, search):
    bits = values.reshape(-1).view(np.uint16 if values.dtype == ml_dtypes.bfloat16 else np.uint32)
    bits.setflags(write=False)
    codes, scales = np.empty(bits.size // 2, np.uint8), np.empty(bits.size // 16, np.uint8)
    exact = bits.itemsize == 2
    room = micro.nv_work(Scratch())
    assert micro.nv(bits, F(shared), False, *search, exact, *room, codes, scales)
    return scales


def by_trying_all(values, shared, plain):
    """Errors in float32, their sixteen squares added halves to halves."""
    x = values.astype(F)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = F(1) / (F(shared) * VALUES)
        size = np.abs(x[:, None] * inverse[:, None])
        gap = size - np.minimum(size, F(6)).astype(ml_dtypes.float4_e2m1fn).astype(F)
        sums = gap * gap
        while sums.shape[-1] > 1:
            half = sums.shape[-1] // 2
            sums = sums[..., :half] + sums[..., half:]
        errors = sums[..., 0] * (VALUES * VALUES)
    code = np.arange(127)
    first = plain.astype(np.int64)[:, None]
    errors[(code < np.maximum(first - LOW, 1)) | (code > first + HIGH)] = np.inf
    least = errors.argmin(1)
    equal = errors[np.arange(len(x)), plain] == errors[np.arange(len(x)), least]
    return np.where(equal | (plain == 0), plain, least)


def samples(kind, count):
    rng = np.random.default_rng(3)
    if kind == "normal":
        return rng.standard_normal((count, 16)) * 0.02
    if kind == "heavy":
        return rng.standard_t(2, (count, 16))
    if kind == "whole":  # many errors are equal
        return rng.integers(-6, 7, (count, 16)) * 0.5
    if kind == "two":
        values = rng.choice([0.74, -1.26, 2.5], (count, 16))
        values[:, 3] = rng.uniform(3, 7, count)
        return values
    exponents = rng.integers(-20, 1, (count, 1))  # down to scales that are subnormal, and none
    return rng.standard_normal((count, 16)) * np.exp2(exponents) * (np.arange(count) % 9 > 0)[:, None]


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, F], ids=["BF16", "F32"])
@pytest.mark.parametrize("kind", ["normal", "heavy", "whole", "two", "wide"])
def test_the_choice_is_that_of_trying_all(kind, dtype):
    values = samples(kind, 400).astype(dtype)
    peak = np.abs(values.astype(F)).max()
    for shared in (peak / F(2688), peak / F(300), F(2.0**-70)):  # the last has no table
        plain = run(values, shared, (0, 0))
        found = run(values, shared, (LOW, HIGH))
        np.testing.assert_array_equal(found, by_trying_all(values, shared, plain))
    plain = run(values, peak / F(2688), (0, 0))
    assert len(set(run(values, peak / F(2688), (LOW, HIGH)) - plain.astype(int))) > 4
