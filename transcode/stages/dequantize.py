"""Turn codes and scales back into plain tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import catalog
from ..consumers.companions import Companions
from ..consumers.evidence import LAYERS
from ..consumers.group import BIAS, Reading
from ..consumers.orphans import refuse_orphans
from ..consumers.recognise import decipher
from ..consumers.stored import plain_fp8, stored_quantized
from ..core import small_json
from ..core.context import Context
from ..core.dtypes import DType
from ..core.event import Event
from ..core.expr import Expr, Piece
from ..core.flow import Transform
from ..core.patterns import Patterns
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.scheme import Scheme
from ..core.scratch import Scratch
from ..core.spec import Part, Spec
from ..core.tensor import LazyTensor, plain
from ..core.value import interned, plentiful
from ..errors import DataError, PlanError
from ..numerics.packing import pack4, unpack4
from ..schemes.base import Base
from ..voice import called
from .cast import cast_values, float_dtype
from .options import DequantizeOptions
from .stored_parts import NO_ASIDES, Asides, StoredPart, asides_of, stored_parts, transposed

__all__ = [
    "Decoding",
    "Dequantize",
    "Ordered",
    "decoded",
    "forget",
    "leaving",
    "say_stored",
    "turns",
]

_F32 = "F32"
_ORDER = "order"
"""Where the order of columns is kept among the small parts."""
_STATED = ("quantization_config", "compression_config")
"""Keys of metadata that say what config.json says."""


@dataclass(frozen=True)
class Dequantize(DequantizeOptions, Transform):
    """Decode quantized tensors, stored as a convention stores them.

    The convention is found: by the record of how the file was made, config.json, metadata, markers, and the
    names, dtypes and shapes of parts. Where these contradict each other, or what is given here, it is an
    error; likewise a way to quantize that is not known, and anything beside a tensor of which it is not known
    what it does to the values. The scheme of each tensor is told by the dtypes and shapes of its parts; where
    they fit several, by its marker or the record.

    Markers of tensors are read while planning, and their shapes where they are stored.
    """

    retypes: ClassVar[bool] = True

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Join the stored parts of each tensor; they are decoded tile by tile when they are read.

        Raises:
            PlanError: nothing is decoded, or it is not certain how.
        """
        tensors = list(tensors)
        if self.convention is not None:
            catalog.convention(self.convention)  # a slip is told before anything else
        table = {tensor.name: tensor for tensor in tensors}
        stored = stored_quantized(tensors)
        patterns = Patterns(self.only)
        wanted = None
        if self.only:
            wanted = {name for name in stored.tensors.values() if patterns.first(name) is not None}
            planning.unmatched("dequantize", patterns.unused(), list(stored.tensors.values()))
        if wanted is not None and not wanted and stored.tensors:
            planning.warn("dequantize: no quantized tensor is chosen")
            yield from tensors
            return
        conventions, readings = decipher(
            tensors,
            planning,
            stored=stored,
            convention=self.convention,
            scheme=self.scheme,
            wanted=wanted,
        )
        if wanted is None:
            refuse_orphans(tensors, stored, conventions, planning)
        left = {codes: name for codes, name in stored.tensors.items() if codes not in readings}
        quantized = {part for one in readings.values() for part in one.stored.values()} | left.keys()
        companions = Companions(table, conventions, quantized)
        inputs = Event("drop", "a scale of its inputs, which are quantized no longer")
        going = leaving(table, conventions, readings, companions, inputs, everywhere=not left)
        if not left:
            going |= dict.fromkeys(
                companions.cache(), Event("drop", "a scale of the cache of keys and values")
            )
        keep = self.on_nonfinite == "keep"
        strict = planning.lossless
        made = decoded(readings, companions, table, self.to, keep, conventions[0].name, strict=strict)
        made = {codes: transposed(one) if turns(one, conventions) else one for codes, one in made.items()}
        say_stored(conventions, readings, planning)
        for name, tensor in table.items():
            if name in made:
                yield made[name]
            elif name in going:
                planning.drop(tensor, going[name])
            else:
                yield tensor
        planning.decoded |= {table[codes].source for codes in readings}
        planning.coded |= {table[codes].source for codes in left}
        forget(planning, [reading.name for reading in readings.values()], some_left=bool(left))
        if bare := plain_fp8(tensors, stored):
            planning.warn(
                f"{len(bare)} tensors are {bare[0].spec.dtype.name} and have no scale, so they stay as they"
                f" are ({bare[0].name} ...); {called('cast')} casts them"
            )


def decoded(
    readings: Mapping[str, Reading],
    companions: Companions,
    table: Mapping[str, LazyTensor],
    to: str,
    keep: bool,
    convention: str,
    *,
    strict: bool = False,
) -> dict[str, LazyTensor]:
    """Quantized tensors as plain ones, by stored name of the codes; and biases that are stored in an order of
    the convention's, by their own.

    Args:
        table: what is stored, by name.
        to: dtype of the result.
        keep: values that are not finite are written.
        convention: whose parts they are, for the plan.
        strict: a value that ``to`` cannot hold is an error.
    """
    target = float_dtype(to)
    made = {
        codes: _decode(reading, companions, table, target, keep, convention, strict)
        for codes, reading in readings.items()
    }
    biases = (one for one in readings.values() if BIAS in one.stored)
    return made | {one.stored[BIAS]: _in_order(table[one.stored[BIAS]], one.rules[BIAS]) for one in biases}


