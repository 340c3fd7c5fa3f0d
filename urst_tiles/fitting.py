"""Which window, batch and number of shards in flight: the preferred ones that fit the budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from urst_tiles.costs import NetworkCosts
from urst_tiles.deployment import Deployment, cores
from urst_tiles.engines.choosing import EngineName, most_calls
from urst_tiles.engines.devices import choose_device, free_bytes
from urst_tiles.errors import InputError, MemoryBudgetError
from urst_tiles.estimating import estimate_memory
from urst_tiles.geometry import SHARD_CORES, TilePlan, default_window, plan_tiles
from urst_tiles.memory import MemoryEstimate, format_bytes
from urst_tiles.networks.base import StyleNetwork
from urst_tiles.options import DEFAULT_WINDOW, RunOptions
from urst_tiles.reading import Reading, ways_to_read
from urst_tiles.runs import Begun
from urst_tiles.sources.base import RasterInfo, Source
from urst_tiles.sources.colour import Colours

__all__ = ["GPU_BATCH", "Fitting", "fit"]

_MIB = 2**20
_SWAYS = 8 * _MIB
"""What a process holds when it plans is not the same each time, by a few MiB. The budget that is named as the smallest
must do for the next one."""

GPU_BATCH = 8
"""Windows a call of the network on a GPU, where they fit; one on a CPU."""

GPU_IN_FLIGHT = (4, 12)
"""Shards that a worker holds at a time on a GPU, where they fit: one for each core that it has, at least so many and at
most so many. Reading and writing a shard takes a core far longer than a fast GPU takes to run it."""

_WORTH: Mapping[EngineName, float] = MappingProxyType({"llvm": 0.95, "openvino": 0.95, "torch": 0.6, "compile": 0.6})
"""Pixels run in larger windows, over those in windows of the usual size, under which they are worth their memory.
LLVM and OpenVINO take as long for a pixel in either, PyTorch up to 1.8 times as long in larger ones."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """What was chosen."""

    tiles: TilePlan
    batch: int
    in_flight: int
    # shards a worker holds at a time
    calls: int
    # of the network that a worker makes at the same time
    memory: MemoryEstimate
    room: int | None
    # of the GPU's memory, in bytes: its budget, or what is free; None on a CPU
    engine: EngineName
    reading: Reading


def fit(
    source: Source,
    network: StyleNetwork,
    costs: NetworkCosts,
    options: RunOptions,
    colours: Colours,
    deployment: Deployment,
    engines: tuple[EngineName, ...] = ("torch",),
    begun: Begun | None = None,
) -> Fitting:
    """The preferred setting that fits both budgets; ``engines``, the preferred one first, as ``suitable`` gives them.
    Windows and shards are those of a run that has ``begun``, where its grid can be this one's.

    Raises:
        MemoryBudgetError: there is none.
    """
    if begun is not None and not _may_go_on(begun, network, options):
        begun = None
    device = choose_device(options.device)
    gpu = device.type == "cuda"
    room = (options.device_budget or free_bytes(device)) if gpu else None
    least = options.batch or 1
    hosts: list[int] = []
    devices: list[int] = []
    for (tiles, batch, in_flight, calls, engine), reading in _readings(
        _candidates(source.info, network, options, engines, max(1, deployment.workers), begun, gpu=gpu),
        source,
        deployment,
        gpu=gpu,
    ):
        memory = estimate_memory(
            source,
            costs,
            tiles,
            batch,
            in_flight,
            thumbnail=options.thumbnail,
            deployment=deployment,
            gpu=gpu,
            wide=options.precision in ("float32", "tf32"),
            engine=engine,
            calls=calls,
            colours=colours,
            reading=reading,
        )
        # What is free is no promise: it decides the batch only. Windows decide pixels, and must not hang on it.
        if memory.device and room and memory.device.bytes > room and (options.device_budget or batch > least):
            devices.append(memory.device.bytes)
        elif options.budget is not None and memory.bytes > options.budget:
            hosts.append(memory.bytes)
        else:
            return Fitting(tiles, batch, in_flight, calls, memory, room, engine, reading)
    if hosts:
        raise _too_small(options.budget or 0, min(hosts) + _SWAYS, "memory", begun)
    raise _too_small(options.device_budget or 0, min(devices), "device-memory", begun)


def _may_go_on(begun: Begun, network: StyleNetwork, options: RunOptions) -> bool:
    """Whether nothing is asked for that rules out the windows of a run that has begun."""
    return options.window is None and (begun.halo, begun.stride) == (_halo(network, options), network.stride)


def _too_small(budget: int, needed: int, option: str, begun: Begun | None) -> MemoryBudgetError:
    whole = -(-needed // _MIB)
    why = "" if begun is None else f" for the unfinished run that stands there, whose windows are {begun.window} px"
    afresh = "" if begun is None else ", or start afresh (--overwrite)"
    return MemoryBudgetError(
        f"a budget of {format_bytes(budget)} is too small{why}; the smallest that works here is "
        f"{whole} MiB (--{option} {whole}MiB){afresh}",
        smallest=whole * _MIB,
    )


_Candidate = tuple[TilePlan, int, int, int, EngineName]
"""Tiles, windows a call, shards in flight, calls at the same time, and the engine."""


def _readings(
    candidates: Iterator[_Candidate], source: Source, deployment: Deployment, *, gpu: bool
) -> Iterator[tuple[_Candidate, Reading]]:
    """Each with every way to come to the raster's windows, the preferred one first."""
    for candidate in candidates:
        for way in ways_to_read(source, candidate[0], deployment, gpu=gpu):
            yield candidate, way


