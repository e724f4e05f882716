"""The reader of GGUF headers takes what the format says, and refuses all else by name."""

from __future__ import annotations

import io
import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws.gguf_file import gguf, text, value
from transcode.containers.gguf import header
from transcode.errors import FormatError

F32, Q4_0, Q8_0, Q4_K = 0, 2, 8, 12
METADATA = {
    "general.architecture": ("string", "flux"),
    "a.u8": ("uint8", 255), "a.i8": ("int8", -128), "a.u16": ("uint16", 65535), "a.i16": ("int16", -2),
    "a.u32": ("uint32", 2**32 - 1), "a.i32": ("int32", -1), "a.u64": ("uint64", 2**64 - 1),
    "a.i64": ("int64", -(2**63)), "a.f32": ("float32", 1e-5), "a.f64": ("float64", 0.1),
    "a.yes": ("bool", True), "a.no": ("bool", False), "a.text": ("string", "höhe\n"),
    "a.few": ("array", ("int32", [1, -2, 3])), "a.bools": ("array", ("bool", [True, False])),
    "a.tokens": ("array", ("string", [f"t{n}" for n in range(1000)])),
    "a.scores": ("array", ("float32", [n / 3 for n in range(100)])),
    "a.nested": ("array", ("array", [("int32", [1, 2]), ("string", ["x"])])),
}  # fmt: skip
TEXTS = {
    "general.architecture": "flux", "a.u8": "255", "a.i8": "-128", "a.u16": "65535", "a.i16": "-2",
    "a.u32": "4294967295", "a.i32": "-1", "a.u64": "18446744073709551615", "a.i64": "-9223372036854775808",
    "a.f32": "1e-05", "a.f64": "0.1", "a.yes": "true", "a.no": "false", "a.text": "höhe\n",
    "a.few": "[1, -2, 3]", "a.bools": "[true, false]", "a.tokens": "[1000 x string]",
    "a.scores": "[100 x float32]", "a.nested": "[2 x array]",
}  # fmt: skip
TENSORS = [
    ("a.weight", F32, (3, 5), bytes(60)),
    ("q.weight", Q4_0, (4, 64), bytes(4 * 2 * 18)),
    ("k.weight", Q4_K, (2, 3, 256), bytes(6 * 144)),
    ("scalar", F32, (), bytes(4)),
    ("none", F32, (0, 7), b""),
]


def read(raw: bytes) -> header.Header:
    return header.read(io.BytesIO(raw), "m.gguf")


def refusal(raw: bytes) -> str:
    with pytest.raises(FormatError) as error:
        read(raw)
    assert error.value.file == "m.gguf"
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [2, 3])
def test_everything_of_the_format_is_read(order, version):
    parsed = read(gguf(TENSORS, METADATA, order=order, version=version))
    assert (parsed.version, parsed.big) == (version, order == ">")
    assert {key: str(one) for key, one in parsed.metadata.items()} == TEXTS
    kinds = {key: f"array of {of[0]}" if kind == "array" else kind for key, (kind, of) in METADATA.items()}
    assert {key: one.kind for key, one in parsed.metadata.items()} == kinds
    facts = {one.name: (one.spec.dtype.name, one.spec.shape, one.spec.nbytes) for one in parsed.entries}
    assert facts == {
        name: ({0: "F32", 2: "Q4_0", 12: "Q4_K"}[number], shape, len(data))
        for name, number, shape, data in TENSORS
    }


@pytest.mark.parametrize("order", "<>")
def test_long_arrays_are_read_when_they_are_asked_for(order):
    held = read(gguf([], METADATA, order=order)).metadata
    assert held["a.tokens"].full is not None
    assert json.loads(held["a.tokens"].full()) == [f"t{n}" for n in range(1000)]
    assert [struct.pack("<f", one) for one in json.loads(held["a.scores"].full())] == [
        struct.pack("<f", n / 3) for n in range(100)
    ]
    assert json.loads(held["a.nested"].full()) == [[1, 2], ["x"]]
    for key, (kind, of) in METADATA.items():  # little-endian, whatever the file is
        raw = value(kind, of)[4:]
        assert bytes(held[key].raw) == (raw[8:] if kind == "string" else raw), key


