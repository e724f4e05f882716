"""What of an expression takes long: exponential ones are told, others weighed by repeats and choices."""

from __future__ import annotations

import re
import time
from math import comb

import pytest

from transcode.core.patterns import Pattern
from transcode.core.repeats import weigh
from transcode.errors import RecipeError
from transcode.stages.rename import Rename

EXPONENTIAL = [
    "(a+)+b", "(a|aa)*b", "((a*)b)+", "(?:x(?:a|b)c){2,}", "(a?a)+b", "((?(1)a*|b))*c", "(?x:(a+) +)b",
    "(.*\\.)+x", r"([^.]+\.?)+x", "(?P<n>(?:a*))*b", "(?:(?P<n>a)(?P=n)*)*b", "a" * 1001,
]  # fmt: skip
LIGHT = {  # expression -> (repeats, choices)
    r"\.weight$": (0, 1),
    r"^blocks\.\d+\.ffn\.\d+\.\w+\.weight$": (0, 1),  # each can end at its dot alone
    r"[^.]*\.x": (0, 1),
    r"[a-z]+_\d{2}": (0, 1),
    r".*\.x": (1, 1),
    r"\d+": (1, 1),
    r"\d+\.?x": (1, 2),
    r"a*a*a*z": (2, 1),
    r".*?attn.*to_q": (2, 1),
    r"^(?:q|k|v)\.(a|b)x?$": (0, 12),
    r"(ab)*c": (1, 1),
    r"\d++x": (0, 1),  # possessive: gives nothing back
    r".*+x": (1, 1),
    r"x{2,3}+y?+z": (1, 2),
    r"[*+|(]x": (0, 1),
    r"(\w+)\1": (2, 1),
    r"(?:[^.]+\.)+x": (1, 1),  # each time in one way, so often as there are dots
    r"^(?:[^.]+\.){2}(?:self_attn|ffn)(?:\.|$)": (1, 4),
}


@pytest.mark.parametrize("expression", EXPONENTIAL)
def test_what_could_take_for_ever_is_refused(expression):
    assert weigh(expression).why is not None
    for make in (lambda: Pattern(f"re:{expression}"), lambda: Rename(((expression, "x"),))):
        with pytest.raises(RecipeError, match="so it could take for ever"):
            make()


@pytest.mark.parametrize("expression", LIGHT)
def test_what_counts(expression):
    re.compile(expression)
    weight = weigh(expression)
    assert (weight.why, weight.repeats, weight.choices) == (None, *LIGHT[expression])


def test_a_name_too_long_for_an_expression_is_refused_before_it_is_tried():
    """Five repeats share 4096 characters out in 10**18 ways: to try them would take centuries."""
    pattern = Pattern("re:a*a*a*a*a*z")
    assert pattern.matches("aaz")
    with pytest.raises(RecipeError, match="could take too long on a name of 4096 characters"):
        pattern.matches("a" * 4096)
    with pytest.raises(RecipeError, match="too long"):
        list(Rename((("a*a*a*a*a*z", "x"),)).apply([type("T", (), {"name": "a" * 4096})()], None))
    assert comb(4096 + 5, 5) > 10**15
    # Names as models have them are matched by any expression that a person writes.
    assert not Pattern("re:.*blocks.*attn.*z").matches(
        "model.diffusion_model.blocks.10.self_attn." + "q" * 80
    )


def test_options_alone_take_long():
    """Twice the ways for each: 30 of them are too many whatever the name."""
    with pytest.raises(RecipeError, match="too long"):
        Pattern(f"re:{'a?' * 30}{'a' * 30}").matches("a" * 30)
    with pytest.raises(RecipeError, match="too long"):
        Pattern(f"re:{'(a|a)' * 30}z").matches("a" * 30)


@pytest.mark.parametrize("glob", ["a*" * 12 + "z", "*a" * 12 + "*z", "a.*a*" * 6 + "?z", "*", "a*"])
@pytest.mark.parametrize("name", ["a" * 4096, "a." * 2048])
def test_globs_take_linear_time(glob, name):
    """Twelve stars share 4096 characters out in 10**35 ways, of which one is tried."""
    began = time.process_time()
    for _ in range(20):
        Pattern(glob).matches(name)
    assert time.process_time() - began < 20  # it takes milliseconds
