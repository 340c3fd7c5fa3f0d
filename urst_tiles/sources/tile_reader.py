"""Tiles of plain TIFFs, decoded by imagecodecs straight to where they are wanted.

libvips reads them too, by zlib and through a cache that each open image has; libdeflate takes less time
(benchmarks/tiles.py), and here nothing decoded is kept. Where tiles stand is looked up in the file each time: rasters
of a million pixels a side have millions of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels, RasterInfo
from urst_tiles.sources.byte_files import ByteFile
from urst_tiles.sources.tile_tables import NONE, TileTable
from urst_tiles.sources.vips_reader import WindowReader

__all__ = ["TileReader"]

_SLACK_BYTES = 16 << 20
"""What decoders take, and a heap in pieces."""
_MOST = 1 << 20
"""Bytes that a packed tile may have beyond twice what it holds: what has more is damage."""


class TileReader:
    """Reads windows of a page as its table says. From any number of threads.

    Parameters:
        path: of the file.
        info: of its raster.
        other: reads what is not to be decoded here, or says what is wrong with it.
    """

    def __init__(self, path: str, info: RasterInfo, table: TileTable, other: WindowReader) -> None:
        self._file, self._info, self._table, self._other = ByteFile(path), info, table, other
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def read(self, window: Window) -> Pixels:
        """(height, width, bands), owned by the caller. Raises: see :meth:`read_into`."""
        out: Pixels = np.empty((window.height, window.width, self._info.bands), self._info.dtype)
        self.read_into(window, out)
        return out

    def read_into(self, window: Window, out: Pixels) -> None:
        """The same, to where it is wanted.

        Raises:
            InputError: the window reaches outside the raster.
            SourceError: it cannot be decoded.
        """
        if not Window(0, 0, self._info.width, self._info.height).contains(window):
            self._other.read_into(window, out)  # which says so
            return
        try:
            self._fill(window, out)
        except (OSError, ValueError, RuntimeError):  # imagecodecs' errors are of the last kind
            self._other.read_into(window, out)

    def let_go(self) -> None:
        """Keep no tile decoded for the thread that calls this."""
        self._other.let_go()

    def cache_bytes(self, width: int) -> int:  # noqa: ARG002  (that of windows, which counts for other readers)
        """Upper bound, in bytes, of what a reading thread takes: a tile as it is stored and as it is decoded."""
        return 4 * self._tile_bytes + _SLACK_BYTES

    @property
    def _tile_bytes(self) -> int:
        tall, wide, samples = self._table.tile
        return tall * wide * samples * np.dtype(self._table.dtype).itemsize

    def _fill(self, window: Window, out: Pixels) -> None:
        tall, wide, _ = self._table.tile
        first, last = window.col_off // wide, -(-window.col_end // wide)
        for row in range(window.row_off // tall, -(-window.row_end // tall)):
            for col, place in enumerate(self._places(row, first, last), first):
                tile = Window(col * wide, row * tall, wide, tall)
                part = cast("Window", tile.intersect(window))  # of the tiles that it touches
                out[part.relative_to(window).slices] = self._decoded(*place)[part.relative_to(tile).slices]

    def _places(self, row: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(offset, count) of the bytes of some tiles in a row."""
        begin, many = row * self._table.grid[1] + first, last - first
        lists = []
        for at, kind in (self._table.offsets, self._table.counts):
            item = np.dtype(kind).itemsize
            lists.append(np.frombuffer(self._file.read(at + begin * item, many * item), kind).tolist())
        return zip(*lists, strict=True)

    def _decoded(self, offset: int, count: int) -> Pixels:
        """(rows, columns, samples) of a tile; a view, until the thread's next one."""
        size, table = self._tile_bytes, self._table
        if not 0 < count <= 2 * size + _MOST:
            raise ValueError("no tile is so large")
        packed = self._file.read(offset, count)
        if table.compression == NONE:
            found = np.frombuffer(packed, np.uint8)
        else:
            found = np.frombuffer(imagecodecs.deflate_decode(packed, out=self._room(size)), np.uint8)
        if found.nbytes != size:
            raise ValueError("a tile ends too early")
        return self._presented(found)

    def _presented(self, found: NDArray[np.uint8]) -> Pixels:
        table = self._table
        pixels = found.view(table.dtype).reshape(table.tile)
        if not pixels.dtype.isnative:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        if table.differences:
            pixels = imagecodecs.delta_decode(pixels, axis=1, out=pixels if pixels.flags.writeable else None)
        return cast("Pixels", pixels)

    def _room(self, size: int) -> bytearray:
        room: bytearray | None = getattr(self._local, "room", None)
        if room is None:
            room = self._local.room = bytearray(size)
        return room
