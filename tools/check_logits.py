"""Load sources and what they become with transformers, on a CPU, and compare what the models answer.

    python tools/check_logits.py                    # all pairs, of a dense model and of one with experts
    python tools/check_logits.py --only 'mxfp4'     # pairs whose names match a regular expression
    python tools/check_logits.py --markdown         # the table of docs/guide/matrix.md

Each source is a small model with random weights in a scheme, as a convention stores it. It becomes all that a
lossless run can make of it and transformers loads: another convention, another scheme, BF16 or F32. Both are
loaded by transformers itself, whose integrations decode them, and asked for the logits of the same tokens and
for eight more of the likeliest. `same` is equality of every bit of the logits; a number is the largest
difference over the largest logit: where it is not 0, the two loaders compute in other dtypes. Exits with 1
where one is above 0.02, or where models that were loaded continue a text differently.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ANSWERS", "SIZES", "WAYS", "Way", "compare", "main", "table"]

ANSWERS = 0.02
"""The largest difference of logits, over the largest of them, that dtypes of loaders explain."""

_COMMON = {
    "num_hidden_layers": 2, "vocab_size": 96, "hidden_size": 128, "intermediate_size": 256, "head_dim": 64,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("Llama", _COMMON),
    "experts": (
        "Qwen3Moe",
        _COMMON | {"moe_intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2},
    ),
}


class Way(NamedTuple):
    """How weights are stored, and who loads them.

    Attributes:
        convention: as which program stores them; ``plain`` for values.
        scheme: of the weights; a dtype for values.
        options: of the scheme.
        package: that transformers needs beside itself.
    """

    convention: str
    scheme: str
    options: dict[str, Any] = {}  # noqa: RUF012  never written to
    package: str | None = None

    @property
    def name(self) -> str:
        """In words."""
        told = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.scheme}{':' + told if told else ''} of {self.convention}"


_CT = "compressed_tensors"
WAYS = (
    Way("plain", "BF16"),
    Way("plain", "F32"),
    Way(_CT, "int8", package=_CT),
    Way(_CT, "int8", {"granularity": "group", "group_size": 32}, _CT),
    Way(_CT, "int4", {"group_size": 32}, _CT),
    Way(_CT, "fp8", package=_CT),
    Way(_CT, "mxfp8", package=_CT),
    Way(_CT, "mxfp4", package=_CT),
    Way(_CT, "nvfp4", package=_CT),
    Way("deepseek", "fp8"),
    Way("torchao", "int8", package="torchao"),
    Way("bitsandbytes", "nf4", package="bitsandbytes"),
    Way("bitsandbytes", "bnb_fp4", package="bitsandbytes"),
    Way("gptq", "int4", {"group_size": 32}, "gptqmodel"),
    Way("gptq_v2", "int4", {"group_size": 32}, "gptqmodel"),
    Way("awq", "int4", {"group_size": 32}, "gptqmodel"),
    Way("quark", "int8", package="quark"),
)
"""What transformers loads without a GPU and computes with the stored weights alone.

Not among them, as was seen by a run: fp8 and mxfp4 of Quark and LLM.int8() round their inputs, too; fp8,
mxfp8 and mxfp4 of torchao have no kernels for CPUs; SDNQ's, quanto's, HQQ's, ModelOpt's and MLX's layers are
drawn at random, or refused.
"""


def model(kind: str, folder: Path) -> Path:
    """A folder with a model of random weights in BF16."""
    import torch
    import transformers

    path = folder / kind
    if not path.exists():
        torch.manual_seed(0)
        name, sizes = SIZES[kind]
        config = getattr(transformers, f"{name}Config")(**sizes)
        made = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for value in made.parameters():
                if value.dim() > 1:
                    value.mul_(4)  # or all tokens are as likely
        made.to(torch.bfloat16).save_pretrained(path)
    return path


def answer(folder: Path, way: Way, dtype: str) -> tuple[Any, list[int]]:
    """Logits ``[tokens, vocabulary]`` of a model that computes in a dtype, and how the text goes on."""
    import torch
    import transformers

    how: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if way.package == _CT:
        how["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, **how).eval()
    tokens = torch.arange(3, 19).reshape(1, -1)
    with torch.no_grad():
        logits = loaded(tokens).logits.float()[0]
        more = loaded.generate(tokens, max_new_tokens=8, do_sample=False, pad_token_id=0)
    return logits, more[0].tolist()


def compare(kind: str, source: Way, folder: Path, only: str = "") -> Iterator[tuple[Way, str]]:
    """What becomes of a source: for each way ``same``, a difference, or why there is none."""
    import transcode as tc

    made = folder / "source"
    ways = [
        way for way in WAYS if way != source and (not only or re.search(only, f"{source.name} -> {way.name}"))
    ]
    if not ways:
        return
    flow: Any = tc.open(model(kind, folder))
    flow | tc.quantize(source.scheme, **source.options) | tc.write(made, convention=source.convention)
    before: dict[str, tuple[Any, list[int]]] = {}
    for way in ways:
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        flow = tc.open(made)
        if way.convention == "plain":
            flow |= tc.dequantize(way.scheme)
        elif way.scheme != source.scheme or way.options != source.options:
            flow |= tc.quantize(way.scheme, **way.options)
        try:
            flow | tc.write(out, convention=way.convention, lossless=True, workers=1)
        except tc.TranscodeError:
            yield way, "loses"
            continue
        try:
            dtype = "float32" if way.scheme == "F32" else "bfloat16"
            if dtype not in before:
                before[dtype] = answer(made, source, dtype)
            one, other = before[dtype], answer(out, way, dtype)
        except Exception as error:  # whatever a package of somebody else raises is told
            yield way, f"not loaded: {type(error).__name__}: {str(error).splitlines()[0]:.90}"
            continue
        difference = float((other[0] - one[0]).abs().max() / one[0].abs().max())
        told = "same" if difference == 0 else f"{difference:.0e}"
        yield way, told if other[1] == one[1] else f"{told}, another text"


def table(rows: Sequence[tuple[str, str, Way, str]]) -> str:
    """Pairs in Markdown: model, source, target, what came of it."""
    lines = ["| model | source | becomes | logits |", "|---|---|---|---|"]
    lines += [f"| {kind} | {source} | {way.name} | {told} |" for kind, source, way, told in rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="regular expression of pairs: SOURCE -> TARGET")
    parser.add_argument("--kind", choices=list(SIZES), action="append", help="one of the models")
    parser.add_argument("--markdown", action="store_true", help="print the table at the end")
    asked = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    from transcode.errors import TranscodeError

    rows: list[tuple[str, str, Way, str]] = []
    for kind in asked.kind or SIZES:
        for source in WAYS:
            if source.convention == "plain":
                continue
            with tempfile.TemporaryDirectory() as name, contextlib.suppress(TranscodeError):
                for way, told in compare(kind, source, Path(name), asked.only):
                    if told == "loses":
                        continue
                    rows.append((kind, source.name, way, told))
                    print(f"{kind}: {source.name} -> {way.name}: {told}", flush=True)
    if asked.markdown:
        print(table(rows))
    wrong = [told for *_, told in rows if "another" in told or _number(told) > ANSWERS]
    return 1 if wrong or not rows else 0


def _number(told: str) -> float:
    try:
        return float(told.partition(",")[0])
    except ValueError:
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
