"""Models of classes that no library has, made from checkouts of their owners' repositories.

For ``check_classes.py``. The classes run as they are, on a processor: kernels of flash_attn, for GPUs alone,
are computed by PyTorch's own attention; what a module imports and no pass needs is an empty module.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch

__all__ = ["OWN", "Own"]

Alike = Callable[[torch.nn.Module, torch.nn.Module], tuple[torch.Tensor, torch.Tensor]]
"""The class of the repository and the other one, to what each computes of one input."""


@dataclass(frozen=True)
class Own:
    """One model.

    Attributes:
        repository: of which a checkout is needed, as GitHub calls it.
        fixture: the file of ``fixtures/families`` that lists names and shapes of the published model.
        make: builds the class from a checkout, of the sizes of the fixture and without memory, or else tiny.
        forward: computes with a tiny one.
        lacks: names of the class that the fixture leaves out: a regular expression.
        others: spellings that it converts to, each with a tiny model of the class that has them, and what
            both compute of the same.
    """

    repository: str
    fixture: str
    make: Callable[[Path, bool], torch.nn.Module]
    forward: Callable[[torch.nn.Module], torch.Tensor]
    lacks: str = "(?!)"
    others: Mapping[str, Callable[[], tuple[torch.nn.Module, Alike]]] = field(default_factory=dict)


@contextmanager
def within(
    folder: Path, *empty: str, bare: tuple[str, ...] = (), given: Mapping[str, object] = MappingProxyType({})
) -> Iterator[None]:
    """Modules of a checkout can be imported, and are forgotten afterwards.

    Args:
        folder: which is searched first.
        empty: modules of which any name can be imported, as nothing of them is called.
        bare: packages of the checkout whose own module is not run.
        given: what modules with one name each have, by the whole name.
    """
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder))
    for name in empty:
        sys.modules[name] = _Empty(name)
    for name in bare:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder.joinpath(*name.split(".")))]
    for one, value in given.items():
        name, _, inner = one.rpartition(".")
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
        setattr(sys.modules[name], inner, value)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            held = getattr(sys.modules[name], "__file__", None) or str(folder)
            if held.startswith(str(folder)):
                del sys.modules[name]


class _Empty(types.ModuleType):
    """A module of which any name can be imported: a class."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda *_, **__: None})


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    """flash_attention of Wan: of ``[batch, rows, heads, columns]``, without a mask."""
    rows = (t.transpose(1, 2) for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(*rows).transpose(1, 2)


def varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor,
    *_: object, **__: object,
) -> torch.Tensor:  # fmt: skip
    """flash_attn_varlen_func: attention within each of several runs of rows, ``[rows, heads, columns]``."""
    bounds = zip(cu_seqlens_q[:-1], cu_seqlens_q[1:], cu_seqlens_k[:-1], cu_seqlens_k[1:], strict=True)
    return torch.cat([attention(q[a:b][None], k[c:d][None], v[c:d][None])[0] for a, b, c, d in bounds])


def device(whole: bool) -> torch.device:
    """Where a model is built: of the published sizes without memory."""
    return torch.device("meta" if whole else "cpu")


# ComfyUI has S2V, HuMo and both kinds of Fun, and computes on any device.


def comfyui(kind: str, published: Mapping[str, Any], tiny: Mapping[str, Any]) -> Callable[..., Any]:
    """A class of comfy/ldm/wan/model.py."""

    def make(folder: Path, whole: bool) -> torch.nn.Module:
        given = sys.argv
        sys.argv = ["", "--cpu"]
        try:
            with within(folder):
                importlib.import_module("comfy.options").enable_args_parsing()
                ops = importlib.import_module("comfy.ops")
                sizes = published if whole else tiny
                made: torch.nn.Module = getattr(importlib.import_module("comfy.ldm.wan.model"), kind)(
                    **sizes, operations=ops.disable_weight_init, dtype=torch.float32, device=device(whole),
                )  # fmt: skip
                return made
        finally:
            sys.argv = given

    return make


def wan_inputs(**more: Callable[[], Any]) -> Callable[[torch.nn.Module], torch.Tensor]:
    """A pass through one of ComfyUI's classes of Wan."""

    def forward(model: torch.nn.Module) -> torch.Tensor:
        torch.manual_seed(1)
        inputs = {name: make() for name, make in more.items()}
        out: torch.Tensor = model(
            torch.randn(1, model.in_dim, 2, 4, 4), torch.tensor([5.0]), torch.randn(1, 5, 24), **inputs
        )
        return out

    return forward


