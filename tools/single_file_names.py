"""Names and shapes of models that diffusers converts from a single file, for ``make_family_names.py``.

Original names are those that transcode writes; that they are true is checked by diffusers' own function,
which must make exactly the class's names and shapes of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from make_family_names import Model, Shapes, by_part, linears, shapes_of


def undone(module: Any, family: str, spelling: str, converter: str, besides: Shapes | None = None) -> Shapes:
    """Names and shapes of the file of which ``converter`` makes the module's.

    Args:
        module: of diffusers, on the meta device.
        family: whose table undoes the conversion.
        spelling: of the file.
        converter: function of ``diffusers.loaders.single_file_utils``.
        besides: what the file has and the module has not.
    """
    import torch
    from diffusers.loaders import single_file_utils

    from transcode import catalog

    direction = catalog.family(family).spelled("diffusers").direction(spelling)
    shapes = shapes_of(module)
    tensors: Shapes = dict(besides or {})
    for name, shape in shapes.items():
        hit = direction.find(name)
        assert hit is not None, name
        (original,) = hit.others
        if len(hit.rule.right) > 1 and original in tensors:
            tensors[original][0] += shape[0]
        else:
            # Six modulations of a block are one row in the file.
            flat = family == "krea2" and original.endswith(".mod.lin")
            tensors[original] = [math.prod(shape)] if flat else list(shape)
    empty = {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}
    if converter == "convert_ldm_unet_checkpoint":  # which takes nothing else
        empty = {f"model.diffusion_model.{name}": tensor for name, tensor in empty.items()}
    made = getattr(single_file_utils, converter)(empty, config=dict(module.config))
    assert {name: list(tensor.shape) for name, tensor in made.items()} == shapes, converter
    return tensors


def instantiated() -> Iterable[tuple[str, Model]]:
    """Each model as diffusers spells it, and as its single file does."""
    import diffusers
    import torch

    def both(
        stem: str, family: str, model: str, module: Any, converter: str, within: str, quantized: list[str],
        *, spelling: str = "original", never: str = "(?!)", besides: Shapes | None = None,
        more: Callable[[str], bool] = lambda name: False,
    ) -> Iterable[tuple[str, Model]]:  # fmt: skip
        kind = type(module).__name__
        yield (
            f"{stem}_diffusers",
            Model(family, "diffusers", model, f"diffusers: {kind}", shapes_of(module),
                  linears(module, within, never)),
        )  # fmt: skip
        tensors = undone(module, family, spelling, converter, besides)
        chosen = by_part(tensors, 2, quantized)
        chosen |= {name for name, shape in tensors.items() if len(shape) == 2 and more(name)}
        source = f"diffusers: {kind}; its {converter} makes its names of these"
        yield stem, Model(family, spelling, model, source, tensors, chosen)

    both_streams = r"^(single_)?transformer_blocks\."
    streams = ["img_attn", "txt_attn", "img_mlp", "txt_mlp", "linear1", "linear2"]
    with torch.device("meta"):
        flux2 = "convert_flux2_transformer_checkpoint_to_diffusers"
        yield from both("flux.2_dev", "flux2", "FLUX.2-dev", diffusers.Flux2Transformer2DModel(), flux2,
                        both_streams, streams)  # fmt: skip
        klein = diffusers.Flux2Transformer2DModel(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680,
            guidance_embeds=False,
        )  # fmt: skip
        yield from both("flux.2_klein_4b", "flux2", "FLUX.2-klein-4B", klein, flux2, both_streams, streams)
        chroma = "convert_chroma_transformer_checkpoint_to_diffusers"
        yield from both("chroma", "chroma", "Chroma1-HD", diffusers.ChromaTransformer2DModel(), chroma,
                        both_streams, streams)  # fmt: skip
        attention = ["attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn",
                     "video_to_audio_attn"]  # fmt: skip
        yield from both("ltx_2", "ltx2", "LTX-2", diffusers.LTX2VideoTransformer3DModel(),
                        "convert_ltx2_transformer_to_diffusers", r"^transformer_blocks\.",
                        [*attention, "ff", "audio_ff"])  # fmt: skip
        yield from both("qwen_image_2.1", "qwen_image_21_dit", "Qwen-Image-2.1",
                        diffusers.QwenImage21Transformer2DModel(),
                        "convert_qwen_image21_transformer_checkpoint_to_diffusers", r"^transformer_blocks\.",
                        ["attn", "img_mlp"], spelling="comfyui")  # fmt: skip
        layers = [f"{name}_proj" for name in "qkv"] + ["attn_out", "mlp_in", "mlp_out"]
        yield from both("flux.3", "flux3", "FLUX.3", diffusers.Flux3Transformer2DModel(),
                        "convert_flux3_transformer_checkpoint_to_diffusers",
                        r"^((txt_)?mode_blocks|single_transformer_blocks)\.", layers,
                        more=lambda name: name.startswith("content_mode_blocks."))  # fmt: skip
        yield from both("auraflow", "auraflow", "AuraFlow", diffusers.AuraFlowTransformer2DModel(),
                        "convert_auraflow_transformer_checkpoint_to_diffusers",
                        r"^(joint|single)_transformer_blocks\.", ["attn", "mlpX", "mlpC", "mlp"],
                        never=r"\.norm[^.]*\.linear$")  # fmt: skip
        yield from both("sana_1.6b", "sana", "Sana_1600M_1024px", diffusers.SanaTransformer2DModel(),
                        "convert_sana_transformer_to_diffusers", r"^transformer_blocks\.",
                        ["attn", "cross_attn"],
                        besides={"pos_embed": [1, 1024, 2240],
                                 "y_embedder.y_embedding": [300, 2304]})  # fmt: skip
        cosmos = diffusers.CosmosTransformer3DModel(
            num_attention_heads=16, max_size=(128, 240, 240), extra_pos_embed_type=None
        )
        yield from both("cosmos_predict2", "cosmos2", "Cosmos-Predict2, 16 heads", cosmos,
                        "convert_cosmos_transformer_checkpoint_to_diffusers", r"^transformer_blocks\.",
                        ["self_attn", "cross_attn", "mlp"], never=r"\.norm\d\.")  # fmt: skip
        unet, inside = "convert_ldm_unet_checkpoint", r"\.transformer_blocks\.\d+\.(attn1|attn2|ff)\."
        inner = re.compile(inside).search
        yield from both("sd_1.5", "sd1", "stable-diffusion-v1-5",
                        diffusers.UNet2DConditionModel(cross_attention_dim=768), unet, inside, [],
                        more=lambda name: bool(inner(name)))  # fmt: skip
        xl = diffusers.UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20), use_linear_projection=True,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
        yield from both("sdxl_base_1.0", "sdxl", "stable-diffusion-xl-base-1.0", xl, unet, inside, [],
                        more=lambda name: bool(inner(name)))  # fmt: skip
        yield from both("krea_2", "krea2", "Krea-2", diffusers.Krea2Transformer2DModel(),
                        "convert_krea2_transformer_checkpoint_to_diffusers", r"^transformer_blocks\.",
                        ["attn", "mlp"])  # fmt: skip
        ernie = diffusers.ErnieImageTransformer2DModel()
        yield (
            "ernie_image",
            Model("ernie_image", "diffusers", "ERNIE-Image", "diffusers: ErnieImageTransformer2DModel",
                  shapes_of(ernie), linears(ernie, r"^layers\.")),
        )  # fmt: skip
