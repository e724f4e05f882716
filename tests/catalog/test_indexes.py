"""What is decided of one index holds for all of two digits and more, where no pattern tells them apart."""

from __future__ import annotations

import pytest

from transcode import catalog
from transcode.catalog.policy import Block, Policy, _tells_indexes
from transcode.core.patterns import Pattern

NAMES = [
    "{i}.weight", "blocks.{i}.ffn.0.weight", "blocks.{i}.self_attn.q.weight",
    "model.layers.{i}.mlp.gate.weight",
    "model.layers.1.mlp.experts.{i}.down_proj.weight", "double_blocks.{i}.img_mod.lin.weight",
    "transformer_blocks.{i}.attn.to_out.0.weight", "text_encoder_{i}.a.weight", "h.{i}.{i}.weight",
    "layer.{i}.bias",
    "blocks.{i}.ffn.{i}.weight", "visual.transformer.{i}.weight", "proj_out.{i}.weight", "a.{i}",
]  # fmt: skip
INDEXES = ["0", "1", "2", "9", "10", "11", "31", "99", "100", "4711", "012", "1234567890"]


def policies():
    for name in catalog.families():
        for spelling in catalog.family(name).spellings.values():
            yield pytest.param(spelling.policy, id=f"{name}-{spelling.name}")


@pytest.mark.parametrize("policy", list(policies()))
def test_a_decision_is_that_of_the_name_itself(policy):
    """Asked in any order, of names alike and not, it is what the patterns say of this very name."""
    for text in NAMES:
        for index in (*INDEXES, *reversed(INDEXES)):
            name = text.format(i=index)
            for shape in (None, (8, 16), (16, 8), (8,)):
                assert policy.is_target(name, shape) == policy._decide(name, shape, None), name


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("head", False), ("blocks.0", False), ("a.*.b", False), ("to_out.1", False), ("blocks.12", True),
        ("blocks.1?", True), ("blocks.[1-3]", True), ("blocks.1*", True), ("*2.weight", True),
        (r"re:\.weight$", False), (r"re:\.\d+\.", False), (r"re:\.\d\.", True), (r"re:a\.1\d+", True),
        (r"re:\.0\.", True), ("re:a.b", True), (r"re:(?!.*x).*y", False), ("re:t5xxl", False),
        (r"re:\w+", True), (r"re:x{2}", True), (r"re:^(clip_[lg]|enc_\d)\.", False),
    ],
)  # fmt: skip
def test_patterns_that_tell_indexes_apart_are_known(text, tells):
    assert _tells_indexes(text) is tells


@pytest.mark.parametrize(
    "text", ["blocks.12", "blocks.1?", r"re:blocks\.\d\d\.x", r"re:\.1[0-2]\.", r"re:\.\d+\d+\d+\."]
)
def test_a_pattern_that_tells_them_apart_is_asked_each_time(text):
    policy = Policy(targets=(Pattern(text),), everywhere=True)
    for index in (*INDEXES, *reversed(INDEXES)):
        name = f"blocks.{index}.x.weight"
        assert policy.is_target(name)[0] == Pattern(text).matches(name)


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("stages.11.blocks.{i}", {"11"}), ("stages.1{i}", {"10", "11", "100", "1234567890"}),
        ("stages.*2.blocks.{i}", {"2", "012"}), ("stages.[!4].blocks.{i}", {"0", "1", "2", "9"}),
    ],
)  # fmt: skip
def test_a_block_whose_path_tells_them_apart_is_looked_for_each_time(path, fits):
    """The first index is of a stage: only in one of them lie blocks with targets."""
    policy = Policy(blocks=(Block(path),), targets=(Pattern("x"),))
    for index in (*INDEXES, *reversed(INDEXES)):
        name = f"stages.{index}.blocks.7.x.weight"
        assert policy.is_target(name)[0] == (index in fits), name


def test_what_is_remembered_stays_bounded(monkeypatch):
    monkeypatch.setattr("transcode.catalog.policy._MOST_DECIDED", 100)
    policy = Policy(targets=(Pattern("x"),), everywhere=True)
    for number in range(1000):
        assert policy.is_target(f"a{number}.x.weight")[0]
    assert len(policy._decided) <= 100
