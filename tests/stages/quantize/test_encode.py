"""A tensor as a scheme's parts: facts, reasons, and where a value that cannot be encoded stands."""

from __future__ import annotations

import numpy as np
import pytest

from transcode import schemes
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Constant
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import DataError
from transcode.stages.quantize.encode import encode_tensor, first_nonfinite


def tensor(values: np.ndarray) -> LazyTensor:
    spec = Spec(DTYPES["F32"], values.shape)
    return plain("a.weight", spec, Constant(spec, values.astype("<f4").tobytes()))


def test_codes_and_scale_by_formula() -> None:
    values = np.random.default_rng(3).normal(size=(6, 32)).astype(np.float32)
    encoded = encode_tensor(tensor(values), schemes.make("int8"), "target q", ())
    scale = np.abs(values).max(1, keepdims=True) / np.float32(127)
    assert np.array_equal(encoded.numpy("codes"), np.rint(values / scale).astype(np.int8))
    assert np.array_equal(encoded.numpy("scale"), scale)
    assert [str(event) for event in encoded.fate] == ["quantize int8: target q"]
    assert encoded.spec == Spec(DTYPES["F32"], (6, 32))


@pytest.mark.parametrize(
    ("options", "words"), [({}, "each for itself"), ({"granularity": "tensor"}, "all with one scale")]
)
def test_a_stack_says_what_its_matrices_share(options: dict, words: str) -> None:
    encoded = encode_tensor(tensor(np.ones((3, 4, 32))), schemes.make("int8", **options), "why", ())
    text = encoded.fate[-1].text
    assert text is not None
    assert text.startswith("why; 3-D: a stack of 3 matrices, ")
    assert words in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_where_a_value_is_not_finite(value: float) -> None:
    values = np.ones((6, 32))
    assert first_nonfinite(tensor(values), schemes.make("int8")) is None
    values[4, 7] = value
    told = first_nonfinite(tensor(values), schemes.make("int8"))
    assert "row 4, column 7" in str(told)
    encoded = encode_tensor(tensor(values), schemes.make("int8"), "why", ())
    with pytest.raises(DataError, match="row 4, column 7"):
        encoded.numpy("codes")
