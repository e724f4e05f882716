"""Conventions spell parts as their consumers do, and read them back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcode import catalog
from transcode.catalog import PartRule
from transcode.catalog.programs import program
from transcode.catalog.template import Template
from transcode.codecs.nibbles import Nibbles
from transcode.codecs.numbers import Reciprocal
from transcode.codecs.rows_int32 import RowsInt32
from transcode.codecs.shapes import Reshape, View
from transcode.codecs.swizzle import Swizzle
from transcode.core.dtypes import DTYPES
from transcode.errors import PlanError, RecipeError

X = "blocks.0.self_attn.q.weight"

# What LightX2V stores of X.weight, by its tools/convert/converter.py and kernels; zero points are ours alone.
LIGHTX2V = {
    "int8": {"codes": X, "scale": f"{X}_scale", "zero_point": f"{X}_zero_point"},
    "fp8": {"codes": X, "scale": f"{X}_scale", "input_scale": "blocks.0.self_attn.q.input_scale"},
    "mxfp4": {"codes": X, "scale": f"{X}_scale"},
    "mxfp6": {"codes": X, "scale": f"{X}_scale"},
    "int4": {"codes": X, "scale": f"{X}_scale", "workspace": f"{X}_workspace"},
    "mxfp8": {"codes": X, "scale": f"{X}_scale"},
    "nvfp4": {
        "codes": X,
        "scale": f"{X}_scale",
        "global_scale": f"{X}_global_scale",
        "input_global_scale": "blocks.0.self_attn.q.input_global_scale",
        "alpha": "blocks.0.self_attn.q.alpha",
    },
}


@pytest.mark.parametrize("scheme", LIGHTX2V)
def test_lightx2v_names(scheme: str) -> None:
    lightx2v = catalog.convention("lightx2v")
    assert {role: lightx2v.spell(X, role, scheme) for role in lightx2v.scheme(scheme).parts} == LIGHTX2V[
        scheme
    ]


# Stored names of X.weight by each consumer's own code, with dtypes where not the scheme's, and layouts.
CONSUMERS = {
    ("comfyui", "int8"): {"X.weight": (None, "rows"), "X.weight_scale": (None, "rows")},
    ("comfyui", "fp8"): {"X.weight": (None, "rows"), "X.weight_scale": (None, "rows")},
    ("comfyui", "mxfp8"): {"X.weight": ("F8_E4M3", "rows"), "X.weight_scale": ("U8", "swizzled")},
    ("comfyui", "nvfp4"): {
        "X.weight": ("U8", "rows"), "X.weight_scale": ("F8_E4M3", "swizzled"),
        "X.weight_scale_2": (None, "rows"),
    },
    ("comfyui_scaled", "fp8"): {"X.weight": (None, "rows"), "X.scale_weight": (None, "rows")},
    ("deepseek", "fp8"): {"X.weight": (None, "rows"), "X.weight_scale_inv": (None, "rows")},
    ("compressed_tensors", "int4"): {
        "X.weight_packed": ("I32", "rows"), "X.weight_scale": (None, "rows"),
        "X.weight_zero_point": ("I32", "packed_rows"), "X.weight_shape": (None, "rows"),
    },
    ("compressed_tensors", "fp8"): {"X.weight": (None, "rows"), "X.weight_scale": (None, "rows")},
    ("compressed_tensors", "mxfp4"): {"X.weight_packed": ("U8", "rows"), "X.weight_scale": ("U8", "rows")},
    ("compressed_tensors", "mxfp8"): {"X.weight": ("F8_E4M3", "rows"), "X.weight_scale": ("U8", "rows")},
    ("compressed_tensors", "nvfp4"): {
        "X.weight_packed": ("U8", "rows"), "X.weight_scale": ("F8_E4M3", "rows"),
        "X.weight_global_scale": (None, "rows"), "X.input_global_scale": (None, "rows"),
    },
    ("modelopt", "fp8"): {"X.weight": (None, "rows"), "X.weight_scale": (None, "rows")},
    ("modelopt", "nvfp4"): {
        "X.weight": ("U8", "rows"), "X.weight_scale": ("F8_E4M3", "rows"), "X.weight_scale_2": (None, "rows"),
        "X.input_scale": (None, "rows"),
    },
}  # fmt: skip


def layout(rule: PartRule) -> str:
    """How rows lie."""
    kinds = {Swizzle: "swizzled", RowsInt32: "packed_rows"}
    return next((kinds[type(one)] for one in rule.codecs if type(one) in kinds), "rows")


@pytest.mark.parametrize(("convention", "scheme"), CONSUMERS)
def test_consumers(convention: str, scheme: str) -> None:
    parts = catalog.convention(convention).scheme(scheme).parts.values()
    found = {part.name.spell("X.weight"): (part.dtype, layout(part)) for part in parts}
    assert found == CONSUMERS[convention, scheme]


def test_only_comfyui_swaps_nibbles() -> None:
    swapped = {
        (name, scheme)
        for name in catalog.conventions()
        for scheme, rule in catalog.convention(name).schemes.items()
        if any(Nibbles("high_first") in part.codecs for part in rule.parts.values())
    }
    assert swapped == {("comfyui", "nvfp4"), ("comfyui", "nvfp4_awq")}


def test_who_stores_a_divisor_and_who_a_multiplier() -> None:
    """The scheme's global scale is 2688 / amax, as LightX2V and compressed-tensors store it."""
    stored = {
        name: Reciprocal() in catalog.convention(name).part("global_scale", "nvfp4").codecs
        for name in ("lightx2v", "compressed_tensors", "comfyui", "modelopt")
    }
    assert stored == {"lightx2v": False, "compressed_tensors": False, "comfyui": True, "modelopt": True}


