"""The header reader refuses what is wrong, says what, and reads what is legal; rendered headers read back."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from transcode.containers.safetensors import header, headertext
from transcode.containers.source import open_source
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.errors import FormatError, PlanError

BAD = Path(__file__).parents[3] / "fixtures" / "bad_headers"
EXPECTED = json.loads((BAD / "expected.json").read_text())


def file_of(text: str | bytes, data: bytes = b"") -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str = "U8", shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def reference(raw: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        name: (info["dtype"], info["shape"], bytes(info["data"]))
        for name, info in safetensors.deserialize(raw)
    }


def ours(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    with open_source(path) as source:
        return {t.name: (t.spec.dtype.name, list(t.spec.shape), t.numpy().tobytes()) for t in source.tensors}


# refusals


def test_every_bad_file_is_listed():
    assert {p.stem for p in BAD.glob("*.safetensors")} == set(EXPECTED)


@pytest.mark.parametrize("case", EXPECTED)
@pytest.mark.parametrize("read", [header.read, open_source])
def test_bad_headers_are_refused(case, read):
    path, expected = BAD / f"{case}.safetensors", EXPECTED[case]
    with pytest.raises(FormatError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    message = message.removeprefix(f"{path}: ")  # the name of the file says what is wrong, too
    assert caught.value.tensor == expected["tensor"]
    if not (case == "empty_file" and read is header.read):
        for words in expected["says"]:
            assert words in message
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("case", EXPECTED)
def test_the_reference_agrees_on_what_is_bad(case):
    raw = (BAD / f"{case}.safetensors").read_bytes()
    if EXPECTED[case]["reference"] == "accepts":
        reference(raw)
    else:
        with pytest.raises(Exception, match="Error while deserializing"):
            reference(raw)


SMALL = file_of(
    '{"__metadata__":{"format":"pt","n":"ä"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
    '"v.\\u00e9":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},'
    '"e":{"dtype":"I64","shape":[0,3],"data_offsets":[22,22]},'
    '"s":{"dtype":"F8_E4M3","shape":[],"data_offsets":[22,23]},'
    '"q":{"dtype":"F4","shape":[2,3],"data_offsets":[23,26]}}  ',
    bytes(range(100, 126)),
)


def test_the_small_file_is_good(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(SMALL)
    assert ours(path) == reference(SMALL)
    assert dict(open_source(path).metadata) == {"format": "pt", "n": "ä"}


def test_truncation_at_every_byte_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    for size in range(len(SMALL)):
        path.write_bytes(SMALL[:size])
        with pytest.raises(FormatError, match=r"m\.safetensors: ") as caught:
            open_source(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(SMALL + b" ")
    with pytest.raises(FormatError, match="trailing bytes: its tensors need 26 bytes of data, it has 27"):
        open_source(path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(1, 255)), min_size=1, max_size=4))
@example(flips=[(5, 1)])  # a length of terabytes
@example(flips=[(3, 4)])  # a length just below the limit
@example(flips=[(218, 1)])  # ends one byte before it begins
def test_flipped_bytes_give_an_error_or_what_the_reference_reads(tmp_path, flips):
    raw = bytearray(SMALL)
    for at, mask in flips:
        raw[at] ^= mask
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw)
    found: dict[str, tuple[str, list[int], bytes]] | None = None
    message = f"{path}: "
    tracemalloc.start()
    try:
        found = ours(path)
    except FormatError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found is None or found == reference(bytes(raw))
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert peak < 4 << 20


# what is legal

LEGAL = {
    "no tensors": file_of("{}"),
    "only metadata": file_of('{"__metadata__":{"a":"b"}}'),
    "null metadata": file_of('{"__metadata__":null}'),
    "empty metadata": file_of('{"__metadata__":{}}'),
    "spaces, tabs and newlines around": file_of(' \n{\t"a" :\r\n' + entry() + "}\n\t  ", b"abcd"),
    "unsorted": file_of(f'{{"b":{entry(offsets="[4,8]")},"a":{entry()}}}', b"abcdefgh"),
    "unaligned": file_of(
        f'{{"a":{entry("U8", "[3]", "[0,3]")},"b":{entry("F64", "[1]", "[3,11]")},'
        f'"c":{entry("BF16", "[2,2]", "[11,19]")}}}',
        bytes(range(19)),
    ),
    "scalar": file_of(f'{{"a":{entry("F32", "[]")}}}', b"abcd"),
    "empty tensors share an offset": file_of(
        f'{{"z":{entry("F32", "[0]", "[4,4]")},"a":{entry()},"y":{entry("U8", "[3,0]", "[0,0]")},'
        f'"x":{entry("F4", "[0]", "[4,4]")}}}',
        b"abcd",
    ),
    "empty name": file_of(f'{{"":{entry()}}}', b"abcd"),
    "unknown fields": file_of('{"a":' + entry()[:-1] + ',"more":{"x":[-1,2.5,null]}}}', b"abcd"),
    "any text as a name": file_of(f'{{"\\ud83d\\ude00/\\u0000\\"\\n日本":{entry()}}}', b"abcd"),
    "escaped keys": file_of('{"a":' + entry().replace("dtype", "d\\u0074ype") + "}", b"abcd"),
    "many dimensions": file_of(f'{{"a":{entry("U8", "[2,1,1,1,1,1,1,1,1,1,2]")}}}', b"abcd"),
    "odd rows of F4": file_of(f'{{"a":{entry("F4", "[2,3]", "[0,3]")}}}', b"abc"),
    "rows of F6": file_of(f'{{"a":{entry("F6_E2M3", "[4,1]", "[0,3]")}}}', b"abc"),
}


@pytest.mark.parametrize("case", LEGAL)
@pytest.mark.parametrize("mmap", [True, False])
def test_what_is_legal_is_read(case, mmap, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(LEGAL[case])
    found = ours(path) if mmap else None
    with open_source(path, mmap=mmap) as source:
        names = [t.name for t in source.tensors]
        bytewise = {t.name: t.numpy().tobytes() for t in source.tensors}
    expected = reference(LEGAL[case])
    assert sorted(names) == sorted(expected)
    assert bytewise == {name: data for name, (_, _, data) in expected.items()}
    assert found in (None, expected)


def test_tensors_come_in_the_order_of_their_bytes(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(LEGAL["unsorted"])
    assert [t.name for t in open_source(path).tensors] == ["a", "b"]


@st.composite
def files(draw) -> bytes:
    """A legal file: any dtypes and shapes, tensors and header entries in any order."""
    count = draw(st.integers(0, 5))
    table, data, at = {}, b"", 0
    for i in range(count):
        kind = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        spec = Spec(kind, tuple(shape))
        if spec.numel * kind.bits % 8:
            shape[-1:] = [8]
            spec = Spec(kind, tuple(shape))
        table[f"t{i}"] = {
            "dtype": kind.name, "shape": shape, "data_offsets": [at, at + spec.numel * kind.bits // 8]
        }  # fmt: skip
        at += spec.numel * kind.bits // 8
    data = draw(st.binary(min_size=at, max_size=at))
    order = draw(st.permutations(sorted(table)))
    return file_of(json.dumps({name: table[name] for name in order}), data)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=files())
def test_reads_as_the_reference_does(tmp_path, raw):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw)
    assert ours(path) == reference(raw)


def test_a_header_at_the_limit_is_read(tmp_path):
    path = tmp_path / "m.safetensors"
    text = f'{{"a":{entry()}}}'.encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", header.MAX_HEADER))
        file.write(text.ljust(header.MAX_HEADER))
        file.write(b"abcd")
    assert ours(path) == {"a": ("U8", [4], b"abcd")}
    with safetensors.safe_open(path, "np") as file:
        assert list(file.keys()) == ["a"]


# writing


def entries(*rows: tuple[str, str, tuple[int, ...]]) -> list[header.Entry]:
    made, at = [], 0
    for name, kind, shape in rows:
        spec = Spec(DTYPES[kind], shape)
        made.append(header.Entry(name, spec, at, at + spec.nbytes))
        at += spec.nbytes
    return made


ROWS = entries(("a.ä", "F32", (2, 3)), ("b", "BF16", (5,)), ("c", "U8", ()), ("d", "F4", (4,)))


@pytest.mark.parametrize("room", [0, 1, 5000])
@pytest.mark.parametrize("align", [1, 8, 4096])
def test_rendered_headers_read_back(room, align):
    metadata = {"z": "1", "a": 'ü"\n'}
    raw = header.render(ROWS, metadata, room=room, align=align)
    whole = raw + bytes(ROWS[-1].end)
    assert len(raw) % align == 0
    assert len(raw) - len(raw.rstrip(b" ")) >= room
    read = header.parse(raw[8:], file_size=len(whole), file="m")
    assert list(read.entries) == ROWS
    assert read.metadata == metadata
    assert list(read.metadata) == sorted(metadata)
    assert (read.data_start, read.data_size) == (len(raw), ROWS[-1].end)
    assert {k: v[:2] for k, v in reference(whole).items()} == {
        e.name: (e.spec.dtype.name, list(e.spec.shape)) for e in ROWS
    }


def test_an_exact_size_is_kept_or_refused():
    least = len(header.render(ROWS, {}, align=1))
    assert len(header.render(ROWS, {}, size=least + 3)) == least + 3
    with pytest.raises(PlanError, match=rf"m: the header needs {least} bytes, {least - 1} are available"):
        header.render(ROWS, {}, size=least - 1, file="m")


def test_room_gives_way_to_the_limit():
    long = {"k": "x" * (header.MAX_HEADER - 2000)}
    raw = header.render([], long, room=1 << 20)
    assert 8 + header.MAX_HEADER - 4096 < len(raw) <= 8 + header.MAX_HEADER
    with pytest.raises(PlanError, match="more than the format's 100000000"):
        header.render([], {"k": "x" * header.MAX_HEADER})


@pytest.mark.parametrize(
    ("more", "accepted"),
    [
        (r'"\ud800":1', False),
        (r'"a\udfff":[26]', False),
        (r'"\ud83d\ude00":1', True),  # a whole pair
        (r'"other":"\ud800"', False),
        (r'"other":{"\ud800":1}', False),
        (r'"other":[["\udc00"]]', False),
        (r'"other":1', True),
    ],
)
def test_what_else_stands_in_an_entry_is_text(more, accepted, tmp_path):
    text = f'{{"a":{{"dtype":"U8","shape":[2],{more},"data_offsets":[0,2]}}}}'.encode()
    raw = struct.pack("<Q", len(text)) + text + b"xy"
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw)
    if accepted:
        assert reference(raw).keys() == {"a"}
        assert [entry.name for entry in header.read(path).entries] == ["a"]
        return
    with pytest.raises(Exception, match="Error while deserializing"):
        reference(raw)
    with pytest.raises(FormatError, match="surrogate"):
        header.read(path)


ONE = '{"dtype":"I8","shape":[1],"data_offsets":[0,1]}'
USUAL = [
    f'{{"a":{ONE},"b":{ONE}}}',
    f'{{"a": {{"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}},\n "b": {ONE}}}  ',
    '{"__metadata__":{"dtype":"BF16"},"ä.b":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},"c":1}',
    f'{{"a\\u0041":{ONE},"b":{ONE},"a\\"b":{ONE},"x":1}}',
    f'{{"a":{{"shape":[1],"dtype":"I8","data_offsets":[0,1]}},"b":{ONE},"c":2}}',
    '{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"b":1}',
    '{"a":{"dtype":"I8","shape":[01],"data_offsets":[0,1]},"b":1}',
    '{"a":{"dtype":"I8","shape":[1,],"data_offsets":[0,1]},"b":1}',
    '{"a":{"dtype":"I8","shape":[1 2],"data_offsets":[0,1]},"b":1}',
    '{"a":{"dtype":"I8","shape":[1],"data_offsets":[00,1]},"b":1}',
    '{"a":{"dtype":"I8","shape":[-1],"data_offsets":[0,1]},"b":1}',
    '{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,99999999999999999999]},"b":1}',
    f'{{"a":{ONE},}}',
    f'{{"a":{ONE}',
    f'{{"__metadata__":{ONE},"b":1}}',
    f'{{"a":{ONE},"a":{ONE},"b":1}}',
]


@pytest.mark.parametrize("text", USUAL)
def test_what_is_read_in_one_match_is_what_is_read_value_by_value(text, monkeypatch):
    def told():
        try:
            members = list(headertext.members(text))
        except headertext.Malformed as error:
            return str(error)
        return [(name, one.fields() if isinstance(one, headertext.Usual) else one) for name, one in members]

    at_once = told()
    monkeypatch.setattr(headertext, "_USUAL", re.compile("(?!)"))
    assert at_once == told()
    try:
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except ValueError:
        assert isinstance(at_once, str)
    else:
        assert [name for name, _ in at_once] == [name for name, _ in pairs]


def test_most_entries_are_read_in_one_match():
    assert headertext._USUAL.match(USUAL[0], 1)
    assert headertext._USUAL.match(USUAL[1], 1)
