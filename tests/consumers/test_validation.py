"""Findings about metadata: by keys of a profile, and against the tensors that it speaks of."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from transcode.catalog.profiles import Key, Profile
from transcode.consumers.validation import Finding, validate
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec


def key(name: str = "k", need: str = "required", **rest: Any) -> Key:
    return Key(name, need, "because", **rest)


def found(metadata: dict[str, str], *keys: Key, tensors: dict[str, Spec] | None = None) -> list[str]:
    profile = Profile("mine", "mine", {one.name: one for one in keys}, {}, {}, None) if keys else None
    return [f"{one.level} {one}" for one in validate(metadata, tensors or {}, profile)]


@pytest.mark.parametrize(
    ("need", "metadata", "said"),
    [
        ("required", {}, ["error k: is missing: because"]),
        ("required", {"k": "x"}, []),
        ("required-with-metadata", {}, []),
        ("required-with-metadata", {"a": "b"}, ["error k: is missing: because"]),
        ("recommended", {}, ["warning k: is missing: because"]),
        ("optional", {}, []),
    ],
)
def test_needs(need: str, metadata: dict[str, str], said: list[str]) -> None:
    assert found(metadata, key(need=need)) == said


@pytest.mark.parametrize(
    ("rules", "value", "said"),
    [
        ({"one_of": ("pt", "np")}, "pt", None),
        ({"one_of": ("pt", "np")}, "tf", "is 'tf', must be one of pt, np"),
        ({"matches": re.compile(r"\d+")}, "12", None),
        ({"matches": re.compile(r"\d+")}, "12x", "is '12x', must look like \\d+"),
        ({"json": "any"}, "1", None),
        ({"json": "object"}, '{"a": 1}', None),
        ({"json": "object"}, "[1]", "is a JSON list, must be an object"),
        ({"json": "array"}, "{}", "is a JSON dict, must be an array"),
        ({"json": "object"}, "{", "is not valid JSON: "),
        ({"json": "object"}, "[" * 100_000, "is not valid JSON: "),
        ({"json": "object", "fields": ("a.b", "c")}, '{"a": {"b": null}, "c": 0}', None),
        ({"json": "object", "fields": ("a.b",)}, '{"a": {"c": 1}}', "lacks the field 'a.b'"),
        ({"json": "object", "fields": ("a.b",)}, '{"a": [1]}', "lacks the field 'a.b'"),
    ],
)
def test_values(rules: dict[str, Any], value: str, said: str | None) -> None:
    told = found({"k": value}, key(**rules))
    if said is None:
        assert told == []
    else:
        assert len(told) == 1
        assert told[0].startswith(f"error k: {said}")


def test_errors_come_first_and_each_once() -> None:
    told = found({}, key("a", "recommended"), key("b", "required"), key("c", "recommended"))
    assert told == [
        "error b: is missing: because", "warning a: is missing: because", "warning c: is missing: because",
    ]  # fmt: skip
    assert str(Finding("error", "", "all wrong")) == "all wrong"


# quantization_config of SVDQuant


def svdquant(n: int = 128, k: int = 256, rank: int = 32) -> dict[str, Spec]:
    """A layer as nunchaku keeps it: int4 codes, a BF16 scale for each 64 columns, two low-rank factors."""
    return {
        "a.qweight": Spec(DTYPES["I8"], (n, k // 2)),
        "a.wscales": Spec(DTYPES["BF16"], (k // 64, n)),
        "a.proj_down": Spec(DTYPES["BF16"], (k, rank)),
        "a.proj_up": Spec(DTYPES["BF16"], (n, rank)),
        "a.lora_down": Spec(DTYPES["BF16"], (k, rank)),
        "a.lora_up": Spec(DTYPES["BF16"], (n, rank)),
        "a.smooth_factor": Spec(DTYPES["BF16"], (k,)),
    }


TRUE = {
    "method": "svdquant",
    "weight": {"dtype": "int4", "scale_dtype": None, "group_size": 64},
    "activation": {"dtype": "int4", "scale_dtype": None, "group_size": 64},
    "rank": 32,
}


def about(change: dict[str, Any] | None = None, tensors: dict[str, Spec] | None = None) -> list[str]:
    stated = {**TRUE, **(change or {})}
    return found(
        {"quantization_config": json.dumps(stated)}, tensors=svdquant() if tensors is None else tensors
    )


def test_a_true_quantization_config() -> None:
    assert about() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": {"dtype": "fp4_e2m1_all"}}, 'weight.dtype is "fp4_e2m1_all", the tensors are "int4"'),
        ({"weight": {"group_size": 16}}, "weight.group_size is 16, the tensors are 64"),
        ({"activation": {"dtype": "int8"}}, 'activation.dtype is "int8", the tensors are "int4"'),
        ({"rank": 16}, "rank is 16, the low-rank tensors have 32"),
    ],
)
def test_a_false_one(change: dict[str, Any], said: str) -> None:
    assert about(change) == [f"error quantization_config: {said}"]


def test_other_methods_and_no_tensors_are_no_concern() -> None:
    assert about({"method": "awq", "rank": 1}) == []
    assert about({"rank": 1}, {}) == []
    assert found({"quantization_config": "no JSON"}, tensors=svdquant()) == []


def test_nothing_is_quantized_that_way() -> None:
    (told,) = about({}, {"a.weight": Spec(DTYPES["BF16"], (4, 4))})
    assert "says svdquant, but no tensor is quantized that way" in told


def test_shapes_tell_the_size_of_groups_too() -> None:
    """Int4 has groups of 64: scales for groups of 128 belong to something else."""
    tensors = {**svdquant(), "a.wscales": Spec(DTYPES["BF16"], (2, 128))}
    (told,) = about({}, tensors)
    assert "a.qweight has groups of 128, its precision has groups of 64" in told


# _quantization_metadata of ComfyUI


def layers(**said: object) -> list[str]:
    tensors = {
        "a.weight": Spec(DTYPES["F8_E4M3"], (4, 4)), "b.weight": Spec(DTYPES["I8"], (4, 4)),
        "c.weight": Spec(DTYPES["U8"], (4, 2)), "d.weight": Spec(DTYPES["BF16"], (4, 4)),
    }  # fmt: skip
    return found({"_quantization_metadata": json.dumps({"layers": said})}, tensors=tensors)


@pytest.mark.parametrize(
    ("layer", "form", "true"),
    [
        ("a", "float8_e4m3fn", True), ("a", "float8_e5m2", False), ("a", "mxfp8", True),
        ("a", "nvfp4", False),
        ("b", "int8_tensorwise", True), ("b", "float8_e4m3fn", False), ("c", "nvfp4", True),
        ("c", "int8_tensorwise", False), ("d", "float8_e4m3fn", False), ("d", "some_new_format", True),
    ],
)  # fmt: skip
def test_codes_have_the_dtype_of_their_format(layer: str, form: str, true: bool) -> None:
    told = layers(**{layer: {"format": form}})
    assert (told == []) == true
    if not true:
        assert told[0].startswith(f"error _quantization_metadata: says {form} of {layer!r}, whose weight is ")


def test_layers_must_exist() -> None:
    assert layers(z={"format": "nvfp4"}) == [
        "error _quantization_metadata: names the layer 'z', which has no weight"
    ]
    assert layers(a="nonsense") == []


@pytest.mark.parametrize("form", [None, 7, ["nvfp4"], {"nvfp4": 1}])
def test_a_format_that_is_no_text_is_none_that_is_known(form: object) -> None:
    assert layers(a={"format": form}) == []
