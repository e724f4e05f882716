"""One text in the place of a list is one item: no letters, and no errors of Python's own."""

from __future__ import annotations

from pathlib import Path

import pytest

import transcode as tc
from transcode.errors import RecipeError
from transcode.stages.lora.stage import Lora
from transcode.stages.quantize.stage import Quantize
from transcode.stages.select import Drop

SAME = [
    (lambda: tc.quantize("int8", targets="ffn"), lambda: tc.quantize("int8", targets=["ffn"])),
    (lambda: tc.quantize("int8", include="head"), lambda: tc.quantize("int8", include=("head",))),
    (lambda: tc.quantize("int8", exclude="a.b"), lambda: tc.quantize("int8", exclude={"a.b"})),
    (lambda: Quantize("int8", targets="ffn"), lambda: Quantize("int8", targets=("ffn",))),
    (
        lambda: tc.quantize("int8", overrides="a=fp8"),
        lambda: tc.quantize("int8", overrides={"a": "fp8"}),
    ),
    (
        lambda: tc.quantize("int8", overrides=["a=fp8:granularity=tensor", ["b", "bf16"]]),
        lambda: tc.quantize("int8", overrides=(("a", "fp8:granularity=tensor"), ("b", "bf16"))),
    ),
    (
        lambda: tc.quantize("nvfp4", share_scale="q,k"),
        lambda: tc.quantize("nvfp4", share_scale=[["q", "k"]]),
    ),
    (lambda: tc.drop("x"), lambda: Drop("x")),
    (lambda: tc.drop(["x", "y"]), lambda: tc.drop("x", "y")),
    (lambda: tc.keep(["x"]), lambda: tc.keep("x")),
    (lambda: tc.cast("bf16", only="x"), lambda: tc.cast("bf16", only=["x"])),
    (lambda: tc.dequantize(only="x"), lambda: tc.dequantize(only=("x",))),
    (lambda: tc.lora(["ab", "cd"]), lambda: tc.lora([("ab",), ("cd",)])),
    (lambda: tc.lora(["ab", ("cd", 2.0)], 0.5), lambda: Lora((("ab", 0.5), ("cd", 2.0)))),
    (lambda: tc.lora(Path("ab")), lambda: Lora("ab")),
    (lambda: tc.rename({"a": "b"}), lambda: tc.rename([["a", "b"]])),
]


@pytest.mark.parametrize("number", range(len(SAME)))
def test_one_text_is_one_item(number):
    ours, same = SAME[number]
    assert ours() == same()


WRONG = [
    (lambda: tc.quantize("int8", overrides="ffn"), "overrides: 'ffn' is one text"),
    (lambda: tc.quantize("int8", overrides=[("a", "b", "c")]), "is not a pair"),
    (lambda: tc.quantize("int8", overrides={"a": 8}), "overrides a: 8"),
    (lambda: tc.quantize("int8", targets=5), "targets: 5"),
    (lambda: tc.quantize("int8", targets=["a", 5]), "targets: 5"),
    (lambda: tc.quantize("int8", include={"a": "b"}), "include"),
    (lambda: tc.quantize("int8", share_scale=["q"]), "shares with nobody"),
    (lambda: tc.quantize("int8", share_scale=3), "share_scale: 3"),
    (lambda: tc.quantize("int8", model=["a"]), "model"),
    (lambda: tc.quantize("int8", keep_dtype=3), "keep_dtype"),
    (lambda: tc.quantize(5), "5"),
    (lambda: tc.drop(), "drop: no pattern"),
    (lambda: tc.keep(1), "keep: 1"),
    (lambda: tc.rename("ab"), "rules: 'ab' is one text"),
    (lambda: tc.rename(["ab"]), "rules: 'ab' is one text"),
    (lambda: tc.rename(), "rename: nothing is given"),
    (lambda: tc.lora(7), "lora: 7"),
    (lambda: tc.lora([("a", "strong")]), "strength: 'strong'"),
    (lambda: tc.lora([("a", 1, 2, 3)]), "noise 3 is none of high, low, both"),
    (lambda: tc.lora([("a", 1, 2, "low", 3)]), "is no path"),
    (lambda: tc.cast(5), "5"),
    (lambda: tc.convert(5), "5"),
    (lambda: tc.calibrate(5), "5"),
    (lambda: tc.open(5), "5"),
    (lambda: tc.write(5), "5"),
    (lambda: tc.write("x", metadata={"a": 1}), "metadata a: 1"),
    (lambda: tc.write("x", metadata="a"), "metadata"),
    (lambda: tc.write("x", workers="4"), "workers: '4'"),
    (lambda: tc.write("x", max_tensors="4"), "max_tensors"),
    (lambda: tc.write("x", memory=3.5), "3.5"),
    (lambda: tc.write("x", name=5), "name"),
    (lambda: tc.write("x", device=3), "device: 3"),
    (lambda: tc.write("x", force="no"), "force: 'no' is neither True nor False"),
    (lambda: tc.write("x", copy_metadata=0), "copy_metadata: 0"),
    (lambda: tc.open("x", mmap="false"), "mmap: 'false'"),
    (lambda: tc.cast("F16", saturate=None), "saturate: None"),
    (lambda: tc.lora([("a", 10**400)]), "strength: the number is too large"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_anything_else_is_refused_by_name(number):
    make, told = WRONG[number]
    with pytest.raises(RecipeError) as caught:
        make()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
