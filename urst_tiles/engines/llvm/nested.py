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

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

from urst_tiles.engines.llvm.emitting import INT, POINTER, Emitter, function
from urst_tiles.engines.llvm.transforms import FIVE, input_matrix, output_matrix

__all__ = ["ARGUMENTS", "PART", "Shape", "program"]

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
    "kernels": POINTER,  # as ``Shape.ordered`` says
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


def program(shape: Shape) -> str:
    """In LLVM's language: a function that takes ``ARGUMENTS``."""
    kind: Callable[..., _Program] = _ToFew if shape.narrows else _FromFew
    return function(ARGUMENTS, shape.lanes, lambda emitter, given: kind(emitter, shape, given).write())


class _Program:
    def __init__(self, emitter: Emitter, shape: Shape, arguments: dict[str, Any]) -> None:
        self.e, self.b, self.shape, self.a = emitter, emitter.builder, shape, arguments
        self.one, self.zero = emitter.number(1), emitter.number(0)
        self.lanes = emitter.number(shape.lanes)
        self.many = emitter.number(PRODUCTS)
        self.floor = self.b.select(
            self.b.icmp_signed("!=", arguments["relu"], self.zero),
            emitter.everywhere(0.0),
            emitter.everywhere(-math.inf),
        )

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

    def position(self, row: Any, col: Any) -> Any:
        """The address of a position's inputs in the map, or zeros where it has none."""
        b, e = self.b, self.e
        down, along = e.entry(self.a["rows"], row), e.entry(self.a["cols"], col)
        none = b.icmp_signed("<", b.or_(down, along), self.zero)
        return b.select(none, self.a["zeros"], e.at(self.a["image"], b.add(down, along)))

    def first_of(self, tile: Any, more: int = 0) -> Any:
        """The position where a tile begins, or so many further."""
        return self.b.add(self.b.mul(tile, self.e.number(PART)), self.e.number(more))


