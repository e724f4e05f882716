"""Inputs that hypothesis builds by the grammar of each format, rather than by mistakes in a right one.

So nesting, types and numbers vary together. What goes wrong is made as small as it can be before it is told.
Each example is read in the process itself, within its memory and time, and ends in a reading or in a
TranscodeError of one line.
"""

# ruff: noqa: E501  tables of words read better in long lines

from __future__ import annotations

import json
import pickle
import random
import resource
import signal
import struct
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .corpora import MEMORY, SECONDS, Slow, compared
from .engine import BAD, Attack, Tally
from .scenarios import save

__all__ = ["ATTACKS"]

Strategy = Any
Read = Callable[[Any], str]


class _Fault(AssertionError):
    """An example that was not read as it should be; hypothesis makes it smaller."""


def _fuzz(make: Callable[[Any, Path], tuple[Strategy, Read]]) -> Attack:
    """An attack of the examples of a strategy, each given to a reader that says what became of it."""

    def attack(root: Path, dice: random.Random, count: int, until: float, tally: Tally) -> None:
        import hypothesis
        from hypothesis import strategies as st

        strategy, read = make(st, root)
        seed = dice.randrange(1 << 32)

        def late(number: int, frame: Any) -> None:
            raise Slow

        def one(example: Any) -> None:
            if time.monotonic() > until:
                return
            signal.alarm(SECONDS)
            try:
                what = read(example)
            except Slow:
                what = "HANG\n"
            except MemoryError:
                what = f"BOMB\n{traceback.format_exc()[-800:]}"
            except Exception:
                what = f"TRACEBACK\n{traceback.format_exc()[-800:]}"
            finally:
                signal.alarm(0)
            kind, _, why = what.partition("\n")
            if kind in BAD:
                raise _Fault(f"{kind}\n{example!r:.1200}: {why}")
            tally.add("trials")
            tally.add(kind)

        search = hypothesis.settings(
            max_examples=max(count, 1),
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )(hypothesis.seed(seed)(hypothesis.given(strategy)(one)))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        was = signal.signal(signal.SIGALRM, late)
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                search()
        except _Fault as fault:
            kind, _, why = str(fault).partition("\n")
            tally.add("trials")
            tally.add(kind, f"seed {seed}: {why}")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
            signal.signal(signal.SIGALRM, was)

    return attack


def _json(st: Any, keys: Strategy, leaves: Strategy | None = None) -> Strategy:
    """Any JSON, with keys that mean something among others."""
    own = st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-2, 40), st.floats(), st.text(max_size=12)
    )
    return st.recursive(
        own if leaves is None else own | leaves,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=6),
        max_leaves=20,
    )


def _said(read: Callable[[], object], done: str = "read") -> str:
    """What became of an input."""
    from transcode.errors import TranscodeError

    try:
        read()
    except TranscodeError as error:
        return f"WRONG\nan error of several lines: {error}" if "\n" in str(error) else "refused"
    return done


