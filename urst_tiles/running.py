"""The steps of a run, each a function, in the order :func:`~urst_tiles.stylize` calls them."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from urst_tiles import __version__
from urst_tiles.errors import RunMismatchError
from urst_tiles.estimating import store_layout
from urst_tiles.events import Callback, Event, PhaseProgress, PhaseStarted, RunStarted, ShardFinished, TilesFinished
from urst_tiles.geometry import Window
from urst_tiles.ledger import Ledger, Record
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.options import RunOptions
from urst_tiles.planning import RunPlan
from urst_tiles.runs import RunFolder, RunRecord, raster_settings, read_run, write_atomically
from urst_tiles.scheduling import ShardJob, local_client, run_shards
from urst_tiles.shards import ShardReport, crc32, to_rgb
from urst_tiles.sources.base import Source
from urst_tiles.sources.spool import spool
from urst_tiles.statistics import Statistics, collect_statistics
from urst_tiles.stores import OmeZarrStore, build_pyramid, pyramid_shards

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Run", "begin", "freeze_for", "make_pyramid", "make_record", "make_shards", "teller"]


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


def begin(
    source: Source,
    network: StyleNetwork,
    plan: RunPlan,
    options: RunOptions,
    folder: RunFolder,
    record: RunRecord,
    statistics: Statistics | None,
    tell: Callback,
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
            readable = spool(source, folder.spool)
        if resume:
            statistics = Statistics.load(folder.statistics)
        else:
            tell(PhaseStarted("statistics"))
        frozen, used = freeze_for(readable, network, statistics, options.thumbnail)
        store = _store(folder, source, plan, record, used, resume=resume)
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


def make_shards(run: Run, ledger: Ledger, client: Client | None, tell: Callback) -> list[ShardReport]:
    """Compute every shard that the ledger does not hold; returns the reports of those computed now."""
    tiles = run.plan.tiles
    if run.resumed:
        _check_resumed(run, ledger)
    todo = [index for index in range(len(tiles)) if (0, index) not in ledger]
    missing = sum(tiles[index].core.area for index in todo)
    tell(RunStarted(len(tiles), len(tiles) - len(todo), tiles.region.area, tiles.region.area - missing))
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
    if todo:
        with contextlib.nullcontext(client) if client is not None else local_client(run.plan.in_flight) as chosen:
            run_shards(
                job,
                todo,
                client=chosen,
                in_flight=run.plan.in_flight if client is None else _room(chosen),
                on_report=on_report,
                on_tiles=lambda shard, pixels: tell(TilesFinished(shard, pixels)),
            )
    return reports


def make_pyramid(run: Run, ledger: Ledger, tell: Callback) -> None:
    """Every level from the one before it, shard by shard; what an interrupted run made is not made again."""
    tell(PhaseStarted("pyramid"))
    total = sum(1 for _ in pyramid_shards(run.store.layout))

    def index(level: int, row: int, col: int) -> int:
        return row * _columns(run.store, level) + col

    def mark(level: int, row: int, col: int) -> None:
        ledger.add(Record(level, index(level, row, col)))
        done = sum(ledger.count(smaller) for smaller in range(1, len(run.store.levels)))
        tell(PhaseProgress("pyramid", done, total))

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


def _store(
    folder: RunFolder, source: Source, plan: RunPlan, record: RunRecord, statistics: Statistics, *, resume: bool
) -> OmeZarrStore:
    if resume:
        store = OmeZarrStore.open(folder.store)
        store.clean_partials()
        return store
    store = OmeZarrStore.create(folder.store, store_layout(source.info, plan.tiles, Path(source.name).stem))
    # A group of its own, so that Zarr knows what the folder is.
    write_atomically(folder.notes / "zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}\n')
    statistics.save(folder.statistics)
    folder.save_record(record)
    return store


def _check_resumed(run: Run, ledger: Ledger) -> None:
    """Forget shards whose files are gone; when the source's fingerprint changed, see that the pixels used are still
    those there are.

    A file that was truncated and is whole again goes on; one that was edited is refused.
    """
    there = read_run(run.folder.store)
    tiles, changed = run.plan.tiles, there is None or there.source != run.record.source
    for record in list(ledger.records()):
        row, col = divmod(record.index, _columns(run.store, record.level))
        if not run.store.has_shard(record.level, row, col):
            ledger.forget(record.level, record.index)
        elif changed and record.level == 0:
            _check_pixels(run.source, tiles[record.index].window, record)
    if changed:
        run.folder.save_record(run.record)


def _check_pixels(source: Source, window: Window, record: Record) -> None:
    if crc32(source.read(window)) != record.source_crc:
        raise RunMismatchError(
            f"{source.name} changed since this run began: its pixels {window} are others now. "
            "Put the old file back to go on, or use overwrite (--overwrite) to start afresh"
        )


def _columns(store: OmeZarrStore, level: int) -> int:
    """Shards across a level: what turns a shard's index into its row and column."""
    return -(-store.levels[level][0] // store.layout.shard)


def _room(client: Client) -> int:
    """Shards to keep in flight on a cluster: two a worker."""
    return max(2, 2 * len(client.scheduler_info(n_workers=-1)["workers"]))


@contextlib.contextmanager
def _removed_on_error(folder: RunFolder, *, keep: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not keep:
            folder.clear()
        raise
