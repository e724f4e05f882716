"""Expressions of ``formats/models`` mean what Python's mean, and nothing else is one."""

from __future__ import annotations

import pytest

from transcode.catalog.expression import Expression

VALUES = {"a": 7, "b": 2, "none": None, "flag": True, "listed": [1, 3]}


@pytest.mark.parametrize(
    "text",
    ["a * b + 1", "a - b", "a // b % 2", "not flag or a == 7", "a in listed",
     "b not in listed", "none is None", "a is not None and a > b", "listed[1] * b",
     "a != 7", "a <= 7", "a < b or a >= 7", "12"],
)  # fmt: skip
def test_as_python_has_it(text):
    assert Expression(text).of(VALUES) == eval(text, {}, dict(VALUES))


def test_nothing_listed_holds_nothing():
    assert Expression("a in none").of(VALUES) is False
    assert Expression("a not in none").of(VALUES) is True


def test_its_names():
    assert Expression("a * (b + a) > 3").names == {"a", "b"}


@pytest.mark.parametrize(
    "text", ["a(", "f(a)", "a.b", "lambda: 1", "a ** 9", "[a]", "a if b else 1", "a < b < 3"]
)
def test_nothing_else(text):
    with pytest.raises(ValueError, match=r"expression|not understood"):
        Expression(text)


@pytest.mark.parametrize("text", ["a // (b - 2)", "listed[5]", "a * missing", "none * 2"])
def test_values_that_allow_none(text):
    with pytest.raises((ArithmeticError, LookupError, TypeError)):
        Expression(text).of(VALUES)