def _candidates(
    info: RasterInfo,
    network: StyleNetwork,
    options: RunOptions,
    engines: tuple[EngineName, ...],
    processes: int,
    begun: Begun | None,
    *,
    gpu: bool,
) -> Iterator[_Candidate]:
    """Plans from the preferred one to the leanest: windows of twice the core, fewer calls at the same time, fewer
    shards in flight, then smaller batches, then another engine, then smaller windows; none but its own where a run has
    begun."""
    largest = options.batch or (GPU_BATCH if gpu else 1)
    smaller = [largest >> halvings for halvings in range(1, largest.bit_length())] if options.batch is None else []
    most = _in_flight(processes) if gpu else 2
    shrinks = options.budget is not None or (gpu and options.device_budget is not None)
    usual, *shrunk = _tilings(info, network, options, begun, shrinks=shrinks)
    if begun is None and options.budget is not None and options.window is None and not gpu:
        grown = _grown(usual)
        if _saves(grown, usual, engines[0]):
            for calls in _calls(grown, engines[0], processes):
                yield grown, largest, 2, calls, engines[0]
    for engine, batch, in_flight in product(engines, (largest, *smaller), range(most, 0, -1)):
        for calls in _calls(usual, engine, processes):
            yield usual, batch, in_flight, calls, engine
    for tiles in shrunk:
        yield tiles, options.batch or 1, 1, 1, engines[-1]


def _tilings(
    info: RasterInfo, network: StyleNetwork, options: RunOptions, begun: Begun | None, *, shrinks: bool
) -> list[TilePlan]:
    """The usual one, or that of a run that has begun, and where they may shrink, those of smaller windows."""
    windows = [(window, SHARD_CORES) for window in _windows(network, options, shrinks=shrinks)]
    return [
        plan_tiles(
            info.width,
            info.height,
            window=window,
            halo=_halo(network, options),
            stride=network.stride,
            region=options.part,
            cores=cores_across,
        )
        for window, cores_across in (windows if begun is None else [(begun.window, begun.cores)])
    ]


def _in_flight(processes: int) -> int:
    """Shards on a GPU, of each of so many processes that share this machine's cores."""
    least, most = GPU_IN_FLIGHT
    return max(least, min(most, cores() // processes))


def _calls(tiles: TilePlan, engine: EngineName, processes: int) -> range:
    """How many calls at the same time, the most first."""
    return range(min(most_calls(engine, processes), tiles.tile_count), 0, -1)


def _grown(tiles: TilePlan) -> TilePlan:
    """The same shards, of windows with twice the core."""
    return plan_tiles(
        tiles.width,
        tiles.height,
        window=2 * tiles.core + 2 * tiles.halo,
        halo=tiles.halo,
        stride=tiles.stride,
        region=tiles.region,
        cores=tiles.cores // 2,
    )


def _saves(grown: TilePlan, tiles: TilePlan, engine: EngineName) -> bool:
    return grown.window_pixels < _WORTH[engine] * tiles.window_pixels


def _halo(network: StyleNetwork, options: RunOptions) -> int:
    if options.halo is None:
        return network.halo
    return -(-options.halo // network.stride) * network.stride


def _windows(network: StyleNetwork, options: RunOptions, *, shrinks: bool) -> Iterator[int]:
    """The preferred side, and where it may shrink, smaller ones."""
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
    if shrinks:
        least = default_window(halo, stride, max(4 * halo, 128))
        for share in (0.75, 0.5, 0.35, 0.25):
            smaller = int(window * share) // stride * stride
            if smaller > least:
                yield smaller
        if least < window:
            yield least
