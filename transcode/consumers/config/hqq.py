"""``quant_method: hqq``: how layers are quantized stands beside each of them, too.

Source: ``HqqConfig`` of transformers 5.24, ``BaseQuantizeConfig`` of ``hqq/core/quantize.py``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, Statement, Unsayable
from .layers import Layers
from .stated import Json

__all__ = ["Hqq"]


class Hqq(Dialect):
    """Says what all layers have alike, or most, and which are left out."""

    method = "hqq"
    schemes: ClassVar[tuple[str, ...]] = ("hqq",)
    unquantized = "skip_modules"
    by_prefix = False

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        kinds = Counter(_kind(module, tensor.scheme) for module, tensor in layers.quantized.items())
        ((bits, size), _), *others = kinds.most_common()
        if others:
            raise Unsayable(f"quant_method hqq knows one width and size of groups, here are {len(kinds)}")
        weights: Json = {
            "nbits": bits, "channel_wise": True, "group_size": size, "optimize": True, "round_zero": False,
            "axis": 1, "view_as_float": False,
        }  # fmt: skip
        quantized = {
            "weight_quant_params": weights, "scale_quant_params": None, "zero_quant_params": None,
            "offload_meta": False,
        }  # fmt: skip
        said = {"quant_method": self.method, "quant_config": quantized, self.unquantized: list(layers.kept)}
        return Statement(said)


def _kind(module: str, scheme: Any) -> tuple[int, int]:
    if scheme.name != "hqq":
        raise Unsayable(f"quant_method hqq knows no {scheme.name}, which {module} is")
    return scheme.bits, scheme.group_size
