"""A shard's work, from top to bottom: rows of tiles, and of the raster's rows only what they read.

::

    raster's rows   ┌────────────────┐        ┌ held while strip 0 runs
                    │ strip 0        │        │
                    ├───── halo ─────┤ ┐      └ up to the end of a row of the file's blocks
                    │ strip 1        │ │ held while strip 1 runs: what both read stays
                    └────────────────┘ ┘

Each row of pixels is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from itertools import count, groupby
from typing import Any, cast

import imagecodecs
import numpy as np

from urst_tiles.buffers import ShardBuffers
from urst_tiles.engines.base import Engine, Piece
from urst_tiles.geometry import Tile, TilePlan, Window
from urst_tiles.sources.base import Pixels, RasterInfo, Source, read_into
from urst_tiles.sources.colour import AS_THEY_ARE, Colours
from urst_tiles.sources.masked import Masked
from urst_tiles.sources.shrink import UNTILED
from urst_tiles.turns import Turns

__all__ = [
    "Cut",
    "Rows",
    "Strip",
    "crc32",
    "cut_of",
    "held_pixels",
    "largest_batch",
    "picture_shape",
    "read_size",
    "run_tiles",
    "strips_of",
    "tallest_read",
    "to_rgb",
]

_FEW = 9
"""Shards that are looked at one by one: in any more, some shard lies inside and has windows of full size."""

_LEAST_PIXELS = 1 << 20
"""Pixels that a strip keeps at least: in smaller ones what a strip costs by itself would count."""

_LEAST_ROWS = 256
"""Rows that are read at a time, at least."""

Cut = Callable[[Window], Pixels]
"""Gives the raster's pixels of a window, (height, width, bands); a view."""

TilesCallback = Callable[[int], None]
"""Told the number of kept pixels each time a batch of windows has been run, and once of those that need not be."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Rows of a shard's tiles that are run together."""

    tiles: tuple[Tile, ...]
    # row-major

    @property
    def core(self) -> Window:
        """The union of the tiles' cores, in raster coordinates."""
        return reduce(Window.hull, (tile.core for tile in self.tiles))

    @property
    def window(self) -> Window:
        """The hull of the tiles' windows, in raster coordinates."""
        return reduce(Window.hull, (tile.window for tile in self.tiles))


def strips_of(tiles: Sequence[Tile], batch: int) -> Iterator[Strip]:
    """A shard's tiles, row-major, in strips from top to bottom: one row each, or as many as make up a batch."""
    strip: list[Tile] = []
    for _, row in groupby(tiles, key=lambda tile: tile.core.row_off):
        more = list(row)
        if len(strip) + len(more) > batch and sum(tile.core.area for tile in strip) >= _LEAST_PIXELS:
            yield Strip(tuple(strip))
            strip = []
        strip += more
    yield Strip(tuple(strip))


