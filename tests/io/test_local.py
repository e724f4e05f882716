"""Views of files: the right bytes with or without maps, aligned, few descriptors, bounded memory."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import transcode as tc
from transcode.core.dtypes import DTYPES
from transcode.core.scratch import Scratch
from transcode.core.spec import Spec
from transcode.errors import FormatError
from transcode.io import local, system
from transcode.io.local import MappedFile

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(np.random.default_rng(1).bytes(10_000))
    return path


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("offset", [0, 1, 2, 3, 8, 1001])
@pytest.mark.parametrize("kind", ["U8", "BF16", "F32", "F64", "C64", "F4", "F6_E2M3", "BOOL"])
def test_rows_are_the_bytes_of_the_file(file, mmap, offset, kind):
    spec = Spec(DTYPES[kind], (3, 5, 8))
    mapped, whole = MappedFile(file, mmap=mmap), file.read_bytes()[offset : offset + spec.nbytes]
    for start, stop in [(0, 15), (0, 1), (7, 9), (14, 15), (3, 3), (15, 15)]:
        rows = mapped.rows(offset, spec, start, stop, Scratch())
        assert rows.tobytes() == whole[spec.row_offset(start) : spec.row_offset(stop)]
        assert rows.dtype == spec.dtype.carrier
        assert rows.shape == ((rows.size,) if spec.dtype.packed else (stop - start, 8))
        assert rows.flags.c_contiguous
        assert rows.flags.aligned
        assert not rows.flags.writeable


def test_aligned_rows_are_views_and_others_use_the_scratch(file):
    mapped, spec = MappedFile(file), Spec(DTYPES["F32"], (4, 4))

    class Counting(Scratch):
        taken = 0

        def take(self, shape, dtype):
            Counting.taken += 1
            return super().take(shape, dtype)

    scratch = Counting()
    for offset, taken in ((4, 0), (5, 1)):
        scratch.untouched = True
        mapped.rows(offset, spec, 0, 4, scratch)
        assert Counting.taken == taken


def test_only_where_a_lost_page_is_survived_are_views_looked_at(file, monkeypatch):
    """Where no compiled code runs files are read, unless nobody looks at what is read."""
    monkeypatch.setattr("transcode.numerics.faults.used", lambda: False)
    scratch, mapped = Scratch(), MappedFile(file)
    before = mapped.bytes(0, 4096, scratch)
    os.pwrite(fd := os.open(file, os.O_RDWR), b"changed", 0)
    os.close(fd)
    assert before[:7].tobytes() != b"changed"  # a copy
    scratch.untouched = True
    after = mapped.bytes(0, 4096, scratch)
    assert after[:7].tobytes() == b"changed"


def test_where_mapping_fails_the_file_is_read(file, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no maps here")

    monkeypatch.setattr(local, "_Map", refuse)
    assert MappedFile(file).bytes(3, 9, Scratch()).tobytes() == file.read_bytes()[3:9]


def test_where_positional_reads_are_missing_the_file_is_read(file, monkeypatch):
    monkeypatch.delattr(os, "preadv", raising=False)
    mapped = MappedFile(file, mmap=False)
    assert mapped.bytes(3, 9000, Scratch()).tobytes() == file.read_bytes()[3:9000]


@pytest.mark.parametrize("mmap", [True, False])
def test_views_outlive_their_file(file, mmap):
    mapped = MappedFile(file, mmap=mmap)
    view = mapped.bytes(0, 10_000, Scratch())
    mapped.close()
    del mapped
    gc.collect()
    assert view.tobytes() == file.read_bytes()


@pytest.mark.parametrize("mmap", [True, False])
def test_a_file_that_shrinks_is_an_error_and_no_crash(file, mmap):
    mapped = MappedFile(file, mmap=mmap)
    mapped.bytes(0, 10, Scratch())
    os.truncate(file, 5000)
    with pytest.raises(FormatError, match=r"f: has 5000 bytes, 10000 were expected; was it changed"):
        mapped.bytes(0, 10, Scratch())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="MADV_POPULATE_READ is Linux's")
def test_a_file_cut_after_its_size_was_looked_at_is_an_error_and_no_crash(file, monkeypatch):
    """In a process of its own, which a map that is touched behind its end would kill."""
    script = """
