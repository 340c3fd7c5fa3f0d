"""Memory that is used again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urst_tiles.buffers import Buffers

shapes = st.tuples(st.integers(0, 5), st.integers(1, 7), st.integers(1, 4))


@given(st.lists(st.tuples(shapes, st.sampled_from(["uint8", "uint16", "float32"])), max_size=8))
def test_an_array_is_of_the_shape_and_type_asked_for_whatever_was_before(
    asked: list[tuple[tuple[int, ...], str]],
) -> None:
    buffers = Buffers()
    for shape, dtype in asked:
        with buffers.array(shape, dtype) as array:
            assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
            assert array.flags.c_contiguous
            array[:] = 1


def test_memory_is_used_again_and_not_by_two_at_the_same_time() -> None:
    buffers = Buffers()
    with buffers.array((4, 5), "uint8") as one, buffers.array((4, 5), "uint8") as other:
        assert not np.shares_memory(one, other)
    with buffers.array((2, 3), "uint16") as again:
        assert np.shares_memory(again, one) or np.shares_memory(again, other)


def test_an_array_gets_the_smallest_memory_that_holds_it() -> None:
    buffers = Buffers()
    with buffers.array((100,), "uint8") as large, buffers.array((10,), "uint8") as small:
        pass
    with buffers.array((9,), "uint8") as one, buffers.array((11,), "uint8") as other:
        assert np.shares_memory(one, small)
        assert np.shares_memory(other, large)
    with buffers.array((200,), "uint8"), buffers.array((10,), "uint8") as again:  # the large one has grown
        assert np.shares_memory(again, small)


def test_memory_goes_back_after_an_error() -> None:
    buffers = Buffers()
    with pytest.raises(KeyError), buffers.array((4, 5), "uint8") as one:
        raise KeyError
    with buffers.array((4, 5), "uint8") as again:
        assert np.shares_memory(again, one)
