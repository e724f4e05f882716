"""Text encoders and models that see convert as their own classes have them, and come back to the byte."""

# ruff: noqa: E501  tables of models read better in long lines

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode import catalog
from transcode.errors import TranscodeError
from transcode.stages.convert import Convert

transformers = pytest.importorskip("transformers")

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 64, "head_dim": 16,
}  # fmt: skip
SIGHT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
QWEN = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32}


def clip(kind: str) -> Any:
    config = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64,
        "projection_dim": 24, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**config))


def sees(name: str, **config: Any) -> Any:
    kind = f"{name}ForConditionalGeneration"
    return getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**config))


T5 = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 64,
      "feed_forward_proj": "gated-gelu"}  # fmt: skip

# What a class saves: its family, its spelling; and that of its own names in memory, where that is another.
MODELS: dict[str, tuple[Callable[[], Any], str, str, str]] = {
    "gemma 3": (lambda: sees("Gemma3", text_config=TEXT, vision_config=SIGHT), "decoder_llm", "llava", "multimodal"),
    "mistral 3": (
        lambda: sees("Mistral3", text_config={"model_type": "mistral", **TEXT},
                     vision_config={"model_type": "pixtral", **SIGHT, "head_dim": 8}),
        "decoder_llm", "llava", "multimodal",
    ),
    "qwen2-vl": (
        lambda: sees("Qwen2VL", text_config=TEXT, vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32,
                                                                 "num_heads": 2}),
        "decoder_llm", "transformers", "multimodal",
    ),
    "qwen2.5-vl": (lambda: sees("Qwen2_5_VL", text_config=TEXT, vision_config=QWEN), "qwen25vl_llm", "published",
                   "transformers"),
    "clip-g": (lambda: clip("CLIPTextModelWithProjection"), "clip", "transformers", "transformers"),
    "clip vision": (
        lambda: transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=14,
            projection_dim=24, hidden_act="gelu")),
        "wan_clip", "transformers", "transformers",
    ),
    "umt5": (lambda: transformers.UMT5EncoderModel(transformers.UMT5Config(**T5)), "wan_t5", "transformers",
             "transformers"),
    "t5": (lambda: transformers.T5EncoderModel(transformers.T5Config(**T5)), "t5", "transformers", "transformers"),
}  # fmt: skip
OTHERS = {"clip-g": "openclip", "clip vision": "lightx2v", "umt5": "lightx2v", "t5": "gguf"}


def saved(name: str, folder: Path) -> tuple[Any, Path]:
    """A model of random weights, and its file, in the order in which transcode writes."""
    torch.manual_seed(3)
    model = MODELS[name][0]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "saved")
    return model, write(folder / "saved" / "model.safetensors", folder / "first.safetensors")


def write(source: Path, target: Path, *steps: Any, **options: Any) -> Path:
    flow = tc.open(source)
    for step in steps:
        flow = flow | step
    flow | tc.write(target, **options)
    return target


def body(file: Path) -> bytes:
    """All of a file but its metadata."""
    data = file.read_bytes()
    return (
        repr(sorted((n, t.shape) for n, t in load_file(file).items())).encode()
        + data[8 + int.from_bytes(data[:8], "little") :]
    )


@pytest.mark.parametrize("name", MODELS)
def test_its_own_class_takes_it_and_it_comes_back(name: str, tmp_path: Path) -> None:
    _, family, spelling, inside = MODELS[name]
    model, first = saved(name, tmp_path)
    found = catalog.detect(list(load_file(first)))
    assert found is not None
    assert (found.name, found.spelling, found.prefix) == (family, spelling, "")
    to = OTHERS.get(name, inside)
    there = write(first, tmp_path / "there.safetensors", Convert(to), convention="neutral")
    if name not in OTHERS:
        held = model.state_dict()
        ours = load_file(there)
        assert {key for key in held if key != "lm_head.weight"} <= ours.keys() <= held.keys()
        assert all(ours[key].equal(held[key]) for key in ours)
    assert body(write(there, tmp_path / "back.safetensors", Convert(spelling))) == body(first)


