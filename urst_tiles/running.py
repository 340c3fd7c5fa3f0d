"""The steps of a run, each a function, in the order :func:`~urst_tiles.stylize` calls them."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from urst_tiles import __version__
from urst_tiles.clusters import local_client, local_workers
from urst_tiles.driving import Patience
from urst_tiles.errors import RunMismatchError, RunStopped
from urst_tiles.estimating import store_layout
from urst_tiles.events import (
    Callback,
    Event,
    PhaseProgress,
    PhaseStarted,
    RunStarted,
    ShardFinished,
    Stop,
    TilesFinished,
)
from urst_tiles.geometry import Window
from urst_tiles.ledger import Ledger, Record
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.options import RunOptions
from urst_tiles.planning import RunPlan
from urst_tiles.runs import RunFolder, RunRecord, raster_settings, read_run, save_record, write_atomically
from urst_tiles.scheduling import ShardJob, run_shards
from urst_tiles.shards import ShardReport, crc32, to_rgb
from urst_tiles.sharing import Seat, gate
from urst_tiles.sources.base import Source
from urst_tiles.sources.spool import spool
from urst_tiles.statistics import Statistics, collect_statistics
from urst_tiles.stores import OmeZarrStore, build_pyramid, pyramid_shards

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Run",
    "back_and_forth",
    "enter",
    "everything_done",
    "freeze_for",
    "make_pyramid",
    "make_record",
    "make_shards",
    "stop_if_asked",
    "teller",
]


@dataclass(frozen=True, slots=True)
class Run:
    """A run whose store exists."""

    source: Source
    # read from: the raster itself, or its unpacked copy
    plan: RunPlan
    options: RunOptions
    folder: RunFolder
    record: RunRecord
    frozen: FrozenNetwork
    statistics: Statistics
    store: OmeZarrStore
    resumed: bool


def make_record(
    source: Source, network: StyleNetwork, plan: RunPlan, options: RunOptions, statistics: Statistics | None
) -> RunRecord:
    """What decides the pixels of a run, before it starts."""
    tiles = plan.tiles
    settings = {
        "source": raster_settings(source),
        "network": {"name": network.name, "weights": network.weights_hash},
        "geometry": {
            "window": tiles.window,
            "halo": tiles.halo,
            "stride": tiles.stride,
            "region": str(tiles.region),
        },
        "statistics": statistics.hash() if statistics is not None else f"thumbnail {options.thumbnail}",
        "precision": options.precision,
    }
    libraries = ("torch", "zarr", "tifffile", "pyvips", "dask", "numpy")
    versions = {"urst-tiles": __version__, "python": platform.python_version()}
    return RunRecord(settings, source.fingerprint(), versions | {name: version(name) for name in libraries})


def enter(
    source: Source,
    network: StyleNetwork,
    plan: RunPlan,
    options: RunOptions,
    record: RunRecord,
    statistics: Statistics | None,
    tell: Callback,
    *,
    seat: Seat,
    folder: RunFolder,
    overwrite: bool,
    stop: Stop,
) -> Run:
    """Take a seat at the run that stands in a folder, or begin it: with the gate held, so that of several processes one
    creates it and the others find it.

    Raises:
        StoreError: what stands there is not this run, or another process is at it.
    """
    with gate(folder, stop, tell):
        folder.discard_new()
        state = folder.state(record, overwrite=overwrite)
        if state == "resume" or overwrite:
            seat.check()
        if state == "new":
            folder.clear()
        run = _begin(source, network, plan, options, folder, record, statistics, tell, stop, resume=state == "resume")
        if run.resumed and seat.alone():
            run.store.clean_partials()
        seat.take()
        if run.resumed:
            with Ledger(seat.ledger) as ledger:
                _check_source(run, ledger)
    return run


def _begin(
    source: Source,
    network: StyleNetwork,
    plan: RunPlan,
    options: RunOptions,
    folder: RunFolder,
    record: RunRecord,
    statistics: Statistics | None,
    tell: Callback,
    stop: Stop,
    *,
    resume: bool,
) -> Run:
    """Collect the statistics and create the store, or take both up from an interrupted run.

    When this fails for a new run, nothing is left behind.
    """
    with _removed_on_error(folder, keep=resume):
        readable = source
        if not source.info.random_access:
            tell(PhaseStarted("spool"))
            folder.spool.mkdir(exist_ok=True)
            readable = spool(source, folder.spool, progress=lambda _: stop_if_asked(stop, "the raster was unpacked"))
        if resume:
            statistics = Statistics.load(folder.statistics)
        else:
            tell(PhaseStarted("statistics"))
        frozen, used = freeze_for(readable, network, statistics, options.thumbnail)
        store = OmeZarrStore.open(folder.store) if resume else _create(folder, source, plan, record, used)
    return Run(readable, plan, options, folder, record, frozen, used, store, resume)


def freeze_for(
    source: Source, network: StyleNetwork, statistics: Statistics | None, short_side: int
) -> tuple[FrozenNetwork, Statistics]:
    """The network frozen for a raster, and the statistics used: those given, or its thumbnail's.

    The thumbnail, of ``short_side`` pixels, is read only where something is to be learnt from it.
    """
    if network.wants_content or statistics is None:
        thumbnail = to_rgb(source.thumbnail(short_side), source.info)
        network = network.for_content(thumbnail)
        if statistics is None:
            statistics = collect_statistics(network, thumbnail)
    return network.freeze(statistics), statistics


def make_shards(
    run: Run,
    ledger: Ledger,
    shards: range,
    cluster: Client | int | None,
    tell: Callback,
    stop: Stop,
    patience: Patience,
) -> list[ShardReport]:
    """Compute those of ``shards`` that the ledger does not hold; returns the reports of those computed now.

    ``cluster`` is a Dask client, a number of processes to start here, or None for threads in this one.

    Raises:
        RunStopped: it was asked for before all were done.
    """
    tiles = run.plan.tiles
    if run.resumed:
        _forget_missing(run, ledger)
    todo = [index for index in shards if (0, index) not in ledger]
    pixels, missing = (sum(tiles[index].core.area for index in indices) for indices in (shards, todo))
    tell(RunStarted(len(shards), len(shards) - len(todo), pixels, pixels - missing))
    reports: list[ShardReport] = []

    def on_report(report: ShardReport) -> None:
        ledger.add(Record(0, report.index, report.source_crc, report.target_crc))
        reports.append(report)
        tell(
            ShardFinished(report.index, report.pixels, report.seconds_read, report.seconds_run, report.seconds_written)
        )

    job = ShardJob(
        plan=tiles,
        source=run.source,
        store=run.store,
        network=run.frozen,
        batch=run.plan.batch,
        device=run.options.device,
        precision=run.options.precision,
    )
    if todo and not stop():
        with _cluster(cluster, run) as (chosen, room):
            run_shards(
                job,
                back_and_forth(todo, tiles.grid[1]),
                client=chosen,
                in_flight=room,
                on_report=on_report,
                on_tiles=lambda shard, pixels: tell(TilesFinished(shard, pixels)),
                stop=stop,
                patience=patience,
            )
    if len(reports) < len(todo):
        stop_if_asked(stop, f"{len(shards) - len(todo) + len(reports)} of {len(shards)} shards were done")
    return reports


def back_and_forth(indices: Sequence[int], columns: int) -> Iterator[int]:
    """Shards row by row, every second row from its end: the next one always touches the one before."""
    for row, members in groupby(indices, lambda index: index // columns):
        found = list(members)
        yield from (reversed(found) if row % 2 else found)


def everything_done(run: Run, ledger: Ledger) -> bool:
    """Whether every shard of full size is done, whoever did it."""
    ledger.refresh()
    shards, columns = range(len(run.plan.tiles)), _columns(run.store, 0)
    return all((0, index) in ledger and run.store.has_shard(0, *divmod(index, columns)) for index in shards)


def stop_if_asked(stop: Stop, done: str) -> None:
    """
    Raises:
        RunStopped: it is asked for; ``done`` says how far the run has come.
    """
    if stop():
        raise RunStopped(f"stopped as asked when {done}; the same command goes on")


def make_pyramid(run: Run, ledger: Ledger, tell: Callback, stop: Stop) -> None:
    """Every level from the one before it, shard by shard; what an interrupted run made is not made again.

    Raises:
        RunStopped: it was asked for.
    """
    stop_if_asked(stop, "all shards were done")
    tell(PhaseStarted("pyramid"))
    total = sum(1 for _ in pyramid_shards(run.store.layout))

    def index(level: int, row: int, col: int) -> int:
        return row * _columns(run.store, level) + col

    def mark(level: int, row: int, col: int) -> None:
        ledger.add(Record(level, index(level, row, col)))
        done = sum(ledger.count(smaller) for smaller in range(1, len(run.store.levels)))
        tell(PhaseProgress("pyramid", done, total))
        stop_if_asked(stop, f"{done} of {total} shards of the pyramid were done")

    build_pyramid(
        run.store,
        done=lambda level, row, col: (level, index(level, row, col)) in ledger,
        mark=mark,
    )


def teller(callbacks: Sequence[Callback]) -> Callback:
    """One callback that tells all of them, one event at a time whatever thread it comes from."""
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            for callback in callbacks:
                callback(event)

    return tell


def _create(
    folder: RunFolder, source: Source, plan: RunPlan, record: RunRecord, statistics: Statistics
) -> OmeZarrStore:
    """The empty store with all that makes it a run: it gets its name when that is complete, so that a run killed here
    is begun again and one that has its name can be gone on with."""
    OmeZarrStore.create(folder.new, store_layout(source.info, plan.tiles, Path(source.name).stem))
    notes = folder.new / folder.notes.name
    # A group of its own, so that Zarr knows what the folder is.
    write_atomically(notes / "zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}\n')
    statistics.save(notes / folder.statistics.name)
    save_record(folder.new, record)
    folder.reveal()
    return OmeZarrStore.open(folder.store)


def _check_source(run: Run, ledger: Ledger) -> None:
    """When the source's fingerprint changed, see that the pixels used are still those there are.

    A file that was truncated and is whole again goes on; one that was edited is refused.
    """
    there = read_run(run.folder.store)
    if there is not None and there.source == run.record.source:
        return
    for record in ledger.records():
        if record.level == 0 and run.store.has_shard(0, *divmod(record.index, _columns(run.store, 0))):
            _check_pixels(run.source, run.plan.tiles[record.index].window, record)
    run.folder.save_record(run.record)


def _forget_missing(run: Run, ledger: Ledger) -> None:
    """Forget shards whose files are gone."""
    for record in list(ledger.records()):
        if not run.store.has_shard(record.level, *divmod(record.index, _columns(run.store, record.level))):
            ledger.forget(record.level, record.index)


def _check_pixels(source: Source, window: Window, record: Record) -> None:
    if crc32(source.read(window)) != record.source_crc:
        raise RunMismatchError(
            f"{source.name} changed since this run began: its pixels {window} are others now. "
            "Put the old file back to go on, or use overwrite (--overwrite) to start afresh"
        )


def _columns(store: OmeZarrStore, level: int) -> int:
    """Shards across a level: what turns a shard's index into its row and column."""
    return -(-store.levels[level][0] // store.layout.shard)


@contextlib.contextmanager
def _cluster(cluster: Client | int | None, run: Run) -> Iterator[tuple[Client, int]]:
    """A client, and how many shards to keep in flight with it."""
    each = run.plan.in_flight
    if cluster is None:
        with local_client(each) as client:
            yield client, each
    elif isinstance(cluster, int):
        with local_workers(cluster, each, device=run.options.device) as client:
            yield client, cluster * each
    else:
        yield cluster, max(2, 2 * len(cluster.scheduler_info(n_workers=-1)["workers"]))


@contextlib.contextmanager
def _removed_on_error(folder: RunFolder, *, keep: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not keep:
            folder.clear()
        raise
