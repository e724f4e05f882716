"""The Python interface: thin constructors of the flow.

>>> import transcode as tc                                                             # doctest: +SKIP
>>> tc.open("Wan2.1-T2V-14B") | tc.quantize("int8") | tc.write("out", layout="by_block")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from .core import arguments
from .core.flow import Flow
from .core.performance import Performance, parse_size
from .errors import RecipeError
from .execution.execute import Progress, Report
from .execution.write import Write
from .recipe import Recipe, SourceOptions
from .stages.calibrate import Calibrate
from .stages.cast import Cast
from .stages.component import Component
from .stages.convert import Convert
from .stages.dequantize import Dequantize
from .stages.lora.stage import Lora
from .stages.nunchaku.stage import Nunchaku
from .stages.quantize.again import Requantize
from .stages.quantize.stage import Quantize
from .stages.rename import Rename
from .stages.select import Drop, Keep
from .voice import speaking

__all__ = [
    "calibrate",
    "cast",
    "component",
    "convert",
    "dequantize",
    "drop",
    "join",
    "keep",
    "load",
    "lora",
    "nunchaku",
    "open",
    "quantize",
    "rename",
    "requantize",
    "run",
    "write",
]

Rules = Mapping[str, str] | Iterable[tuple[str, str]]


def open(
    path: str | PathLike[str],
    *,
    root_key: str | None = None,
    mmap: bool = True,
    convention: str | None = None,
    scheme: str | None = None,
) -> Flow:
    """Open a checkpoint; reads headers, no tensor.

    Args:
        path: a ``.safetensors`` file, a folder of shards with or without an index, an index file, a Diffusers
            folder, a PyTorch ``.pt``/``.pth``/``.bin`` file or a folder of them.
        root_key: which nested dictionary of a PyTorch file holds the tensors, if it cannot be guessed.
        mmap: map files; else read them (slower, for file systems that cannot map).
        convention: whose names and layouts its quantized tensors have, if several fit; found without it.
        scheme: their scheme, if several fit; likewise.

    Raises:
        RecipeError: there is no such convention, or no such scheme.
        FormatError: no weights there, or damaged ones.
    """
    return Recipe(SourceOptions(arguments.path("open", path), root_key, mmap, convention, scheme)).flow()


def load(
    path: str | PathLike[str],
    *,
    only: str | Iterable[str] = (),
    framework: str = "numpy",
    device: Any = None,
    root_key: str | None = None,
    mmap: bool = True,
) -> dict[str, Any]:
    """Read the tensors of a checkpoint into memory, as they are stored; ``open`` reads nothing but facts.

    Args:
        path: as for :func:`open`.
        only: patterns of the tensors to read: globs over whole name components, or ``re:...``; all without.
        framework: ``"numpy"`` (``ml_dtypes`` types for dtypes that numpy lacks), or ``"torch"``. Dtypes with
            less than eight bits come as their bytes, 1-D.
        device: where torch's tensors go, such as ``"cuda:0"``; they are read one at a time.
        root_key: as for :func:`open`.
        mmap: as for :func:`open`.

    Returns:
        Arrays by name, in the order of their bytes. Codes and scales of quantized tensors are tensors of
        their own; ``open(path) | dequantize()`` decodes them.

    Raises:
        RecipeError: no such framework; a device for numpy; torch is not installed.
        FormatError: no weights there, or damaged ones.
        PlanError: a pattern that matches no tensor.
    """
    spelled = {"numpy": "numpy", "np": "numpy", "torch": "torch", "pt": "torch"}
    if spelled.get(framework) is None:
        raise RecipeError(f"load: framework {framework!r} is neither numpy nor torch")
    torch = spelled[framework] == "torch"
    if device is not None and not torch:
        raise RecipeError(f"load: numpy has no device {device!r}", hint='pass framework="torch"')
    if torch and find_spec("torch") is None:
        raise RecipeError("load: torch is not installed", hint="pip install 'tensor-transcode[torch]'")
    patterns = arguments.texts("load: only", only)
    flow = open(path, root_key=root_key, mmap=mmap)
    chosen = flow | Keep(patterns) if patterns else flow
    if not torch:
        return {name: tensor.numpy() for name, tensor in chosen.items()}
    if device is None:
        return {name: tensor.torch() for name, tensor in chosen.items()}
    return {name: tensor.torch().to(device) for name, tensor in chosen.items()}


def rename(rules: Rules = (), *, names: Mapping[str, str] | None = None) -> Rename:
    """Rename by regular expressions, applied in order, and by an exact map that goes first."""
    return Rename(arguments.pairs("rename: rules", rules), arguments.pairs("rename: names", names or ()))


def keep(*patterns: str | Iterable[str]) -> Keep:
    """Let only tensors go on that match a pattern: a glob over whole name components, or ``re:...``."""
    return Keep(_flat("keep", patterns))


def component(name: str) -> Component:
    """Take one model out of a file that holds several, e.g. ``"transformer"``, ``"vae"``, ``"clip_l"``."""
    return Component(name)


def drop(*patterns: str | Iterable[str]) -> Drop:
    """Take away tensors that match a pattern: a glob over whole name components, or ``re:...``."""
    return Drop(_flat("drop", patterns))


def _flat(what: str, patterns: tuple[object, ...]) -> tuple[str, ...]:
    """Patterns; a list of some in the place of one counts as its members."""
    return tuple(one for each in patterns for one in arguments.texts(what, each))


def calibrate(path: str | PathLike[str], *, keep_global_scale: bool = True) -> Calibrate:
    """Add the scales of inputs from a calibration (``calib.pt``) to tensors quantized to nvfp4."""
    return Calibrate(arguments.path("calibrate", path), keep_global_scale)


def nunchaku(*, float_point: bool = False, model: str = Nunchaku.model) -> Nunchaku:
    """Join and pack what DeepCompressor saved (``open(folder)``) as nunchaku reads it: INT4, or FP4."""
    return Nunchaku(float_point, model)


def cast(
    to: str, *, only: str | Iterable[str] = (), saturate: bool = False, dtypes: str | Iterable[str] = ()
) -> Cast:
    """Cast float tensors: all, those that match a pattern of ``only``, or those of some dtypes."""
    return Cast(to, arguments.texts("cast: only", only), saturate, arguments.texts("cast: dtypes", dtypes))


def convert(to: str, *, source: str | None = None, model: str | None = None) -> Convert:
    """Spell a model's tensors as another program does, e.g. ``"diffusers"``."""
    return Convert(to, source, model)


