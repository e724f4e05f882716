"""``quant_method: bfl`` of Diffusers: which layers are quantized their scales tell; none is written so.

Source: ``BFLQuantizationConfig`` of diffusers, which is given to ``from_single_file`` and takes no list.
"""

from __future__ import annotations

from .dialect import Dialect

__all__ = ["Bfl"]


class Bfl(Dialect):
    """Says what is computed in, and nothing of any layer: its list is for people."""

    method = "bfl"
    unquantized = "modules_to_not_convert"
    by_prefix = False
