"""Packed layers against the published arithmetic (in torch) and index formulas (as slow loops)."""

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import make_svdquant
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import DataError, PlanError
from transcode.numerics import nunchaku_layouts as layouts
from transcode.recipe import dump, load, parse
from transcode.stages.nunchaku.stage import Nunchaku

Tensor = torch.Tensor
Tensors = dict[str, Tensor]

BLOCK = "transformer_blocks.0"
CODEBOOK = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
QKV = ["attn.to_q", "attn.to_k", "attn.to_v"]
ADDED = ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]
LAYERS: dict[str, dict[str, tuple[list[str], str, str, str]]] = {
    # nunchaku's name -> modules, smooth key, branch key, kind
    "transformer_blocks": {
        "norm1.linear": (["norm1.linear"], "", "", "6"),
        "norm1_context.linear": (["norm1_context.linear"], "", "", "6"),
        "qkv_proj": (QKV, "attn.to_q", "attn.to_q", "linear"),
        "qkv_proj_context": (ADDED, "attn.add_k_proj", "attn.add_k_proj", "linear"),
        "out_proj": (["attn.to_out.0"], "attn.to_out.0", "attn.to_out.0", "linear"),
        "out_proj_context": (["attn.to_add_out"], "attn.to_out.0", "attn.to_add_out", "linear"),
        "mlp_fc1": (["ff.net.0.proj"], "ff.net.0.proj", "ff.net.0.proj", "linear"),
        "mlp_fc2": (["ff.net.2.linear"], "ff.net.2.linear", "ff.net.2.linear", "linear"),
        "mlp_context_fc1": (["ff_context.net.0.proj"], *["ff_context.net.0.proj"] * 2, "linear"),
        "mlp_context_fc2": (["ff_context.net.2.linear"], *["ff_context.net.2.linear"] * 2, "linear"),
    },
    "single_transformer_blocks": {
        "norm.linear": (["norm.linear"], "", "", "3"),
        "qkv_proj": (QKV, "attn.to_q", "attn.to_q", "linear"),
        "out_proj": (["proj_out.linears.0"], "proj_out.linears.0", "proj_out.linears.0", "linear"),
        "mlp_fc1": (["proj_mlp"], "attn.to_q", "proj_mlp", "linear"),
        "mlp_fc2": (["proj_out.linears.1.linear"], *["proj_out.linears.1.linear"] * 2, "linear"),
    },
}
COPIES = {
    "transformer_blocks": ["norm_q", "norm_k", "norm_added_q", "norm_added_k"],
    "single_transformer_blocks": ["norm_q", "norm_k"],
}


# The index formulas ---------------------------------------------------------------------------------------


