"""Patterns fit whole components of a name, never a substring."""

from __future__ import annotations

import fnmatch
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.core.patterns import Pattern
from transcode.errors import RecipeError

CASES = [
    ("head", "head.head.weight", True),
    ("head", "heads.0", False),
    ("head", "my_head.0", False),
    ("head", "head", True),
    ("blocks.0", "blocks.0.ffn.0.weight", True),
    ("blocks.0", "model.blocks.0.ffn.0.weight", True),
    ("blocks.0", "blocks.01.ffn", False),
    ("blocks.0", "blocks.10.ffn", False),
    ("blocks.0", "vace_blocks.0.ffn", False),
    ("ca", "blocks.0.scale", False),
    ("ca", "ca.0.weight", True),
    ("ca", "scale_shift_table", False),
    ("blocks.*.weight", "blocks.0.ffn.0.weight", True),
    ("blocks.*.weight", "blocks.0.ffn.0.bias", False),
    ("blocks.*.weight", "blocks.0.ffn.0.weight_scale", False),
    ("*", "anything.at.all", True),
    ("*", "", True),
    ("*.weight", "a.weight", True),
    ("*.weight", "weight", False),
    ("norm*", "blocks.0.norm3.weight", True),
    ("norm*", "blocks.0.subnorm.weight", False),
    ("*norm*", "blocks.0.subnorm.weight", True),
    ("blocks.?", "blocks.7.w", True),
    ("blocks.?", "blocks.17.w", False),
    ("a?b", "a.b", False),
    ("blocks.[0-3]", "blocks.2.w", True),
    ("blocks.[0-3]", "blocks.4.w", False),
    ("blocks.[!0-3]", "blocks.4.w", True),
    ("blocks.[!0-3]", "blocks.2.w", False),
    ("a[!x]b", "a.b", False),
    ("a[.]b", "a.b", False),
    ("a[]]b", "a]b", True),
    ("a[^]b", "a^b", True),
    ("a.b", "axb", False),
    ("a+b", "a+b", True),
    ("a+b", "aab", False),
    ("re:ca", "blocks.0.scale", True),
    (r"re:^blocks\.\d+\.ffn", "blocks.12.ffn.0.weight", True),
    (r"re:^blocks\.\d+\.ffn", "vace_blocks.12.ffn.0.weight", False),
    (r"re:weight$", "a.weight", True),
    (r"re:weight$", "a.weight_scale", False),
]


@pytest.mark.parametrize(("text", "name", "expected"), CASES)
def test_fits(text: str, name: str, expected: bool) -> None:
    assert Pattern(text).matches(name) is expected


@pytest.mark.parametrize("text", ["", "re:", ".", "re:(", "re:[z-a]", "blocks.[0-", "[z-a]", "re:*"])
def test_bad_patterns_are_refused(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Pattern(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_is_a_value() -> None:
    assert Pattern("a.*") == Pattern("a.*")
    assert len({Pattern("a"), Pattern("a"), Pattern("b")}) == 2
    assert str(Pattern("re:x+")) == "re:x+"
    assert repr(Pattern("a")) == "Pattern(text='a')"
    assert pickle.loads(pickle.dumps(Pattern("a.[0-9]"))).matches("a.3")


parts = st.text("ab0_", min_size=1, max_size=3)
names = st.lists(parts, min_size=1, max_size=5).map(".".join)


@given(names, st.data())
def test_any_run_of_components_fits(name: str, data: st.DataObject) -> None:
    pieces = name.split(".")
    start = data.draw(st.integers(0, len(pieces) - 1))
    stop = data.draw(st.integers(start + 1, len(pieces)))
    assert Pattern(".".join(pieces[start:stop])).matches(name)


@given(names, names)
def test_literals_fit_only_whole_components(pattern: str, name: str) -> None:
    wanted, pieces = pattern.split("."), name.split(".")
    runs = (pieces[i : i + len(wanted)] for i in range(len(pieces)))
    assert Pattern(pattern).matches(name) is (wanted in runs)


@given(st.text("a.*", min_size=1, max_size=6).filter(lambda text: text.strip(".")), names)
def test_stars_agree_with_fnmatch_on_every_run(glob: str, name: str) -> None:
    pieces = name.split(".")
    runs = [".".join(pieces[i:j]) for i in range(len(pieces)) for j in range(i, len(pieces) + 1)]
    # A run may be empty (as "*" allows) at either end of a component as well.
    expected = any(fnmatch.fnmatchcase(run, glob) for run in runs if run)
    if expected:
        assert Pattern(glob).matches(name)
    elif not glob.startswith((".", "*")) and not glob.endswith((".", "*")):
        assert not Pattern(glob).matches(name)


@given(
    st.text("ab.*?[]!", min_size=1, max_size=12).filter(lambda glob: glob.strip(".")),
    st.text("ab.", max_size=14),
)
def test_globs_as_a_matcher_that_tries_everything(glob, name):
    """Against the definition: some run of whole components is fitted, character by character."""
    try:
        pattern = Pattern(glob)
    except RecipeError:
        return
    units, at = [], 0
    while at < len(glob):
        if glob[at] == "[":
            end = glob.index("]", at + 2 + (glob[at + 1 : at + 2] == "!"))
            units.append(glob[at : end + 1])
            at = end + 1
        else:
            units.append(glob[at])
            at += 1

    def one(unit: str, char: str) -> bool:
        if unit.startswith("["):
            inner = unit[1:-1]
            return char != "." and (char not in inner[1:] if inner[0] == "!" else char in inner)
        return char != "." if unit == "?" else char == unit

    def fits(units: list[str], text: str) -> bool:
        ends = {0}
        for unit in units:
            if unit == "*":
                ends = set(range(min(ends), len(text) + 1)) if ends else ends
            else:
                ends = {end + 1 for end in ends if end < len(text) and one(unit, text[end])}
        return len(text) in ends

    starts = [0, *(i + 1 for i, char in enumerate(name) if char == ".")]
    stops = [*(i for i, char in enumerate(name) if char == "."), len(name)]
    expected = any(fits(units, name[a:b]) for a in starts for b in stops if a <= b)
    assert pattern.matches(name) == expected, units


@pytest.mark.parametrize("text", ["a.*", "re:^a\\.", "b", "*.b", "re:b$"])
def test_among_many_names_as_one_by_one(text):
    names = ["a.b", "b.a", "ab", "a", "b", "a.c.b", ""]
    pattern = Pattern(text)
    assert pattern.among(names) == [name for name in names if pattern.matches(name)]


def test_among_names_that_are_too_long():
    with pytest.raises(RecipeError, match="could take too long"):
        Pattern("re:.*a.*b.*c.*d").among(["a", "x" * 5000])
