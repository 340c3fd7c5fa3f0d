"""Writing LLVM's language: vectors, loops, and a matrix known beforehand times vectors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

__all__ = ["FLOAT", "INT", "NAME", "POINTER", "Emitter", "Loop", "function"]

NAME = "convolve"
"""Of the one function in a program."""

FLOAT, INT, POINTER = ir.FloatType(), ir.IntType(64), ir.PointerType()
_INDEX = ir.IntType(32)


@dataclass(slots=True)
class Loop:
    """The inside of a loop."""

    index: Any
    carried: list[Any]
    # values as the last round left them
    next: list[Any] = field(default_factory=list)
    # values as this round leaves them


class Emitter:
    """One function's instructions, in order. Values are LLVM's; addresses are of floats and counted in them.

    Parameters:
        builder: at the place where instructions go.
        lanes: floats in a vector.
    """

    def __init__(self, builder: Any, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.vector = ir.VectorType(FLOAT, lanes)
        self._flags = ir.VectorType(ir.IntType(1), lanes)
        self._fma = self._declared(f"llvm.fma.v{lanes}f32", ir.FunctionType(self.vector, [self.vector] * 3))

    def number(self, value: int) -> Any:
        return ir.Constant(INT, value)

    def everywhere(self, value: float) -> Any:
        """A constant in all lanes."""
        return ir.Constant(self.vector, [ir.Constant(FLOAT, value)] * self.lanes)

    def spread(self, scalar: Any) -> Any:
        """A value in all lanes."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(nothing, scalar, ir.Constant(_INDEX, 0))
        return self.builder.shuffle_vector(
            one, nothing, ir.Constant(ir.VectorType(_INDEX, self.lanes), [0] * self.lanes)
        )

    def at(self, base: Any, offset: Any) -> Any:
        """The address so many floats further."""
        return self.builder.gep(base, [offset], source_etype=FLOAT)

    def load(self, address: Any) -> Any:
        """A vector; the address need not be a multiple of anything."""
        return self.builder.load(address, typ=self.vector, align=4)

    def load_scalar(self, address: Any) -> Any:
        return self.builder.load(address, typ=FLOAT, align=4)

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, address, align=4)

    def load_some(self, address: Any, count: int) -> Any:
        """The first ``count`` floats of a vector; what lies behind them is not read."""
        if count == self.lanes:
            return self.load(address)
        kind = ir.FunctionType(self.vector, [POINTER, _INDEX, self._flags, self.vector])
        function = self._declared(f"llvm.masked.load.v{self.lanes}f32.p0", kind)
        return self.builder.call(function, [address, ir.Constant(_INDEX, 4), self._first(count), self.everywhere(0.0)])

    def store_some(self, value: Any, address: Any, count: int) -> None:
        """The first ``count`` floats of a vector; what lies behind them is left as it is."""
        if count == self.lanes:
            self.store(value, address)
            return
        kind = ir.FunctionType(ir.VoidType(), [self.vector, POINTER, _INDEX, self._flags])
        function = self._declared(f"llvm.masked.store.v{self.lanes}f32.p0", kind)
        self.builder.call(function, [value, address, ir.Constant(_INDEX, 4), self._first(count)])

    def entry(self, table: Any, index: Any) -> Any:
        """A number of a table of 64-bit integers."""
        return self.builder.load(self.builder.gep(table, [index], source_etype=INT), typ=INT, align=8)

    def table(self, length: int) -> Any:
        """Room on the stack for so many addresses. To be asked for where a function begins."""
        return self.builder.alloca(POINTER, size=self.number(length))

    def remember(self, address: Any, table: Any, index: int) -> None:
        self.builder.store(address, self._slot(table, index))

    def recall(self, table: Any, index: int) -> Any:
        return self.builder.load(self._slot(table, index), typ=POINTER)

    def collected(self, address: Any, step: int) -> Any:
        """A vector of floats that stand so many apart."""
        vector = ir.Constant(self.vector, ir.Undefined)
        for lane in range(self.lanes):
            value = self.load_scalar(self.at(address, self.number(lane * step)))
            vector = self.builder.insert_element(vector, value, ir.Constant(_INDEX, lane))
        return vector

    def transposed(self, vectors: Sequence[Any]) -> list[Any]:
        """As many vectors as there are lanes, as a matrix: its columns. Where fewer are given, the rest of each column
        is not known."""
        lanes = self.lanes
        rows = [*vectors, *[ir.Constant(self.vector, ir.Undefined)] * (lanes - len(vectors))]
        kind = ir.VectorType(_INDEX, lanes)
        halves = [
            ir.Constant(kind, [begin + lane // 2 + lanes * (lane % 2) for lane in range(lanes)])
            for begin in (0, lanes // 2)
        ]
        for _ in range(lanes.bit_length() - 1):  # each round puts a row between those of one half as far away
            pairs = zip(rows[: lanes // 2], rows[lanes // 2 :], strict=True)
            rows = [self.builder.shuffle_vector(*pair, half) for pair in pairs for half in halves]
        return rows

    def in_groups(self, address: Any, inputs: int, outputs: int) -> list[Any]:
        """For each of a group's inputs a vector that holds it once for each of the group's outputs, group by group."""
        read = self.lanes // outputs * inputs
        width = min(read, self.lanes)
        kind = ir.VectorType(FLOAT, width)
        parts = [
            self.builder.load(self.at(address, self.number(begin)), typ=kind, align=4)
            for begin in range(0, read, width)
        ]
        pair = parts[0], (parts[1] if len(parts) == 2 else ir.Constant(kind, ir.Undefined))
        places = [[lane // outputs * inputs + index for lane in range(self.lanes)] for index in range(inputs)]
        return [
            self.builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_INDEX, self.lanes), each)) for each in places
        ]

    def position(self, arguments: Mapping[str, Any], row: Any, col: Any) -> Any:
        """The address of a position's channels in a map, or zeros where tables of offsets say that it has none.

        ``arguments``: "image", "rows", "cols" and "zeros", by name.
        """
        b = self.builder
        down, along = self.entry(arguments["rows"], row), self.entry(arguments["cols"], col)
        none = b.icmp_signed("<", b.or_(down, along), self.number(0))
        return b.select(none, arguments["zeros"], self.at(arguments["image"], b.add(down, along)))

    def copy(self, source: Any, target: Any, floats: Any) -> None:
        """So many floats, to where nothing of them stands."""
        kind = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, INT, ir.IntType(1)])
        function = self._declared("llvm.memcpy.p0.p0.i64", kind)
        size = self.builder.mul(floats, self.number(4))
        self.builder.call(function, [target, source, size, ir.Constant(ir.IntType(1), 0)])

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x * y + z."""
        return self.builder.call(self._fma, [x, y, z])

    def add(self, x: Any, y: Any) -> Any:
        return self.builder.fadd(x, y)

    def subtract(self, x: Any, y: Any) -> Any:
        return self.builder.fsub(x, y)

    def larger(self, x: Any, y: Any) -> Any:
        """Of two; if one is no number, neither is the result."""
        function = self._declared(f"llvm.maximum.v{self.lanes}f32", ir.FunctionType(self.vector, [self.vector] * 2))
        return self.builder.call(function, [x, y])

    def floor(self, relu: Any) -> Any:
        """For :meth:`at_least`: zeros where there is a ReLU, a number that is not 0; else what nothing is below."""
        flag = self.builder.icmp_signed("!=", relu, self.number(0))
        return self.builder.select(flag, self.everywhere(0.0), self.everywhere(-math.inf))

    def at_least(self, x: Any, floor: Any) -> Any:
        """The larger one; what is no number stays so."""
        return self.builder.select(self.builder.fcmp_ordered(">", floor, x), floor, x)

    def rounded(self, x: Any) -> Any:
        """To the nearest whole number, halves to the even one."""
        return self.builder.call(
            self._declared(f"llvm.roundeven.v{self.lanes}f32", ir.FunctionType(self.vector, [self.vector])), [x]
        )

    def combined(self, factors: Sequence[float], values: Sequence[Any]) -> Any:
        """The sum of vectors times constants; a one costs no multiplication, a zero nothing."""
        pairs = sorted(
            ((f, v) for f, v in zip(factors, values, strict=True) if f), key=lambda pair: abs(pair[0]) != 1.0
        )
        (first, total), *rest = pairs
        if first != 1.0:
            total = self.builder.fmul(total, self.everywhere(first))
        for factor, value in rest:
            one = factor == 1.0
            total = self.add(total, value) if one else self.fma(value, self.everywhere(factor), total)
        return total

    def product(self, matrix: NDArray[np.float64], values: Sequence[Any]) -> list[Any]:
        """A constant matrix times a column of vectors. Rows that differ in the signs of every second factor, as those
        of opposite points do, are made of one even and one odd sum.
        """
        results: list[Any] = [None] * len(matrix)
        for index, row in enumerate(matrix):
            if results[index] is not None:
                continue
            twin = next((j for j in range(index + 1, len(matrix)) if _mirrored(row, matrix[j])), None)
            if twin is None:
                results[index] = self.combined(list(row), values)
                continue
            even = self.combined(list((row + matrix[twin]) / 2), values)
            odd = self.combined(list((row - matrix[twin]) / 2), values)
            results[index], results[twin] = self.add(even, odd), self.subtract(even, odd)
        return results

    def gathered(self, matrix: NDArray[np.float64], values: Sequence[Any]) -> list[Any]:
        """The same where it is columns that differ in every second sign: sums and differences of their values first."""
        columns, given = list(matrix.T), list(values)
        index = 0
        while index < len(columns):
            twin = next((j for j in range(index + 1, len(columns)) if _mirrored(columns[index], columns[j])), None)
            if twin is not None:
                one, other = columns[index], columns[twin]
                both = self.add(given[index], given[twin]), self.subtract(given[index], given[twin])
                columns[index], columns[twin] = (one + other) / 2, (one - other) / 2
                given[index], given[twin] = both
            index += 1
        return [self.combined(list(row), given) for row in np.array(columns).T]

    @contextlib.contextmanager
    def loop(self, start: Any, end: Any, step: Any, carried: Sequence[Any] = ()) -> Iterator[Loop]:
        """start, start + step … below end. ``carried`` are values at first; afterwards ``Loop.carried`` are the last
        ones."""
        builder, before = self.builder, self.builder.block
        head, body, done = (builder.append_basic_block() for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(INT)
        index.add_incoming(start, before)
        inside = Loop(index, [builder.phi(value.type) for value in carried])
        for phi, value in zip(inside.carried, carried, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", index, end), body, done)
        builder.position_at_end(body)
        yield inside
        index.add_incoming(builder.add(index, step), builder.block)
        for phi, value in zip(inside.carried, inside.next, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(done)

    def _declared(self, name: str, kind: Any) -> Any:
        """An operation of LLVM's."""
        known = self.builder.module.globals
        return known[name] if name in known else ir.Function(self.builder.module, kind, name)

    def _first(self, count: int) -> Any:
        return ir.Constant(self._flags, [int(index < count) for index in range(self.lanes)])

    def _slot(self, table: Any, index: int) -> Any:
        return self.builder.gep(table, [self.number(index)], source_etype=POINTER)


def function(arguments: Mapping[str, Any], lanes: int, write: Callable[[Emitter, dict[str, Any]], None]) -> str:
    """A program of one function with these arguments, by name and type, which returns nothing.

    ``write`` is given them by name. What one address leads to, no other one does.
    """
    made = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), list(arguments.values())), NAME)
    for argument, kind in zip(made.args, arguments.values(), strict=True):
        if kind is POINTER:
            argument.add_attribute("noalias")
    builder = ir.IRBuilder(made.append_basic_block())
    write(Emitter(builder, lanes), dict(zip(arguments, made.args, strict=True)))
    builder.ret_void()
    return str(made.module)


def _mirrored(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two rows differ, and only in every second sign."""
    signs = np.where(np.arange(len(one)) % 2, -1.0, 1.0)
    # of a row that ends in the highest power, the first factor may be the one that turns
    return not np.array_equal(one, other) and any(np.allclose(one * s, other, atol=1e-12) for s in (signs, -signs))
