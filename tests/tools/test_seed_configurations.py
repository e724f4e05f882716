"""What LightX2V's model_converter documents of its configurations runs, with transcode and with the tool.

Keys and values are those of its guide, its README of Wan and its five templates; only paths are filled in.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from model_converter import __main__ as model_converter
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
WAN = ROOT / "fixtures" / "wan_tiny"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
BLOCKS = {"block_0.safetensors", "block_1.safetensors", "non_block.safetensors", INDEX}
MODULES = "{target_modules: [self_attn, cross_attn, ffn]"
FAST = "performance: {parallel: true, device: 'cuda:0', num_workers: 4}"

CASES = {
    # name: (text, files that appear, a warning that must stand or None)
    "template int8 dcu": (
        f"""
version: 1.0
source: {{type: wan_dit, path: SRC, format: safetensors}}
target: {{format: lightx2v, precision: int8, layout: by_block}}
quantization: {{method: int8, options: {MODULES}, per_channel: true, symmetric: true}}}}
output: {{path: OUT, name: wan_dit_int8, copy_metadata: true}}
{FAST}
""",
        {*BLOCKS, "config.json"},
        "name: 'wan_dit_int8' does nothing",
    ),
    "template fp8 nvidia": (
        f"""
version: 1.0
source: {{type: wan_dit, path: SRC, format: safetensors}}
target: {{format: lightx2v, precision: fp8, layout: single_file}}
quantization: {{method: fp8, options: {MODULES}, per_channel: true}}}}
output: {{path: OUT, name: wan_dit_fp8, copy_metadata: true}}
{FAST}
""",
        {"wan_dit_fp8.safetensors", "config.json"},
        None,
    ),
    "template comfyui": (
        f"""
version: 1.0
source: {{type: wan_dit, path: SRC, format: safetensors}}
target: {{format: comfyui, precision: fp8, layout: single_file}}
quantization: {{method: fp8, options: {MODULES}}}}}
output: {{path: OUT, name: wan_dit_comfyui_fp8, copy_metadata: false}}
performance: {{parallel: true, device: 'cuda:0'}}
""",
        {"wan_dit_comfyui_fp8.safetensors"},
        "comfyui_scaled",
    ),
    "template from diffusers": (
        """
version: 1.0
source: {type: wan_dit, path: DIFFUSERS, format: diffusers}
target: {format: lightx2v, layout: by_block}
output: {path: OUT, name: lightx2v_model, copy_metadata: true}
performance: {parallel: true, device: cpu}
""",
        {*BLOCKS, "config.json"},
        "name: 'lightx2v_model' does nothing",
    ),
    "template lora": (
        f"""
version: 1.0
source: {{type: wan_dit, path: SRC, format: safetensors}}
target: {{format: lightx2v, precision: int8, layout: single_file}}
lora: {{enabled: true, paths: [LORA, LORA2], strengths: [1.0, 0.8], alphas: [8.0, 8.0]}}
quantization: {{method: int8, options: {MODULES}}}}}
output: {{path: OUT, name: merged_and_quantized, copy_metadata: true}}
performance: {{parallel: true, device: 'cuda:0'}}
""",
        {"merged_and_quantized.safetensors", "config.json"},
        None,
    ),
    **{
        f"guide {method}": (
            f"""
source: {{type: wan_dit, path: SRC, format: safetensors}}
quantization: {{method: {method}, options: {MODULES}, per_channel: true, symmetric: true}}}}
output: {{path: OUT, name: wan_dit_int8, copy_metadata: true}}
target: {{format: lightx2v, precision: {method}, layout: by_block}}
{FAST}
""",
            {*BLOCKS, "config.json"},
            warning,
        )
        for method, warning in {
            "int8": None,
            "fp8": "options.symmetric does nothing: fp8",
            "mxfp4": "options.per_channel does nothing: mxfp4",
            "nvfp4": "options.per_channel does nothing: nvfp4",
        }.items()
    },
    "guide example 4": (
        f"""
source: {{type: wan_dit, path: SRC}}
quantization: {{method: int8, options: {MODULES}}}}}
output: {{path: OUT, name: wan2.1_i2v_480p_int8}}
""",
        {"wan2.1_i2v_480p_int8.safetensors"},
        None,
    ),
    "guide chunked": (
        f"""
source: {{type: wan_dit, path: SRC}}
target: {{format: lightx2v, layout: chunked}}
quantization: {{method: int8, options: {MODULES}}}}}
output: {{path: OUT, name: w}}
""",
        {"w_part0.safetensors", "config.json"},
        None,
    ),
    "readme int8 on DCU": (
        """
source: {type: wan_dit, path: SRC}
target: {format: lightx2v, layout: by_block}
quantization: {method: int8, backend: dcu}
output: {path: OUT, name: wan_dit_int8_dcu}
performance: {device: 'cuda:0'}
""",
        {*BLOCKS, "config.json"},
        "quantization.backend does nothing",
    ),
    "readme lora for comfyui": (
        """
source: {type: wan_dit, path: SRC}
lora: {enabled: true, paths: [LORA], strengths: [1.0], alphas: [8.0]}
target: {format: comfyui, layout: single_file}
quantization: {method: fp8, backend: nvidia}
output: {path: OUT, name: wan_style_fp8}
""",
        {"wan_style_fp8.safetensors"},
        "comfyui_scaled",
    ),
    "readme to diffusers": (
        """
