"""What Python's functions take, and what is declared of stages, source and output, agree."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from transcode import api
from transcode.core.option import GROUPS, options_of
from transcode.core.performance import Performance
from transcode.plan.options import OutputOptions, SourceOptions
from transcode.schemes import SCHEMES
from transcode.stages.names import TABLES, names
from transcode.stages.options import QuantizeOptions
from transcode.stages.table import ORDER, STAGES, stage

OWNERS = {kind: owner for kind, (owner, _) in STAGES.items()}
ALL = [*OWNERS.values(), SourceOptions, OutputOptions, Performance]
WRITTEN = {"files": ("path", "strength", "alpha")}
"""Fields that are several parameters of a function."""


@pytest.mark.parametrize("kind", [*OWNERS, "open", "write"])
def test_functions_take_what_is_declared(kind):
    declared = {"open": [SourceOptions], "write": [OutputOptions, Performance]}.get(kind) or [OWNERS[kind]]
    options = {name: option for owner in declared for name, option in options_of(owner).items()}
    taken = dict(inspect.signature(getattr(api, kind)).parameters)
    for ours in ("on_progress", "progress"):  # of Python alone
        taken.pop(ours, None)
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        # The scheme's options, and maybe those of the stage.
        head = next(name for name, option in options.items() if option.head)
        first = options[head].default if kind != "quantize" else "int8"
        own = {name: option.default for name, option in options.items() if name not in (head, "options")}
        assert getattr(api, kind)(first, **own) == getattr(api, kind)(first)
        return
    wanted = [name for field in options for name in WRITTEN.get(field, (field,))]
    assert set(taken) == set(wanted)
    for name, parameter in taken.items():
        if parameter.default is not parameter.empty and name in options:
            default = options[name].default
            assert parameter.default == default or (not default and not parameter.default), name


@pytest.mark.parametrize("kind", STAGES)
def test_a_stage_is_its_options(kind):
    made = stage(kind)
    assert made.kind == kind == OWNERS[kind].kind
    assert issubclass(made, OWNERS[kind])
    assert [one.name for one in fields(made)] == list(options_of(made)) == list(options_of(OWNERS[kind]))
    assert set(STAGES) - set(ORDER) == {"nunchaku"}  # of a folder that `transcode nunchaku` opens


@pytest.mark.parametrize("owner", ALL, ids=lambda owner: owner.__name__)
def test_descriptions_are_whole(owner):
    for name, option in options_of(owner).items():
        assert option.help[0].isupper() or option.help.startswith("cpu"), name
        assert option.help.endswith("."), name
        assert len(option.help) <= 68, f"{name}: help of {len(option.help)} characters takes two lines"
        assert option.group in GROUPS
        assert not option.names or option.names in TABLES
        if option.names and option.names != "scheme options":
            assert names(option.names)


def test_flags_of_schemes_are_their_options():
    known = {option for scheme in SCHEMES.values() for option in scheme.options}
    assert set(options_of(QuantizeOptions)["options"].short) < known


def test_the_names_of_schemes_are_all():
    assert set(names("schemes")) == set(SCHEMES)
