"""``quant_method: quanto``, which Diffusers reads, and the map of layers that optimum-quanto itself reads.

Source: ``QuantoConfig`` of diffusers 0.42; ``QuantizedTransformersModel`` of ``transformers_models.py``
and ``quantization_map`` of ``quantize.py`` in huggingface/optimum-quanto 0.2.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, SideStatement, Statement, Unsayable, e4m3_only
from .layers import Layers
from .stated import Json

__all__ = ["Quanto"]

_MAP = "quanto_qmap.json"
_TYPES = {
    "int8": ("int8", "qint8"), "fp8": ("float8", "qfloat8_e4m3fn"),
    "qbits4": ("int4", "qint4"), "qbits2": ("int2", "qint2"),
}  # fmt: skip
"""Scheme, with its bits -> what Diffusers and what quanto calls it."""


class Quanto(Dialect):
    """One type for all layers but those that are named; the map names each layer that is quantized."""

    method = "quanto"
    schemes: ClassVar[tuple[str, ...]] = ("int8", "fp8", "qbits")
    unquantized = "modules_to_not_convert"
    by_prefix = False
    telling: ClassVar[tuple[str, ...]] = ("weights_dtype",)
    beside: ClassVar[tuple[SideStatement, ...]] = (SideStatement(_MAP, "", ""),)

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        kinds = {module: _type(module, tensor.scheme) for module, tensor in sorted(layers.quantized.items())}
        if len(set(kinds.values())) > 1:
            few = dict(zip(kinds.values(), kinds, strict=True))
            words = " and ".join(f"{module} in {kind}" for (kind, _), module in few.items())
            raise Unsayable(f"quant_method {self.method} knows one format for all layers, here are {words}")
        ((dtype, called),) = set(kinds.values())
        said = {"quant_method": self.method, "weights_dtype": dtype, self.unquantized: list(layers.kept)}
        named = {module: {"weights": called, "activations": "none"} for module in kinds}
        return Statement(said, files={_MAP: named})

    def denies(self, statement: Json, scheme: Any) -> str | None:
        """See :meth:`.dialect.Dialect.denies`: Diffusers says ``weights_dtype``, transformers ``weights``."""
        key = "weights_dtype" if "weights_dtype" in statement else "weights"
        stated = statement.get(key)
        return None if stated is None or stated in _TYPES.get(_kind(scheme), ()) else f"{key} {stated!r:.40}"

    def leave_out_beside(
        self, side: SideStatement, content: Json, decoded: Sequence[str], coded: Sequence[str]
    ) -> None:
        """See :meth:`.dialect.Dialect.leave_out_beside`: it names those that are quantized."""
        for name in decoded:
            content.pop(name.removesuffix(".weight"), None)


def _type(module: str, scheme: Any) -> tuple[str, str]:
    if scheme.name not in Quanto.schemes:
        raise Unsayable(f"quant_method quanto knows {', '.join(Quanto.schemes)}, {module} is {scheme.name}")
    if scheme.name == "fp8":
        e4m3_only(scheme, Quanto.method)
    return _TYPES[_kind(scheme)]


def _kind(scheme: Any) -> str:
    return f"qbits{scheme.bits}" if scheme.name == "qbits" else str(scheme.name)
