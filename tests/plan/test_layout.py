"""How outputs are cut into files."""

from __future__ import annotations

import pytest

from transcode.core.dtypes import dtype
from transcode.core.output import Stored, Unit
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError
from transcode.plan.layout import apart, by_block, check_names, chunked, single_file


def unit(tensor: int, *sizes: int, block: int | None = None) -> Unit:
    stored = tuple(Stored(f"t{tensor}.{i}", "values", Spec(dtype("U8"), (n,))) for i, n in enumerate(sizes))
    return Unit(tensor, stored, block)


def shape(cut: list[tuple[str, list[Unit]]]) -> list[tuple[str, list[int]]]:
    return [(name, [unit.tensor for unit in units]) for name, units in cut]


def test_single_file_holds_everything() -> None:
    assert shape(single_file([unit(0, 1), unit(1, 2)], "m.safetensors")) == [("m.safetensors", [0, 1])]


def test_blocks_are_numbered_not_sorted_as_text() -> None:
    units = [unit(n, 1, block=n) for n in (10, 2, 0)] + [unit(99, 1)]
    assert shape(by_block(units, "block_{i}.s", "rest.s")) == [
        ("block_0.s", [0]), ("block_2.s", [2]), ("block_10.s", [10]), ("rest.s", [99]),
    ]  # fmt: skip


def test_by_block_without_a_rest_makes_no_empty_file() -> None:
    assert shape(by_block([unit(0, 1, block=0)], "b{i}", "rest")) == [("b0", [0])]


def test_by_block_needs_blocks() -> None:
    with pytest.raises(PlanError, match="no tensor belongs to a block"):
        by_block([unit(0, 1)], "b{i}", "rest")


def test_chunks_are_filled_greedily_in_order() -> None:
    units = [unit(0, 6), unit(1, 4), unit(2, 1), unit(3, 9), unit(4, 1)]
    assert shape(chunked(units, "p-{i:05d}-of-{n:05d}", "alone", max_bytes=10)) == [
        ("p-00001-of-00003", [0, 1]), ("p-00002-of-00003", [2, 3]), ("p-00003-of-00003", [4]),
    ]  # fmt: skip


def test_a_unit_larger_than_the_limit_gets_its_own_chunk() -> None:
    units = [unit(0, 1), unit(1, 50), unit(2, 1)]
    assert [tensors for _, tensors in shape(chunked(units, "p{j}", "alone", max_bytes=10))] == [[0], [1], [2]]


def test_parts_of_a_tensor_stay_together_when_counted() -> None:
    units = [unit(0, 1), unit(1, 1, 1), unit(2, 1)]
    assert shape(chunked(units, "p{j}", "alone", max_tensors=2)) == [("p0", [0]), ("p1", [1]), ("p2", [2])]


def test_one_chunk_has_a_plain_name() -> None:
    assert shape(chunked([unit(0, 1)], "p{j}-of-{n}", "alone", max_bytes=10)) == [("alone", [0])]


def test_apart_follows_the_names_a_consumer_knows() -> None:
    units = [unit(0, 1), unit(1, 2), unit(2, 3, 4)]
    cut = apart(units, lambda name: "odd.s" if name.startswith("t1.") else "even.s")
    assert shape(cut) == [("even.s", [0, 2]), ("odd.s", [1])]


def named(number: int, *names: str) -> Unit:
    return Unit(number, tuple(Stored(name, "values", Spec(dtype("F32"), (1,))) for name in names))


def tensors(number: int) -> list[LazyTensor]:
    return [plain(f"t{i}", Spec(dtype("F32"), (1,)), lambda *_: iter(())) for i in range(number)]


def test_one_name_in_two_files_is_a_collision() -> None:
    with pytest.raises(PlanError, match="'t0' and 't1'"):
        check_names([("a", [named(0, "x")]), ("b", [named(1, "x")])], tensors(2))


def test_one_name_for_two_parts_of_a_tensor_is_a_collision() -> None:
    with pytest.raises(PlanError, match="x"):
        check_names([("a", [named(0, "x", "x")])], tensors(1))


def test_different_names_are_none() -> None:
    check_names([("a", [named(0, "x", "y")]), ("b", [named(1, "z")])], tensors(2))
