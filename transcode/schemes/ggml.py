"""The types of blocks that ggml has; what they do alike is in :mod:`.ggml_blocks`."""

from __future__ import annotations

from typing import ClassVar

from ..core.records import dataclass
from .ggml_blocks import Blocks, Encoded

__all__ = [
    "Q1",
    "Q2K",
    "Q3K",
    "Q4K",
    "Q5K",
    "Q6K",
    "Q40",
    "Q41",
    "Q50",
    "Q51",
    "Q80",
    "Iq1M",
    "Iq1S",
    "Iq2S",
    "Iq2Xs",
    "Iq2Xxs",
    "Iq3S",
    "Iq3Xxs",
    "Iq4Nl",
    "Iq4Xs",
    "Mxfp4",
    "Tq1",
    "Tq2",
]


@dataclass(frozen=True)
class Q1(Encoded):
    """Blocks of Q1_0."""

    name: ClassVar[str] = "q1_0"
    summary: ClassVar[str] = "GGUF: 1-bit signs, a scale to each 128"
    stored: ClassVar[str] = "Q1_0"


@dataclass(frozen=True)
class Q40(Encoded):
    """Blocks of Q4_0."""

    name: ClassVar[str] = "q4_0"
    summary: ClassVar[str] = "GGUF: 4-bit integers, a scale to each 32 columns"
    stored: ClassVar[str] = "Q4_0"


@dataclass(frozen=True)
class Q41(Encoded):
    """Blocks of Q4_1."""

    name: ClassVar[str] = "q4_1"
    summary: ClassVar[str] = "GGUF: 4-bit integers, a scale and a minimum to each 32 columns"
    stored: ClassVar[str] = "Q4_1"


@dataclass(frozen=True)
class Q50(Encoded):
    """Blocks of Q5_0."""

    name: ClassVar[str] = "q5_0"
    summary: ClassVar[str] = "GGUF: 5-bit integers, a scale to each 32 columns"
    stored: ClassVar[str] = "Q5_0"


@dataclass(frozen=True)
class Q51(Encoded):
    """Blocks of Q5_1."""

    name: ClassVar[str] = "q5_1"
    summary: ClassVar[str] = "GGUF: 5-bit integers, a scale and a minimum to each 32 columns"
    stored: ClassVar[str] = "Q5_1"


@dataclass(frozen=True)
class Q80(Encoded):
    """Blocks of Q8_0."""

    name: ClassVar[str] = "q8_0"
    summary: ClassVar[str] = "GGUF: 8-bit integers, a scale to each 32 columns"
    stored: ClassVar[str] = "Q8_0"


@dataclass(frozen=True)
class Q2K(Encoded):
    """Blocks of Q2_K."""

    name: ClassVar[str] = "q2_k"
    summary: ClassVar[str] = "GGUF: 2-bit integers, 4-bit scales and minima of 16 columns under two of 256"
    stored: ClassVar[str] = "Q2_K"


@dataclass(frozen=True)
class Q3K(Encoded):
    """Blocks of Q3_K."""

    name: ClassVar[str] = "q3_k"
    summary: ClassVar[str] = "GGUF: 3-bit integers, 6-bit scales of 16 columns under one of 256"
    stored: ClassVar[str] = "Q3_K"


@dataclass(frozen=True)
class Q4K(Encoded):
    """Blocks of Q4_K."""

    name: ClassVar[str] = "q4_k"
    summary: ClassVar[str] = "GGUF: 4-bit integers, 6-bit scales and minima of 32 columns under two of 256"
    stored: ClassVar[str] = "Q4_K"


@dataclass(frozen=True)
class Q5K(Encoded):
    """Blocks of Q5_K."""

    name: ClassVar[str] = "q5_k"
    summary: ClassVar[str] = "GGUF: 5-bit integers, 6-bit scales and minima of 32 columns under two of 256"
    stored: ClassVar[str] = "Q5_K"


@dataclass(frozen=True)
class Q6K(Encoded):
    """Blocks of Q6_K."""

    name: ClassVar[str] = "q6_k"
    summary: ClassVar[str] = "GGUF: 6-bit integers, 8-bit scales of 16 columns under one of 256"
    stored: ClassVar[str] = "Q6_K"


