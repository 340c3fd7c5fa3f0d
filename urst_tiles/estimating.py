"""The memory of a run's process, as a sum of named parts for each of its phases; touches no pixel. A GPU's is a sum of
its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from urst_tiles.allocator import can_return_memory
from urst_tiles.costs import NetworkCosts, activations, padding
from urst_tiles.deployment import Deployment, cores
from urst_tiles.engines.cuda import SLOTS
from urst_tiles.estimating_gpu import estimate_gpu
from urst_tiles.estimating_reading import reading_part, shrinking_part, spool_parts
from urst_tiles.geometry import TilePlan
from urst_tiles.memory import MemoryEstimate, MemoryPart, MemoryPhase
from urst_tiles.reading import Reading
from urst_tiles.sources.base import RasterInfo, Source
from urst_tiles.sources.colour import AS_THEY_ARE, Colours
from urst_tiles.sources.shrink import thumbnail_size
from urst_tiles.statistics import MAX_PIXELS
from urst_tiles.stores import ExportOptions, pyramid_bytes, write_bytes
from urst_tiles.stores.base import StoreLayout
from urst_tiles.stores.metadata import shard_grid
from urst_tiles.strips import held_pixels, largest_batch, tallest_read
from urst_tiles.turns import under_way

if TYPE_CHECKING:
    from urst_tiles.engines.llvm.schedule import Schedule

__all__ = ["estimate_memory", "store_layout"]

_MIB = 2**20
# What Python, PyTorch, libvips, Zarr and Dask add once they really run (thread stacks, caches, arenas), beyond what
# is resident after their import. Measured by benchmarks/memory.py, rounded up.
_RUNNING = 96 * _MIB
_LEAST_RUNTIME = 256 * _MIB
# What a moment is summed from: a part of a feature map of 2^21 elements in float64, twice.
_MEASURING = 2 * 8 * 2**21
# What an engine adds when it is first used, of libraries and what it translates; and when its libraries are loaded
# already. 75 to 85 MiB were measured of OpenVINO, 90 to 95 of LLVM.
_ENGINES: Mapping[str, tuple[str, int, int]] = MappingProxyType(
    {"openvino": ("openvino", 96 * _MIB, 48 * _MIB), "llvm": ("llvmlite", 112 * _MIB, 72 * _MIB)}
)
# What a worker process holds after its imports, and Dask's own helpers' share. Measured by benchmarks/memory_matrix.py.
_WORKER = 256 * _MIB
# What CUDA's context and libraries add to the process on the host when they are first used: 0.5 to 2 GiB are usual,
# by driver, and by how many kernels are loaded. To be measured on a GPU.
_CUDA_ON_HOST = 2048 * _MIB
_MOST_OF_A_PYRAMID = 8
"""Shards of a smaller level at a time: more read and write faster than disks do."""


def store_layout(info: RasterInfo, tiles: TilePlan, name: str = "", colours: Colours = AS_THEY_ARE) -> StoreLayout:
    """The store that a plan writes."""
    return StoreLayout(
        width=tiles.region.width,
        height=tiles.region.height,
        bands=4 if info.alpha else 3,
        dtype=info.dtype,
        chunk=tiles.chunk,
        shard=tiles.shard,
        icc_profile=colours.tag,
        resolution=info.resolution,
        geo=None if info.geo is None else info.geo.of_region(tiles.region.col_off, tiles.region.row_off),
        name=name,
    )


def estimate_memory(
    source: Source,
    costs: NetworkCosts,
    tiles: TilePlan,
    batch: int,
    in_flight: int,
    *,
    thumbnail: int,
    deployment: Deployment,
    gpu: bool = False,
    wide: bool = True,
    engine: str = "torch",
    calls: int = 1,
    colours: Colours = AS_THEY_ARE,
    reading: Reading = "windows",
) -> MemoryEstimate:
    """What a run with these settings holds at most, phase by phase.

    ``thumbnail`` is its short side in pixels. ``gpu`` says whether windows are run on a GPU, whose memory is a sum of
    its own then; ``wide``: whether in float32; ``engine``: what runs them, in how many ``calls`` at the same time.
    """
    info = source.info
    layout = store_layout(info, tiles, colours=colours)
    runtime: tuple[MemoryPart, ...] = (
        MemoryPart(
            "runtime",
            max(psutil.Process().memory_info().rss, _LEAST_RUNTIME) + _RUNNING,
            f"this process now, and {_RUNNING // _MIB} MiB for threads and caches",
        ),
        MemoryPart("network", costs.weights, "weights, as loaded and frozen"),
    )
    if gpu and not deployment.workers:
        runtime += (MemoryPart("CUDA", _CUDA_ON_HOST, "its context and libraries, on the host"),)
    if engine in _ENGINES:
        module, first, again = _ENGINES[engine]
        # What an earlier plan of this process has loaded is in its runtime already.
        size = again if module in sys.modules else first
        runtime += (MemoryPart(engine, size, "its libraries, its copy of the graph, and what it compiles"),)
    workers = min(deployment.workers, len(tiles))
    if workers:
        in_flight = -(-min(workers * in_flight, len(tiles)) // workers)  # each
    written = under_way(in_flight, calls)
    shards = (
        *_shard_parts(source, costs, tiles, layout, batch, in_flight, calls, colours, engine, gpu=gpu),
        reading_part(source, tiles, in_flight, reading),
        *_uploads(_encoded(layout, min(written, len(tiles)) * _pixels_of_shard(layout)), deployment),
        *(_openvino_parts(costs, tiles, batch, calls) if engine == "openvino" else ()),
        *(_llvm_parts(costs, costs.schedule) if engine == "llvm" and costs.schedule is not None else ()),
    )
    phases = [
        MemoryPhase("thumbnail", runtime + _thumbnail_parts(source, thumbnail, colours, reading)),
        MemoryPhase("statistics", runtime + _statistics_parts(source, costs, thumbnail)),
        MemoryPhase("shards", runtime + _of_workers(shards, costs, engine, workers, gpu=gpu)),
    ]
    pyramid = _pyramid_at_once(layout, deployment, max(phase.bytes for phase in phases) - sum(p.bytes for p in runtime))
    phases.append(MemoryPhase("pyramid", runtime + _pyramid_parts(layout, deployment, pyramid)))
    if costs.style:
        # Before the plan: what it took then is part of the process's peak. Again in the run for the raster's colours.
        phases[:0] = [MemoryPhase(name, runtime + parts) for name, parts in _style_parts(source, costs, thumbnail)]
    if reading == "spool":
        phases.insert(0, MemoryPhase("spool", (*runtime, *spool_parts(source, thumbnail))))
    exporter = deployment.exporter
    if exporter is not None:
        taken = exporter.memory_bytes(layout, ExportOptions())
        part = MemoryPart("export", taken, f"the {exporter.title}'s rows and tiles: read, compressed, written")
        phases.append(MemoryPhase("export", (*runtime, part)))
    device = estimate_gpu(info, costs, tiles, batch, wide=wide) if gpu else None
    return MemoryEstimate(tuple(phases), device, pyramid)


def _pyramid_at_once(layout: StoreLayout, deployment: Deployment, room: int) -> int:
    """Shards of a smaller level that are made at the same time: one for each core, as far as they take no more than
    the phases before."""
    each = sum(part.bytes for part in _pyramid_parts(layout, deployment, 1))
    rows, columns = shard_grid(layout, 1) if each else (1, 1)
    return max(1, min(cores(), _MOST_OF_A_PYRAMID, rows * columns, room // max(each, 1)))


def _pyramid_parts(layout: StoreLayout, deployment: Deployment, at_once: int) -> tuple[MemoryPart, ...]:
    size = at_once * pyramid_bytes(layout)
    return (
        MemoryPart("pyramid", size, f"{at_once} x a shard of a level and what it is made of"),
        *_uploads(at_once * _encoded(layout, _pixels_of_shard(layout)), deployment),
    )


def _thumbnail_parts(source: Source, short_side: int, colours: Colours, reading: Reading) -> tuple[MemoryPart, ...]:
    width, height = thumbnail_size(source.info.width, source.info.height, short_side)
    return (
        MemoryPart("thumbnail", width * height * source.info.bytes_per_pixel, f"{width} x {height} px"),
        shrinking_part(source, short_side, reading),
        *_colour_part(colours, source.info, width * height, 0),
    )


def _style_parts(source: Source, costs: NetworkCosts, short_side: int) -> Iterator[tuple[str, tuple[MemoryPart, ...]]]:
    """What encoding the style images takes, and before that, giving them the raster's colours: by phase."""
    held: tuple[MemoryPart, ...] = ()
    if costs.recoloured:
        width, height = thumbnail_size(source.info.width, source.info.height, short_side)
        held = (MemoryPart("thumbnail", width * height * source.info.bytes_per_pixel * 2, f"{width} x {height} px"),)
        # Three channels in float64: of the thumbnail twice, of the style three times.
        size = 8 * 3 * (2 * width * height + 3 * costs.recoloured)
        yield "colours", (*held, MemoryPart("colours", size, "of the thumbnail and of a style image, in float64"))
    yield "style", (*held, MemoryPart("activations", costs.style, "the encoder on a style image"), _measuring(costs))


