"""Give quantized layers the scales of their inputs, from a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import catalog
from ..core.context import Context
from ..core.dtypes import DTYPES
from ..core.event import Event
from ..core.expr import Expr, Piece
from ..core.flow import Transform
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.spec import Part, Spec
from ..core.tensor import LazyTensor
from ..errors import FormatError, PlanError
from ..io import hub
from ..io.named import local
from .leaves import leaves
from .options import CalibrateOptions

__all__ = ["Calibrate", "Calibrating", "Measured"]

_REACH = np.float32(2688)
"""6 * 448: the largest nvfp4 code under the largest block scale, of inputs as of weights."""

_FP8 = np.float32(448)
"""The largest E4M3 code."""

_INPUTS = "input_scale"
"""Role of the scale of inputs in fp8, by which they are divided."""

_SCALAR = Spec(DTYPES["F32"], ())


@dataclass(frozen=True)
class Calibrate(CalibrateOptions, Transform):
    """Add ``input_global_scale`` and ``alpha`` to tensors with a global scale (nvfp4), and ``input_scale`` to
    those in fp8 with one scale, where the consumer takes it.

    ``input_global_scale = 2688 / absmax`` and ``alpha = 1 / (input_global_scale * global_scale)``, in float32
    (LightX2V, ``tools/convert/add_scale_to_models.py``). Consumers that compute ``alpha`` themselves are not
    given it. ``input_scale = absmax / 448`` (its ``common/ops/mm/mm_weight.py``).
    """

    def of_twin(self, noise: str) -> Calibrate:
        """None is for both. Raises PlanError."""
        raise PlanError(
            f"calibrate: {self.path} is of one model, and the source is two that take turns",
            hint="convert each by itself, with its own",
        )

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Read the calibration, a few kilobytes, and add parts.

        Raises:
            PlanError: a tensor that needs it is not in the calibration.
        """
        peaks = _read(self.path)
        tensors = list(tensors)
        consumer = None if planning.convention is None else catalog.convention(planning.convention)
        globally = {t.name for t in tensors if any(part.role == "global_scale" for part in t.parts)}
        wanted = [t for t in tensors if t.name in globally or _takes_inputs(t, consumer)]
        if not wanted:
            raise PlanError("calibrate: no tensor has a global scale", hint="quantize to nvfp4 before it")
        keys = {tensor.name: _keys(tensor, peaks) for tensor in wanted}
        missing = [name for name, of in keys.items() if not of]
        if missing:
            shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise PlanError(
                f"lacks {shown}", file=self.path, hint="calibrate again, or exclude these tensors"
            )
        idle = len(peaks.keys() - {key for of in keys.values() for key in of})
        if idle:
            planning.note(
                f"calibrate: {idle} of {len(peaks)} entries belong to tensors that are not quantized"
            )
        for tensor in tensors:
            of = keys.get(tensor.name)
            if of is None:
                yield tensor
                continue
            peak = max(map(peaks.__getitem__, of))
            if tensor.name not in globally:
                yield _measured(tensor, peak)
            else:
                yield self._calibrated(tensor, peak, with_alpha=_takes_alpha(tensor, consumer))

    def _calibrated(self, tensor: LazyTensor, peak: np.float32, *, with_alpha: bool) -> LazyTensor:
        if not with_alpha and not self.keep_global_scale:
            raise PlanError(
                "calibrate: the consumer computes alpha itself, from the weight's global scale",
                tensor=tensor.name,
                hint="keep the global scale",
            )
        parts = [part for part in tensor.parts if self.keep_global_scale or part.role != "global_scale"]
        parts.append(Part("input_global_scale", _SCALAR))
        if with_alpha:
            parts.append(Part("alpha", _SCALAR))

        value = Calibrating(tensor.value, np.float32(_REACH / peak), self.keep_global_scale, with_alpha)
        return tensor.evolve(
            parts=tuple(parts), value=value, did=Event("calibrate", f"inputs up to {peak:g}")
        )

    def recorded(self) -> Any:
        """The name of the file instead of its path; of a model on the hub also its revision."""
        return {**super().recorded(), "path": hub.recorded(self.path)}


