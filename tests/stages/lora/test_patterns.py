"""Patterns of module names: what PEFT's own function says, and in bounded time."""

import time
from pathlib import Path

import pytest

from transcode.errors import FormatError
from transcode.stages.lora.patterns import Patterns

NAMES = ["q", "model.layers.0.q", "model.layers.10.q", "model.layers.0.attn.q_proj", "xq", "model.layersx0.q"]
FINE = [
    "q", "^q", "layers.0.q", "^model.layers.0.q", r"layers\.\d+\.q", r".*\.(?:q|attn\.q_proj)",
    r"[a-z]+\.layers.0.q", r"layers\.(0|10)\.q", r"(?P<a>layers)\.\d{1,2}\.q", "nothing",
    r"model\..*q(_proj)?", r"[^]]q",
]  # fmt: skip


@pytest.mark.parametrize("pattern", FINE)
def test_as_peft_matches(pattern):
    other = pytest.importorskip("peft.utils.other")
    patterns = Patterns(Path("x"), "alpha_pattern", {pattern: 1})
    for name in NAMES:
        wanted = other.get_pattern_key([pattern], name) if name != pattern else pattern
        assert (patterns.get(name) == 1) == (wanted == pattern), name


def test_the_first_that_fits():
    patterns = Patterns(Path("x"), "alpha_pattern", {r"layers\.0\.q": 1, "q": 2, "z": 3})
    assert [patterns.get(name) for name in NAMES] == [2, 1, 2, None, None, 2]
    assert patterns.unmatched(NAMES) == ["z"]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(", "is not valid"),
        ("(a+)+b", "repeats what repeats"),
        ("(a|aa)*b", "repeats what repeats or branches"),
        ("((a*)b)+", "repeats what repeats"),
        ("(?:x(?:a|b)c){2,}", "repeats what repeats or branches"),
        (r"(a)\1", "refers back"),
        ("(?P<n>a)(?P=n)", "refers back"),
        (".*.*.*.*z", "repeats more than 3 times"),
        ("a" * 2000, "longer than 1000"),
    ],
)
def test_refused(pattern, told):
    with pytest.raises(FormatError, match=f"alpha_pattern.*{told}"):
        Patterns(Path("adapter_config.json"), "alpha_pattern", {pattern: 1})


def test_what_is_not_refused_takes_bounded_time():
    begun = time.perf_counter()
    patterns = Patterns(Path("x"), "alpha_pattern", {"a*a*a*z": 1})
    assert patterns.get("a" * 60) is None
    assert time.perf_counter() - begun < 60
    slow = Patterns(Path("x"), "alpha_pattern", {"a*a*a*z": 1})
    slow._left = 0.0
    with pytest.raises(FormatError, match="takes more than 10 seconds"):
        slow.get("a" * 60)


def test_characters_in_brackets_repeat_nothing():
    assert Patterns(Path("x"), "alpha_pattern", {"([*+|(]q)+": 1}).get("*q+q") == 1
