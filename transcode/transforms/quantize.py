"""Choose the tensors to quantize and wrap them in a scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from .. import catalog
from ..core.dtypes import FLOATS, DType
from ..core.flow import Transform
from ..core.observe import Observation
from ..core.planning import Planning
from ..core.scheme import Scheme
from ..core.scratch import Scratch
from ..core.tensor import LazyTensor, Piece
from ..errors import DataError, RecipeError
from .cast import cast_tensor, float_dtype
from .select import Patterns

__all__ = ["Quantize", "encode_tensor", "parse_scheme"]

Options = tuple[tuple[str, Any], ...]

_SCAN_TILE = 8 << 20


def parse_scheme(text: str) -> tuple[str, Options]:
    """Read ``name`` or ``name:option=value,option=value``; values are YAML scalars.

    Raises:
        RecipeError: not of that form.
    """
    import yaml

    name, _, rest = text.partition(":")
    options = []
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError(f"scheme {text!r}: {item!r} is not of the form option=value")
        options.append((key.strip(), yaml.safe_load(value)))
    return name.strip(), tuple(options)


@dataclass(frozen=True)
class Quantize(Transform):
    """Quantize the tensors that matter, keep the others.

    A tensor is chosen in this order: what ``exclude`` matches stays; what ``include`` matches is taken; then
    ``targets`` decide, or without them the family's own, or for an unknown family a general rule. A chosen
    tensor takes the first of ``overrides`` that matches it, else ``scheme``.

    Args:
        scheme: name of the scheme.
        options: its options; what is not said is left to the convention, then to the scheme.
        model: name of the family; without it, it is recognised from the names.
        targets: patterns (runs of name components) that replace the family's targets.
        include: patterns of more tensors to take, whatever the family says; any float matrix.
        exclude: patterns of tensors to leave; wins over everything.
        overrides: ``(pattern, scheme)`` pairs; instead of a scheme, a float dtype casts and ``keep`` keeps.
        keep_dtype: float dtype for the plain float tensors that are not quantized; as they are without.
        on_nonfinite: ``"error"`` stops the run at the first NaN or Inf in a chosen tensor; ``"keep"`` looks
            for them while planning, which reads all chosen tensors once, and keeps such tensors.
    """

    kind: ClassVar[str] = "quantize"

    scheme: str
    options: Options = ()
    model: str | None = None
    targets: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    keep_dtype: str | None = None
    on_nonfinite: str = "error"

    def __post_init__(self) -> None:
        for patterns in (self.targets, self.include, self.exclude, [rule for rule, _ in self.overrides]):
            Patterns(patterns)
        if self.on_nonfinite not in ("error", "keep"):
            raise RecipeError(f"on_nonfinite: {self.on_nonfinite!r} is neither 'error' nor 'keep'")
        if self.keep_dtype is not None:
            object.__setattr__(self, "keep_dtype", float_dtype(self.keep_dtype).name)
        self._actions(None)

    def config(self) -> dict[str, Any]:
        """The scheme, and what differs from the defaults."""
        config: dict[str, Any] = {"scheme": self.scheme}
        if self.options:
            config["options"] = dict(self.options)
        for key in ("model", "keep_dtype"):
            if (value := getattr(self, key)) is not None:
                config[key] = value
        for key in ("targets", "include", "exclude"):
            if value := getattr(self, key):
                config[key] = list(value)
        if self.overrides:
            config["overrides"] = [list(rule) for rule in self.overrides]
        if self.on_nonfinite != "error":
            config["on_nonfinite"] = self.on_nonfinite
        return config

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Decide each tensor's fate from facts; bytes are read only for ``on_nonfinite="keep"``."""
        tensors = list(tensors)
        chosen = _Choice(self, tensors, planning)
        default, actions = self._actions(planning.convention)
        overrides = Patterns(rule for rule, _ in self.overrides)
        decided: list[tuple[LazyTensor, Scheme | DType | None, str]] = []
        for tensor in tensors:
            take, why = chosen(tensor)
            action: Scheme | DType | None = None
            if take:
                rule = overrides.first(tensor.name)
                action = default if rule is None else actions[rule]
                if rule is not None:
                    why = f"override {rule}"
                # Not isinstance(action, Scheme): for a protocol that looks at all members, every time.
                scheme = None if isinstance(action, DType) else action
                if scheme is not None and (refusal := scheme.refuses(tensor.spec)):
                    action, why = None, f"{refusal} ({why})"
                    planning.warn(f"{tensor.name}: not quantized: {refusal}")
            decided.append((tensor, action, why))
        chosen.complain()
        planning.unmatched("override", overrides.unused(), [t.name for t, action, _ in decided if action])
        spoiled = self._spoiled(decided, planning)
        for tensor, action, why in decided:
            if tensor.name in spoiled:
                planning.warn(f"{tensor.name}: not quantized: {spoiled[tensor.name]}")
                yield tensor.evolve(did=f"keep: {spoiled[tensor.name]}")
            elif isinstance(action, DType):
                yield cast_tensor(tensor, action, why=why)
            elif action is not None:
                yield encode_tensor(tensor, action, why)
            elif self.keep_dtype is not None and chosen.may_cast(tensor):
                yield cast_tensor(tensor.evolve(did=f"keep: {why}"), float_dtype(self.keep_dtype))
            else:
                yield tensor.evolve(did=f"keep: {why}")

    def _actions(self, convention: str | None) -> tuple[Scheme, dict[str, Scheme | DType | None]]:
        """The scheme, and what each override does: a scheme, a dtype to cast to, None to keep."""

        def make(name: str, options: Options) -> Scheme:
            from .. import schemes

            given = {} if convention is None else catalog.convention(convention).scheme_options(name)
            return schemes.make(name, **{**given, **dict(options)})

        actions: dict[str, Scheme | DType | None] = {}
        for rule, text in self.overrides:
            name, options = parse_scheme(text)
            if rule in actions:
                raise RecipeError(f"override: the pattern {rule!r} is given twice")
            if name == "keep":
                actions[rule] = None
            elif not options and _is_dtype(name):
                actions[rule] = float_dtype(name)
            else:
                actions[rule] = make(name, options)
        return make(self.scheme, self.options), actions

    def _spoiled(
        self, decided: list[tuple[LazyTensor, Scheme | DType | None, str]], planning: Planning
    ) -> dict[str, str]:
        """Chosen tensors that hold NaN or Inf, when those are to be kept."""
        if self.on_nonfinite != "keep":
            return {}
        todo = [(tensor, action) for tensor, action, _ in decided if action and not isinstance(action, DType)]
        total = sum(tensor.spec.nbytes for tensor, _ in todo) or 1
        found: dict[str, str] = {}
        done = 0
        with ThreadPoolExecutor(planning.workers) as pool:
            for (tensor, _), problem in zip(todo, pool.map(lambda job: _scan(*job), todo), strict=True):
                done += tensor.spec.nbytes
                if problem:
                    found[tensor.name] = problem
                if planning.on_scan is not None:
                    planning.on_scan("looking for NaN and Inf", done / total)
        return found


