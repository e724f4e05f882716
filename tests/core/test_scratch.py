"""The workers' memory."""

from __future__ import annotations

import numpy as np

from transcode.core.scratch import Scratch


def test_arrays_of_one_tile_do_not_overlap() -> None:
    scratch = Scratch()
    for _ in range(3):  # the first round grows the block, the others use it
        scratch.reset()
        arrays = [scratch.take((n,), np.uint8) for n in (1, 63, 64, 65, 1000)]
        for i, array in enumerate(arrays):
            array[:] = i
        assert [int(array[0]) for array in arrays] == [0, 1, 2, 3, 4]
        assert all((array == i).all() for i, array in enumerate(arrays))


def test_memory_is_used_again() -> None:
    scratch = Scratch()
    scratch.take((1 << 20,), np.uint8)
    scratch.reset()
    first = scratch.take((1 << 20,), np.uint8).ctypes.data
    scratch.reset()
    assert scratch.take((1 << 20,), np.uint8).ctypes.data == first


def test_alignment_shape_and_dtype() -> None:
    scratch = Scratch()
    for _ in range(2):
        scratch.reset()
        scratch.take((3,), np.uint8)
        array = scratch.take((5, 7), np.float32)
        assert array.shape == (5, 7)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.ctypes.data % 8 == 0
    assert array.ctypes.data % 64 == 0


def test_growing_in_the_middle_of_a_tile_keeps_what_was_taken() -> None:
    scratch = Scratch()
    scratch.take((16,), np.uint8)
    scratch.reset()
    small = scratch.take((16,), np.uint8)
    small[:] = 7
    large = scratch.take((1 << 16,), np.uint8)
    large[:] = 9
    assert (small == 7).all()


def test_nothing_can_be_taken() -> None:
    assert Scratch().take((0, 5), np.float32).shape == (0, 5)


def test_what_is_borrowed_goes_back_once_at_the_reset_or_with_the_scratch():
    back = []
    scratch = Scratch()
    scratch.borrow(lambda: back.append(1))
    assert back == []
    scratch.reset()
    scratch.reset()
    assert back == [1]
    scratch.borrow(lambda: back.append(2))
    del scratch
    assert back == [1, 2]
