"""What interpreters and notebooks show: short whatever a model holds, and harmless whatever it is called."""

from __future__ import annotations

import json
import pickle
import re
import struct
from html.parser import HTMLParser

import pytest

import transcode as tc
from transcode.core.dtypes import dtype
from transcode.core.event import Remark
from transcode.core.output import PlannedFile, SideFile
from transcode.core.shown import ROWS, Overview, Table, as_call
from transcode.core.text import clipped, count, printable, size

MOST = 2500
"""Characters in an interpreter."""

MOST_HTML = 30_000


def write_model(path, names, shape=(32, 32)):
    """A BF16 file of zeros, written by hand: the reference library takes minutes for so many."""
    each = 2 * shape[0] * shape[1]
    header = {
        name: {"dtype": "BF16", "shape": list(shape), "data_offsets": [i * each, (i + 1) * each]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + each * len(names))
    return path


def blocks(count, layers):
    return [f"blocks.{i}.{layer}.weight" for i in range(count) for layer in layers]


LAYERS = [f"{part}.{layer}" for part in ("self_attn", "cross_attn") for layer in "qkvo"] + ["ffn.0", "ffn.2"]


@pytest.mark.parametrize(
    "names", [blocks(40, LAYERS), blocks(1000, LAYERS)], ids=["40 blocks", "10,000 tensors"]
)
def test_everything_is_a_few_lines_whatever_the_size(names, tmp_path):
    source = write_model(tmp_path / "m.safetensors", names, (32, 32) if len(names) < 1000 else (1, 1))
    flow = tc.open(source)
    chain = tc.rename(names={name: f"model.{name}" for name in names[:300]}) | tc.quantize(
        "int8", targets=["self_attn"], exclude=[f"blocks.{i}" for i in range(400)]
    )
    sink = tc.write(tmp_path / "o.safetensors", metadata={f"k{i}": "v" * 1000 for i in range(50)})
    sink = tc.write(tmp_path / "o.safetensors", allow_unmatched=True, metadata=dict(sink.metadata))
    plain = tc.open(source) | tc.cast("F32")
    plan = plain.plan(tc.write(tmp_path / "o.safetensors"))
    report = plain | tc.write(tmp_path / "o.safetensors")
    shown = [
        flow, flow | chain, chain | sink, sink, *chain.steps, plan, plan.log, report, flow.source,
        plan.files[0], flow[names[0]], plan.tensors[-1], tc.inspect(source),
        tc.meta.diff(source, tmp_path / "o.safetensors", tensors=True),
        tc.meta.validate(tmp_path / "o.safetensors"), tc.meta.clear(tmp_path / "o.safetensors", dry_run=True),
    ]  # fmt: skip
    for one in shown:
        text = repr(one)
        assert len(text) < MOST, type(one)
        assert len(text.splitlines()) <= 20, text
        assert str(one) == text
        if hasattr(one, "_repr_html_"):
            assert len(one._repr_html_()) < MOST_HTML, type(one)
    assert f"{len(names)} tensors" in repr(flow)
    assert f"and {len(names) - ROWS} more" in flow._repr_html_()


def test_what_a_plan_and_a_report_tell(wan, tmp_path):
    flow = tc.open(wan) | tc.quantize("int8")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors"))
    # 87 tensors, of which the matrices of two blocks are quantized: counted in the files by hand.
    kinds = [event for tensor in plan.tensors for event in tensor.fate if event.kind == "quantize"]
    assert f"{len(kinds)} quantize int8" in repr(plan)
    assert f"{87 - len(kinds)} keep" in repr(plan)
    assert len(plan.fates()) == 87
    assert sum(fate.bytes_in for fate in plan.fates()) == plan.bytes_in
    assert f"87 -> {87 + len(kinds)} tensors, " in repr(plan)  # a scale beside each
    dropped = (tc.open(wan) | tc.drop("*.bias")).plan(tc.write(tmp_path / "o.safetensors"))
    gone = [fate for fate in dropped.fates() if fate.deed == "drop"]
    assert len(gone) == len(dropped.log.dropped) > 0
    assert f"87 -> {87 - len(gone)} tensors, " in repr(dropped)
    report = flow | tc.write(tmp_path / "o.safetensors", measure=True)
    assert "SQNR" in repr(report)
    assert f"{len(kinds)} tensors" in repr(report)
    assert "int8: codes I8" in repr(flow["blocks.0.ffn.0.weight"])


def test_stages_show_as_the_calls_that_make_them(tmp_path):
    assert repr(tc.quantize("int8", exclude="a")) == "quantize('int8', exclude=('a',))"
    assert repr(tc.drop("a")) == "drop(('a',))"
    assert repr(tc.cast("bf16")) == "cast('BF16')"
    assert repr(tc.dequantize()) == "dequantize()"
    assert repr(tc.write("o", force=True)) == "write('o', force=True)"
    assert repr(tc.drop("a") | tc.write("o")).splitlines() == [
        "<Chain of 2 stages",
        "  | drop(('a',))",
        "  | write('o')>",
    ]
    many = tc.drop("a")
    for _ in range(30):
        many = many | tc.drop("a")
    assert len(repr(many).splitlines()) == 8
    assert eval(repr(tc.quantize("fp8", include=["x"])), {"quantize": tc.quantize}) == tc.quantize(
        "fp8", include=["x"]
    )


def test_equality_hashes_and_pickles_stay(wan, tmp_path):
    flow = tc.open(wan) | tc.quantize("int8")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors"))
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert tc.write("o") == tc.write("o")
    assert tc.quantize("int8") == tc.quantize("int8") != tc.quantize("fp8")
    assert len({tc.quantize("int8"), tc.quantize("int8")}) == 1
    tensor = flow["blocks.0.ffn.0.weight"]
    assert pickle.loads(pickle.dumps(tensor)) == tensor
    assert hash(tensor) == hash(pickle.loads(pickle.dumps(tensor)))


HOSTILE = "<script>alert('1')</script>&\"\x1b[31m\u202eevil\n\x00"


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert all(name in ("style",) for name, _ in attrs)


def test_hostile_names_are_text_in_a_notebook_and_in_an_interpreter(tmp_path):
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    source = write_model(folder / "m.safetensors", [HOSTILE, f"{HOSTILE}.weight"])
    tc.meta.set(source, {HOSTILE.replace("\x00", ""): HOSTILE.replace("\x00", "")})
    flow = tc.open(source)
    other = write_model(tmp_path / "other.safetensors", ["a"])
    plan = (flow | tc.cast("F32")).plan(tc.write(tmp_path / "o.safetensors"))
    shown = [flow, flow[HOSTILE], plan, tc.inspect(source), tc.meta.diff(source, other, tensors=True)]
    shown += [tc.meta.validate(source), tc.meta.set(source, {"a": "b"}, dry_run=True)]
    for one in shown:
        tags = _Tags()
        html = one._repr_html_()
        tags.feed(html)
        assert tags.tags <= {"table", "thead", "tbody", "tr", "th", "td", "p", "b", "br"}, type(one)
        assert "<script" not in html
        assert "<img" not in html
        for text in (repr(one), html):
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), type(one)


