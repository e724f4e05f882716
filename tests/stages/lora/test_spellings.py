"""LoRAs of joined layers on split models, and the other way round, against Diffusers' own conversions.

``convert(merged model) == convert(model) + delta``, whichever of the two spellings the LoRA has.
"""

import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import PlanError

single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

FAMILIES = Path(__file__).parents[3] / "fixtures" / "families"
D = 16


def convertor(name, **constants):
    """Diffusers' conversion of a checkpoint, for a model of other sizes than those written into it."""
    source = inspect.getsource(getattr(single_file, name))
    for old, new in constants.items():
        source, count = re.subn(rf"\b{old} = 3072\b", f"{old} = {new}", source)
        assert count == 1
    scope = dict(vars(single_file))
    exec(source, scope)
    return lambda tensors: scope[name](dict(tensors))


def small(length):
    return length * D // 3072 if length % 3072 == 0 else min(length, 6)


def published(name):
    """Names and small shapes of a published model, of two blocks of each kind."""
    for key, facts in json.loads((FAMILIES / f"{name}.json").read_text())["tensors"].items():
        shape = tuple(map(small, facts["shape"]))
        for number in ("0", "1") if "{" in key else ("",):
            yield re.sub(r"\{.*?\}", number, key), shape


def z_image():
    """Names and small shapes of Z-Image as its authors and ComfyUI have it."""
    yield from {
        "x_embedder.weight": (D, 6), "x_embedder.bias": (D,), "cap_embedder.1.weight": (D, 7),
        "t_embedder.mlp.0.weight": (9, 8), "x_pad_token": (1, D), "cap_pad_token": (1, D),
        "final_layer.linear.weight": (6, D), "final_layer.linear.bias": (6,),
        "final_layer.adaLN_modulation.1.weight": (D, 8),
    }.items()  # fmt: skip
    for block in ("layers.0", "layers.11", "noise_refiner.0", "context_refiner.1"):
        yield f"{block}.attention.qkv.weight", (3 * D, D)
        yield f"{block}.attention.out.weight", (D, D)
        yield f"{block}.attention.q_norm.weight", (4,)
        yield f"{block}.attention.k_norm.weight", (4,)
        yield f"{block}.feed_forward.w1.weight", (3 * D, D)
        yield f"{block}.adaLN_modulation.0.weight", (4 * D, 8)


MODELS = {
    "flux": (
        lambda: published("flux.1_dev"),
        convertor("convert_flux_transformer_checkpoint_to_diffusers", inner_dim=D),
        46 + 18,
    ),
    "z_image": (z_image, convertor("convert_z_image_transformer_checkpoint_to_diffusers"), 12),
    "hunyuan_video": (
        lambda: published("hunyuanvideo_1.0"),
        convertor("convert_hunyuan_video_transformer_to_diffusers", hidden_size=D),
        40,
    ),
}


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapter(tensors, spell):
    """A LoRA for all of these, and by how much it changes each."""
    lora, deltas = {}, {}
    for seed, (name, tensor) in enumerate(tensors.items()):
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and tensor.ndim == 2:
            up, down = rand(tensor.shape[0], 3, seed=seed), rand(3, tensor.shape[1], seed=seed + 1000)
            lora[f"{spell(module)}.lora_up.weight"], lora[f"{spell(module)}.lora_down.weight"] = up, down
            lora[f"{spell(module)}.alpha"] = torch.tensor(6.0)
            deltas[name] = 2 * up.double() @ down.double()
        elif leaf in ("weight", "bias") and tensor.ndim == 1:
            key = f"{spell(module)}.{'diff' if leaf == 'weight' else 'diff_b'}"
            lora[key] = rand(*tensor.shape, seed=seed)
            deltas[name] = lora[key].double()
    return lora, deltas


def plus(tensors, deltas):
    return {name: tensor.double() + deltas.get(name, 0) for name, tensor in tensors.items()}


