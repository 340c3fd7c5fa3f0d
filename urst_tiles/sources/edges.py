"""Neighbouring shards share tiles of the raster's file at their edges: what was decoded for one is kept for the next.

Shards are read row by row, each touching the one before (every second row from its end)::

    tiles of the file  |         |         |         |         |         |
    shard k            [····························▒▒▒▒▒▒]                  ▒ read to the tiles' border and kept
    shard k + 1                               [▒▒▒▒▒▒·························

A window is read in bands of rows of whole tiles, so that little of it is held twice.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from urst_tiles.errors import InputError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels, RasterInfo, Source, let_go, read_into
from urst_tiles.sources.masked import Masked, MaskedSource
from urst_tiles.sources.shrink import UNTILED

__all__ = ["SharedEdges", "edge_bytes", "with_shared_edges"]

_MOST = 32 << 20
"""Bytes of an edge above which it is not kept: chunks as large as shards are."""
_KEPT = 2
"""Edges that are kept: two shards are in flight, and each row of shards begins with one that finds none."""


def with_shared_edges(source: Source, size: tuple[int, int], overlap: int) -> Source:
    """A source to read shards of from left to right or right to left: (width, height) px at most each, ``overlap``
    columns of which the next one reads too. The source itself where that saves nothing."""
    if isinstance(source, MaskedSource):
        return source.of(*(with_shared_edges(part, size, overlap) for part in (source.raster, source.mask)))
    return SharedEdges(source, size, overlap) if _is_worth_it(source, size, overlap) else source


def edge_bytes(source: Source, size: tuple[int, int], overlap: int) -> int:
    """Upper bound, in bytes, of what sharing edges holds, however many threads read, and of what each of them reads of
    edges at a time."""
    if isinstance(source, MaskedSource):
        return sum(edge_bytes(part, size, overlap) for part in (source.raster, source.mask))
    info = source.info
    if not _is_worth_it(source, size, overlap):
        return 0
    tile_width, tile_height = info.tile or UNTILED
    # An edge from tile's border to tile's border, or two of them that touch.
    piece = (min(size[0], 2 * (overlap + tile_width)) + 2 * tile_width) * min(tile_height, info.height)
    return _KEPT * (_edge(info, size, overlap) + piece * info.bytes_per_pixel)


def _is_worth_it(source: Source, size: tuple[int, int], overlap: int) -> bool:
    info = source.info
    if isinstance(source, Masked):
        return False  # it knows what need not be read
    return info.random_access and info.tile is not None and size[0] < info.width and _edge(info, size, overlap) <= _MOST


def _edge(info: RasterInfo, size: tuple[int, int], overlap: int) -> int:
    tile_width, tile_height = info.tile or UNTILED
    return (overlap + tile_width) * min(size[1] + 2 * tile_height, info.height) * info.bytes_per_pixel


@dataclass(frozen=True, slots=True)
class _Edge:
    """Pixels of some rows that end at tiles' borders."""

    start: int
    # column
    pixels: Pixels

    @property
    def end(self) -> int:
        return self.start + int(self.pixels.shape[1])


