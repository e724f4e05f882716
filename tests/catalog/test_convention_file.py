"""The file of a convention is read strictly: it becomes codecs, and each mistake is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from transcode.catalog.convention_file import read
from transcode.codecs.nibbles import Nibbles
from transcode.codecs.numbers import Reciprocal
from transcode.codecs.offset import Offset
from transcode.codecs.rows_int32 import RowsInt32
from transcode.codecs.shapes import Reshape, Split, Squeeze, View
from transcode.codecs.swizzle import Swizzle
from transcode.codecs.transposed import Transposed
from transcode.errors import RecipeError


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("convention: mine", "convention: other"), 1, "'other' is not the name of the file"),
        (('"{stem}.qweight"', '"{stem}.{name}"'), 4, "is not a name template"),
        (('"{stem}.qweight"', '"{stam}.qweight"'), 4, "is not a name template"),
        (('"{stem}.scales", shape: [1]', '"{stem}.qweight"'), 8, "two parts have the name"),
        (("shape: [1]", "shape: [2]"), 5, "only one element can be reshaped"),
        (("shape: [1]", "layout: swizled"), 5, r"did you mean swizzled\?"),
        (("shape: [1]", "dtype: FP8"), 5, "'FP8' is not allowed"),
        (("shape: [1]", "reciprocal: 1"), 5, "must be true or false"),
        (("shape: [1]", "offset: 7"), 5, "7 is not half the range"),
        (("shape: [1]", "offset: 128, packing: high_first"), 5, "nibbles behind offset holds nothing"),
        (
            ("shape: [1]", "layout: swizzled, reciprocal: true"),
            5,
            "reciprocal behind swizzle_128x4 holds nothing",
        ),
        (("shape: [1]", "layout: packed_rows, offset: 8"), 5, "rows_int32 behind offset holds nothing"),
        (
            ("shape: [1]", "packing: high_first, reciprocal: true"),
            5,
            "reciprocal behind nibbles holds nothing",
        ),
        (("shape: [1]", "codecs: [swizzled]"), 5, "'swizzled' is not allowed; use one of view, offset"),
        (("shape: [1]", "codecs: [offset]"), 5, "codec offset lacks an option; it needs by"),
        (("shape: [1]", "codecs: [{codec: offset, by: 7}]"), 5, "by cannot be 7; it is 8 or 128"),
        (
            ("shape: [1]", "codecs: [{codec: offset, bye: 8}]"),
            5,
            r"unknown key 'bye'; .* \(did you mean by\?\)",
        ),
        (("shape: [1]", "codecs: [transposed, {of: nibbles}]"), 5, "'codec' is missing"),
        (("shape: [1]", "codecs: [transposed], offset: 8"), 5, "codecs: cannot stand beside offset"),
        (("shape: [1]", "codecs: [swizzle_128x4, powers]"), 5, "powers behind swizzle_128x4 holds nothing"),
        (("metadata: {", "config: quip\nmetadata: {"), 16, "'quip' is not allowed"),
        (("    rows: 16", "    row: 16"), 13, "unknown key 'row'"),
        (("    rows: 16", "    stores: [scale]"), 8, "codes have no spelling"),
        (("    rows: 16", "    stores: [codes, zero_point]"), 13, "part 'zero_point' has no spelling"),
        (("{stem}.{j}.safe", "{stem}.safe"), 15, "has no number"),
        (("{stem}.{j}.safe", "{stem}.{k}.safe"), 15, "is not a template"),
        (("{stem}.{j}.safe", "{stem:5}.{j}.safe"), 15, "takes no format"),
        (("{stem}.{j}.safe", "../{j}.safe"), 15, "must be a file name"),
        (('  chunk: "{stem}.{j}.safetensors"', "  block: block.safetensors"), 15, "must hold {i}"),
        (('{made: "1"}', "{made: 1}"), 16, "must be text"),
        (("dtype: F8_E4M3, zeros: [2]", "zeros: [2]"), 12, "'dtype' is missing"),
        (("  int8:", "  itn8:"), 7, r"unknown scheme 'itn8'; known: .*svdq_int4.* \(did you mean int8\?\)"),
    ],
)
def test_mistakes_in_a_file_are_told_with_their_line(
    tmp_path: Path, own_convention: str, change: tuple[str, str], line: int, said: str
) -> None:
    assert change[0] in own_convention
    path = tmp_path / "mine.yaml"
    path.write_text(own_convention.replace(*change))
    with pytest.raises(RecipeError, match=said) as caught:
        read(path)
    assert caught.value.file == f"{path}:{line}"


KEYS = {
    "offset: 8": (Offset(8),),
    "offset: 0, packing: low_first, layout: rows, reciprocal: false, squeeze: false": (),
    "packing: high_first, offset: 8": (Offset(8), Nibbles("high_first")),
    "dtype: I32, layout: packed_rows": (RowsInt32(), View("I32")),
    "dtype: U8, layout: swizzled": (Swizzle(), View("U8")),
    "shape: [1], reciprocal: true": (Reciprocal(), Reshape((1,))),
    "shape: [1, 1], squeeze: true": (Squeeze(), Reshape((1, 1))),
    "split: 16, dtype: U8": (View("U8"), Split(16)),
    "codecs: []": (),
    "codecs: [{codec: view, dtype: I32}, {codec: transposed}]": (View("I32"), Transposed()),
    "codecs: [{codec: transposed, of: nibbles}, {codec: view, dtype: I32}, {codec: nibbles, order: awq}]": (
        Transposed("nibbles"), View("I32"), Nibbles("awq"),
    ),
    "codecs: [reciprocal, {codec: reshape, shape: [1]}]": (Reciprocal(), Reshape((1,))),
}  # fmt: skip


@pytest.mark.parametrize("keys", KEYS)
def test_keys_stand_for_codecs_in_order(keys: str, tmp_path: Path, own_convention: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(own_convention.replace("shape: [1]", keys))
    assert read(path).part("scale", "int8").codecs == KEYS[keys]
