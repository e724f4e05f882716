"""Scales of either sign and with zero points against all that could be tried, in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics.encode import integers_signed, integers_zeroed
from transcode.numerics.lanes import STORED
from transcode.numerics.nibble_scales import SHARES, SIGNED
from transcode.numerics.packing import unpack4

F = np.float32
KEPT = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}


def values_of(size):
    rng = np.random.default_rng(3)
    values = (rng.standard_t(4, (80, size)) * np.exp2(rng.integers(-8, 8, (80, 1)))).astype(F)
    values[0] = 0
    values[1], values[2] = np.abs(values[1]), -np.abs(values[2])
    values[3] = np.resize([8, -7, 1, 0], size)  # exact under a scale of -1 alone
    values[4] = np.resize([-8, 7, 1, 0], size)
    values[5] += 40 * np.abs(values[5]).max()
    return values


def bits_of(values):
    bits = values.view(np.uint32)
    bits.setflags(write=False)
    return bits


def weights_of(kind, size):
    rng = np.random.default_rng(4)
    weights = np.ones(size, F) if kind == "alike" else np.exp(2 * rng.standard_normal(size)).astype(F)
    if kind == "holes":
        weights[rng.random(size) < 0.5] = 0
    return weights


def rounded(scale, stored):
    return scale.astype(KEPT[stored]).astype(np.float64)


def loss(values, scale, zero, weights):
    """Codes and weighted squared errors of groups, float64."""
    codes = np.clip(np.rint(values / scale) + zero, -8, 7)
    return codes, (weights * (values - (codes - zero) * scale) ** 2).sum(1, keepdims=True)


def fitted(values, scale, zero, weights, stored):
    """The scale that suits the codes best; the same where none does."""
    codes = loss(values, scale, zero, weights)[0] - zero
    below = (weights * codes**2).sum(1, keepdims=True)
    best = (weights * codes * values).sum(1, keepdims=True) / np.where(below > 0, below, 1)
    return rounded(np.where(best != 0, best, scale), stored)


@pytest.mark.parametrize("stored", KEPT)
@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("kind", ["alike", "uneven", "holes"])
def test_scales_of_either_sign(stored, size, kind):
    values, weights = values_of(size), weights_of(kind, size)
    codes, scales = np.empty(values.size // 2, np.uint8), np.empty((len(values), 1), F)
    divisors = np.array(SIGNED, F)
    bits = bits_of(values)
    assert integers_signed(bits, STORED[stored], divisors, weights, codes, scales, Scratch())
    exact, heavy = values.astype(np.float64), weights.astype(np.float64)
    peak = np.abs(values).max(1, keepdims=True)
    tried = [sign * rounded(peak / F(d), stored) for sign in (1, -1) for d in SIGNED]
    tried = [np.where(peak > 0, scale, 1) for scale in tried]
    errors = np.hstack([loss(exact, scale, 0, heavy)[1] for scale in tried])
    best = np.take_along_axis(np.hstack(tried), errors.argmin(1)[:, None], 1)
    ends = np.minimum(
        errors.min(1, keepdims=True), loss(exact, fitted(exact, best, 0, heavy, stored), 0, heavy)[1]
    )
    error = loss(exact, scales.astype(np.float64), 0, heavy)[1]
    # Of two that are all but equal either may be fitted.
    floor = 1e-9 * (heavy * exact**2).sum(1, keepdims=True)
    assert (error <= errors.min(1, keepdims=True) * (1 + 1e-5) + floor).all()
    assert np.mean(error <= ends * (1 + 1e-5) + floor) > 0.95
    assert error.sum() <= ends.sum() * 1.001
    numbers = (unpack4(codes).reshape(values.shape).astype(np.int8) ^ 8) - 8
    off = numbers != np.clip(np.rint(values / scales), -8, 7)
    assert not off.any()
    np.testing.assert_array_equal(scales, rounded(scales, stored))
    assert scales[0] == 1
    assert scales[3] == -1
    assert scales[4] == 1
    assert 0.2 < np.mean(scales < 0) < 0.8
    assert np.isin(scales.astype(np.float64), np.hstack(tried)).mean() < 0.9  # some were fitted


@pytest.mark.parametrize("stored", KEPT)
@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("kind", ["alike", "uneven", "holes"])
def test_zero_points(stored, size, kind):
    values, weights = values_of(size), weights_of(kind, size)
    codes, scales = np.empty(values.size // 2, np.uint8), np.empty((len(values), 1), F)
    zeros = np.empty((len(values), 1), np.int8)
    bits = bits_of(values)
    assert integers_zeroed(bits, STORED[stored], weights, codes, scales, zeros, Scratch())
    exact, heavy = values.astype(np.float64), weights.astype(np.float64)
    low, high = np.minimum(exact.min(1, keepdims=True), 0), np.maximum(exact.max(1, keepdims=True), 0)
    tried = []
    for share in SHARES:
        scale = np.where(high > low, rounded((high - low) * share / 15, stored), 1)
        tried.append((scale, np.clip(np.rint(-8 - low * share / scale), -8, 7)))
    errors = np.hstack([loss(exact, *pair, heavy)[1] for pair in tried])
    error = loss(exact, scales.astype(np.float64), zeros, heavy)[1]
    floor = 1e-9 * (heavy * exact**2).sum(1, keepdims=True)
    assert (error <= errors.min(1, keepdims=True) * (1 + 1e-5) + floor).all()
    # Fitted to the codes of the best, with each zero point about it.
    at = errors.argmin(1)[:, None]
    best, zero = (np.take_along_axis(np.hstack(side), at, 1) for side in zip(*tried, strict=True))
    ends = errors.min(1, keepdims=True)
    for move in (-1, 0, 1):
        point = np.clip(zero + move, -8, 7)
        again = loss(exact, np.abs(fitted(exact, best, point, heavy, stored)), point, heavy)[1]
        ends = np.minimum(ends, again)
    assert np.mean(error <= ends * (1 + 1e-4) + floor) > 0.9
    assert error.sum() <= ends.sum() * 1.002
    numbers = (unpack4(codes).reshape(values.shape).astype(np.int8) ^ 8) - 8
    np.testing.assert_array_equal(numbers, np.clip(np.rint(values / scales) + zeros, -8, 7))
    assert (scales > 0).all()
    assert (scales[0], zeros[0]) == (1, 0)
    assert len(np.unique(zeros)) > 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told(bad):
    values, weights = np.ones((2, 32), F), np.ones(32, F)
    values[1, 17] = bad
    codes, scales, zeros = np.empty(32, np.uint8), np.empty((2, 1), F), np.empty((2, 1), np.int8)
    bits = bits_of(values)
    assert not integers_signed(bits, 0, np.array(SIGNED, F), weights, codes, scales, Scratch())
    assert not integers_zeroed(bits, 0, weights, codes, scales, zeros, Scratch())


@pytest.mark.parametrize("power", [-140, -57, 100, 127])
def test_the_ends_of_float32(power):
    """Tiny groups keep the plain scale; nothing overflows in large ones."""
    rng = np.random.default_rng(5)
    values = np.ldexp(rng.uniform(-1, 1, (8, 32)), power).astype(F)
    codes, scales, zeros = np.empty(128, np.uint8), np.empty((8, 1), F), np.empty((8, 1), np.int8)
    exact, ones = values.astype(np.float64), np.ones(32, F)
    bits = bits_of(values)
    assert integers_signed(bits, 0, np.array(SIGNED, F), ones, codes, scales, Scratch())
    numbers = (unpack4(codes).reshape(8, 32).astype(np.int8) ^ 8) - 8
    peak = np.abs(exact).max(1, keepdims=True)
    assert (np.abs(exact - numbers * scales.astype(np.float64)) <= peak / 6).all()
    assert integers_zeroed(bits, 0, ones, codes, scales, zeros, Scratch())
    numbers = (unpack4(codes).reshape(8, 32).astype(np.int8) ^ 8) - 8
    out = (numbers.astype(np.int16) - zeros) * scales.astype(np.float64)
    assert (np.abs(exact - out) <= peak / 4).all()
