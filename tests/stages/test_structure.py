"""Conversions that join, split and swap rows equal those of diffusers itself, and come back to the byte."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import make_laws
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.cover import ring
from transcode import catalog
from transcode.errors import TranscodeError
from transcode.stages.convert import Convert
from transcode.stages.stored_rows import Recoded

pytest.importorskip("diffusers", reason="diffusers is not installed")

from .autoencoders_of_diffusers import AUTOENCODERS
from .controls_of_diffusers import CONTROLS
from .families_of_diffusers import TINY as FIRST
from .families_of_diffusers import Tiny
from .more_families_of_diffusers import MORE
from .newer_families_of_diffusers import NEWER
from .scripted_families_of_diffusers import SCRIPTED

TINY = FIRST | NEWER | MORE | AUTOENCODERS | CONTROLS | SCRIPTED


def kept(tiny: Tiny) -> bool:
    """Whether nothing of it is quantized, as of VAEs: their convolutions, and few small matrices."""
    return not any(policy.targets or policy.also for policy in policies(tiny))


def policies(tiny: Tiny) -> list[Any]:
    return [spelling.policy for spelling in catalog.family(tiny.family).spellings.values()]


ONE_EACH = [*{tiny.family: name for name, tiny in (FIRST | NEWER).items()}.values(), "lumina 2"]
ONE_EACH = [*(name for name in ONE_EACH if name != "sdxl"), "wan animate 2"]
"""One model of each family, of the further ones of those whose rows are moved in a way of their own.
SDXL has 1,700 tensors and the rules of SD1."""

SECONDS = {"sd 2.1", "flux schnell", "flux2 klein", "qwen-image vae", "qwen-image layered vae", "z-image",
           "hunyuan image refiner vae", "sparse controlnet"}  # fmt: skip
"""Of tables that another model is converted by, too, and whose own names are among that one's."""


@pytest.fixture(params=[pytest.param(n, marks=[pytest.mark.whole] if n in SECONDS else []) for n in TINY])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return TINY[request.param]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the model of each class, which several tests begin with."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path, models: Path) -> Path:
    """The model as diffusers spells it, in BF16, in the order in which transcode writes."""
    (name,) = (name for name, one in TINY.items() if one is tiny)
    once = models / f"{name}.safetensors"
    if not once.exists():
        save_file({n: t.to(torch.bfloat16).contiguous() for n, t in tiny.model().state_dict().items()},
                  tmp_path / "class.safetensors")  # fmt: skip
        tc.open(tmp_path / "class.safetensors") | tc.write(once)
    return Path(shutil.copy(once, tmp_path / "diffusers.safetensors"))


def convert(source: Path, to: str, name: str, **options: Any) -> Path:
    target = source.parent / f"{name}.safetensors"
    tc.open(source) | Convert(to) | tc.write(target, **options)
    return target


def body(file: Path) -> tuple[list[tuple[str, Any]], bytes]:
    """All of a file but its metadata, which tell how it was made."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return list(header.items()), data[8 + size :]


def test_it_equals_diffusers_own_function_and_comes_back(tiny: Tiny, saved: Path) -> None:
    original = convert(saved, tiny.original, "original")
    names = load_file(original)
    family = catalog.detect(list(names))
    assert family is not None
    assert (family.name, family.spelling) == (tiny.family, tiny.original)
    theirs = tiny.theirs(names)
    again = convert(original, "diffusers", "again")
    ours = load_file(again)
    assert ours.keys() == theirs.keys() == load_file(saved).keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert body(again) == body(saved)
    assert body(convert(again, tiny.original, "second")) == body(original)
    model = tiny.model(seed=7)
    computed = []
    for tensors in (ours, load_file(saved)):
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
        computed.append(tiny.forward(model))
    assert computed[0].equal(computed[1])


QUANTIZED = [
    ("int8", "lightx2v"), ("fp8", "lightx2v"), ("int8", "comfyui"), ("nvfp4", "lightx2v"),
    ("nvfp4", "comfyui"), ("mxfp8", "comfyui"), ("int4", "compressed_tensors"),
]  # fmt: skip
BY_ROWS = QUANTIZED[:3] + QUANTIZED[5:]
"""Those whose scales are of rows, so that it does not matter with which others these were quantized."""


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in its original spelling."""
    folder = tmp_path_factory.mktemp("flux")
    tensors = {n: t.to(torch.bfloat16).contiguous() for n, t in TINY["flux dev"].model().state_dict().items()}
    save_file(tensors, folder / "diffusers.safetensors")
    return convert(folder / "diffusers.safetensors", "original", "original")


