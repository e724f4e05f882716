"""The same bytes under another dtype or shape."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

from ..core.codec import Constraint
from ..core.dtypes import DTYPES
from ..core.records import dataclass
from ..core.spec import Spec
from ..core.types import Array
from ..errors import PlanError
from .base import Base, matrix

__all__ = ["Fold", "InGroups", "Reshape", "Split", "Squeeze", "Unsqueeze", "View"]


@dataclass(frozen=True)
class View(Base):
    """The same bytes under another dtype, the last axis longer or shorter where the width differs.

    F4 ``[N, K]`` is U8 ``[N, K / 2]``, and that is I32 ``[N, K / 8]``.

    One float format is not called another: that would be other numbers.

    Args:
        dtype: safetensors name.
    """

    name: ClassVar[str] = "view"
    summary: ClassVar[str] = "the same bytes under another dtype"
    moves: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "dtype": Constraint("a safetensors dtype", tuple(DTYPES), lambda value: value in tuple(DTYPES))
    }

    dtype: str

    def spec(self, spec: Spec) -> Spec:
        """The other dtype. Raises PlanError where rows fill no whole elements, or floats become others."""
        dtype = DTYPES[self.dtype]
        if dtype == spec.dtype:
            return spec
        if spec.dtype.kind == dtype.kind == "float":
            raise PlanError(f"{spec} cannot be called {dtype}: the same bytes are other numbers")
        if spec.dtype.bits == dtype.bits:
            return Spec(dtype, spec.shape)
        if not spec.shape or spec.row_bits % dtype.bits:
            raise PlanError(f"{spec} cannot be viewed as {dtype}: its rows do not fill whole elements")
        return Spec(dtype, (*spec.shape[:-1], spec.shape[-1] * spec.dtype.bits // dtype.bits))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        return matrix(stored, spec)

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """The same bits per row, where they are whole elements."""
        bits = stored.dtype.bits
        if bits == spec.dtype.bits:
            return Spec(spec.dtype, stored.shape)
        if not stored.shape or stored.shape[-1] * bits % spec.dtype.bits:
            return None
        return Spec(spec.dtype, (*stored.shape[:-1], stored.shape[-1] * bits // spec.dtype.bits))


@dataclass(frozen=True)
class Split(Base):
    """Rows stored as two axes: ``[.., K]`` is ``[.., K / size, size]``.

    Args:
        size: elements of the new last axis.
    """

    name: ClassVar[str] = "split"
    summary: ClassVar[str] = "the last axis as two, [.., K / size, size]"
    moves: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "size": Constraint(
            "a whole number from 1", (1, 2, 16), lambda value: type(value) is int and value > 0
        )
    }

    size: int

    def spec(self, spec: Spec) -> Spec:
        """One axis more. Raises PlanError where the last one is no multiple of the size."""
        if len(spec.shape) < 2 or spec.shape[-1] % self.size:
            raise PlanError(f"the last axis of {spec} cannot be split into runs of {self.size}")
        return Spec(spec.dtype, (*spec.shape[:-1], spec.shape[-1] // self.size, self.size))

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """The last two axes as one."""
        if len(stored.shape) < 3 or stored.shape[-1] != self.size:
            return None
        return Spec(spec.dtype, (*stored.shape[:-2], stored.shape[-2] * self.size))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        return matrix(stored, spec)


@dataclass(frozen=True)
class Fold(Base):
    """Rows stored one behind the other in a longer one: ``[N, K]`` is ``[N / by, by * K]``.

    Args:
        by: rows that become one.
    """

    name: ClassVar[str] = "fold"
    summary: ClassVar[str] = "some rows as one, [N / by, by * K]"
    moves: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "by": Constraint("a whole number from 1", (4,), lambda value: type(value) is int and value > 0)
    }

    by: int

    def spec(self, spec: Spec) -> Spec:
        """Fewer and longer rows. Raises PlanError for what is no matrix of so many rows."""
        if len(spec.shape) != 2 or spec.shape[0] % self.by:
            raise PlanError(f"rows of {spec} cannot be folded by {self.by}")
        return Spec(spec.dtype, (spec.shape[0] // self.by, spec.shape[1] * self.by))

    def rows(self, spec: Spec) -> int:
        """Those that become one."""
        return self.by

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """More and shorter rows."""
        if len(stored.shape) != 2 or stored.shape[1] % self.by:
            return None
        return Spec(spec.dtype, (stored.shape[0] * self.by, stored.shape[1] // self.by))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        return matrix(stored, spec)


@dataclass(frozen=True)
class Squeeze(Base):
    """``[N, 1]`` as ``[N]``; another last axis stays."""

    name: ClassVar[str] = "squeeze"
    summary: ClassVar[str] = "[N, 1] as [N]"
    moves: ClassVar[bool] = False

    def spec(self, spec: Spec) -> Spec:
        """Without a last axis of one element."""
        return Spec(spec.dtype, spec.shape[:-1]) if spec.shape and spec.shape[-1] == 1 else spec

    def rows(self, spec: Spec) -> int:
        """Those that become one: ``[E, N, 1]`` is ``[E, N]``."""
        return spec.shape[-2] if len(spec.shape) > 2 and spec.shape[-1] == 1 else 1

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """The same shape, unless that would not have stayed."""
        return Spec(spec.dtype, (*stored.shape, 1) if stored.shape[-1:] == (1,) else stored.shape)


@dataclass(frozen=True)
class Unsqueeze(Base):
    """``[.., N, G]`` as ``[.., N, G, 1]``; one column, ``[.., N, 1]``, stays."""

    name: ClassVar[str] = "unsqueeze"
    summary: ClassVar[str] = "[N, G] as [N, G, 1]; [N, 1] stays"
    moves: ClassVar[bool] = False

    def spec(self, spec: Spec) -> Spec:
        """One more axis of one element, unless the last has but one. Raises PlanError without rows."""
        if len(spec.shape) < 2:
            raise PlanError(f"{spec} has no rows of groups")
        return spec if spec.shape[-1] == 1 else Spec(spec.dtype, (*spec.shape, 1))

    def decode(self, stored: Array, spec: Spec) -> Array:
        """See :class:`.core.codec.Codec`."""
        return matrix(stored, spec)

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """Without the last axis, where there are three."""
        if stored.shape[-1:] != (1,) or len(stored.shape) < 2:
            return None
        return Spec(spec.dtype, stored.shape[:-1] if len(stored.shape) > 2 else stored.shape)


@dataclass(frozen=True)
class InGroups(Base):
    """Rows as they are. Files of others may have the columns of a row as two axes: ``[N, K]`` as ``[N, G, K /
    G]``, however many groups those are.
    """

    name: ClassVar[str] = "in_groups"
    summary: ClassVar[str] = "rows as they are; those of others may be in groups, [N, G, K / G]"
    moves: ClassVar[bool] = False
    folds: ClassVar[bool] = True

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """The last two of three axes as one."""
        if len(stored.shape) < 3:
            return super().before(stored, spec)
        return Spec(spec.dtype, (*stored.shape[:-2], stored.shape[-2] * stored.shape[-1]))


@dataclass(frozen=True)
class Reshape(Base):
    """The one number of a whole tensor, ``[]``, under another shape; what has axes already keeps them.

    Args:
        shape: all ones.
    """

    name: ClassVar[str] = "reshape"
    summary: ClassVar[str] = "the one number of a whole tensor as [1] or the like"
    moves: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {
        "shape": Constraint(
            "a list of ones: only one element can be reshaped",
            ([], [1], [1, 1]),
            lambda value: (
                isinstance(value, list)
                and all(type(one) is int for one in value)
                and prod(value) == 1
                and all(one == 1 for one in value)
            ),
        )
    }

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))  # a list in JSON and YAML
        super().__post_init__()

    def spec(self, spec: Spec) -> Spec:
        """The shape, for one number without axes."""
        return spec if spec.shape else Spec(spec.dtype, self.shape)

    def before(self, stored: Spec, spec: Spec) -> Spec | None:
        """One number without axes, or what has others."""
        if not stored.shape and self.shape:
            return None
        return Spec(spec.dtype, () if stored.shape == self.shape else stored.shape)
