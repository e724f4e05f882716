"""Loads ``formats/families/*.yaml``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from ..core.patterns import Pattern
from ..errors import RecipeError
from ..voice import called
from . import strict
from .components import component_table
from .derive import derivation
from .family import Family, Spelling, spelling_hint
from .folders import find, listing
from .policy import Block, Fused, Policy
from .proven import proven
from .recognise import Signature, fold
from .rule import rules
from .spelling import Conversion

__all__ = [
    "check_spelling",
    "detect",
    "families",
    "family",
    "generic_family",
    "load_family",
    "spellings",
]

_NONE: dict[str, tuple[Pattern, ...]] = {}


def families() -> list[str]:
    """Names of all families, sorted, the fallback among them; parses nothing."""
    return list(listing("families"))


def family(name: str, names: Collection[str] | None = None) -> Family:
    """A family by its name.

    Args:
        name: e.g. ``"wan_dit"``.
        names: names of the tensors it is meant for: the family comes in their spelling and with their prefix
            when they fit one, else in its own.

    Raises:
        RecipeError: no such family, or a mistake in its file.
    """
    known = proven(load_family, find("families", name))
    return (names is not None and known.fit(names)) or known


def spellings() -> dict[str, list[str]]:
    """Each spelling with the families that have it.

    Raises:
        RecipeError: a mistake in a file.
    """
    by_name: dict[str, list[str]] = {}
    paths = listing("families")
    known = {folder: proven(_spelled, folder) for folder in {path.parent for path in paths.values()}}
    for name, path in paths.items():
        for spelling in known[path.parent][name]:
            by_name.setdefault(spelling, []).append(name)
    return by_name


def check_spelling(name: str) -> None:
    """Whether any family has a spelling of that name.

    Raises:
        RecipeError: none has; says what it is instead, or what there is.
    """
    known = spellings()
    if name not in known:
        raise RecipeError(f"no family has a spelling {name!r}", hint=spelling_hint(name, known))


def generic_family(names: Collection[str] | None = None) -> Family:
    """The policy for models of no known family.

    Args:
        names: names of the tensors it is meant for: where they have numbered blocks, all outside of those is
            left as it is.
    """
    return family("generic", names)


def detect(names: Collection[str], shapes: Mapping[str, tuple[int, ...]] | None = None) -> Family | None:
    """The family that these tensors are of, in their spelling; None when no family fits.

    Where one fitting family refines another, it is meant. A file of several models is of the family of the
    one that denoises, and without such a one of none.

    Args:
        names: all names of a checkpoint.
        shapes: shape of each, where known.

    Raises:
        RecipeError: two families fit, neither of which refines the other; or a mistake in a file.
    """
    folded = list(component_table().served(fold(names)))  # not what an all-in-one file holds besides
    paths = listing("families")
    known = {folder: proven(_signatures, folder) for folder in {path.parent for path in paths.values()}}
    fitting = {
        name: fitted
        for name, path in paths.items()
        if any(one.fit_folded(folded, shapes) is not None for one in known[path.parent][name])
        and (fitted := proven(load_family, path).fit_folded(folded, shapes)) is not None
    }
    refined = {other for fitted in fitting.values() for other in fitted.refines}
    left = [name for name in fitting if name not in refined]
    if len(left) > 1:
        if component_table().held(folded).several:
            return None  # text encoders in one file, each of a family of its own
        raise RecipeError(
            f"the tensors fit several families: {', '.join(left)}", hint=f"say which with {called('model')}"
        )
    return fitting[left[0]] if left else None


def _signatures(folder: Path) -> dict[str, tuple[Signature, ...]]:
    """What the spellings of each family of a folder are recognised by; nothing for the fallback.

    Of some sixty families a model is of one: only that one is loaded whole.
    """
    by_family: dict[str, tuple[Signature, ...]] = {}
    for path in folder.glob("*.yaml"):
        known = proven(load_family, path)
        spellings = () if known.fallback else known.spellings.values()
        by_family[path.stem] = tuple(one.signature for one in spellings if one.signature is not None)
    return by_family


def _spelled(folder: Path) -> dict[str, tuple[str, ...]]:
    """The spellings of each family of a folder, for those who ask of all families and need none whole."""
    return {path.stem: tuple(proven(load_family, path).spellings) for path in folder.glob("*.yaml")}


def load_family(path: Path) -> Family:
    """Read the file of one family.

    Raises:
        RecipeError: a mistake in it, with its line.
    """
    top = strict.catalog_file(path, "family")
    title = top.need("title").string()
    refines = tuple(top.get("refines", strict.Node.strings, ()))
    fallback = top.get("fallback", strict.Node.boolean, False)
    spellings = {key: _spelling(key, child) for key, child in top.need("spellings").mapping().items()}
    if not spellings:
        raise top.need("spellings").error("needs one spelling or more")
    conversions: dict[tuple[str, str], Conversion] = {}
    others: list[tuple[tuple[str, str], Conversion]] = []
    for child in top.get("conversions", strict.Node.sequence, ()):
        pair, table = _conversion(child, spellings)
        first = next((one for key, one in conversions.items() if {*key} == {*pair}), None)
        if first is None:
            conversions[pair] = table
        elif not table.holds:  # the first may be for all that no other names
            raise child.error(
                f"there are rules between {' and '.join(pair)} already", "say for which it holds"
            )
        else:
            others.append((pair, table))
    top.reject_unknown()
    for spelling in spellings.values():
        if spelling.signature is None and not fallback:
            raise top.need("spellings").error(f"{spelling.name}: 'detect' is missing")
    return Family(
        path.stem,
        title,
        str(path),
        spellings,
        next(iter(spellings)),
        "",
        refines,
        fallback,
        conversions,
        tuple(others),
    )


def _spelling(name: str, node: strict.Node) -> Spelling:
    top = node.mapping()
    title = top.need("title").string()
    signature = top.get("detect", _signature, None)
    policy = Policy(
        blocks=tuple(_block(child) for child in top.get("blocks", strict.Node.sequence, ())),
        targets=_patterns(top.need("targets")),
        also=top.get("also", _patterns, ()),
        never=top.get("never", _labelled, _NONE),
        routers=top.get("routers", _patterns, ()),
        adapters=top.get("adapters", _patterns, ()),
        fused=tuple(_fused(child) for child in top.get("fused", strict.Node.sequence, ())),
        weights=top.get("weights", _patterns, Policy.weights),
        everywhere=top.get("everywhere", strict.Node.boolean, False),
        dims=top.get("dims", _integers, ()),
        drops=top.get("drops", _patterns, ()),
        extras=top.get("extras", _labelled, _NONE),
        keeps=top.get("keeps", _labelled, _NONE),
    )
    config = top.get("config", derivation, None)
    top.reject_unknown()
    if not policy.blocks and not policy.everywhere:
        raise node.error("'blocks' is missing", "say where blocks stand, or everywhere: true")
    return Spelling(name, title, signature, policy, config)


def _signature(node: strict.Node) -> Signature:
    top = node.mapping()
    every = tuple(top.need("all").strings())
    none = tuple(top.get("none", strict.Node.strings, ()))
    shapes = {
        glob: tuple(None if length.is_null else length.integer(0) for length in child.sequence())
        for glob, child in top.get("shapes", lambda child: child.mapping().items(), ())
    }
    top.reject_unknown()
    return node.at(lambda: Signature(every, none, shapes))


def _block(node: strict.Node) -> Block:
    if node.kind == "text":
        return node.at(lambda: Block(node.string()))
    top = node.mapping()
    path = top.need("path").string()
    every = top.get("every", lambda child: child.integer(1), 1)
    file = top.get("file", strict.Node.boolean, True)
    top.reject_unknown()
    return node.at(lambda: Block(path, every, file))


def _fused(node: strict.Node) -> Fused:
    return node.at(lambda: Fused(tuple(node.strings())))


def _conversion(node: strict.Node, spellings: Mapping[str, Spelling]) -> tuple[tuple[str, str], Conversion]:
    top = node.mapping()
    between = top.need("between")
    ends = [child.choice(spellings) for child in between.sequence()]
    if len(set(ends)) != 2 or len(ends) != 2:
        raise between.error("must name two spellings")
    table = rules(top.need("rules"))
    only: dict[str, tuple[str, ...]] = dict.fromkeys(ends, ())
    for key, child in top.get("only", lambda child: child.mapping().items(), ()):
        if key not in only:
            raise child.error(f"{key!r} is neither of the two spellings")
        only[key] = tuple(child.strings())
    holds = {
        key: tuple(one.plain() for one in child.sequence())
        for key, child in top.get("holds", lambda child: child.mapping().items(), ())
    }
    top.reject_unknown()
    pair = ends[0], ends[1]
    return pair, node.at(lambda: Conversion(table, (only[pair[0]], only[pair[1]]), holds))


def _patterns(node: strict.Node) -> tuple[Pattern, ...]:
    return tuple(_pattern(child) for child in node.sequence())


def _pattern(node: strict.Node) -> Pattern:
    return node.at(lambda: Pattern(node.string()))


def _labelled(node: strict.Node) -> dict[str, tuple[Pattern, ...]]:
    return {label: _patterns(child) for label, child in node.mapping().items()}


def _integers(node: strict.Node) -> tuple[int, ...]:
    return tuple(child.integer(0) for child in node.sequence())
