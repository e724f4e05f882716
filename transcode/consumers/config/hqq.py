"""``quant_method: hqq``: how layers are quantized stands beside each of them; none is written so.

Source: ``HqqConfig`` of transformers, ``HQQLinear.state_dict`` of ``hqq/core/quantize.py``.
"""

from __future__ import annotations

from .dialect import Dialect

__all__ = ["Hqq"]


class Hqq(Dialect):
    """Says what all layers have alike, and which are left out."""

    method = "hqq"
    unquantized = "skip_modules"
    by_prefix = False
