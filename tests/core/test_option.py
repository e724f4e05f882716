"""An option is written in one place: fields that are new here are known to all that follows from them."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import dataclass
from typing import ClassVar

import pytest
from click.testing import CliRunner

from transcode.cli.pipe import stage_command
from transcode.cli.reference import reference
from transcode.core import kinds
from transcode.core.flow import Transform
from transcode.core.option import SAME, WHAT, Declared, again, option, options_of
from transcode.errors import RecipeError
from transcode.recipe import dump, parse
from transcode.recipe.schema import schema
from transcode.stages import table


@dataclass(frozen=True)
class PolishOptions(Declared):
    """Polish tensors."""

    kind: ClassVar[str] = "polish"
    alone: ClassVar[str] = "to"

    to: str = option(kinds.DTYPE, "How fine.", argument="DTYPE", run="--polish", names="dtypes", head=True)
    rounds: int = option(kinds.COUNT, "How often.", default=2, run="--polish-rounds", key="num_rounds")
    style: str = option(kinds.TEXT, "In which way.", default="wet", choices=("wet", "dry"), run=SAME)
    only: tuple[str, ...] = option(kinds.PATTERNS, "Polish these.", default=())
    rough: bool = option(kinds.FLAG, "Leave edges.", default=True, flag="--smooth", off=True, run=SAME)
    whose: str | None = option(kinds.TEXT, "Whose cloth.", default=None, names="conventions", run=SAME)
    wax: int = option(kinds.SIZE, "How much.", default=5 * 10**6, run=SAME)


@dataclass(frozen=True)
class Polish(PolishOptions, Transform):
    """The stage."""


@pytest.fixture
def polish(monkeypatch):
    """The stage stands in the table, which is read by all."""
    monkeypatch.setitem(table.STAGES, "polish", (PolishOptions, "polish"))
    monkeypatch.setitem(sys.modules, "transcode.stages.polish", types.SimpleNamespace(Polish=Polish))
    monkeypatch.setattr(table, "ORDER", (*table.ORDER, "polish"))


@pytest.fixture
def run(polish):
    """``transcode run`` as it is made of that table."""
    known = importlib.util.find_spec("transcode.cli.run")
    spec = importlib.util.spec_from_file_location("transcode.cli.toy_run", known.origin)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FULL = {
    "to": "BF16", "num_rounds": 3, "style": "dry", "only": ["a"], "rough": False, "whose": "plain", "wax": 64 << 20,
}  # fmt: skip
YAML = "{to: bf16, num_rounds: 3, style: dry, only: a, rough: false, whose: plain, wax: 64MiB}"


def test_recipes_say_it_and_are_written(polish):
    recipe = parse(f"steps: [polish: {YAML}]")
    assert recipe.steps == (Polish("bfloat16", 3, "dry", "a", False, "plain", "64MiB"),)
    assert recipe.config() == {"steps": [{"polish": FULL}]}
    assert parse(dump(recipe)) == recipe
    assert parse("steps: [polish: bf16]").config() == {"steps": [{"polish": {"to": "BF16"}}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{to: int3}", "recipe:2: steps[0].polish: polish: to: 'int3' is not a float dtype"),
        ("{num_rounds: 1}", "recipe:2: steps[0].polish: 'to' is missing"),
        ("{to: bf16, rounds: 1}", "recipe:2: steps[0].polish: unknown key 'rounds'; known here: to, num_rounds"),
        ("{to: bf16,\n num_rounds: 0}", "recipe:3: steps[0].polish.num_rounds: must be at least 1, is 0"),
        ("{to: bf16,\n style: dri}", "recipe:3: steps[0].polish.style: 'dri' is not one of wet, dry (did you mean dry?)"),
        ("{to: bf16,\n rough: 1}", "recipe:3: steps[0].polish.rough: must be true or false, is a whole number (1)"),
        ("{to: bf16,\n wax: 5 parsec}", "recipe:3: steps[0].polish.wax: '5 parsec' is not a size"),
        ("{to: bf16, only: 'a['}", "recipe:2: steps[0].polish: 'a[' is not a valid pattern"),
    ],
)  # fmt: skip
def test_recipes_are_read_strictly(text, message, polish):
    with pytest.raises(RecipeError) as caught:
        parse(f"steps:\n- polish: {text}\n")
    assert str(caught.value).startswith(message), caught.value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"to": 5}, "polish: to: 5 is not a text"),
        ({"to": "BF16", "rounds": True}, "polish: rounds: True is not a positive number"),
        ({"to": "BF16", "style": "dri"}, "polish: style: 'dri' is not one of wet, dry (did you mean dry?)"),
        ({"to": "BF16", "style": None}, "polish: style: None is not a text"),
        ({"to": "BF16", "only": [1]}, "polish: only: 1 is not a text"),
        ({"to": "BF16", "wax": 0}, "polish: wax: 0 is not a positive size that a file can have"),
    ],
)
def test_values_from_python_are_checked(values, message):
    with pytest.raises(RecipeError) as caught:
        Polish(**values)
    assert str(caught.value).partition(";")[0] == message


def test_a_command_of_its_own(polish):
    """The words of a shell become the stage of the recipe that goes on."""
    words = [
        "bf16",
        "--rounds",
        "3",
        "--style",
        "dry",
        "--only",
        "a",
        "--smooth",
        "--whose",
        "plain",
        "--wax",
        "64MiB",
    ]
    done = CliRunner().invoke(stage_command("polish"), words, input="steps: []\n")
    assert done.exit_code == 0, done
    assert parse(done.output).config() == {"steps": [{"polish": FULL}]}
    told = CliRunner().invoke(stage_command("polish"), ["--help"]).output
    assert "Polish tensors." in told
    assert "How often. [2]" in told
    assert "How much. [5MB]" in told


def test_run_has_it_in_its_group(run):
    words = [
        "a",
        "b",
        "--polish",
        "bf16",
        "--polish-rounds",
        "3",
        "--style",
        "dry",
        "--smooth",
        "--whose",
        "plain",
        "--wax",
        "64MiB",
    ]
    context = run.run.make_context("run", words)
    assert run.recipe_of(context, context.params).steps == (
        Polish("BF16", 3, "dry", (), False, "plain", 64 << 20),
    )
    told = CliRunner().invoke(run.run, ["--help"]).output
    assert told.index(f"{WHAT}:") < told.index("--polish DTYPE") < told.index("Which tensors:")


@pytest.mark.parametrize("idle", ["--polish-rounds 3", "--smooth", "--style dry"])
def test_run_refuses_what_does_nothing_without_another(idle, run):
    done = CliRunner().invoke(run.run, ["a", "b", *idle.split()])
    assert f"{idle.split()[0]} does nothing without --polish; give both, or neither" in done.output
    done = CliRunner().invoke(run.run, ["--config", "r.yaml", *idle.split()])
    assert f"{idle.split()[0]} cannot be combined with --config" in done.output
    done = CliRunner().invoke(run.run, ["--plan", "p.json", *idle.split()])
    assert f"{idle.split()[0]} cannot be combined with --plan" in done.output


def completed(command, words):
    from click.shell_completion import ShellComplete

    return [
        item.value for item in ShellComplete(command, {}, "x", "_X").get_completions(words[:-1], words[-1])
    ]


def test_shells_complete_it(run):
    assert completed(run.run, ["--pol"]) == ["--polish", "--polish-rounds"]
    assert completed(run.run, ["--polish", "b"]) == ["bf16"]
    assert completed(run.run, ["--style", ""]) == ["wet", "dry"]
    assert completed(run.run, ["--whose", "li"]) == ["lightx2v"]
    assert completed(stage_command("polish"), ["BF"]) == ["BF16"]


def test_the_schema_describes_it(polish):
    described = schema()["properties"]["steps"]["items"]["properties"]["polish"]
    form, alone = described["anyOf"]
    assert form["required"] == ["to"]
    assert "bfloat16" in alone["enum"]
    style = form["properties"]["style"]
    assert style["enum"] == ["wet", "dry", None]
    assert (style["description"], style["default"]) == ("In which way.", "wet")
    assert "lightx2v" in form["properties"]["whose"]["enum"]
    assert "num_rounds" in form["properties"]


def test_the_reference_lists_it(polish):
    [stage] = [one for one in reference()["stages"] if one["name"] == "polish"]
    rounds = next(one for one in stage["options"] if one["name"] == "rounds")
    assert rounds == {
        "name": "rounds", "keys": ["num_rounds"], "flag": "--rounds", "run": "--polish-rounds",
        "kind": "positive number", "help": "How often.", "about": "", "required": False, "default": "2",
        "choices": [], "group": WHAT, "short": {},
    }  # fmt: skip


def test_a_field_of_another_class_has_its_description():
    @dataclass(frozen=True)
    class Other(Declared):
        wax: int = again(PolishOptions, "wax")

    assert options_of(Other)["wax"] is options_of(PolishOptions)["wax"]
    assert Other("1MB") == Other(10**6)
    assert Other().config() == {}
