"""The section ``target``: who reads what is written, and what that adds to the steps."""

from __future__ import annotations

from .. import catalog
from ..catalog import strict
from ..core.flow import Transform
from ..core.option import options_of
from ..core.records import dataclass
from ..errors import RecipeError
from ..plan.options import TargetOptions
from ..stages.cast import Cast
from ..stages.convert import Convert
from ..stages.quantize.stage import Quantize
from .nodes import fields_of, located
from .sections import TargetWords

__all__ = ["OWN", "Target", "target_of", "with_conversion", "with_precision"]

OWN = "lightx2v"
"""Spelling and convention of a configuration that names none."""


@dataclass(frozen=True)
class Target(TargetOptions):
    """What the section says, and what follows from it; see :class:`~transcode.plan.options.TargetOptions`.

    Attributes:
        spelling: of the architecture that is written.
        precision: scheme or dtype of the output.
    """

    spelling: str | None = None
    precision: str | None = None

    @property
    def options(self) -> TargetOptions:
        """What of it is the sink's."""
        return TargetOptions(**{name: getattr(self, name) for name in options_of(TargetOptions)})


def target_of(
    node: strict.Node, source_format: str | None, model: str | None, *, lenient: bool
) -> tuple[Target, str | None]:
    """How to write, and the spelling of the source: where a configuration names only the other one, ours."""
    section = node.mapping()
    options = fields_of(section, TargetOptions)
    words = fields_of(section, TargetWords)
    convention = options.pop("convention", None)
    spelling = None
    if (form := section.find("format")) is not None:
        # A format names the spelling of an architecture, the convention of a consumer, or both.
        spelling = words["format"]
        if lenient and source_format is None and spelling != OWN and _spells(spelling, model):
            source_format = OWN
        if convention is None and spelling in catalog.conventions():
            convention = spelling
        elif source_format is None and spelling not in catalog.conventions():
            raise form.error(f"unknown format {spelling!r}", "say source.format too, if it is a spelling")
    elif lenient and source_format is not None:
        spelling = OWN
    if convention is not None:
        named = convention
        located(node, lambda: catalog.convention(named))
    target = Target(**options, spelling=spelling, convention=convention, precision=words.get("precision"))
    section.reject_unknown()
    return target, source_format


def _spells(form: str, model: str | None) -> bool:
    """Whether a format is another spelling of the family, or of any, which is spelled as ours too."""
    names = [model] if model is not None else catalog.families()
    return any({form, OWN} <= {*catalog.family(name).spellings} for name in names)


def with_conversion(
    node: strict.Node, steps: list[Transform], target: Target, spelling: str | None, model: str | None
) -> list[Transform]:
    """Formats of source and target that differ are a conversion, before all other steps."""
    if spelling is None or target.spelling is None or spelling == target.spelling:
        return steps
    if target.spelling in catalog.conventions() and not _spells(target.spelling, None):
        return steps  # a consumer that spells architectures as everybody does
    to = target.spelling
    return [located(node, lambda: Convert(to, spelling, model)), *steps]


def with_precision(
    node: strict.Node, steps: list[Transform], target: Target, model: str | None
) -> list[Transform]:
    """``target.precision`` names the scheme or dtype of the output; where a stage says it too, they agree."""
    if target.precision is None:
        return steps
    wanted = target.precision
    for step in steps:
        if isinstance(step, Quantize):
            if step.scheme != wanted:
                raise node.error(f"precision {wanted!r} contradicts the quantization to {step.scheme!r}")
            return steps
    try:
        return [*steps, Cast(wanted)]
    except RecipeError:
        return [*steps, located(node, lambda: Quantize(wanted, model=model))]
