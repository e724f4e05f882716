"""Make a folder that looks like DeepCompressor's SVDQuant checkpoint of a Flux transformer.

    python tools/make_svdquant.py DIR                                 # true layer shapes, 1 + 1 blocks, INT4
    python tools/make_svdquant.py DIR --double 19 --single 38         # as many blocks as FLUX.1 (24 GB)
    python tools/make_svdquant.py DIR --float-point --dim 256         # FP4, small

Names, shapes, dtypes and the structure of the four files are those that DeepCompressor writes; weights are
random codes times random scales, rounded to the dtype, as fake quantization leaves them. Needs torch, and as
much memory as the files are large.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["DOUBLE", "SINGLE", "config", "make", "save"]

Files = dict[str, dict[str, Any]]

# module -> (rows, columns) in multiples of the model's width
DOUBLE: dict[str, tuple[int, int]] = {
    "norm1.linear": (6, 1), "norm1_context.linear": (6, 1),
    "attn.to_q": (1, 1), "attn.to_k": (1, 1), "attn.to_v": (1, 1),
    "attn.add_q_proj": (1, 1), "attn.add_k_proj": (1, 1), "attn.add_v_proj": (1, 1),
    "attn.to_out.0": (1, 1), "attn.to_add_out": (1, 1),
    "ff.net.0.proj": (4, 1), "ff.net.2.linear": (1, 4),
    "ff_context.net.0.proj": (4, 1), "ff_context.net.2.linear": (1, 4),
}  # fmt: skip
SINGLE: dict[str, tuple[int, int]] = {
    "norm.linear": (3, 1), "attn.to_q": (1, 1), "attn.to_k": (1, 1), "attn.to_v": (1, 1), "proj_mlp": (4, 1),
    "proj_out.linears.0": (1, 1), "proj_out.linears.1.linear": (1, 4),
}  # fmt: skip
_BRANCHES = {
    "transformer_blocks": {
        "attn.to_q": 3, "attn.add_k_proj": 3, "attn.to_out.0": 1, "attn.to_add_out": 1, "ff.net.0.proj": 4,
        "ff.net.2.linear": 1, "ff_context.net.0.proj": 4, "ff_context.net.2.linear": 1,
    },
    "single_transformer_blocks": {
        "attn.to_q": 3, "proj_mlp": 4, "proj_out.linears.0": 1, "proj_out.linears.1.linear": 1,
    },
}  # fmt: skip
_SMOOTH = {
    "transformer_blocks": [name for name in _BRANCHES["transformer_blocks"] if name != "attn.to_add_out"],
    "single_transformer_blocks": ["attn.to_q", "proj_out.linears.0", "proj_out.linears.1.linear"],
}


def make(
    double: int = 1,
    single: int = 1,
    *,
    dim: int = 3072,
    rank: int = 32,
    float_point: bool = False,
    dtype: str = "bfloat16",
    seed: int = 0,
) -> Files:
    """The four files, by name.

    Args:
        double, single: blocks of either kind.
        dim: width; a multiple of 128.
        rank: of the low-rank branches.
        float_point: FP4 with two levels of scales, instead of INT4 with one.
        dtype: of weights and branches, as torch calls it.
    """
    import torch

    kind = getattr(torch, dtype)
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, size: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=random) * size).to(kind)

    files: Files = {"model.pt": {}, "scale.pt": {}, "smooth.pt": {}, "branch.pt": {}}
    model, scales, smooth, branch = files.values()
    for name, shape in (("x_embedder", (dim, 64)), ("context_embedder", (dim, 128)), ("proj_out", (64, dim))):
        model[f"{name}.weight"] = normal(*shape, size=0.02)
        model[f"{name}.bias"] = normal(shape[0], size=0.02)
    for block, modules in _blocks(double, single):
        group = block.partition(".")[0]
        for module, (n, k) in modules.items():
            name, rows, columns = f"{block}.{module}", n * dim, k * dim
            fp4 = float_point and "norm" not in module
            weight, levels = _quantized(rows, columns, random, kind, fp4)
            model[f"{name}.weight"] = weight
            model[f"{name}.bias"] = normal(rows, size=0.1)
            if name.endswith(".linear") and "norm" not in module:
                model[f"{name.removesuffix('linear')}shift"] = torch.tensor([0.171875], dtype=kind)
            for number, level in enumerate(levels):
                scales[f"{name}.weight.scale.{number}"] = level
            scales[f"{name}.weight.zero"] = torch.tensor(0.0)
        for norm in ("q", "k", *(("added_q", "added_k") if group == "transformer_blocks" else ())):
            model[f"{block}.attn.norm_{norm}.weight"] = normal(128) + 1
        for module in _SMOOTH[group]:
            factors = torch.rand(modules[module][1] * dim, generator=random) * 2 + 0.25
            smooth[f"{block}.{module}"] = factors.to(kind)
        for module, n in _BRANCHES[group].items():
            columns = modules[module][1] * dim
            branch[f"{block}.{module}"] = {
                "a.weight": normal(rank, columns, size=0.05),
                "b.weight": normal(n * dim, rank, size=0.05),
            }
    smooth["proj.fuse_when_possible"] = False
    smooth["attn.fuse_when_possible"] = False
    return files


def save(folder: Path, files: Files) -> None:
    """Write the files."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        torch.save(content, folder / name)


def config(double: int, single: int, dim: int) -> dict[str, Any]:
    """Diffusers' config.json of such a model."""
    return {
        "_class_name": "FluxTransformer2DModel",
        "_diffusers_version": "0.30.0",
        "attention_head_dim": 128,
        "guidance_embeds": True,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": dim // 128,
        "num_layers": double,
        "num_single_layers": single,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    }


def _blocks(double: int, single: int) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    for number in range(double):
        yield f"transformer_blocks.{number}", DOUBLE
    for number in range(single):
        yield f"single_transformer_blocks.{number}", SINGLE


def _quantized(
    rows: int, columns: int, random: Any, kind: Any, fp4: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A weight that 4-bit codes and scales give exactly, but for rounding to the dtype; and the scales."""
    import torch

    group = 16 if fp4 else 64
    groups = columns // group
    if fp4:
        values = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -1, -1.5, -2, -3, -4, -6])
        codes = values[torch.randint(0, 15, (rows, groups, group), generator=random)]
        inner = (torch.rand(rows, groups, 1, generator=random) * 400 + 8).to(torch.float8_e4m3fn).float()
        outer = torch.tensor(0.02 / 2688)
        weight = (codes * inner * outer).view(rows, columns).to(kind)
        return weight, [outer.view(1, 1, 1, 1), inner.view(rows, 1, groups, 1).to(kind)]
    codes = torch.randint(-7, 8, (rows, groups, group), generator=random).float()
    scale = ((torch.rand(rows, groups, 1, generator=random) + 0.1) * 0.01).to(kind)
    weight = (codes * scale.float()).view(rows, columns).to(kind)
    return weight, [scale.view(rows, 1, groups, 1)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--double", type=int, default=1, help="double blocks; FLUX.1 has 19")
    parser.add_argument("--single", type=int, default=1, help="single blocks; FLUX.1 has 38")
    parser.add_argument("--dim", type=int, default=3072, help="width; that of FLUX.1 without it")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--float-point", action="store_true", help="FP4 instead of INT4")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    files = make(
        given.double, given.single, dim=given.dim, rank=given.rank, float_point=given.float_point,
        dtype=given.dtype, seed=given.seed,
    )  # fmt: skip
    save(given.folder, files)
    text = json.dumps(config(given.double, given.single, given.dim), indent=2)
    (given.folder / "config.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
