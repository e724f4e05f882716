"""Mixes of types by name, held to llama-quantize's rules as they are written out here."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
from transcode.catalog.ggml_names import llama_names
from transcode.catalog.mixes import Mixer, mixes
from transcode.errors import RecipeError
from transcode.schemes import SCHEMES

HF = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def model(layers, heads=1, tied=False, names="llama", experts=0):
    """Shapes by name, q with ``heads`` times the rows of k and v."""
    shapes = {}
    for i in range(layers):
        for own, other in HF.items():
            shape = (256 * heads if own in ("attn_q",) else 256, 256)
            if experts and own.startswith("ffn"):
                if names == "llama":
                    shapes[f"blk.{i}.{own}_exps.weight"] = (experts, *shape)
                else:
                    for e in range(experts):
                        shapes[f"model.layers.{i}.mlp.experts.{e}.{other.removeprefix('mlp.')}.weight"] = (
                            shape
                        )
            else:
                shapes[
                    f"blk.{i}.{own}.weight" if names == "llama" else f"model.layers.{i}.{other}.weight"
                ] = shape
    shapes["token_embd.weight" if names == "llama" else "model.embed_tokens.weight"] = (512, 256)
    if not tied:
        shapes["output.weight" if names == "llama" else "lm_head.weight"] = (512, 256)
    return shapes


BASES = {
    "mostly_q2_k": "q2_k", "mostly_iq2_xxs": "iq2_xxs", "mostly_iq2_xs": "iq2_xs", "mostly_iq2_s": "iq2_xs",
    "iq2_m": "iq2_s", "mostly_iq3_xxs": "iq3_xxs", "iq3_xs": "iq3_s", "mostly_iq3_s": "iq3_s",
    "iq3_m": "iq3_s",
}  # fmt: skip
"""``llama_ftype_get_default_type``, of those whose name does not begin with it."""


def more_bits(layer, layers):
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def wanted(mix, kind, layer, layers, heads, tied, experts):
    """``llama_tensor_get_type_impl`` (llama.cpp, src/llama-quant.cpp), for these mixes and kinds."""
    base = BASES.get(mix, mix[:4])
    low = mix in ("mostly_iq2_xxs", "mostly_iq2_xs", "mostly_iq2_s", "iq2_m")
    less = mix in ("mostly_iq2_s", "iq2_m")
    if kind == "output" or (kind == "token_embd" and tied):
        return "q5_k" if low or mix == "mostly_iq3_xxs" else "q6_k"
    if kind == "token_embd" and (low or mix == "mostly_iq3_xxs"):
        return "q2_k" if low and not less else "iq3_s"
    if low:
        if kind == "attn_v":
            return "q4_k" if heads >= 4 or experts >= 4 else "iq3_s" if less else "q2_k"
        if kind == "attn_k":
            return "q4_k" if experts == 8 else base
        if kind == "ffn_down" and layer < layers // 8:
            return "iq3_s" if less else "q2_k"
        if kind == "attn_output":
            return "q5_k" if experts == 8 else "iq3_s" if less else base
        return base
    if kind == "output" or (kind == "token_embd" and tied):
        return "q6_k"
    if kind == "token_embd":
        return base
    if kind == "attn_v":
        new = base
        if mix in ("q2_k_s", "mostly_iq3_xxs", "iq3_xs", "mostly_iq3_s", "mostly_q2_k") and heads >= 4:
            new = "q4_k"
        elif mix == "mostly_q2_k":
            new = "q3_k"
        elif mix == "iq3_m":
            new = "q4_k"
        elif mix == "q3_k_m":
            new = "q5_k" if layer < 2 else "q4_k"
        elif mix == "q3_k_l":
            new = "q5_k"
        elif mix in ("q4_k_m", "q5_k_m") and more_bits(layer, layers):
            new = "q6_k"
        elif mix == "q4_k_s" and layer < 4:
            new = "q5_k"
        if layers == 80 and heads > 1 and new in ("q3_k", "q4_k"):
            new = "q5_k"
        return "q8_0" if experts == 8 else new
    thin = {"mostly_iq3_xxs": "iq2_s", "iq3_xs": "iq3_xxs"}
    if kind == "attn_k":
        return "q8_0" if experts == 8 else thin.get(mix, base)
    if kind == "attn_q":
        return thin.get(mix, base)
    if kind in ("ffn_gate", "ffn_up"):
        return "iq3_xxs" if mix == "iq3_xs" and layers // 8 <= layer < 7 * layers // 8 else base
    if kind == "ffn_down":
        if mix == "mostly_q2_k":
            return "q3_k"
        if mix == "iq3_m" and (layer < layers // 8 or (experts == 8 and more_bits(layer, layers))):
            return "q4_k"
        if mix == "q2_k_s":
            return "q4_k" if layer < layers // 8 else base
        if mix == "q3_k_m":
            return "q5_k" if layer < layers // 16 else "q4_k"
        if mix == "q3_k_l":
            return "q5_k"
        if mix in ("q4_k_m", "q5_k_m"):
            return "q6_k" if more_bits(layer, layers) else base
        if mix == "q4_k_s" and layer < layers // 8:
            return "q5_k"
    if kind == "attn_output":
        if experts == 8:
            return base if mix in ("q2_k_s", "q3_k_l", "q5_k_s", "q5_k_m") else "q5_k"
        others = {"mostly_iq3_xxs": "iq3_s", "iq3_m": "q4_k", "mostly_q2_k": "q3_k"}
        return {"q3_k_m": "q4_k", "q3_k_l": "q5_k", **others}.get(mix, base)
    return base


@pytest.mark.parametrize("mix", mixes().mixes)
@pytest.mark.parametrize("names", ["llama", "hf"])
@pytest.mark.parametrize(
    ("layers", "heads", "tied", "experts"),
    [
        (32, 1, False, 0),
        (28, 4, True, 0),
        (80, 8, False, 0),
        (32, 4, False, 8),
        (48, 8, False, 16),
        (3, 1, True, 0),
    ],
)
def test_types_are_those_of_llama_quantize(mix, names, layers, heads, tied, experts):
    shapes = model(layers, heads, tied, names, experts)
    mixer, llama = Mixer(mix, shapes), llama_names()
    for name in shapes:
        one = llama(name)
        kind = one.module.removesuffix("_exps")
        expected = wanted(mix, kind, one.block, layers, heads, tied, experts)
        assert mixer(name).scheme == expected, name


def test_layers_of_experts_are_counted_over_all_tensors_of_the_kind():
    """llama-quantize takes the layer from the name, their count from all ``ffn_down``, shared experts too."""
    shapes = model(16, experts=4)
    shapes |= {f"blk.{i}.ffn_down_shexp.weight": (256, 256) for i in range(16)}
    mixer = Mixer("q4_k_m", shapes)
    for i in range(16):
        expected = "q6_k" if more_bits(i, 32) else "q4_k"
        assert mixer(f"blk.{i}.ffn_down_exps.weight").scheme == expected
        assert mixer(f"blk.{i}.ffn_down_shexp.weight").scheme == expected


@pytest.mark.parametrize(
    ("mix", "types"),
    [("q4_k_m", ("q6_k", "q6_k", "q4_k")), ("q5_k_m", ("q6_k", "q6_k", "q5_k")), ("q5_k_s", ("q5_k",) * 3),
     ("q3_k_l", ("q5_k", "q5_k", "q3_k")), ("q4_k_s", ("q5_k", "q5_k", "q4_k"))],
)  # fmt: skip
def test_types_of_image_models_are_those_of_their_makers(mix, types):
    """ComfyUI-GGUF, tools/lcpp.patch: v and the second of the MLP's matrices."""
    shapes = {
        f"blocks.{i}.{name}.weight": (256, 256)
        for i in range(3)
        for name in ("self_attn.v", "ffn.2", "self_attn.q")
    }
    mixer = Mixer(mix, shapes)
    for i in range(3):
        got = tuple(
            mixer(f"blocks.{i}.{name}.weight").scheme for name in ("self_attn.v", "ffn.2", "self_attn.q")
        )
        assert got == types


