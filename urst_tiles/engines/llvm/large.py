"""Convolutions by large kernels to or from few channels: the first and the last ones of many networks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from urst_tiles.engines.llvm.convolution import Convolution
from urst_tiles.engines.llvm.machine import Program, processor, translated
from urst_tiles.engines.llvm.maps import SIZES, Map, Padding, Table, addresses, offsets, sources
from urst_tiles.engines.llvm.nested import program
from urst_tiles.engines.llvm.nested_shape import ARGUMENTS, PART, PRODUCTS, SIDE, Shape
from urst_tiles.engines.llvm.transforms import parted_kernels
from urst_tiles.engines.llvm.workshop import Step, Workshop

__all__ = ["Nested", "gains_by_parts"]

_FEW = 4
_LEAST_TAPS = 5
_MOST_CHANNELS = 128
"""Of more, the maps at the points outgrow a core's own cache."""


def gains_by_parts(inputs: int, outputs: int, taps: int) -> bool:
    """Whether such a convolution is faster in parts of 3 x 3: the kernel is large, and vectors are filled."""
    few, many = sorted((inputs, outputs))
    return taps >= _LEAST_TAPS and few <= _FEW and many % 16 == 0 and many <= _MOST_CHANNELS


class Nested(Convolution):
    """A large square kernel with a step of one, the map padded on the way.

    Parameters:
        weight: (outputs, inputs, r, r), as :func:`gains_by_parts` likes them.
        bias: (outputs,).
        padding: of the map.
    """

    def __init__(self, weight: Map, bias: Map, padding: Padding, *, relu: bool) -> None:
        outputs, inputs, taps = weight.shape[:3]
        super().__init__(inputs, outputs, weight, bias, relu=relu)
        found = processor()
        self._shape = Shape(-(-taps // PART), inputs, outputs, found.lanes, found.sums, found.vectors(outputs))
        self._weight = weight
        self._bias = np.ascontiguousarray(bias, np.float32)
        self._taps, self._padding = taps, padding
        self._zeros = np.zeros(inputs, np.float32)
        self._reads = lru_cache(SIZES)(self._find_reads)

    @property
    def nbytes(self) -> int:
        shape = self._shape
        return 4 * PRODUCTS * shape.parts**2 * shape.inputs * shape.outputs

    @property
    def scratch(self) -> int:
        return sum(self._scratch)

    @property
    def _scratch(self) -> list[int]:
        return [self._shape.values, self._shape.sums, self._shape.pieces, self._shape.outputs]

    def _make(self) -> tuple[Program, Map]:
        made = translated(program, self._shape, tuple(ARGUMENTS.values()))
        weight, self._weight = self._weight, None
        if weight is None:
            raise RuntimeError("the kernels have been made already")
        return made, self._ordered(weight)

    def _computes(self) -> object:
        return self._shape, self._taps

    def _ordered(self, weight: Map) -> Map:
        """The kernels at the points, in the order in which they are read."""
        shape, parted = self._shape, parted_kernels(weight)  # (25, n, n, out, in)
        if shape.narrows:
            return np.ascontiguousarray(parted.transpose(0, 1, 4, 2, 3), np.float32)
        blocks = parted.reshape(*parted.shape[:3], -1, shape.block, shape.inputs)
        return np.ascontiguousarray(blocks.transpose(0, 3, 1, 5, 2, 4), np.float32)

    def _inner(self, height: int, width: int) -> tuple[int, int]:
        high, wide = self._padding.around(height, width)
        return high - self._taps + 1, wide - self._taps + 1

    def _bound(self, image: Map, result: Map, workshop: Workshop, residual: Map | None) -> Step:
        if residual is not None:
            raise ValueError("nothing is added to such a convolution's result")
        height, width = image.shape[:2]
        high, wide = self._inner(height, width)
        down, across = -(-high // PART), -(-wide // PART)
        rows, cols = self._reads(height, width)
        begin = result[self.margin.top :, self.margin.left :]
        floats, (sums, pieces, nowhere) = self.scratch, np.cumsum(self._scratch[:-1]).tolist()
        made, kernels = self.ready()
        given = addresses(image, rows, cols, self._zeros, kernels, self._bias, begin)
        numbers = (across, high, wide, result.shape[1] * self.depth, int(self._relu))

        def work(first: int, last: int) -> None:
            with workshop.scratch(floats) as at:
                made(*given, at + 4 * nowhere, at, at + 4 * sums, at + 4 * pieces, first, last, *numbers)

        return Step(workshop, work, down, 1, (image, rows, cols, kernels, result, self))

    def _find_reads(self, height: int, width: int) -> tuple[Table, Table]:
        """Where the padded map's rows and columns stand in the map; of columns as many as are looked at."""
        shape, pad = self._shape, self._padding
        down, across = (-(-side // PART) for side in self._inner(height, width))
        more = PART * (shape.parts - 1) + SIDE
        chunks = -(-across // shape.chunk) * shape.chunk
        rows = sources(PART * down + more, pad.top, height, pad.mode)
        cols = sources(PART * (chunks + shape.columns) + more, pad.left, width, pad.mode)
        return offsets(rows, width * self.inputs), offsets(cols, self.inputs)
