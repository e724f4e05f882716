"""What a GGUF file is made of when it is written: metadata with types, tensors at aligned offsets."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike

from ...core.dtypes import BLOCKS
from ...core.output import Place, PlannedFile, Stored, Unit
from ...core.typed import Typed
from ...errors import PlanError
from ...voice import called
from ..container import Adopted, Split
from . import values
from .header import ALIGNMENT, DEFAULT_ALIGNMENT
from .limits import MAGIC, MAX_HEADER, MOST_KEYS, ORIG_SHAPE
from .types import NUMBERS

__all__ = ["ARCHITECTURE", "FILE_TYPE", "adopt", "lay_out"]

ARCHITECTURE = "general.architecture"
FILE_TYPE = "general.file_type"
QUANTIZATION_VERSION = "general.quantization_version"

_VERSION = 3
_LONGEST_NAME = 63
"""Bytes of a name that ggml takes (``GGML_MAX_NAME``); other readers take longer ones."""

_QUANTIZATION_VERSION = "2"
"""``GGML_QNT_VERSION``: of the layouts of blocks that are in use."""

_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 11,
    "Q4_K": 14, "Q5_K": 16, "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20, "IQ3_XXS": 23, "IQ1_S": 24,
    "IQ4_NL": 25, "IQ3_S": 26, "IQ2_S": 28, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37,
    "MXFP4": 38, "NVFP4": 39, "Q1_0": 40,
}  # fmt: skip
"""Dtype of most weights -> ``llama_ftype``; of several mixes of one dtype the plain one."""

_MIXES = {12: "Q3_K", 13: "Q3_K", 15: "Q4_K", 17: "Q5_K", 21: "Q2_K", 22: "IQ3_XXS", 27: "IQ3_S", 29: "IQ2_S"}
"""Further values of ``llama_ftype``, and the dtype of most weights of such files."""

_HUB = "model.layers."
"""How names of language models begin on the hubs; llama.cpp's begin ``blk.``"""

_SHARD = r".*-\d{5}-of-\d{5}\.gguf"


def adopt(metadata: Mapping[str, str], parts: Sequence[Stored]) -> Adopted:
    """Metadata as a GGUF file has it: values with types, and what it says of types of tensors made true.

    ``KEY:TYPE`` with a text sets a value of another type than text, as ``flux.depth:uint32`` with ``19``.
    """
    adopted: dict[str, str] = {}
    for key, value in metadata.items():
        if isinstance(value, Typed):
            if not (value.local or key.startswith(("split.", ORIG_SHAPE))):
                adopted[key] = value
            continue
        name, colon, kind = key.rpartition(":")
        if colon and kind in values.KINDS:
            try:
                adopted[name] = values.make(kind, value)
            except ValueError as error:
                raise PlanError(f"metadata {key!r}: {error}", hint="give a value of that type") from None
        elif (key, value) != ("format", "pt"):  # says that a safetensors file is PyTorch's
            adopted[key] = value
    kinds = Counter[str]()
    for part in parts:
        if len(part.spec.shape) >= 2:
            kinds[part.spec.dtype.name] += part.spec.numel
    blocks = [name for name in kinds if name in BLOCKS]  # what is left as floats does not make a file's type
    most = max(blocks or kinds, key=lambda name: kinds[name], default="F32")
    if FILE_TYPE not in adopted and most in _FILE_TYPES:
        said = metadata.get(FILE_TYPE)
        same = isinstance(said, Typed) and said.kind == "uint32" and _MIXES.get(int(said)) == most
        adopted[FILE_TYPE] = (
            said if said is not None and same else values.make("uint32", str(_FILE_TYPES[most]))
        )
    if any(part.spec.dtype.elements > 1 for part in parts):
        adopted.setdefault(QUANTIZATION_VERSION, values.make("uint32", _QUANTIZATION_VERSION))
    warnings = []
    if ARCHITECTURE not in adopted:
        warnings.append(
            f"GGUF: no {ARCHITECTURE}, by which llama.cpp, ComfyUI-GGUF and others know a model; say it with"
            f" {called('metadata', ARCHITECTURE)}"
        )
    long = [part.name for part in parts if len(part.name.encode()) > _LONGEST_NAME]
    if long:
        warnings.append(
            f"GGUF: {len(long)} names are longer than the {_LONGEST_NAME} bytes that llama.cpp and"
            f" stable-diffusion.cpp take ({long[0]:.100} ...); ComfyUI-GGUF and Diffusers take them"
        )
    hub = [part.name for part in parts if part.name.startswith(_HUB)]
    if hub:
        warnings.append(
            f"GGUF: names of language models as on the hubs ({hub[0]:.100} ...) are not llama.cpp's own,"
            " which makes GGUF of such a folder itself: convert_hf_to_gguf.py"
        )
    deep = [part.name for part in parts if len(part.spec.shape) > 4]
    if deep:
        warnings.append(
            f"GGUF: {len(deep)} tensors have more than the 4 dimensions that llama.cpp and"
            f" stable-diffusion.cpp take ({deep[0]:.100} ...); ComfyUI-GGUF and Diffusers take them"
        )
    return Adopted(adopted, warnings=tuple(warnings))


