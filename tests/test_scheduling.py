"""Dask: a cluster gives the same bytes, errors come back as they were raised, only numbers cross the scheduler."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from tests.support import picture, tree, write_tiff
from urst_tiles import load_network, stylize
from urst_tiles.clusters import local_client
from urst_tiles.errors import SourceError
from urst_tiles.events import Event, RunStarted, ShardFinished, TilesFinished
from urst_tiles.shards import ShardReport


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    """Two worker processes."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_worker_processes_write_the_same_bytes(tmp_path: Path, cluster: Client) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(400, 500))
    network = load_network("identity")
    events: list[Event] = []
    stylize(source, tmp_path / "here.zarr", network=network, window=48)
    stylize(source, tmp_path / "there.zarr", network=network, window=48, client=cluster, callbacks=[events.append])
    assert tree(tmp_path / "here.zarr") == tree(tmp_path / "there.zarr")
    assert len([event for event in events if isinstance(event, ShardFinished)]) == 18
    assert any(isinstance(event, TilesFinished) for event in events)


def test_an_error_of_a_worker_comes_back_as_it_was_raised(tmp_path: Path, cluster: Client) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(400, 500))
    whole = source.read_bytes()

    def truncate(event: Event) -> None:
        if isinstance(event, RunStarted):
            source.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(SourceError, match=r"in\.tif"):
        stylize(
            source,
            tmp_path / "o.zarr",
            network=load_network("identity"),
            window=48,
            client=cluster,
            callbacks=[truncate],
        )


def test_a_task_sends_back_numbers() -> None:
    assert len(pickle.dumps(ShardReport(1, 2, 3, 4, 0.1, 0.2, 0.3))) < 300


def test_several_local_clusters_do_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    with local_client(1) as first, local_client(1) as second:
        assert first.submit(int, 7).result() == second.submit(int, 7).result() == 7
    assert not [warning for warning in recwarn if "Port" in str(warning.message)]
