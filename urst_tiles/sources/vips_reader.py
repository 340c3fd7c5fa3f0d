"""Windows of one libvips image, read from any number of threads with bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyvips

from urst_tiles.errors import InputError, SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels, RasterInfo
from urst_tiles.sources.shrink import UNTILED
from urst_tiles.sources.vips_image import why
from urst_tiles.sources.vips_values import Opening

__all__ = ["WindowReader"]

_BAND_BYTES = 64 << 10
"""A window is fetched in bands of rows of about this size. libvips and pyvips take a buffer each for a band; those that
stay in the processor's cache are a fifth faster than such of 256 KiB, and large ones among the tiles scatter the heap:
with bands of 8 MiB memory peaked three times as high."""
_SLACK_BYTES = 24 << 20
"""What the file's directory, the decoder and a heap in pieces take beside the tiles."""
_CACHE_BYTES = 24 << 20
"""Decoded tiles that a reader may keep, but for one tile, which it always may."""
_CACHE_BYTES_TIFF = 4 << 20
"""The same of a TIFF, whose tiles are let go in half a millisecond; slides are opened anew for it, in up to fifty."""
_WHOLE_BYTES = 512 << 20
"""The largest raster that is decoded whole into memory to read windows of it."""


@dataclass
class _Reader:
    """What one thread reads with: a libvips region must not leave the thread that made it."""

    image: Any
    # pyvips.Image
    region: Any = field(init=False)
    # pyvips.Region
    tiles: set[tuple[int, int]] = field(default_factory=set)
    # (row, column) of the tiles that libvips may keep decoded
    at: tuple[int, int] = 0, 0
    # (x, y) px of one that it does, if there are any

    def __post_init__(self) -> None:
        self.region = pyvips.Region.new(self.image)

    def fetch(self, part: Window) -> Any:
        self.at = part.col_end - 1, part.row_end - 1
        return self.region.fetch(part.col_off, part.row_off, part.width, part.height)

    def drop(self) -> None:
        """Let go of the decoded tiles, and of the file until the next read.

        At the end of every computation libvips minimises the images that it was of: the loader's tile cache is emptied
        of all that no region refers to. So one pixel is looked at, of a tile that is there.
        """
        if self.tiles:
            self.image.crop(*self.at, 1, 1).avg()
            self.tiles = set()


