"""PyTorch files: the bytes that torch.load gives, without torch; nothing runs; damage is told."""

from __future__ import annotations

import argparse
import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import functools
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from transcode.containers.source import open_source
from transcode.containers.torch.names import NAMES, persistent
from transcode.containers.torch.pickle import LEGACY_MAGIC, read_pickle
from transcode.containers.torch.placeholder import Placeholder
from transcode.containers.torch.roots import find_root, holds_tensors
from transcode.containers.torch.unpickle import Unpickler
from transcode.core.context import Context
from transcode.core.tensor import LazyTensor
from transcode.errors import FormatError

CONTAINERS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 3": {"pickle_protocol": 3},
    "protocol 5": {"pickle_protocol": 5},
}
NAN = float("nan")


def of_every_kind() -> dict[str, torch.Tensor]:
    """Tensors of every dtype, contiguous or not, sharing storages or not."""
    gen = torch.Generator().manual_seed(3)
    cube = torch.arange(120.0).reshape(3, 5, 8)
    tied = torch.randn(4, 6, generator=gen)
    made = {
        "cube": cube,
        "permuted": cube.permute(2, 0, 1),
        "sliced": cube[:, 1:4:2, 1::3],
        "row": cube[1, 2],
        "column": cube[1, :, 2],
        "parameter": torch.nn.Parameter(cube[2]),
        "transposed": torch.randn(7, 4, generator=gen).bfloat16().t(),
        "expanded": torch.randn(1, 4, generator=gen).expand(3, 4),
        "expanded all": torch.tensor(2.5).expand(3, 2),
        "tied.a": tied,
        "tied.b": tied,
        "square.t": torch.randn(3, 3, generator=gen).t(),
        "scalar": torch.tensor(3),
        "scalar in the middle": cube[1, 1, 1],
        "empty": torch.zeros(0, 3),
        "empty slice": cube[3:],
        "channels last": torch.randn(2, 3, 4, 5, generator=gen).to(memory_format=torch.channels_last),
        "ones": torch.ones(1, 5, 1)[:, ::2],
        "values": torch.tensor([0.0, -0.0, float("inf"), -float("inf"), NAN, 1e-45]),
        "f4": torch.arange(12, dtype=torch.uint8).reshape(3, 4).view(torch.float4_e2m1fn_x2),
        "f4 transposed": torch.arange(12, dtype=torch.uint8).reshape(3, 4).view(torch.float4_e2m1fn_x2).t(),
        "f4 strided": torch.arange(12, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)[::3],
    }
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"):
        made[name] = torch.randint(0, 100, (3, 5), generator=gen).to(getattr(torch, name))
    for name in ("uint16", "uint32", "uint64", "complex64", "bool", "float8_e4m3fn", "float8_e5m2"):
        made[name] = torch.randint(0, 100, (7,), generator=gen).to(getattr(torch, name))
    for name in ("float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"):
        made[name] = torch.randint(0, 100, (4,), generator=gen).to(torch.uint8).view(getattr(torch, name))
    return made


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in row-major order, as torch sees them."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype)
    flat.view(tensor.shape).copy_(tensor.detach())
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def saved(path: Path, value: object, **how: object) -> Path:
    torch.save(value, path, **how)
    return path


def refusal(path: Path, **how: object) -> str:
    with pytest.raises(FormatError) as caught:
        open_source(path, **how)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# what torch reads


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("container", CONTAINERS)
def test_tensors_are_those_of_torch(container, mmap, tmp_path):
    expected = of_every_kind()
    path = saved(tmp_path / "m.pt", expected, **CONTAINERS[container])
    if container == "zip":  # torch does not read back all that it writes with another protocol
        expected = torch.load(path, weights_only=True)
    with open_source(path, mmap=mmap) as source:
        found = {t.name: t for t in source.tensors}
        assert set(found) == set(expected)
        assert source.stem == "m"
        for name, tensor in found.items():
            like = expected[name]
            assert tensor.numpy().tobytes() == raw(like), name
            if tensor.spec.dtype.packed:
                assert tensor.spec.shape == (*like.shape[:-1], like.shape[-1] * 2)
                continue
            assert tensor.spec.shape == like.shape
            assert tensor.torch().dtype == like.dtype


