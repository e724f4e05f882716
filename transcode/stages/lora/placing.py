"""The tensors of the model that each change of a LoRA is for; and what has none, or does not fit, named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import NamedTuple

from ...core.planning import Planning
from ...core.tensor import LazyTensor
from ...errors import PlanError
from ...voice import called
from .contents import Change, Contents
from .delta import Added, Delta, Mix
from .homes import Home, Place
from .places import Moved, Placed, Tokens, Whole, adds, by_rows
from .stacked import Stacked
from .targets import Homes
from .turned_over import seen, turned_over

__all__ = ["Placement", "placements"]

_MERGEABLE = ("F32", "F16", "BF16")
_SHOWN = 3
_NAMED = 10


class Placement(NamedTuple):
    """A change of one tensor.

    Attributes:
        name: of the tensor.
        added: what is done to it.
        description: what that is, for the report.
    """

    name: str
    added: Added
    description: str


def placements(
    contents: Contents, homes: Homes, table: Mapping[str, LazyTensor], planning: Planning
) -> list[Placement]:
    """The changes of a file with the tensors that they are for: whole tensors first, then what is added.

    Raises:
        PlanError: a key that has no home or does not fit, unless those may be left out; none at all that
            fits; a key that may mean several tensors, or one that another is for too; a tensor that is not
            plain floats.
    """
    return _Placing(contents, homes, table, planning).all()


class _Placing:
    def __init__(
        self, contents: Contents, homes: Homes, table: Mapping[str, LazyTensor], planning: Planning
    ) -> None:
        self._contents = contents
        self._homes = homes
        self._table = table
        self._planning = planning
        self._lost: list[str] = list(contents.unknown)
        self._text: list[str] = []
        self._misfits: dict[str, str] = {}
        self._taken: dict[str, list[tuple[int, int, Change]]] = defaultdict(list)

    def all(self) -> list[Placement]:
        """See :func:`placements`."""
        fitting = [
            (change, home)
            for change in sorted(self._contents.changes, key=lambda one: not _is_whole(one.added.delta))
            if (home := self._home(change)) and self._fits(change, home)
        ]
        if not fitting:
            raise self._none_fits()
        placed = [one for change, home in self._turned(fitting) for one in self._placed(change, home)]
        self._complain()
        self._report(placed)
        return placed

    def _home(self, change: Change) -> Home | None:
        """Where a change belongs; None where nowhere."""
        candidates, of_text = self._find(change)
        if not candidates and change.optional:
            return None
        if not candidates and of_text and not self._homes.has_text_encoder:
            self._text.append(change.key)
            return None
        if len(candidates) > 1:
            names = sorted(place.name for home in candidates for place in home[:1])
            raise self._error(
                change.key, f"may mean any of {', '.join(map(repr, names[:_SHOWN]))}",
                "say which part of the model is meant with prefix",
            )  # fmt: skip
        if not candidates:
            if (why := self._homes.unknown(change.base, change.leaf)) is not None:
                raise self._error(
                    change.key, why.what, why.hint or "merge it into a model in the LoRA's own spelling"
                )
            close = ""
            if len(self._lost) < _SHOWN:
                close = self._homes.nearest(change.base, change.leaf)
            self._lost.append(f"{change.key!r}{close}" if close else change.key)
            return None
        return candidates[0]

    def _find(self, change: Change) -> tuple[list[Home], bool]:
        """What a change may be for, by the first of its names that is known; and whether a text encoder."""
        leaves = (change.leaf, *change.others)
        for leaf in leaves:
            if candidates := self._homes.find(change.base, leaf):
                return candidates, False
        of_text = [self._homes.find_text(change.base, leaf) for leaf in leaves]
        return next((homes for homes in of_text if homes), []), of_text[0] is not None

    def _fits(self, change: Change, home: Home) -> bool:
        """Whether the tensors can take a change, by their shapes."""
        delta = change.added.delta
        for place in home:
            tensor = self._table[place.name]
            kind = tensor.spec.dtype.name
            if not tensor.plain or kind not in _MERGEABLE:
                held = f"quantized ({tensor.scheme.name})" if tensor.scheme is not None else kind
                hint = "cast it to F32 first" if kind == "F64" and tensor.plain else "dequantize first"
                if kind.startswith("F8"):
                    hint += (
                        f", with {called('dequantize', 'bf16')}; or with {called('cast', 'bf16')}, where no"
                        " scale belongs to it"
                    )
                raise PlanError(
                    f"{self._contents.path.name} cannot be merged into it, it is {held}",
                    tensor=tensor.name, hint=hint,
                )  # fmt: skip
            spec, wanted = seen(place, tensor.spec), repr(tensor.name)
            if place.turned:
                wanted = f"the transpose of {tensor.name!r}"
            elif place.rows is not None:
                wanted = f"what {tensor.name!r} holds rows of"
            if (why := delta.refuses(spec)) is not None:
                self._misfits.setdefault(change.key, f"{why} of {wanted}")
                return False
            if place.turned and turned_over(delta) is None:
                raise self._error(
                    change.key,
                    f"is of {delta.described()}, which cannot be turned over as {tensor.name!r} is",
                    "take a LoRA, or a model, in the other spelling",
                )
            if place.moves and not (by_rows(delta, spec) or (place.stack and isinstance(delta, Stacked))):
                raise self._error(
                    change.key,
                    f"is of {delta.described()}, which makes rows of all others, so it cannot be split over"
                    f" rows: {tensor.name!r}",
                    "take a LoRA, or a model, in the other spelling",
                )  # fmt: skip
        return True

    def _turned(self, fitting: Iterable[tuple[Change, Home]]) -> Iterator[tuple[Change, Home]]:
        """Stacks of matrices with it known which way the matrices lie."""
        fitting = list(fitting)
        known: dict[str, bool] = {}
        for change, home in fitting:
            delta = change.added.delta
            if isinstance(delta, Stacked):
                turned = delta.turns(seen(home[0], self._table[home[0].name].spec))
                if turned is not None:
                    known[change.base] = turned
        every = set(known.values())
        for change, home in fitting:
            delta = change.added.delta
            if isinstance(delta, Stacked):
                turned = delta.turns(seen(home[0], self._table[home[0].name].spec))
                if turned is None and home[0].stack:
                    turned = False  # what stacks of listed matrices hold is not turned
                if turned is None:
                    turned = known.get(change.base, every.copy().pop() if len(every) == 1 else None)
                if turned is None:
                    raise self._error(
                        change.key, f"is for square matrices in {home[0].name!r}, and nothing else in the"
                        " file tells which of their sides are the inputs", "merge it with PEFT",
                    )  # fmt: skip
                change = change.of(Added(delta.turn(turned), change.added.scale))
            yield change, home

    def _placed(self, change: Change, home: Home) -> Iterator[Placement]:
        """The change of each tensor that holds rows of what is meant."""
        for place in home:
            self._take(change, place)
            added, description, delta = change.added, change.description, change.added.delta
            if place.turned:
                over = turned_over(delta)
                assert over is not None  # see _fits
                added, description = Added(over, added.scale), f"{description}, turned over"
            if place.moves:
                assert not isinstance(delta, Mix), delta  # see _fits
                shape = self._table[place.name].spec.shape
                if place.rows_of_stack:
                    shape = (shape[0] * shape[1], *shape[2:])
                moves = tuple(sorted(place.moves, key=lambda move: move.target))
                added = Added(Placed((Moved(delta, moves),), shape), change.added.scale)
                if len(home) == 1 and len(moves) == 1:
                    description = (
                        f"{description}, rows {moves[0].target} to {moves[0].target + moves[0].count - 1}"
                    )
            yield Placement(place.name, added, description)

    def _take(self, change: Change, place: Place) -> None:
        """Note the rows of a change.

        Complains where another of its kind is for them too, or one of which no file tells which comes first.
        """
        delta = change.added.delta
        taken = self._taken[place.name]
        rows = (self._table[place.name].spec.shape or (1,))[0]
        for first, last in _covered(place) or [(0, rows)]:
            for start, stop, other in taken:
                if other is change or first >= stop or start >= last:
                    continue
                if type(other.added.delta) is type(delta):
                    raise self._error(
                        change.key, f"is for {place.name!r}, as {other.key!r} is", "keep one of them"
                    )
                if not all(_is_whole(one) or adds(one) for one in (other.added.delta, delta)):
                    raise self._error(
                        change.key,
                        f"({change.description}) changes what {other.key!r} ({other.description})"
                        " changes too",
                        "put them in two files, in the order that is meant",
                    )  # fmt: skip
            taken.append((first, last, change))

    def _none_fits(self) -> PlanError:
        lost, path = self._lost, self._contents.path
        count = len(lost) + len(self._text) + len(self._misfits)
        if self._contents.whole:
            return PlanError(
                f"holds whole tensors and nothing of a LoRA ({_list(lost, _SHOWN)})", file=path,
                hint="if it is a model, name it as the source",
            )  # fmt: skip
        if self._misfits:
            key, why = next(iter(self._misfits.items()))
            return PlanError(
                f"{why}; none of its {count} keys fits the model", file=path, tensor=key,
                hint="is it for this model?",
            )  # fmt: skip
        meant = self._homes.meant_for([change.base for change in self._contents.changes])
        return PlanError(
            f"none of its {count} keys fits the model ({_list(lost or self._text, _SHOWN)})", file=path,
            hint=f"{'' if meant is None else f'its names are those of {meant}; '}is it for this model?",
        )  # fmt: skip

    def _complain(self) -> None:
        """Of what has no home or does not fit: an error, or a warning that names it."""
        planning, path = self._planning, self._contents.path
        if self._contents.unmatched:
            bases = [change.base for change in self._contents.changes]
            planning.unmatched(f"{path}: its alpha_pattern or rank_pattern", self._contents.unmatched, bases)
        for line in self._contents.warnings:
            planning.warn(line)
        if self._text:
            planning.warn(
                f"{path}: {len(self._text)} keys are for a text encoder, which this model has not:"
                f" left out ({self._text[0]!r} ...)"
            )
        if self._misfits:
            key, why = next(iter(self._misfits.items()))
            if not planning.allow_unmatched:
                more = len(self._misfits) - 1
                message = f"{why}; {more} more keys do not fit either" if more else why
                raise PlanError(
                    message, file=path, tensor=key,
                    hint="is it for this model? If for one with other shapes there,"
                    f" {called('allow_unmatched')}"
                    " leaves out what does not fit",
                )  # fmt: skip
            names = _list([*self._misfits], _NAMED)
            planning.warn(f"{path}: {_keys(self._misfits, 'does', 'do')} not fit, left out: {names} ({why})")
        if self._lost:
            shown = _list(self._lost, _NAMED if planning.allow_unmatched else _SHOWN)
            what = f"{_keys(self._lost, 'has', 'have')} no home: {shown}"
            if not planning.allow_unmatched:
                raise PlanError(
                    what, file=path, hint=f"correct it, or pass {called('allow_unmatched')} to leave them out"
                )
            planning.warn(f"{path}: {what}; left out")

    def _report(self, placed: Iterable[Placement]) -> None:
        """What became of the file, for the plan."""
        for line in self._contents.notes:
            self._planning.note(line)
        whole = {one.name for one in placed if _is_whole(one.added.delta)}
        merged = {one.name for one in placed if not _is_whole(one.added.delta)}
        left = len(self._lost) + len(self._text) + len(self._misfits)
        self._planning.note(
            f"lora {self._contents.path.name}: {len(merged)} {'tensor' if len(merged) == 1 else 'tensors'}"
            f" changed, {len(whole)} replaced, {left} {'key' if left == 1 else 'keys'} left out"
        )

    def _error(self, key: str, what: str, hint: str) -> PlanError:
        return PlanError(what, file=self._contents.path, tensor=key, hint=hint)


def _covered(place: Place) -> list[tuple[int, int]]:
    """Runs of rows of a tensor that a change is for, in order; those that follow each other as one."""
    covered: list[tuple[int, int]] = []
    for move in sorted(place.moves, key=lambda one: one.target):
        if covered and covered[-1][1] == move.target:
            covered[-1] = covered[-1][0], move.target + move.count
        else:
            covered.append((move.target, move.target + move.count))
    return covered


def _is_whole(delta: Delta | Mix) -> bool:
    if isinstance(delta, Placed):
        return all(isinstance(part.delta, Whole) for part in delta.parts)
    return isinstance(delta, Whole | Tokens)


def _keys(keys: Sized, singular: str, plural: str) -> str:
    return f"{len(keys)} {'key ' + singular if len(keys) == 1 else 'keys ' + plural}"


def _list(keys: list[str], most: int) -> str:
    """Some keys, quoted where they are not yet."""
    shown = ", ".join(key if key.startswith("'") else repr(key) for key in keys[:most])
    return f"{shown} and {len(keys) - most} more" if len(keys) > most else shown
