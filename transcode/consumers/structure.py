"""Whether the tensors of a checkpoint are those that a program makes of its config.json."""

from __future__ import annotations

from collections.abc import Mapping

from ..catalog.models import KEYS, Misstated, Model, model, models
from ..catalog.programs import Way
from ..core.text import count
from .config.stated import CONFIG
from .examined import Examined
from .judged import Judged

__all__ = ["structure"]

_ENOUGH = 1000
"""Missing tensors after which no more are looked for: a config may ask for any number of them."""


def structure(judged: Judged, way: Way, facts: Examined) -> Judged:
    """Compare the tensors with what config.json says, where the program builds a class by it; else the blocks
    with each other.
    """
    if way.models is None or facts.config is None:
        return _blocks(judged, facts, certain=True)
    table, judged = _table(judged, way.models, facts.config)
    if table is None:
        return _blocks(judged, facts, certain=False)
    return _compared(judged, table, facts)


def _table(judged: Judged, library: str, config: Mapping[str, object]) -> tuple[Model | None, Judged]:
    """The table of the class that is built, if there is one."""
    key = KEYS[library]
    name = config.get(key)
    if name is None:
        why = f"{CONFIG} has no {key}, by which {library} finds the class"
        if key == KEYS["diffusers"]:  # its classes can be called by their names, AutoModel finds none
            return None, judged.doubt(why)
        return None, judged.refuse(why, f"put {key} into {CONFIG}")
    if not isinstance(name, str):
        return None, judged.refuse(f"{CONFIG}: {key} is {name!r:.40}, not a text")
    table = model(name) if name in models() else None
    if table is None or table.library != library:
        return None, judged.doubt(f"which tensors a {name} of {library} has is not known here")
    for other in table.other_with:
        if config.get(other) is not None:
            return None, judged.doubt(f"with {other}, {library} takes another class than {table.class_name}")
    listed = config.get("architectures")
    if isinstance(listed, list) and listed and listed[0] != table.class_name:
        return None, judged.doubt(
            f"{CONFIG} names {listed[0]!r:.60}: which tensors that has is not known here"
        )
    return table, judged


def _compared(judged: Judged, table: Model, facts: Examined) -> Judged:
    held = facts.shapes
    wanted: set[str] = set()
    missing: list[str] = []
    odd: list[str] = []
    try:
        for name, shape in table.tensors(facts.config or {}):
            wanted.add(name)
            if name not in held:
                missing.append(name)
                if len(missing) >= _ENOUGH:
                    break
            elif held[name] is not None and held[name] != shape:
                odd.append(f"{name} is {_shown(held[name])}, {CONFIG} makes it {_shown(shape)}")
    except Misstated as error:
        return judged.refuse(f"{CONFIG}: {error}", f"correct {CONFIG}")
    whole = f"take the {CONFIG} that belongs to these tensors, or the tensors that are missing"
    if missing:
        judged = judged.refuse(f"{_first(missing)} {'is' if len(missing) == 1 else 'are'} missing", whole)
    if odd:
        more = f" ({len(odd) - 1} more)" if len(odd) > 1 else ""
        judged = judged.refuse(f"{odd[0]}{more}", whole)
    left = [
        name
        for name in held
        if name not in wanted and not any(pattern.fullmatch(name) for pattern in table.spare)
    ]
    if missing or not left:
        return judged
    unused = [name for name in left if table.knows(name)]
    if unused:
        return judged.refuse(f"{_first(unused)} would be left out: {CONFIG} asks for none", whole)
    return judged.doubt(f"it leaves out {_first(left)}, of which a {table.class_name} has none")


def _first(names: list[str]) -> str:
    many = "" if len(names) < _ENOUGH else "at least "
    return names[0] if len(names) == 1 else f"{names[0]} and {many}{count(len(names) - 1, 'other')}"


def _shown(shape: tuple[int, ...] | None) -> str:
    return f"[{','.join(map(str, shape or ()))}]"


def _blocks(judged: Judged, facts: Examined, *, certain: bool) -> Judged:
    if facts.uneven is None:
        return judged
    alike = facts.family is not None and facts.family.name != "decoder_llm"
    return judged.refuse(facts.uneven) if certain and alike else judged.doubt(facts.uneven)
