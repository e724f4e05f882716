"""Sources as their owners publish them: decoded to their own values, or refused by name while planning."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import DataError, PlanError

LAYER = "model.layers.0.mlp.up_proj"
W = f"{LAYER}.weight"


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.fixture
def model(tmp_path):
    """A folder with a config.json; returns its path."""

    def call(tensors, config=None, name="m", metadata=None):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        plain = {"model.embed_tokens.weight": draw(8, 64, seed=9).bfloat16()}
        save_file({**plain, **tensors}, folder / "model.safetensors", metadata or {"format": "pt"})
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return call


def fp8(scale_shape=(), rows=64, columns=64):
    """Codes and scale of one E4M3 matrix, and its values."""
    w = draw(rows, columns)
    if len(scale_shape) and scale_shape[0] == rows:
        scale = w.abs().amax(1, keepdim=True) / 448
    else:
        scale = w.abs().max().reshape(1, 1) / 448
    codes = (w / scale).to(torch.float8_e4m3fn)
    return codes, scale.reshape(scale_shape), codes.float() * scale


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def said(method, **more):
    return {"model_type": "toy", "quantization_config": {"quant_method": method, **more}}


def int4(rows=64, columns=64, group=32):
    """compressed-tensors' own packing of int4."""
    pack = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers").pack_to_int32
    codes = torch.randint(
        -8, 8, (rows, columns), generator=torch.Generator().manual_seed(3), dtype=torch.int8
    )
    scale = draw(rows, columns // group).abs().bfloat16() + 0.01
    parts = {
        f"{LAYER}.weight_packed": pack(codes, 4),
        f"{LAYER}.weight_scale": scale,
        f"{LAYER}.weight_shape": torch.tensor([rows, columns]),
    }
    return parts, codes.float() * scale.float().repeat_interleave(group, 1)


# Found without being told


@pytest.mark.parametrize("told", [True, False])
def test_int4_of_compressed_tensors(told, model, tmp_path, cli):
    parts, values = int4()
    config = said("compressed-tensors", format="pack-quantized")
    source = model(parts, config if told else {"model_type": "toy"})
    out = cli("run", source, tmp_path / "o", "--dequantize", "f32").out
    assert "int4 as compressed_tensors stores it" in out
    assert torch.equal(load_file(tmp_path / "o" / "model.safetensors")[W], values)
    assert config_of(tmp_path / "o") == {"model_type": "toy"}


def test_blocks_of_deepseek(model, tmp_path):
    w = draw(256, 256)
    scale = w.reshape(2, 128, 2, 128).abs().amax((1, 3)) / 448
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    codes = (w / wide).to(torch.float8_e4m3fn)
    source = model({W: codes, f"{W}_scale_inv": scale}, said("fp8", weight_block_size=[128, 128]))
    tc.open(source) | tc.dequantize("F32") | tc.write(tmp_path / "o")
    assert torch.equal(load_file(tmp_path / "o" / "model.safetensors")[W], codes.float() * wide)
    assert "quantization_config" not in config_of(tmp_path / "o")


def test_attention_and_experts_of_deepseek_v4(model, tmp_path):
    """cast_e2m1fn_to_e4m3fn of its convert.py: E2M1 in I8, the low nibble first, under powers of two."""
    steps = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    steps = torch.cat((steps, -steps))
    draw_bytes = torch.Generator().manual_seed(1)

    def powers(*shape):
        return torch.randint(118, 128, shape, generator=draw_bytes, dtype=torch.uint8)

    attention, expert = "layers.0.attn.wkv", "layers.0.ffn.experts.1.w1"
    fp8_codes, fp8_scale = draw(256, 256).to(torch.float8_e4m3fn), powers(2, 2)
    codes = torch.randint(0, 256, (64, 128), generator=draw_bytes, dtype=torch.uint8)
    scale = powers(64, 8)
    tensors = {
        f"{attention}.weight": fp8_codes, f"{attention}.scale": fp8_scale.view(torch.float8_e8m0fnu),
        f"{expert}.weight": codes.view(torch.int8), f"{expert}.scale": scale.view(torch.float8_e8m0fnu),
    }  # fmt: skip
    source = model(tensors, said("fp8", weight_block_size=[128, 128], scale_fmt="ue8m0"))
    tc.open(source) | tc.dequantize("F32") | tc.write(tmp_path / "o")
    found = load_file(tmp_path / "o" / "model.safetensors")
    wide = torch.exp2(fp8_scale.float() - 127).repeat_interleave(128, 0).repeat_interleave(128, 1)
    assert torch.equal(found[f"{attention}.weight"], fp8_codes.float() * wide)
    values = steps[torch.stack([codes & 15, codes >> 4], -1).flatten(1).long()]
    wide = torch.exp2(scale.float() - 127).repeat_interleave(32, 1)
    assert torch.equal(found[f"{expert}.weight"], values * wide)
    flow = tc.open(source) | tc.quantize("mxfp4", include=["experts"], exclude=["attn"])
    flow | tc.write(tmp_path / "n", convention="neutral", lossless=True)
    kept = load_file(tmp_path / "n" / "model.safetensors")
    assert torch.equal(kept[f"{expert}.weight"].view(torch.uint8).flatten(), codes.flatten())


def test_a_folder_without_any_word_and_any_record(model, tmp_path):
    codes, scale, values = fp8((64, 1))
    flow = tc.open(model({W: codes, f"{W}_scale": scale})) | tc.dequantize("F32")
    assert torch.equal(flow[W].torch(), values)


def test_the_record_goes_on_through_copies(tmp_path, save):
    """Tiles swizzled and rows have one shape here: only the record tells whose file it is."""
    save({"blocks.0.up.weight": draw(128, 256)})
    flow = tc.open(tmp_path / "model.safetensors") | tc.quantize("nvfp4", include=["up"])
    flow | tc.write(tmp_path / "q.safetensors")
    right = (tc.open(tmp_path / "q.safetensors") | tc.dequantize("F32"))["blocks.0.up.weight"].torch()
    tc.open(tmp_path / "q.safetensors") | tc.write(tmp_path / "copy")
    tc.open(tmp_path / "copy") | tc.write(tmp_path / "again.safetensors")
    record = json.loads(tc.open(tmp_path / "again.safetensors").source.metadata["transcode"])
    assert record["stored"] == {"convention": "lightx2v", "schemes": ["nvfp4"]}
    found = (tc.open(tmp_path / "again.safetensors") | tc.dequantize("F32"))["blocks.0.up.weight"].torch()
    assert torch.equal(found, right)
    tc.open(tmp_path / "copy") | tc.dequantize("F32") | tc.write(tmp_path / "plain.safetensors")
    record = json.loads(tc.open(tmp_path / "plain.safetensors").source.metadata["transcode"])
    assert "stored" not in record


def test_formats_and_sizes_that_bytes_do_not_tell_come_from_the_record(save, tmp_path):
    """U8 codes of E5M2, and a group size of which the shape leaves several possible."""
    x = draw(128, 384)
    path = save({"a.weight": x})
    for scheme, options in (
        ("mxfp8", {"format": "e5m2"}),
        ("int8", {"granularity": "group", "group_size": 300}),
    ):
        quantized = tc.open(path) | tc.quantize(scheme, **options)
        quantized | tc.write(tmp_path / "q.safetensors", convention="neutral", force=True)
        found = (tc.open(tmp_path / "q.safetensors") | tc.dequantize("F32"))["a.weight"].torch()
        assert (found - x).norm() < 0.08 * x.norm(), scheme


# Scales in every shape


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (64,), (64, 1), (64, 1, 1)])
def test_scales_in_every_shape(shape, model):
    codes, scale, values = fp8(shape)
    for config in (None, said("compressed-tensors"), said("modelopt", quant_algo="FP8")):
        flow = tc.open(model({W: codes, f"{W}_scale": scale}, config)) | tc.dequantize("F32")
        assert torch.equal(flow[W].torch(), values)


