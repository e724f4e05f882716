"""Loads ``formats/nunchaku/*.yaml``: how nunchaku's modules are made of a model's own."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.records import dataclass
from ..errors import RecipeError
from . import strict
from .folders import find, listing

__all__ = ["KINDS", "Layer", "Modules", "modules", "modules_for"]

KINDS = ("linear", "adanorm", "copy")
"""4-bit linear with low-rank branch; 4-bit projection of an adaptive norm; a tensor that is not quantized."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One of nunchaku's modules inside a block.

    Attributes:
        name: nunchaku's name, within the block.
        kind: one of :data:`KINDS`.
        of: modules whose weights are joined along the output channels.
        smooth: module that the smoothing factors are filed under.
        branch: module that the low-rank branch is filed under.
        splits: of an ``adanorm``: how many projections stand one after the other.
        fuses_smooth: whether the layer before it usually takes the smoothing factors in.
        wrapped: whether the weight may lie in ``.linear`` of the module, with a ``.shift`` beside.
    """

    name: str
    kind: str
    of: tuple[str, ...]
    smooth: str
    branch: str
    splits: int = 1
    fuses_smooth: bool = False
    wrapped: bool = False


@dataclass(frozen=True, slots=True)
class Modules:
    """The map of one model: block kind (``transformer_blocks``) -> its layers."""

    model: str
    title: str
    blocks: Mapping[str, tuple[Layer, ...]]


def modules(model: str) -> Modules:
    """The map of one model.

    Raises:
        RecipeError: there is none, or a mistake in its file.
    """
    path = find("nunchaku", model)
    top = strict.catalog_file(path, "model")
    title = top.need("title").string()
    blocks = {
        block: tuple(_layer(name, layer) for name, layer in child.mapping().items())
        for block, child in top.need("blocks").mapping().items()
    }
    top.reject_unknown()
    return Modules(path.stem, title, blocks)


def modules_for(name: str) -> Modules:
    """The map that fits a model's name: ``flux.1-dev`` has that of ``flux``.

    Raises:
        RecipeError: there is none for such a name.
    """
    known = list(listing("nunchaku"))
    fitting = [model for model in known if model in name.lower()]
    if not fitting:
        raise RecipeError(
            f"nunchaku has no model called {name!r}", hint=f"the name must hold {' or '.join(known)}"
        )
    return modules(max(fitting, key=len))


def _layer(name: str, node: strict.Node) -> Layer:
    top = node.mapping()
    kind = top.need("kind").choice(KINDS)
    of = tuple(top.need("of").strings())
    if not of:
        raise top.need("of").error("names no module")
    layer = Layer(
        name,
        kind,
        of,
        smooth=top.get("smooth", strict.Node.string, of[0]),
        branch=top.get("branch", strict.Node.string, of[0]),
        splits=top.get("splits", lambda child: child.integer(2), 1),
        fuses_smooth=top.get("fuses_smooth", strict.Node.boolean, False),
        wrapped=top.get("wrapped", strict.Node.boolean, False),
    )
    top.reject_unknown()
    if (layer.splits > 1) != (kind == "adanorm"):
        raise node.error("splits belong to an adanorm, and to nothing else")
    if layer.wrapped and len(of) > 1:
        raise node.error("joined modules cannot be wrapped")
    return layer
