"""Codes without a scale, scales without codes: what a decode would leave, and a cast make wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from .. import catalog
from ..catalog import Convention
from ..catalog.template import Template
from ..core.dtypes import CODED
from ..core.planning import Planning
from ..core.tensor import LazyTensor
from ..errors import PlanError
from ..voice import called
from .evidence import claims
from .stored import Stored, plain_fp8

__all__ = ["refuse_bare_fp8", "refuse_orphans", "refuse_scaled"]

_WEIGHT = ".weight"

_INTEGERS = ("I8", "U8", "I32", "U32")
"""Dtypes of codes that are no values by themselves, as FP8 can be."""

_WEIGHTS = ("{name}", "{stem}.weight")
"""How codes are called that have the name of the weight itself."""

_OTHERS = (".scale", ".alpha")
"""Endings that tensors of one axis have for names of their own: norms, strengths of LoRAs."""

_ELSEWHERE = f"if it is in another shard, point at the whole model; else take this away with {called('drop')}"


def refuse_orphans(
    tensors: Sequence[LazyTensor], stored: Stored, conventions: Sequence[Convention], planning: Planning
) -> None:
    """Stop where all is to be decoded, and codes or scales would be left beside what is.

    Args:
        tensors: all of a source.
        stored: what of it is quantized.
        conventions: those that read it.

    Raises:
        PlanError: integers that are named like a weight, or as codes are, have no scale, or FP8 has none
            though config.json says that it is quantized; a scale or another part has no codes, or some that
            are no matrix.
    """
    table = {tensor.name: tensor for tensor in tensors if tensor.plain}
    axes = 1 if any(rule.rows_of for one in conventions for rule in one.schemes.values()) else 2
    for name, tensor in table.items():
        if (
            name.endswith((_WEIGHT, f"{_WEIGHT}_packed"))
            and name not in stored.parts
            and tensor.spec.dtype.name in _INTEGERS
            and len(tensor.spec.shape) >= axes
        ):
            raise _bare(tensor)
    refuse_bare_fp8(plain_fp8(tensors, stored), planning, table)
    idle = []
    templates = _templates(conventions).values()
    for name, tensor in table.items():
        part = None if name in stored.parts else _part(tensor, templates)
        if part is None:
            continue
        role, owner = part
        if role == "codes":
            raise _bare(tensor)
        if owner not in table:
            what = "a scale" if role == "scale" else "a part"
            raise PlanError(f"is {what} of {owner!r}, which is not there", tensor=name, hint=_ELSEWHERE)
        spec = table[owner].spec
        if spec.dtype.name in _INTEGERS and len(spec.shape) >= axes:
            raise _bare(table[owner])
        if spec.dtype.name in CODED:
            raise PlanError(
                f"holds {spec}, to which {name!r} belongs: only matrices are decoded",
                tensor=owner,
                hint="decode it with the program that made it, or choose others with"
                f" {called('dequantize_only')}",
            )
        idle.append(name)
    if idle:
        planning.warn(
            f"{len(idle)} scales belong to tensors that are not quantized, and stay ({idle[0]} ...)"
        )


def _bare(tensor: LazyTensor) -> PlanError:
    return PlanError(
        f"holds {tensor.spec}, to which no scale belongs: it cannot be decoded",
        tensor=tensor.name,
        hint=_ELSEWHERE,
    )


def _templates(conventions: Iterable[Convention]) -> dict[str, tuple[str, Template, Template]]:
    """How conventions call the parts of a tensor, but codes that are called as the weight itself: text of a
    template -> role, template, that of the codes.
    """
    return {
        part.name.text: (role, part.name, parts["codes"].name)
        for convention in conventions
        for rule in convention.schemes.values()
        for parts in (one for one in rule.readings if "scale" in one)
        for role, part in parts.items()
        if part.name.text not in _WEIGHTS
    }


def _part(tensor: LazyTensor, templates: Iterable[tuple[str, Template, Template]]) -> tuple[str, str] | None:
    """The role that a tensor has by its name, and the stored name of the codes to which it belongs."""
    for role, template, codes in templates:
        owner = template.unspell(tensor.name)
        if owner is None or not owner.endswith(_WEIGHT):
            continue
        if template.after not in _OTHERS or len(tensor.spec.shape) > 1:
            return role, codes.spell(owner)
    return None


def refuse_bare_fp8(bare: Sequence[LazyTensor], planning: Planning, names: Iterable[str]) -> None:
    """Stop where FP8 has no scale, but config.json says that there is one.

    Args:
        bare: tensors of FP8 without a scale.
        names: of all tensors.

    Raises:
        PlanError: it is so; the codes are no values then.
    """
    for claim in claims(planning.metadata, planning.side_files, names) if bare else ():
        known = [catalog.convention(name) for name in claim.conventions]
        if not known or any(one.config is not None for one in known):
            raise PlanError(
                f"is {bare[0].spec.dtype.name} and has no scale, though {claim.said}: its values are not"
                " certain",
                tensor=bare[0].name,
                hint="if the scale is in another shard, point at the whole model; if there is none, take out"
                " what says so",
            )


def refuse_scaled(
    cast: Sequence[LazyTensor], tensors: Sequence[LazyTensor], stored: Stored, planning: Planning
) -> None:
    """Stop before FP8 is cast whose values are perhaps not those of its codes alone.

    Args:
        cast: tensors of FP8 that no scale of any known convention belongs to.
        tensors: all.
        stored: what of them is quantized.

    Raises:
        PlanError: a marker says that one of them is quantized, or something named like a scale stands beside
            it; or config.json says that they have scales.
    """
    if not cast:
        return
    refuse_bare_fp8(cast, planning, [tensor.name for tensor in tensors])
    conventions = catalog.every_convention()
    below: dict[str, list[str]] = defaultdict(list)
    for tensor in tensors:
        if (owner := _marked_by(tensor.name, cast, stored, conventions)) is not None:
            raise PlanError(
                f"marks {owner.name!r} as quantized, which is {owner.spec.dtype.name} and has no scale that"
                " is known",
                tensor=tensor.name,
                hint=f"if it has none, take the markers away with {called('drop')}, and cast it then",
            )
        if "scale" in tensor.name.rpartition(".")[2]:
            for end, letter in enumerate(tensor.name):
                if letter in "._":
                    below[tensor.name[:end]].append(tensor.name)
    for tensor in cast:
        module = tensor.name.removesuffix(_WEIGHT)
        scales = [name for name in below[tensor.name] if name != tensor.name]
        if module != tensor.name:
            scales += [name for name in below[module] if name.rpartition(".")[0] in (module, tensor.name)]
        if scales:
            raise PlanError(
                f"is {tensor.spec.dtype.name}, and {scales[0]!r} stands beside it, which may be its scale",
                tensor=tensor.name,
                hint="decode it with the program that made it; or take that away with"
                f" {called('drop')} if it is none",
            )


def _marked_by(
    name: str, cast: Iterable[LazyTensor], stored: Stored, conventions: Iterable[Convention]
) -> LazyTensor | None:
    """The first of some tensors that a marker of this name speaks of.

    One for all layers of a part of the model speaks of those that have scales, where there are some.
    """
    for convention in conventions:
        for marker in (one for rule in convention.schemes.values() for one in rule.markers):
            if marker.everywhere:
                owner = marker.name.unspell(name)
                meant = [tensor for tensor in cast if tensor.name == owner]
            elif f".{name}".endswith(f".{marker.name.text}"):
                part = name.removesuffix(marker.name.text)
                scaled = any(other.startswith(part) for other in stored.tensors)
                meant = [] if scaled else [one for one in cast if one.name.startswith(part)]
            else:
                continue
            if meant:
                return meant[0]
    return None
