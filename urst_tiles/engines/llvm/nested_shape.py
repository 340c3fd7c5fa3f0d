"""The convolution of one map by a large kernel, to or from few channels, as a program for LLVM.

The kernel is cut into n x n parts of 3 x 3, and the map into tiles of 3 x 3 results. What part (a, b) reads for one
tile is what part (0, 0) reads for the tile a rows further down and b further to the right: each tile's 5 x 5 values are
taken to their 25 points once, and at each point a kernel of n x n is left::

    for some columns of tiles, from top to bottom:
        5 x 5 values of each tile of a new row   →  25 maps, of which n rows of tiles are kept
        each map, convolved with the n x n parts' numbers at its point  →  25 sums of each tile
        these  →  3 x 3 results of each tile; bias and ReLU on the way

So nine results of a kernel of 9 x 9 take 225 products instead of 729. Where there are few outputs, a vector holds tiles
beside each other, where there are few inputs, outputs: none is half empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from urst_tiles.engines.llvm.emitting import INT, POINTER, Emitter
from urst_tiles.engines.llvm.transforms import FIVE, input_matrix, output_matrix

__all__ = ["ARGUMENTS", "PART", "PRODUCTS", "SIDE", "NestedProgram", "Shape"]

PART = 3
"""Taps of a part along each side, and results of a tile."""
SIDE = len(FIVE) + 1
PRODUCTS = SIDE**2

_FLOATS = 160_000
"""Of the maps at the points, at most: they stay in a core's own cache."""
_COLUMNS = 48
"""Tiles beside each other that are taken together where a vector holds outputs: whole blocks of each processor."""

