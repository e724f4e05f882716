"""Names and shapes of models that diffusers converts from a single file, for ``make_family_names.py``.

Original names are those that transcode writes; that they are true is checked by diffusers' own function,
which must make exactly the class's names and shapes of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from make_family_names import Model, Shapes, by_part, linear, linears, shapes_of, under

LTX_VAE = "convert_ltx_vae_checkpoint_to_diffusers"


def undone(module: Any, family: str, spelling: str, converter: str, besides: Shapes | None = None) -> Shapes:
    """Names and shapes of the file of which ``converter`` makes the module's.

    Args:
        module: of diffusers, on the meta device.
        family: whose table undoes the conversion.
        spelling: of the file.
        converter: function of ``diffusers.loaders.single_file_utils``; or where the names are said else: a
            script of diffusers, which it does not install, or a file of ComfyUI. The tests of
            ``tests/stages/test_structure.py`` hold what those make.
        besides: what the file has and the module has not.
    """
    import torch
    from diffusers.loaders import single_file_utils

    from transcode import catalog
    from transcode.catalog.rule import lengths_of

    direction = catalog.family(family).spelled("diffusers").direction(spelling)
    shapes = shapes_of(module)
    tensors: Shapes = dict(besides or {})
    for name, shape in shapes.items():
        hit = direction.find(name)
        assert hit is not None, name
        (original,) = hit.others
        # Six modulations of a block are a row in the file, layers of a VAE convolutions of one pixel.
        if family == "krea2" and original.endswith(".mod.lin"):
            shape = [math.prod(shape)]
        elif any(hit.rule.shapes) and len(shape) > 1:
            lengths = lengths_of(hit.rule.shapes[0], math.prod(shape), {"rows": shape[0]})
            assert lengths is not None, name
            shape = lengths
        if len(hit.rule.right) > 1 and original in tensors:
            tensors[original][0] += shape[0]
            assert tensors[original][1:] == shape[1:], name
        else:
            tensors[original] = [*shape]
    if converter.endswith(".py"):
        return tensors
    empty = {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}
    # What takes nothing else.
    prefixes = {"convert_ldm_unet_checkpoint": "model.diffusion_model.", LTX_VAE: "vae."}
    empty = {f"{prefixes.get(converter, '')}{name}": tensor for name, tensor in empty.items()}
    made = getattr(single_file_utils, converter)(empty, config=dict(module.config))
    assert {name: list(tensor.shape) for name, tensor in made.items()} == shapes, converter
    return tensors


def _radiance(chroma: Model) -> Model:
    """Chroma1-Radiance, after comfy/ldm/chroma_radiance and comfy/model_detection.py of ComfyUI."""
    tensors = {
        name: shape
        for name, shape in chroma.tensors.items()
        if not name.startswith(("img_in.", "final_layer."))
    }
    tensors |= {"img_in_patch.weight": [3072, 3, 16, 16], "img_in_patch.bias": [3072]}
    tensors |= under("nerf_image_embedder.embedder.0", linear(64, 3 + 8**2))
    for block in range(4):
        tensors |= under(f"nerf_blocks.{block}.param_generator", linear(3 * 64**2 * 4, 3072))
        tensors[f"nerf_blocks.{block}.norm.scale"] = [64]
    tensors |= {
        "nerf_final_layer_conv.norm.scale": [64],
        "nerf_final_layer_conv.conv.weight": [3, 64, 3, 3],
        "nerf_final_layer_conv.conv.bias": [3],
    }
    return replace(
        chroma, model="Chroma1-Radiance", source="ComfyUI: comfy/ldm/chroma_radiance", tensors=tensors
    )


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
        whole = diffusers.ChromaTransformer2DModel()
        for stem, model in both("chroma", "chroma", "Chroma1-HD", whole, chroma, both_streams, streams):
            yield stem, model
            if stem == "chroma":
                yield "chroma_radiance", _radiance(model)
        attention = ["attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn",
                     "video_to_audio_attn"]  # fmt: skip
        yield from both("ltx_2", "ltx2", "LTX-2", diffusers.LTX2VideoTransformer3DModel(),
                        "convert_ltx2_transformer_to_diffusers", r"^transformer_blocks\.",
                        [*attention, "ff", "audio_ff"])  # fmt: skip
        gated = {f"{of}{key}": True for of in ("", "audio_") for key in ("gated_attn", "cross_attn_mod")}
        marked = {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
        for version, sizes in (("2.3", gated), ("2.5", gated | marked)):
            modern = diffusers.LTX2VideoTransformer3DModel(use_prompt_embeddings=False, **sizes)
            yield from both(f"ltx_{version}", "ltx2", f"LTX-{version}", modern,
                            "scripts/convert_ltx2_to_diffusers.py", r"^transformer_blocks\.",
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
        normed: dict[str, Any] = {"qk_norm": "rms_norm_across_heads"}
        for stem, name, kind, script in (
            (
                "sana_sprint",
                "Sana_Sprint_1.6B_1024px",
                diffusers.SanaTransformer2DModel(guidance_embeds=True, **normed),
                "sana",
            ),
            (
                "sana_video",
                "SANA-Video_2B_480p",
                diffusers.SanaVideoTransformer3DModel(mlp_ratio=3.0),
                "sana_video",
            ),
            (
                "sana_controlnet",
                "Sana_1600M_1024px_ControlNet_HED",
                diffusers.SanaControlNetModel(),
                "sana_controlnet",
            ),
        ):
            yield from both(
                stem,
                stem,
                name,
                kind,
                f"scripts/convert_{script}_to_diffusers.py",
                r"^transformer_blocks\.\d+\.attn",
                ["attn", "cross_attn"],
                more=lambda name: ".copied_block." in name and "attn." in name,
            )
        yield from both(
            "pixart_sigma",
            "pixart",
            "PixArt-Sigma-XL-2-1024-MS",
            diffusers.PixArtTransformer2DModel(
                sample_size=128, caption_channels=4096, use_additional_conditions=False
            ),
            "scripts/convert_pixart_sigma_to_diffusers.py",
            r"^transformer_blocks\.",
            ["attn", "cross_attn", "mlp"],
            besides={"pos_embed": [1, 4096, 1152], "y_embedder.y_embedding": [300, 4096]},
        )
        cosmos = diffusers.CosmosTransformer3DModel(
            num_attention_heads=16, max_size=(128, 240, 240), extra_pos_embed_type=None
        )
        yield from both("cosmos_predict2", "cosmos2", "Cosmos-Predict2, 16 heads", cosmos,
                        "convert_cosmos_transformer_checkpoint_to_diffusers", r"^transformer_blocks\.",
                        ["self_attn", "cross_attn", "mlp"], never=r"\.norm\d\.")  # fmt: skip
        cosmos = diffusers.CosmosTransformer3DModel(
            max_size=(128, 240, 240), rope_scale=(2.0, 1.0, 1.0), extra_pos_embed_type="learnable"
        )
        yield from both("cosmos_1.0", "cosmos1", "Cosmos-1.0-Diffusion-7B-Text2World", cosmos,
                        "scripts/convert_cosmos_to_diffusers.py", r"^transformer_blocks\.", [],
                        never=r"\.norm\d\.", besides={"logvar.1.weight": [1, 128]},
                        more=lambda name: bool(
                            re.search(r"\.block\.(attn\.to_[a-z]+\.0|layer\d)\.", name)
                        ))  # fmt: skip
        cosmos = diffusers.CosmosTransformer3DModel(
            in_channels=17, num_attention_heads=16, max_size=(128, 240, 240), extra_pos_embed_type=None,
            use_crossattn_projection=True, crossattn_proj_in_channels=100352,
            img_context_dim_in=1152, img_context_dim_out=2048, img_context_num_tokens=256,
        )  # fmt: skip
        yield from both("cosmos_transfer2.5", "cosmos2", "Cosmos-Transfer2.5-2B, its base", cosmos,
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
        cascade = "convert_stable_cascade_unet_single_file_to_diffusers"
        within = r"\.(attention\.to_.*|channelwise\.\d|kv_mapper\.1)$"
        matrices = re.compile(r"\.(attention\.attn\.out_proj|channelwise\.\d|kv_mapper\.1)\.weight$")
        stages = {
            "c": ("stage_c", diffusers.StableCascadeUNet(
                patch_size=1, clip_text_in_channels=1280, clip_text_pooled_in_channels=1280,
                clip_image_in_channels=768)),
            "b": ("stage_b", diffusers.StableCascadeUNet(
                in_channels=4, out_channels=4, patch_size=2, conditioning_dim=1280,
                block_out_channels=(320, 640, 1280, 1280), num_attention_heads=(0, 0, 20, 20),
                down_num_layers_per_block=(2, 6, 28, 6), up_num_layers_per_block=(6, 28, 6, 2),
                down_blocks_repeat_mappers=(1, 1, 1, 1), up_blocks_repeat_mappers=(3, 3, 2, 2),
                block_types_per_layer=(
                    ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
                    ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
                    ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
                    ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
                ),
                dropout=(0, 0, 0.1, 0.1), self_attn=True, timestep_conditioning_type=("sca",),
                clip_text_pooled_in_channels=1280, clip_seq=4, effnet_in_channels=16,
                pixel_mapper_in_channels=3)),
        }  # fmt: skip
        for letter, (name, unet_of) in stages.items():
            yield from both(f"stable_cascade_{name}", f"stable_cascade_{letter}", f"Stable Cascade, {name}",
                            unet_of, cascade, within, [],
                            more=lambda one: bool(matrices.search(one)))  # fmt: skip
        control = diffusers.ControlNetModel(cross_attention_dim=768)
        yield from both("control_v11_sd15", "sd1_controlnet", "control_v11p_sd15_canny", control,
                        "convert_controlnet_checkpoint", inside, [],
                        more=lambda name: bool(inner(name)))  # fmt: skip
        yield from both("ideogram_4", "ideogram4", "Ideogram-4", diffusers.Ideogram4Transformer2DModel(),
                        "comfy/ldm/ideogram4/model.py", r"^layers\.", ["attention", "feed_forward"],
                        never=r"\.adaln_modulation$")  # fmt: skip
        yield from both("longcat_image", "longcat_image", "LongCat-Image",
                        diffusers.LongCatImageTransformer2DModel(), "comfy/ldm/flux/model.py", both_streams,
                        streams, never=r"\.norm[^.]*\.linear$")  # fmt: skip
        yield from both("wan_animate_2", "wan_animate2_dit", "Wan-Animate-2",
                        diffusers.WanAnimate2Transformer3DModel(),
                        "convert_wan_animate_2_transformer_to_diffusers", r"^blocks\.", [],
                        more=lambda name: bool(re.search(r"\.(self_attn|cross_attn|ffn)\.", name))
                        and ".norm" not in name)  # fmt: skip
        yield from both("krea_2", "krea2", "Krea-2", diffusers.Krea2Transformer2DModel(),
                        "convert_krea2_transformer_checkpoint_to_diffusers", r"^transformer_blocks\.",
                        ["attn", "mlp"])  # fmt: skip
        ernie = diffusers.ErnieImageTransformer2DModel()
        yield (
            "ernie_image",
            Model("ernie_image", "diffusers", "ERNIE-Image", "diffusers: ErnieImageTransformer2DModel",
                  shapes_of(ernie), linears(ernie, r"^layers\.")),
        )  # fmt: skip
        yield from both("mochi_1", "mochi", "mochi-1-preview", diffusers.MochiTransformer3DModel(),
                        "convert_mochi_transformer_checkpoint_to_diffusers", r"^transformer_blocks\.",
                        ["attn", "mlp_x", "mlp_y"], never=r"\.norm[^.]*\.")  # fmt: skip
        layered = r"^(layers|noise_refiner|context_refiner)\."
        yield from both("lumina_image_2.0", "lumina2", "Lumina-Image-2.0",
                        diffusers.Lumina2Transformer2DModel(cap_feat_dim=2304),
                        "convert_lumina2_to_diffusers", layered, ["attention", "feed_forward"],
                        never=r"\.norm1\.", besides={"norm_final.weight": [2304]})  # fmt: skip
        yield from both("cogvideox_5b", "cogvideox", "CogVideoX-5b",
                        diffusers.CogVideoXTransformer3DModel(
                            num_layers=42, num_attention_heads=48, use_rotary_positional_embeddings=True),
                        "scripts/convert_cogvideox_to_diffusers.py", r"^transformer_blocks\.", [],
                        never=r"\.norm\d\.",
                        more=lambda name: ".layers." in name)  # fmt: skip
        h3 = diffusers.MiniMaxH3Transformer3DModel()
        for stem, model in both("minimax_h3_comfyui", "h3", "MiniMax-H3", h3,
                                "convert_minimax_h3_transformer_checkpoint_to_diffusers",
                                r"^transformer_blocks\.", [], spelling="comfyui",
                                more=lambda name: name.startswith("blocks.") and name.endswith(".weight")
                                and "norm" not in name,
                                besides={"rope.inv_freq": [8]}):  # fmt: skip
            if not stem.endswith("_diffusers"):  # which stands in minimax_h3.json
                yield stem, model
        image = diffusers.HunyuanImageTransformer2DModel(text_embed_2_dim=1472)
        sides = [f"{side}_{name}" for side in ("img", "txt") for name in ("mod", "attn_proj", "mlp")]
        joined = [*sides, "img_attn_qkv", "txt_attn_qkv", "linear1", "linear2", "modulation"]
        script = "scripts/convert_hunyuan_image_to_diffusers.py"
        yield from both("hunyuanimage_2.1", "hunyuan_image", "HunyuanImage-2.1", image, script, both_streams,
                        joined)  # fmt: skip
        apart = [f"{side}_attn_{name}" for side in ("img", "txt") for name in "qkv"]
        apart += [*sides, "linear1_q", "linear1_k", "linear1_v", "linear1_mlp", "linear2", "modulation"]
        image = diffusers.HunyuanImageTransformer2DModel(
            text_embed_2_dim=1472, guidance_embeds=True, use_meanflow=True
        )
        for stem, model in both("hunyuanimage_2.1_distilled", "hunyuan_image", "HunyuanImage-2.1, distilled",
                                image, script, both_streams, apart, spelling="apart"):  # fmt: skip
            if not stem.endswith("_diffusers"):
                yield stem, model
        routers = r"\.(adaLN_modulation\.\d+|ff_i\.gate)$"
        alone = {
            "hidream_i1": ("hidream", "HiDream-I1", diffusers.HiDreamImageTransformer2DModel(
                patch_size=2, in_channels=16, out_channels=16, num_layers=16, num_single_layers=32,
                num_attention_heads=20, caption_channels=[4096, 4096], text_emb_dim=2048,
                num_routed_experts=4, num_activated_experts=2, axes_dims_rope=(64, 32, 32),
                max_resolution=(128, 128), llama_layers=list(range(48))),
                r"^(double|single)_stream_blocks\.", routers),
            "kandinsky_5_lite": ("kandinsky5", "Kandinsky-5.0-T2V-Lite",
                diffusers.Kandinsky5Transformer3DModel(),
                r"^(text|visual)_transformer_blocks\.", r"_modulation\."),
            "bria_3.2": ("longcat_image", "BRIA-3.2", diffusers.BriaTransformer2DModel(), both_streams,
                r"\.norm[^.]*\.linear$"),
        }  # fmt: skip
        for stem, (family, name, module, within, never) in alone.items():
            kind = type(module).__name__
            found = linears(module, within, never)
            yield stem, Model(family, "diffusers", name, f"diffusers: {kind}", shapes_of(module), found)