def _in_order(bias: LazyTensor, rule: catalog.PartRule) -> LazyTensor:
    """A bias as it is where nothing is quantized, in its own dtype."""
    rows = StoredPart(bias, rule, Part(BIAS, bias.spec))
    did = Event("dequantize", "in the order of the kernels, as its weight")
    return plain(bias.name, bias.spec, Ordered(rows), source=bias.source, fate=bias.fate).evolve(
        grain=bias.spec.rows, did=did
    )


@dataclass(frozen=True, slots=True)
class Ordered(Expr):
    """A plain vector that is stored in another order.

    Attributes:
        stored: what is stored.
    """

    stored: StoredPart

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        yield Piece("values", self.stored.part.spec.row_offset(start), self.stored.whole()[start:stop])


def say_stored(
    conventions: Sequence[catalog.Convention], readings: Mapping[str, Reading], planning: Planning
) -> None:
    """Say what was found, and what may surprise in what is decoded."""
    schemes = " and ".join(sorted({reading.scheme.name for reading in readings.values()}))
    whose = " or ".join(one.name for one in conventions)
    alike = " (they decode alike)" if len(conventions) > 1 else ""
    planning.note(f"the source holds {schemes} as {whose} stores it{alike}")


def turns(tensor: LazyTensor, conventions: Sequence[catalog.Convention]) -> bool:
    """Whether it is a stack of matrices that lie transposed in plain files of the consumer."""
    patterns = (pattern for one in conventions for pattern in one.transposes)
    return len(tensor.spec.shape) == 3 and any(pattern.matches(tensor.name) for pattern in patterns)


def leaving(
    table: Mapping[str, LazyTensor],
    conventions: Sequence[catalog.Convention],
    readings: Mapping[str, Reading],
    companions: Companions,
    inputs: Event,
    *,
    everywhere: bool,
) -> dict[str, Event]:
    """Stored names that leave when the tensors they belong to are no longer stored so, and why.

    Args:
        conventions: those that read the tensors; the first names them.
        inputs: what becomes of scales of inputs.
        everywhere: markers that are for no tensor in particular leave too.
    """
    mark = Event("drop", f"a marker of {conventions[0].name}")
    going: dict[str, Event] = {}
    for codes, reading in readings.items():
        parts = (part for part in reading.stored.values() if part != codes)
        going |= dict.fromkeys(parts, Event("absorb", "went into the tensor that it belongs to"))
        scales, marks = companions.of(reading)
        going |= dict.fromkeys(scales, inputs)
        going |= dict.fromkeys(marks, mark)
    if everywhere:
        others = (name for name in table if name not in going and name not in readings)
        going |= {name: mark for name in others if catalog.is_marker(name, conventions)}
    return going


def forget(planning: Planning, decoded: Sequence[str], *, some_left: bool = False) -> None:
    """Leave out of metadata what it says of tensors that are decoded, or stored in another way."""
    for key in _STATED:
        if key in planning.metadata:
            if some_left:
                raise PlanError(
                    f"its metadata has a {key} that cannot say that some tensors are decoded",
                    hint="dequantize all of them",
                )
            planning.replaced[key] = None
    text = planning.metadata.get(LAYERS)
    if text is not None:
        stated = small_json.parse_object(text, what=f"its metadata {LAYERS}")
        kept = stated.get("layers", {})
        kept = kept if isinstance(kept, dict) else {}
        kept = {name: said for name, said in kept.items() if f"{name}.weight" not in decoded}
        some = some_left and kept
        planning.replaced[LAYERS] = small_json.spell({**stated, "layers": kept}) if some else None


def _decode(
    reading: Reading,
    companions: Companions,
    table: Mapping[str, LazyTensor],
    target: DType,
    keep: bool,
    convention: str,
    strict: bool,
) -> LazyTensor:
    name, scheme, spec = reading.name, reading.scheme, reading.spec
    parts = stored_parts(reading, table)
    codes = parts.pop("codes")
    shape = companions.shape(reading)
    out_spec = interned(Spec(target, shape))
    asides = asides_of(reading, companions, table)
    value = Decoding(name, codes, tuple(parts.values()), scheme, spec, out_spec, keep, asides, strict)
    made = plain(name, out_spec, value, source=codes.tensor.source, fate=codes.tensor.fate)
    made = made.evolve(
        grain=scheme.grain(spec) if codes.apart else spec.rows,
        did=Event("dequantize", f"as {convention} stores it", f"{scheme.name} -> {target.name}"),
    )
    return transposed(made) if reading.turned else made


