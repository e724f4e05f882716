"""Arrays that are kept: one computation for all who want it, no more memory than allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from transcode.core.cache import MatrixCache


def numbers(size: int) -> Callable[[], np.ndarray]:
    return lambda: np.zeros(size, np.uint8)


def test_beyond_the_limit_the_least_recently_used_goes() -> None:
    kept, made = MatrixCache(limit=100), []

    def get(key: str, size: int = 40) -> None:
        def make() -> np.ndarray:
            made.append(key)
            return np.zeros(size, np.uint8)

        assert kept.get(key, make).nbytes == size

    get("a"), get("b"), get("a"), get("c")  # b goes
    assert made == ["a", "b", "c"]
    get("a"), get("b")
    assert made == ["a", "b", "c", "b"]
    get("huge", 1000), get("huge", 1000)  # the last one stays whatever its size
    assert made == ["a", "b", "c", "b", "huge"]
    get("a")
    assert made[-1] == "a"


def test_so_many_stay_whatever_their_size() -> None:
    kept = MatrixCache(0, 3)
    first = [kept.get(key, lambda: {"scale": np.zeros(100)}) for key in range(3)]
    assert all(kept.get(key, numbers(1)) is first[key] for key in range(3))
    kept.get(3, numbers(1))
    assert kept.get(0, numbers(1)) is not first[0]


def test_who_wants_the_same_waits_and_others_do_not() -> None:
    kept, begun, go, calls = MatrixCache(), threading.Event(), threading.Event(), []

    def slow() -> np.ndarray:
        calls.append(1)
        begun.set()
        assert go.wait(5)
        return np.arange(3)

    found: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: found.append(kept.get("a", slow)), daemon=True) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(5)
    assert kept.get("b", numbers(2)).nbytes == 2
    go.set()
    for thread in threads:
        thread.join(5)
    assert len(found) == 4
    assert all(one is found[0] for one in found)
    assert calls == [1]


def test_a_failure_is_not_remembered() -> None:
    kept = MatrixCache()

    def fail() -> np.ndarray:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept.get("a", fail)
    assert kept.get("a", numbers(5)).nbytes == 5
