"""What decoding lost, against float64 sums of numpy."""

from __future__ import annotations

import numpy as np

from transcode.core.dtypes import DTYPES
from transcode.numerics.loss import losses
from transcode.numerics.rows import as_bits


def test_sums_and_the_largest_error_are_added_up():
    random = np.random.default_rng(1)
    values = random.standard_normal((6, 9)).astype(np.float32)
    decoded = (values + random.standard_normal((6, 9)) / 8).astype(np.float32)
    sums = np.zeros(3)
    for start in (0, 2):
        stop = 2 if start == 0 else 6
        losses(as_bits(values[start:stop], DTYPES["F32"]), decoded[start:stop], sums)
    exact = values.astype(np.float64)
    gaps = exact - decoded
    np.testing.assert_allclose(sums[:2], [(exact**2).sum(), (gaps**2).sum()], rtol=1e-12)
    assert sums[2] == np.abs(gaps).max()


def test_a_smaller_error_leaves_the_largest():
    sums = np.array([1.0, 2.0, 3.0])
    losses(as_bits(np.zeros((1, 2), np.float32), DTYPES["F32"]), np.array([[0, -2]], np.float32), sums)
    assert sums.tolist() == [1, 6, 3]
