"""Adapters that add a product which is not of low rank: LoHa's of Hadamard, LoKr's of Kronecker."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from ...core.context import Context
from ...core.records import dataclass
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from .delta import F32Array, LowRank, Step, bare, load, load_all

__all__ = ["Hadamard", "Kronecker"]


@dataclass(frozen=True)
class Hadamard:
    """``(up1 @ down1) * (up2 @ down2)``, element by element.

    LyCORIS's LoHa (``lycoris/functional/loha.py``) and PEFT's (``peft/tuners/loha/layer.py``): ``hada_w1_a``
    is up, ``hada_w1_b`` down; with ``hada_t1``, a core, ``hada_w1_a`` is stored as ``[r, O]``.
    """

    one: LowRank
    other: LowRank

    @property
    def rank(self) -> int:
        """Of each of the two products."""
        return self.one.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the product."""
        return self.one.shape

    def described(self) -> str:
        return "LoHa"

    def disagree(self) -> str | None:
        """Why the factors do not fit each other; None if they do."""
        if (why := self.one.disagree() or self.other.disagree()) is not None:
            return why
        if self.one.shape != self.other.shape:
            return f"makes {self.one.shape}, the other side {self.other.shape}"
        return None

    def refuses(self, spec: Spec) -> str | None:
        return _refuses("LoHa", self.shape, spec)

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        from ...numerics.lora import add_hadamard, add_product

        up1, down1 = self.one.factors(first, last, context)
        up2, down2 = self.other.factors(first, last, context)
        left, right = context.take((block,), np.float32), context.take((block,), np.float32)

        def step(row: int, out: F32Array) -> None:
            for up, down, side in ((up1, down1, left), (up2, down2, right)):
                product = side[: out.size].reshape(out.shape)
                product[...] = 0
                add_product(up[row - first : row - first + out.shape[0]], down, np.float32(1), product)
            add_hadamard(left[: out.size], right[: out.size], scale, out.reshape(-1))

        return step


@dataclass(frozen=True)
class Kronecker:
    """``kron(w1, w2)``, each side whole or a product of two factors.

    LyCORIS's LoKr (``lycoris/functional/lokr.py``) and PEFT's (``peft/tuners/lokr/layer.py``). Row
    ``a * P + p`` is that of w1's row a and w2's row p; w2's kernel, if it has one, stays behind its columns.

    Attributes:
        file: where it comes from, for errors.
        w1: ``[A, B]``, or factors of it.
        w2: ``[P, Q]`` or ``[P, Q, *kernel]``, or factors of it.
    """

    file: Path
    w1: LazyTensor | LowRank
    w2: LazyTensor | LowRank

    @property
    def rank(self) -> int | None:
        """Of w2, else of w1; None where both are whole. As ComfyUI takes it; LyCORIS has one for both."""
        return next((side.rank for side in (self.w2, self.w1) if isinstance(side, LowRank)), None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the product."""
        outer, inner = _shape(self.w1), _shape(self.w2)
        return (outer[0] * inner[0], outer[1] * inner[1], *inner[2:])

    def described(self) -> str:
        return "LoKr"

    def disagree(self) -> str | None:
        """Why the sides do not make a product; None if they do."""
        for side in (self.w1, self.w2):
            if isinstance(side, LowRank) and (why := side.disagree()) is not None:
                return why
        if len(bare(_shape(self.w1))) != 2 or len(_shape(self.w2)) < 2:
            return f"w1 {_shape(self.w1)} and w2 {_shape(self.w2)} are no sides of a Kronecker product"
        return None

    def refuses(self, spec: Spec) -> str | None:
        return _refuses("LoKr", self.shape, spec)

    def matrix(self) -> F32Array:
        """All of w1: float32 ``[A, B]``."""
        from ...numerics.lora import add_product

        if not isinstance(self.w1, LowRank):
            return load_all(self.file, self.w1).reshape(self.w1.spec.shape[:2])
        rows, columns = self.w1.shape[:2]
        up, down = self.w1.factors(0, rows, Context())
        matrix = np.zeros((up.shape[0], columns), np.float32)
        add_product(up, down, np.float32(1), matrix)
        return matrix[:rows]

    def open(self, first: int, last: int, block: int, scale: np.float32, context: Context) -> Step:
        from ...numerics.lora import add_kronecker, add_product, padded

        left = context.held(self)
        shape = _shape(self.w2)
        count, width = shape[0], prod(shape[1:])
        longest = padded(min(count, last - first))
        right = context.take((longest, width), np.float32)
        ups = None
        if isinstance(self.w2, LowRank):
            # Rows of w2 come again and again, so all of its factor stays: less than the rows of the product.
            ups = self.w2.factors(0, count, context)

        def step(row: int, out: F32Array) -> None:
            stop = min(row + out.shape[0], last)
            at = row
            while at < stop:
                a, p = divmod(at, count)
                length = min(count - p, stop - at)
                if ups is None:
                    assert isinstance(self.w2, LazyTensor)
                    load(self.file, self.w2, p * width, (p + length) * width, right.reshape(-1), context)
                else:
                    up, down = ups
                    lines = right[: padded(length)]
                    lines[...] = 0
                    some = np.zeros((lines.shape[0], up.shape[1]), np.float32)
                    some[:length] = up[p : p + length]
                    add_product(some, down, np.float32(1), lines)
                add_kronecker(left[a], right[:length], scale, out[at - row : at - row + length])
                at += length

        return step


def _shape(side: LazyTensor | LowRank) -> tuple[int, ...]:
    return side.shape if isinstance(side, LowRank) else side.spec.shape


def _refuses(kind: str, shape: tuple[int, ...], spec: Spec) -> str | None:
    """Why a product does not fit. One whose kernel was flattened into its columns fits too."""
    fits = bare(spec.shape) == bare(shape) or (
        len(shape) == 2 and (spec.shape[0], prod(spec.shape[1:])) == shape
    )
    if len(spec.shape) < 2 or not fits:
        return f"the {kind} makes [{','.join(map(str, shape))}], which does not fit {spec}"
    return None
