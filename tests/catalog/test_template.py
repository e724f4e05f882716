"""Templates of stored names: there, and back again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.catalog.template import Template
from transcode.errors import PlanError, RecipeError


@pytest.mark.parametrize(
    ("text", "name", "stored"),
    [
        ("{name}", "a.weight", "a.weight"),
        ("{name}", "a", "a"),
        ("{name}_scale", "a.weight", "a.weight_scale"),
        ("{stem}.weight_scale", "a.b.weight", "a.b.weight_scale"),
        ("{stem}.alpha", "weight.weight", "weight.alpha"),
        ("pre.{name}.post", "a", "pre.a.post"),
        ("scaled_fp8", "a.weight", "scaled_fp8"),
    ],
)
def test_spelling(text: str, name: str, stored: str) -> None:
    template = Template(text)
    assert template.spell(name) == stored
    assert str(template) == text
    if template.placeholder is not None:
        assert template.unspell(stored) == name
    else:
        assert template.unspell(stored) is None


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("{name}_scale", "a.weight"), ("{name}_scale", "_scal"), ("{stem}.scale", "a.scales"),
        ("pre.{name}", "pro.a"), ("ab{name}ba", "aba"),  # the ends must not overlap
    ],
)  # fmt: skip
def test_names_that_are_no_spelling(text: str, stored: str) -> None:
    assert Template(text).unspell(stored) is None


@pytest.mark.parametrize("name", ["a", "a.weights", "weight", "a.weight.b", "experts.down_proj"])
def test_a_stem_needs_a_weight(name: str) -> None:
    with pytest.raises(PlanError, match=r"its name does not end in \.weight") as caught:
        Template("{stem}.scale").spell(name)
    assert caught.value.tensor == name


@pytest.mark.parametrize("text", ["{stem}.{name}", "{name}{name}", "{}", "{Name}", "{stem}.{x}", "{0}"])
def test_other_placeholders_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"{text!r} is not a name template")):
        Template(text)


@given(
    before=st.text("ab._", max_size=4), after=st.text("ab._", max_size=4),
    kind=st.sampled_from(["name", "stem"]), name=st.text("ab._{}", min_size=0, max_size=8),
)  # fmt: skip
def test_undone(before: str, after: str, kind: str, name: str) -> None:
    template = Template(f"{before}{{{kind}}}{after}")
    full = f"{name}.weight" if kind == "stem" else name
    assert template.spell(full) == before + name + after
    assert template.unspell(template.spell(full)) == full
