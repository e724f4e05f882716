"""The list of mutants fits the code, and the tool tells killed, survived and stale apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parents[2]
FIELDS = {"name": "n", "old": "return 1", "new": "return 2", "test": "tests/core/test_planning.py"}


@pytest.mark.parametrize("mutant", mutants.load(), ids=str)
def test_the_list_is_not_stale(mutant: mutants.Mutant) -> None:
    assert mutants.stale(mutant) is None
    text = (ROOT / mutant.file).read_text()
    line = next(line for line in text.splitlines() if mutant.old.strip() in line)
    assert not line.lstrip().startswith("#")
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")  # a mistake, not a typing error


def test_the_list_covers_the_house() -> None:
    parts = Counter(mutant.file.split("/")[1] for mutant in mutants.load() if mutant.file.count("/") > 1)
    assert parts.keys() >= {"numerics", "core", "catalog", "execution", "stages"}
    assert min(parts.values()) >= 3
    assert parts.total() >= 78


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"old": "no such piece"}, "'no such piece' occurs 0 times"),
        ({"old": "kind: str"}, "'kind: str' occurs 2 times"),
        ({"new": "self.notes[Remark(text, tensor, kind)] = None"}, "old and new are the same"),
        ({"old": "a\nb"}, "old and new must be pieces of one line"),
        ({"test": "tests/core/test_plonning.py"}, "there is no tests/core/test_plonning.py"),
        ({"test": "tests/core/test_planning.py::test_x[a]"}, "tests/core/test_planning.py has no test_x"),
        ({"file": "transcode/core/plonning.py"}, "there is no transcode/core/plonning.py"),
        ({}, None),
    ],
)
def test_what_is_stale(change: dict[str, str], why: str | None) -> None:
    fields = {
        **FIELDS,
        "file": "transcode/core/planning.py",
        "old": "self.notes[Remark(text, tensor, kind)] = None",
    }
    assert mutants.stale(mutants.Mutant(**{**fields, **change})) == why


@pytest.mark.parametrize(
    "text",
    ["[1]", "a.py: [{name: x}]", "a.py: [x]", "a.py: [{name: 1, old: a, new: b, test: c}]", "{", "a: [{}]"],
)
def test_wrong_lists(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.yaml").write_text(text)
    assert mutants.main([str(tmp_path / "list.yaml")]) == 2
    assert "mutants: " in capsys.readouterr().err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["--only", "no such mutant"]) == 2
    assert "no mutant has such a name" in capsys.readouterr().err
    assert mutants.main(["--jobs", "0"]) == 2
    assert mutants.main(["--list", "--only", "core/quality"]) == 0
    assert "counts twice" in capsys.readouterr().out


def listed(tmp_path: Path, *entries: tuple[str, str, str]) -> str:
    text = "transcode/core/planning.py:\n"
    for name, old, new in entries:
        test = "tests/core/test_planning.py::test_remarks_are_made_once_and_in_order"
        text += f"  - {{name: {name}, old: {old!r}, new: {new!r}, test: {test!r}}}\n"
    (tmp_path / "list.yaml").write_text(text)
    return str(tmp_path / "list.yaml")


NOTICED = (
    "noticed",
    "self.notes[Remark(text, tensor, kind)] = None",
    "self.notes[Remark(text * (1 + len(self.notes)))] = None",
)
UNNOTICED = ("unnoticed", "shown = known[:3]", "shown = known[:2]")
BROKEN = ("broken", "class Planning:", "class Plonning:")
GONE = ("gone", "no such piece", "x")


@pytest.mark.slow
def test_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [NOTICED, UNNOTICED, BROKEN, GONE]
    verdicts = {"noticed": "killed", "unnoticed": "survived", "broken": "stale", "gone": "stale"}
    before = (ROOT / "transcode/core/planning.py").read_bytes()
    assert mutants.main(["--jobs", "2", listed(tmp_path, *entries)]) == 2
    out = capsys.readouterr().out
    for name, verdict in verdicts.items():
        assert any(line.startswith(verdict) and f": {name}" in line for line in out.splitlines()), out
    (last,) = (line.split() for line in out.splitlines() if line.startswith("all "))
    assert last[1:] == ["4", "1", "1", "2"]
    assert (ROOT / "transcode/core/planning.py").read_bytes() == before


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["killed"], 0), (["killed", "survived"], 1), (["survived", "stale"], 2), (["killed", "stale"], 2),
        ([], 0),
    ],
)  # fmt: skip
def test_exit_codes(verdicts: list[str], code: int) -> None:
    mutant = mutants.Mutant(**FIELDS, file="transcode/core/planning.py")
    assert mutants.exit_code([mutants.Outcome(mutant, verdict) for verdict in verdicts]) == code


def test_tests_that_fail_anyway_notice_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = "tests/core/test_planning.py -k nothing_is_called_so"
    text = f"transcode/core/planning.py: [{{name: n, old: 'if not lost:', new: x, test: {test}}}]"
    (tmp_path / "list.yaml").write_text(text)
    assert mutants.main([str(tmp_path / "list.yaml")]) == 2
    assert "tests fail without any mutant" in capsys.readouterr().err
