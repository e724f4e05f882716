"""All-in-one files become folders of Diffusers' pipelines, and come back to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog
from transcode.catalog.pipelines import pipelines
from transcode.cli import cli
from transcode.consumers.components import open_components
from transcode.consumers.pipelines import known_pipeline
from transcode.errors import PlanError
from transcode.stages.convert import Convert

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
transformers = pytest.importorskip("transformers")

from .pipelines_of_diffusers import BESIDE, EXPECTED, UNLIKE, drawn, one_file  # noqa: E402


def run(*words: object) -> None:
    result = CliRunner().invoke(cli, list(map(str, words)))
    if result.exception:
        raise result.exception


def body(file: Path) -> tuple[dict[str, Any], bytes]:
    """All of a file but its metadata."""
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    return header, raw[8 + size :]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Those of a tiny SDXL, by the folder."""
    return drawn("StableDiffusionXLPipeline")


@pytest.fixture(scope="module")
def whole(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them in one file, as Stability AI has them."""
    more = {
        "conditioner.embedders.1.model.logit_scale": torch.tensor(4.6), "alphas_cumprod": torch.ones(4),
    }  # fmt: skip
    return one_file("StableDiffusionXLPipeline", models, more, tmp_path_factory.mktemp("sdxl"))


def test_there_and_back(models: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    run("split", whole, tmp_path / "pipe", "--to", "diffusers")
    assert json.loads((tmp_path / "pipe" / "model_index.json").read_text()) == {
        "_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }  # fmt: skip
    for name, model in models.items():
        (file,) = (tmp_path / "pipe" / name).glob("*.safetensors")
        held = {
            key.removeprefix("text_model.") if name == "text_encoder" else key: one
            for key, one in load_file(file).items()
        }
        held.pop("logit_scale", None)  # of which no class of transformers knows here
        expected = model.state_dict()
        assert held.keys() == expected.keys()
        assert all(one.equal(expected[key].half()) for key, one in held.items())
    # Of whose projection transformers' class has no scale.
    loads_strictly("StableDiffusionXLPipeline", models, tmp_path / "pipe", {"logit_scale"})
    run("merge", tmp_path / "pipe", tmp_path / "back.safetensors")
    assert body(tmp_path / "back.safetensors") == body(whole)
    with safe_open(tmp_path / "back.safetensors", "pt") as file:
        assert not [key for key in file.metadata() if key.startswith("component")]


def donor(models: dict[str, Any], folder: Path) -> Path:
    """A folder of the pipeline as it is published, with the weights of another training."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}
    made = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    diffusers.StableDiffusionXLPipeline(
        **models, tokenizer=made, tokenizer_2=made, scheduler=diffusers.DDIMScheduler(beta_end=0.5)
    ).save_pretrained(folder)
    return folder


def test_diffusers_loads_the_folder_with_the_files_of_another(
    models: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    other = donor(models, tmp_path / "published")
    run("split", whole, tmp_path / "pipe", "--to", "diffusers", "--config-from", other)
    loaded = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path / "pipe", torch_dtype=torch.float16)
    assert loaded.scheduler.config.beta_end == 0.5
    assert loaded.tokenizer_2("a").input_ids
    for name, model in models.items():
        held = getattr(loaded, name).state_dict()
        assert all(held[key].equal(one.half()) for key, one in model.state_dict().items())
    # What has no weights does not come into one file, which is said.
    source = open_components(str(tmp_path / "pipe"))
    assert any("scheduler/, tokenizer/, tokenizer_2/ left out" in note for note in source.notes)
    # Configurations of another pipeline, and folders that are none, are refused.
    index = json.loads((other / "model_index.json").read_text())
    index["unet"] = ["diffusers", "UNet1DModel"]
    (other / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        PlanError, match="has diffusers UNet1DModel as unet, where these tensors are those of"
    ):
        run("split", whole, tmp_path / "two", "--to", "diffusers", "--config-from", other, "--debug")
    with pytest.raises(PlanError, match="is no folder with a model_index"):
        run("split", whole, tmp_path / "two", "--to", "diffusers", "--config-from", tmp_path, "--debug")
    with pytest.raises(PlanError, match="are no pipeline of Diffusers that is known, as they are spelled"):
        run("split", whole, tmp_path / "two", "--config-from", other, "--debug")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("StableDiffusionPipeline", marks=pytest.mark.whole),
        "StableDiffusion3Pipeline",
        "FluxPipeline",
    ],
)
def test_a_file_alone_gives_models_that_load(name: str, tmp_path: Path) -> None:
    """Configurations follow from the tensors; what does not lie in the file is given to the pipeline."""
    models = drawn(name)
    whole = one_file(name, models, BESIDE.get(name, {}), tmp_path)
    run("split", whole, tmp_path / "pipe", "--to", "diffusers")
    loads_strictly(name, models, tmp_path / "pipe")
    run("merge", tmp_path / "pipe", tmp_path / "back.safetensors")
    assert body(tmp_path / "back.safetensors") == body(whole)


