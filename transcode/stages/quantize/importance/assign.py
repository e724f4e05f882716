"""Give each tensor whose scales are searched the weights of its columns, and say which have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ....catalog.norms import norms
from ....consumers.fit import Decision
from ....core import small_json
from ....core.dtypes import DType
from ....core.planning import Planning
from ....core.scheme import Scheme
from ....core.tensor import LazyTensor
from ....core.text import count
from ....errors import FormatError, PlanError, RecipeError
from ....voice import called
from .columns import Columns, Gain, spread
from .file import WeightFile, open_weights
from .follow import Mean
from .weighing import Weighing

__all__ = ["OWN", "assign"]

OWN = ("norm", "sinq")
"""What needs no file."""

_SHOWN = 3


def assign(importance: str, decided: Sequence[Decision], planning: Planning) -> dict[int, Columns]:
    """The weights of columns by the number of their tensor.

    Args:
        importance: a file, or one of :data:`OWN`.
        decided: what happens to each tensor.

    Raises:
        PlanError: they would have no effect; or a tensor has none, unless that is allowed.
        FormatError: the file is none, or its weights do not fit.
    """
    coded = [
        (number, tensor, action)
        for number, (tensor, action, _) in enumerate(decided)
        if action is not None and not isinstance(action, DType)
    ]
    searched = [(number, tensor, scheme) for number, tensor, scheme in coded if scheme.weighs]
    if not searched:
        _refuse_idle(importance, [scheme for _, _, scheme in coded], planning)
        return {}
    heedless = sorted({scheme.name for _, _, scheme in coded if not scheme.weighs})
    if heedless:
        others = len(coded) - len(searched)
        planning.note(
            f"importance: {count(others, 'tensor')} become {', '.join(heedless)}, which search nothing"
        )
    tensors = [tensor for _, tensor, _ in searched]
    if importance == "norm":
        given = _gains(tensors, [tensor for tensor, _, _ in decided], planning)
    elif importance == "sinq":
        given = {tensor.name: spread(tensor) for tensor in tensors}
        planning.note("importance: each column counts one over its variance")
    else:
        given = _of_file(open_weights(importance), tensors, [tensor for tensor, _, _ in decided], planning)
    return {number: given[tensor.name] for number, tensor, _ in searched if tensor.name in given}


def _refuse_idle(importance: str, schemes: Sequence[Scheme], planning: Planning) -> None:
    if not schemes:
        return  # that nothing is quantized is said elsewhere
    names = ", ".join(sorted({scheme.name for scheme in schemes}))
    message = f"importance: {importance} does nothing: {names} searches no scales"
    if not planning.allow_unmatched:
        searches = any("optimize" in scheme.options for scheme in schemes)
        raise PlanError(
            message, hint=f"search them, with {called('optimize', 'mse')}" if searches else "leave it out"
        )
    planning.warn(message)


def _of_file(
    file: WeightFile, tensors: Sequence[LazyTensor], model: Sequence[LazyTensor], planning: Planning
) -> Mapping[str, Columns]:
    planning.inputs.append(file.source)
    weighing = Weighing(file, tensors, model)
    given: dict[str, Columns] = {}
    lost = []
    for tensor in tensors:
        columns = weighing.columns(tensor)
        if isinstance(columns, str):
            lost.append(columns)
        else:
            given[tensor.name] = columns
    if lost:
        _say_lost(
            f"importance: {Path(file.path).name} weighs no columns of {_few(lost)}, of {len(tensors)}",
            planning, given,
        )  # fmt: skip
    if means := [name for name, columns in given.items() if isinstance(columns, Mean) and columns.differ]:
        planning.warn(
            f"importance: {Path(file.path).name} weighs columns otherwise for some rows than for others of"
            f" {_few(means)}, as they are put together of several: each column counts the mean over its rows"
        )
    idle = len(file.entries) - len(weighing.used)
    planning.note(
        f"importance: {count(len(given), 'tensor')} weighed by {Path(file.path).name}"
        + (f"; {idle} of its {len(file.entries)} entries are of others" if idle else "")
    )
    return given


def _gains(
    tensors: Sequence[LazyTensor], model: Sequence[LazyTensor], planning: Planning
) -> Mapping[str, Columns]:
    table, all_of = norms(), {tensor.name: tensor for tensor in model}
    kind = _model_type(planning)
    plus_one = kind in table.plus_one
    given: dict[str, Columns] = {}
    lost = []
    for tensor in tensors:
        name = table(tensor.name, all_of)
        gain = None if name is None else all_of[name]
        columns = tensor.spec.shape[-1] if tensor.unpadded is None else tensor.unpadded[-1]
        if gain is None or not gain.plain or gain.spec.shape != (columns,):
            lost.append(tensor.name)
        else:
            given[tensor.name] = Gain(gain, plus_one)
    if not given:
        raise PlanError(
            f"importance: no norm with a gain is known before {_few(lost)}",
            hint=f"name a file, or leave {called('importance')} out",
        )
    if lost:
        planning.warn(
            f"importance: no norm with a gain is known before {_few(lost)}: all columns alike there"
        )
    one = f", plus one, as {kind} has them" if plus_one else ""
    planning.note(f"importance: {count(len(given), 'tensor')} weighed by the gain of the norm before{one}")
    return given


def _model_type(planning: Planning) -> str | None:
    """What ``config.json`` beside the source says of the model, if anything."""
    for path in planning.side_files:
        if path.name == "config.json":
            try:
                read = small_json.parse_object(
                    small_json.read(path, RecipeError).decode(errors="replace"), file=path, what="it"
                )
            except (FormatError, RecipeError):
                return None
            kind = read.get("model_type")
            return kind if isinstance(kind, str) else None
    return None


def _say_lost(message: str, planning: Planning, given: Mapping[str, Columns]) -> None:
    if not given or not planning.allow_unmatched:
        hint = (
            f"exclude them, or pass {called('allow_unmatched')}: then all their columns count alike"
            if given
            else "is it of this model?"
        )
        raise PlanError(message, hint=hint)
    planning.warn(f"{message}: all columns alike there")


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{count(len(names), 'tensor')} ({shown}{', ...' if len(names) > _SHOWN else ''})"