def up(size: int, step: int) -> int:
    return -(-size // step) * step


def padded(values: Tensor, *steps: int, fill: float = 0) -> Tensor:
    out = torch.full([up(size, step) for size, step in zip(values.shape, steps, strict=True)], fill).to(
        values.dtype
    )
    out[tuple(slice(0, size) for size in values.shape)] = values
    return out


@cache  # slow loops, but once for each shape
def table(offset: Callable[..., int], rows: int, columns: int) -> np.ndarray:
    """Offset of each element of a matrix: each one once."""
    made = np.array([offset(i, j, rows, columns) for i in range(rows) for j in range(columns)])
    assert np.array_equal(np.sort(made), np.arange(made.size))
    return made


def place(values: Tensor, offset: Callable[..., int], *shape: int) -> Tensor:
    """Every element of a matrix at its offset."""
    index = table(offset, *values.shape)
    kind = {1: torch.uint8, 2: torch.int16}[values.itemsize]
    flat = torch.zeros(values.numel(), dtype=kind)
    flat[torch.from_numpy(index)] = values.contiguous().view(kind).reshape(-1)
    return flat.view(values.dtype).reshape(shape)


def weight_nibble(n: int, k: int, rows: int, columns: int) -> int:
    w = ((((n // 128) * (columns // 64) + k // 64) * 8 + (n % 128) // 16) * 8 + n % 8) * 4 + (k % 32) // 8
    return (w * 4 + ((n % 16) // 8) * 2 + (k % 64) // 32) * 8 + k % 8


def w4x16_nibble(n: int, k: int, rows: int, columns: int) -> int:
    w = ((n // 4) * (columns // 64) + k // 64) * 64 + (n % 4) * 16 + ((k % 64) // 32) * 8 + k % 8
    return w * 4 + (k % 32) // 8


def scale_offset(n: int, g: int, rows: int, groups: int) -> int:
    at = ((n // 128) * groups + g) * 128 + ((n % 128) // 16) * 16
    return at + ((n % 8) // 2) * 4 + ((n % 16) // 8) * 2 + n % 2


def micro_offset(n: int, g: int, rows: int, groups: int) -> int:
    at = ((n // 128) * (groups // 4) + g // 4) * 32 + (n % 8) * 4 + (n % 32) // 8
    return (at * 4 + (n % 128) // 32) * 4 + g % 4


def lowrank_offset(c: int, r: int, i: int, j: int, ranks: int) -> int:
    at = ((c // 16) * (ranks // 16) + r // 16) * 256 + ((i % 8) * 4 + (j % 8) // 2) * 8
    return at + (i // 8) * 4 + (j // 8) * 2 + j % 2


def down_offset(c: int, r: int, channels: int, ranks: int) -> int:
    return lowrank_offset(c, r, r % 16, c % 16, ranks)


def up_offset(c: int, r: int, channels: int, ranks: int) -> int:
    return lowrank_offset(c, r, c % 16, r % 16, ranks)


def pack_nibbles(codes: Tensor, nibble: Callable[..., int]) -> np.ndarray:
    """Bytes that hold two codes each, the first in the low half: so are little-endian words of any width."""
    flat = place(codes.to(torch.uint8) & 15, nibble, codes.numel()).numpy()
    return flat[0::2] | flat[1::2] << 4


def pack_weight(codes: Tensor) -> Tensor:
    rows, columns = codes.shape
    return torch.from_numpy(pack_nibbles(codes, weight_nibble).view(np.int8).reshape(rows, columns // 2))


def pack_scale(scales: Tensor) -> Tensor:
    return place(scales, scale_offset, *reversed(scales.shape))


def pack_micro(scales: Tensor) -> Tensor:
    return place(scales, micro_offset, *reversed(scales.shape))


def pack_vector(values: Tensor) -> Tensor:
    return pack_scale(padded(values.reshape(-1, 1), 128, 1, fill=1)).reshape(-1)


def pack_lowrank(factor: Tensor, down: bool) -> Tensor:
    """Of ``[channels, rank]``."""
    return place(factor, down_offset if down else up_offset, *factor.shape)


# The arithmetic -------------------------------------------------------------------------------------------


def linear(
    weight: Tensor,
    scale: Tensor,
    subscale: Tensor | None,
    bias: Tensor | None,
    smooth: Tensor | None,
    branch: tuple[Tensor, Tensor] | None,
    shift: Tensor | None,
    *,
    fused: bool,
    fp4: bool,
) -> Tensors:
    """The stored tensors of a W4A4 layer."""
    (n, k), dtype = weight.shape, weight.dtype
    per_tensor = scale.numel() == 1
    levels = [
        scale.float().reshape(-1, 1).expand(n, 1) if per_tensor else scale.float().reshape(n, scale.shape[2])
    ]
    if subscale is not None:
        levels.append(subscale.float().reshape(n, subscale.shape[2]))
    values = weight.float()
    for level in levels:
        values = (values.reshape(n, level.shape[1], -1) / level[:, :, None]).reshape(n, k)
    codes = (values[:, :, None] - CODEBOOK).abs().argmin(-1) if fp4 else values.round().int()
    made = {"qweight": pack_weight(padded(codes.int(), 128, 128))}
    for number, level in enumerate(levels):
        stored = level.to(dtype)
        groups = stored.shape[1]
        if number == 0 and per_tensor:
            made["wtscale"] = stored[:1, 0].clone()
        elif groups == 1:
            made["wcscales"] = pack_vector(stored)
        elif k // groups == 16:
            made["wscales"] = pack_micro(padded(stored, 128, 4, fill=1).to(torch.float8_e4m3fn))
        else:
            made["wscales"] = pack_scale(padded(stored, 128, 2, fill=1))
    bias = torch.zeros(n, dtype=dtype) if bias is None else bias
    if branch is not None:
        down, lora_up = branch[0].double(), branch[1]
        if smooth is not None and not fused:
            down = down / smooth.double()
        if shift is not None:
            bias = bias.double() + (
                lora_up.double() @ down @ shift.double().reshape(-1, 1).expand(k, 1)
            ).reshape(-1)
        made["lora_down"] = pack_lowrank(padded(down.to(dtype).T, 128, 16), True)
        made["lora_up"] = pack_lowrank(padded(lora_up.to(dtype), 128, 16), False)
    made["bias"] = pack_vector(bias.to(dtype))
    smooth = torch.ones(k, dtype=dtype) if smooth is None else smooth.to(dtype)
    made["smooth_orig"] = pack_vector(smooth)
    made["smooth"] = torch.ones_like(made["smooth_orig"]) if fused else made["smooth_orig"]
    return made


def adanorm(weight: Tensor, scale: Tensor, bias: Tensor, splits: int) -> Tensors:
    """The stored tensors of a W4A16 layer, whose rows go from [splits, C] to [C, splits]."""
    n, k = weight.shape
    groups = scale.shape[2]
    order = [split * (n // splits) + channel for channel in range(n // splits) for split in range(splits)]
    rows, scales = weight.float()[order], scale.float().reshape(n, groups)[order]
    zeros = 7 * scales
    codes = ((rows.reshape(n, groups, -1) + zeros[:, :, None]) / scales[:, :, None]).round().reshape(n, k)
    assert codes.min() >= 0
    assert codes.max() <= 15
    packed = torch.from_numpy(pack_nibbles(codes, w4x16_nibble).view("<i4").reshape(n // 4, k // 2))
    biases = bias[order].clone()
    for i in range(n):
        if i % splits in (1, splits - 2):
            biases[i] += 1
    stored = torch.zeros(2, up(groups, 16), n, dtype=weight.dtype)
    stored[0, :groups] = scales.T.to(weight.dtype)
    stored[1, :groups] = -(zeros.T.to(weight.dtype))
    return {"qweight": packed, "wscales": stored[0], "wzeros": stored[1], "bias": biases}


def expected(files: Mapping[str, Mapping[str, Any]], fp4: bool) -> Tensors:
    """All stored tensors of a checkpoint."""
    model, scales, smooths, branches = (
        files.get(name, {}) for name in ("model.pt", "scale.pt", "smooth.pt", "branch.pt")
    )
    made = {name: tensor for name, tensor in model.items() if "transformer_blocks." not in name}
    fuse = smooths.get("proj.fuse_when_possible", True)
    for block in sorted({".".join(name.split(".")[:2]) for name in model if "transformer_blocks." in name}):
        group = block.partition(".")[0]
        for norm in COPIES[group]:
            made[f"{block}.{norm}.weight"] = model[f"{block}.attn.{norm}.weight"]
        for layer, (modules, smooth, branch, kind) in LAYERS[group].items():
            names = [f"{block}.{module}" for module in modules]
            weight = torch.cat([model[f"{name}.weight"] for name in names])
            biases = [model.get(f"{name}.bias") for name in names]
            bias = None if biases[0] is None else torch.cat(biases)
            outer = [scales[f"{name}.weight.scale.0"] for name in names]
            inner = [scales.get(f"{name}.weight.scale.1") for name in names]
            if len(names) > 1 and outer[0].numel() == 1:
                outer = [
                    one.reshape(1, 1, 1, 1).expand(len(model[f"{name}.weight"]), 1, 1, 1)
                    for one, name in zip(outer, names, strict=True)
                ]
            if kind != "linear":
                stored = adanorm(weight, outer[0], bias, int(kind))
            else:
                found = branches.get(f"{block}.{branch}")
                stored = linear(
                    weight,
                    torch.cat(outer) if len(outer) > 1 else outer[0],
                    None if inner[0] is None else torch.cat(inner),
                    bias,
                    smooths.get(f"{block}.{smooth}"),
                    None if found is None else (found["a.weight"], found["b.weight"]),
                    model.get(f"{names[0].removesuffix('.linear')}.shift"),
                    fused="out_proj" in layer and fuse,
                    fp4=fp4,
                )
            made |= {f"{block}.{layer}.{role}": tensor for role, tensor in stored.items()}
    return made


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def convert(folder: Path, out: Path, fp4: bool = False, **options: Any) -> Tensors:
    tc.write(out, **options).run(tc.open(folder) | Nunchaku(fp4))
    return load_file(out)


def same(made: Tensors, wanted: Tensors) -> None:
    assert set(made) == set(wanted)
    for name, tensor in wanted.items():
        assert bits(made[name]) == bits(tensor), name


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    make_svdquant.save(folder, dict(files))
    return folder


# Whole checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("fp4", [False, True])
def test_every_layer(tmp_path: Path, fp4: bool, dtype: str) -> None:
    files = make_svdquant.make(1, 1, dim=128, rank=24, float_point=fp4, dtype=dtype)
    made = convert(write(tmp_path / "q", files), tmp_path / "o.safetensors", fp4)
    same(made, expected(files, fp4))
    assert made["transformer_blocks.0.qkv_proj.wscales"].dtype == (
        torch.float8_e4m3fn if fp4 else getattr(torch, dtype)
    )
    assert ("transformer_blocks.0.mlp_fc1.wtscale" in made) == fp4
    assert ("transformer_blocks.0.qkv_proj.wcscales" in made) == fp4


@pytest.mark.parametrize("flag", [True, None])
@pytest.mark.parametrize("fp4", [False, True])
def test_smoothing_that_the_layer_before_took_in(tmp_path: Path, fp4: bool, flag: bool | None) -> None:
    """Which is what a checkpoint without the flag means."""
    files = make_svdquant.make(1, 1, dim=128, rank=16, float_point=fp4)
    del files["smooth.pt"]["proj.fuse_when_possible"]
    if flag is not None:
        files["smooth.pt"]["proj.fuse_when_possible"] = flag
    made = convert(write(tmp_path / "q", files), tmp_path / "o.safetensors", fp4)
    same(made, expected(files, fp4))
    assert (made["transformer_blocks.0.out_proj.smooth"] == 1).all()
    assert (made["transformer_blocks.0.out_proj.smooth_orig"] != 1).any()
    assert (made["transformer_blocks.0.mlp_fc1.smooth"] != 1).any()


@pytest.mark.parametrize("left_out", ["bias", "smooth.pt", "branch.pt"])
def test_what_may_be_missing(tmp_path: Path, left_out: str) -> None:
    files = make_svdquant.make(1, 1, dim=128)
    if left_out == "bias":
        model = files["model.pt"]
        files["model.pt"] = {
            name: t for name, t in model.items() if "norm" in name or not name.endswith("bias")
        }
    else:
        del files[left_out]
    made = convert(write(tmp_path / "q", files), tmp_path / "o.safetensors")
    same(made, expected(files, False))
    assert ("transformer_blocks.0.mlp_fc1.lora_up" in made) == (left_out != "branch.pt")


def test_channel_scales_of_the_first_level(tmp_path: Path) -> None:
    files = make_svdquant.make(1, 0, dim=128, float_point=True)
    for name, scale in files["scale.pt"].items():
        if name.endswith("scale.0") and scale.numel() == 1:
            rows = files["model.pt"][name.removesuffix(".scale.0")].shape[0]
            files["scale.pt"][name] = scale.reshape(1, 1, 1, 1).repeat(rows, 1, 1, 1)
    made = convert(write(tmp_path / "q", files), tmp_path / "o.safetensors", True)
    same(made, expected(files, True))
    assert "transformer_blocks.0.mlp_fc1.wcscales" in made


def test_shift_of_every_channel(tmp_path: Path) -> None:
    files = make_svdquant.make(0, 1, dim=128)
    shift = torch.randn(512, generator=torch.Generator().manual_seed(5)).bfloat16()
    files["model.pt"]["single_transformer_blocks.0.proj_out.linears.1.shift"] = shift
    made = convert(write(tmp_path / "q", files), tmp_path / "o.safetensors")
    wanted = dict(files["model.pt"])
    wanted["single_transformer_blocks.0.proj_out.linears.1.shift"] = torch.zeros(1).bfloat16()
    reference = expected({**files, "model.pt": wanted}, False)
    # The shift goes through the branch into the bias, in float64.
    factors = files["branch.pt"]["single_transformer_blocks.0.proj_out.linears.1.linear"]
    smooth = files["smooth.pt"]["single_transformer_blocks.0.proj_out.linears.1.linear"].double()
    bias = files["model.pt"]["single_transformer_blocks.0.proj_out.linears.1.linear.bias"].double()
    bias = bias + factors["b.weight"].double() @ (factors["a.weight"].double() / smooth) @ shift.double()
    reference["single_transformer_blocks.0.mlp_fc2.bias"] = pack_vector(bias.bfloat16())
    same(made, reference)


def test_modules_that_are_not_wrapped(tmp_path: Path) -> None:
    """A checkpoint without shifts holds ``ff.net.2`` itself."""
    files = make_svdquant.make(1, 1, dim=128)

    def plainly(name: str) -> str:
        return name.replace("net.2.linear", "net.2").replace("linears.1.linear", "linears.1")

    wanted = {
        key: {name: v for name, v in held.items() if not name.endswith("shift")}
        for key, held in files.items()
    }
    renamed = {key: {plainly(name): value for name, value in held.items()} for key, held in wanted.items()}
    made = convert(write(tmp_path / "q", renamed), tmp_path / "o.safetensors")
    same(made, expected(wanted, False))


@pytest.mark.parametrize("fp4", [False, True])
def test_sizes_that_need_padding(tmp_path: Path, fp4: bool) -> None:
    """Fused projections of 40, 200 and 72 rows, 192 columns, rank 5; a layer of 8 rows and 320 columns."""
    random = torch.Generator().manual_seed(7)
    files = make_svdquant.make(0, 1, dim=128, float_point=fp4)
    block = "single_transformer_blocks.0"

    def put_layer(module: str, rows: int, columns: int) -> None:
        name = f"{block}.{module}"
        weight, levels = make_svdquant._quantized(rows, columns, random, torch.bfloat16, fp4)
        files["model.pt"][f"{name}.weight"] = weight
        files["model.pt"][f"{name}.bias"] = torch.randn(rows, generator=random).bfloat16()
        for number, level in enumerate(levels):
            files["scale.pt"][f"{name}.weight.scale.{number}"] = level

    for module, rows in zip(QKV, (40, 200, 72), strict=True):
        put_layer(module, rows, 192)
    put_layer("proj_mlp", 100, 192)
    put_layer("proj_out.linears.0", 8, 320)
    files["smooth.pt"][f"{block}.attn.to_q"] = (torch.rand(192, generator=random) + 0.5).bfloat16()
    files["smooth.pt"][f"{block}.proj_out.linears.0"] = (torch.rand(320, generator=random) + 0.5).bfloat16()
    for module, rows, columns in (
        ("attn.to_q", 312, 192),
        ("proj_mlp", 100, 192),
        ("proj_out.linears.0", 8, 320),
    ):
        files["branch.pt"][f"{block}.{module}"] = {
            "a.weight": torch.randn(5, columns, generator=random).bfloat16(),
            "b.weight": torch.randn(rows, 5, generator=random).bfloat16(),
        }
    made = convert(write(tmp_path / "q", files), tmp_path / "o.safetensors", fp4)
    same(made, expected(files, fp4))
    assert made[f"{block}.qkv_proj.qweight"].shape == (384, 128)
    assert made[f"{block}.out_proj.lora_down"].shape == (384, 16)


@pytest.mark.parametrize("fp4", [False, True])
def test_workers_and_tiles_change_no_byte(tmp_path: Path, fp4: bool) -> None:
    files = make_svdquant.make(1, 1, dim=384, float_point=fp4)
    folder = write(tmp_path / "q", files)
    digests = set()
    for number, (workers, tile) in enumerate([(1, 1 << 30), (1, 1), (2, 200_000), (5, 50_000)]):
        out = tmp_path / f"{number}.safetensors"
        convert(folder, out, fp4, workers=workers, tile=tile)
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_layers_without_scales_are_copied(tmp_path: Path) -> None:
    files = make_svdquant.make(0, 1, dim=128)
    block = "single_transformer_blocks.0"
    plain = ("attn.to_", "norm.linear", "proj_mlp")
    for file in ("scale.pt", "smooth.pt", "branch.pt"):
        files[file] = {
            name: value for name, value in files[file].items() if not any(p in name for p in plain)
        }
    made = convert(write(tmp_path / "q", files), tmp_path / "o.safetensors")
    model = files["model.pt"]
    for kind in ("weight", "bias"):
        joined = torch.cat([model[f"{block}.{module}.{kind}"] for module in QKV])
        assert bits(made[f"{block}.qkv_proj.{kind}"]) == bits(joined)
        assert bits(made[f"{block}.norm.linear.{kind}"]) == bits(model[f"{block}.norm.linear.{kind}"])
    assert f"{block}.qkv_proj.qweight" not in made


@pytest.mark.parametrize("fp4", [False, True])
def test_unpacked_layers_are_the_weights_of_the_checkpoint(tmp_path: Path, fp4: bool) -> None:
    """Codes times scales give the fake-quantized weight back, to the bit."""
    files = make_svdquant.make(1, 0, dim=256, float_point=fp4)
    made = convert(write(tmp_path / "q", files), tmp_path / "o.safetensors", fp4)
    for layer, module in (("mlp_fc2", "ff.net.2.linear"), ("out_proj_context", "attn.to_add_out")):
        name = f"{BLOCK}.{layer}"
        codes = torch.from_numpy(layouts.unpack_w4x4(made[f"{name}.qweight"].numpy())).long()
        if fp4:
            scales = layouts.unpack_micro_scale(made[f"{name}.wscales"].view(torch.uint8).numpy())
            scales = torch.from_numpy(scales).view(torch.float8_e4m3fn).float()
            values, outer = (
                CODEBOOK[codes],
                files["scale.pt"][f"{BLOCK}.{module}.weight.scale.0"].float().item(),
            )
        else:
            scales = layouts.unpack_scale(made[f"{name}.wscales"].view(torch.int16).numpy())
            scales = torch.from_numpy(scales).view(torch.bfloat16).float()
            values, outer = torch.where(codes > 7, codes - 16, codes).float(), 1.0
        n, k = codes.shape
        weight = values.view(n, scales.shape[1], -1) * scales[:, :, None] * outer
        original = files["model.pt"][f"{BLOCK}.{module}.weight"]
        assert torch.equal(weight.view(n, k).bfloat16(), original)


def test_the_same_by_recipe_and_by_python(tmp_path: Path) -> None:
    folder = write(tmp_path / "q", make_svdquant.make(1, 1, dim=128, float_point=True))
    convert(folder, tmp_path / "a.safetensors", True)
    step = "nunchaku: {float_point: true, model: flux}"
    (tmp_path / "r.yaml").write_text(
        f"source: {{path: {folder}}}\nsteps:\n  - {step}\noutput: {{path: {tmp_path}/b.safetensors}}\n"
    )
    tc.run(tmp_path / "r.yaml")
    flow = tc.open(folder) | tc.nunchaku(float_point=True)
    tc.write(tmp_path / "c.safetensors").run(flow)
    assert len({(tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"}) == 1
    recipe = load(tmp_path / "r.yaml")
    assert parse(dump(recipe)) == recipe


# Refusals -------------------------------------------------------------------------------------------------


def changed(tmp_path: Path, change: Callable[[Any, Any, Any, Any], object], fp4: bool = False) -> Path:
    files = make_svdquant.make(1, 0, dim=128, float_point=fp4)
    change(*files.values())
    return write(tmp_path / "q", files)


def refusal(folder: Path, kind: type[Exception], fp4: bool = False) -> str:
    out = folder.parent / "o.safetensors"
    with pytest.raises(kind) as caught:
        convert(folder, out, fp4)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("value", [9.0, float("nan")])
@pytest.mark.parametrize(
    ("module", "row"), [("attn.to_v", 77), ("ff.net.0.proj", 300), ("norm1.linear", 700)]
)
def test_value_without_a_code(tmp_path: Path, module: str, row: int, value: float) -> None:
    def change(model: Any, *_: Any) -> None:
        model[f"{BLOCK}.{module}.weight"][row, 101] = value

    told = refusal(changed(tmp_path, change), DataError)
    assert told.startswith(f"{BLOCK}.{module}.weight: ")
    assert f"row {row}, column 101" in told
    assert ("0..15" if "norm" in module else "-8..7") in told


def test_fp4_refuses_what_is_not_finite(tmp_path: Path) -> None:
    def change(model: Any, *_: Any) -> None:
        model[f"{BLOCK}.ff.net.2.linear.weight"][5, 500] = float("inf")

    told = refusal(changed(tmp_path, change, True), DataError, True)
    assert f"{BLOCK}.ff.net.2.linear.weight: inf at row 5, column 500" in told


def drop(file: int, name: str) -> Callable[..., object]:
    return lambda *files: files[file].pop(f"{BLOCK}.{name}")


def put(file: int, name: str, value: Any) -> Callable[..., object]:
    return lambda *files: files[file].update({f"{BLOCK}.{name}": value})


def branch(rank: int, columns: int, rows: int) -> Tensors:
    return {"a.weight": torch.ones(rank, columns), "b.weight": torch.ones(rows, rank)}


FC = "ff.net.0.proj"
SCALE = f"{FC}.weight.scale"
NORM = "norm1.linear.weight"


@pytest.mark.parametrize(
    ("change", "named", "told"),
    [
        (drop(0, "attn.to_k.weight"), f"{BLOCK}.attn.to_k.weight", "qkv_proj is made of it"),
        (drop(0, "attn.to_k.bias"), f"{BLOCK}.attn.to_k.bias", "is missing"),
        (drop(1, "attn.to_k.weight.scale.0"), f"{BLOCK}.attn.to_k.weight.scale.0", "is missing"),
        (drop(1, f"{SCALE}.0"), f"{BLOCK}.{FC}.weight", "no scale"),
        (put(1, f"{SCALE}.0", torch.ones(512, 1, 8, 1)), FC, "16 columns"),
        (put(1, f"{SCALE}.0", torch.ones(1)), FC, "128 columns"),
        (put(1, f"{SCALE}.0", torch.ones(511, 1, 2, 1)), FC, "511"),
        (put(1, f"{SCALE}.0", torch.ones(512, 1, 3, 1)), FC, "3 groups"),
        (put(1, f"{SCALE}.1", torch.ones(512, 1, 2, 1)), FC, "first of two levels"),
        (put(1, f"{SCALE}.2", torch.ones(1)), FC, "three levels"),
        (put(1, f"{NORM}.scale.0", torch.ones(768, 1, 4, 1)), NORM, "32 columns"),
        (put(1, f"{NORM}.scale.1", torch.ones(1)), NORM, "two levels"),
        (put(1, "attn.norm_q.weight.scale.0", torch.ones(1)), "attn.norm_q", "keeps it as it is"),
        (put(1, "attn.to_q.weight.scale.0", torch.ones(1)), "attn.to_q", "of the whole and of groups"),
        (put(0, "attn.to_q.weight", torch.zeros(128, 128)), "attn.to_k", "cannot be joined"),
        (put(0, f"{FC}.weight", torch.zeros(512, 128)), FC, "F32"),
        (put(0, f"{FC}.bias", torch.zeros(7).bfloat16()), f"{FC}.bias", "512 rows"),
        (put(0, "norm1.linear.bias", torch.zeros(768)), NORM, "F32"),
        (put(0, "ff.net.2.shift", torch.zeros(3)), "ff.net.2.shift", "3 elements"),
        (put(2, FC, torch.ones(64).bfloat16()), FC, "64 elements"),
        (put(3, FC, {"a.weight": torch.ones(32, 128)}), f"{FC}.b.weight", "is missing"),
        (put(3, FC, branch(32, 64, 512)), FC, "does not fit"),
        (put(3, "attn.to_k", branch(32, 128, 128)), "attn.to_k", "belong to no layer"),
    ],
)
def test_refused_while_planning(tmp_path: Path, change: Callable[..., object], named: str, told: str) -> None:
    message = refusal(changed(tmp_path, change), PlanError)
    assert named in message
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "named", "told"),
    [
        (put(1, f"{SCALE}.0", torch.full((512, 1, 2, 1), float("inf"))), f"{SCALE}.0", "finite"),
        (put(2, FC, torch.zeros(128)), FC, "over its smoothing factors"),
        (put(2, FC, torch.full((128,), float("nan"))), FC, "nan"),
        (put(0, f"{FC}.bias", torch.full((512,), float("inf")).bfloat16()), FC, "bias"),
    ],
)
def test_refused_while_running(tmp_path: Path, change: Callable[..., object], named: str, told: str) -> None:
    message = refusal(changed(tmp_path, change), DataError)
    assert named in message
    assert told in message


def test_micro_scale_beyond_e4m3(tmp_path: Path) -> None:
    def change(_: Any, scales: Any, *__: Any) -> None:
        scales[f"{BLOCK}.ff.net.0.proj.weight.scale.1"][3, 0, 2, 0] = 460

    message = refusal(changed(tmp_path, change, True), DataError, True)
    assert "ff.net.0.proj.weight.scale.1" in message
    assert "460.0" in message


def test_int4_checkpoint_taken_for_fp4_and_back(tmp_path: Path) -> None:
    folder = write(tmp_path / "i" / "q", make_svdquant.make(1, 0, dim=128))
    assert "leave out float_point=True" in refusal(folder, PlanError, True)
    folder = write(tmp_path / "f" / "q", make_svdquant.make(1, 0, dim=128, float_point=True))
    assert "pass float_point=True" in refusal(folder, PlanError, False)


def test_what_has_no_place_is_told(tmp_path: Path) -> None:
    def change(model: Any, scales: Any, smooth: Any, _: Any) -> None:
        model[f"{BLOCK}.attn.to_gate.weight"] = torch.zeros(2).bfloat16()
        scales["proj_out.weight.scale.0"] = torch.ones(1)
        smooth[f"{BLOCK}.attn.to_k"] = torch.ones(1)

    flow = tc.open(changed(tmp_path, change)) | Nunchaku()
    plan = flow.plan(tc.write(tmp_path / "o.safetensors"))
    assert [one.split(" ", 1)[1] for one in map(str, plan.log.warnings)] == [
        "scales belong to no layer in 4 bits (scale.pt/proj_out.weight.scale.0)",
        f"smoothing factors belong to no layer in 4 bits (smooth.pt/{BLOCK}.attn.to_k)",
        f"tensors of blocks have no place in nunchaku's layers ({BLOCK}.attn.to_gate.weight)",
    ]
    assert "proj_out.weight" in {tensor.name for tensor in plan.tensors}


def test_a_branch_without_a_layer_may_be_allowed(tmp_path: Path) -> None:
    extra = {"a.weight": torch.ones(32, 128), "b.weight": torch.ones(128, 32)}
    folder = changed(tmp_path, put(3, "attn.to_k", extra))
    plan = (tc.open(folder) | Nunchaku()).plan(tc.write(tmp_path / "o", allow_unmatched=True))
    assert "2 tensors of low-rank branches" in str(plan.log.warnings[0])


def test_other_flows_are_refused(tmp_path: Path) -> None:
    files = make_svdquant.make(1, 0, dim=128)
    folder = write(tmp_path / "q", {"model.pt": files["model.pt"]})
    with pytest.raises(PlanError, match=r"no scale of scale\.pt"):
        list(tc.open(folder) | Nunchaku())
    files["model.pt"] = {name: t for name, t in files["model.pt"].items() if "blocks" not in name}
    with pytest.raises(PlanError, match="no tensor belongs to a block of flux"):
        list(tc.open(write(tmp_path / "p", files)) | Nunchaku())