def quantized(source: Path, scheme: str, convention: str, *steps: Any) -> Path:
    """A file, quantized behind some stages."""
    flow = tc.open(source)
    for step in steps:
        flow = flow | step
    target = source.parent / f"{scheme}_{convention}_{len(steps)}.safetensors"
    flow | tc.quantize(scheme) | tc.write(target, convention=convention, force=True)
    return target


@pytest.mark.parametrize(("scheme", "convention"), QUANTIZED)
def test_rows_of_quantized_tensors_move_as_they_are_stored(flux: Path, scheme: str, convention: str) -> None:
    first = quantized(flux, scheme, convention)
    there = convert(first, "diffusers", "there", force=True)
    assert body(convert(there, "original", "back", force=True)) == body(first)
    if (scheme, convention) in BY_ROWS:
        assert body(there) == body(quantized(flux, scheme, convention, Convert("diffusers")))
    plain = {}
    for name, steps in {"a": [tc.dequantize("f32"), Convert("diffusers")], "b": [Convert("diffusers"),
                        tc.dequantize("f32")]}.items():  # fmt: skip
        flow = tc.open(first)
        for step in steps:
            flow = flow | step
        flow | tc.write(flux.parent / f"{name}.safetensors", force=True)
        plain[name] = load_file(flux.parent / f"{name}.safetensors")
    assert plain["a"].keys() == plain["b"].keys()
    assert all(plain["a"][name].equal(plain["b"][name]) for name in plain["a"])


MORE_IS_QUANTIZED = {
    "z_image_dit": "LightX2V quantizes the last layer too",
    "stable_cascade_b": "PyTorch's attention has q, k and v in a parameter that is no matrix of a layer",
    "stable_cascade_c": "as of stage B",
}
"""Where more is quantized as Diffusers spells it: what was quantized before lacks that after."""
SPELLED = ["fp8 lightx2v", "nvfp4 comfyui", "int8 comfyui"]
QUICK = [
    name for name in TINY if name in {"longcat image", "cosmos 1", "stable cascade c", "sd3.5 controlnet"}
]
"""Of the further ones, small ones of rules of their own: the rest is in the whole run."""
NOTHING = {
    ("mochi", "nvfp4 comfyui"): "8 columns are not a multiple of 16",
    ("ltx 2.5", "nvfp4 comfyui"): "both of its blocks are among those that ComfyUI keeps",
    ("ltx 2.5", "int8 comfyui"): "as above",
}
"""Small models of which nothing is quantized so, and why: blank in the list of the documents."""
LAWS = [
    *ring(ONE_EACH, SPELLED),
    *ring(QUICK, SPELLED),
    *(pytest.param(name, one, marks=pytest.mark.whole) for name, tiny in TINY.items()
      if name not in {*ONE_EACH, *QUICK, "sdxl"} and not kept(tiny) for one in SPELLED
      if (name, one) not in NOTHING),
]  # fmt: skip


@pytest.mark.parametrize(("tiny", "spelled"), LAWS, indirect=["tiny"])
def test_quantized_models_convert_as_plain_ones_do(spelled: str, saved: Path, tiny: Tiny) -> None:
    """Each model in one of three spellings, and each of these for every third model; all with ``--all``."""
    scheme, convention = spelled.split()
    original = convert(saved, tiny.original, "original")
    first = quantized(original, scheme, convention)
    there = convert(first, "diffusers", "there")
    assert body(convert(there, tiny.original, "back")) == body(first)
    if (scheme, convention) in BY_ROWS and tiny.family not in MORE_IS_QUANTIZED:
        assert body(there) == body(quantized(saved, scheme, convention))
    tc.open(first) | tc.dequantize("f32") | tc.write(saved.parent / "plain.safetensors")
    tc.open(there) | tc.dequantize("f32") | tc.write(saved.parent / "last.safetensors")
    expected = convert(saved.parent / "plain.safetensors", "diffusers", "expected")
    assert body(saved.parent / "last.safetensors") == body(expected)
    a_lora_merges_alike_before_and_after(original)


