"""A constant added in float32, as torch adds it, and taken off again."""

from __future__ import annotations

import pytest
import torch

from transcode.core.context import Context
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Constant
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError
from transcode.stages.shift import shifted


def stored(values: torch.Tensor, dtype: str) -> LazyTensor:
    spec = Spec(DTYPES[dtype], tuple(values.shape))
    return plain("x", spec, Constant(spec, values.contiguous().view(torch.uint8).numpy().tobytes()))


@pytest.mark.parametrize(
    ("dtype", "kind"), [("BF16", torch.bfloat16), ("F16", torch.float16), ("F32", torch.float32)]
)
def test_it_is_torchs_sum(dtype: str, kind: torch.dtype) -> None:
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(kind)
    more = shifted(stored(values, dtype), 1)
    assert more.spec == Spec(DTYPES["F32"], (6, 4))
    expected = values.float() + 1
    assert torch.from_numpy(more.numpy()).equal(expected)
    assert torch.from_numpy(more.matrix(2, 5, Context()).copy()).equal(expected[2:5])
    back = torch.from_numpy(shifted(more, -1).numpy())
    assert (
        back.to(kind).equal(values) if kind == torch.bfloat16 else back.allclose(values.float(), atol=2**-23)
    )


def test_integers_are_not_added_to() -> None:
    with pytest.raises(PlanError, match="is I8, to which 1 cannot be added"):
        shifted(stored(torch.zeros(2, 2, dtype=torch.int8), "I8"), 1)
