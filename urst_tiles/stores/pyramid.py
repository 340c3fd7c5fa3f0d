"""The smaller levels of a store, each averaged from the one before, shard by shard.

A chunk of a level is made from 2 x 2 chunks of the level before, so every chunk is decoded exactly once and a shard
takes no more than itself and one such block::

    level k    [c][c]          level k+1
               [c][c]   --->             [c]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from operator import itemgetter
from typing import cast

import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import InputError, StoreError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.encoding import write_bytes
from urst_tiles.stores.metadata import level_sizes, shard_grid
from urst_tiles.stores.reading import read_bytes

__all__ = ["build_pyramid", "halve", "pyramid_bytes", "pyramid_shards", "write_pyramid_shard"]


_ROWS = 32
"""Rows of a smaller level that are made at a time."""
_RGBA = 4
_WEIGHTS = 160
"""Bytes a pixel of a smaller level, at most, while its colours are weighted by alpha: sums, weights, places."""


def pyramid_shards(layout: StoreLayout) -> Iterator[tuple[int, int, int]]:
    """(level, row, col) of every shard of the smaller levels, in the order in which they can be built."""
    for level in range(1, len(level_sizes(layout))):
        rows, cols = shard_grid(layout, level)
        for row in range(rows):
            for col in range(cols):
                yield level, row, col


def build_pyramid(
    store: Store,
    *,
    done: Callable[[int, int, int], bool] | None = None,
    mark: Callable[[int, int, int, bool], None] | None = None,
    empty: Callable[[int, int, int], bool] | None = None,
    at_once: int = 1,
) -> None:
    """Fill levels 1, 2, … of a store whose full size is complete. A shard all of whose parents are empty is empty too.

    Args:
        store: its level 0 is whole.
        done: told (level, row, col), whether that shard was built by an earlier run; without it all are built.
        mark: called with (level, row, col, whether it is empty) once that shard is on the disk, or is found empty:
            then nothing of it is. One after the other, in the order of :func:`pyramid_shards`.
        empty: told (level, row, col) of any level, whether that shard was left out by this or an earlier run because
            it is 0 everywhere; without it none was. Threads may ask at the same time.
        at_once: shards of a level that are built at the same time, each in the memory that one takes.

    Raises:
        StoreError: a shard that is needed is missing, cannot be read or cannot be written.
    """
    found: set[tuple[int, int, int]] = set()

    def is_empty(level: int, row: int, col: int) -> bool:
        return (level, row, col) in found or (empty is not None and empty(level, row, col))

    def build(place: tuple[int, int, int]) -> bool:
        return write_pyramid_shard(store, *place, empty=is_empty)

    todo = (place for place in pyramid_shards(store.layout) if done is None or not done(*place))
    for _, level in groupby(todo, itemgetter(0)):
        for place, written in _in_order(build, level, at_once):
            if not written:
                found.add(place)
            if mark is not None:
                mark(*place, not written)


def _in_order(
    build: Callable[[tuple[int, int, int]], bool], places: Iterable[tuple[int, int, int]], at_once: int
) -> Iterator[tuple[tuple[int, int, int], bool]]:
    """Each with what it gave, in order, so many at the same time."""
    if at_once == 1:
        yield from ((place, build(place)) for place in places)
        return
    waiting = iter(places)
    with ThreadPoolExecutor(at_once) as pool:
        flying = deque((place, pool.submit(build, place)) for place in islice(waiting, at_once))
        while flying:
            place, future = flying.popleft()
            written = future.result()
            flying.extend((each, pool.submit(build, each)) for each in islice(waiting, 1))
            yield place, written


def write_pyramid_shard(
    store: Store, level: int, row: int, col: int, *, empty: Callable[[int, int, int], bool] | None = None
) -> bool:
    """Build one shard of level ``level`` ≥ 1 from the level before. Shards of one level may be built at once.

    ``empty`` says of shards of the level before whether they were left out as empty: they are 0. Returns whether the
    shard was written: it is not where all it would be made from is empty.

    Raises:
        InputError: there is no such shard to build.
        StoreError: one of the four shards it is made from is missing, or reading or writing fails.
    """
    _require_place(store, level, row, col)
    if not _has_pixels(store, level, row, col, empty):
        return False
    layout, (width, height) = store.layout, store.levels[level]
    left, top = col * layout.shard[0], row * layout.shard[1]
    clipped = min(layout.shard[1], height - top), min(layout.shard[0], width - left)
    shard = np.empty((layout.bands, *clipped), layout.dtype)
    for window in _blocks(store, level, row, col):
        half = halve(store.read(level - 1, window))
        y, x = window.row_off // 2 - top, window.col_off // 2 - left
        shard[:, y : y + half.shape[1], x : x + half.shape[2]] = half
    store.write_shard(level, row, col, shard)
    return True


def halve(pixels: Pixels) -> Pixels:
    """2 x 2 area average of (bands, height, width), rounded half up.

    The far edge of an odd side averages what is there. Of four bands the fourth is alpha, and the colours are weighted
    by it: those of transparent pixels do not bleed into visible ones. Where alpha is the same, 0 too, it has no say.
    """
    bands, height, width = pixels.shape
    if height % 2 or width % 2:
        # Repeating the edge is exact: (2a + 2b + 2) // 4 == (a + b + 1) // 2.
        pixels = cast("Pixels", np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge"))
    wide = np.uint16 if pixels.dtype == np.uint8 else np.uint32
    out = np.empty((bands, pixels.shape[1] // 2, pixels.shape[2] // 2), pixels.dtype)
    # A few rows at a time stay in the processor's cache.
    for y in range(0, out.shape[1], _ROWS):
        rows, target = pixels[:, 2 * y : 2 * (y + _ROWS)], out[:, y : y + _ROWS]
        for band, half in zip(rows, target, strict=True):
            _average(band, half, wide)
        if bands == _RGBA:
            _weigh(rows, target)
    return out


def pyramid_bytes(layout: StoreLayout) -> int:
    """Upper bound of the memory, in bytes, that building one shard takes.

    The shard, what reading and writing take, and a block of the level before: read, halved, and as much kept by the
    threads. Weights of alpha are taken for a few rows at a time.
    """
    itemsize = np.dtype(layout.dtype).itemsize
    sizes = level_sizes(layout)
    if len(sizes) == 1:
        return 0
    width, height = sizes[1]
    shard = layout.bands * min(layout.shard[0], width) * min(layout.shard[1], height) * itemsize
    block = layout.bands * (2 * layout.chunk) ** 2 * itemsize
    weights = _WEIGHTS * _ROWS * layout.chunk if layout.bands == _RGBA else 0
    return shard + 3 * block + weights + read_bytes(layout) + write_bytes(layout)


def _average(rows: NDArray[np.generic], out: NDArray[np.generic], wide: type[np.unsignedinteger]) -> None:
    total = np.add(rows[0::2], rows[1::2], dtype=wide)
    pair = total[:, 0::2] + total[:, 1::2]
    pair += wide(2)
    pair >>= wide(2)
    out[...] = pair


def _weigh(rows: Pixels, out: Pixels) -> None:
    """Put the means weighted by alpha where alphas differ: elsewhere they are the plain ones that stand there."""
    alpha = rows[3]
    if alpha.min() == alpha.max():
        return
    corners = [(slice(y, None, 2), slice(x, None, 2)) for y in (0, 1) for x in (0, 1)]
    alphas = [alpha[corner] for corner in corners]
    mixed = np.nonzero(np.minimum.reduce(alphas) != np.maximum.reduce(alphas))
    if not len(mixed[0]):
        return
    # Exact in floating point, which divides faster: the sums have 20 and 36 bits, and a quotient that is no whole
    # number lies at least 2^-19 and 2^-35 of itself below the next one.
    wide = np.float32 if rows.dtype == np.uint8 else np.float64
    weights = [part[mixed].astype(wide) for part in alphas]
    total = weights[0] + weights[1] + weights[2] + weights[3]
    for band, half in zip(rows[:3], out[:3], strict=True):
        summed = np.zeros_like(total)
        for corner, weight in zip(corners, weights, strict=True):
            summed += weight * band[corner][mixed]
        # Rounded half up, the rest cut off by the conversion.
        half[mixed] = (2 * summed + total) / (2 * total)


def _blocks(store: Store, level: int, row: int, col: int) -> Iterator[Window]:
    """The windows of level ``level - 1`` that become the chunks of a shard: 2 x 2 chunks each, clipped."""
    layout, (width, height) = store.layout, store.levels[level - 1]
    across, down, step = 2 * layout.shard[0], 2 * layout.shard[1], 2 * layout.chunk
    for top in range(row * down, min((row + 1) * down, height), step):
        for left in range(col * across, min((col + 1) * across, width), step):
            yield Window(left, top, min(step, width - left), min(step, height - top))


def _require_place(store: Store, level: int, row: int, col: int) -> None:
    if not 1 <= level < len(store.levels):
        raise InputError(f"there are levels 1 to {len(store.levels) - 1} to build, not {level}")
    rows, cols = shard_grid(store.layout, level)
    if not (0 <= row < rows and 0 <= col < cols):
        raise InputError(f"level {level} has {rows} x {cols} shards and no shard {row},{col}")


def _has_pixels(store: Store, level: int, row: int, col: int, empty: Callable[[int, int, int], bool] | None) -> bool:
    """Whether any of the shards that this one is made from is more than empty.

    Raises:
        StoreError: one that is not empty is missing.
    """
    rows, cols = shard_grid(store.layout, level - 1)
    pixels = False
    for y in range(2 * row, min(2 * row + 2, rows)):
        for x in range(2 * col, min(2 * col + 2, cols)):
            if empty is not None and empty(level - 1, y, x):
                continue
            if not store.has_shard(level - 1, y, x):
                raise StoreError(
                    f"level {level} cannot be built: shard {y},{x} of level {level - 1} is missing. "
                    "Run the same command again: it goes on where it stopped"
                )
            pixels = True
    return pixels
