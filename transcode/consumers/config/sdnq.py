"""``quant_method: sdnq``, which SDNQ reads, for Diffusers and SD.Next.

Source: ``SDNQConfig`` and ``sdnq_quantize_layer_weight`` of ``sdnq/quantizer.py``, ``check_param_name_in``
and ``get_minimum_dtype`` of ``sdnq/utils.py``, sdnq 0.2.8.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, SideStatement, Statement, Unsayable
from .layers import Layers
from .stated import Json

__all__ = ["Sdnq"]

_LAYERS, _DTYPES = "modules_quant_config", "modules_dtype_dict"
_DTYPE, _GROUP = "weights_dtype", "group_size"

_BITS = {
    "int8": 8,
    "uint8": 8,
    "int4": 4,
    "uint4": 4,
    "uint2": 2,
    "float8_e4m3fn": 8,
    "float8_e5m2": 8,
    "fp8": 8,
}
"""Widths of the dtypes that are read."""

_FLOATS = {"e4m3fn": "float8_e4m3fn", "e5m2": "float8_e5m2"}

_BEYOND = ("use_hadamard", "use_codebook", "use_codebook_scale")
"""What changes values beside the parts that are read, where it is true."""

_SVD = "use_svd"

_COMPRESSED = ("scale_dtype", "zero_point_dtype")
"""What is no float where it is said."""

_WHOLE = -1
"""The size of groups where a row is one."""


class Sdnq(Dialect):
    """A dtype and a size of groups for all layers, and others for those that are named."""

    method = "sdnq"
    schemes: ClassVar[tuple[str, ...]] = ("int8", "fp8", "int4", "affine")
    unquantized = "modules_to_not_convert"
    by_prefix = False
    telling: ClassVar[tuple[str, ...]] = (_DTYPES,)
    beside = (SideStatement("quantization_config.json", "", unquantized),)

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        kinds = {module: _kind(module, tensor.scheme) for module, tensor in layers.quantized.items()}
        (most, _), *_ = Counter(kinds.values()).most_common(1)
        others = {
            f"{module}.weight": {_DTYPE: dtype, _GROUP: size}
            for module, (dtype, size) in sorted(kinds.items())
            if (dtype, size) != most
        }
        words = {
            "quant_method": self.method,
            _DTYPE: most[0],
            _GROUP: most[1],
            **dict.fromkeys((_SVD, *_BEYOND), False),
            **dict.fromkeys(_COMPRESSED),
            "quant_conv": False,
            "quant_embedding": False,
            "use_quantized_matmul": False,
            "dequantize_fp32": True,
            "add_skip_keys": False,
            self.unquantized: self.listing(layers.kept),
            _DTYPES: {},
            _LAYERS: others,
            "sdnq_version": "0.2.8",
        }
        return Statement(words, {side.file: words for side in self.beside})

    def entry(self, module: str) -> str:
        """See :meth:`.dialect.Dialect.entry`: a name with dots is compared with that of the parameter."""
        return f"{module}.weight"

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`.

        Shapes tell the size of groups from the width of codes. Where layers differ in width the sizes are
        said with them, as they tell which of two widths it is.
        """
        widths = {_BITS[dtype] for dtype, _ in _stated(statement) if dtype in _BITS}
        for dtype, size in _stated(statement):
            if dtype in _BITS:
                bits = _BITS[dtype]
                said: dict[str, Any] = {"num_bits": bits}
                if len(widths) > 1 and bits < 8:
                    said["group_size"] = size or 1 << bits + 2
                if "int" in dtype:
                    said["symmetric"] = not dtype.startswith("u")
                yield said

    def beyond_codes(self, statement: Json) -> str | None:
        """See :meth:`.dialect.Dialect.beyond_codes`: also dtypes that are packed in other ways."""
        if _DTYPE not in statement:
            return None
        layers = statement.get(_LAYERS)
        for one in (statement, *(layers.values() if isinstance(layers, dict) else ())):
            if not isinstance(one, dict):
                continue
            for key in _BEYOND:
                if one.get(key):
                    return f"{key} {str(one[key]).lower()}"
            for key in _COMPRESSED:
                if one.get(key) not in (None, "none"):
                    return f"{key} {one[key]!r}"
        for dtype, size in _stated(statement):
            if dtype not in _BITS:
                return f"{_DTYPE} {dtype!r}"
            if size == _WHOLE - 1:
                return f"{_GROUP} {size}, one scale to a tensor"
        return None

    def denies(self, statement: Json, scheme: Any) -> str | None:
        """See :meth:`.dialect.Dialect.denies`."""
        stated = dict.fromkeys(dtype for dtype, _ in _stated(statement))
        fits = not stated or stated.keys() & _called(scheme)
        return None if fits else f"{_DTYPE} {' and '.join(stated)!r:.60}"

    def _list(self, statement: Json, key: str, decoded: Sequence[str], coded: Sequence[str]) -> None:
        super()._list(statement, key, decoded, coded)
        if isinstance(layers := statement.get(_LAYERS), dict):
            for name in decoded:
                layers.pop(name, None)


