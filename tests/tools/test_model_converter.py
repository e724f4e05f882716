"""LightX2V's model_converter: every template and documented configuration runs, and means a recipe."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from model_converter import __main__ as model_converter
from safetensors.torch import load_file, save_file

from transcode.recipe import load, parse

ROOT = Path(__file__).parents[2]
WAN = ROOT / "fixtures" / "wan_tiny"
TEMPLATES = ROOT / "tools" / "model_converter" / "configs" / "templates"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
BLOCKS = {"block_0.safetensors", "block_1.safetensors", "non_block.safetensors", INDEX}


@pytest.fixture
def convert(capsys):
    """Call it in this process."""

    def call(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        assert model_converter.main([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        call.err = err
        return out

    return call


@pytest.fixture
def loras(tmp_path):
    """Two LoRAs in Wan's names, without alphas."""
    made = torch.Generator().manual_seed(0)
    for name in ("style", "motion"):
        base = "diffusion_model.blocks.0.self_attn.q"
        save_file(
            {
                f"{base}.lora_up.weight": torch.randn(64, 4, generator=made),
                f"{base}.lora_down.weight": torch.randn(4, 64, generator=made),
            },
            tmp_path / f"{name}.safetensors",
        )
    return tmp_path / "style.safetensors", tmp_path / "motion.safetensors"


