"""Quantized formats: one to a module, and the table of them.

To add one, write its module (:class:`~transcode.core.scheme.Scheme` says what it must have,
:class:`~.base.Base` has what most have alike) and its entry below; conventions name it in ``formats/``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from ..core.dtypes import BLOCKS, DType
from ..core.nearest import guess
from ..core.scheme import Scheme
from ..errors import RecipeError
from .meant import Meant, meant

__all__ = [
    "CALIBRATED",
    "DECODED",
    "SCHEMES",
    "block",
    "decoder",
    "describe",
    "make",
    "refuse_idle",
    "unknown",
]


class Table(Mapping[str, type[Any]]):
    """Classes by name, each loaded when it is asked for: their names alone need no numpy.

    Attributes:
        places: name -> ``module:class`` in this package, or the class.
    """

    def __init__(self, places: Mapping[str, str | type[Any]]) -> None:
        self.places = dict(places)

    def __getitem__(self, name: str) -> type[Any]:
        place = self.places[name]
        if not isinstance(place, str):
            return place
        module, _, called = place.partition(":")
        kind: type[Any] = getattr(import_module(f"{__name__}.{module}"), called)
        return kind

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


SCHEMES: Mapping[str, type[Any]] = Table(
    {
        "int8": "int8:Int8",
        "fp8": "fp8:Fp8",
        "mxfp8": "mx:Mxfp8",
        "mxfp6": "mx:Mxfp6",
        "mxfp4": "mx:Mxfp4",
        "nvfp4": "nvfp4:Nvfp4",
        "int4": "int4:Int4",
        "nvfp4_awq": "nvfp4_awq:Nvfp4Awq",
        "w4a8": "w4a8:W4A8",
        "w6a8": "w4a8:W6A8",
        "convrot_w4a4": "w4a4:W4A4",
        "awq_w4a16": "awq_w4a16:AwqW4A16",
        "nf4": "bnb:Nf4",
        "bnb_fp4": "bnb:BnbFp4",
        "llm_int8": "bnb:LlmInt8",
        "affine": "affine:Affine",
        "hqq": "hqq:Hqq",
        "qbits": "qbits:QBits",
        "q1_0": "ggml:Q1",
        "q4_0": "ggml:Q40",
        "q4_1": "ggml:Q41",
        "q5_0": "ggml:Q50",
        "q5_1": "ggml:Q51",
        "q8_0": "ggml:Q80",
        "q2_k": "ggml:Q2K",
        "q3_k": "ggml:Q3K",
        "q4_k": "ggml:Q4K",
        "q5_k": "ggml:Q5K",
        "q6_k": "ggml:Q6K",
        "iq4_nl": "ggml:Iq4Nl",
        "iq4_xs": "ggml:Iq4Xs",
        "iq2_xxs": "ggml:Iq2Xxs",
        "iq2_xs": "ggml:Iq2Xs",
        "iq2_s": "ggml:Iq2S",
        "iq3_xxs": "ggml:Iq3Xxs",
        "iq3_s": "ggml:Iq3S",
        "tq1_0": "ggml:Tq1",
        "tq2_0": "ggml:Tq2",
        "ggml_mxfp4": "ggml:Mxfp4",
        "ggml_nvfp4": "ggml_nvfp4:Nvfp4",
    }
)
"""Every scheme by its name in recipes."""

CALIBRATED: Mapping[str, type[Any]] = Table(
    {
        "svdq_int4": "svdquant:SvdqInt4",
        "svdq_fp4": "svdquant:SvdqFp4",
        "w4a16": "svdquant:W4A16",
    }
)
"""Every encoding that comes from a calibration alone, by its name in conventions."""

DECODED: Mapping[str, type[Any]] = Table(
    {
        "hqq_columns": "hqq:HqqColumns",
        "int8_svd": "low_rank:Int8Svd",
        "fp8_svd": "low_rank:Fp8Svd",
        "int4_svd": "low_rank:Int4Svd",
        "affine_svd": "low_rank:AffineSvd",
        "smoothed_int4": "smoothed:SmoothedInt4",
        "smoothed_fp4": "smoothed:SmoothedFp4",
        "iq1_s": "ggml:Iq1S",
        "iq1_m": "ggml:Iq1M",
    }
)
"""Every scheme that is only decoded, by its name in conventions."""


def decoder(name: str) -> type[Any] | None:
    """The scheme of a name, also where it is only decoded; None where it is none that decodes."""
    table = SCHEMES if name in SCHEMES else DECODED
    return table.get(name, None)


def block(name: str) -> DType | None:
    """The dtype of the blocks that a scheme stores a tensor as, or None; loads no scheme."""
    return None if f"{_GGML}{name}" in SCHEMES else BLOCKS.get(name.removeprefix(_GGML).upper())


_GGML = "ggml_"
"""Before the names of schemes of ggml that would else be those of others."""


def make(name: str, **options: Any) -> Scheme:
    """The scheme of that name.

    Raises:
        RecipeError: no such scheme, option or value; tells what there is.
    """
    if name in CALIBRATED:
        near = (f"; from weights alone: {one}" for one in (meant(name) or Meant("")).schemes)
        raise RecipeError(
            f"{name} is not made of weights alone, but of a calibration",
            hint="".join((CALIBRATED[name].made_by, *near)),
        )
    if name in DECODED:
        raise RecipeError(f"{name} is decoded, not encoded", hint=f"choose from {', '.join(SCHEMES)}")
    if name not in SCHEMES:
        raise unknown(name)
    scheme = SCHEMES[name]
    known = [field.name for field in fields(scheme)]
    for option in options:
        if option not in known:
            raise RecipeError(f"{name} has no option {option!r}", hint=f"choose from {', '.join(known)}")
    instance: Scheme = scheme(**options)
    return instance


def unknown(name: str, takers: Callable[[str], Iterable[str]] | None = None) -> RecipeError:
    """The error about a name that is no scheme's, with what may be meant by it.

    Args:
        name: what was said.
        takers: the conventions that take a scheme, to be told with it.
    """

    def told(scheme: str) -> str:
        by = ", ".join(takers(scheme)) if takers is not None else ""
        return f"{scheme} (for {by})" if by else scheme

    what = f"unknown scheme {name!r}"
    if name.casefold() not in SCHEMES and (one := meant(name)):
        what = f"{what}: {'it is ' if one.what else ''}{one.what}"
        near = " or ".join(told(scheme) + one.options for scheme in one.schemes)
        hint = "; ".join(filter(None, (one.do, f"{'here: ' if one.do else 'say '}{near}" if near else "")))
    else:
        same = next((known for known in SCHEMES if known == name.lower().replace("-", "_")), None)
        listed = f"choose from {', '.join(SCHEMES)}{guess(name, (*SCHEMES, *CALIBRATED))}"
        hint = listed if same is None else f"did you mean {same}?"
    return RecipeError(what, hint=hint)


def refuse_idle(scheme: Scheme, given: Collection[str]) -> None:
    """Refuse options that were asked for and that the scheme, as it is, does not look at.

    Args:
        given: names of the options that the user named.

    Raises:
        RecipeError: with the option, and what would give it a meaning.
    """
    for option, other, value in scheme.idle(given):
        raise RecipeError(
            f"{scheme.name}: {option} does nothing with {other}={getattr(scheme, other)}",
            hint=f"add {other}={value}, or leave {option} out",
        )


def describe(name: str) -> tuple[str, dict[str, Any]]:
    """What a scheme is, in one line, and its options with their defaults."""
    scheme = SCHEMES[name]
    return f"{name}: {scheme.summary}", {field.name: field.default for field in fields(scheme)}
