"""The tensors of one adapter of one module, put together: LoHa, LoKr, DoRA, GLoRA, OFT, BOFT, IA3."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ...core.records import dataclass
from ...core.tensor import LazyTensor
from ...errors import PlanError
from .delta import Delta, LowRank, Mix
from .products import Hadamard, Kronecker
from .rows import Decomposed, Generalized, Scaled
from .scaling import Options
from .turned_inputs import InputBlocks, InputButterflies
from .turns import Butterflies, OutputBlocks

__all__ = ["Gathered", "Product", "decompose", "gather"]

Roles = Mapping[str, LazyTensor]
Counts = Callable[[str, int, LazyTensor | None], tuple[float, str]]
"""``counts(base, rank, alpha)``: what a product counts for, and that in words."""


@dataclass(frozen=True)
class Product:
    """Something that is added to a weight.

    Attributes:
        key: a key that it comes from.
        delta: what is added.
        factor: how many times, before the strength.
        description: what it is, for the report.
    """

    key: str
    delta: Delta
    factor: float
    description: str


@dataclass(frozen=True)
class Gathered:
    """What becomes of one parameter, as far as the strength says.

    Attributes:
        key: a key that it comes from.
        leaf: last component of the parameter's name.
        delta: what becomes of it.
        description: what it is, for the report.
        optional: models without the parameter are right too.
    """

    key: str
    leaf: str
    delta: Delta | Mix
    description: str
    optional: bool = False


@dataclass(frozen=True)
class _Adapter:
    """One adapter of one module, and what is known around it."""

    file: Path
    base: str
    roles: Roles
    alpha: LazyTensor | None
    options: Options | None
    counts: Counts

    @property
    def key(self) -> str:
        """The first of its keys."""
        return min(tensor.name for tensor in self.roles.values())

    def options_of(self, kind: str) -> Options | None:
        """PEFT's options, if they are of such an adapter."""
        return self.options if self.options is not None and self.options.kind == kind else None

    def need(self, *roles: str) -> Iterator[LazyTensor]:
        """The tensors of roles. Raises PlanError where one is missing."""
        for role in roles:
            if role not in self.roles:
                raise self.error(f"has no partner: the {role} of {self.base!r} is missing",
                                 "is the file complete?")  # fmt: skip
            yield self.roles[role]

    def only(self, *roles: str) -> None:
        """Raises PlanError where there is a tensor of another role."""
        for role, tensor in self.roles.items():
            if role not in roles:
                raise PlanError("has no partner", file=self.file, tensor=tensor.name,
                                hint="is the file complete?")  # fmt: skip

    def agree(self, delta: LowRank | Hadamard | Kronecker | Generalized) -> None:
        if (why := delta.disagree()) is not None:
            raise self.error(why, "is the file complete?")

    def dimensions(self, count: int, tensor: LazyTensor) -> LazyTensor:
        """A tensor that must have so many dimensions, the last two alike where there are more than two."""
        shape = tensor.spec.shape
        if len(shape) != count or 0 in shape or (count > 2 and shape[-1] != shape[-2]):
            raise PlanError(f"is {tensor.spec}, not blocks", file=self.file, tensor=tensor.name,
                            hint="is the file complete?")  # fmt: skip
        return tensor

    def constraint(self) -> float:
        """alpha, which in OFT and BOFT is no factor."""
        return 0.0 if self.alpha is None else float(np.asarray(self.alpha.numpy()).astype(np.float64).item())

    def error(self, what: str, hint: str) -> PlanError:
        return PlanError(what, file=self.file, tensor=self.key, hint=hint)


def gather(
    kind: str,
    file: Path,
    base: str,
    roles: Roles,
    alpha: LazyTensor | None,
    options: Options | None,
    counts: Counts,
) -> Iterable[Product | Gathered]:
    """What an adapter makes of its module's parameters.

    Args:
        kind: as ``formats/lora/names.yaml`` names it, but ``dora``: see :func:`decompose`.
        file: where it comes from, for errors.
        base: the module.
        roles: its tensors.
        alpha: its alpha.
        options: PEFT's of the module.
        counts: what a product counts for.

    Raises:
        PlanError: a tensor is missing, or tensors do not fit each other.
    """
    return _KINDS[kind](_Adapter(file, base, roles, alpha, options, counts))


