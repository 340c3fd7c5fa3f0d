"""The convolution of one map, as a program for LLVM.

Tiles are taken in blocks that stay in the processor's cache::

    for each block:    6 x 6 values of each tile  →  36 matrices (tiles x inputs)
                       each times its matrix (inputs x outputs)  →  36 matrices (tiles x outputs)
                       these  →  m x m results of each tile; bias, residual and ReLU on the way

Where a tile reads and writes is looked up in tables, one for rows and one for columns, of offsets or -1. So padding,
doubling, a picture's far edge and phases put side by side are only other tables, and the program has no case for any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from urst_tiles.engines.llvm.emitting import INT, POINTER, Emitter, function
from urst_tiles.engines.llvm.transforms import SIDE, input_matrix, output_matrix, results

__all__ = ["ARGUMENTS", "PAUSE", "Shape", "program"]

PRODUCTS = SIDE**2
PAUSE = 16
"""Floats between the 36 matrices, so that they do not all begin at the same place of the cache."""

ARGUMENTS: dict[str, Any] = {
    "image": POINTER,  # (H, W, inputs)
    "rows": POINTER,  # where a tile reads: offsets of rows, -1: zeros
    "cols": POINTER,
    "zeros": POINTER,  # as many as there are channels
    "kernels": POINTER,  # (36, outputs / block, inputs, block)
    "bias": POINTER,  # (outputs,)
    "residual": POINTER,  # like the result without its margin, or null
    "residual_rows": POINTER,  # as below
    "residual_cols": POINTER,
    "result": POINTER,
    "result_rows": POINTER,  # (phases, rows) where a tile writes: offsets, -1: nowhere
    "result_cols": POINTER,
    "nowhere": POINTER,  # as much room as zeros
    "values": POINTER,  # scratch: (36, room, inputs), with pauses
    "sums": POINTER,  # scratch: (36, room, outputs), with pauses
    "first": INT,  # tile
    "last": INT,
    "across": INT,  # tiles in a row
    "down": INT,  # rows of tiles
    "inputs": INT,
    "outputs": INT,
    "phases": INT,  # parts of the outputs, each with tables of its own
    "room": INT,  # tiles in a block, a multiple of the rows that are multiplied at a time
    "relu": INT,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a program is made for.

    Attributes:
        taps: of the kernel, along each side.
        lanes: floats in a vector.
        rows: tiles that are multiplied at a time.
        vectors: of outputs that are computed at a time; a block of outputs is lanes * vectors.
        pooled: whether the largest of each 2 x 2 results is written, in their place.
    """

    taps: int
    lanes: int
    rows: int
    vectors: int
    pooled: bool = False

    @property
    def written(self) -> int:
        """Along each side of a tile."""
        return results(self.taps) // (2 if self.pooled else 1)

    @property
    def block(self) -> int:
        return self.lanes * self.vectors


def program(shape: Shape) -> str:
    """In LLVM's language: a function that takes ``ARGUMENTS``."""
    return function(ARGUMENTS, shape.lanes, lambda emitter, given: _Program(emitter, shape, given).write())


