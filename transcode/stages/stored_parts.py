"""The parts of quantized tensors as they are stored, and what is stored beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import catalog
from ..codecs import chain
from ..consumers.companions import Companions
from ..consumers.group import Reading, one_to_each
from ..consumers.implied import implied
from ..consumers.spell import canonical
from ..core.context import Context
from ..core.permuted import permuted
from ..core.records import dataclass
from ..core.scheme import parts_of
from ..core.spec import Part, Spec
from ..core.tensor import LazyTensor
from ..errors import DataError
from ..voice import called

__all__ = [
    "NO_ASIDES",
    "SCALES_OF_ALL",
    "TURNED",
    "Asides",
    "StoredPart",
    "asides_of",
    "stored_parts",
    "transposed",
]

_LISTED = f"{called('to', 'listed')} or listed_llava takes them apart, with their scales"
TURNED = f"a stack of matrices that lie transposed ({_LISTED})"
"""What most programs have no place for."""

SCALES_OF_ALL = ("global_scale", "tensor_scale")
"""Roles of scales of whole tensors: what is divided by, and what is multiplied by."""


class StoredPart(NamedTuple):
    """A part as it is stored: its tensor, its rule, and the part as the scheme makes it."""

    tensor: LazyTensor
    rule: catalog.PartRule
    part: Part

    @property
    def apart(self) -> bool:
        """Whether each of its rows is stored by itself."""
        return chain.apart(self.rule.codecs, self.part.spec)

    def rows(self, start: int, stop: int, context: Context) -> NDArray[Any]:
        """Some of its rows as the scheme makes them, 2-D."""
        count = self.part.spec.rows
        # Where bytes of a row are stored as two axes, a row of the part is several stored ones.
        per = self.tensor.spec.rows // max(count, 1)
        wanted = (start * per, stop * per) if self.apart else (0, self.tensor.spec.rows)
        (piece,) = self.tensor.read(*wanted, context)
        if self.part.spec.dtype.elements > 1:
            return piece.data  # of whole blocks, which may reach over rows
        # Not by the stored columns: bytes hold two of F4.
        stored = piece.data.reshape(stop - start, -1) if self.apart else piece.data
        rows = canonical(stored, self.part.role, self.rule, self.part)
        return rows if self.apart else rows.reshape(count, -1)[start:stop]

    def whole(self, *, keep: bool = False) -> NDArray[Any]:
        """All of it as the scheme makes it.

        Args:
            keep: scales of a whole tensor may be any number.

        Raises:
            DataError: the scale of a whole tensor, or of one of a stack, is no positive finite number. By its
                reciprocal values would all be zero, and nothing would tell.
        """
        numbers = canonical(_carried(self.tensor), self.part.role, self.rule, self.part)
        if self.part.role in SCALES_OF_ALL and not keep:
            _check_scale(self.tensor, numbers)
        return numbers

    @property
    def inverted(self) -> bool:
        """Whether one over each number is what is stored, so that the number itself was rounded."""
        return any(not codec.exact for codec in self.rule.codecs)

    def numbers(self) -> NDArray[np.float32]:
        """All of it as it is stored, but in order, float32: one over each number, if inverted."""
        exact = tuple(codec for codec in self.rule.codecs if codec.exact)
        return np.asarray(chain.decode(_carried(self.tensor), exact, self.part.spec), np.float32)


def _check_scale(stored: LazyTensor, numbers: NDArray[Any]) -> None:
    with np.errstate(invalid="ignore"):
        wrong = ~(np.isfinite(numbers) & (numbers > 0))
    if wrong.any():
        number = stored.numpy().view(np.float32).reshape(-1)[int(np.argmax(wrong.reshape(-1)))]
        raise DataError(
            f"is the scale of a whole tensor, and {number}: nothing is scaled by that",
            tensor=stored.name,
            hint="repair the source, leave the tensor out, or decode what it gives with"
            f" {called('on_nonfinite', 'keep')}",
        )


def stored_parts(reading: Reading, table: Mapping[str, LazyTensor]) -> dict[str, StoredPart]:
    """The parts of a tensor as they are stored, by role, in the order of the scheme."""
    return {part.role: _stored(part, reading, table) for part in parts_of(reading.scheme, reading.spec)}


def _stored(part: Part, reading: Reading, table: Mapping[str, LazyTensor]) -> StoredPart:
    tensor, rule = table[reading.stored[part.role]], reading.rules[part.role]
    if rule.turned:
        tensor = transposed(tensor)
    if tensor.spec.numel > 1 and one_to_each(part.role, reading.scheme, reading.spec):
        part = Part(part.role, Spec(part.spec.dtype, tensor.spec.shape))
    return StoredPart(tensor, rule, part)


def transposed(stack: LazyTensor) -> LazyTensor:
    """A plain stack of matrices, each transposed."""
    shape = stack.spec.shape
    return permuted(stack, shape, (0, 2, 1), (shape[0], shape[2], shape[1]))


@dataclass(frozen=True, slots=True)
class Asides:
    """What is stored of a tensor beside the parts of its scheme, and what it is held to.

    Attributes:
        zeros: zero points of codes that have none: all must be 0.
        order: the group of each column, where columns are in another order than their groups.
    """

    zeros: StoredPart | None = None
    order: StoredPart | None = None

    def check(self, name: str) -> None:
        """Raise DataError where there are zero points after all."""
        if self.zeros is not None and (numbers := self.zeros.whole()).any():
            bad = numbers.reshape(-1)[int(np.argmax(numbers != 0))]
            raise DataError(
                f"is stated to have no zero points, and {self.zeros.tensor.name!r} holds one of {bad}",
                tensor=name,
                hint='let config.json say "sym": false',
            )

    def columns(self) -> NDArray[np.intp] | None:
        """Where each column stands, sorted by groups; None where that is its own place."""
        return None if self.order is None else np.argsort(self.order.whole().reshape(-1), kind="stable")


NO_ASIDES = Asides()


def asides_of(reading: Reading, companions: Companions, table: Mapping[str, LazyTensor]) -> Asides:
    """Those of a tensor. Raises PlanError for an order that is none."""
    held = {
        role: StoredPart(
            table[reading.stored[role]],
            reading.rules[role],
            implied(role, reading.scheme, reading.spec, reading.spec.shape).part,
        )
        for role in reading.implied
    }
    order = held.get(catalog.GROUP_INDEX) if companions.order(reading) else None
    return Asides(held.get(catalog.ZERO_POINT), order)


def _carried(tensor: LazyTensor) -> NDArray[Any]:
    """All of a small part, in its carrier dtype."""
    spec = tensor.spec
    return tensor.numpy().view(spec.dtype.carrier).reshape(spec.shape)
