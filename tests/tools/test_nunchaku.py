"""The command lines of DeepCompressor's nunchaku backend: every documented example, on a small model."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import make_svdquant
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CONFIG = {
    "_class_name": "FluxTransformer2DModel", "architectures": ["FluxTransformer2DModel"],
    "attention_dropout": None, "guidance_embeds": True, "hidden_size": 3072, "num_attention_heads": 24,
    "num_layers": 1, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quant")
    make_svdquant.save(folder, make_svdquant.make(1, 1, dim=128))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "flux.1-dev"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def recipe(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "flux.1-dev.yaml"
    path.write_text(f"pipeline:\n  name: flux.1-dev\n  path: {model}\n")
    return path


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package as a script imports it from a checkout."""
    monkeypatch.syspath_prepend(str(ROOT))
    import tools.nunchaku

    return tools.nunchaku


def run(tool: str, *args: object, code: int = 0) -> list[str]:
    """Run a tool as documented; returns the commands of transcode that it said."""
    words = [sys.executable, "-m", f"tools.nunchaku.{tool}", *map(str, args)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("transcode ")]


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_convert(quantized: Path, tmp_path: Path, cli) -> None:
    for _ in range(2):  # what exists is replaced
        (said,) = run(
            "convert",
            "--quant-path",
            quantized,
            "--output-root",
            tmp_path / "a",
            "--model-name",
            "flux.1-dev",
        )
    folder = tmp_path / "a" / "flux.1-dev"
    assert sorted(path.name for path in folder.iterdir()) == [
        "transformer_blocks.safetensors", "unquantized_layers.safetensors",
    ]  # fmt: skip
    assert "config" not in metadata(folder / "transformer_blocks.safetensors")
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    cli(*shlex.split(said)[1:])  # the command that it says does the same
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def test_convert_with_metadata(quantized: Path, tmp_path: Path, recipe: Path, model: Path) -> None:
    run(
        "convert", "--quant-path", quantized, "--output-root", tmp_path / "a", "--model-name", "flux.1-dev",
        "--add-metadata", "--config-yaml", recipe, "--model-path", model,
    )  # fmt: skip
    for path in (tmp_path / "a" / "flux.1-dev").iterdir():
        assert json.loads(metadata(path)["config"]) == CONFIG


def test_convert_without_config_goes_on(quantized: Path, tmp_path: Path) -> None:
    run(
        "convert", "--quant-path", quantized, "--output-root", tmp_path / "a", "--model-name", "flux.1-dev",
        "--add-metadata", "--config-yaml", tmp_path / "none.yaml",
    )  # fmt: skip
    assert len(list((tmp_path / "a" / "flux.1-dev").iterdir())) == 2


def test_convert_names_the_output_after_the_model(quantized: Path, tmp_path: Path, model: Path) -> None:
    run("convert", "--quant-path", quantized, "--output-root", tmp_path / "a", "--model-path", model)
    assert (tmp_path / "a" / "flux.1-dev" / "transformer_blocks.safetensors").exists()
    run("convert", "--quant-path", quantized, "--output-root", tmp_path / "a", code=2)


def test_enhance_validate_compare(quantized: Path, tmp_path: Path, recipe: Path, model: Path) -> None:
    run("convert", "--quant-path", quantized, "--output-root", tmp_path / "a", "--model-name", "flux.1-dev")
    file = tmp_path / "a" / "flux.1-dev" / "transformer_blocks.safetensors"
    before = file.read_bytes()
    run("validate_metadata", file, code=1)
    for more in ([], ["--model-path", model]):
        (said,) = run("convert_enhanced", "--safetensors-path", file, "--config-yaml", recipe, *more)
        assert said.startswith("transcode meta embed ")
    assert Path(f"{file}.backup").read_bytes() == before  # that of the first time
    held = metadata(file)
    assert json.loads(held["config"]) == CONFIG
    assert json.loads(held["quantization_config"])["rank"] == 32
    assert json.loads(held["comfy_config"])["model_class"] == "Flux"
    assert run("validate_metadata", file)
    assert len(run("validate_metadata", file, "--verbose", "--compare", f"{file}.backup")) == 3


