"""What programs that read LoRAs call what these hold, and the names of modules whose dots are underscores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from ...catalog.rule import Rule
from ...core.records import dataclass

__all__ = ["STYLES", "Module", "Style", "dotted", "words_of"]


@dataclass(frozen=True)
class Style:
    """How a program's LoRAs name what they hold.

    Attributes:
        prefix: before modules of the denoiser; ``unet`` that of a UNet's.
        flat: dots of modules are underscores.
        up, down, mid: endings.
        alphas: alpha is a tensor of its own; else options say it.
        text: before modules of text encoders, ``{n}`` for the number; None where there is no room for them.
        kinds: adapters of LyCORIS' kinds and differences are read, too.
        unread: but for these kinds, and differences of parameters that are called so.
        beside: a difference of a weight counts beside an adapter of it; else one alone does.
    """

    prefix: str
    unet: str
    flat: bool
    up: str
    down: str
    alphas: bool
    text: str | None
    kinds: bool
    unread: frozenset[str] = frozenset()
    beside: bool = True


STYLES: Mapping[str, Style] = {
    # comfy/lora.py, load_lora, model_lora_keys_unet and model_lora_keys_clip; comfy/weight_adapter/
    "comfyui": Style(
        "diffusion_model.",
        "diffusion_model.",
        False,
        ".lora_up.weight",
        ".lora_down.weight",
        True,
        "lora_te{n}_",
        True,
        frozenset(("ia3", "modulation")),
        False,
    ),
    # sd-scripts networks/lora.py, musubi-tuner networks/lora.py
    "kohya": Style(
        "lora_unet_", "lora_unet_", True, ".lora_up.weight", ".lora_down.weight", True, "lora_te{n}_", True
    ),
    # diffusers/loaders/lora_base.py, _save_lora_adapter_metadata and _load_lora_into_...
    "diffusers": Style(
        "transformer.", "unet.", False, ".lora_B.weight", ".lora_A.weight", False, "text_encoder{_n}.", False
    ),
    # peft/utils/save_and_load.py
    "peft": Style(
        "base_model.model.",
        "base_model.model.",
        False,
        ".lora_B.weight",
        ".lora_A.weight",
        False,
        None,
        False,
    ),
}
"""Programs that LoRAs are spelled for."""


@dataclass(frozen=True)
class Module:
    """One module of a file.

    Attributes:
        base: as the file names it.
        name: with dots, as far as known.
        text: number of its text encoder, 0 for none.
        flat: the name where its dots are underscores; empty where they are dots.
    """

    base: str
    name: str
    text: int = 0
    flat: str = ""

    def named(self, words: frozenset[str]) -> str:
        """The name, of a model that has these components with underscores."""
        return dotted(self.flat, words) if self.flat else self.name


def dotted(flat: str, words: frozenset[str]) -> str:
    """A name whose dots are underscores, with its dots: known components with underscores stay whole."""
    return ".".join(_components(words).findall(flat))


@cache
def _components(words: frozenset[str]) -> re.Pattern[str]:
    """The longest known component first, then whatever has no underscore."""
    longest = sorted(words, key=lambda word: (-len(word), word))
    whole = rf"(?:{'|'.join(map(re.escape, longest))})(?=_|$)|" if longest else ""
    return re.compile(rf"{whole}[^_]+")


def words_of(rules: Iterable[Rule], *, left: bool) -> frozenset[str]:
    """The components with underscores that names of one side have."""
    runs = (run for rule in rules for run in ((rule.left,) if left else rule.right) if run is not None)
    return frozenset(word for run in runs for word in run.split(".") if "_" in word)
