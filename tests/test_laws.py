"""The laws of the design that need no network: 1 and 2 by property. The others stand beside what they speak of, see
DESIGN.md."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from urst_tiles.geometry import Shard, TilePlan, Window, plan_tiles
from urst_tiles.sources.arrays import ArraySource
from urst_tiles.sources.base import Pixels
from urst_tiles.sources.choice import Choice
from urst_tiles.strips import Rows, crc32, held_pixels, read_size, strips_of, tallest_read


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    stride = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    halo = stride * draw(st.integers(0, 6))
    window = 2 * halo + stride * draw(st.integers(1, 6))
    width, height = draw(st.integers(1, 211)), draw(st.integers(1, 211))
    region = None
    if draw(st.booleans()):
        col, row = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        region = Window(col, row, draw(st.integers(1, width - col)), draw(st.integers(1, height - row)))
    # A shard's file has two chunks across, whatever windows it is made of.
    cores = draw(st.sampled_from([2, 4] if (window - 2 * halo) % 2 else [1, 2]))
    return plan_tiles(width, height, window=window, halo=halo, stride=stride, region=region, cores=cores)


@given(plans())
@settings(max_examples=300, deadline=None)
def test_law_1_cores_partition_the_region(plan: TilePlan) -> None:
    seen = np.zeros((plan.height, plan.width), np.uint8)
    for index, shard in enumerate(plan):
        assert shard == plan[index]
        of_shard = np.zeros_like(seen)
        for tile in shard.tiles:
            seen[tile.core.slices] += 1
            of_shard[tile.core.slices] += 1
        assert of_shard[shard.core.slices].all()
        assert of_shard.sum() == shard.core.area
    expected = np.zeros_like(seen)
    expected[plan.region.slices] = 1
    assert (seen == expected).all()


@given(plans())
@settings(max_examples=300, deadline=None)
def test_law_2_windows_start_on_the_stride_and_are_clipped_only_at_borders(plan: TilePlan) -> None:
    raster = Window(0, 0, plan.width, plan.height)
    for shard in plan:
        for tile in shard.tiles:
            window, core = tile.window, tile.core
            assert window.col_off % plan.stride == window.row_off % plan.stride == 0
            assert raster.contains(window)
            assert window.contains(core)
            assert shard.window.contains(window)
            # The halo is all there, or the raster ends.
            assert window.col_off == 0 or core.col_off - window.col_off >= plan.halo
            assert window.row_off == 0 or core.row_off - window.row_off >= plan.halo
            assert window.col_end == plan.width or window.col_end - core.col_end >= plan.halo
            assert window.row_end == plan.height or window.row_end - core.row_end >= plan.halo
            assert window.width <= plan.window
            assert window.height <= plan.window


@given(plans())
@settings(max_examples=300, deadline=None)
def test_counts_are_those_of_the_shards(plan: TilePlan) -> None:
    tiles = [tile for shard in plan for tile in shard.tiles]
    assert plan.tile_count == len(tiles)
    whole = [tile for tile in tiles if (tile.cell.width, tile.cell.height) == (plan.core, plan.core)]
    assert plan.inside_count == sum(tile.rim >= plan.halo for tile in whole)
    assert plan.window_pixels == sum(tile.window.area for tile in tiles)


@st.composite
def strips(draw: st.DrawFn) -> TilePlan:
    """One row of pixels of many shards, with halos from nothing to many shards wide."""
    stride = draw(st.sampled_from([1, 2, 4]))
    halo = stride * draw(st.integers(0, 80))
    window = 2 * halo + stride * draw(st.integers(1, 9))
    width = draw(st.integers(1, 3000))
    col = draw(st.integers(0, width - 1))
    region = Window(col, 0, draw(st.integers(1, width - col)), 1)
    return plan_tiles(width, 1, window=window, halo=halo, stride=stride, region=region)


@given(strips())
@settings(max_examples=100, deadline=None)
def test_counts_of_long_strips_are_those_of_the_shards(plan: TilePlan) -> None:
    tiles = [tile for shard in plan for tile in shard.tiles]
    assert plan.tile_count == len(tiles)
    whole = [tile for tile in tiles if (tile.cell.width, tile.cell.height) == (plan.core, plan.core)]
    assert plan.inside_count == sum(tile.rim >= plan.halo for tile in whole)
    assert plan.window_pixels == sum(tile.window.area for tile in tiles)


@given(plans(), st.integers(1, 3), st.sampled_from([1, 3, 8]), st.sampled_from([None, (5, 7), (64, 64)]))
# Windows reach over more than a shard: of these rows of shards only the third is read whole.
@example(plan_tiles(33, 161, window=112, halo=48, stride=16, cores=1), 1, 1, None)
@settings(max_examples=200, deadline=None)
def test_no_shards_hold_more_than_is_said(
    plan: TilePlan, in_flight: int, batch: int, tile: tuple[int, int] | None
) -> None:
    source = Tiled(plan.width, plan.height, tile)
    with patch("urst_tiles.strips._LEAST_PIXELS", 300), patch("urst_tiles.strips._LEAST_ROWS", 6):
        told = held_pixels(plan, in_flight, batch=batch, tall=tallest_read(source))
        held = [most_held(shard, source, batch) for shard in plan]
    for axis, most in enumerate(told):
        assert most >= sum(sorted((sizes[axis] for sizes in held), reverse=True)[:in_flight])
    width, height = read_size(plan)
    assert max(shard.window.width for shard in plan) <= width
    assert max(shard.window.height for shard in plan) <= height


class Tiled(ArraySource):
    """Noise, and tiles of some size."""

    def __init__(self, width: int, height: int, tile: tuple[int, int] | None) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        super().__init__(noise, Choice.of(axes="yxc"))
        self._info = dataclasses.replace(self._info, tile=tile)
        self.read_last = 0

    def read(self, window: Window) -> Pixels:
        self.read_last = max(self.read_last, window.area)
        return super().read(window)


def most_held(shard: Shard, source: Tiled, batch: int) -> tuple[int, int]:
    """(read, kept) in pixels; what the strips are given is what the raster holds, and each row of it is read once."""
    rows, most, kept = Rows(source, shard.window), 0, list[int]()
    for strip in strips_of(shard.tiles, batch):
        source.read_last = 0
        found = rows.of(strip.window)
        np.testing.assert_array_equal(found, ArraySource.read(source, strip.window))
        most = max(most, rows._held.size // 3 + source.read_last)
        kept.append(strip.core.area)
    assert rows.crc == crc32(ArraySource.read(source, shard.window))
    assert sum(kept) == shard.core.area
    return most, max(kept)
