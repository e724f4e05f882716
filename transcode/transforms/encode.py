"""Wrap a tensor in a scheme: its rows are encoded as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import lcm

from ..core.observe import Observation
from ..core.quality import Quality
from ..core.scheme import Scheme
from ..core.scratch import Scratch
from ..core.tensor import LazyTensor, Piece
from ..errors import DataError
from ..numerics import NonFinite, Overflow
from .measure import measure

__all__ = ["encode_tensor", "first_nonfinite", "observation"]

_SCAN_TILE = 8 << 20


def observation(tensor: LazyTensor, scheme: Scheme) -> Observation[float]:
    """The look at all rows that a scheme needs before it can encode the first."""

    def look(start: int, stop: int, scratch: Scratch) -> float:
        try:
            return scheme.observe(tensor.matrix(start, stop, scratch), tensor.spec.dtype)
        except NonFinite as error:
            raise _blame(tensor, error, start) from None

    return Observation(tensor.spec, partial(_tiles, tensor, _grain(tensor, scheme)), look, max)


def encode_tensor(
    tensor: LazyTensor,
    scheme: Scheme,
    why: str,
    needs: Sequence[Observation[float]],
    *,
    measured: bool = False,
) -> LazyTensor:
    """The tensor as the scheme's parts.

    Args:
        tensor: plain floats of facts that the scheme takes.
        why: the reason, for the plan.
        needs: observations whose largest result the scheme is given; its own, or those of a whole group.
        measured: decode what was encoded, and note what is lost.
    """
    spec = tensor.spec
    quality = Quality() if measured else None

    def read(start: int, stop: int, scratch: Scratch) -> Iterator[Piece]:
        stats = max((one.value(scratch) for one in needs), default=None)
        rows = tensor.matrix(start, stop, scratch)
        try:
            pieces = scheme.encode(rows, spec, start, stats, scratch)
            if quality is not None:
                pieces = iter(made := list(pieces))
                quality.add(start, measure(scheme, rows, spec, start, stats, made))
            yield from pieces
        except NonFinite as error:
            raise _blame(tensor, error, start) from None
        except Overflow as error:
            raise DataError(
                f"{error.value!r} at row {start + error.row}, column {error.column} needs a scale that"
                " F16 cannot hold",
                tensor=tensor.source or tensor.name,
                hint="store scales as F32 or BF16 (--scale-dtype)",
            ) from None

    said = f"quantize {scheme.name}: {why}"
    if len(spec.shape) > 2:
        shared = any(not part.spec.shape for part in scheme.parts(spec))
        said += f"; {len(spec.shape)}-D: a stack of {spec.rows // spec.shape[-2]} matrices, "
        said += "all with one scale of the tensor" if shared else "each for itself"
    return tensor.evolve(
        did=said,
        parts=scheme.parts(spec),
        read=read,
        grain=_grain(tensor, scheme),
        scheme=scheme,
        needs=(*tensor.needs, *needs),
        quality=quality,
    )


def first_nonfinite(tensor: LazyTensor, scheme: Scheme) -> str | None:
    """Where a tensor first holds NaN or Inf, in words, or None. Reads all of it."""
    scratch = Scratch()
    for start, stop in tensor.tiles(_SCAN_TILE):
        scratch.reset()
        try:
            scheme.observe(tensor.matrix(start, stop, scratch), tensor.spec.dtype)
        except NonFinite as error:
            return f"holds {error.value!r} at row {start + error.row}, column {error.column}"
    return None


def _grain(tensor: LazyTensor, scheme: Scheme) -> int:
    # What comes before may be read in grains of its own, a dequantized tensor for one.
    return lcm(tensor.grain, scheme.grain(tensor.spec))


def _tiles(tensor: LazyTensor, grain: int, nbytes: int) -> Iterator[tuple[int, int]]:
    return tensor.evolve(grain=grain).tiles(nbytes)


def _blame(tensor: LazyTensor, error: NonFinite, start: int) -> DataError:
    return DataError(
        f"{error.value!r} at row {start + error.row}, column {error.column}",
        tensor=tensor.source or tensor.name,
        hint="repair the source, exclude the tensor, or keep such tensors with --on-nonfinite keep",
    )
