"""The memory of a run, as a sum of named parts for each of its phases; touches no pixel."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import ceil

import numpy as np
import psutil

from urst_tiles.allocator import can_return_memory
from urst_tiles.copies import padding_copy_bytes
from urst_tiles.geometry import TilePlan
from urst_tiles.memory import MemoryEstimate, MemoryPart, MemoryPhase
from urst_tiles.networks.base import FrozenNetwork, StyleNetwork
from urst_tiles.networks.footprint import Footprint, parameter_bytes
from urst_tiles.networks.lean import lean
from urst_tiles.networks.moments import Covariance
from urst_tiles.shards import held_pixels, largest_batch, read_side
from urst_tiles.sources.base import RasterInfo, Source
from urst_tiles.sources.shrink import thumbnail_bytes, thumbnail_size
from urst_tiles.statistics import MAX_PIXELS
from urst_tiles.stores import bigtiff_bytes, pyramid_bytes, write_bytes
from urst_tiles.stores.base import StoreLayout

__all__ = ["NetworkCosts", "estimate_memory", "store_layout"]

_MIB = 2**20
# What Python, PyTorch, libvips, Zarr and Dask add once they really run (thread stacks, caches, arenas), beyond what
# is resident after their import. Measured by benchmarks/memory.py, rounded up.
_RUNNING = 96 * _MIB
_LEAST_RUNTIME = 256 * _MIB
# What a moment is summed from: a part of a feature map of 2^21 elements in float64, twice.
_MEASURING = 2 * 8 * 2**21


@dataclass(frozen=True, slots=True)
class NetworkCosts:
    """What a network takes at any size. Its graphs are recorded once, however many plans are weighed against a
    budget."""

    weights: int
    # bytes, as loaded and frozen
    unfrozen: Footprint
    # of the pass over the thumbnail
    frozen: Footprint
    # of windows
    copied: tuple[float, float]
    # bytes a pixel of the largest map that a pad copies: unfrozen, frozen
    channels: int
    # of the widest covariance, 0 where no norm takes one

    @classmethod
    def of(cls, network: StyleNetwork, frozen: FrozenNetwork) -> NetworkCosts:
        """Raises NetworkError where a graph cannot be recorded."""
        covariances = [len(m.mean) for m in network.neutral_statistics.values() if isinstance(m, Covariance)]
        # What the thumbnail goes through; a copy, because the layout of its weights changes.
        unfrozen = lean(copy.deepcopy(network.plain))
        side = max(network.minimum, network.stride)
        return cls(
            weights=2 * parameter_bytes(network.module),
            unfrozen=Footprint.of(unfrozen),
            frozen=Footprint.of(frozen),
            copied=(padding_copy_bytes(unfrozen, side), padding_copy_bytes(frozen, side)),
            channels=max(covariances, default=0),
        )


def _padding(copied: float, pixels: int) -> MemoryPart:
    return MemoryPart("padding", ceil(copied * pixels), f"{pixels:,} px x {copied:.0f} bytes: a map copied by a pad")


def store_layout(info: RasterInfo, tiles: TilePlan, name: str = "") -> StoreLayout:
    """The store that a plan writes."""
    return StoreLayout(
        width=tiles.region.width,
        height=tiles.region.height,
        bands=4 if info.alpha else 3,
        dtype=info.dtype,
        chunk=tiles.core,
        shard=tiles.shard,
        icc_profile=info.icc_profile if info.colour == "rgb" else None,
        resolution=info.resolution,
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
    export: bool,
) -> MemoryEstimate:
    """What a run with these settings holds at most, phase by phase.

    ``thumbnail`` is its short side in pixels; ``export`` counts the writing of a TIFF.
    """
    info = source.info
    layout = store_layout(info, tiles)
    runtime = (
        MemoryPart(
            "runtime",
            max(psutil.Process().memory_info().rss, _LEAST_RUNTIME) + _RUNNING,
            f"this process now, and {_RUNNING // _MIB} MiB for threads and caches",
        ),
        MemoryPart("network", costs.weights, "weights, as loaded and frozen"),
    )
    phases = [
        MemoryPhase("thumbnail", runtime + _thumbnail_parts(source, thumbnail)),
        MemoryPhase("statistics", runtime + _statistics_parts(source, costs, thumbnail)),
        MemoryPhase("shards", runtime + _shard_parts(source, costs, tiles, layout, batch, in_flight)),
        MemoryPhase(
            "pyramid",
            (*runtime, MemoryPart("pyramid", pyramid_bytes(layout), "a shard of a level and what it is made of")),
        ),
    ]
    if not info.random_access:
        unpacking = MemoryPart("spool", _stream_bytes(source), "the raster's rows being unpacked")
        phases.insert(0, MemoryPhase("spool", (*runtime, unpacking)))
    if export:
        part = MemoryPart("export", bigtiff_bytes(layout), "rows of tiles read, compressed and written")
        phases.append(MemoryPhase("export", (*runtime, part)))
    return MemoryEstimate(tuple(phases))


def _stream_bytes(source: Source) -> int:
    """What unpacking takes; a source that does not say decodes the whole raster."""
    stated: int | None = getattr(source, "stream_bytes", None)
    return source.info.pixels * source.info.bytes_per_pixel if stated is None else stated


def _thumbnail_parts(source: Source, short_side: int) -> tuple[MemoryPart, ...]:
    width, height = thumbnail_size(source.info.width, source.info.height, short_side)
    return (
        MemoryPart("thumbnail", width * height * source.info.bytes_per_pixel, f"{width} x {height} px"),
        MemoryPart("source", thumbnail_bytes(source, short_side), "strips of the raster being shrunk"),
    )


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
        _padding(costs.copied[0], pixels),
        # A symmetric matrix's eigenvectors take the matrix, them, and a workspace of two more; four are the products.
        MemoryPart(
            "measuring",
            _MEASURING + 8 * 8 * costs.channels**2,
            "parts of a map in float64" + (f", covariances of {costs.channels} channels" if costs.channels else ""),
        ),
    )


def _shard_parts(
    source: Source, costs: NetworkCosts, tiles: TilePlan, layout: StoreLayout, batch: int, in_flight: int
) -> tuple[MemoryPart, ...]:
    info = source.info
    item, in_flight = np.dtype(info.dtype).itemsize, min(in_flight, len(tiles))
    batch, side_y, side_x = largest_batch(tiles, batch)
    read, kept = held_pixels(tiles, in_flight)
    return (
        MemoryPart(
            "activations",
            costs.frozen.peak_activation_bytes(side_y, side_x, batch=batch, fragments=not can_return_memory()),
            f"the frozen network on {batch} x {side_x} x {side_y} px",
        ),
        _padding(costs.copied[1], batch * side_x * side_y),
        MemoryPart(
            "windows",
            batch * side_x * side_y * 3 * (item + item + 4),
            f"{batch} x {side_x} x {side_y} px x 3 x ({item} in + {item} out + 4 rounding) bytes",
        ),
        MemoryPart(
            "shards in flight",
            read * info.bytes_per_pixel + kept * layout.bands * item,
            f"{in_flight}: {read:,} px x {info.bytes_per_pixel} read + {kept:,} px x {layout.bands * item} kept",
        ),
        MemoryPart("codecs", in_flight * write_bytes(layout), f"{in_flight} shards being compressed"),
        MemoryPart(
            "source", in_flight * source.cache_bytes(min(read_side(tiles), info.width)), f"{in_flight} readers' caches"
        ),
    )
