"""LLVM's text to machine code that can be kept. Imports llvmlite, not numba."""

from __future__ import annotations

from typing import Any

from llvmlite import binding

from .elf import Image, Unlinkable, link
from .machine import ENTRY, LINKED

__all__ = ["machine_code"]


def machine_code(text: str, processor: str = "", features: str = "") -> Image | bytes:
    """The function :data:`.machine.ENTRY` of LLVM's text: linked where that can be done, else an object file.

    Args:
        processor, features: as LLVM names them; any of this kind by default.

    Raises:
        RuntimeError: the text is wrong.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    module = binding.parse_assembly(text)
    module.verify()
    target = binding.Target.from_default_triple()
    options: dict[str, Any] = {"reloc": "pic", "codemodel": "small"} if LINKED else {}
    machine = target.create_target_machine(cpu=processor, features=features, opt=3, **options)
    data: bytes = machine.emit_object(module)
    if LINKED:
        try:
            return link(data, ENTRY)
        except Unlinkable:
            pass
    return data
