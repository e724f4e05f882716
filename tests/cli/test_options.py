"""Options: said once, and by every command in the same way."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from transcode.cli import cli as root
from transcode.cli.flags import Command


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


ALL = dict(commands(root))


@pytest.mark.parametrize("name", ALL)
def test_every_command_refuses_what_is_said_twice(name):
    command = ALL[name]
    assert isinstance(command, Command)
    for option in command.params:
        if not isinstance(option, click.Option) or option.multiple or option.is_eager:
            continue
        if option.is_flag and not option.secondary_opts:
            continue
        long = option.opts[-1]
        value = [] if option.is_flag else ["8"] * option.nargs
        if isinstance(option.type, click.Choice):
            value = [option.type.choices[0]]
        with pytest.raises(click.UsageError, match="is given twice"):
            command.parse_args(click.Context(command), [long, *value, long, *value])
        if option.secondary_opts:
            with pytest.raises(click.UsageError, match="is given twice"):
                command.parse_args(click.Context(command), [long, option.secondary_opts[0]])


def test_how_it_is_told(wan, tmp_path, cli, refused):
    told = refused("run", wan, tmp_path / "o", "--scheme", "int8", "-s", "fp8")
    assert "-s/--scheme is given twice" in told
    assert "twice" in refused("run", wan, tmp_path / "o", "--convention", "plain", "--convention", "plain")
    assert list(tmp_path.iterdir()) == []
    # Flags say the same twice; repeatable options add up.
    cli("run", wan, tmp_path / "o", "--drop", "*.bias", "--drop", "head", "-n", "-n", "-v", "-v")
