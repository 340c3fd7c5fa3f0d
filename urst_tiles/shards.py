"""The task body: read a shard, run its windows in batches, crop their cores, write the shard."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import cast

import numpy as np

from urst_tiles.engines.base import Engine
from urst_tiles.geometry import Shard, Tile, TilePlan, Window
from urst_tiles.sources.base import Pixels, RasterInfo, Source
from urst_tiles.sources.colour import AS_THEY_ARE, Colours
from urst_tiles.sources.masked import Masked
from urst_tiles.stores.base import Store

__all__ = [
    "ShardReport",
    "crc32",
    "held_pixels",
    "is_hidden",
    "largest_batch",
    "process_shard",
    "read_side",
    "run_tiles",
    "source_crc",
    "to_rgb",
]

_FEW = 9
"""Shards that are looked at one by one: in any more, some shard lies inside and has windows of full size."""

_PART = bytes(1 << 20)
"""Zeros to take a checksum of, as often as needed."""

TilesCallback = Callable[[int], None]
"""Told the number of kept pixels each time a batch of windows has been run, and once of those that need not be."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a task sends back: numbers, never pixels."""

    index: int
    pixels: int
    source_crc: int
    # CRC-32 of the pixels read, core and halo; see source_crc()
    target_crc: int
    # CRC-32 of the pixels written, or of the zeros that stand for an empty shard
    seconds_read: float
    seconds_run: float
    seconds_written: float
    empty: bool = False
    # nothing was run and nothing was written: all is transparent and 0, as the store reads where nothing stands
    batch: int = 0
    # windows run at a time in the end: fewer than asked for where a GPU's memory ran out; 0 where none were run
    device_peak: int = 0
    # the most bytes of a GPU that the worker has held so far, CUDA's own context left out
    process: int = 0
    # number of the process that ran it; 0 where nobody asks for it
    memory: int = 0
    # the most bytes that have been resident of that process

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.seconds_read + self.seconds_run + self.seconds_written


def process_shard(
    shard: Shard,
    source: Source,
    engine: Engine,
    store: Store,
    *,
    batch: int,
    on_tiles: TilesCallback | None = None,
    colours: Colours = AS_THEY_ARE,
) -> ShardReport:
    """Produce one shard of the store. Running it twice writes the same bytes.

    Threads may do so at the same time: while one shard computes, another reads and a third writes. A shard that comes
    out transparent and 0 in every band is not written.
    """
    started = time.perf_counter()
    if is_hidden(source, shard.tiles):
        return _hidden_report(shard, source, store, time.perf_counter() - started, on_tiles)
    block = source.read(shard.window)
    read = time.perf_counter()
    crc = crc32(block)
    picture = run_tiles(
        shard.tiles,
        shard.core,
        block,
        shard.window,
        source.info,
        engine,
        batch,
        on_tiles,
        blank=isinstance(source, Masked),
        colours=colours,
    )
    del block
    run = time.perf_counter()
    empty = source.info.alpha and not picture.any()
    if not empty:
        store.write_shard(0, shard.row, shard.col, picture)
    return ShardReport(
        index=shard.index,
        pixels=shard.core.area,
        source_crc=crc,
        target_crc=crc32(picture),
        seconds_read=read - started,
        seconds_run=run - read,
        seconds_written=time.perf_counter() - run,
        empty=empty,
        batch=min(batch, engine.limit or batch),
        device_peak=engine.device_peak or 0,
    )


def is_hidden(source: Source, tiles: Sequence[Tile]) -> bool:
    """Whether a source's mask hides these tiles: nothing else of them needs to be read then, and they come out as 0."""
    return isinstance(source, Masked) and not source.visible(reduce(Window.hull, (tile.cell for tile in tiles)))


def source_crc(source: Source, shard: Shard) -> int:
    """CRC-32 of what :func:`process_shard` reads for a shard, read again: of the shard's window, or, where a mask hides
    the shard, of the zeros its core reads as."""
    if is_hidden(source, shard.tiles):
        return _crc_of_zeros(shard.core.area * source.info.bytes_per_pixel)
    return crc32(source.read(shard.window))


