"""LightX2V's ``model_converter``: a configuration in YAML or a few flags, carried out by transcode.

    python -m tools.model_converter --config CONFIG.yaml
    python -m tools.model_converter convert --model wan_dit --source SRC --quantization int8

Prints the ``transcode`` command, or the recipe, that says the same, and runs it. ``tools/MIGRATING.md``
tells what differs and why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a script, this file brings only its own folder along, and no installation is needed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from convert.equivalent import call, carry_out, say
from convert.flags import LINEAR_TYPES, families

from model_converter.config import from_file, from_flags
from transcode.errors import TranscodeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 done, 2 could not do it, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["convert"]:
        words = words[1:]
    parser = _parser()
    args = parser.parse_args(words)
    if args.model is not None and args.source is None:
        parser.error("--model needs --source")
    more = [flag for flag, given in (("--dry-run", args.dry_run), ("--debug", args.debug)) if given]
    try:
        job = from_flags(args) if args.config is None else from_file(args.config, args.source, args.output)
        for warning in job.warnings:
            say(f"warning: {warning}")
        if job.file is not None:
            return call(["run", "--config", job.file, "--force", *more])
        return carry_out(job.recipe, more)
    except TranscodeError as error:
        if args.debug:
            raise
        say(f"error: {error}")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.model_converter",
        description="LightX2V's model_converter, carried out by transcode. See tools/MIGRATING.md.",
        usage="%(prog)s [convert] (--config FILE | --model FAMILY --source SRC) [options]",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE", help="a configuration in YAML")
    what.add_argument("--model", choices=families(), metavar="FAMILY", help="%(choices)s")
    parser.add_argument("--source", metavar="SRC", help="file or folder; replaces the configuration's")
    parser.add_argument("--output", metavar="DST", help="folder; replaces the configuration's [beside SRC]")
    parser.add_argument("--output-name", default="converted_model", help="stem of the files' names")
    parser.add_argument("--source-format", help="spelling of the source, such as diffusers")
    parser.add_argument("--target-format", choices=["lightx2v", "diffusers", "comfyui"], default="lightx2v")
    parser.add_argument("--layout", choices=["single_file", "by_block", "chunked"], default="single_file")
    parser.add_argument("--quantization", choices=LINEAR_TYPES)
    parser.add_argument("--backend", help="of the quantization; the bytes are the same on each")
    parser.add_argument("--lora-paths", nargs="+", metavar="PATH")
    parser.add_argument("--lora-strengths", nargs="+", type=float, metavar="X", help="for all or each [1]")
    parser.add_argument("--lora-alphas", nargs="+", type=float, metavar="X", help="for all or for each")
    parser.add_argument("--device", help="cpu, cuda, cuda:N [cpu]")
    parser.add_argument("--workers", type=int, metavar="N", help="threads [all processors]")
    parser.add_argument("-n", "--dry-run", action="store_true", help="print the plan, write nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
