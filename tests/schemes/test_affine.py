"""affine: streams of codes under two floats to a group; nearest codes, and less lost than by plain ranges."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.numerics import NonFinite, Overflow
from transcode.schemes import make

from .helpers import decode, encode, spec_of
from .test_w4a8 import MATRICES, sqnr

F = np.float32
BITS = (2, 3, 4, 5, 6, 8)


def codes(stored: np.ndarray, bits: int) -> np.ndarray:
    """Bit ``i`` of a row is bit ``i % 8`` of byte ``i // 8``."""
    stream = np.unpackbits(stored, axis=1, bitorder="little").reshape(len(stored), -1, bits)
    return (stream.astype(np.int64) << np.arange(bits)).sum(-1)


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", MATRICES)
def test_codes_are_nearest_and_less_is_lost_than_by_ranges(name, bits, size):
    values = MATRICES[name].astype(F)
    scheme = make("affine", bits=bits, group_size=size, scale_dtype="F32")
    parts = encode(scheme, values)
    groups = values.astype(np.float64).reshape(len(values), -1, size)
    scale, offset = (parts[role].astype(np.float64)[..., None] for role in ("scale", "offset"))
    stored = codes(parts["codes"], bits).reshape(groups.shape)
    out = decode(scheme, parts, spec_of(values))
    want = (stored * scale).astype(F) + offset.astype(F)
    np.testing.assert_array_equal(out.reshape(want.shape), want)
    top = 2**bits - 1
    nearest = np.clip(np.rint((groups - offset) / scale), 0, top) * scale + offset
    own, best = (np.abs(one - groups) for one in (stored * scale + offset, nearest))
    assert (own <= best + 1e-4 * scale + 1e-6 * np.abs(groups)).all()  # but for ties in float32
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    step = np.where(high > low, (high - low) / top, 1)
    plain = (np.clip(np.rint((groups - low) / step), 0, top) * step + low).reshape(values.shape)
    assert sqnr(values, out) > sqnr(values, plain) - 1e-3


@pytest.mark.parametrize("name", ["normal", "hot columns"])
def test_a_search_is_better_in_each_group(name):
    """By the squared error of the group; 0.3 dB are what nine beginnings give 4 bits in groups of 64."""
    values = MATRICES[name].astype(F)
    kept = [make("affine", scale_dtype="F32", optimize=one) for one in ("none", "mse")]
    out = [decode(scheme, encode(scheme, values), spec_of(values)) for scheme in kept]
    plain, searched = (np.square(one - values, dtype=np.float64).reshape(-1, 64).sum(-1) for one in out)
    assert (searched <= plain * (1 + 1e-5)).all()
    assert sqnr(values, out[1]) > sqnr(values, out[0]) + 0.3


def test_what_f16_cannot_hold_is_told():
    values = np.full((1, 32), 1e5, F)
    with pytest.raises(Overflow):
        encode(make("affine", group_size=32, scale_dtype="F16"), values)
    with pytest.raises(Overflow):
        encode(make("awq_w4a16", group_size=32, scale_dtype="F16"), values)
    values[0, 3] = np.nan
    with pytest.raises(NonFinite):
        encode(make("affine", group_size=32), values)
