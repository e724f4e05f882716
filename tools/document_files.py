"""What the documents' commands are run on: small checkpoints with true names, made on the spot.

A page says what its folder holds: ``<!-- with: Wan2.1-I2V-14B=wan, style.safetensors=wan_lora -->``. Each
kind here writes one file or folder at a path; all values are made up, none is a published weight.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import make_checkpoint
import make_svdquant

from transcode.containers.safetensors.header import Entry, render
from transcode.core.dtypes import dtype

__all__ = ["KINDS", "in_hub_cache"]

ROOT = Path(__file__).parents[1]
_GB = 10**9


def wan(path: Path) -> None:
    """Wan2.1-I2V, two small blocks, two shards: the fixture of the repository."""
    shutil.copytree(ROOT / "fixtures" / "wan_tiny", path)


def wan_t2v(path: Path) -> None:
    """Wan2.1-T2V, two small blocks: a folder, or one file."""
    shapes = make_checkpoint.wan(2, 64, 176, task="t2v", text_dim=64)
    config = make_checkpoint._config(2, 64, 176, "t2v")
    make_checkpoint.make(path, shapes, kind=dtype("BF16"), config=config)


def wan_twins(path: Path) -> None:
    """Wan2.2-T2V: two models of two small blocks that take turns."""
    for name in ("high_noise_model", "low_noise_model"):
        wan_t2v(path / name)


def wan_wide(path: Path) -> None:
    """Wan2.1-I2V, one block, wide enough for blocks of 128."""
    shapes = make_checkpoint.wan(1, 128, 256, text_dim=128, image_dim=32)
    make_checkpoint.make(path, shapes, kind=dtype("BF16"), config=make_checkpoint._config(1, 128, 256, "i2v"))


def wan_wide_calibration(path: Path) -> None:
    """Largest inputs of each of its linear layers, as a ``calib.pt``."""
    import torch

    names = make_checkpoint.wan(1, 128, 256, text_dim=128, image_dim=32)
    peaks = {name: torch.tensor(4.0) for name, shape in names.items() if len(shape) == 2}
    torch.save({"absmax": peaks}, path)


def wan_full(path: Path) -> None:
    """Wan2.1-I2V-14B with its true 40 blocks and shapes, as files that are one hole each: 33 GB by their
    headers, some kilobytes on the disk. Good for everything that reads headers only.
    """
    path.mkdir()
    shards = make_checkpoint.cut(make_checkpoint.wan(), dtype("BF16"), 10 * _GB)
    stem = make_checkpoint.STEM
    names: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        entries, at = [], 0
        for tensor in sorted(shard, key=str.encode):
            entries.append(Entry(tensor, shard[tensor], at, at + shard[tensor].nbytes))
            at = entries[-1].end
        header = render(entries, {"format": "pt"})
        (path / name).write_bytes(header)
        os.truncate(path / name, len(header) + at)
        names |= dict.fromkeys(shard, name)
    total = sum(spec.nbytes for shard in shards for spec in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": names}
    (path / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    (path / "config.json").write_text(json.dumps(make_checkpoint._config(40, 5120, 13824, "i2v")))


def wan_lora(path: Path) -> None:
    """A LoRA of rank 4 for the T2V fixture, as kohya's scripts and musubi-tuner name it."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(len(path.name))
    tensors = {}
    for block in range(2):
        for module in ("self_attn.q", "self_attn.v", "cross_attn.o"):
            name = f"lora_unet_blocks_{block}_{module.replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = torch.randn(4, 64, generator=random) * 0.05
            tensors[f"{name}.lora_up.weight"] = torch.randn(64, 4, generator=random) * 0.05
            tensors[f"{name}.alpha"] = torch.tensor(4.0)
    save_file(tensors, path)


def wan_pickle(path: Path) -> None:
    """The T2V fixture as a PyTorch file, under the key ``module``."""
    import torch
    from safetensors.torch import load_file

    plain = path.with_name("plain.safetensors")
    wan_t2v(plain)
    torch.save({"module": load_file(plain), "step": 1000}, path)
    plain.unlink()


