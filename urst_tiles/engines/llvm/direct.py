"""A convolution of one map as it is defined, as a program for LLVM.

Of a padded map with its channels last, what a kernel of h x w meets at one position are h stretches of w * channels
floats. Some positions beside each other are computed at a time, for some vectors of outputs: their sums stay in
registers for the whole kernel. Of outputs that are the phases of a map of twice the size, each goes to its place there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
    "high": INT,  # rows of positions
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
        phases: parts of the outputs that go to places of their own: 1 or 4. Of 4, each is made of whole vectors, and
            there is no residual.
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
    phases: Literal[1, 4]
    lanes: int
    positions: int
    vectors: int

    @property
    def depth(self) -> int:
        """Channels of the result."""
        return self.outputs // self.phases

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
            residual = e.at(a["residual"], b.mul(row.index, a["residual_line"]))
            with e.loop(self.zero, together, many) as place:
                col = b.select(b.icmp_signed("<", place.index, end), place.index, end)
                self._compute(image, row.index, residual, col, shape.positions)
            with e.loop(self.zero, alone, self.one) as place:
                self._compute(image, row.index, residual, place.index, 1)

    def _compute(self, image: Any, row: Any, residual: Any, col: Any, positions: int) -> None:
        """So many positions of a row, all outputs."""
        e, a, b, shape = self.e, self.a, self.b, self.shape
        source = e.at(image, b.mul(col, e.number(shape.along)))
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
                here = b.add(col, e.number(index))
                for j in range(shape.vectors):
                    begin = block * shape.block + j * e.lanes
                    self._store(down.carried[index * shape.vectors + j], row, here, residual, begin)

    def _store(self, value: Any, row: Any, col: Any, residual: Any, begin: int) -> None:
        """A vector of one position's outputs, from this one on."""
        e, b, shape = self.e, self.b, self.shape
        here = min(e.lanes, shape.outputs - begin)
        if here <= 0:
            return
        value = e.add(value, e.load(e.at(self.a["bias"], e.number(begin))))
        if shape.adds:
            added = e.at(residual, b.add(b.mul(col, e.number(shape.outputs)), e.number(begin)))
            value = e.add(value, e.load_some(added, here))
        value = e.at_least(value, self.floor)
        if shape.phases == 1:
            e.store_some(value, self._place(row, col, begin), here)
            return
        phase, channel = divmod(begin, shape.depth)
        row, has_row = self._phased(row, self.a["high"], phase // 2)
        col, has_col = self._phased(col, self.a["wide"], phase % 2)
        with b.if_then(b.and_(has_row, has_col)):
            e.store(value, self._place(row, col, channel))

    def _place(self, row: Any, col: Any, channel: int) -> Any:
        e, b = self.e, self.b
        line = e.at(self.a["result"], b.mul(row, self.a["result_line"]))
        return e.at(line, b.add(b.mul(col, e.number(self.shape.depth)), e.number(channel)))

    def _phased(self, position: Any, count: Any, phase: int) -> tuple[Any, Any]:
        """Along one side, where a phase's position stands in the map of twice the size, and whether it does: of the odd
        phase, which comes first, all but the first one; of the even phase all but the last."""
        b, one = self.b, self.one
        missing = b.sub(count, one) if phase else self.zero
        doubled = b.shl(position, one)
        return doubled if phase else b.sub(doubled, one), b.icmp_signed("!=", position, missing)
