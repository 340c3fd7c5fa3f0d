"""The task body: read a shard, run its windows in batches, crop their cores, write the shard."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from urst_tiles.engines.base import Engine
from urst_tiles.geometry import Shard, Tile, TilePlan, Window
from urst_tiles.sources.base import Pixels, RasterInfo, Source
from urst_tiles.stores.base import Store

__all__ = ["ShardReport", "crc32", "held_pixels", "largest_batch", "process_shard", "read_side", "run_tiles", "to_rgb"]

_FEW = 9
"""Shards that are looked at one by one: in any more, some shard lies inside and has windows of full size."""

TilesCallback = Callable[[int], None]
"""Told the number of kept pixels each time a batch of windows has been run."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a task sends back: numbers, never pixels."""

    index: int
    pixels: int
    source_crc: int
    # CRC-32 of the pixels read, core and halo
    target_crc: int
    # CRC-32 of the pixels written
    seconds_read: float
    seconds_run: float
    seconds_written: float


def process_shard(
    shard: Shard,
    source: Source,
    engine: Engine,
    store: Store,
    *,
    batch: int,
    lock: threading.Lock,
    on_tiles: TilesCallback | None = None,
) -> ShardReport:
    """Produce one shard of the store. Running it twice writes the same bytes.

    ``lock`` is the engine's: while one shard computes, another reads and a third writes.
    """
    started = time.perf_counter()
    block = source.read(shard.window)
    read = time.perf_counter()
    source_crc = crc32(block)
    picture = run_tiles(shard.tiles, shard.core, block, shard.window, source.info, engine, batch, lock, on_tiles)
    del block
    run = time.perf_counter()
    store.write_shard(0, shard.row, shard.col, picture)
    return ShardReport(
        index=shard.index,
        pixels=shard.core.area,
        source_crc=source_crc,
        target_crc=crc32(picture),
        seconds_read=read - started,
        seconds_run=run - read,
        seconds_written=time.perf_counter() - run,
    )


def run_tiles(
    tiles: tuple[Tile, ...],
    core: Window,
    block: Pixels,
    block_window: Window,
    info: RasterInfo,
    engine: Engine,
    batch: int,
    lock: threading.Lock,
    on_tiles: TilesCallback | None = None,
) -> Pixels:
    """Run the windows of ``tiles``, all inside ``block``, and put their cores together: (3 or 4, height, width) of
    ``core``."""
    picture: Pixels = np.empty((3 + info.alpha, core.height, core.width), dtype=info.dtype)
    for group in _batches(tiles, batch):
        windows = np.stack(
            [to_rgb(block[tile.window.relative_to(block_window).slices], info) for tile in group], dtype=info.dtype
        )
        with lock:
            results = engine.run(windows)
        for tile, result in zip(group, results, strict=True):
            picture[(slice(0, 3), *tile.core.relative_to(core).slices)] = result[(slice(None), *tile.crop.slices)]
        if on_tiles is not None:
            on_tiles(sum(tile.core.area for tile in group))
    if info.alpha:
        # Alpha goes around the network.
        picture[3] = block[(*core.relative_to(block_window).slices, -1)]
    return picture


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
