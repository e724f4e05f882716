"""What bitsandbytes makes: nf4 and fp4 in blocks, scales in 8 bits if wished; rows of LLM.int8()."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from math import gcd
from typing import Any, ClassVar

import numpy as np

from ..core.constraint import Constraint
from ..core.dtypes import DTYPES, DType
from ..core.expr import Piece
from ..core.records import dataclass
from ..core.scheme import Hints
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..errors import DataError
from ..numerics.packing import unpack4
from .base import Array, Base, encode_one

__all__ = ["BnbFp4", "LlmInt8", "Nf4", "Tabled"]

_NESTED = 256
"""Scales under one scale of their own."""
_STATE = 512
"""Bytes of the state: JSON, blanks behind it."""
_TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float32"}
_UNIT = 172
"""Peaks are counted in units of 2**-172, in which the significand of the smallest float32 is whole."""


class Tabled(Base):
    """Codes that are places in a table of 16 numbers, under the largest magnitude of each block.

    Blocks follow each other over the ends of rows, as bitsandbytes cuts them (``quantize_4bit`` of its
    ``functional.py``).

    Attributes:
        numbers: the table, by code.
    """

    numbers: ClassVar[tuple[float, ...]]
    options: ClassVar[Mapping[str, Constraint]] = {
        "group_size": Constraint.among(64, 32, 128, 256, 512, 1024, 2048, 4096),
        "double_quant": Constraint.among(False, True),
    }

    group_size: int
    double_quant: bool

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[Any]:
        """Each size of a block; scales of 8 bits are codes themselves."""
        if hints.scale not in ("F32", "U8"):
            return
        for size in cls.options["group_size"].cases:
            if not hints.groups or size in hints.groups:
                yield cls(size, hints.scale == "U8")  # type: ignore[call-arg]  # fields of the subclasses

    @property
    def observes(self) -> bool:
        """The mean of all scales is taken off where they are quantized."""
        return self.double_quant

    @property
    def light(self) -> bool:
        """No: each value is held against 15 bounds."""
        return False

    def meaning(self, spec: Spec) -> Hashable:
        """Blocks, and how their scales are kept; one that ends with the tensor is as long as that."""
        return self.name, min(self.group_size, spec.numel), self.double_quant

    @property
    def multiple(self) -> tuple[int, int]:
        """Two codes make a byte."""
        return 1, 2

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """U8 codes ``[.., N, K / 2]``, scales ``[B]`` of all blocks, F32 or U8; the tables; the state."""
        count = -(-spec.numel // self.group_size)
        parts = [
            Part("codes", Spec(DTYPES["U8"], (*spec.shape[:-1], spec.shape[-1] // 2))),
            Part("scale", Spec(DTYPES["U8" if self.double_quant else "F32"], (count,))),
            Part("table", Spec(DTYPES["F32"], (16,))),
        ]
        if self.double_quant:
            parts.append(Part("nested_scale", Spec(DTYPES["F32"], (-(-count // _NESTED),))))
            parts.append(Part("nested_table", Spec(DTYPES["F32"], (256,))))
        return (*parts, Part(f"{self.name}_state", Spec(DTYPES["U8"], (_STATE,))))

    def grain(self, spec: Spec) -> int:
        """Rows that are whole blocks, and whole blocks of their scales."""
        unit = self.group_size * (_NESTED if self.double_quant else 1)
        return min(unit // gcd(unit, spec.columns), max(spec.rows, 1))

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        spec = Spec(dtype, (1, self.group_size))
        rows = np.zeros(spec.shape, dtype.carrier)
        stats = self.observe(rows, dtype) if self.observes else None
        for _ in self.encode(rows, spec, 0, stats, Scratch()):
            pass

    def observe(self, rows: Array, dtype: DType) -> tuple[int, int]:
        """Sum of the scales of whole blocks, in units of 2**-172, and their number. Raises ``NonFinite``."""
        from ..numerics.rows import as_bits, reject
        from ..numerics.tabled import peaks

        bits = as_bits(rows, dtype).reshape(-1)
        scales = np.empty(-(-bits.size // self.group_size), np.float32)
        if not peaks(bits, self.group_size, scales):
            raise reject(rows, dtype)
        significands, exponents = np.frexp(scales)
        whole = (significands * np.float32(2**24)).astype(np.int64)
        total = 0
        for exponent in np.unique(exponents).tolist():
            total += int(whole[exponents == exponent].sum()) << (exponent - 24 + _UNIT)
        return total, scales.size

    def merge(self, one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        """Exact, in any order."""
        return one[0] + other[0], one[1] + other[1]

    def encode(
        self,
        rows: Array,
        spec: Spec,
        start: int,
        stats: Any,
        scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:
        """See :meth:`.core.scheme.Scheme.encode`."""
        from ..numerics.rows import as_bits, reject
        from ..numerics.tabled import tabled

        bits = as_bits(rows, spec.dtype, scratch).reshape(-1)
        codes = scratch.take((len(rows), spec.columns // 2), np.uint8)
        scales = scratch.take((-(-bits.size // self.group_size),), np.float32)
        bounds, order = _bounds(self.numbers)
        if not tabled(bits, self.group_size, bounds, order, codes.reshape(-1), scales):
            raise reject(rows, spec.dtype)
        first = start * spec.columns // self.group_size
        yield Piece("codes", start * codes.shape[1], codes)
        offset = None
        if self.double_quant:
            offset = np.float32(float(Fraction(stats[0], stats[1] << _UNIT)))
            small, nested = _quantized(scales - offset)
            yield Piece("scale", first, small)
            yield Piece("nested_scale", first // _NESTED * 4, nested)
        else:
            yield Piece("scale", first * 4, scales)
        if start == 0:
            yield Piece("table", 0, np.array(self.numbers, np.float32))
            if self.double_quant:
                yield Piece("nested_table", 0, _dynamic().copy())
            yield Piece(f"{self.name}_state", 0, self._state(spec, offset))

    def _state(self, spec: Spec, offset: np.float32 | None) -> Array:
        """What ``QuantState.as_dict`` packs, with blanks behind it, as its length must be known before."""
        said: dict[str, Any] = {
            "quant_type": self.name.removeprefix("bnb_"),
            "blocksize": self.group_size,
            "dtype": _TORCH[spec.dtype.name],
            "shape": list(spec.shape),
        }
        if offset is not None:
            said |= {"nested_blocksize": _NESTED, "nested_dtype": "float32", "nested_offset": float(offset)}
        return np.frombuffer(json.dumps(said).encode().ljust(_STATE), np.uint8)

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`: number times scale, rounded once to float32.

        The table is that of the type, as in kernels of bitsandbytes; a scale of 8 bits is
        ``nested_table[code] * nested_scale + offset``, each step rounded. Raises DataError where the state
        says something else than the parts.
        """
        size, columns = self.group_size, spec.columns
        begin, end = start * columns // size, -(-stop * columns // size)
        stated = self._stated(parts[f"{self.name}_state"], spec)
        scales = np.asarray(parts["scale"]).reshape(-1)[begin:end]
        if self.double_quant:
            nested = np.asarray(parts["nested_scale"]).reshape(-1)
            table = np.asarray(parts["nested_table"]).reshape(-1)
            scales = table[scales] * nested[np.arange(begin, end) // _NESTED]
            scales += np.float32(stated["nested_offset"])
        codes = np.ascontiguousarray(parts["codes"]).view(np.uint8).reshape(stop - start, -1)
        np.take(np.array(self.numbers, np.float32), unpack4(codes, high_first=True), out=out)
        if columns % size == 0:
            blocks = out.reshape(-1, size)
            blocks *= scales[:, None]
        else:
            flat = out.reshape(-1)
            flat *= scales[np.arange(start * columns, stop * columns) // size - begin]

    def _stated(self, state: Array, spec: Spec) -> Mapping[str, Any]:
        try:
            stated = json.loads(bytes(np.ascontiguousarray(state)).decode())
            size = min(stated["blocksize"], spec.numel)  # of a tensor that is one block, any from there on
            if (size, stated["quant_type"]) == (
                min(self.group_size, spec.numel),
                self.name.removeprefix("bnb_"),
            ) and (
                not self.double_quant
                or (stated["nested_blocksize"] == _NESTED and np.isfinite(float(stated["nested_offset"])))
            ):
                known: dict[str, Any] = stated
                return known
        except (ValueError, KeyError, TypeError):
            pass
        raise DataError(
            f"its quant_state is not that of {self.name} in blocks of {self.group_size}",
            hint="decode it with bitsandbytes, and save it in BF16",
        )


@dataclass(frozen=True)
class Nf4(Tabled):
    """4-bit codes of bitsandbytes, NormalFloat: 16 numbers at quantiles of a normal distribution, -1 to 1.

    ``value = number * scale``, the scale the largest magnitude of a block in float32.

    Args:
        group_size: values of a block.
        double_quant: scales less their mean are stored in 8 bits, 256 under a scale of their own; each is
            the nearest number of that table.
    """

    name: ClassVar[str] = "nf4"
    summary: ClassVar[str] = "4-bit codes of bitsandbytes at quantiles of a normal distribution, in blocks"
    numbers: ClassVar[tuple[float, ...]] = (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    )  # fmt: skip

    group_size: int = 64
    double_quant: bool = False


@dataclass(frozen=True)
class BnbFp4(Tabled):
    """4-bit floats of bitsandbytes, in the order of their bits: a sign, and 0, 1/192, 8, 12, 4, 6, 2 or 3
    twelfths.

    ``value = number * scale``, the scale the largest magnitude of a block in float32. nf4 loses less.

    Args:
        group_size: values of a block.
        double_quant: as nf4's.
    """

    name: ClassVar[str] = "bnb_fp4"
    summary: ClassVar[str] = "4-bit floats of bitsandbytes, in blocks"
    numbers: ClassVar[tuple[float, ...]] = tuple(
        float(np.float32(twelfths) / np.float32(12))
        for sign in (1, -1)
        for twelfths in (0.0, sign * 0.0625, sign * 8, sign * 12, sign * 4, sign * 6, sign * 2, sign * 3)
    )

    group_size: int = 64
    double_quant: bool = False


@dataclass(frozen=True)
class LlmInt8(Base):
    """8-bit integers of bitsandbytes: ``code = rne(x * (1 / peak * 127))`` with the largest magnitude of each
    row in float32, ``value = code * peak * (1 / 127)``, each step rounded to float32
    (``int8_vectorwise_quant``).

    bitsandbytes itself makes them of values that were rounded to F16.
    """

    name: ClassVar[str] = "llm_int8"
    summary: ClassVar[str] = "8-bit integers of bitsandbytes, the largest magnitude of each row beside them"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {}

    @classmethod
    def variants(cls, options: Mapping[str, Any], hints: Hints) -> Iterator[LlmInt8]:
        """One."""
        if hints.scale == "F32":
            yield cls()

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        """I8 codes, F32 scales ``[.., N]``, and U8 ``[]``, 0: codes lie in rows."""
        return (
            Part("codes", Spec(DTYPES["I8"], spec.shape)),
            Part("scale", Spec(DTYPES["F32"], spec.shape[:-1])),
            Part("weight_format", Spec(DTYPES["U8"], ())),
        )

    def prepare(self, dtype: DType) -> None:
        """Compile what encoding tensors of this dtype needs, by encoding a small one."""
        encode_one(self.encode, dtype, 16)

    def encode(
        self,
        rows: Array,
        spec: Spec,
        start: int,
        stats: Any,
        scratch: Scratch,
        weights: Array | None = None,
    ) -> Iterator[Piece]:
        """See :meth:`.core.scheme.Scheme.encode`."""
        from ..numerics.rows import as_bits, reject
        from ..numerics.tabled import rowwise

        bits = as_bits(rows, spec.dtype, scratch).reshape(-1)
        codes = scratch.take((len(rows), spec.columns), np.int8)
        scales = scratch.take((len(rows),), np.float32)
        if not rowwise(bits, spec.columns, codes.reshape(-1), scales):
            raise reject(rows, spec.dtype)
        yield Piece("codes", start * spec.columns, codes)
        yield Piece("scale", start * 4, scales)
        if start == 0:
            yield Piece("weight_format", 0, np.zeros((), np.uint8))

    def decode(self, parts: Mapping[str, Array], spec: Spec, start: int, stop: int, out: Array) -> None:
        """See :meth:`.core.scheme.Scheme.decode`. Raises DataError where codes lie in tiles of a GPU."""
        if np.asarray(parts["weight_format"]).any():
            raise DataError(
                "its weight_format is not 0: codes lie in tiles of a GPU",
                hint="load and save it with bitsandbytes, which turns them into rows",
            )
        scales = np.asarray(parts["scale"]).reshape(-1, 1)[start:stop]
        np.multiply(np.asarray(parts["codes"]).reshape(out.shape), scales, out=out)
        out *= _PER_CODE


_PER_CODE = np.float32(7.874015718698502e-3)


@cache
def _bounds(numbers: tuple[float, ...]) -> tuple[Array, Array]:
    """Between the numbers in ascending order, and the code of each; of equal ones the smaller code first."""
    table = np.array(numbers, np.float32)
    order = np.argsort(table, kind="stable")
    ascending = table[order]
    return (ascending[:-1] + ascending[1:]) / np.float32(2), order.astype(np.uint8)


@cache
def _dynamic() -> Array:
    """The 256 numbers of 8 bits of which bitsandbytes makes scales: seven decades, each halved more often
    than the one below it (``create_dynamic_map`` of its ``functional.py``), float32, ascending.
    """
    numbers = [0.0, 1.0]
    for decade in range(7):
        bounds = _even(2**decade)
        means = (bounds[:-1] + bounds[1:]) / np.float32(2)
        sizes = (np.float32(10.0 ** (decade - 6)) * means).tolist()
        numbers += [*sizes, *(-size for size in sizes)]
    return np.array(sorted(numbers), np.float32)


def _even(steps: int) -> Array:
    """As many even steps from 0.1 to 1, in float32 from either end, as ``torch.linspace`` goes."""
    low, high = np.float32(0.1), np.float32(1)
    step, places = (high - low) / np.float32(steps), np.arange(steps + 1)
    below = (low.astype(np.float64) + places * step.astype(np.float64)).astype(np.float32)
    above = (high.astype(np.float64) - (steps - places) * step.astype(np.float64)).astype(np.float32)
    return np.where(places < (steps + 1) // 2, below, above)


def _quantized(scales: Array) -> tuple[Array, Array]:
    """The nearest number to each over the largest magnitude of its 256, and those magnitudes."""
    table = _dynamic()
    bounds = (table[:-1] + table[1:]) / np.float32(2)
    starts = np.arange(0, len(scales), _NESTED)
    largest = np.maximum.reduceat(np.abs(scales), starts)
    divisors = np.where(largest > 0, largest, np.float32(1)).repeat(_NESTED)[: len(scales)]
    return np.searchsorted(bounds, scales / divisors).astype(np.uint8), largest
