"""All commands, stages, sections and schemes with their options, as data for pages of reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ..core.option import Declared, Option, options_of
from ..core.performance import Performance
from ..plan.options import OutputOptions, SourceOptions
from ..stages.names import names
from ..stages.table import STAGES
from .flags import Flag

__all__ = ["reference"]

Data = dict[str, Any]


def reference() -> Data:
    """What there is to say, as JSON:

    - ``commands``: ``name`` (as ``meta set``), ``usage``, ``help``, ``epilog``, and ``flags`` with ``flags``,
      ``spelled``, ``help``, ``about``, ``default``, ``choices`` and ``group``,
    - ``stages``: ``name``, ``help``, ``alone`` (the field that may stand alone), ``options``,
    - ``sections`` of recipes: ``name``, ``help``, ``options``,
    - ``schemes``: ``name``, ``help``, and ``options`` with ``name``, ``default``, ``legal`` and ``choices``.

    Each of the ``options`` has ``name`` (in Python), ``keys`` (in recipes), ``flag`` and ``run`` (on command
    lines; None where it has none), ``kind``, ``help``, ``about``, ``required``, ``default`` (as people write
    it), ``choices``, ``group``, and ``short`` (flags of options that it holds).
    """
    from . import cli

    return {
        "commands": [_command(name, context) for name, context in _commands(_context(cli, "transcode"), ())],
        "stages": [
            {
                "name": kind,
                "help": _text(owner.__doc__),
                "alone": owner.alone or None,
                "options": _options(owner),
            }
            for kind, (owner, _) in STAGES.items()
        ],
        "sections": list(_sections()),
        "schemes": list(_schemes()),
    }


def _sections() -> Iterator[Data]:
    from ..recipe import sections

    table: dict[str, tuple[str, list[tuple[type[Declared], str | None]]]] = {
        "source": ("What is read.", [(SourceOptions, None), (sections.SourceWords, None)]),
        "target": (
            "Who reads what is written.", [(OutputOptions, "target"), (sections.TargetWords, None)],
        ),
        "output": ("Where to write.", [(OutputOptions, "output")]),
        "performance": ("How it is run.", [(Performance, None), (sections.PerformanceWords, None)]),
        "quantization": ("Instead of steps.", [(sections.QuantizationWords, None)]),
        "lora": ("Instead of steps.", [(STAGES["lora"][0], None), (sections.LoraWords, None)]),
    }  # fmt: skip
    for name, (text, owners) in table.items():
        options = [one for owner, part in owners for one in _options(owner, part)]
        yield {"name": name, "help": text, "options": options}


def _options(owner: type[Declared], part: str | None = None) -> list[Data]:
    return [
        _option(name, option)
        for name, option in options_of(owner).items()
        if part is None or option.section == part
    ]


def _option(name: str, option: Option) -> Data:
    return {
        "name": name,
        "keys": list(option.kind.keys) or [option.key or name],
        "flag": option.argument or option.own_flag(name) or None,
        "run": option.run_flag(name) or None,
        "kind": option.kind.word,
        "help": option.key_help,
        "about": option.about,
        "required": option.required,
        "default": None
        if option.required or option.default in (None, ())
        else option.kind.shown(option.default),
        "choices": list(option.choices) or (names(option.names) if option.names else []),
        "group": option.group,
        "short": {key: one.own_flag(key) for key, one in option.short.items()},
    }


def _schemes() -> Iterator[Data]:
    from ..schemes import SCHEMES, describe

    for name, scheme in SCHEMES.items():
        defaults = describe(name)[1]
        options = [
            {
                "name": option,
                "default": defaults[option],
                "legal": legal.said,
                "choices": list(legal.cases) if legal.closed else [],
            }
            for option, legal in scheme.options.items()
        ]
        yield {"name": name, "help": scheme.summary, "options": options}


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """As click makes it: what a command is asked first, it keeps, as the names of its option for help."""
    return click.Context(command, parent, name, **command.context_settings)


def _commands(context: click.Context, path: tuple[str, ...]) -> Iterator[tuple[str, click.Context]]:
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            continue
        below = _context(command, name, context)
        if isinstance(command, click.Group):
            yield from _commands(below, (*path, name))
        else:
            yield " ".join((*path, name)), below


def _command(name: str, context: click.Context) -> Data:
    command = context.command
    return {
        "name": name,
        "usage": " ".join([f"transcode {name}", *command.collect_usage_pieces(context)]),
        "help": (command.help or "").strip(),
        "epilog": (command.epilog or "").replace("\b\n", "").strip(),
        "flags": [_flag(one, context) for one in command.params if isinstance(one, click.Option)],
    }


def _flag(option: click.Option, context: click.Context) -> Data:
    described = option.described if isinstance(option, Flag) else None
    record = option.get_help_record(context) or ("", "")
    return {
        "flags": [*option.opts, *option.secondary_opts],
        "spelled": record[0],
        "help": option.help or "",
        "about": "" if described is None else described.about,
        "default": None if described is None or described.head else described.shown_default,
        "choices": list(option.type.choices) if isinstance(option.type, click.Choice) else [],
        "group": option.group if isinstance(option, Flag) else None,
    }


def _text(text: str | None) -> str:
    return " ".join((text or "").split())