@dataclass(frozen=True)
class Iq4Nl(Encoded):
    """Blocks of IQ4_NL."""

    name: ClassVar[str] = "iq4_nl"
    summary: ClassVar[str] = "GGUF: 4-bit codes of uneven values, a scale to each 32 columns"
    stored: ClassVar[str] = "IQ4_NL"


@dataclass(frozen=True)
class Iq4Xs(Encoded):
    """Blocks of IQ4_XS."""

    name: ClassVar[str] = "iq4_xs"
    summary: ClassVar[str] = "GGUF: 4-bit codes of uneven values, 6-bit scales of 32 columns under one of 256"
    stored: ClassVar[str] = "IQ4_XS"


@dataclass(frozen=True)
class Tq1(Encoded):
    """Blocks of TQ1_0."""

    name: ClassVar[str] = "tq1_0"
    summary: ClassVar[str] = "GGUF: -1, 0 and 1, five to a byte, a scale to each 256 columns"
    stored: ClassVar[str] = "TQ1_0"


@dataclass(frozen=True)
class Tq2(Encoded):
    """Blocks of TQ2_0."""

    name: ClassVar[str] = "tq2_0"
    summary: ClassVar[str] = "GGUF: -1, 0 and 1, four to a byte, a scale to each 256 columns"
    stored: ClassVar[str] = "TQ2_0"


@dataclass(frozen=True)
class Mxfp4(Encoded):
    """Blocks of MXFP4."""

    name: ClassVar[str] = "ggml_mxfp4"
    summary: ClassVar[str] = "GGUF: 4-bit floats, a power of two to each 32 columns"
    stored: ClassVar[str] = "MXFP4"


@dataclass(frozen=True)
class Iq1S(Blocks):
    """Blocks of IQ1_S."""

    name: ClassVar[str] = "iq1_s"
    summary: ClassVar[str] = "GGUF: 8 columns to a code book of 2048"
    stored: ClassVar[str] = "IQ1_S"


@dataclass(frozen=True)
class Iq1M(Blocks):
    """Blocks of IQ1_M."""

    name: ClassVar[str] = "iq1_m"
    summary: ClassVar[str] = "GGUF: 8 columns to a code book of 2048, scales of 16"
    stored: ClassVar[str] = "IQ1_M"


@dataclass(frozen=True)
class Iq2Xxs(Encoded):
    """Blocks of IQ2_XXS."""

    name: ClassVar[str] = "iq2_xxs"
    summary: ClassVar[str] = "GGUF: 2.06 bits, 8 columns to a code book of 256; needs importance"
    stored: ClassVar[str] = "IQ2_XXS"


@dataclass(frozen=True)
class Iq2Xs(Encoded):
    """Blocks of IQ2_XS."""

    name: ClassVar[str] = "iq2_xs"
    summary: ClassVar[str] = "GGUF: 2.31 bits, 8 columns to a code book of 512; needs importance"
    stored: ClassVar[str] = "IQ2_XS"


@dataclass(frozen=True)
class Iq2S(Encoded):
    """Blocks of IQ2_S."""

    name: ClassVar[str] = "iq2_s"
    summary: ClassVar[str] = "GGUF: 2.56 bits, 8 columns to a code book of 1024; needs importance"
    stored: ClassVar[str] = "IQ2_S"


@dataclass(frozen=True)
class Iq3Xxs(Encoded):
    """Blocks of IQ3_XXS."""

    name: ClassVar[str] = "iq3_xxs"
    summary: ClassVar[str] = "GGUF: 3.06 bits, 4 columns to a code book of 256; needs importance"
    stored: ClassVar[str] = "IQ3_XXS"


@dataclass(frozen=True)
class Iq3S(Encoded):
    """Blocks of IQ3_S."""

    name: ClassVar[str] = "iq3_s"
    summary: ClassVar[str] = "GGUF: 3.44 bits, 4 columns to a code book of 512"
    stored: ClassVar[str] = "IQ3_S"
