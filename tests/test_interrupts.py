"""Ctrl-C and SIGTERM, as a flag in Python and as real signals to a real process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.faults_support import ended, recorded, start, wait_for
from tests.support import left_in, picture, tree, write_tiff
from urst_tiles import load_network, plan, stylize
from urst_tiles.errors import RunStopped
from urst_tiles.events import Event, PhaseProgress, PhaseStarted, ShardFinished
from urst_tiles.interrupts import Interrupted, StopFlag, stop_on_signals
from urst_tiles.networks.untrained import untrained
from urst_tiles.turns import Turns

IDENTITY = load_network("identity")


@pytest.mark.parametrize("phase", ["statistics", "shards", "pyramid", "export"])
def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_bytes(tmp_path: Path, phase: str) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(300, 400))
    asked, events = StopFlag(), list[Event]()

    def watch(event: Event) -> None:
        events.append(event)
        match event:
            case PhaseStarted(name) | PhaseProgress(name, _, _) if name == phase:
                asked.signal = signal.SIGINT
            case ShardFinished() if phase == "shards":
                asked.signal = signal.SIGINT

    with pytest.raises(RunStopped, match="the same command goes on"):
        stylize(source, tmp_path / "o.tif", network=IDENTITY, window=32, stop=asked, callbacks=[watch], keep_store=True)
    finished = [event for event in events if isinstance(event, ShardFinished)]
    # 21 shards; those that have begun, at most two, are finished.
    assert len(finished) in {"statistics": {0}, "shards": {1, 2, 3}}.get(phase, {21})
    assert left_in(tmp_path) == ["in.tif", "o.tif.partial.zarr"]
    report = stylize(source, tmp_path / "o.tif", network=IDENTITY, window=32, keep_store=True)
    assert report.shards_before == len(finished)
    stylize(source, tmp_path / "calm.tif", network=IDENTITY, window=32, keep_store=True)
    assert tree(tmp_path / "o.tif.zarr") == tree(tmp_path / "calm.tif.zarr")
    assert (tmp_path / "o.tif").read_bytes() == (tmp_path / "calm.tif").read_bytes()


def test_a_shard_that_waits_for_others_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    network = untrained(width=8, seed=1)
    raster = write_tiff(tmp_path / "in.tif", picture(120, 300))
    options: dict[str, Any] = {"window": 144, "thumbnail": 48, "engine": "llvm"}
    planned = plan(raster, network, time_it=False, **options)
    if planned.calls == 1:
        pytest.skip("one core: shards take no turns")
    assert (planned.in_flight, planned.under_way) == (2, 3)
    asked, told, finished, places = StopFlag(), threading.Event(), list[int](), count(1)
    shard, end = Turns.shard, Turns.end

    @contextmanager
    def held(turns: Turns) -> Iterator[None]:
        with shard(turns):
            if next(places) == 2:
                asked.signal = signal.SIGINT
            assert told.wait(60)
            yield

    def tell(turns: Turns) -> None:
        end(turns)
        told.set()

    def watch(event: Event) -> None:
        if isinstance(event, ShardFinished):
            finished.append(event.shard)

    monkeypatch.setattr(Turns, "shard", held)
    monkeypatch.setattr(Turns, "end", tell)
    with pytest.raises(RunStopped, match="the same command goes on"):
        stylize(raster, tmp_path / "o.zarr", stop=asked, callbacks=[watch], network=network, **options)
    assert len(finished) == 2  # of the three that were under way
    shards = [place for place in (tmp_path / "o.zarr.partial.zarr" / "0" / "c").rglob("*") if place.is_file()]
    assert len(shards) == 2  # and nothing half-written
    report = stylize(raster, tmp_path / "o.zarr", network=network, **options)
    assert report.shards_before == 2
    stylize(raster, tmp_path / "calm.zarr", network=network, **options)
    assert tree(tmp_path / "o.zarr") == tree(tmp_path / "calm.zarr")


def test_the_handlers_are_there_only_while_they_are_needed() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def stopped_run() -> None:
        with stop_on_signals() as asked:
            assert not asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked()
            raise RunStopped("stopped as asked")

    with pytest.raises(Interrupted) as caught:
        stopped_run()
    assert caught.value.status == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_signals_to_a_run_with_workers_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The whole process group is signalled, as a terminal and a batch system do."""
    source = write_tiff(tmp_path / "in.tif", picture(1100, 1300), tile=128)
    target = tmp_path / "o.zarr"
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process, before = start(source, target, "--workers", 2), recorded(target)
        assert wait_for(process, lambda before=before: recorded(target) > before)  # type: ignore[misc]
        os.killpg(process.pid, number)
        found, err = ended(process)
        assert found == status, err
        assert err.splitlines()[0].startswith("stopping when the work in flight is on disk")
        assert err.splitlines()[1].startswith("stopped as asked when")
        assert len(err.splitlines()) == 2
        # Those in flight were finished and recorded: nothing half-written is left.
        assert not list(tmp_path.rglob("*.partial"))
        assert before < recorded(target) < 99
    stylize(source, target, network=IDENTITY, window=32, thumbnail=64)
    stylize(source, tmp_path / "calm.zarr", network=IDENTITY, window=32, thumbnail=64)
    assert tree(target) == tree(tmp_path / "calm.zarr")


def test_twice_stops_now(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(1100, 1300), tile=128)
    process = start(source, tmp_path / "o.zarr")
    assert wait_for(process, lambda: recorded(tmp_path / "o.zarr") > 0)
    process.send_signal(signal.SIGSTOP)  # so that both are there when it goes on
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    status, err = ended(process)
    assert status in (130, 143)
    assert err.splitlines()[-1] == "stopped; the same command goes on where it stopped"
    assert not (tmp_path / "o.zarr").exists()