@pytest.mark.parametrize(
    "name", ["cube", "permuted", "sliced", "transposed", "channels last", "expanded", "f4 strided"]
)
def test_any_rows_of_a_strided_tensor_are_right(name, tmp_path):
    path = saved(tmp_path / "m.pt", {name: of_every_kind()[name]})
    (tensor,) = open_source(path).tensors
    whole = raw(torch.load(path)[name])
    spec = tensor.spec
    for start in range(0, spec.rows + 1, tensor.grain):
        for stop in range(start, spec.rows + 1, tensor.grain):
            (piece,) = tensor.read(start, stop, Context())
            assert piece.offset == spec.row_offset(start)
            assert piece.data.tobytes() == whole[spec.row_offset(start) : spec.row_offset(stop)]
            assert piece.data.flags.c_contiguous
            assert piece.data.flags.aligned
            assert not piece.data.flags.writeable


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_view_reads_as_in_torch(tmp_path, data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    view = torch.arange(np.prod(shape), dtype=torch.int16).reshape(shape)
    view = view.permute(data.draw(st.permutations(range(len(shape)))))
    for dim, size in enumerate(view.shape):
        start, step = data.draw(st.integers(0, size)), data.draw(st.integers(1, 3))
        view = view[(slice(None),) * dim + (slice(start, None, step),)]
    path = saved(tmp_path / "m.pt", {"x": view})
    (tensor,) = open_source(path).tensors
    assert tensor.numpy().tobytes() == raw(view)
    rows = sorted(data.draw(st.tuples(st.integers(0, tensor.spec.rows), st.integers(0, tensor.spec.rows))))
    (piece,) = tensor.read(*rows, Context())
    assert piece.data.tobytes() == raw(view.reshape(tensor.spec.rows, tensor.spec.columns)[slice(*rows)])


def test_a_transposed_giant_is_gathered_without_holding_it(tmp_path):
    path = saved(
        tmp_path / "m.pt", {"w": torch.arange(6000 * 3000, dtype=torch.int32).reshape(6000, 3000).t()}
    )
    (tensor,) = open_source(path, mmap=False).tensors
    tracemalloc.start()
    scratch = Context()
    (piece,) = tensor.read(1000, 1010, scratch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(piece.data, np.arange(1000, 1010)[:, None] + 3000 * np.arange(6000)[None])
    assert peak < 24 << 20  # the tensor has 72 MB


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_tensors_that_overlap_say_so(container, tmp_path):
    base, other = torch.zeros(4, 8), torch.zeros(3)
    value = {
        "all": base, "top": base[:2], "t": base.t(), "other": other, "tied": other, "alone": torch.zeros(3),
    }  # fmt: skip
    path = saved(tmp_path / "m.pt", value, **CONTAINERS[container])
    shares = {t.name: t.shares for t in open_source(path).tensors}
    assert shares["all"] == shares["top"] == shares["t"] != shares["other"] == shares["tied"]
    assert None not in (shares["all"], shares["other"])
    assert shares["alone"] is None


def test_slices_of_one_storage_that_do_not_meet_are_not_shared(tmp_path):
    base = torch.zeros(6, 4)
    path = saved(tmp_path / "m.pt", {"q": base[:2], "k": base[2:4], "v": base[4:]})
    assert [t.shares for t in open_source(path).tensors] == [None] * 3


def test_state_dicts_of_modules_with_and_without_checksums(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    for checksums in (True, False):
        torch.serialization.set_crc32_options(checksums)
        try:
            path = saved(tmp_path / "m.bin", module.state_dict())
        finally:
            torch.serialization.set_crc32_options(True)
        found = {t.name: t.torch() for t in open_source(path).tensors}
        assert found.keys() == module.state_dict().keys()
        assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())


def test_zip64_is_read(tmp_path, monkeypatch):
    path = saved(tmp_path / "m.pt", {"a": torch.arange(5)})
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    large = tmp_path / "large.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(large, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert b"PK\x06\x06" in large.read_bytes()  # the end record of zip64
    (tensor,) = open_source(large).tensors
    assert tensor.numpy().tolist() == [0, 1, 2, 3, 4]


def test_a_file_within_a_longer_one(tmp_path):
    """Zip files may follow other bytes, and torch does not read such files either."""
    path = tmp_path / "m.pt"
    path.write_bytes(b"#!/bin/sh\n" + saved(tmp_path / "x.pt", {"a": torch.arange(5)}).read_bytes())
    assert "is not a PyTorch checkpoint" in refusal(path)


def test_reading_needs_no_torch(tmp_path):
    path = saved(tmp_path / "m.pt", {"a": torch.arange(3), "n": 1})
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from transcode.containers.source import open_source\n"
        f"print(open_source({str(path)!r}).tensors[0].numpy().tolist())"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "[0, 1, 2]\n"


# roots

W = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"w": W}, ["w"]),
        ({"module": {"w": W}}, ["w"]),
        ({"generator_ema": {"w": W}, "step": 3}, ["w"]),
        ({"state_dict": {"w": W}, "optimizer": {"state": {0: {"m": W}}}}, ["w"]),
        ({"state_dict": {"w": W}, "step": torch.tensor(3)}, ["w"]),
        ({"state_dict": {"model": {"w": W}}}, ["w"]),
        ({"anything": {"w": W}}, ["w"]),
        ({"model": {"enc": {"w": W}, "dec": {"w": W}}}, ["enc.w", "dec.w"]),
        ({"w": W, "enc": {"w": W, "deep": {"b": W}}}, ["w", "enc.w", "enc.deep.b"]),
        ({"w": W, "optimizer": {"m": W}}, ["w"]),
        ({"model": {"w": W}, "critic": {"w": W}}, ["w"]),
        ({0: W, 1: W}, ["0", "1"]),
        (collections.OrderedDict(w=W), ["w"]),
    ],
)
def test_known_roots_are_found(value, names, tmp_path):
    path = saved(tmp_path / "m.pt", value)
    assert [t.name for t in open_source(path).tensors] == names


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ({"generator": {"w": W}, "generator_ema": {"w": W}}, ["generator", "generator_ema"]),
        ({"teacher": {"w": W}, "student": {"w": W}}, ["teacher", "student"]),
        ({"w": W, "model": {"w": W}}, ["model", "at the top"]),
        ({"module": {"ema": {"w": W}, "model": {"w": W}}}, ["module.ema", "module.model"]),
    ],
)
def test_ambiguous_roots_are_refused_with_the_choices(value, choices, tmp_path):
    path = saved(tmp_path / "m.pt", value)
    message = refusal(path)
    for choice in choices:
        assert choice in message
    assert "root_key=" in message


