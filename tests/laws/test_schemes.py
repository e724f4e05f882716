"""Laws of schemes: every one of the table, under all combinations of the legal values of its options.

And what a new one takes: a toy scheme that is written here goes through the whole house.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import transcode as tc
from tests.cover import whole_products
from tests.numerics.test_hadamard import matrix
from tests.schemes.helpers import decode, encode, spec_of
from transcode import catalog
from transcode.codecs.strips import shared
from transcode.consumers.declared import Declared
from transcode.consumers.group import Names, Reading, readings
from transcode.core import values as json_values
from transcode.core.constraint import Constraint
from transcode.core.dtypes import DTYPES
from transcode.core.expr import Piece
from transcode.core.scheme import Hints, Scheme
from transcode.core.spec import Part, Spec
from transcode.errors import RecipeError
from transcode.schemes import CALIBRATED, SCHEMES, block, describe, make, refuse_idle
from transcode.schemes.base import Base
from transcode.schemes.bnb import Tabled
from transcode.schemes.ggml_blocks import Blocks


def every(name: str) -> Iterator[Any]:
    """The scheme under each combination of legal values that it does not refuse."""
    options = SCHEMES[name].options
    refused = total = 0
    for values in product(*(legal.cases for legal in options.values())):
        given = dict(zip(options, values, strict=True))
        total += 1
        try:
            yield make(name, **given)
        except RecipeError:
            refused += 1
    assert refused < 0.6 * total  # options that exclude each other multiply


def of_the_source(scheme: Any) -> bool:
    """Whether scales in F32 are what those in the dtype of the rows are."""
    legal = scheme.options.get("scale_dtype")
    return legal is not None and "source" in legal.cases and scheme.scale_dtype == "F32"


def law_of(schemes: Iterable[Any]) -> Callable[[Callable[[Any], None]], Callable[[str], None]]:
    """A law that holds for each of these schemes: a test for each name, whose error says which breaks it.

    A test for each scheme would be thousands, of which most take less time than pytest does.
    """
    named: dict[str, list[Any]] = {}
    for scheme in schemes:
        named.setdefault(scheme.name, []).append(scheme)

    def of(law: Callable[[Any], None]) -> Callable[[str], None]:
        @pytest.mark.parametrize("name", named)
        def test(name: str) -> None:
            for scheme in named[name]:
                try:
                    law(scheme)
                except BaseException as error:
                    error.add_note(f"broken by {scheme!r}")
                    raise

        test.__name__, test.__doc__ = law.__name__, law.__doc__
        return test

    return of


EVERY = [scheme for name in SCHEMES for scheme in every(name) if not of_the_source(scheme)]
each = law_of(EVERY)
PARTED = [scheme for scheme in EVERY if not isinstance(scheme, Blocks)]
"""Those that are stored as codes and scales, each a part of its own."""
each_parted = law_of(PARTED)
each_name = pytest.mark.parametrize("name", SCHEMES)

ROWS = np.random.default_rng(0).standard_normal((130, 768)).astype(np.float32)
PRISTINE = ROWS.copy()
SPEC = spec_of(ROWS)


@cache
def encoded(scheme: Any) -> Mapping[str, np.ndarray]:
    return encode(scheme, ROWS)


def facts(scheme: Any, spec: Spec) -> dict[str, Spec]:
    return {part.role: part.spec for part in scheme.parts(spec)}


def sizes(scheme: Any) -> dict[str, Any]:
    """What a source may tell of sizes, where they are none of the usual ones."""
    return {
        "groups": {scheme.group_size} if getattr(scheme, "granularity", "") == "group" else set(),
        "blocks": {scheme.block} if getattr(scheme, "granularity", "") == "block" else set(),
    }


def turning(scheme: Any) -> dict[str, Any]:
    """What a marker tells of columns that are turned together."""
    return {"rotations": (getattr(scheme, "rotate", 1),)}


CASES = [
    ("int8", {}),
    ("int8", {"granularity": "tensor"}),
    ("int8", {"granularity": "group", "group_size": 48}),
    ("int8", {"symmetric": False, "scale_dtype": "BF16"}),
    ("int8", {"symmetric": False, "granularity": "group", "group_size": 32}),
    ("int8", {"optimize": "mse", "granularity": "group", "group_size": 48}),
    ("int8", {"rotate": 16}),
    ("int8", {"rotate": 16, "granularity": "tensor"}),
    ("int8", {"rotate": 4, "symmetric": False, "granularity": "group", "group_size": 48}),
    ("fp8", {}),
    ("fp8", {"format": "e5m2", "granularity": "tensor"}),
    ("fp8", {"granularity": "block", "scale_dtype": "F16"}),
    ("fp8", {"granularity": "block", "block": (16, 32)}),
    ("fp8", {"granularity": "block", "block": (1, 64), "scale_dtype": "F8_E8M0"}),
    ("fp8", {"qmax": 14}),
    ("mxfp8", {}),
    ("mxfp8", {"format": "e5m2", "scale_mode": "floor"}),
    ("mxfp6", {}),
    ("mxfp6", {"format": "e2m3", "optimize": "mse"}),
    ("mxfp4", {}),
    ("mxfp4", {"scale_mode": "even"}),
    ("nvfp4", {}),
    ("nvfp4", {"optimize": "four_over_six"}),
    ("nvfp4", {"optimize": "mse"}),
    ("int4", {}),
    ("int4", {"symmetric": False, "group_size": 32}),
    ("int4", {"optimize": "mse", "scale_dtype": "BF16"}),
    ("int4", {"optimize": "signed"}),
    ("int4", {"symmetric": False, "optimize": "mse", "group_size": 32}),
    ("nvfp4_awq", {}),
    ("nvfp4_awq", {"optimize": "mse", "scale_dtype": "BF16"}),
    ("w4a8", {"rotate": 16}),
    ("w4a8", {"rotate": 4, "codebook": "fitted", "group_size": 32}),
    ("w4a8", {"rotate": 16, "codebook": "uniform"}),
    ("w6a8", {"rotate": 16}),
    ("convrot_w4a4", {"rotate": 16}),
    ("convrot_w4a4", {"rotate": 4, "optimize": "mse"}),
    ("awq_w4a16", {}),
    ("awq_w4a16", {"group_size": 32, "scale_dtype": "BF16"}),
    ("nf4", {}),
    ("nf4", {"group_size": 512, "double_quant": True}),
    ("bnb_fp4", {}),
    ("bnb_fp4", {"double_quant": True}),
    ("llm_int8", {}),
    ("ggml_nvfp4", {"scaled": True}),
    ("affine", {}),
    ("affine", {"bits": 3, "group_size": 32, "scale_dtype": "BF16"}),
    ("affine", {"bits": 8, "group_size": 128}),
    ("hqq", {"bits": 3, "scale_dtype": "F16"}),
    ("qbits", {"scale_dtype": "F32"}),
    *((name, {}) for name in SCHEMES if block(name) is not None),
]


FLOATS = {
    "e4m3fn": (3, 7, 448),
    "e5m2": (2, 15, 57344),
    "e3m2": (2, 3, 28),
    "e2m3": (3, 1, 7.5),
    "e2m1": (1, 1, 6),
}
"""Mantissa bits, exponent bias and largest value."""


def noise_of_table(values, scheme):
    """The gap between the two numbers on either side of each value is its step; scales of 8 bits, which lose
    about one part in 200, add little.
    """
    levels = np.unique(np.float64(scheme.numbers))
    blocks = np.pad(values.reshape(-1), (0, -values.size % scheme.group_size)).reshape(-1, scheme.group_size)
    peak = np.abs(blocks).max(-1, keepdims=True)
    right = np.clip(np.searchsorted(levels, blocks / peak), 1, len(levels) - 1)
    return np.sqrt((((levels[right] - levels[right - 1]) * peak) ** 2 / 12).sum())


def noise_of_levels(values, scheme):
    """The same for levels over the largest of a group, under a grid of 255 integers to a row."""
    blocks = values.reshape(len(values), -1, scheme.group_size)
    peak = np.abs(blocks).max(-1, keepdims=True)
    if scheme.name == "w6a8":
        gap = (peak / 31) ** 2 / 12
    elif scheme.codebook == "uniform":
        gap = (peak / 7) ** 2 / 12
    else:  # sixteen levels of a normal distribution lose a little less than as many even ones from end to end
        gap = (peak * 2 / 16) ** 2 / 12
    row = peak.max(1, keepdims=True) / 127
    return np.sqrt((np.broadcast_to(gap + row**2 / 12, blocks.shape)).sum())


def noise(values, scheme):
    """Root of the summed squared errors that rounding to a format's own steps makes.

    An error spread evenly over a step ``q`` has the variance ``q**2 / 12``. Integers have one step in a
    block, floats one for each power of two.
    """
    if isinstance(scheme, Blocks):
        return noise_of_blocks(values, scheme.name)
    if isinstance(scheme, Tabled):
        return noise_of_table(values, scheme)
    rows, columns = values.shape
    if getattr(scheme, "rotate", 1) > 1:
        values = (values.reshape(rows, -1, scheme.rotate) @ matrix(scheme.rotate)).reshape(rows, columns)
    if scheme.name in ("w4a8", "w6a8"):
        return noise_of_levels(values, scheme)
    granularity = getattr(scheme, "granularity", None)
    width = {"mxfp8": 32, "mxfp6": 32, "mxfp4": 32, "nvfp4": 16, "nvfp4_awq": 16}.get(scheme.name, columns)
    if scheme.name in ("int4", "awq_w4a16", "affine", "hqq") or granularity == "group":
        width = scheme.group_size
    if scheme.name == "qbits":
        width = shared(columns)
    blocks = values.reshape(rows, -1, width)
    if granularity == "block" and scheme.block[0] == 1:
        blocks = values.reshape(rows, -1, scheme.block[1])
    elif granularity in ("tensor", "block"):  # what differs from block to block is little here
        blocks = values.reshape(1, 1, -1)
    peak = np.abs(blocks).max(-1, keepdims=True)
    if scheme.name == "convrot_w4a4":
        steps = peak / 7
    elif scheme.name == "awq_w4a16":
        steps = (blocks.max(-1, keepdims=True) - blocks.min(-1, keepdims=True)) / 15
    elif scheme.name == "llm_int8":
        steps = peak / 127
    elif scheme.name in ("affine", "hqq", "qbits"):
        steps = (blocks.max(-1, keepdims=True) - blocks.min(-1, keepdims=True)) / (2**scheme.bits - 1)
    elif scheme.name in ("int8", "int4"):
        most = 127 if scheme.name == "int8" else 7
        span = np.maximum(blocks.max(-1, keepdims=True), 0) - np.minimum(blocks.min(-1, keepdims=True), 0)
        steps = peak / most if scheme.symmetric else span / (2 * most + 1)
    else:
        mantissa, bias, top = FLOATS[getattr(scheme, "format", "e2m1")]
        if getattr(scheme, "qmax", "full") == 14 and scheme.format == "e4m3fn":
            top = 14
        scale = peak / top
        if scheme.name.startswith("mx"):
            scale = np.exp2(np.ceil(np.log2(scale)))
        exponent = np.floor(np.log2(np.maximum(np.abs(blocks) / scale, 2.0 ** (1 - bias))))
        steps = scale * np.exp2(exponent - mantissa)
    return np.sqrt((np.broadcast_to(steps, blocks.shape) ** 2 / 12).sum())


STEPS = {
    "q4_0": (32, 16), "q4_1": (32, 15), "q5_0": (32, 32), "q5_1": (32, 31), "q8_0": (32, 254),
    "q2_k": (16, 3), "q3_k": (16, 8), "q4_k": (32, 15), "q5_k": (32, 31), "q6_k": (16, 64),
    "iq4_nl": (32, 16), "iq4_xs": (32, 16),
}  # fmt: skip
"""Columns under one scale; steps between twice the largest, or between both ends with a minimum."""

BOOKS = {"iq2_xxs": 0.345, "iq2_xs": 0.301, "iq2_s": 0.249, "iq3_xxs": 0.182, "iq3_s": 0.166}
"""What ggml's own blocks lose of Gaussian values, over these (libggml-base 0.13.1): all columns alike, but
for IQ3_S, which needs no weights."""


def noise_of_blocks(values, name):
    """As :func:`noise`, of the blocks of ggml: of floats and of few signs by their own steps."""
    if name in ("ggml_mxfp4", "ggml_nvfp4"):
        return noise(values, make(name.removeprefix("ggml_")))
    if name in ("q1_0", "tq1_0", "tq2_0"):
        blocks = values.reshape(-1, 128 if name == "q1_0" else 256)
        size = (
            np.abs(blocks).mean(1, keepdims=True) if name == "q1_0" else np.abs(blocks).max(1, keepdims=True)
        )
        near = np.sign(blocks) if name == "q1_0" else np.round(blocks / size)
        return np.sqrt(((near * size - blocks) ** 2).sum())
    if name in BOOKS:
        return BOOKS[name] * np.linalg.norm(values)
    width, steps = STEPS[name]
    blocks = values.reshape(-1, width)
    both = name in ("q4_1", "q5_1", "q2_k", "q4_k", "q5_k")
    span = blocks.max(1) - blocks.min(1) if both else 2 * np.abs(blocks).max(1)
    return np.sqrt((np.repeat(span / steps, width) ** 2 / 12).sum())


def check_noise(scheme: Any, out: np.ndarray, values: np.ndarray) -> None:
    found = np.linalg.norm((out - values).astype(np.float64))
    wanted = noise(values.astype(np.float64), scheme)
    # Formats of 8 bits leave little to choose. Those of 4 may do better than the plain scale: by a search, by
    # block scales that are not powers of two, or by a code that the symmetric range has to spare.
    least = 0.95 if scheme.name in ("int8", "fp8", "mxfp8") and not scheme.weighs else 0.7
    if scheme.name in ("affine", "hqq", "qbits") and scheme.bits <= 2:
        least = 0.3 * scheme.bits  # four levels, or two, of which the outer ones are not the ends of a group
    if isinstance(scheme, Blocks):  # scales are rounded, and most are searched
        assert 0.7 * wanted < found < 1.2 * wanted
        return
    # Scales that are not searched may cut off the largest values, or be twice what is needed.
    searched = getattr(scheme, "optimize", "none") != "none"
    mode = "" if searched else getattr(scheme, "scale_mode", "")
    most = {"floor": 1.15, "even": 1.05, "ceil": 1.3}.get(mode, 1.03)
    assert least * wanted < found < most * wanted


@each
def test_round_trip_loses_what_its_steps_lose(scheme: Any) -> None:
    check_noise(scheme, decode(scheme, encoded(scheme), SPEC), ROWS)


@each
def test_tiles_and_starts_change_nothing(scheme: Any) -> None:
    whole = encoded(scheme)
    assert sum(part.size for part in whole.values()) > ROWS.size // 8
    for tile in (1, 3) if whole_products() else (3,):  # of one grain: the next law has them of each scheme
        parts = encode(scheme, ROWS, tile=tile)
        for role in whole:
            np.testing.assert_array_equal(parts[role], whole[role])
    out = decode(scheme, whole, SPEC)
    for start, stop in ((0, 1), (5, 127), (SPEC.rows - 1, SPEC.rows)):
        np.testing.assert_array_equal(decode(scheme, whole, SPEC, start, stop), out[start:stop])


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("shape", [(300, 768), (3, 130, 768), (2, 128, 768)])
def test_tiles_of_stacks_change_nothing(name, options, shape):
    scheme = make(name, **options)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    whole = encode(scheme, values)
    for tile in (1, 2) if whole_products() else (1,) if len(shape) == 2 else (2,):
        parts = encode(scheme, values, tile=tile)
        for role in whole:
            np.testing.assert_array_equal(parts[role], whole[role])
    spec = spec_of(values)
    out = decode(scheme, whole, spec)
    for start, stop in ((0, 1), (5, 137), (spec.rows - 1, spec.rows)):
        np.testing.assert_array_equal(decode(scheme, whole, spec, start, stop), out[start:stop])
    check_noise(scheme, out, values.reshape(out.shape))


WEIGHING = [scheme for scheme in EVERY if scheme.weighs]


@law_of(WEIGHING)
def test_weights_of_columns_lose_less_where_it_counts(scheme: Any) -> None:
    """By the sum of squared errors, each times the weight of its column; tiles and units change nothing."""
    rng = np.random.default_rng(8)
    weights = np.exp(2 * rng.standard_normal(SPEC.columns)).astype(np.float32)
    weights[rng.random(SPEC.columns) < 0.1] = 0
    parts = encode(scheme, ROWS, weights=weights)

    def lost(parts: Mapping[str, np.ndarray]) -> Any:
        gaps = decode(scheme, parts, SPEC).astype(np.float64) - ROWS
        return (gaps**2 * weights.astype(np.float64)).sum()

    # Powers of two for floats of many exponents: what weighs most is next to never below the plain scale.
    share = 1 + 1e-6 if scheme.name in ("mxfp8", "mxfp6") else 0.999
    assert lost(parts) < share * lost(encoded(scheme))
    for other in (encode(scheme, ROWS, tile=7, weights=weights), encode(scheme, ROWS, weights=weights * 8)):
        assert all(parts[role].tobytes() == other[role].tobytes() for role in parts)
    assert encode(scheme, ROWS, weights=None)["codes"].tobytes() == encoded(scheme)["codes"].tobytes()


@each
def test_sources_are_not_written_to(scheme: Any) -> None:
    encoded(scheme)
    np.testing.assert_array_equal(ROWS, PRISTINE)


@each
def test_options_are_json_that_makes_the_scheme_again(scheme: Any) -> None:
    assert isinstance(scheme, Scheme)
    config = json.loads(json.dumps(scheme.config()))
    again = make(scheme.name, **config)
    assert again == scheme
    assert hash(again) == hash(scheme)
    defaults = describe(scheme.name)[1]
    assert set(config) == {key for key, value in defaults.items() if getattr(scheme, key) != value}


@each
def test_values_that_come_back(scheme: Any) -> None:
    """By a pickle and by JSON: equal and of the same class; the default ones with the same bytes, too."""
    for back in (
        pickle.loads(pickle.dumps(scheme)),
        json_values.load(json.loads(json.dumps(json_values.dump(scheme)))),
    ):
        assert back == scheme
        assert type(back) is type(scheme)
        if scheme == make(scheme.name):
            for role, part in encode(back, ROWS).items():
                np.testing.assert_array_equal(part, encoded(scheme)[role])


@each_name
def test_options_are_its_fields_and_each_changes_something(name: str) -> None:
    kind = SCHEMES[name]
    assert set(kind.options) == {field.name for field in fields(kind)}
    made = list(every(name))
    for option, legal in kind.options.items():
        assert legal.holds(describe(name)[1][option])
        for value in (None, "", "x", -1, 0, 1.5, [], {}, ["F32"]):
            assert not legal.holds(value)
            with pytest.raises(RecipeError, match=f"^{name}: {option} cannot be .*(choose from|give) "):
                make(name, **{option: value})
        for case in legal.cases:
            others = [one for one in made if getattr(one, option) == case]
            assert others
            assert any(
                changed(one, replace(one, **{option: other}))
                for one in others
                for other in legal.cases
                if other != case and replace(one, **{option: other}) in made
            )


def changed(one: Any, other: Any) -> bool:
    """Whether facts or bytes of parts differ; those of BF16 sources too, whose own dtype is none of F32."""
    bf16 = Spec(DTYPES["BF16"], SPEC.shape)
    if facts(one, bf16) != facts(other, bf16) or facts(one, SPEC) != facts(other, SPEC):
        return True
    return any(not np.array_equal(part, encoded(other)[role]) for role, part in encoded(one).items())


def test_idle_options_do_nothing_and_are_refused() -> None:
    idle = 0
    for scheme in EVERY:
        for option, other, value in scheme.idle(scheme.options):
            idle += 1
            assert option not in {one for one, _, _ in scheme.idle(set(scheme.options) - {option})}
            for case in scheme.options[option].cases:
                assert not changed(scheme, replace(scheme, **{option: case}))
            with pytest.raises(RecipeError, match=f"{option} does nothing with .*; add {other}={value}, or"):
                refuse_idle(scheme, [option])
            if scheme.options[other].holds(value):
                try:
                    awake = replace(scheme, **{other: value})
                except RecipeError:
                    continue
                refuse_idle(awake, [option])
    assert idle > 20


@each
def test_options_that_are_not_idle_do_something(scheme: Any) -> None:
    """But for searches, which may end where they began, whatever else is chosen."""
    if scheme.without_search is not None:
        return
    idle = {option for option, _, _ in scheme.idle(scheme.options)}
    for option, legal in scheme.options.items():
        if option not in {*idle, "optimize"}:
            others = [
                replace(scheme, **{option: case}) for case in legal.cases if accepts(scheme, option, case)
            ]
            assert len(others) == 1 or any(changed(scheme, other) for other in others)


def accepts(scheme: Any, option: str, value: Any) -> bool:
    try:
        replace(scheme, **{option: value})
    except RecipeError:
        return False
    return True


@each
def test_without_search(scheme: Any) -> None:
    """The plain scales: the same facts and the same meaning, and nothing that loses less."""
    plain = scheme.without_search
    assert (plain is not None) == (getattr(scheme, "optimize", "none") != "none")
    if plain is None:
        assert scheme.search_seconds == 0 or not scheme.light
        return
    assert plain.without_search is None
    assert facts(plain, SPEC) == facts(scheme, SPEC)
    assert plain.meaning(SPEC) == scheme.meaning(SPEC)
    lost = [
        np.linalg.norm(decode(one, encoded(one), SPEC).astype(np.float64) - ROWS) for one in (scheme, plain)
    ]
    assert lost[0] <= lost[1]


@each_parted
def test_a_variant_decodes_what_it_made(scheme: Any) -> None:
    """Among the variants of its parts' facts is one of its meaning; all of that decode to the same values."""
    parts, stored = encoded(scheme), facts(scheme, SPEC)
    out = decode(scheme, parts, SPEC)
    options = {key: getattr(scheme, key) for key in scheme.options if key in ("global_scale_dtype",)}
    fitting = [
        one
        for one in type(scheme).variants(
            options, Hints(stored["scale"].dtype.name, **sizes(scheme), **turning(scheme))
        )
        if one.refuses(SPEC) is None and facts(one, SPEC) == stored
    ]
    alike = [one for one in fitting if one.meaning(SPEC) == scheme.meaning(SPEC)]
    assert alike
    for one in alike:
        np.testing.assert_array_equal(decode(one, parts, SPEC), out)