def _stated(statement: Json) -> Iterator[tuple[str, int]]:
    """Dtype and size of groups of all layers, and of those that are named; 0 where the dtype tells the size.

    Nothing where that is said in other words than SDNQ's.
    """
    if _DTYPE not in statement:
        return
    layers, dtypes = statement.get(_LAYERS), statement.get(_DTYPES)
    dtype, size = statement[_DTYPE], statement.get(_GROUP, 0)
    yield str(dtype), size if isinstance(size, int) else 0
    for one in layers.values() if isinstance(layers, dict) else ():
        if isinstance(one, dict) and (_DTYPE in one or _GROUP in one):
            own = one.get(_GROUP, size)
            yield str(one.get(_DTYPE, dtype)), own if isinstance(own, int) else 0
    for key in dtypes if isinstance(dtypes, dict) else ():
        yield _least(str(key).lower(), str(dtype)), size if isinstance(size, int) else 0


def _least(key: str, dtype: str) -> str:
    """What layers under a key of its table have: that dtype, or at least so many bits (``minimum_6bit``)."""
    if not (key.startswith("minimum") or key.endswith(("bit", "bits"))):
        return key
    said = re.fullmatch(r"(?:minimum)?[-_]?(u?int)?(\d+)[-_]?(?:bits?)?", key)
    if said is None:
        return key
    bits, own = int(said[2]), re.search(r"\d+", dtype)
    if own is None or int(own[0]) >= bits:
        return dtype
    return f"{'uint' if said[1] == 'uint' or bits <= 4 else 'int'}{bits}"


def _called(scheme: Any) -> set[str]:
    """SDNQ's names of such codes, however many columns share a scale, with a branch or without."""
    match scheme.name.removesuffix("_svd"):
        case "fp8":
            return {_FLOATS[scheme.format], "fp8"} if scheme.format == "e4m3fn" else {_FLOATS[scheme.format]}
        case "affine":
            return {f"uint{scheme.bits}"}
        case name:
            return {name if getattr(scheme, "symmetric", True) else f"u{name}"}


def _kind(module: str, scheme: Any) -> tuple[str, int]:
    """SDNQ's name of the codes of a layer, and how many columns share a scale."""
    match scheme.name:
        case "int8" if scheme.granularity == "channel" and scheme.symmetric and scheme.rotate == 1:
            return "int8", _WHOLE
        case "fp8" if scheme.granularity == "channel":
            return _FLOATS[scheme.format], _WHOLE
        case "int4" if scheme.symmetric:
            return "int4", scheme.group_size
        case "affine" if scheme.bits in (2, 4):
            return f"uint{scheme.bits}", scheme.group_size
    raise Unsayable(f"quant_method sdnq knows no such {scheme.name} as {module} is")
