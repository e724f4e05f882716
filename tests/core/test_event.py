"""Events and remarks: what they say, by what they are told apart, and that many of them take little room."""

from __future__ import annotations

import pickle

import pytest

from transcode.core import values
from transcode.core.dtypes import DTYPES
from transcode.core.event import Event, Reason, Remark, deed
from transcode.core.expr import Constant
from transcode.core.spec import Spec
from transcode.core.tensor import plain


@pytest.mark.parametrize(
    ("event", "label", "text"),
    [
        (Event("keep"), "keep", "keep"),
        (Event("keep", "a: b"), "keep", "keep: a: b"),
        (Event("cast", "F32 -> BF16"), "cast", "cast: F32 -> BF16"),
        (Event("quantize", "target ffn", "int8"), "quantize int8", "quantize int8: target ffn"),
        (
            Event("dequantize", "as neutral stores it", "int8 -> F32"),
            "dequantize int8 -> F32",
            "dequantize int8 -> F32: as neutral stores it",
        ),
        (Event("absorb", "went into w"), "drop", "drop: went into w"),
        (Event("gather", "it was not contiguous"), "gathered", "gathered: it was not contiguous"),
        (Event("convert", "no rule"), "convert", "convert: no rule"),
        (Event("convert", "rows 0 to 3 of w", "split"), "split", "split: rows 0 to 3 of w"),
    ],
    ids=str,
)
def test_what_events_say(event, label, text):
    assert event.label == label
    assert str(event) == text


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([], "keep"),
        ([Event("convert", "no rule")], "keep"),
        ([Event("rename", "v")], "rename"),
        ([Event("rename", "v"), Event("convert", "rows", "split")], "split"),
        ([Event("convert", "rows", "join"), Event("quantize", "why", "int8")], "quantize int8"),
    ],
    ids=str,
)
def test_what_is_done_in_a_word(kinds, expected):
    assert deed(kinds) == expected


def test_what_remarks_say():
    assert (str(Remark("a: b")), Remark("a: b").rest) == ("a: b", "a: b")
    about = Remark("w: is odd", "w", "odd")
    assert (str(about), about.rest) == ("w: is odd", "is odd")
    within = Remark("w, v: share", "w", "shared")
    assert (str(within), within.rest) == ("w, v: share", "w, v: share")


def test_they_are_values():
    for one in (Event("keep", "a"), Event("cast"), Remark("a"), Remark("w: a", "w", "b")):
        assert pickle.loads(pickle.dumps(one)) == values.load(values.dump(one)) == one
        assert len({one, pickle.loads(pickle.dumps(one))}) == 1
        with pytest.raises(AttributeError):
            one.text = "other"
        assert not hasattr(one, "__dict__")


def test_what_happens_to_many_is_held_once():
    spec = Spec(DTYPES["F32"], (2,))
    tensors = [
        plain(f"{number}", spec, Constant(spec, bytes(8))).evolve(did=Event("quantize", "a reason", "int8"))
        for number in range(50)
    ]
    assert len({id(event) for tensor in tensors for event in tensor.fate}) == 1
    assert pickle.dumps(tensors).count(b"a reason") == 1


def test_reasons_are_told_apart_by_kind_and_label_and_read_in_full():
    chosen = Reason("target", "target ffn", "ffn")
    misfit = Reason("misfit", "65 columns are not a multiple of 32", although=chosen)
    assert str(misfit) == "65 columns are not a multiple of 32 (target ffn)"
    assert str(chosen) == "target ffn"
    assert misfit.alike == Reason("misfit", "33 columns are not a multiple of 32").alike
    assert chosen.alike != Reason("target", "target ffn", "attn").alike
    assert pickle.loads(pickle.dumps(misfit)) == misfit
