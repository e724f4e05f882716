"""What mlx-lm says under ``quantization``, and once more under ``quantization_config``.

Source: ``load_model``, ``quantize_model`` and ``save_config`` of ``mlx_lm/utils.py`` in ml-explore/mlx-lm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, Statement, Unsayable, e4m3_only
from .layers import Layers
from .stated import MLX_KEY, Json

__all__ = ["Mlx"]


class Mlx(Dialect):
    """A width, size of groups and mode for all layers, and others for those that are named.

    Layers without scales are plain for its loader, listed or not: the list is for people.
    """

    method = "mlx"
    schemes: ClassVar[tuple[str, ...]] = ("affine", "mxfp4", "mxfp8")
    unquantized = "modules_to_not_convert"
    by_prefix = False
    telling: ClassVar[tuple[str, ...]] = ("mode",)

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        kinds = {module: _kind(module, tensor.scheme) for module, tensor in layers.quantized.items()}
        ((most, _),) = Counter(tuple(kind.items()) for kind in kinds.values()).most_common(1)
        stated = {**dict(most), **{module: kind for module, kind in kinds.items() if kind != dict(most)}}
        words = {**stated, "quant_method": self.method, self.unquantized: list(layers.kept)}
        return Statement(words, keys={MLX_KEY: stated})

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`: those of all layers, and of each that is named."""
        for one in (statement, *(value for value in statement.values() if isinstance(value, dict))):
            if "bits" in one:
                own = {"group_size": one.get("group_size")} if one.get("mode", "affine") == "affine" else {}
                yield {"num_bits": one.get("bits"), **own}

    def leave_out(self, statement: Json, decoded: Sequence[str], coded: Sequence[str]) -> None:
        """See :meth:`.dialect.Dialect.leave_out`."""
        super().leave_out(statement, decoded, coded)
        for name in decoded:
            statement.pop(name.removesuffix(".weight"), None)


def _kind(module: str, scheme: Any) -> Json:
    match scheme.name:
        case "affine":
            return {"group_size": scheme.group_size, "bits": scheme.bits, "mode": "affine"}
        case "mxfp4":
            return {"group_size": 32, "bits": 4, "mode": "mxfp4"}
        case "mxfp8":
            e4m3_only(scheme, "MLX")
            return {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    raise Unsayable(f"MLX knows no {scheme.name}, which {module} is")
