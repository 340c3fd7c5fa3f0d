"""Winograd's minimal filtering: the matrices, for kernels of 3 x 3 and 2 x 2, and for parts of larger ones.

A kernel of r taps over m + r - 1 values gives m results. As polynomials: values and taps are evaluated at m + r - 1
points, multiplied there, and the product is taken back (Winograd, Arithmetic Complexity of Computations, 1980; Lavin
and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4)::

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]        in two dimensions   Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

With six points, 36 products give 4 x 4 results of a 3 x 3 kernel (144 products as it is defined) or 5 x 5 of a 2 x 2
kernel (100). Summed over channels, they are 36 products of matrices. The points are 0, ±1/√2, ±√2 and infinity: the
nearer their powers are to one, the smaller the rounding errors.

Of a larger kernel, parts of 3 x 3 are taken, and of tiles the results are as many as a part's taps: then what one part
reads of a tile is what another part reads of the next one, and each tile is taken to the points once. That needs five
points, ±1, ±1/2 and infinity: 25 products make 3 x 3 results of each part.
"""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FIVE",
    "POINTS",
    "SIDE",
    "input_matrix",
    "output_matrix",
    "parted_kernels",
    "results",
    "transformed_kernels",
]

Points = tuple[float, ...]
"""Beside infinity."""

POINTS: Points = (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0))
"""For kernels of 3 x 3 and 2 x 2."""
SIDE = len(POINTS) + 1
"""Values along each side of what a tile reads; its square are the products."""

FIVE: Points = (1.0, -1.0, 0.5, -0.5)
"""For parts of larger kernels."""


def results(taps: int) -> int:
    """Results along each side of a tile, of a kernel with so many taps along each side."""
    return SIDE - taps + 1


@cache
def input_matrix(points: Points = POINTS) -> NDArray[np.float64]:
    """Bᵀ, (s, s): row j holds the coefficients, constant first, of the polynomial that is zero at all points but j."""
    side = len(points) + 1
    rows = [np.polynomial.polynomial.polyfromroots([q for q in points if q != p]) for p in points]
    rows.append(np.polynomial.polynomial.polyfromroots(points))
    matrix = np.zeros((side, side))
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = row
    matrix[np.abs(matrix) < 1e-12] = 0.0  # odd and even polynomials are so exactly
    return matrix


@cache
def output_matrix(taps: int, points: Points = POINTS) -> NDArray[np.float64]:
    """Aᵀ, (m, s): row i holds the i-th power of each point; at infinity only the last counts."""
    matrix = np.vander(points, len(points) + 2 - taps, increasing=True).T
    last = np.zeros((len(matrix), 1))
    last[-1] = 1.0
    return np.hstack([matrix, last])


@cache
def kernel_matrix(taps: int, points: Points = POINTS) -> NDArray[np.float64]:
    """G, (s, r): a kernel's polynomial at each point, over the product of that point's distances from the others."""
    values = np.vander(points, taps, increasing=True)
    distances = [np.prod([p - q for q in points if q != p]) for p in points]
    last = np.zeros((1, taps))
    last[0, -1] = 1.0
    return np.vstack([values / np.array(distances)[:, None], last])


def transformed_kernels(weight: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """G g Gᵀ of every kernel: (out, in, r, r) → (36, out / block, in, block), float32; computed in float64, a block at
    a time.
    """
    outputs, inputs, taps, _ = weight.shape
    both = np.kron(kernel_matrix(taps), kernel_matrix(taps))
    found = np.empty((SIDE**2, outputs // block, inputs, block), np.float32)
    for index in range(outputs // block):
        some = weight[index * block : (index + 1) * block].astype(np.float64)
        products = both @ some.reshape(block * inputs, taps * taps).T
        found[:, index] = products.reshape(SIDE**2, block, inputs).transpose(0, 2, 1)
    return found


def parted_kernels(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """G g Gᵀ of every part of 3 x 3 of every kernel, zeros beyond its border: (out, in, r, r) → (25, n, n, out, in),
    n parts along each side; computed in float64.
    """
    outputs, inputs, taps, _ = weight.shape
    parts = -(-taps // 3)
    whole = np.zeros((outputs, inputs, 3 * parts, 3 * parts))
    whole[:, :, :taps, :taps] = weight
    split = whole.reshape(outputs, inputs, parts, 3, parts, 3)
    matrix = kernel_matrix(3, FIVE)
    found: NDArray[np.float64] = np.einsum("ur,vs,oiarbs->uvaboi", matrix, matrix, split, optimize=True)
    return found.reshape(len(matrix) ** 2, parts, parts, outputs, inputs)
