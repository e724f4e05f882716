"""Families whose classes no library has, held to those classes: names, shapes, targets, and what is computed.

    python tools/check_classes.py Comfy-Org/ComfyUI=DIR ByteDance-Seed/SeedVR=DIR ...

Each DIR is a checkout of the repository, whose code is run and not copied. Without one, its models are named
and left out. Besides transcode's own, einops, rotary_embedding_torch (SeedVR2), diffusers and
transformers are needed. Of each model this is asked:

* the class of the published sizes has the names and shapes of ``fixtures/families``, none less and none more;
* a tiny one is recognised, and its layers are quantized which the fixture says, but for their numbers;
* int8 and fp8 decode to codes times scales, nvfp4 within its steps, and q, k and v have one global scale
  where the consumer wants that; the class loads all of it strictly, and computes with it;
* in another spelling the class that has it loads all strictly, and computes the same; where there is none, it
  is refused.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from own_classes import OWN, Own
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode import catalog
from transcode.errors import TranscodeError

__all__ = ["broken", "main"]

ROOT = Path(__file__).parents[1]
SCHEMES = (("int8", "lightx2v"), ("fp8", "lightx2v"), ("nvfp4", "modelopt"))
Tensors = dict[str, torch.Tensor]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkouts", nargs="+", metavar="OWNER/NAME=DIR")
    folders = dict(one.split("=", 1) for one in parser.parse_args().checkouts)
    wrong = False
    for name, own in OWN.items():
        if own.repository not in folders:
            print(f"{name}: left out, as {own.repository} is not given")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            faults = broken(own, Path(folders[own.repository]).resolve(), Path(scratch))
        print(f"{name} ({own.repository}): {'; '.join(faults) or 'holds'}", flush=True)
        wrong |= bool(faults)
    return int(wrong)


def broken(own: Own, checkout: Path, scratch: Path) -> list[str]:
    """What of the list of this module does not hold for a model.

    Args:
        own: the model.
        checkout: of the repository of its class.
        scratch: an empty folder.

    Returns:
        A line for each fault.
    """
    fixture = json.loads((ROOT / "fixtures" / "families" / f"{own.fixture}.json").read_text("utf-8"))
    verdicts: dict[str, set[bool]] = {}
    for name, fact in fixture["tensors"].items():
        verdicts.setdefault(alike(name), set()).add(fact["quantize"])
    faults = _as_listed(own, checkout, fixture)
    model = own.make(checkout, False).eval()
    for seed, parameter in enumerate(model.parameters()):
        torch.manual_seed(seed)
        torch.nn.init.normal_(parameter, std=0.05)
    state = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    expected = {name for name in state if True in verdicts.get(alike(name), ())}
    linears = {f"{n}.weight" for n, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    if expected - linears or any(len(verdicts.get(alike(name), ())) > 1 for name in state):
        faults.append(f"no verdict on {sorted(expected - linears)[:3]}")
    known = catalog.detect(list(state), {name: tuple(tensor.shape) for name, tensor in state.items()})
    if known is None or (known.name, known.spelling) != (fixture["family"], fixture["spelling"]):
        return [*faults, f"recognised as {known and (known.name, known.spelling)}"]
    save_file(state, scratch / "class.safetensors")
    source = scratch / "source.safetensors"
    tc.open(scratch / "class.safetensors") | tc.write(source)
    for scheme, convention in SCHEMES:
        faults += _quantized(own, model, state, expected, source, scheme, convention)
    return faults + _spelled(own, model, state, source, known)


def alike(name: str) -> str:
    """A name with all numbers, and runs of them as fixtures fold them, put alike."""
    return re.sub(r"(?<![^.])(\d+|\{\d+\.\.\d+\})(?![^.])", "#", name)


def _as_listed(own: Own, checkout: Path, fixture: dict[str, Any]) -> list[str]:
    """Whether the class of the published sizes has the names and shapes of the fixture."""
    tensors: dict[str, list[int]] = {}
    listed: dict[str, dict[str, list[int]]] = fixture["tensors"]
    for name, fact in listed.items():
        run = re.search(r"\{(\d+)\.\.(\d+)\}", name)
        for number in range(int(run[1]), int(run[2]) + 1) if run else [0]:
            tensors[name.replace(run[0], str(number)) if run else name] = fact["shape"]
    held = {name: list(tensor.shape) for name, tensor in own.make(checkout, True).state_dict().items()
            if not re.search(own.lacks, name)}  # fmt: skip
    unlike = sorted(name for name in held.keys() | tensors.keys() if held.get(name) != tensors.get(name))
    return [f"{len(unlike)} unlike the fixture, as {unlike[:3]}"] if unlike else []


def _quantized(
    own: Own, model: torch.nn.Module, state: Tensors, expected: set[str], source: Path, scheme: str,
    convention: str,
) -> list[str]:  # fmt: skip
    """Which layers are quantized, to what they decode, and whether the class computes with that."""
    said, stem = f"{scheme} {convention}", source.parent / scheme
    coded, plain = stem.with_suffix(".q.safetensors"), stem.with_suffix(".d.safetensors")
    tc.open(source) | tc.quantize(scheme) | tc.write(coded, convention=convention)
    tc.open(coded) | tc.dequantize("f32") | tc.write(plain)
    stored, decoded = load_file(coded), load_file(plain)
    floats = (torch.bfloat16, torch.float32)
    codes = {name for name in state if stored[name].dtype not in floats}
    faults = [f"{said}: unlike {sorted(codes ^ expected)[:3]}"] if codes != expected else []
    for name, tensor in state.items():
        value = tensor.float()
        if name in codes and scheme != "nvfp4":
            value = stored[name].float() * stored[f"{name}_scale"].float()
        if name in codes and scheme == "nvfp4":  # steps of a block are at most a third of its peak apart
            peaks = value.reshape(-1, 16).abs().amax(1, keepdim=True)
            close = ((decoded[name] - value).reshape(-1, 16).abs() <= peaks / 5).all()
            faults += [] if close else [f"{said}: {name} decodes to others"]
        elif not decoded[name].equal(value):
            faults.append(f"{said}: {name} decodes to others")
    if scheme == "nvfp4":
        for one in sorted(codes):
            if one.endswith("self_attn.q.weight"):
                scales = {stored[one.replace(".q.", f".{p}.") + "_scale_2"].item() for p in "qkv"}
                faults += [f"{said}: {one} has another global scale than k and v"] if len(scales) > 1 else []
    model.load_state_dict(decoded, strict=True)
    with torch.no_grad():
        out = own.forward(model)
    return faults if out.isfinite().all() and out.std() > 0 else [*faults, f"{said}: computes nothing"]


def _spelled(
    own: Own, model: torch.nn.Module, state: Tensors, source: Path, known: catalog.Family
) -> list[str]:
    """Whether the classes of other spellings compute the same, and any other spelling is refused."""
    faults, target = [], source.parent / "to.safetensors"
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    for spelling in sorted({"diffusers", "transformers", *known.spellings} - {known.spelling}):
        flow = tc.open(source) | tc.convert(spelling)
        if spelling in own.others:
            flow | tc.write(target, force=True)
            other, alike = own.others[spelling]()
            other.load_state_dict({name: one.float() for name, one in load_file(target).items()}, strict=True)
            with torch.no_grad():
                near = torch.allclose(*alike(model, other.eval()), rtol=1e-4, atol=1e-5)
            faults += [] if near else [f"--to {spelling} computes otherwise"]
            continue
        try:
            flow.plan(tc.write(target))
        except TranscodeError as error:
            print(f"    --to {spelling}: {error}")
        else:
            faults.append(f"--to {spelling} is not refused")
    return faults


if __name__ == "__main__":
    sys.exit(main())
