"""Kernels are compiled once per machine, wherever the package lies, and the user hears of it just then."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import transcode
from transcode.core import user_cache
from transcode.numerics import jit, kernel_cache, machine
from transcode.numerics.jit import kernel

SCRIPT = """
import sys
import numpy as np
from transcode.numerics.kernel_cache import cache_folder
from transcode.numerics.notice import compiling
told = []
with compiling(lambda: told.append(1)):
    from transcode.numerics.reduce import largest
    rows = np.array([[1, 0xC000, 2]], np.uint16)
    rows.setflags(write=False)
    print(largest(rows))
loaded = {"numba", "llvmlite"} & set(sys.modules)
assert bool(loaded) == bool(told) or sys.platform != "linux", loaded
print(len(told), cache_folder())
"""


def run(**environment):
    """What the script prints in a fresh process."""
    base = {
        key: value for key, value in os.environ.items() if key not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    base["PYTHONPATH"] = str(Path(transcode.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**base, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    value, told = done.stdout.splitlines()
    assert value == "2.0"
    count, folder = told.split(maxsplit=1)
    return int(count), folder


def test_the_second_process_compiles_nothing(tmp_path):
    first = run(XDG_CACHE_HOME=str(tmp_path))
    assert first[0] == 1
    assert Path(first[1]).parent == tmp_path / "transcode"
    assert [path.name.partition("-")[0] for path in Path(first[1]).iterdir()] == ["reduce.largest"]
    assert run(XDG_CACHE_HOME=str(tmp_path)) == (0, first[1])


def test_numba_cache_dir_wins(tmp_path):
    count, folder = run(NUMBA_CACHE_DIR=str(tmp_path / "own"))
    assert count == 1
    assert Path(folder).parent == tmp_path / "own"
    assert run(NUMBA_CACHE_DIR=str(tmp_path / "own")) == (0, folder)


def test_without_a_home_the_temporary_folder_serves(tmp_path):
    # A file where the folder should be: this stops root too, which no permission does.
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    count, folder = run(XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path / "tmp"))
    assert count == 1
    assert Path(folder).is_relative_to(tmp_path / "tmp")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions as on Unix")
def test_a_cache_that_others_can_write_is_not_used(tmp_path):
    (tmp_path / "transcode").mkdir()
    (tmp_path / "transcode").chmod(0o777)
    (tmp_path / "tmp").mkdir()
    _, folder = run(XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(tmp_path / "tmp"))
    assert Path(folder).is_relative_to(tmp_path / "tmp")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions as on Unix")
def test_a_home_that_cannot_be_written_to_is_not_used(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    (tmp_path / "tmp").mkdir()
    _, folder = run(HOME=str(home), TMPDIR=str(tmp_path / "tmp"))
    used = tmp_path / ("home" if os.getuid() == 0 else "tmp")  # nothing stops root
    assert Path(folder).is_relative_to(used)
    assert run(HOME=str(home), TMPDIR=str(tmp_path / "tmp")) == (0, folder)


def test_nowhere_to_write_still_works(monkeypatch):
    monkeypatch.setattr(user_cache, "_private", lambda folder: False)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    kernel_cache.cache_folder.cache_clear()
    try:
        assert kernel_cache.cache_folder() is None
        assert kernel(lambda x: x + 1)(2) == 3
    finally:
        kernel_cache.cache_folder.cache_clear()


def test_settings_of_the_compiler_have_a_folder_of_their_own(tmp_path):
    _, folder = run(XDG_CACHE_HOME=str(tmp_path))
    count, other = run(XDG_CACHE_HOME=str(tmp_path), NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert count == 1
    assert other != folder


def test_another_processor_has_a_folder_of_its_own(monkeypatch):
    here = kernel_cache._versions()
    for part in (sys.version, machine.processor(), __import__("numba").__version__):
        assert part in here
    monkeypatch.setattr(kernel_cache, "processor", lambda: "flags: none")
    kernel_cache._versions.cache_clear()
    try:
        assert kernel_cache._versions() != here
    finally:
        kernel_cache._versions.cache_clear()


def test_processes_may_compile_at_once(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    environment["PYTHONPATH"] = str(Path(transcode.__file__).parents[1])
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = [process.communicate()[0] for process in processes]
    assert [text.splitlines()[0] for text in printed] == ["2.0"] * 3
    count, folder = run(XDG_CACHE_HOME=str(tmp_path))
    assert count == 0
    assert len(list(Path(folder).iterdir())) == 1


def damage(path, how):
    raw = path.read_bytes()
    if how == "emptied":
        raw = b""
    elif how == "cut":
        raw = raw[: len(raw) // 2]
    elif how == "flipped":
        raw = bytes([*raw[: len(raw) // 2], raw[len(raw) // 2] ^ 0x10, *raw[len(raw) // 2 + 1 :]])
    else:  # whole, and made for something else
        body = kernel_cache._packed((b"\xcc" * 64, "none"), kernel_cache._key("another", ""))
        raw = hashlib.sha256(body).digest() + body
    path.write_bytes(raw)


def test_a_damaged_cache_is_compiled_anew(tmp_path):
    _, folder = run(XDG_CACHE_HOME=str(tmp_path))
    (path,) = Path(folder).iterdir()
    good = path.read_bytes()
    for how in ("emptied", "cut", "flipped", "foreign"):
        damage(path, how)
        assert run(XDG_CACHE_HOME=str(tmp_path), PYTHONWARNINGS="ignore") == (1, folder), how
        assert path.read_bytes() == good, how
    assert run(XDG_CACHE_HOME=str(tmp_path)) == (0, folder)


WHOLE = """
import errno, os, sys
from transcode.core import user_cache
from transcode.cli import main

