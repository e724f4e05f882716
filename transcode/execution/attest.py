"""An in-toto Statement of how an output was made: of which files, by which recipe and version.

It is the payload that OpenSSF's model-signing signs and verifies (predicate type
``https://model_signing/signature/v1.0``, its ``Payload`` and ``dsse_payload_to_manifest``): the files of the
output with their SHA-256 under ``resources``, and as the subject's digest the SHA-256 of these digests in the
order of their names. What is of transcode stands beside them in the predicate, which its verifiers leave
alone. It is not signed here: whoever holds a key puts it into a DSSE envelope.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..consumers import record
from ..core.small_json import parse_object
from ..errors import FormatError
from ..plan.plan import Plan
from .checksums import Digests

__all__ = ["STATEMENT", "beside", "find", "statement"]

STATEMENT = ".intoto.json"
_FOLDER = f"transcode{STATEMENT}"
_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"


def beside(plan: Plan) -> str:
    """Its name: ``transcode.intoto.json`` in a folder, ``NAME.intoto.json`` beside a file."""
    return _FOLDER if plan.folder else f"{plan.destination.name}{STATEMENT}"


def find(path: Path) -> Mapping[str, Any] | None:
    """The statement beside an output; None where there is none.

    Raises:
        FormatError: the file is no statement.
    """
    where = path / _FOLDER if path.is_dir() else path.with_name(path.name + STATEMENT)
    try:
        content = where.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot be read: {error}", file=where) from None
    table = parse_object(content, file=where, what="the statement")
    if table.get("_type") != _TYPE:
        raise FormatError(f"is no {_TYPE}", file=where)
    return table


def _named(path: Path, source: Path) -> str:
    """A source as a statement names it: within the checkpoint, without where that lay."""
    folder = source if source.is_dir() else source.parent
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def statement(plan: Plan, digests: Digests, metadata: Mapping[str, str], ignored: Sequence[str]) -> bytes:
    """The statement of an output whose digests, and those of its sources, are known: JSON.

    Args:
        metadata: of its first file, where the record of how it was made is.
        ignored: names of files beside that are no part of the model.
    """
    from .. import __version__

    names = sorted(digests.files)
    whole = hashlib.sha256(b"".join(bytes.fromhex(digests.files[name]) for name in names)).hexdigest()
    text = metadata.get(record.KEY)
    own: dict[str, Any] = {
        "version": __version__,
        "plan": plan.digest,
        "sources": [
            {"name": _named(Path(path), plan.source), "digest": {"sha256": digest}}
            for path, digest in digests.sources.items()
        ],
    }
    if text is not None and (recipe := record.recipe(parse_object(text))) is not None:
        own["recipe"] = recipe
    table = {
        "_type": _TYPE,
        "subject": [{"name": plan.destination.name, "digest": {"sha256": whole}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(ignored),
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digests.files[name]} for name in names
            ],
            "transcode": own,
        },
    }
    return (json.dumps(table, indent=1, ensure_ascii=False) + "\n").encode()
