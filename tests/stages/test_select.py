"""Keeping and dropping by whole components."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import pytest
import torch

import transcode as tc
from transcode.errors import PlanError, RecipeError

NAMES = [
    "blocks.0.ca.weight",
    "blocks.1.scale",
    "blocks.10.scale",
    "vace_blocks.1.scale",
    "head.weight",
    "a.head.bias",
]


@pytest.mark.parametrize(
    ("patterns", "matched"),
    [
        (["ca"], [0]), (["blocks.1"], [1]), (["head"], [4, 5]), (["*.scale"], [1, 2, 3]), (["blocks.?"], [0, 1]),
        (["blocks.[01]"], [0, 1]), (["re:^blocks\\.1"], [1, 2]), (["*"], [0, 1, 2, 3, 4, 5]), (["head", "ca"], [0, 4, 5]),
        (["*blocks.1"], [1, 3]), (["head.weight"], [4]),
    ],
)  # fmt: skip
def test_keep_and_drop_are_complements(patterns, matched, save):
    path = save({name: torch.ones(1) for name in NAMES})
    kept = {t.name for t in tc.open(path) | tc.keep(*patterns)}
    assert kept == {NAMES[i] for i in matched}
    if len(matched) < len(NAMES):
        assert {t.name for t in tc.open(path) | tc.drop(*patterns)} == set(NAMES) - kept


def test_unmatched_and_invalid_patterns(save):
    path = save({name: torch.ones(1) for name in NAMES})
    for stage in (tc.keep, tc.drop):
        with pytest.raises(PlanError, match=r"'blocks\.2'"):
            list(tc.open(path) | stage("head", "blocks.2"))
        for bad in ("", "re:", "re:(", "a["):
            with pytest.raises(RecipeError):
                stage(bad)


def test_selecting_sees_the_names_of_its_place(save):
    path = save({"a.b": torch.ones(1), "c.d": torch.ones(1)})
    flow = tc.open(path) | tc.rename({"^a": "z"}) | tc.drop("z")
    assert [t.name for t in flow] == ["c.d"]
