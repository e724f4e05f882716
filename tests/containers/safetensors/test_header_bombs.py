"""Headers made to exhaust memory or time are refused in little of either; real ones cost in proportion."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from transcode.containers import source
from transcode.containers.safetensors import header, headertext
from transcode.errors import FormatError

ENTRY = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]%s}'
BOMBS = {
    "a field of small lists": b'{"a":%s}' % (ENTRY % (b',"x":[' + b"[]," * 1_000_000 + b"[]]")),
    "members of small lists": b"{" + b",".join(b'"%x":[[],[]]' % i for i in range(200_000)) + b"}",
    "a shape of ones": b'{"a":%s}' % (ENTRY % b"").replace(b"[0]", b"[" + b"1," * 1_000_000 + b"0]"),
    "a shape of numbers": b'{"a":%s}' % (ENTRY % b"").replace(b"[0]", b"[" + b"65535," * 500_000 + b"0]"),
    "keys": b'{"__metadata__":{' + b",".join(b'"%x":""' % i for i in range(300_000)) + b"}}",
    "metadata of small lists": b'{"__metadata__":{"k":[' + b"[]," * 1_000_000 + b"[]]}}",
    "metadata is small lists": b'{"__metadata__":[' + b"[]," * 1_000_000 + b"[]]}",
    "an array of small lists": b"[" + b"[]," * 1_000_000 + b"[]]",
    "depth": b'{"a":' + b"[" * 3_000_000 + b"]" * 3_000_000 + b"}",
    "depth of objects": b'{"a":' + b'{"a":' * 600_000 + b"}" * 600_000 + b"}",
    "a text without an end": b'{"a":"' + b"x" * 3_000_000,
    "an integer of digits": b'{"a":' + b"9" * 3_000_000 + b"}",
    "an entry of numbers": b'{"a":{' + b",".join(b'"%x":1.5' % i for i in range(300_000)) + b"}}",
}


def peak_of(raw: bytes, size: int, **how: bool) -> tuple[header.Header | FormatError, int]:
    tracemalloc.start()
    try:
        return header.parse(raw, file_size=size, file="m", **how), tracemalloc.get_traced_memory()[1]
    except FormatError as error:
        return error, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused_in_little_memory(case, lenient):
    raw = BOMBS[case]
    found, peak = peak_of(raw, 8 + len(raw), lenient=lenient)
    if case == "metadata is small lists":
        assert "of more than 65536 characters" in str(found)
    assert isinstance(found, FormatError)
    assert len(str(found)) < 600
    # Beside the text, what the limits allow: 65,536 characters unfolded, or 100,000 keys.
    assert peak < len(raw) + (20 << 20)


@pytest.mark.parametrize("zero", [True, False])
def test_many_small_tensors_take_four_times_their_header(zero):
    size = 0 if zero else 1
    count = 60_000
    raw = b"{%s}" % b",".join(
        b'"%x":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}' % (i, size, i * size, i * size + size)
        for i in range(count)
    )
    found, peak = peak_of(raw, 8 + len(raw) + count * size)
    assert isinstance(found, header.Header)
    assert len(found.entries) == count
    assert peak < 4 * len(raw)


def test_a_header_of_experts_takes_less():
    table, at = {}, 0
    for i in range(20_000):
        name = f"model.layers.{i // 256}.mlp.experts.{i % 256}.down_proj.weight"
        table[name] = {"dtype": "BF16", "shape": [7168, 2048], "data_offsets": [at, at + 29360128]}
        at += 29360128
    raw = json.dumps(table, separators=(",", ":")).encode()
    found, peak = peak_of(raw, 8 + len(raw) + at)
    assert isinstance(found, header.Header)
    assert [(entry.name, entry.begin) for entry in found.entries] == [
        (name, facts["data_offsets"][0]) for name, facts in table.items()
    ]
    assert peak < 3.5 * len(raw)


def test_more_tensors_than_any_file_has_are_refused(monkeypatch):
    monkeypatch.setattr(headertext, "MOST_TENSORS", 100)
    for count, refused in ((100, False), (101, True)):
        raw = b"{%s}" % b",".join(b'"%x":%s' % (i, ENTRY % b"") for i in range(count))
        found, _ = peak_of(raw, 8 + len(raw))
        assert isinstance(found, FormatError) == refused


@pytest.mark.parametrize("fill", [b"x", b"}", b"{[", rb"\"", b"\xc3\xa9"])
def test_long_texts_are_no_bombs(fill):
    """Metadata may be long, and so may names."""
    text = fill * 300_000
    raw = b'{"%s":%s,"__metadata__":{"k":"%s"}}' % (text, ENTRY % b"", text)
    found, peak = peak_of(raw, 8 + len(raw))
    assert isinstance(found, header.Header)
    (entry,) = found.entries
    assert entry.name == found.metadata["k"] == json.loads(b'"%s"' % text)
    assert peak < 4 * len(raw)


def test_an_entry_with_objects_and_braces_of_its_own():
    more = b',"x":{"y":{"}":["}",{}]}},"z":"' + b"}" * 5000 + b'"'
    raw = b'{"a":%s, "b" : %s}' % (ENTRY % more, ENTRY % b"")
    found, _ = peak_of(raw, 8 + len(raw))
    assert isinstance(found, header.Header)
    assert sorted(entry.name for entry in found.entries) == ["a", "b"]


def entry(length: int) -> bytes:
    """An entry of just so many characters, filled up by a field that readers pass over."""
    bare = ENTRY % b',"x":""'
    return ENTRY % (b',"x":"' + b"x" * (length - len(bare)) + b'"')


@pytest.mark.parametrize(
    ("length", "refused"), [(400, False), (65_536, False), (65_537, True), (70_000, True)]
)
def test_an_entry_is_as_long_as_ever_a_real_one(length, refused):
    """The longest that a model can have: eight dimensions of twenty digits are below 400 characters."""
    raw = b'{"a":%s,"b":%s}' % (entry(length), ENTRY % b"")
    found, _ = peak_of(raw, 8 + len(raw))
    assert isinstance(found, FormatError) == refused
    assert not refused or "an entry of more than 65536 characters at byte 13" in str(found)
    widest = {"dtype": "F8_E8M0", "shape": [2**64 - 1] * 8, "data_offsets": [2**64 - 1] * 2}
    assert len(json.dumps(widest)) < 400


def test_a_model_of_a_trillion_parameters_is_far_from_every_limit():
    """61 layers of 384 experts in three matrices, with a scale for each, and all of it in one file."""
    table, at = {"__metadata__": {f"key{i}": "v" for i in range(300)}}, 0
    for layer in range(61):
        for expert in range(384):
            for part in ("gate_proj", "up_proj", "down_proj"):
                name = f"language_model.model.layers.{layer}.mlp.experts.{expert}.{part}.weight"
                for suffix, size in (("", 7168 * 2048), ("_scale_inv", 7168 * 2048 // 1024)):
                    shape = [7168, 2048] if not suffix else [56, 256]
                    table[name + suffix] = {"dtype": "U8", "shape": shape, "data_offsets": [at, at + size]}
                    at += size
    assert len(table) > 140_000
    raw = json.dumps(table, separators=(",", ":")).encode()
    found = header.parse(raw, file_size=8 + len(raw) + at, file="m")
    assert len(found.entries) == len(table) - 1
    assert found.metadata == table["__metadata__"]
    longest = max(len(json.dumps(fields)) + len(name) for name, fields in table.items() if name[0] != "_")
    assert 100 * longest <= headertext.LONGEST_ENTRY
    assert 5 * len(table) <= headertext.MOST_TENSORS
    assert headertext.MOST_KEYS >= 100 * 300
    assert 40 * max(map(len, table)) <= source._LONGEST_NAME


@pytest.mark.parametrize(("count", "refused"), [(100_000, False), (100_001, True)])
def test_more_keys_than_any_file_has_are_refused(count, refused):
    raw = b'{"__metadata__":{%s}}' % b",".join(b'"%x":""' % i for i in range(count))
    found, _ = peak_of(raw, 8 + len(raw))
    assert isinstance(found, FormatError) == refused
    assert not refused or "more than 100000 keys" in str(found)


@pytest.mark.parametrize(("length", "refused"), [(4096, False), (4097, True)])
def test_longer_names_than_any_tensor_has_are_refused(length, refused, tmp_path):
    """By what plans; facts and metadata of such a file can be looked at."""
    raw = b'{"%s":%s}' % (b"n" * length, ENTRY % b"")
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    assert len(header.read(path).entries) == 1
    if refused:
        with pytest.raises(FormatError, match=f"a tensor whose name of {length} characters"):
            source.open_source(path)
    else:
        assert len(source.open_source(path).tensors) == 1


def test_an_error_is_one_line_whatever_the_name():
    raw = b'{"a\\nb\\rc":{"dtype":"F4","shape":[],"data_offsets":[0,0]}}'
    found, _ = peak_of(raw, 8 + len(raw))
    assert str(found).startswith("m: a\\nb\\rc: shape [] of F4")
    assert found.tensor == "a\nb\rc"