@pytest.mark.parametrize("form", ["e4m3fn", "e5m2"])
def test_two_schemes_of_one_meaning_decode_alike(form):
    """mxfp8 is fp8 in blocks of 32 columns whose scales are powers of two; no other is of its meaning."""
    one = make("mxfp8", format=form)
    parts = encoded(one)
    powers = np.exp2(parts["scale"].astype(np.float64) - 127).astype(np.float32)
    alike = [other for other in EVERY if other.meaning(SPEC) == one.meaning(SPEC)]
    assert {other.name for other in alike} == {"mxfp8"}
    other = make("fp8", format=form, granularity="block", block=(1, 32))
    assert other.meaning(SPEC) == one.meaning(SPEC)
    there = {"codes": parts["codes"], "scale": powers}
    np.testing.assert_array_equal(decode(other, there, SPEC), decode(one, parts, SPEC))


@each_name
def test_odd_specs_are_refused_not_raised(name: str) -> None:
    made = list(every(name))
    for dtype in DTYPES:
        check_odd_specs(made, dtype)


def check_odd_specs(made: list[Any], dtype: str) -> None:
    taken = Counter[bool]()
    for scheme in made:
        shapes: list[tuple[int, ...]] = [
            (), (1,), (768,), (0, 768), (4, 0), (0, 0), (1, 1), (3, 7), (128, 768), (3, 128, 768),
            (0, 2, 768), (2, 0, 768), (1, 2, 128, 768), (2**40, 768), (1, 2**40 + 1),
        ]  # fmt: skip
        for shape in shapes:
            spec = Spec(DTYPES[dtype], shape)
            why = scheme.refuses(spec)
            taken[why is None] += 1
            if why is None:
                assert dtype in ("BF16", "F16", "F32", "F64")
                assert prod(shape) > 0
                assert 2 <= len(shape) <= 3
                roles = [part.role for part in scheme.parts(spec)]
                assert roles[0] == "codes"
                assert ("scale" in roles[1:2]) != isinstance(scheme, Blocks)
                assert len(set(roles)) == len(roles)
            else:
                assert why
                assert "\n" not in why
    assert taken[False] > 5
    assert (taken[True] > 0) == (dtype in ("BF16", "F16", "F32", "F64"))


