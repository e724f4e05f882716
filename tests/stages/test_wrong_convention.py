"""A quantized file given as another convention's is decoded to the right values or refused, never wrongly."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import transcode as tc
from transcode import catalog, schemes
from transcode.consumers.record import KEY
from transcode.errors import PlanError
from transcode.schemes import SCHEMES

ROWS, COLUMNS = 256, 256
"""Where rows and swizzled tiles have scales of one shape: nothing but what a source says tells them apart."""

OPTIONS = {
    "fp8": ({}, {"granularity": "tensor"}, {"granularity": "block"}),
    "int8": ({}, {"granularity": "tensor"}),
}

OF_THEIR_OWN = {
    "w4a8", "w6a8", "convrot_w4a4", "awq_w4a16", "nvfp4_awq", "affine", "nf4", "bnb_fp4", "llm_int8",
    "hqq", "qbits",
}  # fmt: skip
"""Schemes of more than codes and scales: their values are proven by their consumer in their own tests."""

CONVENTIONS = [
    name
    for name in catalog.conventions()
    if catalog.convention(name).unwritten is None
    and any(scheme in SCHEMES for scheme in catalog.convention(name).schemes)
    and name != "gguf"  # whose blocks are no parts that others could take for theirs
]


def written(convention, scheme, options) -> bool:
    """Whether the convention's consumer, or some loader of it, reads such options: others are not written."""
    rule = catalog.convention(convention).scheme(scheme)
    made = schemes.make(scheme, **{**rule.options, **options})
    if rule.needs:
        return False  # not without a calibration
    return all(any(option in one.when for one in rule.partly) for option in rule.unread(made))


MADE = [
    (name, scheme, options)
    for name in CONVENTIONS
    for scheme in catalog.convention(name).schemes
    if scheme in SCHEMES
    for options in OPTIONS.get(scheme, ({},))
    if written(name, scheme, options)
]


def matrix() -> torch.Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(ROWS, COLUMNS, generator=draw) * torch.logspace(-1, 1, ROWS)[:, None]


def make(convention, scheme, options, save, tmp_path, record):
    """A folder as another program would leave it: the parts, and config.json where the consumer wants one."""
    tensors = {"layers.0.up_proj.weight": matrix(), "norm.weight": torch.ones(COLUMNS)}
    if scheme == "qbits":  # whose rows no part tells
        tensors["layers.0.up_proj.bias"] = torch.ones(ROWS)
    save(tensors, "src/model.safetensors")
    (tmp_path / "src" / "config.json").write_text('{"model_type": "toy"}')
    flow = tc.open(tmp_path / "src") | tc.quantize(scheme, include=["up_proj"], **options)
    flow | tc.write(tmp_path / "q", convention=convention)
    if not record:
        path = next((tmp_path / "q").glob("*.safetensors"))
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        del header["__metadata__"][KEY]
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    return tmp_path / "q"


def decoded(source, **how):
    flow = tc.open(source) | tc.dequantize("F32", **how)
    return flow["layers.0.up_proj.weight"].torch()


