"""What torchao keeps in the metadata of a file: the class of each tensor, and its attributes.

Source: ``flatten_tensor_state_dict`` and ``TensorSubclassAttributeJSONEncoder`` of ``prototype/safetensors``
in pytorch/ao 0.18. ``tensor_names`` lists all tensors; under the name of each stands a JSON object. What is
stored of ``a.weight`` is called ``a._weight_qdata`` and the like.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.small_json import object_or_none
from ..core.spec import Spec
from ..core.tensor import LazyTensor
from .config.dtype import TORCH_NAMES
from .config.stated import Json

__all__ = ["below", "contradiction", "groups", "listed", "listing", "symmetric", "undecoded", "without"]

_NAMES = "tensor_names"
_PLAIN = "Tensor"
_INTEGERS, _UNPACKED, _FLOATS, _MX, _NV, _NIBBLES = (
    "Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor", "MXTensor", "NVFP4Tensor", "Int4Tensor",
)  # fmt: skip
_CLASSES = {
    "int8": (_INTEGERS, _UNPACKED), "fp8": (_FLOATS,), "mxfp8": (_MX,), "mxfp4": (_MX,), "nvfp4": (_NV,),
    "awq_w4a16": (_NIBBLES,),
}  # fmt: skip
"""Scheme -> classes that hold it."""

_SILENT = {
    "dtype", "orig_dtype", "kernel_preference", "act_quant_kwargs", "reduce_range", "mm_config",
    "use_triton_kernel", "activation_quantization", "target_dtype", "activation_dtype",
}  # fmt: skip
"""Attributes that concern no values: inputs and kernels, the dtype computed in, the range of codes."""

_ELEMENTS = {"e4m3fn": "float8_e4m3fn", "e5m2": "float8_e5m2", None: "float4_e2m1fn_x2"}
"""Format of a scheme of blocks of 32 -> what an MXTensor calls its elements; mxfp4 has no other format."""

_ROLES = {
    "codes": "qdata", "scale": "scale", "zero_point": "zero_point", "offset": "zero_point",
    "global_scale": "per_tensor_scale",
}  # fmt: skip


def listed(metadata: Mapping[str, str]) -> dict[str, Json]:
    """What metadata says of each tensor, plain ones too; nothing where they are not torchao's words."""
    try:
        names = json.loads(metadata.get(_NAMES, "null"))
    except ValueError:
        return {}
    stated = {name: object_or_none(metadata.get(name)) for name in names} if _is_list(names) else {}
    known = {name: one for name, one in stated.items() if one and isinstance(one.get("_type"), str)}
    return known if known.keys() == stated.keys() else {}


