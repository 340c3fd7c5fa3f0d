"""Shards too small for a task each: several go together, and nothing else changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import picture, tree, write_tiff
from urst_tiles import Window, load_network, open_source, stylize
from urst_tiles.driving import Driver
from urst_tiles.errors import SourceError
from urst_tiles.events import Event, ShardFinished, TilesFinished
from urst_tiles.geometry import plan_tiles
from urst_tiles.running import back_and_forth
from urst_tiles.scheduling import ShardJob, _JobPlugin
from urst_tiles.sources.base import Pixels, Source
from urst_tiles.statistics import Statistics

IDENTITY = load_network("identity")
WINDOW, WIDTH, HEIGHT = 4, 8, 16
"""In pixels: of a window, and of a shard."""
SIDE = 320
ACROSS, COUNT = SIDE // WIDTH, SIDE // WIDTH * (SIDE // HEIGHT)


class Faulty:
    """A raster with a shard that cannot be read, or that takes long."""

    def __init__(self, source: Source, shard: int, seconds: float | None = None) -> None:
        self._source, self._shard, self._seconds = source, divmod(shard, ACROSS), seconds

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def read(self, window: Window) -> Pixels:
        if (window.row_off // HEIGHT, window.col_off // WIDTH) == self._shard:
            if self._seconds is None:
                raise SourceError("a bad sector")
            time.sleep(self._seconds)
        return self._source.read(window)


@pytest.fixture(autouse=True)
def nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard reads its own window: a tile of this raster is larger than shards, and one read would serve many."""
    monkeypatch.setattr("urst_tiles.reading.edge_bytes", lambda *_: 0)


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiff(tmp_path_factory.mktemp("small") / "in.tif", picture(SIDE, SIDE))


@pytest.fixture(scope="module")
def alone(raster: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result with a task for each."""
    target = tmp_path_factory.mktemp("small") / "alone.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Driver, "_together", lambda _: 1)
        stylize(raster, target, network=IDENTITY, window=WINDOW)
    return target


def _take_no_task_for_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is."""
    for module in ("driving", "scheduling"):
        monkeypatch.setattr(f"urst_tiles.{module}.TASK_SECONDS", 60.0)


def test_many_small_shards_share_tasks_and_are_told_of_one_by_one(
    raster: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, events = list[int](), list[Event]()
    submit = Driver._submit

    def counted(self: Driver, shards: Sequence[int], attempt: int) -> Any:
        tasks.append(len(shards))
        return submit(self, shards, attempt)

    monkeypatch.setattr(Driver, "_submit", counted)
    _take_no_task_for_slow(monkeypatch)
    stylize(raster, tmp_path / "o.zarr", network=IDENTITY, window=WINDOW, callbacks=[events.append])
    assert tasks[:32] == [1] * 32
    assert sum(tasks) >= COUNT > 2 * len(tasks)
    assert sorted(event.shard for event in events if isinstance(event, ShardFinished)) == list(range(COUNT))
    told = Counter[int]()
    for event in events:
        if isinstance(event, TilesFinished):
            told[event.shard] += event.pixels
    assert set(told.values()) == {WIDTH * HEIGHT}
    assert len(told) == COUNT
    assert tree(tmp_path / "o.zarr") == tree(alone)


def test_what_a_task_did_before_a_shard_failed_is_kept(
    raster: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What slow tasks give back is not asked for again once a shard has failed.
    _take_no_task_for_slow(monkeypatch)
    order = list(back_and_forth(range(COUNT), ACROSS))
    bad = order[250]
    with pytest.raises(SourceError, match="a bad sector"):
        stylize(Faulty(open_source(raster), bad), tmp_path / "o.zarr", network=IDENTITY, window=WINDOW)
    report = stylize(raster, tmp_path / "o.zarr", network=IDENTITY, window=WINDOW)
    assert 250 <= report.shards_before < COUNT
    assert tree(tmp_path / "o.zarr") == tree(alone)


def test_a_task_that_takes_long_gives_the_rest_back(raster: Path, alone: Path, tmp_path: Path) -> None:
    source = Faulty(open_source(raster), 2, seconds=0.3)
    job = ShardJob(
        plan=plan_tiles(SIDE, SIDE, window=WINDOW, halo=0, stride=1),
        source=source,
        store=SimpleNamespace(write_strips=lambda _level, _row, _col, strips: list(strips)),
        network=IDENTITY.freeze(Statistics({})),
        batch=1,
        device="cpu",
        precision="float32",
    )
    plugin = _JobPlugin("job", job)
    worker: Any = SimpleNamespace(log_event=lambda *_: None, address="here")
    plugin.setup(worker)
    assert [report.index for report in plugin.process(range(6))] == [0, 1, 2]
    stylize(source, tmp_path / "o.zarr", network=IDENTITY, window=WINDOW)
    assert tree(tmp_path / "o.zarr") == tree(alone)
