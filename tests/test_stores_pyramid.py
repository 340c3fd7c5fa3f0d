"""The pyramid is the definition's, whatever the sizes, and is built once."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tests.stores_support import finished_store, halved, layout_for, pixels_for, write_level
from urst_tiles.errors import InputError, StoreError
from urst_tiles.geometry import Window
from urst_tiles.stores import (
    OmeZarrStore,
    build_pyramid,
    export_bigtiff,
    pyramid_shards,
    write_pyramid_shard,
)
from urst_tiles.stores.metadata import shard_grid
from urst_tiles.stores.pyramid import halve
from urst_tiles.stores.sparse import SparseStore


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.sampled_from([np.uint8, np.uint16]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)))
    )
)
def test_halving_is_the_definition(pixels: Any) -> None:
    half = halve(pixels)
    assert half.dtype == pixels.dtype
    np.testing.assert_array_equal(half, halved(pixels))


def test_halving_rounds_half_up_and_never_overflows() -> None:
    block = np.array([[[0, 1], [1, 0]]], np.uint8)
    assert halve(block).item() == 1  # 0.5
    assert halve(np.array([[[2, 3]]], np.uint8)).item() == 3  # 2.5, where rounding to even gives 2
    assert (halve(np.full((3, 101, 67), 255, np.uint8)) == 255).all()
    assert (halve(np.full((3, 101, 67), 65535, np.uint16)) == 65535).all()


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.sampled_from([np.uint8, np.uint16]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.tuples(st.just(4), st.integers(1, 9), st.integers(1, 9)))
    )
)
def test_where_alpha_is_the_same_it_has_no_say(pixels: Any) -> None:
    pixels[3] = pixels[3, 0, 0]
    np.testing.assert_array_equal(halve(pixels), np.concatenate([halve(band[None]) for band in pixels]))


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.sampled_from([np.uint8, np.uint16]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.tuples(st.just(4), st.integers(1, 9), st.integers(1, 9)))
    ),
    other=st.integers(0, 255),
)
def test_hidden_colours_do_not_bleed(pixels: Any, other: int) -> None:
    pixels[3][pixels[3] % 3 == 0] = 0
    changed = pixels.copy()
    changed[:3, pixels[3] == 0] = other
    one, two = halve(pixels), halve(changed)
    visible = one[3] > 0
    np.testing.assert_array_equal(one[:, visible], two[:, visible])


def test_weighted_means_are_exact() -> None:
    # Alphas and colours at the ends of their ranges, where a shorter number type would round.
    for dtype in (np.uint8, np.uint16):
        rng, top = np.random.default_rng(0), np.iinfo(dtype).max
        pixels: NDArray[Any] = rng.choice(np.array([0, 1, 2, top // 2, top - 1, top]), (4, 512, 512)).astype(dtype)
        np.testing.assert_array_equal(halve(pixels), halved(pixels))


@settings(max_examples=10, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    bands=st.sampled_from([3, 4]),
    dtype=st.sampled_from(["uint8", "uint16"]),
    chunk=st.sampled_from([7, 16]),
    cores=st.integers(1, 3),
    down=st.integers(1, 3),
)
def test_every_level_is_half_of_the_one_before(
    width: int,
    height: int,
    bands: Literal[3, 4],
    dtype: Literal["uint8", "uint16"],
    chunk: int,
    cores: int,
    down: int,
) -> None:
    layout = layout_for(width, height, bands, dtype, chunk=chunk, cores=cores, down=down)
    with tempfile.TemporaryDirectory() as folder:
        store, expected = finished_store(Path(folder) / "a.zarr", layout)
        for level, (w, h) in enumerate(store.levels):
            if level:
                expected = halved(expected)
            np.testing.assert_array_equal(store.read(level, Window(0, 0, w, h)), expected)
        assert max(store.levels[-1]) <= chunk


@pytest.mark.parametrize("at_once", [2, 5])
def test_shards_made_at_the_same_time_are_the_same_and_marked_in_order(tmp_path: Path, at_once: int) -> None:
    layout = layout_for(300, 420)
    one, other = (OmeZarrStore.create(tmp_path / name, layout) for name in ("one.zarr", "other.zarr"))
    for store in (one, other):
        write_level(store, pixels_for(layout))
    build_pyramid(one)
    inside, most, lock = 0, 0, threading.Lock()
    marked: list[tuple[int, int, int]] = []
    read = other.read

    def counted(level: int, window: Window) -> Any:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.002)
        found = read(level, window)
        with lock:
            inside -= 1
        return found

    def mark(level: int, row: int, col: int, _is_empty: bool) -> None:
        assert all(other.has_shard(*parent) for parent in pyramid_shards(layout) if parent[0] < level)
        marked.append((level, row, col))

    with patch.object(OmeZarrStore, "read", lambda _self, level, window: counted(level, window)):
        build_pyramid(other, mark=mark, at_once=at_once)
    assert marked == list(pyramid_shards(layout))
    assert 1 < most <= at_once
    for level, (width, height) in enumerate(one.levels):
        assert np.array_equal(one.read(level, Window(0, 0, width, height)), read(level, Window(0, 0, width, height)))


def test_what_goes_wrong_at_the_same_time_ends_it(tmp_path: Path) -> None:
    layout = layout_for(300, 420)
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout)
    write_level(store, pixels_for(layout))
    marked: list[tuple[int, int, int]] = []

    def mark_two(level: int, row: int, col: int, _is_empty: bool) -> None:
        marked.append((level, row, col))
        if len(marked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pyramid(store, mark=mark_two, at_once=3)
    built = [place for place in pyramid_shards(layout) if store.has_shard(*place)]
    assert marked == list(pyramid_shards(layout))[:2]
    assert 2 <= len(built) <= 2 + 3


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    layout = layout_for(100, 80)
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout)
    write_level(store, pixels_for(layout))
    marked: list[tuple[int, int, int]] = []

    def mark_five(level: int, row: int, col: int, is_empty: bool) -> None:
        assert not is_empty
        assert store.has_shard(level, row, col)
        marked.append((level, row, col))
        if len(marked) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pyramid(store, mark=mark_five)
    first = list(marked)
    build_pyramid(store, done=lambda *shard: shard in first, mark=lambda *shard: marked.append(shard[:3]))
    assert marked == list(pyramid_shards(layout))
    assert len(set(marked)) == len(marked)
    grid = [shard_grid(layout, level) for level in range(1, len(store.levels))]
    assert len(marked) == sum(rows * cols for rows, cols in grid)


def test_a_gap_is_an_error(tmp_path: Path) -> None:
    layout = layout_for(100, 80)
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout)
    pixels = pixels_for(layout)
    for row, col in [(0, 0), (0, 1), (1, 0)]:
        y, x = store.shard_window(0, row, col).slices
        store.write_shard(0, row, col, pixels[:, y, x])
    with pytest.raises(StoreError, match="level 1 cannot be built: shard 1,1 of level 0 is missing"):
        write_pyramid_shard(store, 1, 0, 0)
    assert not store.has_shard(1, 0, 0)


def test_what_is_made_of_nothing_is_not_written(tmp_path: Path) -> None:
    layout = layout_for(300, 200, 4)  # shards of 32 px: 7 x 10 of them
    expected = pixels_for(layout)
    expected[:, :, 100:] = 0
    expected[:, 128:, :64] = 0
    store, left_out = OmeZarrStore.create(tmp_path / "a.zarr", layout), set()
    rows, cols = shard_grid(layout, 0)
    for row, col in np.ndindex(rows, cols):
        y, x = store.shard_window(0, row, col).slices
        if expected[:, y, x].any():
            store.write_shard(0, row, col, expected[:, y, x])
        else:
            left_out.add((0, row, col))

    def mark(level: int, row: int, col: int, is_empty: bool) -> None:
        assert store.has_shard(level, row, col) != is_empty
        if is_empty:
            left_out.add((level, row, col))
        if (level, row, col) == (2, 0, 0):
            raise KeyboardInterrupt  # what was found before is then known only from outside

    def empty(*shard: int) -> bool:
        return shard in left_out

    with pytest.raises(KeyboardInterrupt):
        build_pyramid(store, mark=mark, empty=empty)
    built = [shard for shard in pyramid_shards(layout) if shard[0] == 1 or shard == (2, 0, 0)]
    build_pyramid(store, done=lambda *shard: shard in built, empty=empty)
    assert len([shard for shard in left_out if shard[0] == 1]) == 4 * 3 + 2  # right of 128 px, and the lower left
    for level, (width, height) in enumerate(store.levels):
        expected = halved(expected) if level else expected
        np.testing.assert_array_equal(store.read(level, Window(0, 0, width, height)), expected)
    assert not write_pyramid_shard(store, 1, 0, 4, empty=empty)
    with pytest.raises(StoreError, match="shard 0,8 of level 0 is missing"):
        write_pyramid_shard(store, 1, 0, 4)
    with pytest.raises(StoreError, match="shard 0,4 of level 0 is missing"):
        export_bigtiff(store, tmp_path / "a.tif")
    known = left_out | {(n, *place) for n in range(2, len(store.levels)) for place in np.ndindex(shard_grid(layout, n))}
    export_bigtiff(SparseStore(store, lambda *shard: shard in known), tmp_path / "a.tif", tile=64)
    exported = tifffile.imread(tmp_path / "a.tif")
    np.testing.assert_array_equal(exported, store.read(0, Window(0, 0, 300, 200)).transpose(1, 2, 0))


def test_the_full_size_is_not_built(tmp_path: Path) -> None:
    store = OmeZarrStore.create(tmp_path / "a.zarr", layout_for(100, 80))
    with pytest.raises(InputError, match="there are levels 1 to 3 to build, not 0"):
        write_pyramid_shard(store, 0, 0, 0)
    with pytest.raises(InputError, match="there are levels 1 to 3 to build, not 4"):
        write_pyramid_shard(store, 4, 0, 0)
    with pytest.raises(InputError, match="level 1 has 2 x 2 shards and no shard 5,0"):
        write_pyramid_shard(store, 1, 5, 0)


def test_a_store_of_one_level_has_no_pyramid(tmp_path: Path) -> None:
    store, _ = finished_store(tmp_path / "a.zarr", layout_for(16, 5))
    assert store.levels == ((16, 5),)
    assert list(pyramid_shards(store.layout)) == []
