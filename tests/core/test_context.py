"""Looks at whole tensors: the same result for any order, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from transcode.core.context import Abandoned, Context, Observation, Run, Statistic
from transcode.core.dtypes import dtype
from transcode.core.spec import Spec

VALUES = np.random.default_rng(7).standard_normal(1000)


def tiles(nbytes: int) -> Iterator[tuple[int, int]]:
    step = max(nbytes // 8, 1)
    for start in range(0, len(VALUES), step):
        yield start, min(start + step, len(VALUES))


class Largest(Statistic[float]):
    """The largest magnitude of VALUES; ``look`` may be another."""

    spec = Spec(dtype("F64"), (1000, 1))

    def __init__(self, look: Callable[[int, int, Context], float]) -> None:
        self.look = look

    def tiles(self, nbytes: int) -> Iterator[tuple[int, int]]:
        return tiles(nbytes)

    def look(self, start: int, stop: int, context: Context) -> float:
        raise NotImplementedError

    def merge(self, one: float, other: float) -> float:
        return max(one, other)


def observation(calls: list[tuple[int, int]] | None = None) -> Observation[float]:
    def look(start: int, stop: int, scratch: Context) -> float:
        if calls is not None:
            calls.append((start, stop))
        return float(np.abs(VALUES[start:stop]).max())

    return Observation(Largest(look))


def value(seen: Observation[float]) -> float:
    """What a reader gets, who must not wait for ever: here it would be the whole suite that waits."""
    found: list[float | BaseException] = []

    def ask() -> None:
        try:
            found.append(seen.value(Context()))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(5)
    assert found, "a reader waits for ever"
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def test_a_direct_reader_looks_for_itself_and_only_once() -> None:
    calls: list[tuple[int, int]] = []
    seen = observation(calls)
    assert value(seen) == np.abs(VALUES).max()
    many = len(calls)
    assert value(seen) == np.abs(VALUES).max()
    assert len(calls) == many


def test_what_was_forgotten_is_looked_at_again() -> None:
    calls: list[tuple[int, int]] = []
    statistic = observation(calls).statistic
    run = Run()
    seen = run.observation(statistic)
    assert value(seen) == np.abs(VALUES).max()
    many = len(calls)
    run.forget(statistic)
    run.forget(statistic)
    assert run.observation(statistic) is not seen
    assert value(seen) == np.abs(VALUES).max()
    assert len(calls) == 2 * many


@pytest.mark.parametrize("order", [1, -1])
def test_scheduled_tiles_in_any_order(order: int) -> None:
    seen = observation()
    todo = list(tiles(64))
    seen.schedule(len(todo))
    for start, stop in todo[::order]:
        seen.see(start, stop, Context())
    assert value(seen) == np.abs(VALUES).max()


@pytest.fixture
def begin() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    """Begin threads that nobody has to wait for: should a test fail, those that wait for ever die with us."""
    begun: list[threading.Thread] = []

    def call(action: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=action, daemon=True)
        begun.append(thread)
        thread.start()
        return thread

    yield call
    for thread in begun:
        thread.join(5)
    assert not [thread for thread in begun if thread.is_alive()], "somebody waits for ever"


def test_value_waits_for_a_tile_in_another_hand(begin) -> None:
    seen = observation()
    todo = list(tiles(4000))
    seen.schedule(len(todo))
    for start, stop in todo[:-1]:
        seen.see(start, stop, Context())
    found: list[float] = []
    waiter = begin(lambda: found.append(seen.value(Context())))
    waiter.join(0.05)
    assert waiter.is_alive()
    assert not found
    seen.see(*todo[-1], Context())
    waiter.join(5)
    assert found == [np.abs(VALUES).max()]


def test_a_cancelled_look_wakes_those_who_wait(begin) -> None:
    seen = observation()
    seen.schedule(2)
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            seen.value(Context())
        except Abandoned as error:
            failed.append(error)

    waiters = [begin(wait) for _ in range(3)]
    waiters[0].join(0.05)
    assert not failed
    seen.cancel()
    for waiter in waiters:
        waiter.join(5)
    assert len(failed) == 3


def test_cancelling_what_is_complete_changes_nothing() -> None:
    seen = observation()
    assert value(seen) == np.abs(VALUES).max()
    seen.cancel()
    assert value(seen) == np.abs(VALUES).max()


def test_what_was_cancelled_can_be_scheduled_again() -> None:
    seen = observation()
    seen.schedule(1)
    seen.cancel()
    with pytest.raises(Abandoned):
        value(seen)
    seen.schedule(1)
    seen.see(0, 1000, Context())
    assert value(seen) == np.abs(VALUES).max()


def test_many_workers_and_many_who_wait(begin) -> None:
    """Whoever asks gets the statistics of all tiles, whoever looked at them."""
    seen = observation()
    todo = list(tiles(64))
    seen.schedule(len(todo))
    lock = threading.Lock()
    found: list[float] = []

    def work() -> None:
        while True:
            with lock:
                tile = todo.pop() if todo else None
            if tile is None:
                break
            seen.see(*tile, Context())
        found.append(seen.value(Context()))

    for thread in [begin(work) for _ in range(8)]:
        thread.join(5)
    assert found == [np.abs(VALUES).max()] * 8


def test_a_failing_look_fails_the_waiter_too() -> None:
    def look(start: int, stop: int, scratch: Context) -> float:
        raise ValueError("broken tile")

    seen: Observation[float] = Observation(Largest(look))
    seen.schedule(1)
    with pytest.raises(ValueError, match="broken tile"):
        seen.see(0, 10, Context())
    with pytest.raises(Abandoned, match="abandoned"):
        value(seen)