def test_a_root_can_be_named(tmp_path):
    value = {
        "generator": {"w": W}, "generator_ema": {"v": W, "a.b": {"x": W}}, "step": 3, "optimizer": {"m": W},
    }  # fmt: skip
    path = saved(tmp_path / "m.pt", value)

    def names(key):
        return [t.name for t in open_source(path, root_key=key).tensors]

    assert names("generator") == ["w"]
    assert names("generator_ema") == ["v", "a.b.x"]
    assert names("generator_ema.a.b") == ["x"]
    assert names(".") == ["generator.w", "generator_ema.v", "generator_ema.a.b.x", "optimizer.m"]
    assert "has no root 'critic'; it has generator, generator_ema" in refusal(path, root_key="critic")
    assert "no dict of tensors" in refusal(path, root_key="step")


def test_what_is_not_read_is_noted(tmp_path):
    value = {
        "epoch": 3,
        "step": torch.tensor(4),
        "state_dict": {"w": W, "tag": "x", "extra": [W]},
        "critic": {"w": W},
        "optimizer": {"m": W},
    }
    notes = " | ".join(open_source(saved(tmp_path / "m.pt", value)).notes)
    assert "m.pt: reads the tensors under 'state_dict'" in notes
    assert "does not read the tensors under critic, optimizer, step" in notes
    assert "tag (str), extra (list)" in notes


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({}, "holds no tensors"),
        ({"a": 1, "b": {"c": "d"}}, "holds no tensors"),
        ({"optimizer": {"m": W}}, "holds no tensors"),
        ([W], "holds an object of type list, not a dict of tensors"),
        (3, "holds an object of type int, not a dict of tensors"),
        ({"a": {"b": W}, "a.b": W}, "a.b: two tensors have this name"),
        ({"w": torch.eye(3).to_sparse()}, "w: is a sparse tensor"),
        ({"w": torch.zeros(2, device="meta")}, "w: is a meta tensor"),
        (
            {"w": torch.zeros(2, dtype=torch.complex128)},
            "w: has the dtype ComplexDouble, which safetensors lacks",
        ),
        (
            {"w": torch.tensor([1 + 2j], dtype=torch.complex64).conj()},
            "w: is a view whose values are not its bytes",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(value, what, tmp_path):
    assert what in refusal(saved(tmp_path / "m.pt", value))


# plain structure


def test_read_pickle_gives_the_structure_with_lazy_leaves(tmp_path):
    absmax = {
        "blocks.0.ffn.0.weight": torch.tensor(2.5),
        "blocks.1.ffn.0.weight": torch.tensor(3.5).bfloat16(),
    }
    value = {
        "absmax": absmax, "list": [1, 2.5, (None, True, W)], "text": "ä", "bytes": b"\0\xff", "set": {1, 2},
        "big": -(2**70), "complex": 1 + 2j, "size": torch.Size([2, 3]), "device": torch.device("cpu"),
        "array": bytearray(b"ab"),
    }  # fmt: skip
    for how in CONTAINERS.values():
        found = read_pickle(saved(tmp_path / "calib.pt", value, **how))
        assert {name: float(t.numpy()) for name, t in found["absmax"].items()} == {
            name: float(t) for name, t in absmax.items()
        }
        leaf = found["list"][2][2]
        assert isinstance(leaf, LazyTensor)
        assert leaf.name == "list.2.2"
        assert torch.equal(leaf.torch(), W)
        assert found["list"][:2] == [1, 2.5]
        assert found["list"][2][:2] == (None, True)
        same = ("text", "bytes", "set", "big", "complex", "array")
        assert {key: found[key] for key in same} == {key: value[key] for key in same}
        assert found["size"] == (2, 3)
        assert found["device"] == "cpu"


def test_read_pickle_reads_what_deepcompressor_writes(tmp_path):
    branch = {"blocks.0.attn.to_q": {"a.weight": W, "b.weight": W * 2}}
    found = read_pickle(saved(tmp_path / "branch.pt", branch))
    assert torch.equal(found["blocks.0.attn.to_q"]["b.weight"].torch(), W * 2)
    smooth = {"blocks.0.attn": W[0], "proj.fuse_when_possible": True}
    found = read_pickle(saved(tmp_path / "smooth.pt", smooth))
    assert found["proj.fuse_when_possible"] is True
    assert read_pickle(saved(tmp_path / "one.pt", W)).numpy().tolist() == W.tolist()


def test_numpy_scalars_are_read(tmp_path):
    value = {"loss": np.float64(0.5), "step": np.int32(-7), "w": W}
    assert {k: v for k, v in read_pickle(saved(tmp_path / "m.pt", value)).items() if k != "w"} == {
        "loss": 0.5, "step": -7,
    }  # fmt: skip


# hostile and damaged files


class Runs:
    """Pickled, a call of os.system; unpickled by an ordinary reader, a file appears."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Evaluates(Runs):
    def __reduce__(self):
        return eval, (f"__import__('os').system({self.command!r})",)


@pytest.mark.parametrize("hostile", [Runs, Evaluates])
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_hostile_pickle_is_refused_and_nothing_runs(container, hostile, tmp_path):
    trace = tmp_path / "trace"
    path = saved(tmp_path / "m.pt", {"w": W, "x": hostile(f"touch {trace}")}, **CONTAINERS[container])
    for read in (open_source, read_pickle):
        with pytest.raises(
            FormatError, match=r"m\.pt: its pickle wants \w+\.(system|eval), .*could run code"
        ):
            read(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it was hostile indeed


def machine(stream: bytes) -> object:
    return Unpickler(io.BytesIO(stream), NAMES, persistent, "f").load()


@pytest.mark.parametrize(
    "stream",
    [
        b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"ctorch.storage\n_load_from_bytes\n.",
        b"ctorch\nload\n.",
        b"ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00__class__cos\nsystem\nsb.",
        b"(S'touch x'\nios\nsystem\n.",
        b"cimportlib\nimport_module\n.",
        b"csubprocess\nPopen\n.",
        b"ctypes\nFunctionType\n.",
    ],
)
def test_names_beyond_tensors_are_refused(stream):
    with pytest.raises(FormatError, match=r"could run code|not known"):
        machine(stream)


@pytest.mark.parametrize(
    "stream",
    [
        b"", b".", b"(.", b"N", b"NN.", b"t.", b"0.", b"R.", b")R.", b"K\x01)R.", b"Q.", b"NQ.", b"u.",
        b"(K\x01u.", b"}(K\x01u.", b"}]]s.", b"]K\x01u.", b"h\x00.", b"(q\x00.", b"}K\x01\x90.",
        b"\x8f(]\x90.", b"\x93.", b"K\x01K\x01\x93.", b"X\xff\xff\xff\xff.", b"X\x02\x00\x00\x00\xff\xfe.",
        b"\x8d" + b"\xff" * 8 + b".", b"\x8a\xff.", b"\x8b\xff\xff\xff\x7f.", b"cbuiltins", b"c\xff\n\xff\n.",
        b"\xfe.", b"ctorch\nSize\nK\x01\x85R.", b"c_codecs\nencode\nN\x85R.", b"(e.", b"(((a.",
        b"ccollections\nOrderedDict\n](]Nee\x85R.", b"cbuiltins\nset\n](]e\x85R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.", b"}" + b")" + b"\x85" * 3000 + b"Ns.",
    ],
)  # fmt: skip
def test_damaged_pickles_are_refused(stream):
    with pytest.raises(FormatError, match="f: its pickle is damaged"):
        machine(stream)


def measured(run):
    tracemalloc.start()
    try:
        return run(), tracemalloc.get_traced_memory()[1]
    except FormatError as error:
        return error, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


GOOD = pickle.dumps({"a": [1, 2.5, None, (True, b"x")], "b": collections.OrderedDict(c="d"), "e": {3}}, 2)


@settings(max_examples=400, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 9),
)
@example(edits=[(2, ord("r")), (6, 0x7F)], cut=0)
def test_mutated_pickles_give_an_error_or_plain_data_in_little_memory(edits, cut):
    stream = bytearray(GOOD)
    for at, byte in edits:
        stream[at] = byte
    _, peak = measured(lambda: machine(bytes(stream[: len(stream) - cut])))
    assert peak < 1 << 20


def test_a_memo_index_allocates_nothing():
    (found, peak) = measured(lambda: machine(b"Nr\xff\xff\xff\x7f."))
    assert found is None
    assert peak < 1 << 16


# what is neither a tensor nor plain data


class Settings(argparse.Namespace):
    pass


class Colour(enum.Enum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")


class Reduced:
    """Pickled by a call with arguments by name, with attributes, items and entries: all that there is."""

    def __reduce_ex__(self, protocol):
        return copyreg.__newobj_ex__, (Kept, (1,), {"b": W}), {"c": W}, iter([W]), iter([("d", W)])


class Kept(dict):
    pass


def weird_objects() -> dict[str, object]:
    """What training programs keep beside weights."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    checkpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = checkpoint
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[module.__name__] = module
    return {
        "namespace": argparse.Namespace(lr=0.1, betas=(0.9, 0.99)),
        "a class as a key": {checkpoint: {"best_model_score": torch.tensor(0.5), "dirpath": "/x"}},
        "path": pathlib.PurePosixPath("/x"),
        "date": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "delta": datetime.timedelta(1),
        "uuid": uuid.UUID(int=7),
        "enum": Colour.RED,
        "partial": functools.partial(sorted, reverse=True),
        "deque": collections.deque([1, 2]),
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "chain": collections.ChainMap({}, {}),
        "named": Pair(1, {2}),
        "frozen": frozenset({1, "a"}),
        "decimal": decimal.Decimal("1.5"),
        "fraction": fractions.Fraction(1, 3),
        "range": range(3),
        "slice": slice(1, 2),
        "function": sorted,
        "method": "".join,
        "builtin type": int,
        "module class": torch.nn.Linear,
        "a type of tensors as a class": torch.FloatTensor,
        "dtype": torch.bfloat16,
        "a dtype as a key": {torch.bfloat16: 1, (torch.float32, "cpu"): 2},
        "device": torch.device("cuda", 1),
        "size": torch.Size([1]),
        "legacy random state": np.random.get_state(),
        "random state": np.random.RandomState(3),
        "generator": np.random.default_rng(3),
        "array": np.arange(5),
        "array of text": np.array(["a", "bc"]),
        "array of objects": np.array([{}, None], dtype=object),
        "records": np.zeros(2, [("a", "f4"), ("b", "i8")]),
        "date of numpy": np.datetime64("2026-01-01"),
        "complex of numpy": np.complex128(1j),
        "text of numpy": np.str_("a"),
        "type of numpy": np.float32,
        "masked": np.ma.array([1, 2], mask=[0, 1]),
        "exception": ValueError("x"),
        "subclass": Settings(a=Settings(b=1)),
    }


STRANGE = weird_objects()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", STRANGE)
def test_harmless_objects_beside_the_weights_do_not_matter(kind, container, tmp_path):
    value = {"state_dict": {"w": W}, "hyper_parameters": {"x": STRANGE[kind]}, "y": STRANGE[kind]}
    (tensor,) = open_source(saved(tmp_path / "m.ckpt", value, **CONTAINERS[container])).tensors
    assert tensor.name == "w"
    assert torch.equal(tensor.torch(), W)


def test_harmless_objects_among_the_weights_are_left_out_by_name(tmp_path):
    value = {"w": W, "config": STRANGE["namespace"], "when": STRANGE["date"], "colour": Colour}
    source = open_source(saved(tmp_path / "m.pt", value))
    assert [t.name for t in source.tensors] == ["w"]
    assert "config (argparse.Namespace), when (datetime.datetime), colour (" in source.notes[0]


def test_a_checkpoint_of_lightning(tmp_path):
    """The shape of v1-5-pruned.ckpt: classes as keys, states of optimizers, loops and schedulers."""
    weights = {"model.diffusion_model.a.weight": W, "model_ema.decay": torch.tensor(0.9)}
    value = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}},
        "callbacks": STRANGE["a class as a key"],
        "optimizer_states": [{"state": {0: {"exp_avg": W}}}],
        "lr_schedulers": [{"last_epoch": 1, "lr_lambdas": [None]}],
        "NativeMixedPrecisionPlugin": {"scale": 1.0},
        "hparams_name": "kwargs",
        "hyper_parameters": STRANGE["namespace"],
    }
    source = open_source(saved(tmp_path / "m.ckpt", value))
    assert {t.name for t in source.tensors} == set(weights)