@dataclass(frozen=True, slots=True)
class Calibrating(Expr):
    """A tensor with a global scale, and beside it the scale of its inputs.

    Attributes:
        of: what yields the tensor.
        given: the scale of the inputs.
        keep_global_scale: whether its own stays.
        with_alpha: whether alpha is made of both.
    """

    of: Expr
    given: np.float32
    keep_global_scale: bool
    with_alpha: bool

    def loses(self) -> str | None:
        """See :meth:`.core.expr.Expr.loses`."""
        return None if self.keep_global_scale else "its global scale becomes a factor of products"

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        given = np.array([self.given], np.float32)
        for piece in self.of.read(start, stop, context):
            if piece.role != "global_scale":
                yield piece
                continue
            if self.keep_global_scale:
                yield piece
            if start == 0:
                yield Piece("input_global_scale", 0, given)
            if start == 0 and self.with_alpha:
                yield Piece("alpha", 0, np.float32(1) / (given * piece.data.reshape(1)))


@dataclass(frozen=True, slots=True)
class Measured(Expr):
    """A tensor, and beside it the scale of its inputs.

    Attributes:
        of: what yields the tensor.
        given: the scale of the inputs.
    """

    of: Expr
    given: np.float32

    def read(self, start: int, stop: int, context: Context) -> Iterator[Piece]:
        """See :meth:`.core.expr.Expr.read`."""
        yield from self.of.read(start, stop, context)
        if start == 0:
            yield Piece(_INPUTS, 0, np.array([self.given], np.float32))


def _measured(tensor: LazyTensor, peak: np.float32) -> LazyTensor:
    return tensor.evolve(
        parts=(*tensor.parts, Part(_INPUTS, _SCALAR)),
        value=Measured(tensor.value, np.float32(peak / _FP8)),
        did=Event("calibrate", f"inputs up to {peak:g}"),
    )


def _takes_inputs(tensor: LazyTensor, consumer: catalog.Convention | None) -> bool:
    """Whether the consumer has a place for the scale of the inputs of a tensor with one scale."""
    if consumer is None or tensor.scheme is None or getattr(tensor.scheme, "granularity", "") != "tensor":
        return False
    rule = consumer.schemes.get(tensor.scheme.name)
    return rule is not None and _INPUTS in rule.parts


def _takes_alpha(tensor: LazyTensor, consumer: catalog.Convention | None) -> bool:
    if consumer is None or tensor.scheme is None:
        return True
    rule = consumer.schemes.get(tensor.scheme.name)
    # Who stores neither is left to refuse both, by name.
    return rule is None or "alpha" in rule.parts or "input_global_scale" not in rule.parts


def _read(path: str) -> dict[str, np.float32]:
    from ..containers.torch.pickle import read_pickle  # few recipes calibrate

    found = read_pickle(local(path))
    table = found.get("absmax") if isinstance(found, Mapping) else None
    if not isinstance(table, Mapping):
        raise FormatError("is not a calibration", file=path, hint='it must hold {"absmax": {name: value}}')
    peaks = {}
    for name, value in table.items():
        number = _number(value)
        if number is None or not (np.isfinite(number) and number > 0):
            raise FormatError(f"absmax is {number}, not a positive number", file=path, tensor=str(name))
        peaks[str(name)] = number
    return peaks


def _number(value: object) -> np.float32 | None:
    if isinstance(value, LazyTensor) and value.spec.numel == 1:
        return np.float32(value.numpy().astype(np.float32).reshape(())[()])
    return np.float32(value) if isinstance(value, int | float) else None


def _keys(tensor: LazyTensor, peaks: Mapping[str, np.float32]) -> tuple[str, ...]:
    """The entries for a tensor: by its name, or those of all that it is made of, whose inputs are its own."""
    named = _key(tensor.name, peaks)
    if named is not None:
        return (named,)
    keys = [_key(leaf.source, peaks) for leaf in leaves(tensor)]
    known = tuple(key for key in keys if key is not None)
    return known if len(known) == len(keys) else ()


def _key(name: str, peaks: Mapping[str, np.float32]) -> str | None:
    return next((key for key in (name, name.replace("model.", "")) if key in peaks), None)
