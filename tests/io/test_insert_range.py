"""Growing a file at its front, and who has it open."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from transcode.io import insert_range

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="calls of Linux")


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "a", "w+b") as file:
        file.write(bytes(range(256)) * 64)
        file.flush()
        yield file


def test_what_is_inserted_and_removed_again_moves_no_byte(file, tmp_path):
    block = insert_range.block_size(file.fileno())
    assert block >= 4096
    old = (tmp_path / "a").read_bytes()
    able = insert_range.can_insert(str(tmp_path))
    assert insert_range.insert(file.fileno(), block) == able
    assert (tmp_path / "a").read_bytes() == (bytes(block) if able else b"") + old
    if able:
        assert insert_range.remove(file.fileno(), block)
        assert (tmp_path / "a").read_bytes() == old


def test_a_size_that_is_no_multiple_changes_nothing(file, tmp_path):
    old = (tmp_path / "a").read_bytes()
    assert not insert_range.insert(file.fileno(), 1)
    assert (tmp_path / "a").read_bytes() == old


@pytest.mark.parametrize(
    ("answers", "result"),
    [([0], True), ([errno.EOPNOTSUPP], False), ([errno.EFBIG], False), ([errno.EINTR, 0], True),
     ([errno.ENOSPC], None)],
)  # fmt: skip
def test_answers_of_the_system(answers, result, monkeypatch):
    left = list(answers)
    code = []

    def fallocate(*arguments):
        code[:] = [left.pop(0)]
        return -1 if code[0] else 0

    monkeypatch.setattr(insert_range, "_fallocate", fallocate)
    monkeypatch.setattr(insert_range.ctypes, "get_errno", lambda: code[0])
    if result is None:
        with pytest.raises(OSError, match=r"[Ss]pace"):
            insert_range.insert(0, 4096)
    else:
        assert insert_range.insert(0, 4096) is result
    assert left == []


def test_nothing_can_be_inserted_where_the_call_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(insert_range, "_fallocate", None)
    assert not insert_range.can_insert(str(tmp_path))
    assert not insert_range.insert(0, 4096)
    assert not insert_range.can_insert(str(tmp_path / "absent"))


def test_whoever_has_the_file_open_is_noticed(file, tmp_path):
    with insert_range.alone(file.fileno()) as alone:
        if not alone:
            pytest.skip("this file system gives no leases")
    path = tmp_path / "a"
    script = "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout.readline() == b"open\n"
        with insert_range.alone(file.fileno()) as alone:
            assert not alone
        reader.stdin.close()
        assert reader.wait(10) == 0
    with insert_range.alone(file.fileno()) as alone:
        assert alone
    assert os.stat(path).st_size == 256 * 64
