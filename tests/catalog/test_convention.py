"""Conventions as values: which rule, part and marker belongs to a scheme."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from transcode.catalog.convention import Convention, Files, Marker, PartRule, SchemeRule
from transcode.catalog.limits import Limit
from transcode.catalog.template import Template
from transcode.errors import RecipeError


def rule(name: str) -> PartRule:
    return PartRule(Template(name))


INT8 = SchemeRule("int8", parts={"codes": rule("{stem}.weight"), "scale": rule("{stem}.weight_scale")})
FP8 = SchemeRule("fp8", parts={"codes": rule("{stem}.weight"), "scale": rule("{stem}.scale")})


def convention(*schemes: SchemeRule) -> Convention:
    return Convention("mine", "Mine", "mine.yaml", {one.scheme: one for one in schemes}, Files(), {})


def test_the_rule_of_a_scheme():
    assert convention(INT8, FP8).scheme("fp8") is FP8
    with pytest.raises(RecipeError, match="no spelling for scheme 'nvfp4'") as error:
        convention(INT8, FP8).scheme("nvfp4")
    assert "int8, fp8" in error.value.hint
    with pytest.raises(RecipeError) as error:
        convention().scheme("int8")
    assert "plain tensors only" in error.value.hint


def test_a_part_without_its_scheme_is_clear_where_all_agree():
    mine = convention(INT8, FP8)
    assert mine.part("codes").name.spell("a.weight") == "a.weight"
    assert mine.part("scale", "fp8") is FP8.parts["scale"]
    assert mine.part("values").codecs == ()
    with pytest.raises(RecipeError, match="spells the scale of each scheme differently"):
        mine.part("scale")
    with pytest.raises(RecipeError, match="has no place for the zero_point of int8") as error:
        mine.part("zero_point", "int8")
    assert "codes, scale" in error.value.hint


def test_options_outside_what_is_read_are_named_with_their_values():
    scheme_rule = SchemeRule("x", reads={"block": ([128, 128],), "symmetric": (True,)})
    assert scheme_rule.unread(SimpleNamespace(block=(128, 128), symmetric=True)) == {}
    assert scheme_rule.unread(SimpleNamespace(block=(1, 2), symmetric=True)) == {"block": [1, 2]}


def test_limits_and_markers_hold_for_some_options():
    marker = Marker(Template("marker"), "U8", (1,), b"\1", {"symmetric": False})
    everywhere = Marker(Template("{stem}.m"), "U8", (1,), b"\1")
    scheme_rule = SchemeRule(
        "x",
        rows=16,
        columns=32,
        limits=(Limit(rows=64, when={"symmetric": False}),),
        markers=(marker, everywhere),
    )
    yes, no = SimpleNamespace(symmetric=False), SimpleNamespace(symmetric=True)
    assert [one.rows for one in scheme_rule.limits_for(yes)] == [16, 64]
    assert [(one.rows, one.columns) for one in scheme_rule.limits_for(no)] == [(16, 32)]
    assert scheme_rule.markers_for(yes) == (marker, everywhere)
    assert scheme_rule.markers_for(no) == (everywhere,)
    assert (marker.everywhere, everywhere.everywhere, scheme_rule.marked) == (False, True, True)
    assert not SchemeRule("x", markers=(marker,)).marked


def test_what_is_written_is_the_first_reading():
    other = {"codes": rule("{stem}.w")}
    assert SchemeRule("x", parts=INT8.parts, also=(other,)).readings == (INT8.parts, other)
