"""Neighbouring shards share what was decoded at their edges: the same pixels, each tile decoded once along a row."""

from __future__ import annotations

import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sources_support import cut, picture, tiled_tiff
from urst_tiles.errors import InputError
from urst_tiles.geometry import Shard, TilePlan, Window, plan_tiles
from urst_tiles.running import back_and_forth
from urst_tiles.sources import open_source
from urst_tiles.sources.base import Pixels, RasterInfo
from urst_tiles.sources.edges import SharedEdges, edge_bytes, with_shared_edges
from urst_tiles.sources.masked import MaskedSource
from urst_tiles.strips import read_size


class Counted:
    """A raster of tiles in memory that counts how often each is touched."""

    name = "counted"

    def __init__(self, pixels: Pixels, tile: tuple[int, int]) -> None:
        self.pixels, self.touched = pixels, Counter[tuple[int, int]]()
        height, width, bands = pixels.shape
        self._info = RasterInfo(width, height, bands, "uint8", "rgb" if bands > 2 else "grey", False, tile=tile)

    @property
    def info(self) -> RasterInfo:
        return self._info

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def read(self, window: Window) -> Pixels:
        across, down = self._info.tile or (1, 1)
        for row in range(window.row_off // down, -(-window.row_end // down)):
            for col in range(window.col_off // across, -(-window.col_end // across)):
                self.touched[row, col] += 1
        return cut(self.pixels, window).copy()

    def thumbnail(self, short_side: int) -> Pixels:
        raise AssertionError(short_side)

    def cache_bytes(self, width: int) -> int:
        return width


def in_order(tiles: TilePlan) -> list[Shard]:
    return [tiles[index] for index in back_and_forth(range(len(tiles)), tiles.grid[1])]


def shared(source: Any, tiles: TilePlan) -> Any:
    return with_shared_edges(source, read_size(tiles), read_size(tiles)[0] - tiles.shard[0])


@settings(deadline=None, max_examples=40)
@given(
    width=st.integers(60, 400),
    height=st.integers(40, 200),
    tile=st.tuples(st.integers(5, 90), st.integers(5, 90)),
    halo=st.integers(0, 12),
    corner=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_windows_have_the_pixels_of_the_raster(
    width: int, height: int, tile: tuple[int, int], halo: int, corner: tuple[int, int]
) -> None:
    pixels = picture(height, width, 3)
    region = Window(*corner, width - corner[0], height - corner[1])
    tiles = plan_tiles(width, height, window=2 * halo + 16, halo=halo, stride=1, region=region)
    source = shared(Counted(pixels, tile), tiles)
    for shard in in_order(tiles):
        np.testing.assert_array_equal(source.read(shard.window), cut(pixels, shard.window))


def test_along_a_row_of_shards_each_tile_is_decoded_once() -> None:
    pixels = picture(300, 1000, 3)
    tiles = plan_tiles(1000, 300, window=48, halo=4, stride=1)
    assert tiles.grid[0] > 1
    assert tiles.grid[1] > 3
    plain, counted = Counted(pixels, (64, 64)), Counted(pixels, (64, 64))
    source = shared(counted, tiles)
    assert isinstance(source, SharedEdges)
    for shard in in_order(tiles):
        plain.read(shard.window)
        source.read(shard.window)
    rows = tiles.grid[0]
    # A row of shards touches a row of tiles once; two rows of shards share one.
    assert max(counted.touched.values()) <= 2
    assert sum(counted.touched.values()) <= 16 * (5 + rows - 1)
    assert sum(plain.touched.values()) > 1.4 * sum(counted.touched.values())


def test_no_more_is_kept_than_said() -> None:
    tiles = plan_tiles(1000, 600, window=48, halo=4, stride=1)
    source = shared(Counted(picture(600, 1000, 3), (64, 64)), tiles)
    kept = list[int]()
    for shard in in_order(tiles):
        source.read(shard.window)
        kept.append(sum(edge.pixels.nbytes for edge in source._edges.values()))
    assert 0 < max(kept) <= edge_bytes(source._source, read_size(tiles), read_size(tiles)[0] - tiles.shard[0])
    assert kept[tiles.grid[1] - 1] == 0  # at the end of a row all of it has been used


def test_threads_side_by_side_and_in_any_order() -> None:
    pixels = picture(300, 700, 3)
    tiles = plan_tiles(700, 300, window=48, halo=4, stride=1)
    source = shared(Counted(pixels, (64, 64)), tiles)
    order = np.random.default_rng(1).permutation(len(tiles)).tolist() * 3
    with ThreadPoolExecutor(4) as pool:
        for index, found in zip(order, pool.map(lambda i: source.read(tiles[i].window), order), strict=True):
            np.testing.assert_array_equal(found, cut(pixels, tiles[index].window))


def test_a_file_and_its_mask_share_each_their_own(tmp_path: Path) -> None:
    pixels = picture(300, 700, 3)
    mask = np.zeros((300, 700, 1), np.uint8)
    mask[50:, 100:600] = 255
    raster = MaskedSource(open_source(tiled_tiff(tmp_path / "a.tif", pixels)), Counted(mask, (64, 64)))
    tiles = plan_tiles(700, 300, window=48, halo=4, stride=1)
    source = shared(raster, tiles)
    assert isinstance(source, MaskedSource)
    assert isinstance(source.mask, SharedEdges)
    assert not source.visible(Window(0, 0, 90, 40))
    for shard in in_order(tiles):
        np.testing.assert_array_equal(source.read(shard.window), raster.read(shard.window))


def test_where_it_saves_nothing_the_source_stays_as_it_is() -> None:
    pixels = picture(60, 90, 3)
    for source in (Counted(pixels, (64, 64)), open_source(pixels)):
        assert with_shared_edges(source, (90, 90), 8) is source
        assert edge_bytes(source, (90, 90), 8) == 0
    wide = Counted(np.zeros((5000, 9000, 3), np.uint8), (4096, 4096))
    assert with_shared_edges(wide, (4000, 4000), 100) is wide


def test_another_process_reads_the_same(tmp_path: Path) -> None:
    pixels = picture(300, 700, 3)
    source = SharedEdges(open_source(tiled_tiff(tmp_path / "a.tif", pixels)), (100, 100), 8)
    source.read(Window(0, 0, 100, 100))
    data = pickle.dumps(source)
    assert len(data) < 4000
    np.testing.assert_array_equal(pickle.loads(data).read(Window(92, 0, 100, 100)), pixels[:100, 92:192])
    assert source.fingerprint() == open_source(tmp_path / "a.tif").fingerprint()
    with pytest.raises(InputError, match="reaches outside"):
        source.read(Window(650, 0, 100, 10))
