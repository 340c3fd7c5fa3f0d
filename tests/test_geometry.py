"""Windows, tiles and shards by hand; their laws stand in test_laws.py."""

from __future__ import annotations

import pickle

import pytest

from urst_tiles.errors import InputError
from urst_tiles.geometry import TilePlan, Window, default_window, plan_tiles


def test_window_arithmetic() -> None:
    a, b = Window(2, 3, 10, 20), Window(8, 0, 10, 5)
    assert a.intersect(b) == Window(8, 3, 4, 2)
    assert a.intersect(Window(12, 3, 1, 1)) is None
    assert a.hull(b) == Window(2, 0, 16, 23)
    assert b.relative_to(Window(5, 0, 1, 1)) == Window(3, 0, 10, 5)
    assert a.slices == (slice(3, 23), slice(2, 12))
    assert str(a) == "2,3,10,20"


@pytest.mark.parametrize("numbers", [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0)])
def test_a_window_refuses_what_is_none(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError):
        Window(*numbers)


def test_the_papers_grid() -> None:
    plan = plan_tiles(10000, 10000, window=1064, halo=32, stride=4)
    assert plan.core == 1000
    assert plan.grid == (3, 5)
    assert plan.tile_count == 100
    first, last = plan[0], plan[-1]
    assert [tile.window for tile in first.tiles[:2]] == [Window(0, 0, 1032, 1032), Window(968, 0, 1064, 1032)]
    assert last.core == Window(8000, 8000, 2000, 2000)
    assert last.tiles[-1].crop == Window(32, 32, 1000, 1000)


def test_a_region_keeps_the_whole_rasters_windows() -> None:
    whole = plan_tiles(5000, 4000, window=264, halo=32, stride=8)
    part = plan_tiles(5000, 4000, window=264, halo=32, stride=8, region=Window(777, 333, 1500, 901))
    windows = {tile.window for shard in whole for tile in shard.tiles}
    assert {tile.window for shard in part for tile in shard.tiles} <= windows
    assert part[0].core.col_off == 777
    assert part.overhead > whole.overhead


def test_a_terapixel_plan_costs_nothing() -> None:
    plan = plan_tiles(10**6, 10**6, window=1064, halo=56, stride=4)
    assert len(plan) == 263 * 526
    assert plan[len(plan) - 1].core.col_end == 10**6
    assert len(pickle.dumps(plan)) < 400
    assert 1.2 < plan.overhead < 1.3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": 112}, "leaves no core"),
        ({"window": 1065}, "multiples"),
        ({"halo": 55}, "multiples"),
        ({"region": Window(0, 0, 101, 10)}, "outside"),
        ({"width": 0}, "nothing to stylize"),
    ],
)
def test_impossible_plans_say_why(change: dict[str, object], words: str) -> None:
    settings: dict[str, object] = {"width": 100, "height": 100, "window": 1064, "halo": 56, "stride": 4} | change
    width, height = settings.pop("width"), settings.pop("height")
    with pytest.raises(InputError, match=words):
        plan_tiles(width, height, **settings)  # type: ignore[arg-type]


def test_slices_and_bounds() -> None:
    plan = plan_tiles(3000, 1000, window=100, halo=8, stride=4)
    assert [shard.index for shard in plan[1:4]] == [1, 2, 3]
    with pytest.raises(IndexError):
        plan[len(plan)]
    assert isinstance(plan, TilePlan)


@pytest.mark.parametrize(("halo", "stride", "window"), [(56, 4, 1064), (640, 16, 2560), (265, 8, 1064), (0, 1, 1064)])
def test_the_window_grows_with_the_halo(halo: int, stride: int, window: int) -> None:
    assert default_window(halo, stride) == window
