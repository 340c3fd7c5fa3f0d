"""How a process comes to a run: it goes on with the one that stands at its target, or begins it."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from urst_tiles import __version__
from urst_tiles.errors import RunMismatchError
from urst_tiles.estimating import store_layout
from urst_tiles.events import Callback, PhaseStarted, Stop
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.options import RunOptions
from urst_tiles.planning import RunPlan
from urst_tiles.reading import as_it_is_read
from urst_tiles.running import Run, freeze_for, shard_columns, stop_if_asked
from urst_tiles.runs import Begun, RunRecord, raster_settings
from urst_tiles.shards import source_crc
from urst_tiles.sites import Site
from urst_tiles.sources.base import Source
from urst_tiles.sources.spool import spool
from urst_tiles.statistics import Statistics

__all__ = ["Wanted", "enter"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for, all of it checked."""

    source: Source
    network: StyleNetwork
    plan: RunPlan
    options: RunOptions
    statistics: Statistics | None
    # None: the thumbnail's
    site: Site


def _make_record(wanted: Wanted) -> RunRecord:
    """What decides the pixels of a run, before it starts."""
    source, network, plan, options = wanted.source, wanted.network, wanted.plan, wanted.options
    tiles, statistics = plan.tiles, wanted.statistics
    settings = {
        "source": raster_settings(source),
        "network": {"name": network.name, "weights": network.weights_hash},
        "geometry": {
            "window": tiles.window,
            "halo": tiles.halo,
            "stride": tiles.stride,
            "cores": tiles.cores,
            "region": str(tiles.region),
        },
        "statistics": statistics.hash() if statistics is not None else f"thumbnail {options.thumbnail}",
        "engine": plan.engine,
        "precision": options.precision,
        "output_profile": options.output_profile,
    }
    libraries = ("torch", "zarr", "tifffile", "pyvips", "dask", "numpy")
    versions = {"urst-tiles": __version__, "python": platform.python_version()}
    return RunRecord(settings, source.fingerprint(), versions | {name: version(name) for name in libraries})


def enter(site: Site, planned: Callable[[Begun | None], Wanted], tell: Callback, stop: Stop, *, overwrite: bool) -> Run:
    """Take part in the run that stands at the target, or begin it, so that of several processes one creates it and the
    others find it. ``planned`` is asked for what is wanted, given the run that stands there; once more where another
    process began one meanwhile that chose otherwise.

    Raises:
        StoreError: what stands there is not this run, or another process is at it.
        RunStopped: it was asked for.
    """
    begun = None if overwrite else Begun.of(site.record())
    while True:
        wanted = planned(begun)
        try:
            return _enter(wanted, tell, stop, overwrite=overwrite)
        except RunMismatchError:
            before, begun = begun, Begun.of(site.record())
            if overwrite or begun in (None, before):
                raise


def _enter(wanted: Wanted, tell: Callback, stop: Stop, *, overwrite: bool) -> Run:
    site, record = wanted.site, _make_record(wanted)
    with site.gate(stop, tell):
        resume = site.prepare(record, overwrite=overwrite)
        run = _begin(wanted, record, tell, stop, resume=resume)
        if run is None:
            site.prepare(record, overwrite=False)
            run = _begin(wanted, record, tell, stop, resume=True)
        if run is None:
            raise AssertionError("a run that is gone on with is there")
        site.join(run.store, resumed=run.resumed)
        if run.resumed:
            _check_source(run)
    return run


def _begin(wanted: Wanted, record: RunRecord, tell: Callback, stop: Stop, *, resume: bool) -> Run | None:
    """Collect the statistics and create the store, or take both up from an interrupted run. None: another process
    created it meanwhile.

    When this fails for a new run, nothing is left behind.
    """
    site, source, plan = wanted.site, wanted.source, wanted.plan
    with _removed_on_error(site, keep=resume):
        readable = _readable(wanted, tell, stop, measured=resume or wanted.statistics is not None)
        statistics = site.statistics() if resume else wanted.statistics
        if not resume:
            tell(PhaseStarted("statistics"))
        frozen, used = freeze_for(readable, wanted.network, statistics, wanted.options.thumbnail, plan.colours)
        layout = store_layout(source.info, plan.tiles, Path(source.name).stem, plan.colours)
        if not resume and not site.create(layout, record, used):
            return None
        return Run(readable, plan, wanted.options, site, record, frozen, used, site.store(), resume)


def _readable(wanted: Wanted, tell: Callback, stop: Stop, *, measured: bool) -> Source:
    """The raster as its plan reads it; an unpacked copy, unless it was ``measured``, with a thumbnail that was made
    meanwhile."""
    if wanted.plan.reading != "spool":
        return as_it_is_read(wanted.source, wanted.plan.tiles, wanted.plan.reading)
    tell(PhaseStarted("spool"))
    with wanted.site.unpacking(stop, tell) as folder:
        return spool(
            wanted.source,
            folder,
            thumbnail=None if measured else wanted.options.thumbnail,
            progress=lambda _: stop_if_asked(stop, "the raster was unpacked"),
        )


def _check_source(run: Run) -> None:
    """When the source's fingerprint changed, see that the pixels used are still those there are.

    A file that was truncated and is whole again goes on; one that was edited is refused.
    """
    there = run.site.record()
    if there is not None and there.source == run.record.source:
        return
    columns = shard_columns(run.store, 0)
    with run.site.ledger() as ledger:
        for record in ledger.records():
            if record.level == 0 and (record.empty or run.store.has_shard(0, *divmod(record.index, columns))):
                shard = run.plan.tiles[record.index]
                if source_crc(run.source, shard) != record.source_crc:
                    raise RunMismatchError(
                        f"{run.source.name} changed since this run began: its pixels {shard.window} are others now. "
                        "Put the old file back to go on, or use overwrite (--overwrite) to start afresh"
                    )
    run.site.save_record(run.record)


@contextlib.contextmanager
def _removed_on_error(site: Site, *, keep: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not keep:
            site.abandon()
        raise
