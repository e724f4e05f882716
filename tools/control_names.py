"""Names and shapes of ControlNets and motion modules of diffusers, for ``make_family_names.py``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from make_family_names import Model, Shapes, by_part, linear, linears, shapes_of, under
from single_file_names import undone

__all__ = ["instantiated"]

_XL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
_SD35: dict[str, Any] = {
    "patch_size": 2, "in_channels": 16, "num_layers": 19, "attention_head_dim": 64, "num_attention_heads": 38,
    "joint_attention_dim": None, "caption_projection_dim": 2048, "pooled_projection_dim": 2048,
    "out_channels": 16, "pos_embed_max_size": None, "pos_embed_type": None, "use_pos_embed": False,
    "force_zeros_for_pooled_projection": False,
}  # fmt: skip
_MOTION = "convert_animatediff_checkpoint_to_diffusers"


def instantiated() -> Iterable[tuple[str, Model]]:
    """Each model as diffusers spells it, and as its authors do where that is otherwise."""
    import diffusers
    import torch

    both = r"^(single_)?transformer_blocks\."
    inner = r"\.(attn1|attn2|ff)\."
    with torch.device("meta"):
        models: dict[str, tuple[str, str, Any, str]] = {
            "animatediff_v3": ("motion_adapter", "v3_sd15_mm", diffusers.MotionAdapter(
                use_motion_mid_block=False), inner),
            "sparsectrl_rgb": ("motion_adapter", "v3_sd15_sparsectrl_rgb", diffusers.SparseControlNetModel(),
                inner),
            "z_image_controlnet": ("z_image_controlnet", "Z-Image-Turbo-Fun-Controlnet-Union",
                diffusers.ZImageControlNetModel(control_layers_places=[0, 5, 10, 15, 20, 25],
                control_in_dim=16), r"^control_(layers|noise_refiner)\.\d+\.(a|feed_forward)"),
            "motif_video": ("motif_video", "Motif-Video", diffusers.MotifVideoTransformer3DModel(), both),
            "flux_controlnet_union": ("flux_controlnet", "FLUX.1-dev-ControlNet-Union",
                diffusers.FluxControlNetModel(num_layers=5, num_single_layers=10, guidance_embeds=True,
                num_mode=10), both),
            "sd3.5_large_controlnet": ("sd35_controlnet", "sd3.5_large_controlnet_canny",
                diffusers.SD3ControlNetModel(**_SD35), both),
            "sd3_controlnet": ("sd3_controlnet", "SD3-Controlnet-Canny",
                diffusers.SD3ControlNetModel(num_layers=6), both),
            "qwen_image_controlnet": ("qwen_image_controlnet", "Qwen-Image-ControlNet-Union",
                diffusers.QwenImageControlNetModel(num_layers=5), both),
            "sdxl_controlnet": ("sdxl_controlnet", "controlnet-canny-sdxl-1.0",
                diffusers.ControlNetModel(**_XL), inner),
            "sdxl_controlnet_union": ("sdxl_controlnet", "controlnet-union-sdxl-1.0",
                diffusers.ControlNetUnionModel(**_XL), inner),
        }  # fmt: skip
    for stem, (family, title, module, within) in models.items():
        kind = type(module).__name__
        never = r"\.norm[^.]*\.linear$"
        theirs = Model(family, "diffusers", title, f"diffusers: {kind}", shapes_of(module),
                       linears(module, within, never))  # fmt: skip
        one = stem in ("z_image_controlnet", "motif_video", "sd3_controlnet", "qwen_image_controlnet")
        yield (stem if one else f"{stem}_diffusers"), theirs
        if one:
            continue
        converter = {"motion_adapter": _MOTION, "sdxl_controlnet": "convert_controlnet_checkpoint"}.get(
            family, "comfy/controlnet.py" if family == "flux_controlnet" else
            "scripts/convert_sd3_controlnet_to_diffusers.py")  # fmt: skip
        tensors = undone(module, family, "original", f"{converter}.py")
        if family == "motion_adapter":
            positions = ".attention_blocks.{}.pos_encoder.pe"
            for name in [name for name in tensors if name.endswith(".attention_blocks.1.to_q.weight")]:
                block = name.removesuffix(".attention_blocks.1.to_q.weight")
                tensors[block + positions.format(1)] = tensors[block + positions.format(0)]
            layers = r"\.(attention_blocks\.\d\.to_[a-z.0]*|attn\d\..*|ff\..*)\.weight$"
            chosen = {name for name in tensors if re.search(layers, name)}
        elif family == "sdxl_controlnet":
            chosen = {name for name in tensors if re.search(inner, name) and name.endswith(".weight")}
        else:
            joined = ["img_attn", "txt_attn", "img_mlp", "txt_mlp", "linear1", "linear2", "attn", "mlp"]
            chosen = by_part(tensors, 2, joined)
        source = f"diffusers: {kind}; {converter} makes its names of these"
        yield stem, Model(family, "original", title, source, tensors, chosen)
        if family == "flux_controlnet":
            yield "flux_controlnet_xlabs", _xlabs(tensors)


def _xlabs(union: Shapes) -> Model:
    """After comfy/ldm/flux/controlnet.py of ComfyUI: two blocks, and layers that read the hint."""
    left = r"(img_in|txt_in|time_in|vector_in|guidance_in|(double_blocks|controlnet_blocks)\.[01])\."
    tensors: Shapes = {name: shape for name, shape in union.items() if re.match(left, name)}
    tensors |= under("pos_embed_input", linear(3072, 64))
    for at in range(0, 16, 2):
        tensors |= {f"input_hint_block.{at}.weight": [16, 16 if at else 3, 3, 3],
                    f"input_hint_block.{at}.bias": [16]}  # fmt: skip
    chosen = by_part(tensors, 2, ["img_attn", "txt_attn", "img_mlp", "txt_mlp"])
    return Model("flux_controlnet", "xlabs", "flux-controlnet-canny-v3",
                 "ComfyUI: comfy/ldm/flux/controlnet.py", tensors, chosen)  # fmt: skip
