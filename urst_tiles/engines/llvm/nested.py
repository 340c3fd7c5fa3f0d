"""The program that :mod:`urst_tiles.engines.llvm.nested_shape` describes: vectors hold tiles, or outputs."""

from __future__ import annotations

from itertools import product
from typing import Any

from urst_tiles.engines.llvm.emitting import Emitter, function
from urst_tiles.engines.llvm.nested_shape import ARGUMENTS, PART, SIDE, NestedProgram, Shape

__all__ = ["program"]


def program(shape: Shape) -> str:
    """In LLVM's language: a function that takes ``ARGUMENTS``."""
    kind: type[NestedProgram] = _ToFew if shape.narrows else _FromFew
    return function(ARGUMENTS, shape.lanes, lambda emitter, given: kind(emitter, shape, given).write())


class _ToFew(NestedProgram):
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
                        e.at(e.position(self.a, self.first_of(row, i), self.first_of(col, j)), channel.index)
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


class _FromFew(NestedProgram):
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
                source = e.position(self.a, self.first_of(row, i), b.add(self.first_of(left), col.index))
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
