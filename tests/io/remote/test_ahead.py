"""Reading ahead: each byte that was announced is fetched once, no other one, in bounded memory."""

from __future__ import annotations

import random
import threading

import pytest

from transcode.errors import FormatError
from transcode.io.remote import ahead
from transcode.io.remote.ahead import Expected, Range, expected

DATA = random.Random(1).randbytes(300_000)


class Fetching:
    """Counts what is fetched, and what of it is not read yet."""

    def __init__(self):
        self.ranges = []
        self.lock = threading.Lock()
        self.error = None

    def __call__(self, begin, end, into, ended):
        with self.lock:
            self.ranges.append((begin, end))
        if self.error is not None:
            raise self.error
        into[:] = DATA[begin:end]

    @property
    def nbytes(self):
        return sum(end - begin for begin, end in self.ranges)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(ahead, "CHUNK", 1000)
    monkeypatch.setattr(ahead, "WINDOW", 5000)


def read(announced, key, begin, end):
    out = bytearray(end - begin)
    missing = announced.read(key, begin, end, memoryview(out))
    for low, high in missing:
        out[low - begin : high - begin] = DATA[low:high]
    assert bytes(out) == DATA[begin:end]
    return missing


def test_what_lies_together_is_fetched_together():
    fetch = Fetching()
    near = [(0, 300), (300, 900), (905, 2500), (9000, 9100)]
    announced = Expected([*(Range("f", fetch, *one) for one in near), Range("g", fetch, 9100, 9200)])
    announced.begin()
    assert announced.nbytes == 300 + 600 + 1595 + 100 + 100
    for begin, end in ((0, 300), (300, 900), (905, 2500)):
        assert read(announced, "f", begin, end) == []
    assert read(announced, "f", 9000, 9100) == read(announced, "g", 9100, 9200) == []
    assert sorted(fetch.ranges) == [(0, 1000), (1000, 2000), (2000, 2500), (9000, 9100), (9100, 9200)]
    announced.end()


@pytest.mark.parametrize("seed", range(20))
def test_random_reads_by_several_workers(seed):
    """Of several files, in tiles; some are read twice, some were not announced."""
    rng = random.Random(seed)
    wanted = []
    for key in "abc":
        at = 0
        while at < 60_000:
            begin = at + rng.choice([0, 0, 1, 500, 3000])
            at = begin + rng.choice([10, 700, 4000, 9000])
            wanted.append((key, begin, at))
    twice = [one for one in wanted if rng.random() < 0.3]
    order = wanted + twice
    fetch = Fetching()
    announced = Expected(Range(key, fetch, begin, end) for key, begin, end in order)
    announced.begin()
    tiles = [(key, low, min(low + 900, end)) for key, begin, end in order for low in range(begin, end, 900)]
    tiles.insert(7, ("a", 200_000, 200_500))
    missed = []
    peak = 0
    lock = threading.Lock()
    todo = iter(tiles)

    def work():
        nonlocal peak
        while True:
            with lock:
                tile = next(todo, None)
            if tile is None:
                return
            missed.extend(read(announced, *tile))
            peak = max(peak, announced._held)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(end - begin for _, begin, end in order)
    assert missed[0] == (200_000, 200_500) or (200_000, 200_500) in missed
    again = sum(end - begin for begin, end in missed) - 500
    assert total <= fetch.nbytes + again <= total * 1.02
    assert peak <= 2 * ahead.WINDOW + 4 * ahead.CHUNK
    announced.end()


def test_nothing_is_fetched_before_it_is_of_use():
    fetch = Fetching()
    announced = Expected([Range("f", fetch, 0, 100_000)])
    announced.begin()
    assert fetch.ranges == []
    read(announced, "f", 0, 10)
    announced.end()
    assert fetch.nbytes <= ahead.WINDOW + ahead.CHUNK


def test_errors_come_to_who_reads():
    fetch = Fetching()
    fetch.error = FormatError("gone")
    announced = Expected([Range("f", fetch, 0, 3000)])
    announced.begin()
    with pytest.raises(FormatError, match="gone"):
        read(announced, "f", 10, 20)
    announced.end()


def test_after_the_end_nobody_waits_and_nothing_is_expected():
    hold = threading.Event()

    def fetch(begin, end, into, ended):
        hold.wait(10)

    announced = Expected([Range("f", fetch, 0, 3000)])
    announced.begin()
    assert expected("f") is announced
    errors = []

    def work():
        try:
            announced.read("f", 0, 10, memoryview(bytearray(10)))
        except FormatError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    while not announced._threads:
        pass
    announced.end()
    thread.join(5)
    hold.set()
    assert errors == ["reading was given up"]
    assert expected("f") is None