@pytest.mark.parametrize(("name", "scheme"), [("clip-g", "int8"), ("clip-g", "fp8"), ("clip vision", "int8")])
def test_quantized_they_come_back_too(name: str, scheme: str, tmp_path: Path) -> None:
    _, first = saved(name, tmp_path)
    to = OTHERS[name]
    codes = write(first, tmp_path / "codes.safetensors", tc.quantize(scheme), convention="lightx2v")
    there = write(codes, tmp_path / "there.safetensors", Convert(to))
    assert body(write(there, tmp_path / "back.safetensors", Convert("transformers"))) == body(codes)
    plain = write(there, tmp_path / "plain.safetensors", tc.dequantize("f32"))
    assert body(plain) == body(
        write(write(codes, tmp_path / "f32.safetensors", tc.dequantize("f32")), tmp_path / "x.safetensors",
              Convert(to))
    )  # fmt: skip
    if name == "clip vision":  # of OpenCLIP's, q, k and v are no matrix of a layer
        anew = write(
            first, tmp_path / "anew.safetensors", Convert(to), tc.quantize(scheme), convention="lightx2v"
        )
        assert body(there) == body(anew)


def test_openclip_is_what_diffusers_converts(tmp_path: Path) -> None:
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    model, first = saved("clip-g", tmp_path)
    ours = load_file(write(first, tmp_path / "o.safetensors", Convert("openclip")))
    # The function takes the rows of q, k and v to be as many as those of the projection.
    ours["text_projection"] = ours["text_projection"][:, :16]
    theirs = utils.convert_open_clip_checkpoint(
        model, {f"x.{key}": one for key, one in ours.items()}, prefix="x."
    )
    held = load_file(first)
    held["text_projection.weight"] = held["text_projection.weight"][:16]
    assert theirs.keys() == held.keys()
    assert all(theirs[key].equal(held[key]) for key in held)


def test_wans_umt5_gates_as_transformers_does(tmp_path: Path) -> None:
    """wan/modules/t5.py: ``fc2(fc1(x) * gelu(gate(x)))``."""
    model, first = saved("umt5", tmp_path)
    ours = load_file(write(first, tmp_path / "o.safetensors", Convert("lightx2v")))
    x = torch.randn(3, 16)
    at = "blocks.1.ffn"
    gate = torch.nn.functional.gelu(x @ ours[f"{at}.gate.0.weight"].T, approximate="tanh")
    found = (x @ ours[f"{at}.fc1.weight"].T * gate) @ ours[f"{at}.fc2.weight"].T
    torch.testing.assert_close(found, model.encoder.block[1].layer[1].DenseReluDense(x))


def test_wans_image_encoder_sees_as_transformers_does(tmp_path: Path) -> None:
    """wan/modules/clip.py: norms before attention and feed-forward, q above k above v, the first row projected."""
    model, first = saved("clip vision", tmp_path)
    wan = {
        key.removeprefix("visual."): one
        for key, one in load_file(write(first, tmp_path / "o.safetensors", Convert("lightx2v"))).items()
    }
    F = torch.nn.functional

    def layer(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ wan[f"{name}.weight"].T + wan[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (32,), wan[f"{name}.weight"], wan[f"{name}.bias"])

    picture = torch.randn(1, 3, 224, 224)
    patches = F.conv2d(picture, wan["patch_embedding.weight"], stride=14).flatten(2).transpose(1, 2)
    x = norm(torch.cat([wan["cls_embedding"], patches], 1) + wan["pos_embedding"], "pre_norm")
    for at in ("transformer.0", "transformer.1"):
        q, k, v = (
            layer(norm(x, f"{at}.norm1"), f"{at}.attn.to_qkv").view(1, -1, 3, 2, 16).permute(2, 0, 3, 1, 4)
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + layer(seen, f"{at}.attn.proj")
        x = x + layer(F.gelu(layer(norm(x, f"{at}.norm2"), f"{at}.mlp.0")), f"{at}.mlp.2")
    found = norm(x, "post_norm")[:, 0] @ wan["head"]
    with torch.no_grad():
        torch.testing.assert_close(found, model(pixel_values=picture).image_embeds, rtol=1e-4, atol=1e-4)


def test_a_tokenizer_in_comfyuis_file_is_left_out(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    _, first = saved("umt5", tmp_path)
    save_file(
        load_file(first) | {"spiece_model": torch.zeros(5, dtype=torch.uint8)}, tmp_path / "c.safetensors"
    )
    plan = (tc.open(tmp_path / "c.safetensors") | Convert("lightx2v")).plan(
        tc.write(tmp_path / "x.safetensors")
    )
    assert any("has no spiece_model: left out" in str(warning) for warning in plan.log.warnings)


def test_an_embedding_of_two_names_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    _, first = saved("t5", tmp_path)
    save_file(
        load_file(first) | {"encoder.embed_tokens.weight": torch.zeros(64, 16)}, tmp_path / "c.safetensors"
    )
    with pytest.raises(TranscodeError, match=r"no rule of t5 knows encoder\.embed_tokens\.weight"):
        (tc.open(tmp_path / "c.safetensors") | Convert("gguf")).plan(tc.write(tmp_path / "x.safetensors"))
