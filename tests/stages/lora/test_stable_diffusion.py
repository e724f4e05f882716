"""LoRAs on all-in-one checkpoints of Stable Diffusion, against Diffusers' names of the same parts."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import PlanError
from transcode.stages.lora.unet import other_names

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

UNET = "model.diffusion_model."
COMMON = {
    "block_out_channels": (8, 8, 16), "layers_per_block": 2, "cross_attention_dim": 6, "norm_num_groups": 2,
    "attention_head_dim": 4, "sample_size": 8,
}  # fmt: skip
UNETS = {
    "1.5": {
        **COMMON, "block_out_channels": (8, 8, 16, 16),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    },
    "xl": {
        **COMMON, "transformer_layers_per_block": (1, 2, 3), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 12,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "one layer": {
        **COMMON, "layers_per_block": 1, "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
}  # fmt: skip


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapter(tensors, spell):
    """A LoRA for all matrices and kernels of these, and by how much it changes each."""
    lora, deltas = {}, {}
    for seed, (name, tensor) in enumerate(tensors.items()):
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and tensor.ndim in (2, 4) and "embeddings" not in name:
            kernel = [1] * (tensor.ndim - 2)
            up, down = (
                rand(tensor.shape[0], 2, *kernel, seed=seed),
                rand(2, *tensor.shape[1:], seed=seed + 999),
            )
            base = spell(module)
            lora |= {
                f"{base}.lora_up.weight": up,
                f"{base}.lora_down.weight": down,
                f"{base}.alpha": torch.tensor(1.0),
            }
            deltas[name] = 0.5 * (up.double().flatten(1) @ down.double().flatten(1)).reshape(tensor.shape)
    assert len(deltas) > 5
    return lora, deltas


def flat(prefix):
    return lambda module: f"{prefix}{module.replace('.', '_')}"


def plus(tensors, deltas):
    return {name: tensor.double() + deltas.get(name, 0) for name, tensor in tensors.items()}


def agree(got, wanted):
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name].double(), wanted[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.fixture
def merge(tmp_path):
    def merged(tensors, lora, allow=False):
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "model.safetensors")
        save_file({key: value.contiguous() for key, value in lora.items()}, tmp_path / "lora.safetensors")
        flow = tc.open(tmp_path / "model.safetensors") | tc.lora(tmp_path / "lora.safetensors")
        flow | tc.write(tmp_path / "out.safetensors", force=True, allow_unmatched=allow)
        return load_file(tmp_path / "out.safetensors")

    return merged


@pytest.fixture(scope="module", params=UNETS)
def unet(request):
    """A UNet in Diffusers' names, the same in its authors', and how Diffusers converts the latter."""
    torch.manual_seed(1)
    model = diffusers.UNet2DConditionModel(**UNETS[request.param])
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    rename = other_names(state.keys())
    original = {UNET + rename(name): tensor for name, tensor in state.items()}
    assert len(original) == len(state)

    def convert(tensors):
        return single_file.convert_ldm_unet_checkpoint(dict(tensors), model.config)

    # That these are the authors' names, Diffusers says.
    agree(convert(original), {name: tensor.double() for name, tensor in state.items()})
    assert rename is not None
    return state, original, convert


SPELLINGS = {"kohya": flat("lora_unet_"), "diffusers": lambda module: f"unet.{module}"}


@pytest.mark.parametrize("spell", SPELLINGS)
def test_names_of_diffusers_on_the_authors_model(merge, unet, spell):
    state, original, convert = unet
    lora, deltas = adapter(state, SPELLINGS[spell])
    agree(convert(merge(original, lora)), plus(state, deltas))


@pytest.mark.parametrize("spell", SPELLINGS)
def test_names_of_the_authors_on_diffusers_model(merge, unet, spell):
    state, original, convert = unet
    lora, deltas = adapter({name.removeprefix(UNET): one for name, one in original.items()}, SPELLINGS[spell])
    deltas = {UNET + name: delta for name, delta in deltas.items()}
    agree(merge(state, lora), convert(plus(original, deltas)))


def encoder(projected, seed):
    torch.manual_seed(seed)
    config = transformers.CLIPTextConfig(
        vocab_size=11, hidden_size=8, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=5, projection_dim=8, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = (
        transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config)
    )
    # As published: with text_model, which Transformers 5 leaves out of one of the two.
    return {
        name if name.startswith("text_") else f"text_model.{name}": tensor.detach()
        for name, tensor in model.state_dict().items()
    }


def open_clip(state):
    """The same encoder as OpenCLIP stores it."""
    made = {
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "logit_scale": torch.tensor(1.0),
    }
    for layer in range(2):
        old, new = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for leaf in ("weight", "bias"):
            parts = [state[f"{old}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            made[f"{new}.attn.in_proj_{leaf}"] = torch.cat(parts)
            for one, other in {
                "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
            }.items():  # fmt: skip
                made[f"{new}.{other}.{leaf}"] = state[f"{old}.{one}.{leaf}"]
    return made


def to_transformers(tensors, prefix):
    """Diffusers' conversion of an OpenCLIP encoder in a checkpoint."""
    made = single_file.convert_open_clip_checkpoint(None, dict(tensors), prefix)
    return {name.removeprefix("transformer."): tensor for name, tensor in made.items()}


