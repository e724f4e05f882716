"""LightX2V's converter.py: every example of its documentation runs, and means a command of transcode."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from convert import converter, keys
from convert.equivalent import arguments
from convert.flags import parser
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from transcode.recipe import parse

ROOT = Path(__file__).parents[2]
WAN = ROOT / "fixtures" / "wan_tiny"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
TARGET = re.compile(r"^blocks\.\d+\.(self_attn|cross_attn|ffn)\.")


@pytest.fixture
def convert(tmp_path, capsys):
    """Call the converter in this process, with the tiny Wan as its source unless another is named."""

    def call(line: str, *, source: object = WAN, output: object = tmp_path / "out", code: int = 0):
        capsys.readouterr()
        words = ["--source", str(source), "--output", str(output), *shlex.split(line)]
        assert converter.main(words) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        call.out, call.err = out, err
        return Path(str(output))

    return call


@pytest.fixture(scope="session")
def source():
    tensors = {}
    for file in sorted(WAN.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


@pytest.fixture
def lora(tmp_path, source):
    """Two LoRAs in Wan's names, the first without alphas."""

    def make(name: str, module: str, alpha: float | None, seed: int) -> Path:
        made = torch.Generator().manual_seed(seed)
        weight = source[f"{module}.weight"]
        rows, columns = weight.shape
        tensors = {
            f"diffusion_model.{module}.lora_up.weight": torch.randn(rows, 4, generator=made),
            f"diffusion_model.{module}.lora_down.weight": torch.randn(4, columns, generator=made),
        }
        if alpha is not None:
            tensors[f"diffusion_model.{module}.alpha"] = torch.tensor(alpha)
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    return (
        make("style.safetensors", "blocks.0.self_attn.q", None, 1),
        make("motion.safetensors", "blocks.1.ffn.0", 2.0, 2),
    )


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        part = load_file(file)
        assert not found.keys() & part.keys()
        found.update(part)
    return found


F32 = "--keep-dtype F32 --convention lightx2v --model wan_dit"
BF16 = "--keep-dtype BF16 --convention lightx2v --model wan_dit"
ONE = "--layout single_file"

