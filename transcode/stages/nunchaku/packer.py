"""Finds in a DeepCompressor checkpoint what each of nunchaku's layers is made of."""

from __future__ import annotations

from collections.abc import Sequence

from ...catalog.nunchaku import Layer
from ...containers.deepcompressor.names import BRANCH, SCALE, SMOOTH
from ...core.event import Event
from ...core.records import dataclass
from ...core.tensor import LazyTensor
from ...errors import PlanError
from ...schemes.svdquant import W4A16, SvdqFp4, SvdqInt4
from .adanorm import AdaNorm
from .linear import Linear
from .rows import Joined, Level, join, level

__all__ = ["Packer"]

_FUSED = f"{SMOOTH}/proj.fuse_when_possible"


@dataclass(frozen=True, slots=True)
class _Sources:
    """What a layer is made of: its modules, what they hold, and where factors and branch are filed."""

    modules: list[str]
    weight: Joined
    bias: Joined | None
    shift: LazyTensor | None
    smooth: str
    branch: str


class Packer:
    """Finds what a layer is made of; remembers what was used, and for what."""

    def __init__(self, table: dict[str, LazyTensor], encoding: SvdqInt4 | SvdqFp4) -> None:
        self._table = table
        self._encoding = encoding
        self.used: dict[str, str] = {}
        flag = self._take(_FUSED, "the choice of smoothing factors")
        self._fuses = flag is None or bool(flag.numpy())

    def layer(self, block: str, layer: Layer) -> list[LazyTensor]:
        """The tensors that a layer becomes: one that is packed, or plain weight and bias."""
        name = f"{block}.{layer.name}"
        found = self._sources(block, layer, name)
        outer, inner = (self._scales(found.modules, number, name) for number in (0, 1))
        linear = layer.kind == "linear"
        smooth = self._take(f"{SMOOTH}/{found.smooth}", name) if linear else None
        down, up = self._branch(f"{BRANCH}/{found.branch}", name) if linear else (None, None)
        first = f"{found.modules[0]}.weight"
        if outer is None:
            others = {"smoothing factors": smooth, "a low-rank branch": down, "a shift": found.shift}
            for what, other in {**others, "scales of level 1": inner}.items():
                if other is not None:
                    raise PlanError(
                        f"has {what} but no scale", tensor=first, hint=f"{SCALE} lacks {first}.scale.0"
                    )
            return self._copies(name, found.weight, found.bias)
        if layer.kind == "copy":
            raise PlanError("has scales, but nunchaku keeps it as it is", tensor=first)
        told = " + ".join(module.removeprefix(f"{block}.") for module in found.modules)
        levels = [level(scales, found.weight) for scales in (outer, inner) if scales is not None]
        if layer.kind == "adanorm":
            if len(levels) > 1:
                raise PlanError("has two levels of scales, there can be one", tensor=first)
            norm = AdaNorm(found.weight, levels[0], found.bias, layer.splits)
            norm.check()
            return [norm.lazy(name, Event("pack", f"{W4A16.name} of {told}, {layer.splits} projections"))]
        ones = Level(None, found.weight.rows, 1, False)
        coarse = levels[0] if len(levels) > 1 else ones
        fused = layer.fuses_smooth and self._fuses
        packed = Linear(
            self._encoding, found.weight, coarse, levels[-1], found.bias, smooth, down, up, found.shift, fused
        )  # fmt: skip
        packed.check()
        facts = [f"{self._encoding.name} of {told}"]
        facts += ["smoothed by the layer before" if fused else "smoothed"] if smooth else []
        facts += [f"rank {down.spec.shape[0]}"] if down else []
        facts += ["shifted"] if found.shift and down else []
        return [packed.lazy(name, Event("pack", ", ".join(facts)))]

    def _sources(self, block: str, layer: Layer, name: str) -> _Sources:
        modules = [f"{block}.{module}" for module in layer.of]
        shift = None
        inner = ""
        if layer.wrapped and f"{modules[0]}.linear.weight" in self._table:
            shift = self._take(f"{modules[0]}.shift", name)
            inner = ".linear"
            modules = [f"{modules[0]}{inner}"]
        weight = join([self._need(f"{module}.weight", name) for module in modules])
        smooth, branch = (
            f"{block}.{module}{inner if module == layer.of[0] else ''}"
            for module in (layer.smooth, layer.branch)
        )
        return _Sources(modules, weight, self._bias(modules, weight, name), shift, smooth, branch)

    def _copies(self, name: str, weight: Joined, bias: Joined | None) -> list[LazyTensor]:
        made = []
        for joined, suffix in ((weight, "weight"), (bias, "bias")):
            if joined is not None:
                first = joined.tensors[0].spec.shape
                told = " + ".join(tensor.source for tensor in joined.tensors)
                did = Event("join", told)
                if len(joined.rows) == 1:
                    did = Event("rename", f"{told} -> {name}.{suffix}")
                made.append(joined.plain(f"{name}.{suffix}", (joined.count, *first[1:]), did))
        return made

    def _bias(self, sources: Sequence[str], weight: Joined, name: str) -> Joined | None:
        found = [self._take(f"{source}.bias", name) for source in sources]
        held = [bias for bias in found if bias is not None]
        if not held:
            return None
        for source, bias, rows in zip(sources, found, weight.rows, strict=True):
            if bias is None:
                raise PlanError("is missing, joined modules have theirs", tensor=f"{source}.bias")
            if bias.spec.shape != (rows,):
                raise PlanError(f"shape {list(bias.spec.shape)} does not fit {rows} rows", tensor=bias.source)
        return join(held)

    def _scales(self, sources: Sequence[str], number: int, name: str) -> list[LazyTensor] | None:
        stored = [f"{SCALE}/{source}.weight.scale.{number}" for source in sources]
        found = [self._take(one, name) for one in stored]
        held = [scale for scale in found if scale is not None]
        if held and len(held) < len(found):
            missing = stored[found.index(None)]
            raise PlanError("is missing, joined modules have theirs", tensor=missing)
        if any(f"{SCALE}/{source}.weight.scale.2" in self._table for source in sources):
            raise PlanError("three levels of scales, nunchaku knows two", tensor=f"{sources[0]}.weight")
        if len(held) > 1 and len({scale.spec.numel == 1 for scale in held}) > 1:
            raise PlanError(
                "joined modules have scales of the whole and of groups", tensor=f"{sources[0]}.weight"
            )
        return held or None

    def _branch(self, stored: str, name: str) -> tuple[LazyTensor, LazyTensor] | tuple[None, None]:
        down, up = (self._take(f"{stored}.{factor}.weight", name) for factor in "ab")
        if down is None and up is None:
            return None, None
        if down is None or up is None:
            missing = "a" if down is None else "b"
            raise PlanError("is missing, the other factor is there", tensor=f"{stored}.{missing}.weight")
        return down, up

    def _take(self, stored: str, name: str) -> LazyTensor | None:
        found = self._table.get(stored)
        if found is not None:
            self.used.setdefault(stored, name)
        return found

    def _need(self, stored: str, name: str) -> LazyTensor:
        found = self._take(stored, name)
        if found is None:
            raise PlanError(f"is missing, {name} is made of it", tensor=stored)
        return found