class WindowReader:
    """Reads windows of the file's image or of one of its smaller levels, as ``info`` describes it.

    libvips keeps two rows of decoded tiles, as wide as the whole raster, for as long as an image is open, which has no
    bound. Here a window is read in parts, columns of whole tiles, and what is decoded is let go before a part when more
    tiles than a reader may keep would be kept with it. Each tile is decoded once for a window.
    """

    def __init__(
        self,
        opening: Opening,
        info: RasterInfo,
        pixel_bytes: int,
    ) -> None:
        self._opening = opening
        self._name = opening.name
        self._info = info
        self._pixel_bytes = pixel_bytes  # of the file's own pixels, before they are converted
        self.__setstate__(self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_local", "_lock", "_whole")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._whole: Any = None  # the decoded image, shared by all threads, where there is no random access

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
        info = self._info
        if not Window(0, 0, info.width, info.height).contains(window):
            raise InputError(
                f"the window {window} reaches outside {self._name}, which has {info.width} x {info.height} pixels"
            )
        for part in self._parts(window):
            try:
                pixels = self._reader(part).fetch(part)
            except pyvips.Error as error:
                # What libvips has kept of a failed tile is not to be trusted: the next read starts afresh.
                self._local.reader = None
                raise self._unreadable(window, error) from error
            read: Pixels = np.frombuffer(pixels, info.dtype).reshape(part.height, part.width, info.bands)
            out[part.relative_to(window).slices] = read

    def let_go(self) -> None:
        """Keep no tile decoded for the thread that calls this."""
        reader: _Reader | None = getattr(self._local, "reader", None)
        if reader is not None:
            self._emptied(reader)

    def cache_bytes(self, width: int) -> int:
        info = self._info
        tile_width, tile_height = info.tile or UNTILED
        # libvips' own limit is two rows of tiles, along the width that the file stores.
        stored_width, stored_tile = (info.height, tile_height) if info.orientation > 4 else (info.width, tile_width)
        whole = 2 * (stored_width // stored_tile + 1) * self._tile_bytes
        tiles = min(whole, self._budget + min(self._budget, (width // tile_width + 2) * self._tile_bytes))
        # Blocks that are freed and taken again leave holes in the heap: measured a third of the tiles, here a half.
        band = width * tile_height * info.bytes_per_pixel if info.orientation > 4 else _BAND_BYTES
        # Operations that map a range hold 64-bit numbers, about ten steps of them.
        mapping = 40 * band if self._info.choice else 0
        return tiles * 3 // 2 + 4 * band + mapping + 4 * self._tile_bytes + _SLACK_BYTES

    @property
    def _tile_bytes(self) -> int:
        width, height = self._info.tile or UNTILED
        return width * height * max(self._info.bytes_per_pixel, self._pixel_bytes)

    @property
    def _budget(self) -> int:
        """Bytes of tiles that a reader may keep."""
        return max(_CACHE_BYTES_TIFF if self._info.format == "tiff" else _CACHE_BYTES, self._tile_bytes)

    def _parts(self, window: Window) -> Iterator[Window]:
        """The parts to fetch of a window: none is of two rows of tiles, and no more columns of tiles than may be kept.
        Between those may be let go what is decoded."""
        tile_width, tile_height = self._info.tile or UNTILED
        wide = self._budget // self._tile_bytes * tile_width
        for top, bottom in _between_borders(window.row_off, window.row_end, tile_height):
            for left, right in _between_borders(window.col_off, window.col_end, tile_width, wide):
                rows = max(1, _BAND_BYTES // ((right - left) * self._info.bytes_per_pixel))
                if self._info.orientation > 4:
                    # Rows are columns of the file, across more tiles than libvips may keep: take whole tiles.
                    rows = tile_height
                for start in range(top, bottom, rows):
                    yield Window(left, start, right - left, min(rows, bottom - start))

    def _reader(self, part: Window) -> _Reader:
        reader: _Reader | None = getattr(self._local, "reader", None)
        if not self._info.random_access:
            if reader is None:
                reader = _Reader(self._decoded(part))
        else:
            tile_width, tile_height = self._info.tile or UNTILED
            touched = {
                (row, col)
                for row in range(part.row_off // tile_height, -(-part.row_end // tile_height))
                for col in range(part.col_off // tile_width, -(-part.col_end // tile_width))
            }
            if reader is not None and len(reader.tiles | touched) * self._tile_bytes > self._budget:
                reader = self._emptied(reader)  # freed before the next one is opened
            if reader is None:
                reader = _Reader(self._opened("random").autorot())
            reader.tiles |= touched
        self._local.reader = reader
        return reader

    def _emptied(self, reader: _Reader) -> _Reader | None:
        """The thread's reader without decoded tiles; None where that takes a new one.

        A TIFF stays open: opening reads its directory some eight times, 16 bytes for each of its tiles.
        """
        if self._info.format == "tiff":
            reader.drop()
            return reader
        self._local.reader = None
        return None

    def _opened(self, access: Any) -> Any:
        return self._opening.presented(access).image

    def _decoded(self, part: Window) -> Any:
        info = self._info
        size = info.pixels * info.bytes_per_pixel
        if size > _WHOLE_BYTES:
            raise SourceError(
                f"cannot read {_where(part)} of {self._name} by itself: a {info.format} of this kind is decoded from "
                f"the top, and whole it takes {size / 1e9:.1f} GB. Spool it to a tiled file first"
            )
        with self._lock:
            if self._whole is None:
                self._whole = self._opened("sequential").copy_memory().autorot().copy_memory()
            return self._whole

    def _unreadable(self, window: Window, error: Exception) -> SourceError:
        return SourceError(f"cannot read {_where(window)} of {self._name}: {why(error)}")


def _where(window: Window) -> str:
    return f"columns {window.col_off}–{window.col_end - 1}, rows {window.row_off}–{window.row_end - 1}"  # noqa: RUF001


def _between_borders(start: int, end: int, side: int, most: int | None = None) -> Iterator[tuple[int, int]]:
    """(start, end) of pieces that end at tiles' borders: of one tile each, or of ``most`` pixels from a border on."""
    while start < end:
        stop = min(start // side * side + (most or side), end)
        yield start, stop
        start = stop
