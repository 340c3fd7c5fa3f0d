"""stylize(): a thumbnail is run through a style network once, its normalisation statistics freeze the network into a
plain convolution net, and that net is applied window by window to a raster that never sits in memory."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import psutil

from urst_tiles.allocator import return_freed_memory
from urst_tiles.engines.torch import TorchEngine
from urst_tiles.errors import InputError
from urst_tiles.events import Callback, PhaseProgress, PhaseStarted, RunFinished
from urst_tiles.ledger import Ledger
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.options import RunKeywords, RunOptions
from urst_tiles.planning import plan_run
from urst_tiles.running import Run, begin, make_pyramid, make_record, make_shards, teller
from urst_tiles.runs import RunFolder
from urst_tiles.shards import ShardReport
from urst_tiles.sources import open_source
from urst_tiles.statistics import Statistics
from urst_tiles.stores import export_bigtiff, target_kind
from urst_tiles.styles import load_style

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["RunReport", "choose_network", "peak_memory", "stylize"]


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did."""

    target: Path
    width: int
    # of the result, in pixels
    height: int
    shards: int
    # computed by this run
    shards_before: int
    # done by earlier, interrupted runs
    seconds: float
    # from call to return
    seconds_shards: float
    # of these, for the shards; the rest is start-up, statistics, pyramid and export
    megapixels_per_second: float
    # pixels produced by this run over seconds_shards
    peak_memory: int
    # of this process since it started, in bytes
    memory_estimate: int
    # the plan's, in bytes
    engine: str
    window: int
    halo: int
    statistics: str
    # hash of the statistics
    notes: tuple[str, ...]
    # what was changed on the way or should be known, one sentence each

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "target": str(self.target), "notes": list(self.notes)}


def stylize(
    source: object,
    target: str | Path,
    *,
    style: str | None = None,
    network: StyleNetwork | None = None,
    statistics: Statistics | None = None,
    client: Client | None = None,
    overwrite: bool = False,
    keep_store: bool = False,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[RunKeywords],
) -> RunReport:
    """Stylize a raster of any size into an OME-Zarr (``.zarr``) or a BigTIFF (``.tif``, ``.tiff``, ``.btf``).

    An interrupted run is taken up again by the same call.

    Parameters:
        source: a path, URL, array or Source.
        target: the result's name; it appears when the result is whole.
        style: a shipped style's name; or
        network: a network from :func:`~urst_tiles.load_network`. One of the two.
        statistics: used instead of the thumbnail's, for several rasters that must match.
        client: a Dask client; None runs in this process.
        overwrite: replace a target or an unfinished run that stands there.
        keep_store: for a TIFF, keep the OME-Zarr it is made from as ``<target>.zarr``.
        callbacks: told what happens, one event at a time, perhaps from another thread.
        options: see :class:`~urst_tiles.options.RunOptions`.

    Raises:
        UrstTilesError: with one clear line; nothing half-written stands under the target's name then.
    """
    started, tell = time.perf_counter(), teller(callbacks)
    return_freed_memory()
    wanted, kind = RunOptions(**options), target_kind(target)
    raster, chosen, folder = open_source(source), choose_network(style, network), RunFolder(Path(target))
    folder.check_target()
    run_plan = plan_run(raster, chosen, wanted, target=target, time_it=False)
    record = make_record(raster, chosen, run_plan, wanted, statistics)
    state = folder.state(record, overwrite=overwrite)
    if state == "new":
        folder.clear()
    run = begin(raster, chosen, run_plan, wanted, folder, record, statistics, tell, resume=state == "resume")
    with folder.locked(), Ledger(folder.ledger) as ledger:
        shards_started = time.perf_counter()
        reports = make_shards(run, ledger, client, tell)
        seconds_shards = time.perf_counter() - shards_started
        make_pyramid(run, ledger, tell)
    if kind == "bigtiff":
        tell(PhaseStarted("export"))
        export_bigtiff(
            run.store,
            folder.target,
            overwrite=overwrite,
            on_tile=lambda done, total: tell(PhaseProgress("export", done, total)),
        )
        folder.finish_export(keep_store=keep_store)
    else:
        folder.finish_omezarr()
    folder.clear_spool()
    report = _report(run, reports, seconds_shards, time.perf_counter() - started)
    tell(RunFinished(report.shards, sum(r.pixels for r in reports), report.seconds))
    return report


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


def peak_memory() -> int:
    """The most that was resident of this process since it started, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: there a process begins with the peak of the one that started it.
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _report(run: Run, reports: Sequence[ShardReport], seconds_shards: float, seconds: float) -> RunReport:
    tiles = run.plan.tiles
    notes = list(run.plan.notes)
    if run.statistics.degenerate:
        notes.append(
            "the thumbnail is nearly blank: the statistics of "
            f"{len(run.statistics.degenerate)} layers are degenerate and amplify what little there is"
        )
    return RunReport(
        target=run.folder.target,
        width=tiles.region.width,
        height=tiles.region.height,
        shards=len(reports),
        shards_before=len(tiles) - len(reports),
        seconds=seconds,
        seconds_shards=seconds_shards,
        megapixels_per_second=sum(report.pixels for report in reports) / max(seconds_shards, 1e-9) / 1e6,
        peak_memory=peak_memory(),
        memory_estimate=run.plan.memory.bytes,
        engine=TorchEngine(run.frozen, device=run.options.device, precision=run.options.precision).description,
        window=tiles.window,
        halo=tiles.halo,
        statistics=run.statistics.hash(),
        notes=tuple(notes),
    )
