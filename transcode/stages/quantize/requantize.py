"""What quantizing must say of a source that is, or was, quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ... import catalog
from ...consumers.recognise import decipher, plain_fp8, stored_quantized
from ...core.dtypes import DType
from ...core.planning import Planning
from ...core.tensor import LazyTensor
from ...errors import PlanError

__all__ = ["note_again", "refuse_quantized"]


def refuse_quantized(tensors: Sequence[LazyTensor], planning: Planning) -> frozenset[str]:
    """Stop before codes would be left as they are beside new ones, and a config be written over both.

    Where the output is the same convention's, and markers tell what each tensor is, all of it stays true.

    Returns:
        Stored names of the parts of tensors that are quantized and stay so.

    Raises:
        PlanError: some tensors are quantized as they are stored.
    """
    stored = stored_quantized(tensors)
    if stored and not _told_apart(tensors, planning):
        codes = next(iter({**stored.tensors, **stored.foreign}))
        count = len({*stored.tensors, *stored.foreign})
        raise PlanError(
            f"is quantized already, one of {count} tensors ({stored.described(planning)})",
            tensor=codes,
            hint="transcode does not decode that; take a source that is not quantized"
            if stored.foreign
            else "add --dequantize bf16: they are decoded first, in the same run",
        )
    if bare := plain_fp8(tensors, stored):
        planning.warn(
            f"{len(bare)} tensors are {bare[0].spec.dtype.name} without a scale, and are not quantized"
            f" ({bare[0].name} ...); --cast bf16 makes them floats, in the same run"
        )
    return stored.parts


def _told_apart(tensors: Sequence[LazyTensor], planning: Planning) -> bool:
    if planning.convention is None:
        return False
    convention = catalog.convention(planning.convention)
    if convention.config is not None or not any(rule.markers for rule in convention.schemes.values()):
        return False
    try:
        decipher(tensors, planning, convention=convention.name)
    except PlanError:
        return False
    return True


def note_again(decided: Iterable[tuple[LazyTensor, object, object]], planning: Planning) -> None:
    """Say which tensors are decoded and encoded anew, as this loses once more."""
    kinds: Counter[tuple[str, str, str]] = Counter()
    for tensor, action, _ in decided:
        decoded = next((event for event in tensor.fate if event.kind == "dequantize"), None)
        if decoded is not None and action is not None and not isinstance(action, DType):
            name = getattr(action, "name", "")
            kinds[f"{decoded.what}: {decoded.text}", name, tensor.spec.dtype.name] += 1
    for (before, after, between), count in kinds.items():
        spared = ""
        if between in _ROUNDED:
            spared = f"; --dequantize f32 spares a rounding to {between} between, {_ROUNDED[between]}"
        anew = f"{count} {'tensor is' if count == 1 else 'tensors are'} encoded anew as {after}"
        planning.note(
            f"{anew} after decoding ({before}): with scales of their own, so values change where these are"
            " not what they were; what the first rounding lost stays lost (--measure tells the second in dB)"
            f"{spared}"
        )


_ROUNDED = {"BF16": "noise at 56 dB", "F16": "noise at 74 dB"}
"""What rounding to these dtypes does to normally distributed values, as a ratio of energies."""
