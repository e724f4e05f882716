"""``quant_method: gptq``, which GPTQModel, transformers, vLLM and SGLang read; and its second layout.

Source: ``quantization/config.py`` of ModelCloud/GPTQModel, ``GPTQConfig`` of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ...core.planning import Planning
from ...errors import PlanError
from .dialect import Dialect, Statement, Unsayable
from .layers import Layers
from .stated import CONFIG, KEY, Json

__all__ = ["Gptq", "GptqV2", "one_kind"]

_FORMAT = "checkpoint_format"
_OVERRIDES = "dynamic"
_HEAD = "lm_head"


class Gptq(Dialect):
    """One width, size of groups and symmetry for all linear layers of the blocks but those that are named.

    Names are regular expressions, by which GPTQModel and vLLM leave modules out; transformers has no such
    words.
    """

    method = "gptq"
    said = "gptq"
    schemes: ClassVar[tuple[str, ...]] = ("int4",)
    unquantized = _OVERRIDES
    by_prefix = False
    telling: ClassVar[tuple[str, ...]] = ("desc_act",)

    def refined(self, statement: Json) -> str:
        """See :meth:`.dialect.Dialect.refined`: GPTQModel takes what says nothing for the first layout."""
        said = (statement.get(key) for key in (_FORMAT, "format", "quant_method", "method"))
        second = any(isinstance(one, str) and one.lower().replace("-", "_") == "gptq_v2" for one in said)
        return GptqV2.method if second else Gptq.method

    def listing(self, modules: Sequence[str]) -> Any:
        """See :meth:`.dialect.Dialect.listing`."""
        return {f"-:^{re.escape(module)}$": {} for module in modules}

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        size, symmetric = one_kind(layers, self.said or self.method)
        kept = layers.kept
        inside = [module for module in kept if _NUMBERED.search(module)]
        if inside:
            planning.warn(
                f"{KEY}: {inside[0]} and others that are not quantized are listed under {_OVERRIDES}, which"
                " GPTQModel and vLLM read; transformers does not, and expects codes of them",
                kind="not listed",
            )
        return Statement(
            {
                "quant_method": "gptq",
                _FORMAT: "gptq_v2" if self.method == GptqV2.method else "gptq",
                "bits": 4,
                "group_size": size,
                "sym": symmetric,
                "desc_act": False,
                "lm_head": _HEAD in {module.rsplit(".", 1)[-1] for module in layers.quantized},
                self.unquantized: self.listing([*kept, *_joined(kept)]),
            }
        )

    def options(self, statement: Json) -> Iterator[Mapping[str, Any]]:
        """See :meth:`.dialect.Dialect.options`; where layers differ, nothing is said of their groups."""
        if "bits" not in statement:
            return
        stated: dict[str, Any] = {"desc_act": statement.get("desc_act")}
        overrides = statement.get(_OVERRIDES)
        mixed = isinstance(overrides, dict) and any(not str(key).startswith("-:") for key in overrides)
        if not mixed:
            stated |= {"num_bits": statement.get("bits"), "symmetric": statement.get("sym", True)}
            stated["group_size"] = statement.get("group_size")
        yield stated

    def leave_out(self, statement: Json, decoded: Sequence[str], coded: Sequence[str]) -> None:
        """See :meth:`.dialect.Dialect.leave_out`."""
        overrides = statement.get(_OVERRIDES)
        if overrides is None:
            overrides = {}
        if not isinstance(overrides, dict):
            raise PlanError(
                f"{CONFIG}: {_OVERRIDES} is {overrides!r:.60}, not a mapping: which layers are quantized is"
                " not certain",
                hint="let it say what is true; or dequantize all",
            )
        modules = [name.removesuffix(".weight") for name in decoded]
        # The first that fits counts for its readers, so these go before what fits many.
        statement[_OVERRIDES] = {**self.listing(modules), **overrides}


class GptqV2(Gptq):
    """The same, with zero points as they are."""

    method = "gptq-v2"


def one_kind(layers: Layers, speaker: str) -> tuple[int, bool]:
    """Size of groups and symmetry of all int4 layers.

    Raises:
        Unsayable: a layer is something else, or they differ.
    """
    kinds = set()
    for module, tensor in layers.quantized.items():
        scheme: Any = tensor.scheme
        if scheme.name != "int4":
            raise Unsayable(f"quant_method {speaker} knows int4 alone, {module} is {scheme.name}")
        kinds.add((int(scheme.group_size), bool(scheme.symmetric)))
    if len(kinds) > 1:
        words = " and ".join(
            f"{size} {'symmetric' if symmetric else 'with zero points'}" for size, symmetric in sorted(kinds)
        )
        raise Unsayable(f"quant_method {speaker} knows groups of one kind, here are {words}")
    return kinds.pop()


_NUMBERED = re.compile(r"(^|\.)\d+\.")
"""In a block: transformers has codes in blocks alone."""

_FUSED = (
    (("q_proj", "k_proj", "v_proj"), "qkv_proj"),
    (("gate_proj", "up_proj"), "gate_up_proj"),
)
"""What vLLM joins, and by which name it then asks."""


def _joined(kept: Sequence[str]) -> Iterator[str]:
    """The names of joined layers all of whose members are kept."""
    names = set(kept)
    for module in kept:
        parent, _, leaf = module.rpartition(".")
        for members, fused in _FUSED:
            if leaf == members[0] and names.issuperset(f"{parent}.{one}" for one in members):
                yield f"{parent}.{fused}"
