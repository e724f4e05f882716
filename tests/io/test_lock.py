"""One editor at a time, between processes too."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from transcode.io.lock import Busy, locked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks are those of flock(2)")


def test_a_second_editor_waits_no_longer_than_it_is_told(tmp_path):
    path = str(tmp_path / "a")
    open(path, "w").close()
    busy = pytest.raises(Busy, match="another process is editing")
    with locked(path, wait=0), busy, locked(path, wait=0.05):
        pass
    with locked(path, wait=0):
        pass


def test_it_goes_on_once_the_first_has_finished(tmp_path):
    path = str(tmp_path / "a")
    open(path, "w").close()
    entered, leave, order = threading.Event(), threading.Event(), []

    def first():
        with locked(path, wait=0):
            entered.set()
            leave.wait(10)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    threading.Timer(0.1, leave.set).start()
    with locked(path, wait=10):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_the_lock_dies_with_its_holder_and_leaves_nothing(tmp_path):
    path = str(tmp_path / "a")
    open(path, "w").close()
    script = (
        "import os, sys\nfrom transcode.io.lock import locked\nwith locked(sys.argv[1], wait=0): os._exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == 3
    with locked(path, wait=0):
        assert os.listdir(tmp_path) == ["a"]


def test_a_file_that_was_replaced_meanwhile_is_opened_again(tmp_path, monkeypatch):
    """What is locked is the file that has the name, not the one that had it when it was opened."""
    from transcode.io import lock

    path = tmp_path / "a"
    path.write_text("old")
    asked = []

    def try_lock(fd):
        if not asked:
            (tmp_path / "b").write_text("new")
            os.replace(tmp_path / "b", path)
        asked.append(fd)
        return True

    monkeypatch.setattr(lock.system, "try_lock", try_lock)
    with locked(str(path), wait=5) as fd:
        assert os.read(fd, 10) == b"new"
    assert len(asked) == 2


def test_what_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError), locked(str(tmp_path / "a"), wait=0):
        pass
