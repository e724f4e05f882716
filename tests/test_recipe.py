"""One meaning, said in four ways: all files of the output are the same to the byte. What recipes refuse."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

import transcode as tc
from transcode import recipe as recipes
from transcode.errors import RecipeError

PLAIN = {
    "run": "transcode run SRC OUT --scheme int8",
    "steps": "source: {path: SRC}\nsteps:\n  - quantize: {scheme: int8}\noutput: {path: OUT}\n",
    "short": "source: {path: SRC}\nsteps: [quantize: int8]\noutput: {path: OUT}\n",
    "quantization": "source: {path: SRC}\nquantization: {method: int8}\noutput: {path: OUT}\n",
    "python": 'tc.open("SRC") | tc.quantize("int8") | tc.write("OUT")',
    "pipe": "transcode open SRC | transcode quantize int8 | transcode write OUT",
}

# Every key that the documentation names.
FULL = {
    "run": """transcode run SRC OUT --scheme int8 --model wan_dit --targets self_attn,cross_attn,ffn
        --granularity channel --symmetric --convention lightx2v --layout by_block --copy-metadata
        --workers 2 --memory 64MB --device cpu""",
    "quantization": """
source: {type: wan_dit, path: SRC, format: lightx2v}
quantization:
  method: int8
  options: {target_modules: [self_attn, cross_attn, ffn], per_channel: true, symmetric: true}
target: {format: lightx2v, precision: int8, layout: by_block}
output: {path: OUT, name: wan, copy_metadata: true}
performance: {parallel: true, device: cpu, num_workers: 2}
""",
    "steps": """
source: {path: SRC, type: wan_dit}
steps:
  - quantize:
      scheme: int8
      targets: [self_attn, cross_attn, ffn]
      options: {granularity: channel, symmetric: true}
target: {convention: lightx2v, layout: by_block}
output: {path: OUT}
performance: {num_workers: 1, memory: 64MB, tile: 64KiB}
""",
    "python": """tc.open("SRC") | tc.quantize(
        "int8", model="wan_dit", targets=["self_attn", "cross_attn", "ffn"], granularity="channel",
        symmetric=True) | tc.write("OUT", convention="lightx2v", layout="by_block", workers=3)""",
    "pipe": """transcode open SRC | transcode quantize int8 --model wan_dit --targets self_attn
        --targets cross_attn,ffn --granularity channel --symmetric |
        transcode write OUT --convention lightx2v --layout by_block""",
}

LONG = {
    "run": r"""transcode run SRC OUT --drop '*.bias' --drop 're:^img_emb' --rename '^blocks\.' 'layers.'
        --rename 'self_(attn)' '\1' --cast F32 --scheme fp8 -O format=e5m2 --granularity block
        --include 'head.head.weight,text_embedding' --exclude 'layers.0' --override 'layers.1.ffn=int8:granularity=tensor'
        --override 're:attn\.[qk]\.=bf16' --keep-dtype F16 --targets attn,ffn --layout chunked --max-tensors 7
        --metadata author=me --no-copy-metadata""",
    "steps": r"""
source: {path: SRC}
steps:
  - drop: ['*.bias', 're:^img_emb']
  - rename: {rules: [['^blocks\.', layers.], ['self_(attn)', '\1']]}
  - cast: F32
  - quantize:
      scheme: fp8
      options: {format: e5m2, granularity: block}
      targets: [attn, ffn]
      include: [head.head.weight, text_embedding]
      exclude: layers.0
      overrides: {layers.1.ffn: 'int8:granularity=tensor', 're:attn\.[qk]\.': bf16}
      keep_dtype: float16
