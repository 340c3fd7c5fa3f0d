"""From levels to a map, and from a map to levels: what stands at both ends of a network.

Each level is read once and written once. Divided, rounded and put in planes by one operation after the other, a window
would go through memory nine times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from llvmlite import ir

from urst_tiles.engines.llvm.emitting import FLOAT, INT, POINTER, Emitter, function
from urst_tiles.engines.llvm.machine import Program, processor, translated
from urst_tiles.engines.llvm.maps import Map
from urst_tiles.engines.llvm.workshop import Workshop
from urst_tiles.sources.base import Pixels

__all__ = ["Levels"]

_CHANNELS = 3

_READING: dict[str, Any] = {
    "levels": POINTER,  # (rows, columns, 3)
    "image": POINTER,  # the same
    "first": INT,  # row
    "last": INT,
    "wide": INT,  # values in a row
    "line": INT,  # levels from one row to the next
    "image_line": INT,  # floats
}
_WRITING: dict[str, Any] = {
    "picture": POINTER,  # (rows, columns, 3)
    "place": POINTER,  # (3, rows, columns)
    "first": INT,  # row
    "last": INT,
    "wide": INT,  # columns
    "line": INT,  # floats from one row of the picture to the next
    "place_line": INT,  # levels from one row of the place to the next
    "plane": INT,  # levels from one plane to the next
}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a program is made for.

    Attributes:
        bits: of a level.
        lanes: floats in a vector.
    """

    bits: int
    lanes: int

    @property
    def top(self) -> float:
        """The highest level."""
        return float(2**self.bits - 1)


