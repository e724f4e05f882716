"""8-bit floats under scales, see :mod:`..floats` for what arguments mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..minifloat import FORMATS
from .arithmetic import blocks, encode8, fit, peaks, unblocked
from .worker import Array, Worker

__all__ = ["scaled"]

_COST = 24
_KINDS = {int(kind.normal_bits): kind for kind in FORMATS.values() if kind.bits == 8 and kind.signed}


def scaled(
    worker: Worker, rows: Array, height: int, width: int, stored: int, tensor_scale: Any,
    largest: Any, normal_bits: Any, mantissa_shift: Any, magic: Any, codes: Array, scales: Array,
) -> bool:  # fmt: skip
    """See :func:`..floats.scaled`."""
    whole = float(tensor_scale) > 0
    if whole:
        scales[...] = tensor_scale
        height, width = 1, rows.shape[1]
    scale_of_all = worker.number(float(tensor_scale))
    divisor = worker.number(float(largest))
    kind = _KINDS[int(normal_bits)]
    top = float(largest)
    limit = float((np.float32(top).view(np.uint32) + (1 << int(mantissa_shift) - 1)).view(np.float32))

    def compute(values: torch.Tensor) -> Any:
        cut = blocks(values, height, width)
        if whole:
            scale, finite = scale_of_all, None
        else:
            peak = peaks(cut)
            finite = torch.isfinite(peak).all()
            scale = fit(peak, divisor, limit, stored)
        encoded = unblocked(encode8(cut.float() / scale, kind.name, top), *values.shape)
        return finite, (encoded,) if whole else (encoded, scale[:, 0, :, 0])

    return worker.stream(rows, height, (codes,) if whole else (codes, scales), _COST, compute)
