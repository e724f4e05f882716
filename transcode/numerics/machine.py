"""Machine code that was compiled once: what it is valid for, and how it becomes a function again.

On Linux with x86-64 it is kept linked (:mod:`.elf`) and loaded with two system calls: nothing of the compiler
is imported, not even its library, which takes longer to map than a small run. Elsewhere the compiler's object
file is kept, and llvmlite loads it; numba stays out of it all the same.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from .elf import Image

__all__ = ["ENTRY", "LINKED", "load", "processor", "used"]

ENTRY = "transcode_entry"
"""Name of the function in object files."""

LINKED = sys.platform == "linux" and os.uname().machine == "x86_64" and sys.maxsize > 1 << 32
"""Whether code is kept linked."""

_MOVING = ("processor", "cpu mhz", "cpu cores", "core id", "apicid", "initial apicid", "bogomips", "siblings",
           "physical id", "microcode")  # fmt: skip

# mmap(2) as on Linux with x86-64: protections, MAP_PRIVATE | MAP_ANONYMOUS, and what it returns in vain.
_READ, _WRITE, _EXECUTE = 1, 2, 4
_ANYWHERE = 0x22
_FAILED = 2**64 - 1

_kept: list[Any] = []  # of what was loaded, and the engines of object files


@cache
def processor() -> str:
    """The processor that this process runs on: what code for another one would not say."""
    if LINKED:
        first: list[str] = []
        try:
            # One line after the other: the kernel asks each processor for its part of this file.
            with open("/proc/cpuinfo", encoding="ascii", errors="replace", buffering=4096) as file:
                for line in file:
                    if not line.strip():
                        break
                    if line.partition(":")[0].strip().lower() not in _MOVING:
                        first.append(line.strip())
        except OSError:
            first = []
        if first:
            return "\n".join(first)
    import platform

    from llvmlite import binding

    features = binding.get_host_cpu_features().flatten()
    return f"{platform.machine()} {binding.get_host_cpu_name()} {features}"


def used() -> bool:
    """Whether this process has loaded compiled code, or the compiler."""
    return bool(_kept) or "llvmlite" in sys.modules


def load(code: Image | bytes, symbols: Mapping[str, int] | None = None) -> int:
    """Place code in memory, linked or an object file; returns the address of its function.

    Args:
        symbols: addresses of what it refers to by name, besides the functions of the C library.

    Raises:
        OSError: the memory cannot be had, or may not be executed; or a function is missing.
    """
    if isinstance(code, Image):
        return _load_image(code, symbols or {})
    return _load_object(code, symbols or {})


def _load_image(image: Image, symbols: Mapping[str, int]) -> int:
    # Not a map of Python's: code lives as long as the process, also while the interpreter ends.
    libc = _libc()
    size = len(image.code)
    start = libc.mmap(None, size, _READ | _WRITE, _ANYWHERE, -1, 0)
    if start == _FAILED:
        raise OSError(ctypes.get_errno(), "no memory for compiled code")
    code = (ctypes.c_char * size).from_address(start)
    ctypes.memmove(start, image.code, size)
    for place in image.moved:
        (offset,) = struct.unpack_from("<q", code, place)
        struct.pack_into("<Q", code, place, start + offset)
    for name, places in image.outside.items():
        address = symbols[name] if name in symbols else _address_of(name)
        for place in places:
            struct.pack_into("<Q", code, place, address)
    if libc.mprotect(start, size, _READ | _EXECUTE) != 0:
        raise OSError(ctypes.get_errno(), "memory may not be executed")
    _kept.append(start)
    entry: int = start + image.entry
    return entry


def _load_object(data: bytes, symbols: Mapping[str, int]) -> int:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    for name, address in symbols.items():
        binding.add_symbol(name, address)
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(data))
    engine.finalize_object()
    _kept.append(engine)
    entry: int = engine.get_function_address(ENTRY)
    return entry


def _address_of(name: str) -> int:
    """Address of a function of the C library, or of what else the process has loaded."""
    for library in (_libc(), _libm()):
        try:
            pointer = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        except AttributeError:
            continue
        if pointer:
            return pointer
    raise OSError(f"no function {name}")


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    if LINKED:
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


@cache
def _libm() -> ctypes.CDLL:
    return ctypes.CDLL("libm.so.6")
