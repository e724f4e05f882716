"""Whether a plan's destination can be written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..containers import table
from ..core.paths import real
from ..errors import PlanError
from ..io import commit, system
from ..io.links import identity, same
from ..plan.plan import Plan
from ..voice import called
from .staging import leftover, targets

__all__ = ["check_destination", "existing_parent"]


def check_destination(
    plan: Plan,
    *,
    force: bool,
    inputs: set[Path],
    reserve: int = 0,
    beside: Sequence[str] = (),
    held: int = 0,
    needed: int | None = None,
) -> None:
    """Refuse a destination that exists, is read by the run, or has too little room.

    Args:
        force: what exists may be replaced.
        inputs: resolved paths of the files that are read.
        reserve: bytes of the file system that stay free.
        beside: names of further files that the run puts beside the weights.
        held: bytes on disk of what other parts of the run have made.
        needed: bytes that the weight files take at most; all that they have, unless the source makes room.

    Raises:
        PlanError: with the path and what to do.
    """
    if plan.folder:
        commit.settle(plan.destination)
    folder = plan.destination if plan.folder else plan.destination.parent
    placed = [*targets(plan), *(folder / name for name in beside)]
    _refuse_source(plan, placed, inputs)
    if plan.folder and plan.destination.exists() and not plan.destination.is_dir():
        raise PlanError("is a file, not a folder", file=plan.destination, hint="write elsewhere")
    if plan.folder and plan.destination.is_symlink() and not plan.destination.exists():
        # A rename cannot give a folder the name of a link, and would be the last thing that the run does.
        raise PlanError(
            f"is a link to {os.readlink(plan.destination)}, which does not exist",
            file=plan.destination,
            hint="make that folder, or remove the link",
        )
    if plan.folder and plan.destination.exists() and any("/" in file.name for file in plan.files):
        # Renames of files into folders in use can be finished later, those of whole folders cannot.
        raise PlanError(
            "exists already, and models in subfolders appear as a whole", file=plan.destination,
            hint="remove it, or name a new folder",
        )  # fmt: skip
    if not plan.folder and plan.destination.is_dir():
        raise PlanError("is a folder", file=plan.destination, hint="name the file inside it")
    for target in placed:
        if target.is_dir():
            raise PlanError("is a folder", file=target, hint="remove it")
    existing = [target for target in placed if target.exists()]
    if existing and not force:
        more = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        raise PlanError(
            f"exists already{more}", file=existing[0], hint=f"pass {called('force')} to replace it"
        )
    if plan.folder and plan.destination.is_dir():
        ours = {target.name for target in placed}
        beside = tuple(f"{kind.suffixes[0]}{end}" for kind in table.WRITABLE for end in ("", ".index.json"))
        strangers = sorted(
            path.name
            for path in plan.destination.iterdir()
            if path.name.endswith(beside) and path.name not in ours
        )
        if strangers:
            # Loaders glob *.safetensors or trust an index: old weights beside new ones would be mixed up.
            raise PlanError(
                f"holds other weights ({', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''})",
                file=plan.destination,
                hint="remove them or choose another folder",
            )
    parent = existing_parent(plan.destination if plan.folder else plan.destination.absolute().parent)
    if not parent.is_dir():
        raise PlanError(f"{parent} is a file, not a folder", file=plan.destination, hint="write elsewhere")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PlanError(f"{parent}: Permission denied", file=plan.destination, hint="write elsewhere")
    left = leftover(plan) + held
    free = system.free_space(parent) + left
    needed = plan.file_bytes if needed is None else needed
    if free < needed + reserve:
        more = f", with the {left} that an unfinished run to the same place holds" if left else ""
        kept = f", of which {reserve} are to stay free" if reserve else ""
        raise PlanError(
            f"needs {needed} bytes, the file system has {free} left{more}{kept}",
            file=plan.destination,
            hint="free some space or choose another destination",
        )


def _refuse_source(plan: Plan, placed: list[Path], inputs: set[Path]) -> None:
    """Refuse to write over, or among, the files that are read, by whatever names they go.

    Links, hard links and mounts give a file several names; device and inode are the same for all of them.
    """
    destination = plan.destination
    read = {identity(path): path for path in inputs if path.exists()}
    whole = plan.folder and same(destination, plan.source)
    overwritten = [target for target in placed if real(target) in inputs or identity(target) in read]
    if plan.folder and destination.is_dir():
        overwritten += [path for path in destination.iterdir() if path.is_file() and identity(path) in read]
    held = read.get(identity(overwritten[0]), overwritten[0]) if overwritten else destination
    if whole or (overwritten and plan.folder and same(destination, held.parent)):
        raise PlanError(
            "is the folder of the source, which is never written to", file=destination,
            hint="write to another folder",
        )  # fmt: skip
    own = {plan.source, *(path.parent for path in inputs if path.is_relative_to(real(plan.source)))}
    if not plan.folder and plan.source.is_dir() and any(same(destination.parent, folder) for folder in own):
        raise PlanError(
            "would lie among the files of the source, which is read as a folder and would hold two models",
            file=destination,
            hint="write to another folder",
        )
    if overwritten:
        other = "" if real(held) == real(overwritten[0]) else f" as {held}"
        raise PlanError(
            f"is read by this run{other}, and never overwritten", file=overwritten[0], hint="write elsewhere"
        )


def existing_parent(path: Path) -> Path:
    """The innermost folder above a path, or the path itself, that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
