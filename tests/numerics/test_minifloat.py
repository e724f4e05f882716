"""The float formats: every code, and every constant that kernels take, against ml_dtypes."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.numerics.minifloat import FORMATS, PLAIN, to_e8m0

KINDS = {
    "e4m3fn": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2, "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn, "e2m1": ml_dtypes.float4_e2m1fn, "e8m0fnu": ml_dtypes.float8_e8m0fnu,
}  # fmt: skip
WIDE = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}


def test_all_are_here():
    assert FORMATS.keys() == KINDS.keys()
    assert PLAIN.keys() == WIDE.keys()


@pytest.mark.parametrize("name", KINDS)
def test_values_of_every_code(name):
    form = FORMATS[name]
    codes = np.arange(1 << form.bits, dtype=np.uint8)
    wanted = codes.view(KINDS[name]).astype(np.float32)
    found = form.values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(
        np.signbit(found)[np.isfinite(wanted)], np.signbit(wanted)[np.isfinite(wanted)]
    )
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


@pytest.mark.parametrize("name", [*KINDS, *WIDE])
def test_facts_are_those_of_ml_dtypes(name):
    form, kind = (FORMATS[name], KINDS[name]) if name in KINDS else (PLAIN[name], WIDE[name])
    info = ml_dtypes.finfo(kind)
    assert form.bits == info.bits
    assert form.nmant == info.nmant
    assert form.nexp == info.nexp
    assert form.max == float(info.max)
    assert form.smallest_normal == float(info.smallest_normal)
    assert form.smallest_subnormal == float(info.smallest_subnormal)
    assert form.emax == int(np.floor(np.log2(float(info.max))))
    assert form.bias == form.signed - info.minexp
    assert form.signed == (float(info.min) < 0)
    assert form.normal_bits == np.float32(info.smallest_normal).view(np.uint32)
    assert form.mantissa_shift == 23 - info.nmant
    assert DTYPES[form.dtype].bits == form.bits
    assert np.dtype(DTYPES[form.dtype].ml_dtype or DTYPES[form.dtype].carrier) == np.dtype(kind)
    assert form.name in np.dtype(kind).name


@pytest.mark.parametrize("name", [*KINDS, *WIDE])
def test_where_rounding_leaves_the_format(name):
    """The middle of the two numbers that the format would have next, if it went on, by its mantissa."""
    form = FORMATS[name] if name in KINDS else PLAIN[name]
    mantissa, exponent = math.frexp(form.max)
    step = math.ldexp(1, exponent - 1 - form.nmant)
    assert mantissa * 2 ** (form.nmant + 1) % 1 == 0
    assert form.limit == form.max + step / 2


@pytest.mark.parametrize("name", [name for name in KINDS if name != "e8m0fnu"])
def test_the_magic_number_leaves_the_code_in_the_low_byte(name):
    """A power of two, and an even number of its last places: so ties still go to the even code."""
    form = FORMATS[name]
    power = np.float32(2.0 ** int(form.mantissa_shift))
    places = int(form.magic.view(np.uint32)) - int(power.view(np.uint32))
    assert 0 <= places < 256
    assert (int(form.normal_bits) >> int(form.mantissa_shift)) + places & 0xFF == 0


def test_powers_of_two_have_their_e8m0_codes():
    """All that E8M0 has, there and back; and what it has not gets the code of some power, never NaN's."""
    codes = np.arange(256, dtype=np.uint8)
    numbers = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    np.testing.assert_array_equal(to_e8m0(numbers), codes)
    np.testing.assert_array_equal(
        to_e8m0(np.array([0, 2.0**-149, np.inf, -np.inf, 3], np.float32)) < 255, True
    )
