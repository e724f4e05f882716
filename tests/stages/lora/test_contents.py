"""What the report counts of a file."""

import numpy as np

from transcode.stages.lora.contents import Change, count
from transcode.stages.lora.delta import Added, Difference, LowRank
from transcode.stages.lora.places import Tokens, Whole
from transcode.stages.lora.rows import Scaled
from transcode.stages.lora.stacked import Stacked

from .arrays import FILE, lazy, rand

ONE = np.float32(1)


def change(delta):
    return Change("key", "base", "weight", Added(delta, ONE), "what it is")


def pair(rank):
    return change(LowRank(FILE, lazy(rand(4, rank)), lazy(rand(rank, 6))))


def test_pairs_by_rank_then_others_then_what_is_whole():
    matrix = lazy(rand(4, 6))
    changes = [
        change(Whole(FILE, matrix)),
        change(Scaled(FILE, lazy(rand(4)), False, 0.0)),
        pair(8),
        change(Difference(FILE, matrix)),
        pair(2),
        change(Stacked(FILE, lazy(rand(4, 6)), lazy(rand(6, 5)), 2)),
        change(Difference(FILE, matrix)),
        change(Tokens(FILE, lazy(rand(1, 6)), (3,))),
    ]
    assert count(changes) == "2 pairs of rank 2, 1 pair of rank 8, 1 IA3, 2 differences, 2 trained whole"
    assert count(changes[3:4]) == "1 difference"
    assert count([]) == "nothing"


def test_a_change_that_is_better_known():
    first, other = pair(2), Added(Difference(FILE, lazy(rand(2, 2))), ONE)
    assert first.of(other).added is other
    assert (first.of(other).key, first.of(other).base) == (first.key, first.base)
