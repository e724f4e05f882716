"""Sizes as people write them, and how memory is shared out among workers."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode.core.performance import MIN_TILE, Performance, parse_size
from transcode.errors import RecipeError

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5_000_000_000), ("5 GB", 5_000_000_000), ("5gb", 5_000_000_000), ("512MB", 512_000_000),
        ("64MiB", 64 << 20), ("64mib", 64 << 20), ("1KB", 1000), ("1KiB", 1024), ("2TB", 2 * 10**12),
        ("2TiB", 2 << 40), ("1GiB", 1 << 30), ("7", 7), ("7B", 7), ("7 b", 7), ("1.5GB", 1_500_000_000),
        (" 3MB ", 3_000_000), ("1e3", 1000), (7, 7), (1 << 40, 1 << 40), ("0.5KB", 500),
        ((1 << 63) - 1, (1 << 63) - 1),
        (str((1 << 53) + 1), (1 << 53) + 1), ("9007199254740993B", (1 << 53) + 1),
    ],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "GB", "five", "5XB", "5G", "5 parsec", "-1", "0", 0, -1, "0.2", "nan", "inf", "1e30", "1e15TB",
     "5GBB", "5 5GB", "0x10", "5KB MB", 1 << 63, "9" * 5000],
)  # fmt: skip
def test_no_sizes(text):
    with pytest.raises(RecipeError, match="is not a"):
        parse_size(text)


@given(st.integers(1, 10**6), st.sampled_from(["B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_units_are_powers_of_ten_unless_spelled_with_an_i(number, unit):
    power = {"": 0, "K": 1, "M": 2, "G": 3}[unit.rstrip("iB")]
    assert parse_size(f"{number}{unit}") == number * (1024 if "i" in unit else 1000) ** power


@pytest.mark.parametrize(
    ("memory", "workers", "size"),
    [
        (128 * MIB, 4, 8 * MIB),  # a quarter of a share: values, and float32 on the way
        (128 * MIB, 8, 4 * MIB),
        (128 * MIB, 16, 2 * MIB),
        (10**12, 1, 8 * MIB),  # more does not help
        (1, 1, MIN_TILE),  # less does not work
        (MIN_TILE * 4 * 3, 3, MIN_TILE),
        (MIN_TILE * 4 * 3 + 12, 3, MIN_TILE + 1),
    ],
)
def test_a_tile_is_a_quarter_of_a_workers_share(memory, workers, size):
    assert Performance(workers=workers, memory=memory).tile_bytes() == size
    assert MIN_TILE == 64 << 10


def test_a_tile_as_given_is_taken():
    assert Performance(workers=3, tile=1).tile_bytes() == 1
    assert Performance(workers=3, tile=10**9, memory=1).tile_bytes() == 10**9


def test_workers_are_the_processors_that_the_process_may_use(monkeypatch):
    assert Performance(workers=3).threads == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: {3, 5, 9}, raising=False)
    assert Performance().threads == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: set(), raising=False)
    assert Performance().threads == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert Performance().threads == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert Performance().threads == 1


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:0", "cuda:12", "cuda:0,cuda:1"])
def test_devices(device):
    assert Performance(device=device).device == device


@pytest.mark.parametrize(
    "device",
    ["", "gpu", "cuda:", "cuda:x", "cuda:0,", ",cuda:0", "cuda:0, cuda:1", "cpu,cuda:0", "cuda,cuda:1"],
)
def test_no_devices(device):
    with pytest.raises(RecipeError, match="is no device"):
        Performance(device=device)


@pytest.mark.parametrize("device", ["cuda:1,cuda:1", "cuda:0,cuda:1,cuda:0"])
def test_a_gpu_named_twice(device):
    with pytest.raises(RecipeError, match="names a GPU twice"):
        Performance(device=device)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers(workers):
    with pytest.raises(RecipeError, match="is not a positive number"):
        Performance(workers=workers)


@pytest.mark.parametrize("workers", [4097, 10**9, 10**400])
def test_more_workers_than_any_machine_starts(workers):
    with pytest.raises(RecipeError, match="workers: more than 4096 is asked for"):
        Performance(workers=workers)
    assert Performance(workers=4096).threads == 4096


@pytest.mark.parametrize("size", [10**400, -(10**400)])
def test_a_number_that_is_no_float_is_no_size(size):
    with pytest.raises(RecipeError, match="the number is not a positive size"):
        parse_size(size)


def test_a_recipe_holds_what_differs_from_the_defaults():
    assert Performance().config() == {}
    changed = Performance(3, 5 * 10**6, 70_000, True, "cuda:1", 10**9, True)
    assert changed.config() == {
        "num_workers": 3, "memory": 5 * 10**6, "tile": 70_000, "drop_cache": True, "device": "cuda:1",
        "device_memory": 10**9, "measure": True,
    }  # fmt: skip
    assert Performance(workers=1).config() == {"num_workers": 1}
