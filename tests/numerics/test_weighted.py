"""Searches with weights of columns find what all candidates, tried in float64, have for their best."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics import encode
from transcode.numerics.lanes import STORED
from transcode.numerics.minifloat import FORMATS
from transcode.numerics.weighted import balanced
from transcode.schemes.int4 import WEIGHTED

F = np.float32
E4M3 = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
KINDS = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


def weights_of(kind, columns, seed=5):
    """All alike; as activations have them; with columns that do not matter, large and small ones."""
    rng = np.random.default_rng(seed)
    if kind == "alike":
        return np.ones(columns, F)
    weights = np.exp(2 * rng.standard_normal(columns)).astype(F)
    if kind == "holes":
        weights[rng.random(columns) < 0.4] = 0
        weights[:64] = 0
    return weights


def rows_of(columns, seed=1, count=24):
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, (count, columns)) * np.exp2(
        rng.integers(-9, 9, (count, columns // 32))
    ).repeat(32, 1)
    values[0] = 0
    values[1] = np.resize([6, -6, 3, 1, 0.5, 40], columns)
    values[2, ::16] *= 300  # hot columns
    return values.astype(F)


def bits_of(values, dtype):
    if dtype == "BF16":
        values = values.astype(ml_dtypes.bfloat16)
        flat = values.view(np.uint16)
    else:
        flat = values.view(np.uint32)
    flat = flat.reshape(-1)
    flat.setflags(write=False)
    return flat, values.astype(np.float64)


def rounded(share, kind):
    """To a small format, saturating, in float64."""
    top = float(FORMATS[kind].max)
    return np.clip(share, -top, top).astype(F).astype(KINDS[kind]).astype(np.float64)


def holds(errors, chosen, order):
    """The choice has the least error of all, to what float32 sums can tell; of equals the first by order."""
    blocks = np.arange(len(errors))
    least = errors.min(1)
    taken = errors[blocks, chosen]
    assert (taken <= least * (1 + 2.0**-18) + 1e-30).all()
    equal = errors <= least[:, None]  # exact ties only: of equals in float64
    first = np.take_along_axis(equal, order, 1).argmax(1)
    wanted = order[blocks, first]
    exact = least == 0
    np.testing.assert_array_equal(chosen[exact], wanted[exact])


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("kind", ["alike", "uneven", "holes"])
@pytest.mark.parametrize("shared", [0.037, 3e-6, 70.0])
def test_nvfp4_tries_all_scales(kind, dtype, shared):
    columns = 192
    weights = weights_of(kind, columns)
    flat, values = bits_of(rows_of(columns), dtype)
    shared = F(max(shared, np.abs(values).max() / 2688))
    codes, scales = np.zeros(flat.size // 2, np.uint8), np.zeros(flat.size // 16, np.uint8)
    assert encode.nv_weighted(flat, shared, False, weights, codes, scales, Scratch())
    blocks = values.reshape(-1, 16)
    heavy = np.tile(weights.astype(np.float64).reshape(-1, 16), (len(values), 1))
    unit = float(shared) * E4M3[1:]
    errors = np.stack([(heavy * (blocks - rounded(blocks / s, "e2m1") * s) ** 2).sum(1) for s in unit], 1)
    plain = (np.abs(blocks).max(1).astype(F) / F(6) / shared).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    filled = scales > 0
    assert (np.abs(blocks).max(1)[~filled] <= shared * 2.0**-9 * 0.25).all()
    plain = np.maximum(plain[filled].astype(int), 1) - 1
    order = np.tile(np.arange(126), (filled.sum(), 1))
    order = np.concatenate([plain[:, None], order], 1)
    holds(errors[filled], scales[filled].astype(int) - 1, order)
    unit = (shared * E4M3[scales].astype(F))[:, None]  # as it is defined: in float32
    with np.errstate(all="ignore"):
        share = np.where(unit > 0, blocks.astype(F) / unit, 0)
    numbers = np.stack([codes & 15, codes >> 4], -1).reshape(-1, 16)
    wanted = rounded(share, "e2m1").astype(KINDS["e2m1"]).view(np.uint8)
    np.testing.assert_array_equal(numbers & 7, wanted & 7)
    if kind == "holes":
        assert (
            scales[filled].astype(int) - 1 - plain < -5
        ).any()  # far below what an unweighted search tries


@pytest.mark.parametrize("kind", ["alike", "uneven", "holes"])
def test_four_over_six_weighs_two_scales(kind):
    columns = 128
    weights = weights_of(kind, columns)
    flat, values = bits_of(rows_of(columns), "F32")
    shared = F(np.abs(values).max() / 1700)
    codes, scales = np.zeros(flat.size // 2, np.uint8), np.zeros(flat.size // 16, np.uint8)
    assert encode.nv_weighted(flat, shared, True, weights, codes, scales, Scratch())
    blocks = values.reshape(-1, 16)
    heavy = np.tile(weights.astype(np.float64).reshape(-1, 16), (len(values), 1))
    tried = [
        np.maximum(
            (np.abs(blocks).max(1).astype(F) / F(by) / shared).astype(ml_dtypes.float8_e4m3fn).view("u1"), 1
        )
        for by in (6, 4)
    ]
    errors = []
    for codes_tried in tried:
        unit = float(shared) * E4M3[codes_tried][:, None]
        errors.append((heavy * (blocks - rounded(blocks / unit, "e2m1") * unit) ** 2).sum(1))
    filled = scales > 0
    taken = np.where(scales == tried[0], 0, 1)
    np.testing.assert_array_equal(scales[filled], np.where(taken == 0, *tried)[filled])
    order = np.tile([0, 1], (len(blocks), 1))
    holds(np.stack(errors, 1)[filled], taken[filled], order[filled])
    assert 0 < taken[filled].mean() < 1


@pytest.mark.parametrize("form", KINDS)
@pytest.mark.parametrize("mode", ["rceil", "floor", "even", "ceil"])
@pytest.mark.parametrize("kind", ["alike", "uneven", "holes"])
def test_mx_tries_all_powers_of_two(form, mode, kind):
    columns = 96
    weights = weights_of(kind, columns)
    flat, values = bits_of(rows_of(columns), "F32")
    width = FORMATS[form].bits
    codes, scales = np.zeros(flat.size * width // 8, np.uint8), np.zeros(flat.size // 32, np.uint8)
    assert encode.mx_weighted(flat, FORMATS[form], mode, weights, codes, scales, Scratch())
    plain_scales = np.zeros_like(scales)
    assert encode.mx(flat, FORMATS[form], mode, False, codes, plain_scales, Scratch())
    blocks = values.reshape(-1, 32)
    heavy = np.tile(weights.astype(np.float64).reshape(-1, 32), (len(values), 1))
    unit = 2.0 ** (np.arange(160) - 127.0)
    errors = np.stack([(heavy * (blocks - rounded(blocks / s, form) * s) ** 2).sum(1) for s in unit], 1)
    plain = plain_scales.astype(int)
    down = np.maximum(plain[:, None] - np.arange(150), 0)
    order = np.concatenate([down, plain[:, None] + 1], 1)
    holds(errors, scales.astype(int), order)
    if kind == "holes" and width < 8:
        assert (scales.astype(int) - plain < -1).any()


@pytest.mark.parametrize("stored", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("kind", ["alike", "uneven", "holes"])
def test_int4_tries_all_divisors(stored, size, kind):
    kept = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}[stored]
    columns = 256
    weights = weights_of(kind, columns)
    flat, values = bits_of(rows_of(columns), "F32")
    codes, scales = np.zeros(flat.size // 2, np.uint8), np.zeros((flat.size // size, 1), F)
    divisors = np.array(WEIGHTED, F)
    groups = flat.reshape(-1, size)
    groups.setflags(write=False)
    assert encode.integers_weighted(groups, STORED[stored], divisors, weights, codes, scales, Scratch())
    blocks = values.reshape(-1, size)
    heavy = np.tile(weights.astype(np.float64).reshape(-1, size), (len(values), 1))
    peak = np.abs(blocks).max(1, keepdims=True).astype(F)
    tried = np.where(peak == 0, F(1), (peak / divisors).astype(kept).astype(F))
    errors = np.stack(
        [
            (heavy * (blocks - np.clip(np.rint(blocks / s[:, None]), -8, 7) * s[:, None]) ** 2).sum(1)
            for s in tried.T.astype(np.float64)
        ],
        1,
    )
    chosen = (tried == scales).argmax(1)
    assert (tried == scales).any(1).all()
    order = np.tile(np.arange(len(divisors)), (len(blocks), 1))
    holds(errors, chosen, order)
    numbers = np.stack([codes & 15, codes >> 4], -1).reshape(-1, size).astype(int)
    np.testing.assert_array_equal((numbers ^ 8) - 8, np.clip(np.rint(blocks.astype(F) / scales), -8, 7))
    if kind == "holes":
        assert (divisors[chosen] > 14).any()


def test_weights_are_balanced_by_a_power_of_two():
    weights = np.array([0, 3, 1e30, 2e-30], F)
    np.testing.assert_array_equal(balanced(weights), weights * 2.0**-100)
    assert balanced(np.zeros(4, F)).tolist() == [0, 0, 0, 0]
    weights = np.full(32, np.finfo(F).max)
    flat, _ = bits_of(rows_of(32), "F32")
    scales = [np.zeros(flat.size // 32, np.uint8) for _ in range(2)]
    for given, out in zip((weights, np.ones(32, F)), scales, strict=True):
        encode.mx_weighted(
            flat, FORMATS["e2m1"], "even", given, np.zeros(flat.size // 2, np.uint8), out, Scratch()
        )
    np.testing.assert_array_equal(*scales)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 33, 63])
def test_what_is_not_finite_is_told(bad, at):
    values = np.ones((1, 64), F)
    values[0, at] = bad
    flat, _ = bits_of(values, "F32")
    weights, codes = np.ones(64, F), np.zeros(64, np.uint8)
    small, wide = np.zeros(4, np.uint8), np.zeros((1, 1), F)
    divisors = np.array(WEIGHTED, F)
    assert not encode.nv_weighted(flat, F(1), False, weights, codes, small, Scratch())
    assert not encode.mx_weighted(flat, FORMATS["e2m1"], "even", weights, codes, small[:2], Scratch())
    assert not encode.integers_weighted(flat.reshape(1, 64), 0, divisors, weights, codes, wide, Scratch())
