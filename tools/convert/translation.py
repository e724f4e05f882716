"""From the converter's flags to a recipe."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from transcode import catalog
from transcode.core.flow import Transform
from transcode.core.patterns import Patterns
from transcode.core.performance import Performance
from transcode.core.planning import Planning
from transcode.errors import RecipeError
from transcode.execution.write import Write
from transcode.plan.devices import known
from transcode.recipe import Recipe, SourceOptions
from transcode.stages.cast import Cast
from transcode.stages.convert import Convert
from transcode.stages.lora.stage import Lora, LoraFile
from transcode.stages.quantize.stage import Quantize
from transcode.stages.select import Drop

from . import keys

__all__ = ["Job", "scaled_convention", "translate"]

_SPELLINGS = {"forward": "diffusers", "backward": "lightx2v"}
_ONE_SPELLING = ("h3",)
"""Families that LightX2V and Diffusers spell alike."""

_ROOTS = {"self_forcing": "generator_ema"}
"""Where PyTorch files of a family keep the tensors that are meant, beside others that are not."""

_KEY_INDEX = {"self_forcing": 3, "wan_clip": 3, "qwen25vl_llm": 3}
"""Which component of a name the target keys are compared with; 2 for all others."""

_MORE_FOR_COMFYUI = {
    "qwen_image_dit": (
        "time_text_embed.timestep_embedder.linear_1.weight",
        "time_text_embed.timestep_embedder.linear_2.weight",
        "img_in.weight", "txt_in.weight", "norm_out.linear.weight", "proj_out.weight",
    ),
}  # fmt: skip
"""What is quantized besides for ComfyUI."""

_PRESERVED = ("h3",)
"""Families whose other tensors keep their dtypes."""

_QUANTIZED_ONLY = ("linear_type", "non_linear_dtype", "comfyui_mode", "full_quantized", "key_idx",
                   "target_keys", "ignore_keys", "ignore_quant_keys")  # fmt: skip

_CHUNK = 100
_ALL = 10_000_000
"""More tensors than the header of a safetensors file has room for."""


@dataclass(frozen=True)
class Job:
    """What a command line asks for.

    Attributes:
        recipe: for transcode.
        warnings: what of the flags has no effect, or another one than it had.
        pickle: PyTorch file that the tensors of the recipe's output, a folder of one file, end up in; None
            where the output itself is asked for.
    """

    recipe: Recipe
    warnings: tuple[str, ...]
    pickle: Path | None = None


def translate(args: Namespace) -> Job:
    """The recipe of a command line. Reads headers of the source where keys must be compared with its names.

    Raises:
        RecipeError: flags that contradict each other, or that cannot be meant.
        TranscodeError: the source cannot be read.
    """
    said: list[str] = []
    pickled = Path(args.source).suffix in (".pth", ".pt")
    source = SourceOptions(args.source, _ROOTS.get(args.model_type) if pickled else None)
    steps: list[Transform] = []
    if args.direction is not None:
        if args.model_type in _ONE_SPELLING:
            said.append(f"--direction: {args.model_type} has the same names in LightX2V and Diffusers")
        else:
            steps.append(Convert(_SPELLINGS[args.direction], None, args.model_type))
    renamed = Recipe(source, tuple(steps))
    if args.lora_path:
        steps.append(_lora(args, said))
    convention = "lightx2v"
    if args.quantized and args.full_quantized and args.comfyui_mode:
        if args.linear_type != "fp8":
            raise RecipeError(
                f"--full_quantized: weights cast to {args.linear_type} without scales would be lost",
                hint="use --linear_type fp8, or leave --full_quantized out",
            )
        steps.append(Cast("F8_E4M3", saturate=True))
    elif args.quantized:
        if args.linear_type is None:
            raise RecipeError("--quantized: to what?", hint="add --linear_type int8, fp8, mxfp4, nvfp4 ...")
        if args.comfyui_mode:
            convention = scaled_convention(args.linear_type)
        steps += _quantize(args, renamed, convention, said)
    else:
        _idle(args, said)
    if args.quantized and args.full_quantized and not args.comfyui_mode:
        said.append("--full_quantized: does nothing without --comfyui_mode")
    device = known(args.device, said)
    write, pickle = _write(args, convention, said)
    performance = Performance(workers=None if args.parallel else 1, device=device)
    return Job(Recipe(source, tuple(steps), write, performance), tuple(said), pickle)


def scaled_convention(scheme: str) -> str:
    """What ComfyUI reads: for fp8 its older scaled files, which every version knows; else those of today."""
    return "comfyui_scaled" if scheme == "fp8" else "comfyui"


def _lora(args: Namespace, said: list[str]) -> Lora:
    number = len(args.lora_path)

    def each(flag: str, values: list[float]) -> list[float | None]:
        if len(values) == 1:
            return [values[0]] * number
        if values and len(values) != number:
            raise RecipeError(
                f"{flag}: {len(values)} values for {number} files", hint="give one for all, or one for each"
            )
        return [*values] or [None] * number

    strengths = each("--lora_strength", args.lora_strength)
    alphas = each("--lora_alpha", args.lora_alpha)
    if 0 in alphas:
        said.append("--lora_alpha 0: counts as none given")
    spelled = args.lora_key_convert
    if spelled == "convert" and args.direction is None:
        spelled = "auto"  # there is no conversion that could be applied to the LoRA
    files = (
        LoraFile(path, 1.0 if strength is None else strength, alpha or None)
        for path, strength, alpha in zip(args.lora_path, strengths, alphas, strict=True)
    )
    return Lora(tuple(files), spelled)


def _quantize(args: Namespace, renamed: Recipe, convention: str, said: list[str]) -> list[Transform]:
    names = [tensor.name for tensor in renamed.flow().tensors(Planning(allow_unmatched=True))]
    policy = catalog.family(args.model_type, names).policy
    ignored = keys.listed(args.ignore_keys)
    if ignored is None:
        drops = [str(pattern) for pattern in policy.drops if any(map(pattern.matches, names))]
    else:
        drops, warnings = keys.patterns("--ignore-keys", ignored, names)
        said += warnings
    dropped = Patterns(drops)
    left = [name for name in names if dropped.first(name) is None]
    exclude, warnings = keys.patterns("--ignore-quant-keys", keys.listed(args.ignore_quant_keys) or (), left)
    said += warnings
    targets = []
    # What ComfyUI's own files keep, the converter quantized for it too.
    if args.key_idx is not None or args.target_keys is not None or convention in policy.keeps:
        index = args.key_idx if args.key_idx is not None else _KEY_INDEX.get(args.model_type, 2)
        wanted = keys.listed(args.target_keys) or [str(pattern) for pattern in policy.targets]
        targets.append(keys.at_component(index, wanted))
    include = [one for one in _MORE_FOR_COMFYUI.get(args.model_type, ()) if args.comfyui_mode and one in left]
    dtype = args.non_linear_dtype or (None if args.model_type in _PRESERVED else "torch.float32")
    quantize = Quantize(
        args.linear_type,
        model=args.model_type,
        targets=tuple(targets),
        include=tuple(include),
        exclude=tuple(exclude),
        keep_dtype=dtype,
    )
    return [*([Drop(tuple(drops))] if drops else []), quantize]


def _idle(args: Namespace, said: list[str]) -> None:
    """Tell of flags that mean nothing as nothing is quantized."""
    for flag in _QUANTIZED_ONLY:
        value = getattr(args, flag)
        if value is not None and value is not False:
            said.append(f"--{flag}: does nothing without --quantized")


def _write(args: Namespace, convention: str, said: list[str]) -> tuple[Write, Path | None]:
    folder = Path(args.output)
    if folder.is_file():
        raise RecipeError("is a file", file=folder, hint="--output names a folder")
    if args.single_file and args.save_by_block:
        raise RecipeError("--single_file contradicts --save_by_block", hint="choose one")
    side_files = args.copy_no_weight_files and Path(args.source).is_dir()
    single = args.single_file or args.output_ext == ".pth"
    if args.chunk_size is not None and (single or args.save_by_block):
        said.append("--chunk-size: does nothing with another layout")
    destination, name, pickle, most = folder, args.output_name, None, None
    layout = "single_file" if single else "by_block" if args.save_by_block else "chunked"
    if args.output_ext == ".pth":
        if args.save_by_block:
            said.append("--save_by_block: a .pth file holds everything")
            layout = "single_file"
        pickle = folder / f"{name}.pth"
        destination = folder / f".{name}.transcode-pth"
    elif single and not side_files:
        # The file itself, so that it may lie among others.
        destination, name = folder / f"{name}.safetensors", None
    elif layout == "chunked":
        chunk = _CHUNK if args.chunk_size is None else args.chunk_size
        if chunk < 0:
            raise RecipeError(f"--chunk-size: {chunk} is not a number of tensors")
        most = chunk or _ALL
    write = Write(
        dst=str(destination),
        layout=layout,
        convention=convention,
        max_tensors=most,
        name=name,
        copy_metadata=side_files,
        force=True,  # as the converter did
        allow_unmatched=args.allow_unmatched,
        tolerant=True,  # of a name that no file bears: there is always one, by default "converted"
    )
    return write.strict(), pickle
