"""Area averaging of a raster that streams by: every output pixel is the exact mean of the rectangle it covers.

One rule for every source, so that a raster gives the same thumbnail whether it comes as a TIFF, a Zarr array or NumPy::

    input rows   |----|----|----|----|----|----|----|
    output rows  |  row 0     |  row 1     |  row 2  …       a row on a border counts to both sides by its share

Everything is summed in whole numbers: shares are numerators over the output's sides, and nothing is rounded before the
last step. Kept are one row of sums and the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import InputError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels, RasterInfo, Source

__all__ = ["UNTILED", "Shrink", "area_mean", "shrink_by_strips", "shrinking_bytes", "thumbnail_bytes", "thumbnail_size"]

UNTILED = (256, 256)
"""(width, height) taken for the blocks of a raster that names none."""

_STRIP_BYTES = 16 << 20
"""A strip is made so narrow that a block of its rows is no larger than this."""
_READERS = 4
"""Strips shrunk at the same time, at most."""


def thumbnail_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) of a raster shrunk, never enlarged, so that its shorter side is ``short_side`` pixels.

    Raises:
        InputError: ``short_side`` is below 1.
    """
    if short_side < 1:
        raise InputError(f"a thumbnail needs a short side of at least 1 pixel, not {short_side}")
    short, long = min(width, height), max(width, height)
    if short <= short_side:
        return width, height
    scaled = max(short_side, round(long * short_side / short))
    return (short_side, scaled) if width <= height else (scaled, short_side)


def area_mean(
    blocks: Iterable[Pixels],
    size: tuple[int, int],
    out_size: tuple[int, int],
    *,
    bands: int,
    dtype: Literal["uint8", "uint16"],
    columns: range | None = None,
) -> Pixels:
    """Shrink a raster given as blocks of whole rows, top to bottom, each (rows, width, bands).

    ``size`` and ``out_size`` are (width, height); the result is (height, width, bands), rounded to the nearest level.
    With ``columns`` only these output columns are made, and the blocks hold the columns of :func:`input_columns` alone.

    Raises:
        InputError: the blocks do not add up to ``size``, or ``out_size`` is larger than it.
    """
    if not (1 <= out_size[0] <= size[0] and 1 <= out_size[1] <= size[1]):
        raise InputError(f"{size[0]} x {size[1]} pixels cannot be shrunk to {out_size[0]} x {out_size[1]}")
    shrink = Shrink(size, out_size, bands, dtype, columns or range(out_size[0]))
    for block in blocks:
        shrink.add(block)
    return shrink.result()