def decompose(product: Product, file: Path, roles: Roles, factor: np.float32) -> Gathered:
    """A product and the magnitudes beside it: DoRA."""
    if len(roles) > 1:
        raise PlanError("is a second magnitude", file=file, tensor=roles["scale"].name,
                        hint="keep one adapter of the file")  # fmt: skip
    ((role, magnitude),) = roles.items()
    # LyCORIS adds the least step of the dtype that it computes in.
    epsilon = float(np.finfo(np.float32).eps) if role == "scale" else 0.0
    delta = Decomposed(file, product.delta, factor, magnitude, epsilon, role == "magnitude")
    return Gathered(product.key, "weight", delta, f"DoRA, {product.description}")


def _loha(of: _Adapter) -> Iterator[Product]:
    w1_a, w1_b, w2_a, w2_b = of.need("w1_a", "w1_b", "w2_a", "w2_b")
    t1 = t2 = None
    if of.roles.keys() & {"t1", "t2"}:
        t1, t2 = of.need("t1", "t2")
    delta = Hadamard(
        LowRank(of.file, w1_a, w1_b, t1, turned=t1 is not None),
        LowRank(of.file, w2_a, w2_b, t2, turned=t2 is not None),
    )
    of.agree(delta)
    factor, said = of.counts(of.base, delta.rank, of.alpha)
    yield Product(of.key, delta, factor, f"LoHa of rank {delta.rank}{said}")


def _lokr(of: _Adapter) -> Iterator[Product]:
    """alpha counts only where a side is of low rank: LyCORIS takes it for the rank else, as does ComfyUI
    (``lycoris/modules/lokr.py``, ``comfy/weight_adapter/lokr.py``). PEFT counts its own always."""
    sides: list[LazyTensor | LowRank] = []
    for name, core in (("w1", None), ("w2", of.roles.get("t2"))):
        if name in of.roles:
            for other in {f"{name}_a", f"{name}_b"} & of.roles.keys():
                raise of.error(f"is whole, and {of.roles[other].name!r} a factor of the same", "keep one")
            sides += of.need(name)
        else:
            up, down = of.need(f"{name}_a", f"{name}_b")
            sides.append(LowRank(of.file, up, down, core, turned=core is not None))
    if "w2" in of.roles and "t2" in of.roles:
        raise of.error("is whole, and has a core", "is the file complete?")
    delta = Kronecker(of.file, *sides)
    of.agree(delta)
    if (options := of.options_of("LOKR")) is not None:
        if isinstance(delta.w2, LazyTensor) and len(delta.w2.spec.shape) == 3:
            raise of.error("is PEFT's LoKr of a one-dimensional convolution, which cannot be merged",
                           "merge it with PEFT")  # fmt: skip
        factor, said = of.counts(of.base, options.rank(options.bare(of.base)), of.alpha)
    elif delta.rank is None:
        factor, said = 1.0, ""
    else:
        factor, said = of.counts(of.base, delta.rank, of.alpha)
    rank = "whole" if delta.rank is None else f"of rank {delta.rank}"
    yield Product(of.key, delta, factor, f"LoKr {rank}{said}")


def _glora(of: _Adapter) -> Iterator[Product]:
    a1, a2, b1, b2 = of.need("a1", "a2", "b1", "b2")
    delta = Generalized(LowRank(of.file, a1, a2), LowRank(of.file, b1, b2))
    # Older LyCORIS named the factors the other way round. Where outputs are as many as inputs their shapes
    # fit both, and the smaller rank is meant.
    older = Generalized(LowRank(of.file, a2, a1), LowRank(of.file, b2, b1))
    if older.disagree() is None and (delta.disagree() is not None or older.rank < delta.rank):
        delta = older
    elif older.disagree() is None and older.rank == delta.rank:
        raise of.error("may be either order of the factors of GLoRA", "merge it with its trainer")
    of.agree(delta)
    factor, said = of.counts(of.base, delta.rank, of.alpha)
    yield Product(of.key, delta, factor, f"GLoRA of rank {delta.rank}{said}")


