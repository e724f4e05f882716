"""The small float formats: every code, and every constant that kernels take, against ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.core.dtypes import DTYPES
from transcode.numerics.minifloat import FORMATS

KINDS = {
    "e4m3fn": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2, "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn, "e2m1": ml_dtypes.float4_e2m1fn,
}  # fmt: skip


def test_all_are_here():
    assert FORMATS.keys() == KINDS.keys()


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


@pytest.mark.parametrize("name", KINDS)
def test_facts_are_those_of_ml_dtypes(name):
    form, info = FORMATS[name], ml_dtypes.finfo(KINDS[name])
    assert form.bits == info.bits
    assert form.mantissa == info.nmant
    assert form.exponent == info.nexp
    assert form.top == float(info.max)
    assert form.least_normal == float(info.smallest_normal)
    assert form.power == int(np.floor(np.log2(float(info.max))))
    assert form.least_bits == np.float32(info.smallest_normal).view(np.uint32)
    assert form.drop == 23 - info.nmant
    assert DTYPES[form.dtype].bits == form.bits
    assert DTYPES[form.dtype].ml_dtype == np.dtype(KINDS[name]).name


@pytest.mark.parametrize("name", KINDS)
def test_the_ruler_leaves_the_code_in_the_low_byte(name):
    """A power of two, and an even number of its last places: so ties still go to the even code."""
    form = FORMATS[name]
    power = np.float32(2.0 ** int(form.drop))
    places = int(form.ruler.view(np.uint32)) - int(power.view(np.uint32))
    assert 0 <= places < 256
    assert (int(form.least_bits) >> int(form.drop)) + places & 0xFF == 0