def test_random_states_as_tensors_beside_a_state_dict(tmp_path):
    value = {"model": {"w": W}, "rng_state": torch.get_rng_state(), "step": torch.tensor(3)}
    source = open_source(saved(tmp_path / "m.pt", value))
    assert [t.name for t in source.tensors] == ["w"]
    assert "rng_state, step" in " ".join(source.notes)


@pytest.mark.parametrize("container", CONTAINERS)
def test_arrays_under_names_of_weights_are_tensors(container, tmp_path):
    grid = np.arange(24).reshape(2, 3, 4)
    arrays = {
        "c": grid.astype(np.float32),
        "fortran": np.asfortranarray(grid.astype(np.int16)),
        "big": grid.astype(">f8"),
        "big fortran": np.asfortranarray(grid.astype(">i4")),
        "bool": grid % 2 == 0,
        "half": grid.astype(np.float16),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3)),
        "sliced": grid[:, ::2, 1],
        "complex": grid.astype(np.complex64),
        "u8": grid.astype(np.uint64),
    }
    for value in ({"model": arrays}, arrays):
        path = saved(tmp_path / "m.pt", value, **CONTAINERS[container])
        found = {t.name: t for t in open_source(path).tensors}
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            got = found[name].numpy()
            assert got.shape == array.shape
            assert got.dtype == array.dtype.newbyteorder("<")
            assert np.array_equal(got, array)
            rows = found[name].spec.rows
            pieces = [found[name].read(i, i + 1, Context()) for i in range(rows)]
            assert b"".join(piece.data.tobytes() for (piece,) in pieces) == array.astype(got.dtype).tobytes(
                "C"
            )
    mixed = {"state_dict": {"w": W, "mean": np.arange(3.0)}, "losses": np.arange(5.0)}
    assert [t.name for t in open_source(saved(tmp_path / "m.pt", mixed)).tensors] == ["mean", "w"]