def loads_strictly(name: str, models: dict[str, Any], pipe: Path, spare: set[str] = frozenset()) -> None:
    """Each model by its own class and configuration, and the pipeline with all that has no weights."""
    for folder, model in models.items():
        loaded, info = type(model).from_pretrained(
            pipe / folder, output_loading_info=True, torch_dtype=torch.float16
        )
        assert {key for keys in info.values() for key in keys} <= spare
        held = loaded.state_dict()
        assert held.keys() == model.state_dict().keys()
        assert all(held[key].equal(one.half()) for key, one in model.state_dict().items())
        said = dict(loaded.config if hasattr(loaded.config, "items") else loaded.config.to_dict())
        for key, value in EXPECTED[name].get(folder, {}).items():
            assert said[key] == value, key
        asked = model.config if hasattr(model.config, "items") else model.config.to_dict()
        for key, value in asked.items():
            if key not in UNLIKE and not key.startswith("_"):
                wanted = list(value) if isinstance(value, tuple) else value
                assert said[key] == wanted or (key, value) == ("out_channels", None), key
    given = {}
    for folder, (library, kind) in pipelines()[name].beside.items():
        if library == "diffusers":
            given[folder] = getattr(diffusers, kind)()
        else:
            given[folder] = transformers.CLIPTokenizer(
                vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]
            )
    loaded = diffusers.DiffusionPipeline.from_pretrained(pipe, torch_dtype=torch.float16, **given)
    assert type(loaded).__name__ == name


def test_what_is_lacking_is_said_in_a_line(tmp_path: Path) -> None:
    whole = one_file("FluxPipeline", drawn("FluxPipeline"), {}, tmp_path)
    lacking = "to load it, add scheduler/, tokenizer/, tokenizer_2/ of the published pipeline"
    assert lacking in said_of(whole, tmp_path)
    assert "; no tensor tells it from a FluxKontextPipeline" in said_of(whole, tmp_path)
    # Codes have other shapes than weights, and scales beside them; FP8 without any is a dtype.
    coded = tmp_path / "codes.safetensors"
    run("run", whole, coded, "--scheme", "fp8", "--convention", "comfyui")
    assert "tokenizer_2/, transformer/config.json of the published" in said_of(coded, tmp_path)
    bare = {n: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for n, t in load_file(whole).items()}
    few = {name: t for name, t in bare.items() if not name.startswith("text_encoders.t5xxl.")}
    save_file(few, tmp_path / "bare.safetensors")
    lacking = "add text_encoder_2/, scheduler/, tokenizer/, tokenizer_2/ of the"
    assert lacking in said_of(tmp_path / "bare.safetensors", tmp_path)


def said_of(source: Path, tmp_path: Path) -> str:
    """What the plan says of the index of a folder."""
    flow = tc.open(source) | Convert("diffusers")
    plan = flow.plan(tc.write(tmp_path / "pipe", layout="components", copy_metadata=False))
    (said,) = (str(note) for note in plan.log.notes if "model_index.json" in str(note))
    return said


