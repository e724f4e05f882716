"""Indexes of which nothing is decided: which names they make one, and for which patterns that is right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.catalog.indexes import any_index, any_indexes, tells_indexes
from transcode.core.patterns import Pattern


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blocks.7.weight", "blocks.7.weight"),
        ("blocks.17.weight", "blocks.99.weight"),
        ("blocks.117.experts.42.w", "blocks.999.experts.99.w"),
        ("conv12.norm.1234567890", "conv12.norm.1234567890"),  # part of a word; more digits than an index has
        ("12", "99"),
        ("", ""),
    ],
)
def test_a_name_with_any_index(name, kind):
    assert any_index(name) == kind


WORDS = ["a", "0", "10", "123456789", "1234567890", "012", "x1", "", "²", "٣٤", "1 0", "10\n", "10\n11"]


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(".".join), max_size=8))
def test_many_names_at_once_are_as_one_by_one(names):
    assert list(any_indexes(names)) == [any_index(name) for name in names]


PATTERNS = [
    "blocks",
    "blocks.*.w",
    r"re:^blocks\.\d+\.",
    r"re:\.\d+\d+\d+\.",  # indexes of three digits, whichever
    r"re:blocks\.\d+\d+$",
    "blocks.1?.w",
    "blocks.11.w",
    r"re:blocks\.1\d\.",
    r"re:blocks\.[1-4]+\.w",
]


@pytest.mark.parametrize("text", PATTERNS)
@given(first=st.integers(0, 2000), second=st.integers(0, 2000))
def test_a_pattern_that_tells_no_indexes_fits_all_of_a_kind(text, first, second):
    pattern = Pattern(text)
    for name in (f"blocks.{first}.w", f"blocks.{first}.e.{second}.w", f"blocks.{first}"):
        if not tells_indexes(text):
            assert pattern.matches(name) == pattern.matches(any_index(name))


def test_patterns_of_one_index_tell_them():
    assert [text for text in PATTERNS if tells_indexes(text)] == PATTERNS[-4:]
