"""The end of a flow: names of files, what is refused before anything is read, what comes along."""

# ruff: noqa: E501  tables of cases read better in long lines

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from transcode.containers.safetensors import header
from transcode.core.dtypes import DTYPES
from transcode.core.performance import Performance, parse_size
from transcode.core.spec import Spec
from transcode.errors import DataError, PlanError, RecipeError
from transcode.execution import moves
from transcode.execution.execute import execute


@pytest.mark.parametrize(
    ("dst", "options", "said"),
    [
        ("o", {"layout": "by_blok"}, "by_blok"),
        ("o.safetensors", {"layout": "by_block"}, "by_block"),
        ("o.safetensors", {"max_tensors": 3}, "max_tensors"),
        ("o", {"max_tensors": 0}, "0"),
        ("o", {"max_tensors": 1, "max_shard_size": 1}, "both"),
        ("o", {"layout": "single_file", "max_shard_size": "1GB"}, "single_file"),
        ("o", {"name": "a/b"}, "a/b"),
        ("o", {"workers": 0}, "0"),
        ("o", {"memory": "0"}, "0"),
        ("o", {"memory": "1 parsec"}, "parsec"),
        ("o", {"device": "tpu"}, "tpu"),
        ("o.safetensors", {"name": "x"}, "does nothing"),
        ("", {}, "empty"),
    ],
)
def test_wrong_options(dst, options, said):
    with pytest.raises(RecipeError) as caught:
        tc.write(dst, **options)
    assert said in str(caught.value)


def test_unknown_convention(wan, tmp_path):
    with pytest.raises(RecipeError, match="klingon"):
        tc.open(wan) | tc.write(tmp_path / "o", convention="klingon")


def test_by_block_needs_blocks(save, tmp_path):
    with pytest.raises(PlanError, match="by_block"):
        tc.open(save({"a": torch.ones(2)})) | tc.write(tmp_path / "o", layout="by_block")


