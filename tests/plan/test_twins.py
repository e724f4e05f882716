"""Two models that take turns become two, each in its place, as if each were converted by itself."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.cover import ring
from transcode.errors import PlanError, RecipeError

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import make_checkpoint

SHAPES = make_checkpoint.wan(1, 128, 32, task="t2v", text_dim=16)
PLACES = {
    "wan": ("high_noise_model/diffusion_pytorch_model", "low_noise_model/diffusion_pytorch_model"),
    "diffusers": ("transformer/diffusion_pytorch_model", "transformer_2/diffusion_pytorch_model"),
    "comfyui": ("wan_high_noise", "wan_low_noise"),
}
SPELLED = {"wan": "lightx2v", "diffusers": "diffusers", "comfyui": "lightx2v"}
STORED = {"wan": "lightx2v", "diffusers": "diffusers", "comfyui": "comfyui"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The two, in the files of each program: arrangement -> folder."""
    root = tmp_path_factory.mktemp("twins")
    torch.manual_seed(0)
    for name in PLACES["wan"]:
        (root / "wan" / name).parent.mkdir(parents=True)
        values = {key: torch.randn(shape).bfloat16() for key, shape in SHAPES.items()}
        save_file(values, root / "wan" / f"{name}.safetensors")
    for one in ("diffusers", "comfyui"):
        (root / one).mkdir()
        for before, after in zip(PLACES["wan"], PLACES[one], strict=True):
            single = tc.open(root / "wan" / f"{before}.safetensors")
            if one == "diffusers":
                single = single | tc.convert("diffusers")
            (root / one / after).parent.mkdir(exist_ok=True)
            single | tc.write(root / one / f"{after}.safetensors", convention="plain")
    return root


def converted(path, source, to):
    """The flow from one arrangement to another, of both models or of one; where there is a scheme, in it."""
    flow = tc.open(path)
    if SPELLED[source] != SPELLED[to]:
        flow = flow | tc.convert(SPELLED[to])
    return flow if to == "diffusers" else flow | tc.quantize("fp8")


@pytest.mark.parametrize(("source", "to"), ring([*PLACES], ["diffusers", "comfyui", "wan"]))
def test_each_arrangement_becomes_each(source, to, models, tmp_path):
    made = tmp_path / "wan"
    converted(models / source, source, to) | tc.write(made, convention=STORED[to])
    assert len(list(made.rglob("*.safetensors"))) == 2
    for before, after in zip(PLACES[source], PLACES[to], strict=True):
        single = converted(models / source / f"{before}.safetensors", source, to)
        single | tc.write(tmp_path / "one.safetensors", convention=STORED[to], force=True)
        (found,) = made.glob(f"{after}.*") if to == "comfyui" else (made / after).parent.glob("*.safetensors")
        assert found.read_bytes() == (tmp_path / "one.safetensors").read_bytes()


