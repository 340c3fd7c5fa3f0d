"""How shards come to their pixels: the cheapest way that the raster's format allows."""

from __future__ import annotations

from typing import Literal, cast

from urst_tiles.deployment import Deployment
from urst_tiles.geometry import TilePlan
from urst_tiles.sources.bands import BandedSource, band_bytes, suits_bands
from urst_tiles.sources.base import Source
from urst_tiles.sources.edges import edge_bytes, with_shared_edges
from urst_tiles.sources.masked import MaskedSource
from urst_tiles.sources.shrink import UNTILED
from urst_tiles.sources.vips import VipsSource
from urst_tiles.strips import read_size

__all__ = ["Reading", "as_it_is_read", "bytes_held", "ways_to_read"]

Reading = Literal["edges", "windows", "bands", "spool"]
"""edges: each shard's window by itself, but for the tiles that the one before shares. windows: without that, which is
cheaper where tiles decode fast. bands: the file is decoded twice, for the thumbnail and for the windows, and the rows
that a row of shards needs are held. spool: it is decoded once, to a copy in tiles."""

_TWICE = 0.5
"""Columns decoded again for the next shard, over a shard's, up to which tiles that decode fast are not kept for it:
decoding them takes about as long as keeping them does (benchmarks/reading_order.py), and no memory."""
_BAND = 256 << 20
"""Bytes of rows up to which holding them is held to be cheaper than a copy on disk, which is written and read again."""


def ways_to_read(source: Source, tiles: TilePlan, deployment: Deployment, *, gpu: bool) -> tuple[Reading, ...]:
    """What can be done about a raster for these shards, the cheapest first.

    Edges and bands are for one process that goes through the shards in order: of several, each would find no edges, and
    decode all the rows above its own.
    """
    info = source.info
    if info.random_access:
        # Beside a GPU decoding is what takes longest.
        shared = deployment.alone and (gpu or not _decodes_fast(source, tiles))
        return ("edges", "windows") if shared and edge_bytes(source, *_edges(tiles)) else ("windows",)
    held = min(read_size(tiles)[1], info.height) * info.width * info.bytes_per_pixel
    if deployment.alone and suits_bands(source) and held <= _BAND:
        return "bands", "spool"
    return ("spool",)


def bytes_held(source: Source, tiles: TilePlan, reading: Reading) -> int:
    """Upper bound, in bytes, of what reading holds for all shards together: bands with their decoder, or edges."""
    if reading == "bands":
        return band_bytes(cast("VipsSource", source), read_size(tiles)[1])
    return edge_bytes(source, *_edges(tiles)) if reading == "edges" else 0


def as_it_is_read(source: Source, tiles: TilePlan, reading: Reading) -> Source:
    """The raster as shards read it; a spool is made elsewhere."""
    if reading == "bands":
        return BandedSource(cast("VipsSource", source), read_size(tiles)[1])
    if reading == "edges":
        return with_shared_edges(source, *_edges(tiles))
    return source


def _edges(tiles: TilePlan) -> tuple[tuple[int, int], int]:
    """(width, height) of what shards read, and how many columns of it their neighbours read too."""
    return read_size(tiles), read_size(tiles)[0] - tiles.shard[0]


def _decodes_fast(source: Source, tiles: TilePlan) -> bool:
    """Whether tiles that two shards touch are best decoded by each of them: they decode fast, and are few."""
    raster = source.raster if isinstance(source, MaskedSource) else source
    tile = (raster.info.tile or UNTILED)[0]
    _, overlap = _edges(tiles)
    return isinstance(raster, VipsSource) and raster.decodes_tiles and overlap + tile <= _TWICE * tiles.shard[0]
