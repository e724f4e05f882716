"""What every kind of conversion writes, to the bit: digests of the outputs of a broad matrix, and a check.

    python tools/golden.py                    check against tests/golden.json; 1 if something differs
    python tools/golden.py --only 'nvfp4'     some of it: cases whose name matches the regular expression
    python tools/golden.py --update           write the file anew, after a change of bytes that was meant
    python tools/golden.py --list

The matrix: every scheme and option under every convention and layout, from every kind of source; what was
quantized decoded and encoded again; casts, renames, LoRAs, other spellings, nunchaku; by Python, recipe,
command line and pipe. A case that is refused is held to the kind of its error and to its words.

It is the net under changes that must change no byte. Sources are made of integers by numpy alone, except the
pickles and the SVDQuant folder, which torch makes. The version of transcode, which files record, is replaced
by a fixed one.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden.json"
VERSION = "0"

Result = str
"""SHA-256 of what was written, names and bytes; or how the case was refused."""


@dataclass(frozen=True)
class Case:
    """One conversion: ``write`` makes a file or a folder at the destination that it is given."""

    name: str
    suffix: str
    write: Callable[[Path], object]


class Maker:
    """Sources, each made when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, make: Callable[[Path], object]) -> Path:
        """The source of that name, made if it is not there."""
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
        return path


def values(seed: int, *shape: int, dtype: Any = ml_dtypes.bfloat16) -> NDArray[Any]:
    """Numbers of many sizes: integers times powers of two that differ by row and column."""
    random = np.random.default_rng(seed)
    whole = random.integers(-(1 << 15), 1 << 15, shape, np.int32).astype(np.float32)
    if len(shape) > 1:
        whole *= np.exp2(random.integers(-4, 3, (*shape[:-1], 1)).astype(np.float32))
        whole *= np.exp2(random.integers(-2, 2, shape[-1]).astype(np.float32))
    return np.ascontiguousarray((whole * np.float32(2.0**-19)).astype(dtype))


def mixed(path: Path) -> None:
    """Matrices of all float dtypes, with sizes that fit and that do not; a stack; what nobody quantizes."""
    kinds = (np.float32, ml_dtypes.bfloat16, np.float16, np.float64)
    tensors: dict[str, NDArray[Any]] = {}
    shapes = {"fits": (256, 384), "tall": (288, 160), "odd": (131, 160), "proj": (40, 200), "wide": (3, 1000)}
    for number, kind in enumerate(kinds):
        for place, (module, shape) in enumerate(shapes.items()):
            tensors[f"layers.{number}.{module}.weight"] = values(100 * number + place, *shape, dtype=kind)
            tensors[f"layers.{number}.{module}.bias"] = values(
                100 * number + place + 50, shape[0], dtype=kind
            )
    tensors["layers.0.fits.weight"][7] = 0
    tensors["layers.1.odd.weight"][:130] = 0
    tensors["experts.stack.weight"] = values(1001, 5, 64, 96)
    tensors["conv.weight"] = values(1002, 4, 3, 2, 8)
    tensors["empty.weight"] = np.empty((0, 8), np.float32)
    tensors["scalar"] = np.array(3, np.float32)
    tensors["count"] = np.array([1, -2, 3])
    tensors["mask"] = np.array([True, False, True])
    save_file(tensors, path, {"author": "me"})


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 64, "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-05,
}  # fmt: skip


def llama_tensors() -> dict[str, NDArray[Any]]:
    """A small Llama of two layers."""
    shapes = {
        "self_attn.q_proj": (256, 256), "self_attn.k_proj": (128, 256), "self_attn.v_proj": (128, 256),
        "self_attn.o_proj": (256, 256), "mlp.gate_proj": (384, 256), "mlp.up_proj": (384, 256),
        "mlp.down_proj": (256, 384),
    }  # fmt: skip
    tensors = {"model.embed_tokens.weight": values(1, 64, 256), "lm_head.weight": values(2, 64, 256)}
    for layer in range(2):
        for place, (module, shape) in enumerate(shapes.items()):
            name = f"model.layers.{layer}.{module}.weight"
            tensors[name] = values(10 + 20 * layer + place, *shape)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = values(90 + layer, 256)
    tensors["model.norm.weight"] = values(3, 256)
    return tensors