def llm(path: Path) -> None:
    """A small Llama in BF16 as transformers saves it, with a tokenizer's file."""
    import torch
    from safetensors.torch import save_file

    hidden, inner, vocabulary, layers = 256, 512, 96, 2
    random = torch.Generator().manual_seed(7)
    shapes = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden)}
    for number in range(layers):
        layer = f"model.layers.{number}"
        shapes |= {f"{layer}.self_attn.{name}_proj": (hidden, hidden) for name in "qo"}
        shapes |= {f"{layer}.self_attn.{name}_proj": (hidden // 2, hidden) for name in "kv"}
        shapes |= {f"{layer}.mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj"] = (hidden, inner)
    tensors = {
        f"{name}.weight": (torch.randn(shape, generator=random) / shape[1] ** 0.5).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    norms = ["model.norm"]
    norms += [
        f"model.layers.{n}.{norm}"
        for n in range(layers)
        for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    tensors |= {f"{name}.weight": torch.ones(hidden, dtype=torch.bfloat16) for name in norms}
    path.mkdir()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config, indent=2))
    (path / "tokenizer_config.json").write_text("{}")


def llm_calibration(path: Path) -> None:
    """Largest inputs of every linear layer of the Llama, as a ``calib.pt``."""
    import torch

    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [
        f"mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    peaks = {f"model.layers.{n}.{name}.weight": torch.tensor(4.0) for n in range(2) for name in names}
    torch.save({"absmax": peaks}, path)


def llm_fp8(path: Path) -> None:
    """The Llama in DeepSeek's fp8, blocks of 128x128."""
    _converted(llm, path, "fp8", "deepseek")


def llm_nvfp4(path: Path) -> None:
    """The Llama in ModelOpt's nvfp4."""
    _converted(llm, path, "nvfp4", "modelopt")


def llm_mxfp4(path: Path) -> None:
    """The Llama in compressed-tensors' mxfp4."""
    _converted(llm, path, "mxfp4", "compressed_tensors")


def llm_int8(path: Path) -> None:
    """The Llama in LightX2V's int8."""
    _converted(llm, path, "int8", "lightx2v")


def llm_lora(path: Path) -> None:
    """A LoRA of the Llama's output projections, as PEFT saves it."""
    import torch
    from safetensors.torch import save_file

    source = path.with_name(f".{path.name}")
    llm(source)
    from safetensors import safe_open

    path.mkdir(parents=True)
    tensors = {}
    for file in source.glob("*.safetensors"):
        with safe_open(file, "pt") as held:
            for name in held.keys():  # noqa: SIM118  # no mapping
                if name.endswith("o_proj.weight"):
                    rows, columns = held.get_slice(name).get_shape()
                    module = f"base_model.model.{name.removesuffix('.weight')}"
                    tensors[f"{module}.lora_A.weight"] = torch.full((2, columns), 0.01)
                    tensors[f"{module}.lora_B.weight"] = torch.full((rows, 2), 0.01)
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["o_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(config))
    shutil.rmtree(source)


def wan_nvfp4(path: Path) -> None:
    """The T2V fixture in LightX2V's nvfp4."""
    _converted(wan_t2v, path, "nvfp4", "lightx2v")


def gguf(path: Path) -> None:
    """The T2V fixture as GGUF in Q8_0."""
    import transcode as tc

    source = path.with_name(f".{path.name}")
    wan_t2v(source)
    flow: Any = tc.open(source) | tc.quantize("q8_0")
    flow | tc.write(path, metadata={"general.architecture": "wan"}, workers=1)
    shutil.rmtree(source)


def svdquant(path: Path) -> None:
    """What DeepCompressor saves of a Flux: INT4, one block of each kind."""
    make_svdquant.save(path, make_svdquant.make(1, 1, dim=256))


def svdquant_fp4(path: Path) -> None:
    """The same in FP4."""
    make_svdquant.save(path, make_svdquant.make(1, 1, dim=256, float_point=True))


def flux_config(path: Path) -> None:
    """A folder of FLUX.1-dev with its transformer's config.json only."""
    (path / "transformer").mkdir(parents=True)
    (path / "transformer" / "config.json").write_text(json.dumps(make_svdquant.config(1, 1, 256)))


def in_hub_cache(name: str) -> Path:
    """Where the cache of ``HF_HUB_CACHE`` is to have the files of ``hf:ORG/NAME``: its one revision, main."""
    folder = Path(os.environ["HF_HUB_CACHE"]) / f"models--{name.removeprefix('hf:').replace('/', '--')}"
    commit = hashlib.sha1(name.encode()).hexdigest()
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit


def _converted(kind: Callable[[Path], None], path: Path, scheme: str, convention: str) -> None:
    import transcode as tc

    source = path.with_name(f".{path.name}")
    kind(source)
    flow: Any = tc.open(source) | tc.quantize(scheme)
    flow | tc.write(path, convention=convention, workers=1)
    shutil.rmtree(source)


KINDS: dict[str, Callable[[Path], None]] = {
    kind.__name__: kind
    for kind in (
        wan, wan_t2v, wan_twins, wan_wide, wan_wide_calibration, wan_full, wan_lora, wan_pickle, wan_nvfp4,
        llm, llm_calibration, llm_fp8, llm_nvfp4, llm_mxfp4, llm_int8, llm_lora,
        svdquant, svdquant_fp4, flux_config, gguf,
    )
}  # fmt: skip
