"""What stands in a pickle's objects for everything that is neither plain data nor a tensor.

Checkpoints hold the arguments of a program, classes of callbacks, dates and paths beside their weights. Each
is read as a placeholder: it knows the name of its class and what was put into it, and does nothing. Nothing
is imported, looked up or called for it, whatever its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["HOSTILE", "Atom", "Placeholder", "kind_of"]

HOSTILE = re.compile(
    r"((os|posix|nt|subprocess|sys|runpy|importlib|shutil|socket|ctypes|pty|webbrowser|code|codeop|bdb|pdb|timeit"
    r"|marshal|commands|pip|pickle|_pickle|requests|urllib|http|smtplib|ftplib|numpy\.testing|torch\.hub)(\.\w+)+"
    r"|types\.(Code|Function)Type"
    r"|builtins\.(eval|exec|execfile|compile|open|__import__|breakpoint|input|globals|locals|setattr|delattr)"
    r"|torch\.(load|storage\._load_from_bytes|jit\.load)|_?io\.(open|FileIO|open_code))"
)
"""Names that no checkpoint needs and that run code, or commands, or reach files and the network, where a
pickle is loaded by Python. Here they are as harmless as any other; but whoever wrote them meant no good, so
the file is refused. Not what keeps hostile files harmless: that is that nothing is ever called."""

_PLAIN = (str, int, float, bytes, complex, type(None))
_CALLERS = ("builtins.getattr", "copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__")
"""What makes an object of the class that is its first argument."""


class Atom:
    """What may be a key besides numbers and text: its hash looks at nothing that it holds."""

    __slots__ = ()


class Placeholder(Atom):
    """A class, or an object of a class, that is not known.

    Attributes:
        name: of the class, such as ``argparse.Namespace``.
        held: the objects that were put into it, which may be tensors; scalars and text are forgotten.
    """

    __slots__ = ("held", "name")

    def __init__(self, name: str, *items: object) -> None:
        self.name = name
        self.held: list[object] | None = None
        self.absorb(items)

    def absorb(self, items: Iterable[object]) -> None:
        """Remember items that were put into it."""
        kept = [item for item in items if not isinstance(item, _PLAIN)]
        if kept:
            if self.held is None:
                self.held = kept
            else:
                self.held += kept

    def build(self, state: object) -> None:
        """Take the attributes of an object."""
        self.absorb((state,))

    def called(self, arguments: tuple[object, ...]) -> Placeholder:
        """What a call of it gives, or an object of this class."""
        first = arguments[0] if arguments else None
        name = first.name if self.name in _CALLERS and isinstance(first, Placeholder) else self.name
        return Placeholder(name, *(() if self.held is None else (self,)), *arguments)


def kind_of(item: object) -> str:
    """The class of an object of a pickle, for messages."""
    return item.name if isinstance(item, Placeholder) else type(item).__name__