def test_who_looks_for_a_quantization_config() -> None:
    dialects = {
        name: dialect for name in catalog.conventions() if (dialect := catalog.convention(name).config)
    }
    assert dialects == {
        "awq": "awq",
        "bitsandbytes": "bitsandbytes",
        "compressed_tensors": "compressed-tensors",
        "deepseek": "fp8",
        "mlx": "mlx",
        "gptq": "gptq",
        "gptq_v2": "gptq-v2",
        "modelopt": "modelopt",
        "nunchaku_lite": "nunchaku-lite",
        "quanto": "quanto",
        "quark": "quark",
        "sdnq": "sdnq",
        "hqq": "hqq",
        "torchao": "torchao",
    }


def test_comfyui_says_what_a_layer_is() -> None:
    rule = catalog.convention("comfyui").scheme("fp8")
    for form, said in (("e4m3fn", b'{"format": "float8_e4m3fn"}'), ("e5m2", b'{"format": "float8_e5m2"}')):
        (marker,) = rule.markers_for(SimpleNamespace(format=form))
        assert (marker.name.spell("X.weight"), marker.dtype, marker.data) == ("X.comfy_quant", "U8", said)
        assert marker.shape == (len(said),)
        assert marker.everywhere
    (marker,) = catalog.convention("comfyui_scaled").scheme("fp8").markers_for(SimpleNamespace())
    assert (str(marker.name), marker.shape, marker.everywhere) == ("scaled_fp8", (2,), False)


def test_real_files_are_read_back() -> None:
    """Names as in published checkpoints."""
    deepseek = [
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.gate_proj.weight_scale_inv",
        "lm_head.weight",
    ]
    assert catalog.convention("deepseek").group(deepseek) == {
        deepseek[0]: {"codes": deepseek[0], "scale": deepseek[1]},
        "lm_head.weight": {"values": "lm_head.weight"},
    }
    comfy = ["a.weight", "a.weight_scale", "a.comfy_quant", "a.bias"]
    assert catalog.convention("comfyui").group(comfy) == {
        "a.weight": {"codes": "a.weight", "scale": "a.weight_scale"},
        "a.bias": {"values": "a.bias"},
    }
    older = ["model.scaled_fp8", "scaled_fp8", "a.weight", "a.scale_weight"]
    assert catalog.convention("comfyui_scaled").group(older) == {
        "a.weight": {"codes": "a.weight", "scale": "a.scale_weight"}
    }
    packed = ["a.weight_packed", "a.weight_scale", "a.weight_global_scale", "b.weight", "b.weight_scale"]
    assert catalog.convention("compressed_tensors").group(packed) == {
        "a.weight": {"codes": packed[0], "scale": packed[1], "global_scale": packed[2]},
        "b.weight": {"codes": "b.weight", "scale": "b.weight_scale"},
    }


def test_lightx2v_knows_these_schemes() -> None:
    assert set(catalog.convention("lightx2v").schemes) == set(LIGHTX2V)


