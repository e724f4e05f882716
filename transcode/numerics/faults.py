"""Reading a mapped file whose pages are gone, without dying of it.

The kernel answers a look at a page of a map that the file no longer has (it was cut), or that its device
cannot read, with SIGBUS, and the process dies. Here a handler of that signal, in machine code because it must
not wait for the interpreter, puts a page of zeros in the place of the lost one and notes that it did; who
watches the map asks for that note before anything made of these bytes is believed.

The handler is compiled by llvmlite, which numba brings along, and kept as kernels are.
Faults of other addresses, and signals that somebody sent, go to whoever handled SIGBUS before.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

from .kernel_cache import keep, kept
from .machine import ENTRY, load, used

if TYPE_CHECKING:
    from .elf import Image

__all__ = ["MOST", "Watch", "watch"]

MOST = 512
"""Maps that can be watched at once."""

_TABLE = (ctypes.c_uint64 * (3 * MOST))()
"""Of each map: its first byte, the byte behind it (0: a free place), the address of the note."""

_lock = threading.Lock()
_kept: list[Any] = []  # compiled code lives as long as its engine

# siginfo_t and mmap(2) as on 64-bit Linux: si_code at byte 8, si_addr at byte 16; PROT_READ is 1 and
# MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS is 0x32 there (not on MIPS, Alpha, PA-RISC).
_MACHINES = ("x86_64", "aarch64", "riscv64", "ppc64le", "s390x", "loongarch64")
_CODE = """
target triple = "{triple}"

@transcode_table = external global i8
@transcode_before = external global i8
@mmap = external global i8
@sigaction = external global i8
@raise = external global i8

define void @{name}(i32 %signal, i64 %info, i64 %context) {{
entry:
  %code.int = add i64 %info, 8
  %code.at = inttoptr i64 %code.int to {int}
  %code = load i32, {int} %code.at
  %address.int = add i64 %info, 16
  %address.at = inttoptr i64 %address.int to {long}
  %address = load i64, {long} %address.at
  %fault = icmp sgt i32 %code, 0
  br i1 %fault, label %look, label %sent

look:
  %place = phi i64 [ 0, %entry ], [ %next, %on ]
  %begin.int = add i64 %place, ptrtoint ({byte} @transcode_table to i64)
  %begin.at = inttoptr i64 %begin.int to {long}
  %begin = load volatile i64, {long} %begin.at
  %end.int = add i64 %begin.int, 8
  %end.at = inttoptr i64 %end.int to {long}
  %end = load volatile i64, {long} %end.at
  %behind = icmp uge i64 %address, %begin
  %before = icmp ult i64 %address, %end
  %inside = and i1 %behind, %before
  br i1 %inside, label %ours, label %on

on:
  %next = add i64 %place, 24
  %more = icmp ult i64 %next, {size}
  br i1 %more, label %look, label %others

ours:
  %note.place = add i64 %begin.int, 16
  %note.at = inttoptr i64 %note.place to {long}
  %note.int = load volatile i64, {long} %note.at
  %note = inttoptr i64 %note.int to {long}
  store volatile i64 1, {long} %note
  %page = and i64 %address, -{page}
  %map = inttoptr i64 ptrtoint ({byte} @mmap to i64) to {mapper}
  %got = call i64 %map(i64 %page, i64 {page}, i32 1, i32 50, i32 -1, i64 0)
  %fine = icmp eq i64 %got, %page
  br i1 %fine, label %done, label %others

sent:
  %again.to = inttoptr i64 ptrtoint ({byte} @sigaction to i64) to {setter}
  %again.set = call i32 %again.to(i32 %signal, i64 ptrtoint ({byte} @transcode_before to i64), i64 0)
  %raise = inttoptr i64 ptrtoint ({byte} @raise to i64) to {raiser}
  %again = call i32 %raise(i32 %signal)
  ret void

others:
  %to = inttoptr i64 ptrtoint ({byte} @sigaction to i64) to {setter}
  %set = call i32 %to(i32 %signal, i64 ptrtoint ({byte} @transcode_before to i64), i64 0)
  ret void

done:
  ret void
}}
"""


# Pointers as LLVM spells them up to version 16, and since 15.
_TYPED = {
    "byte": "i8*",
    "int": "i32*",
    "long": "i64*",
    "mapper": "i64 (i64, i64, i32, i32, i32, i64)*",
    "setter": "i32 (i32, i64, i64)*",
    "raiser": "i32 (i32)*",
}
_OPAQUE = dict.fromkeys(_TYPED, "ptr")


class _Action(ctypes.Structure):
    """``struct sigaction`` of the C libraries of 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_SA_SIGINFO = 4


class Watch:
    """A map that is watched, until :meth:`end`, which must come before it is unmapped."""

    __slots__ = ("_note", "_place", "_table")

    def __init__(self, place: int, note: ctypes.c_uint64) -> None:
        self._place = place
        self._table = _TABLE  # maps end after this module, when the interpreter does
        self._note = note  # lives at least as long as its address stands in the table

    def end(self) -> None:
        """Watch it no longer."""
        self._table[3 * self._place + 1] = 0


def watch(address: int, size: int, note: ctypes.c_uint64) -> Watch | None:
    """Survive looks at lost pages of a map; what is read there is zero, and ``note`` is no more 0 then.

    Returns:
        None where that cannot be done, or where the process runs no compiled code anyway: then the map is not
        to be looked at.
    """
    if not used() or not _install():
        return None
    with _lock:
        for place in range(MOST):
            if _TABLE[3 * place + 1] == 0:
                _TABLE[3 * place] = address
                _TABLE[3 * place + 2] = ctypes.addressof(note)
                _TABLE[3 * place + 1] = address + size
                return Watch(place, note)
    return None


@cache
def _install() -> bool:
    """Make the handler that of SIGBUS, once; False where there is no way."""
    if not sys.platform.startswith("linux") or os.uname().machine not in _MACHINES or sys.maxsize < 1 << 32:
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        before = _Action()
        handler = _handler(ctypes.addressof(before))
        ours = _Action(handler=handler, flags=_SA_SIGINFO)
        _kept.append(before)
        status: int = libc.sigaction(int(signal.SIGBUS), ctypes.byref(ours), ctypes.byref(before))
    except Exception:  # another llvmlite, memory that may not be executed: files are read instead
        return False
    return status == 0


def _handler(before: int) -> int:
    """The address of the handler."""
    values = {"name": ENTRY, "size": ctypes.sizeof(_TABLE), "page": os.sysconf("SC_PAGE_SIZE")}
    name, made_for = "faults.handler()", repr(values)
    kept_code = kept(name, made_for)
    if kept_code is None:
        kept_code = (_compiled(values), "none")
        keep(name, made_for, kept_code)
    code, _ = kept_code
    return load(code, {"transcode_table": ctypes.addressof(_TABLE), "transcode_before": before})


def _compiled(values: dict[str, Any]) -> Image | bytes:
    from llvmlite import binding

    from .assembly import machine_code

    values = {**values, "triple": binding.get_process_triple()}
    try:
        return machine_code(_CODE.format(**values, **_TYPED))
    except RuntimeError:
        return machine_code(_CODE.format(**values, **_OPAQUE))
