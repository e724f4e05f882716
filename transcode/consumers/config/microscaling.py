"""``quant_method: mxfp8`` and ``mxfp4``: models that come so are read; none is written so.

Source: ``FineGrainedFP8Config`` (of which ``mxfp8`` has the keys) and ``Mxfp4Config`` of transformers.
"""

from __future__ import annotations

from .dialect import Dialect
from .fp8 import Fp8

__all__ = ["Mxfp4", "Mxfp8"]


class Mxfp8(Fp8):
    """The words of ``fp8``, for codes whose scales are exponents."""

    method = "mxfp8"
    schemes = ()

    state = Dialect.state


class Mxfp4(Dialect):
    """Says which modules are not quantized, and nothing else."""

    method = "mxfp4"
    unquantized = "modules_to_not_convert"