import numba, os, sys
from pathlib import Path
from transcode.core.scratch import Scratch
from transcode.errors import FormatError
from transcode.io import system
from transcode.io.local import MappedFile

path = Path(sys.argv[1])
real = system.populate

def cut(address, size):
    os.truncate(path, 5)
    return real(address, size)

system.populate = cut
mapped = MappedFile(path)
try:
    mapped.bytes(8192, 16384, Scratch()).sum()
except FormatError as error:
    print(error)
"""
    file.write_bytes(bytes(20_000))
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{file}: ends at byte 8192, expected 16384"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SIGBUS as Linux sends it")
@pytest.mark.parametrize("what", ["ours", "sent", "other"])
def test_a_page_that_is_gone_when_it_is_looked_at(what, file):
    """Ours reads as zeros and is told; of other maps, and when sent, SIGBUS does what it did before."""
    script = """
import mmap, os, signal, sys, threading
from pathlib import Path
import numba
from transcode.core.scratch import Scratch
from transcode.errors import FormatError
from transcode.io.local import MappedFile

path, what = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGUSR1, lambda *_: None)
mapped = MappedFile(path)
view = mapped.bytes(0, 40000, Scratch())
os.truncate(path, 5000)
sums = []
threads = [threading.Thread(target=lambda: sums.append(int(view[8192:].max()))) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert sums == [0] * 8, sums
assert view[:5000].all()
os.truncate(path, 40000)
try:
    mapped._check_lost()
except FormatError as error:
    print(error, flush=True)
if what == "sent":
    os.kill(os.getpid(), signal.SIGBUS)
if what == "other":
    with open(path, "rb") as opened:
        other = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    os.truncate(path, 1)
    other[10000]
"""
    file.write_bytes(b"\1" * 40_000)
    done = subprocess.run(
        [sys.executable, "-c", script, str(file), what], capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if what == "ours" else -7), done.stderr
    assert (
        done.stdout.strip()
        == f"{file}: was cut while it was being read, or its disk could not read it; start again"
    )


def test_a_map_is_watched_until_its_last_view_goes(file):
    import numba  # noqa: F401

    from transcode.numerics import faults

    def watched() -> int:
        return sum(end != 0 for end in faults._TABLE[1::3])

    gc.collect()
    before = watched()
    mapped = MappedFile(file)
    view = mapped.bytes(0, 10, Scratch())
    assert watched() == before + 1
    mapped.close()
    del mapped
    gc.collect()
    assert watched() == before + 1
    del view
    gc.collect()
    assert watched() == before


def test_a_disk_that_cannot_read_is_named_and_so_is_the_tensor(save, tmp_path, monkeypatch):
    path = save({"a.weight": torch.zeros(64, 64)})
    flow = tc.open(path)

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(system, "populate", broken)
    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(
        FormatError, match=r"model\.safetensors: a\.weight: cannot be read at byte \d+: Input/"
    ):
        flow | tc.write(tmp_path / "o.safetensors")


@pytest.mark.parametrize("answer", [False, OSError(14, "Bad address")])
def test_where_pages_cannot_be_asked_for_they_are_read(answer, file, monkeypatch):
    def populate(address, size):
        if answer:
            raise answer
        return False

    monkeypatch.setattr(system, "populate", populate)
    found = MappedFile(file).bytes(3, 1000, Scratch())
    assert found.tobytes() == file.read_bytes()[3:1000]


def test_a_file_that_was_replaced_is_an_error(file):
    mapped = MappedFile(file)
    file.write_bytes(bytes(10_000))
    with pytest.raises(FormatError, match="was changed since its header was read"):
        mapped.bytes(0, 10, Scratch())
    file.unlink()
    with pytest.raises(FormatError, match=r"cannot be read: No such file"):
        mapped.bytes(0, 10, Scratch())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@linux
def test_few_files_are_open_however_many_are_read(tmp_path):
    files = []
    for i in range(3 * local.MAX_OPEN):
        path = tmp_path / str(i)
        path.write_bytes(bytes([i % 251]) * 64)
        files.append(MappedFile(path))
    before = descriptors()
    for _ in range(2):
        for i, mapped in enumerate(files):
            assert mapped.bytes(0, 64, Scratch()).tobytes() == bytes([i % 251]) * 64
            assert descriptors() - before <= 2 * local.MAX_OPEN + 2  # a map holds a descriptor of its own
    for mapped in files:
        mapped.close()
    gc.collect()
    assert descriptors() <= before


def test_a_disk_that_is_slow_to_open_holds_up_nobody_else(tmp_path, monkeypatch):
    """And of two that open the same file one is kept, and the descriptor of the other is closed."""
    paths = [tmp_path / name for name in ("slow", "quick")]
    for path in paths:
        path.write_bytes(path.name.encode() * 8)
    slow, quick = (local.MappedFile(path) for path in paths)
    waiting, go = threading.Semaphore(0), threading.Event()
    opened, real = [], os.open

    def late(path, *rest, **options):
        fd = real(path, *rest, **options)
        if os.fspath(path) == str(paths[0]):
            opened.append(fd)
            waiting.release()
            assert go.wait(60)
        return fd

    monkeypatch.setattr(os, "open", late)
    read = []
    threads = [
        threading.Thread(target=lambda: read.append(bytes(slow.bytes(0, 4, Scratch())))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert waiting.acquire(timeout=60)
    assert bytes(quick.bytes(0, 5, Scratch())) == b"quick"
    assert waiting.acquire(timeout=60)
    go.set()
    for thread in threads:
        thread.join(60)
    assert read == [b"slow"] * 2
    held = [fd for fd in opened if is_open(fd, paths[0])]
    assert len(opened) == 2
    assert len(held) == 1


def is_open(fd, path):
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def test_many_threads_read_the_right_bytes_while_pages_are_released(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "BATCH", 1 << 16)
    monkeypatch.setattr(local, "MAX_OPEN", 2)
    files, contents = [], []
    for i in range(5):
        path = tmp_path / str(i)
        path.write_bytes(np.random.default_rng(i).bytes(300_000))
        files.append(MappedFile(path, mmap=i % 2 == 0, drop_cache=i == 4))
        contents.append(path.read_bytes())
    wrong: list[object] = []

    def read(seed: int) -> None:
        rng, scratch = np.random.default_rng(seed), Scratch()
        try:
            for _ in range(300):
                scratch.reset()
                i, begin = int(rng.integers(5)), int(rng.integers(300_000))
                end = min(begin + int(rng.integers(40_000)), 300_000)
                if files[i].bytes(begin, end, scratch).tobytes() != contents[i][begin:end]:
                    wrong.append((i, begin, end))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,), daemon=True) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


RESIDENT = """
import numba  # whoever looks at views has it loaded
import sys
import numpy as np
from transcode.core.scratch import Scratch
from transcode.io.local import MappedFile

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssFile"))

files = [MappedFile(path, drop_cache=sys.argv[1] == "drop") for path in sys.argv[2:]]
files[0].bytes(0, 1, Scratch())  # compiles the handler of faults
scratch, step, peak, total = Scratch(), 8 << 20, 0, 0
before = resident()
for file in files:
    for begin in range(0, file.size, step):
        scratch.reset()
        total += int(file.bytes(begin, min(begin + step, file.size), scratch)[::4096].sum())
        peak = max(peak, resident() - before)
print(peak, total)
"""


@linux
@pytest.mark.parametrize("drop", ["keep", "drop"])
def test_resident_memory_is_bounded_over_all_files(tmp_path, drop):
    paths = []
    for i in range(3):
        path = tmp_path / str(i)
        with open(path, "wb") as file:
            file.truncate(160 << 20)
        paths.append(str(path))
    run = [sys.executable, "-c", RESIDENT, drop, *paths]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    peak, total = map(int, done.stdout.split())
    assert total == 0
    assert 8 << 20 < peak < local.BATCH + (24 << 20)  # of 480 MiB read


IN_USE = """
import numba  # whoever looks at views has it loaded
import sys
from transcode.core.scratch import Scratch
from transcode.io.local import BATCH, MappedFile

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssFile"))

model, lora = map(MappedFile, sys.argv[1:])
slow, fast, step = Scratch(), Scratch(), 4 << 20
before = resident()
for begin in range(0, 20 * step, step):
    slow.reset()
    tile = model.bytes(begin, begin + step, slow)
    lora.bytes(0, 4096, slow).sum()  # a tile may need bytes of several files
    for other in range(20 * step, 20 * step + BATCH + 2 * step, step):  # meanwhile another worker goes on
        fast.reset()
        model.bytes(other, other + step, fast)[::4096].sum()
    tile[::4096].sum()
print(resident() - before)
"""


@linux
def test_what_is_in_use_while_others_let_go_does_not_stay(tmp_path):
    paths = []
    for name in ("model", "lora"):
        path = tmp_path / name
        with open(path, "wb") as file:
            file.truncate(160 << 20)
        paths.append(str(path))
    run = [sys.executable, "-c", IN_USE, *paths]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < local.BATCH + (24 << 20)  # the tiles of the slow worker are 80 MiB


@linux
def test_drop_cache_leaves_the_page_cache_as_it_was(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(np.random.default_rng(1).bytes(8 << 20))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(path):
        pytest.skip("this file system keeps its pages")
    for drop in (False, True):
        mapped = MappedFile(path, drop_cache=drop)
        for begin in range(0, 8 << 20, 1 << 20):
            mapped.bytes(begin, begin + (1 << 20), Scratch()).sum()
        mapped.close()
        gc.collect()
        assert (cached(path) > 4 << 20) is not drop
    os.close(fd)


def cached(path: Path) -> int:
    """Bytes of a file in the page cache."""
    import ctypes
    import mmap

    size = path.stat().st_size
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as map:
        view = np.frombuffer(map, np.uint8)
        pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), pages) == 0
        del view
        return sum(page & 1 for page in pages) * mmap.PAGESIZE


def test_readers_in_order_are_read_ahead_and_others_are_not(tmp_path, monkeypatch):
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("no read-ahead here")
    asked: list[tuple[int, int]] = []

    def note(fd, offset, length, advice):
        if advice == os.POSIX_FADV_WILLNEED:
            asked.append((offset, length))

    monkeypatch.setattr(os, "posix_fadvise", note)
    path = tmp_path / "f"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    step = 4 << 20
    mapped = MappedFile(path)
    for begin in (0, 500 << 20, 200 << 20, 900 << 20):
        mapped.bytes(begin, begin + step, Scratch())
    assert asked == []
    mapped.close()
    for begin in range(0, 256 << 20, step):
        mapped.bytes(begin, begin + step, Scratch())
        reached = max((offset + length for offset, length in asked), default=0)
        assert not begin or reached >= begin + step + local.AHEAD // 2
        assert reached <= begin + step + local.AHEAD
    spans = sorted(asked)
    assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(spans))  # nothing is asked for twice


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files")
def test_a_file_that_nobody_can_read_any_more_is_closed(tmp_path):
    """A program that opens one checkpoint after another must not hold on to deleted ones."""

    def held() -> list[str]:
        found = []
        for entry in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/self/fd/{entry}"))
        return [name for name in found if name.startswith(str(tmp_path))]

    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(100)))
    file = MappedFile(path)
    view = file.bytes(0, 10, Scratch())
    assert held()
    del file
    gc.collect()
    assert view.tolist() == list(range(10))
    del view
    gc.collect()
    assert not held()


@linux
def test_a_watch_ends_when_the_module_has_ended_already(monkeypatch):
    """An interpreter that ends may clear the module's names before the last map is gone."""
    import ctypes

    from transcode.numerics import faults

    monkeypatch.setattr(faults, "used", lambda: True)
    table = faults._TABLE
    watch = faults.watch(1 << 30, 4096, ctypes.c_uint64())
    assert watch is not None
    assert (1 << 30) + 4096 in table
    monkeypatch.setattr(faults, "_TABLE", None)
    watch.end()
    assert (1 << 30) + 4096 not in table