# What the documentation shows, the command of transcode, and the files: {name} of a file, or all of a folder.
EXAMPLES = {
    "int8 by block": (
        "--output_ext .safetensors --output_name wan_int8 --linear_type int8 --model_type wan_dit --quantized"
        " --save_by_block",
        f"DST --scheme int8 {F32} --layout by_block --no-copy-metadata",
        {"block_0.safetensors", "block_1.safetensors", "non_block.safetensors", INDEX},
    ),
    "int8": (
        "--output_ext .safetensors --output_name wan_int8 --linear_type int8 --model_type wan_dit --quantized"
        " --single_file",
        f"DST/wan_int8.safetensors --scheme int8 {F32}",
        {"wan_int8.safetensors"},
    ),
    "fp8 by block": (
        "--output_ext .safetensors --output_name wan_fp8 --linear_type fp8 --non_linear_dtype torch.bfloat16"
        " --model_type wan_dit --quantized --save_by_block",
        f"DST --scheme fp8 {BF16} --layout by_block --no-copy-metadata",
        {"block_0.safetensors", "block_1.safetensors", "non_block.safetensors", INDEX},
    ),
    "fp8": (
        "--output_ext .safetensors --output_name wan_fp8 --linear_type fp8 --non_linear_dtype torch.bfloat16"
        " --model_type wan_dit --quantized --single_file",
        f"DST/wan_fp8.safetensors --scheme fp8 {BF16}",
        {"wan_fp8.safetensors"},
    ),
    "scaled fp8 for ComfyUI": (
        "--output_ext .safetensors --output_name wan --linear_type fp8 --non_linear_dtype torch.bfloat16"
        " --model_type wan_dit --quantized --single_file --comfyui_mode",
        "DST/wan.safetensors --scheme fp8 --keep-dtype BF16 --convention comfyui_scaled --model wan_dit",
        {"wan.safetensors"},
    ),
    "full fp8 for ComfyUI": (
        "--output_ext .safetensors --output_name wan --linear_type fp8 --non_linear_dtype torch.bfloat16"
        " --model_type wan_dit --quantized --single_file --comfyui_mode --full_quantized",
        "DST/wan.safetensors --cast F8_E4M3 --saturate --convention lightx2v",
        {"wan.safetensors"},
    ),
    "fp4": (
        "-o_n wan -t wan_dit --linear_type mxfp4 --quantized --single_file --device cuda:0",
        f"DST/wan.safetensors --scheme mxfp4 {F32}",
        {"wan.safetensors"},
    ),
    "nvfp4": (
        "-o_n wan --linear_type nvfp4 --quantized --single_file --no-parallel",
        f"DST/wan.safetensors --scheme nvfp4 {F32} --workers 1",
        {"wan.safetensors"},
    ),
    "mxfp8": (
        "-o_n wan --linear_type mxfp8 --quantized -b --parallel --copy_no_weight_files",
        f"DST --scheme mxfp8 {F32} --layout by_block",
        {"block_0.safetensors", "block_1.safetensors", "non_block.safetensors", INDEX, "config.json"},
    ),
    "to Diffusers": (
        "--output_ext .safetensors --model_type wan_dit --direction forward --chunk-size 50",
        "DST --to diffusers --model wan_dit --convention lightx2v --max-tensors 50 --name converted"
        " --layout chunked --no-copy-metadata",
        {"converted_part0.safetensors", "converted_part1.safetensors", INDEX},
    ),
    "one file of several": (
        "--output_ext .safetensors --output_name merged_model --single_file",
        "DST/merged_model.safetensors --convention lightx2v",
        {"merged_model.safetensors"},
    ),
    "chunks, without saying so": (
        "",
        "DST --convention lightx2v --layout chunked --max-tensors 100 --name converted --no-copy-metadata",
        {"converted_part0.safetensors"},
    ),
    "no chunks": (
        "-c 0 --quantized --linear_type int8",
        f"DST --scheme int8 {F32} --layout chunked --max-tensors 10000000 --name converted"
        " --no-copy-metadata",
        {"converted_part0.safetensors"},
    ),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_documented(example, convert, cli, digests, tmp_path):
    line, same, files = EXAMPLES[example]
    made = convert(line)
    assert {path.name for path in made.iterdir()} == files
    cli("run", WAN, *same.replace("DST", str(tmp_path / "new")).split())
    assert digests(made) == digests(tmp_path / "new")
    # What it printed is a command that runs, and does the same again, over what exists.
    first = convert.out.splitlines()[0]
    before = digests(made)
    assert first.startswith("transcode run ")
    cli(*shlex.split(first)[1:])
    assert digests(made) == before


MERGES = {
    "one": ("--lora_path STYLE --lora_strength 1.0", "--lora STYLE"),
    "two": ("--lora_path STYLE MOTION --lora_strength 1.0 0.8", "--lora STYLE:1 --lora MOTION:0.8"),
    "one strength": ("--lora_path STYLE MOTION --lora_strength 0.5", "--lora STYLE:0.5 --lora MOTION:0.5"),
    "alphas": ("--lora_path STYLE MOTION --alpha 8", "--lora STYLE:1:8 --lora MOTION:1:8"),
    "then fp8": (
        "--lora_path STYLE --lora_strength 1.0 --quantized --linear_type fp8",
        f"--lora STYLE --scheme fp8 {F32}",
    ),
    "then fp8 for ComfyUI": (
        "--lora_path STYLE --quantized --linear_type fp8 --comfyui_mode",
        "--lora STYLE --scheme fp8 --keep-dtype F32 --model wan_dit --convention comfyui_scaled",
    ),
    "then full fp8": (
        "--lora_path STYLE --quantized --linear_type fp8 --comfyui_mode --full_quantized",
        "--lora STYLE --cast F8_E4M3 --saturate",
    ),
    "auto": ("--lora_path STYLE --lora_key_convert auto", "--lora STYLE"),
    "nothing to convert": ("--lora_path STYLE --lora_key_convert convert", "--lora STYLE"),
    "converted": (
        "--direction forward --lora_path STYLE --lora_key_convert auto",
        "--to diffusers --model wan_dit --lora STYLE",
    ),
}


@pytest.mark.parametrize("example", MERGES)
def test_documented_loras(example, convert, cli, digests, lora, tmp_path):
    line, same = (
        text.replace("STYLE", str(lora[0])).replace("MOTION", str(lora[1])) for text in MERGES[example]
    )
    made = convert(f"--model_type wan_dit --output_name merged --single_file {line}")
    convention = [] if "--convention" in same else ["--convention", "lightx2v"]
    cli("run", WAN, tmp_path / "new" / "merged.safetensors", *same.split(), *convention)
    assert digests(made) == digests(tmp_path / "new")


@pytest.mark.parametrize("mode", ["same", "convert"])
def test_lora_modes_that_only_a_recipe_says(mode, convert, cli, digests, lora, tmp_path, source):
    style = lora[0]
    if mode == "same":
        # A LoRA in the names that the model has after its conversion.
        renamed = tmp_path / "renamed.safetensors"
        save_file({k.replace("self_attn.q", "attn1.to_q"): v for k, v in load_file(style).items()}, renamed)
        style = renamed
    made = convert(
        f"--direction forward --lora_path {style} --lora_strength 0.5 --lora_key_convert {mode} --single_file"
    )
    heading, _, recipe = convert.out.partition("\n")
    assert heading.startswith("# transcode run --config RECIPE")
    recipe = recipe[: recipe.index("note  ")]
    assert parse(recipe).steps[1].keys == mode
    saved = tmp_path / "recipe.yaml"
    saved.write_text(recipe)
    before = digests(made)
    cli("run", "--config", saved)
    assert digests(made) == before
    cli("run", WAN, tmp_path / "plain.safetensors", "--to", "diffusers")
    merged, plain = tensors_of(made), load_file(tmp_path / "plain.safetensors")
    changed = {name for name in plain if not torch.equal(merged[name], plain[name])}
    assert changed == {"blocks.0.attn1.to_q.weight"}
    pair = load_file(lora[0])
    up, down = (pair[f"diffusion_model.blocks.0.self_attn.q.lora_{end}.weight"] for end in ("up", "down"))
    weight = source["blocks.0.self_attn.q.weight"]
    expected = (weight.float() + 0.5 * (up @ down)).to(weight.dtype)
    # torch may sum in another order, and round the other way then.
    assert torch.allclose(merged["blocks.0.attn1.to_q.weight"].float(), expected.float(), rtol=2**-7)


def old_block(name: str) -> str:
    """Which file the converter put a tensor into."""
    match = re.search(r"blocks\.(\d+)\.", name)
    return f"block_{match[1]}.safetensors" if match else "non_block.safetensors"


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_files_hold_what_the_converter_put_there(kind, convert, source):
    made = convert(f"--linear_type {kind} --quantized --save_by_block")
    stored = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}[kind]
    top = {"int8": 127, "fp8": 448}[kind]
    expected: dict[str, tuple[torch.dtype, torch.Size]] = {}
    for name, tensor in source.items():
        if tensor.dim() == 2 and TARGET.match(name):
            expected[name] = (stored, tensor.shape)
            expected[f"{name}_scale"] = (tensor.dtype, torch.Size([len(tensor), 1]))
        else:
            expected[name] = (torch.float32, tensor.shape)
    files = {path.name: load_file(path) for path in made.glob("*.safetensors")}
    found = {name: (t.dtype, t.shape) for file in files.values() for name, t in file.items()}
    assert found == expected
    assert all(old_block(name) == file for file, tensors in files.items() for name in tensors)
    for name, tensor in source.items():
        mine = files[old_block(name)]
        if f"{name}_scale" not in mine:
            assert torch.equal(mine[name], tensor.float()), name
            continue
        scale = mine[f"{name}_scale"].float()
        assert torch.allclose(scale, tensor.float().abs().amax(1, keepdim=True) / top, rtol=2**-8, atol=0)
        # int8: half a step; fp8: half a unit of three bits of mantissa, or of the least step.
        error = (mine[name].float() * scale - tensor.float()).abs()
        bound = scale / 2 if kind == "int8" else (tensor.float().abs() * 2**-4).maximum(scale * 2**-10)
        assert bool((error <= bound * 1.01).all()), name