ARGUMENTS: dict[str, Any] = {
    "image": POINTER,  # (H, W, inputs)
    "rows": POINTER,  # where the padded map's rows stand: offsets, -1: zeros
    "cols": POINTER,
    "zeros": POINTER,  # as many as there are inputs
    "kernels": POINTER,  # (25, parts, inputs, parts, outputs); many: (25, outputs / block, parts, inputs, parts, block)
    "bias": POINTER,  # (outputs,)
    "result": POINTER,  # of the first position
    "nowhere": POINTER,  # as much room as outputs
    "values": POINTER,  # scratch: ``Shape.values``
    "sums": POINTER,  # scratch: ``Shape.sums``
    "pieces": POINTER,  # scratch: ``Shape.pieces``
    "first": INT,  # row of tiles
    "last": INT,
    "across": INT,  # tiles in a row
    "height": INT,  # of the result
    "width": INT,
    "line": INT,  # floats from one row of the result to the next
    "relu": INT,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a program is made for.

    Attributes:
        parts: of the kernel, along each side.
        inputs, outputs: channels. Of the smaller number there are 4 at most; the other one is a multiple of ``lanes``.
        lanes: floats in a vector.
        sums_held: vectors that fit into the processor's registers beside what is multiplied.
        vectors: of outputs that are computed at a time, where they are many.
    """

    parts: int
    inputs: int
    outputs: int
    lanes: int
    sums_held: int
    vectors: int

    @property
    def narrows(self) -> bool:
        """Whether there are few outputs."""
        return self.outputs < self.inputs

    @property
    def columns(self) -> int:
        """Tiles beside each other whose values are at hand, a multiple of the lanes."""
        if not self.narrows:
            return _COLUMNS
        most = _FLOATS // (self.parts * PRODUCTS * self.inputs * self.lanes)
        return self.lanes * max(1, min(most, 64 // self.lanes))

    @property
    def chunk(self) -> int:
        """Of these, tiles whose results can be made."""
        return self.columns - self.parts + 1

    @property
    def tiles(self) -> int:
        """That are multiplied at a time, where there are many outputs."""
        return self.sums_held // self.vectors

    @property
    def block(self) -> int:
        """Outputs that are computed at a time, where there are many."""
        return self.lanes * self.vectors

    @property
    def values(self) -> int:
        """Floats: (parts, 25, inputs, columns), and what the last ones' neighbours would be."""
        return self.parts * PRODUCTS * self.inputs * self.columns + self.columns

    @property
    def sums(self) -> int:
        """Floats: (25, outputs, columns), or with outputs last."""
        return PRODUCTS * self.outputs * self.columns

    @property
    def pieces(self) -> int:
        """Floats: what is read of the map, before vectors are filled with tiles, or of the result afterwards."""
        if not self.narrows:
            return SIDE * self.width * self.inputs
        return max(PRODUCTS * self.lanes**2, PART * self.piece)

    @property
    def width(self) -> int:
        """Positions that the columns read of a row."""
        return PART * (self.columns - 1) + SIDE

    @property
    def piece(self) -> int:
        """Floats of a row of results, with room for a vector behind them."""
        return PART * self.columns * self.outputs + self.lanes


class NestedProgram:
    """What both kinds of it are made of."""

    def __init__(self, emitter: Emitter, shape: Shape, arguments: dict[str, Any]) -> None:
        self.e, self.b, self.shape, self.a = emitter, emitter.builder, shape, arguments
        self.one, self.zero = emitter.number(1), emitter.number(0)
        self.lanes = emitter.number(shape.lanes)
        self.many = emitter.number(PRODUCTS)
        self.floor = emitter.floor(arguments["relu"])

    def write(self) -> None:
        e, a, b, shape = self.e, self.a, self.b, self.shape
        more = e.number(shape.parts - 1)
        with e.loop(self.zero, a["across"], e.number(shape.chunk)) as left:
            rest = b.sub(a["across"], left.index)
            whole = e.number(shape.chunk)
            count = b.select(b.icmp_signed("<", rest, whole), rest, whole)
            with e.loop(a["first"], b.add(a["last"], more), self.one) as down:
                self.read(down.index, left.index)
                row = b.sub(down.index, more)
                with b.if_then(b.icmp_signed(">=", row, a["first"])):
                    self.multiply(row)
                    self.finish(row, left.index, count)

    def read(self, row: Any, left: Any) -> None:
        """The values of a row of tiles, transformed, to the place of that row among those that are kept."""
        raise NotImplementedError

    def multiply(self, row: Any) -> None:
        """The sums of a row of tiles at each point."""
        raise NotImplementedError

    def finish(self, row: Any, left: Any, count: Any) -> None:
        """The results of a row of tiles."""
        raise NotImplementedError

    def values_of(self, row: Any, point: Any) -> Any:
        """(inputs, columns) of a row of tiles at a point."""
        size = self.shape.inputs * self.shape.columns
        place = self.b.srem(row, self.e.number(self.shape.parts))
        return self.place("values", self.b.add(self.b.mul(place, self.many), point), size)

    def place(self, base: str, index: Any, size: int) -> Any:
        return self.e.at(self.a[base], self.b.mul(index, self.e.number(size)))

    def to_points(self, value: Callable[[int, int], Any]) -> list[Any]:
        """Of the 5 x 5 values of some tiles."""
        e, matrix = self.e, input_matrix(FIVE)
        columns = [e.product(matrix, [value(i, j) for i in range(SIDE)]) for j in range(SIDE)]
        return [found for i in range(SIDE) for found in e.product(matrix, [column[i] for column in columns])]

    def from_points(self, sums: Callable[[int], Any], bias: Any) -> list[list[Any]]:
        """The 3 x 3 results of some tiles."""
        e, matrix = self.e, output_matrix(PART, FIVE)
        columns = [e.gathered(matrix, [sums(SIDE * i + j) for i in range(SIDE)]) for j in range(SIDE)]
        rows = [e.gathered(matrix, [column[i] for column in columns]) for i in range(PART)]
        return [[e.at_least(e.add(value, bias), self.floor) for value in row] for row in rows]

    def first_of(self, tile: Any, more: int = 0) -> Any:
        """The position where a tile begins, or so many further."""
        return self.b.add(self.b.mul(tile, self.e.number(PART)), self.e.number(more))
