"""Tiny models of diffusers' own classes, and its functions that convert their original spelling."""

from __future__ import annotations

import hashlib
import inspect
import re
import textwrap
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Tiny:
    """One model.

    Attributes:
        family, original: of transcode; the other spelling is diffusers'.
        name: of diffusers' class.
        config: of the class.
        converter: diffusers' function from the original spelling to its own.
        inputs: of a forward pass, where one is to be made.
        constants: sizes of the published model that the function holds as literals -> those of this one.
        besides: what original files have and diffusers does without.
        prefix: without which the function takes nothing.
        recorded: where diffusers converts by a script that it does not install, or only ComfyUI has such a
            spelling: the digest of the file of which the script makes the model, or with which the class of
            ComfyUI computes the same; see :func:`digest`.
        within: makes a model that computes with this one, of a class that has no forward pass.
        beyond: names of the class that the function leaves out, as they are computed, or the same in both: a
            regular expression. What the function makes besides the class's is left out then.
    """

    family: str
    name: str
    config: Mapping[str, Any]
    converter: str
    inputs: Callable[[], dict[str, Any]] = dict
    original: str = "original"
    constants: Mapping[str, str] = field(default_factory=dict)
    besides: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    prefix: str = ""
    recorded: str = ""
    beyond: str = ""
    within: Callable[[torch.nn.Module], torch.nn.Module] = lambda model: model

    def model(self, seed: int = 0) -> torch.nn.Module:
        import diffusers

        torch.manual_seed(seed)
        from diffusers.pipelines import ltx2

        kind = getattr(diffusers, self.name, None) or getattr(ltx2, self.name)
        model = kind(**self.config).eval()
        for name, tensor in model.state_dict().items():
            if self.recorded:
                tensor.copy_(told(f"{seed} {name}", tensor.shape))
        for parameter in model.parameters():
            if not self.recorded:
                torch.nn.init.normal_(parameter, std=0.05)
        return model

    def theirs(self, original: Tensors) -> Tensors:
        """What diffusers makes of the original spelling."""
        from diffusers.loaders import single_file_utils

        if self.recorded:
            assert digest(original) == self.recorded
            return {name: one.to(torch.bfloat16) for name, one in self.model().state_dict().items()}
        source = textwrap.dedent(inspect.getsource(getattr(single_file_utils, self.converter)))
        for before, after in self.constants.items():
            assert before in source, before
            source = source.replace(before, after)
        scope: dict[str, Any] = dict(vars(single_file_utils))
        exec(compile(source, self.converter, "exec"), scope)
        besides = {name: torch.ones(shape) for name, shape in self.besides.items()}
        tensors = {f"{self.prefix}{name}": tensor for name, tensor in (dict(original) | besides).items()}
        made: Tensors = scope[self.converter](tensors, config=dict(self.config))
        if self.beyond:
            state = {name: one.to(torch.bfloat16) for name, one in self.model().state_dict().items()}
            extra = {name for name in state if re.search(self.beyond, name)}
            assert extra
            assert not extra & made.keys()
            return {name: state[name] if name in extra else made[name] for name in state}
        return made

    def forward(self, model: torch.nn.Module) -> torch.Tensor:
        """All that the model computes: numbers, not all zero."""
        model = self.within(model).eval()
        more = {"return_dict"} & inspect.signature(model.forward).parameters.keys()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # the compiler takes seconds
            made = list(floats(model(**self.inputs(), **dict.fromkeys(more, False))))
        assert made
        assert all(one.isfinite().all() and one.any() for one in made)
        return torch.cat([one.flatten() for one in made])


def floats(out: Any) -> Iterator[torch.Tensor]:
    """The floating-point tensors of what a model returns."""
    if isinstance(out, torch.Tensor):
        yield from [out] if out.is_floating_point() else []
    elif isinstance(out, tuple | list):
        for one in out:
            yield from floats(one)


