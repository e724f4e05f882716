"""Adapters of layers whose rows another spelling has in another order: merged, and written."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.catalog.folders import find
from transcode.catalog.rule import Grid, Rule
from transcode.errors import PlanError
from transcode.stages.convert import Convert
from transcode.stages.lora.reordered import in_joined, of_parts

WIDTH, ROWS = 16, 64
THIRDS = Rule("left", ("a", "b"), grid=Grid(("2", "3", "~"), (1, 0, 2)))


def test_rows_of_parts_and_back():
    """Against numpy: the joined one has axis 1 of [2, 3, n] first, which is not undone by itself."""
    joined = np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2).reshape(-1)
    parts = of_parts(THIRDS, [12, 12], WIDTH, dict, "key")
    taken = [np.concatenate([joined[begin : begin + count] for begin, count in some]) for some in parts]
    assert np.concatenate(taken).tolist() == list(range(24))
    order = in_joined(THIRDS, [12, 12], None, dict, "key")
    assert np.concatenate([np.arange(24)[begin : begin + count] for begin, count in order]).tolist() == (
        joined.tolist()
    )
    plain = Rule("left", ("a", "b"), ratio=(1, 2))
    assert in_joined(plain, [4, 8], WIDTH, dict, "key") is None
    assert of_parts(plain, [4, 8], WIDTH, dict, "key") == [[(0, 4)], [(4, 8)]]


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.1


ADAPTERS = {
    "LoRA": lambda rows, columns: {
        ".lora_up.weight": rand(rows, 4), ".lora_down.weight": rand(4, columns), ".alpha": torch.tensor(2.0)},
    "LoHa": lambda rows, columns: {
        ".hada_w1_a": rand(rows, 2), ".hada_w1_b": rand(2, columns), ".hada_w2_a": rand(rows, 3),
        ".hada_w2_b": rand(3, columns)},
    "LoKr": lambda rows, columns: {".lokr_w1": rand(rows // 4, columns // 4), ".lokr_w2": rand(4, 4)},
    "DoRA": lambda rows, columns: {
        ".lora_up.weight": rand(rows, 4), ".lora_down.weight": rand(4, columns),
        ".dora_scale": rand(rows, 1).abs() + 0.5},
    "GLoRA": lambda rows, columns: {
        ".a1.weight": rand(columns, 2), ".a2.weight": rand(2, columns), ".b1.weight": rand(rows, 2),
        ".b2.weight": rand(2, columns)},
    "IA3": lambda rows, columns: {".weight": rand(rows), ".on_input": torch.tensor(False)},
    "differences": lambda rows, columns: {".diff": rand(rows, columns), ".diff_b": rand(rows)},
}  # fmt: skip


def llama(folder):
    """A layer of Llama, as transformers names it; q has two heads, k one."""
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens": (8, WIDTH), "model.norm": (WIDTH,), "lm_head": (8, WIDTH),
        f"{layer}.input_layernorm": (WIDTH,), f"{layer}.post_attention_layernorm": (WIDTH,),
        **{f"{layer}.self_attn.{name}_proj": (ROWS, WIDTH) for name in "qv"},
        f"{layer}.self_attn.k_proj": (ROWS // 2, WIDTH), f"{layer}.self_attn.o_proj": (WIDTH, ROWS),
        **{f"{layer}.mlp.{name}_proj": (32, WIDTH) for name in ("gate", "up")},
        f"{layer}.mlp.down_proj": (WIDTH, 32),
    }  # fmt: skip
    tensors = {f"{name}.weight": rand(*shape) for name, shape in shapes.items()}
    tensors |= {
        f"{layer}.self_attn.q_proj.bias": rand(ROWS),
        f"{layer}.self_attn.k_proj.bias": rand(ROWS // 2),
    }
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "llama", "num_attention_heads": 2, "num_key_value_heads": 1}
    (folder / "config.json").write_text(json.dumps(config))
    modules = {f"{layer}.self_attn.q_proj": (ROWS, WIDTH), f"{layer}.self_attn.k_proj": (ROWS // 2, WIDTH)}
    return folder, "original", modules


def cogvideox(folder):
    """A block of CogVideoX, as its authors name it: one layer makes twelve modulations."""
    layer, adaln = "transformer.layers.0", "mixins.adaln_layer"
    shapes = {
        f"{layer}.attention.query_key_value": (3 * WIDTH, WIDTH), f"{layer}.attention.dense": (WIDTH, WIDTH),
        f"{adaln}.adaLN_modulations.0.1": (12 * WIDTH, WIDTH), "mixins.patch_embed.text_proj": (WIDTH, WIDTH),
        f"{adaln}.query_layernorm_list.0": (WIDTH,), f"{adaln}.key_layernorm_list.0": (WIDTH,),
        f"{layer}.input_layernorm": (WIDTH,), f"{layer}.post_attention_layernorm": (WIDTH,),
    }  # fmt: skip
    tensors = {f"{name}.weight": rand(*shape) for name, shape in shapes.items()}
    shapes |= {"transformer.final_layernorm": (WIDTH,), f"{adaln}.adaLN_modulations.0.1": (12 * WIDTH,)}
    tensors |= {f"{name}.bias": rand(shape[0]) for name, shape in shapes.items() if len(shape) == 1}
    tensors["transformer.final_layernorm.weight"] = rand(WIDTH)
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors", "diffusers", {f"{adaln}.adaLN_modulations.0.1": (12 * WIDTH, WIDTH)}


MODELS = {"llama": llama, "cogvideox": cogvideox}


@pytest.fixture(params=MODELS)
def model(request, tmp_path):
    """A file, another spelling, and the layers whose rows lie otherwise there."""
    return MODELS[request.param](own(tmp_path))


def own(folder):
    """A folder for a model alone."""
    (folder / "model").mkdir()
    return folder / "model"


def adapter(path, modules, kind, prefix="diffusion_model."):
    tensors = {}
    for module, (rows, columns) in modules.items():
        tensors |= {f"{prefix}{module}{end}": one for end, one in ADAPTERS[kind](rows, columns).items()}
    save_file(tensors, path)
    return tc.lora(path)


def values(flow):
    return {name: tensor.numpy().tobytes() for name, tensor in flow.items()}


def test_what_is_merged_before_is_merged_after(model, tmp_path):
    """The first merges row for row, by rules that other tests hold."""
    source, other, modules = model
    plain = values(tc.open(source) | Convert(other))
    for kind in ADAPTERS:
        merge = adapter(tmp_path / "adapter.safetensors", modules, kind)
        before = values(tc.open(source) | merge | Convert(other))
        assert values(tc.open(source) | Convert(other) | merge) == before, kind
        changed = sum(before[name] != plain[name] for name in plain)
        assert changed >= 2, kind


def test_tiles_change_nothing(model, tmp_path):
    source, other, modules = model
    flow = tc.open(source) | Convert(other) | adapter(tmp_path / "adapter.safetensors", modules, "LoRA")
    flow | tc.write(tmp_path / "whole.safetensors", layout="single_file")
    flow | tc.write(tmp_path / "tiles.safetensors", layout="single_file", tile="1KiB", workers=2)
    whole, tiles = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "tiles"))
    assert all(tiles[name].equal(whole[name]) for name in whole)


def test_rows_that_are_made_of_each_other_are_refused(model, tmp_path):
    """A rotation of rows that follow each other, and magnitudes of inputs, are of one order alone."""
    source, other, modules = model
    (module, (rows, columns)), *_ = modules.items()
    pair = ADAPTERS["LoRA"](rows, columns)
    kinds = {
        "OFT": {".oft_blocks": rand(rows // 4, 4, 4)},
        "DoRA": {**pair, ".dora_scale": rand(1, columns)},
    }
    for tensors in kinds.values():
        save_file({f"{module}{end}": one for end, one in tensors.items()}, tmp_path / "adapter.safetensors")
        flow = tc.open(source) | Convert(other) | tc.lora(tmp_path / "adapter.safetensors")
        with pytest.raises(PlanError, match="makes rows of all others, so it cannot be split over rows"):
            flow.plan(tc.write(tmp_path / "out.safetensors", layout="single_file"))


def test_without_its_configuration_it_is_not_known_where_rows_lie(tmp_path):
    source, other, modules = llama(own(tmp_path))
    tc.open(source) | Convert(other) | tc.write(tmp_path / "alone.safetensors", layout="single_file")
    flow = tc.open(tmp_path / "alone.safetensors") | adapter(
        tmp_path / "adapter.safetensors", modules, "LoRA"
    )
    with pytest.raises(PlanError, match=r"[qk]_proj.*depends on 'num_.*heads' of the model's config\.json"):
        flow.plan(tc.write(tmp_path / "out.safetensors"))


def test_layers_as_zhipus_trainer_names_their_pairs(tmp_path):
    """tools/export_sat_lora_weight.py of CogVideo: q, k and v by number, which diffusers has as layers."""
    source, other, _ = cogvideox(own(tmp_path))
    tensors = {}
    for module, count in {"query_key_value": 3, "dense": 1}.items():
        for number in range(count):
            key = f"model.diffusion_model.transformer.layers.0.attention.{module}.matrix"
            tensors[f"{key}_A.{number}"] = rand(4, WIDTH) + number
            tensors[f"{key}_B.{number}"] = rand(WIDTH, 4) - number
    save_file(tensors, tmp_path / "sat.safetensors")
    there = load_file(source)
    for number in range(3):
        key = "model.diffusion_model.transformer.layers.0.attention.query_key_value.matrix"
        rows = there["transformer.layers.0.attention.query_key_value.weight"][number * WIDTH :][:WIDTH]
        rows += tensors[f"{key}_B.{number}"] @ tensors[f"{key}_A.{number}"]
    merge = tc.lora(tmp_path / "sat.safetensors")
    merged = {name: tensor.numpy() for name, tensor in (tc.open(source) | merge).items()}
    for name, tensor in there.items():
        if "dense" not in name:
            np.testing.assert_allclose(merged[name], tensor.numpy(), rtol=1e-5, atol=1e-5)
    assert values(tc.open(source) | Convert(other) | merge) == values(
        tc.open(source) | merge | Convert(other)
    )


def test_a_file_in_another_spelling_merges_alike(tmp_path):
    """Pairs of the one layer as those of its parts."""
    source, _, modules = cogvideox(own(tmp_path))
    expected = values(tc.open(source) | adapter(tmp_path / "first.safetensors", modules, "LoRA"))
    flow = tc.open(tmp_path / "first.safetensors") | tc.convert("diffusers")
    second = tmp_path / "second.safetensors"
    flow | tc.write(second)
    norms = [name for name in load_file(second) if ".norm1.linear." in name or ".norm2.linear." in name]
    assert len(norms) == 4
    assert values(tc.open(source) | tc.lora(second)) == expected


@pytest.mark.parametrize("reader", ["original", "diffusers"])
def test_other_kinds_in_another_spelling_merge_alike(reader, tmp_path, monkeypatch):
    """ComfyUI reads them, and no family with such rules: said here of either spelling of this one."""
    folder = tmp_path / "formats" / "families"
    folder.mkdir(parents=True)
    text = find("families", "cogvideox").read_text("utf-8")
    said = {"original": "(SAT)", "diffusers": "(CogVideoXTransformer3DModel)"}[reader]
    (folder / "cogvideox.yaml").write_text(text.replace(said, f"{said} (ComfyUI)"))
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path / "formats"))
    source, _, modules = cogvideox(own(tmp_path))
    if reader == "original":
        modules = {f"transformer_blocks.0.norm{part}.linear": (6 * WIDTH, WIDTH) for part in (1, 2)}
    for kind in ADAPTERS.keys() - {"IA3"}:
        expected = values(tc.open(source) | adapter(tmp_path / "first.safetensors", modules, kind))
        flow = tc.open(tmp_path / "first.safetensors") | tc.convert("comfyui", model="cogvideox")
        flow | tc.write(tmp_path / "second.safetensors", force=True)
        second = load_file(tmp_path / "second.safetensors")
        there = {"original": "mixins.", "diffusers": "transformer_blocks."}[reader]
        assert all(name.startswith(f"diffusion_model.{there}") for name in second), kind
        assert values(tc.open(source) | tc.lora(tmp_path / "second.safetensors")) == expected, kind