def read(specs: Mapping[str, Spec], scheme: Any) -> list[Reading]:
    """How parts of the convention ``neutral`` are read."""
    return _read(tuple(specs.items()), *(frozenset(told) for told in sizes(scheme).values()))


@cache  # many schemes store the same facts
def _read(
    specs: tuple[tuple[str, Spec], ...], groups: frozenset[int], blocks: frozenset[tuple[int, int]]
) -> list[Reading]:
    spelled = {"a.weight" if role == "codes" else f"a.weight_{role}": spec for role, spec in specs}
    told = Declared(groups=set(groups), blocks=set(blocks))
    return readings(Names(spelled), catalog.convention("neutral"), told).get("a.weight", [])


@each_parted
def test_parts_are_recognised_and_hostile_ones_are_not(scheme: Any) -> None:
    stored = facts(scheme, SPEC)
    meanings = [one.scheme.meaning(one.spec) for one in read(stored, scheme) if one.spec.shape == SPEC.shape]
    assert scheme.meaning(SPEC) in meanings
    codes, scale = stored["codes"], stored["scale"]
    hostile = {
        "a row of codes is missing": {"codes": Spec(codes.dtype, (codes.shape[0] - 1, *codes.shape[1:]))},
        "codes are none": {"codes": Spec(DTYPES["I64"], codes.shape)},
        "codes are empty": {"codes": Spec(codes.dtype, (0, codes.shape[1]))},
        "codes are one row": {"codes": Spec(codes.dtype, (codes.numel,))},
        "a scale too many": {"scale": Spec(scale.dtype, (*scale.shape[:-1], (scale.shape or (1,))[-1] + 1))},
        "scales have one more axis": {"scale": Spec(scale.dtype, (2, *scale.shape))},
        "no scale": {"scale": Spec(scale.dtype, (0,))},
        "scales are no floats": {"scale": Spec(DTYPES["I64"], scale.shape)},
        "scales are complex": {"scale": Spec(DTYPES["C64"], scale.shape)},
    }
    if "zero_point" in stored and stored["zero_point"].dtype.kind != "float":
        hostile["zero points are floats"] = {"zero_point": Spec(DTYPES["F32"], stored["zero_point"].shape)}
    if "global_scale" in stored:
        hostile["a global scale for each row"] = {"global_scale": Spec(DTYPES["F32"], (SPEC.rows,))}
    for what, change in hostile.items():
        for one in read({**stored, **change}, scheme):
            # What it is read as must be just what is there: one more way to cut the rows, say.
            made = facts(one.scheme, one.spec)
            assert {role: part.numel for role, part in made.items()} == {
                role: part.numel for role, part in ({**stored, **change}).items()
            }, what
            assert made["codes"].dtype == ({**stored, **change})["codes"].dtype, what
            assert what in ("a scale too many", "a row of codes is missing"), what