class Levels:
    """Both ends, on the threads of a workshop."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def prepare(self) -> None:
        """Make the programs for levels of 8 bits.

        Raises:
            UntranslatedError: see :func:`~urst_tiles.engines.llvm.machine.translated`.
        """
        _translated(_reading, _READING, 1)
        _translated(_writing, _WRITING, 1)

    def read(self, window: Pixels, image: Map) -> None:
        """(H, W, 3) levels of 8 or 16 bits, of whatever layout → 0 … 1, in an (H, W, 3) view of a map."""
        item = window.dtype.itemsize
        if window.strides[1:] != (_CHANNELS * item, item):
            # Grey that is repeated, or alpha beside the colours.
            window = cast("Pixels", np.ascontiguousarray(window))
        height, width = window.shape[:2]
        program = _translated(_reading, _READING, item)
        places = window.ctypes.data, image.ctypes.data
        numbers = _CHANNELS * width, window.strides[0] // item, image.strides[0] // image.itemsize
        self._workshop.share(lambda first, last: program(*places, first, last, *numbers), height)

    def write(self, picture: Map, place: Pixels) -> None:
        """An (H, W, 3) view of a map → (3, H, W) levels of 8 or 16 bits: 0 … 1 to the nearest, what is no number to
        grey, as :class:`~urst_tiles.networks.base.FrozenNetwork` has it.

        Raises:
            ValueError: the place is of another size, or its rows are not in one piece.
        """
        item = place.dtype.itemsize
        height, width = picture.shape[:2]
        if place.shape != (_CHANNELS, height, width) or (width > 1 and place.strides[2] != item):
            raise ValueError(f"a place of 3 x {height} x {width}, in rows, was expected; this one is {place.shape}")
        program = _translated(_writing, _WRITING, item)
        places = picture.ctypes.data, place.ctypes.data
        numbers = width, picture.strides[0] // picture.itemsize, place.strides[1] // item, place.strides[0] // item
        self._workshop.share(lambda first, last: program(*places, first, last, *numbers), height)


def _translated(program: Callable[[_Shape], str], arguments: dict[str, Any], item: int) -> Program:
    return translated(program, _Shape(8 * item, processor().lanes), tuple(arguments.values()))


def _reading(shape: _Shape) -> str:
    return function(_READING, shape.lanes, lambda emitter, given: _Reading(emitter, shape, given).write())


def _writing(shape: _Shape) -> str:
    return function(_WRITING, shape.lanes, lambda emitter, given: _Writing(emitter, shape, given).write())


class _Program:
    def __init__(self, emitter: Emitter, shape: _Shape, arguments: dict[str, Any]) -> None:
        self.e, self.b, self.shape, self.a = emitter, emitter.builder, shape, arguments
        self.level = ir.IntType(shape.bits)
        self.align = shape.bits // 8
        self.whole = ir.VectorType(ir.IntType(32), shape.lanes)
        self.one, self.zero = emitter.number(1), emitter.number(0)

    def levels_at(self, base: Any, offset: Any) -> Any:
        """The address so many levels further."""
        return self.b.gep(base, [offset], source_etype=self.level)

    def along(self, wide: Any, many: Any, one: Any) -> None:
        """``many(place)`` for as many places as there are lanes at a time, the last ones with those before them a
        second time; ``one(place)`` where there are fewer."""
        e, b = self.e, self.b
        end = b.sub(wide, e.number(e.lanes))
        enough = b.icmp_signed(">=", end, self.zero)
        together, alone = b.select(enough, wide, self.zero), b.select(enough, self.zero, wide)
        with e.loop(self.zero, together, e.number(e.lanes)) as place:
            many(b.select(b.icmp_signed("<", place.index, end), place.index, end))
        with e.loop(self.zero, alone, self.one) as place:
            one(place.index)


class _Reading(_Program):
    def write(self) -> None:
        e, a, b, top = self.e, self.a, self.b, self.shape.top
        levels = ir.VectorType(self.level, e.lanes)
        with e.loop(a["first"], a["last"], self.one) as row:
            given = self.levels_at(a["levels"], b.mul(row.index, a["line"]))
            image = e.at(a["image"], b.mul(row.index, a["image_line"]))

            def many(place: Any) -> None:
                found = b.load(self.levels_at(given, place), typ=levels, align=self.align)
                value = b.sitofp(b.zext(found, self.whole), e.vector)
                e.store(b.fdiv(value, e.everywhere(top)), e.at(image, place))

            def one(place: Any) -> None:
                found = b.load(self.levels_at(given, place), typ=self.level, align=self.align)
                value = b.sitofp(b.zext(found, ir.IntType(32)), FLOAT)
                b.store(b.fdiv(value, ir.Constant(FLOAT, top)), e.at(image, place), align=4)

            self.along(a["wide"], many, one)


class _Writing(_Program):
    def write(self) -> None:
        e, a, b = self.e, self.a, self.b
        with e.loop(a["first"], a["last"], self.one) as row:
            picture = e.at(a["picture"], b.mul(row.index, a["line"]))
            place = self.levels_at(a["place"], b.mul(row.index, a["place_line"]))

            def many(col: Any) -> None:
                values = e.at(picture, b.mul(col, e.number(_CHANNELS)))
                parts = [self._levels(e.load(e.at(values, e.number(k * e.lanes)))) for k in range(_CHANNELS)]
                for channel, plane in enumerate(self._apart(parts)):
                    b.store(plane, self._in_plane(place, channel, col), align=self.align)

            def one(col: Any) -> None:
                values = e.load_some(e.at(picture, b.mul(col, e.number(_CHANNELS))), _CHANNELS)
                levels = self._levels(values)
                for channel in range(_CHANNELS):
                    level = b.extract_element(levels, ir.Constant(ir.IntType(32), channel))
                    b.store(level, self._in_plane(place, channel, col), align=self.align)

            self.along(a["wide"], many, one)

    def _in_plane(self, place: Any, channel: int, col: Any) -> Any:
        begin = self.b.mul(self.a["plane"], self.e.number(channel))
        return self.levels_at(place, self.b.add(begin, col))

    def _levels(self, values: Any) -> Any:
        """A vector's, to the nearest, halves to the even one, as PyTorch rounds."""
        e, b = self.e, self.b
        known = b.select(b.fcmp_unordered("uno", values, values), e.everywhere(0.5), values)
        kept = e.at_least(known, e.everywhere(0.0))
        kept = b.select(b.fcmp_ordered(">", kept, e.everywhere(1.0)), e.everywhere(1.0), kept)
        rounded = e.rounded(b.fmul(kept, e.everywhere(self.shape.top)))
        return b.trunc(b.fptosi(rounded, self.whole), ir.VectorType(self.level, e.lanes))

    def _apart(self, parts: list[Any]) -> list[Any]:
        """Channels that stand beside each other in three vectors, a vector each."""
        lanes, b = self.e.lanes, self.b
        kind = ir.VectorType(ir.IntType(32), lanes)
        planes = []
        for channel in range(_CHANNELS):
            places = [_CHANNELS * lane + channel for lane in range(lanes)]
            first = [place if place < 2 * lanes else 0 for place in places]
            rest = [lane if place < 2 * lanes else place - lanes for lane, place in enumerate(places)]
            begun = b.shuffle_vector(parts[0], parts[1], ir.Constant(kind, first))
            planes.append(b.shuffle_vector(begun, parts[2], ir.Constant(kind, rest)))
        return planes
