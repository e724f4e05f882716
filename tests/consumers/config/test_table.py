"""Every dialect says what its line promises, and what it says is read back; a new one is held by the same."""

from __future__ import annotations

import pytest

from tests.expressions import NOTHING
from transcode import catalog, schemes
from transcode.catalog.convention import CONFIGS
from transcode.consumers.config import table
from transcode.consumers.config.stated import KEY
from transcode.core.dtypes import DTYPES
from transcode.core.planning import Planning
from transcode.core.spec import Spec
from transcode.core.tensor import LazyTensor, plain
from transcode.errors import PlanError

WRITTEN = {name: one for name, one in table.DIALECTS.items() if one.schemes}
FACTS = Spec(DTYPES["BF16"], (256, 256))
LAYER, OTHER = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"


def quantized(scheme: str, module: str = LAYER, **options: object) -> LazyTensor:
    made = schemes.make(scheme, **options)
    tensor = plain(f"{module}.weight", FACTS, NOTHING)
    return tensor.evolve(scheme=made, parts=made.parts(FACTS))


def options_of(method: str, scheme: str) -> dict[str, object]:
    (convention,) = (one for one in catalog.every_convention() if one.config == method)
    return dict(convention.scheme_options(scheme))


def test_conventions_name_dialects_that_there_are() -> None:
    assert set(CONFIGS) == WRITTEN.keys()
    for convention in catalog.every_convention():
        for method in (convention.config, *convention.methods):
            assert method is None or method in table.DIALECTS, convention.name


@pytest.mark.parametrize("method", table.DIALECTS)
def test_the_key_is_its_own_method(method: str) -> None:
    assert table.DIALECTS[method].method == method
    assert table.speaker({"quant_method": method}) == method


@pytest.mark.parametrize("method", WRITTEN)
def test_a_convention_promises_nothing_that_its_dialect_cannot_say(method: str) -> None:
    for convention in catalog.every_convention():
        if convention.config == method:
            written = convention.schemes.keys() - schemes.DECODED.keys()
            assert written <= set(WRITTEN[method].schemes), convention.name


@pytest.mark.parametrize("scheme", schemes.SCHEMES)
@pytest.mark.parametrize("method", WRITTEN)
def test_it_says_its_schemes_and_refuses_the_others(method: str, scheme: str) -> None:
    known = scheme in WRITTEN[method].schemes
    tensors = [quantized(scheme, **(options_of(method, scheme) if known else {}))]
    if known:
        statement = table.state(tensors, method, Planning())
        assert statement is not None
        assert statement.config["quant_method"] == (WRITTEN[method].said or method)
        if key := WRITTEN[method].unquantized:
            assert statement.config[key] == WRITTEN[method].listing(["lm_head"])
        assert table.speaker(statement.config) == method
        assert statement.files.keys() == {side.file for side in WRITTEN[method].beside}
    else:
        with pytest.raises(PlanError, match="has no words for it"):
            table.state(tensors, method, Planning())


@pytest.mark.parametrize(
    ("method", "scheme", "statement", "words"),
    [
        ("quanto", "int8", {"weights_dtype": "float8"}, "weights_dtype 'float8'"),
        ("quanto", "fp8", {"weights": "int8"}, "weights 'int8'"),
        ("sdnq", "int8", {"weights_dtype": "uint4", "group_size": 64}, "weights_dtype 'uint4'"),
        ("quark", "mxfp4", {"global_quant_config": {"weight": {"dtype": "int8"}}}, "dtype 'int8'"),
        ("modelopt", "nvfp4", {"quant_algo": "FP8"}, "quant_algo 'FP8'"),
        ("compressed-tensors", "int8", {"config_groups": {"g": {"weights": {"num_bits": 4}}}}, "num_bits 4"),
    ],
)
def test_what_a_config_denies_and_nothing_that_is_written(method, scheme, statement, words) -> None:
    said = table.denied({KEY: {"quant_method": method, **statement}}, schemes.make(scheme))
    assert said is not None
    assert words in said
    for one in WRITTEN[method].schemes:
        tensor = quantized(one, **options_of(method, one))
        written = table.state([tensor], method, Planning())
        assert written is not None
        assert table.denied({KEY: written.config}, tensor.scheme) is None, one


def test_fp8_has_scales_of_one_kind_for_all_layers() -> None:
    kinds = [
        quantized("fp8", module, granularity="block", scale_dtype=kept)
        for module, kept in ((LAYER, "F32"), (OTHER, "F8_E8M0"))
    ]
    with pytest.raises(PlanError, match="knows scales of one kind"):
        table.state(kinds, "fp8", Planning())
    statement = table.state(kinds[1:], "fp8", Planning())
    assert statement is not None
    assert statement.config["scale_fmt"] == "ue8m0"


