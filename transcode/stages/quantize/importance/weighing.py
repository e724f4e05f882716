"""The weights that a file gives for the columns of each tensor: by its name, or by what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ....core.context import Context
from ....core.tensor import LazyTensor
from ....errors import FormatError
from ...leaves import leaves
from .columns import Columns, Stored
from .file import WeightFile
from .follow import Unfollowed, combined, follow
from .names import Entries, Found

__all__ = ["Weighing"]


class Weighing:
    """A file that weighs the columns of a model's tensors, be it of the names that they have or of those of
    the source.

    Args:
        file: it.
        tensors: those that are to be weighed.
        model: all tensors of the model.

    Attributes:
        used: the entries that weigh any.
    """

    def __init__(self, file: WeightFile, tensors: Sequence[LazyTensor], model: Sequence[LazyTensor]) -> None:
        self.used: set[str] = set()
        self._file = file
        self._named = Entries(file.entries, [tensor.name for tensor in model])
        made_of = [leaf for tensor in model for leaf in leaves(tensor)]
        self._came = Entries(file.entries, [leaf.source or leaf.name for leaf in made_of])
        named = sum(self._named.find(tensor.name) is not None for tensor in tensors)
        came = sum(any(map(self._entry, leaves(tensor))) for tensor in tensors)
        # A name may be that of one tensor here and of another there: the spelling of most is the file's.
        self._by_source = came > named

    def columns(self, tensor: LazyTensor) -> Columns | str:
        """The weights of a tensor's columns, or which tensor has none, in words.

        Raises:
            FormatError: those that the file gives do not fit.
        """
        shape = tensor.spec.shape if tensor.unpadded is None else tensor.unpadded
        found = None if self._by_source else self._named.find(tensor.name)
        if found is None:
            try:
                woven = follow(tensor, self._leaf)
                columns = combined(woven, prod(shape[:-2]))
                self._check(columns, shape, tensor.name, tensor.source)
                return columns
            except Unfollowed as why:
                found = self._named.find(tensor.name)
                if found is None:
                    alone = next(leaves(tensor)).spec == tensor.spec
                    return tensor.name if alone else f"{tensor.name} ({why})"
        stored = self._stored(found, shape)
        self._check(stored, shape, tensor.name, found.name)
        return stored

    def _entry(self, leaf: LazyTensor) -> Found | None:
        return self._came.find(leaf.name, leaf.source)

    def _leaf(self, leaf: LazyTensor) -> Sequence[Columns]:
        """Weights of the columns of a tensor of the source: of all its matrices, or of each."""
        found, shape = self._entry(leaf), leaf.spec.shape
        if found is None:
            raise Unfollowed(f"it is made of {leaf.source or leaf.name}")
        stored = self._stored(found, shape)
        self._check(stored, shape, leaf.source or leaf.name, found.name)
        matrices = len(stored.weights(Context()))
        if matrices == 1:
            return [stored]
        return [self._file.columns(found.name, shape[-1], row) for row in range(matrices)]

    def _stored(self, found: Found, shape: Sequence[int]) -> Stored:
        self.used.add(found.name)
        return self._file.columns(found.name, shape[-1], found.row)

    def _check(self, columns: Columns, shape: Sequence[int], name: str, entry: str) -> None:
        """Refuse weights of other shapes than the tensor's."""
        weights = columns.weights(Context())
        if weights.shape[1] != shape[-1] or len(weights) not in (1, prod(shape[:-2])):
            raise FormatError(
                f"weighs {' x '.join(map(str, weights.shape))} columns, where {name} is {list(shape)}",
                file=self._file.path, tensor=entry, hint="it is of another model",
            )  # fmt: skip