def test_places_are_those_of_the_data():
    parsed = read(gguf([("b", F32, (3,), b"abcdefghijkl"), ("a", F32, (1,), b"wxyz")], {}))
    raw = gguf([("b", F32, (3,), b"abcdefghijkl"), ("a", F32, (1,), b"wxyz")], {})
    assert [raw[one.start : one.start + one.spec.nbytes] for one in parsed.entries] == [
        b"abcdefghijkl",
        b"wxyz",
    ]


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_the_alignment_is_what_metadata_says(alignment):
    raw = gguf(TENSORS, {"general.alignment": ("uint32", alignment)}, alignment=alignment)
    assert all(one.start % alignment == 0 for one in read(raw).entries)


def test_shapes_of_comfyui_are_those_of_the_tensors():
    held = {"comfy.gguf.orig_shape.q.weight": ("array", ("int32", [2, 2, 4, 16]))}
    (entry,) = read(gguf([TENSORS[1]], held)).entries
    assert entry.spec.shape == (2, 2, 4, 16)
    assert entry.spec.nbytes == 4 * 2 * 18
    for wrong in (("array", ("int32", [2, 2])), ("uint32", 4), ("array", ("int32", [-16, -16]))):
        assert "is no shape of the 256 elements" in refusal(
            gguf([TENSORS[1]], {"comfy.gguf.orig_shape.q.weight": wrong})
        )


