"""Options in messages: named as whoever reads the message gives them, and everywhere by that one way."""

from __future__ import annotations

import ast
import pickle
import re
import threading
from pathlib import Path

import pytest
import torch

import transcode as tc
from transcode.core.event import Remark
from transcode.core.option import options_of
from transcode.core.performance import Performance
from transcode.errors import PlanError, TranscodeError
from transcode.plan.options import OutputOptions, SourceOptions
from transcode.stages.table import STAGES
from transcode.voice import OPTIONS, Names, called, speaking, spoken

PACKAGE = Path(__file__).parent.parent / "transcode"
FLAG = re.compile(r"(?<![\w-])--[a-z]")

MAKERS = {"voice.py", "doctor.py", "taken.py"}
"""Modules that say what to type at a command line, and to nobody else."""

OF_OTHERS = {
    " --revision ",
    "python -m verl.model_merger merge --backend fsdp --local_dir FOLDER --target_dir OUT joins them",
}
"""Commands of other programs."""


def texts(path: Path):
    """Every text of a module that is not a docstring, with its line."""
    tree = ast.parse(path.read_text("utf-8"))
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    # What an option is called on the command line is said where it is declared.
    docs |= {
        id(text)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for one in node.keywords
        if one.arg in ("flag", "run", "run_help", "needs")
        for text in ast.walk(one.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_no_text_below_the_command_line_names_a_flag():
    named = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] != "cli" and path.name not in MAKERS
        for line, text in texts(path)
        if FLAG.search(text) and text not in OF_OTHERS
    ]
    assert not named


