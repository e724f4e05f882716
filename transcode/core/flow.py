"""The flow: a source, transforms joined by ``|``, and a sink that ends it."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Sequence, ValuesView
from dataclasses import field, is_dataclass
from typing import Any, ClassVar, Protocol, TypeVar, overload

from ..errors import PlanError
from ..voice import called
from .nearest import nearest
from .option import Declared
from .planning import Planning
from .records import dataclass
from .shown import Overview, Shown, Table, as_call
from .source import Source, Twin, Whose
from .tensor import LazyTensor
from .text import count, size

__all__ = ["Chain", "Flow", "Sink", "Transform", "below"]

P = TypeVar("P", covariant=True)
R = TypeVar("R", covariant=True)


class Transform(Declared):
    """One stage: rewrites facts, and wraps the reading of bytes.

    A stage is called with all tensors and yields the tensors that go on; it must not read a byte while it
    does, unless its documentation says so. Stages are frozen dataclasses: their fields are the recipe, and
    options (:mod:`.option`).
    """

    encodes: ClassVar[bool] = False
    """Whether tensors leave it in parts of a quantized format."""
    respells: ClassVar[bool] = False
    """Whether it takes names to another spelling of the architecture."""
    retypes: ClassVar[bool] = False
    """Whether it may change the dtype that a model computes in."""

    @property
    def consumer(self) -> str | None:
        """The consumer, or the spelling, that its tensors are meant for, where it names one."""
        return None

    def consumer_of(self, source: Source, whose: Whose) -> str | None:
        """The consumer, likewise, where it is that of the source."""
        return self.consumer

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Rewrite the facts of a flow."""
        raise NotImplementedError

    def of_twin(self, noise: str) -> Transform | None:
        """This stage for one of two models that take turns; None where it does nothing to that one.

        Raises:
            TranscodeError: it cannot be told what it is for that model.
        """
        return self

    def arranged(self, steps: tuple[Transform, ...]) -> tuple[Transform, ...]:
        """The stages of a flow, this one among them, with those put in that it needs around it."""
        return steps

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Transform.__repr__  # type: ignore[method-assign]  # dataclasses leave what is there

    def __repr__(self) -> str:
        return as_call(self.kind, self) if is_dataclass(self) else f"{type(self).__name__}()"

    @overload
    def __or__(self, other: Transform | Chain) -> Chain: ...
    @overload
    def __or__(self, other: Sink[Any, Any]) -> Chain: ...
    def __or__(self, other: Transform | Chain | Sink[Any, Any]) -> Chain:
        return Chain((self,)) | other


@dataclass(frozen=True, repr=False)
class Chain(Shown):
    """Stages without a source: can be kept and joined to any flow."""

    steps: tuple[Transform, ...]
    sink: Sink[Any, Any] | None = None

    def __or__(self, other: Transform | Chain | Sink[Any, Any]) -> Chain:
        if self.sink is not None:
            raise TypeError("nothing can follow write()")
        if isinstance(other, Chain):
            return Chain(self.steps + other.steps, other.sink)
        if isinstance(other, Transform):
            return Chain((*self.steps, other))
        return Chain(self.steps, other) if hasattr(other, "run") else NotImplemented

    def overview(self) -> Overview:
        """Its stages, and where it ends."""
        ends = () if self.sink is None else (self.sink,)
        return Overview(
            f"Chain of {count(len(self.steps) + len(ends), 'stage')}", _listed((*self.steps, *ends))
        )


class Sink(Protocol[P, R]):
    """What ends a flow: it makes a plan ``P`` of it, and a report ``R`` of carrying that out."""

    def plan(self, flow: Flow) -> P:
        """Resolve the flow into files, offsets and jobs; refuse what cannot be done. Writes nothing."""

    def run(self, flow: Flow) -> R:
        """Plan, then write."""

    def config(self) -> dict[str, object]:
        """The recipe's sections that concern the output."""