def _statistics_parts(source: Source, costs: NetworkCosts, short_side: int) -> tuple[MemoryPart, ...]:
    width, height = thumbnail_size(source.info.width, source.info.height, short_side)
    pixels = min(width * height, MAX_PIXELS)
    side = int(pixels**0.5)
    return (
        MemoryPart("thumbnail", width * height * source.info.bytes_per_pixel * 2, f"{width} x {height} px, twice"),
        MemoryPart(
            "activations",
            costs.unfrozen.peak_activation_bytes(side, -(-pixels // side), fragments=not can_return_memory()),
            f"the network on {pixels:,} px" + (" at a time" if pixels < width * height else ""),
        ),
        padding(costs.copied[0], pixels),
        _measuring(costs),
    )


def _measuring(costs: NetworkCosts) -> MemoryPart:
    # A symmetric matrix's eigenvectors take the matrix, them, and a workspace of two more; four are the products.
    return MemoryPart(
        "measuring",
        _MEASURING + 8 * 8 * costs.channels**2,
        "parts of a map in float64" + (f", covariances of {costs.channels} channels" if costs.channels else ""),
    )


def _shard_parts(
    source: Source,
    costs: NetworkCosts,
    tiles: TilePlan,
    layout: StoreLayout,
    batch: int,
    in_flight: int,
    calls: int,
    colours: Colours,
    engine: str,
    *,
    gpu: bool,
) -> tuple[MemoryPart, ...]:
    info = source.info
    item, in_flight = np.dtype(info.dtype).itemsize, min(in_flight, len(tiles))
    written = min(under_way(in_flight, calls), len(tiles))
    read, kept = held_pixels(tiles, in_flight, batch=batch, tall=tallest_read(source))
    batch, side_y, side_x = largest_batch(tiles, batch)
    # A GPU, and LLVM, put what they keep into its place; others hold a window's whole result, and round it in float32.
    placed = (gpu or engine == "llvm") and not colours.back
    result, rounding = (0, 0) if placed else (item, 4)
    network = () if gpu else _activations(costs, batch, side_y, side_x, engine)
    return (
        *(_at_once(calls, part) for part in network),
        _at_once(
            calls + (calls > 1),  # one is cut out meanwhile, or put into its place
            MemoryPart(
                "windows",
                batch * side_x * side_y * 3 * (item + result + rounding),
                f"{batch} x {side_x} x {side_y} px x 3 x ({item} in + {result} out + {rounding} rounding) bytes",
            ),
        ),
        MemoryPart(
            "shards in flight",
            read * info.bytes_per_pixel + kept * layout.bands * item,
            f"{in_flight}: {read:,} px x {info.bytes_per_pixel} read + {kept:,} px x {layout.bands * item} kept",
        ),
        *_pinned_part(batch * side_x * side_y, item, gpu=gpu),
        *_colour_part(
            colours, info, batch * side_x * side_y, min(tiles.core, side_x) * min(tiles.core, side_y), in_flight
        ),
        MemoryPart("codecs", written * write_bytes(layout), f"{written} shards being compressed"),
    )


def _activations(costs: NetworkCosts, batch: int, height: int, width: int, engine: str) -> tuple[MemoryPart, ...]:
    """What one call holds."""
    if engine != "llvm" or costs.schedule is None:
        return activations(costs, batch, height, width, fragments=not can_return_memory())
    sides = (costs.frozen.side(each) for each in (height, width))
    plan = costs.schedule.plan(batch, *sides)
    text = f"the frozen network on {batch} x {width} x {height} px: one block, and what lies outside it"
    return (MemoryPart("activations", plan.nbytes, text),)


def _of_workers(
    shards: tuple[MemoryPart, ...], costs: NetworkCosts, engine: str, workers: int, *, gpu: bool
) -> tuple[MemoryPart, ...]:
    """What processes hold that run shards, beside the one that drives them; without workers that is the same one."""
    if not workers:
        return shards
    own = [
        MemoryPart("workers", _WORKER + _RUNNING, f"a process each, and {_RUNNING // _MIB} MiB for threads and caches"),
        MemoryPart("workers' network", 2 * costs.weights, "as received and frozen"),
    ]
    if gpu:
        own.append(MemoryPart("CUDA", _CUDA_ON_HOST, "its context and libraries, on the host"))
    if engine in _ENGINES:
        _, first, _ = _ENGINES[engine]
        own.append(MemoryPart(f"workers' {engine}", first, "its libraries, its copy of the graph, what it compiles"))
    return tuple(MemoryPart(part.name, workers * part.bytes, f"{workers} x {part.reason}") for part in (*own, *shards))


def _uploads(size: int, deployment: Deployment) -> tuple[MemoryPart, ...]:
    return (MemoryPart("uploads", size, "encoded shards, on their way"),) if deployment.uploaded else ()


def _pixels_of_shard(layout: StoreLayout) -> int:
    return min(layout.shard[0], layout.width) * min(layout.shard[1], layout.height)


def _encoded(layout: StoreLayout, pixels: int) -> int:
    """Bytes of shards that stand encoded, at worst to their own size, until an object store has them; a quarter more is
    what the client holds of them on the way. Measured by benchmarks/memory_matrix.py."""
    return pixels * layout.bands * np.dtype(layout.dtype).itemsize * 5 // 4


def _pinned_part(pixels: int, item: int, *, gpu: bool) -> tuple[MemoryPart, ...]:
    """Memory that a GPU copies from and to by itself, for each of the batches on their way."""
    size = SLOTS * pixels * 3 * 2 * item
    text = f"{SLOTS} x {pixels:,} px x 3 x ({item} in + {item} out) bytes on their way"
    return (MemoryPart("pinned", size, text),) if gpu else ()


def _at_once(calls: int, part: MemoryPart) -> MemoryPart:
    """What so many calls at the same time take."""
    return part if calls == 1 else MemoryPart(part.name, calls * part.bytes, f"{calls} x {part.reason}")


def _openvino_parts(costs: NetworkCosts, tiles: TilePlan, batch: int, calls: int) -> tuple[MemoryPart, ...]:
    """What OpenVINO holds beside what PyTorch would."""
    batch, height, width = largest_batch(tiles, batch)
    (maps, _) = activations(costs, batch, height, width, fragments=False)
    return (
        MemoryPart("weights", costs.weights, "OpenVINO's own, as read and in the order its kernels want"),
        _at_once(
            calls,
            MemoryPart("places", maps.bytes // 2, "half of the activations: places for three maps where two are held"),
        ),
    )


def _llvm_parts(costs: NetworkCosts, schedule: Schedule) -> tuple[MemoryPart, ...]:
    """What the LLVM engine holds beside the maps."""
    threads = torch.get_num_threads()
    return (
        MemoryPart("kernels", costs.weights // 2 + schedule.kernels, "weights, and kernels as programs read them"),
        MemoryPart("scratch", threads * schedule.scratch, f"{threads} threads x {schedule.scratch:,} bytes"),
    )


def _colour_part(
    colours: Colours, info: RasterInfo, seen: int, kept: int, in_flight: int = 1
) -> tuple[MemoryPart, ...]:
    """What converting colours takes, where they are converted; shards do it each for itself."""
    each = colours.bytes_for(seen, kept, np.dtype(info.dtype).itemsize)
    return (MemoryPart("colour", in_flight * each, f"{in_flight} x {seen:,} px to sRGB or back"),) if each else ()
