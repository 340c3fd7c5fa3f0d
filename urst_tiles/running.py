"""The steps of a run whose store exists, in the order :func:`~urst_tiles.stylize` calls them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import psutil

from urst_tiles.clusters import local_client, local_workers
from urst_tiles.driving import Patience
from urst_tiles.errors import RunStopped
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
from urst_tiles.geometry import TilePlan
from urst_tiles.ledger import Ledger, Record
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.options import RunOptions
from urst_tiles.planning import RunPlan
from urst_tiles.runs import RunRecord
from urst_tiles.scheduling import ShardJob, run_shards
from urst_tiles.shards import ShardReport
from urst_tiles.sites import Site
from urst_tiles.sources.base import Source
from urst_tiles.sources.colour import AS_THEY_ARE, Colours
from urst_tiles.sources.hidden import without_hidden
from urst_tiles.statistics import Statistics, collect_statistics
from urst_tiles.stores import OmeZarrStore, build_pyramid, pyramid_shards
from urst_tiles.stores.metadata import shard_grid
from urst_tiles.strips import to_rgb

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Run",
    "Tally",
    "back_and_forth",
    "everything_done",
    "freeze_for",
    "is_empty",
    "make_pyramid",
    "make_shards",
    "shard_columns",
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
    site: Site
    record: RunRecord
    frozen: FrozenNetwork
    statistics: Statistics
    store: OmeZarrStore
    resumed: bool


@dataclass(slots=True)
class Tally:
    """What the shards computed by this process add up to; nothing in it grows with their number."""

    workers: bool = False
    # they run in processes of this machine, which end with the run

    shards: int = 0
    pixels: int = 0
    empty: int = 0
    # shards of this process's part that are empty, those of earlier runs too
    batch: int = 0
    # windows run at a time in the end; 0 where none were run
    device_peak: int = 0
    # the most bytes of a GPU that a process has held; 0 where the run is on none
    memory: int = 0
    # the most bytes that can have been resident of this process and its workers together; 0 without workers
    _peaks: dict[int, int] = field(default_factory=dict)
    # by process

    def count(self, report: ShardReport) -> None:
        self.shards += 1
        self.pixels += report.pixels
        self.empty += report.empty
        if report.batch:
            self.batch = min(report.batch, self.batch or report.batch)
        self.device_peak = max(self.device_peak, report.device_peak)
        if self.workers and report.memory:
            self._peaks[report.process] = report.memory
            self.memory = max(self.memory, psutil.Process().memory_info().rss + sum(self._peaks.values()))


def freeze_for(
    source: Source,
    network: StyleNetwork,
    statistics: Statistics | None,
    short_side: int,
    colours: Colours = AS_THEY_ARE,
) -> tuple[FrozenNetwork, Statistics]:
    """The network frozen for a raster, and the statistics used: those given, or its thumbnail's.

    The thumbnail, of ``short_side`` pixels, is read only where something is to be learnt from it.
    """
    if network.wants_content or statistics is None:
        thumbnail = to_rgb(without_hidden(source.thumbnail(short_side), source.info), source.info)
        thumbnail = colours.to_srgb(thumbnail)
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
) -> Tally:
    """Compute those of ``shards``, neighbours, that the ledger does not hold; returns the sums of those computed now.

    ``cluster`` is a Dask client, a number of processes to start here, or None for threads in this one.

    Raises:
        RunStopped: it was asked for before all were done.
    """
    tiles = run.plan.tiles
    if run.resumed:
        _forget_missing(run, ledger)
    before, tally = (
        ledger.count(0, shards),
        Tally(workers=isinstance(cluster, int), empty=ledger.count_empty(0, shards)),
    )
    todo = (index for index in shards if (0, index) not in ledger)
    pixels_before = sum(tiles.core_of(index).area for index in shards if (0, index) in ledger) if before else 0
    tell(RunStarted(len(shards), before, _pixels_of(tiles, shards), pixels_before))

    def on_report(report: ShardReport) -> None:
        ledger.add(Record(0, report.index, report.source_crc, report.target_crc, report.empty))
        tally.count(report)
        read, run_, written = report.seconds_read, report.seconds_run, report.seconds_written
        tell(ShardFinished(report.index, report.pixels, read, run_, written, report.empty))

    job = ShardJob(
        plan=tiles,
        source=run.source,
        store=run.store,
        network=run.frozen,
        batch=run.plan.batch,
        device=run.options.device,
        precision=run.options.precision,
        engine=run.plan.engine,
        device_memory=run.options.device_budget,
        calls=run.plan.calls,
        in_flight=run.plan.in_flight,
        colours=run.plan.colours,
    )
    if before < len(shards) and not stop():
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
                grouped=run.plan.reading != "bands",
            )
    if before + tally.shards < len(shards):
        stop_if_asked(stop, f"{before + tally.shards} of {len(shards)} shards were done")
    return tally


def back_and_forth(indices: Iterable[int], columns: int) -> Iterator[int]:
    """Shards row by row, every second row from its end: the next one always touches the one before. Looks at one row at
    a time."""
    for row, members in groupby(indices, lambda index: index // columns):
        found = list(members)
        yield from (reversed(found) if row % 2 else found)


def everything_done(run: Run, ledger: Ledger) -> bool:
    """Whether every shard of full size is done, whoever did it.

    Each process sees at its start that the files of what was done are there, and records come after their files: the
    ledger is enough, but for those that were gone then. A file that somebody removes meanwhile the pyramid misses.
    """
    ledger.refresh()
    columns = shard_columns(run.store, 0)
    again = sum(run.store.has_shard(0, *divmod(index, columns)) for index in ledger.gone(0))
    return ledger.count(0) + again == len(run.plan.tiles)


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
        return row * shard_columns(run.store, level) + col

    def mark(level: int, row: int, col: int, empty: bool) -> None:  # noqa: FBT001  (given by position)
        ledger.add(Record(level, index(level, row, col), empty=empty))
        done = sum(ledger.count(smaller) for smaller in range(1, len(run.store.levels)))
        tell(PhaseProgress("pyramid", done, total))
        stop_if_asked(stop, f"{done} of {total} shards of the pyramid were done")

    build_pyramid(
        run.store,
        done=lambda level, row, col: (level, index(level, row, col)) in ledger,
        mark=mark,
        empty=lambda level, row, col: is_empty(run.store, ledger, level, row, col),
        at_once=run.plan.memory.pyramid,
    )


def is_empty(store: OmeZarrStore, ledger: Ledger, level: int, row: int, col: int) -> bool:
    """Whether a shard is done and nothing of it is on disk, because it is 0 everywhere."""
    return ledger.is_empty(level, row * shard_columns(store, level) + col)


def teller(callbacks: Sequence[Callback]) -> Callback:
    """One callback that tells all of them, one event at a time whatever thread it comes from."""
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            for callback in callbacks:
                callback(event)

    return tell


def _forget_missing(run: Run, ledger: Ledger) -> None:
    """Forget shards whose files are gone."""
    for level in ledger.levels:
        columns, there = shard_columns(run.store, level), bytearray(ledger.size(level))
        for row, col in run.store.shards(level) if level < len(run.store.levels) else ():
            index = row * columns + col
            if index < len(there):
                there[index] = 1
        ledger.keep(level, there)


def _pixels_of(tiles: TilePlan, shards: range) -> int:
    """Pixels of a run of neighbouring shards, by a closed formula."""

    def before(index: int) -> int:
        row, col = divmod(index, tiles.grid[1])
        width, height = tiles.shard
        above, left = min(row * height, tiles.region.height), min(col * width, tiles.region.width)
        return above * tiles.region.width + min(height, tiles.region.height - above) * left

    return before(shards.stop) - before(shards.start)


def shard_columns(store: OmeZarrStore, level: int) -> int:
    """Shards across a level: what turns a shard's index into its row and column."""
    return shard_grid(store.layout, level)[1]


@contextlib.contextmanager
def _cluster(cluster: Client | int | None, run: Run) -> Iterator[tuple[Client, int]]:
    """A client, and how many shards to keep under way with it."""
    each = run.plan.under_way
    if cluster is None:
        with local_client(each) as client:
            yield client, each
    elif isinstance(cluster, int):
        with local_workers(cluster, each, device=run.options.device) as client:
            yield client, cluster * each
    else:
        yield cluster, each * max(1, len(cluster.scheduler_info(n_workers=-1)["workers"]))
