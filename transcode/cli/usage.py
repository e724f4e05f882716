"""What is wrong with a command line, in one line: what, and what to do. click's own errors take four."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from ..core.nearest import alike, guess

__all__ = ["line", "no_such_option", "what"]

_MEANT = {
    "--dtype": "--cast", "--to-dtype": "--cast", "--precision": "--cast", "--quantize": "--scheme",
    "--quant": "--scheme", "--quantization": "--scheme", "--type": "--scheme", "--overwrite": "--force",
    "--yes": "--force", "--shard-size": "--max-shard-size", "--skip": "--exclude", "--ignore": "--exclude",
    "--jobs": "--workers", "--threads": "--workers", "--recipe": "--config", "--format": "--convention",
    "--lora-strength": "--lora PATH:STRENGTH", "--lora-scale": "--lora PATH:STRENGTH",
    "--lora-weight": "--lora PATH:STRENGTH", "--strength": "--lora PATH:STRENGTH",
}  # fmt: skip
"""Options of other tools -> what does it here, where a command has that."""

_LIKE = 0.65
"""How similar an option must be, which all begin alike."""

_WORDS = {
    "SRC": ("-i", "--input", "--in", "--src", "--source", "--model", "--model-path"),
    "DST": ("-o", "--output", "--out", "--dst", "--output-dir", "--outfile", "--output-path", "--save-path"),
}
"""What is no option here, and is said by its place."""


def line(error: click.ClickException) -> str:
    """What is wrong and what to do."""
    said = what(error)
    context = getattr(error, "ctx", None)
    if context is None or ";" in said or said.endswith("?"):
        return said
    if isinstance(error, click.MissingParameter) or said.startswith("unexpected "):
        return f"{said}; {_usage(context)}"
    return f"{said}; see {context.command_path} --help"


def what(error: click.ClickException) -> str:
    """What is wrong, without what to do about it."""
    if isinstance(error, click.NoSuchOption):
        return no_such_option(error.option_name, error.ctx)
    if isinstance(error, click.MissingParameter):
        return f"{_name(error)} is missing"
    if isinstance(error, click.BadParameter):
        name = _name(error)
        return f"{name}: {_bad(error)}" if name else _bad(error)
    if isinstance(error, click.BadOptionUsage):
        return _misused(error)
    said = error.format_message().rstrip(".")
    if (more := re.fullmatch(r"Got unexpected extra arguments? \((.*)\)", said, re.DOTALL)) is not None:
        return f"unexpected {more[1]!r}"
    return said


def no_such_option(name: str, context: click.Context | None) -> str:
    """About an option that there is not, with the one that may be meant."""
    said = f"there is no option {name!r}"
    if context is None:
        return said
    params = [one for one in context.command.get_params(context) if isinstance(one, click.Option)]
    known = [flag for one in params for flag in (*one.opts, *one.secondary_opts)]
    meant = _MEANT.get(name, "")
    if meant.partition(" ")[0] in known:
        return f"{said}, did you mean {meant!r}?"
    words = {one.human_readable_name for one in context.command.params if isinstance(one, click.Argument)}
    for place, names in _WORDS.items():
        if name in names and place in words:
            return f"{said}: {place} is said by its place; {_usage(context)}"
    value = _as_value(name.lstrip("-"), known)
    near = [value] if value else alike(name, known, 1, _LIKE)
    return f"{said}, did you mean {near[0]!r}?" if near else said


def _as_value(word: str, known: Sequence[str]) -> str:
    """The option whose value a word is: ``--int8`` is ``--scheme int8``."""
    if not {"--scheme", "--cast"} <= set(known):
        return ""
    from ..stages.names import names

    if word in names("schemes"):
        return f"--scheme {word}"
    return f"--cast {word}" if word.upper() in names("dtypes") else ""


def _usage(context: click.Context) -> str:
    return " ".join(context.get_usage().split()).replace("Usage:", "usage:", 1)


def _name(error: click.BadParameter) -> str:
    parameter = error.param
    if isinstance(parameter, click.Option):
        return parameter.opts[-1]
    if isinstance(parameter, click.Argument):
        return (parameter.metavar or parameter.human_readable_name).split()[0].strip("[].")
    return ""


def _bad(error: click.BadParameter) -> str:
    """What is wrong with a value; of a few that it may have, which is near."""
    said = error.message.rstrip(".")
    if error.param is None or not isinstance(error.param.type, click.Choice):
        said = re.sub(r"is not in the range x>=(\S+)", r"is less than \1", said)
        return re.sub(r"is not a valid (integer|float)( range)?", "is no number", said)
    word = re.match(r"'(.*?)' is not one of", said, re.DOTALL)
    choices = list(map(str, error.param.type.choices))
    if word is None:
        return said
    return f"{word[1]!r} is not one of {', '.join(choices)}{guess(word[1], choices)}"


def _misused(error: click.BadOptionUsage) -> str:
    params = [] if error.ctx is None else error.ctx.command.get_params(error.ctx)
    option = next((one for one in params if error.option_name in (*one.opts, *one.secondary_opts)), None)
    if not isinstance(option, click.Option):
        return error.format_message().rstrip(".")
    if option.is_flag:
        return f"{error.option_name} takes no value"
    return f"{error.option_name} needs {'a value' if option.nargs == 1 else f'{option.nargs} values'}" + (
        f": {option.metavar}" if option.metavar else ""
    )