def test_index_is_that_of_the_files(convert):
    made = convert("--linear_type int8 --quantized -c 7 --output_name w")
    index = json.loads((made / INDEX).read_text())
    files = sorted(made.glob("w_part*.safetensors"))
    assert len(files) > 2
    assert {path.name for path in files} == {f"w_part{j}.safetensors" for j in range(len(files))}
    assert index["metadata"]["total_size"] == sum(path.stat().st_size for path in files)
    held = {}
    for path in files:
        with safe_open(path, "pt") as file:
            assert len(file.keys()) <= 7
            held.update(dict.fromkeys(file.keys(), path.name))
    assert index["weight_map"] == held


def test_comfyui_layout(convert, source):
    made = tensors_of(convert("--linear_type fp8 --quantized --single_file --comfyui_mode --output_name w"))
    marker = made.pop("scaled_fp8")
    assert marker.dtype == torch.float8_e4m3fn
    assert marker.view(torch.uint8).tolist() == [0, 0]
    targets = {name for name, tensor in source.items() if tensor.dim() == 2 and TARGET.match(name)}
    scales = {name.replace(".weight", ".scale_weight") for name in targets}
    assert made.keys() == source.keys() | scales
    for name in targets:
        scale = made[name.replace(".weight", ".scale_weight")]
        assert scale.shape == ()
        assert torch.allclose(scale, source[name].float().abs().max() / 448)
        assert made[name].dtype == torch.float8_e4m3fn


