"""Weights of columns as values of a plan: what they are made of is read when they are wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....core.context import Context, Statistic
from ....core.records import dataclass
from ....core.spec import Spec
from ....core.tensor import LazyTensor
from ....core.value import Value
from ....errors import DataError, FormatError

__all__ = ["Columns", "Deviation", "Gain", "Stored", "checked", "spread"]

Weights = NDArray[np.float32]
"""Of columns: ``[m, K]``, a row for all matrices of a stack, or one for each."""


class Columns(Value, ABC):
    """Weights of the columns of one tensor. Implementations are frozen dataclasses."""

    __slots__ = ()

    @property
    def needs(self) -> tuple[Statistic[Any], ...]:
        """Looks at whole tensors that they wait for."""
        return ()

    @abstractmethod
    def weights(self, context: Context) -> Weights:
        """Finite, not negative, not all zero in any row.

        Raises:
            TranscodeError: they are not.
        """


@dataclass(frozen=True, slots=True)
class Stored(Columns):
    """Those of a file.

    Attributes:
        file: its name, for errors.
        name: of the entry there.
        sums: of squares, or their mean: float, ``[K]`` or ``[m, K]``.
        counts: by how many each row's sum is divided, a number to a row; None for ``calls``.
        calls: by how many all are divided.
        row: the one that is meant; None for all.
        width: columns of the matrix: older files hold the rows of a stack one behind the other.
    """

    file: str
    name: str
    sums: LazyTensor
    counts: LazyTensor | None = None
    calls: int = 1
    row: int | None = None
    width: int = 0

    def weights(self, context: Context) -> Weights:
        """Of the run's cache."""
        return context.held(self)

    def matrix(self) -> Weights:
        """See :meth:`weights`; a row that was never counted is 1 everywhere (llama.cpp, ``quantize.cpp``)."""
        sums = np.asarray(self.sums.numpy()).astype(np.float32)
        if self.counts is None:
            whole = self.width and sums.size % self.width == 0
            width = self.width if whole else sums.shape[-1]
            rows = sums.reshape(-1, width) / np.float32(max(self.calls, 1))
        else:
            counts = np.asarray(self.counts.numpy()).astype(np.float32).reshape(-1, 1)
            rows = sums.reshape(len(counts), -1)
            rows = np.where(counts > 0, rows / np.where(counts > 0, counts, 1), np.float32(1))
        if self.row is not None:
            rows = rows[self.row : self.row + 1]
        return checked(rows, self.file, self.name)


@dataclass(frozen=True, slots=True)
class Gain(Columns):
    """The squared gain of the norm that stands before.

    Attributes:
        gain: float ``[K]``.
        plus_one: the norm multiplies by one more than it stores.
    """

    gain: LazyTensor
    plus_one: bool

    def weights(self, context: Context) -> Weights:
        """Of the run's cache."""
        return context.held(self)

    def matrix(self) -> Weights:
        """See :meth:`weights`."""
        gain = np.asarray(self.gain.numpy()).astype(np.float32)
        rows: Weights = np.square(gain + np.float32(self.plus_one)).reshape(1, -1)
        if not np.isfinite(rows).all() or not rows.any():
            raise DataError(
                "is not finite, or all zero: its squares weigh no columns",
                tensor=self.gain.source or self.gain.name,
                hint="quantize without importance, or exclude what stands behind it",
            )
        return rows


@dataclass(frozen=True, slots=True)
class Deviation(Statistic[NDArray[np.int64]]):
    """Sums of each column and of its squares: exact, so that they are the same in any order."""

    tensor: LazyTensor

    @property
    def spec(self) -> Spec:
        """Of the tensor."""
        return self.tensor.spec

    def tiles(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """As it is read."""
        return self.tensor.tiles(nbytes)

    def look(self, start: int, stop: int, context: Context) -> NDArray[np.int64]:
        """See :func:`.numerics.deviation.sums`. Raises DataError where a value is not finite."""
        from ....numerics import NonFinite
        from ....numerics.deviation import sums
        from ....numerics.rows import as_float32, reject

        rows = self.tensor.matrix(start, stop, context)
        dtype = self.tensor.spec.dtype
        summed = sums(as_float32(rows, dtype, context))
        if summed is None:
            error: NonFinite = reject(rows, dtype)
            raise DataError(
                f"{error.value!r} at row {start + error.row}, column {error.column}",
                tensor=self.tensor.source or self.tensor.name,
                hint="repair the source, or exclude the tensor",
            )
        return summed

    def merge(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
        """Their sums."""
        return one + other


@dataclass(frozen=True, slots=True)
class Spread(Columns):
    """One over the variance of each column, as SINQ's column scales even out deviations (2509.22944).

    Attributes:
        deviation: of the tensor.
    """

    deviation: Deviation

    @property
    def needs(self) -> tuple[Statistic[Any], ...]:
        """One look at the tensor."""
        return (self.deviation,)

    def weights(self, context: Context) -> Weights:
        """Columns of next to no variance count as if they had a millionth of the mean."""
        from ....numerics.deviation import variances

        variance = variances(context.value(self.deviation), self.deviation.spec.rows)
        mean = variance.mean()
        if not mean > 0:
            return np.ones((1, len(variance)), np.float32)
        weights: Weights = (mean / np.maximum(variance, mean * 1e-6)).astype(np.float32)
        return weights.reshape(1, -1)


def spread(tensor: LazyTensor) -> Spread:
    """The weights of a tensor's columns by their own deviations."""
    return Spread(Deviation(tensor))


def checked(rows: Weights, file: str, name: str) -> Weights:
    """Weights of a file, if they are some.

    Raises:
        FormatError: one is not finite, or negative; or all of a row are zero.
    """
    bad = ~(np.isfinite(rows) & (rows >= 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        where = f"column {column}" if len(rows) == 1 else f"row {row}, column {column}"
        raise FormatError(
            f"weighs {where} with {rows[row, column]:g}", file=file, tensor=name,
            hint="weights are finite and not negative: make the file anew",
        )  # fmt: skip
    if not rows.any(1).all():
        raise FormatError(
            "weighs all columns with zero", file=file, tensor=name, hint="leave it out of the file"
        )
    whole: Weights = np.ascontiguousarray(rows)
    return whole
