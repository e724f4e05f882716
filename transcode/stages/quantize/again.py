"""Quantized tensors of which the values were changed, in the scheme and for the consumer that they had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass, replace
from typing import ClassVar

from ... import catalog
from ...consumers.fit import Decision, misfit
from ...consumers.recognise import decipher
from ...consumers.stored import stored_quantized
from ...core.dtypes import DTYPES, DType
from ...core.event import Reason
from ...core.flow import Transform
from ...core.planning import Planning
from ...core.records import dataclass
from ...core.scheme import Scheme
from ...core.source import Source, Whose
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...core.text import count
from ...core.value import interned
from ...errors import PlanError, RecipeError
from ...schemes import DECODED
from ...schemes.dither import can_dither, key_of
from ...voice import called
from ..opening import arranged, computed
from ..options import RequantizeOptions
from ..repack import taken, undecoded
from .choice import Choice
from .encode import encode_tensor
from .share_scale import Sharing, needed_looks, sharing_scales

__all__ = ["Requantize"]

_WHY = Reason("target", "its values were changed")


@dataclass(frozen=True)
class Requantize(RequantizeOptions, Transform):
    """Encode what stages before this one changed of a quantized checkpoint: each tensor in the scheme that it
    had, for the consumer whose file it was, if no other is named.

    All others keep their codes and scales to the bit; but where a consumer wants one scale for several
    layers that it joins (q, k and v under nvfp4), all of them are encoded anew if one was changed, which a
    warning says. Tensors that were plain stay so.
    """

    encodes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounding == "nearest" and self.seed != RequantizeOptions.seed:
            raise RecipeError(
                "requantize: seed does nothing where values are rounded to the nearest code",
                hint=f"leave it out, or pass {called('requantize', 'stochastic')}",
            )

    def arranged(self, steps: tuple[Transform, ...]) -> tuple[Transform, ...]:
        """With quantized tensors opened before; in F32 where they are rounded at random, as rounding to the
        nearest 16 bits between would lose changes that are less than half a step of those.
        """
        alone = [step for step in steps if step.encodes] == [self]
        return arranged(steps, "error", "F32" if alone and self.rounding == "stochastic" else None)

    def consumer_of(self, source: Source, whose: Whose) -> str | None:
        """Whose file the source is."""
        if not stored_quantized(source.tensors):
            return None
        planning = Planning(
            metadata=source.metadata, side_files=source.side_files, source=source.path, whose=whose
        )
        conventions, _ = decipher(list(source.tensors), planning)
        return next((one.name for one in conventions if one.unwritten is None), None)

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Find what was changed, from facts.

        Raises:
            PlanError: nothing is quantized, or nothing of that was changed; or an option is not known to any
                of the schemes.
        """
        tensors = list(tensors)
        opened = planning.opened
        if opened is None:
            raise PlanError(
                "requantize: the source holds nothing that is quantized",
                file=planning.source,
                hint=f"leave it out, or quantize with {called('scheme', 'int8')}",
            )
        consumer = None if planning.convention is None else catalog.convention(planning.convention)
        choice = Choice(None, (), (), (), tensors, planning)
        sharing = Sharing((), choice, consumer)
        schemes = {number: self._scheme(tensor, planning, consumer) for number, tensor in enumerate(tensors)}
        changed = {
            number
            for number, scheme in schemes.items()
            if scheme is not None and undecoded(tensors[number]) is None
        }
        if not changed:
            anew = any(one.anew for one in opened.tensors.values())
            more = "" if anew else f", or change some, as {called('lora', 'FILE')} does"
            raise PlanError(
                "requantize: no quantized tensor was changed"
                f"{' that is not encoded in another scheme' if anew else ''}, so there is nothing to encode",
                file=planning.source,
                hint=f"leave it out{more}",
            )
        known = {option for scheme in schemes.values() if scheme is not None for option in scheme.options}
        for option, _ in self.options:
            if option not in known:
                raise RecipeError(f"requantize: no scheme of the source has an option {option}")
        whole: list[Decision] = [(tensor, schemes[number], _WHY) for number, tensor in enumerate(tensors)]
        groups = sharing_scales(whole, sharing.key).values()
        joined = {one for members in groups if changed & {*members} for one in members} - changed
        if joined:
            planning.warn(
                f"requantize: {count(len(joined), 'tensor')} that nobody changed are encoded anew too, as"
                f" {planning.convention} wants one scale for them and for what was changed"
                f" ({tensors[min(joined)].name} ...)"
            )
        decided: list[Decision] = [
            (tensor, action if number in changed | joined else None, why)
            for number, (tensor, action, why) in enumerate(whole)
        ]
        for tensor, action, _ in decided:
            if action is None or isinstance(action, DType):
                continue
            refusal = misfit(tensor, action, consumer, followed=choice.is_followed(tensor))
            if action.name in DECODED:
                refusal = f"it is only decoded; encode it anew in another with {called('scheme', 'int8')}"
            if refusal is None and self.rounding != "nearest" and not can_dither(action, tensor.spec):
                refusal = f"{action.name} is not rounded at random ({called('requantize', 'nearest')})"
            if refusal is not None:
                raise PlanError(f"cannot become {action.name} again: {refusal}", tensor=tensor.name)
        looks = needed_looks(decided, sharing, planning)
        kind = DTYPES[computed(planning)]  # that of the model, in whatever it was opened
        for number, (tensor, action, why) in enumerate(decided):
            if action is None or isinstance(action, DType):
                yield tensor
                continue
            came = opened.still(tensor)
            if came is not None:
                came.anew = True
            made = encode_tensor(
                tensor, action, str(why), looks.get(number, ()),
                measured=planning.number() if planning.measure else None,
                key=key_of(self.seed, tensor.name) if self.rounding == "stochastic" else None,
            )  # fmt: skip
            yield made.evolve(spec=interned(Spec(kind, made.spec.shape)))

    def _scheme(
        self, tensor: LazyTensor, planning: Planning, consumer: catalog.Convention | None
    ) -> Scheme | None:
        """That of the tensor in the source, with the options that were given; None of one that was plain."""
        assert planning.opened is not None
        came = planning.opened.still(tensor)
        if came is None:
            return None
        scheme = came.scheme
        own = {key: value for key, value in self.options if key in scheme.options}
        if own.keys() - {"optimize", "scale_mode", "codebook"}:
            raise RecipeError(
                f"requantize: {next(iter(own))} says what codes mean, which stays as it is in the source",
                hint=f"quantize into another scheme with {called('scheme', scheme.name)}",
            )
        scheme = replace(scheme, **own) if own and is_dataclass(scheme) else scheme
        return scheme if consumer is None else taken(scheme, consumer)
