"""Rows of several tensors as one equal those that numpy puts together, whatever the tile."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import transcode as tc
from transcode.core import values
from transcode.core.context import Context
from transcode.core.event import Event
from transcode.core.rows import Rows, Run, rows_of
from transcode.core.tensor import LazyTensor
from transcode.errors import PlanError

DID = Event("convert", "as it is tested")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LazyTensor]:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=(rows, 6)).astype(np.float32) for name, rows in (("a", 9), ("b", 4))}
    tensors["narrow"] = rng.normal(size=(4, 5)).astype(np.float32)
    path = tmp_path_factory.mktemp("rows") / "x.safetensors"
    save_file(tensors, path)
    return {tensor.name: tensor for tensor in tc.open(path)}


RUNS = st.lists(
    st.one_of(
        st.tuples(st.just("a"), st.integers(0, 4), st.integers(1, 5)),
        st.tuples(st.just("b"), st.integers(0, 1), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=5,
)


@given(RUNS, st.integers(0, 3), st.integers(1, 7))
def test_they_are_numpys(
    table: dict[str, LazyTensor], runs: list[tuple[str, int, int]], cut: int, step: int
) -> None:
    expected = np.concatenate([table[name].numpy()[begin : begin + rows] for name, begin, rows in runs])
    made = rows_of("x", expected.shape, [Run(table[name], *where) for name, *where in runs], did=DID)
    for one in (made, pickle.loads(pickle.dumps(made)), values.load(values.dump(made))):
        assert np.array_equal(one.numpy(), expected)
    for start in range(0, len(expected), step):  # tiles of any size, in memory that is emptied between them
        stop = min(start + step, len(expected))
        assert np.array_equal(made.matrix(start, stop, Context()), expected[start:stop])
    # Rows of rows are looked through.
    begin = min(cut, len(expected) - 1)
    inner = rows_of("y", (len(expected) - begin, 6), [Run(made, begin, len(expected) - begin)], did=DID)
    assert isinstance(inner.value, Rows)
    assert not any(isinstance(run.tensor.value, Rows) for run in inner.value.runs)
    assert np.array_equal(inner.numpy(), expected[begin:])


def test_they_are_bytes_of_the_file_as_they_lie(table: dict[str, LazyTensor]) -> None:
    made = rows_of("x", (7, 6), [Run(table["a"], 2, 4), Run(table["b"], 1, 3)], did=DID)
    extents = made.value.extents()["values"]
    assert [one.nbytes for one in extents] == [4 * 24, 3 * 24]
    raw = b"".join(Path(one.file.path).read_bytes()[one.begin : one.begin + one.nbytes] for one in extents)
    assert raw == made.numpy().tobytes()
    flat = made.value.flat()
    assert flat is not None
    assert flat.extents() == made.value.extents()


def test_neighbours_become_one_run(table: dict[str, LazyTensor]) -> None:
    made = rows_of("x", (9, 6), [Run(table["a"], 0, 4), Run(table["a"], 4, 5)], did=DID)
    assert isinstance(made.value, Rows)
    assert made.value.runs == (Run(table["a"], 0, 9),)


def test_what_does_not_fit_is_refused(table: dict[str, LazyTensor]) -> None:
    with pytest.raises(PlanError, match=r"narrow: F32\[4,5\] cannot be joined to F32\[9,6\] of a"):
        rows_of("x", (13, 6), [Run(table["a"], 0, 9), Run(table["narrow"], 0, 4)], did=DID)