def lay_out(
    name: str,
    units: Sequence[Unit],
    metadata: Mapping[str, str],
    split: Split | None,
    file: str | PathLike[str] | None,
) -> PlannedFile:
    """Parts by their names, each at a multiple of ``general.alignment``; the last is padded, too.

    Of split files the first has the metadata (``gguf-split.cpp``).

    Raises:
        PlanError: the format has no place for a part, or its metadata.
    """
    if split is not None:
        if not re.fullmatch(_SHARD, name):
            raise PlanError(
                f"{name} is no name of one of several GGUF files, which are called NAME-00001-of-0000N.gguf",
                file=file,
                hint=f"cut it otherwise: {called('layout', 'chunked')}, {called('convention', 'gguf')}",
            )
        metadata = {**(metadata if split.number == 0 else {}), **dict(_of_split(split, metadata))}
    parts = [(part, unit.tensor) for unit in units for part in unit.stored]
    for part, _ in parts:
        _check_part(part, file)
    parts.sort(key=lambda item: item[0].name.encode())
    alignment = int(metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT))
    places = []
    at = 0
    for part, tensor in parts:
        at += -at % alignment
        places.append(Place(part.name, part.spec, tensor, part.role, at, at + part.spec.nbytes))
        at += part.spec.nbytes
    front = b"".join(_front(places, metadata, file))
    front += bytes(-len(front) % alignment)
    if len(front) > MAX_HEADER:
        raise PlanError(
            f"the header needs {len(front)} bytes, more than the {MAX_HEADER} that are read",
            file=file,
            hint="shorten the metadata",
        )
    return PlannedFile(name, front, tuple(places), bytes(-at % alignment))


def _of_split(split: Split, metadata: Mapping[str, str]) -> Iterator[tuple[str, Typed]]:
    yield "split.no", values.make("uint16", str(split.number))
    yield "split.count", values.make("uint16", str(split.of))
    yield "split.tensors.count", values.make("int32", str(split.tensors))
    if isinstance(alignment := metadata.get(ALIGNMENT), Typed):
        yield ALIGNMENT, alignment


_OTHERWISE = (
    f"cast it ({called('cast', 'bf16')}), or decode it where it is quantized ({called('dequantize', 'bf16')})"
)


def _check_part(part: Stored, file: str | PathLike[str] | None) -> None:
    name, dtype = part.name, part.spec.dtype

    def wrong(what: str, hint: str) -> PlanError:
        return PlanError(what, file=file, tensor=name if name.isprintable() else ascii(name), hint=hint)

    if not _is_text(name) or "\0" in name:
        raise wrong("its name holds half of a surrogate pair, or a NUL", "rename it")
    if part.role not in ("values", "codes", "tensor_scale") or (part.role == "codes" and dtype.elements == 1):
        raise wrong(
            f"its {part.role} have no place in GGUF, whose blocks hold their scales",
            f"choose a scheme of GGUF: {called('scheme', 'q8_0')}",
        )
    if dtype.name not in NUMBERS:
        raise wrong(f"its dtype {dtype} is none that GGUF has", _OTHERWISE)
    if dtype.elements > 1 and (part.spec.shape[-1] if part.spec.shape else 1) % dtype.elements:
        raise wrong(
            f"its rows of {part.spec.shape[-1] if part.spec.shape else 1} elements are no whole number of"
            f" blocks of {dtype}, which have {dtype.elements}",
            "leave it as it is",
        )


def _front(
    places: Sequence[Place], metadata: Mapping[str, str], file: str | PathLike[str] | None
) -> Iterator[bytes]:
    if len(metadata) > MOST_KEYS:
        raise PlanError(
            f"metadata has {len(metadata)} keys, more than the {MOST_KEYS} that are read", file=file
        )
    yield MAGIC + struct.pack("<IQQ", _VERSION, len(places), len(metadata))
    for key in sorted(metadata, key=lambda key: (key != ARCHITECTURE, key)):
        value = metadata[key]
        if not _is_text(key) or not _is_text(value):
            raise PlanError(
                f"metadata {key!r:.80}: {value!r:.80} holds half of a surrogate pair",
                file=file,
                hint="use another text",
            )
        if not isinstance(value, Typed):
            value = values.make("string", value)
        yield values.pair(key, value)
    for place in places:
        lengths = place.spec.shape[::-1]
        yield _text(place.name) + struct.pack(
            f"<I{len(lengths)}QIQ", len(lengths), *lengths, NUMBERS[place.spec.dtype.name], place.begin
        )


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