# The trainer of Self-Forcing saves its model as an attribute of a wrapper; Wan's CLIP has two halves.


def self_forcing(folder: Path, whole: bool) -> torch.nn.Module:
    """CausalWanModel as ``model`` of a wrapper, as WanDiffusionWrapper holds it."""
    sizes = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30} if whole else _TINY
    with within(folder, bare=("wan", "wan.modules")), device(whole):
        kind = importlib.import_module("wan.modules.causal_model")
        for module in (kind, importlib.import_module("wan.modules.model")):
            vars(module).update(attention=attention, flash_attention=attention)
        return torch.nn.ModuleDict({"model": kind.CausalWanModel(**sizes)})


def causal(model: torch.nn.Module) -> torch.Tensor:
    """Two frames with a cache of keys and values, as videos are made."""
    torch.manual_seed(1)
    wan: Any = model["model"]
    width = wan.dim // wan.num_heads
    cache = [
        {one: torch.zeros(1, 8, wan.num_heads, width) for one in "kv"}
        | {f"{one}_end_index": torch.tensor([0]) for one in ("global", "local")}
        for _ in wan.blocks
    ]
    inputs = torch.randn(1, wan.in_dim, 2, 4, 4), torch.tensor([[5.0, 5.0]]), torch.randn(1, 5, wan.text_dim)
    made: torch.Tensor = wan(
        *inputs, seq_len=8, kv_cache=cache, crossattn_cache=[{"is_init": False} for _ in cache]
    )
    return made


def wan_clip(folder: Path, whole: bool) -> torch.nn.Module:
    """XLMRobertaCLIP of wan/modules/clip.py."""
    tiny = {"embed_dim": 24, "vision_dim": 64, "vision_heads": 2, "vision_layers": 2, "vocab_size": 64,
            "max_text_len": 16, "text_dim": 48, "text_heads": 2, "text_layers": 2}  # fmt: skip
    empty = ("torchvision", "torchvision.transforms", "wan.modules.tokenizers")
    with within(folder, *empty, bare=("wan", "wan.modules")), device(whole):
        kind: Any = importlib.import_module("wan.modules.clip")
        kind.flash_attention = attention
        made: torch.nn.Module = kind.XLMRobertaCLIP(**({} if whole else tiny))
        return made


def seen(model: torch.nn.Module) -> torch.Tensor:
    """What the visual half sees in a picture, and the textual in some tokens."""
    torch.manual_seed(1)
    halves: Any = model
    see = halves.visual(torch.randn(1, 3, 224, 224), use_31_block=True)
    return torch.cat([see.flatten(), halves.textual(torch.tensor([[3, 5, 7]])).flatten()])


def wan_of_diffusers() -> tuple[torch.nn.Module, Alike]:
    """WanTransformer3DModel: all frames at once, as the other sees them with a cache that long."""
    import diffusers

    other = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=64, ffn_dim=192, num_layers=2, freq_dim=32, text_dim=24
    )

    def alike(own: torch.nn.Module, made: Any) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        video, words = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 5, 24)
        padded = torch.cat([words, torch.zeros(1, 507, 24)], dim=1)  # as Wan does within
        return causal(own), made(video, torch.tensor([5.0]), padded, return_dict=False)[0]

    return other, alike


def clip_of_transformers() -> tuple[torch.nn.Module, Alike]:
    """CLIPVisionModelWithProjection: its last state but one, which Wan takes, and what it projects."""
    import transformers

    other = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, patch_size=14,
        projection_dim=24, hidden_act="gelu",
    ))  # fmt: skip

    def alike(own: Any, made: Any) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(1)
        picture, visual = torch.randn(1, 3, 224, 224), own.visual
        out = made(pixel_values=picture, output_hidden_states=True)
        projected = visual.post_norm(visual(picture))[:, 0] @ visual.head
        ours = torch.cat([visual(picture, use_31_block=True).flatten(), projected.flatten()])
        return ours, torch.cat([out.hidden_states[-2].flatten(), out.image_embeds.flatten()])

    return other, alike


# SeedVR2, whose 3B is another class than its 7B.


