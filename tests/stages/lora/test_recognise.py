"""Which family a LoRA's modules are of: never guessed."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.errors import PlanError
from transcode.stages.lora.recognise import text_module


def converted(modules, to, tmp_path, **options):
    tensors = {}
    for module in modules:
        tensors[f"{module}.lora_up.weight"] = np.ones((8, 2), np.float32)
        tensors[f"{module}.lora_down.weight"] = np.ones((2, 8), np.float32)
    save_file(tensors, tmp_path / "lora.safetensors")
    flow = tc.open(tmp_path / "lora.safetensors") | tc.convert(to, **options)
    plan = flow.plan(tc.write(tmp_path / "out.safetensors"))
    flow | tc.write(tmp_path / "out.safetensors", force=True)
    names = {key.partition(".lora_")[0] for key in load_file(tmp_path / "out.safetensors") if ".lora_" in key}
    return names, " ".join(map(str, plan.log.warnings))


def test_underscores_in_components_stay(tmp_path):
    """They were taken for dots where no rule has the word, and the name was written so."""
    modules = [
        "lora_unet_adaln_single_emb_timestep_embedder_linear_1",
        "lora_unet_transformer_blocks_0_ff_net_2", "lora_unet_patchify_proj",
    ]  # fmt: skip
    names, _ = converted(modules, "comfyui", tmp_path)
    assert names == {
        "diffusion_model.adaln_single.emb.timestep_embedder.linear_1",
        "diffusion_model.transformer_blocks.0.ff.net.2", "diffusion_model.patchify_proj",
    }  # fmt: skip


def test_a_family_of_one_spelling_is_known(tmp_path):
    modules = [
        "lora_unet_transformer_blocks_0_img_mlp_net_0_proj",
        "lora_unet_transformer_blocks_9_attn_to_out_0",
    ]
    names, _ = converted(modules, "diffusers", tmp_path)
    assert names == {
        "transformer.transformer_blocks.0.img_mlp.net.0.proj",
        "transformer.transformer_blocks.9.attn.to_out.0",
    }  # fmt: skip


def test_unknown_underscores_are_refused(tmp_path):
    with pytest.raises(PlanError, match="so its underscores may be dots or not; ltx_video has most of"):
        converted(["lora_unet_transformer_blocks_0_ff_net_2", "lora_unet_adaln_single_linear",
                   "lora_unet_patchify_proj", "lora_unet_no_such"], "comfyui", tmp_path)  # fmt: skip


def test_flux_is_meant_where_others_have_its_modules_unless_blocks_say_otherwise(tmp_path):
    few = [
        "transformer.transformer_blocks.0.norm1.linear",
        "transformer.single_transformer_blocks.0.proj_out",
    ]
    names, warnings = converted(few, "kohya", tmp_path)
    assert "lora_unet_double_blocks_0_img_mod_lin" in names
    assert "taken for flux; hunyuan_dit, " in warnings
    with pytest.raises(PlanError, match="may be of any of flux, hunyuan_dit"):
        converted([*few, "transformer.single_transformer_blocks.39.proj_out"], "kohya", tmp_path)


def test_comfyui_has_names_of_its_own_for_hunyuan_video(tmp_path):
    modules = ["lora_unet_txt_in_c_embedder_linear_1", "lora_unet_double_blocks_0_img_attn_qkv"]
    names, _ = converted(modules, "comfyui", tmp_path)
    assert names == {
        "diffusion_model.txt_in.c_embedder.in_layer",
        "diffusion_model.double_blocks.0.img_attn.qkv",
    }


def test_modules_of_text_encoders():
    assert text_module("text_model_encoder_layers_3_self_attn_q_proj") == (
        "text_model.encoder.layers.3.self_attn.q_proj"
    )
    assert text_module("encoder_block_3_layer_1_DenseReluDense_wi_0") == (
        "encoder.block.3.layer.1.DenseReluDense.wi_0"
    )
    assert text_module("layers_3_no_such") is None
