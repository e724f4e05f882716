"""The general rule, on the classes of transformers and diffusers themselves, built without memory."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from transcode import catalog

torch = pytest.importorskip("torch")

Shapes = dict[str, tuple[int, ...]]

INSIDE = re.compile(r"(^|\.)\d+\.(?!weight$)")
"""Within a numbered block: a number, and then something besides the weight itself."""


def chosen(shapes: Shapes) -> set[str]:
    """What is quantized by default of a model with these tensors, whatever family it is taken for."""
    family = catalog.detect(shapes) or catalog.generic_family(shapes)
    return {name for name, shape in shapes.items() if family.is_target(name, shape)[0]}


def shapes_of(module: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


# routers

ROUTER = re.compile(r"Router|TopK|Gating|MoEGate", re.I)

EXPERTS = [
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
    "deepseek_v2",
    "deepseek_v3",
    "olmoe",
    "gpt_oss",
    "granitemoe",
    "jetmoe",
    "phimoe",
    "glm4_moe",
    "ernie4_5_moe",
    "minimax",
    "longcat_flash",
    "switch_transformers",
    "nllb-moe",
    "flex_olmo",
]
SMALL = {
    "num_hidden_layers": 4,
    "num_layers": 4,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "num_decoder_layers": 4,
    "first_k_dense_replace": 1,
    "encoder_sparse_step": 1,
    "decoder_sparse_step": 1,
    "num_sparse_encoder_layers": 2,
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_routers_of_transformers_are_never_quantized(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    if kind not in transformers.models.auto.configuration_auto.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    config = transformers.AutoConfig.for_model(kind)
    for key, value in SMALL.items():
        if isinstance(getattr(config, key, None), int):
            setattr(config, key, value)
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:4]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    routers = [module for name, module in model.named_modules() if ROUTER.search(type(module).__name__)]
    inner = {id(value) for router in routers for value in router.parameters()}
    names = {f"model.{name}" for name, value in model.named_parameters() if id(value) in inner}
    names |= {f"model.{name}" for name in shapes_of(model) if "shared_expert_gate" in name}
    assert names, f"{kind} has no router by the class names that this test knows"
    shapes = {f"model.{name}": shape for name, shape in shapes_of(model).items()}
    taken = chosen(shapes)
    assert not names & taken
    assert taken, "and something is quantized"


@pytest.mark.parametrize(
    "gate",
    [
        "block_sparse_moe.gate",
        "feed_forward.gate",
        "moe.gate",
        "mixer.gate",
        "ffn.gate",
        "mlp.gate",
        "mlp.router",
        "mlp.shared_expert_gate",
        "mlp.router.classifier",
        "feed_forward.router",
        "self_attn.indexer.weights_proj",
        "attn.indexer.weights_proj",
        "mlp.text_moe.gate",
        "deepspeed_moe.gate.wg",
        "mlp.gate.wg",
        "ffn.router.layer",
        "attn1.to_gate_logits",
    ],
)
@pytest.mark.parametrize("like", ["llama", "llama original", "other"])
def test_routers_by_the_names_of_published_files(gate: str, like: str) -> None:
    block = {"llama": "model.layers.0", "llama original": "layers.0", "other": "decoder.blocks.0"}[like]
    shapes: Shapes = {f"{block}.{gate}.weight": (8, 256)}
    plain: Shapes = {
        "llama": {
            f"{block}.self_attn.o_proj.weight": (256, 256), f"{block}.input_layernorm.weight": (256,),
            f"{block}.mlp.experts.0.up_proj.weight": (512, 256),
        },
        "llama original": {
            f"{block}.attention.wq.weight": (256, 256), f"{block}.feed_forward.w1.weight": (512, 256),
            "tok_embeddings.weight": (1000, 256),
        },
        "other": {f"{block}.self_attn.o_proj.weight": (256, 256), f"{block}.mlp.up_proj.weight": (512, 256)},
    }[like]  # fmt: skip
    taken = chosen(shapes | plain)
    assert f"{block}.{gate}.weight" not in taken
    assert len(taken) == 2


def test_the_gate_of_a_feed_forward_is_no_router() -> None:
    shapes: Shapes = {
        "blocks.0.ff.gate.weight": (6912, 2560), "blocks.0.ff.up.weight": (6912, 2560),
        "blocks.0.ff.down.weight": (2560, 6912), "blocks.0.mlp.experts.3.gate.weight": (768, 2048),
        "blocks.0.mlp.gate_proj.weight": (768, 2048),
    }  # fmt: skip
    assert chosen(shapes) == set(shapes)


# diffusion transformers


def diffusion_models() -> Iterator[str]:
    diffusers = pytest.importorskip("diffusers")
    for name in sorted(dir(diffusers)):
        if re.search(r"Transformer(1D|2D|3D)?(Model)?$|DiT\w*Model$|TransformerModel$", name):
            yield name


def built(name: str) -> Shapes | None:
    """The tensors of a class with two layers of each kind; None where it wants arguments of its own."""
    import diffusers

    cls = getattr(diffusers, name)
    if not (inspect.isclass(cls) and issubclass(cls, torch.nn.Module)):
        return None
    few = {
        key: 2
        for key, parameter in inspect.signature(cls.__init__).parameters.items()
        if re.search(r"layers$|^depth$", key) and isinstance(parameter.default, int) and parameter.default > 2
    }
    for arguments in (few, {}):
        try:
            with torch.device("meta"):
                return shapes_of(cls(**arguments))
        except Exception:
            continue
    return None


def test_inputs_outputs_and_modulation_of_diffusion_transformers_stay() -> None:
    checked = 0
    for name in diffusion_models():
        shapes = built(name)
        if shapes is None or catalog.detect(shapes) is not None:
            continue
        for prefix in ("", "model.diffusion_model.", "transformer."):
            taken = {
                one.removeprefix(prefix)
                for one in chosen({prefix + key: value for key, value in shapes.items()})
            }
            wrong = {
                one
                for one in taken
                if not INSIDE.search(one)
                or re.search(
                    r"ada_?ln|modulation|(^|\.)\w*norm\w*\.|_mod\.|time_?(step_?)?emb|patch_?(ify|emb)",
                    one,
                    re.I,
                )
                or re.search(r"(^|\.)(pos_embed|caption_projection|context_embedder|x_embedder)\.", one)
            }
            assert not wrong, (name, sorted(wrong)[:5])
            inside = {
                one
                for one, shape in shapes.items()
                if len(shape) == 2 and re.search(r"blocks\.\d+\.attn\d?\.to_[qkv]\.weight$", one)
            }
            assert inside <= taken, (name, sorted(inside - taken)[:5])
        checked += 1
    assert checked >= 10


def test_of_an_all_in_one_file_only_the_denoiser_is_quantized() -> None:
    names = {
        "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight": True,
        "model.diffusion_model.transformer_blocks.0.ff.net.0.proj.weight": True,
        "model.diffusion_model.patchify_proj.weight": False,
        "model.diffusion_model.audio_patchify_proj.weight": False,
        "model.diffusion_model.proj_out.weight": False,
        "model.diffusion_model.audio_proj_out.weight": False,
        "model.diffusion_model.adaln_single.linear.weight": False,
        "model.diffusion_model.av_ca_video_scale_shift_adaln_single.linear.weight": False,
        "model.diffusion_model.caption_projection.linear_1.weight": False,
        "model.diffusion_model.time_embed.0.weight": False,
        "vae.encoder.mid.0.attn.q.weight": False,
        "audio_vae.decoder.up.0.conv.weight": False,
        "first_stage_model.decoder.mid.0.proj.weight": False,
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": False,
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight": False,
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": False,
        "text_embedding_projection.aggregate_embed.weight": False,
        "vocoder.ups.0.proj.weight": False,
        "another_model.blocks.0.attn.q.weight": False,
    }
    assert chosen(dict.fromkeys(names, (64, 64))) == {name for name, taken in names.items() if taken}


def test_a_text_encoder_alone_is_quantized() -> None:
    names = [
        "text_model.encoder.layers.0.mlp.fc1.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
    ]
    assert chosen(dict.fromkeys([*names, "text_model.embeddings.token_embedding.weight"], (64, 64))) == set(
        names
    )


def test_a_model_without_numbered_blocks_is_taken_by_names() -> None:
    assert chosen({"fc.weight": (64, 64), "net.0.weight": (64, 64), "head.weight": (64, 64)}) == {
        "fc.weight", "net.0.weight",
    }  # fmt: skip
