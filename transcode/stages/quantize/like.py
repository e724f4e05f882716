"""The types that another GGUF file has for tensors, copied one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from ... import catalog
from ...consumers.fit import Action, Decision
from ...core.dtypes import BLOCKS, FLOATS
from ...core.event import Reason
from ...core.planning import Planning
from ...core.scheme import Scheme
from ...core.source import Source
from ...core.spec import Spec
from ...core.tensor import LazyTensor
from ...core.text import count
from ...errors import PlanError
from ...schemes import SCHEMES
from ...voice import called
from ..cast import float_dtype

__all__ = ["Likeness", "check_reference"]

_GGUF = "gguf"
_WEIGHT, _SCALE, _INPUT = ".weight", ".scale", ".input_scale"
_STAYS = ("exclude", "quantized already")


def check_reference(tensors: Sequence[LazyTensor], planning: Planning) -> dict[str, Spec]:
    """What another file says of each tensor, by its name; that it has the same ones, of the same shapes.

    Raises:
        PlanError: it has others, unless that is allowed, or of other shapes; or the output is no GGUF file.
    """
    reference = planning.reference
    assert reference is not None
    if planning.convention not in (None, _GGUF):
        raise PlanError(
            f"like {reference.path.name}: copies what GGUF files say, the output is for"
            f" {planning.convention}",
            hint=f"name an output that ends in .gguf, or pass {called('convention', _GGUF)}",
        )
    specs = dict(_specs(reference))
    own = {tensor.name: tensor.spec for tensor in tensors}
    for name, spec in specs.items():
        if name in own and own[name].shape != spec.shape:
            raise PlanError(
                f"is {list(own[name].shape)}, and {list(spec.shape)} in {reference.path.name}, which the"
                " output is to be like",
                tensor=name, hint="name a file of the same model",
            )  # fmt: skip
    for names, others, message in (
        (own, specs, f"is not in {reference.path.name}, which the output is to be like"),
        (specs, own, f"is in {reference.path.name}, which the output is to be like, and not in the source"),
    ):
        lost = [name for name in names if name not in others]
        if not lost:
            continue
        more = f", and so {count(len(lost) - 1, 'more')}".removesuffix("s") if len(lost) > 1 else ""
        if not planning.allow_unmatched:
            raise PlanError(
                f"{message}{more}", tensor=lost[0],
                hint=f"spell names as it does ({called('to', _GGUF)}), or pass {called('allow_unmatched')}",
            )  # fmt: skip
        planning.warn(f"{lost[0]}: {message}{more}", tensor=lost[0], kind="not alike")
    return specs


def _specs(reference: Source) -> Iterator[tuple[str, Spec]]:
    """All tensors but scales that stand beside the blocks of NVFP4, which go with these."""
    blocks = [one.name for one in reference.tensors if one.spec.dtype.name == "NVFP4"]
    beside = {one.removesuffix(_WEIGHT) + end for one in blocks for end in (_SCALE, _INPUT)}
    return ((one.name, one.spec) for one in reference.tensors if one.name not in beside)


class Likeness:
    """What becomes of each tensor.

    Args:
        tensors: all of the model, under their names in the output.
        make: the scheme of a name.

    Raises:
        PlanError: see :func:`check_reference`.
    """

    def __init__(
        self, tensors: Sequence[LazyTensor], planning: Planning, make: Callable[..., Scheme]
    ) -> None:
        assert planning.reference is not None
        self._file = planning.reference.path.name
        self._specs = check_reference(tensors, planning)
        self._scaled = {one.name.removesuffix(_SCALE) for one in planning.reference.tensors}
        self._schemes = _schemes()
        self._make = make

    def takes(self, tensor: LazyTensor, why: Reason) -> bool:
        """Whether the file decides about a tensor: a float that is not excluded.

        Raises:
            PlanError: it is no float, and of another dtype there.
        """
        spec = self._specs.get(tensor.name)
        if spec is None or why.kind in _STAYS:
            return False
        if tensor.spec.dtype.name in FLOATS:
            return True
        if tensor.spec.dtype != spec.dtype:
            raise self._cannot(tensor, spec.dtype.name, f"it is {tensor.spec.dtype} in the source")
        return False

    def __call__(self, tensor: LazyTensor) -> tuple[Action, Reason]:
        """What happens to a tensor, and why.

        Raises:
            PlanError: it has a type there that is not written, or not made of floats.
        """
        spec = self._specs[tensor.name]
        kind = spec.dtype.name
        like = Reason("like", f"as in {self._file}", kind)
        if kind in BLOCKS:
            if kind not in self._schemes:
                raise self._cannot(tensor, kind, "such blocks are read here, not written")
            more = {"scaled": True} if self._is_scaled(tensor.name, kind) else {}
            return self._make(self._schemes[kind], **more), like
        if kind not in FLOATS:
            raise self._cannot(tensor, kind, f"it is {tensor.spec.dtype} in the source")
        return None if tensor.spec.dtype == spec.dtype else float_dtype(kind), like

    def _is_scaled(self, name: str, kind: str) -> bool:
        return kind == "NVFP4" and name.removesuffix(_WEIGHT) in self._scaled

    def _cannot(self, tensor: LazyTensor, kind: str, why: str) -> PlanError:
        return PlanError(
            f"is {kind} in {self._file}, which the output is to be like: {why}",
            tensor=tensor.name,
            hint=f"give it another type, with {called('override')}",
        )

    def say(self, decided: Sequence[Decision], planning: Planning) -> None:
        """Tell how many tensors have which type from the file."""
        counts = Counter(why.label for _, _, why in decided if why.kind == "like")
        others = len(decided) - counts.total()
        types = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
        rest = f"; {count(others, 'other')}" if others else ""
        planning.note(f"like {self._file}: {types or 'no type is taken'}{rest}")


def _schemes() -> Mapping[str, str]:
    """The schemes that write blocks, by the names of these."""
    names = (name for name in catalog.convention(_GGUF).schemes if name in SCHEMES)
    return {SCHEMES[name].stored: name for name in names}
