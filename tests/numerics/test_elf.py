"""Object files become blocks that run wherever they lie, or are refused."""

from __future__ import annotations

import ctypes
import struct

import pytest

from transcode.numerics import elf, machine

pytestmark = pytest.mark.skipif(not machine.LINKED, reason="linked code is for Linux on x86-64")

TRIPLE = 'target triple = "x86_64-unknown-linux-gnu"\n'
SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


def assembled(text, reloc="pic", codemodel="small"):
    """LLVM's text as an object file."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_triple("x86_64-unknown-linux-gnu")
    made = target.create_target_machine(reloc=reloc, codemodel=codemodel)
    return made.emit_object(binding.parse_assembly(TRIPLE + text))


def called(text, argument, symbols=None):
    image = elf.link(assembled(text), "f")
    return SIGNATURE(machine.load(image, symbols))(argument), image


def test_constants_and_calls_within_the_block():
    text = """
@table = internal constant [4 x i64] [i64 3, i64 1, i64 4, i64 15]
define internal i64 @g(i64 %x) noinline optnone {
  %at = getelementptr [4 x i64], ptr @table, i64 0, i64 %x
  %y = load i64, ptr %at
  ret i64 %y
}
define i64 @f(i64 %x) { %y = call i64 @g(i64 %x)
  ret i64 %y }
"""
    value, image = called(text, 3)
    assert value == 15
    assert not image.outside
    assert called(text, 1)[0] == 1


def test_addresses_within_the_block_are_moved():
    text = """
@numbers = internal constant [2 x i64] [i64 7, i64 9]
@ways = internal constant [2 x ptr] [ptr getelementptr ([2 x i64], ptr @numbers, i64 0, i64 1), ptr @numbers]
define i64 @f(i64 %x) { %at = getelementptr [2 x ptr], ptr @ways, i64 0, i64 %x
  %p = load volatile ptr, ptr %at
  %y = load volatile i64, ptr %p
  ret i64 %y }
"""
    value, image = called(text, 0)
    assert value == 9
    assert len(image.moved) == 2
    assert called(text, 1)[0] == 7


def test_functions_and_data_outside():
    text = """
@data = external global i64
declare i64 @labs(i64)
define i64 @f(i64 %x) { %a = call i64 @labs(i64 %x)
  %b = load volatile i64, ptr @data
  %c = call i64 @labs(i64 %b)
  %y = add i64 %a, %c
  ret i64 %y }
"""
    data = ctypes.c_int64(-100)
    value, image = called(text, -5, {"data": ctypes.addressof(data)})
    assert value == 105
    assert set(image.outside) == {"data", "labs"}
    with pytest.raises(OSError, match="data"):
        machine.load(image)


def test_of_the_mathematical_library():
    text = """
declare double @lgamma(double)
define i64 @f(i64 %x) { %a = sitofp i64 %x to double
  %b = call double @lgamma(double %a)
  %y = fptosi double %b to i64
  ret i64 %y }
"""
    assert called(text, 6)[0] == 4  # log(5!) = 4.79


@pytest.mark.parametrize(
    ("text", "how", "why"),
    [
        ("@x = global i64 1\ndefine i64 @f(i64 %a) { store i64 %a, ptr @x\n ret i64 %a }", {}, "written to"),
        ("define i64 @g(i64 %a) { ret i64 %a }", {}, "no function f"),
        (
            "declare i64 @labs(i64)\ndefine i64 @f(i64 %a) { %b = call i64 @labs(i64 %a)\n ret i64 %b }",
            {"codemodel": "large"},
            "relocation|kind|_GLOBAL_OFFSET_TABLE_",
        ),
        (
            "@x = internal constant [9 x i64] zeroinitializer\ndefine i64 @f(i64 %a) "
            "{ %p = getelementptr [9 x i64], ptr @x, i64 0, i64 %a\n %b = load i64, ptr %p\n ret i64 %b }",
            {"reloc": "static"},
            "relocation of kind 1[01]",
        ),
        ("@t = thread_local global i64 1\ndefine i64 @f(i64 %a) { ret i64 %a }", {}, "written to"),
    ],
)
def test_what_is_not_expected_is_refused(text, how, why):
    with pytest.raises(elf.Unlinkable, match=why):
        elf.link(assembled(text, **how), "f")


def test_other_files_are_refused():
    fine = assembled("define i64 @f(i64 %a) { ret i64 %a }")
    assert elf.link(fine, "f").entry == 0
    for data in (b"", b"MZ" + fine[2:], fine[:18] + struct.pack("<H", 183) + fine[20:]):
        with pytest.raises(elf.Unlinkable, match="x86-64"):
            elf.link(data, "f")
