"""Codes and scales against float32 references written with torch; which tensors are taken, and why."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import transcode as tc
from transcode.errors import DataError, PlanError, RecipeError

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
KEPT = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def values(dtype: torch.dtype, rows: int = 197, columns: int = 160) -> torch.Tensor:
    """Trained-like rows, and the edges: zeros, signed zeros, ties, one outlier, subnormals, tiny and huge."""
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(rows, columns, generator=draw) * torch.logspace(-4, 2, rows)[:, None]
    x[0] = 0
    x[1] = -0.0
    x[2] = torch.arange(columns) - 127.5
    x[2, 0] = 127
    x[3] = 0
    x[3, 5] = -3
    x[4] = x[4].abs() + 1
    x[5] = -(x[5].abs()) - 1
    info = torch.finfo(dtype)
    x = x.to(dtype)
    x[6] = info.tiny
    x[7] = x[7] * 0 + info.smallest_normal / 8  # subnormal
    x[8] = torch.linspace(-1, 1, columns).to(dtype) * (min(info.max, torch.finfo(torch.float32).max))
    x[9] = torch.linspace(-1, 1, columns).to(dtype) * torch.tensor(1e-36).to(dtype)
    return x


def stored(scale: torch.Tensor, to: torch.dtype) -> torch.Tensor:
    """A scale as it is kept: rounded to nearest even, never zero and never infinite."""
    info = torch.finfo(to)
    kept = scale.to(to)
    least = torch.tensor(1, dtype=torch.int16 if to.itemsize == 2 else torch.int32).view(to)
    kept = torch.where((kept == 0) & (scale > 0), least, kept)
    kept = torch.where(torch.isinf(kept), torch.tensor(info.max, dtype=to), kept)
    return torch.where(scale == 0, torch.ones((), dtype=to), kept)


def unsaturated(scale: torch.Tensor, reach: torch.Tensor, limit: float) -> torch.Tensor:
    """Subnormal scales are the next one up where the largest quotient would be beyond the limit."""
    word = torch.int16 if scale.dtype.itemsize == 2 else torch.int32
    up = (scale.view(word) + 1).view(scale.dtype)
    coarse = scale.float() < torch.finfo(scale.dtype).smallest_normal
    return torch.where(coarse & (reach / scale.float() > limit), up, scale)


def blocks(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """``[bands, across, height, width]``, padded with zeros at the edges."""
    rows, columns = x.shape
    padded = torch.nn.functional.pad(x, (0, -columns % width, 0, -rows % height))
    return padded.reshape(-1, height, padded.shape[1] // width, width).transpose(1, 2)


def back(tiles: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    bands, across, height, width = tiles.shape
    return tiles.transpose(1, 2).reshape(bands * height, across * width)[: shape[0], : shape[1]]


def int8(x, height, width, to):
    tiles = blocks(x.float(), height, width)
    peak = tiles.abs().amax((2, 3))
    scale = unsaturated(stored(peak / 127, to), peak, 127.5)
    codes = torch.round(tiles / scale.float()[..., None, None]).clamp(-127, 127).to(torch.int8)
    return back(codes, x.shape), scale


def int8_zero(x, height, width, to):
    tiles = blocks(x.float(), height, width)
    low, high = tiles.amin((2, 3)).clamp(max=0), tiles.amax((2, 3)).clamp(min=0)
    spread = (high.double() - low.double()).float()
    scale = unsaturated(stored(spread / 255, to), spread, 255.5)
    s = scale.float()
    zero = torch.round(-128 - low / s).clamp(-128, 127) * (spread > 0)  # a block of zeros has codes 0
    codes = torch.round(tiles / s[..., None, None]) + zero[..., None, None]
    return back(codes.clamp(-128, 127).to(torch.int8), x.shape), scale, zero.to(torch.int8)


def fp8(x, height, width, to, form=torch.float8_e4m3fn):
    tiles = blocks(x.float(), height, width)
    top = torch.finfo(form).max
    peak = tiles.abs().amax((2, 3))
    scale = unsaturated(stored(peak / top, to), peak, {448: 464, 57344: 61440}[top])
    codes = (tiles / scale.float()[..., None, None]).clamp(-top, top).to(form)
    return back(codes.view(torch.uint8), x.shape), scale


def quantized(x: torch.Tensor, save, tmp_path: Path, scheme: str, **options) -> dict[str, torch.Tensor]:
    # neutral has no wishes of its own: what is tested are the schemes.
    path = tmp_path / "o.safetensors"
    tc.open(save({"a.weight": x})) | tc.quantize(scheme, **options) | tc.write(path, convention="neutral")
    return load_file(path)


def source_scale(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("scale", [None, *KEPT], ids=str)
@pytest.mark.parametrize("form", ["channel", "tensor", "group", "ragged group"])
def test_int8_equals_the_reference(dtype, scale, form, save, tmp_path):
    x = values(dtype)
    if dtype == torch.float64:
        x[8] *= 0.5  # the largest float32 is not above its own range
    options = {"granularity": form.removeprefix("ragged ")}
    height, width = 1, x.shape[1]
    if form == "tensor":
        x = x[:197].clone()
        x[8] = 3
        height = x.shape[0]
    elif form != "channel":
        options["group_size"] = width = 32 if form == "group" else 48
    if scale is not None:
        options["scale_dtype"] = scale
    if scale == "F16" and form != "tensor":
        x[8] = 3  # the largest float32 needs a scale that float16 cannot hold, which is an error
    found = quantized(x, save, tmp_path, "int8", **options)
    to = KEPT[scale] if scale else source_scale(dtype)
    codes, scales = int8(x, height, width, to)
    assert found["a.weight_scale"].dtype == to
    assert torch.equal(found["a.weight_scale"].flatten(), scales.flatten())
    assert list(found["a.weight_scale"].shape) == ([] if form == "tensor" else list(scales.shape))
    assert found["a.weight"].dtype == torch.int8
    assert torch.equal(found["a.weight"], codes)


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("width", [160, 32, 48])
def test_int8_with_a_zero_point_equals_the_reference(dtype, width, save, tmp_path):
    x = values(dtype)
    x[8] = x[8] / 4
    options = {} if width == 160 else {"granularity": "group", "group_size": width}
    found = quantized(x, save, tmp_path, "int8", symmetric=False, **options)
    codes, scales, zeros = int8_zero(x, 1, width, source_scale(dtype))
    assert torch.equal(found["a.weight_scale"], scales)
    assert torch.equal(found["a.weight_zero_point"], zeros)
    assert torch.equal(found["a.weight"], codes)


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("form", ["e4m3fn", "e5m2"])
@pytest.mark.parametrize("shape", ["channel", "tensor", "block", "ragged block"])
def test_fp8_equals_the_reference(dtype, form, shape, save, tmp_path):
    x = values(dtype, rows=300, columns=200)
    if dtype == torch.float64:
        x[8] *= 0.5
    options = {"granularity": shape.removeprefix("ragged "), "format": form}
    height, width = 1, x.shape[1]
    if shape == "tensor":
        x[8] = 3
        height = x.shape[0]
    elif shape == "block":
        height = width = 128
    elif shape == "ragged block":
        options["block"] = [height, width] = [48, 64]
    found = quantized(x, save, tmp_path, "fp8", **options)
    kind = getattr(torch, f"float8_{form}")
    codes, scales = fp8(x, height, width, source_scale(dtype), kind)
    assert found["a.weight"].dtype == kind
    assert torch.equal(found["a.weight_scale"].flatten(), scales.flatten())
    assert torch.equal(found["a.weight"].view(torch.uint8), codes)


def test_every_bf16_pattern_in_rows_of_its_own_exponent(save, tmp_path):
    """All finite bfloat16 numbers, sorted by magnitude in rows of 256."""
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    finite = every[torch.isfinite(every)]
    x = finite[finite.float().abs().argsort(stable=True)].reshape(-1, 255)
    found = quantized(x, save, tmp_path, "int8")
    codes, scales = int8(x, 1, x.shape[1], torch.bfloat16)
    assert torch.equal(found["a.weight_scale"], scales)
    assert torch.equal(found["a.weight"], codes)
    found = quantized_again(x, save, tmp_path)
    codes, scales = fp8(x, 1, x.shape[1], torch.bfloat16)
    assert torch.equal(found["a.weight_scale"], scales)
    assert torch.equal(found["a.weight"].view(torch.uint8), codes)


def quantized_again(x, save, tmp_path):
    path = tmp_path / "o.safetensors"
    tc.open(save({"a.weight": x})) | tc.quantize("fp8") | tc.write(path, convention="neutral", force=True)
    return load_file(path)


@pytest.mark.parametrize(
    ("scheme", "options", "said"),
    [
        ("int8", {}, "each for itself"),
        ("int8", {"granularity": "tensor"}, "all with one scale of the tensor"),
        ("mxfp4", {}, "each for itself"),
        ("nvfp4", {}, "all with one scale of the tensor"),
    ],
)
def test_the_plan_tells_what_a_stack_shares(scheme, options, said, save, tmp_path):
    flow = tc.open(save({"experts.weight": torch.ones(2, 3, 64)}))
    flow = flow | tc.quantize(scheme, include=["experts"], **options)
    (tensor,) = flow.plan(tc.write(tmp_path / "o.safetensors", convention="neutral")).tensors
    assert f"3-D: a stack of 2 matrices, {said}" in "; ".join(map(str, tensor.fate))
    # shared is what is stored once
    assert any(part.spec.shape == () for part in tensor.parts) == ("one scale" in said)


def test_a_stack_is_quantized_matrix_by_matrix(save, tmp_path):
    stack = torch.stack([values(torch.float32, 130, 72) / 2**n for n in range(3)])
    for scheme, options, one in (
        ("int8", {}, lambda x: int8(x, 1, 72, torch.float32)),
        ("fp8", {"granularity": "block"}, lambda x: fp8(x, 128, 128, torch.float32)),
    ):
        path = save({"experts.weight": stack})
        flow = tc.open(path) | tc.quantize(scheme, include=["experts"], **options)
        fate = " ".join(map(str, next(iter(flow)).fate))
        assert "3-D" in fate
        assert "3 matrices" in fate
        flow | tc.write(tmp_path / "o.safetensors", convention="neutral", force=True)
        found = load_file(tmp_path / "o.safetensors")
        for number in range(3):
            codes, scales = one(stack[number])
            assert torch.equal(found["experts.weight_scale"][number], scales)
            assert torch.equal(found["experts.weight"][number].view(torch.uint8), codes.view(torch.uint8))


# What LightX2V reads: its loader casts every float of a file to BF16, and kernels cast scales on from there.


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_lightx2v_reads_the_scales_that_codes_were_made_for(dtype, scheme, save, tmp_path):
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(6)).to(dtype)
    path = tmp_path / "o.safetensors"
    tc.open(save({"a.weight": x})) | tc.quantize(scheme) | tc.write(path, convention="lightx2v")
    found = load_file(path)
    assert found["a.weight_scale"].dtype == torch.bfloat16
    codes, scales = (int8 if scheme == "int8" else fp8)(x, 1, 96, torch.bfloat16)
    assert torch.equal(found["a.weight_scale"], scales)
    assert torch.equal(found["a.weight"].view(torch.uint8), codes.view(torch.uint8))

    def lost(parts: dict[str, torch.Tensor]) -> float:
        read = parts["a.weight_scale"].to(torch.bfloat16).float()
        return float(((parts["a.weight"].float() * read - x.float()).double() ** 2).sum())

    other = tmp_path / "p.safetensors"
    wide = tc.quantize(scheme, scale_dtype="F32")  # as its own converter does with sources in F32
    tc.open(save({"a.weight": x})) | wide | tc.write(other, convention="lightx2v")
    assert load_file(other)["a.weight_scale"].dtype == torch.float32
    assert lost(found) < lost(load_file(other)) * (0.99 if scheme == "int8" else 0.999)


def test_lightx2v_reads_the_global_scale_that_codes_were_made_for(save, tmp_path):
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(6))
    path = tmp_path / "o.safetensors"
    tc.open(save({"a.weight": x})) | tc.quantize("nvfp4") | tc.write(path, convention="lightx2v")
    found = load_file(path)["a.weight_global_scale"]
    assert found.dtype == torch.float32
    assert torch.equal(found, (2688 / x.abs().amax()).to(torch.bfloat16).float())


def test_lightx2v_gets_the_formats_that_it_reads(save, tmp_path, cli):
    x = torch.randn(128, 96, generator=torch.Generator().manual_seed(6))
    for convention, form in (("lightx2v", "E3M2"), ("neutral", "E2M3")):
        path = tmp_path / f"{convention}.safetensors"
        tc.open(save({"a.weight": x})) | tc.quantize("mxfp6") | tc.write(path, convention=convention)
        kind = {"E3M2": ml_dtypes.float6_e3m2fn, "E2M3": ml_dtypes.float6_e2m3fn}[form]
        out = tmp_path / f"{convention}-d.safetensors"
        tc.open(path) | tc.dequantize("F32", convention=convention) | tc.write(out)
        values = load_file(out)["a.weight"].numpy().reshape(-1, 32)
        scale = np.exp2(np.floor(np.log2(np.abs(x.numpy().reshape(-1, 32)).max(1))) - 3)[:, None]
        # Every value is one of the format, under some power of two near that of its block.
        steps = [np.ldexp(values, k) / scale for k in range(-6, 7)]
        fits = [(step == step.astype(kind).astype(np.float32)).all(1) for step in steps]
        assert np.any(fits, 0).all()


# Which tensors.


def plan_of(cli, source: Path, tmp_path: Path, *args: object, code: int = 0):
    return cli("run", source, tmp_path / "o.safetensors", "-n", "--json", *args, code=code)


def taken(plan) -> set[str]:
    return {t["source"] for t in plan.json["tensors"] if any(s["role"] == "codes" for s in t["stored"])}


def fates(plan) -> dict[str, str]:
    return {t["source"]: "; ".join(t["fate"]) for t in plan.json["tensors"]}


ATTENTION = [
    *(f"self_attn.{n}" for n in "qkvo"),
    *(f"cross_attn.{n}" for n in ("q", "k", "v", "o", "k_img", "v_img")),
]
FAMILY = {f"blocks.{i}.{m}.weight" for i in (0, 1) for m in (*ATTENTION, "ffn.0", "ffn.2")}


def test_the_family_decides_and_says_so(cli, wan, tmp_path):
    plan = plan_of(cli, wan, tmp_path, "--scheme", "int8")
    assert taken(plan) == FAMILY
    assert any("wan_dit" in note for note in plan.json["notes"])
    told = fates(plan)
    assert len(told) == 87
    assert "head" in told["head.head.weight"]
    assert "embedding" in told["patch_embedding.weight"]
    assert "1-D" in told["blocks.0.self_attn.norm_q.weight"]
    assert "not a weight" in told["blocks.0.modulation"]
    assert all(told[name].startswith("keep") for name in set(told) - FAMILY)


SELECTIONS = [
    ("targets replace", ["--targets", "ffn"], {n for n in FAMILY if ".ffn." in n}),
    ("targets take lists", ["--targets", "ffn.0,self_attn.q"], {n for n in FAMILY if ".ffn.0." in n or "self_attn.q" in n}),
    ("targets repeat", ["--targets", "ffn.0", "--targets", "self_attn.q"], {n for n in FAMILY if ".ffn.0." in n or "self_attn.q" in n}),
    ("targets outside blocks", ["--targets", "text_embedding"], {"text_embedding.0.weight", "text_embedding.2.weight"}),
    ("include adds", ["--include", "head.head"], FAMILY | {"head.head.weight"}),
    ("include a stack", ["--include", "blocks.0.modulation"], FAMILY | {"blocks.0.modulation"}),
    ("exclude takes away", ["--exclude", "blocks.0"], {n for n in FAMILY if n.startswith("blocks.1.")}),
    ("exclude wins", ["--include", "head.head", "--exclude", "head"], FAMILY),
    ("exclude wins over targets", ["--targets", "ffn", "--exclude", "blocks.1"], {"blocks.0.ffn.0.weight", "blocks.0.ffn.2.weight"}),
    ("whole components only", ["--exclude", "attn,head"], FAMILY),
    ("regex", ["--exclude", r"re:\.(q|k)\.weight$"], {n for n in FAMILY if not n.endswith((".q.weight", ".k.weight"))}),
    ("glob over dots", ["--exclude", "blocks.*.o"], {n for n in FAMILY if ".o." not in n}),
    ("model given", ["--model", "wan_dit"], FAMILY),
]  # fmt: skip


@pytest.mark.parametrize(("args", "expected"), [s[1:] for s in SELECTIONS], ids=[s[0] for s in SELECTIONS])
def test_selection(args, expected, cli, wan, tmp_path):
    extra = ["--allow-unmatched"] if "attn,head" in args else []
    assert taken(plan_of(cli, wan, tmp_path, "--scheme", "int8", *args, *extra)) == expected


def test_included_modules_do_not_warn_of_their_biases(cli, wan, tmp_path):
    assert "bias" not in plan_of(cli, wan, tmp_path, "--scheme", "int8", "--include", "head.head").err


def test_include_that_finds_no_matrix_is_an_error(refused, wan, tmp_path):
    message = refused(
        "run", wan, tmp_path / "o.safetensors", "--scheme", "int8", "--include", "head.head.bias"
    )
    assert "head.head.bias" in message


def test_overrides_first_match_wins(cli, wan, tmp_path):
    plan = plan_of(
        cli, wan, tmp_path, "--scheme", "int8",
        "--override", "blocks.0.ffn=keep", "--override", "blocks.0.*=fp8", "--override", "blocks.1.ffn.0=float16",
        "--override", "ffn=int8:granularity=tensor",
    )  # fmt: skip
    stored_as = {t["source"]: {s["role"]: s for s in t["stored"]} for t in plan.json["tensors"]}
    assert stored_as["blocks.0.ffn.0.weight"]["values"]["dtype"] == "BF16"
    assert stored_as["blocks.0.self_attn.q.weight"]["codes"]["dtype"] == "F8_E4M3"
    assert stored_as["blocks.1.ffn.0.weight"]["values"]["dtype"] == "F16"
    assert stored_as["blocks.1.ffn.2.weight"]["scale"]["shape"] == []
    assert stored_as["blocks.1.self_attn.q.weight"]["codes"]["dtype"] == "I8"
    # never what was not chosen
    assert stored_as["blocks.0.norm3.weight"]["values"]["dtype"] == "BF16"
    assert fates(plan)["blocks.0.self_attn.q.weight"].startswith("quantize fp8: override blocks.0.*")


def test_keep_dtype_casts_what_stays(cli, wan, tmp_path):
    plan = plan_of(
        cli, wan, tmp_path, "--scheme", "int8", "--keep-dtype", "F32", "--override", "blocks.0.ffn=keep"
    )
    kept = {t["source"]: t["stored"][0]["dtype"] for t in plan.json["tensors"] if len(t["stored"]) == 1}
    assert set(kept.values()) == {"F32"}
    assert len(kept) == 87 - len(FAMILY) + 4 - 2


RULES = [
    ("--targets", "ffm"), ("--include", "haed"), ("--exclude", "blocks.7"), ("--override", "blocks.7=bf16"),
    ("--override", "norm3=bf16"), ("--keep", "nothing"), ("--drop", "nothing"), ("--include", "blo"),
]  # fmt: skip


@pytest.mark.parametrize(("flag", "rule"), RULES)
def test_a_rule_that_matches_nothing(flag, rule, cli, refused, wan, tmp_path):
    line = ["run", wan, tmp_path / "o.safetensors", "--scheme", "int8", flag, rule]
    said = rule.partition("=")[0]
    assert repr(said) in refused(*line)
    assert not list(tmp_path.iterdir())
    if flag == "--keep":
        return  # nothing would be left
    result = cli(*line, "--allow-unmatched")
    assert "warning" in result.err
    assert repr(said) in result.err
    assert (tmp_path / "o.safetensors").exists()


STRANGE = {
    "encoder.layer.0.dense.weight": (8, 16),
    "encoder.layer.0.dense.bias": (8,),
    "encoder.layer.0.norm.weight": (16,),
    "encoder.LayerNorm.weight": (4, 4),
    "word_embeddings.weight": (32, 16),
    "wte.weight": (32, 16),
    "lm_head.weight": (32, 16),
    "output.weight": (32, 16),
    "encoder.layer.0.output.dense.weight": (16, 8),
    "blocks.0.proj_out.weight": (16, 8),
    "mixer.matrix": (8, 16),
    "experts.weight": (3, 8, 16),
    "blocks.0.conv.weight": (8, 4, 3, 3),
    "scalar.weight": (),
    "blocks.0.none.weight": (0, 16),
}


def strange(save) -> Path:
    tensors = {name: torch.ones(shape) for name, shape in STRANGE.items()}
    tensors["table.weight"] = torch.ones(8, 8, dtype=torch.int32)
    tensors["codes.weight"] = torch.ones(8, 8).to(torch.float8_e4m3fn)
    return save(tensors)


def test_an_unknown_family_is_quantized_with_care_and_the_plan_says_so(cli, save, tmp_path):
    plan = plan_of(cli, strange(save), tmp_path, "--scheme", "int8")
    sure = {"encoder.layer.0.dense.weight", "encoder.layer.0.output.dense.weight", "blocks.0.proj_out.weight"}
    assert sure <= taken(plan) <= sure | {"experts.weight"}
    assert any("unknown family" in note for note in plan.json["notes"])
    told = fates(plan)
    assert len(told) == len(STRANGE) + 2
    for name, word in {
        "wte.weight": "embedding", "lm_head.weight": "head", "output.weight": "head", "word_embeddings.weight": "embedding",
        "encoder.LayerNorm.weight": "norm", "blocks.0.conv.weight": "4-D", "encoder.layer.0.dense.bias": "1-D",
        "scalar.weight": "0-D", "blocks.0.none.weight": "empty", "table.weight": "I32", "codes.weight": "F8_E4M3",
        "mixer.matrix": "weight",
    }.items():  # fmt: skip
        assert word in told[name], (name, told[name])
        assert told[name].startswith("keep"), name


def test_include_takes_any_float_matrix_but_nothing_else(cli, save, tmp_path):
    source = strange(save)
    plan = plan_of(cli, source, tmp_path, "--scheme", "int8", "--include", "*")
    assert taken(plan) == {
        "encoder.layer.0.dense.weight", "encoder.LayerNorm.weight", "word_embeddings.weight", "wte.weight",
        "lm_head.weight", "mixer.matrix", "experts.weight", "output.weight",
        "encoder.layer.0.output.dense.weight", "blocks.0.proj_out.weight",
    }  # fmt: skip
    cli("run", source, tmp_path / "o.safetensors", "--scheme", "int8", "--include", "*", "-q")
    found = load_file(tmp_path / "o.safetensors")
    assert found["scalar.weight"].shape == ()
    assert found["blocks.0.none.weight"].shape == (0, 16)
    assert found["table.weight"].dtype == torch.int32
    assert found["codes.weight"].dtype == torch.float8_e4m3fn


# NaN and infinity.


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize(
    "options",
    [["int8"], ["int8:granularity=tensor"], ["fp8"], ["fp8:granularity=block"], ["int8:symmetric=false"]],
)
def test_nonfinite_is_an_error_that_tells_where(bad, dtype, options, cli, refused, save, tmp_path):
    x = torch.ones(300, 40, dtype=dtype)
    x[257, 31] = bad
    source = save({"a.weight": x, "b.weight": torch.ones(4, 4)})
    before = sorted(tmp_path.iterdir())
    options = [*options, "--convention", "neutral"]
    message = refused("run", source, tmp_path / "deep" / "o.safetensors", "--scheme", *options)
    assert "a.weight: " in message
    assert "row 257, column 31" in message
    assert str(bad).removeprefix("-") in message
    assert "--on-nonfinite keep" in message
    assert sorted(tmp_path.iterdir()) == before
    result = cli("run", source, tmp_path / "o.safetensors", "--scheme", *options, "--on-nonfinite", "keep")
    assert "a.weight" in result.err
    assert "row 257, column 31" in result.err
    found = load_file(tmp_path / "o.safetensors")
    assert found["a.weight"].dtype == dtype
    assert torch.equal(found["a.weight"].view(torch.uint8), x.view(torch.uint8))
    assert found["b.weight"].dtype != torch.float32


def test_nonfinite_in_what_stays_is_nobodys_business(cli, save, tmp_path):
    x = torch.full((4, 4), float("nan"))
    source = save({"norm.weight": x, "a.weight": torch.ones(4, 4)})
    cli("run", source, tmp_path / "o.safetensors", "--scheme", "int8")
    assert torch.equal(
        load_file(tmp_path / "o.safetensors")["norm.weight"].view(torch.int32), x.view(torch.int32)
    )


@pytest.mark.parametrize("tile", [None, 1, 1000])
@pytest.mark.parametrize("options", [{}, {"granularity": "tensor"}])
def test_the_position_is_the_first_for_one_worker_in_a_stack(tile, options, save, tmp_path):
    """Counted from the tensor's first row, not from that of the tile, whether it is encoded or looked at."""
    x = torch.ones(3, 50, 8)
    x[2, 7, 3] = float("nan")
    x[2, 9, 1] = float("nan")
    flow = tc.open(save({"a.weight": x})) | tc.quantize("int8", targets=["a"], **options)
    with pytest.raises(DataError, match="row 107, column 3"):
        flow | tc.write(tmp_path / "o.safetensors", convention="neutral", workers=1, tile=tile)