def agree(got, wanted):
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name].double(), wanted[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.fixture
def merge(tmp_path):
    def merged(tensors, lora, workers=2, tile=None, strength=1.0, **options):
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "model.safetensors")
        save_file({key: value.contiguous() for key, value in lora.items()}, tmp_path / "lora.safetensors")
        flow = tc.open(tmp_path / "model.safetensors")
        flow = flow | tc.lora(tmp_path / "lora.safetensors", strength, **options)
        flow | tc.write(tmp_path / "out.safetensors", workers=workers, tile=tile, force=True)
        return load_file(tmp_path / "out.safetensors")

    return merged


SPELLINGS = {
    "as it is": lambda module: module,
    "transformer.": lambda module: f"transformer.{module}",
    "kohya": lambda module: f"lora_unet_{module.replace('.', '_')}",
    "OneTrainer": lambda module: f"lora_transformer_{module.replace('.', '_')}",
    "DiffSynth": lambda module: f"pipe.dit.{module}",
    "VideoX-Fun": lambda module: f"lora_unet__{module.replace('.', '_')}",
    "HunyuanVideo-I2V": lambda module: f"Hunyuan_video_I2V_lora_{module.replace('.', '_')}",
    "compiled": lambda module: re.sub(r"(blocks\.0|layers)\.", r"\1._orig_mod.", module),
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("spell", SPELLINGS)
def test_a_lora_for_the_other_spelling(merge, model, spell):
    names, convert, least = MODELS[model]
    original = {name: rand(*shape, seed=seed) for seed, (name, shape) in enumerate(names(), 5000)}
    converted = convert(original)
    # Split on joined: of the LoRA for Diffusers' model, on the original.
    lora, deltas = adapter(converted, SPELLINGS[spell])
    assert len(deltas) >= least
    agree(convert(merge(original, lora)), plus(converted, deltas))
    # Joined on split.
    lora, deltas = adapter(original, SPELLINGS[spell])
    agree(merge(converted, lora), convert(plus(original, deltas)))


@pytest.mark.parametrize("tile", [1, 700, "1MiB"])
def test_rows_come_out_the_same_in_any_tiles(merge, tile):
    names, convert, _ = MODELS["flux"]
    original = {name: rand(*shape, seed=seed) for seed, (name, shape) in enumerate(names(), 5000)}
    lora, _ = adapter(convert(original), SPELLINGS["transformer."])
    whole = merge(original, lora, workers=1)
    for name, tensor in merge(original, lora, workers=3, tile=tile).items():
        assert torch.equal(tensor, whole[name]), name


def test_parts_that_begin_anywhere_in_a_band(merge):
    """Wide rows are computed some at a time, parts of five begin in the midst of those."""
    names = [f"layers.0.attention.{part}" for part in ("qkv", "to_q", "to_k", "to_v")]
    base = {
        f"{names[0]}.weight": rand(15, 40000, seed=1),
        "layers.0.attention.out.weight": rand(5, 5, seed=2),
    }
    lora = {f"{name}.diff_b": rand(5, seed=seed) for seed, name in enumerate(names[1:])}
    base[f"{names[0]}.bias"] = rand(15, seed=3)
    deltas = []
    for seed, name in enumerate(names[1:], 10):
        up, down = rand(5, 3, seed=seed), rand(3, 40000, seed=seed + 10)
        lora |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        deltas.append(up.double() @ down.double())
    for tile in (None, 1, "1MiB"):
        got = merge(base, lora, tile=tile)
        for leaf, delta in (
            ("weight", torch.cat(deltas)),
            ("bias", torch.cat([lora[f"{name}.diff_b"].double() for name in names[1:]])),
        ):
            key = f"{names[0]}.{leaf}"
            torch.testing.assert_close(got[key].double(), base[key] + delta, rtol=1e-5, atol=1e-5)


def test_joined_and_split_give_the_same_bits(merge):
    """A row is computed alike wherever it lies: what was joined is what its parts would be."""
    names, convert, _ = MODELS["z_image"]
    original = {name: rand(*shape, seed=seed) for seed, (name, shape) in enumerate(names(), 5000)}
    lora, _ = adapter(convert(original), SPELLINGS["as it is"])
    joined = convert(merge(original, lora, tile=1))
    for name, tensor in merge(convert(original), lora).items():
        assert torch.equal(joined[name], tensor), name


COMFYUI = [
    ("double_blocks.1.img_mod.linear", "double_blocks.1.img_mod.lin"),
    ("double_blocks.1.img_attn_qkv", "double_blocks.1.img_attn.qkv"),
    ("double_blocks.1.txt_attn_proj", "double_blocks.1.txt_attn.proj"),
    ("double_blocks.1.img_mlp.fc1", "double_blocks.1.img_mlp.0"),
    ("double_blocks.1.txt_mlp.fc2", "double_blocks.1.txt_mlp.2"),
    ("single_blocks.1.modulation.linear", "single_blocks.1.modulation.lin"),
    ("single_blocks.1.linear1", "single_blocks.1.linear1"),
    ("time_in.mlp.0", "time_in.in_layer"),
    ("guidance_in.mlp.2", "guidance_in.out_layer"),
    ("txt_in.t_embedder.mlp.2", "txt_in.t_embedder.out_layer"),
    ("txt_in.c_embedder.linear_1", "txt_in.c_embedder.in_layer"),
    *((f"txt_in.individual_token_refiner.blocks.1.{one}", f"txt_in.individual_token_refiner.blocks.1.{other}")
      for one, other in (("self_attn_qkv", "self_attn.qkv"), ("mlp.fc2", "mlp.2"))),
]  # fmt: skip


@pytest.mark.parametrize("spell", ["as it is", "kohya", "HunyuanVideo-I2V"])
def test_hunyuan_video_of_tencent_and_of_comfyui(merge, spell):
    """One to one; as in ComfyUI's ``comfy/supported_models.py``, HunyuanVideo.process_unet_state_dict."""
    models = [
        {f"{pair[side]}.weight": rand(6, 4, seed=seed) for seed, pair in enumerate(COMFYUI)}
        for side in range(2)
    ]
    for model, other in (models, models[::-1]):
        lora, deltas = adapter(other, SPELLINGS[spell])
        got = merge(model, lora)
        for name, of_other in zip(model, other, strict=True):
            torch.testing.assert_close(
                got[name].double(), model[name] + deltas[of_other], rtol=1e-5, atol=1e-5
            )


def test_names_of_xlabs(merge):
    """As Diffusers reads them; its processors hold low-rank layers for all of q, k and v."""
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers as reference

    names, convert, _ = MODELS["flux"]
    original = {name: rand(*shape, seed=seed) for seed, (name, shape) in enumerate(names(), 5000)}
    lora = {}
    for seed, (module, rows, columns) in enumerate(
        [(f"double_blocks.1.processor.{kind}_lora{n}", {"qkv": 3 * D, "proj": D}[kind], D)
         for kind in ("qkv", "proj") for n in (1, 2)]
        + [("single_blocks.0.processor.qkv_lora", 3 * D, D),
           ("single_blocks.0.processor.proj_lora", D, 5 * D)]
    ):  # fmt: skip
        lora[f"{module}.down.weight"] = rand(2, columns, seed=seed)
        lora[f"{module}.up.weight"] = rand(rows, 2, seed=seed + 50)
    deltas = {}
    read = reference(dict(lora))
    for key in read:
        if key.endswith(".lora_A.weight"):
            base = key.removesuffix(".lora_A.weight")
            delta = read[f"{base}.lora_B.weight"].double() @ read[key].double()
            deltas[f"{base.removeprefix('transformer.')}.weight"] = delta
    assert len(deltas) == 3 + 3 + 1 + 1 + 3 + 1
    wanted = plus(convert(original), deltas)
    agree(convert(merge(original, lora)), wanted)
    agree(merge(convert(original), lora), wanted)


def test_kohya_flux_as_diffusers_reads_it(merge):
    """The scale of each part too: alpha over the rank of the joined one."""
    from diffusers.loaders import lora_conversion_utils as utils

    source = inspect.getsource(utils._convert_kohya_flux_lora_to_diffusers)
    scope = dict(vars(utils))
    exec(source.replace("[3072, 3072, 3072, 12288]", f"[{D}, {D}, {D}, {4 * D}]"), scope)
    names, convert, _ = MODELS["flux"]
    original = {name: rand(*shape, seed=seed) for seed, (name, shape) in enumerate(names(), 5000)}
    matrices = {n: t for n, t in original.items() if "blocks" in n and t.ndim == 2}
    lora, _ = adapter(matrices, SPELLINGS["kohya"])
    read = scope["_convert_kohya_flux_lora_to_diffusers"](dict(lora))
    deltas = {}
    for key in read:
        if key.endswith(".lora_A.weight"):
            base = key.removesuffix(".lora_A.weight")
            delta = read[f"{base}.lora_B.weight"].double() @ read[key].double()
            deltas[f"{base.removeprefix('transformer.')}.weight"] = delta
    assert len(deltas) == 2 * (8 + 6) + 2 * 6
    agree(merge(convert(original), lora), plus(convert(original), deltas))


def pair(base, rows, columns):
    return {f"{base}.lora_up.weight": torch.ones(rows, 2), f"{base}.lora_down.weight": torch.ones(2, columns)}


FUSED = {
    "double_blocks.0.img_attn.qkv.weight": torch.zeros(12, 4),
    "single_blocks.0.linear1.weight": torch.zeros(28, 4),
}
SPLIT = {
    f"transformer_blocks.0.attn.{part}.weight": torch.zeros(4, 4) for part in ("to_q", "to_k", "add_q_proj")
}
SPLIT |= {"single_transformer_blocks.0.attn.to_q.weight": torch.zeros(4, 4)}


def test_what_does_not_fit_rows(merge):
    with pytest.raises(
        PlanError, match=r"do not make F32\[4,4\] of what 'double_blocks.0.img_attn.qkv.weight'"
    ):
        merge(FUSED, pair("transformer_blocks.0.attn.to_q", 5, 4))
    with pytest.raises(PlanError, match=r"do not make F32\[16,4\] of what 'single_blocks.0.linear1.weight'"):
        merge(FUSED, pair("single_transformer_blocks.0.proj_mlp", 4, 4))
    both = {**pair("double_blocks.0.img_attn.qkv", 12, 4), **pair("transformer_blocks.0.attn.to_k", 4, 4)}
    with pytest.raises(PlanError, match=r"is for 'double_blocks.0.img_attn.qkv.weight', as 'double_blocks"):
        merge(FUSED, both)
    # v is missing: what q and k are rows of cannot be told.
    with pytest.raises(PlanError, match="none of its 1 keys"):
        merge(SPLIT, pair("double_blocks.0.img_attn.qkv", 12, 4))
    # Keys of the same spelling only.
    with pytest.raises(PlanError, match="none of its 1 keys"):
        merge(FUSED, pair("transformer_blocks.0.attn.to_q", 4, 4), keys="same")


def test_parts_of_a_layer_need_not_all_be_there(merge):
    got = merge(
        FUSED,
        {
            **pair("transformer_blocks.0.attn.to_k", 4, 4),
            **pair("single_transformer_blocks.0.attn.to_v", 4, 4),
        },
    )
    wanted = torch.zeros(12, 4)
    wanted[4:8] = 2
    assert torch.equal(got["double_blocks.0.img_attn.qkv.weight"], wanted)
    wanted = torch.zeros(28, 4)
    wanted[8:12] = 2
    assert torch.equal(got["single_blocks.0.linear1.weight"], wanted)


def test_a_lora_for_something_else_is_named(merge):
    model = {"blocks.0.attn.q.weight": torch.zeros(4, 4)}
    for spell in ("as it is", "kohya"):
        lora = {}
        for module in ("double_blocks.0.img_attn.qkv", "single_blocks.0.linear1"):
            lora |= pair(SPELLINGS[spell](module), 12, 4)
        with pytest.raises(PlanError, match=r"names are those of FLUX.1 in the spelling 'original'"):
            merge(model, lora)
