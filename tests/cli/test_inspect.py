"""``inspect`` tells what the files hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from tests.laws.gguf_file import gguf


def test_json_is_the_headers(cli, wan):
    found = cli("inspect", wan, "--json").json
    held = {}
    for path in wan.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                part = file.get_slice(name)
                held[name] = (part.get_dtype(), part.get_shape())
    assert {t["name"]: (t["dtype"], t["shape"]) for t in found["tensors"]} == held
    assert found["family"] == "wan_dit"
    assert found["bytes"] == sum(t["nbytes"] for t in found["tensors"])
    index = json.loads((wan / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert found["bytes"] == index["metadata"]["total_size"]
    assert sum(file["tensors"] for file in found["files"]) == len(held) == len(index["weight_map"])
    assert [file["size"] for file in found["files"]] == [
        f.stat().st_size for f in sorted(wan.glob("*.safetensors"))
    ]
    assert found["metadata"] == {"format": "pt"}


def test_the_table_for_people(cli, wan, save):
    out = cli("inspect", wan).out
    assert "blocks.*.ffn.0.weight" in out
    assert "blocks.*.ffn.2.weight" in out
    assert "wan_dit" in out
    assert "config.json" in out
    assert "tensors    87, " in out
    every = cli("inspect", wan, "--all").out
    assert "blocks.1.ffn.2.weight" in every
    odd = save({"scalar": torch.tensor(1.0), "none": torch.empty(0, 3)}, metadata={"k": "v" * 200})
    out = cli("inspect", odd).out
    assert "unknown" in out
    assert "k = vvv" in out


def test_a_filter(cli, wan):
    found = cli("inspect", wan, "blocks.1.ffn", "head", "--json").json
    assert {t["name"] for t in found["tensors"]} == {
        "blocks.1.ffn.0.weight", "blocks.1.ffn.0.bias", "blocks.1.ffn.2.weight", "blocks.1.ffn.2.bias",
        "head.head.weight", "head.head.bias", "head.modulation",
    }  # fmt: skip
    assert found["family"] == "wan_dit"


def test_a_filter_that_matches_nothing_says_so(cli, wan):
    result = cli("inspect", wan, "blocks.1.ffm", "head", "--json")
    assert "'blocks.1.ffm' matches no tensor" in result.err
    assert len(result.json["tensors"]) == 3


def test_what_is_no_checkpoint(refused, tmp_path):
    assert "no such file" in refused("inspect", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("inspect", tmp_path / "empty")
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 5)
    assert "x.safetensors" in refused("inspect", tmp_path / "x.safetensors")


def lines(out: str) -> dict[str, str]:
    """The summary: what stands first in a line -> the first that is said of it."""
    said: dict[str, str] = {}
    for line in out.partition("\n\n")[0].splitlines():
        said.setdefault(line[:11].strip(), line[11:])
    return said


def test_a_weight_and_its_scales_are_one_line(cli, wan, tmp_path):
    out = tmp_path / "o.safetensors"
    cli("run", wan, out, "--scheme", "int8")
    with safe_open(out, "pt") as file:
        sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118
    said = cli("inspect", out).out
    summary = lines(said)
    number = sum(name.endswith(".weight_scale") for name in sizes)
    assert summary["quantized"] == f"{number} tensors as int8, for lightx2v"
    assert "the record in its metadata says lightx2v" in said
    assert summary["made by"].endswith(": quantize int8")
    row = next(line.split() for line in said.splitlines() if line.startswith("blocks.*.ffn.0.weight "))
    both = [f"blocks.{i}.ffn.0.{end}" for i in range(2) for end in ("weight", "weight_scale")]
    assert row[1:3] + row[4:8] == ["2", "x", "I8", "+", "BF16", "scale"]
    assert f"{row[8]} {row[9]}" == f"{sum(sizes[name] for name in both) / 1000:.3g} kB"
    assert not [line for line in said.partition("\n\n")[2].splitlines() if "weight_scale" in line]
    every = cli("inspect", out, "-a").out
    assert all(f"\n{name} " in every for name in sizes)
    told = cli("inspect", out, "--json").json
    assert told["quantized"] == {
        "tensors": number, "as": ["int8"], "conventions": ["lightx2v"],
        "said_by": ["the record in its metadata says lightx2v"],
    }  # fmt: skip
    assert told["made"]["steps"] == ["quantize int8"]
    assert {one["name"] for one in told["tensors"]} == set(sizes)


@pytest.mark.parametrize(
    ("convention", "said"),
    [
        ("comfyui", "'blocks.0.cross_attn.k.comfy_quant' is a marker of comfyui"),
        ("compressed_tensors", "config.json says quant_method 'compressed-tensors'"),
    ],
)
def test_who_says_how_it_is_quantized(convention, said, cli, wan, tmp_path):
    """Without the record, as other programs write it."""
    cli("run", wan, tmp_path / "o", "--scheme", "fp8", "--convention", convention)
    for path in (tmp_path / "o").glob("*.safetensors"):
        cli("meta", "del", path, "transcode")
    summary = lines(cli("inspect", tmp_path / "o").out)
    whose = cli("inspect", tmp_path / "o", "--json").json["quantized"]
    assert convention in whose["conventions"]
    assert said in whose["said_by"]
    assert re.match(r"\d+ tensors", summary["quantized"])
    if convention == "comfyui":
        assert whose["as"] == [f"float8_e4m3fn ({whose['tensors']})"]


def test_what_others_quantized(cli, save):
    parts = {f"layers.{i}.q.W_q": torch.ones(8, 8, dtype=torch.uint8) for i in range(3)}
    parts |= {
        f"layers.{i}.q.{end}": torch.ones(8, 1).half() for i in range(3) for end in ("scale_q", "zero_q")
    }
    path = save(parts | {"norm.weight": torch.ones(8)})
    said = cli("inspect", path).out
    assert lines(said)["quantized"] == "3 tensors as HQQ"
    assert re.search(r"(?m)^layers\.\*\.q\.weight +3 x ", said)


A = torch.ones(4, 4)
KINDS = {
    "LoRA of rank 4 for 2 modules": {
        f"blocks.0.{m}.lora_{x}.weight": A for m in "qk" for x in ("down", "up")
    },
    "loha adapter": {f"lora_unet_a.hada_w{i}_{x}": A for i in (1, 2) for x in "ab"},
    "text encoder": {
        "text_model.encoder.layers.0.mlp.fc1.weight": A,
        "text_model.final_layer_norm.weight": A,
    },
    "VAE": {"encoder.conv_in.weight": A, "decoder.conv_in.weight": A, "quant_conv.weight": A},
    "VAE inside": {
        "first_stage_model.a.weight": A,
        **{f"model.diffusion_model.{i}.b.weight": A for i in "xyz"},
    },
    "text encoder inside": {
        "conditioner.a.weight": A,
        **{f"model.diffusion_model.{i}.b.weight": A for i in "xyz"},
    },
    "ControlNet": {"controlnet_blocks.0.weight": A, "blocks.0.a.weight": A, "blocks.1.a.weight": A},
    "IP-Adapter": {"image_proj.proj.weight": A, "ip_adapter.1.to_k_ip.weight": A},
    "textual inversion": {"emb_params": A},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_is(kind, cli, save):
    path = save({name: tensor.clone() for name, tensor in KINDS[kind].items()})
    assert lines(cli("inspect", path).out)["is"] == kind
    assert cli("inspect", path, "--json").json["kinds"] == [kind]


def test_a_model_is_none_of_these(cli, wan):
    assert "is" not in lines(cli("inspect", wan).out)
    assert "quantized" not in lines(cli("inspect", wan).out)


def test_a_calibration(cli, tmp_path):
    torch.save({"absmax": {f"blocks.{i}.q.weight": torch.tensor(1.5) for i in range(3)}}, tmp_path / "c.pt")
    assert lines(cli("inspect", tmp_path / "c.pt").out)["is"] == "calibration"


def test_an_adapter_of_peft(cli, save, tmp_path):
    save({"base_model.model.a.weird": A}, "p/adapter_model.safetensors")
    (tmp_path / "p" / "adapter_config.json").write_text("{}")
    assert lines(cli("inspect", tmp_path / "p").out)["is"] == "adapter"


@pytest.mark.parametrize("name", ["m.gguf", "m.safetensors"])
def test_gguf_is_read_whatever_its_name(name, cli, tmp_path):
    held = {"general.architecture": ("string", "wan"), "x.tokens": ("array", ("string", ["a"] * 99))}
    (tmp_path / name).write_bytes(gguf([("w", 8, (2, 64), bytes(4 * 34))], held))
    shown = lines(cli("inspect", tmp_path / name).out)
    assert shown["quantized"] == "1 tensor as Q8_0 (1), for gguf"
    assert shown["dtypes"] == "Q8_0 136 B (1)"
    assert "x.tokens = [99 x string]" in cli("inspect", tmp_path / name).out


def test_inspect_loads_no_numpy(wan):
    code = (
        "import sys\nfrom transcode.cli import main\n"
        "try:\n    main(['inspect', sys.argv[1]])\n"
        "except SystemExit:\n    pass\n"
        "print([name for name in ('numpy', 'numba', 'torch', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(wan)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("scheme", "convention"),
    [
        ("nvfp4", "compressed_tensors"),
        ("fp8", "modelopt"),
        ("nvfp4", "modelopt"),
        ("fp8", "comfyui"),
    ],
)
def test_the_family_of_codes_that_have_names_of_their_own(
    scheme, convention, cli, wan, tmp_path, monkeypatch
):
    cli("run", wan, tmp_path / "o", "--scheme", scheme, "--convention", convention)
    assert cli("inspect", tmp_path / "o", "--json").json["family"] == "wan_dit"
    if scheme == "nvfp4":
        monkeypatch.setenv("COLUMNS", "80")
        assert re.search(r"(?m)^blocks\S+q\S*\.weight .* U8 \+ 2 scales ", cli("inspect", tmp_path / "o").out)


def test_the_shapes_of_convolutions_leave_room(cli, save, monkeypatch):
    """Of 60 columns names kept 24, whatever the shapes beside them took."""
    names = [f"encoder.down_blocks.{i}.resnets.0.conv{i}.conv.{leaf}" for i in (1, 2) for leaf in "ab"]
    path = save({name: torch.zeros(11, 11 + i, 3, 13, 13) for i, name in enumerate(names)}, "m.safetensors")
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("COLUMNS", "60")
    shown = cli("inspect", path.name).out
    assert max(map(len, shown.splitlines())) <= 60
    assert "[11,14,3,13,13]" in shown
