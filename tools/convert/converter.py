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
from convert.translation import Job, translate
from transcode.errors import TranscodeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 done, 2 could not do it, 130 interrupted."""
    args = parser().parse_args(argv)
    more = [flag for flag, given in (("--dry-run", args.dry_run), ("--debug", args.debug)) if given]
    try:
        job = translate(args)
        for warning in job.warnings:
            say(f"warning: {warning}")
        if job.pickle is None:
            return carry_out(job.recipe, more)
        return _pickle(job, more)
    except TranscodeError as error:
        if args.debug:
            raise
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return 130


def _pickle(job: Job, more: Sequence[str]) -> int:
    """Carry out the recipe into a folder that goes away again, and save what it made with torch."""
    assert job.recipe.sink is not None
    assert job.pickle is not None
    staged = Path(job.recipe.sink.dst)
    from convert import pickled

    # What would refuse at the end is asked before anything is written.
    flow = job.recipe.flow()
    pickled.check(job.recipe.write().plan(flow), job.pickle, [file.path for file in flow.source.files])
    try:
        code = carry_out(job.recipe, more)
        if code == 0 and staged.exists():  # a dry run writes nothing
            pickled.save(staged, job.pickle)
            print(f"and saved with torch -> {job.pickle}")
        return code
    finally:
        shutil.rmtree(staged, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