target: {layout: chunked, max_tensors: 7}
output: {path: OUT, copy_metadata: false, metadata: {author: me}}
""",
    "python": r"""(tc.open("SRC") | tc.drop("*.bias", "re:^img_emb")
        | tc.rename({r"^blocks\.": "layers.", r"self_(attn)": r"\1"}) | tc.cast("F32")
        | tc.quantize("fp8", format="e5m2", granularity="block", targets=("attn", "ffn"),
            include=["head.head.weight", "text_embedding"], exclude=["layers.0"],
            overrides={"layers.1.ffn": "int8:granularity=tensor", r"re:attn\.[qk]\.": "bf16"},
            keep_dtype="F16")
        | tc.write("OUT", max_tensors=7, layout="chunked", metadata={"author": "me"}, copy_metadata=False))""",
    "pipe": r"""transcode open SRC | transcode drop '*.bias' 're:^img_emb'
        | transcode rename '^blocks\.' layers. 'self_(attn)' '\1' | transcode cast F32
        | transcode quantize fp8 -O format=e5m2 -O granularity=block --targets attn,ffn
        --include head.head.weight --include text_embedding --exclude layers.0
        --override 'layers.1.ffn=int8:granularity=tensor' --override 're:attn\.[qk]\.=bf16' --keep-dtype F16
        | transcode write OUT --max-tensors 7 --layout chunked --metadata author=me --no-copy-metadata""",
}  # fmt: skip


def carry_out(kind: str, text: str, src: Path, out: Path, piped, shell) -> None:
    """Pipes of many options as real ones, all else in this process."""
    text = text.replace("SRC", str(src)).replace("OUT", str(out))
    if kind in ("run", "pipe"):
        (shell if kind == "pipe" else piped)(" ".join(line.strip() for line in text.splitlines()))
    elif kind == "python":
        eval(text, {"tc": tc})
    else:
        recipe = out.with_name(f"{out.name}.yaml")
        recipe.write_text(text)
        piped(f"transcode run --config {recipe}")


@pytest.mark.parametrize("ways", [PLAIN, FULL, LONG], ids=["plain", "full", "long"])
def test_every_way_writes_the_same_bytes(ways, wan, tmp_path, piped, shell, digests):
    made = {}
    for kind, text in ways.items():
        out = tmp_path / kind
        carry_out(kind, text, wan, out, piped, shell)
        made[kind] = digests(out)
    first = made["run"]
    assert len(first) >= 2
    for kind, found in made.items():
        assert found == first, kind


def test_what_flows_in_a_pipe_can_be_saved_and_run_later(wan, tmp_path, piped, shell, digests):
    shell(f"transcode open {wan} | transcode drop '*.bias' | transcode quantize fp8 > half.yaml")
    piped("transcode run --config half.yaml a.safetensors")
    shell("cat half.yaml | transcode write b.safetensors --save whole.yaml -q")
    piped(f"transcode run --config whole.yaml {wan} c.safetensors")
    piped(f"transcode run --config half.yaml {wan} d.safetensors")
    found = [digests(tmp_path / f"{name}.safetensors") for name in "abcd"]
    assert found.count(found[0]) == 4


COMMANDS = [
    "SRC OUT",
    "SRC OUT --scheme int8 --force --allow-unmatched --targets ffn,nothing",
    "SRC OUT.safetensors --scheme int8:granularity=group,group_size=32 --asymmetric -w 2 --tile 1MB"
    " --memory 64MB --convention neutral",
    "SRC OUT --rename 0 zero --rename yes 'no: {x}' --allow-unmatched --metadata 'a=1: \"x\"' --metadata null=~",
    "SRC OUT --keep 'blocks.*' --drop 're:a{1,2}, b' --allow-unmatched --cast fp16 --saturate --no-mmap",
    "SRC OUT --scheme fp8 -O 'block=[64, 32]' --granularity block --on-nonfinite keep --drop-cache"
    " --convention neutral",
    "SRC OUT --dequantize F32 --from-convention lightx2v --layout chunked --max-shard-size 100kB",
    "SRC OUT --dequantize F32 --dequantize-only 'blocks.0,blocks.1.ffn' --on-nonfinite keep",
    "SRC OUT --scheme int8 --override 'blocks.0=keep' --override 'blocks.1.ffn=fp8:format=e5m2' --name x"
    " --convention neutral",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_shown_recipe_of_a_command_line_means_the_same(line, wan, tmp_path, cli, digests, monkeypatch):
    import shlex

    monkeypatch.chdir(tmp_path)
    if "--dequantize" in line:
        cli("run", wan, "quantized", "--scheme", "int8")
        wan = tmp_path / "quantized"
    args = shlex.split(line.replace("SRC", str(wan)))
    shown = cli("recipe", "show", "run", *args).out
    parsed = recipes.parse(shown)
    assert recipes.dump(parsed) == shown
    assert recipes.parse(recipes.dump(parsed)) == parsed
    out = args[1]
    cli("run", *args)
    direct = digests(tmp_path / out)
    (tmp_path / "recipe.yaml").write_text(shown)
    os.rename(out, "first")
    cli("run", "--config", "recipe.yaml")
    assert digests(tmp_path / out) == direct


def test_a_made_file_tells_its_recipe(wan, tmp_path, cli):
    cli("run", wan, tmp_path / "a.safetensors", "--scheme", "int8", "--exclude", "blocks.0", "-q")
    shown = cli("recipe", "show", tmp_path / "a.safetensors").out
    assert f"# version: {tc.__version__}\n# schemes: int8\n# digest: sha256:" in shown
    assert yaml.safe_load(shown) == {
        "steps": [{"quantize": {"scheme": "int8", "exclude": ["blocks.0"]}}],
        "target": {"convention": "lightx2v", "layout": "single_file"},
    }
    assert str(tmp_path) not in shown


@pytest.mark.parametrize(
    "line",
    [
        "o.safetensors --scheme int8 --exclude blocks.0",
        "o --scheme fp8 --convention comfyui --layout by_block --rename ^head top",
        "o --cast F32 --layout chunked --max-tensors 9",
        "o --max-shard-size 100kB --to diffusers",
    ],
)
def test_a_recorded_recipe_makes_the_same_file_again(line, wan, tmp_path, cli, digests, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, *flags = line.split()
    cli("run", wan, out, *flags, "-q")
    (tmp_path / "recipe.yaml").write_text(cli("recipe", "show", out).out)
    again = f"again/{out}"
    cli("run", "--config", "recipe.yaml", wan, again, "-q")
    assert digests(tmp_path / again) == digests(tmp_path / out)


def test_a_target_counts_wherever_the_destination_is_named(wan, tmp_path, piped, cli, digests):
    """The flags of the command that ends a recipe change it, nothing else does."""
    (tmp_path / "open.yaml").write_text(
        f"source: {{path: {wan}}}\nsteps: [quantize: fp8]\ntarget: {{layout: by_block, convention: comfyui}}\n"
    )
    whole = (
        cli("recipe", "show", tmp_path / "open.yaml").out
        + "output: {path: elsewhere, copy_metadata: false}\n"
    )
    (tmp_path / "whole.yaml").write_text(whole)
    flags = "--scheme fp8 --layout by_block --convention comfyui"
    for recipe, more in (("open", ""), ("whole", "--no-copy-metadata")):
        text = (tmp_path / f"{recipe}.yaml").read_bytes()
        piped(f"transcode run {wan} a {flags} {more} -q")
        piped(f"transcode run --config {recipe}.yaml {wan} b -q")
        piped("transcode write c -q", given=text)
        piped("transcode drop nothing | transcode write d -q --allow-unmatched", given=text)
        made = [digests(tmp_path / name) for name in "abc"]
        assert made[0] == made[1] == made[2]
        assert set(digests(tmp_path / "d")) == set(made[0])
        for name in "abcd":
            shutil.rmtree(tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()
    piped("transcode run --config open.yaml one.safetensors --layout single_file -q")


HEAD = "source: {path: x}\n"
WRONG = [
    ("a list", "- 1", 1, "must be a mapping"),
    ("nothing", "", 1, "is empty"),
    ("unknown top", HEAD + "sauce: {}", 2, "sauce"),
    ("unknown source key", "source:\n  path: x\n  pth: y", 3, "pth"),
    ("unknown target key", HEAD + "target: {lay: by_block}", 2, "lay"),
    ("unknown output key", HEAD + "output:\n  path: y\n  nmae: z", 4, "nmae"),
    ("unknown performance key", HEAD + "performance: {threads: 3}", 2, "threads"),
    ("unknown quantization key", HEAD + "quantization: {method: int8, opts: {}}", 2, "opts"),
    ("unknown option", HEAD + "quantization:\n  method: int8\n  options: {per_chanel: true}", 3, "per_chanel"),
    ("unknown step", HEAD + "steps:\n  - drop: ['*.bias']\n  - quantise: int8", 4, "quantise"),
    ("unknown step key", HEAD + "steps:\n  - cast: {to: F32, onyl: [a]}", 3, "onyl"),
    ("unknown quantize key", HEAD + "steps:\n  - quantize: {scheme: int8, target: [a]}", 3, "target"),
    ("unknown scheme", HEAD + "steps:\n  - quantize: int7", 3, "int7"),
    ("unknown method", HEAD + "quantization:\n  method: int7", 3, "int7"),
    ("unknown scheme option", HEAD + "steps: [quantize: {scheme: int8, options: {colour: red}}]", 2, "colour"),
    ("unknown family", "source: {path: x, type: wan_dti}", 1, "wan_dti"),
    ("unknown convention", HEAD + "target: {format: lightx3v}", 2, "lightx3v"),
    ("unknown layout", HEAD + "target: {layout: by_blok}", 2, "by_blok"),
    ("unknown dtype", HEAD + "steps: [cast: fp17]", 2, "fp17"),
    ("unknown precision", HEAD + "target: {precision: int7}", 2, "int7"),
    ("unknown device", HEAD + "performance: {device: tpu}", 2, "tpu"),
    ("key twice", HEAD + "steps: []\nsteps: []", 3, "steps"),
    ("workers as text", HEAD + "performance: {num_workers: many}", 2, "num_workers"),
    ("no workers", HEAD + "performance: {num_workers: 0}", 2, "num_workers"),
    ("memory not a size", HEAD + "performance: {memory: lots}", 2, "lots"),
    ("memory not a number", HEAD + "performance: {memory: .nan}", 2, "nan"),
    ("memory infinite", HEAD + "performance: {memory: inf}", 2, "inf"),
    ("path as list", "source: {path: [x]}", 1, "path"),
    ("mmap as text", "source: {path: x, mmap: 'yes'}", 1, "mmap"),
    ("symmetric as text", HEAD + "quantization: {method: int8, options: {symmetric: 'no'}}", 2, "symmetric"),
    ("per_channel as number", HEAD + "quantization: {method: int8, options: {per_channel: 1}}", 2, "per_channel"),
    ("step of two", HEAD + "steps: [{drop: [a], keep: [b]}]", 2, "one name"),
    ("steps and quantization", HEAD + "steps: []\nquantization: {method: int8}", 3, "either"),
    ("precision contradicts", HEAD + "quantization: {method: int8}\ntarget: {precision: fp8}", 3, "contradicts"),
    ("rule of three", HEAD + "steps: [rename: {rules: [[a, b, c]]}]", 2, "pair"),
    ("bad regex", HEAD + "steps: [rename: {rules: [['(', b]]}]", 2, "("),
    ("bad group", HEAD + "steps: [rename: {rules: [['a', '\\2']]}]", 2, "invalid group"),
    ("bad glob", HEAD + "steps: [drop: ['a[']]", 2, "a["),
    ("empty pattern", HEAD + "steps: [drop: ['']]", 2, "empty"),
    ("both limits", HEAD + "target: {max_tensors: 3, max_shard_size: 5GB}\noutput: {path: y}", 3, "both"),
    ("limit elsewhere", HEAD + "target: {layout: by_block, max_tensors: 3}\noutput: {path: y}", 3, "chunked"),
    ("layout of a file", HEAD + "target: {layout: by_block}\noutput: {path: y.safetensors}", 3, "by_block"),
    (
        "contradiction",
        HEAD + "steps: []\nperformance: {parallel: false, num_workers: 4}",
        3,
        "contradicts",
    ),
    ("unknown spelling", "source: {path: x, type: wan_dit, format: klingon}", 1, "klingon"),
    ("not YAML", "source: {path: x", 1, ""),
    ("a tag", "source: {path: !!python/object:os.system x}", 1, ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "said"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_mistakes_are_told_with_file_and_line(text, line, said, tmp_path, refused):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipes.load(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:"), message
    assert int(message.removeprefix(f"{file}:").split(":")[0]) in (line, line + 1 if said == "" else line), (
        message
    )
    assert said in message
    assert "\n" not in message
    assert refused("run", "--config", file) == f"transcode: error: {message}"


def test_a_recipe_that_cannot_be_read(tmp_path, refused):
    assert "no.yaml" in refused("run", "--config", tmp_path / "no.yaml")
    assert str(tmp_path) in refused("run", "--config", tmp_path)
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"\xff\xfe\x00source")
    assert "x.yaml" in refused("run", "--config", binary)


def test_a_recipe_without_an_end(tmp_path, refused):
    file = tmp_path / "recipe.yaml"
    file.write_text("source: {path: x}\n")
    (tmp_path / "x").mkdir()
    assert "x" in refused("run", "--config", file)
    file.write_text("output: {path: x}\n")
    assert "no source" in refused("run", "--config", file)


def test_precision_alone_names_scheme_or_dtype(wan, tmp_path, cli, digests):
    for precision, line in (("fp8", ["--scheme", "fp8"]), ("float16", ["--cast", "F16"])):
        recipe = tmp_path / f"{precision}.yaml"
        recipe.write_text(
            f"source: {{path: {wan}}}\ntarget: {{precision: {precision}}}\n"
            f"output: {{path: {tmp_path / precision}}}\n"
        )
        cli("run", "--config", recipe)
        cli("run", wan, tmp_path / f"{precision}-cli", *line)
        assert digests(tmp_path / precision) == digests(tmp_path / f"{precision}-cli")


def test_per_channel_false_is_per_tensor(wan, tmp_path, cli):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"source: {{path: {wan}}}\nquantization: {{method: int8, options: {{per_channel: false}}}}\n"
        f"output: {{path: {tmp_path / 'o'}}}\n"
    )
    plan = cli("run", "--config", recipe, "--dry-run", "--json").json
    scales = {tuple(s["shape"]) for t in plan["tensors"] for s in t["stored"] if s["role"] == "scale"}
    assert scales == {()}


def test_flags_change_a_recipe_file_only_where_they_can(wan, tmp_path, cli, refused):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"source: {{path: {wan}}}\nsteps: [quantize: int8]\noutput: {{path: {tmp_path / 'o'}}}\n"
    )
    assert "--scheme" in refused("run", "--config", recipe, "--scheme", "fp8")
    plan = cli("run", "--config", recipe, "--layout", "by_block", "-n", "--json").json
    assert plan["layout"] == "by_block"


def test_python_runs_a_recipe_file(wan, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"source: {{path: {wan}}}\nsteps: []\noutput: {{path: {tmp_path / 'o.safetensors'}}}\n")
    report = tc.run(recipe)
    assert (tmp_path / "o.safetensors").stat().st_size == report.bytes_written
