"""``quant_method: fp8``: FP8 in blocks, as DeepSeek-V3 and what follows it have it.

Source: config.json of deepseek-ai/DeepSeek-V3, ``FineGrainedFP8Config`` of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, Statement, Unsayable, e4m3_only
from .layers import Layers
from .stated import Json

__all__ = ["Fp8"]

_BLOCK = "weight_block_size"
_SCALES = "scale_fmt"
"""Powers of two are ``ue8m0``; without the key scales are any floats."""


class Fp8(Dialect):
    """One size of blocks for all layers but those that are named."""

    method = "fp8"
    schemes: ClassVar[tuple[str, ...]] = ("fp8",)
    unquantized = "modules_to_not_convert"

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        blocks, kept = set(), set()
        for module, tensor in layers.quantized.items():
            scheme: Any = tensor.scheme
            if scheme.name != "fp8" or scheme.granularity != "block":
                raise Unsayable(
                    f"quant_method fp8 knows fp8 in blocks alone, {module} is {_described(scheme)}"
                )
            e4m3_only(scheme, "quant_method fp8")
            blocks.add(tuple(scheme.block))
            kept.add("ue8m0" if scheme.scale_dtype == "F8_E8M0" else "float")
        if len(blocks) > 1:
            sizes = " and ".join(f"{rows}x{columns}" for rows, columns in sorted(blocks))
            raise Unsayable(f"quant_method fp8 knows blocks of one size, here are {sizes}")
        if len(kept) > 1:
            raise Unsayable("quant_method fp8 knows scales of one kind, here are F8_E8M0 and others")
        return Statement(
            {
                "activation_scheme": "dynamic",
                "fmt": "e4m3",
                "quant_method": self.method,
                _BLOCK: list(blocks.pop()),
                **({_SCALES: "ue8m0"} if kept == {"ue8m0"} else {}),
                self.unquantized: layers.kept_by_prefix(planning),
            }
        )

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`: the size of blocks."""
        if _BLOCK in statement:
            yield {_BLOCK: statement[_BLOCK]}


def _described(scheme: Any) -> str:
    granularity = getattr(scheme, "granularity", None)
    return str(scheme.name) if granularity is None else f"{scheme.name} with one scale to a {granularity}"