def dequantize(
    to: str = Dequantize.to,
    *,
    convention: str | None = None,
    only: str | Iterable[str] = (),
    scheme: str | None = None,
    on_nonfinite: str = Dequantize.on_nonfinite,
) -> Dequantize:
    """Turn codes and scales back into plain tensors of a float dtype; how they are stored is found."""
    return Dequantize(to, convention, scheme, arguments.texts("dequantize: only", only), on_nonfinite)


def lora(
    path: str | PathLike[str] | Iterable[tuple[Any, ...]],
    strength: float = 1.0,
    alpha: float | None = None,
    *,
    keys: str = "auto",
    prefix: str | None = None,
) -> Lora:
    """Merge LoRAs into plain float tensors; see :class:`~transcode.stages.lora.stage.Lora`.

    Args:
        path: one LoRA; or several, as ``(path, strength, alpha)`` tuples of which only the path is needed:
            their sum is rounded once.
        strength: factor of what one LoRA adds; of each that names none of its own.
        alpha: for its pairs that say no alpha of their own.
        keys: how LoRAs spell modules: ``"auto"``, ``"same"`` as the model, ``"convert"`` as another spelling.
        prefix: only tensors whose names begin with this are meant; LoRAs name them without it.
    """
    several: Iterable[Any] = (path,)
    if isinstance(path, Iterable) and not isinstance(path, str | PathLike):
        several = path
    files: list[Any] = []
    for one in several:
        own = (one,) if isinstance(one, str | PathLike) or not isinstance(one, Iterable) else tuple(one)
        files.append((*own, *(strength, alpha)[len(own) - 1 :]))
    return Lora(tuple(files), keys, prefix)


def requantize(
    rounding: str = Requantize.rounding, *, seed: int = Requantize.seed, **options: Any
) -> Requantize:
    """Encode what stages before changed of a quantized checkpoint in the schemes that it has, for the
    consumer that it is for; what nobody changed keeps its codes.

    Args:
        rounding: ``"nearest"``, or ``"stochastic"``.
        seed: of the random numbers of the latter.
        options: of those schemes, for their searches: ``optimize="mse"``.
    """
    return Requantize(rounding, seed, tuple(options.items()))


def quantize(
    scheme: str | None = None, *, like: str | PathLike[str] | None = None, **options: Any
) -> Quantize:
    """Quantize the tensors that matter.

    Args:
        scheme: name of a scheme, e.g. ``"int8"``; not needed with ``like``.
        like: a GGUF file of the same model, or a folder of its parts, whose header is taken, and without a
            scheme the type of each tensor.
        options: arguments of :class:`~transcode.stages.quantize.stage.Quantize` (``model``, ``targets``,
            ``include``, ``exclude``, ``overrides``, ``keep_dtype``, ``importance``, ``on_nonfinite``,
            ``on_bad_shape``, ``share_scale``); all others are the scheme's own, such as
            ``granularity="tensor"``.
    """
    own = {field.name for field in fields(Quantize)} - {"scheme", "options", "like"}
    stage: dict[str, Any] = {}
    for key in own & options.keys():
        stage[key] = options.pop(key)
    reference = None if like is None else arguments.path("quantize: like", like)
    return Quantize(scheme, tuple(options.items()), like=reference, **stage)