def test_blocks_in_four_dimensions(model):
    """ModelOpt's FP8_PB_WO."""
    w = draw(256, 384)
    scale = w.reshape(2, 128, 3, 128).abs().amax((1, 3), keepdim=True) / 448
    wide = scale.reshape(2, 3).repeat_interleave(128, 0).repeat_interleave(128, 1)
    codes = (w / wide).to(torch.float8_e4m3fn)
    source = model({W: codes, f"{W}_scale": scale}, said("modelopt", quant_algo="FP8_PB_WO"))
    assert torch.equal((tc.open(source) | tc.dequantize("F32"))[W].torch(), codes.float() * wide)


def test_a_scale_that_fits_nothing_is_refused(model):
    codes, _, _ = fp8()
    source = model({W: codes, f"{W}_scale": torch.ones(5, 3)}, said("modelopt"))
    with pytest.raises(PlanError, match=r"weight_scale F32\[5,3\].*modelopt stores no scheme so"):
        (tc.open(source) | tc.dequantize("F32"))[W]


def e8m0(blocks):
    rows, columns = blocks
    w = draw(256, 256)
    amax = w.reshape(256 // rows, rows, 256 // columns, columns).abs().amax((1, 3))
    exponent = torch.ceil(torch.log2(amax / 448))
    wide = torch.exp2(exponent).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    codes = (w / wide).to(torch.float8_e4m3fn)
    return codes, (exponent + 127).to(torch.uint8), codes.float() * wide


@pytest.mark.parametrize("ending", [".scale", ".weight_scale_inv"])
@pytest.mark.parametrize("blocks", [(128, 128), (1, 32)])
@pytest.mark.parametrize("typed", [True, False])
def test_powers_of_two_as_scales(ending, blocks, typed, model, tmp_path):
    codes, scale, values = e8m0(blocks)
    scale = scale.view(torch.float8_e8m0fnu) if typed else scale
    source = model({W: codes, LAYER + ending: scale}, said("fp8"))
    for how in ({}, {"convention": "deepseek"}):
        tc.open(source) | tc.dequantize("F32", **how) | tc.write(tmp_path / "o", force=True)
        found = load_file(tmp_path / "o" / "model.safetensors")
        assert torch.equal(found.pop(W), values)
        assert set(found) == {"model.embed_tokens.weight"}
    with pytest.raises(PlanError, match="quant_method 'fp8', which is not modelopt"):
        (tc.open(source) | tc.dequantize("F32", convention="modelopt"))[W]


@pytest.mark.parametrize("names", [("_blocks", "_scales"), (".blocks", ".scales")])
def test_experts_of_gpt_oss(names, model, tmp_path, cli):
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    name = "model.layers.0.mlp.experts.down_proj"
    draw_bytes = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 256, (4, 96, 2, 16), generator=draw_bytes, dtype=torch.uint8)
    scales = torch.randint(110, 130, (4, 96, 2), generator=draw_bytes, dtype=torch.uint8)
    tensors = {name + names[0]: blocks, name + names[1]: scales, f"{name}_bias": draw(4, 96).bfloat16()}
    source = model(tensors, said("mxfp4"))
    cli("run", source, tmp_path / "o", "--dequantize", "bf16", "-w", 3, "--tile", "4kB")
    found = load_file(tmp_path / "o" / "model.safetensors")
    theirs = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
    assert torch.equal(found[name], theirs)  # transposed, as the class has it
    assert set(found) == {name, f"{name}_bias", "model.embed_tokens.weight"}
    assert "quantization_config" not in config_of(tmp_path / "o")


