"""How a source is quantized: found from what it says and from its parts, or refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import catalog
from ..catalog import Convention
from ..catalog.foreign import foreign
from ..core.planning import Planning
from ..core.spec import Spec
from ..core.tensor import LazyTensor
from ..errors import PlanError
from .declared import Told, told
from .evidence import CONFIG, Claim, beyond, claims, read_json
from .group import Names, Reading, coded, readings
from .source_markers import Marks

__all__ = ["Stored", "decipher", "plain_fp8", "stored_quantized"]

_LAST = "neutral"
"""Written by transcode alone: the guess of last resort."""

_SHOWN = 3


@dataclass(frozen=True)
class Stored:
    """What a file holds quantized, before it is known how.

    Attributes:
        tensors: stored name of the codes -> name of the tensor.
        parts: stored names of all codes, scales and companions.
        conventions: those whose names some of the parts have.
        foreign: stored name of codes that are not decoded -> what it is called, and the endings that tell it.
    """

    tensors: Mapping[str, str]
    parts: frozenset[str]
    conventions: frozenset[str]
    foreign: Mapping[str, tuple[str, tuple[str, ...]]]

    def __bool__(self) -> bool:
        return bool(self.tensors or self.foreign)

    def described(self, planning: Planning) -> str:
        """In words: by whom it is made, as far as names or the source itself tell."""
        titles = sorted({title for title, _ in self.foreign.values()})
        for claim in claims(planning.metadata, planning.side_files, self.parts):
            titles += [claim.title] if claim.title else sorted(claim.conventions)
        return " or ".join(dict.fromkeys(titles)) or " or ".join(sorted(self.conventions))


def stored_quantized(tensors: Iterable[LazyTensor]) -> Stored:
    """What is quantized among tensors as they were read; reads names, dtypes and shapes."""
    names = Names(_specs(tensors))
    known = coded(names, catalog.every_convention())
    return _stored(names, known)


def _stored(names: Names, known: Mapping[str, tuple[str, set[str], set[str]]]) -> Stored:
    alien: dict[str, tuple[str, tuple[str, ...]]] = {}
    parts = {part for _, mine, _ in known.values() for part in mine}
    if names.any_codes or any(spec.dtype.name in ("I16", "U16") for spec in names.specs.values()):
        dtypes = {name: spec.dtype.name for name, spec in names.specs.items()}
        for module, (title, endings) in foreign().recognise(dtypes).items():
            alien[module + endings[0]] = (title, endings)
            parts |= {module + ending for ending in endings}
            parts |= {name for name in dtypes if name.startswith(f"{module}.weight.")}
    return Stored(
        {codes: name for codes, (name, _, _) in known.items()},
        frozenset(parts),
        frozenset(convention for _, _, by in known.values() for convention in by),
        alien,
    )


def plain_fp8(tensors: Iterable[LazyTensor], stored: Stored) -> list[LazyTensor]:
    """Tensors of FP8 that no scale belongs to."""
    marked = catalog.every_convention()
    return [
        tensor
        for tensor in tensors
        if tensor.plain
        and tensor.spec.dtype.name in ("F8_E4M3", "F8_E5M2")
        and tensor.name not in stored.parts
        and not catalog.is_marker(tensor.name, marked)
    ]


def decipher(
    tensors: Sequence[LazyTensor],
    planning: Planning,
    *,
    convention: str | None = None,
    scheme: str | None = None,
    wanted: Collection[str] | None = None,
) -> tuple[list[Convention], dict[str, Reading]]:
    """How each quantized tensor is read. Markers and stored shapes are read while planning, nothing else.

    Args:
        tensors: those of a source.
        convention: whose names and layouts it follows; None for what the user says, or to find it.
        scheme: the scheme, where facts leave more than one possible; likewise.
        wanted: names of the tensors that matter; None for all.

    Returns:
        The conventions that read it so, the best first, and the readings by stored name of the codes.

    Raises:
        PlanError: nothing is quantized; or it is in a way that is not decoded, or that is not certain; or
            what the source says contradicts ``convention``, or its own tensors.
    """
    convention = convention or planning.whose.convention
    scheme = scheme or planning.whose.scheme
    table = {tensor.name: tensor for tensor in tensors}
    names = Names(_specs(tensors))
    known = coded(names, catalog.every_convention())
    stored = _stored(names, known)
    said = claims(planning.metadata, planning.side_files, table)
    if stored.foreign:
        raise _alien(stored)
    for claim in said:
        if not claim.conventions:
            raise PlanError(
                f"{claim.said}, which is {claim.title}: transcode does not decode it",
                hint="decode it with its own library, and save it in BF16",
            )
    for path in planning.side_files:
        if path.name == CONFIG and (more := beyond(read_json(path) or {})):
            raise PlanError(
                f"{CONFIG} says {more}: transcode does not decode it",
                hint="decode it with its own library, and save it in BF16",
            )
    if not stored.tensors:
        raise _nothing(tensors, said, stored)
    planning.asked = True
    allowed = _allowed(said, convention)
    marks = Marks(table, planning.metadata)
    asked = {codes for codes, name in stored.tensors.items() if wanted is None or name in wanted}
    facts = told(planning.metadata, planning.side_files)
    found: dict[str, dict[str, Reading]] = {}
    unread: dict[str, tuple[str, str]] = {}
    for name in allowed:
        if len(allowed) > 1 and name not in stored.conventions:
            continue
        one = catalog.convention(name)
        mine, why = _read_as(one, names, facts, scheme, asked, stored, marks)
        if why is None:
            found[name] = mine
        else:
            unread[name] = why
    if not found:
        raise _unread(unread, allowed, stored, names)
    meanings = {name: frozenset(one.meaning for one in mine.values()) for name, mine in found.items()}
    best, *rest = sorted(found, key=lambda name: (name == _LAST, name))
    if any(meanings[name] != meanings[best] for name in rest):
        codes = next(
            (one for one in found[best] if len({found[name][one].meaning for name in found}) > 1), None
        )
        raise PlanError(
            f"may be quantized as {_either([best, *rest])} stores it, which decode to different values",
            tensor=found[best][codes or next(iter(found[best]))].name,
            hint=f"say whose file it is: {_either(f'--from-convention {name}' for name in (best, *rest))}",
        )
    alike = [catalog.convention(name) for name in (best, *rest)]
    return alike, found[best]


def _specs(tensors: Iterable[LazyTensor]) -> dict[str, Spec]:
    return {tensor.name: tensor.spec for tensor in tensors if tensor.plain}


def _alien(stored: Stored) -> PlanError:
    codes, (title, endings) = next(iter(stored.foreign.items()))
    return PlanError(
        f"is quantized as {title} ({', '.join(endings)}), as are {len(stored.foreign)} in all: transcode does"
        " not decode it",
        tensor=codes,
        hint="decode it with its own library, and save it in BF16",
    )


def _nothing(tensors: Sequence[LazyTensor], said: Sequence[Claim], stored: Stored) -> PlanError:
    bare = plain_fp8(tensors, stored)
    if bare:
        return PlanError(
            f"nothing to dequantize: {len(bare)} tensors are {bare[0].spec.dtype.name} and have no scale",
            tensor=bare[0].name,
            hint="cast them instead: --cast bf16",
        )
    though = f", though {said[0].said}" if said else ""
    return PlanError(f"nothing to dequantize: no tensor is quantized{though}", hint="leave --dequantize out")


def _allowed(said: Sequence[Claim], given: str | None) -> list[str]:
    """The conventions that are possible by what the source and the user say."""
    allowed = catalog.conventions() if given is None else [catalog.convention(given).name]
    first: Claim | None = None
    for claim in said:
        fitting = [name for name in allowed if name in claim.conventions]
        if fitting:
            allowed = fitting
            first = first or claim
        elif given is not None:
            raise PlanError(
                f"{claim.said}, which is not {given}",
                hint=f"leave --from-convention out, or say {_either(sorted(claim.conventions))}",
            )
        elif first is not None:
            raise PlanError(
                f"{first.said}, but {claim.said}: the two contradict each other",
                hint="say whose file it is, and remove what is not true",
            )
        else:
            raise PlanError(
                f"{claim.said}: no such convention is known here", hint="see transcode conventions"
            )
    return allowed


def _read_as(
    convention: Convention,
    names: Names,
    facts: Told,
    scheme: str | None,
    asked: Collection[str],
    stored: Stored,
    marks: Marks,
) -> tuple[dict[str, Reading], tuple[str, str] | None]:
    """All asked tensors as one convention reads them; or the first that it does not read, and why."""
    mine = readings(names, convention, facts)
    found = {}
    for codes, name in stored.tensors.items():
        if codes not in asked:
            continue
        possible = mine.get(codes, [])
        if not possible:
            said = f"{_facts(codes, name, names)}: {convention.name} stores no scheme so{facts.words}"
            return {}, (name, said)
        possible, why = marks.fitting(possible, convention)
        if why is not None:
            return {}, (name, why)
        if scheme is not None:
            possible = [one for one in possible if one.scheme.name == scheme]
            if not possible:
                return {}, (
                    name,
                    f"{_facts(codes, name, names)}: {convention.name} does not store {scheme} so",
                )
        if len(possible) > 1:
            possible = [one for one in possible if one.scheme.name in facts.schemes] or possible
        if len(possible) > 1:
            kinds = _either(dict.fromkeys(one.scheme.name for one in possible))
            return {}, (name, f"{_facts(codes, name, names)} may be {kinds}; say which with --from-scheme")
        found[codes] = possible[0]
    return found, None


def _unread(
    unread: Mapping[str, tuple[str, str]], allowed: Sequence[str], stored: Stored, names: Names
) -> PlanError:
    if len(unread) == 1:
        ((tensor, why),) = unread.values()
        return PlanError(f"cannot be decoded: {why}", tensor=tensor)
    if not unread:
        tensor = next(iter(stored.tensors.values()))
        return PlanError(f"cannot be decoded: its parts are not those of {_either(allowed)}", tensor=tensor)
    telling = list(unread)
    undecided = [one for name, one in unread.items() if name in telling and "--from-scheme" in one[1]]
    tensor, why = undecided[0] if undecided else unread[telling[0]]
    if not undecided:
        codes = next(codes for codes, name in stored.tensors.items() if name == tensor)
        why = (
            f"{_facts(codes, tensor, names)}: no convention stores a scheme so"
            f" (the names are those of {_either(telling)})"
        )
    return PlanError(f"cannot be decoded: {why}", tensor=tensor)


def _facts(codes: str, name: str, names: Names) -> str:
    """Names and facts of codes and what begins as they do: ``weight I8[8,8], weight_scale F32[8,1]``."""
    module = name.removesuffix(".weight")
    near = [
        f"{other.removeprefix(module + '.')} {spec}"
        for other, spec in names.specs.items()
        if other == codes or (other.startswith(f"{module}.") and "scale" in other.removeprefix(module))
    ]
    return ", ".join(near[: _SHOWN + 1]) or codes


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)