def _is_list(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def without(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata without all that."""
    gone = {_NAMES, *listed(metadata)}
    return {key: value for key, value in metadata.items() if key not in gone}


def below(metadata: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The metadata with what it says of tensors below a prefix, without the prefix, and of no others."""
    inner = {
        name.removeprefix(prefix): one for name, one in listed(metadata).items() if name.startswith(prefix)
    }
    return {**without(metadata), **_spelled(inner)}


def undecoded(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """The first tensor of a class that is not decoded here, and the class; None where there is none."""
    known = {_PLAIN, *(name for names in _CLASSES.values() for name in names)}
    return next(
        ((name, one["_type"]) for name, one in listed(metadata).items() if one["_type"] not in known), None
    )


def symmetric(metadata: Mapping[str, str]) -> set[bool]:
    """Whether integers have no zero points: those of an Int8Tensor, whose kernel knows none. Nothing where
    the class leaves it open.
    """
    return {True for one in listed(metadata).values() if one["_type"] == _INTEGERS}


def groups(metadata: Mapping[str, str]) -> set[int]:
    """Columns that share a scale."""
    sizes = (_attributes(one).get("block_size") for one in listed(metadata).values())
    return {size[-1] for size in sizes if isinstance(size, list) and size and type(size[-1]) is int}


def contradiction(stated: Json, scheme: Any, spec: Spec, *, tiled: bool) -> str | None:
    """What metadata says of a tensor that is not so, or not known, in words; None where it agrees.

    Args:
        stated: of the tensor.
        scheme, spec: as what it would be decoded, and its facts.
        tiled: whether its scales would be taken for swizzled.
    """
    kind, attributes = stated["_type"], _attributes(stated)
    if kind not in _CLASSES.get(scheme.name, ()):
        return f"it is {kind}"
    expected = _values(scheme, spec, tiled=tiled)
    for key, value in attributes.items():
        wanted = expected.get(key)
        if key in _SILENT and key not in expected:
            continue
        if key not in expected and value not in (None, False):
            return f"{key} is {value!r:.60}, which is not known"
        if key in expected and value != wanted and value is not None:
            return f"{key} is {value!r:.60}"
    return None


def listing(tensors: Sequence[LazyTensor], carried: Mapping[str, str]) -> dict[str, str]:
    """What metadata says of an output's tensors; nothing where none is torchao's.

    Args:
        tensors: with schemes where they are written so; else those that came along are stored as they were.
        carried: metadata of the source.
    """
    stated = listed(carried)
    owners = {
        f"{module}._{leaf}_{part}": (name, part)
        for name, one in stated.items()
        if one["_type"] != _PLAIN
        for module, _, leaf in (name.rpartition("."),)
        for part in one.get("_tensor_data_names", ())
    }
    entries: dict[str, Json] = {}
    moved: dict[str, tuple[str, dict[str, Spec]]] = {}
    for tensor in tensors:
        if tensor.scheme is not None:
            entries[tensor.name] = _said(tensor)
        elif (owned := owners.get(tensor.source)) is not None and _leaf(tensor.name) == _leaf(tensor.source):
            owner, part = owned
            name = f"{tensor.name.rpartition('.')[0]}.{_leaf(owner)}"
            moved.setdefault(name, (owner, {}))[1][part] = tensor.spec
            entries[name] = stated[owner]  # in the order of the tensors
        else:
            entries[tensor.name] = {"_type": _PLAIN}
    entries |= {name: _of_rows(stated[owner], parts) for name, (owner, parts) in moved.items()}
    return _spelled(entries) if any(one["_type"] != _PLAIN for one in entries.values()) else {}


def _of_rows(stated: Json, parts: Mapping[str, Spec]) -> Json:
    """What is said of a tensor, of one whose rows are some of its, or its and others': how many they are.

    Args:
        stated: of the tensor.
        parts: facts of those of the other, by their names in ``_tensor_data_names``.
    """
    data = dict(_attributes(stated))
    shape, block = data.get("shape"), data.get("block_size")
    rows = parts["qdata"].rows if "qdata" in parts else None
    if rows is not None and isinstance(shape, list) and len(shape) == 2:
        data["shape"] = [rows, shape[1]]
    whole = "scale" in parts and parts["scale"].numel == 1
    if rows is not None and isinstance(block, list) and len(block) == 2 and (whole or block[0] > rows):
        data["block_size"] = [rows, block[1]]
    return {**stated, "_data": data} if data != _attributes(stated) else stated


def _spelled(entries: Mapping[str, Json]) -> dict[str, str]:
    said = {name: json.dumps(one) for name, one in entries.items()}
    return {**said, _NAMES: json.dumps(list(entries))} if entries else {}


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _attributes(stated: Json) -> Json:
    data = stated.get("_data")
    return data if isinstance(data, dict) else {}


def _of(kind: str, value: object) -> Json:
    return {"_type": kind, "_data": value}


def _values(scheme: Any, spec: Spec, *, tiled: bool) -> Json:
    """The attributes that concern values."""
    match scheme.name:
        case "int8" | "fp8":
            blocks = scheme.blocks(spec)
            return {"block_size": [min(blocks.height, spec.rows), min(blocks.width, spec.columns)]}
        case "awq_w4a16":
            return {"block_size": [1, scheme.group_size], "shape": list(spec.shape)}
        case "nvfp4":
            return {"block_size": 16, "is_swizzled_scales": tiled}
    elements = _of("torch.dtype", _ELEMENTS[getattr(scheme, "format", None)])
    return {"block_size": 32, "is_swizzled_scales": tiled, "elem_dtype": elements}


def _said(tensor: LazyTensor) -> Json:
    """What is written of a tensor: for weights alone, where its class computes without quantized inputs."""
    scheme: Any = tensor.scheme
    dtype = _of("torch.dtype", TORCH_NAMES[tensor.spec.dtype.name].replace("float64", "float32"))
    kind, data = _CLASSES[scheme.name][0], _values(scheme, tensor.spec, tiled=True)
    match scheme.name:
        case "int8" if scheme.symmetric:
            data |= {"dtype": dtype, "act_quant_kwargs": None, "reduce_range": False}
        case "int8":
            kind = _UNPACKED
            data |= {
                "dtype": dtype,
                "target_dtype": _of("torch.dtype", "int8"),
                "activation_quantization": None,
            }
        case "awq_w4a16":
            data |= {"activation_dtype": _of("torch.dtype", "bfloat16")}
        case "fp8":
            data |= {"dtype": dtype, "act_quant_kwargs": None, "mm_config": None}
            data |= {"kernel_preference": _of("KernelPreference", "AUTO")}
        case "nvfp4":
            data |= {"orig_dtype": dtype, "act_quant_kwargs": None, "use_triton_kernel": False}
        case _:
            inputs = {
                "elem_dtype": data["elem_dtype"], "block_size": 32, "is_swizzled_scales": True,
                "scaling_mode": _of("ScaleCalculationMode", "RCEIL"),
                "kernel_preference": _of("KernelPreference", "AUTO"),
            }  # fmt: skip
            data |= {"orig_dtype": dtype, "kernel_preference": _of("KernelPreference", "AUTO")}
            data |= {"act_quant_kwargs": _of("QuantizeTensorToMXKwargs", inputs)}
    parts = [_ROLES[part.role] for part in tensor.parts if part.role in _ROLES]
    return {"_type": kind, "_data": data, "_tensor_data_names": parts}