class SharedEdges:
    """See the module. Safe to read from several threads: one that finds no edge decodes what it needs.

    Parameters:
        source: with random access.
        size, overlap: see :func:`with_shared_edges`.
    """

    def __init__(self, source: Source, size: tuple[int, int], overlap: int) -> None:
        self._source, self._overlap = source, overlap
        self._bytes = _KEPT * _edge(source.info, size, overlap)
        self.__setstate__(self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_edges")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._edges: OrderedDict[tuple[int, int, bool], _Edge] = OrderedDict()
        # by first row, last row, and whether it is a right edge; the one used last stands last

    @property
    def info(self) -> RasterInfo:
        return self._source.info

    @property
    def name(self) -> str:
        return self._source.name

    def fingerprint(self) -> dict[str, Any]:
        return self._source.fingerprint()

    def thumbnail(self, short_side: int) -> Pixels:
        return self._source.thumbnail(short_side)

    def let_go(self) -> None:
        """Of the source: edges stay."""
        let_go(self._source)

    def cache_bytes(self, width: int) -> int:
        """Of the source; see :func:`edge_bytes` for what is kept beside that."""
        return self._source.cache_bytes(width + 2 * (self.info.tile or UNTILED)[0])

    def read(self, window: Window) -> Pixels:
        """See :meth:`urst_tiles.sources.base.Source.read`."""
        info = self.info
        if not Window(0, 0, info.width, info.height).contains(window):
            raise InputError(
                f"the window {window} reaches outside {self.name}, which has {info.width} x {info.height} pixels"
            )
        out: Pixels = np.empty((window.height, window.width, info.bands), info.dtype)
        self.read_into(window, out)
        return out

    def read_into(self, window: Window, out: Pixels) -> None:
        """See :func:`urst_tiles.sources.base.read_into`."""
        for band in self._bands(window):
            self._fill(out[band.row_off - window.row_off : band.row_end - window.row_off], band)

    def _bands(self, window: Window) -> Iterator[Window]:
        tall = (self.info.tile or UNTILED)[1]
        start = window.row_off
        while start < window.row_end:
            end = min((start // tall + 1) * tall, window.row_end)
            yield Window(window.col_off, start, window.width, end - start)
            start = end

    def _fill(self, out: Pixels, band: Window) -> None:
        """Read a band, from tile's border to tile's border, but for what is kept of it; keep its own edges."""
        left = self._take(band, right=True)
        right = self._take(band, right=False) if left is None else None
        start, end = self._outwards(band.col_off, band.col_end)
        if left is not None:
            start = left.end
            self._copy(out, band, left)
        if right is not None:
            end = right.start
            self._copy(out, band, right)
        if start >= end:
            return
        # Who goes on in the direction in which this one went finds what it needs; beyond the raster nobody goes on.
        keeps_left, keeps_right = left is None and band.col_off > 0, right is None and band.col_end < self.info.width
        first = self._outwards(start, band.col_off + self._overlap)[1] if keeps_left else start
        last = self._outwards(band.col_end - self._overlap, end)[0] if keeps_right else end
        # Edges are read by themselves, and what lies between them to where it is wanted.
        for piece in ((start, first), (last, end)) if first < last else ((start, end),):
            if piece[0] >= piece[1]:
                continue
            found = _Edge(piece[0], self._source.read(Window(piece[0], band.row_off, piece[1] - piece[0], band.height)))
            self._copy(out, band, found)
            if keeps_left:
                self._keep(band, found, found.start, band.col_off + self._overlap, right=False)
            if keeps_right:
                self._keep(band, found, band.col_end - self._overlap, found.end, right=True)
        if first < last:
            middle = Window(first, band.row_off, last - first, band.height)
            read_into(self._source, middle, out[:, first - band.col_off : last - band.col_off])

    def _outwards(self, start: int, end: int) -> tuple[int, int]:
        """To the borders of the tiles that these columns touch."""
        tile = (self.info.tile or UNTILED)[0]
        return start // tile * tile, min(-(-end // tile) * tile, self.info.width)

    def _copy(self, out: Pixels, band: Window, edge: _Edge) -> None:
        first, last = max(edge.start, band.col_off), min(edge.end, band.col_end)
        if first < last:
            out[:, first - band.col_off : last - band.col_off] = edge.pixels[:, first - edge.start : last - edge.start]

    def _take(self, band: Window, *, right: bool) -> _Edge | None:
        """A kept edge that this band begins with (a right one) or ends with; it is kept no longer."""
        with self._lock:
            edge = self._edges.get((band.row_off, band.row_end, right))
            if edge is None:
                return None
            if right and not edge.start <= band.col_off < edge.end:
                return None
            if not right and not edge.start < band.col_end <= edge.end:
                return None
            del self._edges[band.row_off, band.row_end, right]
            return edge

    def _keep(self, band: Window, found: _Edge, start: int, end: int, *, right: bool) -> None:
        """Of what was found, these columns."""
        start, end = max(start, found.start), min(end, found.end)
        if start >= end:
            return
        edge = _Edge(start, found.pixels[:, start - found.start : end - found.start].copy())
        with self._lock:
            self._edges.pop((band.row_off, band.row_end, right), None)
            self._edges[band.row_off, band.row_end, right] = edge
            while sum(kept.pixels.nbytes for kept in self._edges.values()) > self._bytes:
                self._edges.popitem(last=False)