class _Program:
    def __init__(self, emitter: Emitter, shape: Shape, arguments: dict[str, Any]) -> None:
        self.e, self.b, self.shape, self.a = emitter, emitter.builder, shape, arguments
        self.m, self.written = results(shape.taps), shape.written
        self.one, self.zero = emitter.number(1), emitter.number(0)
        self.sources, self.targets, self.residuals = (
            emitter.table(length) for length in (PRODUCTS, self.written**2, self.written**2)
        )
        # from one of the 36 matrices to the next
        self.value_step, self.sum_step = (
            self.b.add(self.b.mul(arguments["room"], arguments[each]), emitter.number(PAUSE))
            for each in ("inputs", "outputs")
        )

    def write(self) -> None:
        a, b = self.a, self.b
        with self.e.loop(a["first"], a["last"], a["room"]) as block:
            left = b.sub(a["last"], block.index)
            count = b.select(b.icmp_signed("<", left, a["room"]), left, a["room"])
            with self.e.loop(self.zero, count, self.one) as tile:
                self._read(tile.index, b.add(block.index, tile.index))
            self._multiply(count)
            with self.e.loop(self.zero, count, self.one) as tile:
                self._write(tile.index, b.add(block.index, tile.index))

    def _read(self, index: Any, tile: Any) -> None:
        """The values of one tile, transformed, to its row of the 36 matrices."""
        e, a = self.e, self.a
        top, left = (self.b.mul(each, e.number(self.m)) for each in self._tile(tile))
        for i in range(SIDE):
            for j in range(SIDE):
                e.remember(
                    self._cell("image", "rows", "cols", (top, i), (left, j), "zeros"), self.sources, SIDE * i + j
                )
        row = e.at(a["values"], self.b.mul(index, a["inputs"]))
        with e.loop(self.zero, a["inputs"], e.number(e.lanes)) as channel:

            def value(i: int, j: int) -> Any:
                return e.load(e.at(e.recall(self.sources, SIDE * i + j), channel.index))

            columns = [e.product(input_matrix(), [value(i, j) for i in range(SIDE)]) for j in range(SIDE)]
            for i in range(SIDE):
                for j, found in enumerate(e.product(input_matrix(), [column[i] for column in columns])):
                    e.store(found, self._of_matrix(e.at(row, channel.index), SIDE * i + j, self.value_step))

    def _multiply(self, count: Any) -> None:
        e, a, b = self.e, self.a, self.b
        block = e.number(self.shape.block)
        with e.loop(self.zero, e.number(PRODUCTS), self.one) as product:
            kernels = e.at(a["kernels"], b.mul(product.index, b.mul(a["inputs"], a["outputs"])))
            values = e.at(a["values"], b.mul(product.index, self.value_step))
            sums = e.at(a["sums"], b.mul(product.index, self.sum_step))
            with e.loop(self.zero, a["outputs"], block) as output:
                panel = e.at(kernels, b.mul(output.index, a["inputs"]))
                with e.loop(self.zero, count, e.number(self.shape.rows)) as tile:
                    self._multiply_some(values, panel, e.at(sums, output.index), tile.index)

    def _multiply_some(self, values: Any, panel: Any, sums: Any, first: Any) -> None:
        """rows x inputs times inputs x block; the sums stay in registers."""
        e, a, b, shape = self.e, self.a, self.b, self.shape
        tiles = [b.add(first, e.number(row)) for row in range(shape.rows)]
        left = [e.at(values, b.mul(tile, a["inputs"])) for tile in tiles]
        with e.loop(self.zero, a["inputs"], self.one, [e.everywhere(0.0)] * (shape.rows * shape.vectors)) as k:
            line = e.at(panel, b.mul(k.index, e.number(shape.block)))
            right = [e.load(e.at(line, e.number(j * e.lanes))) for j in range(shape.vectors)]
            for row in range(shape.rows):
                value = e.spread(e.load_scalar(e.at(left[row], k.index)))
                for j in range(shape.vectors):
                    k.next.append(e.fma(value, right[j], k.carried[row * shape.vectors + j]))
        for row, tile in enumerate(tiles):
            target = e.at(sums, b.mul(tile, a["outputs"]))
            for j in range(shape.vectors):
                e.store(k.carried[row * shape.vectors + j], e.at(target, e.number(j * e.lanes)))

    def _write(self, index: Any, tile: Any) -> None:
        """The results of one tile, phase by phase."""
        e, a, b = self.e, self.a, self.b
        depth = b.sdiv(a["outputs"], a["phases"])
        floor = e.floor(a["relu"])
        row = e.at(a["sums"], b.mul(index, a["outputs"]))
        with e.loop(self.zero, a["phases"], self.one) as phase:
            self._find_targets(tile, phase.index)
            begin = b.mul(phase.index, depth)
            bias, sums = e.at(a["bias"], begin), e.at(row, begin)
            with e.loop(self.zero, depth, e.number(e.lanes)) as channel:
                added = e.load(e.at(bias, channel.index))
                for place, value in enumerate(self._results(e.at(sums, channel.index))):
                    more = e.load(e.at(e.recall(self.residuals, place), channel.index))
                    total = e.at_least(e.add(e.add(value, added), more), floor)
                    e.store(total, e.at(e.recall(self.targets, place), channel.index))

    def _find_targets(self, tile: Any, phase: Any) -> None:
        """Where a tile's results go, and where what is added to them stands."""
        e, a, b, side = self.e, self.a, self.b, self.written
        added = b.icmp_unsigned("!=", b.ptrtoint(a["residual"], INT), self.zero)
        top, left = (b.mul(each, e.number(side)) for each in self._tile(tile))
        above, before = (b.mul(phase, b.mul(a[each], e.number(side))) for each in ("down", "across"))
        for i in range(side):
            for j in range(side):
                place = (b.add(above, top), i), (b.add(before, left), j)
                target = self._cell("result", "result_rows", "result_cols", *place, "nowhere")
                e.remember(target, self.targets, side * i + j)
                other = self._cell("residual", "residual_rows", "residual_cols", *place, "zeros")
                e.remember(b.select(added, other, a["zeros"]), self.residuals, side * i + j)

    def _results(self, sums: Any) -> list[Any]:
        """Of some channels of a tile, row by row."""
        e, m, matrix = self.e, self.m, output_matrix(self.shape.taps)
        columns = [
            e.gathered(matrix, [e.load(self._of_matrix(sums, SIDE * i + j, self.sum_step)) for i in range(SIDE)])
            for j in range(SIDE)
        ]
        rows = [e.gathered(matrix, [each[i] for each in columns]) for i in range(m)]
        if not self.shape.pooled:
            return [value for row in rows for value in row]
        # Of the same channel: what is added to all four, and a ReLU, may as well come afterwards.
        return [
            e.larger(e.larger(rows[i][j], rows[i][j + 1]), e.larger(rows[i + 1][j], rows[i + 1][j + 1]))
            for i in range(0, m, 2)
            for j in range(0, m, 2)
        ]

    def _tile(self, number: Any) -> tuple[Any, Any]:
        """The row and column of a tile."""
        across = self.a["across"]
        return self.b.sdiv(number, across), self.b.srem(number, across)

    def _cell(self, base: str, rows: str, cols: str, row: tuple[Any, int], col: tuple[Any, int], otherwise: str) -> Any:
        """The address of a position's channels, or another where a table says that there is none."""
        b, e = self.b, self.e
        down = e.entry(self.a[rows], b.add(row[0], e.number(row[1])))
        along = e.entry(self.a[cols], b.add(col[0], e.number(col[1])))
        none = b.icmp_signed("<", b.or_(down, along), self.zero)
        return b.select(none, self.a[otherwise], e.at(self.a[base], b.add(down, along)))

    def _of_matrix(self, address: Any, number: int, step: Any) -> Any:
        return self.e.at(address, self.b.mul(step, self.e.number(number)))
