"""All-in-one files become folders of Diffusers' pipelines, and come back to the byte."""

# ruff: noqa: E501  tables of models read better in long lines

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.catalog.pipelines import pipelines
from transcode.cli import cli
from transcode.consumers.components import open_components
from transcode.errors import PlanError
from transcode.stages.convert import Convert

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
transformers = pytest.importorskip("transformers")

CLIP = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": 64, "projection_dim": 16, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
UNET = {
    "sample_size": 16, "block_out_channels": (32, 32, 64), "cross_attention_dim": 24, "attention_head_dim": (1, 1, 2),
    "layers_per_block": 2, "use_linear_projection": True, "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64,
}  # fmt: skip
VAE = {"block_out_channels": (4, 4, 8, 8), "layers_per_block": 1, "norm_num_groups": 2,
       "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}  # fmt: skip


def run(*words: object) -> None:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception:
        raise result.exception


def body(file: Path) -> tuple[dict[str, Any], bytes]:
    """All of a file but its metadata."""
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    return header, raw[8 + size :]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Those of a tiny SDXL, by the folder."""
    torch.manual_seed(0)
    made = {
        "unet": diffusers.UNet2DConditionModel(**UNET),
        "vae": diffusers.AutoencoderKL(**VAE),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP)),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**CLIP)),
    }
    for model in made.values():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return made


@pytest.fixture(scope="module")
def whole(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them in one file, as Stability AI has them."""
    folder = tmp_path_factory.mktemp("sdxl")
    spelled = {
        "unet": ("model.diffusion_model.", "original"), "vae": ("first_stage_model.", "original"),
        "text_encoder": ("conditioner.embedders.0.transformer.", None),
        "text_encoder_2": ("conditioner.embedders.1.model.", "openclip"),
    }  # fmt: skip
    tensors = {
        "conditioner.embedders.1.model.logit_scale": torch.tensor(4.6),
        "alphas_cumprod": torch.ones(4),
    }
    for name, (prefix, spelling) in spelled.items():
        held = {n: t.half().contiguous() for n, t in models[name].state_dict().items()}
        if name == "text_encoder":
            held = {f"text_model.{n}": t for n, t in held.items()}
        save_file(held, folder / "one.safetensors")
        if spelling is not None:
            (
                tc.open(folder / "one.safetensors")
                | Convert(spelling)
                | tc.write(folder / "two.safetensors", force=True)
            )
            held = load_file(folder / "two.safetensors")
        tensors |= {f"{prefix}{n}": t for n, t in held.items()}
    save_file(tensors, folder / "raw.safetensors")
    tc.open(folder / "raw.safetensors") | tc.write(folder / "sdxl.safetensors")
    return folder / "sdxl.safetensors"


def test_there_and_back(models: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    run("split", whole, tmp_path / "pipe", "--to", "diffusers")
    assert json.loads((tmp_path / "pipe" / "model_index.json").read_text()) == {
        "_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    }  # fmt: skip
    for name, model in models.items():
        (file,) = (tmp_path / "pipe" / name).iterdir()
        held = {
            key.removeprefix("text_model.") if name == "text_encoder" else key: one
            for key, one in load_file(file).items()
        }
        held.pop("logit_scale", None)  # of which no class of transformers knows here
        expected = model.state_dict()
        assert held.keys() == expected.keys()
        assert all(one.equal(expected[key].half()) for key, one in held.items())
    run("merge", tmp_path / "pipe", tmp_path / "back.safetensors")
    assert body(tmp_path / "back.safetensors") == body(whole)
    with safe_open(tmp_path / "back.safetensors", "pt") as file:
        assert not [key for key in file.metadata() if key.startswith("component")]


def donor(models: dict[str, Any], folder: Path) -> Path:
    """A folder of the pipeline as it is published, with the weights of another training."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    made = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    diffusers.StableDiffusionXLPipeline(
        **models, tokenizer=made, tokenizer_2=made, scheduler=diffusers.DDIMScheduler(beta_end=0.5)
    ).save_pretrained(folder)
    return folder


def test_diffusers_loads_the_folder_with_the_files_of_another(
    models: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    other = donor(models, tmp_path / "published")
    run("split", whole, tmp_path / "pipe", "--to", "diffusers", "--config-from", other)
    loaded = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path / "pipe", torch_dtype=torch.float16)
    assert loaded.scheduler.config.beta_end == 0.5
    assert loaded.tokenizer_2("a").input_ids
    for name, model in models.items():
        held = getattr(loaded, name).state_dict()
        assert all(held[key].equal(one.half()) for key, one in model.state_dict().items())
    # What has no weights does not come into one file, which is said.
    source = open_components(str(tmp_path / "pipe"))
    assert any("scheduler/, tokenizer/, tokenizer_2/ left out" in note for note in source.notes)
    # Configurations of another pipeline, and folders that are none, are refused.
    index = json.loads((other / "model_index.json").read_text())
    index["unet"] = ["diffusers", "UNet1DModel"]
    (other / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        PlanError, match="has diffusers UNet1DModel as unet, where these tensors are those of"
    ):
        run("split", whole, tmp_path / "two", "--to", "diffusers", "--config-from", other, "--debug")
    with pytest.raises(PlanError, match="is no folder with a model_index"):
        run("split", whole, tmp_path / "two", "--to", "diffusers", "--config-from", tmp_path, "--debug")
    with pytest.raises(PlanError, match="are no pipeline of Diffusers that is known, as they are spelled"):
        run("split", whole, tmp_path / "two", "--config-from", other, "--debug")


def test_what_is_lacking_is_said_in_a_line(whole: Path, tmp_path: Path) -> None:
    flow = tc.open(whole) | Convert("diffusers")
    plan = flow.plan(tc.write(tmp_path / "pipe", layout="components", copy_metadata=False))
    (said,) = (str(note) for note in plan.log.notes if "model_index.json" in str(note))
    assert "to load it, add scheduler/, tokenizer/, tokenizer_2/, " in said
    assert "unet/config.json" in said


def test_a_folder_that_diffusers_saved_becomes_one_file(
    models: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    diffusers.StableDiffusionXLPipeline(
        **models, tokenizer=None, tokenizer_2=None, scheduler=diffusers.DDIMScheduler()
    ).save_pretrained(tmp_path / "pipe")
    run("merge", tmp_path / "pipe", tmp_path / "one.safetensors")
    found, expected = load_file(tmp_path / "one.safetensors"), load_file(whole)
    lost = {"conditioner.embedders.1.model.logit_scale", "alphas_cumprod"}
    assert found.keys() == expected.keys() - lost
    assert all(one.half().equal(expected[name]) for name, one in found.items())


def test_quantized_models_come_back_too(whole: Path, tmp_path: Path) -> None:
    run("run", whole, tmp_path / "codes.safetensors", "--scheme", "fp8", "--convention", "comfyui")
    run("split", tmp_path / "codes.safetensors", tmp_path / "pipe", "--to", "diffusers")
    run("merge", tmp_path / "pipe", tmp_path / "back.safetensors")
    assert body(tmp_path / "back.safetensors") == body(tmp_path / "codes.safetensors")


def test_as_it_is_spelled_there_is_no_index(whole: Path, tmp_path: Path) -> None:
    run("split", whole, tmp_path / "pipe")
    assert not (tmp_path / "pipe" / "model_index.json").exists()
    run("merge", tmp_path / "pipe", tmp_path / "back.safetensors")
    assert body(tmp_path / "back.safetensors") == body(whole)


@pytest.mark.parametrize("name", list(pipelines()))
def test_classes_are_those_of_the_pipeline(name: str) -> None:
    annotations = getattr(diffusers, name).__init__.__annotations__
    for folder, part in pipelines()[name].parts.items():
        kind = getattr(diffusers if part.library == "diffusers" else transformers, part.kind)
        assert part.kind in str(annotations[folder]) or annotations[folder] is kind
