"""LoRAs in recipes, flags, pipes and Python: one stage, however it is said."""

import io
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.errors import FormatError, RecipeError
from transcode.recipe import Recipe, dump, parse
from transcode.stages.lora.stage import Lora, LoraFile, parse_lora
from transcode.stages.quantize.pad import pad_tensor


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("a.safetensors", ("a.safetensors", 1.0, None)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8, None)),
        ("dir/a.safetensors:-.5:16", ("dir/a.safetensors", -0.5, 16.0)),
        ("a.safetensors::16", ("a.safetensors", 1.0, 16.0)),
        ("a.safetensors:1e-2", ("a.safetensors", 0.01, None)),
        (r"C:\loras\a.safetensors", (r"C:\loras\a.safetensors", 1.0, None)),
        (r"C:\loras\a.safetensors:0.5", (r"C:\loras\a.safetensors", 0.5, None)),
        ("odd:name", ("odd:name", 1.0, None)),
        ("odd:e", ("odd:e", 1.0, None)),
    ],
)
def test_path_strength_alpha(text, file):
    assert parse_lora(text) == LoraFile(*file)
    assert parse_lora(f"low={text}") == LoraFile(*file, noise="low")


TWO = Lora((LoraFile("a.safetensors", 0.5, None), LoraFile("b.safetensors", 1.0, 8.0)), "same", "net.")


def steps(text):
    return parse(text).steps


def test_the_same_stage_however_it_is_said():
    said = (
        "{paths: [a.safetensors, b.safetensors], strengths: [0.5, 1], alphas: [~, 8],"
        " keys: same, prefix: net.}"
    )
    assert steps(f"steps: [lora: {said}]") == (TWO,)
    assert steps(f"lora: {said}") == (TWO,)
    assert tc.lora([("a.safetensors", 0.5), ("b.safetensors", 1.0, 8.0)], keys="same", prefix="net.") == TWO
    assert parse(dump(Recipe(steps=(TWO,)))).steps == (TWO,)
    plain = Lora((LoraFile("a.safetensors"),))
    assert plain.config() == {"paths": ["a.safetensors"]}
    assert steps("steps: [lora: a.safetensors]") == steps("steps: [lora: [a.safetensors]]") == (plain,)
    assert steps("lora: {paths: [x, y], strengths: 0.5}") == (Lora((LoraFile("x", 0.5), LoraFile("y", 0.5))),)
    assert steps("steps: [lora: ['a:0.5', 'b::8']]") == (Lora((LoraFile("a", 0.5), LoraFile("b", 1.0, 8.0))),)


def test_the_section_can_be_switched_off():
    assert steps("lora: {enabled: true, paths: [a]}") == (Lora((LoraFile("a"),)),)
    assert steps("lora: {enabled: false, paths: [a], strengths: [1]}") == ()
    assert steps("lora: {enabled: false}") == ()
    assert steps("lora: {enabled: false, paths: []}") == ()


def test_the_section_comes_before_what_rounds():
    recipe = parse(
        "source: {type: wan_dit, format: diffusers}\nquantization: {method: int8}\nlora: {paths: [a]}\n"
        "target: {format: lightx2v}\n"
    )
    assert [step.kind for step in recipe.steps] == ["convert", "lora", "quantize"]
    assert [step.kind for step in steps("lora: {paths: [a]}\ntarget: {precision: bf16}")] == ["lora", "cast"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lora: {paths: []}", r"recipe:1.*no file is named"),
        ("lora: {enabled: true}", r"recipe:1.*no file is named"),
        ("lora: {paths: [a], strengths: [1, 2]}", r"recipe:1.*strengths.*2 values for 1 paths"),
        ("lora: {paths: [a], strengths: [high]}", r"recipe:1.*strengths\[0\].*number"),
        ("lora: {paths: [a], alphas: [.nan]}", r"recipe:1.*alphas"),
        ("lora: {paths: [a], keys: other}", r"recipe:1.*'other' is not one of auto, same, convert"),
        ("lora: {paths: [a], strenghts: [1]}", r"recipe:1.*strenghts.*did you mean strengths"),
        ("steps: [drop: [x]]\nlora: {paths: [a]}", r"recipe:2.*either steps or a lora section"),
    ],
)
def test_mistakes_are_told_with_their_line(text, told):
    with pytest.raises(RecipeError, match=told):
        parse(text)


