"""What quantizing must say of a source that is, or was, quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ... import catalog
from ...consumers import record
from ...consumers.fit import Decision
from ...consumers.stored import plain_fp8, stored_quantized
from ...core import text
from ...core.dtypes import DType
from ...core.event import Reason
from ...core.planning import Planning
from ...core.scheme import Scheme
from ...core.tensor import LazyTensor
from ...errors import PlanError
from ...voice import called
from .share_scale import sharing_scales

if TYPE_CHECKING:
    from ..dequantize import Decoding

__all__ = ["Given", "note_again", "refuse_quantized", "say_left", "staying"]


Given = dict[Scheme, dict[str, Any]]
"""The options that a user gave for each scheme."""


def refuse_quantized(tensors: Sequence[LazyTensor], planning: Planning) -> frozenset[str]:
    """Stop before codes would be left as they are beside new ones, and a config be written over both.

    Returns:
        Stored names of the parts of tensors that are quantized and stay so.

    Raises:
        PlanError: some tensors are quantized as they are stored, and could not be opened.
    """
    stored = stored_quantized(tensors)
    if stored:
        codes = next(iter({**stored.foreign, **stored.tensors}))
        count = len({*stored.tensors, *stored.foreign})
        raise PlanError(
            f"is quantized already, one of {count} tensors ({stored.described(planning)})",
            tensor=codes,
            hint="transcode does not decode that; take a source that is not quantized"
            if stored.foreign
            else f"add {called('dequantize', 'bf16')}: they are decoded first, in the same run",
        )
    if bare := plain_fp8(tensors, stored):
        planning.warn(
            f"{len(bare)} tensors are {bare[0].spec.dtype.name} without a scale, and are not quantized"
            f" ({bare[0].name} ...); {called('cast', 'bf16')} makes them floats, in the same run"
        )
    return stored.parts


def staying(
    decided: Sequence[Decision],
    given: Given,
    consumer: catalog.Convention | None,
    planning: Planning,
    group: Callable[[LazyTensor, Scheme], str | None],
    *,
    shared: bool,
) -> dict[int, str]:
    """The chosen tensors that are stored in their scheme already, by number, and why they keep their codes.

    Args:
        given: options that the user gave; what nobody asked for is not changed.
        group: key of the tensors that share a global scale with one.
        shared: the user said which tensors share one.
    """
    opened = planning.opened
    if opened is None:
        return {}
    from ..repack import model_dtype, regrouped, undecoded

    kind = model_dtype(tensor for tensor, _, _ in decided if tensor.source not in opened.tensors)
    stays: dict[int, str] = {}
    idle: Counter[tuple[str, str]] = Counter()
    sharing = sharing_scales(decided, group)
    joined = {number for members in sharing.values() for number in members}
    for number, (tensor, action, _) in enumerate(decided):
        if action is None or isinstance(action, DType):
            continue
        decoding = undecoded(tensor) if opened.still(tensor) else None
        if decoding is None or not _same(decoding, action, given.get(action, {})):
            continue
        if shared and number in joined:
            continue  # nobody knows whether it is one
        try:
            regrouped(tensor, opened.conventions, consumer, kind)
        except PlanError as error:
            planning.note(
                f"{tensor.name}: is {action.name} already, and encoded anew: {error.what}",
                tensor=tensor.name,
                kind="anew",
            )
            continue
        whose = opened.conventions[0] if consumer is None else consumer.name
        as_it_is = f"quantized already: {action.name} as {whose} stores it"
        stays[number] = as_it_is if whose in opened.conventions else f"{action.name} already"
        for option in _idle(decoding.scheme, action, given.get(action, {}), planning):
            idle[action.name, option] += 1
    for members in sharing.values():
        if any(number not in stays for number in members):
            for number in members:
                stays.pop(number, None)
    for (scheme, option), count in idle.items():
        planning.warn(
            f"{option} does nothing for {count} tensors that are {scheme} already and keep their codes;"
            f" {called('dequantize', 'bf16')} encodes them anew"
        )
    return stays


def _same(decoding: Decoding, wanted: Scheme, given: Mapping[str, Any]) -> bool:
    """Whether codes and scales are such as the scheme makes, as far as they tell how they were made."""
    stored, spec = decoding.scheme, decoding.spec
    if stored.name != wanted.name or stored.meaning(spec) != wanted.meaning(spec):
        return False
    asked = given.get("scale_dtype", "source")
    return asked in ("source", getattr(stored, "scale_dtype", asked))


def _idle(stored: Scheme, wanted: Scheme, given: Mapping[str, Any], planning: Planning) -> Iterator[str]:
    """Options that were asked for, and of which codes and scales do not tell whether they are so."""
    made = [options for name, options in record.options(planning.metadata) if name == wanted.name]
    for option, value in given.items():
        differs = getattr(stored, option, value) != getattr(wanted, option, value)
        known = any(options.get(option) == value for options in made)
        if differs and not known and option not in _TOLD:
            yield f"{option}={value}"


_TOLD = {"block", "granularity", "group_size", "rotate", "scale_dtype"}
"""Options that were compared: by what they mean for the shape of a tensor, not by how they are said."""


def say_left(decided: Iterable[tuple[LazyTensor, object, Reason]], scheme: str, planning: Planning) -> None:
    """Warn of tensors that stay quantized in another scheme than was asked for, though nobody said so."""
    opened = planning.opened
    left: dict[str, list[str]] = {}
    for tensor, action, why in decided:
        came = opened.still(tensor) if opened is not None and action is None else None
        if came is not None and came.scheme.name != scheme and why.kind not in ("exclude", "override"):
            left.setdefault(came.scheme.name, []).append(tensor.name)
    for name, tensors in left.items():
        planning.warn(
            f"{text.count(len(tensors), 'tensor')} that came as {name} stay so, as they were not chosen"
            f" ({tensors[0]} ...); {called('include', 'PATTERN')} takes them in,"
            f" {called('exclude', 'PATTERN')} says that they are to stay"
        )


def note_again(decided: Iterable[tuple[LazyTensor, object, object]], planning: Planning) -> None:
    """Say which tensors are decoded and encoded anew, as this loses once more."""
    kinds: Counter[tuple[str, str, str]] = Counter()
    for tensor, action, _ in decided:
        if action is None or isinstance(action, DType) or not tensor.fate:
            continue
        decoded = next((event for event in tensor.fate if event.kind == "dequantize"), None)
        if decoded is not None:
            name = getattr(action, "name", "")
            kinds[f"{decoded.what}: {decoded.text}", name, tensor.spec.dtype.name] += 1
    for (before, after, between), count in kinds.items():
        spared = ""
        if between in _ROUNDED:
            spared = (
                f"; {called('dequantize', 'f32')} spares a rounding to {between} between, {_ROUNDED[between]}"
            )
        anew = f"{count} {'tensor is' if count == 1 else 'tensors are'} encoded anew as {after}"
        planning.note(
            f"{anew} after decoding ({before}): with scales of their own, so values change where these are"
            " not what they were; what the first rounding lost stays lost"
            f" ({called('measure')} tells the second in dB)"
            f"{spared}"
        )


_ROUNDED = {"BF16": "noise at 56 dB", "F16": "noise at 74 dB"}
"""What rounding to these dtypes does to normally distributed values, as a ratio of energies."""