def test_comfyui_full(convert, source):
    made = tensors_of(
        convert("--linear_type fp8 --quantized --single_file --comfyui_mode --full_quantized --output_name w")
    )
    assert made.keys() == source.keys()
    for name, tensor in source.items():
        assert torch.equal(made[name].float(), tensor.float().to(torch.float8_e4m3fn).float()), name


def test_comfyui_int8_is_what_comfyui_reads(convert):
    made = tensors_of(convert("--linear_type int8 --quantized --single_file --comfyui_mode --output_name w"))
    assert "scaled_fp8" not in made
    text = bytes(made["blocks.0.ffn.0.comfy_quant"].tolist()).decode()
    assert json.loads(text) == {"format": "int8_tensorwise"}


def test_comfyui_takes_more_of_qwen_image(convert, save):
    names = ["transformer_blocks.0.img_mod.1", "transformer_blocks.0.txt_mod.1",
             "transformer_blocks.0.attn.add_q_proj", "transformer_blocks.0.img_mlp.net.0.proj",
             "img_in", "txt_in", "proj_out", "norm_out.linear", "norm_out.other"]  # fmt: skip
    model = save({f"{name}.weight": torch.ones(16, 16) for name in names})
    line = "-t qwen_image_dit --linear_type fp8 --quantized --single_file"
    plain = tensors_of(convert(line, source=model, output=model.parent / "a"))
    comfy = tensors_of(convert(f"{line} --comfyui_mode", source=model, output=model.parent / "b"))
    blocks = set(names[:4])
    assert {n.removesuffix(".weight_scale") for n in plain if n.endswith("_scale")} == blocks
    scaled = {n.removesuffix(".scale_weight") for n in comfy if n.endswith(".scale_weight")}
    assert scaled == blocks | set(names[4:8])


def test_there_and_back(convert, source, tmp_path):
    there = convert("--direction forward --chunk-size 100", output=tmp_path / "diffusers")
    names = tensors_of(there).keys()
    # The converter left these as they were.
    assert {"blocks.0.scale_shift_table", "blocks.1.scale_shift_table", "scale_shift_table"} <= names
    assert "blocks.0.attn2.add_k_proj.weight" in names
    back = tensors_of(convert("--direction backward --save_by_block", source=there, output=tmp_path / "back"))
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], source[name]) for name in source)


def test_quantizes_in_diffusers_names_too(convert):
    names = tensors_of(convert("--direction forward --linear_type int8 --quantized --single_file")).keys()
    scaled = {name for name in names if name.endswith("_scale")}
    assert len(scaled) == 24
    assert {"blocks.0.attn1.to_q.weight_scale", "blocks.1.ffn.net.0.proj.weight_scale"} <= scaled
    assert "blocks.0.scale_shift_table" in names


