"""Files that are quantized in other ways are known by their names."""

from __future__ import annotations

import pytest

from transcode.catalog.foreign import Foreign, foreign
from transcode.errors import RecipeError

TABLE = Foreign(
    {}, {"wide": ((".qweight", ".scales", ".extra"),), "narrow": ((".qweight", ".scales"), (".w.codes",))}
)


def test_all_names_of_a_list_must_be_there_and_the_first_list_wins():
    stored = {"a.qweight": "I32", "a.scales": "F16", "b.qweight": "I32", "b.scales": "F16", "b.extra": "I32",
              "c.qweight": "I32", "d.w.codes": "U8", "e.weight": "BF16", "qweight": "I32"}  # fmt: skip
    assert TABLE.recognise(stored) == {
        "a": ("narrow", (".qweight", ".scales")),
        "b": ("wide", (".qweight", ".scales", ".extra")),
        "d": ("narrow", (".w.codes",)),
    }


def test_plain_floats_are_no_codes():
    assert TABLE.recognise({"a.qweight": "BF16", "a.scales": "F16"}) == {}
    assert TABLE.recognise({}) == {}


def test_the_table_in_use_knows_gptq_and_bitsandbytes():
    """Names as AutoGPTQ and bitsandbytes save them."""
    gptq = dict.fromkeys(["l.qweight", "l.qzeros", "l.scales", "l.g_idx"], "I32")
    nf4 = {"m.weight": "U8", "m.weight.absmax": "F32", "m.weight.quant_map": "F32",
           "m.weight.quant_state.bitsandbytes__nf4": "U8"}  # fmt: skip
    found = foreign().recognise(gptq | nf4)
    assert "GPTQ" in found["l"][0]
    assert "bitsandbytes" in found["m"][0]


def test_a_mistake_in_the_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "names.yaml").write_text("foreign: other\nmethods: {}\nparts: {}\n")
    with pytest.raises(RecipeError, match="'other' is not the name of the file"):
        foreign()
    (tmp_path / "foreign" / "names.yaml").write_text("foreign: names\nmethods: {}\nparts: {}\nmore: 1\n")
    with pytest.raises(RecipeError, match="more"):
        foreign()
