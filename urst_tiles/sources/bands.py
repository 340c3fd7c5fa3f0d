"""A raster that can only be decoded from the top, read row of shards by row of shards: the rows that one row of them
needs are held, and the next ones are decoded when they are asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyvips

from urst_tiles.errors import InputError, SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels, RasterInfo, Source
from urst_tiles.sources.vips import VipsSource, streamed_rows
from urst_tiles.sources.vips_image import why

__all__ = ["BandedSource", "band_bytes", "suits_bands"]


def suits_bands(source: Source) -> bool:
    """Whether a raster can be read so: one file that a decoder goes through row by row, not turned."""
    return (
        isinstance(source, VipsSource)
        and not source.info.random_access
        and not source.decoded_whole
        and source.info.orientation == 1
    )


def band_bytes(source: VipsSource, rows: int) -> int:
    """Upper bound, in bytes, of what reading with ``rows`` held takes, however many threads read."""
    info = source.info
    return min(rows, info.height) * info.width * info.bytes_per_pixel + source.stream_bytes


class BandedSource:
    """Windows of at most ``rows`` rows, asked for from top to bottom; several threads may ask, side by side.

    A window above what is held makes the decoder begin again from the top: right, and slow.

    Parameters:
        source: one that :func:`suits_bands`.
        rows: how many are held, those of one row of shards with its halo.
    """

    def __init__(self, source: VipsSource, rows: int) -> None:
        self._source, self._rows = source, rows
        self.__setstate__(self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        return {"_source": self._source, "_rows": self._rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._stream: Iterator[Pixels] | None = None
        self._held: deque[Pixels] = deque()
        # blocks of whole rows, the last of which ends at row self._end
        self._first = self._end = 0

    @property
    def info(self) -> RasterInfo:
        return self._source.info

    @property
    def name(self) -> str:
        return self._source.name

    def fingerprint(self) -> dict[str, Any]:
        return self._source.fingerprint()

    def thumbnail(self, short_side: int) -> Pixels:
        """See :meth:`urst_tiles.sources.base.Source.thumbnail`. Decodes the raster once, by itself."""
        return self._source.thumbnail(short_side)

    def cache_bytes(self, width: int) -> int:  # noqa: ARG002
        """Of all threads together; see :func:`band_bytes`."""
        return band_bytes(self._source, self._rows)

    def read(self, window: Window) -> Pixels:
        """See :meth:`urst_tiles.sources.base.Source.read`.

        Raises:
            InputError: the window reaches outside the raster, or is higher than the rows that are held.
            SourceError: the raster is truncated or damaged.
        """
        info = self.info
        if not Window(0, 0, info.width, info.height).contains(window):
            raise InputError(
                f"the window {window} reaches outside {self.name}, which has {info.width} x {info.height} pixels"
            )
        if window.height > self._rows:
            raise InputError(f"the window {window} is higher than the {self._rows} rows that are held of {self.name}")
        with self._lock:
            try:
                self._advance(window)
            except BaseException as error:
                self._begin()  # what a failed decoder would give next is not to be trusted
                if isinstance(error, pyvips.Error):
                    raise SourceError(f"cannot read the window {window} of {self.name}: {why(error)}") from error
                raise
            return self._cut(window)

    def _advance(self, window: Window) -> None:
        """Hold all rows of the window."""
        if window.row_off < self._first:
            self._begin()
        if self._stream is None:
            self._stream = streamed_rows(self._source)
        while self._end < window.row_end:
            self._forget(max(self._end, window.row_end) - self._rows)
            block = next(self._stream)
            self._held.append(block)
            self._end += len(block)

    def _forget(self, row: int) -> None:
        """What stands above a row."""
        while self._held and self._first + len(self._held[0]) <= row:
            self._first += len(self._held.popleft())

    def _cut(self, window: Window) -> Pixels:
        out: Pixels = np.empty((window.height, window.width, self.info.bands), self.info.dtype)
        row = self._first
        for block in self._held:
            first, last = max(row, window.row_off), min(row + len(block), window.row_end)
            if first < last:
                out[first - window.row_off : last - window.row_off] = block[
                    first - row : last - row, window.col_off : window.col_end
                ]
            row += len(block)
        return out
