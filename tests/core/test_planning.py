"""What stages tell the user: each remark once, and rules that match nothing are refused."""

from __future__ import annotations

import pytest

from tests.expressions import NOTHING
from transcode.core.dtypes import DTYPES
from transcode.core.event import Event, Remark
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import plain
from transcode.errors import PlanError


def test_remarks_are_made_once_and_in_order():
    planning = Planning()
    for text in ("b", "a", "b", "c", "a"):
        planning.note(text)
        planning.warn(text.upper())
    assert list(planning.notes) == [Remark("b"), Remark("a"), Remark("c")]
    assert list(planning.warnings) == [Remark("B"), Remark("A"), Remark("C")]


def test_remarks_on_tensors_say_which_and_of_what_kind():
    planning = Planning()
    for name in ("v", "w", "v"):
        planning.warn(f"{name}: is odd", tensor=name, kind="odd")
        planning.note(f"{name} is even", tensor=name, kind="even")
    assert list(planning.warnings) == [Remark("v: is odd", "v", "odd"), Remark("w: is odd", "w", "odd")]
    assert list(planning.notes) == [Remark("v is even", "v", "even"), Remark("w is even", "w", "even")]


def test_what_is_dropped_is_remembered_with_its_reason():
    planning = Planning()
    tensor = plain("a", Spec(DTYPES["F32"], (2,)), NOTHING)
    planning.drop(tensor, Event("drop", "a"))
    planning.drop(tensor, Event("drop", "a"))
    assert planning.dropped == [(tensor, Event("drop", "a"))] * 2


def test_plans_share_nothing():
    one, other = Planning(), Planning()
    one.note("x")
    one.warn("y")
    one.dropped.append(None)  # type: ignore[arg-type]
    one.inputs.append(None)  # type: ignore[arg-type]
    assert (other.notes, other.warnings, other.dropped, other.inputs) == ({}, {}, [], [])


def test_one_rule_that_matches_nothing():
    with pytest.raises(PlanError) as caught:
        Planning().unmatched("drop", ["blokcs"], ["blocks.0.w", "blocks.1.w"])
    assert str(caught.value) == (
        "drop: 'blokcs' matches no tensor (names look like 'blocks.0.w', 'blocks.1.w'), did you mean"
        " 'blocks'?; "
        "correct it, or pass allow_unmatched=True"
    )


def test_several_rules_and_many_names():
    with pytest.raises(PlanError) as caught:
        Planning().unmatched("keep", iter(["a", "b"]), iter("wxyz"))
    assert str(caught.value).startswith("keep: 'a', 'b' match no tensor (names look like 'w', 'x', 'y');")
    with pytest.raises(PlanError, match="keep: 'a' matches no tensor;"):
        Planning().unmatched("keep", ["a"])


def test_allowed_it_is_a_warning():
    planning = Planning(allow_unmatched=True)
    planning.unmatched("drop", ["a"], ["n"])
    assert list(map(str, planning.warnings)) == ["drop: 'a' matches no tensor (names look like 'n')"]


@pytest.mark.parametrize("allowed", [True, False])
def test_rules_that_all_matched_are_nothing_to_tell(allowed):
    planning = Planning(allow_unmatched=allowed)
    planning.unmatched("drop", [], ["n"])
    assert not planning.warnings
