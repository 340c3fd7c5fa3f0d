"""The smaller levels of a store, each averaged from the one before, shard by shard.

A chunk of a level is made from 2 x 2 chunks of the level before, so every chunk is decoded exactly once and a shard
takes no more than itself and one such block::

    level k    [c][c]          level k+1
               [c][c]   --->             [c]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    mark: Callable[[int, int, int], None] | None = None,
) -> None:
    """Fill levels 1, 2, … of a store whose full size is complete.

    Args:
        store: its level 0 is whole.
        done: told (level, row, col), whether that shard was built by an earlier run; without it all are built.
        mark: called with (level, row, col) once that shard is on the disk.

    Raises:
        StoreError: a shard that is needed is missing, cannot be read or cannot be written.
    """
    for level, row, col in pyramid_shards(store.layout):
        if done is not None and done(level, row, col):
            continue
        write_pyramid_shard(store, level, row, col)
        if mark is not None:
            mark(level, row, col)


def write_pyramid_shard(store: Store, level: int, row: int, col: int) -> None:
    """Build one shard of level ``level`` ≥ 1 from the level before. Shards of one level may be built at once.

    Raises:
        InputError: there is no such shard to build.
        StoreError: one of the four shards it is made from is missing, or reading or writing fails.
    """
    _require_place(store, level, row, col)
    _require_parents(store, level, row, col)
    layout, (width, height) = store.layout, store.levels[level]
    side = layout.shard
    top, left = row * side, col * side
    shard = np.empty((layout.bands, min(side, height - top), min(side, width - left)), layout.dtype)
    for window in _blocks(store, level, row, col):
        half = halve(store.read(level - 1, window))
        y, x = window.row_off // 2 - top, window.col_off // 2 - left
        shard[:, y : y + half.shape[1], x : x + half.shape[2]] = half
    store.write_shard(level, row, col, shard)


def halve(pixels: Pixels) -> Pixels:
    """2 x 2 area average of (bands, height, width), rounded half up.

    The far edge of an odd side averages what is there.
    """
    bands, height, width = pixels.shape
    if height % 2 or width % 2:
        # Repeating the edge is exact: (2a + 2b + 2) // 4 == (a + b + 1) // 2.
        pixels = cast("Pixels", np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge"))
    wide = np.uint16 if pixels.dtype == np.uint8 else np.uint32
    out = np.empty((bands, pixels.shape[1] // 2, pixels.shape[2] // 2), pixels.dtype)
    # A few rows at a time stay in the processor's cache.
    step = 32
    for band, target in zip(pixels, out, strict=True):
        for y in range(0, len(target), step):
            rows = band[2 * y : 2 * (y + step)]
            _average(rows, target[y : y + step], wide)
    return out


def pyramid_bytes(layout: StoreLayout) -> int:
    """Upper bound of the memory, in bytes, that building one shard takes.

    The shard, what reading and writing take, and a block of the level before: read, halved, and as much kept by the
    threads.
    """
    itemsize = np.dtype(layout.dtype).itemsize
    sizes = level_sizes(layout)
    if len(sizes) == 1:
        return 0
    width, height = sizes[1]
    shard = layout.bands * min(layout.shard, width) * min(layout.shard, height) * itemsize
    block = layout.bands * (2 * layout.chunk) ** 2 * itemsize
    return shard + 3 * block + read_bytes(layout) + write_bytes(layout)


def _average(rows: NDArray[np.generic], out: NDArray[np.generic], wide: type[np.unsignedinteger]) -> None:
    total = np.add(rows[0::2], rows[1::2], dtype=wide)
    pair = total[:, 0::2] + total[:, 1::2]
    pair += wide(2)
    pair >>= wide(2)
    out[...] = pair


def _blocks(store: Store, level: int, row: int, col: int) -> Iterator[Window]:
    """The windows of level ``level - 1`` that become the chunks of a shard: 2 x 2 chunks each, clipped."""
    layout, (width, height) = store.layout, store.levels[level - 1]
    side, step = 2 * layout.shard, 2 * layout.chunk
    for top in range(row * side, min((row + 1) * side, height), step):
        for left in range(col * side, min((col + 1) * side, width), step):
            yield Window(left, top, min(step, width - left), min(step, height - top))


def _require_place(store: Store, level: int, row: int, col: int) -> None:
    if not 1 <= level < len(store.levels):
        raise InputError(f"there are levels 1 to {len(store.levels) - 1} to build, not {level}")
    rows, cols = shard_grid(store.layout, level)
    if not (0 <= row < rows and 0 <= col < cols):
        raise InputError(f"level {level} has {rows} x {cols} shards and no shard {row},{col}")


def _require_parents(store: Store, level: int, row: int, col: int) -> None:
    rows, cols = shard_grid(store.layout, level - 1)
    for y in range(2 * row, min(2 * row + 2, rows)):
        for x in range(2 * col, min(2 * col + 2, cols)):
            if not store.has_shard(level - 1, y, x):
                raise StoreError(
                    f"level {level} cannot be built: shard {y},{x} of level {level - 1} is missing. "
                    "Run the same command again: it goes on where it stopped"
                )