@pytest.mark.parametrize("args", [["--safetensors-path", "none.safetensors"], []])
def test_enhance_that_fails(quantized: Path, tmp_path: Path, args: list[str]) -> None:
    if not args:
        run("convert", "--quant-path", quantized, "--output-root", tmp_path, "--model-name", "flux.1-dev")
        args = ["--safetensors-path", str(tmp_path / "flux.1-dev" / "transformer_blocks.safetensors")]
    run("convert_enhanced", *args, "--config-yaml", tmp_path / "none.yaml", code=1)


@pytest.mark.parametrize("place", ["transformer/config.json", "config.json", "transformer.config.json"])
def test_load_config_json(old: ModuleType, tmp_path: Path, place: str, capsys) -> None:
    assert old.load_config_json(str(tmp_path)) is None
    assert "Warning: config.json not found" in capsys.readouterr().out
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(CONFIG))
    assert old.load_config_json(str(tmp_path)) == CONFIG
    path.write_text("{")
    assert old.load_config_json(str(tmp_path)) is None


@pytest.mark.parametrize(("dtype", "fp4"), [(torch.bfloat16, False), (torch.float8_e4m3fn, True)])
def test_prepare_metadata(old: ModuleType, dtype: torch.dtype, fp4: bool) -> None:
    """The strings of the fork's own function, as its source says them."""
    whole = json.dumps(CONFIG, separators=(",", ":"))
    kind, group = ("fp4_e2m1_all", 16) if fp4 else ("int4", 64)
    quantization = {
        "method": "svdquant",
        "weight": {
            "dtype": kind,
            "scale_dtype": [None, "fp8_e4m3_nan"] if fp4 else None,
            "group_size": group,
        },
        "activation": {"dtype": kind, "scale_dtype": "fp8_e4m3_nan" if fp4 else None, "group_size": group},
    }
    expected = {
        "architectures": '["FluxTransformer2DModel"]',
        "hidden_size": "3072",
        "num_attention_heads": "24",
        "torch_dtype": "bfloat16",
        "rope_theta": "10000.0",
        "attention_dropout": "None",
        "config": whole,
        "model_class": "NunchakuFluxTransformer2dModel",
        "quantization_config": json.dumps(quantization, separators=(",", ":")),
        "comfy_config": "{}",
        "full_config": whole,
        "metadata_source": "config.json",
        "enhanced_by": "deepcompressor_nunchaku_convert_enhanced",
    }
    tensors = {"a": torch.zeros(2).bfloat16(), "b": torch.zeros(4, 2).to(dtype)}
    assert old.prepare_metadata_from_config(CONFIG, tensors) == expected
    if not fp4:
        assert old.prepare_metadata_from_config(CONFIG) == expected
    other = old.prepare_metadata_from_config(CONFIG, model_class="Other")
    assert other["model_class"] == "Other"


def test_enhance_as_a_function(old: ModuleType, quantized: Path, tmp_path: Path, recipe: Path) -> None:
    run("convert", "--quant-path", quantized, "--output-root", tmp_path / "a", "--model-name", "flux.1-dev")
    file = tmp_path / "a" / "flux.1-dev" / "transformer_blocks.safetensors"
    before = load_file(file)
    assert old.enhance_safetensors_with_config_metadata(str(file), str(recipe)) is True
    assert old.load_safetensors_metadata(str(file))["metadata_source"] == "config.json"
    assert old.validate_metadata(str(file)) is True
    after = load_file(file)
    assert set(after) == set(before)
    assert all(torch.equal(after[name].view(torch.uint8), before[name].view(torch.uint8)) for name in before)
    assert old.enhance_safetensors_with_config_metadata(str(tmp_path / "none"), str(recipe)) is False
    assert old.load_safetensors_metadata(str(tmp_path / "none")) == {}


@pytest.mark.parametrize("module", ["convert", "convert_enhanced", "validate_metadata"])
def test_the_interpreter_has_nothing_to_warn_of(module):
    args = [sys.executable, "-W", "error::RuntimeWarning", "-m", f"tools.nunchaku.{module}", "--help"]
    root = Path(__file__).parents[2]
    done = subprocess.run(args, capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