def test_nothing_is_said_where_nothing_is_quantized() -> None:
    assert table.state([plain("a.weight", FACTS, NOTHING)], "fp8", Planning()) is None


@pytest.mark.parametrize(
    ("method", "scheme", "options", "read"),
    [
        ("fp8", "fp8", {"granularity": "block"}, {"weight_block_size": [128, 128]}),
        (
            "compressed-tensors",
            "int4",
            {"group_size": 32},
            {"num_bits": 4, "group_size": 32, "symmetric": True},
        ),
        ("compressed-tensors", "fp8", {"granularity": "block"}, {"block_structure": [128, 128]}),
        ("modelopt", "nvfp4", {}, {"num_bits": 4, "group_size": 16}),
        ("modelopt", "mxfp8", {}, {"num_bits": 8, "group_size": 32}),
        ("gptq", "int4", {"group_size": 32}, {"num_bits": 4, "group_size": 32, "symmetric": True}),
        ("awq", "int4", {"group_size": 32, "symmetric": False}, {"num_bits": 4, "group_size": 32}),
    ],
)
def test_what_is_written_is_read_back(method: str, scheme: str, options: dict, read: dict) -> None:
    statement = table.state([quantized(scheme, **options)], method, Planning())
    assert statement is not None
    for config in (statement.config, {k: v for k, v in statement.config.items() if k != "quant_method"}):
        (found,) = map(dict, dict.fromkeys(tuple(one.items()) for one in _hashable(config)))
        assert {key: found[key] for key in read} == {k: _frozen(v) for k, v in read.items()}


def _hashable(config: dict) -> list[dict]:
    return [{k: _frozen(v) for k, v in one.items()} for one in table.options({KEY: config})]


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("method", [name for name, one in table.DIALECTS.items() if one.unquantized])
def test_decoded_layers_are_listed_once_and_the_rest_stays(method: str) -> None:
    dialect = table.DIALECTS[method]
    config = {
        KEY: {"quant_method": method, dialect.unquantized: dialect.listing(["lm_head"])},
        "text_config": {"a": 1},
    }
    names = [f"{LAYER}.weight"], [f"{OTHER}.weight"]
    once = table.leave_out(config, *names)
    both = dialect.listing(["lm_head", LAYER])
    assert once[KEY] == {"quant_method": method, dialect.unquantized: both}
    assert table.leave_out(once, *names) == once
    assert config[KEY][dialect.unquantized] == dialect.listing(["lm_head"])
    hides = [f"{LAYER}.weight"], [f"{LAYER}_2.weight"]
    if dialect.by_prefix:
        with pytest.raises(PlanError, match="take a name for the beginning of others"):
            table.leave_out(config, *hides)
    else:
        assert table.leave_out(config, *hides)[KEY][dialect.unquantized] == both


def test_modelopt_forgets_the_algorithm_of_what_is_decoded() -> None:
    layers = {LAYER: {"quant_algo": "NVFP4"}, OTHER: {"quant_algo": "MXFP8"}}
    beside = {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}}
    file = "hf_quant_config.json"
    after = table.leave_out_beside(file, beside, [f"{LAYER}.weight"], [f"{OTHER}.weight"])["quantization"]
    assert after["quantized_layers"] == {OTHER: {"quant_algo": "MXFP8"}}
    assert after["exclude_modules"] == [LAYER]
    assert LAYER in layers


def test_who_speaks_is_told_by_keys_where_the_method_is_missing() -> None:
    assert table.speaker({"quant_algo": "FP8"}) == "modelopt"
    assert table.speaker({"config_groups": {}}, "compression_config") == "compressed-tensors"
    assert table.speaker({"config_groups": {}}) is None
    assert table.speaker({"quant_method": ["fp8"]}) is None
    with pytest.raises(PlanError, match="quant_method 'aqlm' cannot say"):
        table.leave_out({KEY: {"quant_method": "aqlm"}}, ["a.weight"], [])


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ({"sparsity_config": {"format": "sparse-bitmask"}}, "sparsity_config with format 'sparse-bitmask'"),
        ({"sparsity_config": {"format": "dense"}}, None),
        ({"transform_config": {"config_groups": {"a": {"apply": [{"location": "input"}]}}}}, "'input'"),
        ({"transform_config": {"config_groups": {"a": {"apply": [{"location": "weight_input"}]}}}}, None),
    ],
)
def test_words_beyond_codes(statement: dict, words: str | None) -> None:
    for method in ({}, {"quant_method": "compressed-tensors"}):
        said = table.beyond_codes({"text_config": {KEY: {**method, **statement}}})
        assert said is None if words is None else words in str(said)