def test_gpt_oss_is_only_read(save, tmp_path, refused):
    path = save({"a.experts": draw(4, 64, 64)})
    message = refused(
        "run", path, tmp_path / "o", "--scheme", "mxfp4", "--include", "a", "--convention", "gpt_oss"
    )
    assert "is only read" in message


# What goes with the weights


def test_scales_of_inputs_and_of_the_cache_go(model, tmp_path, cli):
    codes, scale, values = fp8()
    attention = "model.layers.0.self_attn"
    scales = {
        f"{LAYER}.input_scale": torch.tensor(0.01), f"{attention}.k_proj.k_scale": torch.tensor(0.5),
        f"{attention}.v_scale": torch.tensor(0.5),
    }  # fmt: skip
    source = model({W: codes, f"{W}_scale": scale, **scales}, said("modelopt", quant_algo="FP8"))
    report = cli("run", source, tmp_path / "o", "--dequantize", "f32", "--json").json
    found = load_file(tmp_path / "o" / "model.safetensors")
    assert torch.equal(found.pop(W), values)
    assert set(found) == {"model.embed_tokens.weight"}
    fates = {dropped["source"]: dropped["fate"][-1] for dropped in report["dropped"]}
    assert "inputs" in fates[f"{LAYER}.input_scale"]
    assert all("cache" in fates[name] for name in scales if "_scale" in name and "input" not in name)


