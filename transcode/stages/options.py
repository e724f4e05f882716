"""The options of every stage, each described once (:mod:`transcode.core.option`), and nothing else.

Here are no arrays: commands show their help, and shells complete them, without what stages compute with. The
stage itself is the class of the same name without ``Options``, in the module that ``table.py`` names.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..core import kinds
from ..core.option import HOW, SAME, SOURCES, WHICH, Declared, Option, option
from ..core.records import dataclass
from ..errors import RecipeError
from ..voice import called
from .lora.files import FILES, LoraFile

__all__ = [
    "CalibrateOptions",
    "CastOptions",
    "ComponentOptions",
    "ConvertOptions",
    "DequantizeOptions",
    "DropOptions",
    "KeepOptions",
    "LoraOptions",
    "NunchakuOptions",
    "QuantizeOptions",
    "RenameOptions",
    "RequantizeOptions",
]

_NONFINITE = ("error", "keep")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class _SelectOptions(Declared):
    alone: ClassVar[str] = "patterns"
    only_alone: ClassVar[bool] = True

    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.patterns:
            raise RecipeError(f"{self.kind}: no pattern is given", hint="name the tensors, or leave it out")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class KeepOptions(_SelectOptions):
    """Let only tensors go on that match a PATTERN: a glob over whole name components, or re:REGEX."""

    kind: ClassVar[str] = "keep"

    patterns: tuple[str, ...] = option(
        kinds.PATTERNS, "Take only these tensors; repeatable.", group=WHICH, argument="PATTERN...",
        run="--keep", head=True,
    )  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class DropOptions(_SelectOptions):
    """Take away tensors that match a PATTERN: a glob over whole name components, or re:REGEX."""

    kind: ClassVar[str] = "drop"

    patterns: tuple[str, ...] = option(
        kinds.PATTERNS, "Leave these tensors out; repeatable.", group=WHICH, argument="PATTERN...",
        run="--drop", head=True,
    )  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class ComponentOptions(Declared):
    """Take one model out of a file that holds several: transformer, unet, vae, text_encoder ..."""

    kind: ClassVar[str] = "component"
    alone: ClassVar[str] = "name"

    name: str = option(
        kinds.TEXT, "Take one model of an all-in-one file: transformer, vae, ...", group=WHICH,
        argument="COMPONENT", run="--component", metavar="NAME", names="components", head=True,
        about="By its folder in Diffusers' layout, or its own name (``clip_l``, ``t5xxl``); ``transcode"
        " inspect`` lists them. Its prefix is taken off its names.",
    )  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class RenameOptions(Declared):
    """Rename tensors by pairs of a regular expression and its replacement, applied in order."""

    kind: ClassVar[str] = "rename"
    any_of: ClassVar[tuple[str, ...]] = ("rules", "names")

    rules: tuple[tuple[str, str], ...] = option(
        kinds.PAIRS, "Rename; repeatable, applied in order.", default=(), argument="REGEX REPLACEMENT [...]",
        run="--rename", metavar="REGEX REPLACEMENT", head=True,
        about="Pairs of a pattern and its replacement, as ``re.sub`` takes them; every rule sees the result"
        " of"
        " the one before it.",
    )  # fmt: skip
    names: tuple[tuple[str, str], ...] = option(
        kinds.MAP, "New names by old ones.", default=(), flag="",
        about="Whole names, looked up before the rules; what stands there is not given to the rules.",
    )  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class ConvertOptions(Declared):
    """Spell the tensors of an architecture as another program does: diffusers, lightx2v, ..."""

    kind: ClassVar[str] = "convert"
    alone: ClassVar[str] = "to"

    to: str = option(
        kinds.TEXT, "Spell the architecture as another program: diffusers, ...", argument="SPELLING",
        run="--to", metavar="SPELLING", names="spellings", head=True,
        about="``transcode families`` lists what there is; for files of LoRAs ``comfyui``, ``kohya``,"
        " ``diffusers``, ``peft``.",
    )  # fmt: skip
    source: str | None = option(
        kinds.TEXT, "Spelling of the source; recognised without it.", default=None, metavar="SPELLING",
        names="spellings",
    )  # fmt: skip
    model: str | None = option(
        kinds.TEXT, "Family, if it is not to be recognised from names.", default=None, metavar="FAMILY",
        names="families", group=WHICH, run=SAME,
    )  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class LoraOptions(Declared):
    """Merge LoRAs, each STRENGTH times (1); ALPHA for those that do not say theirs."""

    kind: ClassVar[str] = "lora"
    alone: ClassVar[str] = "files"

    files: tuple[LoraFile, ...] = option(
        FILES, "Merge a LoRA; repeatable, in order.", argument="PATH[:STRENGTH[:ALPHA]]...", run="--lora",
        head=True,
    )  # fmt: skip
    keys: str = option(
        kinds.TEXT, "How the LoRAs spell modules.", default="auto", choices=("auto", "same", "convert"),
        about="``same`` as the model does, ``convert`` as another spelling of its family does, ``auto``"
        " either."
        " What stands before names (``diffusion_model.``, ``transformer.``, ``lora_unet_`` with underscores"
        " for"
        " dots ...) is understood in any case.",
    )  # fmt: skip
    prefix: str | None = option(
        kinds.TEXT, "Only tensors whose names begin so; the LoRAs name them without it.", default=None
    )


@dataclass(frozen=True, init=False, eq=False, repr=False)
class CastOptions(Declared):
    """Cast float tensors to DTYPE: F32, F16, BF16, ..."""

    kind: ClassVar[str] = "cast"
    alone: ClassVar[str] = "to"

    to: str = option(
        kinds.DTYPE, "Cast float tensors, before any quantization.", argument="DTYPE", run="--cast",
        names="dtypes", head=True, about="In safetensors' or torch's spelling.",
    )  # fmt: skip
    only: tuple[str, ...] = option(kinds.PATTERNS, "Cast only these tensors; repeatable.", default=())
    saturate: bool = option(
        kinds.FLAG, "Clip what is too large instead of failing.", default=False, run=SAME,
        run_help="Clip what is too large for --cast instead of failing.",
        about="Finite values too large for the new dtype become its largest.",
    )  # fmt: skip
    dtypes: tuple[str, ...] = option(
        kinds.DTYPES, "Cast only tensors of these dtypes; repeatable.", default=(), flag="--dtype",
        names="dtypes",
    )  # fmt: skip

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except RecipeError as error:
            from .names import names  # which reads the catalog

            scheme = str(self.to).partition(":")[0]
            if scheme not in names("schemes"):
                raise
            hint = f"{scheme} is a scheme: to quantize with it, pass {called('scheme', self.to)}"
            raise RecipeError(error.what, hint=hint) from None


@dataclass(frozen=True, init=False, eq=False, repr=False)
class DequantizeOptions(Declared):
    """Decode quantized tensors."""

    kind: ClassVar[str] = "dequantize"

    to: str = option(
        kinds.DTYPE, "Float dtype of the result.", default="BF16", run="--dequantize", names="dtypes",
        run_help="First decode all quantized tensors to this dtype.", head=True, written=True,
    )  # fmt: skip
    convention: str | None = option(
        kinds.TEXT, "Whose names the quantized source has; found without it.", default=None, metavar="NAME",
        names="conventions", group=SOURCES, run="--from-convention",
    )  # fmt: skip
    scheme: str | None = option(
        kinds.TEXT, "The source's scheme, where it leaves several possible.", default=None, metavar="SCHEME",
        names="schemes", group=SOURCES, run="--from-scheme",
    )  # fmt: skip
    only: tuple[str, ...] = option(
        kinds.PATTERNS, "Decode only these tensors; repeatable.", default=(), group=WHICH,
        run="--dequantize-only", about="Without any, everything that is quantized is decoded.",
    )  # fmt: skip
    on_nonfinite: str = option(
        kinds.TEXT, "What to do with values that decode to NaN or Inf.", default="error", choices=_NONFINITE,
        group=HOW, run=SAME,
        about="``error`` stops the run at the first value that is NaN or infinite (a NaN among codes or"
        " scales,"
        " or a product that is too large for float32 or ``to``); ``keep`` writes it.",
    )  # fmt: skip


_SHORT = {
    "granularity": Option(
        kinds.TEXT, "What shares a scale: channel, tensor, group, block.", default=None, group=HOW, run=SAME,
        metavar="WHAT",
    ),
    "group_size": Option(kinds.COUNT, "Columns of a group.", default=None, group=HOW, run=SAME),
    "symmetric": Option(
        kinds.FLAG, "Without or with a zero point.", default=None, group=HOW, run=SAME,
        flag="--symmetric/--asymmetric",
    ),
    "optimize": Option(
        kinds.TEXT, "Search better scales: mse, for nvfp4 also four_over_six.", default=None, group=HOW,
        run=SAME, metavar="HOW", about="Same size, takes longer.",
    ),
    "scale_dtype": Option(
        kinds.TEXT, "Stored dtype of scales: source, F32, BF16, F16, for fp8 F8_E8M0.", default=None,
        group=HOW, run=SAME, metavar="DTYPE",
    ),
}  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class QuantizeOptions(Declared):
    """Quantize with SCHEME: int8, fp8, ... or name:option=value; see `transcode schemes`."""

    kind: ClassVar[str] = "quantize"
    alone: ClassVar[str] = "scheme"
    any_of: ClassVar[tuple[str, ...]] = ("scheme", "like")

    scheme: str | None = option(
        kinds.TEXT, "Quantize: int8, fp8, ... or name:option=value.", argument="SCHEME", run="-s --scheme",
        metavar="SCHEME", names="schemes and mixes", head=True, default=None,
        about="See `transcode schemes`; or a mix of GGUF's types, such as ``q4_k_m``.",
    )  # fmt: skip
    options: tuple[tuple[str, Any], ...] = option(
        kinds.VALUES, "Any option of the scheme.", default=(), flag="-O --option", run=SAME, group=HOW,
        names="scheme options", short=_SHORT,
        about="What is not said is left to the convention, then to the scheme.",
    )  # fmt: skip
    model: str | None = option(
        kinds.TEXT, "Family, if it is not to be recognised from names.", default=None, metavar="FAMILY",
        names="families", group=WHICH, run=SAME,
    )  # fmt: skip
    keep_dtype: str | None = option(
        kinds.DTYPE, "Cast float tensors that are not quantized.", default=None, names="dtypes",
        group=HOW, run=SAME,
    )  # fmt: skip
    targets: tuple[str, ...] = option(
        kinds.PATTERNS, "Quantize these instead of the family's targets; repeatable.", default=(),
        group=WHICH, run=SAME, about="Patterns that replace the family's targets.",
    )  # fmt: skip
    include: tuple[str, ...] = option(
        kinds.PATTERNS, "More tensors to quantize.", default=(), group=WHICH, run=SAME,
        about="Whatever the family says; any float matrix.",
    )  # fmt: skip
    exclude: tuple[str, ...] = option(
        kinds.PATTERNS, "Tensors not to quantize; wins.", default=(), group=WHICH, run=SAME,
        about="Wins over everything.",
    )  # fmt: skip
    overrides: tuple[tuple[str, str], ...] = option(
        kinds.RULES, "Another scheme, a dtype to cast to, or keep; first match.", default=(),
        flag="--override", run=SAME, metavar="PATTERN=SCHEME", names="actions", group=WHICH,
        about="The first pattern that matches a chosen tensor counts.",
    )  # fmt: skip
    like: str | None = option(
        kinds.PATH, "Header and types of another GGUF file.", default=None, metavar="OTHER.gguf", head=True,
        run=SAME, group=HOW,
        about="A GGUF file of the same model, or a folder of its parts: architecture, sizes, vocabulary and"
        " chat template are copied, and without a scheme the type of each tensor. Overrides win. The source"
        " must have the tensors that it has, of the same shapes.",
    )  # fmt: skip
    importance: str | None = option(
        kinds.TEXT, "Weigh columns: a file, norm or sinq.",
        default=None, metavar="FILE|norm|sinq", group=HOW, run=SAME,
        about="What the squared error of each column counts, where a scheme searches scales: means of squared"
        " inputs from an importance matrix of llama.cpp (``.gguf``, or the older ``.dat``), or a safetensors"
        " file with a vector to each weight; ``norm``, the squared gain of the norm that stands before;"
        " ``sinq``, one over each column's variance. Behind a path may stand ``#sha256:`` and the digest that"
        " the file must have, as records say it.",
    )  # fmt: skip
    share_scale: tuple[tuple[str, ...], ...] = option(
        kinds.GROUPS, "Modules that share one global scale; repeatable.", default=(), group=HOW, run=SAME,
        about="As ``attn.q,attn.k,attn.v``; a scheme without global scales ignores them. Without any, the"
        " family's groups, if the convention wants them.",
    )  # fmt: skip
    on_nonfinite: str = option(
        kinds.TEXT, "What to do with a tensor that holds NaN or Inf.", default="error", choices=_NONFINITE,
        group=HOW, run=SAME,
        about="``error`` stops the run at the first in a chosen tensor; ``keep`` looks for them while"
        " planning,"
        " which reads all chosen tensors once, and keeps such tensors.",
    )  # fmt: skip
    on_bad_shape: str = option(
        kinds.TEXT, "What to do with a shape that the consumer cannot take.", default="keep",
        choices=("keep", "error", "pad"), group=HOW, run=SAME,
        about="``keep`` the chosen tensor as it is, ``error``, or ``pad`` it with zeros where the consumer"
        " takes"
        " that. What a consumer joins with a tensor that is kept is kept too.",
    )  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class RequantizeOptions(Declared):
    """Encode what was changed of a quantized checkpoint as it was, the rest keeps its codes."""

    kind: ClassVar[str] = "requantize"
    alone: ClassVar[str] = "rounding"

    rounding: str = option(
        kinds.TEXT, "How changed values are rounded to codes.", default="nearest",
        choices=("nearest", "stochastic"), argument="ROUNDING", run="--requantize", head=True, group=HOW,
        run_help="Encode a LoRA's changes.", metavar="HOW",
        about="``stochastic``: to one of the two neighbours at random, the nearer the likelier, so that small"
        " changes do not vanish.",
    )  # fmt: skip
    seed: int = option(
        kinds.COUNT, "Of the random numbers.", default=1, group=HOW, run=SAME,
        about="They depend on it, on names and on positions alone.",
    )  # fmt: skip
    options: tuple[tuple[str, Any], ...] = option(
        kinds.VALUES, "Any option of the schemes that the source has.", default=(), flag="-O --option",
        group=HOW, names="scheme options",
        about="Of searches: what codes mean stays as it is.",
    )  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class CalibrateOptions(Declared):
    """Add the scales of inputs, from the calibration PATH, to tensors quantized to nvfp4."""

    kind: ClassVar[str] = "calibrate"

    path: str = option(
        kinds.PATH, "Calibration of inputs for nvfp4: a calib.pt.", argument="PATH", run="--calib",
        group=HOW, head=True, needs=("--scheme",),
        about="A PyTorch file ``{\"absmax\": {name of a weight: largest magnitude of its inputs}}``. Names"
        " are"
        " looked up as they are and without ``model.``. fp8 with one scale to the tensor gets ``input_scale``"
        " by it, for LightX2V.",
    )  # fmt: skip
    keep_global_scale: bool = option(
        kinds.FLAG, "Leave the weights' own global scale out.", default=True, flag="--drop-global-scale",
        off=True, run=SAME, run_help="With --calib: leave the weights' own scale out.", group=HOW,
        about="Then it can only be recovered from ``alpha``.",
    )  # fmt: skip


@dataclass(frozen=True, init=False, eq=False, repr=False)
class NunchakuOptions(Declared):
    """Join and pack what DeepCompressor saved, as nunchaku reads it."""

    kind: ClassVar[str] = "nunchaku"

    float_point: bool = option(
        kinds.FLAG, "FP4 (groups of 16) instead of INT4 (groups of 64).", default=False, written=True,
        about="E4M3 scales of 16 columns, instead of 16-bit scales of 64.",
    )  # fmt: skip
    model: str = option(
        kinds.TEXT, "Map in formats/nunchaku.", default="flux", written=True, names="nunchaku models"
    )
