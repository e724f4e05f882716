"""Weights of columns: from files, from norms, from deviations; given to the tensors that they are of."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import transcode as tc
from tests.schemes.helpers import encode
from transcode.catalog.norms import norms
from transcode.errors import FormatError, PlanError
from transcode.numerics.deviation import sums, variances
from transcode.schemes import make

SHAPES = {
    "self_attn.q_proj": (32, 256), "self_attn.k_proj": (16, 256), "self_attn.v_proj": (16, 256),
    "self_attn.o_proj": (256, 32), "mlp.gate_proj": (64, 256), "mlp.up_proj": (64, 256),
    "mlp.down_proj": (256, 64),
}  # fmt: skip
LLAMA = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
DRAW = np.random.default_rng(4)
MODEL = {
    f"model.layers.{i}.{name}.weight": DRAW.standard_normal(shape).astype(np.float32)
    for i in range(2)
    for name, shape in SHAPES.items()
} | {
    f"model.layers.{i}.{name}.weight": (1 + DRAW.standard_normal(256) / 3).astype(np.float32)
    for i in range(2)
    for name in ("input_layernorm", "post_attention_layernorm")
}
MATRICES = [name for name, value in MODEL.items() if value.ndim == 2]
WEIGHTS = {
    name: np.square(DRAW.standard_normal(MODEL[name].shape[1])).astype(np.float32) for name in MATRICES
}


def llama(name):
    _, _, block, *rest, _ = name.split(".")
    return f"blk.{block}.{LLAMA['.'.join(rest)]}.weight"


@pytest.fixture
def model(tmp_path):
    save_file(MODEL, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def run(source, tmp_path, importance, scheme="q4_0", **options):
    way = {name: options.pop(name) for name in ("workers", "tile") if name in options}
    end = tc.write(
        tmp_path / "out.gguf", force=True, allow_unmatched=options.pop("allow_unmatched", False), **way
    )
    return tc.open(source) | tc.quantize(scheme, importance=importance, **options) | end


def same(tmp_path, weights, scheme="q4_0"):
    """That each matrix is what the scheme makes of it under these weights."""
    out = tc.open(tmp_path / "out.gguf")
    for name in MATRICES:
        wanted = encode(make(scheme), MODEL[name], weights=weights.get(name))["codes"]
        np.testing.assert_array_equal(out[name].numpy(), wanted.reshape(-1), err_msg=name)


def legacy(path, entries, calls=4):
    """As llama-imatrix wrote it before GGUF."""
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, values in entries.items():
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values)))
            file.write((values * np.float32(calls)).tobytes())
        file.write(struct.pack("<ii", 7, 4) + b"text")
    return path


def imatrix(path, entries, counts=None):
    """As llama-imatrix writes it: a minimal GGUF, by the layout that ggml documents."""
    text = lambda word: struct.pack("<Q", len(word)) + word.encode()  # noqa: E731
    tensors = []
    for name, values in entries.items():
        values = values.reshape(1, -1) if values.ndim == 1 else values
        number = np.array(counts or [8] * len(values), np.float32).reshape(-1, 1)
        tensors += [(f"{name}.in_sum2", values * number), (f"{name}.counts", number)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    head += text("general.type") + struct.pack("<I", 8) + text("imatrix")
    data = b""
    for name, values in tensors:
        head += text(name) + struct.pack("<I2Q", 2, values.shape[1], values.shape[0])
        head += struct.pack("<IQ", 0, len(data))
        data += values.astype(np.float32).tobytes()
        data += bytes(-len(data) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


@pytest.mark.parametrize("scheme", ["q4_0", "q5_1"])
def test_files_of_every_kind_weigh_by_every_name(model, tmp_path, scheme):
    by_llama = {llama(name): value for name, value in WEIGHTS.items()}
    bare = {name.removesuffix(".weight"): value for name, value in WEIGHTS.items()}
    save_file(WEIGHTS, tmp_path / "own.safetensors")
    save_file(bare, tmp_path / "modules.safetensors")
    files = [
        legacy(tmp_path / "i.dat", by_llama),
        imatrix(tmp_path / "i.gguf", by_llama),
        imatrix(tmp_path / "hf.gguf", WEIGHTS),
        tmp_path / "own.safetensors",
        tmp_path / "modules.safetensors",
    ]
    for file in files:
        run(model, tmp_path, str(file), scheme)
        same(tmp_path, WEIGHTS, scheme)


def test_inputs_that_several_have_weigh_for_all(model, tmp_path):
    """llama.cpp has them of each; a file that has them of q alone tells those of k and v."""
    left = ("k_proj.weight", "up_proj.weight")
    entries = {llama(name): value for name, value in WEIGHTS.items() if not name.endswith(left)}
    run(model, tmp_path, str(legacy(tmp_path / "i.dat", entries)))
    shared = {
        name: WEIGHTS[name.replace("k_proj", "q_proj").replace("up_proj", "gate_proj")] for name in WEIGHTS
    }
    same(tmp_path, shared)


def test_tensors_without_weights_are_said(model, tmp_path):
    entries = {llama(name): value for name, value in WEIGHTS.items() if "down" not in name}
    file = str(legacy(tmp_path / "i.dat", entries))
    with pytest.raises(
        PlanError, match=r"i\.dat weighs no columns of 2 tensors \(model\.layers\.0\.mlp\.down_proj"
    ):
        run(model, tmp_path, file)
    assert not (tmp_path / "out.gguf").exists()
    report = run(model, tmp_path, file, allow_unmatched=True)
    assert any("weighs no columns of 2 tensors" in str(remark) for remark in report.plan.log.warnings)
    same(tmp_path, {name: value for name, value in WEIGHTS.items() if "down" not in name})


def test_a_file_of_another_model_is_an_error(model, tmp_path):
    other = {name.replace("mlp", "other"): value for name, value in WEIGHTS.items() if "mlp" in name}
    save_file(other, tmp_path / "other.safetensors")
    for allow in (False, True):
        with pytest.raises(PlanError, match="of this model"):
            run(model, tmp_path, str(tmp_path / "other.safetensors"), allow_unmatched=allow)
    narrow = {name: value[:-1] for name, value in WEIGHTS.items()}
    save_file(narrow, tmp_path / "narrow.safetensors")
    with pytest.raises(FormatError, match="it is of another model"):
        run(model, tmp_path, str(tmp_path / "narrow.safetensors"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_what_is_no_weight_is_refused(model, tmp_path, value):
    name = MATRICES[1]
    bad = {**WEIGHTS, name: WEIGHTS[name].copy()}
    bad[name][3] = value
    save_file(bad, tmp_path / "bad.safetensors")
    with pytest.raises(FormatError, match="weighs column 3 with"):
        run(model, tmp_path, str(tmp_path / "bad.safetensors"))
    bad[name] = np.zeros_like(WEIGHTS[name])
    save_file(bad, tmp_path / "bad.safetensors")
    with pytest.raises(FormatError, match="weighs all columns with zero"):
        run(model, tmp_path, str(tmp_path / "bad.safetensors"))


def test_damaged_files_are_refused(model, tmp_path):
    whole = legacy(tmp_path / "i.dat", {llama(name): value for name, value in WEIGHTS.items()}).read_bytes()
    bad = tmp_path / "bad.dat"
    for data in (b"", b"\0\0", whole[:100], struct.pack("<i", -3) + whole[4:], b"{}" + bytes(30)):
        bad.write_bytes(data)
        with pytest.raises(FormatError, match=r"bad\.dat"):
            run(model, tmp_path, str(bad))
    run(model, tmp_path, None)
    with pytest.raises(FormatError, match=r"is no importance matrix"):
        (
            tc.open(model)
            | tc.quantize("q4_0", importance=str(tmp_path / "out.gguf"))
            | tc.write(tmp_path / "b.gguf")
        )


def test_what_searches_nothing_is_an_error(model, tmp_path):
    with pytest.raises(PlanError, match="norm does nothing: q8_0 searches no scales; leave it out"):
        run(model, tmp_path, "norm", "q8_0")
    with pytest.raises(PlanError, match="search them, with"):
        (
            tc.open(model)
            | tc.quantize("nvfp4", importance="norm")
            | tc.write(tmp_path / "out", convention="neutral")
        )


def test_norms_weigh_what_stands_behind_them(model, tmp_path):
    report = run(model, tmp_path, "norm")
    weights = {}
    for name in MATRICES:
        block = name[: len("model.layers.0.")]
        norm = "input_layernorm" if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")) else (
            "post_attention_layernorm" if name.endswith(("gate_proj.weight", "up_proj.weight")) else None
        )  # fmt: skip
        if norm is not None:
            weights[name] = np.square(MODEL[f"{block}{norm}.weight"])
    same(tmp_path, weights)
    assert any(
        "no norm with a gain is known before 4 tensors" in str(one) for one in report.plan.log.warnings
    )


def test_norms_that_store_one_less_are_known_by_the_config(tmp_path):
    (tmp_path / "m").mkdir()
    save_file(MODEL, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "gemma"}))
    run(tmp_path / "m", tmp_path, "norm")
    name = MATRICES[0]
    wanted = np.square(MODEL["model.layers.0.input_layernorm.weight"] + np.float32(1))
    codes = encode(make("q4_0"), MODEL[name], weights=wanted)["codes"]
    np.testing.assert_array_equal(tc.open(tmp_path / "out.gguf")[name].numpy(), codes.reshape(-1))


def test_the_norm_right_before_counts():
    """Gemma 2 norms the output of attention, too, and has another norm before the MLP."""
    table = norms()
    names = {
        f"model.layers.3.{one}_layernorm.weight" for one in ("input", "post_attention", "pre_feedforward")
    }
    matrix = "model.layers.3.mlp.gate_proj.weight"
    assert table(matrix, names) == "model.layers.3.pre_feedforward_layernorm.weight"
    names.remove("model.layers.3.pre_feedforward_layernorm.weight")
    assert table(matrix, names) == "model.layers.3.post_attention_layernorm.weight"
    assert table("model.layers.3.mlp.down_proj.weight", names) is None
    assert table("blk.7.ffn_up.weight", {"blk.7.ffn_norm.weight"}) == "blk.7.ffn_norm.weight"


def test_deviations_weigh_by_one_over_the_variance(model, tmp_path):
    run(model, tmp_path, "sinq")
    weights = {}
    for name in MATRICES:
        variance = MODEL[name].astype(np.float64).var(0)
        weights[name] = (variance.mean() / np.maximum(variance, variance.mean() * 1e-6)).astype(np.float32)
    same(tmp_path, weights)


@pytest.mark.parametrize("importance", ["norm", "sinq", "file"])
def test_whatever_the_workers_and_tiles(model, tmp_path, importance):
    if importance == "file":
        importance = str(legacy(tmp_path / "i.dat", {llama(name): value for name, value in WEIGHTS.items()}))
    made = set()
    for way in ({"workers": 1}, {"workers": 4, "tile": 1}, {"workers": 2, "tile": 3000}):
        run(model, tmp_path, importance, "q4_1", **way)
        made.add((tmp_path / "out.gguf").read_bytes())
    assert len(made) == 1


def test_sums_are_exact_whatever_their_order():
    """Of numbers of all magnitudes, that float sums would lose."""
    random = np.random.default_rng(5)
    values = (random.standard_normal((300, 8)) * 10.0 ** random.integers(-12, 12, (300, 8))).astype(
        np.float32
    )
    values[:, 7] = 3
    whole = sums(values)
    parts = sum(sums(np.ascontiguousarray(part)) for part in np.array_split(values[::-1], 11))
    np.testing.assert_array_equal(whole, parts)
    squares = np.square(values).astype(np.float64).sum(0) / 300
    wanted = squares - np.square(values.astype(np.float64).mean(0))
    np.testing.assert_allclose(variances(whole, 300), wanted, rtol=1e-12, atol=1e-12)
    values[3, 2] = np.nan
    assert sums(values) is None


def test_stacks_have_weights_of_each_matrix(tmp_path):
    """Of experts that llama.cpp stacks, or that stand alone; one that was never used counts all alike."""
    random = np.random.default_rng(6)
    stack = random.standard_normal((3, 40, 64)).astype(np.float32)
    weights = np.square(random.standard_normal((3, 64))).astype(np.float32)
    save_file({"blk.0.ffn_down_exps.weight": stack}, tmp_path / "stack.safetensors")
    file = imatrix(tmp_path / "i.gguf", {"blk.0.ffn_down_exps.weight": weights}, [8, 0, 2])
    weights[1] = 1
    wanted = [encode(make("q4_0"), stack[n], weights=weights[n])["codes"].reshape(-1) for n in range(3)]
    for tile in (1, 5000, 10**6):
        run(tmp_path / "stack.safetensors", tmp_path, str(file), include=["*"], tile=tile)
        out = tc.open(tmp_path / "out.gguf")["blk.0.ffn_down_exps.weight"].numpy()
        np.testing.assert_array_equal(out, np.concatenate(wanted))
    older = legacy(tmp_path / "i.dat", {"blk.0.ffn_down_exps.weight": weights.reshape(-1)})
    run(tmp_path / "stack.safetensors", tmp_path, str(older), include=["*"])
    out = tc.open(tmp_path / "out.gguf")["blk.0.ffn_down_exps.weight"].numpy()
    np.testing.assert_array_equal(out, np.concatenate(wanted))
    names = [f"model.layers.0.mlp.experts.{n}.down_proj.weight" for n in range(3)]
    save_file(dict(zip(names, stack, strict=True)), tmp_path / "apart.safetensors")
    run(tmp_path / "apart.safetensors", tmp_path, str(file), include=["*"])
    out = tc.open(tmp_path / "out.gguf")
    for name, one in zip(names, wanted, strict=True):
        np.testing.assert_array_equal(out[name].numpy(), one)


def test_the_record_names_the_file_and_its_digest(model, tmp_path):
    file = legacy(tmp_path / "i.dat", {llama(name): value for name, value in WEIGHTS.items()})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    run(model, tmp_path, str(file))
    assert f"i.dat#sha256:{digest}" in str(dict(tc.open(tmp_path / "out.gguf").metadata))
    run(model, tmp_path, f"{file}#sha256:{digest}")
    same(tmp_path, WEIGHTS)
    with pytest.raises(FormatError, match="not the file that is meant"):
        run(model, tmp_path, f"{file}#sha256:{'0' * 64}")


def test_searches_of_other_schemes_take_them(model, tmp_path):
    """Less is lost where it counts, in nvfp4 with a search."""

    def lost(importance):
        flow = tc.open(model) | tc.quantize(
            "nvfp4", optimize="mse", importance=importance, include=["*proj*"]
        )
        flow | tc.write(tmp_path / "out", convention="neutral", force=True)
        tc.open(tmp_path / "out") | tc.dequantize("F32") | tc.write(tmp_path / "back", force=True)
        back = load_file(next((tmp_path / "back").glob("*.safetensors")))
        return sum(float((np.square(back[name] - MODEL[name]) * WEIGHTS[name]).sum()) for name in MATRICES)

    save_file(WEIGHTS, tmp_path / "own.safetensors")
    assert lost(str(tmp_path / "own.safetensors")) < 0.9 * lost(None)
