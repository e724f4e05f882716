"""Which conventions take a scheme, and errors that say so."""

from __future__ import annotations

from ..errors import RecipeError
from ..voice import called
from .convention import Convention
from .conventions import convention, conventions, every_convention

__all__ = ["DEFAULT", "check_scheme", "takers"]

DEFAULT = "lightx2v"
"""The convention of outputs that are quantized, where nobody says another."""

_LAST = "neutral"
"""Takes all of them, for transcode alone: named last."""


def takers(scheme: str) -> list[str]:
    """Names of the conventions that a scheme is written for; the one that only transcode reads last."""
    taking = [one.name for one in every_convention() if scheme in one.schemes and one.unwritten is None]
    return sorted(taking, key=lambda name: name == _LAST)


def check_scheme(name: str, consumer: Convention | None = None) -> None:
    """Whether there is such a scheme, and a consumer takes it.

    Raises:
        RecipeError: there is none, or the consumer does not; says which is meant, and who takes it.
    """
    from .. import schemes

    if name not in schemes.SCHEMES and name not in schemes.CALIBRATED:
        if name in schemes.DECODED:
            schemes.make(name)  # says so
        if name in conventions():
            raise RecipeError(
                f"unknown scheme {name!r}: it is a convention, for whom files are written",
                hint=f"pass {called('convention', name)}, and a scheme that it takes:"
                f" {', '.join(_convention_schemes(name)) or 'it takes plain tensors only'}",
            )
        raise schemes.unknown(name, takers)
    if consumer is not None and name not in consumer.schemes:
        known = (
            f"it knows {', '.join(consumer.schemes)}" if consumer.schemes else "it knows plain tensors only"
        )
        those = takers(name)
        instead = " or ".join(called("convention", one) for one in those)
        raise RecipeError(
            f"convention {consumer.name} has no spelling for scheme {name!r}",
            hint=f"{known}; "
            + (f"for {name} pass {instead}" if those else f"choose another with {called('convention')}"),
        )


def _convention_schemes(name: str) -> list[str]:
    return list(convention(name).schemes)
