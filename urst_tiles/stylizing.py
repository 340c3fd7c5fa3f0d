"""stylize(): a thumbnail is run through a style network once, its normalisation statistics freeze the network into a
plain convolution net, and that net is applied window by window to a raster that never sits in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from urst_tiles.allocator import return_freed_memory
from urst_tiles.deployment import Deployment
from urst_tiles.driving import Patience
from urst_tiles.errors import InputError
from urst_tiles.events import Callback, PhaseProgress, PhaseStarted, RunFinished, Stop
from urst_tiles.joining import Wanted, enter
from urst_tiles.ledger import Ledger
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.options import Part, RunKeywords, RunOptions
from urst_tiles.planning import RunPlan, plan_run
from urst_tiles.preparing import open_raster
from urst_tiles.results import RunReport, make_report
from urst_tiles.running import Run, everything_done, is_empty, make_pyramid, make_shards, stop_if_asked, teller
from urst_tiles.runs import Begun
from urst_tiles.sites import open_site
from urst_tiles.statistics import Statistics
from urst_tiles.stores import Exporter, ExportOptions, exporter_for
from urst_tiles.stores.sparse import SparseStore
from urst_tiles.styles import load_style

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["RunReport", "choose_network", "stylize"]


def stylize(
    source: object,
    target: str | Path,
    *,
    style: str | None = None,
    network: StyleNetwork | None = None,
    statistics: Statistics | None = None,
    client: Client | None = None,
    workers: int | None = None,
    shards: Part | tuple[int, int] | str | None = None,
    timeout: float | None = None,
    stop: Stop = lambda: False,
    overwrite: bool = False,
    keep_store: bool = False,
    scratch: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[RunKeywords],
) -> RunReport:
    """Stylize a raster of any size into an OME-Zarr (``.zarr``), or through one into any format that
    :func:`~urst_tiles.export` writes: BigTIFF (``.tif``), COG (``.cog.tif``), Deep Zoom (``.dzi``), JPEG …

    An interrupted run is taken up again by the same call.

    Parameters:
        source: a path, URL, array or Source.
        target: the result's name, a path or an fsspec URL (``s3://bucket/name.zarr``, for a ``.zarr`` only); it appears
            when the result is whole: below a URL it is complete when ``<target>/zarr.json`` stands there. Endpoints and
            credentials are fsspec's own business: see its configuration, or that of the cloud's tools.
        style: a shipped style's name; or
        network: a network from :func:`~urst_tiles.load_network`. One of the two.
        statistics: used instead of the thumbnail's, for several rasters that must match.
        client: a Dask client; None runs in this process, or
        workers: in as many processes of this machine, each with a GPU of its own where there are any.
        shards: "i/n", only part i of n, for schedulers that know no Dask: the parts are calls of their own, at the same
            time or not, on one file system or with one URL. The last to end finishes the result, or a call without
            ``shards`` does.
        timeout: seconds that a shard may give no sign before it is given to another worker; None derives it from the
            slowest shard so far, at least 15 minutes.
        stop: asked between shards and tiles; once it says True, the shards that have begun are finished and
            RunStopped is raised. The library itself handles no signals.
        overwrite: replace a target or an unfinished run that stands there. Below a URL it is removed first, and no
            other process may be at it.
        keep_store: for another format, keep the OME-Zarr it is made from as ``<target>.zarr``.
        scratch: a folder that exists, for rasters that have to be unpacked before a run (PNG, JPEG); None: beside the
            target, where that is local. The copy is removed by whoever finishes the result; with a URL, other machines'
            copies stay on them.
        callbacks: told what happens, one event at a time, perhaps from another thread.
        options: see :class:`~urst_tiles.options.RunOptions`.

    Raises:
        UrstTilesError: with one clear line; nothing half-written stands under the target's name then.
        RunStopped: ``stop`` said so; the same call goes on.
    """
    started, tell = time.perf_counter(), teller(callbacks)
    return_freed_memory()
    wanted, exporter = RunOptions(**options), exporter_for(target)
    deployment = Deployment.of(target, workers, alone=shards is None and client is None)
    raster, chosen = open_raster(source, wanted), choose_network(style, network)
    part, cluster = _checked(shards, client, workers, timeout, overwrite=overwrite)
    site = open_site(target, part, scratch)
    site.check()
    if exporter.name != "omezarr" and not Path(site.target).exists():
        exporter.check_target(Path(site.target), overwrite=overwrite)  # where it is there, the run says whose it is

    def planned(begun: Begun | None) -> Wanted:
        made = plan_run(raster, chosen, wanted, deployment=deployment, time_it=False, begun=begun)
        if made.reading == "spool":
            site.check_unpacking(raster)
        _own(part, made)
        return Wanted(raster, chosen, made, wanted, statistics, site)

    try:
        run = enter(site, planned, tell, stop, overwrite=overwrite)
        own = _own(part, run.plan)
        with site.ledger() as ledger:
            shards_started = time.perf_counter()
            tally = make_shards(run, ledger, own, cluster, tell, stop, Patience(timeout))
            seconds_shards = time.perf_counter() - shards_started
            last = site.is_last(lambda: everything_done(run, ledger), tell)
            if last:
                make_pyramid(run, ledger, tell, stop)
                _export(run, exporter, ledger, tell, stop, overwrite=overwrite)
                run.store.clean_partials()  # of workers that hung or died while they made a shard
        if last:
            site.finish(exporter.name, tell, keep_store=keep_store)
    finally:
        site.leave()
    report = make_report(run, tally, part, len(own), seconds_shards, time.perf_counter() - started, finished=last)
    if last:
        tell(RunFinished(report.shards, tally.pixels, report.seconds))
    return report


def _checked(
    shards: Part | tuple[int, int] | str | None,
    client: Client | None,
    workers: int | None,
    timeout: float | None,
    *,
    overwrite: bool,
) -> tuple[Part | None, Client | int | None]:
    """The part asked for and where to run it."""
    part = Part.of(shards)
    if part is not None and overwrite:
        raise InputError(
            "shards and overwrite together: the parts would remove each other's work. Remove what stands there first"
        )
    if client is not None and workers is not None:
        raise InputError("give either a Dask cluster (--scheduler) or a number of workers (--workers), not both")
    if timeout is not None and not timeout > 0:
        raise InputError(f"a timeout of {timeout} s is none; give more than 0 seconds")
    return part, client if workers is None else workers


def _own(part: Part | None, planned: RunPlan) -> range:
    """The indices of the shards that this call is to make.

    Raises:
        InputError: the part has none.
    """
    own = range(len(planned.tiles)) if part is None else part.of_shards(len(planned.tiles))
    if not own:
        raise InputError(f"shards {part}: there are only {len(planned.tiles)}; split the run into no more parts")
    return own


def _export(run: Run, exporter: Exporter, ledger: Ledger, tell: Callback, stop: Stop, *, overwrite: bool) -> None:
    """Write what is wanted instead of the store, unless it stands there."""
    target = run.site.export_to(exporter.name)
    if target is None:
        return
    rest = "the same command goes on" if exporter.resumes else "they are written again"

    def on_progress(done: int, total: int) -> None:
        tell(PhaseProgress("export", done, total))
        stop_if_asked(stop, f"{done} of {total} parts of the {exporter.title} were written ({rest})")

    tell(PhaseStarted("export"))
    store = SparseStore(run.store, lambda *place: is_empty(run.store, ledger, *place))
    exporter.write(store, target, ExportOptions(), overwrite=overwrite, on_progress=on_progress)


def choose_network(style: str | None, network: StyleNetwork | None) -> StyleNetwork:
    """The one of the two that was given.

    Raises:
        InputError: both or neither were.
    """
    if network is not None and style is None:
        return network
    if style is not None and network is None:
        return load_style(style)
    raise InputError("give either a style or a network, not " + ("both" if style else "neither"))
