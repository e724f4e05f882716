"""LightX2V's ``converter.py``: the same flags, file names and layouts, carried out by transcode.

    python tools/convert/converter.py --source SRC --output DST --linear_type int8 --quantized --single_file

Prints the ``transcode`` command, or the recipe, that says the same, and runs it. ``tools/MIGRATING.md`` maps
the flags, and lists what differs and why.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

# Run as a script, this file brings only its own folder along, and no installation is needed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from convert.equivalent import carry_out, say
from convert.flags import parser
from convert.translation import translate
from transcode.errors import TranscodeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 done, 2 could not do it, 130 interrupted."""
    args = parser().parse_args(argv)
    try:
        job = translate(args)
    except TranscodeError as error:
        if args.debug:
            raise
        say(f"error: {error}")
        return error.exit_code
    for warning in job.warnings:
        say(f"warning: {warning}")
    more = [flag for flag, given in (("--dry-run", args.dry_run), ("--debug", args.debug)) if given]
    if job.pickle is None:
        return carry_out(job.recipe, more)
    assert job.recipe.sink is not None
    staged = Path(job.recipe.sink.dst)
    try:
        code = carry_out(job.recipe, more)
        if code == 0 and not args.dry_run:
            from convert.pickled import save

            save(staged, job.pickle)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
