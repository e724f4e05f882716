"""Laws that every format of weight files keeps, whatever it is: each entry of the table goes through them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save

import transcode as tc
from transcode.containers import table
from transcode.containers.checkpoint import Source
from transcode.containers.compare import files_of
from transcode.containers.container import FolderContainer
from transcode.containers.source import open_place, open_source
from transcode.core.flow import Flow
from transcode.core.output import Stored, Unit
from transcode.core.scratch import Scratch
from transcode.errors import FormatError, PlanError, TranscodeError
from transcode.io.folder import LocalFolder

from .gguf_file import gguf
from .memory import MemoryFolder

draw = torch.Generator().manual_seed(11)
TENSORS: dict[str, torch.Tensor] = {
    "a.weight": torch.randn(37, 24, generator=draw).bfloat16(),
    "a.bias": torch.randn(37, generator=draw),
    "b.weight": torch.randn(5, 3, 7, generator=draw).half(),
    "codes": torch.randint(-128, 128, (9, 5), generator=draw, dtype=torch.int8),
    "flags": torch.tensor([True, False, True]),
    "none": torch.empty(0, 4),
    "one": torch.tensor(7, dtype=torch.int64),
    "wide": torch.randn(2, 1000, generator=draw, dtype=torch.float64),
}
METADATA = {"format": "pt", "ä": "ö\n\u2028", "empty": "", "json": json.dumps({"a": [1, None]})}


def dumped(value: object, **how: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **how)
    return out.getvalue()


def _verify(source) -> None:
    for one in source.inputs:
        one.verify()


@dataclass(frozen=True)
class Sample:
    """Files as a format's own library writes them.

    Attributes:
        kind: name of the entry of the table.
        files: what lies in the folder.
        names: how its tensors are called, by the name in :data:`TENSORS`.
        lacks: names of those that the format cannot hold.
    """

    kind: str
    files: Callable[[], Mapping[str, bytes]]
    names: Callable[[str], str] = str
    metadata: Mapping[str, str] | None = None
    lacks: frozenset[str] = frozenset()

    @property
    def main(self) -> str:
        """The file that is cut and damaged."""
        return sorted(self.files())[-1]


def deepcompressor() -> dict[str, bytes]:
    weights = {name: TENSORS[name] for name in ("a.weight", "wide")}
    rest = {name: tensor for name, tensor in TENSORS.items() if name not in weights}
    return {"model.pt": dumped(weights), "scale.pt": dumped(rest)}


LACKS = {"GGUF": frozenset({"flags"})}
"""By the name of an entry of the table, tensors whose dtype it does not have."""


def gguf_sample() -> dict[str, bytes]:
    held = [(name, tensor) for name, tensor in TENSORS.items() if name not in LACKS["GGUF"]]
    numbers = {
        torch.bfloat16: 30,
        torch.float32: 0,
        torch.float16: 1,
        torch.float64: 28,
        torch.int8: 24,
        torch.int64: 27,
    }
    tensors = [
        (name, numbers[one.dtype], tuple(one.shape), one.reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, one in held
    ]
    return {"m.gguf": gguf(tensors, {key: ("string", value) for key, value in METADATA.items()})}


SAMPLES = {
    "safetensors": Sample(
        "safetensors", lambda: {"m.safetensors": save(TENSORS, METADATA)}, metadata=METADATA
    ),
    "GGUF": Sample("GGUF", gguf_sample, metadata=METADATA, lacks=LACKS["GGUF"]),
    "torch": Sample("torch", lambda: {"m.pt": dumped(TENSORS)}),
    "torch of old": Sample("torch", lambda: {"m.bin": dumped(TENSORS, _use_new_zipfile_serialization=False)}),
    "DeepCompressor": Sample(
        "DeepCompressor",
        deepcompressor,
        lambda name: name if name in ("a.weight", "wide") else f"scale.pt/{name}",
    ),
}
FOREIGN = {
    "GGJT": b"tjgg" + bytes(range(60)),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(56),
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 20,
    "page": b"<!DOCTYPE html><html><body>not found</body></html>" + b" " * 20,
    "numpy": b"\x93NUMPY\x01\x00" + b" " * 56,
    "zeros": bytes(64),
    "text": b"hello, this is no model at all, it is only a file of some text",
}


def everything() -> list[str]:
    return [entry.name for entry in (*table.FILES, *table.folders())]


def saved(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def contents(source: Source) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = {}
    for tensor in source.tensors:
        data = b"".join(
            np.ascontiguousarray(piece.data).tobytes()
            for piece in tensor.read(0, tensor.spec.rows, Scratch())
        )
        found[tensor.name] = (tensor.spec.dtype.name, tensor.spec.shape, data)
    return found


def expected(sample: Sample) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    kinds = {
        torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16", torch.float64: "F64",
        torch.int8: "I8", torch.int64: "I64", torch.bool: "BOOL",
    }  # fmt: skip
    return {
        sample.names(name): (
            kinds[tensor.dtype],
            tuple(tensor.shape),
            tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in TENSORS.items()
        if name not in sample.lacks
    }


def test_every_entry_of_the_table_has_a_sample() -> None:
    assert sorted({sample.kind for sample in SAMPLES.values()}) == sorted(everything())


def test_no_two_entries_claim_the_same() -> None:
    suffixes = [suffix for entry in table.FILES for suffix in entry.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert len(set(everything())) == len(everything())
    for entry in table.FILES:
        assert all(suffix.startswith(".") for suffix in entry.suffixes)
        assert entry.indexed is None or entry.indexed in entry.suffixes
    assert set(table.WRITABLE) <= set(table.FILES)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
class TestReading:
    """What is read is what the format's own library wrote."""

    def test_tensors_are_those_of_the_library(self, sample: Sample, tmp_path: Path) -> None:
        with open_source(saved(tmp_path, sample.files())) as source:
            assert contents(source) == expected(sample)
            assert dict(source.metadata) == (sample.metadata or {})

    @pytest.mark.parametrize("mmap", [True, False])
    def test_tiles_change_nothing(self, sample: Sample, tmp_path: Path, mmap: bool) -> None:
        with open_source(saved(tmp_path, sample.files()), mmap=mmap) as source:
            for tensor in source.tensors:
                whole = expected(sample)[tensor.name][2]
                rows = tensor.spec.rows
                for step in (1, 3, max(rows, 1)):
                    parts = bytearray(len(whole))
                    for start in reversed(range(0, rows, step)):
                        for piece in tensor.read(start, min(start + step, rows), Scratch()):
                            data = np.ascontiguousarray(piece.data).tobytes()
                            parts[piece.offset : piece.offset + len(data)] = data
                    assert bytes(parts) == whole, (tensor.name, step)

    def test_wherever_it_lies(self, sample: Sample, tmp_path: Path) -> None:
        """The protocols of bytes and folders are all that is needed of a place."""
        place = MemoryFolder("mem://store/model", {**sample.files(), "config.json": b"{}"})
        source = open_place(place)
        assert contents(source) == expected(sample)
        _verify(source)
        beside = [path.name for path in source.side_files]
        assert beside == (["config.json"] if sample.kind != "DeepCompressor" else [])
        local = open_source(saved(tmp_path / "in", {**sample.files(), "config.json": b"{}"}))
        for name, made in (("there", source), ("here", local)):
            Flow(made) | tc.write(tmp_path / f"{name}.safetensors")
        assert (tmp_path / "there.safetensors").read_bytes() == (tmp_path / "here.safetensors").read_bytes()
        for name, data in sample.files().items():
            place.put(name, b"other")
            with pytest.raises(FormatError, match=rf"^mem://store/model/{name}: was changed"):
                _verify(source)
            place.put(name, data)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
