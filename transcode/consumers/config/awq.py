"""``quant_method: awq``, which AutoAWQ, GPTQModel, transformers, vLLM and SGLang read.

Source: ``awq/models/_config.py`` of casper-hansen/AutoAWQ, ``AwqConfig`` of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, Statement
from .gptq import one_kind
from .layers import Layers
from .stated import Json

__all__ = ["Awq"]


class Awq(Dialect):
    """One size of groups for all layers but those that are named. All of them have zero points."""

    method = "awq"
    schemes: ClassVar[tuple[str, ...]] = ("int4",)
    unquantized = "modules_to_not_convert"
    telling: ClassVar[tuple[str, ...]] = ("zero_point",)

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        size, _ = one_kind(layers, self.method)
        return Statement(
            {
                "quant_method": self.method,
                "version": "gemm",
                "bits": 4,
                "group_size": size,
                "zero_point": True,
                self.unquantized: layers.kept_by_prefix(planning),
            }
        )

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`."""
        if (bits := statement.get("bits", statement.get("w_bit"))) is None:
            return
        size = statement.get("group_size", statement.get("q_group_size"))
        zeros = statement.get("zero_point")
        yield {"num_bits": bits, "group_size": size, "symmetric": None if zeros is None else not zeros}
