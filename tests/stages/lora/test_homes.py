"""Runs of names."""

from transcode.stages.lora.homes import matches


def test_names_that_begin_with_a_run():
    names = ["a.3.b.weight", "a.3.bc.weight", "a.x.b.weight", "a.12.b"]
    found = [("a.3.b.weight", ("3",), ".weight"), ("a.12.b", ("12",), "")]
    assert [*matches("a.{i}.b", names)] == found
