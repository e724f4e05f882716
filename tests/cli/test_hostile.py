"""What strangers write into files: it does not steer the terminal, nor end in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

ESCAPES = "\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202egnp\u2066\x7f\xad\U000e0041\u2028"


def w() -> torch.Tensor:
    return torch.ones(64, 64)


def command(
    *args: object, env: dict[str, str] | None = None, **how: object
) -> subprocess.CompletedProcess[str]:
    code = "from transcode.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], text=True, check=False,
        env={**os.environ, **(env or {})}, **{"capture_output": True, **how},
    )  # fmt: skip


def steers(text: str) -> set[str]:
    """The characters of a text that a terminal would obey."""
    found = {char for char in text if ord(char) < 32 or 127 <= ord(char) < 160}
    return (found | (set(text) & set("\u202e\u2066\xad\U000e0041\u2028"))) - {"\n"}


@pytest.fixture
def hostile(tmp_path) -> Path:
    path = tmp_path / "m.safetensors"
    save_file(
        {f"a.{ESCAPES}.weight": w(), "b\nnote  x": w()}, path, {ESCAPES: ESCAPES, "k": f"a\nb{ESCAPES}"}
    )
    return path


@pytest.mark.parametrize(
    "args",
    [
        ["inspect", "M"], ["inspect", "M", "-a"], ["meta", "get", "M"], ["meta", "validate", "M"],
        ["run", "M", "o.safetensors", "--dry-run", "-v"], ["run", "M", "o.safetensors", "-v"],
        ["run", "M", "o.safetensors", "--dry-run"], ["run", "M", "o.safetensors"], ["inspect", "N"],
        ["run", "N", f"{ESCAPES}", "--dry-run"], ["meta", "diff", "M", "N", "--tensors"],
        ["run", "M", "o.safetensors", "--rename", "a=>b", "--scheme", "int8", "--allow-unmatched"],
        ["meta", "get", "M", f"no{ESCAPES}"], ["inspect", f"none{ESCAPES}"], ["meta", "diff", "M", "N"],
        ["meta", "set", "M", f"x={ESCAPES}", "--dry-run"], ["run", "M", f"o{ESCAPES}.bin"],
        ["run", "M", "o.safetensors", f"--no{ESCAPES}"], ["recipe", "show", "N"],
    ],
)  # fmt: skip
def test_nothing_steers_the_terminal(args, hostile, tmp_path, cli, monkeypatch):
    """In a process of its own for two of them, which print on both streams; in this one for the others."""
    other = tmp_path / "n.safetensors"
    record = {"version": ESCAPES, "recipe": {"steps": [{"drop": [ESCAPES]}]}}
    save_file({"a": w()}, other, {"transcode": json.dumps(record), ESCAPES: "1"})
    names = {"M": str(hostile), "N": str(other)}
    line = [names.get(word, word) for word in args]
    if args in (["inspect", "M", "-a"], ["run", "M", "o.safetensors", "-v"]):
        done = command(*line, cwd=tmp_path, env={"PYTHONPATH": os.getcwd()})
        out, err = done.stdout, done.stderr
    else:
        monkeypatch.chdir(tmp_path)
        called = cli(*line, code=None)
        out, err = called.out, called.err
    assert out + err
    assert steers(out + err) == set()
    assert "\nnote  x" not in out
    assert "Traceback" not in err
    if args[0] == "recipe":
        assert yaml.safe_load(out)["steps"] == record["recipe"]["steps"]


def test_json_stays_json(hostile):
    done = command("inspect", hostile, "--json")
    assert steers(done.stdout) == set()
    assert json.loads(done.stdout)["metadata"][ESCAPES] == ESCAPES
    assert {one["name"] for one in json.loads(done.stdout)["tensors"]} == {
        f"a.{ESCAPES}.weight",
        "b\nnote  x",
    }
    done = command("meta", "get", hostile, "--json")
    assert steers(done.stdout) == set()
    assert ESCAPES in str(json.loads(done.stdout)).encode().decode("unicode_escape") or json.loads(
        done.stdout
    )


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("config", [DEEP, f'{{"a":{DEEP}}}', '{"a": "\\ud800"}', f'{{"a": {"9" * 5000}}}'])
def test_a_hostile_config_is_no_traceback(config, tmp_path, cli):
    folder = tmp_path / "m"
    folder.mkdir()
    save_file({"blocks.0.q.weight": w()}, folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    args = ("--scheme", "int8", "--convention", "compressed_tensors")
    result = cli("run", folder, tmp_path / "o", *args)
    written = (tmp_path / "o" / "config.json").read_text()
    if "ud800" in config:
        assert json.loads(written)["a"] == "\ud800"
        assert "quantization_config" in json.loads(written)
    else:
        assert "config.json is no JSON object: it goes along as it is" in result.err
        assert written == config


@pytest.mark.parametrize("record", [DEEP, f'{{"recipe":{{"steps":{DEEP}}}}}', '{"schemes":["\\ud800"]}'])
def test_a_hostile_record_is_no_traceback(record, tmp_path, cli, refused):
    path = tmp_path / "m.safetensors"
    save_file({"a.weight": w()}, path, {"transcode": record})
    assert "its record of how it was made" in refused("recipe", "show", path)
    cli("run", path, tmp_path / "o.safetensors", "--cast", "bf16")
    refused("run", path, tmp_path / "p.safetensors", "--dequantize", "bf16")
    cli("inspect", path)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (DEEP, "nests deeper than"),
        (f'{{"lora_alpha": {"9" * 400}}}', "an integer of 400 digits"),
        ('{"lora_alpha": 1, "alpha_pattern": ["a"]}', "alpha_pattern is ['a'], not a mapping"),
        ('{"lora_alpha": 1, "lora_alpha": 2}', "names 'lora_alpha' twice"),
    ],
)
def test_a_hostile_adapter_config_is_told(options, what, tmp_path, refused):
    save_file({"blocks.0.q.weight": w()}, tmp_path / "m.safetensors")
    lora = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.blocks.0.q.lora_{x}.weight": w() for x in "AB"}, lora)
    (tmp_path / "adapter_config.json").write_text(options)
    told = refused("run", tmp_path / "m.safetensors", tmp_path / "o.safetensors", "--lora", lora)
    assert "adapter_config.json: " in told
    assert what in told


def test_numbers_and_names_of_any_length(tmp_path, cli, refused):
    path = tmp_path / "m.safetensors"
    save_file({f"blocks.{'1' * 4000}.q.weight": w(), "blocks.0." * 400 + "q.weight": w()}, path)
    cli("run", path, tmp_path / "o", "--layout", "by_block", "--cast", "bf16")
    save_file({"blocks.0." * 20_000 + "q.weight": w()}, path)
    assert "a tensor whose name of 180008 characters begins 'blocks.0.blocks" in refused("inspect", path)


@pytest.mark.parametrize("name", ["o", "o.safetensors"])
def test_a_circle_of_links_as_destination(name, tmp_path):
    save_file({"a": w()}, tmp_path / "m.safetensors")
    (tmp_path / name).symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / name)
    for where in (tmp_path / name, tmp_path / name / "x" if name == "o" else tmp_path / "other"):
        done = command("run", tmp_path / "m.safetensors", where)
        assert "fault of transcode" not in done.stderr
        assert "RuntimeError" not in done.stderr


def test_a_user_without_a_home(tmp_path):
    save_file({"a.weight": w()}, tmp_path / "m.safetensors")
    code = (
        "import os, pwd; os.environ.pop('HOME', None); os.environ.pop('XDG_CACHE_HOME', None)\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        f"from transcode.cli import main; main(['run', {str(tmp_path / 'm.safetensors')!r},"
        f" {str(tmp_path / 'o.safetensors')!r}, '--scheme', 'int8'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_full_standard_output(tmp_path):
    save_file({"a": w()}, tmp_path / "m.safetensors")
    with open("/dev/full", "w") as full:
        done = command("inspect", tmp_path / "m.safetensors", capture_output=False, stdout=full, stderr=-1)
    assert done.returncode == 2
    assert done.stderr == "transcode: error: standard output: No space left on device\n"


def test_side_files_that_are_links_out_of_the_folder(tmp_path, cli):
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": 1}')
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    save_file({"a": w()}, folder / "model.safetensors")
    (folder / "sub" / "x.json").write_text("{}")
    (folder / "tokenizer.json").symlink_to(folder / "sub" / "x.json")
    (folder / "config.json").symlink_to("../secret.json")
    result = cli("run", folder, tmp_path / "o")
    assert not (tmp_path / "o" / "config.json").exists()
    assert (tmp_path / "o" / "tokenizer.json").read_text() == "{}"
    assert "config.json is left out: it is a link out of the folder" in result.out + result.err


def test_side_files_of_the_hubs_cache(tmp_path, cli):
    repository = tmp_path / "models--a--b"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs" / "c0ffee").write_text('{"a": 1}')
    (snapshot / "config.json").symlink_to("../../blobs/c0ffee")
    save_file({"a": w()}, repository / "blobs" / "beef")
    (snapshot / "model.safetensors").symlink_to("../../blobs/beef")
    cli("run", snapshot, tmp_path / "o")
    assert (tmp_path / "o" / "config.json").read_text() == '{"a": 1}'


@pytest.mark.parametrize("width", ["80", "120"])
def test_names_of_files_configs_and_markers(width, tmp_path, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    folder = tmp_path / f"m{ESCAPES}"
    folder.mkdir()
    marker = torch.tensor(list(json.dumps({"format": ESCAPES}).encode()), dtype=torch.uint8)
    tensors = {
        f"{ESCAPES}.weight": torch.ones(8, 8, dtype=torch.int8),
        f"{ESCAPES}.weight_scale": torch.ones(8, 1),
    }
    save_file(tensors | {f"{ESCAPES}.comfy_quant": marker}, folder / f"x{ESCAPES}.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": ESCAPES}}))
    (folder / f"tokenizer{ESCAPES}.json").write_text("{}")
    for args in (["inspect", folder], ["inspect", folder, "-a"], ["run", folder, tmp_path / "o", "-n"]):
        result = cli(*args)
        assert steers(result.out + result.err) == set()
        assert "\\x1b[31mred" in result.out
    assert cli("inspect", folder, "--json").json["quantized"]["as"] == [f"{ESCAPES} (1)"]


def test_an_output_that_knows_few_letters(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"权重.weight": w()}, path, {"é": "模型"})
    for args in (["inspect", path], ["meta", "get", path], ["run", path, tmp_path / "o", "-n"]):
        done = command(*args, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
        assert done.returncode == 0, done.stderr
        assert "\\u6743" in done.stdout or "\\u6a21" in done.stdout