def full(before, after):
    raise OSError(errno.ENOSPC, "No space left on device", after)

class Os:
    def __getattr__(self, name):
        return full if name == "replace" else getattr(os, name)

if sys.argv[1] == "full":
    user_cache.os = Os()
main(sys.argv[2:])
"""


@pytest.mark.parametrize("how", ["emptied", "full"])
def test_a_run_goes_on_without_its_cache_and_says_so_once(how, tmp_path, wan):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    for number in range(2 if how == "emptied" else 1):
        done = subprocess.run(
            [sys.executable, "-c", WHOLE, how, "run", wan, tmp_path / f"{number}.safetensors", "-sint8"],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for path in (tmp_path / "transcode").rglob("*.kernel"):
            path.write_bytes(b"")
    assert done.stderr.count("transcode: warning: ") == 1
    assert ("No space left on device" if how == "full" else "is damaged") in done.stderr
    assert len(list(tmp_path.glob("*.safetensors"))) == number + 1
    assert not list((tmp_path / "transcode").rglob(".*"))  # nothing half-written is left


LOADED = """
import sys
from transcode.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted({"numba", "llvmlite", "scipy", "torch"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.skipif(not machine.LINKED, reason="elsewhere llvmlite loads what is kept")
@pytest.mark.parametrize("scheme", ["int8", "nvfp4"])
def test_a_second_run_imports_no_compiler(scheme, tmp_path, wan):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("NUMBA_CACHE_DIR", None)
    outputs = []
    for number in range(2):
        output = tmp_path / f"{number}.safetensors"
        done = subprocess.run(
            [sys.executable, "-c", LOADED, "run", wan, output, "-s", scheme],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.append((output.read_bytes(), done.stderr.splitlines()[-1]))
    (first, compiling), (second, warm) = outputs
    assert "numba" in compiling
    assert warm == ""
    assert first == second


def test_a_compiler_that_is_told_not_to_compile_says_so(tmp_path, wan):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "run", wan, tmp_path / "o.safetensors", "-s", "int8"],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: kernels cannot be compiled: NUMBA_DISABLE_JIT is set; unset it" in done.stderr
    assert not (tmp_path / "o.safetensors").exists()


# Calls --------------------------------------------------------------------------------------------------


@kernel
def numbers(a, b, c, d, e, f, g, h, out):
    out[0], out[1], out[2], out[3] = a, b, c, d
    out[4], out[5], out[6], out[7] = e, f, g, h


def test_numbers_come_as_they_were_given():
    out = np.zeros(8)
    given = (-3, True, 2.5, np.float32(0.1), np.uint32(0xFFFFFFFF), np.int8(-7), np.uint8(250), False)
    numbers(*given, out)
    assert out.tolist() == [float(value) for value in given]


@kernel
def total(rows):
    sum_ = np.float32(0)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            sum_ += rows[i, j] * np.float32(10**i)
    return sum_


@kernel
def whole(number):
    return number + 1


@kernel
def positive(number):
    return number > 0


@kernel
def step(count):
    last = 0
    for i in range(0, 10, count):
        last = i
    return last


def test_results_are_pythons():
    assert whole(-5) == -4
    assert type(whole(-5)) is int
    assert positive(3) is True
    assert positive(-3.5) is False
    third = total(np.full((1, 1), 1 / 3, np.float32))
    assert type(third) is float
    assert third == float(np.float32(1 / 3))


def test_arrays_of_any_layout():
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (rows, rows.T, rows[::2], rows[:, ::-1], rows[1:3, 2:5], rows[:0]):
        wanted = sum(float(view[i].sum()) * 10**i for i in range(len(view)))
        assert total(view) == wanted
        const = view.copy()
        const.setflags(write=False)
        assert total(const) == wanted
    loose = np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 6)
    assert not loose.flags.aligned
    assert total(loose) == total(rows)


def test_an_error_in_a_kernel_is_an_error():
    assert step(3) == 9
    with pytest.raises(RuntimeError, match="step"):
        step(0)


def test_what_a_kernel_cannot_take_or_return():
    for value in ("text", None, 1j, np.float16(1)):
        with pytest.raises(TypeError, match="cannot take"):
            whole(value)
    with pytest.raises(TypeError, match="returns"):
        kernel(lambda x: (x, x))(1)


def test_threads_compile_a_kernel_once(monkeypatch):
    counted = []
    prepare = jit.Kernel._ready
    monkeypatch.setattr(jit.Kernel, "_ready", lambda self, key: counted.append(key) or prepare(self, key))
    fresh = kernel(lambda x: x * 2)
    results = []
    threads = [threading.Thread(target=lambda: results.append(fresh(21))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [42] * 4
    assert len(counted) == 1


@kernel
def busy(count):
    x = 1.0
    for i in range(count):
        x = x / (1.0 + x * i)
    return x


def test_other_threads_go_on_while_a_kernel_runs():
    busy(1)
    running = threading.Thread(target=busy, args=(200_000_000,))
    running.start()
    count = 0
    while running.is_alive():
        running.join(0.001)
        count += 1
    assert count > 3  # with the GIL held the first look would wait for its end
