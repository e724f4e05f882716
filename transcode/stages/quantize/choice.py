"""Which tensors are quantized, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from ... import catalog
from ...catalog.components import Component, component_table
from ...catalog.indexes import tells_indexes
from ...catalog.policy import kept_for
from ...consumers.fit import Decision
from ...core.dtypes import FLOATS
from ...core.event import Reason
from ...core.patterns import Patterns
from ...core.planning import Planning
from ...core.tensor import LazyTensor
from ...voice import called

__all__ = ["Choice"]

_OTHER_MODELS = ("vae", "text encoder", "other model")
"""What the generic family never quantizes, as it belongs to another model of an all-in-one file."""

_ALREADY = Reason("quantized already", "quantized already")
_NO_TARGET = Reason("not a target", "matches no target")
_NO_WEIGHT = Reason("not a weight", "not a .weight")


def _current(tensor: LazyTensor) -> str:
    return tensor.name


def _original(tensor: LazyTensor) -> str:
    return tensor.source


def _stacked(tensor: LazyTensor) -> bool:
    """Whether it holds the matrices of all experts of a layer, which many models store as a parameter of its
    own name: ``mlp.experts.gate_up_proj``.
    """
    *above, last = tensor.name.split(".")
    return len(tensor.spec.shape) == 3 and any("experts" in word for word in above) and "bias" not in last


def _is_matrix(tensor: LazyTensor) -> bool:
    return not tensor.plain or (tensor.spec.dtype.name in FLOATS and len(tensor.spec.shape) >= 2)


class Choice:
    """Decides tensor by tensor, first by the user's patterns, then by the family.

    Args:
        model: name of the family; None to recognise it.
        targets, include, exclude: patterns, see :class:`.stages.quantize.stage.Quantize`.
        tensors: all tensors of the flow.
    """

    def __init__(
        self,
        model: str | None,
        targets: Sequence[str],
        include: Sequence[str],
        exclude: Sequence[str],
        tensors: Sequence[LazyTensor],
        planning: Planning,
    ) -> None:
        self._planning = planning
        self._tensors = tensors
        self._patterns = *targets, *include, *exclude
        self._include = Patterns(include)
        self._exclude = Patterns(exclude)
        self._targets = Patterns(targets)
        self._use_targets = bool(targets)
        self._others: set[str] = set()
        self._family, self._key = self._recognise(model, tensors)
        self._parts = component_table().held(map(self._key, tensors))
        self._by_convention = kept_for(planning.convention)
        self._own = self._parts.of(f"{self._family.prefix}weight")
        if self._use_targets:
            planning.note(f"targets as given: {', '.join(targets)}")

    def _recognise(
        self, model: str | None, tensors: Sequence[LazyTensor]
    ) -> tuple[catalog.Family, Callable[[LazyTensor], str]]:
        # A family is known by its own names. Where a rename has changed them already, the names of the
        # source still tell it: so renaming before quantizing chooses the same tensors as renaming after.
        for key in (_current, _original):
            names = [key(tensor) for tensor in tensors]
            if model is not None:
                family = catalog.family(model)
                fit = family.fit(names)
                if fit is not None or key is _original:
                    self._planning.note(f"family {family.name}, as given")
                    return (family, _current) if fit is None else (fit, key)
            elif (found := catalog.detect(names)) is not None:
                self._planning.note(f"family {found.name}, recognised from tensor names")
                return found, key
        if not self._use_targets and self._planning.reference is None:
            self._planning.note(
                "unknown family: float matrices of numbered blocks whose names end in .weight are quantized,"
                " but not embeddings, norms, modulation, routers and heads"
            )
        return catalog.generic_family([tensor.name for tensor in tensors]), _current

    @cached_property
    def counts_alike(self) -> bool:
        """Whether tensors of the same facts are decided alike whose names differ in indexes of two digits and
        more alone, see :mod:`.catalog.indexes`.
        """
        policy = self._family.policy
        by_name = self._key is _current and not self._parts.several and policy.counts_alike
        return by_name and policy.joins_alike and not any(map(tells_indexes, self._patterns))

    def __call__(self, tensor: LazyTensor) -> tuple[bool, Reason]:
        excluded = self._exclude.first(tensor.name)
        included = target = None
        if _is_matrix(tensor):
            # A pattern that names a module means its matrices: one that finds only a bias finds nothing.
            included = self._include.first(tensor.name)
            target = self._targets.first(tensor.name)
        if not tensor.plain:
            return False, _ALREADY
        if excluded is not None:
            return False, Reason("exclude", f"exclude {excluded}", excluded)
        if tensor.spec.dtype.name not in FLOATS:
            dtype = tensor.spec.dtype.name
            return False, Reason("not a float", f"{dtype} is not a plain float", dtype)
        if included is not None:
            return True, Reason("include", f"include {included}", included)
        if len(tensor.spec.shape) < 2:
            return False, Reason("misfit", f"{len(tensor.spec.shape)}-D", "dimensions")
        if self._use_targets:
            if target is None:
                return False, _NO_TARGET
            if not (tensor.name.endswith(".weight") or _stacked(tensor)):
                return False, _NO_WEIGHT
            return True, Reason("target", f"target {target}", target)
        name = self._key(tensor)
        if (other := self._other(name)) is not None:
            self._others.add(name.split(".", 1)[0])
            return False, Reason("never", f"never: {other.folder}", other.folder)
        take, why = self._family.is_target(name, tensor.spec.shape, self._planning.convention)
        if why.kind == "never" and why.label in _OTHER_MODELS:
            self._others.add(name.split(".", 1)[0])
        return take, why

    def _other(self, name: str) -> Component | None:
        """The model of an all-in-one file that a tensor is of, where it is not the one of the family."""
        if not self._parts.several or self._family.fallback:
            return None
        part = self._parts.of(name)
        return None if part is None or self._own is None or part.name == self._own.name else part

    def may_cast(self, tensor: LazyTensor) -> bool:
        """Whether a tensor that stays may take another dtype."""
        plain = tensor.plain and tensor.spec.dtype.name in FLOATS
        return plain and not self._family.is_adapter(self._key(tensor))

    def group_of(self, tensor: LazyTensor) -> str | None:
        """Key of the fused group that a tensor belongs to in its family, None outside such groups."""
        return self._family.group_of(self._key(tensor))

    def is_followed(self, tensor: LazyTensor) -> bool:
        """Whether another tensor of its fused group stands behind it where a consumer joins them."""
        return self._family.is_followed(self._key(tensor))

    def complain(self, decided: Iterable[Decision]) -> None:
        """Tell of patterns that matched nothing, and of what stays as it is beyond the family's own rules."""
        if self._others:
            self._planning.note(f"keeps the other models of the file: {', '.join(sorted(self._others))}")
        kept = [tensor.name for tensor, _, why in decided if why == self._by_convention]
        if kept:
            more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
            self._planning.note(
                f"keeps what files for {self._planning.convention} have in full, {kept[0]}{more}:"
                f" {called('include')} quantizes what it names all the same"
            )
        for key, patterns in (("targets", self._targets), ("include", self._include)):
            matrices = (tensor.name for tensor in self._tensors if _is_matrix(tensor))
            self._planning.unmatched(key, patterns.unused(), matrices)
        names = (tensor.name for tensor in self._tensors)
        self._planning.unmatched("exclude", self._exclude.unused(), names)
