"""From the Python source of a kernel to machine code with a C interface. Imports numba.

numba compiles a kernel for given types; around it comes a function that C can call: it takes the address of
64-bit words, one for a number, and for an array the address of its first element, its shape and its strides;
and the address at which the result is stored. It returns 0, or 1 where the kernel raised an error. So nothing
of numba's runtime is needed to call it, nor may a kernel allocate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import codegen, compiler, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic, typeof_impl
from numba.np import arrayobj

from ..errors import TranscodeError
from . import vector_type  # noqa: F401 - numba must know of vectors
from .assembly import machine_code
from .jit import ArrayKind, Instruction, Kernel, Kind, Lane
from .kernel_cache import Kept
from .machine import ENTRY

__all__ = ["callable_lane", "compiled", "resolved"]

_WORD = ir.IntType(64)


def compiled(kernel: Kernel, kinds: tuple[Kind, ...]) -> Kept:
    """Compile a kernel for some types of its arguments.

    Raises:
        TranscodeError: numba is told not to compile.
    """
    if numba.config.DISABLE_JIT:
        raise TranscodeError("kernels cannot be compiled: NUMBA_DISABLE_JIT is set", hint="unset it")
    with global_compiler_lock:
        try:
            with _no_machine_code():
                return _compile(kernel, kinds)
        except Exception:  # another numba may have other insides, and the shortcut is all that needs these
            return _compile(kernel, kinds)


def _compile(kernel: Kernel, kinds: tuple[Kind, ...]) -> Kept:
    typing, target = cpu_target.typing_context, cpu_target.target_context
    typing.refresh()
    target.refresh()
    flags = compiler.Flags()
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    flags.nrt = False
    arguments = tuple(_type(kind) for kind in kinds)
    result = compiler.compile_extra(typing, target, kernel.function, arguments, None, flags, {})
    library = target.codegen().create_library(ENTRY)
    library.add_ir_module(_entry(target, library, result))
    library.add_linking_library(result.library)
    library.finalize()
    _, processor, features = target.codegen().magic_tuple()
    return machine_code(library.get_llvm_str(), processor, features), str(result.signature.return_type)


@cache
def resolved(value: Instruction | Lane | Kernel) -> Any:
    """What numba knows of something that kernels call. Python cannot call it: see :func:`callable_lane`."""
    if isinstance(value, Instruction):
        known = intrinsic(value.function)
        cpu_target.typing_context.refresh()  # it may be met while a kernel is compiled already
        cpu_target.target_context.refresh()
        return known
    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    inlined = isinstance(value, Lane)
    return numba.njit(nogil=True, error_model="numpy", forceinline=inlined, **alone)(value.function)


@cache
def callable_lane(value: Lane) -> Any:
    """A lane as a function that Python can call."""
    return numba.njit(nogil=True, error_model="numpy")(value.function)


class _Library(codegen.JITCodeLibrary):  # type: ignore[misc]
    """LLVM's code of a function, optimized, for others to take in."""

    def _optimize_functions(self, module: Any) -> None:
        """As numba does, but for functions that are only declared: nothing can be done for those."""
        module.data_layout = self._codegen._data_layout
        for function in module.functions:
            if not function.is_declaration:
                passes, builder = self._codegen._function_pass_manager()
                passes.run(function, builder)

    def _finalize_specific(self) -> None:
        pass

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _Codegen(codegen.JITCPUCodegen):  # type: ignore[misc]
    """numba's code generator without its last step: of a kernel and each of its lanes it would make machine
    code that nobody runs, as :func:`machine_code` makes that of all together.
    """

    _library_class = _Library

    def _add_module(self, module: Any) -> None:
        pass

    def set_env(self, env_name: str, env: Any) -> None:
        pass


@cache
def _codegen() -> _Codegen:
    return _Codegen("transcode.kernels")


@contextmanager
def _no_machine_code() -> Iterator[None]:
    """What is compiled in this block, under numba's lock, is compiled to LLVM's code only."""
    target = cpu_target.target_context
    usual, target._internal_codegen = target._internal_codegen, _codegen()
    try:
        yield
    finally:
        target._internal_codegen = usual


@typeof_impl.register(Instruction)  # type: ignore[untyped-decorator]
@typeof_impl.register(Lane)  # type: ignore[untyped-decorator]
@typeof_impl.register(Kernel)  # type: ignore[untyped-decorator]
def _typeof(value: Any, context: Any) -> Any:
    return cpu_target.typing_context.resolve_value_type(resolved(value))


def _type(kind: Kind) -> Any:
    if not isinstance(kind, ArrayKind):
        return {bool: types.boolean, int: types.int64, float: types.float64}.get(kind) or numba.from_dtype(
            np.dtype(kind)
        )
    return types.Array(
        numba.from_dtype(np.dtype(kind.dtype)),
        kind.ndim,
        "C" if kind.contiguous else "A",
        readonly=kind.readonly,
        aligned=kind.aligned,
    )


def _entry(target: Any, library: Any, result: Any) -> Any:
    """LLVM's module of the function that C can call."""
    module = library.create_ir_module(ENTRY)
    kind = ir.FunctionType(ir.IntType(32), [_WORD.as_pointer(), _WORD.as_pointer()])
    function = ir.Function(module, kind, ENTRY)
    builder = ir.IRBuilder(function.append_basic_block())
    taken = 0

    def word() -> Any:
        nonlocal taken
        value = builder.load(builder.gep(function.args[0], [ir.Constant(_WORD, taken)]))
        taken += 1
        return value

    arguments = []
    for kind in result.fndesc.argtypes:
        if isinstance(kind, types.Array):
            array = arrayobj.make_array(kind)(target, builder)
            size = target.get_abi_sizeof(target.get_data_type(kind.dtype))
            arrayobj.populate_array(
                array,
                data=builder.inttoptr(word(), array.data.type),
                shape=[word() for _ in range(kind.ndim)],
                strides=[word() for _ in range(kind.ndim)],
                itemsize=ir.Constant(_WORD, size),
                meminfo=None,
            )
            arguments.append(array._getvalue())
        else:
            arguments.append(_number(builder, word(), target.get_value_type(kind)))
    status, value = target.call_conv.call_function(
        builder,
        target.declare_function(module, result.fndesc),
        result.fndesc.restype,
        result.fndesc.argtypes,
        arguments,
    )
    if result.fndesc.restype != types.none:
        if value.type == ir.IntType(1):
            value = builder.zext(value, ir.IntType(8))
        builder.store(value, builder.bitcast(function.args[1], value.type.as_pointer()))
    builder.ret(builder.zext(status.is_error, ir.IntType(32)))
    return module


def _number(builder: Any, word: Any, kind: Any) -> Any:
    """A number of a word."""
    if isinstance(kind, ir.IntType):
        return word if kind.width == 64 else builder.trunc(word, kind)
    if isinstance(kind, ir.FloatType):
        return builder.bitcast(builder.trunc(word, ir.IntType(32)), kind)
    return builder.bitcast(word, kind)
