"""What many tests share: checkpoints made by the reference library, and the command line as users call it."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from transcode.cli import main

if TYPE_CHECKING:  # half a second and more, that many tests can do without
    import torch

# No test is timed: on a machine that others use too, a slow example is no fault of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# What is collected lives until the end: nothing of it is looked through again for what could be freed.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="whole products, where a cover of them is run else")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--all"):
        os.environ["TESTS_WHOLE_PRODUCTS"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked ``whole``, but with ``--all``."""
    left = [] if config.getoption("--all") else [item for item in items if item.get_closest_marker("whole")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


ROOT = Path(__file__).parents[1]
WAN = ROOT / "fixtures" / "wan_tiny"


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed is as wide as in a pipe, wherever the tests run."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def wan() -> Path:
    """A folder of two shards with an index: a tiny Wan transformer in BF16."""
    return WAN


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call the command line in this process. Whatever goes wrong, nobody may see a traceback.

    It must end with ``code``, if that is not None.
    """

    def call(*args: object, code: int | None = 0) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        ended = exited.value.code
        assert "Traceback" not in err, err
        assert isinstance(ended, int), ended
        assert code is None or ended == code, f"exit code {ended}\n{out}\n{err}"
        return Result(ended, out, err)

    return call


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """Call the command line, which must fail with exit code 2 and one line; returns the line."""

    def call(*args: object) -> str:
        result = cli(*args, code=2)
        assert result.out == ""
        # That kernels are compiled is said once on a machine, by whichever test comes first.
        lines = [line for line in result.err.strip().splitlines() if "compiling kernels" not in line]
        assert len(lines) == 1, result.err
        assert lines[-1].startswith("transcode: error: "), result.err
        return lines[-1]

    return call


@pytest.fixture
def piped(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Call ``transcode a | transcode b`` in ``tmp_path`` and in this process, one stage after the other.

    A process takes half a second to start; what real pipes are like, :func:`shell` tells.
    """
    monkeypatch.chdir(tmp_path)

    def call(line: str, code: int = 0, given: bytes = b"") -> Result:
        codes, said = [], ""
        for stage in line.split(" | "):
            program, *args = shlex.split(stage)
            assert program == "transcode"
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
            done = cli(*args, code=None)
            codes, said, given = [*codes, done.code], said + done.err, done.out.encode()
        failed = [one for one in codes if one]
        assert (failed or [0])[-1] == code, f"exit codes {codes}\n{said}"  # as bash's pipefail has it
        return Result(code, given.decode(), said)

    return call


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., Result]:
    """Run a line of bash in ``tmp_path``, with ``transcode`` as a real command in real pipes."""
    folder = tmp_path / ".bin"
    folder.mkdir()
    command = folder / "transcode"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m transcode "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": path}

    def call(line: str, code: int = 0) -> Result:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write tensors with the reference library; returns the path."""

    def call(
        tensors: Mapping[str, torch.Tensor],
        name: str = "model.safetensors",
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        from safetensors.torch import save_file

        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
        return path

    return call


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """SHA-256 of a file, or of every file below a folder, by relative name."""

    def call(path: Path) -> dict[str, str]:
        if path.is_file():
            return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
        return {
            str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }

    return call