def seedvr2(version: str, **more: Any) -> Callable[[Path, bool], torch.nn.Module]:
    """NaDiT of models/dit or models/dit_v2, as configs_7b/main.yaml or configs_3b/main.yaml configures it."""

    def make(folder: Path, whole: bool) -> torch.nn.Module:
        dim, layers = (more["dim"], more["layers"]) if whole else (64, more["few"])
        sizes = {
            "vid_in_channels": 33, "vid_out_channels": 16, "vid_dim": dim, "txt_dim": dim,
            "txt_in_dim": 5120 if whole else 24, "emb_dim": 6 * dim,
            "heads": dim // 128 if whole else 2, "head_dim": 128 if whole else 32, "expand_ratio": 4,
            "norm": "rms", "norm_eps": 1e-5, "ada": "single",
            "qk_bias": False, "qk_norm": "rms", "patch_size": [1, 2, 2], "num_layers": layers,
            "block_type": "mmdit_sr", "window": [(4, 3, 3)] * layers, "window_method":
            ["720pwin_by_size_bysize", "720pswin_by_size_bysize"] * (layers // 2), **more["sizes"],
        }  # fmt: skip
        if version == "dit_v2":
            sizes |= {"mm_layers": sizes["mm_layers"] if whole else layers // 2,
                      "rope_dim": sizes["rope_dim"] if whole else 32}  # fmt: skip
        with within(folder, given={"flash_attn.flash_attn_varlen_func": varlen}), device(whole):
            made: torch.nn.Module = importlib.import_module(f"models.{version}.nadit").NaDiT(**sizes)
            return made

    return make


def restored(model: torch.nn.Module) -> torch.Tensor:
    """Two frames, in windows, with six rows of text."""
    torch.manual_seed(1)
    made: Any = model(
        torch.randn(2 * 8 * 8, 33), torch.randn(6, 24), torch.tensor([[2, 8, 8]]), torch.tensor([[6]]),
        torch.tensor([5.0]),
    )  # fmt: skip
    out: torch.Tensor = made.vid_sample
    return out


# HunyuanImage 3 comes with its VAE and its vision model.


def hunyuan_image3(folder: Path, whole: bool) -> torch.nn.Module:
    """HunyuanImage3ForCausalMM: a few layers and experts of the published sizes, or tiny ones."""
    vae = {"in_channels": 3, "out_channels": 3, "latent_channels": 32 if whole else 8,
           "block_out_channels": [32, 64], "layers_per_block": 1, "ffactor_spatial": 2, "ffactor_temporal": 1,
           "sample_size": 8, "sample_tsize": 1}  # fmt: skip
    vit = {"hidden_size": 1152 if whole else 32, "intermediate_size": 64, "num_attention_heads": 2,
           "num_hidden_layers": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "attention_dropout": 0.0,
           "patch_size": 4, "num_channels": 3, "num_patches": 16, "_attn_implementation": "sdpa",
           "attn_implementation": "sdpa", "output_attentions": False, "output_hidden_states": False,
           "use_return_dict": True}  # fmt: skip
    dim = 4096 if whole else 64
    sizes: dict[str, Any] = {
        "hidden_size": dim, "intermediate_size": 3072 if whole else 96, "vocab_size": 133120 if whole else 64,
        "num_hidden_layers": 2, "num_attention_heads": 32 if whole else 2, "moe_intermediate_size": None,
        "num_key_value_heads": 8 if whole else 1, "attention_head_dim": 128 if whole else 32,
        "num_experts": 8 if whole else 4, "moe_topk": 2, "use_mixed_mlp_moe": True, "use_qk_norm": True,
        "rope_scaling": {"type": "custom"}, "patch_embed_hidden_dim": 1024 if whole else 32, "vae": vae,
        "vit": vit, "vit_aligner": {"projector_type": "mlp_gelu", "input_dim": vit["hidden_size"],
                                    "n_embed": dim, "depth": 2},
    }  # fmt: skip
    with within(folder, *_BESIDES, bare=("hunyuan_image_3",)), device(whole):
        kind: Any = importlib.import_module("hunyuan_image_3.hunyuan")
        kind.nvtx = SimpleNamespace(range=lambda _: nullcontext())
        config = kind.HunyuanImage3Config(**sizes, attn_implementation="sdpa")
        made: torch.nn.Module = kind.HunyuanImage3ForCausalMM(config)
        return made


def drawn(model: torch.nn.Module) -> torch.Tensor:
    """A latent as tokens, through the layers with some text, and a latent again; and the next token."""
    torch.manual_seed(1)
    whole: Any = model
    step = whole.time_embed(torch.tensor([5.0]))
    tokens, rows, columns = whole.patch_embed(torch.randn(1, 8, 4, 4), step)
    states = torch.cat([whole.model.wte(torch.tensor([[3, 5]])), tokens], dim=1)
    angles = torch.randn(1, states.shape[1], 32)
    turned, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
    try:
        out = whole.model(inputs_embeds=states, custom_pos_emb=(angles.cos(), angles.sin()), use_cache=False)
    finally:
        torch.cuda.set_device = turned
    out = whole.model.ln_f(out[0])
    latent = whole.final_layer(out[:, 2:], whole.time_embed_2(torch.tensor([5.0])), rows, columns)
    return torch.cat([latent.flatten(), whole.lm_head(out[:, :2]).flatten()])


_14B = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
_TINY = {"dim": 128, "ffn_dim": 192, "num_heads": 2, "num_layers": 2, "freq_dim": 32, "text_dim": 24}
_COMFYUI = "Comfy-Org/ComfyUI"
_BESIDES = [
    f"hunyuan_image_3.{one}"
    for one in ("image_processor", "tokenizer_wrapper", "hunyuan_image_3_pipeline", "system_prompt")
]
_BESIDES.append("transformers.modeling_attn_mask_utils")
_3B = {"vid_out_norm": "rms", "txt_in_norm": "layer", "mm_layers": 10, "mlp_type": "swiglu",
       "msa_type": None, "rope_type": "mmrope3d", "rope_dim": 128}  # fmt: skip
_7B = {"qk_rope": True, "shared_mlp": False, "shared_qkv": False, "mlp_type": "normal"}

OWN: dict[str, Own] = {
    "wan 2.2 s2v": Own(
        _COMFYUI, "wan2.2_s2v_14b",
        comfyui("WanModel_S2V", _14B, _TINY | {"audio_dim": 64, "audio_inject_layers": [0, 1], "in_dim": 4,
                                               "out_dim": 4, "cond_dim": 4}),
        wan_inputs(audio_embed=lambda: torch.randn(1, 25, 64, 8),
                   control_video=lambda: torch.randn(1, 4, 2, 4, 4)),
    ),
    "humo": Own(
        _COMFYUI, "wan2.1_humo_17b",
        comfyui("HumoWanModel", _14B | {"in_dim": 36}, _TINY | {"in_dim": 8, "out_dim": 4}),
        wan_inputs(audio_embed=lambda: torch.randn(1, 2, 8, 5, 1280)),
    ),
    "wan 2.1 fun control": Own(
        _COMFYUI, "wan2.1_fun_control_14b",
        comfyui("WanModel", _14B | {"in_dim": 48, "in_dim_ref_conv": 16, "model_type": "i2v"},
                _TINY | {"in_dim": 12, "out_dim": 4, "in_dim_ref_conv": 4, "model_type": "i2v"}),
        wan_inputs(clip_fea=lambda: torch.randn(1, 257, 1280),
                   reference_latent=lambda: torch.randn(1, 4, 4, 4)),
    ),
    "wan 2.2 fun camera": Own(
        _COMFYUI, "wan2.2_fun_camera_14b",
        comfyui("CameraWanModel", _14B | {"in_dim": 36, "model_type": ""},
                _TINY | {"in_dim": 8, "out_dim": 4, "model_type": ""}),
        wan_inputs(camera_conditions=lambda: torch.randn(1, 24, 2, 32, 32)),
    ),
    "self-forcing": Own("guandeh17/Self-Forcing", "self_forcing_dmd", self_forcing, causal,
                        others={"diffusers": wan_of_diffusers}),
    "wan clip": Own("Wan-Video/Wan2.1", "wan_clip_vit_h_14", wan_clip, seen,
                    others={"transformers": clip_of_transformers}),
    "seedvr2 3b": Own("ByteDance-Seed/SeedVR", "seedvr2_3b",
                      seedvr2("dit_v2", dim=2560, layers=32, few=4, sizes=_3B), restored),
    "seedvr2 7b": Own("ByteDance-Seed/SeedVR", "seedvr2_7b",
                      seedvr2("dit", dim=3072, layers=36, few=2, sizes=_7B), restored),
    "hunyuanimage 3": Own("Tencent-Hunyuan/HunyuanImage-3.0", "hunyuanimage_3.0", hunyuan_image3, drawn,
                          lacks=r"^(vae|vision_model)\."),
}  # fmt: skip
