"""Ask before spending: windows, shards, memory, disk and time of a run, without touching a pixel of the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from urst_tiles.engines.torch import choose_device
from urst_tiles.errors import InputError, MemoryBudgetError
from urst_tiles.estimating import NetworkCosts, estimate_memory
from urst_tiles.geometry import TilePlan, default_window, plan_tiles
from urst_tiles.memory import MemoryEstimate, MemoryPart, format_bytes
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.options import DEFAULT_WINDOW, RunKeywords, RunOptions
from urst_tiles.preparing import open_raster
from urst_tiles.sources.base import RasterInfo, Source
from urst_tiles.sources.shrink import thumbnail_size
from urst_tiles.sources.spool import spool_bytes
from urst_tiles.stores import target_kind
from urst_tiles.trial import seconds_per_pixel

__all__ = ["RunPlan", "plan", "plan_run"]

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run before it starts."""

    source: RasterInfo
    network: str
    tiles: TilePlan
    batch: int
    # windows a call of the network
    in_flight: int
    # shards a worker holds at a time
    thumbnail: tuple[int, int]
    # (width, height) of the thumbnail
    memory: MemoryEstimate
    budget: int | None
    # in bytes
    disk: tuple[MemoryPart, ...]
    # at most, before compression
    seconds: float | None
    # estimated from a short trial of the network on this machine; None when not tried
    notes: tuple[str, ...]
    # what was changed or should be known, one sentence each

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
            "thumbnail": list(self.thumbnail),
            "memory": {
                "bytes": self.memory.bytes,
                "budget": self.budget,
                "phases": {phase.name: {part.name: part.bytes for part in phase.parts} for phase in self.memory.phases},
            },
            "disk": {part.name: part.bytes for part in self.disk},
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


def plan(
    source: object,
    network: StyleNetwork,
    *,
    target: str | Path | None = None,
    time_it: bool = True,
    **options: Unpack[RunKeywords],
) -> RunPlan:
    """Plan a run; touches no pixel of the source.

    Parameters:
        source: a path, URL, array or Source.
        target: decides whether the export of a TIFF is counted.
        time_it: try the network on a small random picture to estimate the time.
        options: see :class:`~urst_tiles.options.RunOptions`.

    Raises:
        SourceError, InputError: the raster cannot be opened, or an option is out of range.
        MemoryBudgetError: nothing fits the budget; it names the smallest that works.
    """
    wanted = RunOptions(**options)
    return plan_run(open_raster(source, wanted), network, wanted, target=target, time_it=time_it)


