"""Quantized sources under another scheme: decoded and encoded anew, or their own codes, as the plan says."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from functools import cache
from itertools import cycle

import golden
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.files import raw
from transcode import catalog
from transcode.catalog.template import Template
from transcode.core import values
from transcode.errors import PlanError, RecipeError, TranscodeError

LAYERS = 14
"""Matrices of the small Llama that are quantized."""

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj"


def taking(scheme):
    found = {name: catalog.convention(name) for name in catalog.conventions()}
    names = [name for name, one in found.items() if scheme in one.schemes and one.unwritten is None]
    # LightX2V's int4 takes rows by 256 at a time, which most layers of the small Llama have not.
    return [name for name in names if (scheme, name) != ("int4", "lightx2v")]


SOURCES = [
    (scheme, convention)
    for scheme in golden.VARIANTS
    for convention in taking(scheme)
    if convention not in golden.NARROW
]


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return golden.Maker(tmp_path_factory.mktemp("anew"))


def quantized(maker, scheme, convention, **options):
    source = maker.path("llama", golden.llama)
    path = maker.folder / f"{scheme}{golden.told(options)}_{convention}"
    if not path.exists():
        tc.open(source) | tc.quantize(scheme, **options) | tc.write(path, convention=convention)
    return path


def contents(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def config(folder):
    return json.loads((folder / "config.json").read_text())


def did(plan, kind):
    return {tensor.name for tensor in plan.tensors if any(event.kind == kind for event in tensor.fate)}


def attempt(flow, write):
    """The report, or the kind of the error."""
    try:
        return flow | write
    except TranscodeError as error:
        return type(error)


def kept_their_values(source, out, report, folder, anew):
    """Recoded tensors are those of the source, or nearer to them than what was encoded anew."""
    result = decoded(out, folder / "f32_out")
    other = None
    for name, (exact, blocks) in report.recoded.items():
        before, after = source()[name].double(), result[name].double()
        if exact == blocks:
            assert torch.equal(before, after), name
        else:
            other = other or decoded(anew, folder / "f32_anew")
            assert (before - after).norm() <= (before - other[name].double()).norm(), name


def decoded(path, to):
    shutil.rmtree(to, ignore_errors=True)
    tc.open(path) | tc.dequantize("F32") | tc.write(to)
    return contents(to)


@pytest.mark.parametrize(("scheme", "convention"), SOURCES, ids=lambda value: str(value))
def test_every_pair_is_dequantized_and_quantized(scheme, convention, maker, tmp_path):
    try:
        source = quantized(maker, scheme, convention)
    except (PlanError, RecipeError):
        pytest.skip("the convention does not take the scheme so")
    tc.open(source) | tc.dequantize("BF16") | tc.write(tmp_path / "plain")
    values = cache(lambda: decoded(source, tmp_path / "f32"))
    written = 0
    # Half of the other schemes from one convention, half from the next: of two, every pair of schemes.
    at = taking(scheme).index(convention)
    others = [other for other in golden.VARIANTS if other != scheme][at % 2 :: 2]
    for number, (other, start) in enumerate(zip(others, cycle((1, 0)), strict=False), at):
        named = taking(other)
        target = tc.write(tmp_path / f"{other}", convention=named[(number + start) % len(named)], workers=2)
        step = tc.quantize(other)
        explicit = attempt(tc.open(source) | tc.dequantize("BF16") | step, target)
        if isinstance(explicit, type):
            assert attempt(tc.open(source) | step, target) is explicit
            continue
        written += 1
        shutil.copytree(tmp_path / other, tmp_path / f"{other}_anew")
        expected, told = raw(tmp_path / other), config(tmp_path / other)
        flows = [tc.open(source) | step]
        if written == 1:
            flows.append(tc.open(tmp_path / "plain") | step)
        for flow in flows:
            report = flow | tc.write(
                tmp_path / other, convention=target.convention, workers=2, tile=9000, force=True
            )
            if recoded := did(report.plan, "recode"):
                assert len(recoded) == LAYERS
                kept_their_values(values, tmp_path / other, report, tmp_path, tmp_path / f"{other}_anew")
                continue
            assert raw(tmp_path / other) == expected, (other, target.convention)
            assert config(tmp_path / other) == told
            if flow.source.path == source:
                assert did(report.plan, "dequantize") == did(report.plan, "quantize")
                assert len(did(report.plan, "quantize")) == LAYERS
                notes = "; ".join(map(str, report.plan.log.notes))
                assert f"of the tensors that came quantized: {LAYERS} decoded and encoded anew" in notes
                assert f"{LAYERS} tensors are encoded anew as {other}" in notes
    assert written >= 2


def test_by_a_formula_of_torch(maker, tmp_path):
    source = quantized(maker, "fp8", "compressed_tensors")
    tc.open(source) | tc.quantize("int8") | tc.write(tmp_path / "o", convention="lightx2v")
    before, after = contents(source), contents(tmp_path / "o")
    wide = (before[f"{Q}.weight"].float() * before[f"{Q}.weight_scale"].float()).bfloat16().float()
    codes, scale = after[f"{Q}.weight"], after[f"{Q}.weight_scale"].float()
    assert codes.dtype == torch.int8
    assert torch.equal(
        scale, (wide.abs().amax(1, keepdim=True) / 127).to(after[f"{Q}.weight_scale"].dtype).float()
    )
    assert torch.equal(codes.float(), (wide / scale).round().clamp(-128, 127))


@pytest.mark.parametrize(
    ("scheme", "options", "other"),
    [
        ("int4", {"group_size": 128}, {"group_size": 64}),
        ("fp8", {"granularity": "tensor"}, {"granularity": "block"}),
        ("int8", {}, {"symmetric": False}), ("int8", {}, {"scale_dtype": "F32"}),
        ("mxfp6", {}, {"format": "e3m2"}),
    ],
)  # fmt: skip
def test_options_decide_and_not_names(scheme, options, other, maker, tmp_path):
    source = quantized(maker, scheme, "neutral", **options)
    report = tc.open(source) | tc.quantize(scheme, **other) | tc.write(tmp_path / "a", convention="neutral")
    if recoded := did(report.plan, "recode"):
        assert len(recoded) == LAYERS
        assert sum(exact for exact, _ in report.recoded.values()) > 0
        before, after = decoded(source, tmp_path / "f"), decoded(tmp_path / "a", tmp_path / "g")
        assert all(torch.equal(before[name], after[name]) for name in before)
        return
    assert len(did(report.plan, "dequantize")) == LAYERS
    explicit = tc.open(source) | tc.dequantize("BF16") | tc.quantize(scheme, **other)
    explicit | tc.write(tmp_path / "b", convention="neutral")
    assert raw(tmp_path / "a") == raw(tmp_path / "b")


@pytest.mark.parametrize(
    ("scheme", "options", "one", "other"),
    [
        ("int8", {}, "lightx2v", "compressed_tensors"), ("mxfp8", {}, "comfyui", "modelopt"),
        ("int4", {"group_size": 32}, "neutral", "compressed_tensors"),
        ("nvfp4", {}, "modelopt", "comfyui"), ("mxfp4", {}, "lightx2v", "neutral"),
    ],
)  # fmt: skip
def test_the_same_scheme_for_another_is_a_repack(scheme, options, one, other, maker, tmp_path):
    source = quantized(maker, scheme, one, **options)
    tc.open(source) | tc.write(tmp_path / "repacked", convention=other)
    flow = tc.open(source) | tc.quantize(scheme, **options)
    report = flow | tc.write(tmp_path / "o", convention=other)
    assert raw(tmp_path / "o") == raw(tmp_path / "repacked")
    assert config(tmp_path / "o") == config(tmp_path / "repacked")
    assert len(did(report.plan, "repack")) == LAYERS
    assert not did(report.plan, "dequantize") | did(report.plan, "quantize")


def test_what_cannot_be_repacked_is_encoded_anew(maker, tmp_path):
    """Scales of q, k and v that need not be one, where they must."""
    source = quantized(maker, "nvfp4", "comfyui")
    with pytest.raises(PlanError, match="one scale for all layers that are joined"):
        tc.open(source) | tc.write(tmp_path / "x", convention="modelopt")
    report = tc.open(source) | tc.quantize("nvfp4") | tc.write(tmp_path / "o", convention="modelopt")
    assert len(did(report.plan, "quantize")) == LAYERS
    assert any("is nvfp4 already, and encoded anew" in str(note) for note in report.plan.log.notes)
    scales = contents(tmp_path / "o")
    assert (
        len(
            {
                scales[f"{Q.replace('q_proj', n)}.weight_scale_2"].item()
                for n in ("q_proj", "k_proj", "v_proj")
            }
        )
        == 1
    )


def test_the_same_for_the_same_is_nothing(maker, tmp_path, refused, cli):
    source = quantized(maker, "int8", "lightx2v")
    told = refused("run", source, tmp_path / "o", "--scheme", "int8")
    assert "quantized already: int8 as lightx2v stores it" in told
    assert not (tmp_path / "o").exists()
    cli("run", source, tmp_path / "o", "--scheme", "int8", "--allow-unmatched")
    assert raw(tmp_path / "o") == raw(source)


def test_options_that_codes_do_not_tell_are_said_to_do_nothing(maker, tmp_path):
    source = quantized(maker, "mxfp8", "lightx2v")
    flow = tc.open(source) | tc.quantize("mxfp8", scale_mode="floor")
    report = flow | tc.write(tmp_path / "o", convention="neutral")
    assert any("scale_mode=floor does nothing for 14 tensors" in str(one) for one in report.plan.log.warnings)
    source = quantized(maker, "mxfp8", "lightx2v", scale_mode="floor")
    flow = tc.open(source) | tc.quantize("mxfp8", scale_mode="floor")
    report = flow | tc.write(tmp_path / "p", convention="neutral")
    assert not any("does nothing" in str(one) for one in report.plan.log.warnings)


@pytest.mark.parametrize("convention", ["compressed_tensors", "modelopt", "comfyui"])
def test_some_of_each(convention, maker, tmp_path, cli):
    """What is not chosen keeps its codes to the bit, and config.json and markers tell of both."""
    source = quantized(maker, "nvfp4", convention)
    cli(
        "run", source, tmp_path / "o", "--scheme", "fp8", "--exclude", "mlp", "--convention", convention,
        *(("--granularity", "tensor") if convention == "comfyui" else ()),
    )  # fmt: skip
    before, after = contents(source), contents(tmp_path / "o")
    kept = {name for name in before if ".mlp." in name}
    assert kept
    assert all(torch.equal(before[name].flatten(), after[name].flatten()) for name in kept)
    assert after[f"{Q}.weight"].dtype == torch.float8_e4m3fn
    found = {t.name: t.torch() for t in tc.open(tmp_path / "o") | tc.dequantize("F32")}
    was = {t.name: t.torch() for t in tc.open(source) | tc.dequantize("F32")}
    assert torch.equal(found[f"{UP}.weight"], was[f"{UP}.weight"])
    assert (found[f"{Q}.weight"] - was[f"{Q}.weight"]).norm() < 0.05 * was[f"{Q}.weight"].norm()
    if convention == "comfyui":
        marks = {key: json.loads(bytes(after[f"{key}.comfy_quant"].tolist()))["format"] for key in (Q, UP)}
        assert marks == {Q: "float8_e4m3fn", UP: "nvfp4"}
    else:
        assert Q.rsplit(".", 1)[1] in json.dumps(config(tmp_path / "o")) or "config_groups" in json.dumps(
            config(tmp_path / "o")["quantization_config"]
        )


def test_a_reciprocal_that_is_kept_is_not_taken_twice(maker, save, tmp_path):
    """The reciprocal of the reciprocal of this number is another one in float32."""
    scale = next(x for x in torch.linspace(1e-4, 2e-4, 999) if (1 / (1 / x)) != x)
    tensors = contents(quantized(maker, "nvfp4", "modelopt"))
    tensors = {
        name: scale.clone() if name.endswith("weight_scale_2") else one for name, one in tensors.items()
    }
    flow = tc.open(save(tensors)) | tc.quantize("fp8", exclude=["mlp"])
    flow | tc.write(tmp_path / "o", convention="modelopt")
    assert torch.equal(contents(tmp_path / "o")[f"{UP}.weight_scale_2"].reshape(()), scale)


def test_nor_where_another_convention_says_the_same_name_in_other_words(maker, save, tmp_path, monkeypatch):
    """The target and the one that is told to read it store alike: what is kept goes along."""
    scale = next(x for x in torch.linspace(1e-4, 2e-4, 999) if (1 / (1 / x)) != x)
    known = {name: catalog.convention(name) for name in catalog.conventions()}
    rule = known["modelopt"].schemes["nvfp4"]
    whole = rule.parts["global_scale"]
    parts = {**rule.parts, "global_scale": replace(whole, name=Template("{stem}.weight_scale_2"))}
    schemes = {**known["modelopt"].schemes, "nvfp4": replace(rule, parts=parts)}
    known["twin"] = replace(known["modelopt"], name="twin", schemes=schemes)
    monkeypatch.setattr(catalog, "conventions", lambda: list(known))
    monkeypatch.setattr(catalog, "convention", known.__getitem__)
    monkeypatch.setattr(catalog, "every_convention", lambda: tuple(known.values()))
    tensors = contents(quantized(maker, "nvfp4", "modelopt"))
    tensors = {
        name: scale.clone() if name.endswith("weight_scale_2") else one for name, one in tensors.items()
    }
    flow = tc.open(save(tensors)) | tc.quantize("fp8", exclude=["mlp"])
    flow | tc.write(tmp_path / "o", convention="twin")
    assert torch.equal(contents(tmp_path / "o")[f"{UP}.weight_scale_2"].reshape(()), scale)


def test_what_is_kept_and_cannot_be_had_is_refused(maker, tmp_path, refused):
    source = quantized(maker, "int8", "lightx2v")
    told = refused(
        "run", source, tmp_path / "o", "--scheme", "fp8", "--exclude", "mlp", "--convention", "modelopt"
    )
    assert "cannot be stored as modelopt stores int8" in told
    assert "--dequantize bf16 --dequantize-only" in told


def test_scales_of_groups_that_a_recipe_does_not_tell(save, tmp_path):
    """The kept have 300 columns in a group, which shapes leave open; the others 64."""
    draw = torch.randn(128, 384, generator=torch.Generator().manual_seed(1))
    path = save({"blocks.0.a.weight": draw, "blocks.0.b.weight": draw.clone()})
    flow = tc.open(path) | tc.quantize("int8", granularity="group", group_size=300)
    flow | tc.write(tmp_path / "q.safetensors", convention="neutral")
    was = (tc.open(tmp_path / "q.safetensors") | tc.dequantize("F32"))["blocks.0.a.weight"].torch()
    flow = tc.open(tmp_path / "q.safetensors")
    flow = flow | tc.quantize("int8", granularity="group", group_size=64, include=["b"], exclude=["a"])
    flow | tc.write(tmp_path / "o.safetensors", convention="neutral")
    found = tc.open(tmp_path / "o.safetensors") | tc.dequantize("F32")
    assert torch.equal(found["blocks.0.a.weight"].torch(), was)
    assert load_file(tmp_path / "o.safetensors")["blocks.0.b.weight_scale"].shape == (128, 6)


@pytest.mark.parametrize("way", ["run", "pipe", "recipe"])
def test_a_lora_on_a_quantized_base(way, maker, tmp_path, cli):
    source = quantized(maker, "fp8", "compressed_tensors")
    lora = maker.path("adapter_kohya.safetensors", golden.adapter("kohya"))
    explicit = tc.open(source) | tc.dequantize("BF16") | tc.lora(lora) | tc.quantize("int8")
    explicit | tc.write(tmp_path / "e", convention="compressed_tensors")
    if way == "run":
        cli(
            "run", source, tmp_path / "o", "--lora", lora, "--scheme", "int8",
            "--convention", "compressed_tensors",
        )  # fmt: skip
    elif way == "pipe":
        flow = tc.open(source) | tc.lora(lora) | tc.quantize("int8")
        flow | tc.write(tmp_path / "o", convention="compressed_tensors")
    else:
        (tmp_path / "r.yaml").write_text(
            f"source: {{path: {source}, convention: compressed_tensors}}\n"
            f"steps: [lora: {{paths: [{lora}]}}, quantize: {{scheme: int8}}]\n"
            f"target: {{convention: compressed_tensors}}\noutput: {{path: {tmp_path / 'o'}}}\n"
        )
        cli("run", "--config", tmp_path / "r.yaml")
    assert raw(tmp_path / "o") == raw(tmp_path / "e")
    assert config(tmp_path / "o") == config(tmp_path / "e")


def test_a_lora_on_what_is_not_quantized_again(maker, tmp_path):
    source = quantized(maker, "fp8", "compressed_tensors")
    lora = maker.path("adapter_kohya.safetensors", golden.adapter("kohya"))
    flow = tc.open(source) | tc.lora(lora) | tc.quantize("int8", exclude=["down_proj"])
    report = flow | tc.write(tmp_path / "o", convention="lightx2v")
    warnings = [one for one in report.plan.log.warnings if one.kind == "decoded"]
    assert len(warnings) == 2
    merged = tc.open(source) | tc.dequantize("BF16") | tc.lora(lora)
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(contents(tmp_path / "o")[name], merged[name].torch())


def test_a_rename_and_a_cast_between(maker, tmp_path):
    source = quantized(maker, "int8", "lightx2v")
    stages = (tc.rename([(r"^model\.", "")]), tc.cast("F16"), tc.quantize("fp8", exclude=["mlp"]))
    flow, explicit = tc.open(source), tc.open(source) | tc.dequantize("BF16")
    for stage in stages:
        flow, explicit = flow | stage, explicit | stage
    flow | tc.write(tmp_path / "a", convention="lightx2v")
    explicit | tc.write(tmp_path / "b", convention="lightx2v")
    before, found, other = contents(source), contents(tmp_path / "a"), contents(tmp_path / "b")
    for name, value in found.items():
        assert torch.equal(value, before[f"model.{name}"] if ".mlp." in name else other[name]), name
    assert found["norm.weight"].dtype == torch.float16


@pytest.mark.parametrize(("said", "dtype"), [("float32", "F32"), ("float16", "F16"), (None, "BF16")])
def test_decoded_to_what_the_model_computes_in(said, dtype, maker, tmp_path):
    source = quantized(maker, "fp8", "compressed_tensors")
    copy = tmp_path / "c"
    tc.open(source) | tc.write(copy)
    told = config(copy)
    told["torch_dtype"] = said
    (copy / "config.json").write_text(json.dumps(told))
    plan = (tc.open(copy) | tc.quantize("int8")).plan(tc.write(tmp_path / "o"))
    what = {event.what for tensor in plan.tensors for event in tensor.fate if event.kind == "dequantize"}
    assert what == {f"fp8 -> {dtype}"}


def test_a_plan_of_it_is_a_value_and_tiles_change_nothing(maker, tmp_path):
    source = quantized(maker, "nvfp4", "modelopt")
    step = tc.quantize("fp8", exclude=["mlp"])
    plans = [(tc.open(source) | step).plan(tc.write(tmp_path / "x", convention="modelopt")) for _ in range(2)]
    assert plans[0] == plans[1] == pickle.loads(pickle.dumps(plans[0]))
    assert plans[0] == values.load(json.loads(json.dumps(values.dump(plans[0]))))
    found = []
    for number, way in enumerate(({"workers": 1}, {"workers": 3, "tile": 1}, {"workers": 2, "tile": 5000})):
        tc.open(source) | step | tc.write(tmp_path / str(number), convention="modelopt", **way)
        found.append(golden.digest(tmp_path / str(number)))
    assert len(set(found)) == 1


@pytest.mark.parametrize(("scheme", "convention"), SOURCES, ids=lambda value: str(value))
def test_plans_that_keep_some_codes_are_files(scheme, convention, maker, tmp_path):
    """The same through JSON, and what is kept is said to be kept and no more."""
    try:
        source = quantized(maker, scheme, convention)
    except (PlanError, RecipeError):
        pytest.skip("the convention does not take the scheme so")
    step = tc.quantize("fp8", exclude=["mlp"], **({"granularity": "tensor"} if scheme != "fp8" else {}))
    wanted = convention if "fp8" in catalog.convention(convention).schemes else "neutral"
    try:
        plan = (tc.open(source) | step).plan(tc.write(tmp_path / "o", convention=wanted))
    except (PlanError, RecipeError):
        pytest.skip("it does not take the two together")
    assert values.load(json.loads(json.dumps(values.dump(plan)))) == plan
    fate = next(tensor.fate for tensor in plan.tensors if tensor.name == f"{UP}.weight")
    assert [event.kind for event in fate] in (["keep", "keep"], ["keep", "repack"])


def test_scales_of_inputs_go_along_where_codes_stay(save, tmp_path):
    draw = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
    path = save({"blocks.0.a.weight": draw, "blocks.0.b.weight": draw.clone()})
    tc.open(path) | tc.quantize("fp8", granularity="tensor") | tc.write(tmp_path / "q", convention="comfyui")
    tensors = contents(tmp_path / "q")
    more = {f"blocks.0.{n}.input_scale": torch.tensor(0.5) for n in "ab"}
    source = save({**tensors, **more}, "in.safetensors")
    flow = tc.open(source) | tc.quantize("nvfp4", exclude=["a"])
    flow | tc.write(tmp_path / "o", convention="comfyui")
    found = contents(tmp_path / "o")
    assert found["blocks.0.a.input_scale"] == 0.5
    assert "blocks.0.b.input_scale" not in found
    report = flow | tc.write(tmp_path / "p", convention="lightx2v")
    assert not any("input_scale" in name for name in contents(tmp_path / "p"))
    assert any("1 scales of inputs are left out" in str(one) for one in report.plan.log.warnings)


# Several that fit


@pytest.fixture
def bare(maker, tmp_path):
    """A quantized model in a file of which nothing says how it is stored."""

    def call(scheme, convention):
        save_file(contents(quantized(maker, scheme, convention)), tmp_path / "bare.safetensors")
        return tmp_path / "bare.safetensors"

    return call


ASKED = (("--scheme", "int8"), ("--convention", "neutral"), ("--dequantize", "bf16"))


def test_a_scheme_that_is_one_of_several(maker, bare, tmp_path, cli, refused):
    """Six bits in bytes, or eight of a matrix of fewer columns."""
    source = bare("mxfp6", "lightx2v")
    for asked in ASKED:
        told = refused("run", source, tmp_path / "o.safetensors", *asked)
        assert "may be mxfp6 or mxfp8; say which with --from-scheme" in told
        cli("run", source, tmp_path / "o.safetensors", *asked, "--from-scheme", "mxfp6", "-f")
    known = tc.open(quantized(maker, "mxfp6", "lightx2v")) | tc.dequantize("F32")
    found = tc.open(source, scheme="mxfp6") | tc.dequantize("F32")
    assert torch.equal(found[f"{Q}.weight"].torch(), known[f"{Q}.weight"].torch())


def test_all_conventions_that_fit_are_listed(bare, tmp_path, cli, refused, monkeypatch):
    """One more that stores nvfp4 as ModelOpt does, but for the order of scales."""
    known = {name: catalog.convention(name) for name in catalog.conventions()}
    rule = known["modelopt"].schemes["nvfp4"]
    swizzled = replace(rule.parts["scale"], codecs=known["comfyui"].part("scale", "nvfp4").codecs)
    parts = {**rule.parts, "scale": swizzled}
    known["twin"] = replace(known["modelopt"], name="twin", schemes={"nvfp4": replace(rule, parts=parts)})
    monkeypatch.setattr(catalog, "conventions", lambda: list(known))
    monkeypatch.setattr(catalog, "convention", known.__getitem__)
    monkeypatch.setattr(catalog, "every_convention", lambda: tuple(known.values()))
    source = bare("nvfp4", "modelopt")
    for asked in ASKED:
        told = refused("run", source, tmp_path / "o.safetensors", *asked)
        assert "as modelopt or twin or bfl stores it, which decode to different values" in told
        assert "say whose file it is: --from-convention modelopt or --from-convention twin or --from" in told
        for name in ("modelopt", "twin"):
            cli("run", source, tmp_path / f"{name}.safetensors", *asked, "--from-convention", name, "-f")
        one, other = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("modelopt", "twin"))
        assert one != other
    shown = cli("recipe", "show", "run", source, "o", "--scheme", "int8", "--from-convention", "modelopt")
    assert "convention: modelopt" in shown.out


def test_what_is_said_of_a_source_without_effect_is_an_error(maker, tmp_path, refused):
    source = maker.path("llama", golden.llama)
    scheme = ("--scheme", "int8")
    for said in (("--from-convention", "lightx2v"), ("--from-scheme", "fp8")):
        for more in (scheme, ()):
            told = refused("run", source, tmp_path / "o", *more, *said)
            assert "the source is said to hold" in told
    assert "nobody" in refused("run", source, tmp_path / "o", *scheme, "--from-convention", "nobody")
    with pytest.raises(RecipeError, match="nobody"):
        tc.open(source, convention="nobody")
