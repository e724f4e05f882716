"""Turn codes and scales back into plain tensors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import catalog
from ..core.dtypes import DType
from ..core.flow import Transform
from ..core.given import text, texts
from ..core.planning import Planning
from ..core.scheme import Scheme
from ..core.scratch import Scratch
from ..core.spec import Spec
from ..core.tensor import LazyTensor, Piece, plain
from ..errors import PlanError
from . import record
from .cast import cast_values, float_dtype
from .select import Patterns
from .spell import canonical, recognise

__all__ = ["Dequantize"]

_F32 = "F32"
_KEPT = 8
"""Tensors whose scales are held at once: enough for the workers not to read them again for each tile."""


@dataclass(frozen=True)
class Dequantize(Transform):
    """Decode quantized tensors, stored as a convention stores them.

    The scheme of each tensor is told by the dtypes and shapes of its parts; where they fit several, by the
    record of how the file was made.

    Args:
        to: float dtype of the result.
        convention: whose names and layouts the source follows.
        only: patterns; without any, everything that is quantized is decoded.
        scheme: the scheme, where facts and record leave more than one possible.
    """

    kind: ClassVar[str] = "dequantize"

    to: str = "BF16"
    convention: str = "lightx2v"
    only: tuple[str, ...] = ()
    scheme: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "to", float_dtype(self.to).name)
        text("dequantize: convention", self.convention)
        object.__setattr__(self, "only", texts("dequantize: only", self.only))
        Patterns(self.only)

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Join the stored parts of each tensor; they are decoded tile by tile when they are read."""
        table = {tensor.name: tensor for tensor in tensors}
        convention = catalog.convention(self.convention)
        groups = convention.group(list(table))
        patterns = Patterns(self.only)
        target = float_dtype(self.to)
        used: set[str] = set()
        made: dict[str, LazyTensor] = {}
        recent = _Recent(_KEPT)
        for name, stored in groups.items():
            match = patterns.first(name)
            if "scale" not in stored or (self.only and match is None):
                continue
            parts = {role: table[one] for role, one in stored.items()}
            found = self._recognise(name, parts, convention, planning)
            if found is None:
                continue
            made[stored["codes"]] = _decode(name, parts, *found, target, convention, recent)
            used.update(stored.values())
        for name, tensor in table.items():
            if name in made:
                yield made[name]
            elif made and convention.is_marker(name):
                planning.drop(tensor, f"drop: a marker of {convention.name}")
            elif name in used:
                planning.drop(tensor, "drop: went into the tensor that it belongs to")
            else:
                yield tensor
        planning.unmatched("dequantize", patterns.unused(), list(table))
        if not made:
            planning.warn(f"dequantize: nothing is quantized in the convention {self.convention}")

    def _recognise(
        self,
        name: str,
        parts: Mapping[str, LazyTensor],
        convention: catalog.Convention,
        planning: Planning,
    ) -> tuple[Scheme, Spec] | None:
        found = recognise({role: part.spec for role, part in parts.items()}, convention)
        told = record.schemes(planning.metadata) if self.scheme is None else [self.scheme]
        if len(found) > 1 or self.scheme is not None:
            found = [(scheme, spec) for scheme, spec in found if scheme.name in told] or found
        facts = ", ".join(f"{role} {part.spec}" for role, part in parts.items())
        if not found or (self.scheme is not None and found[0][0].name != self.scheme):
            planning.warn(f"{name}: not dequantized: {self.scheme or 'no scheme'} does not store {facts}")
            return None
        if len(found) > 1:
            names = " or ".join(scheme.name for scheme, _ in found)
            raise PlanError(f"{facts} may be {names}", tensor=name, hint="say which scheme it is")
        return found[0]

    def config(self) -> dict[str, Any]:
        """Target, convention, and patterns if there are any."""
        config: dict[str, Any] = {"to": self.to, "convention": self.convention}
        if self.only:
            config["only"] = list(self.only)
        if self.scheme is not None:
            config["scheme"] = self.scheme
        return config


class _Recent:
    """The small parts of the tensors being decoded; those of finished tensors are let go."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[object, Any] = OrderedDict()

    def get(self, key: object, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            self._kept.move_to_end(key)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
            return self._kept[key]


def _decode(
    name: str,
    parts: Mapping[str, LazyTensor],
    scheme: Scheme,
    spec: Spec,
    target: DType,
    convention: catalog.Convention,
    recent: _Recent,
) -> LazyTensor:
    codes = parts["codes"]
    wanted = {part.role for part in scheme.parts(spec)} - {"codes"}
    f32 = Spec(float_dtype(_F32), spec.shape)
    out_spec = Spec(target, spec.shape)

    def small() -> dict[str, NDArray[Any]]:
        arrays = {role: _carried(parts[role]) for role in wanted}
        return {role: canonical(array, role, scheme, spec, convention) for role, array in arrays.items()}

    def read(start: int, stop: int, scratch: Scratch) -> Iterator[Piece]:
        whole = recent.get(name, small)
        (piece,) = codes.read(start, stop, scratch)
        # Not by the columns of the codes: bytes hold two of F4.
        stored = piece.data.reshape(stop - start, -1)
        rows = canonical(stored, "codes", scheme, spec, convention)
        values = scratch.take((stop - start, spec.columns), np.float32)
        scheme.decode({"codes": rows, **whole}, spec, start, stop, values)
        out = cast_values(values, f32.dtype, target, scratch, name, start)
        yield Piece("values", out_spec.row_offset(start), out)

    made = plain(name, out_spec, read, source=codes.source, fate=codes.fate)
    return made.evolve(grain=scheme.grain(spec), did=f"dequantize {scheme.name} -> {target.name}")


def _carried(tensor: LazyTensor) -> NDArray[Any]:
    """All of a small part, in its carrier dtype."""
    spec = tensor.spec
    return tensor.numpy().view(spec.dtype.carrier).reshape(spec.shape)
