"""Maps in memory, (H, W, channels), float32, in one piece; and what is added around them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NO_PADDING",
    "SIZES",
    "Map",
    "Padding",
    "Table",
    "addresses",
    "check_map",
    "check_middle",
    "fill_margin",
    "line_of",
    "offsets",
    "sources",
]

Map = NDArray[np.float32]
Table = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Padding:
    """Positions added on each side, and what they hold."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    mode: Literal["zeros", "reflect", "replicate"] = "zeros"

    def around(self, height: int, width: int) -> tuple[int, int]:
        """The sides of a map with it."""
        return height + self.top + self.bottom, width + self.left + self.right


NO_PADDING = Padding()

SIZES = 64
"""Of maps that something is remembered for: windows come in up to nine sizes, and batches in some."""


def sources(count: int, before: int, length: int, mode: str) -> Table:
    """Which position of a map of this length each of so many padded ones holds; -1: none."""
    index = np.arange(count) - before
    if mode == "zeros":
        return np.where((index < 0) | (index >= length), -1, index)
    if mode == "reflect":
        index = np.abs(index)
        index = np.where(index >= length, 2 * (length - 1) - index, index)
    # Beyond what is padded there are tiles' ends, whose results go nowhere.
    return cast("Table", np.clip(index, 0, length - 1))


def offsets(positions: Table, step: int, begin: int = 0) -> Table:
    """In floats, of positions counted from ``begin``; none stays none."""
    return np.ascontiguousarray(np.where(positions < 0, -1, (positions + begin) * step), np.int64)


def fill_margin(padded: Map, margin: Padding) -> None:
    """Write the margin of a map whose inner positions are written: the columns, then rows with their corners."""
    for axis, before, after in ((1, margin.left, margin.right), (0, margin.top, margin.bottom)):
        if before or after:
            along = padded.swapaxes(0, axis)
            outer, inner = _margin(len(along), before, after, margin.mode)
            along[outer] = 0.0 if margin.mode == "zeros" else along[inner]


@lru_cache(4 * SIZES)
def _margin(length: int, before: int, after: int, mode: str) -> tuple[Table, Table]:
    """Positions of a margin, and those that they repeat."""
    outer = np.r_[:before, length - after : length]
    return outer, before + sources(length, before, length - before - after, mode)[outer]


def check_map(found: Map, shape: tuple[int, ...]) -> None:
    """Raises ValueError where a map is of another shape, type or layout."""
    if found.shape != shape or found.dtype != np.float32 or not found.flags.c_contiguous:
        raise ValueError(
            f"a map of {shape} in one piece was expected, float32; this one is {found.shape}, {found.dtype}"
        )


def check_middle(found: Map, shape: tuple[int, ...]) -> None:
    """Raises ValueError where what is in the middle of a map is of another shape, type or layout."""
    if found.shape != shape or found.dtype != np.float32 or found.strides[1:] != (4 * shape[2], 4):
        raise ValueError(f"{shape} of a map was expected, float32; this is {found.shape}, {found.dtype}")


def line_of(middle: Map | None) -> int:
    """Positions in a line of the map that it is of; 0: there is none."""
    return 0 if middle is None else middle.strides[0] // middle.strides[1]


def addresses(*arrays: NDArray[Any] | None) -> tuple[int, ...]:
    """Where arrays begin; 0 for none."""
    return tuple(0 if each is None else each.ctypes.data for each in arrays)
