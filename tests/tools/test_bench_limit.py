"""The limits of a machine: every way writes what it says, and leaves nothing."""

from __future__ import annotations

import json
import os
import sys

import bench_limit
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures Linux's calls")


def test_every_way_for_every_number_of_threads(tmp_path, capsys):
    source = tmp_path / "a.bin"
    source.write_bytes(os.urandom(9_000_001))
    work, told = tmp_path / "work", tmp_path / "figures.json"
    bench_limit.main(
        [str(source), "--work", str(work), "--threads", "1,3", "--rounds", "1", "--json", str(told)]
    )
    figures = json.loads(told.read_text())["figures"]
    assert len(figures) == 1 + 2 * 7
    assert all(wall > 0 for wall, _ in figures.values())
    assert len(capsys.readouterr().out.splitlines()) == len(figures)
    assert not list(work.iterdir())


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("reserve", [True, False])
def test_blocks_of_threads_are_the_whole_file(share, reserve, tmp_path):
    source, out = tmp_path / "a.bin", tmp_path / "o.bin"
    data = os.urandom(2 * bench_limit.BLOCK + 4)
    source.write_bytes(data)
    bench_limit._read_all(source, out, len(data), share, 3, reserve=reserve)
    pieces = [data[at : at + bench_limit.BLOCK] for at in range(0, len(data), bench_limit.BLOCK)]
    assert out.read_bytes() == b"".join(piece[: int(len(piece) * share)] for piece in pieces)
    bench_limit._copy(source, out, len(data), 3, reserve=reserve)
    assert out.read_bytes() == data


def test_cold_ways(tmp_path, capsys):
    source = tmp_path / "a.bin"
    source.write_bytes(os.urandom(9_000_001))
    work, told = tmp_path / "work", tmp_path / "figures.json"
    arguments = [str(source), "--work", str(work), "--threads", "1,3", "--rounds", "1", "--json", str(told)]
    bench_limit.main([*arguments, "--cold"])
    assert list(json.loads(told.read_text())["figures"]) == [
        "cat",
        "cp and sync",
        "read, reserve, write half, sync, 1 threads",
        "read, reserve, write half, sync, 3 threads",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert not list(work.iterdir())