def pack(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


def tensor(name: bytes = b"w", lengths: tuple[int, ...] = (32,), number: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(lengths)}QIQ", len(lengths), *lengths, number, offset)


def with_data(info: bytes, count: int, data: int) -> bytes:
    raw = pack(count, 0, info)
    return raw + bytes(-len(raw) % 32) + bytes(data)


KEY = text("k")
BAD = {
    "another magic": (b"GGML" + bytes(60), "is no GGUF file"),
    "only the magic": (b"GGUF", "ends inside its header"),
    "version 1": (pack(0, 0, version=1), "version 1; versions 2 and 3"),
    "version 4": (pack(0, 0, version=4), "version 4"),
    "tensors beyond the file": (pack(2**63, 0), "claims 9223372036854775808 tensors"),
    "keys beyond the file": (pack(0, 2**40), "claims 1099511627776 keys"),
    "a key beyond the file": (pack(0, 1, struct.pack("<Q", 2**62) + bytes(20)), "more than 65535"),
    "a text beyond the file": (pack(0, 1, KEY + struct.pack("<IQ", 8, 2**20)), "ends inside its header"),
    "a text of exabytes": (pack(0, 1, KEY + struct.pack("<IQ", 8, 2**62)), "more than"),
    "numbers beyond the file": (pack(0, 1, KEY + struct.pack("<IIQ", 9, 4, 2**61)), "ends inside"),
    "texts beyond the file": (pack(0, 1, KEY + struct.pack("<IIQ", 9, 8, 2**61)), "elements, more than"),
    "a text in an array beyond the file": (
        pack(0, 1, KEY + struct.pack("<IIQQ", 9, 8, 1, 2**63)), "ends inside its header",
    ),
    "arrays in arrays in arrays": (
        pack(0, 1, KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9), "deep",
    ),
    "a type of metadata": (pack(0, 1, KEY + struct.pack("<I", 13) + bytes(8)), "of type 13"),
    "a type of elements": (pack(0, 1, KEY + struct.pack("<IIQ", 9, 99, 1) + bytes(8)), "array of type 99"),
    "a bool of 2": (pack(0, 1, KEY + struct.pack("<IB", 7, 2)), "bool of value 2"),
    "a key twice": (pack(0, 2, 2 * (KEY + struct.pack("<IB", 0, 2))), "'k' twice"),
    "a key that is no text": (pack(0, 1, text(b"\xff") + struct.pack("<IB", 0, 2)), "is not UTF-8"),
    "a key with a NUL": (pack(0, 1, text(b"a\0b") + struct.pack("<IB", 0, 2)), "holds a NUL"),
    "alignment of another type": (
        pack(0, 1, text("general.alignment") + struct.pack("<IQ", 10, 32)), "is of type uint64",
    ),
    "alignment of no power of two": (
        pack(0, 1, text("general.alignment") + struct.pack("<II", 4, 24)), "is 24, no power of two",
    ),
    "alignment of 0": (pack(0, 1, text("general.alignment") + struct.pack("<II", 4, 0)), "is 0, no power"),
    "a type of tensors": (with_data(tensor(number=77), 1, 128), "w: is of type 77, which is not known"),
    "a type that is gone": (with_data(tensor(number=31), 1, 128), "Q4_0_4_4), which ggml has taken out"),
    "dimensions": (with_data(tensor(lengths=(1,) * 9), 1, 32), "has 9 dimensions"),
    "lengths that overflow": (with_data(tensor(lengths=(2**33, 2**33)), 1, 32), "overflows"),
    "lengths that overflow behind a 0": (with_data(tensor(lengths=(0, 2**33, 2**33)), 1, 0), "overflows"),
    "half a block": (with_data(tensor(lengths=(48,), number=2), 1, 32), "no whole number of blocks of Q4_0"),
    "a tensor beyond the file": (with_data(tensor(), 1, 96), "is cut short"),
    "an offset off the alignment": (with_data(tensor(offset=4), 1, 160), "offset 4 is no multiple"),
    "an offset of exabytes": (with_data(tensor(offset=2**63), 1, 160), "leaves a hole before it"),
    "two in one place": (with_data(tensor(b"a") + tensor(b"b"), 2, 256), "overlaps the tensor before it"),
    "an overlap": (with_data(tensor(b"a") + tensor(b"b", offset=96), 2, 256), "overlaps"),
    "a hole": (with_data(tensor(b"a") + tensor(b"b", offset=160), 2, 512), "leaves a hole"),
    "a name twice": (with_data(tensor(b"a") + tensor(b"a", offset=128), 2, 256), "twice"),
    "a name that is no text": (with_data(tensor(b"\xff\xfe"), 1, 128), "is not UTF-8"),
    "what lies behind": (with_data(tensor(), 1, 192), "has trailing bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_refused_by_name(case):
    raw, words = BAD[case]
    assert words in refusal(raw)


def test_the_last_padding_may_be_missing():
    whole = gguf([("w", F32, (3,), bytes(12))], {})
    assert read(whole[: -(-12 % 32)]).entries == read(whole).entries
    assert read(pack(0, 0)).entries == ()
    assert "is cut short" in refusal(whole[: -(-12 % 32) - 1])


SIZE = st.integers(0, 40) | st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1])
TENSOR = st.tuples(
    st.text(max_size=5), st.sampled_from([0, 1, 2, 8, 12, 24, 31, 99]), st.lists(SIZE, max_size=5), SIZE
)
VALUE = st.tuples(st.integers(0, 14), st.binary(max_size=40))


def legal(raw: bytes) -> bool:
    """Whether it is read, as tensors that lie in it one behind the other, or refused in one line."""
    try:
        entries = read(raw).entries
    except FormatError as error:
        return "\n" not in str(error)
    places = sorted((one.start, one.start + one.spec.nbytes) for one in entries)
    return all(a[1] <= b[0] for a, b in pairwise(places)) and (not places or places[-1][1] <= len(raw))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(TENSOR, max_size=4), st.dictionaries(st.text(max_size=6), VALUE, max_size=4),
    st.integers(0, 2000), SIZE, st.sampled_from("<>"),
)  # fmt: skip
def test_any_header_is_read_or_refused(tensors, metadata, data, extra, order):
    count = len(tensors) + (extra if extra > 2**30 else 0)
    raw = b"GGUF" + struct.pack(f"{order}IQQ", 3, count % 2**64, len(metadata))
    for key, (number, body) in metadata.items():
        raw += text(key, order) + struct.pack(f"{order}I", number) + body
    for name, number, lengths, offset in tensors:
        form = f"{order}I{len(lengths)}QIQ"
        raw += text(name, order) + struct.pack(form, len(lengths), *lengths, number, offset)
    assert legal(raw + bytes(-len(raw) % 32) + bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 699), st.integers(0, 255), st.integers(0, 10_000))
def test_any_byte_may_be_any_other(at, byte, cut):
    raw = bytearray(gguf(TENSORS, METADATA))
    raw[at] = byte
    for one in (bytes(raw), bytes(raw[: cut % len(raw)])):
        assert legal(one)
