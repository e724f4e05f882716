"""Names of formats that are no scheme's here, and what stands for them: for errors."""

from __future__ import annotations

import re

from ..core.dtypes import dtype
from ..core.records import dataclass
from ..voice import called

__all__ = ["Meant", "meant"]

_FOUR_BITS = ("int4", "nvfp4", "mxfp4")


@dataclass(frozen=True)
class Meant:
    """What a name stands for.

    Attributes:
        what: what it is.
        do: what to do about it; empty where ``schemes`` are the answer.
        schemes: those of ours that come near it.
        options: what to add to their name.
    """

    what: str
    do: str = ""
    schemes: tuple[str, ...] = ()
    options: str = ""


def _calibrated(title: str, *near: str) -> Meant:
    return Meant(
        f"{title}, which needs a calibration with data: transcode makes codes of weights alone",
        "use its own tool",
        near or ("int4",),
    )


_NAMES: tuple[tuple[str, Meant], ...] = (
    (r"(fp8|float8|f8|e4m3)_?(e4m3)?(fn|_?scaled)?", Meant("fp8 in E4M3, its default", "", ("fp8",))),
    (r"(fp8|float8|f8)?_?e5m2", Meant("fp8 in E5M2", "", ("fp8",), ":format=e5m2")),
    (r"(fp4|float4|f4|e2m1)(_?e2m1)?(fn)?", Meant("no one format", "", ("nvfp4", "mxfp4", "svdq_fp4"))),
    (r"(fp6|float6|f6).*|e[23]m[23]", Meant("6-bit floats", "", ("mxfp6",))),
    (r"mx(fp)?", Meant("a kind of formats", "", ("mxfp8", "mxfp6", "mxfp4"))),
    (r"(i8|int)", Meant("8-bit integers", "", ("int8",))),
    (r"(i4|u4|w4|4bit|4-bit)", Meant("4 bits, in no one format", "", _FOUR_BITS)),
    (r"(w8|8bit|8-bit)", Meant("8 bits, in no one format", "", ("int8", "fp8"))),
    (r"w8a8(_?(int8|fp8))?", Meant("weights and inputs in 8 bits, in no one format", "", ("int8", "fp8"))),
    (r"w8a16", Meant("weights in 8 bits", "", ("int8", "fp8"))),
    (r"w4a16", Meant("weights in 4 bits", "", ("int4",))),
    (r"w4a4", Meant("weights and inputs in 4 bits", "", ("nvfp4", "mxfp4", "svdq_int4", "svdq_fp4"))),
    (r"asym_w4a8.*", Meant("the W4A8 of ComfyUI", "", ("w4a8",))),
    (r"(int8_?)?convrot(_?int8)?", Meant("int8 of rotated columns", "", ("int8",), " -O rotate=256")),
    (r"int4_?awq|awq(_?(int4|marlin|4bit))?", _calibrated("AWQ")),
    (r"gptq(_?(int4|marlin|4bit))?", _calibrated("GPTQ")),
    (r"auto_?-?round", _calibrated("AutoRound")),
    (r"smooth_?quant", _calibrated("SmoothQuant", "int8")),
    (
        r"(aqlm|quip.*|vptq|exl[23]|higgs|spqr|sinq)",
        Meant("a format of its own library", "use that", _FOUR_BITS),
    ),
    (
        r"(fp4_?bnb|bnb(?!_fp4$).*|bitsandbytes.*|llm\.int8(\(\))?|llmint8|int8_?bnb)",
        Meant("what bitsandbytes makes", "", ("nf4", "bnb_fp4", "llm_int8")),
    ),
    (r"(torchao|quanto|quark)", Meant("a library with formats of its own", "", ("int8", "fp8", "int4"))),
    (r"(svd_?quant|svdq|nunchaku)", Meant("SVDQuant", "", ("svdq_int4", "svdq_fp4"))),
    (
        r"ud-.+|q[2-6]_?k_(xs|s|m|l|xl)(_\w+)?|q[2-6]k|iq[23]_m|iq3_xs|gguf|ggml",
        Meant(
            "GGUF of several types",
            "write GGUF of one type: name DST NAME.gguf",
            ("q4_k", "q6_k", "q8_0"),
        ),
    ),
)  # fmt: skip
"""A regular expression for a whole name, in lower case -> what it stands for. The first that fits counts."""


def meant(name: str) -> Meant | None:
    """What a name stands for that is no scheme's, None where nobody knows."""
    lower = name.strip().casefold()
    for regex, one in _NAMES:
        if re.fullmatch(regex, lower):
            return one
    try:
        kind = dtype(lower)
    except KeyError:
        return None
    if kind.kind == "float":
        return Meant("a dtype, not a scheme", f"to cast to it: {called('cast', lower)}")
    return None