def test_lightx2v_layouts() -> None:
    lightx2v = catalog.convention("lightx2v")
    for scheme in ("mxfp4", "mxfp6", "mxfp8", "nvfp4"):
        codes, scale = lightx2v.part("codes", scheme), lightx2v.part("scale", scheme)
        assert codes.codecs == (View("U8"),)
        assert scale.codecs == (Swizzle(), View("F8_E4M3" if scheme == "nvfp4" else "F8_E8M0"))
    for scheme in ("int8", "fp8"):
        assert lightx2v.scheme_options(scheme)["scale_dtype"] == "BF16"  # what its loader makes of any
        assert lightx2v.part("scale", scheme).codecs == ()
    assert not any(rule.shares_scales for rule in lightx2v.schemes.values())


def test_lightx2v_files() -> None:
    lightx2v = catalog.convention("lightx2v")
    index = "diffusion_pytorch_model.safetensors.index.json"
    assert lightx2v.single_file("wan") == "wan.safetensors"
    assert lightx2v.chunk_file("wan").format(i=1, j=0, n=3) == "wan_part0.safetensors"
    assert lightx2v.alone_file("wan") == "wan_part0.safetensors"
    block, rest = lightx2v.block_files
    assert (block.format(i=12), rest) == ("block_12.safetensors", "non_block.safetensors")
    assert lightx2v.index_name("chunked", "wan") == lightx2v.index_name("by_block", "wan") == index
    assert lightx2v.index_name("single_file", "wan") is None
    assert lightx2v.files.total_size == "files"


def test_who_is_known_by_which_word() -> None:
    """Families and spellings that there are, in the words that ComfyUI-GGUF's loader takes."""
    gguf = program("comfyui").gguf
    assert gguf is not None
    known = catalog.convention("gguf").known_by["general.architecture"]
    assert set(known.values()) <= set(gguf.architectures)
    for family, spelling in known:
        assert spelling in catalog.family(family).spellings, (family, spelling)
    assert {known["hidream", "diffusers"], known["cosmos2", "original"], known["sd1", "original"]} == {
        "hidream", "cosmos", "sd1",
    }  # fmt: skip


def test_plain_files() -> None:
    plain = catalog.convention("plain")
    assert plain.chunk_file("model").format(i=2, j=1, n=30) == "model-00002-of-00030.safetensors"
    assert plain.alone_file("model") == plain.single_file("model") == "model.safetensors"
    assert plain.index_name("chunked", "model") == "model.safetensors.index.json"
    assert plain.files.total_size == "tensors"
    assert plain.metadata["format"] == "pt"


@pytest.mark.parametrize("stem", ["a{b}c", "{i}", "a.b", "{", "}}", "{stem}x"])
def test_any_stem_survives(stem: str) -> None:
    assert (
        catalog.convention("plain").chunk_file(stem).format(i=1, j=0, n=1)
        == f"{stem}-00001-of-00001.safetensors"
    )
    assert catalog.convention("plain").single_file(stem) == f"{stem}.safetensors"


def test_parts_without_a_scheme() -> None:
    lightx2v = catalog.convention("lightx2v")
    assert lightx2v.spell("norm.bias", "values") == "norm.bias"
    assert lightx2v.spell(X, "scale") == f"{X}_scale"
    with pytest.raises(RecipeError, match="zero_point of fp8; it stores codes, scale, input_scale;"):
        lightx2v.spell(X, "zero_point", "fp8")
    with pytest.raises(RecipeError, match="no spelling for scheme 'int3'; it knows int8, fp8, "):
        lightx2v.spell(X, "codes", "int3")
    with pytest.raises(RecipeError, match="no spelling for scheme 'int8'; it knows plain tensors only"):
        catalog.convention("plain").scheme("int8")
    with pytest.raises(RecipeError, match="has no place for the codes"):
        catalog.convention("plain").spell(X, "codes")
    with pytest.raises(PlanError, match=r"does not end in \.weight"):
        lightx2v.spell("experts.gate_up_proj", "alpha", "nvfp4")
    assert lightx2v.spell("experts.gate_up_proj", "scale", "int8") == "experts.gate_up_proj_scale"