def test_no_mix_has_the_name_of_a_scheme():
    assert not set(mixes().mixes) & set(SCHEMES)


@pytest.mark.parametrize("names", ["llama", "hf"])
def test_files_have_these_types(tmp_path, names):
    random = np.random.default_rng(1)
    held = {
        name: random.standard_normal(shape).astype(ml_dtypes.bfloat16)
        for name, shape in model(3, names=names).items()
    }
    norm = "blk.0.attn_norm.weight" if names == "llama" else "model.layers.0.input_layernorm.weight"
    narrow = "blk.1.ffn_down.weight" if names == "llama" else "model.layers.1.mlp.down_proj.weight"
    plain = "blk.0.attn_q.weight" if names == "llama" else "model.layers.0.self_attn.q_proj.weight"
    held |= {norm: np.ones(256, ml_dtypes.bfloat16)}
    held[narrow] = random.standard_normal((256, 96)).astype(ml_dtypes.bfloat16)
    save_file(held, tmp_path / "m.safetensors")
    flow = tc.open(tmp_path / "m.safetensors") | tc.quantize("q4_k_m", overrides=[(plain, "q8_0")])
    flow | tc.write(tmp_path / "o.gguf")
    out = tc.open(tmp_path / "o.gguf")
    types = {name: out[name].spec.dtype.name for name in held}
    assert types[norm] == "F32"
    assert types[narrow] == "Q5_0"  # whose columns are no blocks of 256
    assert types[plain] == "Q8_0"
    mixer = Mixer("q4_k_m", {name: value.shape for name, value in held.items()})
    for name in held.keys() - {norm, narrow, plain}:
        assert types[name] == mixer(name).scheme.upper(), name


def test_a_mix_has_no_options():
    with pytest.raises(RecipeError, match="q4_k_m is a mix of types, which have no options"):
        tc.quantize("q4_k_m", group_size=64)
