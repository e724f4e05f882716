"""What the pickles of torch may name, and what they describe: storages, element types, tensors.

Names and arguments are those of ``torch/_utils.py`` (``_rebuild_*``) and ``torch/serialization.py``
(``persistent_id``); those of numpy are in :mod:`.arrays`. Nothing of torch is imported, and nothing here does
more than build plain values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...core.dtypes import DTYPES, DType
from ...core.records import dataclass
from .arrays import ARRAY_NAMES
from .placeholder import Atom, Placeholder
from .roots import Bytes, Leaf
from .unpickle import Builder, checked_key

__all__ = ["NAMES", "Kind", "Storage", "Tensor", "persistent"]

_STORAGES = {
    "Double": "F64",
    "Float": "F32",
    "Half": "F16",
    "BFloat16": "BF16",
    "Long": "I64",
    "Int": "I32",
    "Short": "I16",
    "Char": "I8",
    "Byte": "U8",
    "Bool": "BOOL",
    "ComplexFloat": "C64",
}
_NO_STORAGES = {"ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1}
_TORCH = {
    "float64": "F64", "double": "F64", "float32": "F32", "float": "F32", "float16": "F16", "half": "F16",
    "bfloat16": "BF16", "int64": "I64", "long": "I64", "int32": "I32", "int": "I32", "int16": "I16",
    "short": "I16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "bool": "BOOL", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float4_e2m1fn_x2": "F4",
}  # fmt: skip
_NO_TORCH = {"complex128": 16, "complex32": 4, "qint8": 1, "quint8": 1, "qint32": 4}


@dataclass(frozen=True, slots=True)
class Kind(Atom):
    """An element type; ``dtype`` is None for those that safetensors cannot hold."""

    name: str
    itemsize: int
    dtype: DType | None


@dataclass(frozen=True, slots=True)
class Storage(Bytes):
    """Bytes that tensors lie in, by the key under which the file holds them."""

    key: str
    kind: Kind
    nbytes: int


@dataclass(frozen=True, slots=True)
class Tensor(Leaf):
    """A tensor as the pickle describes it; offset and strides in elements of ``kind``."""

    storage: Storage | None
    kind: Kind
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    refused: str | None = None


def _natural(*values: object) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _rebuild(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    return _describe(storage, storage.kind, offset, shape, strides, metadata)


def _rebuild_v3(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    requires_grad: object,
    hooks: object,
    kind: object,
    metadata: object = None,
) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(kind, Kind):
        raise TypeError("a tensor without a storage or a dtype")
    return _describe(storage, kind, offset, shape, strides, metadata)


def _describe(
    storage: Storage, kind: Kind, offset: object, shape: object, strides: object, metadata: object
) -> Tensor:
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise TypeError("a tensor whose shape and strides do not fit")
    if type(offset) is not int or len(shape) > 64 or not _natural(offset, *shape, *strides):
        raise ValueError("a tensor whose shape, strides or offset are no natural numbers")
    refused = None
    if type(metadata) is dict:
        bits = [key for key, value in metadata.items() if value and isinstance(key, str)]
        if bits:
            # torch marks a lazily conjugated or negated tensor so; its bytes are not its values.
            refused = f"is a view whose values are not its bytes ({', '.join(bits)[:80]})"
    return Tensor(storage, kind, offset, shape, strides, refused)


def _parameter(data: object, *rest: object) -> object:
    return data


def _from_type(function: object, kind: object, arguments: object, state: object) -> object:
    """A tensor of a class, which may keep its values elsewhere or read its bytes in a way of its own."""
    if type(arguments) is not tuple:
        raise TypeError("a tensor without arguments")
    name = kind.name if isinstance(kind, Placeholder) else "torch.Tensor"
    if not isinstance(function, Builder) or function.make not in _MAKE_TENSORS:
        return Placeholder(name, function, arguments, state)
    instance = function.make(*arguments)
    if kind is _PLAIN or not isinstance(instance, Tensor):
        return instance
    return replace(
        instance, refused=instance.refused or f"is of class {name}, whose values need not be its bytes"
    )


def _refuse(what: str) -> Builder:
    refused = Tensor(None, Kind(what, 1, None), 0, (), (), f"is {what}")
    return Builder(lambda *arguments: refused)


def _mapping(pairs: Any = ()) -> dict[object, object]:
    return {checked_key(key): value for key, value in (pairs.items() if type(pairs) is dict else pairs)}


def _set(items: Any = ()) -> set[object]:
    return {checked_key(item) for item in items}


def _bytearray(raw: object = b"") -> bytes:
    if type(raw) is not bytes:
        raise TypeError("a bytearray that is not made of bytes")
    return raw


def _size(items: Any = ()) -> tuple[object, ...]:
    return tuple(items)


def _device(*arguments: object) -> str:
    if len(arguments) > 2 or any(isinstance(item, str) and len(item) > 64 for item in arguments):
        raise ValueError("a device whose name is none")
    return ":".join(str(item) for item in arguments if isinstance(item, (str, int)))


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise TypeError("bytes that are not spelled as text")
    return text.encode("latin1")


_PLAIN = "an ordinary tensor"
_MAKE_TENSORS = {_rebuild, _rebuild_v3, _parameter}
"""What may be called for a tensor of another class: nothing that copies its arguments."""

NAMES: dict[str, object] = {
    "torch._utils._rebuild_tensor": Builder(_rebuild),
    "torch._utils._rebuild_tensor_v2": Builder(_rebuild),
    "torch._utils._rebuild_tensor_v3": Builder(_rebuild_v3),
    "torch._utils._rebuild_parameter": Builder(_parameter),
    "torch._utils._rebuild_parameter_with_state": Builder(_parameter),
    "torch._tensor._rebuild_from_type_v2": Builder(_from_type),
    "torch._utils._rebuild_sparse_tensor": _refuse("a sparse tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _refuse("a meta tensor, which has no values"),
    "torch.serialization._get_layout": Builder(lambda layout: "layout"),
    "torch.Tensor": _PLAIN,
    "torch.nn.parameter.Parameter": _PLAIN,
    "torch.nn.parameter.Buffer": _PLAIN,
    "torch.Size": Builder(_size),
    "torch.device": Builder(_device),
    "collections.OrderedDict": Builder(_mapping),
    "collections.Counter": Builder(_mapping),
    "collections.defaultdict": Builder(lambda *factory: {}),
    "builtins.dict": Builder(_mapping),
    "builtins.list": Builder(lambda items=(): list(items)),
    "builtins.set": Builder(_set),
    "builtins.bytearray": Builder(_bytearray),
    "builtins.bytes": Builder(lambda: b""),
    "builtins.complex": Builder(lambda real, imaginary: complex(float(real), float(imaginary))),
    "_codecs.encode": Builder(_encode),
    **ARRAY_NAMES,
    "torch.storage.UntypedStorage": Kind("uint8", 1, DTYPES["U8"]),
    "torch.UntypedStorage": Kind("uint8", 1, DTYPES["U8"]),
    **{
        f"torch{device}.{name}Storage": Kind(DTYPES[dtype].name, DTYPES[dtype].itemsize, DTYPES[dtype])
        for name, dtype in _STORAGES.items()
        for device in ("", ".cuda")
    },
    **{f"torch.{name}Storage": Kind(name, size, None) for name, size in _NO_STORAGES.items()},
    **{f"torch.{name}": Kind(name, DTYPES[dtype].itemsize, DTYPES[dtype]) for name, dtype in _TORCH.items()},
    **{f"torch.{name}": Kind(name, size, None) for name, size in _NO_TORCH.items()},
}


def persistent(described: object) -> object:
    """What a persistent id describes.

    A storage is ``("storage", class, key, device, elements[, view])``. Files of the old container spell the
    classes of modules so too, ``("module", class, file, source code)``: of those it is the class.
    """
    if type(described) is tuple and len(described) == 4 and described[0] == "module":
        return described[1]
    if type(described) is not tuple or not 5 <= len(described) <= 6 or described[0] != "storage":
        raise ValueError("an unknown persistent object")
    _, kind, key, _, count = described[:5]
    if not isinstance(kind, Kind) or type(key) is not str or not _natural(count):
        raise ValueError("a storage that is not described as one")
    if len(described) == 6 and described[5] is not None:
        raise ValueError("a storage that is a view of another, as torch saved before version 0.4")
    return Storage(key, kind, count * kind.itemsize)