def wan_with(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in WAN.glob("*.safetensors"):
        tensors.update(load_file(file))
    return {**tensors, **more}


def test_only_the_audio_adapter_is_left_out(convert, save):
    model = save(
        wan_with(**{
            "ca.0.to_q.weight": torch.ones(4, 4),
            "audio_proj.weight": torch.ones(4, 4),
            "cap_embedder.weight": torch.ones(4, 4),
            "latent_scale": torch.ones(4),
            "ids": torch.arange(4),
        })
    )  # fmt: skip
    made = tensors_of(convert("--linear_type int8 --quantized --single_file", source=model))
    assert "--drop ca --drop '*audio*'" in convert.out
    assert not any(name.startswith(("ca.", "audio")) for name in made)
    # "ca" is in these names, but no word of them; and integers are not cast.
    assert {"cap_embedder.weight", "latent_scale"} <= made.keys()
    assert made["ids"].dtype == torch.int64
    kept = tensors_of(
        convert("--linear_type int8 --quantized --single_file --ignore-keys none", source=model)
    )
    assert {"ca.0.to_q.weight", "audio_proj.weight"} <= kept.keys()
    # Nothing is dropped where nothing is quantized.
    assert tensors_of(convert("--single_file", source=model)).keys() >= {"ca.0.to_q.weight"}


def test_keys_of_the_user(convert):
    made = tensors_of(
        convert(
            "--linear_type fp8 --quantized --single_file --key-idx 2 --target_keys self_attn,ffn"
            " --ignore_keys head,nowhere mod --ignore-quant-keys blocks.0. --non-linear-dtype torch.float16"
        )
    )
    scaled = {name.removesuffix(".weight_scale") for name in made if name.endswith("_scale")}
    assert scaled == {f"blocks.1.{m}" for m in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
                                                "ffn.0", "ffn.2")}  # fmt: skip
    assert not any("head" in name for name in made)
    assert "blocks.0.modulation" in made
    assert made["blocks.0.ffn.0.weight"].dtype == torch.float16
    assert "--ignore-keys nowhere: is in no name" in convert.err
    assert "--ignore-keys mod: means whole words: not 'blocks.0.modulation'" in convert.err


def test_another_place_in_the_name(convert, save):
    model = save({f"a.b.c.{name}.weight": torch.ones(4, 4) for name in ("attn", "norm")})
    line = "--linear_type int8 --quantized --single_file --key_idx 3 --target-keys attn --ignore-keys none"
    made = tensors_of(convert(line, source=model))
    assert {n for n in made if n.endswith("_scale")} == {"a.b.c.attn.weight_scale"}
    # The same word in another place is not meant.
    assert convert(line.replace("3", "1"), source=model, output=model.parent / "b", code=2)
    assert "matches no tensor" in convert.err


@pytest.mark.parametrize(
    ("family", "names", "scaled", "gone"),
    [
        ("wan_t5", ["token_embedding", "blocks.0.attn.q", "blocks.0.ffn.fc1", "blocks.0.ffn.fc2",
                    "blocks.0.ffn.gate.0"], {1, 2, 3, 4}, set()),
        ("wan_clip", ["visual.transformer.0.attn.to_qkv", "visual.transformer.0.mlp.0", "visual.head",
                      "visual.patch_embedding", "textual.blocks.0.attn.q"], {0, 1}, {4}),
        ("qwen25vl_llm", ["visual.blocks.0.attn.qkv", "visual.blocks.0.mlp.gate_proj", "lm_head",
                          "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj"], {3, 4}, {0, 1}),
        ("self_forcing", ["model.blocks.0.self_attn.q", "model.blocks.0.cross_attn.k", "model.blocks.0.ffn.0",
                          "model.head.head"], {0, 1, 2}, set()),
        ("h3", ["transformer_blocks.0.adaln_proj.linear", "transformer_blocks.0.attn.to_q",
                "transformer_blocks.0.ff.net.0.proj", "proj_out"], {0, 1, 2}, set()),
    ],
)  # fmt: skip
def test_other_families(family, names, scaled, gone, convert, save):
    tensors = {f"{name}.weight": torch.ones(32, 32, dtype=torch.bfloat16) for name in names}
    if family == "self_forcing":
        tensors["model.blocks.0.modulation"] = torch.ones(1, 6, 32)
    made = tensors_of(
        convert(f"-t {family} --linear_type int8 --quantized --single_file", source=save(tensors))
    )
    found = {name.removesuffix(".weight_scale") for name in made if name.endswith("_scale")}
    assert found == {names[number] for number in scaled}
    assert not any(f"{names[number]}.weight" in made for number in gone)
    plain = {name for name in tensors if name in made and f"{name}_scale" not in made}
    wanted = torch.bfloat16 if family == "h3" else torch.float32
    assert all(made[name].dtype == wanted for name in plain)