def _is_dtype(name: str) -> bool:
    try:
        float_dtype(name)
    except RecipeError:
        return False
    return True


class _Choice:
    """Which tensors a Quantize takes, and why."""

    def __init__(self, stage: Quantize, tensors: list[LazyTensor], planning: Planning) -> None:
        self._planning = planning
        self._names = [tensor.name for tensor in tensors]
        self._include = Patterns(stage.include)
        self._exclude = Patterns(stage.exclude)
        self._targets = Patterns(stage.targets)
        self._family, self._key = self._recognise(stage, tensors)
        self._use_targets = bool(stage.targets)
        if self._use_targets:
            planning.note(f"targets as given: {', '.join(stage.targets)}")

    def _recognise(
        self, stage: Quantize, tensors: list[LazyTensor]
    ) -> tuple[catalog.Family, Callable[[LazyTensor], str]]:
        def current(tensor: LazyTensor) -> str:
            return tensor.name

        def original(tensor: LazyTensor) -> str:
            return tensor.source

        # A family is known by its own names. Where a rename has changed them already, the names of the
        # source still tell it: so renaming before quantizing chooses the same tensors as renaming after.
        for key in (current, original):
            names = [key(tensor) for tensor in tensors]
            if stage.model is not None:
                family = catalog.family(stage.model)
                fit = family.fit(names)
                if fit is not None or key is original:
                    self._planning.note(f"family {family.name}, as given")
                    return (family, current) if fit is None else (fit, key)
            elif (found := catalog.detect(names)) is not None:
                self._planning.note(f"family {found.name}, recognised from tensor names")
                return found, key
        if not stage.targets:
            self._planning.note(
                "unknown family: float matrices whose names end in .weight are quantized,"
                " but not embeddings, norms and heads"
            )
        return catalog.generic_family(), current

    def __call__(self, tensor: LazyTensor) -> tuple[bool, str]:
        excluded = self._exclude.first(tensor.name)
        included = self._include.first(tensor.name)
        target = self._targets.first(tensor.name)
        if not tensor.plain:
            return False, "quantized already"
        if excluded is not None:
            return False, f"exclude {excluded}"
        if tensor.spec.dtype.name not in FLOATS:
            return False, f"{tensor.spec.dtype.name} is not a plain float"
        if included is not None:
            return True, f"include {included}"
        if len(tensor.spec.shape) < 2:
            return False, f"{len(tensor.spec.shape)}-D"
        if self._use_targets:
            if target is None:
                return False, "matches no target"
            if not tensor.name.endswith(".weight"):
                return False, "not a .weight"
            return True, f"target {target}"
        return self._family.is_target(self._key(tensor), tensor.spec.shape, self._planning.convention)

    def may_cast(self, tensor: LazyTensor) -> bool:
        """Whether a tensor that stays may take another dtype."""
        plain = tensor.plain and tensor.spec.dtype.name in FLOATS
        return plain and not self._family.is_adapter(self._key(tensor))

    def complain(self) -> None:
        """Tell of patterns that matched nothing."""
        for kind, patterns in (
            ("targets", self._targets),
            ("include", self._include),
            ("exclude", self._exclude),
        ):
            self._planning.unmatched(kind, patterns.unused(), self._names)


