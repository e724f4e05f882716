"""Two models that take turns, as Wan 2.2's of high and of low noise, opened as one source."""

from __future__ import annotations

from os import PathLike

from ..core.flow import below
from ..core.paths import located
from ..core.source import Twin
from ..io.folder import File, Folder
from .checkpoint import Source
from .discover import pair_in
from .source import open_place, opened

__all__ = ["open_models"]


def open_models(
    path: str | PathLike[str], *, root_key: str | None = None, mmap: bool = True, drop_cache: bool = False
) -> Source:
    """As :func:`.source.open_source`; a folder of two models that take turns has both in ``twins``.

    Raises:
        FormatError: as there.
    """

    def open_one(place: File | Folder) -> Source:
        return open_place(place, root_key=root_key, mmap=mmap, drop_cache=drop_cache)

    def open_any(place: File | Folder) -> Source:
        held = None if isinstance(place, File) else pair_in(place)
        if held is None:
            return open_one(place)
        pair, others = held
        models = {noise: open_one(own) for noise, own in pair.items()}
        names = {n: models[n].stem if isinstance(own, File) else own.name for n, own in pair.items()}
        return _both(place, models, names, others)

    return opened(path, open_any)


def _both(
    place: File | Folder, models: dict[str, Source], names: dict[str, str], others: list[str]
) -> Source:
    """A source of two models. What there is to say of each is said where that one is planned."""
    sources = list(models.values())
    notes = [
        "two models that take turns: "
        + ", ".join(f"{names[noise]} takes the steps of {noise} noise" for noise in models)
    ]
    if others:
        notes.append(f"does not read {', '.join(others)} beside them")
    return Source(
        located(place.url),
        tuple(file for source in sources for file in source.files),
        tuple(tensor for noise in models for tensor in below(names[noise], models[noise].tensors)),
        {},
        (),
        place.name or "model",
        tuple(notes),
        tuple(file for source in sources for file in source.inputs),
        tuple(Twin(noise, names[noise], source) for noise, source in models.items()),
    )
