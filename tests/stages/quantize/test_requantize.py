"""What quantizing says of a source that is, or was, quantized."""

from __future__ import annotations

import pytest

from tests.expressions import NOTHING
from transcode import schemes
from transcode.core.dtypes import DTYPES
from transcode.core.event import Event, Reason
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError
from transcode.stages.quantize.requantize import note_again, refuse_quantized

WHY = Reason("target", "target q")


def tensor(name: str, dtype: str, *shape: int) -> LazyTensor:
    return plain(name, Spec(DTYPES[dtype], shape), NOTHING)


def test_codes_are_not_left_beside_new_ones() -> None:
    source = [
        tensor("a.weight", "I8", 8, 64), tensor("a.weight_scale", "F32", 8, 1),
        tensor("b.weight", "BF16", 8, 8),
    ]  # fmt: skip
    with pytest.raises(PlanError, match="is quantized already, one of 1 tensors") as error:
        refuse_quantized(source, Planning())
    assert "dequantize('bf16')" in str(error.value.hint)
    assert refuse_quantized(source[2:], Planning()) == frozenset()


def test_what_is_not_decoded_has_another_way_out() -> None:
    hqq = [tensor("a.W_q", "U8", 32, 64), tensor("a.scale_q", "U8", 64, 1), tensor("a.zero", "F16", 64, 1)]
    with pytest.raises(PlanError, match="HQQ") as error:
        refuse_quantized(hqq, Planning())
    assert "does not decode that" in str(error.value.hint)


def test_fp8_without_a_scale_is_told_and_stays() -> None:
    planning = Planning()
    assert refuse_quantized([tensor("a.weight", "F8_E4M3", 8, 8)], planning) == frozenset()
    (warning,) = planning.warnings
    assert "1 tensors are F8_E4M3 without a scale" in str(warning)


def test_what_is_encoded_anew_is_counted_by_what_it_was() -> None:
    decoded = Event("dequantize", "lightx2v", "int8 -> BF16")
    scheme = schemes.make("fp8")
    once = [tensor(f"{name}.weight", "BF16", 8, 8).evolve(did=decoded) for name in "abc"]
    planning = Planning()
    note_again([(once[0], scheme, WHY), (once[1], scheme, WHY), (once[2], None, WHY)], planning)
    (note,) = planning.notes
    assert str(note).startswith("2 tensors are encoded anew as fp8 after decoding (int8 -> BF16: lightx2v)")
    assert "dequantize('f32') spares a rounding to BF16" in str(note)
    note_again([(tensor("d.weight", "BF16", 8, 8), scheme, WHY)], planning)
    assert len(planning.notes) == 1