class TestHostile:
    """What is damaged is refused by name, and never read as something else."""

    def test_cut_files_are_refused_by_name(self, sample: Sample, tmp_path: Path) -> None:
        files = sample.files()
        whole = files[sample.main]
        cuts = sorted({*range(0, 80, 9), *range(0, len(whole), len(whole) // 40), len(whole) - 1})
        for cut in cuts:
            folder = saved(tmp_path, {**files, sample.main: whole[:cut]})
            with pytest.raises(FormatError) as error:
                open_source(folder)
            assert error.value.file == str(folder / sample.main), cut
            assert "\n" not in str(error.value)

    def test_damaged_bytes_are_refused_or_read(self, sample: Sample, tmp_path: Path) -> None:
        """Any byte may be any other: what comes is an error that names the file, or facts that are whole."""
        files = sample.files()
        whole = files[sample.main]
        refused = 0
        for at in {*range(0, 64, 3), *range(0, len(whole), len(whole) // 60)}:
            damaged = whole[:at] + bytes([whole[at] ^ 0xA5]) + whole[at + 1 :]
            folder = saved(tmp_path, {**files, sample.main: damaged})
            error = None
            try:
                with open_source(folder) as source:
                    for name, (_, shape, data) in contents(source).items():
                        assert len(data) % max(int(np.prod(shape)), 1) == 0, name
            except TranscodeError as raised:
                error = raised
            if error is not None:
                refused += 1
                assert str(error).startswith(str(folder)), at
        assert refused > 5

    @pytest.mark.parametrize("other", FOREIGN)
    def test_what_is_another_is_refused_by_name(self, sample: Sample, other: str, tmp_path: Path) -> None:
        folder = saved(tmp_path, {**sample.files(), sample.main: FOREIGN[other]})
        with pytest.raises(FormatError) as error:
            open_source(folder)
        assert error.value.file == str(folder / sample.main)

    def test_an_empty_file_is_refused_by_name(self, sample: Sample, tmp_path: Path) -> None:
        folder = saved(tmp_path, {**sample.files(), sample.main: b""})
        with pytest.raises(FormatError) as error:
            open_source(folder)
        assert error.value.file == str(folder / sample.main)


FILES = {name: sample for name, sample in SAMPLES.items() if sample.kind in {one.name for one in table.FILES}}


@pytest.mark.parametrize("entry", table.FILES, ids=lambda entry: entry.name)
class TestSniffing:
    """A format knows its own, and says no to all else."""

    def test_others_are_not_taken(self, entry, tmp_path: Path) -> None:
        for sample in FILES.values():
            if sample.kind != entry.name:
                assert not entry.begins(sample.files()[sample.main][:64])
        for head in FOREIGN.values():
            assert not entry.begins(head[:64])
        assert not entry.begins(b"")

    def test_names_do_not_hide_what_a_file_is(self, entry, tmp_path: Path) -> None:
        """By content first; a file of a format without a beginning of its own is known by its suffix."""
        for sample in FILES.values():
            if sample.kind == entry.name:
                data = sample.files()[sample.main]
                suffixes = [suffix for one in table.FILES for suffix in one.suffixes]
                for suffix in suffixes if entry.begins(data[:64]) else entry.suffixes:
                    folder = saved(tmp_path, {f"x{suffix}": data})
                    file = LocalFolder(folder).at(f"x{suffix}")
                    assert table.sniff(file) is entry
                    assert contents(open_source(folder / file.name)) == expected(sample)

    def test_suffixes_are_its_own(self, entry) -> None:
        for suffix in entry.suffixes:
            assert table.of_name(f"model{suffix}") is entry
        assert table.of_name("model.onnx") is None


@pytest.mark.parametrize("entry", table.folders(), ids=lambda entry: entry.name)
def test_a_folder_of_another_format_is_not_taken(entry: FolderContainer, tmp_path: Path) -> None:
    for number, sample in enumerate(SAMPLES.values()):
        folder = LocalFolder(saved(tmp_path / str(number), sample.files()))
        assert entry.holds(folder) == (sample.kind == entry.name)


@pytest.mark.parametrize("entry", table.FILES, ids=lambda entry: entry.name)
def test_metadata_is_held_or_said_not_to_be(entry, tmp_path: Path) -> None:
    for sample in FILES.values():
        if sample.kind == entry.name:
            path = saved(tmp_path, sample.files()) / sample.main
            if entry.metadata is None:
                with pytest.raises(FormatError, match=f"{entry.title} files hold no"):
                    files_of(path)
                assert dict(open_source(path).metadata) == {}
            else:
                assert files_of(path) == (path,)


@pytest.mark.parametrize("entry", table.WRITABLE, ids=lambda entry: entry.name)
class TestWriting:
    """What is laid out can be read again, in any order of what goes in, within the limits that are named."""

    def units(self, entry) -> list[Unit]:
        lacks = LACKS.get(entry.name, ())
        facts = [(one.name, one.spec) for one in self.source().tensors if one.name not in lacks]
        return [Unit(number, (Stored(name, "values", spec),)) for number, (name, spec) in enumerate(facts)]

    def source(self) -> Source:
        return open_place(MemoryFolder("mem://model", SAMPLES["torch"].files()))

    def filled(self, planned) -> bytes:
        data = {tensor.name: contents(self.source())[tensor.name][2] for tensor in self.source().tensors}
        raw = bytearray(planned.size)
        raw[: len(planned.header)] = planned.header
        for place in planned.places:
            at = len(planned.header) + place.begin
            assert raw[at : at + place.end - place.begin] == bytes(place.end - place.begin), "taken"
            raw[at : at + place.end - place.begin] = data[place.name]
        return bytes(raw)

    def test_round_trip(self, entry) -> None:
        name = f"m{entry.suffixes[0]}"
        planned = entry.lay_out(name, self.units(entry), METADATA)
        assert planned.name == name
        raw = self.filled(planned)
        source = open_place(MemoryFolder("mem://model", {name: raw}))
        assert contents(source) == expected(
            replace(SAMPLES["torch"], lacks=LACKS.get(entry.name, frozenset()))
        )
        assert dict(source.metadata) == METADATA
        for place in planned.places:
            assert (len(planned.header) + place.begin) % place.spec.dtype.itemsize == 0
            assert place.end - place.begin == place.spec.nbytes

    def test_the_order_of_what_goes_in_changes_nothing(self, entry) -> None:
        units = self.units(entry)
        one = entry.lay_out("m", units, METADATA)
        two = entry.lay_out("m", units[::-1], dict(reversed(METADATA.items())))
        assert one == two

    def test_files_by_their_names(self, entry) -> None:
        assert table.written(f"m{entry.suffixes[0]}") is entry
        assert table.written("m") is None
        with pytest.raises(PlanError, match=r"m\.txt: is no name"):
            table.writer("m.txt")

    def test_too_much_metadata_is_refused_by_name(self, entry) -> None:
        assert entry.metadata is not None
        with pytest.raises(PlanError, match=r"^out/m: "):
            entry.lay_out("m", [], {str(n): "" for n in range(entry.metadata.keys + 1)}, file="out/m")
        with pytest.raises(PlanError, match=r"^out/m: "):
            entry.lay_out("m", [], {"k": "x" * entry.metadata.nbytes}, file="out/m")

    def test_most_metadata_is_read_again(self, entry) -> None:
        metadata = {str(n): "" for n in range(entry.metadata.keys)}
        planned = entry.lay_out("m", [], metadata)
        name = f"m{entry.suffixes[0]}"
        assert dict(open_place(MemoryFolder("mem://model", {name: planned.header})).metadata) == metadata

    def test_text_that_cannot_be_written_is_refused_by_name(self, entry) -> None:
        for metadata in ({"k": "\ud800"}, {"\ud800": "v"}):
            with pytest.raises(PlanError, match=r"^out/m: "):
                entry.lay_out("m", [], metadata, file="out/m")
        spec = self.units(entry)[0].stored[0].spec
        with pytest.raises(PlanError, match=r"^out/m: .*\\ud800"):
            entry.lay_out("m", [Unit(0, (Stored("\ud800", "values", spec),))], {}, file="out/m")


def test_the_reference_reads_what_is_written(tmp_path: Path) -> None:
    """Whole runs from every format: the library of the one that is written gives back torch's tensors."""
    for number, sample in enumerate(SAMPLES.values()):
        source = saved(tmp_path / str(number), sample.files())
        out = tmp_path / f"{number}.safetensors"
        tc.open(source) | tc.write(out)
        found = load_file(out)
        for name, tensor in TENSORS.items():
            if name not in sample.lacks:
                assert torch.equal(found[sample.names(name)], tensor)
        with safetensors.safe_open(out, "pt") as file:
            assert set(sample.metadata or {}) <= set(file.metadata())
