"""Kernels of plain casts at the places where they turn, against ml_dtypes; all pairs are in test_cast."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from transcode.numerics.convert import expand, narrow, to_bf16, to_odd
from transcode.numerics.minifloat import FORMATS, PLAIN

F = np.float32


def bits_of(values):
    bits = np.ascontiguousarray(values, F).view(np.uint32)
    bits.setflags(write=False)
    return bits


def test_every_half_expands_to_its_value():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.int16).reshape(256, 256)
    halves.setflags(write=False)
    out = np.empty(halves.shape, F)
    expand(halves, out)
    np.testing.assert_array_equal(out, halves.view(np.float16).astype(F))


@pytest.mark.parametrize(
    ("form", "native", "infinity", "nan"),
    [(FORMATS["e4m3fn"], ml_dtypes.float8_e4m3fn, 0, 0x7F),
     (FORMATS["e5m2"], ml_dtypes.float8_e5m2, 0x7C, 0x7F),
     (PLAIN["F16"], np.float16, 0x7C00, 0x7E00)],
)  # fmt: skip
def test_ties_neighbours_and_ends(form, native, infinity, nan):
    """All values of a format, the middles between them and the floats next to those."""
    kind = np.uint8 if form.bits == 8 else np.uint16
    values = np.arange(1 << form.bits, dtype=kind).view(native).astype(F)
    values = np.unique(values[np.isfinite(values)])
    middles = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(F)
    probes = np.concatenate(
        [values, middles, np.nextafter(middles, F(-np.inf)), np.nextafter(middles, F(np.inf))]
    )
    out = np.empty((1, len(probes)), kind)
    over = narrow(
        bits_of(probes[None]), F(form.max), form.normal_bits, form.mantissa_shift, F(form.limit),
        np.uint32(infinity), np.uint32(nan), out,
    )  # fmt: skip
    assert not over
    np.testing.assert_array_equal(out[0], probes.astype(native).view(kind))


@pytest.mark.parametrize("saturate", [False, True])
def test_where_bf16_ends(saturate):
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    tie = F(largest + 2.0**119)  # half a step above, which rounds away from the odd code
    last = np.nextafter(tie, F(0))
    out = np.empty((1, 1), np.uint16)
    for value, over in [
        (largest, False),
        (last, False),
        (tie, True),
        (np.inf, False),
    ]:
        assert to_bf16(bits_of([[value]]), saturate, out) == over
        wanted = largest if over and saturate else float(F(value).astype(ml_dtypes.bfloat16))
        assert float(out.view(ml_dtypes.bfloat16)[0, 0]) == wanted


def test_rounding_to_odd_is_what_its_definition_says():
    """The float32 itself where it is exact, else of its two neighbours the one with the odd last bit."""
    random = np.random.default_rng(3)
    values = random.standard_normal((1, 500)) * 10.0 ** random.integers(-44, 38, (1, 500))
    values[0, :4] = [1, 2.0**-149 * 1.5, 1 + 2.0**-24, -(1 + 2.0**-40)]
    out = np.empty(values.shape, np.uint32)
    to_odd(values, out)
    for exact, bits in zip(values[0].tolist(), out[0].tolist(), strict=True):
        result = float(np.uint32(bits).view(F))
        if float(F(exact)) == exact:
            assert result == exact
            continue
        assert bits & 1
        step = float(np.spacing(F(abs(result))))
        assert abs(Fraction(result) - Fraction(exact)) < Fraction(step)
