import numpy as np

from transcode.numerics.starts import PHASES, SEARCHED, SHARES


def test_a_search_begins_where_everything_does_and_nowhere_twice():
    assert (SHARES[0], PHASES[0]) == (1, 0)
    assert len(set(zip(SHARES, PHASES, strict=True))) == SEARCHED == len(SHARES)
    assert SHARES.dtype == PHASES.dtype == np.float32
    # A step moved by a whole one begins at the same levels again.
    assert ((PHASES >= 0) & (PHASES < 1)).all()