def told(name: str, shape: torch.Size) -> torch.Tensor:
    """Values that follow from a name, on any machine, each a BF16."""
    period = (torch.arange(255) * 7919 + zlib.crc32(name.encode())) % 255 - 127
    numbers = period.double().repeat(shape.numel() // 255 + 1)[: shape.numel()]
    return (numbers / 2048).reshape(shape)


def digest(tensors: Tensors) -> str:
    """Of names, shapes and the bytes of BF16."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {list(tensor.shape)}".encode())
        found.update(tensor.to(torch.bfloat16).reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _flux(guidance: bool) -> dict[str, Any]:
    torch.manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(1, 6, 16),
        "encoder_hidden_states": torch.randn(1, 4, 24),
        "pooled_projections": torch.randn(1, 20),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(6, 3),
        "txt_ids": torch.zeros(4, 3),
    }
    return inputs | ({"guidance": torch.tensor([3.5])} if guidance else {})


_FLUX: dict[str, Any] = {
    "patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 3, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 20,
    "axes_dims_rope": (8, 12, 12),
}  # fmt: skip


def _z_image() -> dict[str, Any]:
    torch.manual_seed(1)
    return {"x": [torch.randn(4, 1, 4, 4)], "t": torch.tensor([0.5]), "cap_feats": [torch.randn(6, 24)]}


def _z_image_omni() -> dict[str, Any]:
    """A picture behind one that is looked at, too."""
    torch.manual_seed(1)
    picture, told = (torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)), torch.randn(6, 24)
    return {
        "x": [[*picture]], "t": torch.tensor([0.5]), "cap_feats": [[told, told, told]],
        "siglip_feats": [[torch.randn(2, 2, 20), None]], "image_noise_mask": [[0, 1]],
    }  # fmt: skip


_Z_IMAGE: dict[str, Any] = {
    "in_channels": 4, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
    "cap_feat_dim": 24, "axes_dims": [8, 12, 12], "axes_lens": [64, 64, 64],
}  # fmt: skip


def _hunyuan() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 1, 4, 4),
        "timestep": torch.tensor([5]),
        "encoder_hidden_states": torch.randn(1, 5, 24),
        "encoder_attention_mask": torch.ones(1, 5),
        "pooled_projections": torch.randn(1, 20),
        "guidance": torch.tensor([3.5]),
    }


_HUNYUAN: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 2,
    "num_single_layers": 2, "num_refiner_layers": 1, "text_embed_dim": 24, "pooled_projection_dim": 20,
    "rope_axes_dim": (8, 12, 12), "guidance_embeds": True,
}  # fmt: skip


def _ltx() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 8, 4), "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([5]), "encoder_attention_mask": torch.ones(1, 5),
        "num_frames": 2, "height": 2, "width": 2,
    }  # fmt: skip


def _sd3() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 5, 24),
        "pooled_projections": torch.randn(1, 20), "timestep": torch.tensor([5]),
    }  # fmt: skip


_SD3: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "num_layers": 3, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": 24, "caption_projection_dim": 64, "pooled_projection_dim": 20, "out_channels": 4,
    "pos_embed_max_size": 8,
}  # fmt: skip

TINY = {
    "flux dev": Tiny(
        "flux", "FluxTransformer2DModel", _FLUX | {"guidance_embeds": True},
        "convert_flux_transformer_checkpoint_to_diffusers", lambda: _flux(True),
        constants={"inner_dim = 3072": "inner_dim = 64"},
    ),
    "flux schnell": Tiny(
        "flux", "FluxTransformer2DModel", _FLUX | {"guidance_embeds": False},
        "convert_flux_transformer_checkpoint_to_diffusers", lambda: _flux(False),
        constants={"inner_dim = 3072": "inner_dim = 64"},
    ),
    "z-image": Tiny(
        "z_image_dit", "ZImageTransformer2DModel",
        _Z_IMAGE, "convert_z_image_transformer_checkpoint_to_diffusers", _z_image,
    ),
    "z-image omni": Tiny(
        "z_image_dit", "ZImageTransformer2DModel", _Z_IMAGE | {"n_layers": 1, "siglip_feat_dim": 20},
        "convert_z_image_transformer_checkpoint_to_diffusers", _z_image_omni,
    ),
    "hunyuan video": Tiny(
        "hunyuan_dit", "HunyuanVideoTransformer3DModel", _HUNYUAN,
        "convert_hunyuan_video_transformer_to_diffusers", _hunyuan,
        constants={"hidden_size = 3072": "hidden_size = 64"},
    ),
    "ltx video": Tiny(
        "ltx_video", "LTXVideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32,
         "cross_attention_dim": 64, "num_layers": 2, "caption_channels": 24},
        "convert_ltx_transformer_checkpoint_to_diffusers", _ltx,
    ),
    "sd3": Tiny(
        "sd3", "SD3Transformer2DModel", _SD3, "convert_sd3_transformer_checkpoint_to_diffusers", _sd3,
    ),
    "sd3.5 medium": Tiny(
        "sd3", "SD3Transformer2DModel", _SD3 | {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
        "convert_sd3_transformer_checkpoint_to_diffusers", _sd3,
    ),
}  # fmt: skip
