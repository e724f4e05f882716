"""What speaks for and against a program's loading of a checkpoint."""

from __future__ import annotations

from dataclasses import replace

from ..core.records import dataclass

__all__ = ["Judged"]


@dataclass(frozen=True)
class Judged:
    """What one loader makes of it: objections, remarks, and the flags and the place of a conversion."""

    against: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    convertible: bool = True
    moved: bool = False
    do: str | None = None

    def refuse(self, why: str, do: str | None = None) -> Judged:
        """It cannot load it, and no conversion here helps."""
        return replace(self, against=(*self.against, why), convertible=False, do=self.do or do)

    def change(self, why: str, *flags: str) -> Judged:
        """It can load it once it is converted, with these flags."""
        return replace(self, against=(*self.against, why), flags=(*self.flags, *flags), moved=True)

    def doubt(self, why: str) -> Judged:
        """Whether it can load it cannot be shown."""
        return replace(self, open=(*self.open, why))

    def note(self, why: str) -> Judged:
        """Something to know, which decides nothing."""
        return replace(self, fine=(*self.fine, why))