@pytest.mark.parametrize(
    ("beside", "config"),
    [
        ("weight_g_idx", said("compressed-tensors")), ("pre_quant_scale", said("modelopt")),
        ("weight_codebook", None), ("svdquant_lora_a", said("modelopt")), ("weight.extra", None),
    ],
)  # fmt: skip
def test_an_unknown_part_stops_it(beside, config, model, tmp_path, refused):
    codes, scale, _ = fp8()
    source = model({W: codes, f"{W}_scale": scale, f"{LAYER}.{beside}": torch.ones(64)}, config)
    message = refused("run", source, tmp_path / "o", "--dequantize", "bf16")
    assert f"{LAYER}.{beside}" in message
    assert not (tmp_path / "o").exists()
    tc.open(source) | tc.drop(f"{LAYER}.{beside}") | tc.dequantize() | tc.write(tmp_path / "o")


def test_a_bias_and_other_rows_are_no_parts(model):
    codes, scale, values = fp8()
    source = model({W: codes, f"{W}_scale": scale, f"{LAYER}.bias": draw(64)})
    assert torch.equal((tc.open(source) | tc.dequantize("F32"))[W].torch(), values)


def test_padded_rows_are_refused(model):
    codes, scale, _ = fp8()
    source = model({W: codes, f"{W}_scale": scale, f"{LAYER}.bias": draw(60)})
    with pytest.raises(PlanError, match=r"64 rows, its bias \[60\]: it was padded"):
        (tc.open(source) | tc.dequantize("F32"))[W]


def test_a_shape_that_contradicts_the_codes_is_refused(model):
    parts, _ = int4()
    parts[f"{LAYER}.weight_shape"] = torch.tensor([64, 60])
    with pytest.raises(PlanError, match=r"codes for \[64, 64\], but .* says \[64, 60\]"):
        (tc.open(model(parts)) | tc.dequantize("F32"))[W]


# ComfyUI's markers


