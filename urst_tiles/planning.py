"""Ask before spending: windows, shards, memory, disk and time of a run, without touching a pixel of the source."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from urst_tiles.allocator import free_cycles, return_free_pages
from urst_tiles.costs import NetworkCosts
from urst_tiles.deployment import Deployment
from urst_tiles.engines.choosing import EngineName, suitable, why_not
from urst_tiles.engines.llvm_engine import schedule_of
from urst_tiles.errors import InputError, NetworkError
from urst_tiles.estimating import store_layout
from urst_tiles.fitting import GPU_BATCH, Fitting, fit
from urst_tiles.geometry import SHARD_CORES, TilePlan, default_window
from urst_tiles.memory import MemoryEstimate, MemoryPart, format_bytes
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.networks.interior import work_inside
from urst_tiles.objects import is_url
from urst_tiles.options import DEFAULT_WINDOW, RunKeywords, RunOptions
from urst_tiles.preparing import open_raster
from urst_tiles.reading import Reading
from urst_tiles.runs import Begun
from urst_tiles.sites import open_site
from urst_tiles.sources.base import RasterInfo, Source
from urst_tiles.sources.colour import Colours
from urst_tiles.sources.shrink import thumbnail_size
from urst_tiles.sources.spool import spool_bytes
from urst_tiles.stores import Exporter, ExportOptions
from urst_tiles.trial import seconds_per_pixel
from urst_tiles.turns import under_way

if TYPE_CHECKING:
    from urst_tiles.engines.llvm.schedule import Schedule

__all__ = ["RunPlan", "plan", "plan_run"]


_UNTRIED = ("the engine is to be tried on this network when the run begins; another one runs it if the pixels differ",)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run before it starts."""

    source: RasterInfo
    network: str
    tiles: TilePlan
    batch: int
    # windows a call of the network
    in_flight: int
    # shards of which a worker holds pixels at a time
    calls: int
    # of the network that a worker makes at the same time
    thumbnail: tuple[int, int]
    # (width, height) of the thumbnail
    memory: MemoryEstimate
    budget: int | None
    # in bytes
    device_room: int | None
    # bytes of the GPU that may be held: the budget, or what is free there; None where the run is not on one
    disk: tuple[MemoryPart, ...]
    # at most, before compression
    seconds: float | None
    # estimated from a short trial of the network on this machine; None when not tried
    notes: tuple[str, ...]
    # what was changed or should be known, one sentence each
    colours: Colours
    # what is done about the ICC profile
    engine: EngineName
    # what runs the network
    reading: Reading
    # how windows of the raster are come to

    @property
    def under_way(self) -> int:
        """Shards that a worker works on at a time: see :func:`~urst_tiles.turns.under_way`."""
        return under_way(self.in_flight, self.calls)

    def to_json(self) -> dict[str, Any]:
        tiles, rows_cols = self.tiles, self.tiles.grid
        return {
            "source": {
                name: value
                for name, value in dataclasses.asdict(self.source).items()
                if name not in ("icc_profile", "notes")
            },
            "network": self.network,
            "width": tiles.region.width,
            "height": tiles.region.height,
            "region": [tiles.region.col_off, tiles.region.row_off, tiles.region.width, tiles.region.height],
            "window": tiles.window,
            "halo": tiles.halo,
            "stride": tiles.stride,
            "core": tiles.core,
            "shards": len(tiles),
            "shard_grid": {"rows": rows_cols[0], "cols": rows_cols[1]},
            "windows": tiles.tile_count,
            "overhead": round(tiles.overhead, 4),
            "batch": self.batch,
            "in_flight": self.in_flight,
            "calls": self.calls,
            "engine": self.engine,
            "thumbnail": list(self.thumbnail),
            "memory": _memory_json(self.memory, self.budget),
            "device_memory": self.memory.device and _memory_json(self.memory.device, self.device_room),
            "reading": self.reading,
            "disk": {part.name: part.bytes for part in self.disk},
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def _memory_json(memory: MemoryEstimate, budget: int | None) -> dict[str, Any]:
    return {
        "bytes": memory.bytes,
        "budget": budget,
        "phases": {phase.name: {part.name: part.bytes for part in phase.parts} for phase in memory.phases},
    }


def plan(
    source: object,
    network: StyleNetwork,
    *,
    target: str | Path | None = None,
    workers: int | None = None,
    time_it: bool = True,
    **options: Unpack[RunKeywords],
) -> RunPlan:
    """Plan a run; touches no pixel of the source.

    Parameters:
        source: a path, URL, array or Source.
        workers: as for :func:`~urst_tiles.stylize`: the memory is that of all processes.
        target: its name; an export to another format than OME-Zarr is checked and counted. Where an unfinished run
            stands in that folder, its windows and its engine are kept, as :func:`~urst_tiles.stylize` keeps them.
        time_it: try the network on a small random picture to estimate the time; without, the engine is not tried
            either, and a run may fall back on PyTorch.
        options: see :class:`~urst_tiles.options.RunOptions`.

    Raises:
        SourceError, InputError: the raster cannot be opened, or an option is out of range.
        MemoryBudgetError: nothing fits the budget; it names the smallest that works.
    """
    importlib.import_module("urst_tiles.stylizing")  # what a run loads is part of what its process holds
    wanted = RunOptions(**options)
    return plan_run(
        open_raster(source, wanted),
        network,
        wanted,
        deployment=Deployment.of(target, workers),
        time_it=time_it,
        settle=time_it or wanted.engine != "auto",
        begun=None if target is None or is_url(target) else Begun.of(open_site(target, None, None).record()),
    )


def plan_run(
    source: Source,
    network: StyleNetwork,
    options: RunOptions,
    *,
    deployment: Deployment,
    time_it: bool,
    settle: bool = True,
    begun: Begun | None = None,
) -> RunPlan:
    """:func:`plan`, from values that are checked already.

    Without ``settle`` the engine that is preferred is not tried on this network, which loads and compiles it.
    ``begun`` is the unfinished run that is to be gone on with: what ``options`` leave open is as it has it.
    """
    made = _planned(source, network, options, deployment, begun, time_it=time_it, settle=settle)
    if time_it:
        free_cycles()  # of the engine that was tried
    return made


def _planned(
    source: Source,
    network: StyleNetwork,
    options: RunOptions,
    deployment: Deployment,
    begun: Begun | None,
    *,
    time_it: bool,
    settle: bool,
) -> RunPlan:
    info = source.info
    frozen = network.freeze(network.neutral_statistics)
    colours = Colours.of(info, options.output_profile)
    engines = _engines(info, options, begun)
    schedule = _scheduled(frozen, engines, options)
    if schedule is None:
        engines = tuple(each for each in engines if each != "llvm") or ("torch",)
    costs = NetworkCosts.of(network, frozen, schedule)
    # What this process holds is counted next: what recording the network has left is not part of it.
    free_cycles()
    return_free_pages()
    fitting, refused = _fit_engine(source, network, costs, options, colours, deployment, engines, begun, settle=settle)
    tiles = fitting.tiles
    layout = store_layout(info, tiles, colours=colours)
    return RunPlan(
        source=info,
        network=network.name,
        tiles=tiles,
        batch=fitting.batch,
        in_flight=fitting.in_flight,
        calls=fitting.calls,
        thumbnail=thumbnail_size(info.width, info.height, options.thumbnail),
        memory=fitting.memory,
        budget=options.budget,
        device_room=fitting.room,
        disk=_disk(source, tiles, deployment.exporter, fitting.reading),
        seconds=_estimated_seconds(frozen, options, fitting) if time_it else None,
        notes=(
            *_notes(info, network, options, fitting, colours, begun),
            *_device_notes(options, fitting),
            *refused,
            *(() if deployment.exporter is None else deployment.exporter.check(layout, ExportOptions())),
        ),
        colours=colours,
        engine=fitting.engine,
        reading=fitting.reading,
    )


def _engines(info: RasterInfo, options: RunOptions, begun: Begun | None) -> tuple[EngineName, ...]:
    """Those to be considered, the preferred one first: that of a run that has begun alone, if it can be here.

    Raises:
        InputError: what was asked for cannot be here.
    """
    if begun is not None and options.engine == "auto":
        with contextlib.suppress(InputError):
            return suitable(begun.engine, device=options.device, precision=options.precision, pixels=info.pixels)
    return suitable(options.engine, device=options.device, precision=options.precision, pixels=info.pixels)


def _scheduled(frozen: FrozenNetwork, engines: tuple[EngineName, ...], options: RunOptions) -> Schedule | None:
    """What the LLVM engine does with a network; None where it is not considered, or does not take it.

    Raises:
        InputError: it does not take it, and was asked for.
    """
    if "llvm" not in engines:
        return None
    try:
        return schedule_of(frozen)
    except NetworkError as error:
        if options.engine == "llvm":
            raise InputError(str(error)) from error
        return None


def _fit_engine(
    source: Source,
    network: StyleNetwork,
    costs: NetworkCosts,
    options: RunOptions,
    colours: Colours,
    deployment: Deployment,
    engines: tuple[EngineName, ...],
    begun: Begun | None,
    *,
    settle: bool,
) -> tuple[Fitting, tuple[str, ...]]:
    """What fits, with an engine that was tried on this network, and a sentence for each that was to be preferred; or,
    not to ``settle`` that, what fits with the preferred one. ``engines``: the preferred one first.

    Raises:
        InputError: the engine asked for is not here, or not for this network.
    """
    refused: list[str] = []
    while True:
        fitting = fit(source, network, costs, options, colours, deployment, engines, begun)
        if not settle:
            return fitting, _UNTRIED if fitting.engine in ("llvm", "openvino") else ()
        # bfloat16 is off by levels wherever it is computed: that was asked for.
        reason = None
        if options.precision == "float32" and fitting.engine in ("llvm", "openvino"):
            reason = why_not(network, fitting.engine)
            free_cycles()  # of the engine that was tried: the run's own comes beside it
        if reason is None:
            return fitting, tuple(f"{each}: another engine runs it" for each in refused)
        if len(engines) == 1:  # it was asked for, or is that of a run that has begun
            raise InputError(reason)
        refused.append(reason.removesuffix("; use --engine torch"))
        engines = tuple(each for each in engines if each != fitting.engine)


def _disk(source: Source, tiles: TilePlan, exporter: Exporter | None, reading: Reading) -> tuple[MemoryPart, ...]:
    info = source.info
    size = tiles.region.area * (4 if info.alpha else 3) * np.dtype(info.dtype).itemsize
    parts = [
        MemoryPart("store", size, "every pixel, before compression"),
        MemoryPart("pyramid", size // 3, "a third of it"),
    ]
    if exporter is not None:
        parts.append(MemoryPart(exporter.title, size + size // 3, "the same again, before compression"))
    if reading == "spool":
        parts.append(
            MemoryPart("spool", spool_bytes(source), f"{info.format} cannot be read at random: an unpacked copy")
        )
    return tuple(parts)


def _estimated_seconds(frozen: FrozenNetwork, options: RunOptions, fitting: Fitting) -> float:
    pixels = _pixels_run(frozen, fitting.tiles, fitting.engine)
    speed = seconds_per_pixel(  # which may move the network to a GPU
        frozen,
        window=fitting.tiles.window,
        device=options.device,
        precision=options.precision,
        engine=fitting.engine,
        device_memory=options.device_budget,
        calls=fitting.calls,
    )
    return speed * pixels


def _pixels_run(frozen: FrozenNetwork, tiles: TilePlan, engine: EngineName) -> float:
    """Of whole windows that take as long as all windows do: less is computed of those inside the raster."""
    inside = tiles.inside_count * tiles.window**2
    if not inside or engine == "openvino" or tiles.halo < frozen.halo:
        return tiles.window_pixels
    return tiles.window_pixels - inside * (1.0 - work_inside(frozen, tiles.window))


def _notes(
    info: RasterInfo,
    network: StyleNetwork,
    options: RunOptions,
    fitting: Fitting,
    colours: Colours,
    begun: Begun | None,
) -> tuple[str, ...]:
    tiles, reading = fitting.tiles, fitting.reading
    notes = [*info.notes, *colours.notes, *_window_notes(options, tiles, begun)]
    if options.halo is not None and tiles.halo != options.halo:
        notes.append(f"the halo is {tiles.halo} px: {options.halo} is no multiple of the stride {tiles.stride}")
    if tiles.halo < network.halo:
        notes.append(f"a halo of {tiles.halo} px is less than this network needs ({network.halo}): seams will show")
    if reading == "spool":
        notes.append(f"{info.format} cannot be read at random: it is unpacked once to a scratch file first")
    if reading == "bands":
        notes.append(
            f"{info.format} cannot be read at random: it is decoded twice from top to bottom, for the thumbnail and "
            "for the windows"
        )
    return tuple(notes)


def _window_notes(options: RunOptions, tiles: TilePlan, begun: Begun | None) -> tuple[str, ...]:
    """Why the window is not the one that was asked for, or the usual one."""
    window, usual = tiles.window, default_window(tiles.halo, tiles.stride, DEFAULT_WINDOW)
    if options.window is not None:
        why = f"{options.window} is no multiple of the stride {tiles.stride}"
        return () if window == options.window else (f"the window is {window} px: {why}",)
    if begun is not None and window != usual:
        return (f"the window is {window} px: the unfinished run that stands there has it so",)
    if window > DEFAULT_WINDOW:
        why = "the budget allows it" if tiles.cores < SHARD_CORES else f"the halo is {tiles.halo}"
        return (f"the window grew from {DEFAULT_WINDOW} to {window} px: {why}",)
    return () if window >= usual else (f"the window shrank to {window} px to fit the memory budget",)


def _device_notes(options: RunOptions, fitting: Fitting) -> tuple[str, ...]:
    """What the GPU's memory, or that there is none, has changed."""
    device, room, batch = fitting.memory.device, fitting.room, fitting.batch
    if device is None or room is None:
        return () if options.device_budget is None else ("the run is on a CPU: the budget of a GPU decides nothing",)
    if device.bytes > room:
        return (
            f"{format_bytes(room)} of the GPU's memory are free, and the sum is {format_bytes(device.bytes)}: "
            "it may run out. A smaller --window needs less",
        )
    if options.batch is None and batch < GPU_BATCH:
        return (f"{batch} instead of {GPU_BATCH} windows a call, to fit into {format_bytes(room)} of the GPU's memory",)
    return ()
