"""Rows of a tensor, read alone: what numpy gives of the whole array, for every dtype and odd shapes."""

from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest

import transcode as tc
from transcode.core.dtypes import DTYPES
from transcode.io.local import MappedFile

INDEXES = [
    slice(None), slice(1, 3), slice(2, None), slice(-2, None), slice(None, None, 2), slice(None, None, -1),
    slice(5, 1, -2), slice(3, 3), slice(90, 99), 0, -1, np.int64(1), (slice(1, 3), slice(0, 2)), (1, 0), ...,
    (slice(1, 3), ..., 0),
]  # fmt: skip

SHAPES = [(7,), (7, 5), (5, 3, 4), (1, 9), (4, 1, 1)]

NUMPY = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "I32": np.int32,
    "U32": np.uint32, "I64": np.int64, "U64": np.uint64, "F16": np.float16, "F32": np.float32,
    "F64": np.float64, "C64": np.complex64, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip


def stored(path, name, shape, raw):
    """A file with one tensor, written by hand: the reference library lacks some of the dtypes."""
    text = json.dumps({"a": {"dtype": name, "shape": list(shape), "data_offsets": [0, len(raw)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw)
    return tc.open(path)["a"]


def test_every_dtype_is_tried():
    assert NUMPY.keys() == {name for name, kind in DTYPES.items() if kind.bits >= 8}


@pytest.mark.parametrize("name", NUMPY)
def test_rows_are_those_of_numpy(name, tmp_path):
    kind = np.dtype(NUMPY[name])
    random = np.random.default_rng(5)
    for shape in SHAPES:
        raw = random.integers(0, 2 if name == "BOOL" else 256, np.prod(shape) * kind.itemsize, np.uint8)
        whole = raw.view(kind).reshape(shape)
        tensor = stored(tmp_path / "m.safetensors", name, shape, raw.tobytes())
        assert (tensor.shape, tensor.ndim, tensor.dtype) == (shape, len(shape), DTYPES[name])
        for index in INDEXES:
            deep = isinstance(index, tuple) and len([one for one in index if one is not ...]) > len(shape)
            if deep or (shape[0] < 2 and isinstance(index, np.int64 | tuple)):
                continue
            wanted, rows = whole[index], tensor[index]
            assert np.asarray(rows).dtype == kind
            assert np.shape(rows) == np.shape(wanted), (shape, index)
            assert np.asarray(rows).tobytes() == np.asarray(wanted).tobytes(), (shape, index)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 0), (2, 0, 3)])
def test_scalars_and_empty_ones(shape, tmp_path):
    whole = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    tensor = stored(tmp_path / "m.safetensors", "F32", shape, whole.tobytes())
    for index in [...] if shape == () else [..., slice(None), slice(0, 1), slice(5, 9)]:
        assert tensor[index].shape == whole[index].shape
        assert tensor[index].tobytes() == whole[index].tobytes()
    if shape == ():
        assert tensor[()] == whole[()]
    with pytest.raises(IndexError):
        tensor[0 if shape in ((), (0,), (0, 4)) else 9]


def test_no_other_rows_are_read(tmp_path, monkeypatch):
    whole = np.arange(1000 * 512, dtype=np.float32).reshape(1000, 512)
    tensor = stored(tmp_path / "m.safetensors", "F32", whole.shape, whole.tobytes())
    ranges = []
    real = MappedFile.bytes

    def noted(self, begin, end, *rest, **named):
        ranges.append(end - begin)
        return real(self, begin, end, *rest, **named)

    monkeypatch.setattr(MappedFile, "bytes", noted)
    assert np.array_equal(tensor[10:20], whole[10:20])
    assert 10 * 2048 <= sum(ranges) <= 11 * 2048


def test_rows_wider_than_a_read(tmp_path):
    whole = np.random.default_rng(1).integers(0, 256, (3, 5 << 20), np.uint8)
    tensor = stored(tmp_path / "m.safetensors", "U8", whole.shape, whole.tobytes())
    assert np.array_equal(tensor[1:3, ::1000], whole[1:3, ::1000])
    assert np.array_equal(tensor[2], whole[2])


def test_rows_of_packed_dtypes_are_their_bytes(tmp_path):
    raw = np.arange(12, dtype=np.uint8)
    tensor = stored(tmp_path / "m.safetensors", "F4", (4, 6), raw.tobytes())
    assert np.array_equal(tensor[1:3], raw.reshape(4, 3)[1:3])
    assert np.array_equal(tensor[-1], raw.reshape(4, 3)[-1])
    odd = stored(tmp_path / "n.safetensors", "F4", (4, 3), raw[:6].tobytes())
    with pytest.raises(ValueError, match="12 bits"):
        odd[1:2]


@pytest.mark.parametrize(
    "scheme", ["int8", "fp8", "mxfp8", "nvfp4", "mxfp4", "int4", "mxfp6", "fp8:granularity=block"]
)
def test_of_quantized_tensors_rows_of_the_codes(scheme, tmp_path):
    whole = np.random.default_rng(2).standard_normal((48, 64)).astype(np.float32)
    stored(tmp_path / "m.safetensors", "F32", whole.shape, whole.tobytes())
    flow = tc.open(tmp_path / "m.safetensors") | tc.rename({"^a$": "a.weight"})
    name, _, granularity = scheme.partition(":granularity=")
    options = {"granularity": granularity} if granularity else {}
    tensor = (flow | tc.quantize(name, targets="a", **options))["a.weight"]
    codes = tensor.numpy()
    assert not tensor.plain
    assert tensor.shape == (48, 64)
    for index in (slice(3, 17), slice(40, None), 5, slice(None, None, 3)):
        each = codes.reshape(48, -1) if tensor.parts[0].spec.dtype.packed else codes
        assert tensor[index].tobytes() == each[index].tobytes()


def test_rows_after_a_stage(wan):
    flow = tc.open(wan) | tc.cast("F32")
    tensor = flow["blocks.0.ffn.0.weight"]
    assert np.array_equal(tensor[3:5], tc.open(wan)["blocks.0.ffn.0.weight"].numpy()[3:5].astype(np.float32))


@pytest.mark.parametrize("index", ["a", [1, 2], None, 1.5, np.array([1])[:, None]])
def test_other_indexes_say_what_takes_them(index, tmp_path):
    tensor = stored(tmp_path / "m.safetensors", "U8", (3,), b"abc")
    with pytest.raises(TypeError, match=r"numpy\(\)\[\.\.\.\] takes any index"):
        tensor[index]


@pytest.mark.parametrize("index", [3, -4, True])
def test_rows_that_are_not_there(index, tmp_path):
    with pytest.raises(IndexError, match="no row"):
        stored(tmp_path / "m.safetensors", "U8", (3,), b"abc")[index]


def test_a_tensor_can_be_iterated_by_rows(tmp_path):
    tensor = stored(tmp_path / "m.safetensors", "U8", (3, 2), bytes(range(6)))
    assert [list(row) for row in tensor] == [[0, 1], [2, 3], [4, 5]]


def test_a_flow_is_looked_into_as_a_mapping(wan):
    flow = tc.open(wan)
    assert list(flow.keys()) == [tensor.name for tensor in flow]
    assert list(flow.values()) == list(flow)
    assert dict(flow.items()) == dict(flow)
    assert flow.metadata == {"format": "pt"}
    dropped = flow | tc.drop("head")
    assert "head.head.weight" in flow.keys() - dropped.keys()
    assert len(dropped) == len(dropped.keys())
