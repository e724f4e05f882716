"""``quant_method: nunchaku_lite``, of Diffusers: which layers have nunchaku's tensors, by their names.

Source: ``NunchakuLiteQuantizationConfig`` of ``quantizers/quantization_config.py`` and
``quantizers/nunchaku/utils.py`` in diffusers 0.42.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ...core.planning import Planning
from ...errors import PlanError
from .dialect import Dialect, Statement, Unsayable
from .layers import Layers
from .stated import CONFIG, Json

__all__ = ["NunchakuLite"]

_SVDQ, _AWQ, _TARGETS = "svdq_w4a4", "awq_w4a16", "targets"
_GROUP = 64
_TORCH = {"BF16": "bfloat16", "F16": "float16"}


class NunchakuLite(Dialect):
    """Lists the layers that are quantized: one list for those whose inputs are, one for the others."""

    method = "nunchaku-lite"
    said = "nunchaku_lite"
    schemes: ClassVar[tuple[str, ...]] = ("affine",)
    unquantized = ""
    by_prefix = False
    covering = True
    telling: ClassVar[tuple[str, ...]] = (_SVDQ, _AWQ)

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`: layers whose inputs are not quantized, the only ones that are
        made of weights alone.
        """
        dtypes = set()
        for module, tensor in layers.quantized.items():
            scheme: Any = tensor.scheme
            if scheme.name != "affine" or (scheme.bits, scheme.group_size) != (4, _GROUP):
                raise Unsayable(f"quant_method nunchaku_lite knows no such {scheme.name} as {module} is")
            dtypes |= {part.spec.dtype.name for part in tensor.parts if part.role == "scale"}
        if len(dtypes) != 1 or not dtypes <= _TORCH.keys():
            raise Unsayable(f"quant_method nunchaku_lite knows no scales in {' and '.join(sorted(dtypes))}")
        said = {"precision": "int4", "group_size": _GROUP, _TARGETS: list(layers.quantized)}
        (dtype,) = dtypes
        return Statement({"quant_method": self.said, "compute_dtype": _TORCH[dtype], _AWQ: said})

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`: all of its codes have 4 bits; dtypes tell the groups."""
        if any(key in statement for key in self.telling):
            yield {"num_bits": 4}

    def covers(self, statement: Json, module: str) -> bool | None:
        """See :meth:`.dialect.Dialect.covers`."""
        return any(module in targets for targets in _listed(statement))

    def _list(self, statement: Json, key: str, decoded: Sequence[str], coded: Sequence[str]) -> None:
        gone = {name.removesuffix(".weight") for name in decoded}
        for targets in _listed(statement):
            targets[:] = [name for name in targets if name not in gone]


def _listed(statement: Json) -> Iterator[list[str]]:
    """Both lists, as far as they are there. Raises PlanError for what is none."""
    for key in (_SVDQ, _AWQ):
        said = statement.get(key)
        if said is None:
            continue
        targets = said.get(_TARGETS) if isinstance(said, dict) else None
        if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
            raise PlanError(
                f"{CONFIG}: {key} has no list of {_TARGETS}: which layers are quantized is not certain",
                hint="let it say what is true; or dequantize all",
            )
        yield targets
