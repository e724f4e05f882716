"""LoRA files between spellings: merging what was converted gives the bytes that merging the first does."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import transcode as tc
from transcode.errors import PlanError

N, K, R = 8, 16, 4
RNG = np.random.default_rng(3)


def rand(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def merged(model, lora, tmp_path):
    """The values of a model with a LoRA, by our own merging."""
    flow = tc.open(model) | tc.lora(str(lora))
    return {name: tensor.numpy() for name, tensor in flow.items()}


def flux_model(path):
    """A block of FLUX.1 as its authors name it, 8 columns: qkv joined, linear1 with the MLP."""
    shapes = {
        "double_blocks.0.img_attn.qkv": (3 * N, N), "double_blocks.0.img_attn.proj": (N, N),
        "double_blocks.0.img_mod.lin": (6 * N, N), "single_blocks.0.linear1": (7 * N, N),
        "single_blocks.0.linear2": (N, 5 * N), "single_blocks.0.modulation.lin": (3 * N, N),
        "final_layer.adaLN_modulation.1": (2 * N, N),
    }  # fmt: skip
    save_file({f"{name}.weight": rand(*shape) for name, shape in shapes.items()}, path)
    return path


def pair(module, rows, columns, up=".lora_B.weight", down=".lora_A.weight", rank=R):
    return {f"{module}{up}": rand(rows, rank), f"{module}{down}": rand(rank, columns)}


@pytest.fixture
def of_diffusers(tmp_path):
    """Split q, k, v with scales of their own metadata, one of them not trained, halves swapped at the end."""
    tensors = {}
    for part in ("to_q", "to_v"):
        tensors |= pair(f"transformer.transformer_blocks.0.attn.{part}", N, N)
    for part, rows in {"to_q": N, "to_k": N, "to_v": N}.items():
        tensors |= pair(f"transformer.single_transformer_blocks.0.attn.{part}", rows, N)
    tensors |= pair("transformer.single_transformer_blocks.0.proj_mlp", 4 * N, N)
    tensors |= pair("transformer.single_transformer_blocks.0.proj_out", N, 5 * N, rank=2)
    tensors |= pair("transformer.norm_out.linear", 2 * N, N)
    said = {"transformer.r": R, "transformer.lora_alpha": 6, "transformer.rank_pattern": {"proj_out": 2},
            "transformer.alpha_pattern": {"proj_out": 3}}  # fmt: skip
    path = tmp_path / "diffusers.safetensors"
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(said)})
    return path


def convert(source, dst, to, **more):
    tc.open(source) | tc.convert(to, **more) | tc.write(dst)
    return dst


@pytest.mark.parametrize("to", ["kohya", "comfyui"])
def test_split_modules_are_joined_and_split_again(of_diffusers, to, tmp_path):
    model = flux_model(tmp_path / "model.safetensors")
    there = convert(of_diffusers, tmp_path / "there.safetensors", to, model="flux")
    keys = load_file(there).keys()
    start = (
        "lora_unet_double_blocks_0_img_attn_qkv"
        if to == "kohya"
        else "diffusion_model.double_blocks.0.img_attn.qkv"
    )
    assert {f"{start}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha")} <= keys
    assert load_file(there)[f"{start}.lora_up.weight"].shape == (3 * N, 2 * R)  # q and v; nothing for k
    assert load_file(there)[f"{start}.alpha"] == 6 / R * 2 * R
    first, second = merged(model, of_diffusers, tmp_path), merged(model, there, tmp_path)
    before = load_file(model)
    changed = {name for name in first if not np.array_equal(first[name], before[name])}
    assert len(changed) == 4
    for name, values in first.items():
        assert values.tobytes() == second[name].tobytes(), name
    back = convert(there, tmp_path / "back.safetensors", "diffusers", model="flux")
    for name, values in merged(model, back, tmp_path).items():
        assert values.tobytes() == first[name].tobytes(), name


def test_a_joined_file_comes_back_to_the_byte(tmp_path):
    """Parts that share their down are one pair again, not blocks of a larger rank."""
    source = tmp_path / "kohya.safetensors"
    up, down = ".lora_up.weight", ".lora_down.weight"
    tensors = pair("lora_unet_double_blocks_0_img_attn_qkv", 3 * N, N, up, down)
    tensors |= pair("lora_unet_single_blocks_0_linear1", 7 * N, N, up, down)
    tensors |= pair("lora_unet_final_layer_adaLN_modulation_1", 2 * N, N, up, down)
    tensors |= {f"{key.removesuffix(up)}.alpha": np.float32(2) for key in list(tensors) if key.endswith(up)}
    save_file({key: np.asarray(value) for key, value in tensors.items()}, source)
    there = convert(source, tmp_path / "there.safetensors", "diffusers", model="flux")
    names = load_file(there).keys()
    assert "transformer.transformer_blocks.0.attn.to_k.lora_B.weight" in names
    assert "transformer.single_transformer_blocks.0.proj_mlp.lora_A.weight" in names
    back = load_file(convert(there, tmp_path / "back.safetensors", "kohya"))
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        assert back[key].tobytes() == np.asarray(value).tobytes(), key


def test_peft_loads_what_was_converted(tmp_path):
    """Its own loader and forward pass, on a tiny model with the names of Wan in Diffusers."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.to_q, self.to_k = torch.nn.Linear(N, N, bias=False), torch.nn.Linear(N, N, bias=False)

        def forward(self, x):
            return self.to_q(x) + self.to_k(x)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn1 = Attention()

        def forward(self, x):
            return self.attn1(x)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList([Block()])

        def forward(self, x):
            return self.blocks[0](x)

    tensors = {}
    for name, rank, alpha in (("q", 4, 2.0), ("k", 2, 3.0)):
        module = f"diffusion_model.blocks.0.self_attn.{name}"
        tensors |= pair(module, N, N, ".lora_up.weight", ".lora_down.weight", rank)
        tensors[f"{module}.alpha"] = np.float32(alpha)
    source = tmp_path / "comfy.safetensors"
    save_file({key: np.asarray(value) for key, value in tensors.items()}, source)
    tc.open(source) | tc.convert("peft") | tc.write(tmp_path / "adapter", name="adapter_model")
    model = Model()
    weights = {key: value.detach().numpy().copy() for key, value in model.state_dict().items()}
    x = torch.from_numpy(rand(3, N))
    loaded = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    with torch.no_grad():
        got = loaded(x).numpy()
    total = 0.0
    for name, rank, alpha in (("q", 4, 2.0), ("k", 2, 3.0)):
        module = f"diffusion_model.blocks.0.self_attn.{name}"
        product = tensors[f"{module}.lora_up.weight"].astype(float) @ tensors[f"{module}.lora_down.weight"]
        total = total + weights[f"blocks.0.attn1.to_{name}.weight"] + alpha / rank * product
    np.testing.assert_allclose(got, x.numpy() @ total.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "to", "why"),
    [
        ({"blocks.0.self_attn.q.dora_scale": rand(N, 1)}, "diffusers", "LyCORIS adds an epsilon"),
        ({"blocks.0.ffn.0.diff": rand(N, N)}, "diffusers", "is a difference"),
        ({"blocks.0.ffn.0.ia3_l": rand(N, 1)}, "peft", "of ia3 in PEFT's own names"),
        ({"blocks.0.ffn.0.hada_w1_a": rand(N, R), "blocks.0.ffn.0.hada_w1_b": rand(R, N),
          "blocks.0.ffn.0.hada_w2_a": rand(N, R), "blocks.0.ffn.0.hada_w2_b": rand(R, N)}, "peft", "of loha"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_exactly_is_refused(tensors, to, why, tmp_path):
    source = tmp_path / "lora.safetensors"
    save_file(
        {
            f"diffusion_model.{key}": value
            for key, value in {**pair("blocks.0.self_attn.q", N, N), **tensors}.items()
        },
        source,
    )
    with pytest.raises(PlanError, match=why):
        list(tc.open(source) | tc.convert(to))


Q = "transformer.transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({f"{Q}.lora_B.bias": rand(N)}, "lora_B.bias: is beside a pair that goes into"),
        (pair(Q, N, N, rank=0), "are no factors of one product"),
        ({f"{Q}.lora_A.weight": rand(R + 1, N)}, "are no factors of one product"),
        ({f"{Q}.alpha": np.ones(2, np.float32)}, "an alpha is one number"),
        ({f"{Q}.alpha": np.asarray(np.float32("nan"))}, "an alpha is finite"),
        (pair(Q.replace("to_q", "to_qq"), N, N), "to_qq: is no module of flux that has a name for kohya"),
    ],
)
def test_a_damaged_pair_of_a_joined_module_is_refused(tensors, why, tmp_path):
    """What a pair was joined of came out without its bias, and with factors of two ranks."""
    parts = {key: value for part in "qkv" for key, value in pair(f"{Q[:-1]}{part}", N, N).items()}
    save_file({**parts, **tensors}, tmp_path / "lora.safetensors")
    with pytest.raises(PlanError, match=why):
        list(tc.open(tmp_path / "lora.safetensors") | tc.convert("kohya", model="flux"))


