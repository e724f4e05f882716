"""Check every YAML file of a catalog folder: strictly, and against what else there is.

    python tools/check_formats.py [FOLDER]

FOLDER is laid out like ``formats/`` (the default) and may be a user's own. Beyond loading each file:

- families: what ``refines`` names exists; no two families claim the same signature.
- conventions: schemes take the options that the convention sets or reads, and codecs the parts of a matrix.

Prints a line for each mistake, and exits with 1 if there is any.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from transcode import catalog, schemes
from transcode.catalog.components import component_table
from transcode.catalog.contents import contents
from transcode.catalog.foreign import foreign
from transcode.catalog.ggml_names import llama_names
from transcode.catalog.lora import lora_names
from transcode.catalog.lora_tables import lora_tables
from transcode.catalog.mixes import mixes
from transcode.catalog.models import Model, model
from transcode.catalog.norms import norms
from transcode.catalog.nunchaku import modules
from transcode.catalog.pipelines import pipelines
from transcode.catalog.profiles import profile
from transcode.catalog.programs import program
from transcode.catalog.twins import arrangements
from transcode.codecs import chain
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Part, Spec
from transcode.errors import TranscodeError

__all__ = ["check"]


def _family(name: str) -> Iterator[str]:
    family = catalog.family(name)
    for other in family.refines:
        if other not in catalog.families():
            yield f"refines: there is no family {other!r}"
    for other in catalog.families():
        if other == name:
            continue
        theirs = [spelling.signature for spelling in catalog.family(other).spellings.values()]
        for spelling in family.spellings.values():
            if spelling.signature is not None and spelling.signature in theirs:
                yield f"{spelling.name}: family {other} has the same signature"


def _convention(name: str) -> Iterator[str]:
    for scheme, rule in catalog.convention(name).schemes.items():
        if scheme in schemes.CALIBRATED or scheme in schemes.DECODED:
            table = schemes.CALIBRATED if scheme in schemes.CALIBRATED else schemes.DECODED
            parts = table[scheme]().parts(_MATRIX)
            for role in (part.role for part in parts if part.role not in rule.parts):
                yield f"{scheme} has no name for its part {role!r}"
            yield from _stored(rule, parts)
            continue
        known = schemes.describe(scheme)[1]
        conditional = [one.when for ones in (rule.markers, rule.limits, rule.partly) for one in ones]
        named = [one.columns for one in rule.limits if isinstance(one.columns, str)]
        conditions = [*named, *(option for when in conditional for option in when)]
        for option in (*rule.options, *rule.reads, *conditions):
            if option not in known:
                yield f"{scheme} has no option {option!r}; it has {', '.join(known)}"
        if all(option in known for option in rule.options):
            yield from _stored(rule, schemes.make(scheme, **rule.options).parts(_MATRIX))


def _stored(rule: catalog.SchemeRule, parts: Iterable[Part]) -> Iterator[str]:
    for part in parts:
        for rules in rule.readings:
            if part.role in rules:
                try:
                    chain.stored(rules[part.role].codecs, part.spec)
                except TranscodeError as error:
                    yield f"{rule.scheme}: {part.role}: {error.what}"


_MATRIX = Spec(DTYPES["BF16"], (1024, 1024))


def _profile(name: str) -> Iterator[str]:
    profile(name)
    yield from ()


def _lora(name: str) -> Iterator[str]:
    lora_names()
    lora_tables()
    yield from ()


def _foreign(name: str) -> Iterator[str]:
    if name == "contents":
        contents()
    elif name == "components":
        component_table()
    elif name == "pipelines":
        pipelines()
    elif name == "twins":
        arrangements()
    elif name == "names":
        foreign()
    else:
        yield "is never read; the tables are names, contents, components, pipelines and twins.yaml"


def _nunchaku(name: str) -> Iterator[str]:
    modules(name)
    yield from ()


def _ggml(name: str) -> Iterator[str]:
    if name == "names":
        llama_names()
    elif name == "norms":
        norms()
    elif name == "mixes":
        table = mixes()
        made = {
            rule.to
            for mix in table.mixes.values()
            for kinds in (mix.text, mix.image)
            for rules in kinds.values()
            for rule in rules
        }
        made |= (
            {mix.base for mix in table.mixes.values()} | set(table.fallback) | set(table.fallback.values())
        )
        for scheme in sorted(made - set(schemes.SCHEMES)):
            yield f"{scheme} is no scheme"
        for mix_name in sorted(set(table.mixes) & set(schemes.SCHEMES)):
            yield f"{mix_name} is the name of a scheme, too"
    else:
        yield "is never read; the tables are names.yaml, norms.yaml and mixes.yaml"


def _program(name: str) -> Iterator[str]:
    for way in program(name).ways:
        for convention, known in way.conventions.items():
            for scheme in known or ():
                if scheme not in catalog.convention(convention).schemes:
                    yield f"convention {convention} has no scheme {scheme!r}"
        for family, spellings in way.families.items():
            for spelling in spellings:
                catalog.family(family).spelled(spelling)
        if way.writes is not None:
            catalog.convention(way.writes)


def _model(name: str) -> Iterator[str]:
    one = model(name)
    names = [stored for group in one.groups for stored in group.names]
    for twice in sorted(
        {stored for stored in names if names.count(stored) > 1 and not _several(one, stored)}
    ):
        yield f"{twice} stands there twice, under no condition"


def _several(one: Model, stored: str) -> bool:
    return all(group.when is not None for group in one.groups if stored in group.names)


CHECKS: dict[str, Callable[[str], Iterator[str]]] = {
    "families": _family,
    "conventions": _convention,
    "profiles": _profile,
    "lora": _lora,
    "foreign": _foreign,
    "ggml": _ggml,
    "models": _model,
    "nunchaku": _nunchaku,
    "programs": _program,
}


def check(folder: Path) -> list[str]:
    """All mistakes in a folder, each in one line that begins with the file."""
    os.environ["TRANSCODE_FORMATS"] = str(folder)
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name in ("README.md", "README.zh.md"):
            continue
        kind = path.parent.name if path.parent.parent == folder else None
        if kind not in CHECKS or path.suffix != ".yaml":
            found.append(
                f"{path}: does not belong here; there are {', '.join(f'{k}/*.yaml' for k in CHECKS)}"
            )
            continue
        try:
            found += [f"{path}: {mistake}" for mistake in CHECKS[kind](path.stem)]
        except TranscodeError as error:
            found.append(str(error) if error.file else f"{path}: {error}")
    return found


def main() -> int:
    """Check the folder named on the command line, by default the checkout's."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "formats"
    if not folder.is_dir():
        print(f"{folder}: is not a folder", file=sys.stderr)
        return 2
    mistakes = check(folder)
    for mistake in mistakes:
        print(mistake)
    count = sum(1 for path in folder.rglob("*.yaml"))
    print(f"{count} files, {len(mistakes)} mistakes")
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