source: {type: wan_dit, path: SRC}
target: {format: diffusers, layout: chunked}
output: {path: OUT, name: wan}
""",
        {"diffusion_pytorch_model.safetensors", "config.json"},
        "name: 'wan' does nothing",
    ),
    "readme variant": (
        """
source: {type: wan_dit, variant: wan_animate_dit, path: SRC}
target: {format: lightx2v, layout: by_block}
quantization: {method: int8}
performance: {parallel: false, device: cpu}
output: {path: OUT, name: w}
""",
        {*BLOCKS, "config.json"},
        None,
    ),
    "readme only ffn": (
        """
source: {type: wan_dit, path: SRC}
target: {format: lightx2v, layout: single_file}
quantization: {method: fp8, options: {target_modules: [ffn]}}
performance: {parallel: false, device: npu, num_workers: 4}
output: {path: OUT, name: w}
""",
        {"w.safetensors"},
        "parallel: false wins over num_workers: 4",
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The same model as Diffusers spells it, and two LoRAs."""
    from transcode.api import convert, open, write

    folder = tmp_path_factory.mktemp("inputs")
    open(WAN) | convert("diffusers") | write(folder / "diffusers")
    made = torch.Generator().manual_seed(0)
    for name in ("one", "two"):
        base = "diffusion_model.blocks.0.self_attn.q"
        tensors = {
            f"{base}.lora_up.weight": torch.randn(64, 4, generator=made),
            f"{base}.lora_down.weight": torch.randn(4, 64, generator=made),
        }
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize("name", CASES)
def test_documented(name, inputs, cli, digests, tmp_path, capsys):
    text, files, warning = CASES[name]
    paths = {"SRC": WAN, "OUT": tmp_path / "out", "DIFFUSERS": inputs / "diffusers",
             "LORA2": inputs / "two.safetensors", "LORA": inputs / "one.safetensors"}  # fmt: skip
    for word, path in paths.items():
        text = text.replace(word, str(path))
    config = tmp_path / "c.yaml"
    config.write_text(text)
    said = cli("run", "--config", config).err
    if warning is not None:
        assert warning in said
    if "cuda" in text and not torch.cuda.is_available():
        assert "runs on the CPU, which gives the same bytes" in said
    made = digests(tmp_path / "out")
    assert made.keys() == files
    shutil.rmtree(tmp_path / "out")
    # The tool: with the file, and with its paths given besides.
    source = paths["DIFFUSERS" if name == "template from diffusers" else "SRC"]
    for more in ([], ["--source", str(source), "--output", str(tmp_path / "out")]):
        assert model_converter.main(["convert", "--config", str(config), *more]) == 0
        assert digests(tmp_path / "out") == made
    capsys.readouterr()


def test_what_contradicts_is_refused(tmp_path, refused):
    config = {
        "source": {"type": "wan_dit", "path": str(WAN)},
        "output": {"path": str(tmp_path / "out"), "name": "w"},
        "quantization": {"method": "mxfp4", "options": {"per_channel": False}},
    }

    def told(**options):
        config["quantization"]["options"] = options
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        return refused("run", "--config", tmp_path / "c.yaml")

    assert "c.yaml:7: quantization.options.per_channel: mxfp4 has no choice of granularity" in told(
        per_channel=False
    )
    assert "mxfp4 has no choice of symmetric" in told(symmetric=False)
    assert "per_channel: must be true or false" in told(per_channel="yes please")
    assert not (tmp_path / "out").exists()


def test_steps_are_strict(tmp_path, refused):
    head = f"source: {{path: {WAN}}}\nsteps: [{{quantize: int8}}]\n"
    for more, told in {
        f"target: {{layout: by_block}}\noutput: {{path: {tmp_path}/o, name: w}}": "name: 'w' does nothing",
        f"output: {{path: {tmp_path}/o.safetensors, copy_metadata: true}}": "copy_metadata does nothing",
        f"output: {{path: {tmp_path}/o}}\nperformance: {{device: npu}}": "'npu' is no device",
        f"version: 1.0\noutput: {{path: {tmp_path}/o}}": "unknown key 'version'",
    }.items():
        (tmp_path / "c.yaml").write_text(head + more)
        assert told in refused("run", "--config", tmp_path / "c.yaml")


def test_what_recipe_show_prints_is_strict(tmp_path, cli):
    """A configuration is printed as a recipe with steps, which runs and gives the same bytes."""
    text = CASES["template int8 dcu"][0].replace("SRC", str(WAN)).replace("OUT", str(tmp_path / "out"))
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "r.yaml").write_text(cli("recipe", "show", tmp_path / "c.yaml").out)
    cli("run", "--config", tmp_path / "c.yaml")
    made = load_file(tmp_path / "out" / "block_0.safetensors")
    result = cli("run", "--config", tmp_path / "r.yaml", "--force")
    assert "warning" not in result.err
    again = load_file(tmp_path / "out" / "block_0.safetensors")
    assert all(torch.equal(made[name], again[name]) for name in made | again)


def test_configurations_of_deepcompressor_are_told_apart(tmp_path, refused):
    """They say how to calibrate: what they say of the model is read with --config-yaml."""
    (tmp_path / "flux.yaml").write_text(
        "pipeline: {name: flux.1-dev, dtype: torch.bfloat16}\nquant: {calib: {batch_size: 16}}\n"
    )
    told = refused("run", "--config", tmp_path / "flux.yaml", WAN, tmp_path / "o.safetensors")
    assert "flux.yaml:1: this is a configuration of DeepCompressor" in told
    assert "--config-yaml" in told
