"""The benchmark tells true figures: memory of known processes, ratios of known times."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import bench_run
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MIB = 1 << 20

CHILD = """
import mmap, os, sys, time
src, dst, anonymous, ready, seen = sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
with open(src, "rb") as file:
    view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(view[::4096])
held = bytearray(b"x") * anonymous
open(ready, "w").close()
patience = time.monotonic() + 60
while not os.path.exists(seen) and time.monotonic() < patience:
    time.sleep(0.01)
time.sleep(0.1)
with open(dst, "wb") as file:
    file.write(b"y" * 1000)
"""


@pytest.fixture
def src(tmp_path):
    path = tmp_path / "src"
    path.write_bytes(bytes(range(256)) * (48 * MIB // 256))
    return path


def test_memory_of_a_process_that_we_know(tmp_path, src, monkeypatch):
    ready, seen = tmp_path / "ready", tmp_path / "seen"

    class Memory(bench_run._Memory):
        """Lets the child go on when both ways to look have met it with all that it holds.

        On a busy machine no look may fall into any time that a child could sleep.
        """

        def _status(self):
            self.full = ready.exists()
            super()._status()

        def _rollup(self):
            super()._rollup()
            if self.full:
                seen.touch()

    monkeypatch.setattr(bench_run, "_Memory", Memory)

    def run(anonymous):
        for path in (ready, seen):
            path.unlink(missing_ok=True)
        words = [src, tmp_path / "out.bin", anonymous, ready, seen]
        command = [sys.executable, "-c", CHILD, *map(str, words)]
        return bench_run.measure("child", command, src, tmp_path / "out", "hot")

    small, large = run(0), run(64 * MIB)
    # Two processes of one program differ by some pages: where their heaps begin is drawn by lot.
    assert large.anonymous - small.anonymous == pytest.approx(64 * MIB, abs=2 * MIB)
    assert large.smaps_anonymous - small.smaps_anonymous == pytest.approx(64 * MIB, abs=2 * MIB)
    assert 48 * MIB <= small.file < 80 * MIB  # its whole source, and the interpreter's own files
    assert large.rss >= large.anonymous + 47 * MIB
    assert small.rss >= small.anonymous + 47 * MIB
    assert large.written == 1000
    assert large.wall >= large.exit >= 0.1


def cached(path: Path) -> float:
    """The part of a file that lies in the page cache, by mincore."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as view:
        pages = -(-len(view) // mmap.PAGESIZE)
        flags = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(view)), flags) == 0
        return sum(flag & 1 for flag in flags) / pages


def test_cold_is_cold_and_hot_is_hot(tmp_path, src):
    bench_run.chill(src)
    if cached(src) == 1:
        pytest.skip("this file system keeps its files in memory")
    assert cached(src) < 0.01
    bench_run.warm(src)
    assert cached(src) == 1


def test_only_the_command_s_output_is_removed(tmp_path, src):
    for name in ("out.safetensors", "out-2", "other"):
        (tmp_path / name).write_text("")
    (tmp_path / "out").mkdir()
    bench_run.clean(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "src"]


def test_a_command_that_fails_ends_the_benchmark(tmp_path, src):
    command = [sys.executable, "-c", "import sys; sys.exit('no such scheme')"]
    with pytest.raises(SystemExit, match="bad: exit 1\nno such scheme"):
        bench_run.measure("bad", command, src, tmp_path / "out", "hot")


def made(name, mode, wall, rss=0):
    return bench_run.Run(name, mode, wall, wall, 0.5, 0.25, rss, 0, 0, 0, 1, 0)


def test_ratios_are_taken_within_rounds():
    runs = [
        *(made("cp", "hot", 10.0), made("mine", "hot", 5.0, 3 * MIB), made("cp", "cold", 40.0)),
        *(made("mine", "cold", 10.0), made("cp", "hot", 20.0), made("mine", "hot", 8.0, 7 * MIB)),
        *(made("cp", "cold", 20.0), made("mine", "cold", 10.0)),
        *(
            made("cp", "hot", 10.0),
            made("mine", "hot", 6.0),
            made("cp", "cold", 10.0),
            made("mine", "cold", 9.0),
        ),
    ]
    found = {(one.name, one.mode): one for one in bench_run.summarise(runs, size=24_000_000_000)}
    assert list(found) == [("cp", "hot"), ("mine", "hot"), ("cp", "cold"), ("mine", "cold")]
    hot = found["mine", "hot"]
    assert (hot.ratio, hot.wall, hot.wall_min, hot.wall_max) == (0.5, 6.0, 5.0, 8.0)
    assert (hot.rate, hot.rss, hot.runs, hot.cpu) == (4e9, 7 * MIB, 3, 0.75)
    assert found["mine", "cold"].ratio == 0.5
    assert found["cp", "cold"].ratio == 1
    assert "| mine | hot | 6.00 (5.00 to 8.00) | 0.50 | 4.00 | 0.75 | 7 | 0 | 0 |" in bench_run.table(
        list(found.values())
    )


def test_the_command_line(tmp_path, src, capsys):
    command = (
        f"mine = {sys.executable} -c 'import shutil, sys; shutil.copy(*sys.argv[1:])' {{src}} {{dst}}.bin"
    )
    arguments = [str(src), "--work", str(tmp_path / "work"), "--mode", "hot", "--rounds", "1"]
    report = tmp_path / "report.json"
    assert bench_run.main([*arguments, "--command", command, "--json", str(report)]) == 0
    out = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in out.splitlines()[2:]] == ["cat", "cp", "mine"]
    assert report.stat().st_size > 0
    assert list((tmp_path / "work").iterdir()) == []
