"""Trying again: how often, how long, from where."""

from __future__ import annotations

import threading

import pytest

from transcode.errors import FormatError
from transcode.io.remote import patience
from transcode.io.remote.store import Changed, Facts, Fault

DATA = bytes(range(256)) * 4


class Scripted:
    """A store whose attempts end as they are told to: after so many bytes, with an error."""

    def __init__(self, *script):
        self.script = list(script)
        self.asked = []

    def stream(self, key, begin, end, facts):
        self.asked.append((begin, end))
        count, error = self.script.pop(0) if self.script else (end - begin, None)
        for at in range(begin, min(begin + count, end), 100):
            yield DATA[at : min(at + 100, begin + count, end)]
        if error is not None:
            raise error


def fetched(store, begin=0, end=1024, ended=None):
    out = bytearray(end - begin)
    patience.fetch(store, "k", begin, end, Facts(len(DATA), "t"), memoryview(out), "s3://b/k", ended)
    return bytes(out)


def test_a_stream_is_taken_up_where_it_broke_off():
    store = Scripted((250, Fault("cut")), (0, Fault("busy")), (50, None))
    assert fetched(store, 10, 1000) == DATA[10:1000]
    assert store.asked == [(10, 1000), (260, 1000), (260, 1000), (310, 1000)]


def test_what_gets_on_is_never_given_up():
    store = Scripted(*[(100, Fault("cut"))] * 9)
    assert fetched(store) == DATA
    assert len(store.asked) == 10


def test_without_progress_it_is_given_up(monkeypatch):
    pauses = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: pauses.append(timeout))
    monkeypatch.setattr(patience, "FIRST", 1.0)
    with pytest.raises(FormatError, match=r"^s3://b/k: cannot be read: busy at https://h/x, 8 times; try"):
        fetched(Scripted(*[(0, Fault("busy at https://h/x?sig=1"))] * 20))
    assert all(2**n / 2 <= pause <= 2**n for n, pause in enumerate(pauses))
    assert len(pauses) == 7


def test_as_long_as_the_server_asks_for(monkeypatch):
    pauses = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: pauses.append(timeout))
    assert fetched(Scripted((0, Fault("429", 7)), (0, Fault("429", 0)))) == DATA
    assert pauses[0] == 7
    assert pauses[1] < 1
    with pytest.raises(FormatError, match="it asks to wait 3600 seconds: try again then"):
        fetched(Scripted((0, Fault("429", 3600))))


def test_what_has_changed_is_not_tried_again():
    store = Scripted((100, Changed("its ETag is new")))
    with pytest.raises(
        FormatError, match=r"k: was changed since its header was read: its ETag is new; start"
    ):
        fetched(store)
    assert len(store.asked) == 1


def test_more_than_was_asked_for_is_none_of_it():
    class Generous(Scripted):
        def stream(self, key, begin, end, facts):
            self.asked.append((begin, end))
            yield DATA[begin : end + (1 if len(self.asked) < 3 else 0)]

    assert fetched(Generous(), 5, 50) == DATA[5:50]


def test_who_has_ended_waits_no_more():
    ended = threading.Event()
    ended.set()
    with pytest.raises(FormatError, match="given up"):
        fetched(Scripted(), ended=ended)


def test_other_attempts():
    answers = [Fault("a"), Fault("b"), 5]

    def attempt():
        answer = answers.pop(0)
        if isinstance(answer, Fault):
            raise answer
        return answer

    assert patience.patiently("s3://b", attempt) == 5
