"""Which values of options a shell may complete: nothing of this is loaded before one is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..core import kinds
from ..core.dtypes import CASTS
from ..core.option import Option
from ..stages.names import names

__all__ = ["values"]


def values(
    table: str, option: Option | None, ctx: click.Context, incomplete: str
) -> list[CompletionItem] | None:
    """What may stand for a value that begins so; None where click knows it itself.

    Args:
        table: of names, see :mod:`transcode.stages.names`.
        option: the declared option, if it is one.
        ctx: with what stands before it on the command line.
    """
    if option is not None and (option.kind.keys or option.kind is kinds.PATH):
        return [CompletionItem(incomplete, type="file")]
    if option is not None and option.kind is kinds.VALUES:
        return _items("", _scheme_option(_scheme(ctx), incomplete), incomplete)
    if option is not None and option.kind is kinds.RULES:
        pattern, equals, rest = incomplete.partition("=")
        if not equals:
            return []
        return _items(f"{pattern}=", _schemes(table, rest), incomplete)
    if table in ("schemes", "schemes and mixes"):
        return _items("", _schemes(table, incomplete), incomplete)
    if table:
        # Several with commas, as devices are.
        lead, comma, rest = incomplete.rpartition(",")
        return _items(lead + comma, _names(table, rest), incomplete)
    if option is not None and not option.choices and _scheme(ctx):
        return _items("", _legal(_scheme(ctx), _field(ctx, option)), incomplete)
    return None


def _items(lead: str, choices: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(lead + name) for name in choices if (lead + name).startswith(incomplete)]


def _scheme(ctx: click.Context) -> str:
    """The name of the scheme that stands on the command line, or nothing."""
    return str(ctx.params.get("scheme") or "").partition(":")[0]


def _field(ctx: click.Context, option: Option) -> str:
    """The scheme's option that a flag of its own sets."""
    own: Any = next((one for one in ctx.command.params if getattr(one, "described", None) is option), None)
    return own.name if own is not None else ""


def _schemes(table: str, incomplete: str) -> list[str]:
    """Names of a table, and behind ``scheme:`` its options."""
    scheme, colon, rest = incomplete.partition(":")
    if not colon:
        return _names(table, scheme)
    before, comma, last = _last(rest)
    return [f"{scheme}:{before}{comma}{one}" for one in _scheme_option(scheme, last)]


def _names(table: str, incomplete: str) -> list[str]:
    """Names of a table; dtypes in the letters that were begun with."""
    known = names(table)
    small = incomplete[:1].islower()
    return [name.lower() if small and name in CASTS else name for name in known]


def _last(text: str) -> tuple[str, str, str]:
    """Parted at the last comma that is not within brackets."""
    parts = re.split(r",(?![^\[]*\])", text)
    return ",".join(parts[:-1]), "," if len(parts) > 1 else "", parts[-1]


def _scheme_option(scheme: str, incomplete: str) -> list[str]:
    """Options of a scheme, or of any where none is named; behind ``=`` their values."""
    name, equals, _ = incomplete.partition("=")
    if equals:
        return [f"{name}={value}" for value in _legal(scheme, name.replace("-", "_"))]
    return [f"{one}=" for one in _options(scheme)]


def _options(scheme: str) -> list[str]:
    from ..schemes import SCHEMES  # what schemes compute with comes along

    owners = [SCHEMES[scheme]] if scheme in SCHEMES else list(SCHEMES.values())
    return list(dict.fromkeys(name for owner in owners for name in owner.options))


def _legal(scheme: str, name: str) -> list[str]:
    """The values of an option, as YAML has them."""
    from ..schemes import SCHEMES

    owners = [SCHEMES[scheme]] if scheme in SCHEMES else list(SCHEMES.values())
    cases = [case for owner in owners if name in owner.options for case in owner.options[name].cases]
    return list(dict.fromkeys(_written(case) for case in cases))


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
