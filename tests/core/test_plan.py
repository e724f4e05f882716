"""Plans: offsets by the rules of the format, collisions across files."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.expressions import NOTHING
from transcode.core.dtypes import DTYPES, dtype
from transcode.core.layout import Stored, Unit
from transcode.core.plan import lay_out
from transcode.core.spec import Spec
from transcode.core.tensor import plain
from transcode.errors import PlanError


def tensors(number: int):
    return [plain(f"t{i}", Spec(dtype("F32"), (1,)), NOTHING) for i in range(number)]


def unit(number: int, *parts: tuple[str, str, tuple[int, ...]]) -> Unit:
    return Unit(
        number, tuple(Stored(name, "values", Spec(DTYPES[kind], shape)) for name, kind, shape in parts)
    )


def render(entries, size) -> bytes:
    return b"h" * 16


WHOLE = [name for name, kind in DTYPES.items() if kind.bits >= 8]


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1, max_size=6), st.sampled_from(WHOLE), st.lists(st.integers(0, 5), max_size=3)
        ),
        min_size=1,
        max_size=20,
        unique_by=lambda t: t[0],
    )
)
@settings(max_examples=100, deadline=None)
def test_parts_lie_aligned_without_gaps_widest_first(parts):
    units = [unit(i, (name, kind, tuple(shape))) for i, (name, kind, shape) in enumerate(parts)]
    (file,) = lay_out([("f", units)], tensors(len(units)), render)
    at = 0
    for place in file.places:
        assert place.begin == at
        assert place.begin % place.spec.dtype.itemsize == 0
        assert place.end - place.begin == place.spec.nbytes
        at = place.end
    assert file.size == 16 + at
    order = [(-place.spec.dtype.rank, place.name.encode()) for place in file.places]
    assert order == sorted(order)


def test_one_name_in_two_files_is_a_collision():
    cut = [("a", [unit(0, ("x", "F32", (1,)))]), ("b", [unit(1, ("x", "F32", (1,)))])]
    with pytest.raises(PlanError, match="'t0' and 't1'"):
        lay_out(cut, tensors(2), render)


def test_one_name_for_two_parts_of_a_tensor_is_a_collision():
    with pytest.raises(PlanError, match="x"):
        lay_out([("a", [unit(0, ("x", "F32", (1,)), ("x", "I8", (1,)))])], tensors(1), render)


def test_json_of_a_plan_is_plain(save, tmp_path):
    import json

    import transcode as tc

    flow = tc.open(save({"ä.weight": torch.ones(4, 4), "s": torch.tensor(1)})) | tc.quantize(
        "int8", targets=["ä"]
    )
    plan = flow.plan(tc.write(tmp_path / "o", max_tensors=2))
    told = json.loads(json.dumps(plan.to_json()))
    assert told["source"] == str(tmp_path / "model.safetensors")
    assert {t["name"] for t in told["tensors"]} == {"ä.weight", "s"}
    assert told["bytes_in"] == 64 + 8