@each_name
def test_every_scheme_describes_itself_and_prepares(name):
    line, options = describe(name)
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert make(name, **options) == make(name)
    make(name).prepare(DTYPES["BF16"])
    assert {name for name, _ in CASES} == set(SCHEMES)


def test_unknown_scheme():
    with pytest.raises(RecipeError, match="unknown scheme 'int9'; choose from int8, fp8, "):
        make("int9")


def test_scale_dtype_of_the_source():
    for source, kept in (("BF16", "BF16"), ("F32", "F32"), ("F16", "F32"), ("F64", "F32")):
        parts = make("int8").parts(Spec(DTYPES[source], (4, 8)))
        assert [(part.role, str(part.spec)) for part in parts] == [
            ("codes", "I8[4,8]"),
            ("scale", f"{kept}[4,1]"),
        ]


# Encodings that come from a calibration


@pytest.mark.parametrize("name", CALIBRATED)
def test_what_comes_of_a_calibration_is_refused_with_what_makes_it(name, cli, tmp_path):
    save_file({"a.weight": torch.ones(64, 64)}, tmp_path / "m.safetensors")
    out = tmp_path / "o.safetensors"
    told = cli("run", tmp_path / "m.safetensors", out, "--scheme", name, code=2).err
    assert f"{name} is not made of weights alone, but of a calibration; make it with" in told.replace(
        "\n", " "
    )
    assert "transcode nunchaku convert" in told.replace("\n", " ")
    assert not out.exists()