def shrink_by_strips(
    read: Callable[[Window], Pixels],
    size: tuple[int, int],
    out_size: tuple[int, int],
    *,
    bands: int,
    dtype: Literal["uint8", "uint16"],
    tile: tuple[int, int],
) -> Pixels:
    """Shrink a raster of which any window can be read, from several threads: strip by strip, each from top to bottom.

    Strips bound the memory however wide the raster is: one block of ``tile[1]`` rows of a strip is held per reader.
    """
    (width, _), (out_width, out_height) = size, out_size
    rows = max(1, min(tile[1], size[1]))
    strips, readers = _strips(width, rows, out_width, bands * np.dtype(dtype).itemsize, tile[0])
    out: Pixels = np.empty((out_height, out_width, bands), dtype)

    def shrink(strip: int) -> None:
        columns = range(strip * out_width // strips, (strip + 1) * out_width // strips)
        blocks = _blocks(read, size, input_columns(columns, width, out_width), rows)
        part = area_mean(blocks, size, out_size, bands=bands, dtype=dtype, columns=columns)
        out[:, columns.start : columns.stop] = part

    if readers == 1:
        for strip in range(strips):
            shrink(strip)
        return out
    with ThreadPoolExecutor(readers, "thumbnail") as pool:
        futures = [pool.submit(shrink, strip) for strip in range(strips)]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return out


def thumbnail_bytes(source: Source, short_side: int) -> int:
    """Upper bound, in bytes, of what ``source.thumbnail(short_side)`` takes beyond its result."""
    info = source.info
    tile_width, tile_height = info.tile or UNTILED
    rows = min(tile_height, info.height)
    out_width, _ = thumbnail_size(info.width, info.height, short_side)
    strips, readers = _strips(info.width, rows, out_width, info.bytes_per_pixel, tile_width)
    width = -(-info.width // strips) + 2
    # A block of rows, its copy while it is read, and six rows of 64-bit sums and their steps.
    return readers * (source.cache_bytes(width) + width * (2 * rows * info.bytes_per_pixel + 6 * 8 * info.bands))


def shrinking_bytes(info: RasterInfo) -> int:
    """Upper bound, in bytes, of what shrinking a raster's whole rows takes beyond them and the result."""
    return max(info.width, info.height) * 6 * 8 * info.bands


def _strips(width: int, rows: int, out_width: int, pixel_bytes: int, tile_width: int) -> tuple[int, int]:
    """(strips, readers): how many strips a raster is shrunk in, and how many at the same time."""
    readers = min(_READERS, os.cpu_count() or 1)
    strips = -(-width * rows * pixel_bytes // _STRIP_BYTES)
    if (
        width >= 4 * readers * tile_width
    ):  # tiles on the border of two strips are decoded twice: too dear with few tiles
        strips = max(strips, readers)
    strips = min(strips, out_width)
    return strips, min(readers, strips)


def input_columns(columns: range, width: int, out_width: int) -> range:
    """The columns of the raster that these output columns cover, in part or whole."""
    return range(columns.start * width // out_width, -(-columns.stop * width // out_width))


def _blocks(read: Callable[[Window], Pixels], size: tuple[int, int], columns: range, rows: int) -> Iterator[Pixels]:
    for row in range(0, size[1], rows):
        yield read(Window(columns.start, row, len(columns), min(rows, size[1] - row)))


class Shrink:
    """The state of one pass: the output row that is being summed, and the finished ones."""

    def __init__(
        self,
        size: tuple[int, int],
        out_size: tuple[int, int],
        bands: int,
        dtype: Literal["uint8", "uint16"],
        columns: range,
    ) -> None:
        self.width, self.height = size
        self.out_width, self.out_height = out_size
        self.out: Pixels = np.empty((self.out_height, len(columns), bands), dtype)
        self.row = 0  # input rows seen
        self._done = 0  # output rows finished
        inputs = input_columns(columns, self.width, self.out_width)
        self._sums = np.zeros((len(inputs), bands), np.uint64)  # of the output row under way, times out_height
        # Where output columns begin and end, as a whole column and a numerator over out_width.
        edges = np.arange(columns.start, columns.stop + 1, dtype=np.uint64) * np.uint64(self.width)
        column, self._share = np.divmod(edges, np.uint64(self.out_width))
        self._column = column - np.uint64(inputs.start)

    def add(self, block: Pixels) -> None:
        if block.ndim != 3 or block.shape[1:] != self._sums.shape or self.row + len(block) > self.height:
            raise InputError(
                f"a block of shape {block.shape} does not belong to {self.height} rows of {self._sums.shape}"
            )
        at = 0  # rows of the block that are summed
        while self._done < self.out_height:
            # The output row ends `share` / out_height into input row `end`.
            end, share = divmod((self._done + 1) * self.height, self.out_height)
            take = min(end - self.row, len(block) - at)
            if take > 0:
                self._sums += _sum_of_rows(block[at : at + take]) * np.uint64(self.out_height)
                at, self.row = at + take, self.row + take
            if self.row < end or (share and at == len(block)):
                return
            rest = np.zeros_like(self._sums)
            if share:
                border = block[at].astype(np.uint64)
                self._sums += border * np.uint64(share)
                rest = border * np.uint64(self.out_height - share)
                at, self.row = at + 1, self.row + 1
            self.out[self._done] = self._mean_of_columns()
            self._done += 1
            self._sums = rest

    def result(self) -> Pixels:
        """(height, width, bands), when all rows were added.

        Raises:
            InputError: they were not.
        """
        if self.row != self.height:
            raise InputError(f"{self.row} of {self.height} rows arrived")
        return self.out

    def _mean_of_columns(self) -> NDArray[np.uint64]:
        """The output row under way, (out_width, bands), rounded."""
        running = np.zeros((len(self._sums) + 1, self._sums.shape[1]), np.uint64)
        np.cumsum(self._sums, axis=0, out=running[1:])
        padded = np.vstack([self._sums, np.zeros_like(self._sums[:1])])
        # Past 2^64 the products wrap; the difference of two neighbours is far below and comes out right.
        upto = running[self._column] * np.uint64(self.out_width) + padded[self._column] * self._share[:, None]
        area = np.uint64(self.width * self.height)
        half_up: NDArray[np.uint64] = (np.diff(upto, axis=0) * np.uint64(2) + area) // (area * np.uint64(2))
        return half_up


def _sum_of_rows(rows: Pixels) -> NDArray[np.uint64]:
    # 32-bit sums are twice as fast, and 65536 rows of 16 bits fit into them.
    width = np.uint32 if len(rows) <= 65536 else np.uint64
    total: NDArray[np.uint64] = np.add.reduce(rows, axis=0, dtype=width).astype(np.uint64)
    return total
