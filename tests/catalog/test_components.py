"""The models of an all-in-one file, told by the prefixes that published files have."""

import pickle

import pytest

from transcode import catalog
from transcode.catalog.components import component_table
from transcode.errors import PlanError, RecipeError

DIT = "model.diffusion_model."
WAN = [
    f"{DIT}blocks.{i}.{name}"
    for i in range(2)
    for name in ("self_attn.q.weight", "modulation", "ffn.0.weight")
]


def folders(*names):
    return {one.folder: (one.prefix, one.tensors) for one in component_table().held(names).all}


# prefixes: diffusers/loaders/single_file_utils.py
@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (
            ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight",
             "cond_stage_model.transformer.text_model.final_layer_norm.weight", "betas", "model_ema.decay"],
            {"unet": (DIT, 1), "vae": ("first_stage_model.", 1), "ema": ("model_ema.", 1), "other": ("", 1),
             "text_encoder": ("cond_stage_model.transformer.", 1)},
        ),
        (
            ["model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.1.model.ln_final.weight",
             "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"],
            {"unet": (DIT, 1), "text_encoder": ("conditioner.embedders.0.transformer.", 1),
             "text_encoder_2": ("conditioner.embedders.1.model.", 1)},
        ),
        (
            [f"{DIT}joint_blocks.0.x", "text_encoders.t5xxl.transformer.shared.weight", "vae.decoder.a",
             "text_encoders.clip_g.transformer.a", "text_encoders.clip_l.transformer.a",
             "text_encoders.clip_l.logit_scale"],
            {"transformer": (DIT, 1), "vae": ("vae.", 1), "other": ("", 1),
             "text_encoder": ("text_encoders.clip_l.transformer.", 1),
             "text_encoder_2": ("text_encoders.clip_g.transformer.", 1),
             "text_encoder_3": ("text_encoders.t5xxl.transformer.", 1)},
        ),
        (
            [f"{DIT}transformer_blocks.0.x", "vae.decoder.a", "audio_vae.decoder.a", "vocoder.a.weight",
             "text_embedding_projection.aggregate_embed.weight"],
            {"transformer": (DIT, 1), "vae": ("vae.", 1), "audio_vae": ("audio_vae.", 1),
             "vocoder": ("vocoder.", 1),
             "connectors": ("", 1)},
        ),
    ],
)  # fmt: skip
def test_components_of_published_files(names, wanted):
    assert folders(*names) == wanted


def test_a_component_of_two_prefixes_keeps_its_names_whole():
    assert folders(f"{DIT}a.b", "vae.a", "first_stage_model.a")["vae"] == ("", 2)


def test_a_component_by_any_of_its_names():
    held = component_table().held([f"{DIT}input_blocks.0.0.weight", "cond_stage_model.model.ln_final.weight"])
    assert {held.find(name, "component").folder for name in ("unet", "transformer", "denoiser")} == {"unet"}
    assert held.find("clip_h", "component").folder == held.find("text_encoder", "component").folder
    assert held.several
    with pytest.raises(PlanError, match="it holds unet, text_encoder"):
        held.find("vae", "component")
    with pytest.raises(PlanError, match="as those of a component"):
        component_table().held(["blocks.0.weight"]).find("vae", "component")


def test_a_family_is_that_of_the_model_that_denoises():
    """Wan and its T5 in one file are two families, by their names."""
    t5 = [
        f"text_encoders.umt5xxl.transformer.{name}"
        for name in ("token_embedding.weight", "blocks.0.attn.q.weight",
                     "blocks.0.ffn.gate.0.weight", "blocks.0.ffn.fc1.weight", "blocks.0.ffn.fc2.weight")
    ]  # fmt: skip
    alone = catalog.detect([name.rpartition("transformer.")[2] for name in t5])
    dit = [
        f"{DIT}{name}"
        for name in ("blocks.0.self_attn.q.weight", "blocks.0.cross_attn.k.weight", "blocks.0.modulation",
                     "blocks.0.ffn.0.weight", "patch_embedding.weight", "head.modulation", "head.head.weight",
                     "text_embedding.0.weight", "time_embedding.0.weight", "time_projection.1.weight")
    ]  # fmt: skip
    assert alone is not None
    assert alone.name == "wan_t5"
    assert catalog.detect(dit).name == "wan_dit"
    assert catalog.detect(dit + t5).name == "wan_dit"


def test_a_table_with_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path))
    (tmp_path / "foreign").mkdir()
    file = tmp_path / "foreign" / "components.yaml"
    file.write_text("foreign: components\ncomponents:\n  a: {prefixes: [a], folder: a, stem: a}\n")
    with pytest.raises(RecipeError, match="'a' is no prefix"):
        component_table()


def test_it_is_kept_as_it_is():
    table = component_table()
    again = pickle.loads(pickle.dumps(table))
    assert again.held(["vae.a", f"{DIT}b"]).all == table.held(["vae.a", f"{DIT}b"]).all
