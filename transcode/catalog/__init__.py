"""Knowledge as data: families, conventions and how they are loaded from ``formats/``."""

from .convention import SHAPE, Convention, PartRule, SchemeRule
from .conventions import convention, conventions, every_convention, is_marker
from .families import detect, families, family, generic_family
from .family import Family, Spelling
from .limits import experts_of, holds
from .policy import Fused

__all__ = [
    "SHAPE",
    "Convention",
    "Family",
    "Fused",
    "PartRule",
    "SchemeRule",
    "Spelling",
    "convention",
    "conventions",
    "detect",
    "every_convention",
    "experts_of",
    "families",
    "family",
    "generic_family",
    "holds",
    "is_marker",
]
