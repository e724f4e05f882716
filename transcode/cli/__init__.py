"""The command line: the only user of click. Commands are loaded when they are called."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO

import click

from .. import __version__
from ..errors import Interrupted, TranscodeError
from ..numerics import notice
from ..voice import speaking
from . import interrupt, say, streams, usage
from .commands import COMMANDS, SECTIONS, STAGES
from .groups import MEANT, Pointing

__all__ = ["cli", "main"]


class _ReaderGone(Exception):
    """Nobody reads our output any more. Not an OSError, which click would turn into exit code 1."""


class _Lazy(Pointing):
    meant = MEANT

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None

    def instead(self, stage: str, words: Sequence[str]) -> str:
        """As :func:`.instead.typed`."""
        from .instead import typed

        return typed(stage, words)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(import_module(f".{module}", __name__), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands first: nobody looks for --version."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What people do, by what it is for; the stages of a pipe apart, by their names."""
        width = max(len(name) for section in SECTIONS.values() for name in section)
        for heading, section in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), short) for name, (_, short) in section.items()])
        with formatter.section("Stages of a pipe (transcode help STAGE)"):
            formatter.write_text("  ".join(STAGES))


_EPILOG = """\b
Examples:
  transcode inspect Wan2.1-T2V-14B
  transcode run Wan2.1-T2V-14B wan_int8.safetensors --scheme int8
  transcode doctor wan_int8.safetensors --for comfyui
  transcode open SRC | transcode drop '*.bias' | transcode write DST
"""


@click.group(
    cls=_Lazy,
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="transcode")
@click.pass_context
def cli(context: click.Context) -> None:
    """Convert model checkpoints in constant memory, at the speed of the disk."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(args: list[str] | None = None) -> Any:
    """Run the command line and exit: 0 done, 1 the answer is no, 2 could not do it, 130 interrupted."""
    debug = "--debug" in (sys.argv[1:] if args is None else args)
    gc.set_threshold(1_000_000)  # plans make much and drop nothing: looking for cycles is in vain
    streams.open_closed()
    interrupt.listen()
    notice.on_trouble(lambda text: _say(f"warning: {text}"))
    if "_TRANSCODE_COMPLETE" in os.environ:
        import_module(".shells", __name__).known()
    try:
        with speaking("flags"):
            code = cli.main(args, prog_name="transcode", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        code = _fail(usage.line(error), 2, debug)
    except (KeyboardInterrupt, click.Abort):
        code = _interrupted()
    except (BrokenPipeError, _ReaderGone):
        # The reader of our output has gone, as with `| head`: nothing to complain of.
        _to_null(sys.stdout)
        code = 0
    except Interrupted as error:  # no mistake of anybody
        _say(str(error))
        code = error.exit_code
    except TranscodeError as error:
        code = _fail(str(error), error.exit_code, debug)
    except OSError as error:
        where = error.filename or ("standard output" if _is_lost(sys.stdout) else None)
        code = _fail(f"{where}: {error.strerror}" if where else str(error), 2, debug)
    except MemoryError:
        code = _fail("out of memory; lower --memory or use fewer workers", 2, debug)
    except Exception as error:
        if interrupt.is_behind(error):
            sys.exit(_interrupted())
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        hint = (
            "this is a fault of transcode: please report it, with what the same command prints with --debug"
        )
        code = _fail(f"{what:.500}; {hint}", 2, debug)
    if _is_lost(sys.stdout) and code in (0, None):
        code = _fail("standard output: cannot be written", 2, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupted() -> int:
    if not streams.is_pipe(sys.stdout):  # of a pipe its last command says it, for all
        _say("interrupted")
    return 130


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say(f"error: {message}")
    return code


def _is_lost(stream: TextIO) -> bool:
    """Whether what is still to be printed cannot be; then nothing more is tried when Python ends."""
    try:
        stream.flush()
    except BrokenPipeError:
        _to_null(stream)
    except OSError:
        _to_null(stream)
        return True
    return False


def _to_null(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _say(text: str) -> None:
    try:
        say.notice(text)
    except OSError:  # nobody is left to be told
        _to_null(sys.stderr)
