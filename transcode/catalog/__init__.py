"""Knowledge as data: families, conventions and how they are loaded from ``formats/``."""

from .convention import GROUP_INDEX, MODEL, SHAPE, WORKSPACE, ZERO_POINT, Convention, PartRule, SchemeRule
from .conventions import convention, conventions, every_convention, is_marker
from .families import check_spelling, detect, families, family, generic_family, spellings
from .family import Family, Spelling
from .limits import experts_of, holds
from .policy import Fused
from .takers import DEFAULT, check_scheme, takers

__all__ = [
    "DEFAULT",
    "GROUP_INDEX",
    "MODEL",
    "SHAPE",
    "WORKSPACE",
    "ZERO_POINT",
    "Convention",
    "Family",
    "Fused",
    "PartRule",
    "SchemeRule",
    "Spelling",
    "check_scheme",
    "check_spelling",
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
    "spellings",
    "takers",
]
