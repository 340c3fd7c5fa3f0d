"""Winograd's minimal filtering: the matrices, for kernels of 3 x 3 and 2 x 2.

A kernel of r taps over m + r - 1 values gives m results. As polynomials: values and taps are evaluated at m + r - 1
points, multiplied there, and the product is taken back (Winograd, Arithmetic Complexity of Computations, 1980; Lavin
and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4)::

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]        in two dimensions   Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

With six points, 36 products give 4 x 4 results of a 3 x 3 kernel (144 products as it is defined) or 5 x 5 of a 2 x 2
kernel (100). Summed over channels, they are 36 products of matrices. The points are 0, ±1/√2, ±√2 and infinity: the
nearer their powers are to one, the smaller the rounding errors.
"""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

__all__ = ["POINTS", "SIDE", "input_matrix", "output_matrix", "results", "transformed_kernels"]

POINTS = (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0))
"""Beside infinity."""
SIDE = len(POINTS) + 1
"""Values along each side of what a tile reads; its square are the products."""


def results(taps: int) -> int:
    """Results along each side of a tile, of a kernel with so many taps along each side."""
    return SIDE - taps + 1


@cache
def input_matrix() -> NDArray[np.float64]:
    """Bᵀ, (6, 6): row j holds the coefficients, constant first, of the polynomial that is zero at all points but j."""
    rows = [np.polynomial.polynomial.polyfromroots([q for q in POINTS if q != p]) for p in POINTS]
    rows.append(np.polynomial.polynomial.polyfromroots(POINTS))
    matrix = np.zeros((SIDE, SIDE))
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = row
    matrix[np.abs(matrix) < 1e-12] = 0.0  # odd and even polynomials are so exactly
    return matrix


@cache
def output_matrix(taps: int) -> NDArray[np.float64]:
    """Aᵀ, (m, 6): row i holds the i-th power of each point; at infinity only the last counts."""
    matrix = np.vander(POINTS, results(taps), increasing=True).T
    last = np.zeros((len(matrix), 1))
    last[-1] = 1.0
    return np.hstack([matrix, last])


@cache
def _kernel_matrix(taps: int) -> NDArray[np.float64]:
    """G, (6, r): a kernel's polynomial at each point, over the product of that point's distances from the others."""
    values = np.vander(POINTS, taps, increasing=True)
    distances = [np.prod([p - q for q in POINTS if q != p]) for p in POINTS]
    last = np.zeros((1, taps))
    last[0, -1] = 1.0
    return np.vstack([values / np.array(distances)[:, None], last])


def transformed_kernels(weight: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """G g Gᵀ of every kernel: (out, in, r, r) → (36, out / block, in, block), float32; computed in float64, a block at
    a time.
    """
    outputs, inputs, taps, _ = weight.shape
    both = np.kron(_kernel_matrix(taps), _kernel_matrix(taps))
    found = np.empty((SIDE**2, outputs // block, inputs, block), np.float32)
    for index in range(outputs // block):
        some = weight[index * block : (index + 1) * block].astype(np.float64)
        products = both @ some.reshape(block * inputs, taps * taps).T
        found[:, index] = products.reshape(SIDE**2, block, inputs).transpose(0, 2, 1)
    return found