def test_animate_keeps_its_adapter(convert, save):
    extra = {f"face_adapter.fuser_blocks.{i}.{m}.weight": torch.ones(8, 8, dtype=torch.bfloat16)
             for i in (0, 1) for m in ("linear1_kv", "linear1_q", "linear2", "other")}  # fmt: skip
    model = save(wan_with(**extra, **{"motion_encoder.fc.weight": torch.ones(8, 8)}))
    made = convert("-t wan_animate_dit --linear_type int8 --quantized --save_by_block", source=model)
    files = {path.name: load_file(path) for path in made.glob("*.safetensors")}
    # Adapter 1 acts behind block 5.
    assert files["block_5.safetensors"].keys() == {n for n in extra if ".1." in n}
    assert files["block_5.safetensors"]["face_adapter.fuser_blocks.1.linear2.weight"].dtype == torch.bfloat16
    assert files["block_5.safetensors"]["face_adapter.fuser_blocks.1.other.weight"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["int8", "fp8", "nvfp4"])
def test_pth(kind, convert, source, tmp_path):
    line = f"--output_name w --linear_type {kind} --non_linear_dtype torch.bfloat16 --quantized"
    made = convert(f"--output_ext .pth --copy_no_weight_files {line}")
    assert {path.name for path in made.iterdir()} == {"w.pth", "config.json"}
    expected = tensors_of(convert(f"--single_file {line}", output=tmp_path / "safe"))
    found = torch.load(made / "w.pth", weights_only=True)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        both = (one.reshape(-1).view(torch.uint8) for one in (found[name], tensor))
        assert torch.equal(*both), name
        assert found[name].untyped_storage().nbytes() == tensor.nbytes, "one storage to a tensor"


def test_pth_to_pth(convert, save, tmp_path):
    """As the documentation does it with text encoders; the source's suffix and root are those of torch."""
    names = ["blocks.0.attn.q", "blocks.0.ffn.gate.0", "blocks.0.ffn.fc1", "blocks.0.ffn.fc2", "norm"]
    tensors = {f"{name}.weight": torch.randn(8, 8) for name in names} | {"empty": torch.zeros(0, 3)}
    torch.save(tensors, tmp_path / "t5.pth")
    made = convert(
        "-o_e .pth -o_n t5-int8 --linear_type int8 --non_linear_dtype torch.bfloat16 -t wan_t5 --quantized",
        source=tmp_path / "t5.pth",
    )
    found = torch.load(made / "t5-int8.pth", weights_only=True)
    assert found["blocks.0.attn.q.weight"].dtype == torch.int8
    assert found["norm.weight"].dtype == torch.bfloat16
    assert found["empty"].shape == (0, 3)


def test_self_forcing_reads_the_average(convert, tmp_path):
    def model(value: float) -> dict[str, torch.Tensor]:
        names = ["blocks.0.self_attn.q", "blocks.0.cross_attn.k", "blocks.0.ffn.0"]
        made = {f"model.{name}.weight": torch.full((8, 8), value) for name in names}
        return {**made, "model.blocks.0.modulation": torch.ones(1, 6, 8)}

    torch.save({"generator": model(1), "generator_ema": model(2), "critic": model(3)}, tmp_path / "sf.pt")
    made = tensors_of(convert("-t self_forcing --single_file", source=tmp_path / "sf.pt"))
    assert made["model.blocks.0.ffn.0.weight"].unique().tolist() == [2]


