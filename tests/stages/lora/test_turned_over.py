"""What a change is for, of the tensor that holds it."""

from transcode.core.dtypes import dtype
from transcode.core.spec import Spec
from transcode.stages.lora.homes import Move, Place
from transcode.stages.lora.turned_over import seen


def test_what_a_place_is_seen_as():
    stack, matrix = Spec(dtype("F32"), (3, 8, 5)), Spec(dtype("F32"), (4, 5))
    assert seen(Place("a"), matrix).shape == (4, 5)
    assert seen(Place("a", turned=True), matrix).shape == (5, 4)
    assert seen(Place("a", 2, (Move(0, 1, 2),)), matrix).shape == (2, 5)
    assert seen(Place("a", 4, (Move(0, 12, 4),), rows_of_stack=True), stack).shape == (4, 5)
    assert seen(Place("a", 24, (Move(8, 0, 4),), stack=3), matrix).shape == (3, 8, 5)