def test_a_module_that_hides_the_family_is_told(tmp_path):
    modules = [f"{Q[:-1]}{part}" for part in ("q", "k", "v", "qq")]
    modules.append("transformer.single_transformer_blocks.0.attn.to_q")
    save_file({k: v for one in modules for k, v in pair(one, N, N).items()}, tmp_path / "lora.safetensors")
    plan = (tc.open(tmp_path / "lora.safetensors") | tc.convert("kohya")).plan(tc.write(tmp_path / "o"))
    said = " ".join(str(one) for one in plan.log.warnings)
    assert "modules keep their names; " in said
    assert " has most of them, but not '" in said


def test_other_kinds_keep_their_tensors(tmp_path):
    source = tmp_path / "lora.safetensors"
    base = "lora_unet_blocks_0_self_attn_q"
    tensors = {
        f"{base}.lokr_w1": rand(2, 2),
        f"{base}.lokr_w2": rand(4, 4),
        f"{base}.alpha": np.asarray(np.float32(4)),
    }
    save_file(tensors, source)
    there = load_file(convert(source, tmp_path / "there.safetensors", "comfyui"))
    assert there.keys() == {
        f"diffusion_model.blocks.0.self_attn.q.{end}" for end in ("lokr_w1", "lokr_w2", "alpha")
    }
    assert (
        there["diffusion_model.blocks.0.self_attn.q.lokr_w2"].tobytes()
        == tensors[f"{base}.lokr_w2"].tobytes()
    )