def test_group() -> None:
    lightx2v = catalog.convention("lightx2v")
    b = "b.weight"
    stored = [
        "a.weight",
        "a.weight_scale",
        "a.bias",
        b,
        f"{b}_global_scale",
        f"{b}_scale",
        "b.alpha",
        "c_scale",
    ]
    assert lightx2v.group(stored) == {
        "a.weight": {"codes": "a.weight", "scale": "a.weight_scale"},
        "a.bias": {"values": "a.bias"},
        b: {"codes": b, "global_scale": f"{b}_global_scale", "scale": f"{b}_scale", "alpha": "b.alpha"},
        "c_scale": {"values": "c_scale"},
    }


def test_group_takes_no_plain_float_for_codes() -> None:
    names = ["norm.weight", "norm.weight_scale", "a.weight", "a.weight_scale"]
    dtypes = {"norm.weight": "BF16", "norm.weight_scale": "BF16", "a.weight": "I8", "a.weight_scale": "F32"}
    assert catalog.convention("lightx2v").group(names, dtypes) == {
        "norm.weight": {"values": "norm.weight"},
        "norm.weight_scale": {"values": "norm.weight_scale"},
        "a.weight": {"codes": "a.weight", "scale": "a.weight_scale"},
    }


words = st.sampled_from(["a", "b", "0", "norm", "weight", "scale", "weight_scale", "a_scale"])
names = st.lists(words, min_size=1, max_size=3).map(".".join)


@given(
    st.dictionaries(names, st.sampled_from([None, "int8", "nvfp4"]), max_size=6),
    st.sampled_from(["lightx2v", "plain"]),
)
def test_group_undoes_spell(tensors: dict[str, str | None], convention: str) -> None:
    rules = catalog.convention(convention)
    expected: dict[str, dict[str, str]] = {}
    dtypes: dict[str, str] = {}
    for name, scheme in tensors.items():
        if scheme is None or scheme not in rules.schemes or not name.endswith(".weight"):
            expected[name] = {"values": name}
            dtypes[name] = "BF16"
        else:
            expected[name] = {role: rules.spell(name, role, scheme) for role in rules.scheme(scheme).parts}
            dtypes |= dict.fromkeys(expected[name].values(), "U8")
    stored = [spelled for parts in expected.values() for spelled in parts.values()]
    if len(set(stored)) == len(stored):
        assert rules.group(stored, dtypes) == expected


@pytest.fixture
def mine(own_formats: Path, own_convention: str) -> Any:
    (own_formats / "conventions" / "mine.yaml").write_text(own_convention)
    return catalog.convention("mine")


def test_a_users_convention(mine: Any) -> None:
    assert "mine" in catalog.conventions()
    rule = mine.scheme("int8")
    assert rule.reads == {"granularity": ("channel", "tensor")}
    assert (rule.rows, rule.columns, rule.shares_scales) == (16, 1, False)
    assert rule.parts["scale"].codecs == (Reshape((1,)),)
    kind, scaled = rule.markers
    assert (kind.dtype, kind.shape, kind.data) == ("U8", (32,), b'{"format": "int8", "sign": true}')
    assert (scaled.dtype, scaled.shape, scaled.data) == ("F8_E4M3", (2,), bytes(2))
    assert mine.metadata == {"made": "1"}


def test_codes_with_a_name_of_their_own_need_no_companion(mine: Any) -> None:
    stored = ["a.qweight", "a.scales", "a.kind", "b.qweight", "c.weight", "scaled", "d.scales"]
    assert mine.group(stored) == {
        "a.weight": {"codes": "a.qweight", "scale": "a.scales"},
        "b.weight": {"codes": "b.qweight"},
        "c.weight": {"values": "c.weight"},
        "d.scales": {"values": "d.scales"},
    }


def test_unknown_convention() -> None:
    with pytest.raises(RecipeError, match=r"unknown convention 'lightx'; .*\(did you mean lightx2v\?\)"):
        catalog.convention("lightx")


@pytest.mark.parametrize("name", catalog.conventions())
def test_stored_dtypes_are_known(name: str) -> None:
    for rule in catalog.convention(name).schemes.values():
        assert all(part.dtype is None or part.dtype in DTYPES for part in rule.parts.values())


@given(st.sampled_from(["{name}", "{name}_scale", "{stem}.x", "p.{stem}.x", "q{name}"]), names)
def test_templates_are_undone(text: str, name: str) -> None:
    template = Template(text)
    if template.placeholder == "stem":
        name += ".weight"
    assert template.unspell(template.spell(name)) == name
    assert Template("marker").unspell(name) is None
