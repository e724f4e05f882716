"""Tensors that came quantized, between being opened and being settled: encoded anew, or stored again."""

from __future__ import annotations

from .records import dataclass
from .scheme import Scheme
from .tensor import LazyTensor

__all__ = ["Quantized", "QuantizedSource"]


@dataclass
class Quantized:
    """One of them, which is on its way as plain values.

    Attributes:
        name: in the source.
        inputs: scales of its inputs, which stood beside it.
        marks: its markers.
        scheme: that its codes are of.
        anew: its codes are given up: what it holds is encoded anew, or stays plain.
        turned: it is a stack of matrices that are stored transposed, which none but its own names hold.
    """

    name: str
    scheme: Scheme
    inputs: tuple[LazyTensor, ...] = ()
    marks: tuple[LazyTensor, ...] = ()
    anew: bool = False
    turned: bool = False


@dataclass(frozen=True)
class QuantizedSource:
    """All of a source.

    Attributes:
        conventions: names of those that read it, the best first.
        tensors: by the names of their codes in the source, which is ``source`` of the plain tensors.
        cache: names of the scales of the cache of keys and values, in the source.
    """

    conventions: tuple[str, ...]
    tensors: dict[str, Quantized]
    cache: frozenset[str]

    def still(self, tensor: LazyTensor) -> Quantized | None:
        """What is known of a plain tensor that was opened and is not settled yet; None of any other."""
        quantized = self.tensors.get(tensor.source) if tensor.plain else None
        return None if quantized is None or quantized.anew else quantized
