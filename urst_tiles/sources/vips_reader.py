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

_BAND_BYTES = 256 << 10
"""A window is fetched in bands of rows of about this size. libvips and pyvips take a buffer each for a band, and large
buffers among the tiles scatter the heap: with bands of 8 MiB memory peaked three times as high, and it was slower."""
_SLACK_BYTES = 24 << 20
"""What the file's directory, the decoder and a heap in pieces take beside the tiles."""
_CACHE_BYTES = 24 << 20
"""Decoded tiles that a reader may always keep; wide windows raise it to two rows of tiles."""
_WHOLE_BYTES = 512 << 20
"""The largest raster that is decoded whole into memory to read windows of it."""


@dataclass
class _Reader:
    """What one thread reads with: a libvips region must not leave the thread that made it."""

    region: Any
    # pyvips.Region
    tiles: set[tuple[int, int]] = field(default_factory=set)
    # (row, column) of the tiles that libvips may keep decoded


class WindowReader:
    """Reads windows of the file's image or of one of its smaller levels, as ``info`` describes it.

    libvips keeps two rows of decoded tiles, as wide as the whole raster, for as long as an image is open, which has no
    bound. Here an image is opened anew once more tiles are kept than two rows of tiles as wide as the window.
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
        """(height, width, bands), owned by the caller.

        Raises:
            InputError: the window reaches outside the raster.
            SourceError: it cannot be decoded.
        """
        info = self._info
        if not Window(0, 0, info.width, info.height).contains(window):
            raise InputError(
                f"the window {window} reaches outside {self._name}, which has {info.width} x {info.height} pixels"
            )
        out: Pixels = np.empty((window.height, window.width, info.bands), info.dtype)
        for rows in self._row_bands(window):
            part = Window(window.col_off, rows.start, window.width, len(rows))
            try:
                pixels = self._reader(part).region.fetch(part.col_off, part.row_off, part.width, part.height)
            except pyvips.Error as error:
                # What libvips has kept of a failed tile is not to be trusted: the next read starts afresh.
                self._local.reader = None
                raise self._unreadable(window, error) from error
            first = rows.start - window.row_off
            out[first : first + len(rows)] = np.frombuffer(pixels, info.dtype).reshape(
                len(rows), window.width, info.bands
            )
        return out

    def cache_bytes(self, width: int) -> int:
        info = self._info
        tile_width, tile_height = info.tile or UNTILED
        row = (-(-min(width, info.width) // tile_width) + 1) * self._tile_bytes
        # libvips' own limit is two rows of tiles, along the width that the file stores.
        stored_width, stored_tile = (info.height, tile_height) if info.orientation > 4 else (info.width, tile_width)
        whole = 2 * (stored_width // stored_tile + 1) * self._tile_bytes
        tiles = min(whole, self._budget(width) + row)
        # Blocks that are freed and taken again leave holes in the heap: measured a third of the tiles, here a half.
        band = width * tile_height * info.bytes_per_pixel if info.orientation > 4 else _BAND_BYTES
        # Operations that map a range hold 64-bit numbers, about ten steps of them.
        mapping = 40 * band if self._info.choice else 0
        return tiles * 3 // 2 + 4 * band + mapping + 4 * self._tile_bytes + _SLACK_BYTES

    @property
    def _tile_bytes(self) -> int:
        width, height = self._info.tile or UNTILED
        return width * height * max(self._info.bytes_per_pixel, self._pixel_bytes)

    def _budget(self, width: int) -> int:
        tile_width = (self._info.tile or UNTILED)[0]
        return max(_CACHE_BYTES, 2 * (-(-width // tile_width) + 1) * self._tile_bytes)

    def _row_bands(self, window: Window) -> Iterator[range]:
        """The rows to fetch at a time, none of them from two rows of tiles: between those the image may be opened
        anew, and what a band reaches into would be decoded again."""
        height = (self._info.tile or UNTILED)[1]
        rows = max(1, _BAND_BYTES // (window.width * self._info.bytes_per_pixel))
        if self._info.orientation > 4:
            # Rows are columns of the file, across more tiles than libvips may keep: take whole tiles, each once.
            rows = height
        start = window.row_off
        while start < window.row_end:
            end = min((start // rows + 1) * rows, (start // height + 1) * height, window.row_end)
            yield range(start, end)
            start = end

    def _reader(self, part: Window) -> _Reader:
        reader: _Reader | None = getattr(self._local, "reader", None)
        if not self._info.random_access:
            if reader is None:
                reader = _Reader(pyvips.Region.new(self._decoded(part)))
        else:
            tile_width, tile_height = self._info.tile or UNTILED
            touched = {
                (row, col)
                for row in range(part.row_off // tile_height, -(-part.row_end // tile_height))
                for col in range(part.col_off // tile_width, -(-part.col_end // tile_width))
            }
            if reader is not None and len(reader.tiles | touched) * self._tile_bytes > self._budget(part.width):
                self._local.reader = reader = None  # freed before the next one is opened
            if reader is None:
                reader = _Reader(pyvips.Region.new(self._opened("random").autorot()))
            reader.tiles |= touched
        self._local.reader = reader
        return reader

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
