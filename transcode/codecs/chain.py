"""Codecs in order: what each gets is what the one before it stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from math import lcm, prod

from ..core.codec import Codec
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.types import Array
from ..errors import DataError, PlanError
from .base import matrix
from .shapes import Split

__all__ = [
    "Codecs",
    "Step",
    "apart",
    "combined",
    "decode",
    "encode",
    "logical",
    "steps",
    "stored",
    "together",
]


@dataclass(frozen=True)
class Step:
    """A codec, and the facts of what it gets."""

    codec: Codec
    spec: Spec


Codecs = tuple[Codec, ...]
"""In the order in which they are done."""

_KEPT = 4096
"""Answers that are remembered: the layers of a model are alike, and there are many."""


@lru_cache(_KEPT)
def _through(codecs: Codecs, spec: Spec) -> tuple[Spec, ...]:
    """Facts before each codec and, last, as stored. Raises PlanError for what one of them cannot hold."""
    specs = [spec]
    for codec in codecs:
        specs.append(codec.spec(specs[-1]))
    return tuple(specs)


def stored(codecs: Codecs, spec: Spec) -> Spec:
    """Facts of a part as stored. Raises PlanError for what the codecs cannot hold."""
    return _through(codecs, spec)[-1] if codecs else spec


@lru_cache(_KEPT)
def steps(codecs: Codecs, spec: Spec) -> tuple[Step, ...]:
    """The codecs that change bytes, each with the facts of what it gets: what :func:`encode` needs."""
    facts = zip(codecs, _through(codecs, spec), strict=False)  # one longer: as stored
    return tuple(Step(codec, before) for codec, before in facts if codec.moves)


@lru_cache(_KEPT)
def together(codecs: Codecs, spec: Spec, rows: int, grain: int) -> int:
    """How many rows of a tensor are read together, so that each codec gets whole units of a part.

    Args:
        spec: facts of the part.
        rows: rows of the tensor.
        grain: rows of the tensor whose pieces are whole rows of the part.
    """
    needed = grain
    for codec, before in zip(codecs, _through(codecs, spec), strict=False):
        unit = codec.rows(before)
        # What is stored of a grain is some rows; so many grains are a multiple of so many rows, whatever that
        # number is. Where rows are those of the tensor, less will do.
        needed = lcm(needed, unit) if before.rows == rows else needed * unit
        if codec.moves:
            grain = needed
    return grain


def apart(codecs: Codecs, spec: Spec) -> bool:
    """Whether each row of a part is stored by itself."""
    return together(codecs, spec, spec.rows, 1) == 1


def encode(piece: Piece, through: Sequence[Step], scratch: Scratch) -> Piece:
    """A piece as it is stored, and where. Raises DataError for values that cannot be stored so."""
    for step in through:
        rows = replace(piece, data=matrix(piece.data, step.spec))
        piece = step.codec.encode(rows, step.spec, scratch)
    return piece


def decode(array: Array, codecs: Codecs, spec: Spec) -> Array:
    """The inverse of :func:`encode`.

    Args:
        array: the whole part as stored; or any whole rows, where all codecs store each row by itself.
        spec: facts of the whole part as the scheme has it.

    Raises:
        DataError: as many bytes are not stored of such a part.
    """
    import numpy as np

    if not codecs:
        return array
    array = np.ascontiguousarray(array)
    specs = _through(codecs, spec)
    for codec, (before, after) in reversed(list(zip(codecs, pairwise(specs), strict=True))):
        whole = array.nbytes == after.nbytes
        if codec.loose and array.nbytes <= after.nbytes:
            array = codec.decode(array.reshape(-1).view(np.uint8), before)
            continue
        if not whole and (codec.rows(before) > 1 or not _rows(array.nbytes, after)):
            raise DataError(f"{array.nbytes} bytes are not {after}, as {codec.name} stores {before}")
        array = codec.decode(matrix(array, after), before)
    whole = array.nbytes == spec.nbytes and not spec.dtype.packed
    return array.reshape(spec.shape) if whole else array


def _rows(nbytes: int, spec: Spec) -> bool:
    """Whether so many bytes are some whole rows."""
    return nbytes < spec.nbytes and nbytes * 8 % spec.row_bits == 0


def logical(codecs: Codecs, spec: Spec, dtype: DType) -> Spec | None:
    """The facts of which ``spec`` is stored: the inverse of :func:`stored`.

    Args:
        dtype: of the part as the scheme has it.

    Returns:
        None where the codecs store no such facts, or what is stored does not tell, as padding does not.
    """
    try:
        specs = _through(codecs, _ample(codecs, dtype))
    except PlanError:
        return None
    facts: Spec | None = spec
    for codec, before in reversed(list(zip(codecs, specs, strict=False))):
        facts = None if facts is None else codec.before(facts, before)
    return facts


def combined(codecs: Codecs) -> None:
    """Raise PlanError where the codecs store no part at all in this order, whatever its dtype."""
    refusals: dict[int, PlanError] = {}
    for dtype in DTYPES.values():
        for spec in (Spec(dtype, ()), Spec(dtype, (1 << 10,)), _ample(codecs, dtype)):
            for number, codec in enumerate(codecs):
                try:
                    spec = codec.spec(spec)
                except PlanError as error:
                    refusals[number] = error
                    break
            else:
                return
    last = max(refusals)
    before = ", ".join(codec.name for codec in codecs[:last])
    behind = f" behind {before}" if before else ""
    raise PlanError(f"{codecs[last].name}{behind} holds nothing: {refusals[last].what}")


def _ample(codecs: Codecs, dtype: DType) -> Spec:
    """A matrix that every codec can cut."""
    return Spec(
        dtype, (1 << 10, (3 << 14) * prod(codec.size for codec in codecs if isinstance(codec, Split)))
    )
