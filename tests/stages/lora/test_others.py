"""What is no pair, in another spelling: merged, it makes the same of a model as before."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import DataError, PlanError

N, R = 8, 3
SHAPES = {
    "double_blocks.0.img_attn.qkv": (3 * N, N), "double_blocks.0.img_attn.proj": (N, N),
    "single_blocks.0.linear1": (7 * N, N), "final_layer.adaLN_modulation.1": (2 * N, N),
    "double_blocks.0.img_mod.lin": (6 * N, N), "single_blocks.0.modulation.lin": (3 * N, N),
}  # fmt: skip
DOUBLE, SINGLE = "transformer_blocks.0.attn", "single_transformer_blocks.0"
PARTS = ("to_q", "to_k", "to_v")


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loha(rows, columns, seed):
    shapes = {
        "hada_w1_a": (rows, R),
        "hada_w1_b": (R, columns),
        "hada_w2_a": (rows, R),
        "hada_w2_b": (R, columns),
    }
    return {key: rand(*shape, seed=seed + n) for n, (key, shape) in enumerate(shapes.items())}


def lokr(rows, columns, seed):
    """The second side is one for all."""
    return {"lokr_w1": rand(rows // 4, 2, seed=seed), "lokr_w2": rand(4, columns // 2, seed=99)}


def glora(rows, columns, seed):
    shapes = {"a1.weight": (columns, 2), "a2.weight": (2, columns), "b2.weight": (2, columns)}
    shared = {key: rand(*shape, seed=90 + n) for n, (key, shape) in enumerate(shapes.items())}
    return shared | {"b1.weight": rand(rows, 2, seed=seed)}


def ia3(rows, columns, seed):
    return {"on_input": torch.tensor(False), "weight": rand(rows, seed=seed)}


def oft(rows, columns, seed):
    return {"oft_blocks": rand(rows // 4, 4, 4, seed=seed)}


def loha_of_outputs(rows, columns, seed):
    return loha(rows, columns, seed) | {"dora_scale": rand(rows, 1, seed=seed + 9)}


def difference(rows, columns, seed):
    return {"diff": rand(rows, columns, seed=seed), "diff_b": rand(rows, seed=seed + 1)}


KINDS = [loha, lokr, glora, ia3, oft, loha_of_outputs, difference]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "model.safetensors"
    tensors = {f"{name}.weight": rand(*shape, seed=n) for n, (name, shape) in enumerate(SHAPES.items())}
    tensors |= {f"{name}.bias": rand(shape[0], seed=20 + n) for n, (name, shape) in enumerate(SHAPES.items())}
    save_file(tensors, path)
    return path


def values(model, lora):
    return {
        name: tensor.torch().clone() for name, tensor in (tc.open(model) | tc.lora(str(lora), 0.7)).items()
    }


def saved(tensors, path):
    save_file({key: one.contiguous() for key, one in tensors.items()}, path)
    return path


def beside(module, tensors):
    return {f"{module}.{key}": one for key, one in tensors.items()}


def marks(to="diffusers"):
    """Pairs by which the family is known, for modules that are one on both sides."""
    up, down = rand(N, R, seed=70), rand(R, N, seed=71)
    module = {
        "diffusers": f"transformer.{DOUBLE}.to_out.0",
        "kohya": "lora_unet_double_blocks_0_img_attn_proj",
    }[to]
    return {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_become_one_of_the_joined_module(kind, model, tmp_path):
    """Where there is no split model, both are merged into the joined one."""
    tensors = marks()
    for seed, part in enumerate(PARTS):
        tensors |= beside(f"transformer.{DOUBLE}.{part}", kind(N, N, 10 * seed))
    source = saved(tensors, tmp_path / "source.safetensors")
    tc.open(source) | tc.convert("kohya", model="flux") | tc.write(tmp_path / "there.safetensors")
    keys = load_file(tmp_path / "there.safetensors").keys()
    assert all(key.startswith("lora_unet_double_blocks_0_img_attn_") for key in keys)
    if kind is oft:  # which is not merged where rows of it lie elsewhere
        held = [tensors[f"transformer.{DOUBLE}.{part}.oft_blocks"] for part in PARTS]
        there = load_file(tmp_path / "there.safetensors")
        assert there["lora_unet_double_blocks_0_img_attn_qkv.oft_blocks"].equal(torch.cat(held))
        return
    before, after = values(model, source), values(model, tmp_path / "there.safetensors")
    plain = load_file(model)
    changed = {name for name in before if not before[name].equal(plain[name])}
    assert "double_blocks.0.img_attn.qkv.weight" in changed
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [loha, ia3])
def test_a_part_alone_leaves_the_rows_of_others(kind, model, tmp_path):
    tensors = marks() | beside(f"transformer.{DOUBLE}.to_v", kind(N, N, 5))
    if kind is loha:
        tensors[f"transformer.{DOUBLE}.to_v.alpha"] = torch.tensor(2.0)
    source = saved(tensors, tmp_path / "source.safetensors")
    tc.open(source) | tc.convert("kohya", model="flux") | tc.write(tmp_path / "there.safetensors")
    before, after = values(model, source), values(model, tmp_path / "there.safetensors")
    name = "double_blocks.0.img_attn.qkv.weight"
    assert after[name][: 2 * N].equal(load_file(model)[name][: 2 * N])
    torch.testing.assert_close(after[name], before[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [loha, lokr, ia3, difference])
def test_halves_that_change_places(kind, model, tmp_path):
    """Of Diffusers' last modulation."""
    tensors = marks() | beside("transformer.norm_out.linear", kind(2 * N, N, 3))
    source = saved(tensors, tmp_path / "source.safetensors")
    tc.open(source) | tc.convert("kohya", model="flux") | tc.write(tmp_path / "there.safetensors")
    before, after = values(model, source), values(model, tmp_path / "there.safetensors")
    name = "final_layer.adaLN_modulation.1.weight"
    assert not before[name].equal(load_file(model)[name])
    assert all(after[name].equal(before[name]) for name in before)


