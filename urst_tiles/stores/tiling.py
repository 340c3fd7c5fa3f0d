"""Reading a pyramid block by block, tile by tile, in bounded memory; and levels smaller than the store's own."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.exporter import Progress
from urst_tiles.stores.pyramid import halve

__all__ = [
    "Count",
    "DeepPyramid",
    "Pyramid",
    "blocks",
    "count_tiles",
    "cut_tile",
    "digest_of",
    "in_order",
    "pixel_bytes",
    "sizes_down_to",
    "tiles",
]

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Pyramid(Protocol):
    """What is read of a store."""

    @property
    def layout(self) -> StoreLayout: ...

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every level, full size first."""
        ...

    def read(self, level: int, window: Window) -> Pixels:
        """(bands, height, width)."""
        ...


class DeepPyramid:
    """A store's levels and, made from its smallest, further ones until the larger side is at most ``least`` pixels.

    The further ones are kept in memory: together they are no larger than a third of a chunk.
    """

    def __init__(self, store: Store, least: int) -> None:
        self.layout = store.layout
        self.levels = sizes_down_to(store.levels, least)
        self._store = store
        self._further: list[Pixels] = []
        if len(self.levels) > len(store.levels):
            pixels = _smallest(store)
            for _ in self.levels[len(store.levels) :]:
                pixels = halve(pixels)
                self._further.append(pixels)

    def read(self, level: int, window: Window) -> Pixels:
        """(bands, height, width)."""
        own = len(self._store.levels)
        if level < own:
            return self._store.read(level, window)
        rows, cols = window.slices
        return self._further[level - own][:, rows, cols]


class Count:
    """Counts what is done and passes the count on."""

    def __init__(self, total: int, progress: Progress | None, done: int = 0) -> None:
        self._done, self._total, self._progress = done, total, progress

    def __call__(self, more: int = 1) -> None:
        self._done += more
        if self._progress is not None:
            self._progress(self._done, self._total)


def sizes_down_to(levels: tuple[tuple[int, int], ...], least: int) -> tuple[tuple[int, int], ...]:
    """(width, height) of these levels and of what follows, halved, rounded up, until the larger side is ``least``."""
    sizes = list(levels)
    while max(sizes[-1]) > max(least, 1):
        width, height = sizes[-1]
        sizes.append((-(-width // 2), -(-height // 2)))
    return tuple(sizes)


def pixel_bytes(layout: StoreLayout) -> int:
    return layout.bands * np.dtype(layout.dtype).itemsize


def count_tiles(levels: Iterable[tuple[int, int]], side: int) -> int:
    return sum(-(-width // side) * -(-height // side) for width, height in levels)


def blocks(pyramid: Pyramid, level: int, side: int, memory: int) -> Iterator[Window]:
    """What to read at once: as many whole rows of tiles as fit the memory, else parts of one row of tiles."""
    width, height = pyramid.levels[level]
    across, fitting = -(-width // side), max(memory // (side * side * pixel_bytes(pyramid.layout)), 1)
    columns = min(across, fitting) * side
    rows = max(fitting // across, 1) * side
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield Window(left, top, min(columns, width - left), min(rows, height - top))


def tiles(pyramid: Pyramid, level: int, side: int, memory: int, count: Callable[[], None]) -> Iterator[NDArray[Any]]:
    """The tiles of a level, row-major, (height, width, bands), whole: the far edges are filled with 0."""
    for window in blocks(pyramid, level, side, memory):
        block = pyramid.read(level, window)
        for top in range(0, window.height, side):
            for left in range(0, window.width, side):
                count()
                yield cut_tile(block, top, left, side)
        del block  # before the next one is read: two would be twice the memory


def cut_tile(block: Pixels, top: int, left: int, side: int) -> NDArray[Any]:
    """One tile of a block: (side, side, bands), filled up with 0."""
    part = block[:, top : top + side, left : left + side]
    tile = np.zeros((side, side, len(part)), part.dtype)
    tile[: part.shape[1], : part.shape[2]] = part.transpose(1, 2, 0)
    return tile


def in_order(work: Callable[[_Given], _Made], items: Iterable[_Given], workers: int) -> Iterator[_Made]:
    """Like map, by some threads; twice as many items as threads are taken ahead."""
    waiting: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def digest_of(store: Store) -> str:
    """SHA-256, in hexadecimal, of what a store says of itself and of its smallest level: tells pictures apart."""
    stated = json.dumps(store.attributes, sort_keys=True).encode()
    return hashlib.sha256(stated + np.ascontiguousarray(_smallest(store)).tobytes()).hexdigest()


def _smallest(store: Store) -> Pixels:
    level = len(store.levels) - 1
    return store.read(level, Window(0, 0, *store.levels[level]))
