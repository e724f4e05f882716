"""Shapes of matrices that none of their parts tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice

from ..catalog.models import KEYS, Misstated, model, models
from ..core.records import dataclass
from ..core.spec import Spec
from .config.stated import Json

__all__ = ["Lengths"]

_MOST = 1 << 16
"""Tensors of a class that are looked at: a config may ask for any number of them."""


@dataclass(frozen=True)
class Lengths:
    """How many rows matrices have: as many as the bias of a layer, or what its class makes of config.json.

    Attributes:
        configs: contents of the config.json beside the tensors.
    """

    configs: Sequence[Json] = ()

    def of(self, name: str, specs: Mapping[str, Spec], count: int) -> tuple[int, int] | None:
        """The shape of a matrix, None where nothing tells.

        Args:
            name: of the matrix.
            specs: facts of what stands beside it, by stored name.
            count: of its elements.
        """
        bias = specs.get(f"{name.removesuffix('.weight')}.bias")
        shape = self._stated.get(name, ()) if bias is None else bias.shape
        rows = shape[0] if len(shape) == (2 if bias is None else 1) else 0
        if not rows or count % rows or (bias is None and shape[1] * rows != count):
            return None
        return rows, count // rows

    @cached_property
    def _stated(self) -> Mapping[str, tuple[int, ...]]:
        return {name: shape for config in self.configs for name, shape in _shapes(config)}


def _shapes(config: Json) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Those of the class that a config names, where it is known here."""
    named = (config.get(key) for key in KEYS.values())
    for name in named:
        if isinstance(name, str) and name in models():
            try:
                yield from islice(model(name).tensors(config), _MOST)
            except Misstated:
                return
