"""How safetensors files are laid out: offsets by the rules of the format, the reference's order, limits."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from safetensors.torch import _TYPES, load_file, save_file

from transcode.containers.safetensors.container import ORDER, Safetensors
from transcode.core.dtypes import DTYPES
from transcode.core.output import PlannedFile, Stored, Unit
from transcode.core.spec import Spec
from transcode.errors import PlanError

TORCH = {name: kind for name, kind in _TYPES.items() if name in DTYPES}
WHOLE = [name for name, kind in DTYPES.items() if kind.bits >= 8]


def unit(number: int, *parts: tuple[str, str, tuple[int, ...]]) -> Unit:
    return Unit(
        number, tuple(Stored(name, "values", Spec(DTYPES[kind], shape)) for name, kind, shape in parts)
    )


def laid_out(*parts: tuple[str, str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> PlannedFile:
    units = [unit(number, part) for number, part in enumerate(parts)]
    return Safetensors().lay_out("m.safetensors", units, metadata or {}, file="out")


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=6), st.sampled_from(WHOLE), st.lists(st.integers(0, 5), max_size=3)
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda t: t[0],
    )
)
@settings(max_examples=100, deadline=None)
def test_parts_lie_aligned_without_gaps_widest_first(parts):
    file = laid_out(*((name, kind, tuple(shape)) for name, kind, shape in parts))
    at = 0
    for place in file.places:
        assert place.begin == at
        assert place.begin % place.spec.dtype.itemsize == 0
        assert place.end - place.begin == place.spec.nbytes
        at = place.end
    assert file.size == len(file.header) + at
    order = [(-ORDER.index(place.spec.dtype.name), place.name.encode()) for place in file.places]
    assert order == sorted(order)


def test_every_dtype_lies_where_the_reference_puts_it(tmp_path):
    """One element of each dtype, saved by the reference: the order of its header is that of the ranks."""
    tensors = {
        f"t{number:02d}": torch.zeros(8, dtype=torch.uint8).view(kind)[:1].clone()
        for number, (name, kind) in enumerate(TORCH.items())
        if name != "F4"
    }
    path = tmp_path / "all.safetensors"
    save_file(tensors, path)
    assert load_file(path).keys() == tensors.keys()
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    order = [entry["dtype"] for entry in header.values()]
    assert len(order) == len(tensors) > 15
    assert order == sorted(order, key=lambda name: -ORDER.index(name))
    assert sorted(ORDER) == sorted(DTYPES)


@pytest.mark.parametrize("shapes", [[(3,), (2, 2), (), (5,)], [(0,), (1,), (7, 1), (4,)]])
def test_order_and_offsets_are_those_of_the_reference(shapes):
    kinds = ["F32", "U8", "I64", "F16"]
    parts = [
        (f"{'äzab'[i]}.{kind}", kind, shapes[(i + j) % 4]) for i in range(4) for j, kind in enumerate(kinds)
    ]
    arrays = {
        name: np.zeros(shape, {"F32": "f4", "U8": "u1", "I64": "i8", "F16": "f2"}[kind])
        for name, kind, shape in parts
    }
    raw = save(arrays)
    reference = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    places = laid_out(*parts).places
    assert [place.name for place in places] == list(reference)
    assert {place.name: [place.begin, place.end] for place in places} == {
        name: entry["data_offsets"] for name, entry in reference.items()
    }


def test_the_reference_reads_what_is_laid_out():
    file = laid_out(("b", "F32", (2, 3)), ("a", "I8", (5,)), metadata={"k": "ä"})
    found = safetensors.deserialize(file.header + bytes(file.size - len(file.header)))
    assert {name: entry["shape"] for name, entry in found} == {"b": [2, 3], "a": [5]}


@pytest.mark.parametrize(("nbytes", "room"), [(0, 512), (4 << 20, 1024), (1 << 40, 64 << 10)])
def test_spare_room_grows_with_the_file(nbytes, room):
    file = laid_out(("w", "U8", (nbytes,)))
    spare = len(file.header) - len(file.header.rstrip(b" "))
    assert room <= spare < room + 4096
    assert len(file.header) % 4096 == 0


def test_metadata_that_no_reader_takes_is_refused():
    """The reference reads no header of more than 100 MB, our own reader no more than 100,000 keys."""
    with pytest.raises(PlanError, match="out: the header needs"):
        laid_out(metadata={"k": "x" * 100_000_000})
    with pytest.raises(PlanError, match="out: metadata has 100001 keys, more than the 100000 that are read"):
        laid_out(metadata={str(number): "" for number in range(100_001)})
    assert laid_out(metadata={str(number): "" for number in range(100_000)}).size


@pytest.mark.parametrize("metadata", [{"k": "\ud800"}, {"\udfff": "v"}])
def test_text_that_utf_8_cannot_write_is_refused(metadata):
    with pytest.raises(PlanError, match=r"out: metadata .* half of a surrogate pair"):
        laid_out(metadata=metadata)
