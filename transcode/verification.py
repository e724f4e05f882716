"""Whether an output is what its source becomes: derived anew by the recipe, and compared byte by byte.

Nothing is written, and nothing of the output is trusted but the record of its recipe: the flow is planned
again, its tiles are computed as in a run, and each piece is compared with the bytes where it would go.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from .consumers import record
from .containers.source import open_source
from .core.context import Context
from .core.extent import Extent
from .core.performance import Performance
from .core.records import dataclass
from .core.shown import Overview, Shown
from .core.small_json import parse_object
from .core.source import Source
from .core.spec import Spec
from .core.text import count, size
from .errors import FormatError, RecipeError
from .execution import checksums, journal
from .execution.execute import Progress, execute
from .execution.moves import Move
from .execution.pace import Pace
from .io.named import refuse_empty
from .plan import devices
from .plan.plan import Plan
from .plan.resolve import resolve
from .recipe import Recipe, dump_config, load, parse
from .voice import called

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Difference", "Verification", "verify"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor of the output, or a file, that is not what the source becomes.

    Attributes:
        name: of the tensor as it is stored; of the file.
        what: what differs, in words.
        row: the first row that does; None where no values were compared.
    """

    name: str
    what: str
    row: int | None = None


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """What a comparison found.

    Attributes:
        path, source: what was compared with what.
        tensors: how many stored tensors were compared, of how many.
        bytes_compared: of the output.
        differences: in the order of the plan; empty where the output is right.
        notes: what a user should know, such as another version in the record.
        checked: files that were held against the checksums beside the output.
    """

    path: Path
    source: Path | None
    tensors: tuple[int, int]
    bytes_compared: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    checked: int = 0

    @property
    def right(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def overview(self) -> Overview:
        """The verdict, and the first of what differs."""
        done, whole = self.tensors
        of = f"{done} of {count(whole, 'tensor')}" if done < whole else count(whole, "tensor")
        verdict = "is" if self.right else "IS NOT"
        if self.source is None:
            what = f"what its checksums say: {count(self.checked, 'file')}, {of}, {size(self.bytes_compared)}"
        else:
            what = f"what {self.source} becomes: {of}, {size(self.bytes_compared)} compared"
            if self.checked:
                what += f"; checksums of {count(self.checked, 'file')} compared"
        head = f"{self.path} {verdict} {what}"
        lines = [f"{one.name}: {one.what}" for one in self.differences[:20]]
        if len(self.differences) > 20:
            lines.append(f"and {len(self.differences) - 20} more")
        return Overview(head, [*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return {
            "path": str(self.path),
            "source": None if self.source is None else str(self.source),
            "files_checked": self.checked,
            "right": self.right,
            "tensors": self.tensors[1],
            "tensors_compared": self.tensors[0],
            "bytes_compared": self.bytes_compared,
            "differences": [{"name": one.name, "what": one.what, "row": one.row} for one in self.differences],
            "notes": list(self.notes),
        }


def verify(
    path: str | PathLike[str],
    source: str | PathLike[str] | None = None,
    *,
    recipe: str | PathLike[str] | None = None,
    sample: float = 1.0,
    seed: int = 0,
    performance: Performance | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Verification:
    """Compare an output with what its source becomes by the recipe that it records, and with its checksums.

    Args:
        path: the output: a file or a folder.
        source: what it was made of; without it the output is held against the checksums beside it alone.
        recipe: a recipe file, for outputs that record none: its steps and target count, not its paths.
        sample: share of the tensors that are compared, in (0, 1]; names, dtypes and shapes are all of them.
        seed: which tensors those are.
        performance: how to run.
        on_progress: called about ten times a second.

    Raises:
        RecipeError: no recipe is recorded and none given, or a share that is none.
        TranscodeError: what a run of the recipe would raise.
    """
    if not 0 < sample <= 1:
        raise RecipeError(f"sample: {sample} is no share", hint="write one above 0, up to 1")
    refuse_empty(path)
    notes: list[str] = []
    digests = checksums.load(Path(path))
    if source is None:
        if digests is None:
            raise RecipeError(
                f"{path}: has no checksums beside it", hint=f"name its source with {called('source')}"
            )
        return _checked(Path(path), digests, recipe, sample)
    with open_source(path) as output:
        whole = _recipe(output, Path(path), recipe, notes)
        whole = replace(whole, source=replace(whole.source, path=fspath(source)))
        plan = resolve(whole.write(), whole.flow())
        done = _compared(plan, output, notes, sample, seed, performance or Performance(), on_progress)
    if digests is None:
        return done
    known = {one.name for one in done.differences}
    more = [one for one in _wrong(Path(path), digests) if one.name not in known]
    return replace(done, differences=(*done.differences, *more), checked=len(digests.files))


def _wrong(path: Path, digests: checksums.Digests) -> list[Difference]:
    """What is not as the checksums say."""
    return [Difference(name, what) for name, what in checksums.differing(path, digests)]


def _checked(
    path: Path, digests: checksums.Digests, recipe: str | PathLike[str] | None, sample: float
) -> Verification:
    if recipe is not None or sample != 1:
        raise RecipeError(
            "recipe and sample do nothing without a source", hint=f"name it with {called('source')}"
        )
    tensors = sum(map(len, digests.tensors.values()))
    folder = path if path.is_dir() else path.parent
    sizes = [(folder / name).stat().st_size for name in digests.files if (folder / name).exists()]
    differences = tuple(_wrong(path, digests))
    return Verification(path, None, (tensors, tensors), sum(sizes), differences, (), len(digests.files))


def _recipe(output: Source, path: Path, given: str | PathLike[str] | None, notes: list[str]) -> Recipe:
    """The recipe that an output was made by, whose end is that output."""
    from . import __version__

    if given is not None:
        config: Mapping[str, Any] = {
            key: value
            for key, value in load(given).config().items()
            if key not in ("source", "output", "performance")
        }
    else:
        text = output.metadata.get(record.KEY)
        if text is None:
            raise RecipeError(
                f"{path}: holds no record of how it was made", hint=f"name its recipe with {called('recipe')}"
            )
        recorded = parse_object(text, file=path, what="its record of how it was made")
        known = record.recipe(recorded)
        if known is None:
            raise FormatError("its record of how it was made tells no recipe", file=path)
        if recorded.get("version") != __version__:
            notes.append(
                f"made by version {recorded.get('version')}, compared by {__version__}, which may make others"
            )
        config = known
    target = dict(config.get("target") or {})
    if path.is_file():
        target.pop("layout", None)
    output_section = {"path": str(path), "copy_metadata": False}
    return parse(dump_config({**config, "target": target, "output": output_section}), file=f"{path}: record")


def _compared(
    plan: Plan,
    output: Source,
    notes: list[str],
    sample: float,
    seed: int,
    performance: Performance,
    on_progress: Callable[[Progress], None] | None,
) -> Verification:
    stored = {
        tensor.name: (tensor.spec, next(iter(tensor.value.extents().get("values", ())), None))
        for tensor in output.tensors
    }
    planned = {place.name: place.spec for file in plan.files for place in file.places}
    differences = [
        *(Difference(name, "is missing") for name in planned if name not in stored),
        *(Difference(name, "is not of it") for name in stored if name not in planned),
        *(
            Difference(name, f"is {stored[name][0]}, should be {spec}")
            for name, spec in planned.items()
            if name in stored and stored[name][0] != spec
        ),
    ]
    wrong = {one.name for one in differences}
    chosen = _chosen(plan, sample, seed)
    comparison = _Comparison(plan, stored, wrong)
    ledger = journal.Ledger()
    ledger.believe(
        (journal.values(number), 0, tensor.spec.nbytes)
        for number, tensor in enumerate(plan.tensors)
        if number not in chosen
    )
    ledger.believe(
        (journal.moved(number), len(file.header) + place.begin, len(file.header) + place.end)
        for number, file in enumerate(plan.files)
        for place in file.places
        if place.tensor not in chosen
    )
    used = devices.choose(devices.fitted(performance, plan.tensors), plan.tensors)
    execute(
        plan,
        comparison,
        workers=used.performance.threads,
        tile_bytes=used.performance.tile_bytes(devices.room(plan.tensors)),
        surroundings=used.surroundings,
        on_progress=on_progress,
        ledger=ledger,
        pace=Pace(performance.max_read_rate),
        nice=performance.nice,
    )
    differences += comparison.differences()
    return Verification(
        output.path,
        plan.source,
        (comparison.seen(), len(planned)),
        comparison.nbytes,
        tuple(differences),
        tuple(notes),
    )


def _chosen(plan: Plan, share: float, seed: int) -> set[int]:
    """Numbers of the tensors that are compared: all, or a share of them, one at least."""
    numbers = range(len(plan.tensors))
    if share == 1:
        return set(numbers)
    return set(Random(seed).sample(numbers, max(round(len(numbers) * share), min(len(numbers), 1))))


class _Comparison:
    """Compares what a run would write with what lies there; see :class:`.execution.execute.Writer`.

    Attributes:
        nbytes: how many bytes were compared.
    """

    def __init__(self, plan: Plan, stored: Mapping[str, tuple[Spec, Extent | None]], wrong: set[str]) -> None:
        self.nbytes = 0
        self._files = [
            [(len(file.header) + place.begin, len(file.header) + place.end, place) for place in file.places]
            for file in plan.files
        ]
        self._begins = [[begin for begin, _, _ in places] for places in self._files]
        self._extents = {
            name: extent for name, (_, extent) in stored.items() if extent is not None and name not in wrong
        }
        self._order = [place.name for file in plan.files for place in file.places]
        self._first: dict[str, tuple[int, Spec]] = {}
        self._seen = {name for name, extent in self._extents.items() if not extent.nbytes}
        self._lock = threading.Lock()
        self._own = threading.local()

    def write(self, file: int, offset: int, data: NDArray[np.uint8]) -> None:
        """Compare a piece, which may be of several tensors that lie side by side."""
        end = offset + data.nbytes
        number = max(bisect_right(self._begins[file], offset) - 1, 0)
        while number < len(self._files[file]) and self._files[file][number][0] < end:
            begin, stop, place = self._files[file][number]
            low, high = max(begin, offset), min(stop, end)
            if low < high:
                self._compare(place.name, place.spec, low - begin, data[low - offset : high - offset])
            number += 1

    def copy(self, move: Move) -> int:
        """Nothing is copied: what would be comes through :meth:`write`."""
        return 0

    def _compare(self, name: str, spec: Spec, begin: int, data: NDArray[np.uint8]) -> None:
        extent = self._extents.get(name)
        if extent is None:
            return
        if not hasattr(self._own, "context"):
            self._own.context = Context()
        context: Context = self._own.context
        context.reset()
        there = extent.file.bytes(extent.begin + begin, extent.begin + begin + data.nbytes, context)
        differs = there != data
        first = int(differs.argmax()) if differs.any() else None
        with self._lock:
            self._seen.add(name)
            self.nbytes += data.nbytes
            if first is not None:
                at, _ = self._first.get(name, (begin + first, spec))
                self._first[name] = min(at, begin + first), spec

    def seen(self) -> int:
        """How many tensors were compared."""
        return len(self._seen)

    def differences(self) -> list[Difference]:
        """What differs, in the order of the plan."""
        told = []
        for name in self._order:
            if name in self._first:
                at, spec = self._first[name]
                row = spec.row_of(at)
                told.append(Difference(name, f"differs from row {row} on (byte {at})", row))
        return told