@pytest.mark.parametrize("name", CALIBRATED)
def test_encodings_are_values_with_parts_that_conventions_store(name):
    encoding = CALIBRATED[name]()
    assert not isinstance(encoding, Scheme)
    assert encoding.summary
    assert encoding.search_seconds == 0
    assert pickle.loads(pickle.dumps(encoding)) == encoding
    assert json_values.load(json.loads(json.dumps(json_values.dump(encoding)))) == encoding
    rule = catalog.convention("nunchaku").scheme(name)
    roles = [part.role for part in encoding.parts(Spec(DTYPES["BF16"], (256, 512)))]
    assert roles[0] == "codes"
    assert set(roles) <= set(rule.parts)
    for dtype in ("BF16", "F16"):
        encoding.prepare(DTYPES[dtype])


@pytest.mark.parametrize("name", CALIBRATED)
def test_the_kernel_and_its_quotients_agree_on_what_has_a_code(name):
    """One value at a time, at and next to the ends of the range, ties included."""
    encoding = CALIBRATED[name]()
    ends = np.array([-9, -8.5, -8, -7.5, -7, 0, 7, 7.5, 8, 8.5, 9, 3e38, -3e38], np.float32)
    ends = np.concatenate([ends, np.nextafter(ends, np.float32(np.inf)), np.nextafter(ends, np.float32(0))])
    one, fitted = np.ones((1, 1), np.float32), set()
    for scale in (np.float32(1), np.float32(0.25), np.float32(0)):
        for value in ends * (scale or 1):
            row = np.full((1, 1), value, np.float32)
            inner = np.full((1, 1), scale, np.float32)
            bad = encoding.kernel(row.view(np.uint32), one, inner, np.empty((1, 1), np.uint8), 0, 1)
            _, fits = encoding.quotients(row, one, inner)
            assert bool(fits[0, 0]) == (bad < 0), (value, scale)
            fitted.add(bad < 0)
    assert fitted == {True, False}


