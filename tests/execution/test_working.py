"""What is done is made durable now and then, and seldom where that stops a disk's readers."""

import pytest

from transcode.execution import working


@pytest.mark.parametrize(
    ("took", "pause"), [(0.0, 10.0), (0.05, 10.0), (0.2, 10.0), (1.0, 20.0), (2.5, 50.0), (9.0, 60.0)]
)
def test_a_long_sync_is_followed_by_a_long_rest(took, pause):
    assert working._pause(took) == pause


def test_the_rest_is_taken_between_two_syncs(monkeypatch):
    clock, waited = [0.0], []

    class Ended:
        def wait(self, seconds):
            waited.append(seconds)
            return len(waited) > 3

        def set(self):
            pass

    class Staged:
        def keep(self):
            clock[0] += (0.0, 2.0, 0.01)[len(waited) - 1]

    class Thread:
        def __init__(self, target, **_):
            self.start = target

        def join(self):
            pass

    monkeypatch.setattr(working.threading, "Event", Ended)
    monkeypatch.setattr(working.threading, "Thread", Thread)
    monkeypatch.setattr(working.time, "monotonic", lambda: clock[0])
    with working._keeping(Staged()):
        pass
    assert waited == [10.0, 10.0, 40.0, 10.0]
