"""How a source is quantized: recognised from what it says and from its parts, or refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from .. import catalog
from ..catalog import Convention
from ..core.planning import Planning
from ..core.records import dataclass
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..voice import called
from . import torchao
from .config.stated import CONFIG, malformed, read_json
from .config.table import beyond_codes, denied
from .declared import Declared, declared
from .evidence import Claim, claims
from .group import Names, Reading, readings
from .source_markers import SourceMarkers
from .stored import Stored, plain_fp8, stored_quantized

__all__ = ["decipher"]

_LAST = "neutral"
"""Written by transcode alone: the guess of last resort."""

_SHOWN = 3

_BY_ITS_OWN = "decode it with its own library, and save it in BF16"


@dataclass(frozen=True)
class _Unread:
    """The first tensor that a convention does not read, and why.

    Attributes:
        undecided: it reads it in several ways, of which the user can say which.
    """

    tensor: str
    why: str
    undecided: bool = False


def decipher(
    tensors: Sequence[LazyTensor],
    planning: Planning,
    *,
    stored: Stored | None = None,
    convention: str | None = None,
    scheme: str | None = None,
    wanted: Collection[str] | None = None,
) -> tuple[list[Convention], dict[str, Reading]]:
    """How each quantized tensor is read. Markers and stored shapes are read while planning, nothing else.

    Args:
        tensors: those of a source.
        stored: what of them is quantized, where somebody has looked already.
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
    if stored is None:
        stored = stored_quantized(tensors)
    statements = claims(planning.metadata, planning.side_files, table)
    if (odd := torchao.undecoded(planning.metadata)) is not None:
        raise PlanError(
            f"is a {odd[1]} of torchao: transcode does not decode it", tensor=odd[0], hint=_BY_ITS_OWN
        )
    if stored.foreign:
        raise _alien(stored)
    _refuse_undecodable(statements, planning)
    names = stored.names
    if not stored.tensors or names is None:
        raise _nothing(tensors, statements, stored)
    planning.asked = True
    allowed = _allowed(statements, convention)
    markers = SourceMarkers(table, planning.metadata)
    asked = {codes for codes, name in stored.tensors.items() if wanted is None or name in wanted}
    facts = declared(planning.metadata, planning.side_files)
    read: dict[str, dict[str, Reading]] = {}
    unread: dict[str, _Unread] = {}
    for name in allowed:
        if len(allowed) > 1 and name not in stored.conventions:
            continue
        one = catalog.convention(name)
        by_codes = _read_as(one, names, facts, scheme, asked, stored, markers)
        if isinstance(by_codes, _Unread):
            unread[name] = by_codes
        else:
            read[name] = by_codes
    if not read:
        raise _unread(unread, allowed, stored, names)
    # What may be one of several schemes of a convention is not certain, either.
    several = [name for name, one in unread.items() if one.undecided and name != _LAST]
    best = _best(read, several)
    _say_denied(best[1].values(), planning)
    return best


def _refuse_undecodable(statements: Sequence[Claim], planning: Planning) -> None:
    """Stop where a source says of itself what is not decoded, or what nobody understands."""
    for claim in statements:
        if not claim.conventions:
            raise PlanError(
                f"{claim.said}, which is {claim.title}: transcode does not decode it",
                hint=_BY_ITS_OWN,
            )
    for path in planning.side_files:
        if path.name != CONFIG:
            continue
        config = read_json(path) or {}
        if (fault := malformed(config)) is not None:
            raise PlanError(
                f"{CONFIG}: {fault}: how its tensors are quantized is not certain",
                hint="let it say what is true; or take it out, if names and dtypes tell enough",
            )
        if (beyond := beyond_codes(config)) is not None:
            raise PlanError(
                f"{CONFIG} says {beyond}: transcode does not decode it",
                hint=_BY_ITS_OWN,
            )


def _say_denied(read: Iterable[Reading], planning: Planning) -> None:
    """Warn of tensors that config.json says to be something else than what dtypes and shapes make them."""
    configs = [config for path in planning.side_files if path.name == CONFIG and (config := read_json(path))]
    if not configs:
        return
    by_scheme = {reading.scheme: reading for reading in reversed([*read])}
    for scheme, reading in by_scheme.items():
        said = next(filter(None, (denied(config, scheme) for config in configs)), None)
        if said is not None:
            planning.warn(
                f"{CONFIG} says {said}, but codes and scales of {reading.name} are those of {scheme.name}, as"
                " which they are read"
            )


def _best(
    read: Mapping[str, dict[str, Reading]], several: Sequence[str]
) -> tuple[list[Convention], dict[str, Reading]]:
    """The conventions that read a source, all of which must mean the same, and what they read.

    Args:
        read: convention -> how it reads the codes.
        several: the conventions that read them in several ways, one of which may be meant.
    """
    meanings = {name: frozenset(one.meaning for one in by.values()) for name, by in read.items()}
    best, *rest = sorted(read, key=_guessed)
    if several or any(meanings[name] != meanings[best] for name in rest):
        differing = (codes for codes in read[best] if len({read[name][codes].meaning for name in read}) > 1)
        raise PlanError(
            f"may be quantized as {_either([best, *rest, *several])} stores it, which decode to different"
            " values",
            tensor=read[best][next(differing, next(iter(read[best])))].name,
            hint="say whose file it is:"
            f" {_either(called('from_convention', name) for name in (best, *rest, *several))}",
        )
    return [catalog.convention(name) for name in (best, *rest)], read[best]


