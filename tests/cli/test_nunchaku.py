"""``transcode nunchaku``: the command line, its files and its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import make_svdquant
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

BLOCKS, REST = "transformer_blocks.safetensors", "unquantized_layers.safetensors"
NAME = "flux.1-dev"


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small checkpoint in INT4 and one in FP4, without config.json."""
    folders = {}
    for kind in ("int4", "fp4"):
        folders[kind] = tmp_path_factory.mktemp(kind)
        files = make_svdquant.make(1, 1, dim=128, rank=48, float_point=kind == "fp4")
        make_svdquant.save(folders[kind], files)
    return folders


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Diffusers folder, of which only the transformer's config.json is there."""
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(make_svdquant.config(1, 1, 128), indent=2))
    return folder


def convert(cli, folder: Path, root: Path, *more: object, code: int = 0):
    return cli(
        "nunchaku",
        "convert",
        "--quant-path",
        folder,
        "--output-root",
        root,
        "--model-name",
        NAME,
        *more,
        code=code,
    )


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def contents(*paths: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    found = {}
    for path in paths:
        for name, tensor in load_file(path).items():
            raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            assert name not in found
            found[name] = tensor.dtype, tuple(tensor.shape), raw
    return found


@pytest.mark.parametrize("kind", ["int4", "fp4"])
def test_two_files(cli, quantized: dict[str, Path], tmp_path: Path, kind: str) -> None:
    convert(cli, quantized[kind], tmp_path, *(["--float-point"] if kind == "fp4" else []))
    folder = tmp_path / NAME
    assert sorted(path.name for path in folder.iterdir()) == [BLOCKS, REST]
    blocks = load_file(folder / BLOCKS)
    assert all("transformer_blocks." in name for name in blocks)
    assert set(load_file(folder / REST)) == {
        f"{name}.{part}"
        for name in ("x_embedder", "context_embedder", "proj_out")
        for part in ("weight", "bias")
    }
    scales = blocks["single_transformer_blocks.0.qkv_proj.wscales"]
    assert scales.dtype == (torch.float8_e4m3fn if kind == "fp4" else torch.bfloat16)


@pytest.mark.parametrize("kind", ["int4", "fp4"])
def test_one_file(cli, quantized: dict[str, Path], model: Path, tmp_path: Path, kind: str) -> None:
    flags = ["--float-point"] if kind == "fp4" else []
    convert(cli, quantized[kind], tmp_path / "two", *flags)
    convert(cli, quantized[kind], tmp_path / "one", *flags, "--merge", "--model-path", model)
    made = tmp_path / "one" / f"{NAME}.safetensors"
    parts = [tmp_path / "two" / NAME / name for name in (BLOCKS, REST)]
    assert contents(made) == contents(*parts)
    held = metadata(made)
    assert json.loads(held["config"]) == make_svdquant.config(1, 1, 128)
    assert held["model_class"] == "NunchakuFluxTransformer2dModel"
    assert json.loads(held["comfy_config"])["model_class"] == "Flux"
    group, dtype, outer = (16, "fp4_e2m1_all", "fp8_e4m3_nan") if kind == "fp4" else (64, "int4", None)
    assert json.loads(held["quantization_config"]) == {
        "method": "svdquant",
        "weight": {"dtype": dtype, "scale_dtype": outer and [None, outer], "group_size": group},
        "activation": {"dtype": dtype, "scale_dtype": outer, "group_size": group},
        "rank": 48,
    }
    cli("meta", "validate", made, "--profile", "nunchaku")


def test_config_by_the_yaml_of_deepcompressor(
    cli, quantized: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "flux.yaml"
    recipe.write_text(f"pipeline:\n  name: flux.1-dev\n  path: {model}\n")
    convert(cli, quantized["int4"], tmp_path, "--add-metadata", "--config-yaml", recipe)
    for name in (BLOCKS, REST):
        held = metadata(tmp_path / NAME / name)
        assert held["metadata_source"] == "config.json"
        assert json.loads(held["quantization_config"])["rank"] == 48


def test_config_in_the_hub_cache(cli, quantized: dict[str, Path], model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "flux.yaml"
    recipe.write_text("pipeline:\n  name: flux.1-dev\n")
    snapshot = tmp_path / "hub" / "models--black-forest-labs--FLUX.1-dev" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    convert(cli, quantized["int4"], tmp_path, "--merge", "--config-yaml", recipe)
    assert "config" in metadata(tmp_path / f"{NAME}.safetensors")


@pytest.mark.parametrize("flags", [["--merge"], ["--add-metadata"]])
@pytest.mark.parametrize("where", [[], ["--model-path", "nowhere"], ["--config-yaml", "nowhere.yaml"]])
def test_without_config_it_goes_on(
    cli, quantized: dict[str, Path], tmp_path: Path, flags: list[str], where: list[str]
) -> None:
    result = convert(cli, quantized["int4"], tmp_path, *flags, *where)
    assert "transcode: warning: " in result.err
    assert "goes on without it" in result.err
    made = tmp_path / f"{NAME}.safetensors" if "--merge" in flags else tmp_path / NAME / BLOCKS
    held = metadata(made)
    assert "config" not in held
    assert json.loads(held["quantization_config"])["rank"] == 48


@pytest.mark.parametrize("where", [[], ["--model-path", "nowhere"], ["--config", "nowhere.json"]])
def test_strict_needs_a_config(cli, quantized: dict[str, Path], tmp_path: Path, where: list[str]) -> None:
    result = convert(cli, quantized["int4"], tmp_path / "out", "--merge", "--strict", *where, code=2)
    assert "no config.json" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flag", ["--config-yaml", "--model-path", "--config", "--comfy-config", "--model-class"]
)
def test_flags_of_metadata_need_some(cli, quantized: dict[str, Path], tmp_path: Path, flag: str) -> None:
    result = convert(cli, quantized["int4"], tmp_path / "out", flag, "x", code=2)
    assert f"{flag} is for the metadata; add --merge or --add-metadata" in result.err


def test_a_broken_config_is_told(cli, quantized: dict[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("[1]")
    result = convert(cli, quantized["int4"], tmp_path, "--merge", "--config", config)
    assert f"{config}: is a JSON array, not an object" in result.err
    convert(cli, quantized["int4"], tmp_path, "--merge", "--config", config, "--strict", "--force", code=2)


def test_split_and_merge_are_inverse(cli, quantized: dict[str, Path], model: Path, tmp_path: Path) -> None:
    convert(cli, quantized["int4"], tmp_path, "--merge", "--model-path", model)
    one = tmp_path / f"{NAME}.safetensors"
    cli("nunchaku", "split", one, tmp_path / "parts")
    parts = [tmp_path / "parts" / name for name in (BLOCKS, REST)]
    assert contents(*parts) == contents(one)
    assert all("transformer_blocks." in name for name in contents(parts[0]))
    for sources in (parts, parts[::-1], [tmp_path / "parts"]):
        again = tmp_path / "again.safetensors"
        cli("nunchaku", "merge", *sources, again, "--force")
        assert contents(again) == contents(one)
        assert metadata(again)["config"] == metadata(one)["config"]


def test_merge_takes_the_config_beside(cli, quantized: dict[str, Path], model: Path, tmp_path: Path) -> None:
    convert(cli, quantized["fp4"], tmp_path, "--float-point")
    folder = tmp_path / NAME
    (model / "transformer" / "config.json").rename(folder / "config.json")
    (folder / "comfy_config.json").write_text('{"model_class": "Mine"}')
    result = cli("nunchaku", "merge", folder / BLOCKS, folder / REST, tmp_path / "one.safetensors")
    assert "warning" not in result.err
    held = metadata(tmp_path / "one.safetensors")
    assert json.loads(held["comfy_config"]) == {"model_class": "Mine"}
    assert json.loads(held["quantization_config"])["weight"]["dtype"] == "fp4_e2m1_all"


def test_merge_without_config_warns(cli, quantized: dict[str, Path], tmp_path: Path) -> None:
    convert(cli, quantized["int4"], tmp_path)
    folder = tmp_path / NAME
    result = cli("nunchaku", "merge", folder / BLOCKS, folder / REST, tmp_path / "one.safetensors")
    assert "no config.json" in result.err
    assert "model_class" in metadata(tmp_path / "one.safetensors")


def test_merge_refuses_a_name_twice(cli, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"x.weight": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    out = tmp_path / "c.safetensors"
    result = cli("nunchaku", "merge", tmp_path / "a.safetensors", tmp_path / "b.safetensors", out, code=2)
    assert f"b.safetensors: x.weight: is also in {tmp_path / 'a.safetensors'}" in result.err
    assert not out.exists()


def test_split_refuses_other_models(cli, tmp_path: Path) -> None:
    save_file({"x.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    result = cli("nunchaku", "split", tmp_path / "a.safetensors", tmp_path / "out", code=2)
    assert f"all its tensors belong into {REST}" in result.err
    assert not (tmp_path / "out").exists()


def test_merge_names_a_file_and_split_a_folder(cli, tmp_path: Path) -> None:
    assert "is no .safetensors file" in cli("nunchaku", "merge", tmp_path, tmp_path / "out", code=2).err
    assert "is no folder" in cli("nunchaku", "split", tmp_path, tmp_path / "out.safetensors", code=2).err


def test_dry_run_writes_nothing(cli, quantized: dict[str, Path], tmp_path: Path) -> None:
    result = convert(cli, quantized["int4"], tmp_path / "out", "--dry-run", "--json")
    assert not (tmp_path / "out").exists()
    assert [file["name"] for file in result.json["files"]] == [REST, BLOCKS]
    fates = {tensor["name"]: tensor["fate"] for tensor in result.json["tensors"]}
    assert fates["transformer_blocks.0.qkv_proj"] == [
        "pack: svdq_int4 of attn.to_q + attn.to_k + attn.to_v, smoothed, rank 48"
    ]
    assert "pack: svdq_int4" in convert(cli, quantized["int4"], tmp_path / "out", "-n", "-v").out


def test_quiet_says_nothing(cli, quantized: dict[str, Path], tmp_path: Path) -> None:
    result = convert(cli, quantized["int4"], tmp_path, "-q")
    assert (result.out, result.err) == ("", "")


def test_existing_output_is_kept_unless_forced(cli, quantized: dict[str, Path], tmp_path: Path) -> None:
    convert(cli, quantized["int4"], tmp_path)
    before = (tmp_path / NAME / BLOCKS).read_bytes()
    assert "exists already" in convert(cli, quantized["int4"], tmp_path, code=2).err
    convert(cli, quantized["int4"], tmp_path, "--force", "--workers", 3)
    assert (tmp_path / NAME / BLOCKS).read_bytes() == before


def test_output_root_is_the_quant_path_without_it(cli, quantized: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "q"
    folder.mkdir()
    for path in quantized["int4"].iterdir():
        (folder / path.name).hardlink_to(path)
    cli("nunchaku", "convert", "--quant-path", folder, "--model-name", NAME)
    assert (folder / NAME / BLOCKS).exists()


@pytest.mark.parametrize("name", ["sdxl", "pixart-sigma"])
def test_other_models_are_refused(cli, quantized: dict[str, Path], tmp_path: Path, name: str) -> None:
    result = cli("nunchaku", "convert", "--quant-path", quantized["int4"], "--model-name", name, code=2)
    assert f"no model called '{name}'" in result.err
    assert "the name must hold flux" in result.err


@pytest.mark.parametrize("name", ["../flux", "a/flux"])
def test_model_name_is_no_path(cli, quantized: dict[str, Path], name: str) -> None:
    result = cli("nunchaku", "convert", "--quant-path", quantized["int4"], "--model-name", name, code=2)
    assert "is a path, not a name" in result.err


@pytest.mark.parametrize("missing", ["model.pt", "scale.pt"])
def test_missing_files_are_named(cli, quantized: dict[str, Path], tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "q"
    folder.mkdir()
    for path in quantized["int4"].iterdir():
        if path.name != missing:
            (folder / path.name).hardlink_to(path)
    assert f"{folder / missing}: is missing" in convert(cli, folder, tmp_path, code=2).err


def test_a_value_that_does_not_fit_leaves_nothing(cli, tmp_path: Path) -> None:
    files = make_svdquant.make(1, 0, dim=128)
    files["model.pt"]["transformer_blocks.0.attn.to_k.weight"][3, 4] = 100
    make_svdquant.save(tmp_path / "q", files)
    result = convert(cli, tmp_path / "q", tmp_path / "out", code=2)
    assert "transformer_blocks.0.attn.to_k.weight: 100 at row 3, column 4" in result.err
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_folder_can_be_inspected_and_opened(cli, quantized: dict[str, Path]) -> None:
    out = cli("inspect", quantized["int4"], "--all").out
    assert "scale.pt/transformer_blocks.0.attn.to_q.weight.scale.0" in out
    assert "branch.pt/transformer_blocks.0.attn.to_q.a.weight" in out