def _headers(st: Any, root: Path) -> tuple[Strategy, Read]:
    """Tables whose offsets mostly follow from their shapes, so that many are right, and the rest nearly."""
    kinds = {
        "BOOL": 8,
        "U8": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F8_E4M3": 8,
        "BF16": 16,
        "F32": 32,
        "I64": 64,
        "C64": 64,
    }
    size = st.integers(0, 5) | st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1, 2**64, -1])
    odd = _json(st, st.sampled_from(["dtype", "shape", "data_offsets", "x"]))
    entry = st.tuples(
        st.text(max_size=6) | st.sampled_from(["w", "__metadata__", "blocks.0.w"]),
        st.sampled_from(sorted(kinds)),
        st.lists(st.integers(0, 5), max_size=4) | st.lists(size, max_size=4),
        st.sampled_from([0] * 12 + [1, -1, 2**64]),
        st.none()
        | st.none()
        | st.none()
        | st.tuples(st.sampled_from(["dtype", "shape", "data_offsets", "y"]), odd),
    )
    metadata = st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3) | odd
    table = st.tuples(st.lists(entry, max_size=5), metadata, st.integers(0, 9), st.booleans())
    path = root / "m.safetensors"

    def read(example: Any) -> str:
        entries, held, spaces, ascii_only = example
        made: dict[str, Any] = {} if held is None else {"__metadata__": held}
        at = 0
        for name, kind, shape, shift, other in entries:
            bits = kinds[kind]
            for length in shape:
                bits *= length
            end = at + bits // 8
            made[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, end + shift]}
            if other is not None:
                made[name][other[0]] = other[1]
            at = max(end, at) if end < 1 << 16 else at
        text = json.dumps(made, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") + b" " * spaces
        return compared(struct.pack("<Q", len(text)) + text + bytes(at), path)

    return table, read


def _gguf(st: Any, root: Path) -> tuple[Strategy, Read]:
    """Headers of GGUF whose offsets mostly follow from their shapes; values of every type, and some of none."""
    blocks = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 12: (256, 144), 24: (1, 1), 27: (1, 8)}
    huge = st.sampled_from([2**31, 2**32, 2**63, 2**64 - 1])
    name = st.text(max_size=6) | st.sampled_from(["w", "comfy.gguf.orig_shape.w", "general.alignment"])
    scalar = st.tuples(st.sampled_from("BbHhIif?QqdX"), st.integers(-2, 300) | huge)
    items = st.tuples(st.integers(0, 14), st.integers(0, 3) | huge, st.binary(max_size=24))
    held = scalar | st.binary(max_size=12) | items
    shape = st.lists(st.sampled_from([0, 1, 2, 3, 32, 64, 256]) | huge, max_size=5)
    kind = st.sampled_from([*blocks, 31, 99])
    shift = st.sampled_from([0] * 12 + [1, 32, 2**63])
    tensor = st.tuples(name, kind, shape, shift)
    whole = st.tuples(
        st.lists(tensor, max_size=4), st.dictionaries(name, held, max_size=4), st.sampled_from("<<<>"),
        st.sampled_from([0] * 9 + [1, 2**40]), st.sampled_from([2, 3, 3, 3, 1, 9]), st.integers(-3, 70),
    )  # fmt: skip
    numbers = {
        "B": 0,
        "b": 1,
        "H": 2,
        "h": 3,
        "I": 4,
        "i": 5,
        "f": 6,
        "?": 7,
        "Q": 10,
        "q": 11,
        "d": 12,
        "X": 13,
    }
    from transcode.containers.source import open_source
    from transcode.core.typed import whole as whole_text

    path = root / "m.gguf"

    def read(example: Any) -> str:
        tensors, metadata, order, more, version, end = example
        raw = b"GGUF" + struct.pack(f"{order}IQQ", version, len(tensors) + more, len(metadata))

        def text(value: bytes) -> bytes:
            return struct.pack(f"{order}Q", len(value)) + value

        for key, value in metadata.items():
            raw += text(key.encode())
            if isinstance(value, bytes):
                raw += struct.pack(f"{order}I", 8) + text(value)
            elif isinstance(value[0], str):
                code, number = value
                wide = {"B": 8, "b": 8, "?": 1, "H": 16, "h": 16, "I": 32, "i": 32}.get(code, 64)
                number = abs(number) % (1 << (wide - (code.islower() and code not in "fd")))
                raw += struct.pack(f"{order}I{'Q' if code == 'X' else code}", numbers[code], number)
            else:
                raw += struct.pack(f"{order}IIQ", 9, value[0], value[1]) + value[2]
        at = 0
        for called, number, shape, shift in tensors:
            raw += text(called.encode()) + struct.pack(f"{order}I{len(shape)}Q", len(shape), *shape)
            raw += struct.pack(f"{order}IQ", number, (at + shift) % 2**64)
            elements, size = blocks.get(number, (1, 1))
            for length in shape:
                size *= length
            at += size // elements
            at += -at % 32
            at = at if at < 1 << 16 else 0
        path.write_bytes(raw + bytes(max(-len(raw) % 32 + at + min(end, 0), 0)))

        def look() -> None:
            with open_source(path) as source:
                for one in source.tensors:
                    if one.numpy().nbytes != one.spec.nbytes:
                        raise AssertionError(f"{one.name} {one.spec} does not have its bytes")
                for value in source.metadata.values():
                    whole_text(value)

        return _said(look)

    return whole, read


def _pickles(st: Any, root: Path) -> tuple[Strategy, Read]:
    """Programs of opcodes with arguments that fit them, and pickles of any values."""
    from transcode.containers.source import open_source

    names = ["torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict", "torch Size",
             "torch device", "builtins eval", "os system", "torch._utils _rebuild_parameter"]  # fmt: skip
    text = st.text(max_size=5).map(lambda one: one.encode("utf-8", "replace"))
    opcode = st.one_of(
        st.sampled_from([b"(", b")", b"]", b"}", b"l", b"d", b"t", b"e", b"a", b"s", b"u", b"R", b"b", b"0", b"2",
                         b"N", b"1", b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"\x8f", b"\x90", b"\x91",
                         b"\x93", b"\x94", b"Q", b"o", b"\x81", b"\x92"]),
        st.sampled_from(names).map(lambda one: b"c%s\n%s\n" % tuple(part.encode() for part in one.split())),
        st.integers(0, 255).map(lambda one: b"K%c" % one),
        st.integers(0, 6).flatmap(lambda one: st.sampled_from([b"q%c" % one, b"h%c" % one])),
        st.integers(-(2**31), 2**31 - 1).map(lambda one: b"J" + struct.pack("<i", one)),
        st.integers(0, 2**32 - 1).map(lambda one: b"r" + struct.pack("<I", one)),
        text.map(lambda one: b"X" + struct.pack("<I", len(one)) + one),
        text.map(lambda one: b"\x8c%c" % len(one) + one),
        st.binary(max_size=8).map(lambda one: b"\x8a%c" % len(one) + one),
        st.integers(0, 2**64 - 1).map(lambda one: b"\x95" + struct.pack("<Q", one)),
    )  # fmt: skip
    values = _json(st, st.text(max_size=4), st.binary(max_size=6))
    program = st.lists(opcode, max_size=30).map(lambda ops: b"\x80\x02" + b"".join(ops) + b".")
    path = root / "m.pt"

    def read(raw: bytes) -> str:
        path.write_bytes(raw)

        def look() -> None:
            with open_source(path) as found:
                for tensor in found.tensors:
                    tensor.numpy()

        return _said(look)

    return program | values.map(lambda one: pickle.dumps(one, 2)), read


