"""Quantized tensors in another scheme by their codes alone, where that loses nothing, or next to nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from math import lcm
from typing import Any

import numpy as np

from ... import catalog
from ...consumers.fit import Decision, misfit
from ...core import text
from ...core.context import Context, Statistic
from ...core.dtypes import DType
from ...core.event import Event
from ...core.expr import Expr, Piece
from ...core.planning import Planning
from ...core.scheme import Scheme
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...core.value import interned
from ...errors import DataError
from ...schemes.base import Base
from ...schemes.grid import EXACT, NOTHING
from ...schemes.recode import Recode, recoding
from ...voice import called
from ..dequantize import Decoding
from ..repack import undecoded
from .share_scale import sharing_scales

__all__ = ["Recoding", "Top", "recoded"]


@dataclass(frozen=True, slots=True)
class Top(Statistic[int]):
    """The largest exponent of the scales of a quantized tensor."""

    decoding: Decoding
    recode: Recode

    @property
    def spec(self) -> Spec:
        """Of the stored scales."""
        return next(one.tensor.spec for one in self.decoding.others if one.part.role == "scale")

    def tiles(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """All at once: scales are held whole anyway."""
        yield 0, self.spec.rows

    def look(self, start: int, stop: int, context: Context) -> int:
        """Raises DataError where a scale is no power of two."""
        try:
            return int(self.recode.exponents(self.decoding.beside(context)).max())
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
    """

    decoding: Decoding
    recode: Recode
    tops: tuple[Top, ...]
    number: int
    strict: bool

    def inputs(self) -> tuple[object, ...]:
        """The parts, of which nothing is decoded."""
        return self.decoding.codes, self.decoding.others

    def in_powers(self) -> frozenset[str]:
        """See :meth:`.core.expr.Expr.in_powers`."""
        return frozenset(("global_scale",))

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        if self.recode.certain or self.strict:
            return None
        return f"{self.recode.source.name} becomes {self.recode.target.name}, which may not reach so far"

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        decoding, top = self.decoding, max(map(context.value, self.tops), default=0)
        parts = decoding.beside(context)
        codes = decoding.codes.rows(start, stop, context)
        try:
            pieces, states = self.recode.rows(codes, parts, start, stop, top, context)
        except ValueError as error:
            raise _blame(decoding, error) from None
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
        decoding = undecoded(tensor) if opened.still(tensor) else None
        if decoding is None or decoding.keep or decoding.asides.order is not None:
            continue
        if decoding.out.shape != decoding.spec.shape:
            continue
        fixed = given.get(action, {})
        for scheme in _forms(action, fixed):
            way = recoding(decoding.scheme, decoding.spec, scheme, tensor.spec, daring=planning.lossless)
            if way is not None and misfit(tensor, scheme, consumer, followed=followed(tensor)) is None:
                ways[number] = decoding, way
                break
    for members in sharing.values():
        if any(number not in ways for number in members):
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


def _forms(scheme: Scheme, given: Mapping[str, Any]) -> Iterator[Scheme]:
    """The scheme; and with wider scales than it has by itself."""
    yield scheme
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
    kinds = Counter((one.source.name, one.target.name, one.certain) for _, one in ways.values())
    for (before, after, certain), number in kinds.items():
        what = f"{text.count(number, 'tensor')}: the codes of {before} become those of {after}"
        if certain:
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
