"""Parts that no scheme makes, against what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from transcode.consumers.implied import implied
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.schemes import make

FACTS = Spec(DTYPES["BF16"], (6, 256))


@pytest.mark.parametrize(
    ("role", "dtype", "wanted"),
    [
        ("shape", "I64", np.array([5, 250], np.int64)),
        ("zero_point", "I8", np.zeros((6, 4), np.int8)),
        ("group_index", "I32", np.repeat(np.arange(4, dtype=np.int32), 64)),
    ],
)
def test_each(role, dtype, wanted):
    one = implied(role, make("int4", group_size=64), FACTS, (5, 250))
    assert (one.part.role, one.part.spec.dtype.name, one.part.spec.shape) == (role, dtype, wanted.shape)
    found = one.array()
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
