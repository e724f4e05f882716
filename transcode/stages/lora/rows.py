"""Adapters that change each row of a tensor by itself and do not just add: DoRA, IA3, GLoRA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.context import Context
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...errors import DataError
from .delta import Delta, F32Array, LowRank, Step, bare, load_all

__all__ = ["Decomposed", "Generalized", "Scaled"]

F64Array = NDArray[np.float64]


class Sums(Protocol):
    """What knows the sums of squares of a tensor's columns."""

    def total(self, context: Context) -> F64Array:
        """Over the whole tensor: ``[width]``."""


@dataclass(frozen=True)
class Decomposed:
    """DoRA: ``V = W + s * delta``, then ``V * magnitude / norm(V)``.

    The norm is that of each output's row (PEFT, ``peft/tuners/lora/dora.py``; LyCORIS with ``wd_on_out``), or
    of each input's column (LyCORIS without; ``lycoris/functional/general.py``, ``weight_decompose``). LyCORIS
    adds the least step of float32 to it. A strength other than 1 takes W so far towards that, as ComfyUI does
    (``comfy/weight_adapter/base.py``); LyCORIS would leave the delta whole even at 0.

    Attributes:
        file: where it comes from, for errors.
        inner: what is added.
        factor: how many times.
        magnitude: ``[O]``, ``[O, 1, ...]`` or ``[1, O, 1, ...]`` of outputs, ``[1, I, 1, ...]`` of inputs.
        epsilon: added to norms.
        outputs: whether a magnitude of ``[1, n, 1, ...]`` is one of outputs, as PEFT's of convolutions are.
    """

    file: Path
    inner: Delta
    factor: np.float32
    magnitude: LazyTensor
    epsilon: float
    outputs: bool
    sums: Sums | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is added."""
        return self.inner.shape

    def described(self) -> str:
        return "DoRA"

    def refuses(self, spec: Spec) -> str | None:
        if (why := self.inner.refuses(spec)) is not None:
            return why
        if self._inputs(spec) is None:
            return f"magnitudes {self.magnitude.spec} are neither of outputs nor of inputs of {spec}"
        return None

    def _inputs(self, spec: Spec) -> bool | None:
        """Whether magnitudes are of inputs; None where they are of neither."""
        shape = self.magnitude.spec.shape
        whole = (1, spec.shape[1], *(1 for _ in shape[2:]))
        if not self.outputs and shape == whole and shape != (1, 1):
            return True
        if self.magnitude.spec.numel == spec.shape[0] and (self.outputs or shape[0] == spec.shape[0]):
            return False
        return None

    def observed(self, spec: Spec) -> Delta | None:
        return _Scaled(self.inner, self.factor) if self._inputs(spec) else None

    def with_sums(self, sums: Sums) -> Decomposed:
        return replace(self, sums=sums)

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        from ...numerics.lora import row_squares

        inner = self.inner.open(first, last, block, self.factor, context)
        before = context.take((block,), np.float32)
        magnitude = load_all(self.file, self.magnitude).reshape(-1).astype(np.float64)
        columns: F32Array | None = None
        if self.sums is not None:
            # A kernel's places count together: its squares are summed in their order, and share a factor.
            sums = self.sums.total(context).reshape(magnitude.size, -1)
            total = np.zeros(magnitude.size)
            for place in range(sums.shape[1]):
                total += sums[:, place]
            columns = np.repeat(self._factors(magnitude, total), sums.shape[1])

        def step(row: int, out: F32Array) -> None:
            count = min(last - row, out.shape[0])
            rows = out[:count]
            kept = before[: rows.size].reshape(rows.shape)
            kept[...] = rows
            inner(row, out)
            if columns is None:
                squares = np.empty(count)
                row_squares(rows, squares)
                rows *= self._factors(magnitude[row : row + count], squares)[:, None]
            else:
                rows *= columns
            if scale != 1:
                rows -= kept
                rows *= scale
                rows += kept

        return step

    def _factors(self, magnitude: F64Array, squares: F64Array) -> F32Array:
        norms = np.sqrt(squares) + self.epsilon
        if not norms.all():
            raise DataError(
                "a row of the merged tensor is zero, it has no direction that a magnitude could scale",
                file=self.file, tensor=self.magnitude.source or self.magnitude.name,
                hint="is it for this model?",
            )  # fmt: skip
        factors: F32Array = (magnitude / norms).astype(np.float32)
        return factors


@dataclass(frozen=True)
class _Scaled:
    """A delta that counts a factor times, whatever scale it is opened with."""

    inner: Delta
    factor: np.float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    def described(self) -> str:
        return self.inner.described()

    def refuses(self, spec: Spec) -> str | None:
        return self.inner.refuses(spec)

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        return self.inner.open(first, last, block, self.factor, context)


@dataclass(frozen=True)
class Scaled:
    """IA3: rows, or columns, times ``1 + strength * w``.

    LyCORIS (``lycoris/modules/ia3.py``) stores w, PEFT (``peft/tuners/ia3/layer.py``) ``1 + w``.

    Attributes:
        file: where it comes from, for errors.
        values: one for each output, or each input, in any shape.
        inputs: whether they are of inputs.
        offset: what is taken off the values to get w.
    """

    file: Path
    values: LazyTensor
    inputs: bool
    offset: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the factors."""
        return self.values.spec.shape

    def described(self) -> str:
        return "IA3"

    def refuses(self, spec: Spec) -> str | None:
        axis = 1 if self.inputs else 0
        if len(spec.shape) <= axis or self.values.spec.numel != spec.shape[axis]:
            side = "inputs" if self.inputs else "outputs"
            return f"IA3 {self.values.spec} has not one value for each of the {side} of {spec}"
        return None

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        values = load_all(self.file, self.values).reshape(-1).astype(np.float64)
        scales = (1 + np.float64(scale) * (values - self.offset)).astype(np.float32)

        def step(row: int, out: F32Array) -> None:
            count = min(last - row, out.shape[0])
            rows = out[:count]
            if self.inputs:
                rows *= np.repeat(scales, rows.shape[1] // scales.size)
            else:
                rows *= scales[row : row + count, None]

        return step


@dataclass(frozen=True)
class Generalized:
    """GLoRA: ``W + s * (W @ a1 @ a2 + b1 @ b2)`` (``lycoris/modules/glora.py``).

    W's columns are its inputs, at each place of a kernel by itself.

    Attributes:
        turn: ``a1 [I, r]`` and ``a2 [r, I]``.
        plus: ``b1 [O, r]`` and ``b2 [r, I]`` or ``[r, I, *kernel]``.
    """

    turn: LowRank
    plus: LowRank

    @property
    def rank(self) -> int:
        """Of each of the two products."""
        return self.turn.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is added."""
        return self.plus.shape

    def described(self) -> str:
        return "GLoRA"

    def disagree(self) -> str | None:
        """Why the factors do not fit each other; None if they do."""
        if (why := self.turn.disagree() or self.plus.disagree()) is not None:
            return why
        if bare(self.turn.shape) != (self.plus.shape[1], self.plus.shape[1]):
            return f"turns {self.turn.shape}, where {self.plus.shape} is added"
        return None

    def refuses(self, spec: Spec) -> str | None:
        return self.plus.refuses(spec)

    def matrix(self) -> F32Array:
        """a1: float32 ``[I padded, r padded]``."""
        from ...numerics.lora import RANKS, padded

        inputs, rank = self.turn.shape[0], self.turn.rank
        matrix = np.zeros((padded(inputs, RANKS), padded(rank, RANKS)), np.float32)
        matrix[:inputs, :rank] = load_all(self.turn.file, self.turn.up).reshape(inputs, rank)
        return matrix

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        from ...numerics.lora import add_product

        a1, a2 = context.held(self), context.held(self.turn)
        inputs = self.turn.shape[0]
        plus = self.plus.open(first, last, block, scale, context)

        def step(row: int, out: F32Array) -> None:
            places = out.shape[1] // inputs
            cut = out.reshape(out.shape[0], inputs, places)
            for place in range(places):
                rows = np.zeros((out.shape[0], a1.shape[0]), np.float32)
                rows[:, :inputs] = cut[:, :, place]
                middle = np.zeros((out.shape[0], a1.shape[1]), np.float32)
                add_product(rows, a1, np.float32(1), middle)
                turned = np.ascontiguousarray(rows[:, :inputs])
                add_product(middle, a2, scale, turned)
                cut[:, :, place] = turned
            plus(row, out)

        return step