class Rows:
    """A window of a source, from top to bottom. Nothing is read twice, and nothing is held that later strips do not
    want, but for the rest of a row of the file's blocks, which would be decoded again."""

    def __init__(self, source: Source, window: Window, buffers: ShardBuffers | None = None) -> None:
        self._source, self._window = source, window
        self._tall = tallest_read(source)
        self._buffers = buffers or ShardBuffers()
        self._start = self._end = window.row_off  # of what is held
        self._kept = self._nothing()
        # rows that later strips want, while nothing else is held
        self._held: Pixels = self._kept
        self._memory = ExitStack()
        # that what is held stands in
        self.crc = 0
        # CRC-32 of all that was read so far

    def of(self, window: Window) -> Pixels:
        """Rows of the window, all its columns: no further up than those of the last call. A view, until the next call
        of this or of :meth:`leave`."""
        self.leave(window.row_off)
        end = max(min(-(-window.row_end // self._tall) * self._tall, self._window.row_end), self._end)
        shape = (end - window.row_off, self._window.width, self._source.info.bands)
        with self._memory:  # of the rows that are kept
            self._memory = ExitStack()
            held = self._memory.enter_context(self._buffers.rows.array(shape, self._source.info.dtype))
            held[: len(self._kept)] = self._kept
            self._kept = self._nothing()
        at = self._end - window.row_off
        for band in self._bands(end):
            rows = held[at : at + band.height]
            read_into(self._source, band, rows)
            self.crc = crc32(rows, self.crc)
            at += band.height
        self._held, self._end = held, end
        return held[: window.height]

    def cut(self, part: Window) -> Pixels:
        """A part of the window that was asked for last; a view."""
        return self._held[
            part.row_off - self._start : part.row_end - self._start,
            part.col_off - self._window.col_off : part.col_end - self._window.col_off,
        ]

    def leave(self, row: int) -> None:
        """Let go of the rows above this one, and of the memory that all of them stand in: views end here."""
        wanted, are_kept = self._held[row - self._start :], self._held is self._kept
        if are_kept and len(wanted):
            self._kept = wanted
        else:
            with self._memory:
                self._memory = ExitStack()
                self._kept = self._nothing()
                if len(wanted):
                    self._kept = self._memory.enter_context(self._buffers.kept.array(wanted.shape, wanted.dtype))
                    self._kept[:] = wanted
        self._held, self._start = self._kept, row

    def close(self) -> None:
        """Let go of all rows."""
        self.leave(self._end)

    def _bands(self, end: int) -> Iterator[Window]:
        """What of the window is still to be read down to a row, up to the next row of blocks at a time."""
        start = self._end
        while start < end:
            stop = min((start // self._tall + 1) * self._tall, end)
            yield Window(self._window.col_off, start, self._window.width, stop - start)
            start = stop

    def _nothing(self) -> Pixels:
        """No rows."""
        info = self._source.info
        return cast("Pixels", np.empty((0, self._window.width, info.bands), info.dtype))


def tallest_read(source: Source) -> int:
    """Rows that are read of a source at a time, at most: whole rows of its file's blocks."""
    if isinstance(source, Masked):
        # What it gives for hidden pixels depends on what else is read with them: a shard is read at once.
        return source.info.height
    tall = (source.info.tile or UNTILED)[1]
    return tall * -(-_LEAST_ROWS // tall)


def run_tiles(
    tiles: tuple[Tile, ...],
    core: Window,
    cut: Cut,
    info: RasterInfo,
    engine: Engine,
    batch: int,
    on_tiles: TilesCallback | None = None,
    *,
    calls: int = 1,
    turns: Turns | None = None,
    on_taken: Callable[[], None] | None = None,
    blank: bool = False,
    colours: Colours = AS_THEY_ARE,
    out: Pixels | None = None,
) -> Pixels:
    """Run the windows of ``tiles`` and put their cores together: (3 or 4, height, width) of ``core``, in ``out`` where
    it is given.

    ``cut`` gives the raster's pixels; ``on_taken`` is called, by any thread, when neither it nor what it gave is needed
    any more. ``colours`` are converted for the network and back.

    A tile whose whole cell is transparent is not run: it keeps the source's own pixels, grey repeated, or with
    ``blank`` becomes 0. The whole cell, because what is made of a tile must not depend on the region asked for.
    """
    turns = turns or Turns()
    hidden = [tile for tile in tiles if info.alpha and not cut(tile.cell)[..., -1].any()]
    groups = list(_batches(tuple(tile for tile in tiles if tile not in hidden), batch))
    picture = np.empty(picture_shape(core, info), info.dtype) if out is None else out
    _put_what_is_not_run(picture, core, cut, info, hidden, colours, blank=blank)
    if hidden and on_tiles is not None:
        on_tiles(sum(tile.core.area for tile in hidden))
    taken = count(1)  # its next() is one step for all threads

    def on_group_taken() -> None:
        if next(taken) == len(groups) and on_taken is not None:
            on_taken()

    def run(group: list[Tile]) -> int:
        """Of the pixels that it keeps, the number."""
        with turns.call():
            windows = [colours.to_srgb(to_rgb(cut(tile.window), info)) for tile in group]
            # Colours are given back with the raster's own pixels beside them.
            given = [to_rgb(cut(tile.core), info).copy() for tile in group] if colours.back else []
            places = [picture[(slice(0, 3), *tile.core.relative_to(core).slices)] for tile in group]
            made = [np.empty_like(place) for place in places] if colours.back else places
            pieces = [
                Piece(window, place, tile.crop.slices, tile.rim)
                for window, place, tile in zip(windows, made, group, strict=True)
            ]
            engine.run(pieces, on_group_taken)
            if colours.back:
                for place, piece, own in zip(places, pieces, given, strict=True):
                    new, window = piece.place.transpose(1, 2, 0), piece.window[piece.crop]
                    place[:] = colours.finish(new, window, own).transpose(2, 0, 1)
            return sum(tile.core.area for tile in group)

    for kept in _at_once(run, groups, calls):
        if on_tiles is not None:
            on_tiles(kept)
    return picture


def picture_shape(core: Window, info: RasterInfo) -> tuple[int, int, int]:
    """(bands, height, width) of what is made of a core."""
    return 3 + info.alpha, core.height, core.width


def _put_what_is_not_run(
    picture: Pixels, core: Window, cut: Cut, info: RasterInfo, hidden: Sequence[Tile], colours: Colours, *, blank: bool
) -> None:
    """What the network does not make of a picture: alpha, which goes around it, and tiles that are not run."""
    if info.alpha:
        picture[3] = cut(core)[..., -1]
    for tile in hidden:
        own = colours.unseen(to_rgb(cut(tile.core), info))
        picture[(slice(0, 3), *tile.core.relative_to(core).slices)] = 0 if blank else own.transpose(2, 0, 1)


def _at_once(run: Callable[[list[Tile]], int], groups: list[list[Tile]], calls: int) -> Iterator[int]:
    """Like map, by so many threads."""
    if calls == 1:
        yield from map(run, groups)
        return
    with ThreadPoolExecutor(calls) as pool:
        yield from pool.map(run, groups)


def cut_of(block: Pixels, window: Window) -> Cut:
    """Of a block that is held whole."""
    return lambda part: block[part.relative_to(window).slices]


def to_rgb(pixels: Pixels, info: RasterInfo) -> Pixels:
    """(H, W, bands) → (H, W, 3): alpha left out, grey repeated."""
    if info.colour == "grey":
        return cast("Pixels", np.broadcast_to(pixels[..., :1], (*pixels.shape[:2], 3)))
    return pixels[..., :3]


def largest_batch(plan: TilePlan, batch: int) -> tuple[int, int, int]:
    """(windows, height, width) of the largest call of the network, with at most ``batch`` windows a call.

    In a raster of few shards that is often less than asked for: windows that borders clip have sizes of their own.
    """
    if len(plan) > _FEW:
        # Off the grid, a shard's borders cut one core more.
        cut = 1 if plan.region.col_off % plan.core or plan.region.row_off % plan.core else 0
        most = (plan.cores + cut) * (2 * plan.cores + cut)
        return min(batch, most), min(plan.window, plan.height), min(plan.window, plan.width)
    calls = (
        (len(group), group[0].window.height, group[0].window.width)
        for shard in plan
        for group in _batches(shard.tiles, batch)
    )
    return max(calls, key=lambda call: call[0] * call[1] * call[2])


def held_pixels(plan: TilePlan, in_flight: int, *, batch: int, tall: int) -> tuple[int, int]:
    """(read, kept): the most pixels that ``in_flight`` shards hold at a time, halos included, and of their results.

    ``tall``: see :func:`tallest_read`.
    """
    rows, columns = plan.grid
    # Windows are clipped that reach beyond the raster: those of so many shards from its borders.
    from_sides, from_ends = (1 + -(-plan.halo // side) for side in plan.shard)
    several = [
        row * columns + column
        for row in _of_every_kind(rows, from_ends)
        for column in _of_every_kind(columns, from_sides)
    ]
    looked_at = range(len(plan)) if len(plan) <= _FEW else several
    sizes = [_held_of(plan[index].tiles, batch, tall) for index in looked_at]
    # Rows that a region's border has cut wait until they make up chunks, and are joined to them.
    joined = 3 if plan.region.row_off % plan.core else 1
    read, kept = (sorted((size[axis] for size in sizes), reverse=True) for axis in (0, 1))
    kept = [joined * size for size in kept]
    if len(plan) > _FEW:
        return in_flight * read[0], in_flight * kept[0]
    return sum(read[:in_flight]), sum(kept[:in_flight])


def _of_every_kind(count: int, clipped: int) -> list[int]:
    """Of so many shards in a row, some that all others are like: those near the borders, and one inside."""
    near = {*range(min(clipped, count)), *range(max(0, count - clipped), count)}
    return sorted({*near, count // 2})


def _held_of(tiles: Sequence[Tile], batch: int, tall: int) -> tuple[int, int]:
    strips = list(strips_of(tiles, batch))
    rows = strips[-1].window.row_end - strips[0].window.row_off
    read = max(strip.window.width * _rows_held(strip.window.height, rows, tall) for strip in strips)
    return read, max(strip.core.area for strip in strips)


def _rows_held(strip: int, rows: int, tall: int) -> int:
    """Of a shard of so many rows: a strip's, the rest of a row of blocks, and the blocks being read."""
    return min(strip + tall - 1, rows) + min(tall, rows)


def read_size(plan: TilePlan) -> tuple[int, int]:
    """(width, height) of what the largest shards read, in pixels; rasters may be smaller than that."""
    # Off the grid, a shard's borders cut cores, whose windows reach up to a core further.
    cut = plan.core if plan.region.col_off % plan.core or plan.region.row_off % plan.core else 0
    width, height = (side + 2 * plan.halo + cut for side in plan.shard)
    return width, height


def crc32(pixels: Pixels, before: int = 0) -> int:
    """CRC-32 of an array's bytes in C order, behind those that gave ``before``: the same as zlib's, by vectors."""
    values: Any = np.ascontiguousarray(pixels)  # the library says that it takes bytes alone
    return int(imagecodecs.deflate_crc32(values, before))


def _batches(tiles: tuple[Tile, ...], batch: int) -> Iterator[list[Tile]]:
    """Tiles in order of their windows' sizes, in groups of at most ``batch`` of one size."""
    group: list[Tile] = []
    for tile in sorted(tiles, key=lambda t: (t.window.height, t.window.width, t.index)):
        if group and (
            len(group) == batch
            or (group[0].window.height, group[0].window.width) != (tile.window.height, tile.window.width)
        ):
            yield group
            group = []
        group.append(tile)
    if group:
        yield group
