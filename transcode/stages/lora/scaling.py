"""What PEFT and Diffusers say of a LoRA beside its tensors, by module: alpha, tokens, parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...containers.checkpoint import Source
from ...core.small_json import parse_object, read
from ...core.tensor import LazyTensor
from ...errors import FormatError, PlanError
from .patterns import Patterns

__all__ = ["Options", "Scaling", "read_scaling", "stated_alpha"]

_KINDS = ("LORA", "LOHA", "LOKR", "OFT", "BOFT", "IA3", "TRAINABLE_TOKENS")
"""Values of PEFT's ``peft_type`` that can be merged."""

_RANKED = ("LORA", "LOHA", "LOKR")
"""Those whose ``r`` is a rank; OFT's is a number of blocks, and 0 where their size is given."""

T = TypeVar("T")

_SIDE = "adapter_config.json"
_METADATA = "lora_adapter_metadata"
_PEFT = "base_model.model."
_TOKENS = "TRAINABLE_TOKENS"


class Scaling:
    """The options of a LoRA; of a pipeline's, those of each component.

    Args:
        parts: the first whose prefix a module's name has is meant.
    """

    def __init__(self, parts: Sequence[Options]) -> None:
        self._parts = parts

    def __call__(self, base: str, rank: int) -> tuple[float, str]:
        """What a pair counts for that has no alpha of its own, and that in words.

        Raises:
            PlanError: the options give the module another rank.
        """
        part = self.options(base)
        return (1.0, "") if part is None else part.scaling(part.bare(base), rank)

    @property
    def known(self) -> bool:
        """Whether anything is said."""
        return bool(self._parts)

    def unmatched(self, bases: Collection[str]) -> list[str]:
        """Patterns of ``alpha_pattern`` and ``rank_pattern`` that are for none of these modules."""
        lost: list[str] = []
        for part in self._parts:
            names = [part.bare(base) for base in bases if self.options(base) is part]
            # Options of components that were not saved with this file say nothing wrong.
            lost += part.unmatched(names) if names or len(self._parts) == 1 else []
        return lost

    def options(self, base: str) -> Options | None:
        """What is said of a module; None where nothing is."""
        return next((part for part in self._parts if base.startswith(part.prefix)), None)

    def tokens(self, base: str) -> list[int] | None:
        """Which rows of an embedding were trained; None where that is not said."""
        part = self.options(base)
        return None if part is None else part.tokens(part.bare(base))

    def parameters(self, base: str) -> list[str]:
        """The parameters of a module that were adapted themselves, rather than its weight."""
        part = self.options(base)
        return [] if part is None else part.parameters(part.bare(base))

    def of_parameter(self, base: str, parameter: str, most: int) -> tuple[int, float, str]:
        """As a call for a parameter: its rank, what its product counts for, and that in words.

        Args:
            most: ranks of all matrices of the parameter together, which one's must divide.

        Raises:
            PlanError: no rank is said.
        """
        part = self.options(base)
        assert part is not None
        return part.of_parameter(f"{part.bare(base)}.{parameter}", most)


def read_scaling(source: Source) -> Scaling:
    """The options that stand beside a LoRA.

    Looked for in ``adapter_config.json`` in its folder, where PEFT puts it (only for files that PEFT names
    ``adapter_model.*``), and in the metadata key ``lora_adapter_metadata``, where Diffusers does
    (``src/diffusers/loaders/lora_base.py``: the same options, each with the name of a component before it).
    Without either, a pair counts once: alpha is the rank.

    Raises:
        FormatError: it is damaged.
        PlanError: it says what cannot be merged.
    """
    if (side := _side(source)) is not None:
        return Scaling([Options(side, "", _object(side, read(side)))])
    if (text := source.metadata.get(_METADATA)) is not None:
        flat = _object(source.path, text)
        components = dict.fromkeys(key.partition(".")[0] for key in flat)
        return Scaling([
            Options(source.path, f"{part}.", {key[len(part) + 1 :]: value for key, value in flat.items()
                                               if key.startswith(f"{part}.")})
            for part in components
        ])  # fmt: skip
    return Scaling([])


def _side(source: Source) -> Path | None:
    """``adapter_config.json`` of an adapter that PEFT saved; None where there is none."""
    files = source.files
    if len(files) == 1 and files[0].path.stem == "adapter_model":
        side = files[0].path.parent / _SIDE
        if side.is_file():
            return side
    return None


