"""DeepCompressor's folders as an entry of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..container import FolderContainer
from .names import MODEL, SCALE

if TYPE_CHECKING:
    from ...io.folder import Folder
    from ..checkpoint import Source

__all__ = ["DeepCompressor"]


class DeepCompressor(FolderContainer):
    """What ``deepcompressor/app/diffusion/ptq.py`` saves; see :mod:`.reading`."""

    name: ClassVar[str] = "DeepCompressor"

    def holds(self, folder: Folder) -> bool:
        return all(folder.size(name) is not None for name in (MODEL, SCALE))

    def open(self, folder: Folder, *, mmap: bool = True, drop_cache: bool = False) -> Source:
        from .reading import open_folder  # most checkpoints are none

        return open_folder(folder, mmap=mmap, drop_cache=drop_cache)
