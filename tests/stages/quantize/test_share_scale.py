"""Fused layers share their global scale: q, k, v and gate, up of one block, and nothing else."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import RecipeError

SIZES = {"q": 1.0, "k": 7.5, "v": 0.02, "o": 0.3, "gate": 0.9, "up": 40.0, "down": 2.0}
NAMES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip
GROUPS = [("q", "k", "v"), ("gate", "up"), ("o",), ("down",)]


def llama(blocks: int = 2) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    tensors = {
        f"model.layers.{i}.{NAMES[n]}.weight": torch.randn(64, 64, generator=draw) * size * (i + 1)
        for i in range(blocks)
        for n, size in SIZES.items()
    }
    for i in range(blocks):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{norm}.weight"] = torch.ones(64)
    tensors["model.embed_tokens.weight"] = torch.randn(32, 64, generator=draw)
    tensors["model.norm.weight"] = torch.ones(64)
    return tensors


def run(save, tmp_path, way=None, tensors=None, **options):
    convention = options.pop("convention", "compressed_tensors")
    source = save(llama() if tensors is None else tensors)
    flow = tc.open(source) | tc.quantize("nvfp4", **options)
    flow | tc.write(tmp_path / "o.safetensors", force=True, convention=convention, **(way or {}))
    return load_file(tmp_path / "o.safetensors")


def nvfp4(x: torch.Tensor, peak: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes and block scales under the global scale of a peak, in float32."""
    shared = (peak / np.float32(2688)).numpy()
    blocks = x.numpy().reshape(x.shape[0], -1, 16)
    wanted = np.abs(blocks).max(-1) / np.float32(6) / shared
    scale = np.minimum(wanted, np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
    unit = shared * scale.astype(np.float32)[..., None]
    codes = (blocks / unit).clip(-6, 6).astype(ml_dtypes.float4_e2m1fn)
    return codes.astype(np.float32).reshape(x.shape), scale.view(np.uint8)


def unpacked(codes: torch.Tensor) -> np.ndarray:
    raw = codes.view(torch.uint8).numpy()
    both = np.stack([raw & 15, raw >> 4], -1).reshape(raw.shape[0], -1)
    return both.view(ml_dtypes.float4_e2m1fn).astype(np.float32)


WAYS = [{"workers": 1}, {"workers": 4, "tile": 1}, {"workers": 2, "tile": 5000}]


@pytest.mark.parametrize("way", WAYS)
def test_fused_layers_share_one_scale_and_are_encoded_with_it(way, save, tmp_path):
    stored = run(save, tmp_path, way)
    tensors = llama()
    seen = set()
    for block in range(2):
        for group in GROUPS:
            stems = [f"model.layers.{block}.{NAMES[member]}" for member in group]
            peak = max(tensors[f"{stem}.weight"].abs().max() for stem in stems)
            for stem in stems:
                scale = stored[f"{stem}.weight_global_scale"]
                assert scale.item() == (np.float32(2688) / peak.numpy()), stem
                codes, scales = nvfp4(tensors[f"{stem}.weight"], peak)
                mine = stored[f"{stem}.weight_scale"].view(torch.uint8).numpy()
                # Where a block is tiny below a neighbour's peak its scale is the scheme's affair.
                sure = scales >= 8
                assert sure.sum() > 100
                np.testing.assert_array_equal(mine[sure], scales[sure])
                alike = np.repeat(sure, 16, 1)
                found = unpacked(stored[f"{stem}.weight_packed"])
                np.testing.assert_array_equal(found[alike], codes[alike])
            seen.add(stored[f"{stems[0]}.weight_global_scale"].item())
    assert len(seen) == 2 * len(GROUPS)


def as_lightx2v_reads(peak: torch.Tensor) -> float:
    """Its loader casts all floats to BF16."""
    return (np.float32(2688) / peak.float()).bfloat16().item()


def test_who_does_not_fuse_does_not_share(save, tmp_path):
    stored = run(save, tmp_path, convention="lightx2v")
    for name, weight in llama().items():
        if "_proj" in name:
            assert stored[f"{name}_global_scale"].item() == as_lightx2v_reads(weight.abs().max())


@pytest.mark.parametrize("way", WAYS)
def test_groups_as_given_replace_the_familys(way, save, tmp_path):
    stored = run(save, tmp_path, way, share_scale=[["q_proj", "o_proj"], ["up_proj", "down_proj"]])
    tensors = llama()
    for block in range(2):
        for group in (("q", "o"), ("up", "down"), ("k",), ("v",), ("gate",)):
            stems = [f"model.layers.{block}.{NAMES[member]}" for member in group]
            peaks = [tensors[f"{stem}.weight"].abs().max() for stem in stems if f"{stem}.weight" in tensors]
            for stem in stems:
                want = np.float32(2688) / max(peaks).numpy()
                if len({stem.rpartition(".")[0] for stem in stems}) > 1:  # other modules: other names
                    continue
                assert stored[f"{stem}.weight_global_scale"].item() == want, stem


def test_groups_on_the_command_line(cli, save, tmp_path):
    source = save(llama(1))
    cli("run", source, tmp_path / "o.safetensors", "-snvfp4", "--share-scale", "q_proj,o_proj", "-q")
    stored = load_file(tmp_path / "o.safetensors")
    names = [f"model.layers.0.{NAMES[n]}.weight" for n in "qo"]
    peak = max(llama(1)[name].abs().max() for name in names)
    for name in names:
        assert stored[f"{name}_global_scale"].item() == as_lightx2v_reads(peak)
    other = "model.layers.0.self_attn.k_proj.weight"
    assert stored[f"{other}_global_scale"].item() == as_lightx2v_reads(llama(1)[other].abs().max())


def test_members_that_stay_do_not_count(save, tmp_path):
    """A k that is not quantized has no say in the scale of q and v."""
    stored = run(save, tmp_path, exclude=["k_proj"])
    tensors = llama()
    peak = max(tensors[f"model.layers.0.self_attn.{n}_proj.weight"].abs().max() for n in "qv")
    for n in "qv":
        scale = stored[f"model.layers.0.self_attn.{n}_proj.weight_global_scale"]
        assert scale.item() == np.float32(2688) / peak.numpy()
    assert "model.layers.0.self_attn.k_proj.weight_global_scale" not in stored


def test_a_group_of_one_is_refused():
    with pytest.raises(RecipeError, match="'q' is one module, which shares with nobody"):
        tc.quantize("nvfp4", share_scale=[["q"]])