class Options:
    """The options of one adapter (``peft/tuners/*/config.py``).

    Args:
        file: where they are from.
        prefix: before the names of the modules that they are for.
        options: by name.

    Attributes:
        kind: ``"LORA"``, ``"LOKR"`` ...
        dora: whether pairs have magnitudes.

    Raises:
        FormatError: a value is of another kind.
        PlanError: they say what cannot be merged.
    """

    def __init__(self, file: Path, prefix: str, options: Mapping[str, Any]) -> None:
        self.prefix = prefix
        self._file = file
        self._values = options
        self._root = bool(options.get("use_rslora"))
        self.dora = bool(options.get("use_dora"))
        self.kind = str(options.get("peft_type") or "LORA").rpartition(".")[2]
        self._alpha = self._number("lora_alpha", options.get("lora_alpha", options.get("alpha")))
        self._alphas = self._patterns("alpha_pattern", options, self._number)
        self._ranks = self._patterns("rank_pattern", options, self._whole)
        self._targets = self._list("target_parameters", options.get("target_parameters"), str)
        tokens = options.get("token_indices" if self.kind == _TOKENS else "trainable_token_indices")
        self._tokens = {
            key: self._list("trainable_token_indices", value, int)
            for key, value in (tokens if isinstance(tokens, dict) else {"": tokens or []}).items()
        }
        named = options.get("feedforward_modules") or []
        self._feedforward: Patterns[bool] | tuple[str, ...]
        if isinstance(named, str):
            self._feedforward = Patterns(file, "feedforward_modules", {named: True}, whole=True)
        else:
            self._feedforward = tuple(self._list("feedforward_modules", named, str))
        self._rank = self._whole("r", options.get("r")) if self.kind in _RANKED else None
        if self.kind not in _KINDS:
            raise self._error(f"peft_type {options['peft_type']!r} cannot be merged")
        if options.get("fan_in_fan_out"):
            raise self._error("fan_in_fan_out cannot be merged")

    def bare(self, base: str) -> str:
        """The name of a module in the model that PEFT saw."""
        return base[len(self.prefix) :].removeprefix(_PEFT).replace("_orig_mod.", "")

    def scaling(self, name: str, rank: int) -> tuple[float, str]:
        """See :meth:`Scaling.__call__`."""
        said = self._ranks.get(name)
        if said is not None and said != rank:
            raise PlanError(
                f"rank_pattern says {said} for {name!r}, whose factors have rank {rank}", file=self._file,
                hint="use the options that the file was saved with",
            )  # fmt: skip
        alpha = self._alphas.get(name)
        alpha = self._alpha if alpha is None else alpha
        if not alpha:
            return 1.0, ""
        if self._root:
            return alpha / math.sqrt(rank), f", alpha {alpha:g}, rank-stabilized"
        return alpha / rank, f", alpha {alpha:g}"

    def rank(self, name: str) -> int:
        """The rank of a module: ``rank_pattern``, else ``r``. Raises FormatError where neither says one."""
        said = self._ranks.get(name)
        rank = self._rank if said is None else said
        if rank is None:
            raise FormatError("r is not said", file=self._file, hint="repair it")
        return rank

    def feedforward(self, name: str) -> bool:
        """Whether IA3 scales the inputs of a module (``peft/tuners/ia3/model.py``)."""
        if isinstance(self._feedforward, Patterns):
            return self._feedforward.get(name) is not None
        return name.endswith(self._feedforward)

    def terms(self) -> int | None:
        """Terms of the series of OFT; None for the transform itself."""
        if self._values.get("use_cayley_neumann", True):
            return self._whole("num_cayley_neumann_terms", self._values.get("num_cayley_neumann_terms", 5))
        return None

    def limit(self, blocks: int) -> float | None:
        """The norm of each block of constrained OFT; None where it is not constrained."""
        if not self._values.get("coft"):
            return None
        eps = self._number("eps", self._values.get("eps", 6e-5))
        return None if eps is None else eps / math.sqrt(blocks)

    def of_parameter(self, name: str, most: int) -> tuple[int, float, str]:
        """See :meth:`Scaling.of_parameter`."""
        rank = self.rank(name)
        if most % rank:
            raise PlanError(
                f"r is {rank}, which does not divide the rank {most} of all matrices of {name!r}",
                file=self._file, hint="use the options that the file was saved with",
            )  # fmt: skip
        return (rank, *self.scaling(name, rank))

    def unmatched(self, names: Collection[str]) -> list[str]:
        """See :meth:`Scaling.unmatched`."""
        names = [*names, *(f"{name}.{one}" for name in names for one in self.parameters(name))]
        return [*self._alphas.unmatched(names), *self._ranks.unmatched(names)]

    def tokens(self, name: str) -> list[int] | None:
        """See :meth:`Scaling.tokens`."""
        for key, indices in self._tokens.items():
            if not key or name == key or name.endswith(f".{key}"):
                return indices or None
        return None

    def parameters(self, name: str) -> list[str]:
        """See :meth:`Scaling.parameters`."""
        targets = [target.rpartition(".") for target in self._targets]
        return [
            parameter for module, _, parameter in targets if name == module or name.endswith(f".{module}")
        ]

    def _patterns(
        self, option: str, options: Mapping[str, Any], read: Callable[[str, Any], T | None]
    ) -> Patterns[T | None]:
        mapping = options.get(option) or {}
        if not isinstance(mapping, dict):
            raise FormatError(f"{option} is {mapping!r}, not a mapping", file=self._file, hint="repair it")
        return Patterns(
            self._file, option, {pattern: read(option, value) for pattern, value in mapping.items()}
        )

    def _number(self, option: str, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise FormatError(f"{option} is {value!r}, not a number", file=self._file, hint="repair it")
        return float(value)

    def _whole(self, option: str, value: Any) -> int | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise FormatError(
                f"{option} is {value!r}, not a whole number above 0", file=self._file, hint="repair it"
            )
        return value

    def _list(self, option: str, value: Any, kind: type) -> list[Any]:
        entries = value or []
        if not isinstance(entries, list) or not all(type(one) is kind for one in entries):
            raise FormatError(
                f"{option} is {value!r}, not a list of {kind.__name__}", file=self._file, hint="repair it"
            )
        return entries

    def _error(self, what: str) -> PlanError:
        return PlanError(what, file=self._file, hint="merge it with the tool that it comes from")


def _object(path: Path, text: str | bytes) -> dict[str, Any]:
    return parse_object(text, file=path, what="what the options of the LoRA say")


def stated_alpha(file: Path, tensor: LazyTensor) -> float:
    """What a tensor says that an alpha is. Raises PlanError where it is not one finite number."""
    if tensor.spec.numel != 1:
        raise PlanError(
            f"is {tensor.spec}, an alpha is one number", file=file, tensor=tensor.name, hint="repair the file"
        )
    value = float(tensor.numpy().reshape(-1).astype("float64")[0])
    if not math.isfinite(value):
        raise PlanError(
            f"is {value!r}, an alpha is finite", file=file, tensor=tensor.name, hint="repair the file"
        )
    return value
