"""``transcode split`` and ``transcode merge``, there and back."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.cli import cli

DIT = "model.diffusion_model."


def data(path):
    """Names, dtypes and offsets, and all bytes behind the header."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    return header, raw[8 + size :]


def metadata(path):
    with safe_open(path, "np") as file:
        return dict(file.metadata())


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {f"{DIT}input_blocks.0.0.weight": (8, 4, 3, 3), f"{DIT}out.2.bias": (4,), "betas": (5,),
              "first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3), "model_ema.decay": (1,),
              "conditioner.embedders.0.transformer.text_model.a.weight": (8, 8),
              "conditioner.embedders.1.model.a.weight": (8, 8), "audio_vae.decoder.a": (4, 4)}  # fmt: skip
    dtypes = [np.float32, np.float16, np.int64]
    tensors = {
        name: rng.standard_normal(shape).astype(dtypes[number % 3])
        for number, (name, shape) in enumerate(shapes.items())
    }
    save_file(tensors, tmp_path / "all.safetensors", metadata={"modelspec.title": "x"})
    return tmp_path / "all.safetensors", tensors


def run(*args, code=0):
    result = CliRunner().invoke(cli, list(map(str, args)), catch_exceptions=True)
    if code == 0 and result.exception:
        raise result.exception
    return result


def test_there_and_back_gives_the_same_bytes(source, tmp_path):
    path, tensors = source
    run("split", path, tmp_path / "parts")
    files = {
        str(file.relative_to(tmp_path / "parts")) for file in (tmp_path / "parts").rglob("*.safetensors")
    }
    assert files == {
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "audio_vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors", "ema/model.safetensors", "other/model.safetensors",
    }  # fmt: skip
    unet = tmp_path / "parts" / "unet" / "diffusion_pytorch_model.safetensors"
    assert load_file(unet).keys() == {"input_blocks.0.0.weight", "out.2.bias"}
    np.testing.assert_array_equal(load_file(unet)["out.2.bias"], tensors[f"{DIT}out.2.bias"])
    run("merge", tmp_path / "parts", tmp_path / "back.safetensors")
    assert data(tmp_path / "back.safetensors") == data(path)
    kept = metadata(tmp_path / "back.safetensors")
    assert kept["modelspec.title"] == "x"
    assert "component_prefix" not in kept
    run("split", tmp_path / "back.safetensors", tmp_path / "again")
    run("merge", tmp_path / "again", tmp_path / "second.safetensors")
    assert (tmp_path / "second.safetensors").read_bytes() == (tmp_path / "back.safetensors").read_bytes()


def test_a_part_may_be_changed_between(source, tmp_path):
    path, tensors = source
    run("split", path, tmp_path / "parts")
    old = tmp_path / "parts" / "text_encoder" / "model.safetensors"
    tc.open(old) | tc.cast("F16") | tc.write(tmp_path / "new.safetensors")
    shutil.move(tmp_path / "new.safetensors", old)
    run("merge", tmp_path / "parts", tmp_path / "back.safetensors")
    name = "conditioner.embedders.0.transformer.text_model.a.weight"
    assert load_file(tmp_path / "back.safetensors").keys() == tensors.keys()
    np.testing.assert_array_equal(
        load_file(tmp_path / "back.safetensors")[name], tensors[name].astype(np.float16)
    )


def test_a_dry_run_writes_nothing(source, tmp_path):
    told = json.loads(run("split", source[0], tmp_path / "parts", "--dry-run", "--json").output)
    assert told["layout"] == "components"
    assert len(told["files"]) == 7
    assert not (tmp_path / "parts").exists()


def test_the_folder_is_new_and_appears_whole(source, tmp_path):
    (tmp_path / "parts").mkdir()
    result = run("split", source[0], tmp_path / "parts", "--force", code=2)
    assert "appear as a whole" in str(result.exception)
    assert not list((tmp_path / "parts").iterdir())


def test_one_model_is_not_split(tmp_path):
    save_file({f"{DIT}a.weight": np.ones((2, 2), np.float32)}, tmp_path / "one.safetensors")
    result = run("split", tmp_path / "one.safetensors", tmp_path / "parts", code=2)
    assert "it holds transformer" in str(result.exception)
    assert not (tmp_path / "parts").exists()


