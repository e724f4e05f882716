"""Renaming: rules in order, an exact map first, nothing unmatched in silence."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import transcode as tc
from tests.expressions import NOTHING
from transcode.core.dtypes import dtype
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import plain
from transcode.errors import PlanError, RecipeError


def names_after(stage, names: list[str]) -> list[str]:
    tensors = [plain(name, Spec(dtype("F32"), (1,)), NOTHING) for name in names]
    return [tensor.name for tensor in stage.apply(tensors, Planning(allow_unmatched=True))]


NAMES = ["blocks.0.attn.q.weight", "blocks.10.attn.q.weight", "module.head.weight"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([r"^blocks\.", r"attn", r"\d+", r"(\w+)\.weight$"]),
            st.sampled_from(["", "x", "a.b"]),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=50, deadline=None)
def test_rules_are_re_sub_one_after_another(rules):
    expected = []
    for name in NAMES:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        expected.append(name)
    assert names_after(tc.rename(rules), NAMES) == expected


def test_the_exact_map_goes_first_and_alone():
    stage = tc.rename({"attn": "self_attn"}, names={"blocks.0.attn.q.weight": "attn.special"})
    assert names_after(stage, NAMES)[:2] == ["attn.special", "blocks.10.self_attn.q.weight"]


def test_a_swap_is_no_collision(save, tmp_path):
    path = save({"a": torch.ones(1), "b": torch.zeros(1)})
    tc.open(path) | tc.rename(names={"a": "b", "b": "a"}) | tc.write(tmp_path / "o.safetensors")
    flow = tc.open(tmp_path / "o.safetensors")
    assert (flow["a"].numpy()[0], flow["b"].numpy()[0]) == (0, 1)


def test_unmatched_rules_are_told(save):
    path = save({"a": torch.ones(1)})
    with pytest.raises(PlanError, match="'nothing'"):
        list(tc.open(path) | tc.rename({"nothing": "x"}))
    with pytest.raises(PlanError, match="'whole'"):
        list(tc.open(path) | tc.rename(names={"whole": "x"}))


@pytest.mark.parametrize(("pattern", "replacement"), [("(", "x"), ("a", r"\1"), ("a", r"\g<n>"), ("*", "x")])
def test_what_is_no_rule(pattern, replacement):
    with pytest.raises(RecipeError):
        tc.rename({pattern: replacement})