class _ToFew(_Program):
    """Vectors hold tiles."""

    def read(self, row: Any, left: Any) -> None:
        e, b, shape, lanes = self.e, self.b, self.shape, self.shape.lanes
        with (
            e.loop(self.zero, e.number(shape.columns), self.lanes) as some,
            e.loop(self.zero, e.number(shape.inputs), self.lanes) as channel,
        ):
            with e.loop(self.zero, self.lanes, self.one) as tile:
                col = b.add(b.add(left, some.index), tile.index)
                points = self.to_points(
                    lambda i, j: e.load(
                        e.at(self.position(self.first_of(row, i), self.first_of(col, j)), channel.index)
                    )
                )
                for number, found in enumerate(points):
                    e.store(found, e.at(self.place("pieces", tile.index, lanes), e.number(number * lanes**2)))
            with e.loop(self.zero, self.many, self.one) as point:
                piece = self.place("pieces", point.index, lanes**2)
                begin = b.add(b.mul(channel.index, e.number(shape.columns)), some.index)
                target = e.at(self.values_of(row, point.index), begin)
                columns = e.transposed([e.load(e.at(piece, e.number(index * lanes))) for index in range(lanes)])
                for index, found in enumerate(columns):
                    e.store(found, e.at(target, e.number(index * shape.columns)))

    def multiply(self, row: Any) -> None:
        e, shape = self.e, self.shape
        together = self._together
        with (
            e.loop(self.zero, self.many, self.one) as point,
            e.loop(self.zero, e.number(shape.columns), e.number(together * shape.lanes)) as some,
        ):
            sums = self._multiplied(row, point.index, some.index, together)
            target = e.at(self.place("sums", point.index, shape.outputs * shape.columns), some.index)
            for index, found in enumerate(sums):
                output, vector = divmod(index, together)
                e.store(found, e.at(target, e.number(output * shape.columns + vector * shape.lanes)))

    @property
    def _together(self) -> int:
        """Vectors of tiles that are computed at a time."""
        vectors = self.shape.columns // self.shape.lanes
        most = max(1, self.shape.sums_held // self.shape.outputs)
        return max(count for count in range(1, vectors + 1) if vectors % count == 0 and count <= most)

    def _multiplied(self, row: Any, point: Any, begin: Any, together: int) -> list[Any]:
        """Of each output, so many vectors of tiles."""
        e, b, shape = self.e, self.b, self.shape
        n, depth = shape.parts, shape.outputs
        zeros = [e.everywhere(0.0)] * (depth * together)
        with e.loop(self.zero, e.number(n), self.one, zeros) as down:
            values = e.at(self.values_of(b.add(row, down.index), point), begin)
            number = b.add(b.mul(point, e.number(n)), down.index)
            kernels = self.place("kernels", number, shape.inputs * n * depth)
            with e.loop(self.zero, e.number(shape.inputs), self.one, down.carried) as channel:
                line = e.at(values, b.mul(channel.index, e.number(shape.columns)))
                kernel = e.at(kernels, b.mul(channel.index, e.number(n * depth)))
                sums = list(channel.carried)
                for along in range(n):
                    right = [e.load(e.at(line, e.number(v * shape.lanes + along))) for v in range(together)]
                    for output in range(depth):
                        value = e.spread(e.load_scalar(e.at(kernel, e.number(along * depth + output))))
                        for v in range(together):
                            index = output * together + v
                            sums[index] = e.fma(value, right[v], sums[index])
                channel.next = sums
            down.next = channel.carried
        return down.carried

    def finish(self, row: Any, left: Any, count: Any) -> None:
        e, b, shape = self.e, self.b, self.shape
        depth = shape.outputs
        with e.loop(self.zero, e.number(shape.columns), self.lanes) as some:
            made = [self._results(output, some.index) for output in range(depth)]
            for i in range(PART):
                # of each tile in order: column by column, output by output
                numbers = [made[output][i][j] for j in range(PART) for output in range(depth)]
                groups = [
                    e.transposed(numbers[begin : begin + shape.lanes]) for begin in range(0, len(numbers), shape.lanes)
                ]
                piece = e.at(e.at(self.a["pieces"], e.number(i * shape.piece)), self._floats(some.index))
                for tile in range(shape.lanes):
                    for index, group in enumerate(groups):  # the next tile's go over what is too much
                        e.store(group[tile], e.at(piece, e.number(tile * PART * depth + index * shape.lanes)))
        rest = b.sub(self.a["width"], self.first_of(left))
        wide = self.first_of(count)
        wide = b.select(b.icmp_signed("<", rest, wide), rest, wide)
        for i in range(PART):
            place = self.first_of(row, i)
            with b.if_then(b.icmp_signed("<", place, self.a["height"])):
                target = e.at(e.at(self.a["result"], b.mul(place, self.a["line"])), self._floats(left))
                source = e.at(self.a["pieces"], e.number(i * shape.piece))
                e.copy(source, target, b.mul(wide, e.number(depth)))

    def _floats(self, tiles: Any) -> Any:
        """Of a row of results."""
        return self.b.mul(tiles, self.e.number(PART * self.shape.outputs))

    def _results(self, output: int, begin: Any) -> list[list[Any]]:
        e, shape = self.e, self.shape
        sums = e.at(self.a["sums"], begin)
        bias = e.spread(e.load_scalar(e.at(self.a["bias"], e.number(output))))
        step = shape.outputs * shape.columns
        return self.from_points(lambda point: e.load(e.at(sums, e.number(point * step + output * shape.columns))), bias)


class _FromFew(_Program):
    """Vectors hold outputs."""

    def __init__(self, emitter: Emitter, shape: Shape, arguments: dict[str, Any]) -> None:
        super().__init__(emitter, shape, arguments)
        self.targets = emitter.table(PART**2)

    def read(self, row: Any, left: Any) -> None:
        e, b, shape = self.e, self.b, self.shape
        self._copy(row, left)
        with (
            e.loop(self.zero, e.number(shape.columns), self.lanes) as some,
            e.loop(self.zero, e.number(shape.inputs), self.one) as channel,
        ):
            step = PART * shape.inputs  # from a tile to the next
            begin = e.at(self.a["pieces"], b.add(b.mul(some.index, e.number(step)), channel.index))
            points = self.to_points(
                lambda i, j: e.collected(e.at(begin, e.number((i * shape.width + j) * shape.inputs)), step)
            )
            target = e.at(self.values_of(row, self.zero), b.mul(channel.index, e.number(shape.columns)))
            for number, found in enumerate(points):
                e.store(found, e.at(e.at(target, some.index), e.number(number * shape.inputs * shape.columns)))

    def _copy(self, row: Any, left: Any) -> None:
        """What a row of tiles reads, padded, in one piece."""
        e, b, shape = self.e, self.b, self.shape
        for i in range(SIDE):
            line = e.at(self.a["pieces"], e.number(i * shape.width * shape.inputs))
            with e.loop(self.zero, e.number(shape.width), self.one) as col:
                source = self.position(self.first_of(row, i), b.add(self.first_of(left), col.index))
                target = e.at(line, b.mul(col.index, e.number(shape.inputs)))
                for index in range(shape.inputs):
                    value = e.load_scalar(e.at(source, e.number(index)))
                    b.store(value, e.at(target, e.number(index)), align=4)

    def multiply(self, row: Any) -> None:
        e, b, shape = self.e, self.b, self.shape
        with (
            e.loop(self.zero, self.many, self.one) as point,
            e.loop(self.zero, e.number(shape.outputs), e.number(shape.block)) as output,
            e.loop(self.zero, e.number(shape.columns), e.number(shape.tiles)) as tile,
        ):
            sums = self._multiplied(row, point.index, output.index, tile.index)
            target = self.place("sums", point.index, shape.columns * shape.outputs)
            begin = b.add(b.mul(tile.index, e.number(shape.outputs)), output.index)
            for index, found in enumerate(sums):
                place, vector = divmod(index, shape.vectors)
                offset = e.number(place * shape.outputs + vector * shape.lanes)
                e.store(found, e.at(e.at(target, begin), offset))

    def _multiplied(self, row: Any, point: Any, output: Any, tile: Any) -> list[Any]:
        """Of some tiles, a block of outputs."""
        e, b, shape = self.e, self.b, self.shape
        n, stretch = shape.parts, shape.inputs * shape.parts * shape.block
        panel = self.place("kernels", point, shape.outputs * shape.inputs * n**2)
        panel = e.at(panel, b.mul(output, e.number(shape.inputs * n**2)))
        zeros = [e.everywhere(0.0)] * (shape.tiles * shape.vectors)
        with e.loop(self.zero, e.number(n), self.one, zeros) as down:
            values = e.at(self.values_of(b.add(row, down.index), point), tile)
            part = e.at(panel, b.mul(down.index, e.number(stretch)))
            with e.loop(self.zero, e.number(shape.inputs), self.one, down.carried) as channel:
                line = e.at(values, b.mul(channel.index, e.number(shape.columns)))
                kernels = e.at(part, b.mul(channel.index, e.number(n * shape.block)))
                with e.loop(self.zero, e.number(n), self.one, channel.carried) as along:
                    begin = e.at(kernels, b.mul(along.index, e.number(shape.block)))
                    right = [e.load(e.at(begin, e.number(v * shape.lanes))) for v in range(shape.vectors)]
                    for place in range(shape.tiles):
                        value = e.spread(e.load_scalar(e.at(e.at(line, along.index), e.number(place))))
                        for v in range(shape.vectors):
                            index = place * shape.vectors + v
                            along.next.append(e.fma(value, right[v], along.carried[index]))
                channel.next = along.carried
            down.next = channel.carried
        return down.carried

    def finish(self, row: Any, left: Any, count: Any) -> None:
        e, b, shape = self.e, self.b, self.shape
        step = shape.columns * shape.outputs
        with e.loop(self.zero, count, self.one) as tile:
            col = b.add(left, tile.index)
            for i, j in product(range(PART), repeat=2):
                e.remember(self._target(self.first_of(row, i), self.first_of(col, j)), self.targets, PART * i + j)
            with e.loop(self.zero, e.number(shape.outputs), self.lanes) as output:
                sums = e.at(self.place("sums", tile.index, shape.outputs), output.index)
                bias = e.load(e.at(self.a["bias"], output.index))
                made = self.from_points(lambda point: e.load(e.at(sums, e.number(point * step))), bias)
                for i, j in product(range(PART), repeat=2):
                    e.store(made[i][j], e.at(e.recall(self.targets, PART * i + j), output.index))

    def _target(self, row: Any, col: Any) -> Any:
        """Where a position's results go; nowhere beyond the result."""
        a, b, e = self.a, self.b, self.e
        inside = b.and_(b.icmp_signed("<", row, a["height"]), b.icmp_signed("<", col, a["width"]))
        place = b.add(b.mul(row, a["line"]), b.mul(col, e.number(self.shape.outputs)))
        return b.select(inside, e.at(a["result"], place), a["nowhere"])