def test_a_second_run_replaces_and_files_lie_among_others(convert, tmp_path):
    out = tmp_path / "models"
    convert("--output_name a --single_file", output=out)
    convert("--output_name b --single_file --linear_type int8 --quantized", output=out)
    before = (out / "a.safetensors").read_bytes()
    convert("--output_name a --single_file --linear_type fp8 --quantized", output=out)
    assert {path.name for path in out.iterdir()} == {"a.safetensors", "b.safetensors"}
    assert (out / "a.safetensors").read_bytes() != before


def test_dry_run(convert):
    for line in ("--single_file", "--output_ext .pth"):
        made = convert(f"{line} --linear_type int8 --quantized --dry-run")
        assert "quantize int8" in convert.out
        assert not made.exists()


REFUSED = {
    "--quantized": "--quantized: to what?",
    "--single_file --save_by_block": "--single_file contradicts --save_by_block",
    "--quantized --linear_type int8 --comfyui_mode --full_quantized": "without scales would be lost",
    "-c -1": "--chunk-size: -1 is not a number of tensors",
    "--lora_path a b c --lora_strength 1 2": "--lora_strength: 2 values for 3 files",
    "--lora_path a b --lora_alpha 1 2 3": "--lora_alpha: 3 values for 2 files",
    "--quantized --linear_type mxfp4 --comfyui_mode --single_file": "comfyui",
    "-t wan_t5 -d forward": "wan_t5",
    "--lora_path nowhere.safetensors": "nowhere.safetensors",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line, convert):
    made = convert(line, code=2)
    assert REFUSED[line] in convert.err
    assert convert.err.startswith("transcode: error: ")
    assert len(convert.err.splitlines()) == 1
    assert not made.exists()


def test_refused_sources(convert, tmp_path):
    convert("--quantized --linear_type int8", source=tmp_path / "nowhere", code=2)
    assert "no such file or folder" in convert.err
    (tmp_path / "file").write_text("")
    convert("--single_file", output=tmp_path / "file", code=2)
    assert "is a file" in convert.err


def test_names_that_no_rule_knows(convert, save, tmp_path):
    model = save(wan_with(mystery=torch.ones(2)))
    convert("--direction forward --single_file", source=model, code=2)
    assert "mystery" in convert.err
    assert "--allow-unmatched" in convert.err
    made = convert("--direction forward --single_file --allow_unmatched", source=model)
    assert "mystery" in tensors_of(made)


WARNED = {
    "--linear_type int8": "--linear_type: does nothing without --quantized",
    "--key-idx 0": "--key_idx: does nothing without --quantized",
    "--quantized --linear_type fp8 --full_quantized": "--full_quantized: does nothing without --comfyui_mode",
    "--single_file -c 5": "--chunk-size: does nothing with another layout",
    "--output_ext .pth -b": "--save_by_block: a .pth file holds everything",
    "--device cuda:99": "device cuda:99: ",
    "--device npu:0": "device: 'npu:0' is no device: runs on the CPU",
    "-t h3 -d forward": "--direction: h3 has the same names",
}


@pytest.mark.parametrize("line", WARNED)
def test_warned(line, convert):
    convert(f"{line} -n")
    assert f"transcode: warning: {WARNED[line]}" in convert.err


def test_both_spellings_of_every_flag():
    known = {option for action in parser()._actions for option in action.option_strings}
    for option in known:
        if option.startswith("--"):
            word = option.removeprefix("--")
            assert f"--{word.replace('_', '-')}" in known
            assert f"--{word.replace('-', '_')}" in known or word in ("no-parallel", "dry-run")
    words = ["-s", "a", "-o", "b", "--linear_dtype", "torch.float8_e4m3fn", "--quantized", "--bits", "8"]
    assert parser().parse_args(words).linear_type == "fp8"


def test_commands_are_parsed_back():
    """A command is only said where it means the recipe, to the last option."""

    def said(steps: str) -> list[str] | None:
        return arguments(parse(f"source: {{path: a}}\noutput: {{path: o}}\nsteps: {steps}"))

    assert said("[lora: {paths: [y], strengths: [0.5]}]") == ["run", "a", "o", "--lora", "y:0.5"]
    assert said("[lora: {paths: [y], strengths: [0.123456789]}]") is not None
    assert said("[lora: {paths: ['y:1']}]") is None, "y:1:1 is the LoRA y with strength and alpha"
    assert said("[drop: [a], cast: BF16]") == ["run", "a", "o", "--drop", "a", "--cast", "BF16"]
    assert said("[cast: BF16, drop: [a]]") is None
    assert said("[keep: [a]]") is None


