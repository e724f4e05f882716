"""Values as JSON and pickles: equal when they come back, and nothing else comes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from transcode.codecs.swizzle import Swizzle
from transcode.core import values
from transcode.core.dtypes import DTYPES
from transcode.core.event import Event, Remark
from transcode.core.expr import Constant
from transcode.core.spec import Part, Spec
from transcode.core.tensor import plain
from transcode.core.value import interned
from transcode.errors import FormatError
from transcode.schemes import SCHEMES, make

SPEC = Spec(DTYPES["F32"], (2, 3))
EVERYTHING = [
    None, True, 7, -1, 2**70, 0.1, 1e-310, float("inf"), "", "ü\n\x1b", (), (1, (2, ())), b"",
    bytes(range(256)), Path("/a/b"), Path("x"), np.float32(0.1), {"a": (1, b"2"), "": SPEC}, ["x", 1],
    SPEC, Part("codes", SPEC), *DTYPES.values(),
    plain("w", SPEC, Constant(SPEC, bytes(24)), fate=(Event("keep"), Event("lora", "a x 1", "b"))),
    Remark("a"), Remark("w: a", "w", "b"),
    *(make(name) for name in SCHEMES), Swizzle(), make("fp8", granularity="block", block=[32, 64]),
]  # fmt: skip


@pytest.mark.parametrize("value", EVERYTHING, ids=lambda value: repr(value)[:30])
def test_there_and_back(value):
    back = values.load(json.loads(json.dumps(values.dump(value))))
    assert back == value
    assert type(back) is type(value)
    again = pickle.loads(pickle.dumps(value))
    assert again == value
    assert type(again) is type(value)


def test_what_is_one_object_stays_one_and_is_written_once():
    parts = tuple(Part(role, SPEC) for role in ("a", "b", "a"))
    data = values.dump(parts)
    assert len(data["objects"]) == 3  # one spec, two parts
    back = values.load(data)
    assert back == parts
    assert back[0].spec is back[1].spec
    assert back[0] is back[2]


def test_interned_values_are_one():
    one, other = Spec(DTYPES["I8"], (71, 3)), Spec(DTYPES["I8"], (71, 3))
    assert one is not other
    assert interned(one) is interned(other)


@pytest.mark.parametrize("value", [object(), lambda: 1, np.zeros(3), {1, 2}, pytest.raises, Ellipsis])
def test_what_is_alive_is_no_value(value):
    with pytest.raises(TypeError):
        values.dump((value,))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"types": [], "objects": [], "root": {"o": 0}},
        {"types": ["os:system"], "objects": [[0, "true"]], "root": {"o": 0}},
        {"types": ["..os:system"], "objects": [], "root": None},
        {"types": ["core.values:Path"], "objects": [[0, "x"]], "root": {"o": 0}},
        {"types": ["core.spec:Spec"], "objects": [[0, {"dtype": "F32"}]], "root": {"o": 0}},
        {"types": ["core.spec:Spec"], "objects": [[0, {"dtype": "F99"}, []]], "root": {"o": 0}},
        {"types": ["plan.plan:Spec"], "objects": [[0, {"dtype": "F32"}, [2]]], "root": {"o": 0}},
        {"types": ["core.spec:Nobody"], "objects": [], "root": None},
        {"types": ["core.nowhere:Spec"], "objects": [], "root": None},
        {"types": ["plan.file:load"], "objects": [[0, "x"]], "root": {"o": 0}},
        {"types": [], "objects": [], "root": {"eval": "1"}},
        {"types": [], "objects": [], "root": {"o": 0, "path": "x"}},
        {"types": 3, "objects": [], "root": None},
        {"types": [], "objects": [[0]], "root": None},
    ],
)
def test_hostile_json_is_refused(data):
    with pytest.raises(FormatError):
        values.load(data)
