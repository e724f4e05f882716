"""The table of dtypes against safetensors, torch and ml_dtypes, which name and measure them too."""

from __future__ import annotations

import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import _SIZE, _TYPES

from transcode.core.dtypes import DTYPES, FLOATS, dtype

TORCH = {name: kind for name, kind in _TYPES.items() if name in DTYPES}


def test_the_table_knows_what_the_reference_library_knows():
    assert set(_TYPES) <= set(DTYPES)
    # what torch lacks, has in pairs only, or the library's own table of torch's types leaves out
    assert set(DTYPES) - set(_TYPES) <= {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0"}


@pytest.mark.parametrize("name", TORCH)
def test_widths_are_those_of_torch(name):
    kind = TORCH[name]
    if name == "F4":  # torch's element is a pair
        assert DTYPES[name].bits * 2 == kind.itemsize * 8
        return
    assert DTYPES[name].bits == kind.itemsize * 8 == _SIZE[kind] * 8
    assert DTYPES[name].itemsize == kind.itemsize
    assert not DTYPES[name].packed


@pytest.mark.parametrize("name", TORCH)
def test_kinds_are_those_of_torch(name):
    kind = TORCH[name]
    if kind == torch.bool:
        wanted = "bool"
    elif kind.is_complex:
        wanted = "complex"
    elif kind.is_floating_point:
        wanted = "float"
    else:
        wanted = "int" if kind.is_signed else "uint"
    assert DTYPES[name].kind == wanted


@pytest.mark.parametrize("name", DTYPES)
def test_carriers_have_the_width_of_what_they_carry(name):
    kind = DTYPES[name]
    carrier = np.dtype(kind.carrier)
    assert carrier.itemsize == kind.itemsize
    assert carrier.itemsize * 8 == (8 if kind.packed else kind.bits)
    if kind.ml_dtype is not None:
        assert carrier.kind == "u"  # no arithmetic by accident
        found = np.dtype(getattr(ml_dtypes, kind.ml_dtype))
        assert found.itemsize == kind.itemsize
    if not kind.packed and kind.kind != "bool":
        assert kind.numpy().itemsize == kind.itemsize


@pytest.mark.parametrize(
    ("name", "code", "value"),
    [
        ("BF16", 0x3F80, 1.0), ("F16", 0x3C00, 1.0), ("F32", 0x3F800000, 1.0), ("F64", 0x3FF << 52, 1.0),
        ("F8_E4M3", 0x7E, 448.0), ("F8_E4M3", 0x01, 2.0**-9), ("F8_E5M2", 0x7B, 57344.0),
        ("F8_E8M0", 0x00, 2.0**-127), ("F8_E8M0", 0xFE, 2.0**127), ("F8_E4M3FNUZ", 0x7F, 240.0),
        ("F8_E5M2FNUZ", 0x7F, 57344.0), ("I8", 0xFF, -1), ("U8", 0xFF, 255), ("BOOL", 1, True),
        ("I16", 0xFFFF, -1), ("U16", 0xFFFF, 65535), ("I64", 2**64 - 1, -1),
    ],
)  # fmt: skip
def test_what_users_get_means_what_the_format_says(name, code, value):
    kind = DTYPES[name]
    raw = code.to_bytes(kind.itemsize, "little")
    assert np.frombuffer(raw, kind.numpy())[0] == value
    assert kind.numpy().name == ("bool" if name == "BOOL" else kind.ml_dtype or kind.carrier)


def test_sub_byte_formats_are_packed_and_come_as_bytes():
    packed = {name: DTYPES[name].bits for name in DTYPES if DTYPES[name].packed}
    assert packed == {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
    assert all(DTYPES[name].numpy() == np.uint8 for name in packed)
    for name, bits in packed.items():
        kind = getattr(ml_dtypes, DTYPES[name].ml_dtype)
        assert ml_dtypes.finfo(kind).bits == bits


@pytest.mark.parametrize("kind", [*TORCH.values()], ids=str)
def test_torchs_names_of_floats_are_understood(kind):
    name = {value: key for key, value in TORCH.items()}[kind]
    short = str(kind).removeprefix("torch.")
    if name in (*FLOATS, "F8_E4M3", "F8_E5M2", "I8", "U8"):
        assert dtype(short) is DTYPES[name]
        assert dtype(str(kind)) is DTYPES[name]
        assert dtype(short.upper()) is DTYPES[name]
    assert dtype(name) is dtype(name.lower()) is dtype(DTYPES[name]) is DTYPES[name]


@pytest.mark.parametrize(
    ("said", "meant"),
    [("fp16", "F16"), ("half", "F16"), ("fp32", "F32"), ("float", "F32"), ("fp64", "F64"), ("double", "F64")],
)
def test_other_names_of_floats(said, meant):
    assert dtype(said) is DTYPES[meant]


@pytest.mark.parametrize("said", ["", "F17", "bf 16", "float8", "int4", "torch."])
def test_what_is_no_dtype_is_refused(said):
    with pytest.raises(KeyError):
        dtype(said)


def test_plain_floats_and_printing():
    assert FLOATS == ("F64", "F32", "F16", "BF16")
    assert str(DTYPES["BF16"]) == "BF16"
    assert pickle.loads(pickle.dumps(DTYPES["BF16"])) is DTYPES["BF16"]  # each is there once


def test_the_table_needs_no_numpy():
    script = "import sys, transcode.core.dtypes, transcode.core.spec; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