# A scheme of one's own


@dataclass(frozen=True)
class Toy(Base):
    """Seven or fifteen steps to either side of zero, under one F32 scale to a row."""

    name: ClassVar[str] = "toy"
    summary: ClassVar[str] = "a few steps to a row"
    observes: ClassVar[bool] = False
    options: ClassVar[Mapping[str, Constraint]] = {"steps": Constraint.among(7, 15)}

    steps: int = 7

    def parts(self, spec: Spec) -> tuple[Part, ...]:
        return (
            Part("codes", Spec(DTYPES["I8"], spec.shape)),
            Part("scale", Spec(DTYPES["F32"], (*spec.shape[:-1], 1))),
        )

    def grain(self, spec: Spec) -> int:
        return 1

    def prepare(self, dtype: Any) -> None:
        pass

    def meaning(self, spec: Spec) -> Any:
        return self.name

    def encode(
        self, rows: Any, spec: Spec, start: int, stats: Any, scratch: Any, weights: Any = None
    ) -> Iterator[Piece]:
        x = rows.view(spec.dtype.numpy()).astype(np.float32)
        scale = np.abs(x).max(1, keepdims=True) / np.float32(self.steps)
        codes = np.rint(x / scale).astype(np.int8)
        yield Piece("codes", start * spec.columns, codes)
        yield Piece("scale", start * 4, scale)

    def decode(self, parts: Any, spec: Spec, start: int, stop: int, out: Any) -> None:
        codes = parts["codes"].reshape(stop - start, -1)
        out[:] = codes * parts["scale"].reshape(-1, 1)[start:stop]


