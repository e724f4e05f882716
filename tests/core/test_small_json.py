"""Small JSON files of strangers: read whole, in bounded memory, or refused in one line."""

import io
import json
import tracemalloc

import pytest

from transcode.core import small_json
from transcode.errors import FormatError, RecipeError


def test_a_small_file_takes_little_memory(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    tracemalloc.start()
    try:
        assert small_json.read(path) == b'{"a": 1}'
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("length", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 3 << 20])
def test_all_of_it_is_read(length):
    content = bytes(range(251)) * (length // 251 + 1)
    assert small_json.take(io.BytesIO(content[:length]), file="x") == content[:length]


def test_short_reads_are_no_end():
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 3))

    assert small_json.take(Slow(b"0123456789"), file="x") == b"0123456789"


def test_what_is_too_long_is_refused(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    assert len(small_json.read(path)) == 64 << 20
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(RecipeError, match=r"config\.json: is longer than the 67108864 bytes"):
        small_json.read(path, RecipeError)


@pytest.mark.parametrize("raw", ["{", "[1", "nul", '{"a": 1} x', "[" * 100_000, '{"a": 1, "a": 2}'])
def test_what_is_no_json_is_refused(raw):
    with pytest.raises(FormatError):
        small_json.parse(raw, file="x", what="")


@pytest.mark.parametrize("value", [None, True, 3, "text", [], [{}]])
def test_an_object_is_asked_for(value):
    with pytest.raises(FormatError, match="not an object"):
        small_json.parse_object(json.dumps(value), file="x", what="")
    assert small_json.object_or_none(json.dumps(value)) is None