def encode_tensor(tensor: LazyTensor, scheme: Scheme, why: str) -> LazyTensor:
    """A plain tensor whose rows are encoded as they are read."""
    from ..numerics import NonFinite

    spec = tensor.spec
    grain = scheme.grain(spec)

    def blame(error: NonFinite, start: int) -> DataError:
        return DataError(
            f"{error.value!r} at row {start + error.row}, column {error.column}",
            tensor=tensor.source or tensor.name,
            hint="repair the source, exclude the tensor, or keep such tensors with --on-nonfinite keep",
        )

    def look(start: int, stop: int, scratch: Scratch) -> float:
        try:
            return scheme.observe(tensor.matrix(start, stop, scratch), spec.dtype)
        except NonFinite as error:
            raise blame(error, start) from None

    needs: tuple[Observation[float], ...] = ()
    if scheme.observes:
        needs = (Observation(spec, partial(_grained, tensor, grain), look, max),)

    def read(start: int, stop: int, scratch: Scratch) -> Iterator[Piece]:
        stats = max((one.value(scratch) for one in needs), default=None)
        rows = tensor.matrix(start, stop, scratch)
        try:
            yield from scheme.encode(rows, spec, start, stats, scratch)
        except NonFinite as error:
            raise blame(error, start) from None

    said = f"quantize {scheme.name}: {why}"
    if len(spec.shape) > 2:
        said += f"; {len(spec.shape)}-D: a stack of {spec.rows // spec.shape[-2]} matrices, each for itself"
    return tensor.evolve(
        did=said, parts=scheme.parts(spec), read=read, grain=grain, scheme=scheme, needs=needs
    )


def _grained(tensor: LazyTensor, grain: int, nbytes: int) -> Iterator[tuple[int, int]]:
    return tensor.evolve(grain=grain).tiles(nbytes)


def _scan(tensor: LazyTensor, scheme: Scheme) -> str | None:
    """Where a tensor first holds NaN or Inf, or None."""
    from ..numerics import NonFinite

    scratch = Scratch()
    for start, stop in tensor.tiles(_SCAN_TILE):
        scratch.reset()
        try:
            scheme.observe(tensor.matrix(start, stop, scratch), tensor.spec.dtype)
        except NonFinite as error:
            return f"holds {error.value!r} at row {start + error.row}, column {error.column}"
    return None