def _recipes(st: Any, root: Path) -> tuple[Strategy, Read]:
    """Sections and options that exist, with values of any kind; as the JSON that YAML contains, or bent."""
    from transcode import recipe

    words = ["source", "path", "target", "output", "steps", "quantization", "scheme", "precision", "performance",
             "convention", "layout", "lora", "rename", "rules", "names", "keep", "drop", "cast", "to", "only",
             "quantize", "include", "exclude", "num_workers", "memory", "model", "format", "version", "convert",
             "dequantize", "granularity", "group_size", "force", "name", "metadata", "strength"]  # fmt: skip
    values = st.sampled_from(
        ["int8", "fp8", "bf16", "*.weight", "re:(a+)+", "[", "5GB", "~", "&a", "*a", "wan_dit"]
    )
    keys = st.sampled_from(words) | st.text(max_size=5)
    tree = st.dictionaries(keys, _json(st, keys, values), max_size=6).map(json.dumps)
    bent = st.tuples(tree, st.integers(0, 400), st.text("{}[]:&*!|>-,'\"#?%@ \n\tab<0", max_size=6))

    def read(text: str) -> str:
        return _said(lambda: recipe.parse(text))

    return tree | bent.map(lambda one: one[0][: one[1]] + one[2] + one[0][one[1] :]) | st.text(), read


def _indexes(st: Any, root: Path) -> tuple[Strategy, Read]:
    from transcode.containers.source import open_source

    source = root / "source"
    save(source, 1)
    shard = "model-00001-of-00001.safetensors"
    (source / "model.safetensors").rename(source / shard)
    names = [*(f"blocks.{i}.w.weight" for i in range(3)), "head.weight"]
    files = st.sampled_from([shard] * 6 + ["../x.safetensors", "/dev/zero", "", ".", "a\0b", "config.json"])
    right = st.fixed_dictionaries(dict.fromkeys(names, files))
    odd = _json(st, st.sampled_from(["weight_map", "metadata", "total_size", *names]), files)
    table = st.fixed_dictionaries({}, optional={"metadata": odd, "weight_map": right | odd, "x": odd})

    def read(example: Any) -> str:
        (source / "model.safetensors.index.json").write_text(json.dumps(example))

        def look() -> None:
            with open_source(source) as found:
                assert sorted(tensor.name for tensor in found.tensors) == sorted(names)

        return _said(look)

    return table | odd, read


def _adapters(st: Any, root: Path) -> tuple[Strategy, Read]:
    import transcode as tc

    save(root / "source", 1)
    adapter = root / "adapter"
    adapter.mkdir()
    table = {}
    data = struct.pack("<f", 0.5) * (2 * 64 + 8 * 2)
    for part, shape, place in (("A", [2, 64], [0, 512]), ("B", [8, 2], [512, 576])):
        name = f"base_model.model.blocks.0.w.lora_{part}.weight"
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": place}
    text = json.dumps(table).encode()
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    words = ["r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "use_dora", "peft_type",
             "target_modules", "fan_in_fan_out", "bias", "layers_to_transform", "modules_to_save"]  # fmt: skip
    patterns = st.sampled_from(["w", "blocks.0.w", "(a+)+", "(", ".*.*.*.*", "^w", r"blocks\.\d+\.w"])
    values = st.sampled_from(["LORA", "LOHA", "none", "all-linear"]) | patterns
    odd = _json(st, patterns | st.sampled_from(words), values)
    number = st.integers(1, 16) | st.integers() | st.floats() | odd
    config = st.fixed_dictionaries(
        {},
        optional={
            "r": number,
            "lora_alpha": number,
            "alpha_pattern": st.dictionaries(patterns, number, max_size=3) | odd,
            "rank_pattern": st.dictionaries(patterns, number, max_size=3) | odd,
            **dict.fromkeys(words[4:], odd),
        },
    )

    def read(example: Any) -> str:
        (adapter / "adapter_config.json").write_text(json.dumps(example))
        flow = tc.open(root / "source")
        return _said(lambda: (flow | tc.lora(file)).plan(tc.write(root / "out")), "planned")

    return config | odd, read


ATTACKS: dict[str, Attack] = {
    "headers": _fuzz(_headers),
    "GGUF headers": _fuzz(_gguf),
    "pickles": _fuzz(_pickles),
    "recipes": _fuzz(_recipes),
    "indexes": _fuzz(_indexes),
    "adapter configurations": _fuzz(_adapters),
}
