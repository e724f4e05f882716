"""Scales that are found by the table of BF16's mantissas are those found by rounding each value."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from transcode.numerics.float_scales import ROOM, SHARES, scale_search
from transcode.numerics.lanes import STORED
from transcode.numerics.minifloat import FORMATS

F = np.float32


def found(bits, shape, form, stored, weights):
    height, width = shape
    scales = np.empty((-(-len(bits) // height), -(-bits.shape[1] // width)), F)
    assert scale_search(
        bits, height, width, STORED[stored], F(form.max), form.normal_bits, form.mantissa_shift,
        np.array(SHARES, F), weights, np.empty(ROOM, F), scales,
    )  # fmt: skip
    return scales


@pytest.mark.parametrize("stored", ["F32", "BF16"])
@pytest.mark.parametrize("kind", ["e4m3fn", "e5m2"])
@pytest.mark.parametrize("shape", [(1, 1500), (16, 96)])
def test_a_table_changes_no_bit(kind, shape, stored):
    """Values down to those whose codes are subnormal numbers, and to zero; of each octave of scales."""
    rng = np.random.default_rng(4)
    form = FORMATS[kind]
    smallest = np.log2(float(form.smallest_normal) / float(form.max))
    values = rng.standard_normal((64, 1500)) * np.exp2(rng.integers(-20, 20, (64, 1)))
    values[:, 300:900] *= np.exp2(rng.uniform(smallest - 4, 0, (64, 600)))
    values[:, 1000:1100] *= np.exp2(smallest + rng.uniform(-1, 2, (64, 100)))
    values[5, 200:] = 0
    # Half of the rows have nothing else, but for a largest value whose column hardly counts.
    values[32:, 0] = np.exp2(rng.uniform(-3, 3, 32))
    values[32:, 1:] = rng.standard_normal((32, 1499)) * np.exp2(smallest - 3)
    values = values.astype(ml_dtypes.bfloat16)
    weights = np.exp(rng.standard_normal(1500)).astype(F)
    weights[0] = 1e-12
    words, wide = values.view(np.uint16), values.astype(F).view(np.uint32)
    scales = found(words, shape, form, stored, weights)
    np.testing.assert_array_equal(scales, found(wide, shape, form, stored, weights))
    assert len(np.unique(np.log2(scales) % 1)) > 16