def test_a_model_is_no_lora(tmp_path):
    save_file({"a.weight": rand(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(PlanError, match="spelling of LoRAs"):
        list(tc.open(tmp_path / "model.safetensors") | tc.convert("kohya"))


def test_metadata_of_options_is_left_out_where_tensors_say_alpha(of_diffusers, tmp_path):
    there = convert(of_diffusers, tmp_path / "there.safetensors", "kohya")
    with safe_open(there, "np") as file:
        assert "lora_adapter_metadata" not in file.metadata()


def test_diffusers_loads_what_was_converted(tmp_path):
    """Its own loader on a tiny FLUX.1, and its own fusing, against merging the file of kohya's."""
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders import FluxLoraLoaderMixin
    from peft.tuners.lora import LoraLayer

    n = 32
    model = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=n, pooled_projection_dim=n, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    shapes = {
        "double_blocks_0_img_attn_qkv": (3 * n, n),
        "double_blocks_0_img_mod_lin": (6 * n, n),
        "single_blocks_0_linear1": (7 * n, n),
        "final_layer_adaLN_modulation_1": (2 * n, n),
    }
    tensors = {}
    for alpha, (module, shape) in enumerate(shapes.items(), 1):
        tensors |= pair(f"lora_unet_{module}", *shape, ".lora_up.weight", ".lora_down.weight")
        tensors[f"lora_unet_{module}.alpha"] = np.asarray(np.float32(alpha))
    save_file(tensors, tmp_path / "kohya.safetensors")
    there = convert(tmp_path / "kohya.safetensors", tmp_path / "there.safetensors", "diffusers")
    whole = tmp_path / "model" / "diffusion_pytorch_model.safetensors"
    wanted = merged(whole, tmp_path / "kohya.safetensors", tmp_path)
    state, alphas, metadata = FluxLoraLoaderMixin.lora_state_dict(
        str(there), return_alphas=True, return_lora_metadata=True
    )
    FluxLoraLoaderMixin.load_lora_into_transformer(state, alphas, model, metadata=metadata)
    model.fuse_lora()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    assert len(layers) == 9
    for name, layer in layers.items():
        got = layer.base_layer.weight.detach().numpy()
        np.testing.assert_allclose(got, wanted[f"{name}.weight"], rtol=1e-5, atol=1e-5)


def test_dora_of_peft_goes_to_those_who_read_magnitudes_as_it_does(tmp_path):
    """Of a model with the names of FLUX.1 in Diffusers; merged by PEFT before and after."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")

    def model():
        torch.manual_seed(1)
        attention = torch.nn.ModuleDict({f"to_{one}": torch.nn.Linear(N, N) for one in "qkv"})
        block = torch.nn.ModuleDict({"attn": attention})
        return torch.nn.ModuleDict({"transformer_blocks": torch.nn.ModuleList([block])})

    def weights(of):
        return {key: value.numpy() for key, value in of.merge_and_unload().state_dict().items()}

    config = peft.LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=[f"to_{one}" for one in "qkv"])
    adapter = peft.get_peft_model(model(), config)
    for parameter in adapter.parameters():
        if parameter.requires_grad:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    adapter.save_pretrained(tmp_path / "a")
    wanted = weights(adapter)
    tc.open(tmp_path / "a") | tc.convert("diffusers", model="flux") | tc.write(tmp_path / "d.safetensors")
    options = json.loads(safe_open(tmp_path / "d.safetensors", "np").metadata()["lora_adapter_metadata"])
    assert options["transformer.use_dora"] is True
    flow = tc.open(tmp_path / "d.safetensors") | tc.convert("peft", model="flux")
    flow | tc.write(tmp_path / "p", name="adapter_model")
    found = weights(peft.PeftModel.from_pretrained(model(), str(tmp_path / "p")))
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value)
    with pytest.raises(PlanError, match="LyCORIS adds an epsilon and PEFT none"):
        list(tc.open(tmp_path / "a") | tc.convert("kohya", model="flux"))
    some = load_file(tmp_path / "d.safetensors")
    del some[f"{Q}.lora_magnitude_vector"]
    save_file(some, tmp_path / "e.safetensors", {"lora_adapter_metadata": json.dumps(options)})
    with pytest.raises(PlanError, match="is of DoRA"):
        list(tc.open(tmp_path / "e.safetensors") | tc.convert("peft", model="flux"))
