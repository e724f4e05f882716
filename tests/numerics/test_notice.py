"""A word when kernels are compiled, and one when they cannot be kept."""

from __future__ import annotations

import warnings

import pytest

from transcode.numerics import notice


@pytest.fixture(autouse=True)
def silence(monkeypatch):
    for name, value in (("_tell", None), ("_warn", None), ("_told_of_trouble", False)):
        monkeypatch.setattr(notice, name, value)


def test_one_word_to_a_block_and_none_behind_it():
    heard = []
    with notice.compiling(lambda: heard.append("outer")):
        notice.compile_starts()
        notice.compile_starts()
        with notice.compiling(lambda: heard.append("inner")):
            notice.compile_starts()
    notice.compile_starts()
    assert heard == ["outer", "inner"]


def test_nothing_is_said_where_nothing_is_compiled_even_after_an_error():
    heard = []
    with pytest.raises(KeyError), notice.compiling(lambda: heard.append(1)):
        raise KeyError
    notice.compile_starts()
    assert heard == []


def test_the_first_trouble_serves_for_all():
    heard = []
    notice.on_trouble(heard.append)
    notice.trouble("a")
    notice.trouble("b")
    assert heard == ["a"]


def test_without_a_listener_it_is_a_warning():
    with pytest.warns(RuntimeWarning, match="^a$"):
        notice.trouble("a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notice.trouble("b")
