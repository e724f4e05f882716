"""Kernels are compiled by a shortcut through numba's insides, or without it where these are others."""

import numpy as np
import pytest

from transcode.numerics import compiler, jit, reduce


@pytest.mark.parametrize(
    ("ways", "codegen"),
    [
        (1, None),
        (1, lambda: compiler.codegen.JITCPUCodegen()),
        (2, type("Strange", (), {"create_library": lambda self, name: object()})),
    ],
    ids=["as it is", "another signature", "another interface"],
)
def test_another_numba_costs_time_and_not_the_kernel(ways, codegen, monkeypatch):
    begun = []
    real = compiler._compile
    monkeypatch.setattr(compiler, "_compile", lambda *arguments: (begun.append(1), real(*arguments))[1])
    if codegen is not None:
        monkeypatch.setattr(compiler, "_codegen", codegen)
    monkeypatch.setattr(jit, "kept", lambda *arguments: None)
    monkeypatch.setattr(jit, "keep", lambda *arguments: None)
    largest = jit.kernel(reduce.largest.function)
    assert largest(np.array([[0x3F80, 0xC000, 0x4000]], np.uint16)) == 2.0
    assert len(begun) == ways
    if codegen is None:
        assert isinstance(compiler._codegen(), compiler._Codegen), "which the shortcut begins with"