def a_lora_merges_alike_before_and_after(original: Path) -> None:
    """A LoRA of one layer for each kind of rule, in the names of its authors: into these, or Diffusers'."""
    shapes = {name: tensor.spec.shape for name, tensor in tc.open(original).items()}
    family = catalog.detect(list(shapes))
    assert family is not None
    direction, layers, lora = family.direction("diffusers", {}), {}, {}
    for name, shape in shapes.items():
        hit = direction.find(name.removeprefix(family.prefix))
        if hit is not None and len(shape) == 2 and name.endswith(".weight"):
            rule = hit.rule
            layers.setdefault((rule.kind, len(rule.right), rule.rows, rule.ratio, rule.renames), (name, hit))
    for name, _ in layers.values():
        (rows, columns), module = shapes[name], name.removesuffix(".weight")
        lora[f"{module}.lora_up.weight"] = torch.randn(rows, 4) * 0.1
        lora[f"{module}.lora_down.weight"] = torch.randn(4, columns)
        lora[f"{module}.alpha"] = torch.tensor(2.0)
    save_file(lora, original.parent / "lora.safetensors")
    merge, convert = tc.lora(original.parent / "lora.safetensors"), Convert("diffusers")
    before, after = (tc.open(original) | merge | convert), (tc.open(original) | convert | merge)
    pairs = zip(before.items(), (tc.open(original) | convert).items(), strict=True)
    changed = {
        n: one.numpy() for (n, one), (_, was) in pairs if one.numpy().tobytes() != was.numpy().tobytes()
    }
    assert changed.keys() >= {other for _, hit in layers.values() for other in hit.others}
    assert all(after[name].numpy().tobytes() == one.tobytes() for name, one in changed.items())


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL as diffusers and as its authors spell it, of each run of blocks the first."""
    folder = tmp_path_factory.mktemp("sdxl")
    state = {n: t.to(torch.bfloat16).contiguous() for n, t in TINY["sdxl"].model().state_dict().items()}
    few = {n: t for n, t in state.items() if not re.search(r"transformer_blocks\.[0-8]|up_blocks\.1", n)}
    save_file(few, folder / "class.safetensors")
    tc.open(folder / "class.safetensors") | tc.write(folder / "diffusers.safetensors")
    convert(folder / "diffusers.safetensors", "original", "original")
    return folder


@pytest.mark.parametrize("spelled", ["fp8 lightx2v", "nvfp4 comfyui", "int8 comfyui"])
def test_quantized_sdxl_converts_as_a_plain_one_does(spelled: str, sdxl: Path) -> None:
    scheme, convention = spelled.split()
    first = quantized(sdxl / "original.safetensors", scheme, convention)
    codes = {torch.int8, torch.uint8, torch.float8_e4m3fn}
    assert codes & {tensor.dtype for tensor in load_file(first).values()}
    there = convert(first, "diffusers", "there", force=True)
    assert body(there) == body(quantized(sdxl / "diffusers.safetensors", scheme, convention))
    if scheme == "fp8":
        a_lora_merges_alike_before_and_after(sdxl / "original.safetensors")


def test_the_plan_says_what_is_cut_and_joined(flux: Path) -> None:
    """Not that it is kept: q of a joined qkv stood below names that the source has not."""
    there = convert(flux, "diffusers", "there", force=True)
    for source, to, done in ((flux, "diffusers", "split"), (there, "original", "join")):
        plan = (tc.open(source) | Convert(to)).plan(tc.write(flux.parent / "x.safetensors"))
        deeds = {fate.tensor.name: fate.deed for fate in plan.fates()}
        kinds = {"rename", "rearrange", done} | ({"into others"} if done == "join" else set())
        assert set(deeds.values()) == kinds
        name = {
            "split": "transformer_blocks.0.attn.to_k.weight",
            "join": "double_blocks.0.img_attn.qkv.weight",
        }
        assert deeds[name[done]] == done
        [event] = [event for tensor in plan.tensors if tensor.name == name[done] for event in tensor.fate]
        assert str(event).startswith(f"{done}: rows ")


def test_global_scales_that_differ_are_not_joined(flux: Path) -> None:
    there = quantized(flux, "nvfp4", "comfyui", Convert("diffusers"))
    tensors = load_file(there)
    tensors["transformer_blocks.1.attn.to_k.weight_scale_2"] *= 2
    apart = flux.parent / "apart.safetensors"
    with safe_open(there, "pt") as file:
        save_file(tensors, apart, file.metadata())
    with pytest.raises(TranscodeError, match=r"would be one for all rows, but .* differ") as caught:
        (tc.open(apart) | Convert("original")).plan(tc.write(flux.parent / "x.safetensors"))
    assert "encoded anew" in str(caught.value.hint)
    # Encoded anew they can be, and the plan says that they are decoded on the way.
    plan = (tc.open(apart) | Convert("original") | tc.quantize("int8")).plan(
        tc.write(flux.parent / "x.safetensors", convention="comfyui")
    )
    assert any("decoded on the way" in str(note) for note in plan.log.notes)


def test_rows_that_are_no_parts_of_this_family(flux: Path, tmp_path: Path) -> None:
    tensors = load_file(flux)
    tensors["double_blocks.0.img_attn.qkv.weight"] = torch.zeros(191, 64)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(
        TranscodeError, match=r"img_attn\.qkv\.weight: \[191, 64\] is not joined of to_q, to_k"
    ):
        (tc.open(tmp_path / "x.safetensors") | Convert("diffusers")).plan(
            tc.write(tmp_path / "o.safetensors")
        )
    # 453 rows are those of q, k, v and some, but not those of the weight; a LoRA's are of no weight.
    for name, shape in {"linear1.bias": (453,), "linear1.lora_A.weight": (4, 64)}.items():
        more = load_file(flux) | {f"single_blocks.0.{name}": torch.zeros(shape)}
        save_file(more, tmp_path / "b.safetensors")
        with pytest.raises(
            TranscodeError, match=r"has not the 448 rows of single_blocks\.0\.linear1\.weight"
        ):
            (tc.open(tmp_path / "b.safetensors") | Convert("diffusers")).plan(
                tc.write(tmp_path / "o.safetensors")
            )
    there = load_file(convert(flux, "diffusers", "d", force=True))
    there["single_transformer_blocks.0.attn.to_q.weight"] = torch.zeros(63, 64)
    save_file(there, tmp_path / "y.safetensors")
    with pytest.raises(TranscodeError, match="of 63, 64, 64, 256 rows could not be taken apart again"):
        (tc.open(tmp_path / "y.safetensors") | Convert("original")).plan(tc.write(tmp_path / "o.safetensors"))
    there["single_transformer_blocks.0.attn.to_q.weight"] = torch.tensor(1.0)
    save_file(there, tmp_path / "n.safetensors")
    with pytest.raises(TranscodeError, match=r"to_q\.weight: \[\] has no rows that could be joined; is"):
        (tc.open(tmp_path / "n.safetensors") | Convert("original")).plan(tc.write(tmp_path / "o.safetensors"))
    del there["single_transformer_blocks.0.attn.to_q.weight"]
    save_file(there, tmp_path / "z.safetensors")
    with pytest.raises(TranscodeError, match=r"without single_transformer_blocks.0.attn.to_q.weight"):
        (tc.open(tmp_path / "z.safetensors") | Convert("original")).plan(tc.write(tmp_path / "o.safetensors"))


def test_what_only_the_original_has_is_left_out(tmp_path: Path) -> None:
    state = {n: t.contiguous() for n, t in TINY["z-image"].model().state_dict().items()}
    save_file(state, tmp_path / "d.safetensors")
    tensors = load_file(convert(tmp_path / "d.safetensors", "original", "o"))
    save_file(tensors | {"norm_final.weight": torch.ones(64)}, tmp_path / "more.safetensors")
    plan = (tc.open(tmp_path / "more.safetensors") | Convert("diffusers")).plan(
        tc.write(tmp_path / "x.safetensors")
    )
    assert {tensor.name for tensor in plan.tensors} == state.keys()
    assert any("has no norm_final.weight: left out" in str(warning) for warning in plan.log.warnings)


def test_a_state_beside_weights_is_left_out(tmp_path: Path) -> None:
    """As norms of TransformerEngine have one in Cosmos 2.5; the rule of the norm would carry it over."""
    tiny = TINY["cosmos 2.5"]
    state = {n: t.contiguous() for n, t in tiny.model().state_dict().items()}
    save_file(state, tmp_path / "d.safetensors")
    tensors = load_file(convert(tmp_path / "d.safetensors", "original", "o"))
    more = tensors | {"blocks.0.self_attn.q_norm._extra_state": torch.ones(3)}
    save_file(more, tmp_path / "more.safetensors")
    plan = (tc.open(tmp_path / "more.safetensors") | Convert("diffusers")).plan(
        tc.write(tmp_path / "x.safetensors")
    )
    assert {tensor.name for tensor in plan.tensors} == state.keys()


def test_a_lora_of_joined_rows_merges_alike_before_and_after(flux: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    shapes = {name: tensor.shape for name, tensor in load_file(flux).items()}
    lora = {}
    for module in ("double_blocks.1.img_attn.qkv", "double_blocks.0.txt_mlp.0", "single_blocks.2.linear1",
                   "final_layer.adaLN_modulation.1"):  # fmt: skip
        rows, columns = shapes[f"{module}.weight"]
        lora[f"diffusion_model.{module}.lora_A.weight"] = torch.randn(4, columns)
        lora[f"diffusion_model.{module}.lora_B.weight"] = torch.randn(rows, 4) * 0.1
        lora[f"diffusion_model.{module}.alpha"] = torch.tensor(2.0)
    save_file(lora, tmp_path / "lora.safetensors")
    merge = tc.lora(tmp_path / "lora.safetensors")
    tc.open(flux) | merge | Convert("diffusers") | tc.write(tmp_path / "before.safetensors")
    tc.open(flux) | Convert("diffusers") | merge | tc.write(tmp_path / "after.safetensors")
    assert body(tmp_path / "before.safetensors") == body(tmp_path / "after.safetensors")
    untouched = load_file(convert(flux, "diffusers", "d", force=True))
    merged = load_file(tmp_path / "after.safetensors")
    changed = {name for name in merged if not merged[name].equal(untouched[name])}
    assert len(changed) == 3 + 1 + 4 + 1


@pytest.mark.parametrize(("workers", "tile"), [(1, "4KiB"), (3, "64KiB")])
def test_workers_and_tiles_change_nothing(flux: Path, tmp_path: Path, workers: int, tile: str) -> None:
    first = quantized(flux, "nvfp4", "comfyui")
    expected = body(convert(first, "diffusers", "there", force=True))
    target = tmp_path / "o.safetensors"
    tc.open(first) | Convert("diffusers") | tc.write(target, workers=workers, tile=tile)
    assert body(target) == expected


CONFIGURED = [
    "flux dev", "flux schnell", "z-image omni", "ltx video", "flux2 dev", "flux2 klein",
    "chroma", "qwen-image 2.1", "krea 2", "ltx 2.5", "hunyuan video", "hunyuan video 1.5",
    "hunyuan image 2.1", "lumina 2", "auraflow", "ideogram 4",
]  # fmt: skip
NOT_TOLD = {
    "axes_dims_rope", "axes_dims", "axes_lens", "axes_dim_rope", "rope_axes_dim", "mrope_section",
    "multiple_of", "target_size",
}  # fmt: skip
"""Keys that no tensor tells: how heads are divided, where this model's are not those of the published one."""
HEADS = {
    "ltx video": ["attention_head_dim"], "auraflow": ["attention_head_dim"],
    "ltx 2.5": ["num_attention_heads", "audio_num_attention_heads"],
}  # fmt: skip
"""The same of heads whose norms are of all of them."""