def test_files_show_their_sizes_not_their_bytes():
    assert (
        repr(PlannedFile("a.safetensors", b"x" * 1000, ())) == "<PlannedFile a.safetensors: 0 tensors, 1 kB>"
    )
    assert repr(SideFile("a.json", b"x" * 12)) == "<SideFile a.json: 12 B>"


def test_small_values():
    assert repr(dtype("BF16")) == "dtype('BF16')"
    assert eval(repr(dtype("BF16"))) is dtype("BF16")
    assert repr(Remark("a\nb")) == "Remark('a\\\\nb')"


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("ab", 5, "ab"), ("abcdef", 5, "ab..."), ("a\x1bb", 9, "a\\x1bb"), ("\u202e", 9, "\\u202e"),
        ("\U000e0001", 20, "\\U000e0001"), ("\udcff", 9, "\\udcff"), ("ä\u4e2d", 5, "ä\u4e2d"),
        ("\x1b" * 9, 9, "\\x1b\\x..."),
    ],
)  # fmt: skip
def test_printable(text, most, shown):
    assert printable(text, most) == shown


def test_sizes_and_numbers():
    assert [size(n) for n in (0, 999, 1000, 1_500_000, 2 * 10**9, 3 * 10**12)] == [
        "0 B", "999 B", "1 kB", "1.5 MB", "2 GB", "3 TB",
    ]  # fmt: skip
    assert (count(1, "file"), count(2, "file"), clipped("abcd", 4)) == ("1 file", "2 files", "abcd")


def test_tables_say_how_much_they_leave_out():
    table = Table(("a",), ((i,) for i in range(100)), 100)
    assert table.html().count("<tr>") == ROWS + 1
    assert f"and {100 - ROWS} more" in table.html()
    assert "more" not in Table(("a",), [(1,)], 1).html()
    assert Overview("a\nb", ["c"]).text() == "<a\\nb\n  c>"


def test_calls_with_long_arguments_are_cut():
    stage = tc.rename(names={f"name{i}": "x" * 500 for i in range(100)})
    assert len(as_call("rename", stage)) <= 200
    assert "100 in all" in repr(tc.drop(*(f"{i}" for i in range(100))))
