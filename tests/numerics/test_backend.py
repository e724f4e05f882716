"""Kernels go to the device of their thread."""

from __future__ import annotations

import threading

import pytest

from transcode.numerics import backend


def test_without_a_worker_the_function_itself_runs():
    kernel = backend.dispatched(lambda *arguments: arguments)
    assert kernel(1, 2) == (1, 2)


def test_a_worker_is_that_of_its_thread_alone(monkeypatch):
    table = pytest.importorskip("transcode.numerics.gpu.table", reason="without torch there is no GPU")
    monkeypatch.setattr(table, "call", lambda worker, name, arguments: (worker, name, arguments))

    def double(number):
        return 2 * number

    kernel = backend.dispatched(double)
    monkeypatch.setattr(backend._here, "worker", "mine", raising=False)
    assert kernel(3) == ("mine", "double", (3,))
    others = []
    thread = threading.Thread(target=lambda: others.append(kernel(3)))
    thread.start()
    thread.join()
    assert others == [6]


def test_the_worker_is_gone_behind_its_block():
    pytest.importorskip("torch", reason="without it there are no devices")
    block = backend.working("cpu", 1 << 20)
    block.__enter__()
    assert backend._here.worker.device.type == "cpu"
    assert not block.__exit__(KeyError, KeyError(), None)
    assert not hasattr(backend._here, "worker")
    with backend.working(None):
        assert not hasattr(backend._here, "worker")


def test_the_processor_is_no_gpu():
    assert backend.devices("cpu") == ()