def llama(path: Path) -> None:
    """The same in two shards with an index, a configuration and a tokenizer."""
    path.mkdir()
    tensors = llama_tensors()
    names = list(tensors)
    where = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, path / file, {"format": "pt"})
        where.update(dict.fromkeys(part, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text(json.dumps(LLAMA))
    (path / "tokenizer_config.json").write_text("{}")


def pickled(path: Path) -> None:
    """The same in a file of torch, below ``state_dict``."""
    import torch

    tensors = {
        name: torch.from_numpy(tensor.view(np.int16)).view(torch.bfloat16)
        for name, tensor in llama_tensors().items()
    }
    torch.save({"state_dict": tensors, "epoch": 3}, path)


def adapter(kind: str) -> Callable[[Path], object]:
    """An adapter of some layers of the Llama, of rank 4."""

    def make(path: Path) -> None:
        tensors: dict[str, NDArray[Any]] = {}
        for layer in range(2):
            for number, (module, out, inputs) in enumerate(
                (("self_attn.q_proj", 256, 256), ("mlp.down_proj", 256, 384))
            ):
                seed = 300 + 10 * layer + number
                bare = f"model.layers.{layer}.{module}"
                if kind == "peft":
                    tensors[f"base_model.model.{bare}.lora_A.weight"] = values(seed, 4, inputs)
                    tensors[f"base_model.model.{bare}.lora_B.weight"] = values(seed + 5, out, 4)
                    continue
                head = bare
                if kind == "loha":
                    for half in (1, 2):
                        tensors[f"{head}.hada_w{half}_a"] = values(seed + half, out, 4)
                        tensors[f"{head}.hada_w{half}_b"] = values(seed + half + 5, 4, inputs)
                elif kind == "lokr":
                    tensors[f"{head}.lokr_w1"] = values(seed, 16, 16)
                    tensors[f"{head}.lokr_w2"] = values(seed + 5, out // 16, inputs // 16)
                else:
                    tensors[f"{head}.lora_down.weight"] = values(seed, 4, inputs, dtype=np.float32)
                    tensors[f"{head}.lora_up.weight"] = values(seed + 5, out, 4, dtype=np.float32)
                if kind == "dora":
                    tensors[f"{head}.dora_scale"] = np.abs(values(seed + 7, out, 1, dtype=np.float32)) + 1
                tensors[f"{head}.alpha"] = np.array(2, np.float32)
        if kind != "peft":
            save_file(tensors, path)
            return
        path.mkdir()
        save_file(tensors, path / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}
        (path / "adapter_config.json").write_text(json.dumps(config))

    return make


VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "int8": (
        {}, {"granularity": "tensor"}, {"granularity": "group", "group_size": 32}, {"symmetric": False},
        {"scale_dtype": "F32"}, {"scale_dtype": "F16"}, {"granularity": "group", "symmetric": False},
        {"optimize": "mse"},
    ),
    "fp8": (
        {}, {"granularity": "tensor"}, {"granularity": "block"}, {"format": "e5m2"}, {"scale_dtype": "BF16"},
        {"granularity": "block", "block": [32, 32]},
    ),
    "mxfp8": ({}, {"format": "e5m2"}, {"scale_mode": "floor"}, {"optimize": "mse"}),
    "mxfp6": ({}, {"format": "e3m2"}, {"scale_mode": "rceil"}, {"optimize": "mse"}),
    "mxfp4": ({}, {"scale_mode": "rceil"}, {"scale_mode": "floor"}, {"optimize": "mse"}),
    "nvfp4": ({}, {"optimize": "four_over_six"}, {"optimize": "mse"}),
    "int4": (
        {}, {"group_size": 32}, {"group_size": 128}, {"symmetric": False}, {"optimize": "mse"},
        {"group_size": 32, "symmetric": False, "scale_dtype": "F32"}, {"optimize": "signed"},
        {"symmetric": False, "optimize": "mse"},
    ),
}  # fmt: skip


def told(options: dict[str, Any]) -> str:
    """Options as they stand in the name of a case."""
    return ":" + ",".join(f"{key}={value}" for key, value in options.items()) if options else ""


ALONE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("int8", {"rotate": 16}), ("int8", {"rotate": 64, "granularity": "tensor"}),
    ("w4a8", {"rotate": 16}), ("w4a8", {"rotate": 16, "codebook": "frozen"}), ("w6a8", {"rotate": 16}),
    ("convrot_w4a4", {"rotate": 16}), ("convrot_w4a4", {"rotate": 16, "optimize": "mse"}),
    ("awq_w4a16", {}), ("awq_w4a16", {"optimize": "mse"}), ("affine", {"bits": 3}),
    ("affine", {"optimize": "mse"}), ("hqq", {"bits": 2}), ("qbits", {}), ("nf4", {}), ("bnb_fp4", {}),
)  # fmt: skip
"""What few consumers take is tried in transcode's own names alone."""

NARROW = ("torchao", "quanto", "sdnq")
"""Conventions that are tried on one source, in one layout, and repacked for neutral and from it alone: names
and bytes of theirs depend on no more.
"""


def far(one: str, other: str) -> bool:
    """Whether two conventions are not tried together."""
    return (one in NARROW or other in NARROW) and "neutral" not in (one, other)


def cases(maker: Maker) -> Iterator[Case]:
    """All of the matrix."""
    import transcode as tc
    from transcode import catalog
    from transcode.plan.options import LAYOUTS

    def flow(source: Path, *stages: Any) -> Any:
        made = tc.open(source)
        for stage in stages:
            made = made | stage
        return made

    def case(name: str, suffix: str, source: Callable[[], Path], *stages: Any, **options: Any) -> Case:
        def write(out: Path) -> None:
            found = [stage() if callable(stage) else stage for stage in stages]
            flow(source(), *found) | tc.write(out, workers=2, tile=20_000, **options)

        return Case(name, suffix, write)

    sources: dict[str, Callable[[], Path]] = {
        "mixed": lambda: maker.path("mixed.safetensors", mixed),
        "llama": lambda: maker.path("llama", llama),
        "pickle": lambda: maker.path("llama.pth", pickled),
        "wan": lambda: ROOT / "fixtures" / "wan_tiny",
    }
    one = ".safetensors"

    def taking(scheme: str) -> list[str]:
        """Conventions that spell a scheme."""
        found = {name: catalog.convention(name) for name in catalog.conventions()}
        return [name for name, one in found.items() if scheme in one.schemes and one.unwritten is None]

    for name, source in sources.items():
        yield case(f"{name}: copy", one, source)
        yield case(f"{name}: copy to a folder", "", source)
        for layout in (name for name in LAYOUTS if name not in ("apart", "components")):
            options = {"max_shard_size": 150_000} if layout == "chunked" else {}
            yield case(f"{name}: copy {layout}", "", source, layout=layout, **options)
            for scheme in VARIANTS:
                for convention in taking(scheme):
                    if convention in NARROW and (name, layout) != ("llama", "chunked"):
                        continue
                    yield case(
                        f"{name}: {scheme} as {convention} {layout}", "", source,
                        lambda scheme=scheme: tc.quantize(scheme),
                        layout=layout, convention=convention, **options,
                    )  # fmt: skip
        for dtype in ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"):
            yield case(f"{name}: cast {dtype}", one, source, lambda d=dtype: tc.cast(d, saturate=True))

    for scheme, variants in VARIANTS.items():
        for options in variants:
            for convention in taking(scheme):
                for name in ("mixed", "llama")[convention in NARROW :]:
                    yield case(
                        f"{name}: {scheme}{told(options)} as {convention}", one, sources[name],
                        lambda s=scheme, o=options: tc.quantize(s, **o), convention=convention,
                    )  # fmt: skip

    for scheme, options in ALONE:
        for name in ("mixed", "llama"):
            yield case(
                f"{name}: {scheme}{told(options)} alone", one, sources[name],
                lambda s=scheme, o=options: tc.quantize(s, **o), convention="neutral",
            )  # fmt: skip

    def quantized(scheme: str, options: dict[str, Any], convention: str) -> Callable[[], Path]:
        def make(path: Path) -> None:
            flow(sources["llama"](), tc.quantize(scheme, **options)) | tc.write(path, convention=convention)

        name = re.sub(r"[^a-z0-9_]+", "_", f"{scheme}{told(options)}_{convention}")
        return lambda: maker.path(f"quantized/{name}", make)

    for scheme, variants in VARIANTS.items():
        for convention in taking(scheme):
            for options in variants:
                source = quantized(scheme, options, convention)
                known = f"{scheme}{told(options)} of {convention}"
                yield case(f"{known}: dequantize", one, source, lambda: tc.dequantize("BF16"))
                for other in taking(scheme):
                    if other != convention and not far(other, convention):
                        yield case(f"{known}: repack for {other}", "", source, convention=other)
                if not options:
                    yield case(f"{known}: copy", "", source)
                    yield case(f"{known}: dequantize F32", "", source, lambda: tc.dequantize("F32"))
                    yield case(
                        f"{known}: dequantize, int8", one, source, lambda: tc.dequantize("BF16"),
                        lambda: tc.quantize("int8"),
                    )  # fmt: skip
                    for other in taking(scheme):
                        if far(other, convention):
                            continue
                        yield case(
                            f"{known}: to {other}", one, source, lambda: tc.dequantize("BF16"),
                            lambda s=scheme: tc.quantize(s), convention=other,
                        )  # fmt: skip

    llm, wan = sources["llama"], sources["wan"]
    yield case("rename", one, llm, lambda: tc.rename([(r"^model\.", "")]))
    yield case("keep", one, llm, lambda: tc.keep("layers.0"))
    yield case("drop, int8", "", llm, lambda: tc.drop("lm_head"), lambda: tc.quantize("int8"))
    yield case("only", one, llm, lambda: tc.cast("F32", only=["norm"]))
    yield case(
        "overrides", one, llm,
        lambda: tc.quantize(
            "int8", overrides=[("layers.0.mlp", "fp8"), ("q_proj", "keep"), ("k_proj", "F32")],
            exclude=["layers.1.self_attn.o_proj"], include=["lm_head"], keep_dtype="F16",
        ),
        convention="neutral",
    )  # fmt: skip
    for scheme in ("nvfp4", "mxfp8", "int4"):
        yield case(
            f"pad {scheme}", one, sources["mixed"],
            lambda s=scheme: tc.quantize(s, targets=["layers"], on_bad_shape="pad"), convention="neutral",
        )  # fmt: skip
    yield case(
        "share_scale", one, llm, lambda: tc.quantize("nvfp4", share_scale=["q_proj,k_proj,v_proj"]),
        convention="modelopt",
    )  # fmt: skip
    for spelling in ("diffusers", "lightx2v"):
        yield case(f"wan: to {spelling}", "", wan, lambda s=spelling: tc.convert(s))
        yield case(
            f"wan: to {spelling}, fp8", "", wan, lambda s=spelling: tc.convert(s), lambda: tc.quantize("fp8")
        )
    for kind in ("peft", "kohya", "dora", "loha", "lokr"):
        file = maker.folder / ("adapter_peft" if kind == "peft" else f"adapter_{kind}.safetensors")

        def merge(kind: str = kind, file: Path = file) -> Any:
            return tc.lora(maker.path(file.name, adapter(kind)), 0.7)

        yield case(f"lora {kind}", one, llm, merge)
        yield case(f"lora {kind}, int8", "", llm, merge, lambda: tc.quantize("int8"))
        yield case(f"lora {kind} on F32", one, llm, lambda: tc.cast("F32"), merge)

    for float_point in (False, True):

        def svdquant(float_point: bool = float_point) -> Path:
            import make_svdquant

            def make(path: Path) -> None:
                make_svdquant.save(path, make_svdquant.make(1, 1, dim=128, float_point=float_point))

            return maker.path(f"svdquant_{float_point}", make)

        yield case(f"nunchaku {'fp4' if float_point else 'int4'}", "", svdquant,
                   lambda fp=float_point: tc.nunchaku(float_point=fp))  # fmt: skip

    def shell(name: str, suffix: str, command: str) -> Case:
        """``SRC`` and ``DST`` stand for paths."""

        def write(out: Path) -> None:
            line = command.replace("SRC", f"'{llm()}'").replace("DST", f"'{out}'")
            program = (
                f'{sys.executable} -c \'import transcode; transcode.__version__ = "{VERSION}";'
                " from transcode.cli import main; main()'"
            )
            line = re.sub(r"\btranscode\b(?= \w)", lambda _: program, line)
            folder = os.environ.get("PYTHONPATH", "")
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(done.stderr.replace(str(maker.folder), "."))

        return Case(name, suffix, write)

    yield shell("shell: run", one, "transcode run SRC DST --scheme int8 -w 2")
    yield shell("shell: run by block", "", "transcode run SRC DST -s fp8 --layout by_block")
    yield shell(
        "shell: run of many stages", "",
        "transcode run SRC DST -s mxfp8 --drop lm_head --cast F16 --convention compressed_tensors",
    )  # fmt: skip
    yield shell(
        "shell: pipe", one, "transcode open SRC | transcode drop lm_head | transcode quantize nvfp4"
        " | transcode write DST",
    )  # fmt: skip
    yield shell(
        "shell: recipe", "",
        "transcode recipe show run SRC DST -s int4 --convention compressed_tensors > DST.yaml"
        " && transcode run --config DST.yaml && rm DST.yaml",
    )  # fmt: skip


def digest(path: Path) -> str:
    """SHA-256 of a file; or of every file of a folder, with its path."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        whole.update(file.relative_to(path).as_posix().encode() + b"\0")
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def carry_out(case: Case, folder: Path) -> Result:
    """What a case gives."""
    from transcode.errors import TranscodeError
    from transcode.voice import speaking

    out = folder / f"out{case.suffix}"
    try:
        with speaking("flags"):  # whichever of the ways it goes
            case.write(out)
        return digest(out)
    except (TranscodeError, RuntimeError) as error:
        message = re.sub(r"(/[^\s/:']+)*/(?=[^\s/:']+)", "", f"{type(error).__name__}: {error}")
        return message.strip()
    finally:
        if out.is_dir():
            shutil.rmtree(out)
        else:
            out.unlink(missing_ok=True)


@contextlib.contextmanager
def _version() -> Iterator[None]:
    """The same in every record, whatever it is."""
    import transcode
    from transcode.consumers import record
    from transcode.consumers.config import modelopt

    # Each has a name of its own for it, whenever it was loaded.
    named = [vars(module) for module in (transcode, record, modelopt)]
    before = transcode.__version__
    for names in named:
        names["__version__"] = VERSION
    try:
        yield
    finally:
        for names in named:
            names["__version__"] = before


def results(
    only: str = "",
    *,
    every: int = 1,
    share: tuple[int, int] = (0, 1),
    tell: Callable[[str], None] = lambda name: None,
) -> dict[str, Result]:
    """Results by name of the cases whose name matches a regular expression.

    Args:
        every: of so many cases one.
        share: (number, count): of those, one of so many shares of neighbours, which have their sources alike.
        tell: is given the name of each case before it is carried out.
    """
    wanted = re.compile(only)
    with _version(), tempfile.TemporaryDirectory(prefix="golden-") as temporary, contextlib.chdir(temporary):
        folder = Path(temporary)
        table: dict[str, Result] = {}
        matching = [case for case in cases(Maker(folder / "sources")) if wanted.search(case.name)][::every]
        begin, end = (len(matching) * (share[0] + n) // share[1] for n in (0, 1))
        for case in matching[begin:end]:
            assert case.name not in table, case.name
            tell(case.name)
            table[case.name] = carry_out(case, folder)
        return table


def _show(name: str) -> None:
    print(f"\r\x1b[K{name}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Check, or record, what every kind of conversion writes.")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name matches")
    parser.add_argument("--update", action="store_true", help="record what is written now")
    parser.add_argument("--list", action="store_true", help="names of the cases")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tools"))
    if args.list:
        print(*(case.name for case in cases(Maker(Path()))), sep="\n")
        return
    began = time.monotonic()
    known: dict[str, Result] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    now = results(args.only, tell=_show if sys.stderr.isatty() else lambda name: None)
    print("\r\x1b[K" if sys.stderr.isatty() else "", end="", file=sys.stderr)
    written = sum(re.fullmatch("[0-9a-f]{64}", result) is not None for result in now.values())
    seconds = time.monotonic() - began
    print(f"{len(now)} cases, {written} written, {len(now) - written} refused, in {seconds:.0f} s")
    if args.update:
        gone = {} if not args.only else {n: r for n, r in known.items() if not re.search(args.only, n)}
        table = dict(sorted({**gone, **now}.items()))
        GOLDEN.write_text(json.dumps(table, indent=0, ensure_ascii=False) + "\n")
        return
    wanted = {name for name in known if re.search(args.only, name)}
    different = [name for name in sorted(wanted | now.keys()) if known.get(name) != now.get(name)]
    for name in different:
        print(f"{name}:\n  was {known.get(name)}\n  is  {now.get(name)}")
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