class TestKeys:
    def test_words(self):
        names = ["ca.0.weight", "audio_ca.weight", "scale.weight", "ca1.weight", "local", "CAT", "x.ca"]
        made, warnings = keys.patterns("--f", ["ca"], names)
        assert made == ["re:(?<![A-Za-z])ca(?![A-Za-z])"]
        assert len(warnings) == 1
        assert "'scale.weight' and 1 more" in warnings[0]

    def test_numbers(self):
        names = [f"blocks.{i}.w" for i in (0, 1, 10, 21)]
        assert keys.patterns("--f", ["blocks.1"], names)[0] == ["blocks.1"]
        assert keys.patterns("--f", ["blocks.1."], names)[0] == ["blocks.1"]

    def test_plain_where_it_means_the_same(self):
        assert keys.patterns("--f", ["audio"], ["audio.a", "b"]) == (["audio"], [])
        assert keys.patterns("--f", ["audio"], ["audio_proj.a", "b"])[0] == [
            "re:(?<![A-Za-z])audio(?![A-Za-z])"
        ]

    def test_patterns_of_the_user(self):
        names = ["audio_proj.a", "b"]
        assert keys.patterns("--f", ["*udio*", "re:^b$"], names) == (["*udio*", "re:^b$"], [])

    def test_lists(self):
        assert keys.listed(None) is None
        assert keys.listed(["none"]) == []
        assert keys.listed(["a,b", "c"]) == ["a", "b", "c"]

    def test_component(self):
        regex = re.compile(keys.at_component(2, ["attn", "a.b"]).removeprefix("re:"))
        assert regex.search("blocks.0.attn.weight")
        assert not regex.search("blocks.0.self_attn.weight")
        assert not regex.search("x.blocks.0.attn.weight")
        assert regex.search("blocks.0.attn")


@pytest.mark.parametrize("how", ["script", "module"])
def test_from_a_checkout(how, tmp_path):
    """Neither an installation nor a folder to stand in is needed for the script."""
    words = ["--source", str(WAN), "--output", str(tmp_path / "out"), "--output_name", "w"]
    words += ["--linear_type", "int8", "--quantized", "--single_file", "--model_type", "wan_dit"]
    if how == "script":
        command, folder = [sys.executable, str(ROOT / "tools" / "convert" / "converter.py")], tmp_path
    else:
        command, folder = [sys.executable, "-m", "tools.convert.converter"], ROOT
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("transcode run ")
    assert (tmp_path / "out" / "w.safetensors").exists()


def test_pth_leaves_nothing_behind_when_it_fails(convert, tmp_path, monkeypatch):
    from convert import pickled

    line = "--output_ext .pth --output_name w --quantized --linear_type int8"
    made = convert(line)
    before = (made / "w.pth").read_bytes()

    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        convert(line, code=2)
    assert "w.pth: cannot be written: PytorchStreamWriter" in convert.err
    with monkeypatch.context() as patch:
        patch.setattr(pickled, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=7)))
        convert(line, code=2)
    assert "7 are left" in convert.err

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stop)
        convert(line, code=130)
    assert {path.name for path in made.iterdir()} == {"w.pth"}
    assert (made / "w.pth").read_bytes() == before


def test_pth_refuses_what_torch_has_not(convert, tmp_path):
    """Six bits to an element: a dtype of safetensors only."""
    header = b'{"a":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3]}}'
    (tmp_path / "six.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0")
    convert("--output_ext .pth --output_name w", source=tmp_path / "six.safetensors", code=2)
    assert "w.pth: a: F6_E3M2 cannot be saved with torch" in convert.err


def test_the_guide_maps_every_flag():
    guide = (ROOT / "tools" / "MIGRATING.md").read_text()
    section = guide[guide.index("## converter.py") : guide.index("## model_converter")]
    for action in parser()._actions:
        if "--help" not in action.option_strings:
            assert any(option in section for option in action.option_strings), action.option_strings
