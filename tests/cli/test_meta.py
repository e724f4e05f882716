"""``transcode meta`` as users call it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from transcode.containers.edit import undo
from transcode.io import insert_range

ROOT = Path(__file__).parents[2]
TENSORS = {"x.weight": torch.arange(64.0).reshape(8, 8).bfloat16(), "x.bias": torch.ones(8)}


def metadata(path: Path) -> dict[str, str] | None:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.fixture
def file(save) -> Path:
    return save(TENSORS, metadata={"format": "pt", "j": '{"a": [1, 2]}'})


@pytest.fixture
def shards(tmp_path: Path, wan: Path) -> Path:
    return Path(shutil.copytree(wan, tmp_path / "shards", copy_function=shutil.copyfile))


class TestGet:
    def test_all(self, cli, file: Path) -> None:
        assert sorted(cli("meta", "get", file).out.splitlines()) == ["format: pt", 'j: {"a": [1, 2]}']

    def test_some_in_the_order_asked_for(self, cli, file: Path) -> None:
        assert cli("meta", "get", file, "j", "format").out == 'j: {"a": [1, 2]}\nformat: pt\n'

    def test_raw_is_the_value_and_nothing_else(self, cli, file: Path) -> None:
        assert cli("meta", "get", file, "j", "--raw").out == '{"a": [1, 2]}'

    def test_pretty_opens_json(self, cli, file: Path) -> None:
        shown = cli("meta", "get", file, "j", "--pretty").out
        assert json.loads(shown.removeprefix("j: ")) == {"a": [1, 2]}
        assert shown.count("\n") > 3
        assert cli("meta", "get", file, "j", "--pretty", "--json").json == {str(file): {"j": {"a": [1, 2]}}}

    def test_json_holds_values_as_they_are(self, cli, file: Path) -> None:
        assert cli("meta", "get", file, "j", "--json").json == {str(file): {"j": '{"a": [1, 2]}'}}

    def test_absent(self, cli, file: Path) -> None:
        result = cli("meta", "get", file, "format", "nope", code=1)
        assert result.out == "format: pt\n"
        assert "no metadata key 'nope'" in result.err
        assert cli("meta", "get", file, "nope", "--raw", code=1).out == ""

    def test_no_metadata_at_all(self, cli, save) -> None:
        assert cli("meta", "get", save(TENSORS)).out == ""

    def test_several_files(self, cli, file: Path, save) -> None:
        other = save(TENSORS, "other.safetensors", {"format": "tf"})
        assert (
            cli("meta", "get", file, other, "format").out
            == f"{file}:\n  format: pt\n{other}:\n  format: tf\n"
        )

    def test_a_key_that_is_also_a_folder(self, cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(file.parent)
        Path("j").mkdir()
        assert cli("meta", "get", file.name, "j", "--raw").out == '{"a": [1, 2]}'

    def test_a_key_that_looks_like_a_file(self, cli, file: Path) -> None:
        cli("meta", "set", file, "a.safetensors=v")
        assert cli("meta", "get", file, "-k", "a.safetensors", "--raw").out == "v"

    def test_a_folder(self, cli, shards: Path) -> None:
        cli("meta", "set", shards, "who=me")
        assert cli("meta", "get", shards, "who", "--raw").out == "me"
        assert all(metadata(shard)["who"] == "me" for shard in shards.glob("*.safetensors"))


class TestSet:
    def test_values(self, cli, file: Path, tmp_path: Path) -> None:
        text = tmp_path / "text"
        text.write_bytes("line 1\nválue=\n".encode())
        result = cli("meta", "set", file, "a=1", "b=", "c=x=y", f"d=@{text}", "e=@@x", "f=true")
        assert metadata(file) == {
            "format": "pt", "j": '{"a": [1, 2]}',
            "a": "1", "b": "", "c": "x=y", "d": "line 1\nválue=\n", "e": "@x", "f": "true",
        }  # fmt: skip
        assert "in place" in result.out  # it says which way it took
        assert f"backup {file.name}.header-backup" in result.out

    def test_from_json(self, cli, file: Path, tmp_path: Path) -> None:
        source = tmp_path / "more.json"
        source.write_text('{"s": "s", "t": true, "n": null, "f": 1.5, "l": [1, "é"], "o": {"k": false}}')
        cli("meta", "set", file, "--from-json", source)
        found = metadata(file)
        assert {key: found[key] for key in "stnflo"} == {
            "s": "s", "t": "True", "n": "None", "f": "1.5", "l": '[1, "\\u00e9"]', "o": '{"k": false}',
        }  # fmt: skip

    def test_from_standard_input(self, shell, file: Path) -> None:
        shell(f"""echo '{{"a": 1}}' | transcode meta set {file} --from-json -""")
        shell(f"""printf 'text' | transcode meta set {file} b=@-""")
        assert (metadata(file)["a"], metadata(file)["b"]) == ("1", "text")

    def test_ways_are_told(self, cli, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def way(*args: str) -> str:
            return cli("meta", "set", file, *args, "--json").json["files"][0]["way"]

        monkeypatch.setattr(insert_range, "can_insert", lambda folder: False)
        assert way("a=" + "x" * 9000) == "copy"
        assert way("a=y") == "overwrite"
        assert way("a=y") == "unchanged"
        tensors = load_file(file)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())

    def test_format_is_added_where_there_was_no_metadata(self, cli, save) -> None:
        path = save(TENSORS)
        assert "format=pt was added" in cli("meta", "set", path, "a=1").err
        assert metadata(path) == {"format": "pt", "a": "1"}
        other = save(TENSORS, "other.safetensors")
        cli("meta", "set", other, "a=1", "--no-format")
        assert metadata(other) == {"a": "1"}

    def test_dry_run_shows_the_change(self, cli, file: Path, digests) -> None:
        before = digests(file.parent)
        result = cli("meta", "set", file, "a=1", "format=tf", 'j={"a": [1, 3]}', "--dry-run")
        assert [line.strip() for line in result.out.splitlines()[1:]] == [
            "+ a: 1", "~ format: pt -> tf", "~ j:", "a[1]: 2 -> 3",
        ]  # fmt: skip
        assert "would" in result.out
        assert digests(file.parent) == before

    @pytest.mark.parametrize(
        "arguments",
        [["a"], ["=1"], ["a=1", "a=2"], ["a=@missing"], [], ["--from-json", "missing"], ["a=@bad"],
         ["--from-json", "list.json"], ["--from-json", "twice.json"], ["--from-json", "broken.json"],
         ["b=1", "a=\udc80"]],
    )  # fmt: skip
    def test_refused_and_nothing_changed(
        self, refused, file: Path, digests, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
    ) -> None:
        monkeypatch.chdir(file.parent)
        Path("bad").write_bytes(b"\xff\xfe")
        Path("list.json").write_text("[1]")
        Path("twice.json").write_text('{"a": 1, "a": 2}')
        Path("broken.json").write_text('{"a": 1')
        before = digests(file.parent)
        refused("meta", "set", file, *arguments)
        assert digests(file.parent) == before

    def test_one_refusal_changes_no_file(self, refused, file: Path, save, digests) -> None:
        other = save(TENSORS, "other.safetensors")
        os.link(other, other.with_name("link"))
        before = digests(file.parent)
        assert "hard links" in refused("meta", "set", file, other, "a=1")
        assert digests(file.parent) == before

    def test_a_pytorch_file_is_refused(self, refused, tmp_path: Path) -> None:
        torch.save(TENSORS, tmp_path / "m.pt")
        assert "hold no safetensors metadata" in refused("meta", "set", tmp_path / "m.pt", "a=1")


class TestOtherEdits:
    def test_del(self, cli, refused, file: Path) -> None:
        assert "no metadata key 'nope'; there are: format, j" in refused("meta", "del", file, "j", "nope")
        assert set(metadata(file)) == {"format", "j"}
        assert "refused by transformers" in cli("meta", "del", file, "format").err
        assert set(metadata(file)) == {"j"}
        cli("meta", "del", file, "j")
        assert metadata(file) is None

    def test_rename_key(self, cli, refused, file: Path) -> None:
        cli("meta", "rename-key", file, "j", "k")
        assert metadata(file) == {"format": "pt", "k": '{"a": [1, 2]}'}
        assert "exists already" in refused("meta", "rename-key", file, "k", "format")
        refused("meta", "rename-key", file, "nope", "new")
        cli("meta", "rename-key", file, "k", "format", "--force")
        assert metadata(file) == {"format": '{"a": [1, 2]}'}

    def test_clear_and_restore(self, cli, file: Path) -> None:
        before = file.read_bytes()
        cli("meta", "clear", file)
        assert metadata(file) is None
        cli("meta", "restore", file)
        assert file.read_bytes() == before

    def test_backup_none_and_full(self, cli, refused, file: Path) -> None:
        before = file.read_bytes()
        cli("meta", "set", file, "a=1", "--backup", "none")
        refused("meta", "restore", file)
        cli("meta", "restore", file, "--from", file)  # its own header
        cli("meta", "set", file, "a=2", "--backup", "full")
        cli("meta", "restore", file, "--full")
        assert metadata(file)["a"] == "1"
        assert before != file.read_bytes()

    def test_backup_by_hand(self, cli, file: Path) -> None:
        before = file.read_bytes()
        assert cli("meta", "backup", file, "--json").json["backups"] == {str(file): f"{file}.header-backup"}
        cli("meta", "set", file, "j=1", "--backup", "none")
        cli("meta", "restore", file, "--dry-run")
        assert metadata(file)["j"] == "1"
        cli("meta", "restore", file)
        assert file.read_bytes() == before

    def test_every_command_repairs(self, cli, file: Path) -> None:
        """A half-written header with its record is put right by whatever command comes next."""
        before = file.read_bytes()
        start = 8 + int.from_bytes(before[:8], "little")
        commands = [["meta", "get", file], ["meta", "validate", file], ["meta", "diff", file, file, "--data"],
                    ["meta", "set", file, "j=" + json.dumps({"a": [1, 2]}, separators=(", ", ": "))],
                    ["inspect", file]]  # fmt: skip
        for command in commands:
            undo.begin(str(file), undo.Record(len(before), 0, before[:start]))
            with open(file, "r+b") as half:
                half.seek(10)
                half.write(b"half")
            cli(*command)
            assert file.read_bytes() == before, command
            assert not os.path.exists(undo.undo_path(str(file)))


class TestDiff:
    def test_same(self, cli, file: Path, save) -> None:
        other = save(TENSORS, "other.safetensors", {"format": "pt", "j": '{ "a":[1,2]}'})
        assert cli("meta", "diff", file, other, "--tensors", "--data").out == "same metadata, tensors, data\n"

    def test_metadata(self, cli, file: Path, save) -> None:
        other = save(TENSORS, "other.safetensors", {"format": "tf", "j": '{"a": [1, true]}', "n": "1"})
        assert cli("meta", "diff", file, other, code=1).out.splitlines() == [
            "metadata:", "  ~ format: pt -> tf", "  ~ j:", "      a[1]: 2 -> true", "  + n: 1",
        ]  # fmt: skip
        found = cli("meta", "diff", other, file, "--json", code=1).json
        assert found["metadata"]["only_a"] == {"n": "1"}
        assert found["metadata"]["changed"]["format"] == {"a": "tf", "b": "pt", "inside": []}

    def test_records_field_by_field(self, cli, wan: Path, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        one, two, none = (tmp_path / f"{name}.safetensors" for name in "abc")
        cli("run", wan, one, "--scheme", "int8", "-q")
        cli("run", wan, two, "--drop", "*.bias", "--scheme", "fp8", "--exclude", "ffn", "-q")
        digests = [json.loads(metadata(file)["transcode"])["digest"][:19] for file in (one, two)]
        assert cli("meta", "diff", one, two, code=1).out.splitlines() == [
            "metadata:",
            "  ~ transcode:",
            f'      digest: "{digests[0]}..." -> "{digests[1]}..."',
            '      recipe.steps[0]: only in B: {"drop": ["*.bias"]}',
            '      recipe.steps[0].quantize.scheme: "int8" -> "fp8"',
            '      recipe.steps[0].quantize.exclude: only in B: ["ffn"]',
            '      schemes[0]: "int8" -> "fp8"',
        ]
        shutil.copyfile(one, none)
        cli("meta", "del", none, "transcode")
        for files, sign in (([one, none], "-"), ([none, one], "+")):
            said = cli("meta", "diff", *files, code=1).out.splitlines()
            assert said[:2] == ["metadata:", f"  {sign} transcode:"]
            assert '      recipe.layout: "single_file"' in said
            assert '      recipe.steps: [{"quantize": {"scheme": "int8"}}]' in said

    def test_numbers_that_python_thinks_equal(self, cli, save) -> None:
        one = save(TENSORS, "a.safetensors", {"j": "[1, true, 0]"})
        two = save(TENSORS, "b.safetensors", {"j": "[1.0, 1, false]"})
        assert (
            len(cli("meta", "diff", one, two, "--json", code=1).json["metadata"]["changed"]["j"]["inside"])
            == 3
        )

    def test_tensors(self, cli, file: Path, save) -> None:
        changed = {"x.weight": TENSORS["x.weight"].float(), "y": torch.ones(2)}
        other = save(changed, "other.safetensors", metadata(file))
        assert cli("meta", "diff", file, other).out == "same metadata\n"
        found = cli("meta", "diff", file, other, "--tensors", "--json", code=1).json["tensors"]
        assert found["only_a"] == {"x.bias": "F32[8]"}
        assert found["only_b"] == {"y": "F32[2]"}
        assert found["changed"]["x.weight"] == {"a": "BF16[8,8]", "b": "F32[8,8]", "inside": []}

    def test_data(self, cli, save) -> None:
        """A byte in the middle of a tensor longer than what is read at a time."""
        tensor = torch.zeros(9 << 20, dtype=torch.uint8)
        one = save({"t": tensor}, "a.safetensors")
        tensor[5_000_000] = 1
        two = save({"t": tensor}, "b.safetensors")
        assert cli("meta", "diff", one, two, "--tensors").out == "same metadata, tensors\n"
        found = cli("meta", "diff", one, two, "--data", "--json", code=1).json["data"]["changed"]["t"]
        assert found["inside"] == ["byte 5000000 of 9437184"]

    def test_shards_make_no_difference(self, cli, shards: Path, save) -> None:
        merged = {}
        for shard in sorted(shards.glob("*.safetensors")):
            merged.update(load_file(shard))
            stored = metadata(shard)
        whole = save(merged, "whole.safetensors", stored)
        assert "same" in cli("meta", "diff", shards, whole, "--data").out

    def test_json_file(self, cli, file: Path, tmp_path: Path) -> None:
        (tmp_path / "m.json").write_text('{"format": "pt", "j": {"a": [1, 2]}}')
        assert cli("meta", "diff", file, tmp_path / "m.json").out == "same metadata\n"

    def test_missing_file(self, refused, file: Path) -> None:
        refused("meta", "diff", file, file.with_name("missing.safetensors"))


def test_help_of_every_command(cli) -> None:
    commands = ["get", "set", "del", "rename-key", "clear", "diff", "validate", "embed", "backup", "restore"]
    for command in commands:
        text = cli("meta", command, "--help").out
        assert "--json" in text
        assert "Usage: transcode meta" in text


@pytest.mark.parametrize(
    "command", [["get"], ["set", "a=1"], ["del", "j"], ["validate", "--profile", "nunchaku"], ["diff"]]
)
def test_neither_torch_nor_numba_nor_numpy_is_loaded(file: Path, command: list[str]) -> None:
    arguments = ["meta", command[0], str(file), *([str(file)] if command == ["diff"] else command[1:])]
    script = (
        "import sys\nfrom transcode.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'numba', 'numpy', 'safetensors'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "set()"
