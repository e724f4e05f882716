"""What stands beside a quantized tensor and says only how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from ..core.records import dataclass
from .template import Template

__all__ = ["Setting"]


@dataclass(frozen=True)
class Setting:
    """A tensor that holds a truth value, a number or a word: dropped where the tensor beside it is decoded.

    Attributes:
        name: template of its stored name.
        value: what is written; None where it depends on the scheme, or is only read.
        option: of the scheme, whose value is written.
        words: what is written for each value of the option, as text, where that is not the value.
    """

    name: Template
    value: bool | int | str | None = None
    option: str = ""
    words: Mapping[str, str] = field(default_factory=dict)

    def of(self, scheme: object) -> tuple[str, tuple[int, ...], bytes] | None:
        """Dtype, shape and bytes beside a tensor in that scheme, None where nothing is written.

        A truth value is U8 ``[]``, a number I32 ``[]``, a word U8 ``[characters]``
        (``encode_safetensor_type`` of ``hqq/core/utils.py``).
        """
        value: Any = getattr(scheme, self.option) if self.option else self.value
        if self.words:
            value = self.words[str(value)]
        match value:
            case None:
                return None
            case bool():
                return "U8", (), bytes([value])
            case int():
                return "I32", (), value.to_bytes(4, "little", signed=True)
        text = str(value).encode("ascii")
        return "U8", (len(text),), text