def marker(**keys):
    return torch.frombuffer(bytearray(json.dumps(keys).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    "keys",
    [
        {"convrot": True, "convrot_groupsize": 256},
        {"convrot": True},  # ComfyUI takes 256 then
        {"params": {"convrot": True, "convrot_groupsize": 256}},
    ],
)
def test_rotated_int8_of_comfyui_is_turned_back(keys, save, tmp_path, refused):
    """As comfy-kitchen makes it; without undoing the rotation the values are noise."""
    kitchen = pytest.importorskip("comfy_kitchen.tensor")
    layout = kitchen.TensorWiseINT8Layout
    codes, params = layout.quantize(draw(64, 512), per_channel=True, convrot=True)
    tensors = {"a.weight": codes, "a.weight_scale": params.scale.float().reshape(64, 1)}
    path = save({**tensors, "a.comfy_quant": marker(format="int8_tensorwise", **keys)})
    out = tmp_path / "o.safetensors"
    tc.open(path) | tc.dequantize("F32") | tc.write(out)
    assert (load_file(out)["a.weight"] - layout.dequantize(codes, params)).abs().max() < 1e-5
    whose = ("--from-convention", "lightx2v")
    message = refused("run", path, tmp_path / "x.safetensors", "--dequantize", "bf16", *whose)
    assert "is a marker of comfyui" in message
    # Another size is another matrix, and one that does not divide the columns none.
    path = save(
        {**tensors, "a.comfy_quant": marker(format="int8_tensorwise", convrot=True, convrot_groupsize=64)}
    )
    tc.open(path) | tc.dequantize("F32") | tc.write(tmp_path / "other.safetensors")
    assert (
        load_file(tmp_path / "other.safetensors")["a.weight"] - load_file(out)["a.weight"]
    ).abs().max() > 0.1
    for size in (1024, 100, "256", True):
        path = save(
            {
                **tensors,
                "a.comfy_quant": marker(format="int8_tensorwise", convrot=True, convrot_groupsize=size),
            }
        )
        message = refused("run", path, tmp_path / "x.safetensors", "--dequantize", "bf16")
        assert "which is not decoded from such parts" in message or "does not decode" in message
    path = save(
        {**tensors, "a.comfy_quant": marker(format="int8_tensorwise", convrot=False, convrot_groupsize=256)}
    )
    tc.open(path) | tc.dequantize("F32") | tc.write(tmp_path / "plain.safetensors")
    plain = load_file(tmp_path / "plain.safetensors")["a.weight"]
    assert torch.equal(plain, codes.float() * params.scale.reshape(64, 1))


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"format": "convrot_w4a4"}, "convrot_w4a4"), ({"format": "float8_e5m2"}, "float8_e5m2"),
        ({"format": "float8_e4m3fn", "group_size": 32}, "group_size=32"),
        ({"format": "float8_e4m3fn", "params": {"convrot": True}}, "convrot=True"), ({}, "comfy_quant"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("metadata", [True, False])
def test_what_a_marker_says_must_be_known(keys, word, metadata, save, tmp_path, refused):
    codes, scale, _ = fp8()
    tensors = {"a.weight": codes, "a.weight_scale": scale}
    layers = json.dumps({"format_version": "1.0", "layers": {"a": keys}})
    if metadata:
        path = save(tensors, metadata={"_quantization_metadata": layers})
    else:
        path = save({**tensors, "a.comfy_quant": marker(**keys)})
    if not keys and metadata:
        word = "_quantization_metadata"
    assert word in refused("run", path, tmp_path / "o.safetensors", "--dequantize", "bf16")


def test_markers_in_metadata(save, tmp_path):
    """Half decoded: metadata and markers tell of the other half alone."""
    codes, scale, values = fp8()
    tensors = {f"{name}.{part}": value.clone() for name in "ab" for part, value in
               (("weight", codes), ("weight_scale", scale), ("input_scale", torch.tensor(1.0)))}  # fmt: skip
    tensors["b.comfy_quant"] = marker(format="float8_e4m3fn", full_precision_matrix_mult=True)
    layers = {name: {"format": "float8_e4m3fn"} for name in "ab"}
    said = json.dumps({"format_version": "1.0", "layers": layers})
    path = save(tensors, metadata={"_quantization_metadata": said})
    tc.open(path) | tc.dequantize("F32", only=["a"]) | tc.write(tmp_path / "some.safetensors")
    found = load_file(tmp_path / "some.safetensors")
    assert torch.equal(found.pop("a.weight"), values)
    assert set(found) == {"b.weight", "b.weight_scale", "b.input_scale", "b.comfy_quant"}
    left = tc.open(tmp_path / "some.safetensors").source.metadata["_quantization_metadata"]
    assert json.loads(left) == {"format_version": "1.0", "layers": {"b": layers["b"]}}
    tc.open(tmp_path / "some.safetensors") | tc.dequantize("F32") | tc.write(tmp_path / "all.safetensors")
    assert set(load_file(tmp_path / "all.safetensors")) == {"a.weight", "b.weight"}
    assert "_quantization_metadata" not in tc.open(tmp_path / "all.safetensors").source.metadata


def test_scaled_fp8_of_before(save, tmp_path):
    codes, scale, values = fp8()
    tensors = {"a.weight": codes, "a.scale_weight": scale.reshape(1), "a.scale_input": torch.tensor(1.0)}
    path = save({**tensors, "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)})
    tc.open(path) | tc.dequantize("F32") | tc.write(tmp_path / "o.safetensors")
    found = load_file(tmp_path / "o.safetensors")
    assert set(found) == {"a.weight"}
    assert torch.equal(found["a.weight"], values)


@pytest.mark.parametrize("scheme", ["mxfp8", "nvfp4"])
def test_scales_of_comfyui_as_bytes_or_typed(scheme, tmp_path):
    """As comfy-kitchen makes and decodes them."""
    kitchen = pytest.importorskip("comfy_kitchen.tensor")
    layout = {"mxfp8": kitchen.TensorCoreMXFP8Layout, "nvfp4": kitchen.TensorCoreNVFP4Layout}[scheme]
    codes, params = layout.quantize(draw(128, 256).bfloat16())
    theirs = layout.dequantize(codes, params).float()
    more = {}
    if scheme == "nvfp4":
        more["a.weight_scale_2"] = params.scale.float().reshape(())
    scales = params.scale if scheme == "mxfp8" else params.block_scale
    for kind in (scales.dtype, torch.uint8):
        tensors = {
            "a.weight": codes,
            "a.weight_scale": scales.view(kind),
            "a.comfy_quant": marker(format=scheme),
        }
        save_file({**tensors, **more}, tmp_path / "m.safetensors")
        tc.open(tmp_path / "m.safetensors") | tc.dequantize("F32") | tc.write(tmp_path / "o", force=True)
        found = load_file(tmp_path / "o" / "m.safetensors")["a.weight"]
        # theirs multiplies scales in bfloat16
        assert (found - theirs).abs().max() <= theirs.abs().max() * 2**-7
        assert (found - theirs).norm() < 0.005 * theirs.norm()


# Named and refused

I32, U8 = torch.int32, torch.uint8
FOREIGN = {
    "quanto": {"weight._data._data": torch.zeros(64, 64, dtype=U8), "weight._scale": torch.ones(64, 1),
               "weight._shift": torch.ones(64, 1)},
    "HQQ": {"W_q": torch.zeros(32, 64, dtype=U8), "scale_q": torch.ones(64, 1), "zero": torch.ones(64, 1)},
    "SVDQuant": {"qweight": torch.zeros(128, 64, dtype=torch.int8), "wscales": torch.ones(2, 128).half()},
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_decoded_is_named(kind, model, tmp_path, refused):
    source = model({f"{LAYER}.{part}": value for part, value in FOREIGN[kind].items()}, {"model_type": "toy"})
    for asked in (("--dequantize", "bf16"), ("--scheme", "int8")):
        message = refused("run", source, tmp_path / "o", *asked)
        assert kind in message
        assert not (tmp_path / "o").exists()
    tc.open(source) | tc.write(tmp_path / "copy")
    assert (
        load_file(tmp_path / "copy" / "model.safetensors").keys()
        == load_file(source / "model.safetensors").keys()
    )


@pytest.mark.parametrize("method", ["gptq-p", "paroquant", "never-heard-of"])
def test_a_quant_method_that_is_not_decoded_is_named(method, model, tmp_path, refused):
    codes, scale, _ = fp8()
    source = model({W: codes, f"{W}_scale": scale}, said(method))
    assert f"quant_method '{method}'" in refused("run", source, tmp_path / "o", "--dequantize", "bf16")


def test_a_config_of_a_part_of_the_model_counts_too(model, tmp_path):
    codes, scale, _ = fp8()
    inner = {"quantization_config": {"quant_method": "compressed-tensors"}, "hidden_size": 64}
    source = model({W: codes, f"{W}_scale": scale}, {"text_config": inner})
    with pytest.raises(PlanError, match="which is not comfyui"):
        (tc.open(source) | tc.dequantize(convention="comfyui"))[W]
    tc.open(source) | tc.dequantize() | tc.write(tmp_path / "o")
    assert config_of(tmp_path / "o") == {"text_config": {"hidden_size": 64}}


@pytest.mark.parametrize("convention", ["compressed_tensors", "lightx2v", "comfyui"])
def test_a_source_quantized_in_part_is_quantized_on(convention, model, tmp_path, cli):
    codes, scale, values = fp8((64, 1))
    other = {"model.layers.0.mlp.down_proj.weight": draw(64, 64).bfloat16()}
    source = model({W: codes, f"{W}_scale": scale, **other}, said("compressed-tensors"))
    result = cli("run", source, tmp_path / "o", "--scheme", "int8", "--convention", convention)
    assert "of the tensors that came quantized: 1 decoded and encoded anew" in result.out
    found = load_file(next((tmp_path / "o").glob("*.safetensors")))
    for name, wide in ((W, values), *other.items()):
        assert found[name].dtype == torch.int8
        step = wide.float().abs().amax(1, keepdim=True) / 127
        assert (
            (found[name] * found[f"{name}_scale"].float().reshape(-1, 1)) - wide
        ).abs().max() < 0.6 * step.max()


def test_decoding_and_quantizing_in_one_run(model, tmp_path, cli):
    codes, scale, values = fp8((64, 1))
    source = model({W: codes, f"{W}_scale": scale}, said("compressed-tensors"))
    out = cli(
        "run", source, tmp_path / "o", "--dequantize", "f32", "--scheme", "int8", "--include", "up_proj",
        "--convention", "compressed_tensors",
    ).out  # fmt: skip
    assert (
        "1 tensor is encoded anew as int8 after decoding (fp8 -> F32: as compressed_tensors stores it)" in out
    )
    assert "spares" not in out
    once_more = cli("run", source, tmp_path / "n", "--dequantize", "bf16", "--scheme", "int8", "-n").out
    assert "--dequantize f32 spares a rounding to BF16 between, noise at 56 dB" in once_more
    x = draw(1000, 1000)
    for kind, noise in ((torch.bfloat16, 56), (torch.float16, 74)):
        assert abs(20 * torch.log10(x.norm() / (x - x.to(kind).float()).norm()) - noise) < 0.7
    found = load_file(tmp_path / "o" / "model.safetensors")
    assert ((found[W].float() * found[f"{W}_scale"].float()) - values).abs().max() < values.abs().max() / 127
    assert config_of(tmp_path / "o")["quantization_config"]["format"] == "int-quantized"


# Casts


def test_plain_fp8_is_cast(save, tmp_path, cli, refused):
    codes = draw(64, 64).to(torch.float8_e4m3fn)
    path = save({"a.weight": codes, "n.weight": torch.ones(64).bfloat16()})
    cli("run", path, tmp_path / "o.safetensors", "--cast", "bf16")
    found = load_file(tmp_path / "o.safetensors")
    assert found["a.weight"].dtype == torch.bfloat16
    assert torch.equal(found["a.weight"], codes.bfloat16())
    # what a cast made comes back
    cli("run", tmp_path / "o.safetensors", tmp_path / "f.safetensors", "--cast", "f8_e4m3")
    cli("run", tmp_path / "f.safetensors", tmp_path / "b.safetensors", "--cast", "bf16")
    assert torch.equal(load_file(tmp_path / "b.safetensors")["a.weight"], codes.bfloat16())
    said = cli("run", tmp_path / "b.safetensors", tmp_path / "c.safetensors", "--cast", "bf16").err
    assert "no tensor is changed" in said
    assert "--cast bf16" in refused("run", path, tmp_path / "d.safetensors", "--dequantize", "bf16")


def test_fp8_with_a_scale_is_not_cast(model, tmp_path, cli, refused):
    codes, scale, _ = fp8()
    source = model({W: codes, f"{W}_scale": scale.reshape(1)}, said("modelopt"))
    result = cli("run", source, tmp_path / "o", "--cast", "f16")
    assert "quantized (modelopt)" in result.err
    assert "--dequantize F16" in result.err
    found = load_file(tmp_path / "o" / "model.safetensors")
    assert found["model.embed_tokens.weight"].dtype == torch.float16
    assert torch.equal(found[f"{W}_scale"], scale.reshape(1))
    assert found[W].dtype == torch.float8_e4m3fn
    with pytest.raises(PlanError, match="codes to which a scale belongs"):
        (tc.open(source) | tc.cast("BF16", only=["up_proj.weight"]))[W]


def test_a_lora_on_plain_fp8_in_one_pass(save, tmp_path, cli, refused):
    codes = draw(64, 64).to(torch.float8_e4m3fn)
    wide = draw(64, 64, seed=2)
    up, down = draw(64, 4, seed=3), draw(4, 64, seed=4)
    path = save({"blocks.0.q.weight": codes, "blocks.0.k.weight": wide})
    keys = {f"blocks.0.{name}.lora_{part}.weight": value.clone() for name in "qk" for part, value in
            (("up", up), ("down", down))}  # fmt: skip
    lora = save(keys, "lora.safetensors")
    assert "--cast bf16" in refused("run", path, tmp_path / "o.safetensors", "--lora", lora)
    result = cli("run", path, tmp_path / "o.safetensors", "--lora", lora, "--cast", "bf16")
    assert "warning" not in result.err
    found = load_file(tmp_path / "o.safetensors")
    delta = up @ down
    assert torch.equal(found["blocks.0.q.weight"], (codes.float() + delta).bfloat16())
    # float32 weights take the LoRA before they are rounded
    assert torch.equal(found["blocks.0.k.weight"], (wide + delta).bfloat16())


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_config_tells_the_new_dtype(key, model, tmp_path):
    codes, scale, _ = fp8()
    config = {**said("modelopt"), key: "bfloat16", "text_config": {key: "bfloat16"}}
    source = model({W: codes, f"{W}_scale": scale}, config)
    tc.open(source) | tc.dequantize("F16") | tc.cast("F16") | tc.write(tmp_path / "o")
    assert config_of(tmp_path / "o") == {"model_type": "toy", key: "float16", "text_config": {key: "float16"}}
    # some are float16, some bfloat16: it says what it said
    tc.open(source) | tc.dequantize("F16") | tc.write(tmp_path / "mixed")
    assert config_of(tmp_path / "mixed")[key] == "bfloat16"
    tc.open(source) | tc.write(tmp_path / "copy")
    assert config_of(tmp_path / "copy") == config


# Values that are none


def spoil(what):
    codes, scale, values = fp8((64, 1))
    codes, scale, values = codes.clone(), scale.clone(), values.clone()
    if what == "code":
        codes.view(torch.uint8)[7, 5] = 0x7F
        values[7, 5] = float("nan")
    elif what == "scale":
        scale[7] = float("nan")
        values[7] = float("nan")
    else:
        scale[7] = 3e38
        values[7] = codes[7].float() * 3e38
    return codes, scale, values


@pytest.mark.parametrize("what", ["code", "scale", "product"])
@pytest.mark.parametrize("to", ["F32", "BF16", "F16"])
def test_nan_and_infinity_are_not_written_silently(what, to, save, tmp_path, cli, refused):
    codes, scale, values = spoil(what)
    path = save({"a.weight": codes, "a.weight_scale": scale})
    out = tmp_path / "o.safetensors"
    message = refused("run", path, out, "--dequantize", to)
    assert "a.weight: " in message
    assert "row 7, column" in message
    assert "--on-nonfinite keep" in message
    assert not out.exists()
    cli("run", path, out, "--dequantize", to, "--on-nonfinite", "keep")
    kind = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[to]
    assert torch.equal(
        load_file(out)["a.weight"].float().nan_to_num(nan=12345.0),
        values.to(kind).float().nan_to_num(nan=12345.0),
    )


def test_values_too_large_for_half(save, tmp_path, refused, cli):
    codes = torch.full((4, 32), 448.0).to(torch.float8_e4m3fn)
    path = save({"a.weight": codes, "a.weight_scale": torch.tensor([[1.0], [1.0], [200.0], [1.0]])})
    out = tmp_path / "o.safetensors"
    assert "89600" in refused("run", path, out, "--dequantize", "f16")
    cli("run", path, out, "--dequantize", "f16", "--on-nonfinite", "keep")
    assert load_file(out)["a.weight"][2].isinf().all()


@pytest.mark.parametrize(
    ("scheme", "options", "top"),
    [
        ("int8", {}, 127), ("int8", {"granularity": "tensor"}, 127), ("int8", {"symmetric": False}, 127.5),
        ("fp8", {}, 448), ("fp8", {"granularity": "block"}, 448), ("fp8", {"format": "e5m2"}, 57344),
        ("int4", {}, 7), ("int4", {"symmetric": False}, 7.5),
    ],
)  # fmt: skip
def test_a_scale_that_half_cannot_hold_stops_it(scheme, options, top, save, tmp_path):
    x = draw(64, 128)
    quantize = tc.quantize(scheme, scale_dtype="F16", **options)
    x[9, 3], x[9, 4] = 65504.0 * top, -65504.0 * top
    tc.open(save({"a.weight": x})) | quantize | tc.write(tmp_path / "ok.safetensors", convention="neutral")
    assert load_file(tmp_path / "ok.safetensors")["a.weight_scale"].max() == 65504
    x[9, 3], x[9, 4] = 65600.0 * top, -65600.0 * top
    path = save({"a.weight": x})
    with pytest.raises(
        DataError, match=r"a\.weight: .* at row 9, column 3 needs a scale that F16 cannot hold"
    ):
        tc.open(path) | quantize | tc.write(tmp_path / "o.safetensors", convention="neutral")
    assert not (tmp_path / "o.safetensors").exists()


# Some only


def test_some_only_on_the_command_line(model, tmp_path, cli, refused):
    codes, scale, values = fp8((64, 1))
    down = "model.layers.0.mlp.down_proj"
    tensors = {f"{name}.{part}": value.clone() for name in (LAYER, down) for part, value in
               (("weight", codes), ("weight_scale", scale))}  # fmt: skip
    source = model(tensors, said("compressed-tensors", ignore=["lm_head"]))
    cli("run", source, tmp_path / "o", "--dequantize", "f32", "--dequantize-only", "up_proj")
    found = load_file(tmp_path / "o" / "model.safetensors")
    assert torch.equal(found[W], values)
    assert found[f"{down}.weight"].dtype == torch.float8_e4m3fn
    assert config_of(tmp_path / "o")["quantization_config"]["ignore"] == ["lm_head", LAYER]
    assert "matches no tensor" in refused(
        "run", source, tmp_path / "p", "--dequantize", "f32", "--dequantize-only", "nothing"
    )
    assert "--dequantize-only does nothing" in refused(
        "run", source, tmp_path / "p", "--dequantize-only", "x"
    )


def test_a_name_that_is_the_beginning_of_another_cannot_be_listed(model, tmp_path, refused):
    codes, scale, _ = fp8()
    tensors = {f"e.{name}.{part}": value.clone() for name in ("1", "10") for part, value in
               (("weight", codes), ("weight_scale", scale))}  # fmt: skip
    source = model(tensors, said("modelopt"))
    message = refused("run", source, tmp_path / "o", "--dequantize", "f32", "--dequantize-only", "e.1")
    assert "beginning of others" in message
