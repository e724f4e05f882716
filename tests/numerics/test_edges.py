"""Codes by comparing words against the quotient in float32, rounded to E2M1 by ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.scratch import Scratch
from transcode.numerics import edges
from transcode.numerics.jit import kernel
from transcode.numerics.packing import unpack4

F, U = np.float32, np.uint32
HALFWAY = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


@kernel
def codes_of(values, units, words, pairs, codes):
    for b in range(0, units.shape[0], 16):
        edges.edges16(units, words, b)
    if pairs:
        for b in range(0, units.shape[0], 2):
            edges.codes_pair(values, b * 16, words, b, codes, b * 8)
    else:
        for b in range(units.shape[0]):
            edges.codes16(values, b * 16, words, b, codes, b * 8)


@kernel
def wide_codes_of(values, units, words, codes):
    for b in range(0, units.shape[0], 16):
        edges.edges16(units, words, b)
    for b in range(units.shape[0]):
        edges.codes32(values, b * 32, words, b, codes, b * 16)


def codes(words: np.ndarray, units: np.ndarray, pairs: bool = True) -> np.ndarray:
    """Codes of BF16 words ``[blocks, 16 or 32]``, one in a byte."""
    blocks, size = words.shape
    room, out = edges.room(blocks, Scratch()), np.empty(words.size // 2, np.uint8)
    if size == 32:
        wide_codes_of(words.reshape(-1), units, room, out)
    else:
        codes_of(words.reshape(-1), units, room, pairs, out)
    return unpack4(out).reshape(words.shape)


def expected(words: np.ndarray, units: np.ndarray) -> np.ndarray:
    values = (words.astype(U) << U(16)).view(F)
    with np.errstate(all="ignore"):
        shares = np.clip(values / units[:, None], F(-6), F(6))
    shares = np.copysign(shares, values)
    return shares.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("power", [-100, -3, 0, 57, 105])
def test_values_whose_quotients_lie_about_halfway_between_two_codes(size, power):
    """Each mantissa of BF16 over a unit that maps it to a halfway point, and over those about it."""
    mantissas = np.arange(128, 256, dtype=F)
    units = (mantissas / np.array(HALFWAY, F)[:, None]).reshape(-1)
    units = (units.view(U)[:, None] + np.arange(-4, 4)).astype(U).view(F).reshape(-1)
    middle = (np.broadcast_to(mantissas[None, :, None], (7, 128, 8)).reshape(-1).view(U) >> U(16)).astype(
        np.uint16
    )
    moves = np.arange(-size // 2, size // 2).astype(np.int16)
    words = (middle[:, None].astype(np.int32) + moves // 2).astype(np.uint16)
    scaled = np.ldexp(units, power - 8)
    words = (words.astype(np.int32) + (power - 8) * 128).astype(np.uint16) | (moves & 1).astype(
        np.uint16
    ) << 15
    got = codes(words, scaled)
    np.testing.assert_array_equal(got, expected(words, scaled))
    assert set(np.unique(got)) >= set(range(1, 8))


@pytest.mark.parametrize("pairs", [True, False])
def test_every_word_under_some_units(pairs):
    words = np.arange(0x8000, dtype=np.uint16)
    words = np.concatenate([words[:0x7F80], words[:0x7F80] | 0x8000]).reshape(-1, 16)
    units = np.exp2(np.random.default_rng(0).uniform(-110, 105, len(words))).astype(F)
    for unit in (units, np.full(len(words), edges.LOWEST), np.full(len(words), edges.HIGHEST)):
        np.testing.assert_array_equal(codes(words, unit, pairs), expected(words, unit))


def test_a_unit_of_zero_has_no_codes_but_the_signs():
    words = np.array([[0, 1, 0x3F80, 0x7E00] * 4, [0x8000, 0x8001, 0xBF80, 0xFE00] * 4] * 8, np.uint16)
    got = codes(words, np.zeros(16, F))
    np.testing.assert_array_equal(got, np.array([[0] * 16, [8] * 16] * 8))
