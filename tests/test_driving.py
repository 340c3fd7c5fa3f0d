"""Leases: a task that hangs is given to another worker, or said to hang; shards go back and forth."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import picture, tree, write_tiff
from urst_tiles import Window, load_network, open_source, stylize
from urst_tiles.driving import Patience
from urst_tiles.errors import InputError, WorkerError
from urst_tiles.running import back_and_forth
from urst_tiles.sources.base import Pixels, Source

IDENTITY = load_network("identity")


class HangingSource:
    """A raster one read of which hangs for so many seconds: the first one of its far corner, by whatever process."""

    def __init__(self, source: Source, folder: Path, seconds: float) -> None:
        self._source, self._hung, self._seconds = source, folder / "hung", seconds

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def read(self, window: Window) -> Pixels:
        info = self._source.info
        if (window.col_end, window.row_end) == (info.width, info.height) and not self._hung.exists():
            self._hung.touch()
            time.sleep(self._seconds)
        return self._source.read(window)


def test_a_shard_that_hangs_in_this_process_is_said_so_and_the_same_call_goes_on(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", picture(300, 400))
    source = HangingSource(open_source(path), tmp_path, seconds=6)
    with pytest.raises(WorkerError, match=r"shard 20 has given no sign for 2 s .* --timeout; the same command goes on"):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32, timeout=2)
    report = stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32)
    assert report.shards_before == 20
    stylize(path, tmp_path / "calm.zarr", network=IDENTITY, window=32)
    assert tree(tmp_path / "o.zarr") == tree(tmp_path / "calm.zarr")


def test_a_shard_that_hangs_on_a_worker_is_given_to_another(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "in.tif", picture(300, 400))
    source = HangingSource(open_source(path), tmp_path, seconds=3600)
    report = stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=32, workers=2, timeout=5)
    assert (tmp_path / "hung").exists()  # it did hang
    assert report.shards == 21
    stylize(path, tmp_path / "calm.zarr", network=IDENTITY, window=32)
    assert tree(tmp_path / "o.zarr") == tree(tmp_path / "calm.zarr")


def test_patience_grows_with_the_slowest_shard() -> None:
    assert Patience().seconds(None) == 3600
    assert Patience().seconds(1.0) == 900
    assert Patience().seconds(400.0) == 4000
    assert Patience(7).seconds(400.0) == 7


@given(columns=st.integers(1, 9), rows=st.integers(1, 9), data=st.data())
def test_back_and_forth_visits_each_once_and_whole_grids_without_a_leap(
    columns: int, rows: int, data: st.DataObject
) -> None:
    order = list(back_and_forth(range(rows * columns), columns))
    assert sorted(order) == list(range(rows * columns))
    places = [divmod(index, columns) for index in order]
    assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(places))
    some = sorted(data.draw(st.sets(st.integers(0, rows * columns - 1))))
    assert sorted(back_and_forth(some, columns)) == some


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": True}, {"timeout": 0}, {"timeout": -1}])
def test_what_is_no_number_of_workers_or_seconds(tmp_path: Path, wrong: Any) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(30, 40))
    with pytest.raises(InputError):
        stylize(source, tmp_path / "o.zarr", network=IDENTITY, **wrong)