def plan_run(
    source: Source, network: StyleNetwork, options: RunOptions, *, target: str | Path | None, time_it: bool
) -> RunPlan:
    """:func:`plan`, from values that are checked already."""
    info = source.info
    export = target is not None and target_kind(target) == "bigtiff"
    frozen = network.freeze(network.neutral_statistics)
    costs = NetworkCosts.of(network, frozen)
    smallest: int | None = None
    for tiles, batch, in_flight in _candidates(info, network, options):
        memory = estimate_memory(source, costs, tiles, batch, in_flight, thumbnail=options.thumbnail, export=export)
        if options.budget is None or memory.bytes <= options.budget:
            break
        smallest = memory.bytes if smallest is None else min(smallest, memory.bytes)
    else:
        needed = smallest or 0
        raise MemoryBudgetError(
            f"a budget of {format_bytes(options.budget or 0)} is too small; the smallest that works here is "
            f"{-(-needed // _MIB)} MiB (--memory {-(-needed // _MIB)}MiB)",
            smallest=-(-needed // _MIB) * _MIB,
        )
    return RunPlan(
        source=info,
        network=network.name,
        tiles=tiles,
        batch=batch,
        in_flight=in_flight,
        thumbnail=thumbnail_size(info.width, info.height, options.thumbnail),
        memory=memory,
        budget=options.budget,
        disk=_disk(info, tiles, export=export),
        seconds=_estimated_seconds(frozen, options, tiles) if time_it else None,
        notes=_notes(info, network, options, tiles),
    )


def _candidates(info: RasterInfo, network: StyleNetwork, options: RunOptions) -> Iterator[tuple[TilePlan, int, int]]:
    """Plans from the preferred one to the leanest: fewer shards in flight, then smaller batches, then smaller
    windows."""
    batch = options.batch or (1 if choose_device(options.device).type == "cpu" else 8)
    windows = list(_windows(network, options))
    for position, window in enumerate(windows):
        tiles = plan_tiles(
            info.width,
            info.height,
            window=window,
            halo=_halo(network, options),
            stride=network.stride,
            region=options.part,
        )
        if position == 0:
            yield tiles, batch, 2
            yield tiles, batch, 1
            smaller = batch // 2
            while options.batch is None and smaller >= 1:
                yield tiles, smaller, 1
                smaller //= 2
        else:
            yield tiles, options.batch or 1, 1


def _halo(network: StyleNetwork, options: RunOptions) -> int:
    if options.halo is None:
        return network.halo
    return -(-options.halo // network.stride) * network.stride


def _windows(network: StyleNetwork, options: RunOptions) -> Iterator[int]:
    halo, stride = _halo(network, options), network.stride
    if options.window is not None:
        window = options.window // stride * stride
        if window < 2 * halo + stride:
            raise InputError(
                f"window {options.window} leaves no core: this network's halo is {halo} ({network.name}). "
                f"Use --window {default_window(halo, stride, 2 * halo + stride)} or larger"
            )
        yield window
        return
    window = default_window(halo, stride, DEFAULT_WINDOW)
    yield window
    if options.budget is not None:
        least = default_window(halo, stride, max(4 * halo, 128))
        for share in (0.75, 0.5, 0.35, 0.25):
            smaller = int(window * share) // stride * stride
            if smaller > least:
                yield smaller
        if least < window:
            yield least


def _disk(info: RasterInfo, tiles: TilePlan, *, export: bool) -> tuple[MemoryPart, ...]:
    size = tiles.region.area * (4 if info.alpha else 3) * np.dtype(info.dtype).itemsize
    parts = [
        MemoryPart("store", size, "every pixel, before compression"),
        MemoryPart("pyramid", size // 3, "a third of it"),
    ]
    if export:
        parts.append(MemoryPart("tiff", size + size // 3, "the same again, before compression"))
    if not info.random_access:
        parts.append(
            MemoryPart("spool", spool_bytes(info), f"{info.format} cannot be read at random: an unpacked copy")
        )
    return tuple(parts)


def _estimated_seconds(frozen: FrozenNetwork, options: RunOptions, tiles: TilePlan) -> float:
    speed = seconds_per_pixel(frozen, window=tiles.window, device=options.device, precision=options.precision)
    return speed * tiles.window_pixels


def _notes(info: RasterInfo, network: StyleNetwork, options: RunOptions, tiles: TilePlan) -> tuple[str, ...]:
    notes = list(info.notes)
    if options.window is None and tiles.window > DEFAULT_WINDOW:
        notes.append(f"the window grew from {DEFAULT_WINDOW} to {tiles.window} px: the halo is {tiles.halo}")
    if options.window is None and tiles.window < default_window(tiles.halo, tiles.stride, DEFAULT_WINDOW):
        notes.append(f"the window shrank to {tiles.window} px to fit the memory budget")
    if options.window is not None and tiles.window != options.window:
        notes.append(f"the window is {tiles.window} px: {options.window} is no multiple of the stride {tiles.stride}")
    if options.halo is not None and tiles.halo != options.halo:
        notes.append(f"the halo is {tiles.halo} px: {options.halo} is no multiple of the stride {tiles.stride}")
    if tiles.halo < network.halo:
        notes.append(f"a halo of {tiles.halo} px is less than this network needs ({network.halo}): seams will show")
    if info.colour == "grey" and info.icc_profile is not None:
        notes.append("the profile is one of grey and cannot describe the RGB result: it is left out")
    if not info.random_access:
        notes.append(f"{info.format} cannot be read at random: it is unpacked once to a scratch file first")
    return tuple(notes)
