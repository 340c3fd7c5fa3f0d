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
from urst_tiles.driving import Patience
from urst_tiles.engines.torch import TorchEngine
from urst_tiles.errors import InputError
from urst_tiles.events import Callback, PhaseProgress, PhaseStarted, RunFinished, Stop
from urst_tiles.ledger import Ledger
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.options import Part, RunKeywords, RunOptions
from urst_tiles.planning import plan_run
from urst_tiles.preparing import open_raster
from urst_tiles.running import (
    Run,
    enter,
    everything_done,
    make_pyramid,
    make_record,
    make_shards,
    stop_if_asked,
    teller,
)
from urst_tiles.runs import RunFolder
from urst_tiles.shards import ShardReport
from urst_tiles.sharing import Seat, gate
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
    part: str | None = None
    # "i/n" where only a part of the shards was asked for
    finished: bool = True
    # whether the target stands; the parts of a run leave that to the last of them

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
    workers: int | None = None,
    shards: Part | tuple[int, int] | str | None = None,
    timeout: float | None = None,
    stop: Stop = lambda: False,
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
        client: a Dask client; None runs in this process, or
        workers: in as many processes of this machine, each with a GPU of its own where there are any.
        shards: "i/n", only part i of n, for schedulers that know no Dask: the parts are calls of their own, at the same
            time or not, on one file system. The last to end finishes the result, or a call without ``shards`` does.
        timeout: seconds that a shard may give no sign before it is given to another worker; None derives it from the
            slowest shard so far, at least 15 minutes.
        stop: asked between shards and tiles; once it says True, the shards in flight are finished and RunStopped is
            raised. The library itself handles no signals.
        overwrite: replace a target or an unfinished run that stands there.
        keep_store: for a TIFF, keep the OME-Zarr it is made from as ``<target>.zarr``.
        callbacks: told what happens, one event at a time, perhaps from another thread.
        options: see :class:`~urst_tiles.options.RunOptions`.

    Raises:
        UrstTilesError: with one clear line; nothing half-written stands under the target's name then.
        RunStopped: ``stop`` said so; the same call goes on.
    """
    started, tell = time.perf_counter(), teller(callbacks)
    return_freed_memory()
    wanted, kind = RunOptions(**options), target_kind(target)
    raster, chosen, folder = open_raster(source, wanted), choose_network(style, network), RunFolder(Path(target))
    part, cluster = _checked(shards, client, workers, timeout, overwrite=overwrite)
    folder.check_target()
    run_plan = plan_run(raster, chosen, wanted, target=target, time_it=False)
    record = make_record(raster, chosen, run_plan, wanted, statistics)
    seat = Seat(folder, part)
    own = range(len(run_plan.tiles)) if part is None else part.of_shards(len(run_plan.tiles))
    if not own:
        raise InputError(f"shards {part}: there are only {len(run_plan.tiles)}; split the run into no more parts")
    run = enter(
        raster,
        chosen,
        run_plan,
        wanted,
        record,
        statistics,
        tell,
        seat=seat,
        folder=folder,
        overwrite=overwrite,
        stop=stop,
    )
    try:
        with Ledger(seat.ledger) as ledger:
            shards_started = time.perf_counter()
            reports = make_shards(run, ledger, own, cluster, tell, stop, Patience(timeout))
            seconds_shards = time.perf_counter() - shards_started
            last = part is None or _is_last(run, seat, ledger, tell)
            if last:
                make_pyramid(run, ledger, tell, stop)
        if last:
            _finish(run, kind, seat, tell, stop, overwrite=overwrite, keep_store=keep_store)
    finally:
        seat.leave()
    report = _report(run, reports, part, len(own), seconds_shards, time.perf_counter() - started, finished=last)
    if last:
        tell(RunFinished(report.shards, sum(r.pixels for r in reports), report.seconds))
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
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise InputError(f"workers must be a whole number of at least 1, not {workers!r}")
    if timeout is not None and not timeout > 0:
        raise InputError(f"a timeout of {timeout} s is none; give more than 0 seconds")
    return part, client if workers is None else workers


def _is_last(run: Run, seat: Seat, ledger: Ledger, tell: Callback) -> bool:
    """Whether this process is to finish the run: all shards are done and nobody else is at work. If it is, nobody else
    can begin to be."""
    with gate(run.folder, lambda: False, tell):
        if not (everything_done(run, ledger) and seat.alone()):
            # With the gate held: who comes next finds this seat empty.
            seat.leave()
            return False
        seat.finish()
        return True


def _finish(run: Run, kind: str, seat: Seat, tell: Callback, stop: Stop, *, overwrite: bool, keep_store: bool) -> None:
    """Give the result the target's name."""
    folder = run.folder

    def on_tile(done: int, total: int) -> None:
        tell(PhaseProgress("export", done, total))
        stop_if_asked(stop, f"{done} of {total} tiles of the TIFF were written (they are written again)")

    if kind == "bigtiff" and not folder.exported():
        tell(PhaseStarted("export"))
        folder.mark_export()
        export_bigtiff(run.store, folder.target, overwrite=overwrite, on_tile=on_tile)
    with gate(folder, lambda: False, tell):
        seat.leave()
        if kind == "bigtiff":
            folder.finish_export(keep_store=keep_store)
        else:
            folder.finish_omezarr()
        folder.clear_spool()


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


def _report(
    run: Run,
    reports: Sequence[ShardReport],
    part: Part | None,
    shards: int,
    seconds_shards: float,
    seconds: float,
    *,
    finished: bool,
) -> RunReport:
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
        shards_before=shards - len(reports),
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
        part=None if part is None else str(part),
        finished=finished,
    )