def _hidden_report(
    shard: Shard, source: Source, store: Store, seconds: float, on_tiles: TilesCallback | None
) -> ShardReport:
    """The report of a shard that a mask hides."""
    area = shard.core.area
    if on_tiles is not None:
        on_tiles(area)
    written = area * store.layout.bands * np.dtype(store.layout.dtype).itemsize
    return ShardReport(
        index=shard.index,
        pixels=area,
        source_crc=_crc_of_zeros(area * source.info.bytes_per_pixel),
        target_crc=_crc_of_zeros(written),
        seconds_read=seconds,
        seconds_run=0.0,
        seconds_written=0.0,
        empty=True,
    )


def run_tiles(
    tiles: tuple[Tile, ...],
    core: Window,
    block: Pixels,
    block_window: Window,
    info: RasterInfo,
    engine: Engine,
    batch: int,
    on_tiles: TilesCallback | None = None,
    *,
    blank: bool = False,
    colours: Colours = AS_THEY_ARE,
) -> Pixels:
    """Run the windows of ``tiles``, all inside ``block``, and put their cores together: (3 or 4, height, width) of
    ``core``.

    ``colours`` are converted for the network and back.

    A tile whose whole cell is transparent is not run: it keeps the source's own pixels, grey repeated, or with
    ``blank`` becomes 0. The whole cell, because what is made of a tile must not depend on the region asked for.
    """
    picture: Pixels = np.empty((3 + info.alpha, core.height, core.width), dtype=info.dtype)
    hidden = [tile for tile in tiles if info.alpha and not _cut(block, block_window, tile.cell)[..., -1].any()]
    for tile in hidden:
        own = colours.unseen(to_rgb(_cut(block, block_window, tile.core), info))
        picture[(slice(0, 3), *tile.core.relative_to(core).slices)] = 0 if blank else own.transpose(2, 0, 1)
    if hidden and on_tiles is not None:
        on_tiles(sum(tile.core.area for tile in hidden))
    for group in _batches(tuple(tile for tile in tiles if tile not in hidden), batch):
        windows = np.stack(
            [colours.to_srgb(to_rgb(_cut(block, block_window, tile.window), info)) for tile in group], dtype=info.dtype
        )
        results = engine.run(windows)
        for tile, window, result in zip(group, windows, results, strict=True):
            made = result[(slice(None), *tile.crop.slices)]
            if colours.back:
                given = to_rgb(_cut(block, block_window, tile.core), info)
                made = colours.finish(made.transpose(1, 2, 0), window[tile.crop.slices], given).transpose(2, 0, 1)
            picture[(slice(0, 3), *tile.core.relative_to(core).slices)] = made
        if on_tiles is not None:
            on_tiles(sum(tile.core.area for tile in group))
    if info.alpha:
        # Alpha goes around the network.
        picture[3] = _cut(block, block_window, core)[..., -1]
    return picture


def _cut(block: Pixels, block_window: Window, part: Window) -> Pixels:
    """A part of a block, both in raster coordinates; a view."""
    return block[part.relative_to(block_window).slices]


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
        return batch, min(plan.window, plan.height), min(plan.window, plan.width)
    calls = (
        (len(group), group[0].window.height, group[0].window.width)
        for shard in plan
        for group in _batches(shard.tiles, batch)
    )
    return max(calls, key=lambda call: call[0] * call[1] * call[2])


def held_pixels(plan: TilePlan, in_flight: int) -> tuple[int, int]:
    """(read, kept): the most pixels that ``in_flight`` shards read, halos included, and keep."""
    if len(plan) <= _FEW:
        sizes = sorted(((shard.window.area, shard.core.area) for shard in plan), reverse=True)
        kept = sorted((core for _, core in sizes), reverse=True)
        return sum(window for window, _ in sizes[:in_flight]), sum(kept[:in_flight])
    side = read_side(plan)
    read = min(side, plan.width) * min(side, plan.height)
    core = min(plan.shard, plan.region.width) * min(plan.shard, plan.region.height)
    return in_flight * read, in_flight * core


def read_side(plan: TilePlan) -> int:
    """Side of what the largest shards read, in pixels; rasters may be smaller than that."""
    # Off the grid, a shard's borders cut cores, whose windows reach up to a core further.
    cut = plan.core if plan.region.col_off % plan.core or plan.region.row_off % plan.core else 0
    return plan.shard + 2 * plan.halo + cut


def crc32(pixels: Pixels) -> int:
    """CRC-32 of an array's bytes in C order."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _crc_of_zeros(count: int) -> int:
    """CRC-32 of so many bytes of 0, without holding them."""
    crc = 0
    for start in range(0, count, len(_PART)):
        crc = zlib.crc32(memoryview(_PART)[: count - start], crc)
    return crc


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