def test_big_endian_scalars_of_numpy(tmp_path):
    value = {"w": W, "n": np.array([7], ">i4")[0], "u": np.uint64(2**63)}
    found = read_pickle(saved(tmp_path / "m.pt", value))
    assert (found["n"], found["u"]) == (7, 2**63)


class Holder:
    """An object that keeps tensors as its attributes, like a whole module."""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (Holder(w=W), "holds an object of type {me}.Holder, not a dict of tensors"),
        (torch.nn.Linear(2, 2), "holds an object of type torch.nn.modules.linear.Linear"),
        (
            {"model": Holder(w=W), "epoch": 3},
            "its tensors are inside of model, an object of class {me}.Holder",
        ),
        (
            {"model": torch.nn.Linear(2, 2)},
            "inside of model, an object of class torch.nn.modules.linear.Linear",
        ),
        (
            {"w": W, "ema": Holder(shadow=[{"x": W}])},
            "ema: is an object of class {me}.Holder, not a plain tensor",
        ),
        (
            {"a.weight": W, "b.weight": Holder()},
            "b.weight: is an object of class {me}.Holder, not a plain tensor",
        ),
        (
            {"model": Holder(w=W), "ema": {"w": W}},
            "may lie under ema, model (an object of class {me}.Holder)",
        ),
        ({"x": Holder(w=W), "other": {"w": W}}, "may lie under other, x (an object of class {me}.Holder)"),
        ({"model": Kept(w=W)}, "its tensors are inside of model, an object of class {me}.Kept"),
        ({"model": {"w": Reduced()}}, "its tensors are inside of model.w, an object of class {me}.Kept"),
        ({"model": {"v": W, "w": Reduced()}}, "w: is an object of class {me}.Kept, not a plain tensor"),
        (
            {"w": torch.nn.Parameter(W).as_subclass(type("Mine", (torch.Tensor,), {"__module__": __name__}))},
            "Mine",
        ),
        ({"w": torch.eye(2).to_sparse_csr()}, "w: is"),
    ],
)
def test_objects_that_stand_for_tensors_are_refused_by_class(value, what, tmp_path, monkeypatch):
    mine = type(value.get("w")) if isinstance(value, dict) else None
    if mine is not None and mine.__name__ == "Mine":
        monkeypatch.setattr(sys.modules[__name__], "Mine", mine, raising=False)
    message = refusal(saved(tmp_path / "m.pt", value, pickle_protocol=4))
    assert what.format(me=__name__) in message
    assert "load" not in message.replace("upload", "")  # nobody is sent to a reader that runs code