@pytest.fixture
def lora(tmp_path):
    path = tmp_path / "style.safetensors"
    save_file(
        {
            "blocks.0.ffn.0.lora_B.weight": torch.ones(176, 2),
            "blocks.0.ffn.0.lora_A.weight": torch.ones(2, 64),
        },
        path,
    )
    return path


def test_run_and_pipe_and_python_write_the_same(wan, lora, cli, tmp_path, monkeypatch):
    flag, piped, python = (tmp_path / f"{name}.safetensors" for name in ("flag", "piped", "python"))
    cli("run", wan, flag, "--lora", f"{lora}:0.5", "--scheme", "int8")
    text = cli("open", wan).out
    for command in (["lora", f"{lora}:0.5"], ["quantize", "int8"], ["write", piped]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        text = cli(*command).out
    tc.open(wan) | tc.lora(lora, 0.5) | tc.quantize("int8") | tc.write(python)
    assert flag.read_bytes() == piped.read_bytes() == python.read_bytes()


def test_run_merges_before_it_casts(wan, lora, cli, tmp_path):
    out = tmp_path / "out.safetensors"
    cli("run", wan, out, "--cast", "F32", "--lora", f"{lora}:1:4")
    before = tc.open(wan)["blocks.0.ffn.0.weight"].torch()
    assert torch.equal(
        load_file(out)["blocks.0.ffn.0.weight"], (before.float() + 4).to(torch.bfloat16).float()
    )


def test_what_has_no_home_is_one_line(wan, lora, cli, tmp_path):
    save_file({"blocks.7.ffn.0.lora_B.weight": torch.ones(4, 2)}, tmp_path / "half.safetensors")
    result = cli("run", wan, tmp_path / "o.safetensors", "--lora", tmp_path / "half.safetensors", code=2)
    assert result.err.count("\n") == 1
    assert "blocks.7.ffn.0.lora_B.weight: has no partner" in result.err


def test_a_file_made_with_a_lora_tells_its_recipe(wan, lora, cli, tmp_path):
    out = tmp_path / "out.safetensors"
    cli("run", wan, out, "--lora", f"{lora}:0.5")
    told = cli("recipe", "show", out).out
    assert str(tmp_path) not in told
    made = yaml.safe_load(told)["steps"]
    assert made == [{"lora": {"paths": ["style.safetensors"], "strengths": [0.5]}}]


def test_a_lora_is_an_input_like_the_source(wan, lora, refused, tmp_path):
    """It is never overwritten, and a run whose LoRA changes meanwhile writes nothing."""
    before = lora.read_bytes()
    line = refused("run", wan, lora, "--lora", lora, "--force")
    assert "never overwritten" in line
    assert lora.read_bytes() == before
    out = tmp_path / "out.safetensors"

    def touched(progress):
        if progress.stage == "sync":
            lora.write_bytes(before[:-1] + b"\x00")

    with pytest.raises(FormatError, match="was changed since planning began"):
        tc.open(wan) | tc.lora(lora) | tc.write(out, on_progress=touched)
    assert not out.exists()


def test_stages_behind_a_lora_know_what_its_rows_cost(wan, lora):
    """A cast once forgot, and tiles were four times too large for the memory that was allowed."""
    flow = tc.open(wan) | tc.lora(lora)
    merged = next(tensor for tensor in flow if tensor.cost > 1)
    for stage in (tc.cast("F32"), tc.quantize("int8", include=[merged.name])):
        assert (flow | stage)[merged.name].cost == merged.cost
    assert pad_tensor(merged, *(2 * n for n in merged.spec.shape)).cost == merged.cost