@dataclass(frozen=True, repr=False)
class Flow(Shown):
    """Tensors on their way: iterate it, take one tensor by name, plan it, or end it in ``write``.

    It is looked into as a mapping of names to tensors, but for iterating it, which gives the tensors; nothing
    that it is asked reads a tensor's values, unless a stage says that it does while planning.

    >>> flow = open("model.safetensors") | quantize("int8")          # doctest: +SKIP
    >>> list(flow.keys()), flow.metadata                             # doctest: +SKIP
    >>> flow["blocks.0.ffn.0.weight"].numpy("codes")                 # doctest: +SKIP
    >>> flow | write("out.safetensors")                              # doctest: +SKIP
    """

    source: Source
    steps: tuple[Transform, ...] = ()
    whose: Whose = field(default_factory=Whose)
    _cache: dict[str, dict[str, LazyTensor]] = field(default_factory=dict, repr=False, compare=False)

    @overload
    def __or__(self, other: Transform) -> Flow: ...
    @overload
    def __or__(self, other: Chain) -> Any: ...
    @overload
    def __or__(self, other: Sink[P, R]) -> R: ...
    def __or__(self, other: Transform | Chain | Sink[P, R]) -> Any:
        if isinstance(other, Transform):
            return Flow(self.source, (*self.steps, other), self.whose)
        if isinstance(other, Chain):
            flow = Flow(self.source, self.steps + other.steps, self.whose)
            return flow if other.sink is None else other.sink.run(flow)
        return other.run(self) if hasattr(other, "run") else NotImplemented

    def tensors(self, planning: Planning) -> list[LazyTensor]:
        """The facts after the last stage."""
        planning.metadata = self.source.metadata
        planning.source = self.source.path
        planning.stored = {tensor.name: tensor.spec for tensor in self.source.tensors}
        planning.side_files = self.source.side_files
        planning.whose = self.whose
        tensors: Iterable[LazyTensor] = self.source.tensors
        steps = self.steps
        for step in self.steps:
            steps = step.arranged(steps)
        for step in steps:
            tensors = _distinct(step.apply(tensors, planning), step.kind)
        return list(tensors)

    def twins(self) -> list[tuple[Twin, Flow]]:
        """The flow of each of two models that take turns; none where the source is one model."""
        return [(twin, Flow(twin.source, self._steps_of(twin), self.whose)) for twin in self.source.twins]

    def _steps_of(self, twin: Twin) -> tuple[Transform, ...]:
        steps = (step.of_twin(twin.noise) for step in self.steps)
        return tuple(step for step in steps if step is not None)

    def plan(self, sink: Sink[P, R]) -> P:
        """What ``flow | sink`` would do, without doing it."""
        return sink.plan(self)

    def __iter__(self) -> Iterator[LazyTensor]:
        if not self.source.twins:
            return iter(self.tensors(Planning()))
        pairs = [(twin.name, flow.tensors(Planning())) for twin, flow in self.twins()]
        return (tensor for name, tensors in pairs for tensor in below(name, tensors))

    def __len__(self) -> int:
        return len(self._by_name())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def __getitem__(self, name: str) -> LazyTensor:
        """One tensor, not read yet: ``.numpy(role)`` and ``.torch(role)`` read it."""
        table = self._by_name()
        if name not in table:
            raise PlanError(
                f"no such tensor{nearest(name, table)}",
                file=self.source.path,
                tensor=name,
                hint=f"see {called('names')}",
            )
        return table[name]

    def keys(self) -> KeysView[str]:
        """Names of the tensors after the last stage, in order."""
        return self._by_name().keys()

    def values(self) -> ValuesView[LazyTensor]:
        """The tensors, in order."""
        return self._by_name().values()

    def items(self) -> ItemsView[str, LazyTensor]:
        """Names and tensors, in order."""
        return self._by_name().items()

    @property
    def metadata(self) -> dict[str, str]:
        """The source's own metadata; where its files disagree, the first one's."""
        return dict(self.source.metadata)

    def overview(self) -> Overview:
        """The source and the stages; stages are not carried out for it."""
        tensors = self.source.tensors
        held = f"{count(len(tensors), 'tensor')}, {size(sum(tensor.nbytes for tensor in tensors))}"
        rows = ((tensor.name, tensor.dtype, list(tensor.shape), size(tensor.nbytes)) for tensor in tensors)
        table = Table(("tensor of the source", "dtype", "shape", "size"), rows, len(tensors), (3,))
        return Overview(f"Flow from {self.source.path}: {held}", _listed(self.steps), (table,))

    def _by_name(self) -> dict[str, LazyTensor]:
        if "tensors" not in self._cache:
            self._cache["tensors"] = {tensor.name: tensor for tensor in self}
        return self._cache["tensors"]


def below(name: str, tensors: Iterable[LazyTensor]) -> Iterator[LazyTensor]:
    """The tensors of one of several models, under names that say which."""
    for tensor in tensors:
        yield tensor.evolve(name=f"{name}/{tensor.name}", source=f"{name}/{tensor.source}")


_STAGES = 6


def _listed(stages: Sequence[object]) -> list[str]:
    """Stages, a line each; of many the first ones."""
    lines = [f"| {stage!r}" for stage in stages[:_STAGES]]
    return lines if len(lines) == len(stages) else [*lines, f"| ... {len(stages)} in all"]


def _distinct(tensors: Iterable[LazyTensor], stage: str) -> Iterator[LazyTensor]:
    """The same tensors. Stages look tensors up by name: of two under one name, one would be lost.

    Raises:
        PlanError: two tensors have one name.
    """
    owners: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in owners:
            raise PlanError(
                f"{owners[tensor.name]!r} and {tensor.source!r} would both have this name after {stage}",
                tensor=tensor.name,
                hint="change the rename rules, or drop one of them",
            )
        owners[tensor.name] = tensor.source
        yield tensor