def _oft(of: _Adapter) -> Iterator[Gathered]:
    rescale = of.roles.get("rescale")
    numbered = sorted(role for role in of.roles if role.startswith("blocks_"))
    if "blocks" in of.roles and not numbered:
        of.only("blocks", "rescale")
        (blocks,) = of.need("blocks")
        if len(blocks.spec.shape) == 4:
            delta: Mix = Butterflies(of.file, of.dimensions(4, blocks), rescale, of.constraint())
            yield Gathered(of.key, "weight", delta, "BOFT")
            return
        parts = [blocks]
    else:
        of.only("rescale", *numbered)
        parts = list(of.need(*(f"blocks_{number}" for number in range(max(len(numbered), 1)))))
    delta = OutputBlocks(of.file, tuple(of.dimensions(3, part) for part in parts), rescale, of.constraint())
    count = ", ".join(str(part.spec.shape[0]) for part in parts)
    yield Gathered(of.key, "weight", delta, f"OFT of {count} blocks")


def _oft_peft(of: _Adapter) -> Iterator[Gathered]:
    (packed,) = of.need("packed")
    if (options := of.options_of("OFT")) is None:
        raise of.error("is PEFT's OFT, whose options are not known",
                       "put its adapter_config.json beside it, and call it adapter_model")  # fmt: skip
    of.dimensions(2, packed)
    limit = options.limit(packed.spec.shape[0])
    delta = InputBlocks(of.file, packed, options.terms(), limit)
    if not delta.size:
        raise of.error(f"is {packed.spec}, not what lies above a diagonal", "is the file complete?")
    yield Gathered(of.key, "weight", delta, f"OFT of blocks of {delta.size}")


def _boft_peft(of: _Adapter) -> Iterator[Gathered]:
    (blocks,) = of.need("blocks")
    delta = InputButterflies(of.file, of.dimensions(4, blocks), of.roles.get("scales"))
    yield Gathered(of.key, "weight", delta, "BOFT")


def _ia3(of: _Adapter) -> Iterator[Gathered]:
    on_input, values = of.need("on_input", "values")
    if on_input.spec.numel != 1:
        raise of.error(f"has {on_input.spec} of on_input, not one value", "is the file complete?")
    inputs = bool(np.asarray(on_input.numpy()).astype(np.float64).item())
    side = "inputs" if inputs else "outputs"
    yield Gathered(values.name, "weight", Scaled(of.file, values, inputs, 0.0), f"IA3 of {side}")


def _ia3_peft(of: _Adapter) -> Iterator[Gathered]:
    """Outputs are scaled with what is added to them, so a bias is too."""
    (values,) = of.need("values")
    shape = values.spec.shape
    if (options := of.options_of("IA3")) is not None:
        inputs = options.feedforward(options.bare(of.base))
    elif len(shape) == 2 and 1 in shape and shape != (1, 1):
        inputs = shape[0] == 1
    else:
        raise of.error("is of outputs or of inputs, which its options would say",
                       "put its adapter_config.json beside it, and call it adapter_model")  # fmt: skip
    side = "inputs" if inputs else "outputs"
    yield Gathered(of.key, "weight", Scaled(of.file, values, inputs, 1.0), f"IA3 of {side}")
    if not inputs:
        bias = Scaled(of.file, values, False, 1.0)
        yield Gathered(of.key, "bias", bias, f"IA3 of {side}", optional=True)


_KINDS: dict[str, Callable[[_Adapter], Iterable[Product | Gathered]]] = {
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _oft,
    "oft_peft": _oft_peft,
    "boft_peft": _boft_peft,
    "ia3": _ia3,
    "ia3_peft": _ia3_peft,
}