@pytest.mark.whole
def test_diffusers_loads_both_and_the_step_between_them(models, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    tc.open(models / "comfyui") | tc.convert("diffusers") | tc.write(tmp_path / "pipe")
    given = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    loaded = diffusers.DiffusionPipeline.from_pretrained(
        tmp_path / "pipe", scheduler=diffusers.UniPCMultistepScheduler(), torch_dtype=torch.bfloat16, **given
    )
    assert type(loaded).__name__ == "WanPipeline"
    assert loaded.config.boundary_ratio == 0.875  # scripts/convert_wan_to_diffusers.py
    for model, place in zip((loaded.transformer, loaded.transformer_2), PLACES["diffusers"], strict=True):
        wanted = load_file(models / "diffusers" / f"{place}.safetensors")
        held = model.state_dict()
        assert held.keys() == wanted.keys()
        assert all(held[name].equal(one) for name, one in wanted.items())


def test_the_index_is_that_of_the_published_pipeline(models, tmp_path):
    plan = (tc.open(models / "wan") | tc.convert("diffusers")).plan(tc.write(tmp_path / "out"))
    assert [one.name for one in plan.side_files] == [
        "transformer/config.json", "transformer_2/config.json", "model_index.json",
    ]  # fmt: skip
    model = ["diffusers", "WanTransformer3DModel"]
    assert json.loads(plan.side_files[-1].content) == {  # Wan-AI/Wan2.2-T2V-A14B-Diffusers
        "_class_name": "WanPipeline", "boundary_ratio": 0.875, "transformer": model, "transformer_2": model,
        "vae": ["diffusers", "AutoencoderKLWan"], "text_encoder": ["transformers", "UMT5EncoderModel"],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
    }  # fmt: skip


def test_of_images_the_boundary_is_another(tmp_path):
    shapes = make_checkpoint.wan(1, 128, 32, task="t2v", text_dim=16) | {
        "patch_embedding.weight": (128, 36, 1, 2, 2)
    }
    for name in PLACES["wan"]:
        (tmp_path / "wan" / name).parent.mkdir(parents=True)
        save_file(
            {key: torch.zeros(shape) for key, shape in shapes.items()},
            tmp_path / "wan" / f"{name}.safetensors",
        )
    plan = (tc.open(tmp_path / "wan") | tc.convert("diffusers")).plan(tc.write(tmp_path / "out"))
    index = json.loads(plan.side_files[-1].content)
    assert (index["_class_name"], index["boundary_ratio"]) == ("WanImageToVideoPipeline", 0.9)


def test_loras_go_to_the_model_that_they_are_for(models, tmp_path):
    for name in ("style", "fast_high_noise", "fast_low_noise"):
        pair = {
            "blocks.0.ffn.0.lora_down.weight": torch.ones(1, 128),
            "blocks.0.ffn.0.lora_up.weight": torch.ones(32, 1),
        }
        save_file(pair, tmp_path / f"{name}.safetensors")

    def added(*files):
        flow = tc.open(models / "wan") | tc.lora(
            [(str(tmp_path / f"{one}.safetensors"), *rest) for one, *rest in files]
        )
        name = "{}_noise_model/blocks.0.ffn.0.weight"
        before = [
            load_file(models / "wan" / f"{place}.safetensors")["blocks.0.ffn.0.weight"]
            for place in PLACES["wan"]
        ]
        after = [flow[name.format(noise)].torch() for noise in ("high", "low")]
        return [
            (one.float() - other.float()).mean().round().item()
            for one, other in zip(after, before, strict=True)
        ]

    assert added(("fast_high_noise", 8.0), ("fast_low_noise", 16.0)) == [8, 16]
    assert added(("style", 8.0, None, "low")) == [0, 8]
    assert added(("style", 8.0, None, "both"), ("fast_high_noise", 8.0)) == [16, 8]
    assert added(("fast_high_noise", 8.0, None, "low")) == [0, 8]
    with pytest.raises(RecipeError, match="its name does not say for which it is"):
        added(("style", 8.0))
    single = tc.open(models / "wan" / "low_noise_model") | tc.lora(
        [(tmp_path / "style.safetensors", 1, None, "low")]
    )
    with pytest.raises(PlanError, match="is for the model of low noise, and the source is one model"):
        list(single)


def test_both_or_none(models, tmp_path):
    with pytest.raises(PlanError, match="which one file cannot hold"):
        tc.open(models / "wan") | tc.write(tmp_path / "one.safetensors")
    broken = tmp_path / "wan" / "low_noise_model"
    for place in PLACES["wan"]:
        (tmp_path / "wan" / place).parent.mkdir(parents=True)
        values = load_file(models / "wan" / f"{place}.safetensors")
        if "low" in place:
            values["blocks.0.ffn.0.weight"][0, 0] = torch.nan
        save_file(values, tmp_path / "wan" / f"{place}.safetensors")
    with pytest.raises(tc.TranscodeError, match=r"low_noise_model/blocks\.0\.ffn\.0\.weight: nan"):
        tc.open(tmp_path / "wan") | tc.quantize("int8") | tc.write(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["wan"]
    assert broken.exists()


def test_nothing_given_they_stay_as_they_are_arranged(models, tmp_path):
    tc.open(models / "diffusers") | tc.cast("F32") | tc.write(tmp_path / "out")
    assert load_file(tmp_path / "out" / "transformer_2" / "diffusion_pytorch_model.safetensors")


def test_a_calibration_is_of_one(models, tmp_path):
    flow = tc.open(models / "wan") | tc.quantize("nvfp4") | tc.calibrate(tmp_path / "calib.pt")
    with pytest.raises(PlanError, match="is of one model, and the source is two"):
        flow.twins()
