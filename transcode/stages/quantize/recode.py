"""Quantized tensors in another scheme by their codes alone, where that loses nothing, or next to nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from math import lcm
from typing import Any

import numpy as np

from ... import catalog
from ...consumers.fit import Decision, misfit
from ...core import text
from ...core.context import Context, Statistic
from ...core.dtypes import DTYPES, DType
from ...core.event import Event
from ...core.expr import Expr, Piece
from ...core.planning import Planning
from ...core.records import dataclass
from ...core.scheme import Scheme, parts_of
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...core.value import interned
from ...errors import DataError
from ...schemes.base import Base
from ...schemes.grid import EXACT, NOTHING
from ...schemes.recode import Recode, recoding
from ...voice import called
from ..dequantize import Decoding
from ..rows_of_codes import coded_rows
from .multiplier import multiplier
from .share_scale import sharing_scales

__all__ = ["Recoding", "Top", "in_full", "recoded"]


@dataclass(frozen=True, slots=True)
class Top(Statistic[int]):
    """The largest exponent of the scales of a quantized tensor."""

    decoding: Decoding
    recode: Recode

    @property
    def spec(self) -> Spec:
        """Of the stored scales, or of the codes that hold them."""
        scales = (one.tensor.spec for one in self.decoding.others if one.part.role == "scale")
        return next(scales, self.decoding.codes.tensor.spec)

    def tiles(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """All at once, as scales are held whole anyway; or those that lie among codes by rows."""
        rows = self.spec.rows
        step = max(1, nbytes // max(self.spec.row_bits // 8, 1)) if self.recode.within else rows
        for start in range(0, rows, step):
            yield start, min(start + step, rows)

    def look(self, start: int, stop: int, context: Context) -> int:
        """Raises DataError where a scale is no power of two."""
        decoding = self.decoding
        try:
            if self.recode.within:
                return int(self.recode.exponents({"codes": decoding.codes.rows(start, stop, context)}).max())
            return int(self.recode.exponents(decoding.beside(context)).max())
        except ValueError as error:
            raise _blame(self.decoding, error) from None

    def merge(self, one: int, other: int) -> int:
        """The larger one."""
        return max(one, other)


@dataclass(frozen=True, slots=True)
class Recoding(Expr):
    """A quantized tensor as the parts of another scheme, made of its codes and scales.

    Attributes:
        decoding: the tensor as it is stored.
        recode: what its codes become.
        tops: of the tensor, or of all that share a scale with it, which are merged.
        number: under which blocks are counted that keep every value, and others.
        strict: a value that changes is an error.
        multiplied: the scale of the tensor is yielded as what is multiplied by, where its role says divided.
    """

    decoding: Decoding
    recode: Recode
    tops: tuple[Top, ...]
    number: int
    strict: bool
    multiplied: bool = False

    def inputs(self) -> tuple[object, ...]:
        """The parts, of which nothing is decoded."""
        return self.decoding.codes, self.decoding.others

    def in_powers(self) -> frozenset[str]:
        """See :meth:`.core.expr.Expr.in_powers`."""
        return frozenset(("global_scale",) if self.recode.whole is None else ())

    def lying(self, codecs: Mapping[str, tuple[Any, ...]]) -> tuple[Expr, frozenset[str]]:
        """See :meth:`.core.expr.Expr.lying`: what is multiplied by, where that is what is stored."""
        through = codecs.get("global_scale", ())
        if self.recode.whole == "global_scale" and any(not codec.exact for codec in through):
            return replace(self, multiplied=True), frozenset(("global_scale",))
        return self, frozenset()

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        if self.strict:
            return None
        if self.inverts:
            return "the scale of the tensor is stored as a reciprocal, rounded"
        if self.recode.certain:
            return None
        return f"{self.recode.source.name} becomes {self.recode.target.name}, which may not reach so far"

    @property
    def inverts(self) -> bool:
        """Whether one of both stores what is divided by, and the other what is multiplied by."""
        stored = multiplier(self.decoding)
        divided = stored is not None and not stored.exactly
        return divided or (stored is not None and self.recode.whole == "global_scale" and not self.multiplied)

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        decoding, top = self.decoding, max(map(context.value, self.tops), default=0)
        parts = decoding.beside(context)
        codes = decoding.codes.rows(start, stop, context)
        if self.recode.whole is not None and (stored := multiplier(decoding)) is not None:
            parts = {**parts, "tensor_scale": (whole := stored.value())}
            if self.strict and self.inverts and not stored.invertible():
                raise DataError(
                    f"would lose: its scale {float(whole[0])!r} is a reciprocal in one of the two, rounded",
                    tensor=decoding.name,
                    hint=f"leave {called('lossless')} out, or exclude the tensor",
                )
        try:
            pieces, states = self.recode.rows(codes, parts, start, stop, top, context)
        except ValueError as error:
            raise _blame(decoding, error) from None
        if self.multiplied:
            one = parts.get("tensor_scale", np.ones(1, np.float32))
            pieces = [replace(p, data=one) if p.role == "global_scale" else p for p in pieces]
        exact = int(np.count_nonzero(states == EXACT))
        if exact < states.size:
            row = start + int(np.argmax((states != EXACT).any(axis=1)))
            if (states == NOTHING).any():
                raise _blame(decoding, f"a code at row {row} stands for no number")
            if self.strict:
                raise DataError(
                    f"would lose: scales at row {row} are too small beside the largest for"
                    f" {self.recode.target.name} to hold the values",
                    tensor=decoding.name,
                    hint=f"leave {called('lossless')} out, exclude the tensor, or choose a wider scheme",
                )
        context.run.tally(self.number).add(start, (exact, states.size))
        yield from pieces


def recoded(
    decided: Sequence[Decision],
    given: Mapping[Scheme, Mapping[str, Any]],
    consumer: catalog.Convention | None,
    planning: Planning,
    group: Callable[[LazyTensor, Scheme], str | None],
    followed: Callable[[LazyTensor], bool],
) -> dict[int, LazyTensor]:
    """The chosen tensors of which codes and scales become those of their scheme, by number.

    Args:
        given: options that the user gave.
        group: key of the tensors that share a global scale with one.
        followed: see :func:`.consumers.fit.misfit`.
    """
    opened = planning.opened
    if opened is None:
        return {}
    ways: dict[int, tuple[Decoding, Recode]] = {}
    sharing = sharing_scales(decided, group)
    for number, (tensor, action, _) in enumerate(decided):
        if action is None or isinstance(action, DType):
            continue
        decoding = coded_rows(tensor) if tensor.plain and tensor.source in opened.tensors else None
        if decoding is None or decoding.keep or decoding.asides.order is not None:
            continue
        if decoding.out.shape != decoding.spec.shape or _to_each(decoding):
            continue
        fixed = given.get(action, {})
        for scheme in _forms(action, fixed):
            way = recoding(decoding.scheme, decoding.spec, scheme, tensor.spec, daring=planning.lossless)
            if way is not None and misfit(tensor, scheme, consumer, followed=followed(tensor)) is None:
                ways[number] = decoding, way
                break
    for members in sharing.values():
        if any(number not in ways for number in members) or not _one_scale([ways[one] for one in members]):
            for number in members:
                ways.pop(number, None)
    tops = {number: Top(*way) for number, way in ways.items() if way[1].wants_top}
    together = {number: members for members in sharing.values() for number in members}
    made = {}
    idle: Counter[tuple[str, str]] = Counter()
    for number, (decoding, way) in ways.items():
        tensor, action, why = decided[number]
        own = tuple(tops[one] for one in together.get(number, [number])) if number in tops else ()
        made[number] = _tensor(tensor, decoding, way, own, str(why), planning)
        asked: Mapping[str, Any] = given.get(action, {}) if isinstance(action, Base) else {}
        idle.update((way.target.name, option) for option in ("optimize", "scale_mode") if option in asked)
    for (name, option), count in idle.items():
        planning.warn(
            f"{option} does nothing for {count} tensors whose codes become those of {name} as they are;"
            f" {called('dequantize', 'bf16')} encodes them anew"
        )
    _say(made, ways, planning)
    return made


def in_full(tensor: LazyTensor) -> LazyTensor:
    """A tensor that was opened in fewer bits, as F32, which holds all that its codes stand for."""
    value = tensor.value
    if not isinstance(value, Decoding) or value.out.dtype.name == "F32":
        return tensor
    spec = interned(Spec(DTYPES["F32"], value.out.shape))
    return tensor.evolve(spec=spec, value=replace(value, out=spec, strict=True))


def _to_each(decoding: Decoding) -> bool:
    """Whether there is a scale to each matrix of a stack where the scheme has one to a tensor, as which
    :mod:`.schemes.recode` would take the first for that of all.
    """
    made = {part.role: part.spec.numel for part in parts_of(decoding.scheme, decoding.spec)}
    return any(one.part.role == "scale" and one.part.spec.numel != made["scale"] for one in decoding.others)


def _one_scale(ways: Sequence[tuple[Decoding, Recode]]) -> bool:
    """Whether tensors that share a scale come with one: each is a few bytes, which are looked at."""
    if len(ways) < 2 or ways[0][1].whole is None:
        return True
    scales = [multiplier(decoding) for decoding, _ in ways]
    return len({b"" if one is None else one.value().tobytes() for one in scales}) == 1


def _forms(scheme: Scheme, given: Mapping[str, Any]) -> Iterator[Scheme]:
    """The scheme; and with wider scales than it has by itself."""
    yield scheme
    if "scaled" in scheme.options and "scaled" not in given and is_dataclass(scheme):
        yield replace(scheme, scaled=True)
    if "scale_dtype" in scheme.options and "scale_dtype" not in given and is_dataclass(scheme):
        yield replace(scheme, scale_dtype="F32")


def _tensor(
    tensor: LazyTensor, decoding: Decoding, way: Recode, tops: tuple[Top, ...], why: str, planning: Planning
) -> LazyTensor:
    scheme, spec = way.target, way.spec
    sure = "exact" if way.certain else "exact where scales lie close enough"
    fate = tuple(event for event in tensor.fate if event.kind not in ("dequantize", "cast"))
    number = planning.number()
    value = Recoding(decoding, way, tops, number, planning.lossless)
    grain = decoding.scheme.grain(decoding.spec) if decoding.codes.apart else spec.rows
    return LazyTensor(
        tensor.name, spec, tuple(map(interned, scheme.parts(spec))), value,
        source=tensor.source, fate=fate, scheme=scheme, needs=tops, recoded=number,
    ).evolve(
        grain=lcm(grain, scheme.grain(spec)),
        did=Event("recode", f"{sure}; {why}", f"{decoding.scheme.name} -> {scheme.name}"),
    )  # fmt: skip


def _say(
    made: Mapping[int, LazyTensor], ways: Mapping[int, tuple[Decoding, Recode]], planning: Planning
) -> None:
    kinds = Counter((one.source.name, one.target.name, one.certain, one.whole) for _, one in ways.values())
    for (before, after, certain, whole), number in kinds.items():
        what = f"{text.count(number, 'tensor')}: the codes of {before} become those of {after}"
        if whole is not None:
            planning.note(
                f"{what}, with their scales: no value changes, but that the scale of a tensor is rounded"
                f" where one of the two stores its reciprocal; with {called('lossless')} that is an error"
            )
        elif certain:
            planning.note(f"{what}: no value changes")
        else:
            planning.note(
                f"{what}: no value changes where scales lie close enough together, which the run counts;"
                f" with {called('lossless')} another value is an error"
            )


def _blame(decoding: Decoding, error: object) -> DataError:
    return DataError(
        f"its codes cannot be taken over: {error}",
        tensor=decoding.name,
        hint=f"repair the source, or let such values through with {called('on_nonfinite', 'keep')}",
    )
