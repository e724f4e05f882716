"""Rows of quantized tensors that are permuted one by one equal those quantized behind the conversion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.catalog import strict
from transcode.catalog.rule import rules
from transcode.catalog.spelling import Conversion, Direction
from transcode.consumers.companions import Companions
from transcode.consumers.recognise import decipher
from transcode.core.planning import Planning
from transcode.errors import PlanError
from transcode.stages.stored_rows import Item
from transcode.stages.structure import Structure

HEADS = "[[a, {view: b, permute: {rows: [4, 2, ~], order: [0, 2, 1]}}]]"


def _items(file: Path, planning: Planning) -> dict[str, Item]:
    tensors = list(tc.open(file))
    table = {one.name: one for one in tensors}
    conventions, readings = decipher(tensors, planning)
    quantized = {part for one in readings.values() for part in one.stored.values()}
    companions = Companions(table, conventions, quantized)
    made = {}
    for reading in readings.values():
        shape = companions.shape(reading)
        made[reading.name] = Item.stored(reading.name, reading, shape, (), table, conventions[0].name)
    return made


def _quantized(tmp_path: Path, name: str, weight: torch.Tensor, scheme: str, convention: str) -> Path:
    save_file({f"{name}.weight": weight}, tmp_path / "plain.safetensors")
    target = tmp_path / f"{name}_{scheme}.safetensors"
    (
        tc.open(tmp_path / "plain.safetensors")
        | tc.quantize(scheme)
        | tc.write(target, convention=convention, force=True)
    )
    return target


@pytest.mark.parametrize(
    ("scheme", "convention"),
    [
        ("int8", "lightx2v"),
        ("fp8", "comfyui"),
        ("int4", "compressed_tensors"),
        ("llm_int8", "bitsandbytes"),
    ],
)
def test_scales_follow_their_rows(tmp_path: Path, scheme: str, convention: str) -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    turned = weight.reshape(4, 2, 8, 256).swapaxes(1, 2).reshape(64, 256).contiguous()
    files = {
        "b": _quantized(tmp_path, "b", weight, scheme, convention),
        "a": _quantized(tmp_path, "a", turned, scheme, convention),
    }
    conversion = Conversion(rules(strict.parse(HEADS, "x.yaml")))
    for forward, here, there in ((False, "b", "a"), (True, "a", "b")):
        planning = Planning()
        direction = Direction(conversion, forward)
        (item,) = _items(files[here], planning).values()
        hit = direction.find(item.name)
        assert hit is not None
        moved = {
            one.name: one.numpy() for one in Structure(direction, {item.name: item}).of(item, hit, planning)
        }
        expected = load_file(files[there])
        assert moved
        for name, array in moved.items():
            raw = expected[name].reshape(-1).view(torch.uint8).numpy().tobytes()
            assert array.tobytes() == raw, name


def test_columns_of_quantized_tensors_stay(tmp_path: Path) -> None:
    file = _quantized(tmp_path, "b", torch.randn(64, 64).to(torch.bfloat16), "int8", "lightx2v")
    planning = Planning()
    direction = Direction(Conversion(rules(strict.parse("[[a, {view: b, transpose: true}]]", "x"))), False)
    (item,) = _items(file, planning).values()
    hit = direction.find(item.name)
    assert hit is not None
    with pytest.raises(PlanError, match="more than whole rows move"):
        list(Structure(direction, {item.name: item}).of(item, hit, planning))


@pytest.mark.parametrize("convention", ["bitsandbytes", "neutral"])
@pytest.mark.parametrize("scheme", ["nf4", "bnb_fp4"])
@pytest.mark.parametrize(
    ("rule", "forward"),
    [("{join: [b, c]}", False), ("{join: [b, c]}", True), ("{swap: b}", True), ("{swap: b}", False)],
)
def test_a_shape_that_stands_in_a_state_is_not_left_behind(
    tmp_path: Path, rule: str, forward: bool, scheme: str, convention: str
) -> None:
    name = "a" if forward else "b"
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    files = [_quantized(tmp_path, one, weight, scheme, convention) for one in (name, "c")[: 2 - forward]]
    planning = Planning()
    direction = Direction(Conversion(rules(strict.parse(f"[[a, {rule}]]", "x.yaml"))), forward)
    items = {label: one for file in files for label, one in _items(file, planning).items()}
    (hit,) = (hit for label in items if label.startswith(name) and (hit := direction.find(label)) is not None)
    with pytest.raises(PlanError, match=f"table and {scheme}_state as {scheme} are those of all its rows"):
        list(Structure(direction, items).of(items[f"{name}.weight"], hit, planning))