@plentiful
@dataclass(frozen=True, slots=True)
class Decoding(Expr):
    """A quantized tensor as plain values.

    Attributes:
        name: of the tensor, for errors.
        codes: whose rows are read.
        others: the small parts, which are held whole while the tensor is read.
        scheme: what decodes them.
        spec: facts of the tensor as float32, in which it is decoded.
        out: those of the result, which has fewer rows and columns where zeros were added before.
        keep: values that are not finite are written.
        asides: what else is stored of it.
        strict: a value that is rounded to the dtype of the result is an error.
    """

    name: str
    codes: StoredPart
    others: tuple[StoredPart, ...]
    scheme: Scheme
    spec: Spec
    out: Spec
    keep: bool
    asides: Asides = NO_ASIDES
    strict: bool = False

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`: what float32 holds is what the codes stand for."""
        target = self.out.dtype.name
        if self.strict and target in ("F32", "F64"):
            return None
        grid = self.scheme.grid(self.spec) if isinstance(self.scheme, Base) else None
        powers = grid is not None and grid.scales == "power" and not grid.zeroed
        if self.strict and powers and target in ("BF16", "F16"):
            return None  # but at the ends of the range, which are looked at
        return f"{self.scheme.name} is decoded to {target}, which cannot hold products of codes and scales"

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        spec, out_spec, target, name = self.spec, self.out, self.out.dtype, self.name
        whole = self.beside(context)
        rows = self.codes.rows(start, stop, context)
        values = context.take((stop - start, spec.columns), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            if (columns := whole.get(_ORDER)) is None:
                self.scheme.decode({"codes": rows, **whole}, spec, start, stop, values)
            else:
                self._by_groups(rows, whole, columns, start, stop, values)
        if out_spec.columns < spec.columns:  # it was padded
            padded, values = values, context.take((stop - start, out_spec.columns), np.float32)
            values[:] = padded[:, : out_spec.columns]
        if self.keep:
            out = _kept(values, target, context, name, start)
        else:
            _check_finite(values, name, start)
            out = cast_values(values, float_dtype(_F32), target, context, name, start)
        if self.strict:
            _check_exact(values, out, target, context, name, start)
        yield Piece("values", out_spec.row_offset(start), out)

    def beside(self, context: Context) -> Mapping[str, NDArray[Any]]:
        """The small parts, whole, as the scheme has them; held by the run as long as they are in use."""
        return context.run.scales.get(self, self._others)

    def _by_groups(
        self,
        rows: NDArray[Any],
        whole: Mapping[str, NDArray[Any]],
        columns: NDArray[np.intp],
        start: int,
        stop: int,
        out: NDArray[Any],
    ) -> None:
        """Decode 4-bit codes whose columns lie in another order than their groups."""
        codes = pack4(unpack4(rows.view(np.uint8).reshape(stop - start, -1))[:, columns])
        values = np.empty_like(out)
        self.scheme.decode({"codes": codes, **whole}, self.spec, start, stop, values)
        out[:, columns] = values

    def _others(self) -> dict[str, NDArray[Any]]:
        self.asides.check(self.name)
        columns = self.asides.columns()
        order = {} if columns is None else {_ORDER: columns}
        held = {one.part.role: one.whole(keep=self.keep) for one in self.others}
        stored = {f"one_over_{one.part.role}": one.numbers() for one in self.others if one.inverted}
        return {**held, **stored, **order}


def _check_finite(values: NDArray[Any], name: str, start: int) -> None:
    from ..numerics import NonFinite
    from ..numerics.rows import peak

    try:
        peak(values, float_dtype(_F32))
    except NonFinite as error:
        raise DataError(
            f"decodes to {error.value!r} at row {start + error.row}, column {error.column}: its codes or"
            " scales hold NaN, or their product is too large for float32",
            tensor=name,
            hint=f"repair the source, or let such values through with {called('on_nonfinite', 'keep')}",
        ) from None


def _check_exact(
    values: NDArray[Any], out: NDArray[Any], target: DType, scratch: Scratch, name: str, start: int
) -> None:
    """Raise DataError where a value was rounded."""
    again = cast_values(out, target, float_dtype(_F32), scratch, name, start)
    if not np.array_equal(again.view(np.float32), values, equal_nan=True):
        row = int(np.argmax((again.view(np.float32) != values).any(axis=1)))
        raise DataError(
            f"would lose: a value at row {start + row} is none of {target.name}",
            tensor=name,
            hint=f"decode to F32, or leave {called('lossless')} out",
        )


def _kept(values: NDArray[Any], target: DType, scratch: Scratch, name: str, start: int) -> NDArray[Any]:
    """Values in their target dtype; those that are too large for it become infinite."""
    largest = _LARGEST.get(target.name)
    if largest is not None:
        over = np.abs(values) >= largest
        values[over] = np.copysign(np.float32(np.inf), values[over])
    return cast_values(values, float_dtype(_F32), target, scratch, name, start)


_LARGEST = {"BF16": float(np.uint32(0x7F7F8000).view(np.float32)), "F16": 65520.0, "F8_E5M2": 61440.0}
"""Least magnitude that rounds to infinity."""