def calls():
    """The name and the number of values of every ``called(...)``."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "called":
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    yield str(path), first.value, len(node.args) - 1


def test_every_option_that_is_named_is_known_and_none_is_left_over():
    used = {name for _, name, _ in calls()}
    used |= {"config", "model_path", "config_yaml", "checksums", "attest"}  # named in a loop
    assert used == set(OPTIONS)


def described():
    """Names of declared options, by the word of their flag, as their declarations make them."""
    owners = [(owner, kind) for kind, (owner, _) in STAGES.items()]
    owners += [(SourceOptions, "source"), (OutputOptions, ""), (Performance, "")]
    for owner, stage in owners:
        options = options_of(owner)
        short = [pair for one in options.values() for pair in one.short.items()]
        for name, one in [*options.items(), *short]:
            flag = (one.run_flag(name) or one.own_flag(name)).partition("/")[0].split()[-1:]
            if not flag:
                continue
            value = "{}" if one.kind.takes else str(not one.off)
            said = f"{name}={value}", f"{one.key or name}: {value if one.kind.takes else value.lower()}"
            if one.head and name in (owner.alone, next(iter(options))):
                said = f"{stage}({{}})", f"{stage}: {{}}"
            elif one.head:
                said = f"{stage}({said[0]})", f"{stage}: {{{{{said[1]}}}}}"
            elif stage == "source" or (flag[0] != f"--{name.replace('_', '-')}" and stage and one.run):
                call = "open" if stage == "source" else stage
                said = f"{call}({said[0]})", f"{stage}: {{{{{said[1]}}}}}"
            yield (
                flag[0][2:].replace("-", "_"),
                Names(f"{flag[0]} {{}}" if one.kind.takes else flag[0], *said),
            )


def test_declared_options_are_spoken_of_as_they_are_declared():
    declared: dict[str, list[Names]] = {}
    for word, names in described():
        declared.setdefault(word, []).append(names)
    other = {name for name, names in OPTIONS.items() if name in declared and names not in declared[name]}
    # one key of it; inspect takes that, and not only open; verify's, and not the spelling that is left
    assert other == {"metadata", "root_key", "source"}
    undeclared = {
        name for name, names in OPTIONS.items() if name not in declared and names.recipe is not None
    }
    # of several options, or of a stage that run has under a name of its own
    assert undeclared == {"anew", "calibrate", "decode_some"}
    assert len(declared.keys() & OPTIONS.keys()) > 15


@pytest.mark.parametrize(("name", "values"), sorted({(name, count) for _, name, count in calls()}))
@pytest.mark.parametrize("voice", ["flags", "python", "recipe"])
def test_all_of_them_can_be_spoken(name, values, voice):
    told = spoken(called(name, *["x"] * values), (voice,))
    assert not re.search("[⟦⟧\0]|{{|{}", told)
    assert told.count("x") >= values
    if voice == "python":
        assert not FLAG.search(told)


@pytest.mark.parametrize(
    ("voice", "told"),
    [
        ("flags", "pass --force, --cast bf16, --cast or --follow-links"),
        ("python", "pass force=True, cast('bf16'), cast(...) or follow_links=True"),
        (
            "recipe",
            "pass force: true, cast: bf16, cast or follow_links=True",
        ),  # of which recipes know nothing
    ],
)
def test_three_voices(voice, told):
    text = f"pass {called('force')}, {called('cast', 'bf16')}, {called('cast')} or {called('follow_links')}"
    assert spoken(text, (voice,)) == told
    with speaking(voice):
        assert spoken(text) == told
        assert str(Remark(f"a: {text}", "a")) == f"a: {told}"
        assert Remark(f"a: {text}", "a").rest == told


def test_what_recipes_lack_is_called_as_around_them():
    with speaking("flags"), speaking("recipe"):
        assert spoken(called("follow_links")) == "--follow-links"


def test_an_option_that_there_is_not():
    with pytest.raises(KeyError):
        called("colour")
    assert spoken("⟦colour⟧ ⟦") == "⟦colour⟧ ⟦"  # a name in a file may look so


def test_values_are_quoted():
    mark = called("set_key", "a b.safetensors", 'it"s')
    assert spoken(mark, ("flags",)) == '`transcode meta set "a b.safetensors" "it\\"s"=VALUE`'
    assert spoken(mark, ("python",)) == "meta.set('a b.safetensors', {'it\"s': VALUE})"
    assert spoken(called("cast", "a⟧\0b"), ("python",)) == "cast('a  b')"


def test_an_error_keeps_the_voice_of_the_block_that_it_left_first():
    error = PlanError("no", hint=f"pass {called('force')}")
    assert str(error) == "no; pass force=True"
    with speaking("flags"):
        assert (str(error), error.hint) == ("no; pass --force", "pass --force")
    with pytest.raises(PlanError), speaking("flags"), speaking("recipe"):
        raise error
    assert str(error) == "no; pass force: true"
    with speaking("flags"):
        assert str(error) == "no; pass force: true"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.hint, again.args) == (str(error), error.hint, error.args)


def test_other_errors_pass_as_they_are():
    with pytest.raises(ValueError, match=r"^no$"), speaking("flags"):
        raise ValueError("no")


def test_workers_speak_as_who_started_them(save, tmp_path, monkeypatch):
    """Threads begin with a voice of their own."""
    voices = []
    real = threading.Thread.run

    def run(self):
        if self.name.startswith("worker"):
            voices.append(self._target.__self__.run(lambda: spoken(called("force"))))
        real(self)

    monkeypatch.setattr(threading.Thread, "run", run)
    with speaking("flags"):
        tc.open(save({"a": torch.ones(2, 2)})) | tc.write(tmp_path / "o.safetensors", workers=1)
    assert voices == ["--force"]


class TestOneRefusal:
    """The same, as three callers read of it."""

    def test_in_python(self, save, tmp_path):
        flow = tc.open(save({"a": torch.ones(2, 2)}))
        (tmp_path / "o.safetensors").touch()
        with pytest.raises(TranscodeError, match=r"pass force=True to replace it$"):
            flow | tc.write(tmp_path / "o.safetensors")
        with pytest.raises(TranscodeError, match=r"correct it, or pass allow_unmatched=True$"):
            flow | tc.drop("b") | tc.write(tmp_path / "p.safetensors")

    def test_on_the_command_line(self, save, tmp_path, cli):
        source = save({"a": torch.ones(2, 2)})
        (tmp_path / "o.safetensors").touch()
        assert "pass --force to" in cli("run", source, tmp_path / "o.safetensors", code=2).err
        said = cli("run", source, tmp_path / "p.safetensors", "--drop", "b", code=2).err
        assert "pass --allow-unmatched" in said

    @pytest.fixture
    def recipe(self, save, tmp_path):
        (tmp_path / "r.yaml").write_text(
            f"source: {{path: '{save({'a': torch.ones(2, 2)})}'}}\nsteps: [{{drop: [b]}}]\n"
            f"output: {{path: '{tmp_path / 'o.safetensors'}'}}\n"
        )
        return tmp_path / "r.yaml"

    def test_in_a_recipe(self, recipe, cli):
        assert "pass allow_unmatched: true" in cli("run", "--config", recipe, code=2).err
        with pytest.raises(TranscodeError, match=r"pass allow_unmatched: true$") as caught:
            tc.run(recipe)
        assert caught.value.hint == "correct it, or pass allow_unmatched: true"


def test_errors_show_no_signature():
    from transcode.errors import FormatError

    url = "https://me:pass@h/x?X-Sig=0123abcd"
    error = FormatError(f"is at {url}", file=url, hint=f"write {url} anew")
    error.advise(f"not {url}")
    for text in (str(error), error.what, error.hint, error.file, error.args[0]):
        assert "0123abcd" not in text
        assert "pass" not in text
