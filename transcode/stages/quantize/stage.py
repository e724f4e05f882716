"""Choose the tensors to quantize and wrap them in a scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ... import catalog
from ...catalog.indexes import any_indexes, tells_indexes
from ...consumers.fit import Action, Decision, alike, misfit, multiple, odd_axis
from ...core.dtypes import DType
from ...core.event import Event, Reason
from ...core.flow import Transform
from ...core.patterns import Patterns
from ...core.planning import Planning
from ...core.records import dataclass
from ...core.scheme import Scheme
from ...core.tensor import LazyTensor
from ...errors import PlanError, RecipeError
from ...io import hub
from ...schemes import SCHEMES
from ...schemes.text import Options, parse_scheme
from ...voice import called
from ..cast import cast_tensor, float_dtype
from ..opening import arranged
from ..options import QuantizeOptions
from .choice import Choice
from .effect import refuse_adapter, refuse_nothing, refuse_unweighed
from .encode import encode_tensor, first_nonfinite
from .requantize import Given, note_again, refuse_quantized, say_left, staying
from .share_scale import Sharing, needed_looks

if TYPE_CHECKING:
    from .importance.columns import Columns
    from .like import Likeness
    from .mix import Mixing

__all__ = ["Quantize"]


@dataclass(frozen=True)
class Quantize(QuantizeOptions, Transform):
    """Quantize the tensors that matter, keep the others.

    A tensor is chosen in this order: what ``exclude`` matches stays; what ``include`` matches is taken; then
    ``targets`` decide, or without them the family's own, or for an unknown family a general rule. A chosen
    tensor takes the first of ``overrides`` that matches it, else ``scheme``; where there is only ``like``,
    all floats are chosen, and take the types that they have there.

    Of tensors that come quantized, those that are chosen are decoded and encoded anew; those that are stored
    so already, and those that are not chosen, keep their codes and scales.
    """

    encodes: ClassVar[bool] = True
    retypes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme is None:
            for name in ("options", "targets", "include", "keep_dtype"):
                if getattr(self, name):
                    raise RecipeError(
                        f"quantize: {name} does nothing without a scheme: {self.like} says what each tensor"
                        " becomes",
                        hint=f"give a scheme, too, or {called('override')}",
                    )
        self._actions(None)

    @property
    def consumer(self) -> str | None:
        """That of GGUF files, where one is to be like another."""
        return None if self.like is None else "gguf"

    def recorded(self) -> Any:
        """A file of weights by its name and its digest, instead of its path."""
        stated = super().recorded()
        if self.importance is not None:
            from .importance.assign import OWN
            from .importance.file import MARK, digest, split

            if self.importance not in OWN:
                path, named = split(self.importance)
                stated["importance"] = f"{hub.recorded(path)}{MARK}{named or digest(path)}"
        return stated

    def of_twin(self, noise: str) -> Quantize:
        """As it is, but for weights of inputs, which differ between the two. Raises PlanError."""
        from .importance.assign import OWN

        if self.importance is not None and self.importance not in OWN:
            raise PlanError(
                f"quantize: importance {self.importance} is of one model, the source is two that take turns",
                hint="convert each by itself, with its own",
            )
        return self

    def arranged(self, steps: tuple[Transform, ...]) -> tuple[Transform, ...]:
        """With quantized tensors opened before, and first of all the header that is to be taken."""
        steps = arranged(steps, self.on_nonfinite)
        if self.like is None:
            return steps
        from ..reference import Heading  # most runs have none

        return (Heading(self.like, self.scheme is None), *steps)

    def apply(self, tensors: Iterable[LazyTensor], planning: Planning) -> Iterator[LazyTensor]:
        """Decide each tensor's fate from facts; bytes are read only for ``on_nonfinite="keep"``."""
        tensors = list(tensors)
        if not self.include:
            refuse_adapter(tensors, planning)
        stored = refuse_quantized(tensors, planning)
        choice = Choice(self.model, self.targets, self.include, self.exclude, tensors, planning)
        spared: dict[int, str] = {}
        consumer = None if planning.convention is None else catalog.convention(planning.convention)
        default, actions, given = self._actions(planning.convention)
        mixing = self._mixing(tensors, planning.convention, given)
        likeness = self._likeness(tensors, planning, given)
        decided = self._decide(
            tensors, choice, spared, consumer, planning, default, mixing, likeness, actions
        )
        choice.complain(decided)
        if self.on_nonfinite == "keep":
            decided = _spare_nonfinite(decided, spared, planning)
        decided = alike(decided, spared, choice.group_of, consumer, planning)
        sharing = Sharing(self._fused(), choice, consumer)
        stays = staying(decided, given, consumer, planning, sharing.key, shared=bool(sharing.fused))
        repacked = stays and planning.opened and planning.convention not in planning.opened.conventions
        decided = [
            (tensor, None, Reason("quantized already", stays[number]))
            if number in stays
            else (tensor, action, why)
            for number, (tensor, action, why) in enumerate(decided)
        ]
        anew: dict[int, LazyTensor] = {}
        if planning.opened is not None:
            from .recode import (
                in_full,
                recoded,
            )  # most sources hold nothing quantized, and load nothing that reads it

            anew = recoded(decided, given, consumer, planning, sharing.key, choice.is_followed)
            if planning.lossless:
                decided = [
                    one if number in anew or one[1] is None else (in_full(one[0]), *one[1:])
                    for number, one in enumerate(decided)
                ]
        rest = [one if number not in anew else (one[0], None, one[2]) for number, one in enumerate(decided)]
        note_again(rest, planning)
        if planning.opened is not None and not stays and default is not None:
            say_left(decided, default.name, planning)
        opened = planning.opened
        idle = all(action is None or isinstance(action, DType) for _, action, _ in decided)
        if idle and self.scheme is not None and not (repacked and consumer is not None):
            refuse_nothing(self.scheme, [(tensor, why) for tensor, _, why in decided], planning)
        if likeness is not None:
            likeness.say(decided, planning)
        needed = needed_looks(rest, sharing, planning)
        columns: dict[int, Columns] = {}
        if self.importance is not None:
            from .importance.assign import assign  # most runs weigh nothing, and read no tables of names

            columns = assign(self.importance, rest, planning)
        else:
            refuse_unweighed(rest)
        if self.keep_dtype is not None and not any(
            action is None
            and choice.may_cast(tensor)
            and tensor.spec.dtype.name != self.keep_dtype
            and not (opened and opened.still(tensor))
            for tensor, action, _ in decided
        ):
            planning.warn(f"quantize: keep_dtype {self.keep_dtype}: no tensor that is kept has another dtype")
        for number, (tensor, action, why) in enumerate(decided):
            came = None if opened is None else opened.still(tensor)
            if action is not None and came is not None:
                came.anew = True
            if isinstance(action, DType):
                yield cast_tensor(tensor, action, why=str(why))
            elif number in anew:
                yield anew[number]
            elif action is not None:
                looks = needed.get(number, ())
                yield encode_tensor(
                    tensor, action, str(why), looks,
                    measured=planning.number() if planning.measure else None, columns=columns.get(number),
                    strict=planning.lossless,
                )  # fmt: skip
            elif (
                self.keep_dtype is not None
                and came is None
                and tensor.name not in stored
                and choice.may_cast(tensor)
            ):
                yield cast_tensor(tensor.evolve(did=Event("keep", str(why))), float_dtype(self.keep_dtype))
            elif mixing and came is None and tensor.name not in stored and mixing.narrow(tensor, choice):
                yield cast_tensor(tensor.evolve(did=Event("keep", str(why))), float_dtype("F32"))
            else:
                yield tensor.evolve(did=Event("keep", str(why)))

    def _decide(
        self,
        tensors: list[LazyTensor],
        choice: Choice,
        spared: dict[int, str],
        consumer: catalog.Convention | None,
        planning: Planning,
        default: Scheme | None,
        mixing: Mixing | None,
        likeness: Likeness | None,
        actions: dict[str, Action],
    ) -> list[Decision]:
        """What happens to each tensor; ``spared`` gets those that were chosen and do not fit, and why."""
        overrides = Patterns(rule for rule, _ in self.overrides)
        won: set[str | None] = set()
        decided: list[Decision] = []
        taken = []
        fitting_kinds: set[object] = set()
        alike = (
            mixing is None
            and likeness is None
            and choice.counts_alike
            and not any(map(tells_indexes, dict(self.overrides)))
        )
        names = [tensor.name for tensor in tensors]
        kinds = any_indexes(names) if alike else names
        # What was decided of a kind of name and the other facts, as the objects that they are.
        settled: dict[tuple[str, int, bool], tuple[bool, Action, Reason]] = {}
        action: Action
        for number, (tensor, name) in enumerate(zip(tensors, kinds, strict=True)):
            kind = name, id(tensor.spec), tensor.plain
            if kind in settled:
                take, action, why = settled[kind]
                if take:
                    taken.append(tensor.name)
                decided.append((tensor, action, why))
                continue
            take, why = choice(tensor)
            if likeness is not None:
                take = likeness.takes(tensor, why)
            elif not take and mixing is not None and not self.targets and mixing.takes(tensor, why):
                take, why = True, Reason("target", "outside of blocks", "outside of blocks")
            action = None
            if take:
                taken.append(tensor.name)
                rule = overrides.first(tensor.name)
                won.add(rule)
                if rule is not None:
                    action = actions[rule]
                elif likeness is not None:
                    action, why = likeness(tensor)
                elif mixing is not None:
                    action, why = mixing(tensor, why)
                else:
                    action = default
                if rule is not None:
                    why = Reason("override", f"override {rule}", rule)
            # Not isinstance(action, Scheme): for a protocol that looks at all members, every time.
            if action is not None and not isinstance(action, DType):
                followed = choice.is_followed(tensor)
                # All on which it depends: of many tensors most are alike.
                fits = id(action), id(tensor.spec), followed, catalog.experts_of(tensor.name) is not None
                fitting: Decision | str = tensor, action, why
                if fits not in fitting_kinds:
                    fitting = self._fitting(tensor, action, why, followed, consumer, planning)
                if isinstance(fitting, str):
                    spared[number] = fitting
                    odd = odd_axis(tensor, action, consumer)
                    decided.append((tensor, None, Reason("misfit", fitting, odd, why)))
                    continue
                if fitting != (tensor, action, why):
                    decided.append(fitting)
                    continue
                fitting_kinds.add(fits)
            if alike and why.kind != "never":  # of which each may be another model's, whose name is told
                settled[kind] = take, action, why
            decided.append((tensor, action, why))
        planning.unmatched("override", overrides.unused(), taken)
        unmatched = overrides.unused()
        for rule, _ in self.overrides:
            if rule not in won and rule not in unmatched:
                planning.warn(f"override {rule!r} does nothing: earlier ones match first wherever it does")
        return decided

    def _fitting(
        self,
        tensor: LazyTensor,
        scheme: Scheme,
        why: Reason,
        followed: bool,
        consumer: catalog.Convention | None,
        planning: Planning,
    ) -> Decision | str:
        """A chosen tensor with its scheme, if it can be; else why not, or an error if that is wanted."""
        if self.on_bad_shape == "keep" and (other := scheme.instead(tensor.spec)) is not None:
            scheme, said = other
            planning.warn(f"{tensor.name}: {said}", tensor=tensor.name, kind="less")
            why = replace(why, text=f"{why.text}; {said}")
        refusal = misfit(tensor, scheme, consumer, followed=followed)
        if refusal is None:
            return tensor, scheme, why
        if self.on_bad_shape == "error":
            raise PlanError(
                f"cannot become {scheme.name}: {refusal}",
                tensor=tensor.name,
                hint=f"exclude it, or pass {called('on_bad_shape', 'keep')}",
            )
        if self.on_bad_shape == "pad" and len(tensor.spec.shape) == 2:
            if consumer is not None and not consumer.pads:
                raise PlanError(
                    f"cannot be padded: {consumer.name} knows the model's shapes, and compares",
                    tensor=tensor.name,
                    hint=f"pass {called('on_bad_shape', 'keep')}; only"
                    f" {called('convention', 'neutral')} takes padded tensors",
                )
            from .pad import pad_tensor

            size = (
                -(-n // m) * m for n, m in zip(tensor.spec.shape, multiple(scheme, consumer), strict=True)
            )
            padded = pad_tensor(tensor, *size)
            if padded.spec.numel and misfit(padded, scheme, consumer, followed=followed) is None:
                return padded, scheme, why
        planning.warn(f"{tensor.name}: not quantized: {refusal}", tensor=tensor.name, kind="misfit")
        return refusal

    def _fused(self) -> tuple[catalog.Fused, ...]:
        return tuple(catalog.Fused(members) for members in self.share_scale)

    def _actions(self, convention: str | None) -> tuple[Scheme | None, dict[str, Action], Given]:
        """The scheme, if there is one; what each override does (a scheme, a dtype to cast to, None to keep);
        and the options that were given for each scheme.
        """
        asked: Given = {}

        def make(name: str, options: Options) -> Scheme:
            from ... import schemes

            consumer = None if convention is None else catalog.convention(convention)
            catalog.check_scheme(name, consumer)
            given = {} if consumer is None else consumer.scheme_options(name)
            scheme = schemes.make(name, **{**given, **dict(options)})
            if convention is not None:  # which may say the other half
                schemes.refuse_idle(scheme, dict(options))
            asked[scheme] = dict(options)
            return scheme

        actions: dict[str, Action] = {}
        for rule, scheme in self.overrides:
            name, options = parse_scheme(scheme)
            if rule in actions:
                raise RecipeError(f"override: the pattern {rule!r} is given twice")
            if name == "keep":
                actions[rule] = None
            elif not options and _is_dtype(name):
                actions[rule] = float_dtype(name)
            else:
                actions[rule] = make(name, options)
        base = self._base()
        return None if base is None else make(base, self.options), actions, asked

    def _base(self) -> str | None:
        """The scheme; of a mix that of most tensors."""
        if self.scheme is None or self.scheme in SCHEMES:  # no mix is called as one
            return self.scheme
        from .mix import base_of

        return base_of(self.scheme, self.options)

    def _mixing(self, tensors: list[LazyTensor], convention: str | None, given: Given) -> Mixing | None:
        """What gives each tensor its type, where a mix is asked for."""
        if self.scheme is None or self._base() == self.scheme:
            return None
        from .mix import Mixing

        return Mixing(self.scheme, tensors, _maker(convention, given))

    def _likeness(self, tensors: list[LazyTensor], planning: Planning, given: Given) -> Likeness | None:
        """What gives each tensor its type, where another file does.

        Raises:
            PlanError: that file is of another model.
        """
        if self.like is None:
            return None
        from .like import Likeness, check_reference

        if self.scheme is not None:
            check_reference(tensors, planning)
            return None
        return Likeness(tensors, planning, _maker(planning.convention, given))


def _maker(convention: str | None, given: Given) -> Callable[..., Scheme]:
    """Schemes by their names, noted in ``given``."""
    from ... import schemes

    consumer = None if convention is None else catalog.convention(convention)

    def make(name: str, **options: Any) -> Scheme:
        catalog.check_scheme(name, consumer)
        scheme = schemes.make(name, **options)
        given.setdefault(scheme, options)
        return scheme

    return make


def _spare_nonfinite(decided: list[Decision], found: dict[int, str], planning: Planning) -> list[Decision]:
    """Keep the chosen tensors that hold NaN or Inf, and say so in ``found``. Reads all chosen tensors."""
    todo = [
        (number, tensor, action)
        for number, (tensor, action, _) in enumerate(decided)
        if action is not None and not isinstance(action, DType)
    ]
    from concurrent.futures import ThreadPoolExecutor  # brings logging, which no other run needs

    total = sum(tensor.spec.nbytes for _, tensor, _ in todo) or 1
    spared = list(decided)
    done = 0
    with ThreadPoolExecutor(planning.workers) as pool:
        problems = pool.map(lambda job: first_nonfinite(job[1], job[2]), todo)
        for (number, tensor, _), problem in zip(todo, problems, strict=True):
            done += tensor.spec.nbytes
            if problem is not None:
                planning.warn(
                    f"{tensor.name}: not quantized: {problem}", tensor=tensor.name, kind="not finite"
                )
                spared[number] = (tensor, None, Reason("nonfinite", problem))
                found[number] = problem
            if planning.on_scan is not None:
                planning.on_scan("looking for NaN and Inf", done / total)
    return spared


def _is_dtype(name: str) -> bool:
    try:
        float_dtype(name)
    except RecipeError:
        return False
    return True