def test_a_state_dict_beside_objects_with_tensors_is_read_and_they_are_noted(tmp_path):
    value = {"state_dict": {"w": W}, "averaged": Holder(w=W), "optimizer": Holder(m=W)}
    source = open_source(saved(tmp_path / "m.pt", value))
    assert [t.name for t in source.tensors] == ["w"]
    assert "does not read the tensors under averaged, optimizer" in " ".join(source.notes)


def test_placeholders_do_nothing_whatever_is_done_to_them():
    # a class that is called, built, appended to, extended, given items, added to, called again and persisted
    stream = (
        b"\x80\x04cevil\nThing\n)R}X\x01\x00\x00\x00aK\x01sbK\x02a(K\x03eX\x01\x00\x00\x00kK\x04s"
        b"(X\x01\x00\x00\x00kK\x04u(K\x05\x90)R)\x81)}\x92."
    )
    found = machine(stream)
    assert isinstance(found, Placeholder)
    assert found.name == "evil.Thing"
    assert "evil" not in sys.modules


THING = b"cevil\nThing\n"


def test_a_placeholder_that_holds_itself_ends():
    # A dict {"a": thing} whose thing has itself for its attributes, its entries and an item's key and value.
    thing = THING + b")Rq\x00h\x00bh\x00ah\x00h\x00s"
    found = machine(b"}X\x01\x00\x00\x00a" + thing + b"s.")
    assert found["a"].held == [found["a"]] * 4
    assert not holds_tensors(found["a"])
    with pytest.raises(FormatError, match="holds no tensors"):
        find_root(found, None, "f")
    # The same, and a tensor behind the circle.
    leaf = b"ctorch\nFloatStorage\nq\x01X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        + leaf
        + b"tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89NtR"
    )
    found = machine(b"}X\x01\x00\x00\x00a" + thing + tensor + b"as.")
    assert holds_tensors(found["a"])
    with pytest.raises(FormatError, match=r"its tensors are inside of a, an object of class evil\.Thing"):
        find_root(found, None, "f")


