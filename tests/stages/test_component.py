"""One model out of a file that holds several; and what of such a file is quantized."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import transcode as tc
from transcode.errors import PlanError, RecipeError

DIT = "model.diffusion_model."


@pytest.fixture
def source(tmp_path):
    """The names of SDXL's file; its VAE's and text encoder's look like targets of the UNet."""
    rng = np.random.default_rng(0)
    names = [f"{DIT}{place}.transformer_blocks.9.{name}.weight"
             for place in ("input_blocks.7.1", "output_blocks.0.1")
             for name in ("attn1.to_q", "attn2.to_k")]  # fmt: skip
    names += [f"{DIT}label_emb.0.0.weight", "first_stage_model.input_blocks.0.attn1.to_q.weight",
              "conditioner.embedders.0.transformer.text_model.input_blocks.1.attn2.to_k.weight"]  # fmt: skip
    tensors = {name: rng.standard_normal((32, 32), np.float32) for name in names}
    layers = {f"{DIT}label_emb.0.0": {"format": "x"}, "first_stage_model.a": {"format": "x"}}
    path = tmp_path / "all.safetensors"
    save_file(tensors, path, metadata={"_quantization_metadata": json.dumps({"layers": layers})})
    return path, tensors


@pytest.mark.parametrize(
    ("name", "prefix"), [("unet", DIT), ("transformer", DIT), ("vae", "first_stage_model."),
                         ("clip_l", "conditioner.embedders.0.transformer.")]
)  # fmt: skip
def test_one_component_without_its_prefix(source, name, prefix):
    path, tensors = source
    taken = tc.open(path) | tc.component(name)
    wanted = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    assert taken.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(taken[key].numpy(), value)


def test_metadata_of_layers_is_that_of_the_component(source, tmp_path):
    tc.open(source[0]) | tc.component("unet") | tc.write(tmp_path / "unet.safetensors")
    stated = json.loads(tc.open(tmp_path / "unet.safetensors").metadata["_quantization_metadata"])
    assert stated["layers"] == {"label_emb.0.0": {"format": "x"}}


def test_only_the_model_that_denoises_is_quantized(source):
    flow = tc.open(source[0]) | tc.quantize("int8")
    assert {tensor.name for tensor in flow if not tensor.plain} == {
        name for name in source[1] if name.startswith(DIT) and "attn" in name
    }
    fates = {tensor.name: str(tensor.fate[-1]) for tensor in flow if tensor.plain}
    assert "never: vae" in fates["first_stage_model.input_blocks.0.attn1.to_q.weight"]


def test_what_is_not_there(source):
    with pytest.raises(PlanError, match="component audio_vae: it holds unet, vae, text_encoder"):
        list(tc.open(source[0]) | tc.component("audio_vae"))
    with pytest.raises(RecipeError, match="no name"):
        tc.component("")
