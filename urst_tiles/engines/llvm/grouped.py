"""The convolution of one map in groups of channels, as it is defined, as a program for LLVM.

Each output is made of one or two inputs of its own group. A vector holds outputs; what its lanes multiply stands in as
many inputs beside each other, and is put into place after it is read::

    two inputs an output   i0 i1 i2 i3 …  →  i0 i2 i4 …  and  i1 i3 i5 …
    two outputs an input   i0 i1 i2 i3 …  →  i0 i0 i1 i1 …
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from urst_tiles.engines.llvm.emitting import INT, POINTER, Emitter, function

__all__ = ["ARGUMENTS", "Shape", "program"]

ARGUMENTS: dict[str, Any] = {
    "image": POINTER,  # (H, W, inputs)
    "rows": POINTER,  # where the padded map's rows stand: offsets, -1: zeros
    "cols": POINTER,
    "zeros": POINTER,  # as many as there are inputs
    "kernels": POINTER,  # (outputs / lanes, height, width, inputs of a group, lanes)
    "bias": POINTER,  # (outputs,)
    "result": POINTER,  # of the first position
    "first": INT,  # row of the result
    "last": INT,
    "wide": INT,  # positions in a row
    "line": INT,  # floats from one row of the result to the next
    "relu": INT,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a program is made for.

    Attributes:
        height, width: of the kernel.
        down, along: rows and columns from one position to the next.
        inputs: of a group.
        outputs: of a group; lanes are a multiple of it.
        channels: of the result, a multiple of lanes.
        lanes: floats in a vector.
    """

    height: int
    width: int
    down: int
    along: int
    inputs: int
    outputs: int
    channels: int
    lanes: int

    @property
    def read(self) -> int:
        """Floats beside each other that a vector of outputs is made of, at each tap."""
        return self.lanes // self.outputs * self.inputs


def program(shape: Shape) -> str:
    """In LLVM's language: a function that takes ``ARGUMENTS``."""
    return function(ARGUMENTS, shape.lanes, lambda emitter, given: _Program(emitter, shape, given).write())


class _Program:
    def __init__(self, emitter: Emitter, shape: Shape, arguments: dict[str, Any]) -> None:
        self.e, self.b, self.shape, self.a = emitter, emitter.builder, shape, arguments
        self.one, self.zero = emitter.number(1), emitter.number(0)
        self.places = emitter.table(shape.height * shape.width)
        self.floor = emitter.floor(arguments["relu"])

    def write(self) -> None:
        e, a, b, shape = self.e, self.a, self.b, self.shape
        taps = list(product(range(shape.height), range(shape.width)))
        with e.loop(a["first"], a["last"], self.one) as row, e.loop(self.zero, a["wide"], self.one) as col:
            top, left = b.mul(row.index, e.number(shape.down)), b.mul(col.index, e.number(shape.along))
            for number, (i, j) in enumerate(taps):
                e.remember(e.position(a, b.add(top, e.number(i)), b.add(left, e.number(j))), self.places, number)
            place = b.add(b.mul(row.index, a["line"]), b.mul(col.index, e.number(shape.channels)))
            with e.loop(self.zero, e.number(shape.channels), e.number(shape.lanes)) as output:
                total = self._sum(len(taps), output.index)
                e.store(e.at_least(total, self.floor), e.at(e.at(a["result"], place), output.index))

    def _sum(self, taps: int, output: Any) -> Any:
        e, a, b, shape = self.e, self.a, self.b, self.shape
        total = e.load(e.at(a["bias"], output))
        kernels = e.at(a["kernels"], b.mul(output, e.number(taps * shape.inputs)))
        begin = b.mul(b.udiv(output, e.number(shape.outputs)), e.number(shape.inputs))
        for tap in range(taps):
            values = e.at(e.recall(self.places, tap), begin)
            for index, value in enumerate(e.in_groups(values, shape.inputs, shape.outputs)):
                kernel = e.load(e.at(kernels, e.number((tap * shape.inputs + index) * shape.lanes)))
                total = e.fma(value, kernel, total)
        return total
