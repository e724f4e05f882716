"""How a convention says that parts are stored: short keys and codecs in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from transcode.catalog import strict
from transcode.catalog.parts import part_rules
from transcode.errors import RecipeError


@pytest.fixture
def rules(tmp_path: Path):
    def read(text: str):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        return part_rules(strict.load(path))

    return read


def names(rule):
    return [codec.config() for codec in rule.codecs]


def test_a_name_alone_is_stored_as_it_is(rules):
    rule = rules("{codes: '{stem}.weight'}")["codes"]
    assert rule.codecs == ()
    assert rule.name.spell("a.b.weight") == "a.b.weight"


@pytest.mark.parametrize(
    ("keys", "codecs"),
    [("packing: low_first", []), ("offset: 0", []), ("reciprocal: false", []), ("layout: rows", []),
     ("dtype: U8", [{"codec": "view", "dtype": "U8"}]),
     # Whatever the order of the keys: that of the bytes is one.
     ("packing: high_first, offset: 8",
      [{"codec": "offset", "by": 8}, {"codec": "nibbles", "order": "high_first"}]),
     ("dtype: U8, layout: swizzled", [{"codec": "swizzle_128x4"}, {"codec": "view", "dtype": "U8"}]),
     ("shape: [1, 1], reciprocal: true", [{"codec": "reciprocal"}, {"codec": "reshape", "shape": [1, 1]}])],
)  # fmt: skip
def test_short_keys_stand_for_codecs_in_their_order(keys, codecs, rules):
    rule = rules(f"{{scale: {{name: '{{stem}}.s', {keys}}}}}")["scale"]
    assert names(rule) == codecs


def test_codecs_by_name_and_with_options(rules):
    rule = rules("{codes: {name: '{stem}.w', codecs: [{codec: offset, by: 8}, {codec: view, dtype: I8}]}}")
    assert names(rule["codes"]) == [{"codec": "offset", "by": 8}, {"codec": "view", "dtype": "I8"}]
    assert names(rules("{scale: {name: '{stem}.s', codecs: [reciprocal]}}")["scale"]) == [
        {"codec": "reciprocal"}
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [("{offset: 8}", "name"), ("{name: x, offset: 7}", "7 is not half the range"),
     ("{name: x, shape: [2, 3]}", "only one element can be reshaped"),
     ("{name: x, packing: middle}", "middle"), ("{name: x, codecs: [twist]}", "twist"),
     ("{name: x, dtype: U8, codecs: [reciprocal]}", "cannot stand beside dtype"),
     ("{name: x, colour: red}", "colour"),
     ("{name: x, layout: swizzled, reciprocal: true}", "holds nothing")],
)  # fmt: skip
def test_mistakes_are_refused_with_their_line(entry, message, rules):
    with pytest.raises(RecipeError, match=message) as error:
        rules(f"codes: {entry}")
    assert "x.yaml" in str(error.value)
