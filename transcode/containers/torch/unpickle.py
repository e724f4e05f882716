"""A pickle machine that cannot run code.

It knows the opcodes that ``torch.save`` and plain data need, builds only Python's own containers and scalars,
and calls nothing but the functions of the table that it is given. Every other name stands for an inert
:class:`.placeholder.Placeholder`, which takes whatever is put into it and does nothing. The opcodes are those
of Python's ``pickletools``, protocols 2 to 5.

Its memory is in proportion to the bytes it reads: no length or index in the stream is trusted before as many
bytes are there (the standard library's unpickler allocates what a memo index asks for), and what opcodes and
calls make of objects that are there already is paid from a budget: two bytes of stream can name a megabyte.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, Protocol

from ...errors import FormatError
from .placeholder import HOSTILE, Atom, Placeholder

__all__ = ["Builder", "Unpickler", "checked_key"]

_LONGEST = 1 << 26
"""Bytes of one string; tensors are not stored in the pickle, so no honest one is longer."""


_ALLOWED = 16 << 20
_ALLOWED_PER_BYTE = 48
"""Bytes that objects may take, in all and for each byte of the stream: state dicts take 12 to 30 for each."""

_SLOT = 8
_ENTRY = 100
_ODD_KEY = 1 << 11
"""What is paid for a reference, an entry of a dict or a set, and a key whose hash can be foreseen."""

_BLOCK = 1 << 16
"""Bytes asked of the stream at once: file objects allocate what they are asked for before they look."""


class Stream(Protocol):
    """A binary file."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; fewer only at the end."""

    def readline(self, size: int, /) -> bytes:
        """Up to a newline."""


