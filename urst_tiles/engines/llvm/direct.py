"""A convolution of one map as it is defined, as a program for LLVM.

Of a padded map with its channels last, what a kernel of h x w meets at one position are h stretches of w * channels
floats. Some positions beside each other are computed at a time, for some vectors of outputs: their sums stay in
registers for the whole kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from urst_tiles.engines.llvm.emitting import INT, POINTER, Emitter, function

__all__ = ["ARGUMENTS", "Shape", "program"]


ARGUMENTS: dict[str, Any] = {
    "image": POINTER,  # (H, W, inputs), padded
    "kernels": POINTER,  # (blocks, height, width * inputs, block)
    "bias": POINTER,  # (blocks * block,)
    "residual": POINTER,  # of the first position; not read where none is added
    "result": POINTER,  # of the first position
    "first": INT,  # row of the result
    "last": INT,
    "wide": INT,  # positions in a row
    "line": INT,  # floats from one row of the image to the next
    "result_line": INT,  # floats from one row of the result to the next
    "residual_line": INT,  # of the residual
    "relu": INT,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a program is made for.

    Attributes:
        height, stretch: rows of the kernel, and the floats of one.
        down, along: rows, and floats, from one position to the next.
        outputs: channels of the result.
        adds: whether there is a residual.
        lanes: floats in a vector.
        positions: computed at a time.
        vectors: of outputs that are computed at a time.
    """

    height: int
    stretch: int
    down: int
    along: int
    outputs: int
    adds: bool
    lanes: int
    positions: int
    vectors: int

    @property
    def block(self) -> int:
        return self.lanes * self.vectors

    @property
    def blocks(self) -> int:
        return -(-self.outputs // self.block)


def program(shape: Shape) -> str:
    """In LLVM's language: a function that takes ``ARGUMENTS``."""
    return function(ARGUMENTS, shape.lanes, lambda emitter, given: _Program(emitter, shape, given).write())


class _Program:
    def __init__(self, emitter: Emitter, shape: Shape, arguments: dict[str, Any]) -> None:
        self.e, self.b, self.shape, self.a = emitter, emitter.builder, shape, arguments
        self.one, self.zero = emitter.number(1), emitter.number(0)
        self.floor = emitter.floor(arguments["relu"])

    def write(self) -> None:
        e, a, b, shape = self.e, self.a, self.b, self.shape
        many = e.number(shape.positions)
        step = b.mul(a["line"], e.number(shape.down))
        # The last positions of a row are computed with those before them, a second time.
        end = b.sub(a["wide"], many)
        enough = b.icmp_signed(">=", end, self.zero)
        together, alone = b.select(enough, a["wide"], self.zero), b.select(enough, self.zero, a["wide"])
        with e.loop(a["first"], a["last"], self.one) as row:
            image = e.at(a["image"], b.mul(row.index, step))
            result = e.at(a["result"], b.mul(row.index, a["result_line"]))
            residual = e.at(a["residual"], b.mul(row.index, a["residual_line"]))
            with e.loop(self.zero, together, many) as place:
                col = b.select(b.icmp_signed("<", place.index, end), place.index, end)
                self._compute(image, result, residual, col, shape.positions)
            with e.loop(self.zero, alone, self.one) as place:
                self._compute(image, result, residual, place.index, 1)

    def _compute(self, image: Any, result: Any, residual: Any, col: Any, positions: int) -> None:
        """So many positions of a row, all outputs."""
        e, a, b, shape = self.e, self.a, self.b, self.shape
        source = e.at(image, b.mul(col, e.number(shape.along)))
        place = b.mul(col, e.number(shape.outputs))
        size = shape.block * shape.stretch
        for block in range(shape.blocks):
            panel = e.at(a["kernels"], e.number(block * shape.height * size))
            sums = [e.everywhere(0.0)] * (positions * shape.vectors)
            with e.loop(self.zero, e.number(shape.height), self.one, sums) as down:
                line = e.at(source, b.mul(down.index, a["line"]))
                part = e.at(panel, b.mul(down.index, e.number(size)))
                with e.loop(self.zero, e.number(shape.stretch), self.one, down.carried) as k:
                    right = e.at(part, b.mul(k.index, e.number(shape.block)))
                    kernels = [e.load(e.at(right, e.number(j * e.lanes))) for j in range(shape.vectors)]
                    for index in range(positions):
                        value = e.spread(e.load_scalar(e.at(e.at(line, k.index), e.number(index * shape.along))))
                        for j, kernel in enumerate(kernels):
                            k.next.append(e.fma(value, kernel, k.carried[index * shape.vectors + j]))
                down.next = k.carried
            for index in range(positions):
                for j in range(shape.vectors):
                    begin = block * shape.block + j * e.lanes
                    self._store(down.carried[index * shape.vectors + j], result, residual, place, index, begin)

    def _store(self, value: Any, result: Any, residual: Any, place: Any, index: int, begin: int) -> None:
        e, shape = self.e, self.shape
        here = min(e.lanes, shape.outputs - begin)
        if here <= 0:
            return
        offset = e.number(index * shape.outputs + begin)
        value = e.add(value, e.load(e.at(self.a["bias"], e.number(begin))))
        if shape.adds:
            value = e.add(value, e.load_some(e.at(e.at(residual, place), offset), here))
        e.store_some(e.at_least(value, self.floor), e.at(e.at(result, place), offset), here)
