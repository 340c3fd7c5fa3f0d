"""Convolutions in groups of channels, as depthwise ones are."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import nn

from urst_tiles.engines.llvm import grouped
from urst_tiles.engines.llvm.convolution import Convolution
from urst_tiles.engines.llvm.machine import Program, processor, translated
from urst_tiles.engines.llvm.maps import SIZES, Map, Padding, Table, addresses, offsets, sources
from urst_tiles.engines.llvm.workshop import Step, Workshop

__all__ = ["Grouped", "fills_vectors"]


def fills_vectors(layer: nn.Conv2d) -> bool:
    """Whether a convolution in groups is one that there is a program for: of one or two inputs and outputs a group,
    and so many channels that vectors are filled."""
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    return layer.groups > 1 and max(inputs, outputs) <= 2 and layer.out_channels % 16 == 0


class Grouped(Convolution):
    """In groups as :func:`fills_vectors` likes them, the map padded on the way.

    Parameters:
        weight: (outputs, inputs of a group, height, width).
        bias: (outputs,).
        groups: of channels.
        step: rows and columns from one position to the next.
        padding: of the map.
    """

    def __init__(
        self, weight: Map, bias: Map, groups: int, step: tuple[int, int], padding: Padding, *, relu: bool
    ) -> None:
        outputs, inputs, height, width = (int(length) for length in weight.shape)
        super().__init__(inputs * groups, outputs, weight, bias, relu=relu)
        lanes = processor().lanes
        self._shape = grouped.Shape(height, width, *step, inputs, outputs // groups, outputs, lanes)
        self._bias, self._padding = np.ascontiguousarray(bias, np.float32), padding
        self._kernels = np.ascontiguousarray(
            weight.reshape(outputs // lanes, lanes, inputs, height, width).transpose(0, 3, 4, 2, 1), np.float32
        )
        self._zeros = np.zeros(self.inputs, np.float32)
        self._reads = lru_cache(SIZES)(self._find_reads)

    @property
    def nbytes(self) -> int:
        return self._kernels.nbytes

    @property
    def scratch(self) -> int:
        return 0

    def _make(self) -> tuple[Program, Map]:
        return translated(grouped.program, self._shape, tuple(grouped.ARGUMENTS.values())), self._kernels

    def _computes(self) -> object:
        return self._shape

    def _inner(self, height: int, width: int) -> tuple[int, int]:
        shape, (high, wide) = self._shape, self._padding.around(height, width)
        return (high - shape.height) // shape.down + 1, (wide - shape.width) // shape.along + 1

    def _bound(self, image: Map, result: Map, workshop: Workshop, residual: Map | None) -> Step:
        if residual is not None:
            raise ValueError("nothing is added to such a convolution's result")
        height, width = image.shape[:2]
        rows, cols = self._reads(height, width)
        begin = result[self.margin.top :, self.margin.left :]
        program, kernels = self.ready()
        down, across = self._inner(height, width)
        given = addresses(image, rows, cols, self._zeros, kernels, self._bias, begin)
        line = result.shape[1] * self.depth

        def work(first: int, last: int) -> None:
            program(*given, first, last, across, line, int(self._relu))

        return Step(workshop, work, down, 1, (image, rows, cols, kernels, result, self))

    def _find_reads(self, height: int, width: int) -> tuple[Table, Table]:
        """Where the padded map's rows and columns stand in the map."""
        pad = self._padding
        high, wide = pad.around(height, width)
        rows, cols = sources(high, pad.top, height, pad.mode), sources(wide, pad.left, width, pad.mode)
        return offsets(rows, width * self.inputs), offsets(cols, self.inputs)