class Builder(Atom):
    """A function that pickles may call."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


class _Broken(Exception):
    pass


_MARK = object()


class Unpickler:
    """Reads one pickle from a stream.

    Args:
        stream: a binary file; it is left just behind the pickle.
        names: what ``module.name`` stands for in the stream: a :class:`Builder`, or a value.
        persistent: resolves persistent ids.
        file: for errors.
    """

    def __init__(
        self,
        stream: Stream,
        names: Mapping[str, object],
        persistent: Callable[[object], object],
        file: str | PathLike[str],
    ) -> None:
        self._stream = stream
        self._names = names
        self._persistent = persistent
        self._file = file
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._strangers: dict[str, Placeholder] = {}
        self._left = _ALLOWED

    def load(self) -> Any:
        """The object.

        Raises:
            FormatError: the pickle is damaged, or names what runs code.
        """
        try:
            while (op := self._bytes(1)) != b".":
                step = _STEPS.get(op)
                if step is None:
                    raise _Broken(f"the opcode {op!r} is not known")
                self._pay(_COSTS.get(op, _SLOT))
                step(self)
            if len(self._stack) != 1 or self._stack[0] is _MARK:
                raise _Broken(f"{len(self._stack)} objects are left at its end")
            return self._stack.pop()
        except _Broken as error:
            raise FormatError(f"its pickle is damaged: {error}", file=self._file) from None
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            # What a damaged stream does to the stack shows as one of these.
            raise FormatError(
                f"its pickle is damaged: {type(error).__name__}: {error}", file=self._file
            ) from None

    def _pay(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _Broken("its objects take many times the memory that a checkpoint's do")

    # reading

    def _bytes(self, size: int) -> bytes:
        if size > _LONGEST:
            raise _Broken(f"a string of {size} bytes")
        raw = self._stream.read(min(size, _BLOCK))
        if len(raw) < size:
            blocks = [raw]
            while len(raw) == _BLOCK:
                blocks.append(raw := self._stream.read(min(size - _BLOCK * len(blocks), _BLOCK)))
            raw = b"".join(blocks)
        if len(raw) != size:
            raise _Broken("it ends in the middle")
        self._left += _ALLOWED_PER_BYTE * size
        return raw

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._bytes(struct.calcsize(form)))[0]
        return value

    def _skip(self, size: int) -> None:
        self._bytes(size)

    def _line(self) -> str:
        raw = self._stream.readline(4096)
        if not raw.endswith(b"\n"):
            raise _Broken("a name without an end")
        self._left += _ALLOWED_PER_BYTE * len(raw)
        return raw[:-1].decode("utf-8")

    # the stack

    def _marked(self) -> list[object]:
        """Pop what lies above the topmost mark, and the mark."""
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                items = self._stack[at + 1 :]
                del self._stack[at:]
                return items
        raise _Broken("a mark is missing")

    def _pop(self) -> Any:
        if self._stack[-1] is _MARK:
            raise _Broken("a mark where an object should be")
        return self._stack.pop()

    def _drop(self) -> None:
        del self._stack[-1]

    def _top(self, kind: type) -> Any:
        top = self._stack[-1]
        if type(top) is not kind:
            raise _Broken(f"a {type(top).__name__} where a {kind.__name__} should be")
        return top

    def _tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._stack.append(tuple(reversed(items)))

    # containers

    def _absorbed(self, items: list[object]) -> bool:
        """Whether what is on top is no container of Python's own, and has taken the items."""
        top = self._stack[-1]
        if not isinstance(top, Placeholder):
            return False
        top.absorb(items)
        return True

    def _set_items(self, items: list[object]) -> None:
        if len(items) % 2:
            raise _Broken("a key without a value")
        if self._absorbed(items):
            return
        table = self._top(dict)
        self._pay(_ENTRY * (len(items) // 2) + sum(map(_key_cost, items[::2])))
        for key, value in zip(items[::2], items[1::2], strict=True):
            table[checked_key(key)] = value

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _append(self) -> None:
        self._extend_by([self._pop()])

    def _extend(self) -> None:
        self._extend_by(self._marked())

    def _extend_by(self, items: list[object]) -> None:
        if not self._absorbed(items):
            self._top(list).extend(items)

    def _add_items(self) -> None:
        items = self._marked()
        if not self._absorbed(items):
            self._pay(_ENTRY * len(items) + sum(map(_key_cost, items)))
            self._top(set).update(map(checked_key, items))

    def _frozen(self, items: list[object]) -> frozenset[object]:
        self._pay(_ENTRY * len(items) + sum(map(_key_cost, items)))
        return frozenset(map(checked_key, items))

    # memory

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _put(self, index: int) -> None:
        top = self._stack[-1]
        if top is _MARK:
            raise _Broken("a mark is remembered")
        self._memo[index] = top

    # names, calls

    def _global(self, module: str, name: str) -> None:
        self._pay(2 * (len(module) + len(name)))
        full = f"{_MODULES.get(module, module)}.{name}"
        value = self._names.get(full)
        if value is None:
            if HOSTILE.fullmatch(full):
                raise FormatError(
                    f"its pickle wants {full}, which could run code where the file is loaded by Python;"
                    " here it was not run",
                    file=self._file,
                    hint="do not load this file with any program",
                )
            if not full.isprintable():
                raise _Broken(f"the name {full[:200]!r}")
            value = self._strangers.setdefault(full, Placeholder(full))
        self._stack.append(value)

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise _Broken("a name that is no text")
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(arguments) is not tuple:
            raise _Broken(f"a call with a {type(arguments).__name__}")
        # What is called may copy each of its arguments, or refer to all that is in it, and no more than that.
        self._pay(_SLOT * len(arguments) + sum(map(_copy_cost, arguments)))
        if isinstance(function, Placeholder):
            self._stack.append(function.called(arguments))
        elif isinstance(function, Builder):
            self._stack.append(function.make(*arguments))
        else:
            raise _Broken(f"a call of a {type(function).__name__}")

    def _new_with_names(self) -> None:
        # NEWOBJ_EX: arguments by name besides, which only an unknown class can take.
        named, arguments = self._pop(), self._pop()
        if not isinstance(self._stack[-1], Placeholder) or type(named) is not dict:
            raise _Broken("arguments by name")
        self._pay(_SLOT * len(arguments))
        self._stack.append((*arguments, named))
        self._reduce()

    def _build(self) -> None:
        # Attributes of Python's own objects, such as the module versions of a state dict, are nothing that
        # tensors need.
        state, top = self._pop(), self._stack[-1]
        if top is _MARK:
            raise _Broken("attributes of a mark")
        if isinstance(top, Placeholder):
            top.build(state)

    def _persist(self) -> None:
        self._stack.append(self._persistent(self._pop()))


def checked_key(key: object) -> object:
    """The key, if it may be one of a dict or a set."""
    # The hashes of integers beyond 61 bits are those of small ones, and keys of one hash take quadratic time.
    # Hashing a deep tuple recurses in C without a limit, so only flat ones may be keys.
    for item in key if type(key) is tuple else (key,):
        if not isinstance(item, (str, int, float, bytes, complex, type(None), Atom)):
            raise _Broken(f"a {type(item).__name__} as a key")
        if type(item) is int and not -(1 << 63) <= item < 1 << 64:
            raise _Broken("an integer of more than 64 bits as a key")
    return key


def _key_cost(key: object) -> int:
    if type(key) is tuple:
        return _ODD_KEY + _SLOT * len(key)
    return _ODD_KEY if type(key) in (float, complex) else 0


def _copy_cost(item: object) -> int:
    """Bytes of what a call can make of one argument."""
    if isinstance(item, (str, bytes)):
        return 4 * len(item)
    if isinstance(item, (dict, set, frozenset)):
        return (_ENTRY + _SLOT) * len(item)
    if isinstance(item, (list, tuple)):
        # Of short ones, such as shapes, nothing but themselves is kept; pairs and keys are looked into.
        return _SLOT * len(item) if len(item) <= 8 else _ENTRY * len(item) + sum(map(_key_cost, item))
    return 0


_MODULES = {
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}
"""Other names of a module, of Python 2 and of newer numpy."""

_COSTS = {
    b"]": 64,
    b"}": 72,
    b"\x8f": 224,
    b"\x91": 224,
    b"\x94": _ENTRY,
    b"q": _ENTRY,
    b"r": _ENTRY,
    b"l": 64,
    b"d": 72,
    b"t": 56,
    b"\x85": 56,
    b"\x86": 64,
    b"\x87": 72,
    b"R": 64,
    b"\x81": 64,
    b"\x92": 128,
    b"Q": 128,
    b"b": 128,
}
"""Bytes that opcodes take beside a place on the stack, as Python 3.11 allocates them."""

Step = Callable[[Unpickler], None]


def _push(make: Callable[[Unpickler], object]) -> Step:
    return lambda self: self._stack.append(make(self))


def _long(self: Unpickler, size: int) -> int:
    if size > 1024:
        raise _Broken(f"an integer of {size} bytes")
    return int.from_bytes(self._bytes(size), "little", signed=True)


def _text(self: Unpickler, form: str) -> str:
    return self._bytes(self._number(form)).decode("utf-8")


def _raw(self: Unpickler, form: str) -> bytes:
    return self._bytes(self._number(form))


def _float(self: Unpickler) -> float:
    value: float = struct.unpack(">d", self._bytes(8))[0]
    return value


def _table(self: Unpickler) -> None:
    items = self._marked()
    self._stack.append({})
    self._set_items(items)


_STEPS: dict[bytes, Step] = {
    b"\x80": lambda self: self._skip(1),  # PROTO
    b"\x95": lambda self: self._skip(8),  # FRAME: only a hint for buffers
    b"(": _push(lambda self: _MARK),
    b"0": lambda self: self._drop(),
    b"1": lambda self: self._marked().clear(),
    b"2": _push(lambda self: self._stack[-1]),
    b"N": _push(lambda self: None),
    b"\x88": _push(lambda self: True),
    b"\x89": _push(lambda self: False),
    b"J": _push(lambda self: self._number("<i")),
    b"K": _push(lambda self: self._number("B")),
    b"M": _push(lambda self: self._number("<H")),
    b"\x8a": _push(lambda self: _long(self, self._number("B"))),
    b"\x8b": _push(lambda self: _long(self, self._number("<I"))),
    b"G": _push(_float),
    b"X": _push(lambda self: _text(self, "<I")),
    b"\x8c": _push(lambda self: _text(self, "B")),
    b"\x8d": _push(lambda self: _text(self, "<Q")),
    b"T": _push(lambda self: _text(self, "<I")),  # strings of Python 2
    b"U": _push(lambda self: _text(self, "B")),
    b"B": _push(lambda self: _raw(self, "<I")),
    b"C": _push(lambda self: _raw(self, "B")),
    b"\x8e": _push(lambda self: _raw(self, "<Q")),
    b"\x96": _push(lambda self: _raw(self, "<Q")),
    b"]": _push(lambda self: []),
    b"a": lambda self: self._append(),
    b"e": lambda self: self._extend(),
    b"l": _push(lambda self: self._marked()),
    b")": _push(lambda self: ()),
    b"t": _push(lambda self: tuple(self._marked())),
    b"\x85": lambda self: self._tuple(1),
    b"\x86": lambda self: self._tuple(2),
    b"\x87": lambda self: self._tuple(3),
    b"}": _push(lambda self: {}),
    b"d": _table,
    b"s": lambda self: self._set_item(),
    b"u": lambda self: self._set_items(self._marked()),
    b"\x8f": _push(lambda self: set()),
    b"\x90": lambda self: self._add_items(),
    b"\x91": _push(lambda self: self._frozen(self._marked())),
    b"h": lambda self: self._get(self._number("B")),
    b"j": lambda self: self._get(self._number("<I")),
    b"q": lambda self: self._put(self._number("B")),
    b"r": lambda self: self._put(self._number("<I")),
    b"\x94": lambda self: self._put(len(self._memo)),
    b"c": lambda self: self._global(self._line(), self._line()),
    b"\x93": lambda self: self._stack_global(),
    b"R": lambda self: self._reduce(),
    b"\x81": lambda self: self._reduce(),
    b"\x92": lambda self: self._new_with_names(),
    b"b": lambda self: self._build(),
    b"Q": lambda self: self._persist(),
}
"""What each opcode does."""
