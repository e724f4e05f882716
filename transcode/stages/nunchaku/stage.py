"""Join and pack the tensors of a DeepCompressor checkpoint as nunchaku reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from ...catalog.nunchaku import modules
from ...containers.deepcompressor.names import BRANCH, SCALE, SMOOTH
from ...core.event import Event
from ...core.flow import Transform
from ...core.planning import Planning
from ...core.records import dataclass
from ...core.tensor import LazyTensor
from ...errors import PlanError
from ...schemes.svdquant import SvdqFp4, SvdqInt4
from ...voice import called
from ..options import NunchakuOptions

__all__ = ["Nunchaku"]

_FILES = (f"{SCALE}/", f"{SMOOTH}/", f"{BRANCH}/")


@dataclass(frozen=True)
class Nunchaku(NunchakuOptions, Transform):
    """Turn an SVDQuant checkpoint into nunchaku's layers.

    The flow must come from a DeepCompressor folder (:mod:`~transcode.containers.deepcompressor`). While
    planning, one flag of ``smooth.pt`` is read, and nothing else.
    """

    encodes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        modules(self.model)

    @property
    def consumer(self) -> str:
        """nunchaku alone reads these parts."""
        return "nunchaku"

    @property
    def scheme(self) -> str:
        """How linear layers are stored."""
        return self._encoding.name

    @property
    def _encoding(self) -> SvdqInt4 | SvdqFp4:
        return SvdqFp4() if self.float_point else SvdqInt4()

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Join the tensors of every layer of every block; what is outside blocks goes on as it is."""
        from .packer import Packer  # most runs pack nothing

        table = {tensor.name: tensor for tensor in tensors}
        if not any(name.startswith(f"{SCALE}/") for name in table):
            raise PlanError(
                f"no scale of {SCALE} is in the flow", hint="open the folder that DeepCompressor saved to"
            )
        layers = modules(self.model).blocks
        blocks = dict.fromkeys(
            (kind, number)
            for kind, number, *_ in (name.split(".") for name in table if name.count(".") >= 2)
            if kind in layers and number.isdecimal()
        )
        if not blocks:
            raise PlanError(f"no tensor belongs to a block of {self.model} ({', '.join(layers)})")
        packer = Packer(table, self._encoding)
        made: dict[str, list[LazyTensor]] = {}
        for kind, number in blocks:
            for layer in layers[kind]:
                for one in packer.layer(f"{kind}.{number}", layer):
                    made.setdefault(one.source, []).append(one)
        for name, tensor in table.items():
            if name in made:
                yield from made[name]
            elif name in packer.used:
                planning.drop(tensor, Event("absorb", f"went into {packer.used[name]}"))
            elif name.startswith(_FILES) or tuple(name.split(".")[:2]) in blocks:
                planning.drop(tensor, Event("drop", "nunchaku has no place for it"))
            else:
                yield tensor
        _complain([name for name in table if name not in packer.used], blocks, planning)


def _complain(left: Sequence[str], blocks: Iterable[tuple[str, str]], planning: Planning) -> None:
    """Tell of what found no place. A branch that is left out makes a wrong model, so that is an error."""
    inside = tuple(f"{kind}.{number}." for kind, number in blocks)
    branches = [name for name in left if name.startswith(f"{BRANCH}/")]
    others = {
        "scales belong to no layer in 4 bits": [
            name for name in left if name.startswith(f"{SCALE}/") and not name.endswith(".zero")
        ],
        "smoothing factors belong to no layer in 4 bits": [
            name for name in left if name.startswith(f"{SMOOTH}/") and not name.endswith("fuse_when_possible")
        ],
        "tensors of blocks have no place in nunchaku's layers": [
            name for name in left if name.startswith(inside)
        ],
    }
    if branches:
        told = (
            f"{len(branches)} tensors of low-rank branches belong to no layer in 4 bits ({_some(branches)})"
        )
        if not planning.allow_unmatched:
            raise PlanError(told, hint=f"are the files of one run? or pass {called('allow_unmatched')}")
        planning.warn(told)
    for what, names in others.items():
        if names:
            planning.warn(f"{len(names)} {what} ({_some(names)})")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
