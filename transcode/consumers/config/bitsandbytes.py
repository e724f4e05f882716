"""``quant_method: bitsandbytes``, which transformers, Diffusers, vLLM and SGLang read.

Source: ``BitsAndBytesConfig`` of transformers and of diffusers. How many values a block has, and the
shapes of layers, are said beside each tensor.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, Statement, Unsayable
from .layers import Layers

__all__ = ["BitsAndBytes"]

_TYPES = {"nf4": "nf4", "bnb_fp4": "fp4"}
_TORCH = {"BF16": "bfloat16", "F16": "float16"}


class BitsAndBytes(Dialect):
    """One of nf4, fp4 and 8 bits for all linear layers but those that are named."""

    method = "bitsandbytes"
    schemes: ClassVar[tuple[str, ...]] = ("nf4", "bnb_fp4", "llm_int8")
    unquantized = "llm_int8_skip_modules"
    telling: ClassVar[tuple[str, ...]] = ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type")

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        kinds: dict[tuple[str, bool], str] = {}
        for module, tensor in layers.quantized.items():
            scheme: Any = tensor.scheme
            if scheme.name not in self.schemes:
                raise Unsayable(
                    f"quant_method {self.method} knows {', '.join(self.schemes)}, {module} is {scheme.name}"
                )
            kinds.setdefault((scheme.name, getattr(scheme, "double_quant", False)), module)
        if len(kinds) > 1:
            words = " and ".join(
                f"{module} in {name}{' with double_quant' if double else ''}"
                for (name, double), module in kinds.items()
            )
            raise Unsayable(f"quant_method {self.method} knows one format for all layers, here are {words}")
        ((name, double),) = kinds
        four = name in _TYPES
        first = next(iter(layers.quantized.values()))
        said: dict[str, Any] = {
            "quant_method": self.method,
            "load_in_4bit": four,
            "load_in_8bit": not four,
            self.unquantized: layers.kept_by_prefix(planning),
        }
        if four:
            said |= {
                "bnb_4bit_quant_type": _TYPES[name],
                "bnb_4bit_use_double_quant": double,
                "bnb_4bit_compute_dtype": _TORCH.get(first.spec.dtype.name, "float32"),
                "bnb_4bit_quant_storage": "uint8",
            }
        else:
            said |= {"llm_int8_threshold": 6.0, "llm_int8_has_fp16_weight": False}
        return Statement(said)
