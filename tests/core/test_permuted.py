"""Elements in another order, and in another shape, equal numpy's, whatever the tile."""

from __future__ import annotations

import pickle
from itertools import permutations
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import transcode as tc
from transcode.core import values
from transcode.core.context import Context
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Constant
from transcode.core.permuted import Permuted, permuted, reshaped
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError

GRIDS = st.lists(st.integers(1, 4), min_size=2, max_size=4).flatmap(
    lambda lengths: st.tuples(st.just(lengths), st.permutations(range(len(lengths))))
)


def tensor(array: np.ndarray, dtype: str) -> LazyTensor:
    spec = Spec(DTYPES[dtype], array.shape)
    return plain("x", spec, Constant(spec, array.tobytes()))


@given(GRIDS, st.sampled_from(["F32", "BF16", "I8"]), st.booleans(), st.integers(1, 5))
def test_it_is_numpys_transpose(
    grid: tuple[list[int], list[int]], dtype: str, split: bool, step: int
) -> None:
    lengths, order = grid
    kind = DTYPES[dtype].carrier
    array = np.arange(prod(lengths), dtype=kind)
    source = array.reshape(lengths[0], -1)
    shape = [lengths[order[0]], prod(lengths) // lengths[order[0]]] if split else [prod(lengths)]
    expected = array.reshape(lengths).transpose(order).reshape(shape)
    made = permuted(tensor(source, dtype), lengths, order, shape)
    for one in (made, pickle.loads(pickle.dumps(made)), values.load(values.dump(made))):
        assert np.array_equal(one.numpy().view(kind), expected)
    rows = expected.reshape(made.spec.rows, -1)
    for start in range(0, made.spec.rows, step * made.grain):
        stop = min(start + step * made.grain, made.spec.rows)
        assert np.array_equal(made.matrix(start, stop, Context()), rows[start:stop])


@given(st.permutations([2, 3, 2, 5]), st.integers(1, 3))
def test_another_shape_has_the_same_bytes(lengths: list[int], axes: int) -> None:
    array = np.arange(prod(lengths), dtype=np.float32).reshape(lengths)
    shape = [*lengths[:axes], prod(lengths[axes:])]
    made = reshaped(tensor(array, "F32"), shape)
    assert np.array_equal(made.numpy(), array.reshape(shape))
    for start in range(0, made.spec.rows, made.grain):
        stop = min(start + made.grain, made.spec.rows)
        assert np.array_equal(
            made.matrix(start, stop, Context()), array.reshape(made.spec.rows, -1)[start:stop]
        )


def test_only_what_moves_is_read_together() -> None:
    heads = permuted(tensor(np.zeros((64, 8), np.float32), "F32"), [4, 2, 8, 8], [0, 2, 1, 3], [64, 8])
    assert isinstance(heads.value, Permuted)
    assert heads.grain == 16  # the rows of a head
    same = tensor(np.zeros((6, 4), np.float32), "F32")
    for lengths, order in (([6, 4], [0, 1]), ([1, 6, 4], [1, 0, 2])):
        assert permuted(same, lengths, order, [6, 4]) is same


def test_what_lies_in_a_file_still_does(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.arange(24, dtype=np.float32).reshape(2, 12)}, tmp_path / "x.safetensors")
    (one,) = tc.open(tmp_path / "x.safetensors")
    assert reshaped(one, [2, 3, 4]).value.extents() == one.value.extents()


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_no_grid_of_it(order: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match=r"\[6, 4\] is no grid of \[5, 4\]"):
        permuted(tensor(np.zeros((6, 4), np.float32), "F32"), [5, 4], order, [6, 4])
    with pytest.raises(PlanError, match="cannot be seen as"):
        reshaped(tensor(np.zeros((6, 4), np.float32), "F32"), [5, 4])


def test_halves_of_bytes_do_not_move() -> None:
    spec = Spec(DTYPES["F4"], (4, 4))
    codes = plain("x", spec, Constant(spec, bytes(range(8))))
    turned = permuted(codes, [2, 2, 4], [1, 0, 2], [4, 4])
    assert turned.numpy().tobytes() == bytes([0, 1, 4, 5, 2, 3, 6, 7])
    with pytest.raises(PlanError, match="do not fill whole bytes"):
        permuted(codes, [4, 4], [1, 0], [4, 4])
