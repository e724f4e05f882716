"""Planning goes without the collector, and leaves it as it was."""

from __future__ import annotations

import gc

import pytest

from transcode.core.uncollected import uncollected


@pytest.fixture(autouse=True)
def collector():
    yield
    gc.enable()


def test_nothing_is_collected_within_and_all_is_as_before_behind_it():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_leaves_it_on():
    with pytest.raises(KeyError), uncollected():
        raise KeyError
    assert gc.isenabled()


def test_who_works_without_it_stays_without():
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()
