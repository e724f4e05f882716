"""The modules of families' models, and their names without dots."""

import make_lora_modules
import pytest

from transcode.catalog.lora_modules import ModuleNames, lora_modules


@pytest.mark.whole
def test_the_list_is_that_of_the_published_names():
    assert make_lora_modules.TARGET.read_text() == make_lora_modules.text()


def test_each_module_is_found_by_its_name_without_dots():
    for family, spellings in lora_modules().items():
        for spelling, modules in spellings.items():
            for run in modules.runs:
                name = run.replace("{i}", "30")
                assert modules.holds(name)
                assert modules.dotted(name.replace(".", "_")) == name, (family, spelling)


NAMES = ModuleNames(frozenset(["a_b.{i}.mlp.0", "a_b.{i}.mlp.2", "time_in.linear_1", "x.y_z", "x_y.z"]))


@pytest.mark.parametrize(
    ("flat", "name"),
    [
        ("a_b_12_mlp_2", "a_b.12.mlp.2"),
        ("a_b_12_mlp_1", None),
        ("time_in_linear_1", "time_in.linear_1"),
        ("time_in_linear_2", None),
        ("x_y_z", None),  # of two
        ("a_b_mlp_0", None),
    ],
)
def test_a_name_without_dots(flat, name):
    assert NAMES.dotted(flat) == name


def test_what_is_held():
    assert NAMES.holds("a_b.7.mlp.0")
    assert not NAMES.holds("a_b.7.mlp.1")
    assert not NAMES.holds("a_b.x.mlp.0")
