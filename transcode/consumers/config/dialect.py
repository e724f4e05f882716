"""A dialect of ``quantization_config``: one way to say how the tensors beside a config are quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar

from ...core.planning import Planning
from ...core.records import dataclass
from ...core.tensor import LazyTensor
from ...errors import PlanError
from .layers import Layers
from .stated import CONFIG, Json

__all__ = ["Dialect", "SideStatement", "Statement", "Unsayable", "calibrated", "e4m3_only"]


class Unsayable(Exception):
    """A dialect has no words for a tensor."""


@dataclass(frozen=True)
class Statement:
    """What is to be said of a model.

    Attributes:
        config: value of ``quantization_config``.
        files: further side files, name -> JSON.
        keys: further keys of config.json.
    """

    config: Json
    files: Mapping[str, Json] = field(default_factory=dict)
    keys: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class SideStatement:
    """A file that says the same as config.json does, in words of its own.

    Attributes:
        file: its name.
        key: where in it that is said; empty where all of it is that.
        unquantized: key, within that, of the list of the modules that are not quantized.
    """

    file: str
    key: str
    unquantized: str


class Dialect:
    """The words of one ``quant_method``. A dialect has no state: its methods get what they speak of.

    Attributes:
        method: by which it is known and by which conventions name it: the value of ``quant_method``, in small
            letters and with hyphens.
        said: that value, where several dialects share it.
        schemes: names of the schemes that it can say; none for a dialect that is only read.
        unquantized: key of the list of the modules that are not quantized; empty where those are listed that
            are.
        by_prefix: whether loaders take each name of that list for the beginning of others.
        telling: keys that no other dialect has, which tell it where ``quant_method`` is missing.
        beside: files that say the same.
        covering: whether :meth:`covers` can tell.
        caches: whether it can say that the cache of keys and values is FP8, see :meth:`with_cache`.
    """

    method: ClassVar[str]
    said: ClassVar[str | None] = None
    schemes: ClassVar[tuple[str, ...]] = ()
    unquantized: ClassVar[str]
    by_prefix: ClassVar[bool] = True
    telling: ClassVar[tuple[str, ...]] = ()
    beside: ClassVar[tuple[SideStatement, ...]] = ()
    covering: ClassVar[bool] = False
    caches: ClassVar[bool] = False

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """What is written for a model, of whose layers at least one is quantized.

        Raises:
            Unsayable: it has no words for one of them.
        """
        raise Unsayable(f"quant_method {self.method} is only read")

    def with_cache(self, statement: Statement) -> Statement:
        """A statement that says, too, that the cache of keys and values is FP8, by scales of the file."""
        raise NotImplementedError(f"{self.method} says nothing of it")

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """Options of weights in a statement, as :meth:`.consumers.declared.Declared.add` takes them."""
        yield from ()

    def refined(self, statement: Json) -> str:
        """The method of the dialect that a statement is in, of those that share a ``quant_method``."""
        return self.method

    def listing(self, modules: Sequence[str]) -> Any:
        """The list of those modules that are not quantized, as a statement has it."""
        return [self.entry(module) for module in modules]

    def entry(self, module: str) -> str:
        """What that list calls a module."""
        return module

    def beyond_codes(self, statement: Json) -> str | None:
        """What a statement says of values beyond codes and scales, in words; None if nothing."""
        return None

    def covers(self, statement: Json, module: str) -> bool | None:
        """Whether a statement says of a linear layer that it is quantized; None where that cannot be told."""
        return None

    def contradicts(self, statement: Json, module: str, scheme: Any) -> str | None:
        """What a statement says of a layer that is not so in this scheme, in words; None where nothing."""
        return self.denies(statement, scheme)

    def denies(self, statement: Json, scheme: Any) -> str | None:
        """What a statement says by which no layer can be in this scheme, in words; None where one can."""
        return None

    def leave_out(self, statement: Json, decoded: Sequence[str], coded: Sequence[str]) -> None:
        """Change a statement so that some layers are not quantized.

        Args:
            decoded: names of the tensors that are decoded, or stored otherwise.
            coded: names of those that are quantized still.

        Raises:
            PlanError: it cannot say so.
        """
        self._list(statement, self.unquantized, decoded, coded)

    def leave_out_beside(
        self, side: SideStatement, content: Json, decoded: Sequence[str], coded: Sequence[str]
    ) -> None:
        """The same in a file that says the same."""
        if isinstance(statement := content.get(side.key) if side.key else content, dict):
            self._list(statement, side.unquantized, decoded, coded)

    def _list(self, statement: Json, key: str, decoded: Sequence[str], coded: Sequence[str]) -> None:
        modules = [name.removesuffix(".weight") for name in decoded]
        for module in modules if self.by_prefix else ():
            if (hidden := next((name for name in coded if name.startswith(module)), None)) is not None:
                raise PlanError(
                    f"{CONFIG} cannot say that {module} is decoded and {hidden} is not: loaders take a name"
                    " for the beginning of others",
                    hint="dequantize both, or neither",
                )
        listed = [] if statement.get(key) is None else statement[key]
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            file = next((side.file for side in self.beside if side.unquantized == key), CONFIG)
            raise PlanError(
                f"{file}: {key} is {listed!r:.60}, not a list of names: which layers are quantized is not"
                " certain",
                hint="let it say what is true; or dequantize all",
            )
        statement[key] = list(dict.fromkeys([*listed, *map(self.entry, modules)]))


def e4m3_only(scheme: Any, speaker: str) -> None:
    """Raise Unsayable for FP8 in another format than E4M3."""
    if scheme.format != "e4m3fn":
        raise Unsayable(f"{speaker} knows no {scheme.name} in {scheme.format}")


def calibrated(tensor: LazyTensor) -> bool:
    """Whether its inputs are quantized too, by a scale that a calibration found."""
    return any(part.role == "input_global_scale" for part in tensor.parts)
