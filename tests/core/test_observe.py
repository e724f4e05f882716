"""Looks at whole tensors: the same result for any order, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from transcode.core.dtypes import dtype
from transcode.core.observe import Observation
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec

VALUES = np.random.default_rng(7).standard_normal(1000)


def tiles(nbytes: int) -> Iterator[tuple[int, int]]:
    step = max(nbytes // 8, 1)
    for start in range(0, len(VALUES), step):
        yield start, min(start + step, len(VALUES))


def observation(calls: list[tuple[int, int]] | None = None) -> Observation[float]:
    def look(start: int, stop: int, scratch: Scratch) -> float:
        if calls is not None:
            calls.append((start, stop))
        return float(np.abs(VALUES[start:stop]).max())

    return Observation(Spec(dtype("F64"), (1000, 1)), tiles, look, max)


def test_a_direct_reader_looks_for_itself_and_only_once() -> None:
    calls: list[tuple[int, int]] = []
    seen = observation(calls)
    assert seen.value(Scratch()) == np.abs(VALUES).max()
    many = len(calls)
    assert seen.value(Scratch()) == np.abs(VALUES).max()
    assert len(calls) == many


@pytest.mark.parametrize("order", [1, -1])
def test_scheduled_tiles_in_any_order(order: int) -> None:
    seen = observation()
    todo = list(tiles(64))
    seen.schedule(len(todo))
    for start, stop in todo[::order]:
        seen.see(start, stop, Scratch())
    assert seen.value(Scratch()) == np.abs(VALUES).max()


def test_value_waits_for_a_tile_in_another_hand() -> None:
    seen = observation()
    todo = list(tiles(4000))
    seen.schedule(len(todo))
    for start, stop in todo[:-1]:
        seen.see(start, stop, Scratch())
    found: list[float] = []
    waiter = threading.Thread(target=lambda: found.append(seen.value(Scratch())))
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    assert not found
    seen.see(*todo[-1], Scratch())
    waiter.join(5)
    assert found == [np.abs(VALUES).max()]


def test_a_cancelled_look_wakes_those_who_wait() -> None:
    seen = observation()
    seen.schedule(2)
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            seen.value(Scratch())
        except RuntimeError as error:
            failed.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    seen.cancel()
    waiter.join(5)
    assert len(failed) == 1


def test_a_failing_look_fails_the_waiter_too() -> None:
    def look(start: int, stop: int, scratch: Scratch) -> float:
        raise ValueError("broken tile")

    seen: Observation[float] = Observation(Spec(dtype("F64"), (10, 1)), tiles, look, max)
    seen.schedule(1)
    with pytest.raises(ValueError, match="broken tile"):
        seen.see(0, 10, Scratch())
    with pytest.raises(RuntimeError, match="abandoned"):
        seen.value(Scratch())
