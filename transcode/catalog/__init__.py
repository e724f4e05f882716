"""Knowledge as data: families, conventions and how they are loaded from ``formats/``."""

from .convention import Convention
from .conventions import convention, conventions
from .families import detect, families, family, generic_family
from .family import Family, Spelling

__all__ = [
    "Convention",
    "Family",
    "Spelling",
    "convention",
    "conventions",
    "detect",
    "families",
    "family",
    "generic_family",
]