@pytest.mark.parametrize(
    ("stream", "count"),
    [
        (THING + b"q\x00" + b"h\x00)R0" * 50_000 + b".", 0),  # made and dropped
        (b"](" + (THING + b")R") * 20_000 + b"e.", 20_000),  # the name of a class is one object
        (THING + b"q\x00)Rq\x01" + b"0h\x00h\x01\x85Rq\x01" * 50_000 + b".", 50_000),  # a chain of them
        (THING + b")R)" + b"\x85" * 50_000 + b"b.", 1),  # a deep state
        (THING + b")R(" + b"]" * 50_000 + b"e.", 50_000),  # a wide one
    ],
    ids=["dropped", "names", "chain", "deep", "wide"],
)
def test_placeholders_cost_memory_in_proportion_to_the_stream(stream, count):
    found, peak = measured(lambda: machine(stream))
    assert not isinstance(found, FormatError)
    assert peak < 256 * len(stream) + (1 << 16)
    if isinstance(found, Placeholder):
        assert not holds_tensors(found)
    else:
        assert len(found) == count


def test_a_gigantic_state_is_refused_before_it_is_there():
    found, peak = measured(lambda: machine(b"cevil\nThing\n)R\x8e" + struct.pack("<Q", 1 << 40) + b"b."))
    assert isinstance(found, FormatError)
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "state",
    [
        ((1, (1 << 40,), "f4", False, b"abcd")),
        ((1, (2,), "f4", False, b"abcd")),
        ((1, (-1,), "f4", False, b"")),
        ((1, "ab", "f4", False, b"")),
        ((1, (1,) * 65, "f4", False, b"abcd")),
        ((1,)),
    ],
)
def test_arrays_that_lie_about_their_size_are_refused(state):
    stream = (
        b"cnumpy.core.multiarray\n_reconstruct\n)R"
        + pickle.dumps(state, 2)[2:-1].replace(
            b"X\x02\x00\x00\x00f4", b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R", 1
        )
        + b"b."
    )
    if len(state) == 5:
        assert b"dtype" in stream
    found, peak = measured(lambda: machine(stream))
    assert isinstance(found, FormatError)
    assert "damaged" in str(found)
    assert peak < 1 << 20


def test_dicts_that_contain_each_other_over_and_over_end(tmp_path):
    value: dict = {"w": W}
    for _ in range(40):
        value = {"a": value, "b": value}
    path = saved(tmp_path / "m.pt", value)
    read_pickle(path)
    assert "choose with root_key=..." in refusal(path)
    assert "too many objects" in refusal(path, root_key=".")
    value["self"] = value
    saved(path, value)
    for read in (read_pickle, lambda p: open_source(p, root_key=".")):
        with pytest.raises(FormatError, match="too deep"):
            read(path)


SMALL = io.BytesIO()
torch.save(
    {"state_dict": {"a": torch.arange(4, dtype=torch.int16), "b": torch.ones(2, 3).t()}, "n": 1}, SMALL
)
LEGACY = io.BytesIO()
torch.save({"a": torch.arange(4, dtype=torch.int16)}, LEGACY, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("whole", [SMALL.getvalue(), LEGACY.getvalue()], ids=["zip", "legacy"])
def test_truncation_at_every_byte_is_refused(whole, tmp_path):
    path = tmp_path / "m.pt"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refusal(path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=3))
