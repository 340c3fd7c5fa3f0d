"""kill -9 at random moments of a run's life, of the driver, of workers, of both: law 9, and law 10 with processes."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from tests.faults_support import RECORD, ended, kill, recorded, start, wait_for, workers_of
from tests.stores_support import run_python
from tests.support import left_in, picture, tree, write_tiff
from urst_tiles import load_network, stylize
from urst_tiles.ledger import Record
from urst_tiles.networks.untrained import untrained

IDENTITY = load_network("identity")
SHARDS = 99
"""Of full size in a raster of 1100 x 1300 px with windows of 32 px; 45 more are in its pyramid."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiff(tmp_path_factory.mktemp("faults") / "in.tif", picture(1100, 1300), tile=128)


@pytest.fixture(scope="module")
def calm(source: Path) -> dict[str, str]:
    """What an undisturbed run in one process writes."""
    stylize(source, source.with_name("calm.zarr"), network=IDENTITY, window=32, thumbnail=64)
    return tree(source.with_name("calm.zarr"))


def litter(target: Path, rng: random.Random) -> None:
    """What a power cut may add: a torn record, a partial file of a shard, half a store that was being created."""
    store = target.with_name(target.name + ".partial.zarr")
    ledger = store / "urst" / "ledger" / "main.log"
    if ledger.exists():
        with ledger.open("ab") as file:  # in step: the driver that was killed may have torn its own last record
            file.truncate(file.tell() - file.tell() % RECORD)
            file.write(Record(0, 98, 1, 2).pack()[: rng.randrange(1, RECORD)])
        (store / "0" / "c" / "0" / "0").mkdir(parents=True, exist_ok=True)
        (store / "0" / "c" / "0" / "0" / "1.abc.partial").write_bytes(b"half a shard")
    (target.with_name(target.name + ".partial.new.zarr") / "urst").mkdir(parents=True, exist_ok=True)


def test_random_kills_over_a_runs_life_end_byte_identical(tmp_path: Path) -> None:
    """20 drivers killed at random moments of their lives, the store's creation among them."""
    source = write_tiff(tmp_path / "in.tif", picture(300, 400))
    (tmp_path / "runs").mkdir()
    done = run_python(
        "from tests.kill_loop import main; import sys, json; from pathlib import Path; "
        "print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), 20, 3)))",
        source,
        tmp_path / "runs",
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= 20
    assert told["runs"] >= 1
    # They died before there was a run and during it.
    assert any(name.startswith(".partial.new.zarr") for name in told["left"])
    assert ".partial.zarr" in told["left"]


def test_workers_and_drivers_killed_end_byte_identical(tmp_path: Path, source: Path, calm: dict[str, str]) -> None:
    """Two workers die under a driver that goes on; a worker and the driver die together; the next one ends it."""
    rng, target = random.Random(7), tmp_path / "o.zarr"
    process = start(source, target, "--workers", 2)
    for at in (10, 30):
        assert wait_for(process, lambda at=at: recorded(target) >= at and len(workers_of(process)) > 0)  # type: ignore[misc]
        kill(rng.choice(workers_of(process)))
    assert wait_for(process, lambda: recorded(target) >= 60)
    for worker in workers_of(process)[:1]:
        kill(worker)
    process.send_signal(signal.SIGKILL)
    assert ended(process)[0] == -signal.SIGKILL
    litter(target, rng)
    before = recorded(target)
    report = stylize(source, target, network=IDENTITY, window=32, thumbnail=64)
    assert report.shards_before == before  # whatever was recorded is not computed again
    assert tree(target) == calm
    assert left_in(tmp_path) == ["o.zarr"]


def test_workers_die_with_a_driver_that_is_killed(tmp_path: Path, source: Path) -> None:
    process = start(source, tmp_path / "o.zarr", "--workers", 2)
    assert wait_for(process, lambda: recorded(tmp_path / "o.zarr") > 0)
    workers = workers_of(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    for worker in workers:
        worker.wait(timeout=30)


def test_law_10_two_worker_processes_equal_none(tmp_path: Path) -> None:
    source = write_tiff(tmp_path / "in.tif", picture(300, 410, 4))
    network = untrained(width=8, seed=1)
    for name, workers in (("here.zarr", None), ("one.zarr", 1), ("two.zarr", 2)):
        stylize(source, tmp_path / name, network=network, window=144, thumbnail=48, workers=workers)
    assert tree(tmp_path / "here.zarr") == tree(tmp_path / "one.zarr") == tree(tmp_path / "two.zarr")