def write(
    dst: str | PathLike[str],
    *,
    layout: str | None = None,
    convention: str | None = None,
    name: str | None = None,
    max_shard_size: int | str | None = None,
    max_tensors: int | None = None,
    copy_metadata: bool = True,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
    lossless: bool = False,
    allow_unmatched: bool = False,
    workers: int | None = None,
    memory: int | str = Performance.memory,
    tile: int | str | None = None,
    drop_cache: bool = False,
    device: str = "cpu",
    device_memory: int | str = Performance.device_memory,
    measure: bool = False,
    resume: bool = False,
    checksums: bool = False,
    attest: bool = False,
    max_read_rate: int | str | None = None,
    nice: int | None = None,
    reserve_disk: int | str | None = None,
    part: str | None = None,
    cluster: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    progress: bool | None = None,
) -> Write:
    """End a flow: ``flow | write(dst)`` runs it and returns a report; ``flow.plan(write(dst))`` only plans.

    Args:
        dst: a file if it ends in ``.safetensors``, else a folder.
        max_shard_size: bytes, or text such as ``"5GB"``.
        memory: bytes for the tiles of all workers, or text such as ``"512MB"``.
        tile: bytes of source values dealt with at a time by a worker.
        device_memory: bytes of each GPU's memory, or text.
        measure: also find out what quantizing loses; see the report's ``losses()``.
        resume: go on where an interrupted run of the same plan stopped, and keep what is done if this one is.
        checksums: find the SHA-256 of files and tensors, for the report and a file beside the output.
        attest: write an in-toto Statement of the sources, the recipe and the output beside it.
        max_read_rate: bytes that are read in a second at most, or text.
        nice: niceness of the workers, 1 to 19; on Linux.
        reserve_disk: bytes of the destination's file system that stay free, or text.
        cluster: ``"ray"``, or ``"ray://HOST:PORT"``: on all machines of that cluster, with a shared folder.
        part: one part of the work, as ``"3/64"``: each may be run on another machine, with a shared folder.
        on_progress: called about ten times a second.
        progress: show how far the run is. Without it in notebooks alone, and not where ``on_progress`` does.

    The other arguments are those of :class:`~transcode.execution.write.Write` and
    :class:`~transcode.core.performance.Performance`.
    """
    return Write(
        dst=arguments.path("write", dst),
        layout=layout,
        convention=convention,
        name=name,
        max_shard_size=None if max_shard_size is None else parse_size(max_shard_size),
        max_tensors=max_tensors,
        copy_metadata=copy_metadata,
        metadata=arguments.pairs("metadata", metadata or ()),
        force=force,
        lossless=lossless,
        allow_unmatched=allow_unmatched,
        performance=Performance(
            workers,
            parse_size(memory),
            None if tile is None else parse_size(tile),
            drop_cache,
            device,
            parse_size(device_memory),
            measure,
            resume,
            checksums,
            attest,
            None if max_read_rate is None else parse_size(max_read_rate),
            nice,
            None if reserve_disk is None else parse_size(reserve_disk),
            part,
            cluster,
        ),
        on_progress=on_progress,
        progress=progress,
    )


def run(
    recipe: str | PathLike[str],
    *,
    on_progress: Callable[[Progress], None] | None = None,
    progress: bool | None = None,
) -> Report:
    """Carry out a recipe file.

    Args:
        recipe: the YAML file. Errors name what it says by its keys.
        on_progress: called about ten times a second.
        progress: as for :func:`write`.

    Raises:
        TranscodeError: see its leaves; nothing appears under the destination's name.
    """
    from .recipe import load as load_recipe

    with speaking("recipe"):
        loaded = load_recipe(arguments.path("run", recipe))
        sink = replace(loaded.write(), on_progress=on_progress, progress=progress)
        return sink.run(loaded.flow())


def join(
    dst: str | PathLike[str],
    *,
    force: bool = False,
    checksums: bool = False,
    attest: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    progress: bool | None = None,
) -> Report:
    """Join the parts of a run that ``write(dst, part=...)`` has made, where the last of them could not.

    Args:
        dst: what they were to become.
        force: what exists may be replaced.
        checksums: as for :func:`write`.
        attest: as for :func:`write`.
        on_progress: called now and then.
        progress: as for :func:`write`.

    Raises:
        TranscodeError: a part is missing, or the source has changed; nothing appears under the name.
    """
    from .execution import carry, display

    performance = Performance(checksums=checksums, attest=attest)
    with display.watching(progress, on_progress) as watched:
        return carry.join(Path(arguments.path("join", dst)), performance, force=force, on_progress=watched)