RARELY = {"flux2 dev", "hunyuan video 1.5", "hunyuan image 2.1", "auraflow", "ideogram 4"}
"""Whose rules are like those of others."""


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.whole] if one in RARELY else []) for one in CONFIGURED]
)
def test_diffusers_loads_the_folder_by_the_config_that_is_derived(name: str, tmp_path: Path) -> None:
    import diffusers

    tiny = TINY[name]
    model = tiny.model()
    model.save_pretrained(tmp_path / "model")
    source = tmp_path / "model" / "diffusion_pytorch_model.safetensors"
    original = tmp_path / "original"
    original.mkdir()
    tc.open(source) | Convert(tiny.original) | tc.write(original / "model.safetensors")
    given = {key: tiny.config[key] for key in (NOT_TOLD & tiny.config.keys()).union(HEADS.get(name, []))}
    given |= {"ltx 2.5": {"rope_type": "interleaved"}, "hunyuan video 1.5": {"target_size": 640}}.get(
        name, {}
    )
    (original / "config.json").write_text(json.dumps(given))
    tc.open(original) | Convert("diffusers") | tc.write(tmp_path / "there", layout="single_file")
    kind = getattr(diffusers, tiny.name)
    loaded, info = kind.from_pretrained(
        tmp_path / "there",
        output_loading_info=True,
        low_cpu_mem_usage=bool(kind._keep_in_fp32_modules),
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    for parameter in loaded.parameters():  # sums may be rounded otherwise where those of a file lie
        parameter.data = parameter.data.clone()
    assert tiny.forward(loaded.eval()).equal(tiny.forward(model))


def test_a_config_that_tensors_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    """Of 480p and of 720p HunyuanVideo 1.5 has the same tensors."""
    state = {n: t.contiguous() for n, t in TINY["hunyuan video 1.5"].model().state_dict().items()}
    save_file(state, tmp_path / "d.safetensors")
    source = tmp_path / "model"
    source.mkdir()
    convert(tmp_path / "d.safetensors", "lightx2v", "o").rename(source / "model.safetensors")
    for config, whose in ((None, "the source has none"), ("{}", "that of the source is another program's")):
        if config is not None:
            (source / "config.json").write_text(config)
        plan = (tc.open(source) | Convert("diffusers")).plan(tc.write(tmp_path / "x"))
        assert [one for one in plan.log.warnings if f"no config.json is written: {whose}" in str(one)]
    (source / "config.json").write_text('{"target_size": 960}')
    plan = (tc.open(source) | Convert("diffusers")).plan(tc.write(tmp_path / "x"))
    assert [
        file
        for file in plan.side_files
        if file.name == "config.json" and b'"target_size": 960' in file.content
    ]


@pytest.mark.parametrize("scheme", [None, "int8"])
def test_behind_the_prefix_of_an_all_in_one_file(flux: Path, tmp_path: Path, scheme: str | None) -> None:
    source = flux if scheme is None else quantized(flux, scheme, "comfyui")
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in load_file(source).items()}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    expected = load_file(convert(source, "diffusers", "there", force=True))
    found = load_file(convert(tmp_path / "prefixed.safetensors", "diffusers", "found"))
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in found)
    # Where another model stands beside it, each keeps its prefix; of one that no family is of, names stay.
    save_file(prefixed | {"first_stage_model.x.weight": torch.ones(2, 2)}, tmp_path / "more.safetensors")
    plan = (tc.open(tmp_path / "more.safetensors") | Convert("diffusers")).plan(
        tc.write(tmp_path / "x.safetensors")
    )
    names = {tensor.name for tensor in plan.tensors}
    assert "first_stage_model.x.weight" in names
    assert "model.diffusion_model.transformer_blocks.0.attn.to_q.weight" in names
    assert all(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names)
    assert any("vae is of no known family" in str(note) for note in plan.log.notes)
    plan = (
        tc.open(tmp_path / "more.safetensors") | tc.keep("model.diffusion_model") | Convert("diffusers")
    ).plan(tc.write(tmp_path / "x.safetensors"))
    assert len(plan.tensors) == len(expected)


