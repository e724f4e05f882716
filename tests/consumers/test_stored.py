"""What is quantized in a source is seen by names, dtypes and shapes; where nothing is, nothing is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.expressions import NOTHING
from transcode.consumers import group
from transcode.consumers.stored import plain_fp8, stored_quantized
from transcode.core.dtypes import DTYPES
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain

ROOT = Path(__file__).parents[2]


def tensors(**facts: tuple[str, tuple[int, ...]]) -> list[LazyTensor]:
    return [plain(name, Spec(DTYPES[dtype], shape), NOTHING) for name, (dtype, shape) in facts.items()]


INT8 = tensors(**{"a.weight": ("I8", (8, 64)), "a.weight_scale": ("F32", (8, 1)), "a.bias": ("F32", (8,))})
FP8 = tensors(
    **{"a.weight": ("F8_E4M3", (8, 64)), "b.weight": ("F8_E4M3", (8, 8)), "b.weight_scale": ("F32", (8, 1))}
)


def test_what_is_stored_quantized() -> None:
    stored = stored_quantized(INT8)
    assert stored.tensors == {"a.weight": "a.weight"}
    assert stored.parts == {"a.weight", "a.weight_scale"}
    assert not stored.foreign
    assert not stored_quantized(tensors(**{"a.weight": ("BF16", (8, 8)), "a.weight_scale": ("F32", (8, 1))}))


def test_what_is_quantized_in_another_way_is_told_by_its_names() -> None:
    hqq = tensors(**{"a.W_q": ("U8", (32, 64)), "a.scale_q": ("F16", (64, 1)), "a.zero": ("F16", (64, 1))})
    stored = stored_quantized(hqq)
    assert stored
    ((title, endings),) = stored.foreign.values()
    assert title == "HQQ"
    assert ".W_q" in endings


def test_fp8_without_a_scale() -> None:
    assert [one.name for one in plain_fp8(FP8, stored_quantized(FP8))] == ["a.weight"]


def test_sixteen_bits_may_be_codes_of_others() -> None:
    facts = {"a.qweight": ("I16", (8, 64)), "a.qzeros": ("I16", (1, 8)), "a.scales": ("F16", (1, 64))}
    assert list(stored_quantized(tensors(**facts)).foreign) == ["a.qweight"]


def test_names_that_two_makers_use() -> None:
    """Codes and scales of nunchaku's own layers are called as those of Nunchaku Lite, which has others."""
    facts = {"a.qweight": ("I8", (128, 64)), "a.wscales": ("BF16", (2, 128))}
    own = stored_quantized(tensors(**facts, **{"a.smooth": ("BF16", (128,))}))
    assert [title for title, _ in own.foreign.values()] == ["SVDQuant of nunchaku"]
    assert not stored_quantized(tensors(**facts, **{"a.smooth_factor": ("BF16", (128,))})).foreign


LOADED = """
import sys
from transcode.cli import main
try:
    main(["run", sys.argv[1], sys.argv[2], "--scheme", "int8", "-q"])
except SystemExit as done:
    assert done.code == 0
print(*(name for name in sys.modules if name.startswith(("transcode.consumers", "transcode.stages"))))
"""


def test_a_plain_source_loads_nothing_that_reads_quantized_ones(wan, tmp_path) -> None:
    command = [sys.executable, "-c", LOADED, str(wan), str(tmp_path / "out")]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    loaded = ran.stdout.split()
    assert "transcode.stages.opening" in loaded
    for name in ("consumers.recognise", "consumers.group", "consumers.companions", "stages.dequantize"):
        assert f"transcode.{name}" not in loaded


def test_a_quantized_source_is_looked_through_once(wan, tmp_path, cli, monkeypatch) -> None:
    """By all stages and the sink together; what they decode is no longer stored quantized."""
    assert cli("run", wan, tmp_path / "a", "--scheme", "int8").code == 0
    looks = []
    coded = group.coded
    monkeypatch.setattr(group, "coded", lambda names, known: looks.append(1) or coded(names, known))
    assert cli("run", tmp_path / "a", tmp_path / "b", "--scheme", "fp8", "-n").code == 0
    assert len(looks) == 1
    assert cli("run", tmp_path / "a", tmp_path / "b", "--convention", "compressed_tensors", "-n").code == 0
    assert len(looks) == 2
