"""Families of which all write one spelling: tiny models of their own classes go there and back."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog
from transcode.errors import TranscodeError

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

HUNYUAN = Path(__file__).parents[2] / "fixtures" / "families" / "hunyuanimage_3.0.json"
QWEN: dict[str, Any] = {
    "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip


def qwen(**more: Any) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(1, 4, 16), "encoder_hidden_states": torch.randn(1, 5, 24),
        "encoder_hidden_states_mask": torch.ones(1, 5, dtype=torch.bool), "timestep": torch.tensor([0.5]),
        "img_shapes": [[(1, 2, 2)]], **more,
    }  # fmt: skip


MODELS: dict[str, tuple[str, str, dict[str, Any], Callable[[], dict[str, Any]], str]] = {
    "qwen-image": ("qwen_image_dit", "QwenImageTransformer2DModel", QWEN, qwen, r"transformer_blocks"),
    "qwen-image layered": (
        "qwen_image_dit", "QwenImageTransformer2DModel",
        QWEN | {"use_additional_t_cond": True, "use_layer3d_rope": True, "zero_cond_t": True},
        lambda: qwen(additional_t_cond=torch.tensor([0])), r"transformer_blocks",
    ),
    "ernie-image": (
        "ernie_image", "ErnieImageTransformer2DModel",
        {"hidden_size": 64, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 96,
         "in_channels": 4, "out_channels": 4, "text_in_dim": 24, "rope_axes_dim": (8, 12, 12)},
        lambda: {"hidden_states": torch.randn(1, 4, 4, 4), "timestep": torch.tensor([5.0]),
                 "text_bth": torch.randn(1, 5, 24), "text_lens": torch.tensor([5])}, "layers",
    ),
    "kandinsky 5": (
        "kandinsky5", "Kandinsky5Transformer3DModel",
        {"in_visual_dim": 4, "in_text_dim": 24, "in_text_dim2": 20, "time_dim": 16, "out_visual_dim": 4,
         "model_dim": 64, "ff_dim": 96, "num_text_blocks": 1, "num_visual_blocks": 1,
         "axes_dims": (8, 12, 12)},
        lambda: {"hidden_states": torch.randn(1, 1, 4, 4, 4), "encoder_hidden_states": torch.randn(1, 5, 24),
                 "timestep": torch.tensor([5.0]), "pooled_projections": torch.randn(1, 20),
                 "visual_rope_pos": [torch.arange(1), torch.arange(2), torch.arange(2)],
                 "text_rope_pos": torch.arange(5)}, "transformer_blocks",
    ),
    "hidream": (
        "hidream", "HiDreamImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1,
         "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [24, 24], "text_emb_dim": 20,
         "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (8, 12, 12),
         "max_resolution": (4, 4), "llama_layers": [0, 0]},
        lambda: {"hidden_states": torch.randn(1, 4, 8, 8), "timesteps": torch.tensor([5.0]),
                 "encoder_hidden_states_t5": torch.randn(1, 5, 24), "pooled_embeds": torch.randn(1, 20),
                 "encoder_hidden_states_llama3": torch.randn(1, 1, 5, 24)}, "stream_blocks",
    ),
    "bria": (
        "longcat_image", "BriaTransformer2DModel",
        {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32,
         "num_attention_heads": 2, "joint_attention_dim": 24, "axes_dims_rope": (8, 12, 12)},
        lambda: {"hidden_states": torch.randn(1, 6, 16), "encoder_hidden_states": torch.randn(1, 4, 24),
                 "timestep": torch.tensor([0.5]), "img_ids": torch.zeros(6, 3), "txt_ids": torch.zeros(4, 3)},
        "transformer_blocks",
    ),
    "motif-video": (
        "motif_video", "MotifVideoTransformer3DModel",
        {"in_channels": 9, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32,
         "num_layers": 1, "num_single_layers": 1, "text_embed_dim": 24, "rope_axes_dim": (8, 12, 12)},
        lambda: {"hidden_states": torch.randn(1, 9, 1, 4, 4), "encoder_hidden_states": torch.randn(1, 5, 24),
                 "timestep": torch.tensor([5]), "encoder_attention_mask": torch.ones(1, 5)},
        "transformer_blocks",
    ),
    "qwen-image controlnet": (
        "qwen_image_controlnet", "QwenImageControlNetModel", QWEN,
        lambda: qwen(controlnet_cond=torch.randn(1, 4, 16)), "transformer_blocks",
    ),
    "sd3 controlnet": (
        "sd3_controlnet", "SD3ControlNetModel",
        {"sample_size": 8, "in_channels": 4, "num_layers": 1, "attention_head_dim": 32,
         "num_attention_heads": 2, "joint_attention_dim": 24, "caption_projection_dim": 64,
         "pooled_projection_dim": 20, "out_channels": 4, "pos_embed_max_size": 8},
        lambda: {"hidden_states": torch.randn(1, 4, 8, 8), "controlnet_cond": torch.randn(1, 4, 8, 8),
                 "encoder_hidden_states": torch.randn(1, 5, 24), "pooled_projections": torch.randn(1, 20),
                 "timestep": torch.tensor([5])}, "transformer_blocks",
    ),
    "z-image controlnet": (
        "z_image_controlnet", "ZImageControlNetModel",
        {"control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 4, "dim": 64,
         "add_control_noise_refiner": "control_noise_refiner", "n_refiner_layers": 1, "n_heads": 2,
         "n_kv_heads": 2},
        lambda: {"x": [torch.randn(4, 1, 4, 4)], "t": torch.tensor([0.5]), "cap_feats": [torch.randn(6, 24)],
                 "control_context": [torch.randn(4, 1, 4, 4)]}, "control_",
    ),
}  # fmt: skip
"""Family, class, its config, inputs, and what stands in the names of all layers that are quantized."""

VAE = "minimax_h3_audio_vae", "AutoencoderKLMiniMaxH3Audio"
"""One whose class has the names of its authors."""


def computed(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """All that a model computes; of Z-Image's ControlNet with the embedders of a model, always the same."""
    if type(model) is diffusers.ZImageControlNetModel:
        torch.manual_seed(3)
        whole = diffusers.ZImageTransformer2DModel(
            in_channels=4, dim=64, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
            axes_dims=[8, 12, 12], axes_lens=[64, 64, 64],
        )  # fmt: skip
        made = diffusers.ZImageControlNetModel.from_transformer(copy.deepcopy(model), whole)(**inputs)
        return torch.cat([one.flatten() for one in made.values()])
    out = model(**inputs, return_dict=False)[0]
    return torch.cat([one.flatten() for one in out]) if isinstance(out, list | tuple) else out


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_its_own_class_goes_there_and_back(name: str, tmp_path: Path) -> None:
    family, kind, config, inputs, block = MODELS[name]
    torch.manual_seed(1)
    model = getattr(diffusers, kind)(**config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    state = {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in model.state_dict().items()}
    known = catalog.detect(list(state), {key: tuple(tensor.shape) for key, tensor in state.items()})
    assert known is not None
    assert (known.name, known.spelling) == (family, "diffusers")
    save_file(state, tmp_path / "m.safetensors")
    flow = tc.open(tmp_path / "m.safetensors") | tc.quantize("int8")
    flow | tc.write(tmp_path / "q.safetensors", convention="lightx2v")
    stored = load_file(tmp_path / "q.safetensors")
    codes = {key for key, tensor in stored.items() if tensor.dtype == torch.int8}
    linears = {f"{key}.weight" for key, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    assert codes
    assert codes <= {key for key in linears if block in key}
    tc.open(tmp_path / "q.safetensors") | tc.dequantize("f32") | tc.write(tmp_path / "d.safetensors")
    wanted = {  # scales of rows
        key: stored[key].float() * stored[f"{key}_scale"] if key in codes else tensor.float()
        for key, tensor in state.items()
    }
    with torch.no_grad():
        outs = []
        for tensors in (wanted, load_file(tmp_path / "d.safetensors")):
            model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=True)
            torch.manual_seed(2)
            outs.append(computed(model, inputs()))
    assert torch.isfinite(outs[0]).all()
    assert outs[0].any()
    assert torch.equal(*outs)


def test_of_a_vae_nothing_is_quantized_and_any_other_spelling_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    family, kind = VAE
    model = getattr(diffusers, kind)(
        encoder_dim=4, encoder_rates=(2, 2), latent_dim=16, latent_channels=4, num_attention_heads=2,
        decoder_dim=16, decoder_rates=(2, 2), decoder_kernel_sizes=(4, 4), resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
    ).eval()  # fmt: skip
    state = {key: one.contiguous() for key, one in model.state_dict().items()}
    save_file(state, tmp_path / "m.safetensors")
    known = catalog.detect(list(state))
    assert known is not None
    assert known.name == family
    for step, said in (
        (tc.quantize("int8"), "no tensor becomes int8: 9 of 9 matrices: never: vae"),
        (tc.convert("diffusers"), f"{family} has no spelling 'diffusers'"),
    ):
        with pytest.raises(TranscodeError, match=said):
            (tc.open(tmp_path / "m.safetensors") | step).plan(tc.write(tmp_path / "q.safetensors"))


def test_a_special_case_is_not_spelled_as_another_family_has_its_names(tmp_path: Path) -> None:
    """HunyuanImage 3, whose layers are called as those of language models of transformers."""
    names = json.loads(HUNYUAN.read_text("utf-8"))["tensors"]
    state = {re.sub(r"\{(\d+)\.\.\d+\}", r"\1", name): torch.zeros(2, 2) for name in names}
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(TranscodeError, match="hunyuan_image3 has no spelling 'transformers'; known"):
        (tc.open(tmp_path / "m.safetensors") | tc.convert("transformers")).plan(
            tc.write(tmp_path / "o.safetensors")
        )
