"""A scheme and its options as people write them: ``int4:group_size=64,optimize=mse``."""

from __future__ import annotations

import re
from typing import Any

from ..errors import RecipeError

__all__ = ["Options", "parse_scheme", "parse_value"]

Options = tuple[tuple[str, Any], ...]
"""Options of a scheme, by name."""

_LONGEST = 10_000
"""Characters of a scheme with its options, which records of files tell too."""


def parse_scheme(text: str) -> tuple[str, Options]:
    """Read ``name`` or ``name:option=value,option=[value,value]``; values as :func:`parse_value` reads them.

    Raises:
        RecipeError: not of that form.
    """
    if len(text) > _LONGEST:
        raise RecipeError(f"scheme {text[:80]!r}... has {len(text)} characters, more than {_LONGEST}")
    name, _, rest = text.partition(":")
    options: list[tuple[str, Any]] = []
    for item in filter(None, re.split(r",(?![^\[]*\])", rest)):
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError(f"scheme {text!r}: {item!r} is not of the form option=value")
        if any(key.strip() == other for other, _ in options):
            raise RecipeError(f"scheme {text!r}: {key.strip()} is given twice")
        options.append((key.strip(), parse_value(key.strip(), value)))
    return name.strip(), tuple(options)


def parse_value(option: str, text: str) -> Any:
    """The value of a scheme's option as people write it: YAML, so ``64``, ``true``, ``[1, 2]`` are read.

    Raises:
        RecipeError: not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none, brackets without end
        raise RecipeError(f"option {option}: {text!r} is not a value") from None
