"""Lazy tensors over an array in memory: whole, by tiles, by parts, and as torch and numpy want them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.expressions import NOTHING, By
from transcode.core.context import Context
from transcode.core.dtypes import DTYPES
from transcode.core.event import Event
from transcode.core.spec import Part, Spec
from transcode.core.tensor import LazyTensor, Piece, plain


def over(array: np.ndarray, name: str = "F32", **rest) -> LazyTensor:
    """A tensor that reads rows of an array, and notes which."""
    spec = Spec(DTYPES[name], array.shape)
    flat = array.reshape(spec.rows, spec.columns)
    calls: list[tuple[int, int]] = []

    def read(start, stop, scratch):
        calls.append((start, stop))
        yield Piece("values", spec.row_offset(start), flat[start:stop])

    made = plain("a.weight", spec, By(read), **rest)
    object.__setattr__(made.value, "calls", calls)
    return made


def in_parts(rows: int = 100) -> tuple[LazyTensor, dict[str, np.ndarray]]:
    """Codes of one byte, a scale for each row, and one number for the tensor that comes with row 0."""
    rng = np.random.default_rng(0)
    held = {
        "codes": rng.integers(0, 256, (rows, 8), np.uint8),
        "scale": rng.standard_normal((rows, 1)).astype(np.float32),
        "global_scale": np.array(3.5, np.float32),
    }
    kinds = {"codes": "U8", "scale": "F32", "global_scale": "F32"}
    parts = tuple(Part(role, Spec(DTYPES[kinds[role]], array.shape)) for role, array in held.items())

    def read(start, stop, scratch):
        yield Piece("codes", start * 8, held["codes"][start:stop])
        yield Piece("scale", start * 4, held["scale"][start:stop])
        if start == 0:
            yield Piece("global_scale", 0, held["global_scale"].reshape(1))

    return LazyTensor("a.weight", Spec(DTYPES["BF16"], (rows, 8)), parts, By(read)), held


def test_parts_by_role():
    tensor, held = in_parts()
    for role, array in held.items():
        np.testing.assert_array_equal(tensor.numpy(role), array)
        assert tensor.numpy(role).shape == array.shape
        assert tensor.part(role).role == role
    np.testing.assert_array_equal(tensor.numpy(), held["codes"])  # the first unless said
    assert tensor.nbytes == 100 * 8 + 100 * 4 + 4
    with pytest.raises(KeyError):
        tensor.part("zero_point")
    with pytest.raises(KeyError):
        tensor.numpy("zero_point")


def test_a_plain_tensor():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensor = over(array)
    assert tensor.plain
    assert tensor.nbytes == 48
    assert tensor.source == tensor.name == "a.weight"
    assert over(array, source="b").source == "b"
    np.testing.assert_array_equal(np.asarray(tensor), array)
    assert np.asarray(tensor, np.float64).dtype == np.float64
    np.testing.assert_array_equal(tensor.matrix(1, 3, Context()), array[1:3])


def test_what_is_read_is_in_memory_of_its_own():
    array = np.ones((4, 4), np.float32)
    found = over(array).numpy()
    array[:] = 7
    assert found.max() == 1


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (0, 4), (4, 0)])
def test_shapes_and_matrices(shape):
    array = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    tensor = over(array)
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert tensor.numpy().shape == shape
    assert torch.equal(tensor.torch(), torch.from_numpy(array))
    if array.size:
        whole = tensor.matrix(0, tensor.spec.rows, Context())
        assert whole.shape == (tensor.spec.rows, shape[-1] if len(shape) > 1 else 1)


@given(
    rows=st.integers(0, 300), columns=st.integers(1, 64), grain=st.integers(1, 130), cost=st.integers(1, 5),
    nbytes=st.integers(1, 40_000), kind=st.sampled_from(["F32", "BF16", "U8"]),
)  # fmt: skip
def test_tiles_cover_every_row_once_in_whole_grains(rows, columns, grain, cost, nbytes, kind):
    spec = Spec(DTYPES[kind], (rows, columns))
    tensor = plain("a", spec, NOTHING).evolve(grain=grain, cost=cost)
    tiles = list(tensor.tiles(nbytes))
    assert [start for start, _ in tiles] == [0, *(stop for _, stop in tiles)][: len(tiles)]
    assert (tiles[-1][1] if tiles else 0) == rows
    assert all(start % grain == 0 for start, _ in tiles)
    assert len({stop - start for start, stop in tiles[:-1]}) <= 1
    width = columns * DTYPES[kind].itemsize
    for start, stop in tiles:
        # No more than asked for over the cost, but for one grain, which is the least there is.
        assert (stop - start) * width * cost <= nbytes or stop - start <= grain
    if tiles and rows > tiles[0][1]:  # and not much less
        assert (tiles[0][1] + grain) * width * cost > nbytes


def test_nothing_has_no_tiles():
    for shape in ((0, 4), (4, 0)):
        assert list(over(np.empty(shape, np.float32)).tiles(100)) == []


@pytest.mark.parametrize("name", ["BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F16", "F64", "I64", "C64"])
def test_types_for_numpy_and_torch(name):
    kind = DTYPES[name]
    raw = np.arange(1, 97, dtype=np.uint8).reshape(2, 48).view(kind.carrier)
    tensor = over(raw, name)
    found = tensor.numpy()
    assert found.dtype == (np.dtype(getattr(ml_dtypes, kind.ml_dtype)) if kind.ml_dtype else kind.carrier)
    assert found.tobytes() == raw.tobytes()
    turned = tensor.torch()
    wanted = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
              "BF16": "bfloat16", "F16": "float16", "F64": "float64", "I64": "int64",
              "C64": "complex64"}  # fmt: skip
    assert turned.dtype == getattr(torch, wanted[name])
    assert tuple(turned.shape) == raw.shape
    assert turned.view(torch.uint8).numpy().tobytes() == raw.tobytes()


def test_packed_values_come_as_bytes():
    spec = Spec(DTYPES["F4"], (3, 8))
    raw = np.arange(12, dtype=np.uint8)

    def read(start, stop, scratch):
        yield Piece("values", start * 4, raw[start * 4 : stop * 4])

    tensor = plain("a", spec, By(read))
    np.testing.assert_array_equal(tensor.numpy(), raw)
    assert tensor.numpy().dtype == np.uint8
    assert torch.equal(tensor.torch(), torch.from_numpy(raw))


def test_evolving_leaves_the_old_one_as_it_was():
    tensor = over(np.ones((2, 2), np.float32))
    other = tensor.evolve(name="b", did=Event("rename", "a -> b")).evolve(did=Event("cast"))
    assert (tensor.name, tensor.fate) == ("a.weight", ())
    assert (other.name, other.source) == ("b", "a.weight")
    assert other.fate == (Event("rename", "a -> b"), Event("cast"))
    assert other.evolve().fate == other.fate


def test_reading_in_tiles_is_reading_at_once():
    """Four MiB at a time: a tensor of more is put together of its tiles."""
    rows = (9 << 20) // 4096
    array = np.random.default_rng(1).standard_normal((rows, 1024)).astype(np.float32)
    tensor = over(array)
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert len(tensor.value.calls) == 3
