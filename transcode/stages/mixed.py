"""Names of two spellings in one model: what is converted already, but for some of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import catalog
from ..consumers.stored import stored_quantized
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..voice import called

__all__ = ["logical", "of_others", "refuse_mixed"]


def logical(tensors: Sequence[LazyTensor]) -> list[str]:
    """Names of tensors by which a family is known: of quantized ones their own, whatever their codes are
    called (``weight_packed``).
    """
    codes = stored_quantized(tensors).tensors
    return [codes.get(tensor.name, tensor.name) for tensor in tensors]


def of_others(names: Iterable[str], family: catalog.Family) -> dict[str, str]:
    """Names in a model of this spelling that it does not know and another does; with that one's."""
    size = len(family.prefix)
    found: dict[str, str] = {}
    own = [name for name in names if name.startswith(family.prefix)]
    for other in family.converts_to():
        away = family.directions(other)
        back = family.spelled(other).directions(family.spelling)
        for name in own:
            hits = (table.find(name[size:]) for table in back)
            if any(hit is not None and tuple(hit.others) != (name[size:],) for hit in hits):
                found[name] = other
        own = [name for name in own if all(table.find(name[size:]) is None for table in away)]
    return {name: found[name] for name in own if name in found}


def refuse_mixed(tensors: Sequence[LazyTensor], family: catalog.Family, planning: Planning) -> None:
    """Refuse a model that is spelled as asked, but for some names.

    Raises:
        PlanError: some of its names are of another spelling; a warning where unmatched names are allowed.
    """
    strays = of_others(logical(tensors), family)
    if not strays:
        return
    name, other = next(iter(strays.items()))
    more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
    told = f"convert: the names are spelled as {family.spelling}, but {name!r}{more} as {other}"
    if not planning.allow_unmatched:
        hint = f"drop or rename them first, or pass {called('allow_unmatched')}"
        raise PlanError(told, hint=hint)
    planning.warn(told)
