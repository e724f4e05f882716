"""Plans in files: made here, carried out there."""

from __future__ import annotations

import hashlib
import json
from os import PathLike
from pathlib import Path

from .. import __version__
from ..core import values
from ..errors import FormatError
from ..io.named import local
from ..io.urls import refuse_output
from ..voice import called
from .plan import Plan

__all__ = ["load", "save"]

_KIND = "transcode plan"


def save(plan: Plan, path: str | PathLike[str]) -> None:
    """Write a plan to a file, as JSON; what stood there is replaced.

    Raises:
        FormatError: the file cannot be written.
    """
    refuse_output(path, stdout="cannot write a plan to standard output")
    body = json.dumps(values.dump(plan), separators=(",", ":"))
    head = {
        "kind": _KIND,
        "version": __version__,
        "digest": plan.digest,
        "sha256": hashlib.sha256(body.encode()).hexdigest(),
    }
    text = json.dumps(head)[:-1] + ', "plan": ' + body + "}\n"
    target = Path(path)
    part = target.with_name(f".{target.name}.transcode-part")
    try:
        part.write_text(text, "utf-8")
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FormatError(f"cannot be written: {error.strerror}", file=path) from None


def load(path: str | PathLike[str]) -> Plan:
    """Read a plan.

    Raises:
        FormatError: it is damaged, no plan, or of another version.
    """
    try:
        text = local(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "not UTF-8"
        raise FormatError(f"cannot be read: {cause}", file=path) from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("kind") != _KIND:
        raise FormatError("is not a plan", file=path, hint=f"make one: {called('plan_out')}")
    if data.get("version") != __version__:
        raise FormatError(
            f"is a plan of version {data.get('version')}, this is {__version__}",
            file=path,
            hint="plan again with this version",
        )
    body = json.dumps(data.get("plan"), separators=(",", ":"))
    if hashlib.sha256(body.encode()).hexdigest() != data.get("sha256"):
        raise FormatError("was damaged or changed", file=path, hint="plan again")
    try:
        plan = values.load(data["plan"])
    except FormatError as error:
        raise FormatError(error.what, file=path, hint="plan again") from None
    if not isinstance(plan, Plan) or plan.digest != data.get("digest"):
        raise FormatError("was damaged or changed", file=path, hint="plan again")
    return plan
