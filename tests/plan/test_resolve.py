"""The steps from a flow to a plan: what is chosen where the user does not say, and what is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import transcode as tc
from transcode.core.flow import Transform
from transcode.errors import PlanError
from transcode.plan import resolve


@dataclass(frozen=True)
class Stage(Transform):
    """One that only says what it is for."""

    kind: ClassVar[str] = "stage"
    encodes: bool = False  # type: ignore[misc]
    name: str | None = None

    @property
    def consumer(self) -> str | None:
        return self.name

    def apply(self, tensors: Any, planning: Any) -> Iterator[Any]:
        yield from tensors

    def config(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("stages", "wanted"),
    [
        ([], "plain"),
        ([Stage()], "plain"),
        ([Stage(encodes=True)], "lightx2v"),
        ([Stage(name="diffusers")], "diffusers"),
        ([Stage(name="diffusers"), Stage(name="lightx2v")], "lightx2v"),
        ([Stage(name="of_nobody")], "plain"),
        ([Stage(encodes=True, name="nunchaku"), Stage(encodes=True)], "nunchaku"),
        ([Stage(encodes=True), Stage(encodes=True, name="nunchaku")], "nunchaku"),
        ([Stage(encodes=True), Stage(name="diffusers")], "lightx2v"),
        ([Stage(encodes=True, name="nunchaku"), Stage(name="diffusers")], "nunchaku"),
    ],
)
def test_the_convention_that_nobody_names(stages, wanted, wan, tmp_path):
    flow = tc.open(wan)
    for stage in stages:
        flow = flow | stage
    assert tc.write(tmp_path / "o").plan(flow).summary["convention"] == wanted


def test_the_users_convention_wins(wan, tmp_path):
    flow = tc.open(wan) | Stage(encodes=True, name="nunchaku")
    assert tc.write(tmp_path / "o", convention="comfyui").plan(flow).summary["convention"] == "comfyui"


def test_what_is_one_in_the_source_is_told(tmp_path):
    shared, alone = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    torch.save({"a": shared, "b": shared, "c": alone}, tmp_path / "m.pt")
    plan = tc.write(tmp_path / "o").plan(tc.open(tmp_path / "m.pt"))
    notes = [str(note) for note in plan.log.notes if note.kind == "shared"]
    assert len(notes) == 1
    assert "a, b share their bytes" in notes[0]


def test_nothing_is_left(save, tmp_path):
    source = save({"a": torch.ones(2)})
    with pytest.raises(PlanError, match="no tensor is left"):
        tc.write(tmp_path / "o").plan(tc.open(source) | tc.drop("a"))


def test_later_metadata_wins(save, tmp_path):
    source = save({"a": torch.ones(2)}, metadata={"mine": "old", "theirs": "kept", "format": "np"})
    plan = tc.write(tmp_path / "o.safetensors", metadata={"mine": "new"}).plan(tc.open(source))
    (file,) = plan.files
    for text in (b'"mine":"new"', b'"theirs":"kept"', b'"format":"pt"'):
        assert text in file.header.replace(b" ", b""), text


def test_every_step_has_its_say():
    """A step says in its first line what it finds: the list of them is how a plan is made."""
    assert all(step.__doc__ and step.__module__ == resolve.__name__ for step in resolve.STEPS)
    assert len(set(resolve.STEPS)) == len(resolve.STEPS)