def test_folders_of_diffusers_get_the_usual_prefixes(tmp_path):
    for folder, name in (("transformer", "blocks.0.weight"), ("vae", "decoder.conv_in.weight")):
        (tmp_path / "pipe" / folder).mkdir(parents=True)
        save_file({name: np.ones((2, 2), np.float32)}, tmp_path / "pipe" / folder / "model.safetensors")
    run("merge", tmp_path / "pipe", tmp_path / "one.safetensors")
    assert load_file(tmp_path / "one.safetensors").keys() == {
        f"{DIT}blocks.0.weight", "first_stage_model.decoder.conv_in.weight",
    }  # fmt: skip
    (tmp_path / "pipe" / "text_encoder").mkdir()
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "pipe" / "text_encoder" / "model.safetensors")
    assert "does not say what stood before" in str(
        run("merge", tmp_path / "pipe", tmp_path / "2.safetensors", code=2).exception
    )


def test_a_folder_of_a_model_without_weights_is_not_left_out(source, tmp_path):
    run("split", source[0], tmp_path / "parts")
    (tmp_path / "parts" / "scheduler").mkdir()
    assert "scheduler/ left out" in run("merge", tmp_path / "parts", tmp_path / "a.safetensors").output
    weights = tmp_path / "parts" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".gguf"))
    refused = run("merge", tmp_path / "parts", tmp_path / "b.safetensors", code=2)
    assert "vae/ holds no weights that go into one file" in str(refused.exception)
    assert not (tmp_path / "b.safetensors").exists()
    shutil.rmtree(tmp_path / "parts" / "vae")
    run("merge", tmp_path / "parts", tmp_path / "b.safetensors")
    left = load_file(tmp_path / "b.safetensors").keys()
    assert left == {name for name in source[1] if not name.startswith("first_stage_model.")}


@pytest.mark.parametrize("names", [("transformer", "transformer_2"), ("high_noise_model", "low_noise_model")])
def test_two_models_that_take_turns_are_no_one_file(names, tmp_path):
    for name in names:
        (tmp_path / "wan" / name).mkdir(parents=True)
        save_file({"blocks.0.w": np.ones((2, 2), np.float32)}, tmp_path / "wan" / name / "model.safetensors")
    refused = run("merge", tmp_path / "wan", tmp_path / "one.safetensors", code=2)
    assert "are two models that take turns" in str(refused.exception)
    assert "`transcode run` converts both into a folder" in str(refused.exception)


def test_quantized_on_the_way(tmp_path):
    """ComfyUI's markers speak of layers by whole names; each part speaks of its own."""
    rng = np.random.default_rng(0)
    names = [f"{DIT}input_blocks.7.1.transformer_blocks.9.attn1.to_q.weight", f"{DIT}label_emb.0.0.weight",
             f"{DIT}output_blocks.0.1.transformer_blocks.9.attn2.to_k.weight", "vae.a.weight"]  # fmt: skip
    save_file(
        {name: rng.standard_normal((64, 64), np.float32) for name in names}, tmp_path / "all.safetensors"
    )
    run(
        "run",
        tmp_path / "all.safetensors",
        tmp_path / "parts",
        "--scheme",
        "fp8",
        "--convention",
        "comfyui",
        "--layout",
        "components",
    )
    run(
        "run",
        tmp_path / "all.safetensors",
        tmp_path / "whole.safetensors",
        "--scheme",
        "fp8",
        "--convention",
        "comfyui",
    )
    run("merge", tmp_path / "parts", tmp_path / "back.safetensors")
    assert data(tmp_path / "back.safetensors") == data(tmp_path / "whole.safetensors")
    decoded = tc.open(tmp_path / "parts" / "unet" / "diffusion_pytorch_model.safetensors") | tc.dequantize(
        "F32"
    )
    assert decoded["input_blocks.7.1.transformer_blocks.9.attn1.to_q.weight"].numpy().shape == (64, 64)
