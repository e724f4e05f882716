"""Kernels: written in Python, compiled on their first call, once per machine, and kept as machine code.

Modules of kernels import this one and nothing of the compiler: :mod:`.compiler` is imported when a kernel has
to be compiled, with a word to the user, as that takes seconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
import threading
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .deferred import compiler
from .kernel_cache import keep, kept
from .machine import load
from .notice import compile_starts

__all__ = ["ArrayKind", "Instruction", "Kernel", "Kind", "Lane", "instruction", "kernel", "lane"]

F = TypeVar("F", bound=Callable[..., Any])


class ArrayKind(NamedTuple):
    """What a kernel is compiled for, of an array."""

    dtype: str
    ndim: int
    contiguous: bool
    readonly: bool
    aligned: bool


Kind = ArrayKind | type[Any]
"""What a kernel is compiled for, of any argument: of a number its type, of numpy or Python."""


class Instruction:
    """An operation of lanes and kernels that is given as LLVM instructions, as numba's ``intrinsic``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


class Lane:
    """A scalar helper that is inlined into kernels; called from Python, it is compiled in each process."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        return compiler.callable_lane(self)(*arguments)


class _Entry(NamedTuple):
    """A kernel for some types of its arguments."""

    run: Callable[[bytes, Any], int]
    pack: Callable[..., bytes]
    result: Any


_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_RESULTS: dict[str, Any] = {
    "none": None,
    "bool": ctypes.c_bool,
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
    "uint32": ctypes.c_uint32,
    "uint64": ctypes.c_uint64,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}
_lock = threading.RLock()


class Kernel:
    """A function over arrays and numbers that is compiled for each combination of their types.

    It runs without the GIL and with IEEE semantics: no fast-math, division by zero gives infinity. It returns
    a number or None. It may not allocate.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._entries: dict[tuple[Kind, ...], _Entry] = {}
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        kinds: list[Kind] = []
        words: list[Any] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                facts = argument.__array_interface__
                start, readonly = facts["data"]
                kinds.append(
                    ArrayKind(
                        facts["typestr"],
                        argument.ndim,
                        facts["strides"] is None,
                        readonly,
                        argument.flags.aligned,
                    )
                )
                words.append(start)
                words += facts["shape"]
                words += argument.strides
            else:
                kinds.append(type(argument))
                words.append(argument)
        key = tuple(kinds)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._prepare(key)
        result = None if entry.result is None else entry.result()
        if entry.run(entry.pack(*words), None if result is None else ctypes.byref(result)):
            raise RuntimeError(f"{self.function.__qualname__}: an error in a kernel")
        return None if result is None else result.value

    def _prepare(self, kinds: tuple[Kind, ...]) -> _Entry:
        with _lock:
            entry = self._entries.get(kinds)
            if entry is None:
                entry = self._entries[kinds] = self._ready(kinds)
            return entry

    def _ready(self, kinds: tuple[Kind, ...]) -> _Entry:
        form = "<" + "".join(_form(kind) for kind in kinds)
        function = self.function
        types = ", ".join(_spelt(kind) for kind in kinds)
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}({types})"
        made_for = _source(function)
        kept_code = kept(name, made_for)
        if kept_code is None:
            compile_starts()
            kept_code = compiler.compiled(self, kinds)
            if kept_code[1] not in _RESULTS:
                raise TypeError(f"{name} returns {kept_code[1]}")
            keep(name, made_for, kept_code)
        code, returns = kept_code
        return _Entry(_FUNCTION(load(code)), struct.Struct(form).pack, _RESULTS[returns])


def kernel(function: F) -> F:
    """A :class:`Kernel`."""
    return Kernel(function)  # type: ignore[return-value]


def lane(function: F) -> F:
    """A :class:`Lane`."""
    return Lane(function)  # type: ignore[return-value]


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """An :class:`Instruction`."""
    return Instruction(function)  # type: ignore[return-value]


def _form(kind: Kind) -> str:
    """How the words of an argument are packed, see :mod:`.compiler`."""
    if isinstance(kind, ArrayKind):
        return "Q" + "q" * (2 * kind.ndim)
    if kind in (bool, int, np.bool_) or issubclass(kind, np.signedinteger):
        return "q"
    if issubclass(kind, np.unsignedinteger):
        return "Q"
    if kind is np.float32:
        return "f4x"
    if kind in (float, np.float64):
        return "d"
    raise TypeError(f"a kernel cannot take {kind.__qualname__}")


def _spelt(kind: Kind) -> str:
    if not isinstance(kind, ArrayKind):
        return kind.__name__
    layout = "C" if kind.contiguous else "A"
    return f"{kind.dtype}[{kind.ndim}{layout}{'' if kind.aligned else ' loose'}{' const' * kind.readonly}]"


def _source(function: Callable[..., Any]) -> str:
    """What tells one version of a kernel's source from another, where the folder's name does not."""
    path = Path(function.__code__.co_filename)
    place = f"{function.__module__}:{function.__code__.co_firstlineno}"
    if path.parent == Path(__file__).parent:
        return place
    try:
        return f"{place} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError:
        return f"{place} {function.__code__.co_code.hex()} {function.__code__.co_consts!r}"
