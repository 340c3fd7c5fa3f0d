"""Convolutions of maps in memory: by Winograd's way, and directly."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np

from urst_tiles.engines.llvm import direct, winograd
from urst_tiles.engines.llvm.machine import Program, processor, translated
from urst_tiles.engines.llvm.maps import (
    NO_PADDING,
    SIZES,
    Map,
    Padding,
    Table,
    addresses,
    check_map,
    check_middle,
    fill_margin,
    line_of,
    offsets,
    sources,
)
from urst_tiles.engines.llvm.transforms import SIDE, results, transformed_kernels
from urst_tiles.engines.llvm.workshop import Step, Workshop

__all__ = ["Convolution", "Direct", "Winograd", "gains_by_winograd", "interleaves"]

_LEAST_CHANNELS = 32
_CACHED_CHANNELS = 128
"""So many are worth 24 tiles a block: all that a block holds stays in a core's own cache. Of more channels, more tiles:
each block reads all kernels once."""


def gains_by_winograd(inputs: int, outputs: int, taps: int, phases: int = 1) -> bool:
    """Whether such a convolution is faster by Winograd's way: vectors are filled, and of few channels, taking values
    there and back costs more than is saved.
    """
    whole = inputs % 16 == 0 and outputs % (16 * phases) == 0
    return taps in (2, 3) and whole and min(inputs, outputs) >= _LEAST_CHANNELS


def interleaves(outputs: int) -> bool:
    """Whether a direct convolution can put four phases into their places: each is made of whole vectors."""
    return outputs % (4 * processor().lanes) == 0


class Convolution(ABC):
    """What may come after it is done on the way: [+ residual] [→ ReLU] [→ pad]. Program and kernels are made when it is
    first run.

    Parameters:
        inputs: channels of what it reads.
        depth: channels of the result.
        weight, bias: what is computed with.
        relu: what is below zero becomes zero, after a residual was added.

    Attributes:
        margin: the result is padded like this, for what reads it.
    """

    def __init__(self, inputs: int, depth: int, weight: Map, bias: Map, *, relu: bool) -> None:
        self._numbers = hash((weight.shape, weight.tobytes(), bias.tobytes()))
        # of weights that are let go when the kernels are made
        self.inputs, self.depth = inputs, depth
        self.margin = NO_PADDING
        self._relu = relu
        self._weight: Map | None = None
        # until the kernels are made
        self._bias: Map = np.zeros(0, np.float32)
        self._lock = threading.Lock()
        self._made: tuple[Program, Map] | None = None
        self._twin: Convolution | None = None

    def share(self, other: Convolution) -> bool:
        """Take the program and the kernels of another one that computes the same, on maps of other sizes; False: it
        does not. Before this one has been made ready."""
        alike = type(self) is type(other) and self._computes() == other._computes()
        if not alike or self._numbers != other._numbers:
            return False
        self._twin, self._weight = other, None
        return True

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """The result's, its margin included, for a map of these."""
        return self.margin.around(*self._inner(height, width))

    def run(self, image: Map, result: Map, workshop: Workshop, residual: Map | None = None) -> None:
        """(H, W, inputs) → ``result``, (H', W', depth) as :meth:`sides` says; ``residual`` is like it, without its
        margin, and may be the middle of a larger map.

        Raises: see :meth:`bound`.
        """
        self.bound(image, result, workshop, residual)()

    def bound(self, image: Map, result: Map, workshop: Workshop, residual: Map | None = None) -> Callable[[], None]:
        """:meth:`run` of whatever stands in these maps then.

        Raises:
            ValueError: a map is of another shape, type or layout.
            UntranslatedError: see :func:`~urst_tiles.engines.llvm.machine.translated`.
        """
        height, width = image.shape[:2]
        check_map(image, (height, width, self.inputs))
        check_map(result, (*self.sides(height, width), self.depth))
        if residual is not None:
            check_middle(residual, (*self._inner(height, width), self.depth))
        step = self._bound(image, result, workshop, residual)
        if self.margin == NO_PADDING:
            return step

        def with_margin() -> None:
            step()
            fill_margin(result, self.margin)

        return with_margin

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Of the kernels as they are kept."""

    @property
    @abstractmethod
    def scratch(self) -> int:
        """Floats that a thread needs while it works."""

    def ready(self) -> tuple[Program, Map]:
        """The program and the kernels, made if they are not yet.

        Raises:
            UntranslatedError: see :func:`~urst_tiles.engines.llvm.machine.translated`.
        """
        if self._twin is not None:
            return self._twin.ready()
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    @abstractmethod
    def _make(self) -> tuple[Program, Map]: ...

    @abstractmethod
    def _computes(self) -> object:
        """What program and kernels hang on, but for the weights."""

    @abstractmethod
    def _inner(self, height: int, width: int) -> tuple[int, int]:
        """The sides of the result without its margin."""

    @abstractmethod
    def _bound(self, image: Map, result: Map, workshop: Workshop, residual: Map | None) -> Step: ...


class Winograd(Convolution):
    """3 x 3 or 2 x 2 with a step of one, the map padded on the way, [→ phases interleaved] or [→ pooled].

    Parameters:
        weight: (outputs, inputs, 3, 3) or (outputs, inputs, 2, 2).
        bias: (outputs,).
        padding: of the map.
        phases: 4 where the outputs are the phases of a map of twice the size, as
            :func:`~urst_tiles.networks.phases.phase_kernels` orders them: the result is that map.
        pooled: whether the result is the largest of each 2 x 2; for maps of even sides and kernels of 3 x 3.
    """

    def __init__(
        self,
        weight: Map,
        bias: Map,
        padding: Padding,
        *,
        relu: bool,
        phases: Literal[1, 4] = 1,
        pooled: bool = False,
    ) -> None:
        outputs, inputs, taps, _ = _shape(weight)
        super().__init__(inputs, outputs // phases, weight, bias, relu=relu)
        found = processor()
        vectors = found.vectors(outputs)
        self._shape = winograd.Shape(taps, found.lanes, found.sums // vectors, vectors, pooled)
        self._weight = weight
        self._bias = np.ascontiguousarray(bias, np.float32)
        self._outputs, self._phases = outputs, phases
        self._padding, self._step = padding, results(taps)
        widest = max(inputs, outputs)
        self._room = found.sums * -(-widest // _CACHED_CHANNELS)
        self._zeros = np.zeros(widest, np.float32)
        self._tables = lru_cache(SIZES)(self._find_tables)

    @property
    def nbytes(self) -> int:
        return 4 * SIDE**2 * self._outputs * self.inputs

    @property
    def scratch(self) -> int:
        return sum(self._scratch) + self._zeros.size

    @property
    def _scratch(self) -> list[int]:
        return [SIDE**2 * (self._room * depth + winograd.PAUSE) for depth in (self.inputs, self._outputs)]

    def _make(self) -> tuple[Program, Map]:
        program = translated(winograd.program, self._shape, tuple(winograd.ARGUMENTS.values()))
        weight, self._weight = self._weight, None
        if weight is None:
            raise RuntimeError("the kernels have been made already")
        return program, transformed_kernels(weight, self._shape.block)

    def _computes(self) -> object:
        return self._shape, self.inputs, self._outputs, self._phases

    def _inner(self, height: int, width: int) -> tuple[int, int]:
        high, wide = self._positions(height, width)
        if self._shape.pooled:
            return high // 2, wide // 2
        return (high, wide) if self._phases == 1 else (2 * (high - 1), 2 * (wide - 1))

    def _bound(self, image: Map, result: Map, workshop: Workshop, residual: Map | None) -> Step:
        height, width = image.shape[:2]
        high, wide = self._positions(height, width)
        down, across = -(-high // self._step), -(-wide // self._step)
        reads, writes, added = self._tables(height, width, self.margin, line_of(residual))
        floats, (sums, nowhere) = self.scratch, np.cumsum(self._scratch).tolist()
        program, kernels = self.ready()
        numbers = (across, down, self.inputs, self._outputs, self._phases, self._room, int(self._relu))
        given = addresses(image, *reads, self._zeros, kernels, self._bias, residual, *added, result, *writes)

        def work(first: int, last: int) -> None:
            with workshop.scratch(floats) as at:
                program(*given, at + 4 * nowhere, at, at + 4 * sums, first, last, *numbers)

        held = (image, reads, kernels, residual, added, result, writes, self)
        return Step(workshop, work, down * across, self._room, held)

    def _find_tables(self, height: int, width: int, margin: Padding, added: int) -> tuple[tuple[Table, Table], ...]:
        """For a map of this size: where tiles read, where they write, and where what is added to that stands, in lines
        of so many positions."""
        high, wide = self._positions(height, width)
        down, across = -(-high // self._step), -(-wide // self._step)
        inner = self._inner(height, width)
        line = margin.around(*inner)[1]
        return (
            self._reads(height, width, down, across),
            self._writes(down, across, inner, line, margin),
            self._writes(down, across, inner, added, NO_PADDING),
        )

    def _positions(self, height: int, width: int) -> tuple[int, int]:
        """Of the kernel on the padded map."""
        high, wide = self._padding.around(height, width)
        return high - self._shape.taps + 1, wide - self._shape.taps + 1

    def _reads(self, height: int, width: int, down: int, across: int) -> tuple[Table, Table]:
        pad, more = self._padding, self._shape.taps - 1
        rows = sources(down * self._step + more, pad.top, height, pad.mode)
        cols = sources(across * self._step + more, pad.left, width, pad.mode)
        return offsets(rows, width * self.inputs), offsets(cols, self.inputs)

    def _writes(
        self, down: int, across: int, sides: tuple[int, int], width: int, margin: Padding
    ) -> tuple[Table, Table]:
        """Where tiles write in a map ``width`` wide that has such a margin around these sides."""
        rows, cols = (
            _targets(count * self._shape.written, length, self._phases)
            for count, length in zip((down, across), sides, strict=True)
        )
        # Phases go row by row, the odd ones first.
        by_row, by_col = ([0], [0]) if self._phases == 1 else ([0, 0, 1, 1], [0, 1, 0, 1])
        return (
            offsets(rows[by_row], width * self.depth, margin.top),
            offsets(cols[by_col], self.depth, margin.left),
        )


class Direct(Convolution):
    """Any kernel and step, of a map that is padded already, [→ phases interleaved].

    Parameters:
        weight: (outputs, inputs, height, width).
        bias: (outputs,).
        step: rows and columns from one position to the next.
        adds: whether there is a residual.
        phases: see :class:`Winograd`; 4 where :func:`interleaves` says so, and there is no residual.
    """

    def __init__(
        self,
        weight: Map,
        bias: Map,
        step: tuple[int, int],
        *,
        relu: bool,
        adds: bool = False,
        phases: Literal[1, 4] = 1,
    ) -> None:
        outputs, inputs, height, width = _shape(weight)
        super().__init__(inputs, outputs // phases, weight, bias, relu=relu)
        found = processor()
        vectors = found.vectors(outputs)
        self._shape = direct.Shape(
            height,
            width * inputs,
            step[0],
            step[1] * inputs,
            outputs,
            adds,
            phases,
            found.lanes,
            found.sums // vectors,
            vectors,
        )
        self._weight = weight
        self._bias = np.zeros(self._shape.blocks * self._shape.block, np.float32)
        self._bias[:outputs] = bias
        self._size, self._step = (height, width), step

    @property
    def nbytes(self) -> int:
        shape = self._shape
        return 4 * shape.blocks * shape.block * shape.height * shape.stretch

    @property
    def scratch(self) -> int:
        return 0

    def _make(self) -> tuple[Program, Map]:
        program = translated(direct.program, self._shape, tuple(direct.ARGUMENTS.values()))
        weight, self._weight = self._weight, None
        if weight is None:
            raise RuntimeError("the kernels have been made already")
        return program, _in_blocks(weight, self._shape.blocks, self._shape.block)

    def _computes(self) -> object:
        return self._shape, self._size, self._step

    def _inner(self, height: int, width: int) -> tuple[int, int]:
        rows, cols = self._positions(height, width)
        return (rows, cols) if self._shape.phases == 1 else (2 * (rows - 1), 2 * (cols - 1))

    def _positions(self, height: int, width: int) -> tuple[int, int]:
        """Of the kernel on the map."""
        (high, wide), (down, along) = self._size, self._step
        return (height - high) // down + 1, (width - wide) // along + 1

    def _bound(self, image: Map, result: Map, workshop: Workshop, residual: Map | None) -> Step:
        rows, cols = self._positions(*image.shape[:2])
        begin = result[self.margin.top :, self.margin.left :]
        program, kernels = self.ready()
        given = addresses(image, kernels, self._bias, residual, begin)
        lines = image.shape[1] * self.inputs, result.shape[1] * self.depth, line_of(residual) * self.depth

        def work(first: int, last: int) -> None:
            program(*given, first, last, rows, cols, *lines, int(self._relu))

        return Step(workshop, work, rows, 1, (image, kernels, residual, result, self))


def _shape(weight: Map) -> tuple[int, int, int, int]:
    outputs, inputs, height, width = (int(length) for length in weight.shape)
    return outputs, inputs, height, width


def _in_blocks(weight: Map, blocks: int, block: int) -> Map:
    """(outputs, inputs, height, width) → (blocks, height, width * inputs, block), zeros beyond the outputs."""
    outputs, inputs, height, width = weight.shape
    whole = np.zeros((blocks * block, inputs, height, width), np.float32)
    whole[:outputs] = weight
    ordered = whole.reshape(blocks, block, inputs, height, width).transpose(0, 3, 4, 2, 1)
    return np.ascontiguousarray(ordered).reshape(blocks, height, width * inputs, block)


def _targets(count: int, length: int, phases: int) -> Table:
    """(1 or 2, count): where each of so many positions goes in a result of this length; -1: nowhere. Of two phases, the
    odd one first: it goes without the first position to the odd places, the even one without the last to the even.
    """
    index = np.arange(count)
    places = index[None] if phases == 1 else np.stack([2 * index - 1, 2 * index])
    return np.where((places >= 0) & (places < length), places, -1)
