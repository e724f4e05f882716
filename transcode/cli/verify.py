"""``transcode verify``."""

from __future__ import annotations

from typing import Any

import click

from ..core.performance import Performance
from .flags import command, debug_option
from .options import apply, flags_of

__all__ = ["verify"]

_IDLE = ("measure", "resume", "checksums", "attest", "reserve_disk", "part", "cluster")
"""What does nothing where nothing is written."""


@command(
    epilog="\b\nExamples:\n  transcode verify wan_int8.safetensors --source Wan2.1-T2V-14B\n"
    "  transcode verify wan_int8.safetensors                 # its checksums\n"
    "  transcode verify wan_int8.safetensors --source Wan2.1-T2V-14B --sample 0.05\n"
    "  transcode verify theirs.safetensors --source SRC --recipe int8.yaml\n"
)
@click.argument("path", metavar="OUT", type=click.Path())
@click.option("--source", metavar="SRC", type=click.Path(), help="What OUT was made of.")
@click.option("--recipe", metavar="FILE", type=click.Path(), help="Its recipe, where OUT records none.")
@click.option(
    "--sample", metavar="SHARE", type=float, default=1.0, help="Of the tensors, e.g. 0.05; all without it."
)
@click.option("--seed", metavar="N", type=int, default=0, help="Which tensors a sample has.")
@apply(flags_of(Performance, without=_IDLE))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@debug_option
def verify(path: str, source: str | None, recipe: str | None, sample: float, seed: int, **values: Any) -> int:
    """Say whether OUT is what SRC becomes by the recipe that OUT records: to the byte.

    Every tensor is computed again and compared, and the checksums beside OUT; nothing is written. Without SRC
    the checksums are all. Exit code 1 where anything differs, with the tensors and the first row of each. A
    LoRA is looked for by the name that the recipe has of it.
    """
    from ..verification import verify as compare
    from .build import performance
    from .progress import progress
    from .say import echo
    from .show import show_json

    quiet = values["quiet"] or values["as_json"]
    with progress(quiet=quiet) as update:
        done = compare(
            path,
            source,
            recipe=recipe,
            sample=sample,
            seed=seed,
            performance=performance(values),
            on_progress=update,
        )
    if values["as_json"]:
        show_json(done.to_json())
    elif not values["quiet"] or not done.right:
        overview = done.overview()
        echo(overview.head)
        for line in overview.lines:
            echo(f"  {line}")
    return 0 if done.right else 1