FIRST, SECOND = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."


@pytest.fixture
def xl():
    """Text encoders of SDXL in Transformers' names, and a checkpoint that holds both and a little else."""
    one, other = encoder(False, 1), encoder(True, 2)
    checkpoint = {FIRST + name: tensor for name, tensor in one.items()}
    checkpoint |= {SECOND + name: tensor for name, tensor in open_clip(other).items()}
    checkpoint[f"{UNET}middle_block.1.proj_in.weight"] = rand(8, 8, seed=5)
    checkpoint["first_stage_model.quant_conv.weight"] = rand(8, 8, 1, 1, seed=6)
    return one, other, checkpoint


def without_projection(state):
    return {name: tensor for name, tensor in state.items() if "projection" not in name}


@pytest.mark.parametrize("spell", ["kohya", "diffusers", "comfyui"])
def test_both_text_encoders_of_xl(merge, xl, spell):
    one, other, checkpoint = xl
    first, second = {
        "kohya": (flat("lora_te1_"), flat("lora_te2_")),
        "diffusers": (lambda m: f"text_encoder.{m}", lambda m: f"text_encoder_2.{m}"),
        "comfyui": (lambda m: f"text_encoders.clip_l.transformer.{m}",
                    lambda m: f"text_encoders.clip_g.transformer.{m}"),
    }[spell]  # fmt: skip
    of_first, deltas = adapter(one, first)
    of_second, more = adapter(without_projection(other), second)
    got = merge(checkpoint, {**of_first, **of_second})
    agree({n.removeprefix(FIRST): t for n, t in got.items() if n.startswith(FIRST)}, plus(one, deltas))
    agree(to_transformers(got, SECOND), plus(other, more))
    untouched = [name for name in checkpoint if not name.startswith("conditioner")]
    assert all(torch.equal(got[name], checkpoint[name]) for name in untouched)


def test_an_encoder_that_the_checkpoint_has_not(merge, xl):
    _, other, checkpoint = xl
    lora, deltas = adapter(without_projection(other), flat("lora_te2_"))
    only_first = {name: one for name, one in checkpoint.items() if not name.startswith(SECOND)}
    with pytest.raises(PlanError, match="none of its 12 keys fits"):
        merge(only_first, lora)
    assert len(deltas) == 12


@pytest.mark.parametrize("prefix", ["cond_stage_model.transformer.", "text_encoder.", "", "unprefixed"])
@pytest.mark.parametrize("spell", ["lora_te_", "lora_te1_", "text_encoder."])
def test_the_text_encoder_of_1_5(merge, prefix, spell):
    state = encoder(False, 3)
    lora, deltas = adapter(state, flat(spell) if spell.endswith("_") else lambda module: f"{spell}{module}")
    if prefix == "unprefixed":  # as Transformers 5 saves it
        state, deltas = (
            {n.removeprefix("text_model."): t for n, t in one.items()} for one in (state, deltas)
        )
        prefix = ""
    checkpoint = {prefix + name: tensor for name, tensor in state.items()}
    agree(merge(checkpoint, lora), plus(checkpoint, {prefix + name: delta for name, delta in deltas.items()}))


def test_the_open_clip_encoder_of_2(merge):
    state, prefix = encoder(True, 4), "cond_stage_model.model."
    lora, deltas = adapter(without_projection(state), flat("lora_te_"))
    got = merge({prefix + name: tensor for name, tensor in open_clip(state).items()}, lora)
    # Diffusers takes no projection from these.
    agree(to_transformers(got, prefix), plus(without_projection(state), deltas))


def test_the_projection_of_open_clip_is_turned_over(merge, xl):
    """It is stored transposed there, and square: never merged the wrong way round."""
    _, other, checkpoint = xl
    lora, deltas = adapter(other, flat("lora_te2_"))
    (name,) = (key for key in deltas if "text_projection" in key)
    key = "conditioner.embedders.1.model.text_projection"
    got = merge(checkpoint, lora)[key].double()
    torch.testing.assert_close(got, checkpoint[key].double() + deltas[name].T, rtol=1e-5, atol=1e-5)
