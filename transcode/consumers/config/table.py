"""The dialects of ``quantization_config``, and what is done with whichever of them a model has.

A new dialect is a module beside this one and a line of :data:`DIALECTS`. One that is written is named by the
``config`` of conventions, for which ``catalog.convention.CONFIGS`` lists it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...core.planning import Planning
from ...core.tensor import LazyTensor
from ...errors import PlanError
from .awq import Awq
from .bfl import Bfl
from .bitsandbytes import BitsAndBytes
from .cache import fp8_cache, holds_cache
from .compressed_tensors import CompressedTensors
from .dialect import Dialect, SideStatement, Statement, Unsayable
from .fp8 import Fp8
from .gptq import Gptq, GptqV2
from .hqq import Hqq
from .layers import layers_of
from .microscaling import Mxfp4, Mxfp8
from .mlx import Mlx
from .modelopt import ModelOpt
from .nunchaku_lite import NunchakuLite
from .quanto import Quanto
from .quark import Quark
from .sdnq import Sdnq
from .stated import CONFIG, EARLY_KEY, KEY, MLX_KEY, Json, statements
from .torchao import TorchAo

__all__ = [
    "BESIDE",
    "DIALECTS",
    "beyond_codes",
    "denied",
    "keeps_cache",
    "leave_out",
    "leave_out_beside",
    "options",
    "speaker",
    "state",
]

DIALECTS: Mapping[str, Dialect] = {
    one.method: one
    for one in (
        CompressedTensors(),
        ModelOpt(),
        Fp8(),
        Mxfp8(),
        Mxfp4(),
        Gptq(),
        GptqV2(),
        Awq(),
        BitsAndBytes(),
        Mlx(),
        Quark(),
        Bfl(),
        Sdnq(),
        TorchAo(),
        Quanto(),
        Hqq(),
        NunchakuLite(),
    )
}
"""By their ``method``."""

BESIDE: Mapping[str, tuple[Dialect, SideStatement]] = {
    side.file: (one, side) for one in DIALECTS.values() for side in one.beside
}
"""Files that say the same as config.json does, by name."""


def speaker(statement: Json, key: str = KEY) -> str | None:
    """The ``quant_method`` of a statement, said or told by its keys, known or not; None where it has none.

    Where several dialects share one, it is the ``method`` of that which speaks.

    Args:
        key: under which it stands in config.json.
    """
    method = statement.get("quant_method", statement.get("method"))
    if method is None:
        told = (one.method for one in DIALECTS.values() if any(name in statement for name in one.telling))
        method = {EARLY_KEY: CompressedTensors.method, MLX_KEY: Mlx.method}.get(key) or next(told, None)
    if not isinstance(method, str):
        return None
    dialect = _dialect(method)
    return method if dialect is None or dialect.said is None else dialect.refined(statement)


def state(tensors: Sequence[LazyTensor], method: str, planning: Planning) -> Statement | None:
    """What the consumer must be told of the tensors of an output; None if nothing is quantized.

    Args:
        tensors: those of the output, with schemes and parts.
        method: one of :data:`.catalog.convention.CONFIGS`.

    Raises:
        PlanError: it cannot be told, so that the consumer would take codes for values.
    """
    layers = layers_of(tensors)
    if not layers.quantized:
        return None
    dialect = DIALECTS[method]
    try:
        said = dialect.state(layers, planning)
        return dialect.with_cache(said) if keeps_cache(method, planning) and holds_cache(tensors) else said
    except Unsayable as error:
        raise PlanError(
            f"{KEY} has no words for it: {error}", hint="choose another scheme or convention, or exclude it"
        ) from None


def keeps_cache(method: str | None, planning: Planning) -> bool:
    """Whether a dialect can say of the cache of keys and values what the source says."""
    dialect = None if method is None else DIALECTS.get(method)
    return dialect is not None and dialect.caches and fp8_cache(planning)


def options(config: Json) -> Iterator[Mapping[str, Any]]:
    """The options of weights that a config.json names, in whatever dialect."""
    for statement, dialects in _read_by(config):
        for one in dialects:
            yield from one.options(statement)


def beyond_codes(config: Json) -> str | None:
    """What a config.json says of values beyond codes and scales, in words; None if nothing."""
    said = (one.beyond_codes(statement) for statement, dialects in _read_by(config) for one in dialects)
    return next((words for words in said if words is not None), None)


def denied(config: Json, scheme: Any) -> str | None:
    """What a config.json says by which nothing can be in a scheme, in words; None where something can."""
    said: list[str | None] = []
    for holder, key in statements(config):
        dialect = _dialect(speaker(holder[key], key))
        said.append(None if dialect is None else dialect.denies(holder[key], scheme))
    return said[0] if said and all(said) else None


def leave_out(config: Json, decoded: Sequence[str], coded: Sequence[str]) -> Json:
    """A config.json whose statements list the decoded layers as not quantized.

    Args:
        decoded, coded: names of the output's tensors that are decoded, and of those that are still quantized.

    Raises:
        PlanError: it has no words for that.
    """
    config = copy.deepcopy(config)
    for holder, key in statements(config):
        method = speaker(holder[key], key)
        if (dialect := _dialect(method)) is None:
            raise PlanError(
                f"{CONFIG}: quant_method {method!r} cannot say that some tensors are decoded",
                hint="dequantize all of them",
            )
        dialect.leave_out(holder[key], decoded, coded)
    return config


def leave_out_beside(file: str, content: Json, decoded: Sequence[str], coded: Sequence[str]) -> Json:
    """The same in one of the files :data:`BESIDE`."""
    content = copy.deepcopy(content)
    dialect, side = BESIDE[file]
    dialect.leave_out_beside(side, content, decoded, coded)
    return content


def _dialect(method: str | None) -> Dialect | None:
    return None if method is None else DIALECTS.get(method.lower().replace("_", "-"))


def _read_by(config: Json) -> Iterator[tuple[Json, Sequence[Dialect]]]:
    """Each statement with its dialect; or with all of them, where it does not say whose words it has."""
    for holder, key in statements(config):
        dialect = _dialect(speaker(holder[key], key))
        yield holder[key], tuple(DIALECTS.values()) if dialect is None else (dialect,)
