"""A plan costs the same for a thumbnail and for a terapixel."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from urst_tiles.geometry import Shard, TilePlan, Window
from urst_tiles.networks import load_network
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.planning import RunPlan, plan
from urst_tiles.reports import plan_text
from urst_tiles.sources.base import Pixels, RasterInfo, Source


@dataclass(frozen=True)
class Unread:
    """A raster of any size that cannot be read."""

    side: int

    @property
    def info(self) -> RasterInfo:
        return RasterInfo(self.side, self.side, bands=3, dtype="uint8", colour="rgb", alpha=False, tile=(512, 512))

    @property
    def name(self) -> str:
        return "unread"

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def read(self, window: Window) -> Pixels:
        raise AssertionError(f"{window} was read")

    def thumbnail(self, short_side: int) -> Pixels:
        raise AssertionError(f"a thumbnail of {short_side} px was read")

    def cache_bytes(self, width: int) -> int:
        return width


def planned(side: int, network: StyleNetwork, **options: Any) -> RunPlan:
    """The plan, printed in both ways."""
    source: Source = Unread(side)
    found = plan(source, network, time_it=False, target="out.tif", **options)
    assert plan_text(found)
    assert json.dumps(found.to_json())
    return found


def test_a_terapixel_plan_visits_no_more_shards_than_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    visited, computed = list[int](), TilePlan.__getitem__

    def compute(tiles: TilePlan, index: Any) -> Any:
        visited.append(index)
        return computed(tiles, index)

    def all_of_them(_tiles: TilePlan) -> Iterator[Shard]:
        raise AssertionError("all shards were visited")

    monkeypatch.setattr(TilePlan, "__getitem__", compute)
    monkeypatch.setattr(TilePlan, "__iter__", all_of_them)
    visits = {}
    for side in (10**5, 10**6):
        visited.clear()
        region = Window(17, 29, side - 17, side - 29)
        found = planned(side, load_network("identity"), region=region, memory="4GiB")
        visits[side] = len(visited)
    # 940 cores of 1064 px a side, and one more at each border between shards, 469 across and 234 down, which cut a core
    # in two.
    assert found.tiles.tile_count == (940 + 469) * (940 + 234)
    # At most five kinds of rows and of columns of shards, for each setting that is weighed.
    assert 0 < visits[10**6] == visits[10**5] <= 100


def test_a_plan_takes_the_same_memory_whatever_the_raster() -> None:
    network = load_network("identity")
    planned(10**3, network)  # what the first call imports is no part of a plan

    def allocated(side: int) -> int:
        tracemalloc.start()
        try:
            planned(side, network, engine="torch")  # another one is tried first, where the raster is large
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Eight bytes for each of the large plan's 110,450 shards would be 863 KiB. Recordings of graphs vary by a few KiB.
    assert allocated(10**6) < allocated(10**3) + 256 * 1024


GROWTH = """
import json, psutil, torch, zarr
from torch.export import export
import urst_tiles.reports, urst_tiles.stylizing
from urst_tiles import load_style, plan
from urst_tiles.memory import peak_memory
export(torch.nn.ReLU(), (torch.zeros(1),), strict=False)
before = psutil.Process().memory_info().rss
array = zarr.create_array({}, shape=(10**6, 10**6, 3), chunks=(1024, 1024, 3), dtype="uint8")
print(urst_tiles.reports.plan_text(plan(array, load_style("starry-night"))))
print(json.dumps(peak_memory() - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")
def test_a_terapixel_plan_takes_less_than_200_mb_beyond_its_imports() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert "138338 (526 across, 263 down)" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) < 200e6