REFUSED = {
    "other second sides": ("lokr", lambda: {
        f"{DOUBLE}.{part}.{key}": one
        for seed, part in enumerate(PARTS)
        for key, one in {"lokr_w1": rand(2, 2, seed=seed), "lokr_w2": rand(4, 4, seed=seed + 9)}.items()
    }, "is the product of other factors in each part"),
    "magnitudes of inputs": ("dora", lambda: {
        f"norm_out.linear.{key}": one for key, one in
        (loha(2 * N, N, 1) | {"dora_scale": rand(1, N)}).items()
    }, "has magnitudes of inputs"),
    "a pair with magnitudes of inputs": ("dora", lambda: {
        "norm_out.linear.lora_up.weight": rand(2 * N, R), "norm_out.linear.lora_down.weight": rand(R, N),
        "norm_out.linear.dora_scale": rand(1, N),
    }, "has magnitudes of inputs"),
    "kinds of several": ("loha", lambda: {
        f"{DOUBLE}.to_k.{key}": one for key, one in loha(N, N, 1).items()
    } | {f"{DOUBLE}.to_q.{key}": one for key, one in oft(N, N, 1).items()}, "another kind beside it"),
    "cores": ("loha", lambda: {
        f"norm_out.linear.{key}": one for key, one in
        (loha(2 * N, N, 1) | {"hada_t1": rand(R, R, 1, 1), "hada_t2": rand(R, R, 1, 1)}).items()
    }, "is for unknown rows|has cores"),
    "a difference of a part": ("diff", lambda: {f"{SINGLE}.attn.to_q.diff": rand(N, N)}, "unknown rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_adapter_of_the_other_spelling_says(case, tmp_path):
    _, tensors, why = REFUSED[case]
    given = {f"transformer.{key}": one for key, one in tensors().items()}
    source = saved(marks() | given, tmp_path / "lora.safetensors")
    with pytest.raises(PlanError, match=why):
        list(tc.open(source) | tc.convert("kohya", model="flux"))


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (ia3(N, N, 1), "is of ia3, which comfyui does not read so"),
        ({"diff_m": rand(N)}, "is a difference, which comfyui does not read so"),
        (
            {"diff": rand(N, N), "lora_up.weight": rand(N, R), "lora_down.weight": rand(R, N)},
            "beside an adapter",
        ),
    ],
)
def test_what_comfyui_leaves_out_without_a_word_is_refused(tensors, why, tmp_path):
    """Its ``load_lora`` knows no IA3, and of a difference and an adapter of one weight the last counts."""
    source = saved(beside("lora_unet_blocks_0_self_attn_q", tensors), tmp_path / "lora.safetensors")
    with pytest.raises(PlanError, match=why):
        list(tc.open(source) | tc.convert("comfyui"))


@pytest.mark.parametrize("bad", ["factor", "alpha", "alpha of a kind"])
def test_what_is_no_number_is_refused(bad, tmp_path):
    tensors = {key: one.clone() for key, one in marks("kohya").items()}
    tensors |= beside("lora_unet_double_blocks_0_img_mod_lin", loha(6 * N, N, 2))
    if bad == "factor":
        tensors["lora_unet_double_blocks_0_img_mod_lin.hada_w2_b"][1, 2] = np.inf
    else:
        module = "img_mod_lin" if "kind" in bad else "img_attn_proj"
        tensors[f"lora_unet_double_blocks_0_{module}.alpha"] = torch.tensor(float("nan"))
    source = saved(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(
        (DataError, PlanError), match=r"hada_w2_b: inf at \[1, 2\]|alpha: is nan, an alpha is finite"
    ):
        tc.open(source) | tc.convert("comfyui") | tc.write(tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
