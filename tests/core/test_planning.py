"""What stages tell the user: each remark once, and rules that match nothing are refused."""

from __future__ import annotations

import pytest

from tests.expressions import NOTHING
from transcode.core.dtypes import DTYPES
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import plain
from transcode.errors import PlanError


def test_remarks_are_made_once_and_in_order():
    planning = Planning()
    for text in ("b", "a", "b", "c", "a"):
        planning.note(text)
        planning.warn(text.upper())
    assert planning.notes == ["b", "a", "c"]
    assert planning.warnings == ["B", "A", "C"]


def test_what_is_dropped_is_remembered_with_its_reason():
    planning = Planning()
    tensor = plain("a", Spec(DTYPES["F32"], (2,)), NOTHING)
    planning.drop(tensor, "drop: a")
    planning.drop(tensor, "drop: a")
    assert planning.dropped == [(tensor, "drop: a")] * 2


def test_plans_share_nothing():
    one, other = Planning(), Planning()
    one.note("x")
    one.warn("y")
    one.dropped.append(None)  # type: ignore[arg-type]
    one.inputs.append(None)  # type: ignore[arg-type]
    assert (other.notes, other.warnings, other.dropped, other.inputs) == ([], [], [], [])


def test_one_rule_that_matches_nothing():
    with pytest.raises(PlanError) as caught:
        Planning().unmatched("drop", ["blokcs"], ["blocks.0.w", "blocks.1.w"])
    assert str(caught.value) == (
        "drop: 'blokcs' matches no tensor (names look like 'blocks.0.w', 'blocks.1.w'); "
        "correct it, or pass --allow-unmatched"
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
    assert planning.warnings == ["drop: 'a' matches no tensor (names look like 'n')"]


@pytest.mark.parametrize("allowed", [True, False])
def test_rules_that_all_matched_are_nothing_to_tell(allowed):
    planning = Planning(allow_unmatched=allowed)
    planning.unmatched("drop", [], ["n"])
    assert planning.warnings == []
