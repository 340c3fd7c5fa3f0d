"""Windows grow within a budget, where that saves work: other windows, the same shards, the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.support import picture, write_tiff
from urst_tiles import load_network, plan, stylize
from urst_tiles.errors import InputError
from urst_tiles.geometry import plan_tiles
from urst_tiles.networks.untrained import untrained

HALO = 256
"""In pixels: so wide that even PyTorch gains."""


def test_windows_grow_where_a_budget_allows_it_and_shards_stay() -> None:
    raster = np.zeros((4000, 5000, 3), np.uint8)
    network = untrained(width=8, seed=1)
    free = plan(raster, network, time_it=False, engine="torch", halo=HALO)
    grown = plan(raster, network, time_it=False, engine="torch", halo=HALO, memory="8GiB")
    assert free.tiles.window == 1064
    assert grown.tiles.core == 2 * free.tiles.core
    assert (grown.tiles.shard, grown.tiles.chunk, grown.tiles.grid) == (
        free.tiles.shard,
        free.tiles.chunk,
        free.tiles.grid,
    )
    assert grown.tiles.window_pixels < 0.6 * free.tiles.window_pixels
    assert any("the budget allows it" in note for note in grown.notes)
    assert grown.memory.bytes > free.memory.bytes
    # What the process holds already is part of both sums, and is not the same each time.
    between = (free.memory.bytes + grown.memory.bytes) // 2
    tight = plan(raster, network, time_it=False, engine="torch", halo=HALO, memory=between)
    assert tight.tiles.window == 1064
    asked = plan(raster, network, time_it=False, engine="torch", halo=HALO, memory="8GiB", window=1064)
    assert asked.tiles.window == 1064


@pytest.mark.parametrize(("other", "library"), [("openvino", "openvino"), ("llvm", "llvmlite")])
def test_faster_engines_have_them_grow_for_less(other: Any, library: str) -> None:
    pytest.importorskip(library)
    raster = np.zeros((4000, 5000, 3), np.uint8)
    network = untrained(width=8, seed=1)
    windows = {
        engine: plan(raster, network, time_it=False, engine=engine, memory="8GiB").tiles.window
        for engine in ("torch", other)
    }
    assert windows["torch"] == 1064 < windows[other]


def test_they_stay_where_it_saves_nothing() -> None:
    raster = np.zeros((4000, 5000, 3), np.uint8)
    assert plan(raster, load_network("identity"), time_it=False, memory="8GiB").tiles.window == 1064
    small = np.zeros((500, 600, 3), np.uint8)
    assert plan(small, untrained(width=8, seed=1), time_it=False, memory="8GiB").tiles.window == 1064


def test_the_picture_is_the_same(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(1300, 2100))
    network = untrained(width=4, seed=1)
    for name, budget in (("usual", None), ("grown", "8GiB")):
        stylize(source, tmp_path / f"{name}.zarr", network=network, thumbnail=64, halo=HALO, memory=budget)
    usual, grown = (np.asarray(zarr.open_group(tmp_path / f"{n}.zarr", mode="r")["0"]) for n in ("usual", "grown"))
    assert np.abs(usual.astype(int) - grown).max() <= 1
    assert (usual == grown).mean() > 0.999


def test_a_shard_of_no_whole_chunks_is_refused() -> None:
    with pytest.raises(InputError, match="is no 2 chunks across"):
        plan_tiles(100, 100, window=5, halo=0, stride=1, cores=1)