@example(flips=[(3743, 129)])  # a member beyond what a file can be long
def test_flipped_bytes_of_a_zip_give_an_error_or_the_right_tensors(tmp_path, flips):
    path = tmp_path / "m.pt"
    path.write_bytes(SMALL.getvalue())
    good = {t.name: (t.spec, t.numpy().tobytes()) for t in open_source(path).tensors}
    damaged = bytearray(SMALL.getvalue())
    for at, mask in flips:
        damaged[at % len(damaged)] ^= mask
    path.write_bytes(damaged)
    found, peak = measured(lambda: {t.name: (t.spec, t.numpy().tobytes()) for t in open_source(path).tensors})
    assert peak < 4 << 20
    if not isinstance(found, FormatError):
        assert {name: spec for name, (spec, _) in found.items()} == {
            name: spec for name, (spec, _) in good.items()
        }
        # The values themselves carry no checksum that is looked at: only the flipped bytes may differ.
        wrong = sum(x != y for name in good for x, y in zip(good[name][1], found[name][1], strict=True))
        assert wrong <= len(flips)


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize(
    ("name", "old", "new", "reads"),
    [
        ("data.pkl", b"weight_of_one", b"weight_of_two", {"weight_of_two"}),  # another name
        ("data.pkl", b"K\x04K\x06\x86", b"K\x03K\x06\x86", {"weight_of_one"}),  # a row less
        (".format_version", b"1", b"2", {"weight_of_one"}),  # of no concern: never read
    ],
)
def test_a_damaged_pickle_that_still_reads_is_caught_by_its_checksum(
    name, old, new, reads, checksums, tmp_path
):
    torch.serialization.set_crc32_options(checksums)
    try:
        path = saved(tmp_path / "m.pt", {"weight_of_one": torch.ones(4, 6)})
    finally:
        torch.serialization.set_crc32_options(True)
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"m/{name}")
        data = archive.read(member) if checksums else None
    at = raw.index(old, member.header_offset + 30)
    assert at < member.header_offset + 30 + 200 + member.file_size
    assert data is None or data.count(old) == 1
    path.write_bytes(raw[:at] + new + raw[at + len(old) :])
    if checksums and name == "data.pkl":
        assert f"its member 'm/{name}' does not match its checksum" in refusal(path)
    else:  # files without checksums are as torch can be told to write them: what they say is believed
        assert {tensor.name for tensor in open_source(path).tensors} == reads


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes_of_a_legacy_file_do_no_harm(tmp_path, flips):
    damaged = bytearray(LEGACY.getvalue())
    for at, mask in flips:
        damaged[at % len(damaged)] ^= mask
    path = tmp_path / "m.pt"
    path.write_bytes(damaged)
    _, peak = measured(lambda: [t.spec for t in open_source(path).tensors])
    assert peak < 4 << 20


def rezipped(path: Path, *, method: int = zipfile.ZIP_STORED, **changes: bytes | None) -> Path:
    """The same archive with some members replaced (by the part of their name after the slash) or left out."""
    out = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", method) as new:
        for member in old.infolist():
            short = member.filename.split("/", 1)[1]
            data = changes.pop(short, old.read(member))
            if data is not None:
                new.writestr(member.filename, data)
        for short, data in changes.items():
            new.writestr(f"{path.stem}/{short}", data)
    return out


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"byteorder": b"big"}, "its byte order is 'big', only little-endian files are read"),
        ({"data.pkl": None}, "is a zip file but not a PyTorch checkpoint"),
        ({"data.pkl": None, "constants.pkl": b"N."}, "is a TorchScript program"),
        ({"constants.pkl": b"N."}, "is a TorchScript program"),
        ({"data/0": None}, "w: its storage '0' is not in the file"),
        ({"data/0": b"abc"}, "w: its storage has 3 bytes, the pickle says 16"),
        ({"data/0": b"a" * 20}, "w: its storage has 20 bytes, the pickle says 16"),
        (
            {"method": zipfile.ZIP_DEFLATED, "data/0": bytes(1000)},
            "is compressed; unzip the file and zip it again",
        ),
    ],
)
def test_wrong_archives_are_refused(changes, what, tmp_path):
    path = saved(tmp_path / "m.pt", {"w": W})
    assert what in refusal(rezipped(path, **changes))


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path):
    path = saved(tmp_path / "m.pt", {"w": W})
    with zipfile.ZipFile(path) as archive:
        stream = archive.read("m/data.pkl")
    assert b"K\x02K\x02\x86" in stream  # its shape
    changed = rezipped(path, **{"data.pkl": stream.replace(b"K\x02K\x02\x86", b"K\x02K\x09\x86", 1)})
    assert "w: it reaches to byte 44 of its storage, which has 16" in refusal(changed)


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"\x80\x04N.", "is not a PyTorch checkpoint"),
        (b"nothing of the kind", "is not a PyTorch checkpoint"),
        (b"\0" * 257 + b"ustar" + b"\0" * 300, "is a tar file"),
        (LEGACY_MAGIC + b"K\x07.", "its protocol version is 7, not 1001"),
        (LEGACY_MAGIC + b"M\xe9\x03.}X\x0d\x00\x00\x00little_endian\x89s.N.", "its byte order is big"),
        (LEGACY.getvalue() + b"x", "has 1 bytes behind its storages"),
    ],
)
def test_other_files_are_refused(raw, what, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(raw)
    assert what in refusal(path)


def test_legacy_counts_are_checked(tmp_path):
    path = tmp_path / "m.pt"
    whole = LEGACY.getvalue()
    path.write_bytes(whole[:-16] + struct.pack("<q", 1 << 60) + whole[-8:])
    assert f"claims {1 << 60} elements, more than the file holds" in refusal(path)