def _guessed(name: str) -> tuple[bool, bool, str]:
    """What conventions are sorted by that read the same: those last that ask for more than is read."""
    needs = any(rule.needs for rule in catalog.convention(name).schemes.values())
    return name == _LAST, needs, name


def _alien(stored: Stored) -> PlanError:
    codes, (title, endings) = next(iter(stored.foreign.items()))
    return PlanError(
        f"is quantized as {title} ({', '.join(endings)}), as are {len(stored.foreign)} in all: transcode does"
        " not decode it",
        tensor=codes,
        hint=_BY_ITS_OWN,
    )


def _nothing(tensors: Sequence[LazyTensor], statements: Sequence[Claim], stored: Stored) -> PlanError:
    bare = plain_fp8(tensors, stored)
    if bare:
        return PlanError(
            f"nothing to dequantize: {len(bare)} tensors are {bare[0].spec.dtype.name} and have no scale",
            tensor=bare[0].name,
            hint=f"cast them instead: {called('cast', 'bf16')}",
        )
    though = f", though {statements[0].said}" if statements else ""
    return PlanError(
        f"nothing to dequantize: no tensor is quantized{though}", hint=f"leave {called('dequantize')} out"
    )


def _allowed(statements: Sequence[Claim], asked: str | None) -> list[str]:
    """The conventions that are possible by what the source and the user say."""
    allowed = catalog.conventions() if asked is None else [catalog.convention(asked).name]
    first: Claim | None = None
    for claim in statements:
        fitting = [name for name in allowed if name in claim.conventions]
        if fitting:
            allowed = fitting
            first = first or claim
        elif asked is not None:
            raise PlanError(
                f"{claim.said}, which is not {asked}",
                hint=f"leave {called('from_convention')} out, or say {_either(sorted(claim.conventions))}",
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
    facts: Declared,
    scheme: str | None,
    asked: Collection[str],
    stored: Stored,
    markers: SourceMarkers,
) -> dict[str, Reading] | _Unread:
    """All asked tensors as one convention reads them; or the first that it does not read, and why."""
    possible_by_codes = readings(names, convention, facts)
    read = {}
    for codes, name in stored.tensors.items():
        if codes not in asked:
            continue
        possible = possible_by_codes.get(codes, [])
        if not possible:
            why = f"{_facts(codes, name, names)}: {convention.name} stores no scheme so{facts.words}"
            if any(rule.shaped == catalog.MODEL for rule in convention.schemes.values()):
                why += "; how many rows a matrix has is told by a bias, or by a class of config.json that is"
                why += " known here"
            return _Unread(name, why)
        possible, unfit = markers.fitting(possible, convention)
        if unfit is not None:
            return _Unread(name, unfit)
        if scheme is not None:
            possible = [one for one in possible if one.scheme.name == scheme]
            if not possible:
                why = f"{_facts(codes, name, names)}: {convention.name} does not store {scheme} so"
                return _Unread(name, why)
        if len(possible) > 1:
            possible = [one for one in possible if one.scheme.name in facts.schemes] or possible
        if len(possible) > 1:
            kinds = dict.fromkeys(one.scheme.name for one in possible)
            why = f"{_facts(codes, name, names)} may be {_either(kinds)}"
            why += f"; say which with {called('from_scheme')}"
            if len(kinds) == 1:
                why = f"{_facts(codes, name, names)} may be {_options(possible)}, and nothing tells which"
            return _Unread(name, why, undecided=True)
        read[codes] = possible[0]
    return read


def _unread(unread: Mapping[str, _Unread], allowed: Sequence[str], stored: Stored, names: Names) -> PlanError:
    if len(unread) == 1:
        (only,) = unread.values()
        return PlanError(f"cannot be decoded: {only.why}", tensor=only.tensor)
    if not unread:
        tensor = next(iter(stored.tensors.values()))
        return PlanError(f"cannot be decoded: its parts are not those of {_either(allowed)}", tensor=tensor)
    undecided = next((one for one in unread.values() if one.undecided), None)
    if undecided is not None:
        return PlanError(f"cannot be decoded: {undecided.why}", tensor=undecided.tensor)
    tensor = next(iter(unread.values())).tensor
    codes = next(codes for codes, name in stored.tensors.items() if name == tensor)
    return PlanError(
        f"cannot be decoded: {_facts(codes, tensor, names)}: no convention stores a scheme so"
        f" (the names are those of {_either(unread)})",
        tensor=tensor,
    )


def _facts(codes: str, name: str, names: Names) -> str:
    """Names and facts of codes and what begins as they do: ``weight I8[8,8], weight_scale F32[8,1]``."""
    module = name.removesuffix(".weight")
    near = [
        f"{other.removeprefix(module + '.')} {spec}"
        for other, spec in names.specs.items()
        if other == codes or (other.startswith(f"{module}.") and "scale" in other.removeprefix(module))
    ]
    return ", ".join(near[: _SHOWN + 1]) or codes


def _options(possible: Sequence[Reading]) -> str:
    """The options by which readings of one scheme differ: ``int8 with group_size=100 or 128``."""
    options = [vars(one.scheme) for one in possible]
    differing = (key for key in options[0] if any(one[key] != options[0][key] for one in options))
    key = next(differing, "other options")
    values = dict.fromkeys(str(one.get(key, "")) for one in options)
    return f"{possible[0].scheme.name} with {key}={_either(values)}"


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)
