"""Winograd's matrices: whatever the numbers, what they give is the convolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urst_tiles.engines.llvm.transforms import (
    POINTS,
    SIDE,
    input_matrix,
    output_matrix,
    results,
    transformed_kernels,
)


@pytest.mark.parametrize("taps", [2, 3])
@given(seed=st.integers(0, 2**32 - 1))
def test_products_of_transformed_values_are_the_convolution(taps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values, kernel = random.normal(size=(SIDE, SIDE)), random.normal(size=(taps, taps)).astype(np.float32)
    transformed = transformed_kernels(kernel[None, None], 1).reshape(SIDE, SIDE)
    products = transformed * (input_matrix() @ values @ input_matrix().T)
    found = output_matrix(taps) @ products @ output_matrix(taps).T
    count = results(taps)
    wanted = [[(values[i : i + taps, j : j + taps] * kernel).sum() for j in range(count)] for i in range(count)]
    assert found == pytest.approx(np.array(wanted), abs=1e-5)


def test_36_products_make_16_results_of_9_taps_and_25_of_4() -> None:
    assert (SIDE**2, results(3) ** 2, results(2) ** 2) == (36, 16, 25)
    assert len(set(POINTS)) == SIDE - 1


def test_kernels_lie_in_blocks_of_outputs() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 5, 3, 3)).astype(np.float32)
    blocks = transformed_kernels(weight, 2)
    assert blocks.shape == (36, 3, 5, 2)
    alone = transformed_kernels(weight[3:4], 1)
    assert np.array_equal(blocks[:, 1, :, 1], alone[:, 0, :, 0])