CONVENTION = """
convention: toy_runtime
title: Toy runtime
parts: {codes: "{stem}.toy", scale: "{stem}.toy_scale"}
schemes: {toy: {}}
files: {single_file: "{stem}.safetensors"}
"""


def test_a_scheme_of_ones_own_goes_through_the_whole_house(monkeypatch, tmp_path, cli):
    """One class, its entry in the table, and a convention: quantized, listed, recognised, decoded."""
    monkeypatch.setitem(SCHEMES.places, "toy", Toy)
    (tmp_path / "formats" / "conventions").mkdir(parents=True)
    (tmp_path / "formats" / "conventions" / "toy_runtime.yaml").write_text(CONVENTION)
    monkeypatch.setenv("TRANSCODE_FORMATS", str(tmp_path / "formats"))
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 64, generator=random, dtype=torch.bfloat16)
    model = {"blocks.0.q.weight": weight, "blocks.0.q.bias": torch.ones(32, dtype=torch.bfloat16)}
    save_file(model, tmp_path / "m.safetensors")
    quantized, decoded = tmp_path / "q.safetensors", tmp_path / "d.safetensors"

    listed = cli("schemes").out
    assert "toy: a few steps to a row" in listed
    assert re.search(r"(?m)^ *steps +7 \| 15 +\[7\]$", listed)

    step = tc.quantize("toy", steps=15)
    tc.open(tmp_path / "m.safetensors") | step | tc.write(quantized, convention="toy_runtime")
    found = load_file(quantized)
    scale = weight.float().abs().amax(1, keepdim=True) / 15
    assert set(found) == {"blocks.0.q.toy", "blocks.0.q.toy_scale", "blocks.0.q.bias"}
    assert torch.equal(found["blocks.0.q.toy_scale"], scale)
    assert torch.equal(found["blocks.0.q.toy"], torch.round(weight.float() / scale).to(torch.int8))

    tc.open(quantized) | tc.dequantize("F32") | tc.write(decoded)
    back = load_file(decoded)
    assert set(back) == set(model)
    assert torch.equal(back["blocks.0.q.weight"], found["blocks.0.q.toy"].float() * scale)

    with pytest.raises(RecipeError, match="toy: steps cannot be 8; choose from 7, 15"):
        tc.open(tmp_path / "m.safetensors") | tc.quantize("toy", steps=8) | tc.write(tmp_path / "x")
    with pytest.raises(RecipeError, match="convention lightx2v has no spelling for scheme 'toy'"):
        (
            tc.open(tmp_path / "m.safetensors")
            | tc.quantize("toy")
            | tc.write(tmp_path / "x.safetensors", convention="lightx2v")
        )