# Options.


@pytest.mark.parametrize(
    ("scheme", "options", "said"),
    [
        ("int9", {}, "int9"),
        ("int8", {"granularity": "row"}, "row"),
        ("int8", {"group_size": 0}, "group_size"),
        ("int8", {"group_size": 2.5}, "group_size"),
        ("int8", {"symmetric": 1}, "symmetric"),
        ("int8", {"symmetric": False, "granularity": "tensor"}, "zero point"),
        ("int8", {"format": "e5m2"}, "format"),
        ("fp8", {"format": "e3m4"}, "e3m4"),
        ("fp8", {"block": [128]}, "block"),
        ("fp8", {"block": [0, 128]}, "block"),
        ("fp8", {"scale_dtype": "F64"}, "F64"),
        ("int8", {"on_nonfinite": "ignore"}, "ignore"),
        ("int8", {"keep_dtype": "int8"}, "int8"),
        ("int8", {"overrides": {"a": "int9"}}, "int9"),
        ("int8", {"overrides": [("a", "fp8"), ("a", "keep")]}, "twice"),
        ("int8", {"include": ["["]}, "["),
    ],
)
def test_wrong_options(scheme, options, said):
    with pytest.raises(RecipeError) as caught:
        tc.quantize(scheme, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_on_the_command_line(refused, wan, tmp_path):
    out = tmp_path / "o.safetensors"
    for args, said in [
        (["--scheme", "int9"], "int9"),
        (["--scheme", "int8", "--model", "klingon"], "klingon"),
        (["--scheme", "int8", "--convention", "klingon"], "klingon"),
        (["--scheme", "int8", "-O", "colour=red"], "colour"),
        (["--scheme", "int8", "-O", "granularity=[1"], "granularity"),
        (["--scheme", "int8:granularity"], "granularity"),
        (["--scheme", "int8:granularity=[1"], "[1"),
        (["--scheme", "int8", "--override", "blocks.0"], "blocks.0"),
        (["--scheme", "int8", "--keep-dtype", "fp7"], "fp7"),
        (["--cast", "fp7"], "fp7"),
        (["--scheme", "int8", "--memory", "nan"], "nan"),
        (["--scheme", "int8", "--memory", "inf"], "inf"),
        (["--scheme", "int8", "--tile", "-1"], "-1"),
        (["--scheme", "int8", "--layout", "klingon"], "klingon"),
    ]:
        assert said in refused("run", wan, out, *args)
    assert not out.exists()


@pytest.mark.parametrize(
    "args",
    [
        ["--exclude", "a"],
        ["--keep-dtype", "F32"],
        ["--granularity", "tensor"],
        ["--on-nonfinite", "keep"],
        ["--saturate"],
        ["--override", "a=keep"],
    ],
)
def test_options_of_a_stage_that_is_not_there_are_refused(args, refused, wan, tmp_path):
    assert args[0] in refused("run", wan, tmp_path / "o.safetensors", *args)


def test_a_model_that_does_not_fit_still_needs_targets_that_match(save, tmp_path):
    path = save({"a.weight": torch.ones(4, 4)})
    with pytest.raises(PlanError, match="no tensor becomes int8"):
        list(tc.open(path) | tc.quantize("int8", model="wan_dit"))
    with pytest.raises(PlanError):
        list(tc.open(path) | tc.quantize("int8", targets=["b"]))


def test_quantized_input_is_not_quantized_again(wan, tmp_path, cli, refused):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    cli("run", wan, first, "--scheme", "int8")
    said = refused("run", first, second, "--scheme", "int8")
    assert "quantized already" in said
    assert "lightx2v" in said
    assert "--dequantize" in said
    assert not second.exists()


def test_the_record_tells_scheme_and_recipe(wan, tmp_path):
    tc.open(wan) | tc.quantize("int8") | tc.write(tmp_path / "a.safetensors")
    metadata = dict(tc.open(tmp_path / "a.safetensors").source.metadata)
    record = json.loads(metadata["transcode"])
    assert record["schemes"] == ["int8"]
    assert record["convention"] == "lightx2v"


def test_what_is_decided_of_a_kind_of_name_is_not_held_for_others(save, tmp_path):
    """Indexes of two digits are one only where no pattern tells them apart, and for tensors of one shape."""
    names = [f"model.layers.{number}.self_attn.o_proj.weight" for number in range(10, 15)]
    matrices = {name: torch.ones(256, 256, dtype=torch.bfloat16) for name in names}
    matrices[names[2]] = torch.ones(256, 100, dtype=torch.bfloat16)
    source = tc.open(save(matrices))

    def taken(**options) -> set[str]:
        flow = source | tc.quantize("nvfp4", **options)
        plan = flow.plan(tc.write(tmp_path / "o.safetensors", convention="modelopt"))
        return {tensor.name for tensor in plan.tensors if tensor.scheme is not None}

    fitting = {*names} - {names[2]}
    assert taken() == fitting
    assert taken(exclude=["layers.11"]) == fitting - {names[1]}
    assert taken(targets=["re:layers.1[34]"]) == {names[3], names[4]}
    assert taken(overrides={"layers.14": "keep"}) == fitting - {names[4]}


def test_what_is_found_once_for_tensors_that_are_alike_is_not_held_for_others(save, tmp_path):
    """An expert as large as another matrix: the consumer takes none of this scheme. And an odd shape."""
    names = [
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.1.mlp.experts.3.up_proj.weight",
        "model.layers.1.self_attn.o_proj.weight",
        "model.layers.2.self_attn.o_proj.weight",
    ]
    matrices = {name: torch.ones(256, 256, dtype=torch.bfloat16) for name in names}
    matrices[names[3]] = torch.ones(256, 100, dtype=torch.bfloat16)  # and one of another shape
    flow = tc.open(save(matrices)) | tc.quantize("nvfp4", include=["re:weight$"])
    plan = flow.plan(tc.write(tmp_path / "o.safetensors", convention="modelopt", allow_unmatched=True))
    taken = {tensor.name for tensor in plan.tensors if tensor.scheme is not None}
    assert names[0] in taken
    assert names[3] not in taken  # 100 columns are no blocks of 16
    flow = tc.open(save(matrices)) | tc.quantize("fp8", include=["re:weight$"])
    plan = flow.plan(tc.write(tmp_path / "o.safetensors", convention="modelopt"))
    assert {tensor.name for tensor in plan.tensors if tensor.scheme is not None} == {*names} - {names[1]}