def test_metadata_that_tell_of_layers_tell_of_the_new_ones(flux: Path, tmp_path: Path) -> None:
    layers = {
        "double_blocks.0.img_attn.qkv": {"format": "int8_tensorwise"},
        "single_blocks.1.linear2": {"x": 1},
    }
    told = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(load_file(flux), tmp_path / "told.safetensors", told)
    target = convert(tmp_path / "told.safetensors", "diffusers", "o")
    with safe_open(target, "pt") as file:
        found = json.loads(file.metadata()["_quantization_metadata"])["layers"]
    block = "transformer_blocks.0.attn"
    assert found == {
        **{f"{block}.{part}": {"format": "int8_tensorwise"} for part in ("to_q", "to_k", "to_v")},
        "single_transformer_blocks.1.proj_out": {"x": 1},
    }


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in its original spelling whose parts have as many rows as a tile of scales, or a block, has."""
    folder = tmp_path_factory.mktemp("wide")
    tiny = TINY["flux dev"]
    model = replace(
        tiny, config={**tiny.config, "attention_head_dim": 64, "axes_dims_rope": (16, 24, 24)}
    ).model()
    state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "diffusers.safetensors")
    return convert(folder / "diffusers.safetensors", "original", "original")


@pytest.mark.parametrize(
    ("scheme", "convention"), [("nvfp4", "comfyui"), ("mxfp8", "comfyui"), ("fp8", "deepseek")]
)
def test_whole_tiles_and_blocks_move_as_rows(wide: Path, scheme: str, convention: str) -> None:
    """One block of a part is no scale of the whole tensor, though it is one number."""
    first = quantized(wide, scheme, convention)
    flow = tc.open(first) | Convert("diffusers")
    assert not any(isinstance(tensor.value, Recoded) for tensor in flow)
    there = convert(first, "diffusers", "there", force=True)
    assert body(convert(there, "original", "back", force=True)) == body(first)
    tc.open(there) | tc.dequantize("f32") | tc.write(wide.parent / "a.safetensors", force=True)
    tc.open(first) | tc.dequantize("f32") | tc.write(wide.parent / "b.safetensors", force=True)
    expected = convert(wide.parent / "b.safetensors", "diffusers", "c", force=True)
    assert body(wide.parent / "a.safetensors") == body(expected)


def test_of_an_all_in_one_file_only_the_unet_is_quantized_and_it_converts_alone(
    sdxl: Path, tmp_path: Path
) -> None:
    state, unet = load_file(sdxl / "diffusers.safetensors"), load_file(sdxl / "original.safetensors")
    others = {
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (64, 64),
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": (96, 32),
        "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight": (64, 32),
        "first_stage_model.decoder.mid.attn_1.q.weight": (32, 32, 1, 1),
        "first_stage_model.decoder.fc.weight": (64, 64),
    }
    kept = {name: torch.randn(shape).to(torch.bfloat16) for name, shape in others.items()}
    whole = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.items()} | kept
    save_file(whole, tmp_path / "whole.safetensors")
    written = load_file(quantized(tmp_path / "whole.safetensors", "int8", "comfyui"))
    codes = {name for name, tensor in written.items() if tensor.dtype == torch.int8}
    assert codes == {
        f"model.diffusion_model.{name}"
        for name in unet
        if ".transformer_blocks." in name and name.split(".transformer_blocks.")[1].split(".")[1] in
        ("attn1", "attn2", "ff") and name.endswith(".weight")
    }  # fmt: skip
    assert all(written[name].equal(tensor) for name, tensor in kept.items())
    flow = tc.open(tmp_path / "whole.safetensors") | tc.keep("model.diffusion_model") | Convert("diffusers")
    flow | tc.write(tmp_path / "alone.safetensors")
    alone = load_file(tmp_path / "alone.safetensors")
    assert alone.keys() == state.keys()
    assert all(alone[name].equal(state[name]) for name in state)


@pytest.mark.parametrize("name", make_laws.PAGES)
def test_the_list_of_these_laws_in_the_documents_is_theirs(name: str) -> None:
    text = (Path(make_laws.ROOT) / "docs" / "guide" / name).read_text("utf-8")
    rows = make_laws.table(sys.modules[__name__])
    assert make_laws.page(text, rows) == text
    assert "| sdxl | `sdxl` | `convert_ldm_unet_checkpoint` | ✓ | ✓ | ✓ | ✓ | ✓ |" in rows
