"""LoRAs of each family as each trainer writes them: merged into either spelling, and respelled for others."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import transcode as tc

pytest.importorskip("diffusers", reason="diffusers is not installed")

from .trainers import FAMILIES, TRAINERS, model, trained, with_theirs

TARGETS = ("comfyui", "kohya", "diffusers", "peft")
COVER = {("z-image", "diffusers"), ("hunyuan video", "kohya")}
"""Joined modules, and underscores in names that others share; all with ``--all``."""
WHOLE = pytest.mark.whole
EVERY = [
    pytest.param(family, trainer, marks=() if (family, trainer) in COVER else WHOLE)
    for family in FAMILIES
    for trainer in TRAINERS
]
LOADERS = {
    "wan t2v": "WanLoraLoaderMixin", "wan i2v": "WanLoraLoaderMixin",
    "qwen-image": "QwenImageLoraLoaderMixin",
    "kandinsky 5": "KandinskyLoraLoaderMixin", "hidream": "HiDreamImageLoraLoaderMixin",
    "z-image": "ZImageLoraLoaderMixin", "sdxl": "StableDiffusionXLLoraLoaderMixin",
    "sd 1.5": "StableDiffusionLoraLoaderMixin", "hunyuan video": "HunyuanVideoLoraLoaderMixin",
    "hunyuan video 1.5": "HunyuanVideoLoraLoaderMixin", "ltx video": "LTXVideoLoraLoaderMixin",
    "ltx 2": "LTX2LoraLoaderMixin", "flux dev": "FluxLoraLoaderMixin", "flux2 dev": "Flux2LoraLoaderMixin",
    "flux2 klein": "Flux2LoraLoaderMixin", "chroma": "FluxLoraLoaderMixin", "krea 2": "Krea2LoraLoaderMixin",
    "sd3.5 medium": "SD3LoraLoaderMixin", "lumina 2": "Lumina2LoraLoaderMixin",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def merged(source: Path, lora: Path) -> dict[str, torch.Tensor]:
    flow = tc.open(source) | tc.lora(str(lora))
    return {name: torch.from_numpy(tensor.numpy().copy()) for name, tensor in flow.items()}


def convert(source: Path, to: str, family: str, folder: Path) -> Path:
    flow = tc.open(source) | tc.convert(to, model=FAMILIES[family].family)
    if to == "peft":
        flow | tc.write(folder, name="adapter_model")
        return folder
    target = folder.with_suffix(".safetensors")
    flow | tc.write(target)
    return target


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    other = {name: tensor.double() for name, tensor in other.items()}
    return [name for name in one if not torch.allclose(one[name].double(), other[name], atol=1e-4, rtol=1e-4)]


@pytest.mark.parametrize(("family", "trainer"), EVERY)
def test_a_trainers_lora(family, trainer, models, tmp_path):
    original, diffusers = model(family, models)
    lora = trained(family, trainer, models, tmp_path)
    of_original, of_diffusers = merged(original, lora.file), merged(diffusers, lora.file)
    wanted = with_theirs(family, lora.wanted, tmp_path) if lora.original else lora.wanted
    assert not differ(of_diffusers, wanted)
    assert not differ(with_theirs(family, of_original, tmp_path), wanted)
    for to in TARGETS:
        there = convert(lora.file, to, family, tmp_path / f"to_{to}")
        found = merged(original, there)
        assert [name for name in found if not found[name].equal(of_original[name])] == [], to
        if to == "diffusers":
            known_to_diffusers(family, there, set(load_file(diffusers)))
        if trainer in TARGETS[:3] and trainer != to:
            back = load_file(convert(there, trainer, family, tmp_path / f"back_from_{to}"))
            first = lora.keys
            if (family, trainer) == (
                "hunyuan video",
                "comfyui",
            ):  # its own names, not the model's, are written
                first = load_file(convert(lora.file, trainer, family, tmp_path / f"own_names_{to}"))
            assert back.keys() == first.keys(), to
            assert all(back[key].equal(value) for key, value in first.items()), to


def known_to_diffusers(family: str, file: Path, names: set[str]) -> None:
    """Its own loader leaves nothing out, and what it gives is for modules of the model."""
    from diffusers.loaders import lora_pipeline

    options = {"unet_config": None} if family in ("sdxl", "sd 1.5") else {}
    given = getattr(lora_pipeline, LOADERS[family]).lora_state_dict(str(file), **options)
    state = given[0] if isinstance(given, tuple) else given
    assert state
    for key in state:
        module = key.partition(".")[2].rpartition(".lora_")[0]
        assert f"{module}.weight" in names, key
    assert len(state) == len(load_file(file))