def test_side_files_come_along_but_no_weights_and_no_index(wan, tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    tensors = {"a.weight": torch.ones(4, 4)}
    save_file(tensors, source / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "vocab.txt", "README.md"):
        (source / name).write_text(name)
    torch.save(tensors, source / "pytorch_model.bin")
    (source / "pytorch_model.bin.index.json").write_text('{"metadata": {}, "weight_map": {}}')
    tc.open(source) | tc.write(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors", "config.json", "tokenizer.json", "vocab.txt", "README.md",
    }  # fmt: skip
    tc.open(source) | tc.write(tmp_path / "bare", copy_metadata=False)
    assert {p.name for p in (tmp_path / "bare").iterdir()} == {"model.safetensors"}


def test_the_default_layout_follows_the_source(wan, tmp_path):
    assert tc.open(wan).plan(tc.write(tmp_path / "o")).summary["layout"] == "chunked"
    tc.open(wan) | tc.write(tmp_path / "one.safetensors")
    assert (
        tc.open(tmp_path / "one.safetensors").plan(tc.write(tmp_path / "o")).summary["layout"]
        == "single_file"
    )


def test_every_dtype_of_torch_goes_through_unchanged(save, tmp_path):
    kinds = [
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64,
        torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
        torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    ]  # fmt: skip
    raw = torch.arange(2 * 3 * 8, dtype=torch.uint8) % 2
    tensors = {str(kind): raw.clone().view(kind).reshape(2, -1) for kind in kinds}
    tensors |= {f"scalar {kind}": value.flatten()[0].clone() for kind, value in tensors.items()}
    tensors |= {"none": torch.empty(3, 0), "ü ñ": torch.ones(1), "": torch.ones(1)}
    tc.open(save(tensors)) | tc.write(tmp_path / "o.safetensors")
    found = load_file(tmp_path / "o.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert torch.equal(found[name].flatten().view(torch.uint8), value.flatten().view(torch.uint8)), name


def test_renamed_blocks_still_get_their_files(wan: Path, tmp_path: Path) -> None:
    flow = tc.open(wan) | tc.rename({"^blocks": "layer_stack"})
    report = flow | tc.write(tmp_path / "out", layout="by_block")
    names = [file.name for file in report.plan.files]
    assert names == ["block_0.safetensors", "block_1.safetensors", "non_block.safetensors"]


def test_an_output_among_the_sources_files_is_warned_of(wan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(wan, folder)
    plan = tc.open(folder).plan(tc.write(folder / "merged.safetensors"))
    assert any("two models" in warning for warning in map(str, plan.log.warnings))
    assert not any(
        "two models" in str(w)
        for out in (tmp_path / "x", folder / "below")
        for w in tc.open(folder).plan(tc.write(out)).log.warnings
    )


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("rows", "needed"), [(300, 128), (50, 50)])
def test_rows_that_one_worker_has_no_memory_for_are_refused(rows, needed, workers, save, tmp_path):
    """Blocks of 128 rows are encoded together: twice their bytes must fit into a worker's share."""
    columns = 8192
    flow = tc.open(save({"a.weight": torch.ones(rows, columns, dtype=torch.bfloat16)})) | tc.quantize(
        "fp8", granularity="block"
    )
    least = needed * columns * 2
    enough = 2 * least * workers
    out = tmp_path / "o.safetensors"
    assert flow.plan(tc.write(out, memory=enough, workers=workers)).bytes_out
    fewer = flow.plan(tc.write(out, memory=2 * least, workers=workers)).log.notes
    assert any(f"1 of {workers} workers run" in str(note) for note in fewer) == (workers > 1)
    with pytest.raises(
        PlanError, match=rf"a\.weight: 128 rows of it need {2 * least} bytes at a time, more than .* raise"
    ):
        flow | tc.write(out, memory=2 * least - 1, workers=workers)
    assert not out.exists()
    # One row at a time fits anywhere, and so does what is no more than the least tile.
    assert (tc.open(save({"a.weight": torch.ones(300, columns)})) | tc.quantize("int8")).plan(
        tc.write(out, memory=1, workers=workers)
    )
    small = tc.open(save({"a.weight": torch.ones(128, 256, dtype=torch.bfloat16)}))
    assert (small | tc.quantize("fp8", granularity="block")).plan(tc.write(out, memory=1, workers=workers))


WIDE = (4, 256_000)  # rows of a megabyte in F32


def wide(folder: Path, kind: str) -> tuple[Path, torch.Tensor]:
    """A file with wide rows, and what they hold: as they lie, or gathered from a transposed pickle."""
    values = torch.arange(4 * 256_000, dtype=torch.float32).reshape(WIDE)
    if kind == "safetensors":
        save_file({"a": values}, folder / "in.safetensors")
        return folder / "in.safetensors", values
    torch.save({"a": values.reshape(256_000, 4).t()}, folder / "in.pt")
    return folder / "in.pt", values.reshape(256_000, 4).t().contiguous()


class Sizes:
    """Stands where the files are, and notes how much is written at a time."""

    def __init__(self) -> None:
        self.most = 0

    def write(self, file: int, offset: int, data: np.ndarray) -> None:
        self.most = max(self.most, data.nbytes)

    def copy(self, move) -> int:
        return 0


@pytest.mark.parametrize("memory", ["128MB", "1MB", "1"])
@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
@pytest.mark.parametrize("to", [None, "bf16", "f64"])
def test_wide_rows_are_cut_where_nothing_computes_on_them(to, kind, memory, tmp_path):
    """64 workers share 1 MB, in which no row fits; nobody is refused, and no worker has to go for it."""
    source, values = wide(tmp_path, kind)
    flow = tc.open(source)
    if to is not None:
        flow = flow | tc.cast(to)
    kinds = {None: torch.float32, "bf16": torch.bfloat16, "f64": torch.float64}
    out = tmp_path / "o.safetensors"
    plan = flow.plan(tc.write(out, workers=64, memory=memory))
    assert not [note for note in map(str, plan.log.notes) if "of memory too few" in note]
    sizes = Sizes()
    tile = Performance(workers=64, memory=parse_size(memory)).tile_bytes()
    execute(plan, sizes, workers=2, tile_bytes=tile)
    assert 0 < sizes.most <= (2 if to == "f64" else 1) * tile
    flow | tc.write(out, workers=64, memory=memory)
    assert torch.equal(load_file(out)["a"], values.to(kinds[to]))
    whole = tmp_path / "whole.safetensors"
    flow | tc.write(whole, workers=1, tile=1 << 30)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("kind", ["U8", "BOOL", "I64", "F4", "F6_E2M3", "C64"])
def test_wide_rows_of_every_width(kind, tmp_path, monkeypatch):
    """Cut rows of every number of bits, packed ones too, come out as they are, also where none is copied."""
    monkeypatch.setattr(moves, "LEAST", 1 << 60)
    spec = Spec(DTYPES[kind], (3, 100_004))
    data = np.random.default_rng(0).integers(0, 2, spec.nbytes, np.uint8)
    entries = [header.Entry("a", spec, 0, spec.nbytes)]
    source, out = tmp_path / "in.safetensors", tmp_path / "o.safetensors"
    source.write_bytes(header.render(entries, {}, file=source) + data.tobytes())
    plan = tc.open(source).plan(tc.write(out, workers=64, memory="1MB"))
    sizes = Sizes()
    execute(plan, sizes, tile_bytes=1)
    assert sizes.most == 4096 * DTYPES[kind].bits // 8
    tc.open(source) | tc.write(out, workers=64, memory="1MB")
    assert out.read_bytes()[-spec.nbytes :] == data.tobytes()


@pytest.mark.parametrize("tile", [1, 1 << 30])
def test_an_error_in_a_cut_row_says_where(tile, save, tmp_path):
    values = torch.ones(3, 20_000)
    values[1, 12_345] = 1e38
    flow = tc.open(save({"a": values})) | tc.cast("f16")
    with pytest.raises(DataError, match="row 1, column 12345 does not fit F16"):
        flow | tc.write(tmp_path / "o.safetensors", tile=tile)


def test_rows_that_are_computed_on_as_a_whole_are_read_by_fewer_workers(save, tmp_path):
    """A scale for a row is not known before its end: 64 workers of 2 MB each could not hold two of a megabyte."""
    source = save({"a.weight": torch.arange(4 * 256_000, dtype=torch.float32).reshape(WIDE)})
    flow = tc.open(source) | tc.quantize("int8")
    plan = flow.plan(tc.write(tmp_path / "o.safetensors", workers=64))
    assert any("62 of 64 workers run" in note for note in map(str, plan.log.notes))


def test_the_index_is_the_last_of_all_files(wan, tmp_path):
    plan = tc.open(wan).plan(tc.write(tmp_path / "o", max_tensors=30))
    names = [side.name for side in plan.side_files]
    assert len(plan.files) == 3
    assert names[-1].endswith(".index.json")
    assert "config.json" in names[:-1]
