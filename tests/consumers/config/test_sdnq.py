"""What SDNQ saved is decoded to its own values; what is written for it is read back by its formulas.

``fixtures/sdnq`` is by SDNQ itself (``tools/make_sdnq.py``), with digests of what it decodes.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import PlanError

FIXTURES = Path(__file__).parents[3] / "fixtures" / "sdnq"
REFUSED = {
    "int5": "weights_dtype 'int5'",
    "float4": "weights_dtype 'float4_e2m1fn'",
    "turned": "use_hadamard true",
    "codebook": "use_codebook true",
}
READ = sorted(one.name for one in FIXTURES.iterdir() if one.name not in REFUSED)
NARROW, WIDE = "net.narrow", "net.wide"


def decoded(source: Path, out: Path) -> dict[str, torch.Tensor]:
    tc.open(source) | tc.dequantize("F32") | tc.write(out)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("kind", READ)
def test_values_are_those_of_sdnq(kind, tmp_path):
    digests = json.loads((FIXTURES / kind / "values.json").read_text())
    for name, value in decoded(FIXTURES / kind, tmp_path / "d").items():
        if kind.endswith("bf16"):  # the dtype of its model, to which it rounds
            value = value.bfloat16().float()
        assert sha256(value.numpy().tobytes()).hexdigest() == digests[name], name


def test_codes_beside_a_branch_go_to_other_consumers(tmp_path):
    """What is encoded anew is encoded of the values that SDNQ decodes, not of its codes alone."""
    before = decoded(FIXTURES / "svd", tmp_path / "d")
    (
        tc.open(FIXTURES / "svd")
        | tc.dequantize("F32")
        | tc.quantize("int8", exclude=["kept"])
        | tc.write(tmp_path / "q.safetensors", convention="comfyui")
    )
    parts = load_file(tmp_path / "q.safetensors")
    for module in (NARROW, WIDE):
        own = parts[f"{module}.weight"].float() * parts[f"{module}.weight_scale"]
        assert (own - before[f"{module}.weight"]).abs().max() < 0.51 * parts[f"{module}.weight_scale"].max()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_codes_do_not_tell_is_refused_by_its_name(kind, tmp_path):
    with pytest.raises(PlanError, match=f"config.json says {REFUSED[kind]}"):
        tc.open(FIXTURES / kind) | tc.dequantize("F32") | tc.write(tmp_path / "d")


def test_codes_in_a_line_are_not_read_where_nothing_tells_their_width(tmp_path):
    (tmp_path / "m").mkdir()
    config = json.loads((FIXTURES / "int4" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    parts = load_file(FIXTURES / "int4" / "model.safetensors")
    save_file(parts, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(PlanError, match=r"net\.narrow\.weight: cannot be decoded"):
        tc.open(tmp_path / "m") | tc.dequantize("F32") | tc.write(tmp_path / "d")


KINDS = [
    ("int8", {}, "int8", -1),
    ("fp8", {}, "float8_e4m3fn", -1),
    ("fp8", {"format": "e5m2"}, "float8_e5m2", -1),
    ("int4", {}, "int4", 64),
    ("affine", {}, "uint4", 64),
    ("affine", {"bits": 2, "group_size": 32}, "uint2", 32),
]

LOSS = {"int4": 0.13, "uint4": 0.13, "uint2": 0.5}


def formula(parts: dict[str, torch.Tensor], module: str, dtype: str, rows: int) -> torch.Tensor:
    """``dequantize_weight`` of sdnq/dequantizer.py, its ``unpack_uint4`` and ``unpack_uint2`` in places."""
    codes, scale = parts[f"{module}.weight"], parts[f"{module}.scale"].reshape(rows, -1, 1)
    if dtype.endswith(("t4", "t2")):
        assert codes.ndim == 1
        bits = int(dtype[-1])
        codes = torch.stack([codes >> at & 2**bits - 1 for at in range(0, 8, bits)], -1)
        codes = codes.float() - (8 if dtype == "int4" else 0)
    values = codes.reshape(rows, scale.shape[1], -1).float() * scale
    if dtype.startswith("uint"):
        values += parts[f"{module}.zero_point"].reshape(rows, -1, 1)
    return values.reshape(rows, -1)


@pytest.mark.parametrize(("scheme", "options", "dtype", "size"), KINDS)
def test_what_is_written_has_the_shapes_that_its_loader_makes(scheme, options, dtype, size, tmp_path):
    (tmp_path / "m").mkdir()
    random = torch.Generator().manual_seed(1)
    weights = {
        f"{NARROW}.weight": torch.randn(32, 64, generator=random).bfloat16(),
        f"{WIDE}.weight": torch.randn(8, 256, generator=random).bfloat16(),
        "net.kept.weight": torch.ones(8, 16).bfloat16(),
    }
    save_file(weights, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "m") | tc.quantize(scheme, exclude=["kept"], **options)
    flow | tc.write(tmp_path / "q", convention="sdnq")
    said = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert json.loads((tmp_path / "q" / "quantization_config.json").read_text()) == said
    assert (said["quant_method"], said["weights_dtype"], said["group_size"]) == ("sdnq", dtype, size)
    assert "net.kept.weight" in said["modules_to_not_convert"]
    parts = load_file(tmp_path / "q" / "model.safetensors")
    for module, columns in ((NARROW, 64), (WIDE, 256)):
        groups = 1 if size < 0 or size >= columns else columns // size
        rows = len(weights[f"{module}.weight"])
        assert parts[f"{module}.scale"].shape == ((rows, groups, 1) if groups > 1 else (rows, 1))
        assert parts[f"{module}.scale"].dtype == torch.float32
    values = decoded(tmp_path / "q", tmp_path / "d")
    for module in (NARROW, WIDE):
        weight = weights[f"{module}.weight"].float()
        own = values[f"{module}.weight"]
        assert torch.equal(own, formula(parts, module, dtype, len(weight)))
        assert (own - weight).norm() < {2: 0.5, 4: 0.13}.get(
            int(dtype[-1]) if dtype[-1] in "24" else 8, 0.06
        ) * weight.norm()
    assert not (tmp_path / "d" / "quantization_config.json").exists()


def test_layers_of_several_kinds_are_named_and_left_out_by_name(tmp_path):
    (tmp_path / "m").mkdir()
    save_file(
        {f"{one}.weight": torch.randn(32, 64) for one in (NARROW, WIDE, "net.third")},
        tmp_path / "m" / "model.safetensors",
    )
    (tmp_path / "m" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "m") | tc.quantize("int4", overrides={"wide": "int8"})
    flow | tc.write(tmp_path / "q", convention="sdnq")
    said = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert said["modules_quant_config"] == {f"{WIDE}.weight": {"weights_dtype": "int8", "group_size": -1}}
    tc.open(tmp_path / "q") | tc.dequantize(only=["wide"]) | tc.write(tmp_path / "d", convention="sdnq")
    for file in ("config.json", "quantization_config.json"):
        content = json.loads((tmp_path / "d" / file).read_text())
        said = content.get("quantization_config", content)
        assert said["modules_quant_config"] == {}
        assert f"{WIDE}.weight" in said["modules_to_not_convert"]


def test_codes_go_to_mlx_and_back_as_they_are(tmp_path):
    """SDNQ's uint4 and the affine codes of MLX are the same numbers under other names."""
    source = FIXTURES / "uint4"
    tc.open(source) | tc.write(tmp_path / "mlx", convention="mlx")
    tc.open(tmp_path / "mlx") | tc.write(tmp_path / "back", convention="sdnq")
    before, after = (load_file(one / "model.safetensors") for one in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
