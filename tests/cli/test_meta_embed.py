"""``transcode meta embed`` and ``validate``: files that nunchaku can load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

CONFIG = {
    "_class_name": "FluxTransformer2DModel", "attention_head_dim": 128, "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": True, "in_channels": 64, "joint_attention_dim": 4096, "num_attention_heads": 24,
    "num_layers": 19, "num_single_layers": 38, "out_channels": None, "patch_size": 1,
    "pooled_projection_dim": 768,
}  # fmt: skip
# What published single-file Flux checkpoints of nunchaku carry.
COMFY = {
    "model_class": "Flux",
    "model_config": {
        "axes_dim": [16, 56, 56], "context_in_dim": 4096, "depth": 19, "depth_single_blocks": 38,
        "disable_unet_model_creation": True, "guidance_embed": True, "hidden_size": 3072,
        "image_model": "flux", "in_channels": 16, "mlp_ratio": 4.0, "num_heads": 24, "out_channels": 16,
        "patch_size": 2, "qkv_bias": True, "theta": 10000, "vec_in_dim": 768,
    },
}  # fmt: skip
INT4 = {
    "method": "svdquant",
    "weight": {"dtype": "int4", "scale_dtype": None, "group_size": 64},
    "activation": {"dtype": "int4", "scale_dtype": None, "group_size": 64},
    "rank": 48,
}
FP4 = {
    "method": "svdquant",
    "weight": {"dtype": "fp4_e2m1_all", "scale_dtype": [None, "fp8_e4m3_nan"], "group_size": 16},
    "activation": {"dtype": "fp4_e2m1_all", "scale_dtype": "fp8_e4m3_nan", "group_size": 16},
    "rank": 48,
}


def tensors(precision: str) -> dict[str, torch.Tensor]:
    """One linear of 128 x 256 as nunchaku stores it, with a low-rank branch of 48."""
    group, dtype = (64, torch.bfloat16) if precision == "int4" else (16, torch.float8_e4m3fn)
    name = "transformer_blocks.0.qkv_proj"
    return {
        f"{name}.qweight": torch.zeros(128, 128, dtype=torch.int8),
        f"{name}.wscales": torch.ones(256 // group, 128).to(dtype),
        f"{name}.lora_down": torch.ones(256, 48).bfloat16(),
        f"{name}.lora_up": torch.ones(128, 48).bfloat16(),
    }


def metadata(path: Path) -> dict[str, str] | None:
    with safe_open(path, "pt") as file:
        return file.metadata()


def write(path: Path, value: object = CONFIG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))
    return path


@pytest.fixture
def file(save) -> Path:
    return save(tensors("int4"))


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


class TestEmbed:
    @pytest.mark.parametrize(("precision", "quantization"), [("int4", INT4), ("fp4", FP4)])
    def test_everything_that_nunchaku_reads(self, cli, save, tmp_path: Path, precision, quantization) -> None:
        file = save(tensors(precision))
        cli("meta", "embed", file, "--config", write(tmp_path / "config.json"))
        found = metadata(file)
        assert json.loads(found["config"]) == CONFIG
        assert found["config"] == found["full_config"] == json.dumps(CONFIG, separators=(",", ":"))
        assert json.loads(found["quantization_config"]) == quantization
        assert json.loads(found["comfy_config"]) == COMFY
        assert found["model_class"] == "NunchakuFluxTransformer2dModel"
        assert found["metadata_source"] == "config.json"
        assert found["enhanced_by"] == "deepcompressor_nunchaku_convert_enhanced"
        assert found["format"] == "pt"
        assert cli("meta", "validate", file, "--profile", "nunchaku", "--json").json["valid"]

    def test_typed_behind_the_file(self, cli, save, refused, tmp_path: Path) -> None:
        config = write(tmp_path / "model" / "config.json")
        said = []
        for words in ([config], ["--config", config], [tmp_path / "r.yaml"]):
            (tmp_path / "r.yaml").write_text(f"pipeline: {{path: '{config.parent}'}}\n")
            file = save(tensors("int4"))
            cli("meta", "embed", file, *words)
            said.append(metadata(file))
        assert said[0] == said[1] == said[2]
        assert json.loads(said[0]["config"]) == CONFIG
        assert "give one" in refused("meta", "embed", file, config, "--config", config)
        assert "type it behind FILE" in refused("meta", "embed", file)
        assert "no FILE" in refused("meta", "embed", config)

    @pytest.mark.parametrize("model", ["SanaTransformer2DModel", "QwenImageTransformer2DModel", None])
    def test_what_is_embedded_is_valid(self, cli, save, tmp_path: Path, model) -> None:
        """No empty comfy_config: the nodes take it for a Flux model's, and fail; older tools embedded one."""
        config = {"num_layers": 2} if model is None else {"_class_name": model, "num_layers": 2}
        file = save(tensors("int4"), metadata={"format": "pt", "comfy_config": "{}"})
        assert "comfy_config" in cli("meta", "validate", file, "--profile", "nunchaku", code=1).out
        cli("meta", "embed", file, "--config", write(tmp_path / "config.json", config))
        assert "comfy_config" not in metadata(file)
        assert cli("meta", "validate", file, "--profile", "nunchaku", "--json").json["valid"]
        # One that says something stays.
        cli("meta", "set", file, f"comfy_config={json.dumps(COMFY)}")
        cli("meta", "embed", file, "--config", tmp_path / "config.json")
        assert json.loads(metadata(file)["comfy_config"]) == COMFY

    def test_fields_of_their_own(self, cli, file: Path, tmp_path: Path) -> None:
        config = {
            "model_type": "t", "architectures": ["A"], "hidden_size": 1, "num_hidden_layers": 2,
            "num_attention_heads": 3, "intermediate_size": 4, "max_position_embeddings": 5,
            "torch_dtype": "bf16",
            "transformers_version": "4.1", "num_key_value_heads": 6, "rope_theta": 10000.0,
            "attention_dropout": None, "hidden_act": True, "vocab_size": 9,
        }  # fmt: skip
        cli("meta", "embed", file, "--config", write(tmp_path / "c.json", config))
        found = metadata(file)
        assert {key: found[key] for key in config if key in found} == {
            "model_type": "t", "architectures": '["A"]', "hidden_size": "1", "num_hidden_layers": "2",
            "num_attention_heads": "3", "intermediate_size": "4", "max_position_embeddings": "5",
            "torch_dtype": "bf16", "transformers_version": "4.1", "num_key_value_heads": "6",
            "rope_theta": "10000.0", "attention_dropout": "None", "hidden_act": "True",
        }  # fmt: skip
        assert "comfy_config" not in found
        assert found["model_class"] == "NunchakuFluxTransformer2dModel"

    def test_search_order_in_a_folder(self, cli, file: Path, tmp_path: Path) -> None:
        model = tmp_path / "model"
        for place, mark in (
            ("transformer.config.json", "3"),
            ("config.json", "2"),
            ("transformer/config.json", "1"),
        ):
            write(model / place, {"hidden_size": mark})
            cli("meta", "embed", file, "--model-path", model)
            assert metadata(file)["hidden_size"] == mark

    def test_yaml_path_then_name_in_the_hub_cache(self, cli, file: Path, tmp_path: Path, hub: Path) -> None:
        recipe = tmp_path / "svdquant.yaml"
        write(tmp_path / "model" / "config.json", {"hidden_size": "path"})
        recipe.write_text(f"pipeline:\n  name: flux.1-dev\n  path: {tmp_path / 'model'}\nquant: {{}}\n")
        cli("meta", "embed", file, "--config-yaml", recipe)
        assert metadata(file)["hidden_size"] == "path"

        repository = hub / "models--black-forest-labs--FLUX.1-dev"
        write(repository / "snapshots" / "aaa" / "transformer" / "config.json", {"hidden_size": "stale"})
        write(repository / "snapshots" / "bbb" / "transformer" / "config.json", {"hidden_size": "main"})
        recipe.write_text("pipeline:\n  name: flux.1-dev\n")
        cli("meta", "embed", file, "--config-yaml", recipe)
        assert metadata(file)["hidden_size"] == "stale"  # the first there is
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("bbb")
        cli("meta", "embed", file, "--config-yaml", recipe)
        assert metadata(file)["hidden_size"] == "main"
        cli("meta", "embed", file, "--config-yaml", recipe, "--model-path", tmp_path / "model")
        assert metadata(file)["hidden_size"] == "path"  # the command line goes first

    def test_missing(self, cli, file: Path, tmp_path: Path, digests) -> None:
        before = digests(file.parent)
        result = cli("meta", "embed", file, "--model-path", tmp_path / "nowhere", code=2)
        assert "error: no config.json" in result.err
        cli("meta", "embed", file, "--model-path", "org/unknown", "--allow-missing", code=0)
        assert digests(file.parent) == before
        told = cli("meta", "embed", file, "--model-path", "org/unknown", "--allow-missing", "--json").json
        assert "unchanged" in str(told)
        assert digests(file.parent) == before

    def test_comfy_config_beside_it_is_taken(self, cli, file: Path, tmp_path: Path) -> None:
        write(tmp_path / "comfy_config.json", {"model_class": "FluxSchnell", "model_config": {}})
        cli("meta", "embed", file, "--config", write(tmp_path / "config.json"))
        assert json.loads(metadata(file)["comfy_config"])["model_class"] == "FluxSchnell"

    def test_schnell_and_control_models(self, cli, file: Path, tmp_path: Path) -> None:
        config = {**CONFIG, "guidance_embeds": False, "in_channels": 384, "out_channels": 64}
        cli("meta", "embed", file, "--config", write(tmp_path / "config.json", config))
        comfy = json.loads(metadata(file)["comfy_config"])
        assert comfy["model_class"] == "FluxSchnell"
        assert (comfy["model_config"]["in_channels"], comfy["model_config"]["out_channels"]) == (96, 16)

    def test_other_classes(self, cli, refused, file: Path, tmp_path: Path) -> None:
        config = write(tmp_path / "config.json", {"_class_name": "ZImageTransformer2DModel"})
        cli("meta", "embed", file, "--config", config)
        found = metadata(file)
        assert found["model_class"] == "NunchakuZImageTransformer2DModel"
        assert json.loads(found["quantization_config"])["skip_refiners"] is True
        write(config, {"_class_name": "Unheard"})
        assert "--model-class" in refused("meta", "embed", file, "--config", config)
        cli("meta", "embed", file, "--config", config, "--model-class", "Mine")
        assert metadata(file)["model_class"] == "Mine"

    def test_plain_tensors_get_no_quantization_config(self, cli, save, tmp_path: Path) -> None:
        file = save({"x.weight": torch.ones(4, 4)})
        result = cli("meta", "embed", file, "--config", write(tmp_path / "config.json"))
        assert "gets no quantization_config" in result.err
        assert "quantization_config" not in metadata(file)

    def test_broken_config(self, refused, file: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{")
        assert "not valid JSON" in refused("meta", "embed", file, "--config", tmp_path / "config.json")
        assert "--model-path" in refused("meta", "embed", file)


class TestValidate:
    def test_fp4_config_on_int4_tensors(self, cli, save) -> None:
        file = save(tensors("int4"), metadata={"config": "{}", "quantization_config": json.dumps(FP4)})
        result = cli("meta", "validate", file, "--profile", "nunchaku", code=1)
        assert 'weight.dtype is "fp4_e2m1_all", the tensors are "int4"' in result.out
        cli("meta", "validate", file, code=1)  # it is wrong for everybody

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"rank": 32}, "rank is 32, the low-rank tensors have 48"),
            ({"weight": {**INT4["weight"], "group_size": 128}}, "weight.group_size is 128"),
        ],
    )
    def test_untrue_fields(self, cli, save, change: dict, what: str) -> None:
        file = save(tensors("int4"), metadata={"quantization_config": json.dumps({**INT4, **change})})
        assert what in cli("meta", "validate", file, code=1).out

    def test_scale_shapes_tell_the_group_size(self, cli, save) -> None:
        stored = tensors("int4")
        stored["transformer_blocks.0.qkv_proj.wscales"] = torch.ones(8, 128).bfloat16()
        file = save(stored, metadata={"quantization_config": json.dumps(INT4)})
        assert "has groups of 32" in cli("meta", "validate", file, code=1).out

    def test_nunchaku_demands(self, cli, save) -> None:
        bare = save(tensors("int4"), "bare.safetensors")
        found = cli("meta", "validate", bare, "--profile", "nunchaku", "--json", code=1).json["files"][0]
        assert [text.split(":")[0] for text in found["errors"]] == ["config", "quantization_config"]
        assert [text.split(":")[0] for text in found["warnings"]] == ["model_class", "comfy_config"]
        wrong = {"config": "[]", "quantization_config": '{"method": "svdquant"}', "comfy_config": "{}"}
        file = save(tensors("int4"), metadata=wrong)
        text = cli("meta", "validate", file, "--profile", "nunchaku", code=1).out
        assert "config: is a JSON list, must be an object" in text
        assert "quantization_config: lacks the field 'weight.dtype'" in text
        assert "comfy_config: lacks the field 'model_class'" in text

    @pytest.mark.parametrize(
        ("metadata", "valid"),
        [(None, True), ({"format": "pt"}, True), ({"a": "b"}, False), ({"format": "np"}, False)],
    )
    def test_transformers(self, cli, save, metadata: dict[str, str] | None, valid: bool) -> None:
        file = save({"x": torch.ones(1)}, metadata=metadata)
        cli("meta", "validate", file, "--profile", "transformers", code=0 if valid else 1)

    def test_comfyui_layers(self, cli, save) -> None:
        layers = {"a": {"format": "float8_e4m3fn"}, "b": {"format": "nvfp4"}, "gone": {"format": "nvfp4"}}
        stored = {"a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "b.weight": torch.ones(2, 2)}
        file = save(stored, metadata={"_quantization_metadata": json.dumps({"layers": layers})})
        text = cli("meta", "validate", file, "--profile", "comfyui", code=1).out
        assert "says nvfp4 of 'b', whose weight is F32" in text
        assert "names the layer 'gone', which has no weight" in text
        assert "'a'" not in text

    def test_modelspec(self, cli, save) -> None:
        good = {
            "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "flux-1-dev",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux", "modelspec.title": "T",
            "modelspec.date": "2024-08-01T10:00:00Z", "modelspec.hash_sha256": "0x" + "ab" * 32,
        }  # fmt: skip
        file = save({"x": torch.ones(1)}, metadata=good)
        cli("meta", "validate", file, "--profile", "modelspec")
        for key, value in (
            ("hash_sha256", "ab" * 32),
            ("date", "yesterday"),
            ("sai_model_spec", "one"),
            ("title", ""),
        ):
            cli("meta", "set", file, f"modelspec.{key}={value}")
            assert f"modelspec.{key}" in cli("meta", "validate", file, "--profile", "modelspec", code=1).out
            cli("meta", "restore", file)

    def test_header_rules(self, cli, save, tmp_path: Path) -> None:
        file = save({"x": torch.ones(4)})
        file.write_bytes(file.read_bytes()[:-1])
        assert "cut short" in cli("meta", "validate", file, code=1).out
        found = cli("meta", "validate", file, "--json", code=1).json
        assert found["valid"] is False
        cli("meta", "validate", tmp_path / "missing.safetensors", code=2)

    def test_verbose_and_compare(self, cli, save) -> None:
        one = save({"x": torch.ones(1)}, "a.safetensors", {"format": "pt", "k": "1"})
        two = save({"x": torch.ones(1)}, "b.safetensors", {"format": "pt", "k": "2"})
        text = cli("meta", "validate", one, "-v", "--compare", two).out
        assert "  k: 1\n" in text
        assert "~ k: 1 -> 2" in text

    def test_unknown_profile(self, refused, file: Path) -> None:
        assert "known: comfyui, diffusers, modelspec, nunchaku, transformers" in refused(
            "meta", "validate", file, "--profile", "nunchuck"
        )
