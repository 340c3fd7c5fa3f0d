"""Winograd's matrices: whatever the numbers, what they give is the convolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from urst_tiles.engines.llvm.transforms import (
    FIVE,
    POINTS,
    SIDE,
    input_matrix,
    output_matrix,
    parted_kernels,
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


@pytest.mark.parametrize("taps", [4, 5, 7, 9])
def test_parts_of_a_large_kernel_read_the_tiles_beside_each_other(taps: int) -> None:
    random, parts = np.random.default_rng(taps), -(-taps // 3)
    kernel = random.normal(size=(2, 3, taps, taps)).astype(np.float32)
    values = random.normal(size=(3, 3 * parts + 2, 3 * parts + 2))
    transformed, matrix = parted_kernels(kernel), input_matrix(FIVE)
    sums = np.zeros((2, 25))
    for a in range(parts):
        for b in range(parts):
            points = matrix @ values[:, 3 * a : 3 * a + 5, 3 * b : 3 * b + 5] @ matrix.T
            sums += np.einsum("poi,ip->op", transformed[:, a, b], points.reshape(3, 25))
    found = output_matrix(3, FIVE) @ sums.reshape(2, 5, 5) @ output_matrix(3, FIVE).T
    wanted = [
        [[(values[:, i : i + taps, j : j + taps] * each).sum() for j in range(3)] for i in range(3)] for each in kernel
    ]
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