def reference(convention, scheme, options, folder) -> torch.Tensor:
    """Values by a formula of torch, from the same codes before they are spelled: every part is in order."""
    flow = tc.open(folder / "src") | tc.quantize(
        scheme, include=["up_proj"], **{**catalog.convention(convention).scheme_options(scheme), **options}
    )
    tensor = flow["layers.0.up_proj.weight"]
    parts = {part.role: tensor.torch(part.role) for part in tensor.parts}
    codes, scale = parts["codes"], parts["scale"].float()
    bits = tensor.scheme.parts(tensor.spec)[0].spec.dtype.bits if scheme != "int4" else 4
    if scheme == "int4":
        low, high = codes & 15, codes >> 4
        codes = torch.stack([low, high], -1).flatten(-2).to(torch.int16)
        values = torch.where(codes > 7, codes - 16, codes).float()
    elif bits == 4:
        table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
        codes = codes.reshape(ROWS, -1)
        values = table[torch.stack([codes & 15, codes >> 4], -1).flatten(-2).long()]
    elif bits == 6:
        import ml_dtypes
        import numpy as np

        kind = {"e3m2": ml_dtypes.float6_e3m2fn, "e2m3": ml_dtypes.float6_e2m3fn}[tensor.scheme.format]
        packed = codes.reshape(ROWS, -1, 3).to(torch.int32)
        word = packed[..., 0] | packed[..., 1] << 8 | packed[..., 2] << 16
        six = torch.stack([word >> shift & 63 for shift in (0, 6, 12, 18)], -1).reshape(ROWS, COLUMNS)
        values = torch.from_numpy(six.numpy().astype(np.uint8).view(kind).astype(np.float32))
    else:
        values = codes.float()
    if scale.dim() == 2:
        scale = scale.repeat_interleave(ROWS // scale.shape[0], 0).repeat_interleave(
            COLUMNS // scale.shape[1], 1
        )
    if "zero_point" in parts:
        values = values - parts["zero_point"].float().repeat_interleave(
            COLUMNS // parts["zero_point"].shape[1], 1
        )
    if "global_scale" in parts:
        codecs = catalog.convention(convention).scheme(scheme).parts["global_scale"].codecs
        inverted = any(not codec.exact for codec in codecs)
        scale = scale * (1 / parts["global_scale"]) if inverted else scale / parts["global_scale"]
    return values * scale


@pytest.mark.parametrize(("convention", "scheme", "options"), MADE, ids=lambda value: str(value))
@pytest.mark.parametrize("record", [True, False], ids=["record", "no-record"])
def test_every_pair(convention, scheme, options, record, save, tmp_path):
    source = make(convention, scheme, options, save, tmp_path, record)
    if scheme in OF_THEIR_OWN:
        right = decoded(source, convention=convention, scheme=scheme)
    else:
        right = reference(convention, scheme, options, tmp_path)
    assert torch.equal(decoded(source, convention=convention, scheme=scheme), right)
    try:
        assert torch.equal(decoded(source), right)
    except PlanError as error:
        # Without a word of the source two readings may be left; then they are named.
        told = str(error)
        undecided = "which decode to different values" in told or "open(scheme=" in told
        if record or not undecided:
            raise
    for other in CONVENTIONS:
        if (convention, scheme, other, record) == ("lightx2v", "mxfp4", "quark", False):
            continue  # alike but for the order of scales: whose it is, is the user's word
        try:
            found = decoded(source, convention=other)
        except PlanError:
            continue
        assert torch.equal(found, right), f"{convention} {scheme} as {other}"


def test_what_is_refused(tmp_path):
    """At least two dozen of the wrong pairs are, even where a record does not tell; these for a start."""
    wanted = {
        ("modelopt", "nvfp4", "comfyui"), ("compressed_tensors", "mxfp8", "comfyui"),
        ("comfyui", "nvfp4", "modelopt"), ("comfyui", "mxfp8", "modelopt"),
        ("comfyui", "mxfp8", "compressed_tensors"),
    }  # fmt: skip
    pairs = set()
    of_these = [one for one in MADE if any(pair[:2] == one[:2] for pair in wanted)]
    for number, (convention, scheme, options) in enumerate([*of_these, *MADE]):
        if len(pairs) >= 24 and number >= len(of_these):
            break
        folder = tmp_path / str(number)
        folder.mkdir()
        source = make(convention, scheme, options, lambda t, n, f=folder: _save(t, f / n), folder, False)
        for other in CONVENTIONS:
            if other != convention:
                try:
                    decoded(source, convention=other)
                except PlanError:
                    pairs.add((convention, scheme, other))
    assert len(pairs) >= 24
    assert wanted <= pairs


def _save(tensors, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def test_config_and_record_are_used_and_may_not_disagree(save, tmp_path):
    source = make("modelopt", "nvfp4", {}, save, tmp_path, True)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(PlanError, match=r"record in its metadata says modelopt, but config\.json says"):
        decoded(source)