def stated(config: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


# Template: the files it writes from the tiny Wan, and how many tensors become which dtype.
MADE = {
    "wan_dit_int8_dcu": ({*BLOCKS, "config.json"}, torch.int8, 24),
    "wan_dit_int8": ({"wan_dit_int8.safetensors", "config.json"}, torch.int8, 24),
    "wan_dit_fp8": ({"wan_dit_fp8.safetensors", "config.json"}, torch.float8_e4m3fn, 24),
    "wan_dit_fp8_by_block": ({*BLOCKS, "config.json"}, torch.float8_e4m3fn, 24),
    "wan_dit_fp8_chunked": ({"wan_dit_fp8_part0.safetensors", "config.json"}, torch.float8_e4m3fn, 24),
    "wan_dit_fp8_comfyui": ({"wan_dit_fp8.safetensors"}, torch.float8_e4m3fn, 25),
    "wan_dit_mxfp4": ({"wan_dit_mxfp4.safetensors", "config.json"}, torch.uint8, 22),
    "wan_dit_nvfp4": ({"wan_dit_nvfp4.safetensors", "config.json"}, torch.uint8, 20),
    "wan_dit_to_diffusers": ({"diffusion_pytorch_model.safetensors", "config.json"}, torch.int8, 0),
    "wan_dit_from_diffusers": ({*BLOCKS, "config.json"}, torch.int8, 0),
    "wan_dit_lora_fp8": ({"wan_dit_style_fp8.safetensors", "config.json"}, torch.float8_e4m3fn, 24),
}


def test_every_template_is_tested():
    assert {path.stem for path in TEMPLATES.iterdir()} == MADE.keys()


@pytest.mark.parametrize("name", MADE)
def test_templates(name, convert, cli, digests, loras, tmp_path):
    source = WAN
    if name == "wan_dit_from_diffusers":
        source = tmp_path / "diffusers"
        cli("run", WAN, source, "--to", "diffusers")
    text = (TEMPLATES / f"{name}.yaml").read_text().replace("cuda:0", "cpu")
    for path, given in (("style", loras[0]), ("motion", loras[1])):
        text = text.replace(f"/path/to/{path}.safetensors", str(given))
    for old in ("Wan2.1-I2V-14B-480P-Diffusers/transformer", "Wan2.1-I2V-14B-480P", "Wan2.1-T2V-14B"):
        text = text.replace(f"/path/to/{old}\n", f"{source}\n")
    for old in ("/path/to/output", "/path/to/ComfyUI/models/diffusion_models"):
        text = text.replace(old, str(tmp_path / "out"))
    assert "/path" not in text
    config = tmp_path / "config.yaml"
    config.write_text(text)
    out = convert("--config", config)
    # A template is a recipe as it stands, and is said to be.
    assert out.splitlines()[0] == f"transcode run --config {config} --force"
    made = tmp_path / "out"
    files, dtype, number = MADE[name]
    assert {path.name for path in made.iterdir()} == files
    found = [t for path in made.glob("*.safetensors") for t in load_file(path).values() if t.dtype == dtype]
    assert len(found) == number
    before = digests(made)
    cli("run", "--config", config, "--force")
    assert digests(made) == before


def test_template_with_other_paths(convert, cli, digests, tmp_path):
    """As documented, but for the paths; a GPU that is not there is no obstacle."""
    template = TEMPLATES / "wan_dit_int8_dcu.yaml"
    out = convert("--config", template, "--source", WAN, "--output", tmp_path / "out")
    command = out.splitlines()[0]
    assert command.startswith(f"transcode run {WAN} {tmp_path / 'out'} --scheme int8 ")
    before = digests(tmp_path / "out")
    cli(*shlex.split(command)[1:])
    assert digests(tmp_path / "out") == before
    assert "device: cuda:0" in template.read_text()
    if not torch.cuda.is_available():
        assert "runs on the CPU, which gives the same bytes" in convert.err


@pytest.mark.parametrize("name", MADE)
def test_templates_are_recipes(name):
    recipe = load(TEMPLATES / f"{name}.yaml")
    assert recipe.sink is not None
    assert str(recipe.sink.dst).startswith("/path/to/")


def contents(folder: Path) -> dict[str, object]:
    """Every byte of all tensors and other files, but not the headers' record of how they were made."""
    found: dict[str, object] = {}
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            for name, tensor in load_file(path).items():
                raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                found[f"{path.name}: {name}"] = (tensor.dtype, tensor.shape, raw)
        else:
            found[path.name] = path.read_bytes()
    return found


def documented(name: str, tmp_path: Path, style: Path) -> tuple[dict, str]:
    """A configuration as the documentation shows it, and the command of transcode that means the same."""
    source = {"type": "wan_dit", "path": str(WAN)}
    out, new = str(tmp_path / "out"), str(tmp_path / "new")
    lora = {"enabled": True, "paths": [str(style)], "strengths": [1.0], "alphas": [8.0]}
    match name:
        case "guide":
            config = {
                "source": {**source, "format": "safetensors"},
                "quantization": {
                    "method": "int8",
                    "options": {
                        "target_modules": ["self_attn", "cross_attn", "ffn"],
                        "per_channel": True,
                        "symmetric": True,
                    },
                },
                "target": {"format": "lightx2v", "precision": "int8", "layout": "by_block"},
                "output": {"path": out, "name": "wan", "copy_metadata": True},
                "performance": {"parallel": True, "device": "cpu", "num_workers": 2},
            }
            same = f"{new} --scheme int8 --granularity channel --symmetric --model wan_dit --layout by_block"
            same += " --targets self_attn,cross_attn,ffn"
        case "int8 for DCU":
            config = {
                "version": "1.0",
                "source": source,
                "target": {"format": "lightx2v", "layout": "by_block"},
                "quantization": {"method": "int8", "backend": "dcu"},
                "output": {"path": out, "name": "wan_dit_int8_dcu"},
            }
            same = f"{new} --scheme int8 --model wan_dit --layout by_block"
        case "short":
            config = {
                "source": source,
                "quantization": {
                    "method": "int8",
                    "options": {"target_modules": ["self_attn", "cross_attn", "ffn"]},
                },
                "output": {"path": out, "name": "wan"},
            }
            same = f"{new}/wan.safetensors --scheme int8 --model wan_dit --targets self_attn,cross_attn,ffn"
        case "LoRA and fp8 for ComfyUI":
            config = {
                "source": source,
                "lora": lora,
                "target": {"format": "comfyui", "layout": "single_file"},
                "quantization": {"method": "fp8", "backend": "nvidia", "options": {"per_channel": True}},
                "output": {"path": out, "name": "wan_style_fp8"},
            }
            same = f"{new}/wan_style_fp8.safetensors --lora {style}:1:8 --scheme fp8 --model wan_dit"
            same += " --convention comfyui_scaled"
        case "to Diffusers":
            config = {
                "source": source,
                "target": {"format": "diffusers", "layout": "chunked"},
                "output": {"path": out, "name": "wan"},
            }
            same = f"{new} --to diffusers --model wan_dit --layout chunked --convention diffusers"
        case "variant":
            config = {
                "source": {"type": "wan_dit", "variant": "self_forcing", "path": str(WAN), "format": "auto"},
                "target": {"format": "lightx2v", "layout": "single_file"},
                "quantization": {
                    "method": "mxfp4",
                    "options": {"per_channel": True, "symmetric": True, "target_modules": ["self_attn"]},
                },
                "output": {"path": out, "name": "w"},
                "performance": {"parallel": False, "device": "npu", "num_workers": 4},
            }
            same = f"{new}/w.safetensors --scheme mxfp4 --model self_forcing --targets self_attn --workers 1"
        case _:
            raise AssertionError(name)
    return config, same


@pytest.mark.parametrize(
    "name",
    ["guide", "int8 for DCU", "short", "LoRA and fp8 for ComfyUI", "to Diffusers", "variant"],
)
def test_documented_configurations(name, convert, cli, digests, loras, tmp_path):
    config, same = documented(name, tmp_path, loras[0])
    out = convert("convert", "--config", stated(config, tmp_path / "old.yaml"))
    first = out.splitlines()[0]
    assert first.startswith(("transcode run ", "# transcode run --config RECIPE"))
    cli("run", WAN, *shlex.split(same))
    # A recipe may say the spelling of its source, a command line cannot: the record of it differs.
    alike = contents if name == "to Diffusers" else digests
    assert alike(tmp_path / "out") == alike(tmp_path / "new")
    made = digests(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    cli("run", "--config", tmp_path / "old.yaml")
    assert digests(tmp_path / "out") == made
    # Again, over what exists.
    convert("--config", tmp_path / "old.yaml")
    assert alike(tmp_path / "out") == alike(tmp_path / "new")


QUICK = {
    "--quantization int8 --output OUT": "OUT/converted_model.safetensors --scheme int8",
    "--target-format lightx2v --quantization int8 --backend dcu --output OUT --layout by_block":
        "OUT --scheme int8 --layout by_block",
    "--quantization fp8 --target-format comfyui --output OUT --output-name wan":
        "OUT/wan.safetensors --scheme fp8 --convention comfyui_scaled",
    "--quantization int8 --target-format comfyui --output OUT":
        "OUT/converted_model.safetensors --scheme int8 --convention comfyui",
    "--lora-paths STYLE MOTION --lora-strengths 1.0 0.8 --output OUT --quantization nvfp4 --workers 2":
        "OUT/converted_model.safetensors --lora STYLE --lora MOTION:0.8 --scheme nvfp4",
    "--lora-paths STYLE MOTION --lora-strengths 0.5 --lora-alphas 2 --output OUT":
        "OUT/converted_model.safetensors --lora STYLE:0.5:2 --lora MOTION:0.5:2 --convention lightx2v",
    "--target-format diffusers --layout chunked --output OUT":
        "OUT --to diffusers --layout chunked --convention diffusers",
    "--target-format diffusers --quantization int8 --output OUT":
        "OUT/converted_model.safetensors --to diffusers --scheme int8 --convention lightx2v",
    "--quantization mxfp8 --device cpu --output OUT":
        "OUT/converted_model.safetensors --scheme mxfp8",
}  # fmt: skip


@pytest.mark.parametrize("line", QUICK)
def test_quick_mode(line, convert, cli, digests, loras, tmp_path):
    def words(text: str, out: str) -> list[str]:
        text = text.replace("OUT", str(tmp_path / out))
        return text.replace("STYLE", str(loras[0])).replace("MOTION", str(loras[1])).split()

    convert("convert", "--model", "wan_dit", "--source", WAN, *words(line, "out"))
    same = words(QUICK[line], "new")
    cli("run", WAN, *same, *(["--model", "wan_dit"] if "--scheme" in same or "--to" in same else []))
    alike = contents if "--to" in same else digests
    assert alike(tmp_path / "out") == alike(tmp_path / "new")


def test_quick_mode_names_its_output(convert, tmp_path):
    source = tmp_path / "Wan2.1"
    source.symlink_to(WAN)
    out = convert("convert", "--model", "wan_dit", "--source", f"{source}/", "--quantization", "int8")
    assert (tmp_path / "Wan2.1_int8" / "converted_model.safetensors").exists()
    assert out.startswith(f"transcode run {source}/ {tmp_path}/Wan2.1_int8/converted_model.safetensors ")


def test_dry_run(convert, tmp_path):
    out = convert("--model", "wan_dit", "--source", WAN, "--quantization", "int8", "--output", tmp_path, "-n")
    assert "quantize int8" in out
    assert list(tmp_path.iterdir()) == []


def refused(convert, *words: object) -> str:
    assert convert(*words, code=2) == ""
    assert convert.err.startswith("transcode: error: ")
    assert len(convert.err.splitlines()) == 1
    return convert.err


def test_refused(convert, tmp_path):
    good = {"source": {"path": str(WAN)}, "target": {"format": "lightx2v", "layout": "single_file"},
            "output": {"path": str(tmp_path / "out"), "name": "w"}}  # fmt: skip

    def tell(**changes: object) -> str:
        return refused(convert, "--config", stated({**good, **changes}, tmp_path / "bad.yaml"))

    assert "nowhere.yaml" in refused(convert, "--config", tmp_path / "nowhere.yaml")
    assert "colour" in tell(colour="red")
    assert "bad.yaml" in tell(colour="red")
    assert "bad.yaml:2: source: must be a mapping" in tell(source=[1])
    assert "int9" in tell(quantization={"method": "int9"})
    assert "granularity" in tell(
        quantization={"method": "nvfp4", "options": {"per_channel": False}}
    )  # there is no such thing, and false says something
    assert "wan_dat" in tell(source={"type": "wan_dat", "path": str(WAN)})
    assert "contradicts" in tell(
        target={"format": "lightx2v", "layout": "single_file", "precision": "fp8"},
        quantization={"method": "int8"},
    )
    assert not (tmp_path / "out").exists()
    # A mistake in what is a recipe already has its line.
    (tmp_path / "bad.yaml").write_text(
        f"source: {{path: {WAN}}}\ntarget: {{format: lightx2v, layout: single_file}}\n"
        "output: {path: out.safetensors, force: true}\ncolour: red\n"
    )
    assert "bad.yaml:4: unknown key 'colour'" in refused(convert, "--config", tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    "words", ["", "--model wan_dit", "--model wan_dat --source x", "--config a --model wan_dit --source x"]
)
def test_usage(words, capsys):
    with pytest.raises(SystemExit) as exited:
        model_converter.main(words.split())
    assert exited.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_templates_say_nothing_without_effect():
    for template in TEMPLATES.iterdir():
        text = template.read_text().replace("cuda:0", "cpu")
        assert parse(text, file=template.name).write().remarks == ()


def test_what_a_configuration_means():
    recipe = parse(
        """
version: 1.0
source: {path: a, format: auto}
output: {path: b, name: c}
lora: {enabled: true, paths: [x, y], strengths: [0.5], alphas: [0, 2]}
quantization: {method: null}
"""
    )
    assert recipe.write().dst == "b/c.safetensors"
    assert recipe.write().layout == "single_file"
    assert [step.config() for step in recipe.steps] == [
        {"paths": ["x", "y"], "strengths": [0.5, 0.5], "alphas": [None, 2.0]}
    ]


@pytest.mark.parametrize("how", ["module", "folder"])
def test_from_a_checkout(how, tmp_path):
    command = {
        "module": ["-m", "tools.model_converter"],
        "folder": [str(ROOT / "tools" / "model_converter")],
    }[how]
    template = TEMPLATES / "wan_dit_int8_dcu.yaml"
    words = ["--config", str(template), "--source", str(WAN), "--output", str(tmp_path / "o")]
    done = subprocess.run(
        [sys.executable, *command, *words],
        cwd=ROOT if how == "module" else tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("transcode run ")
    assert {path.name for path in (tmp_path / "o").iterdir()} == {*BLOCKS, "config.json"}


def test_the_guide_maps_every_flag_and_template():
    guide = (ROOT / "tools" / "MIGRATING.md").read_text()
    section = guide[guide.index("## model_converter") : guide.index("## nunchaku")]
    for action in model_converter._parser()._actions:
        if "--dry-run" not in action.option_strings:
            options = [
                option for option in action.option_strings if option not in ("--help", "-h", "--debug")
            ]
            assert not options or any(option in section for option in options), options
    assert all(f"`{name}`" in section for name in MADE)
