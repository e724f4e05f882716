"""``quant_method: torchao``, which transformers and Diffusers read.

Source: ``TorchAoConfig`` of both, ``config_to_dict`` of ``core/config.py`` in pytorch/ao 0.18. What is loaded
stands in the metadata of the files, see :mod:`..torchao`; the config says by what the tensors would be made.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ...core.planning import Planning
from .dialect import Dialect, Statement, Unsayable, e4m3_only
from .layers import Layers
from .stated import Json

__all__ = ["TorchAo"]


class TorchAo(Dialect):
    """One configuration of torchao for all layers but those that are named, or one for each layer."""

    method = "torchao"
    schemes: ClassVar[tuple[str, ...]] = ("int8", "fp8", "mxfp8", "mxfp4", "nvfp4", "awq_w4a16")
    unquantized = "modules_to_not_convert"
    telling: ClassVar[tuple[str, ...]] = ("quant_type",)

    def state(self, layers: Layers, planning: Planning) -> Statement:
        """See :meth:`.dialect.Dialect.state`."""
        kinds = {module: _kind(module, tensor.scheme) for module, tensor in sorted(layers.quantized.items())}
        first, *others = kinds.values()
        if any(one != first for one in others):
            first = _config("FqnToConfig", fqn_to_config=kinds, module_fqn_to_config=kinds)
        return Statement(
            {
                "quant_method": self.method,
                "quant_type": {"default": first},
                self.unquantized: layers.kept_by_prefix(planning),
                "include_input_output_embeddings": False,
                "untie_embedding_weights": False,
            }
        )

    def leave_out(self, statement: Json, decoded: Any, coded: Any) -> None:
        """See :meth:`.dialect.Dialect.leave_out`: also where layers are named one by one."""
        super().leave_out(statement, decoded, coded)
        quant_type = statement.get("quant_type")
        default = quant_type.get("default") if isinstance(quant_type, dict) else None
        data = default.get("_data") if isinstance(default, dict) else None
        for key in ("fqn_to_config", "module_fqn_to_config"):
            if isinstance(data, dict) and isinstance(named := data.get(key), dict):
                for name in decoded:
                    named.pop(name.removesuffix(".weight"), None)


def _config(kind: str, version: int = 1, **data: Any) -> Json:
    return {"_type": kind, "_version": version, "_data": data}


def _of(kind: str, value: object) -> Json:
    return {"_type": kind, "_data": value}


def _kind(module: str, scheme: Any) -> Json:
    """The configuration by which torchao would make such a layer."""
    match scheme.name:
        case "int8" if not scheme.symmetric:
            return _config(
                "IntxWeightOnlyConfig", 2, weight_dtype=_of("torch.dtype", "int8"),
                granularity=_sharing(scheme), mapping_type=_of("MappingType", "ASYMMETRIC"), scale_dtype=None,
                intx_packing_format=_of("IntxPackingFormat", "UNPACKED_TO_INT8"),
                intx_choose_qparams_algorithm=_of("IntxChooseQParamsAlgorithm", "AFFINE"),
            )  # fmt: skip
        case "int8":
            return _config("Int8WeightOnlyConfig", 2, granularity=_sharing(scheme), set_inductor_config=True)
        case "fp8":
            dtype = _of("torch.dtype", f"float8_{scheme.format}")
            return _config(
                "Float8WeightOnlyConfig", 2, weight_dtype=dtype, granularity=_sharing(scheme),
                set_inductor_config=True,
            )  # fmt: skip
        case "awq_w4a16":
            return _config(
                "Int4WeightOnlyConfig", 2, group_size=scheme.group_size, set_inductor_config=True,
                int4_packing_format=_of("Int4PackingFormat", "PLAIN"), int4_tile_packed_ntile=8,
                int4_choose_qparams_algorithm=_of("Int4ChooseQParamsAlgorithm", "TINYGEMM"),
            )  # fmt: skip
        case "mxfp8":
            e4m3_only(scheme, TorchAo.method)
            return _mx("float8_e4m3fn")
        case "mxfp4":
            return _mx("float4_e2m1fn_x2")
        case "nvfp4":
            return _config("NVFP4WeightOnlyConfig", use_dynamic_per_tensor_scale=True)
    raise Unsayable(f"quant_method torchao knows {', '.join(TorchAo.schemes)}, {module} is {scheme.name}")


def _sharing(scheme: Any) -> Json:
    match scheme.granularity:
        case "tensor":
            return _config("PerTensor")
        case "group":
            return _config("PerGroup", group_size=scheme.group_size)
    return _config("PerRow", dim=-1) if getattr(scheme, "symmetric", True) else _config("PerAxis", axis=0)


def _mx(elements: str) -> Json:
    dtype = _of("torch.dtype", elements)
    return _config(
        "MXDynamicActivationMXWeightConfig", block_size=32, activation_dtype=dtype, weight_dtype=dtype,
        kernel_preference=_of("KernelPreference", "AUTO"), scaling_mode=_of("ScaleCalculationMode", "RCEIL"),
    )  # fmt: skip
