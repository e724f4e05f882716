"""A recipe as a value: what is read, done and written, and how it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from .. import catalog, schemes
from ..containers.twins import open_models
from ..core import arguments
from ..core.flow import Chain, Flow, Transform
from ..core.performance import Performance
from ..core.records import dataclass
from ..core.source import Whose
from ..errors import RecipeError
from ..execution.write import Write
from ..plan.options import SourceOptions, TargetOptions

__all__ = ["Recipe", "SourceOptions", "TargetOptions", "dump", "dump_config", "whose"]


@dataclass(frozen=True)
class Recipe:
    """What to do, before it meets a source.

    Attributes:
        source: what is read.
        steps: the stages, in order.
        sink: what is written; None while a recipe is still being put together.
        performance: how it is run.
        target: what is known of a sink that is still to come.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    steps: tuple[Transform, ...] = ()
    sink: Write | None = None
    performance: Performance = field(default_factory=Performance)
    target: TargetOptions = field(default_factory=TargetOptions)

    def then(self, *steps: Transform) -> Recipe:
        """The recipe with more stages."""
        return replace(self, steps=self.steps + steps)

    def flow(self) -> Flow:
        """Open the source and join the stages: reads headers only.

        Raises:
            RecipeError: there is no source yet.
            TranscodeError: the source cannot be read.
        """
        if self.source.path is None:
            raise RecipeError("no source", hint="name the file or folder to read")
        source = open_models(
            self.source.path,
            root_key=self.source.root_key,
            mmap=self.source.mmap,
            drop_cache=self.performance.drop_cache,
        )
        flow = Flow(source, whose=whose(self.source.convention, self.source.scheme)) | Chain(self.steps)
        assert isinstance(flow, Flow)
        return flow

    def write(self) -> Write:
        """The sink, with the performance options. Raises RecipeError where there is none yet."""
        if self.sink is None:
            raise RecipeError("no destination", hint="name the file or folder to write")
        return replace(self.sink, performance=self.performance)

    def config(self) -> dict[str, Any]:
        """The recipe as JSON."""
        config: dict[str, Any] = {}
        if source := self.source.config():
            config["source"] = source
        config["steps"] = [{step.kind: step.config()} for step in self.steps]
        if self.sink is not None:
            config |= self.sink.config()
        elif target := self.target.config():
            config["target"] = target
        if performance := self.performance.config():
            config["performance"] = performance
        return config


def whose(convention: str | None, scheme: str | None) -> Whose:
    """What a user says of how a source is quantized. Raises RecipeError for what is not known."""
    if convention is not None:
        catalog.convention(arguments.text("source: convention", convention))
    if scheme is not None:
        catalog.check_scheme(arguments.text("source: scheme", scheme))
        schemes.make(scheme)
    return Whose(convention, scheme)


def dump(recipe: Recipe, *, ascii_only: bool = False) -> str:
    """The recipe as YAML; :func:`.read.parse` reads it back.

    Args:
        ascii_only: everything else is spelled as escapes.
    """
    return dump_config(recipe.config(), ascii_only=ascii_only)


def dump_config(config: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """What a recipe file holds, as YAML; see :func:`dump`."""
    import yaml

    return yaml.safe_dump(
        dict(config), sort_keys=False, default_flow_style=None, width=100, allow_unicode=not ascii_only
    )