def test_a_folder_that_diffusers_saved_becomes_one_file(
    models: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    diffusers.StableDiffusionXLPipeline(
        **models, tokenizer=None, tokenizer_2=None, scheduler=diffusers.DDIMScheduler()
    ).save_pretrained(tmp_path / "pipe")
    run("merge", tmp_path / "pipe", tmp_path / "one.safetensors")
    found, expected = load_file(tmp_path / "one.safetensors"), load_file(whole)
    lost = {"conditioner.embedders.1.model.logit_scale", "alphas_cumprod"}
    assert found.keys() == expected.keys() - lost
    assert all(one.half().equal(expected[name]) for name, one in found.items())


def test_quantized_models_come_back_too(whole: Path, tmp_path: Path) -> None:
    run("run", whole, tmp_path / "codes.safetensors", "--scheme", "fp8", "--convention", "comfyui")
    run("split", tmp_path / "codes.safetensors", tmp_path / "pipe", "--to", "diffusers")
    run("merge", tmp_path / "pipe", tmp_path / "back.safetensors")
    assert body(tmp_path / "back.safetensors") == body(tmp_path / "codes.safetensors")


def test_as_it_is_spelled_there_is_no_index(whole: Path, tmp_path: Path) -> None:
    run("split", whole, tmp_path / "pipe")
    assert not (tmp_path / "pipe" / "model_index.json").exists()
    run("merge", tmp_path / "pipe", tmp_path / "back.safetensors")
    assert body(tmp_path / "back.safetensors") == body(whole)


def test_classes_are_those_of_the_pipeline() -> None:
    import diffusers.pipelines.ltx2 as ltx2

    bases = {"ZImagePipeline": "PreTrainedModel", "Lumina2Pipeline": "Gemma2PreTrainedModel"}
    for pipeline in pipelines().values():
        annotations = getattr(diffusers, pipeline.name).__init__.__annotations__
        for folder, part in pipeline.parts.items():
            module = {"diffusers": diffusers, "transformers": transformers, "ltx2": ltx2}[part.library]
            kind, said = getattr(module, part.kind), annotations[folder]
            base = bases.get(pipeline.name) if folder == "text_encoder" else None
            if base is not None:
                assert base in [one.__name__ for one in kind.__mro__]
            else:
                assert part.kind in str(said) or said is kind, (pipeline.name, folder)
        for folder, (library, kind) in pipeline.beside.items():
            assert folder in annotations
            assert hasattr(diffusers if library == "diffusers" else transformers, kind)
        for said in pipeline.alike:
            assert hasattr(diffusers, said)


def language_models() -> dict[str, dict[str, torch.Tensor]]:
    """Text encoders of which files have the names that transformers saves, by what they are called."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": 64, "head_dim": 16}  # fmt: skip
    t5 = {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 64}
    made = {
        "qwen3_4b": transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes)),
        "umt5xxl": transformers.UMT5EncoderModel(transformers.UMT5Config(**t5)),
    }
    held = {name: model.state_dict() for name, model in made.items()}
    del held["umt5xxl"]["encoder.embed_tokens.weight"]  # shared.weight
    return {name: {key: one.half().clone() for key, one in some.items()} for name, some in held.items()}


def test_text_encoders_keep_the_names_of_transformers(tmp_path: Path) -> None:
    """Merging asked the first for the names of another program, and gave the other those of Wan's authors."""
    tensors = {
        f"text_encoders.{n}.transformer.{k}": t for n, m in language_models().items() for k, t in m.items()
    }
    save_file(tensors | {"vae.a.weight": torch.ones(2)}, tmp_path / "raw.safetensors")
    tc.open(tmp_path / "raw.safetensors") | tc.write(tmp_path / "whole.safetensors")
    plan = (tc.open(tmp_path / "whole.safetensors") | Convert("original")).plan(tc.write(tmp_path / "x"))
    assert {tensor.name for tensor in plan.tensors} == {*tensors, "vae.a.weight"}
    for number, to in enumerate(([], ["--to", "diffusers"])):
        run("split", tmp_path / "whole.safetensors", tmp_path / f"pipe{number}", *to)
        run("merge", tmp_path / f"pipe{number}", tmp_path / f"back{number}.safetensors")
        assert body(tmp_path / f"back{number}.safetensors") == body(tmp_path / "whole.safetensors")


def test_what_diffusers_saved_says_by_its_pipeline_what_goes_before_its_names(tmp_path: Path) -> None:
    """Of LTX-2's text encoder nothing else does."""
    for folder, held in (
        ("text_encoder", language_models()["qwen3_4b"]),
        ("vae", {"a.weight": torch.ones(2)}),
    ):
        (tmp_path / "pipe" / folder).mkdir(parents=True)
        save_file(held, tmp_path / "pipe" / folder / "model.safetensors")
    (tmp_path / "pipe" / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    source = open_components(str(tmp_path / "pipe"))
    names = [f"text_encoders.gemma3_12b.transformer.{key}" for key in language_models()["qwen3_4b"]]
    assert {tensor.name for tensor in source.tensors} == {*names, "vae.a.weight"}


def ltx2(folder: str, version: str, config: dict[str, Any]) -> Any:
    """A model of LTX-2 of its published sizes, on no device."""
    from diffusers.pipelines import ltx2 as classes
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE

    kind = {
        "transformer": diffusers.LTX2VideoTransformer3DModel, "connectors": classes.LTX2TextConnectors,
        "vae": diffusers.AutoencoderKLLTX2Video, "audio_vae": diffusers.AutoencoderKLLTX2Audio,
        "vocoder": classes.LTX2Vocoder if version == "2.0" else LTX2VocoderWithBWE,
    }[folder]  # fmt: skip
    with torch.device("meta"):
        return kind.from_config(config)


@pytest.mark.parametrize(
    ("title", "version"), [("LTX2Pipeline", "2.0"), ("LTX-2.3", "2.3"), ("LTX-2.5", "2.5")]
)
def test_configurations_of_ltx_2_are_those_of_diffusers_script(title: str, version: str) -> None:
    """Of the published sizes, but for layers that are all alike."""
    said = json.loads((Path(__file__).parents[2] / "fixtures" / "configs" / "ltx2.json").read_text())
    shapes = {}
    for folder, whole in said[version].items():
        config = whole | ({"num_layers": 3} if folder == "transformer" else {})
        model = ltx2(folder, version, config)
        shapes[folder] = {name: tuple(one.shape) for name, one in model.state_dict().items()}
        family, part = catalog.detect(list(shapes[folder])), pipelines()[title].parts[folder]
        assert (family.name, family.spelling) == (part.family, "diffusers")
        derived = (family.config(shapes[folder]) or {}) | (part.config(shapes[folder]) if part.config else {})
        assert derived.pop("_class_name") == type(model).__name__ == part.kind
        assert {key: derived[key] for key in config} == config
        plain = {key: list(one) if isinstance(one, tuple) else one for key, one in model.config.items()}
        assert all(plain[key] == one for key, one in derived.items())
    assert known_pipeline(shapes) is pipelines()[title]


@pytest.mark.parametrize(
    ("channels", "name"),
    [(64, "FluxPipeline"), (128, "FluxControlPipeline"), (384, "FluxFillPipeline")],
)
def test_what_goes_in_tells_the_pipeline(channels: int, name: str) -> None:
    config = {"num_layers": 1, "num_single_layers": 1, "in_channels": channels, "out_channels": 64}
    with torch.device("meta"):
        model = diffusers.FluxTransformer2DModel(**config)
    shapes = {name: tuple(one.shape) for name, one in model.state_dict().items()}
    found = known_pipeline({"transformer": shapes})
    assert found is not None
    assert (found.name, found.alike) == (name, ("FluxKontextPipeline",) if channels == 64 else ())


LTX = {
    "2.0": ["ltx 2", "ltx 2 vae", "ltx 2 audio vae", "ltx 2 vocoder", "ltx 2 connectors"],
    "2.5": ["ltx 2.5", "ltx 2 vae", "ltx 2 audio vae", "ltx 2.3 vocoder", "ltx 2.3 connectors",
            "ltx 2.5 duration head"],
}  # fmt: skip


@pytest.mark.parametrize("version", [pytest.param("2.0", marks=pytest.mark.whole), "2.5"])
def test_all_models_of_ltx_2_there_and_back(version: str, tmp_path: Path) -> None:
    """Each as its class has it, which tests/stages hold to diffusers' own script."""
    from tests.stages.autoencoders_of_diffusers import AUTOENCODERS
    from tests.stages.newer_families_of_diffusers import NEWER

    folders = {"ltx2": ("transformer", "model.diffusion_model."), "ltx_vae": ("vae", "vae."),
               "ltx2_audio_vae": ("audio_vae", "audio_vae."), "ltx2_vocoder": ("vocoder", "vocoder."),
               "ltx2_vocoder_bwe": ("vocoder", "vocoder."), "ltx2_connectors": ("connectors", ""),
               "ltx2_duration_head": ("duration_head", "duration_head.")}  # fmt: skip
    expected, tensors = {}, {}
    for name in LTX[version]:
        tiny = (AUTOENCODERS | NEWER)[name]
        folder, prefix = folders[tiny.family]
        expected[folder] = {n: t.half().contiguous() for n, t in tiny.model().state_dict().items()}
        save_file(expected[folder], tmp_path / "one.safetensors")
        flow = tc.open(tmp_path / "one.safetensors") | Convert("original")
        flow | tc.write(tmp_path / "two.safetensors", force=True)
        tensors |= {f"{prefix}{n}": t for n, t in load_file(tmp_path / "two.safetensors").items()}
    save_file(tensors, tmp_path / "raw.safetensors")
    tc.open(tmp_path / "raw.safetensors") | tc.write(tmp_path / "ltx.safetensors")
    run("split", tmp_path / "ltx.safetensors", tmp_path / "pipe", "--to", "diffusers")
    assert {inner.name for inner in (tmp_path / "pipe").iterdir()} == {*expected, "model_index.json"}
    for folder, wanted in expected.items():
        held = load_file(tmp_path / "pipe" / folder / "diffusion_pytorch_model.safetensors")
        assert held.keys() == wanted.keys()
        assert all(one.equal(wanted[key]) for key, one in held.items())
    run("merge", tmp_path / "pipe", tmp_path / "back.safetensors")
    assert body(tmp_path / "back.safetensors") == body(tmp_path / "ltx.safetensors")
    run("split", tmp_path / "ltx.safetensors", tmp_path / "parts")
    run("merge", tmp_path / "parts", tmp_path / "again.safetensors")
    assert body(tmp_path / "again.safetensors") == body(tmp_path / "ltx.safetensors")
