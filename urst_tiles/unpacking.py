"""How a raster that can only be decoded from the top comes to give windows: whichever is cheaper."""

from __future__ import annotations

from typing import Literal, cast

from urst_tiles.deployment import Deployment
from urst_tiles.geometry import TilePlan
from urst_tiles.shards import read_side
from urst_tiles.sources.bands import BandedSource, band_bytes, suits_bands
from urst_tiles.sources.base import Source
from urst_tiles.sources.vips import VipsSource

__all__ = ["Unpacking", "banded", "bytes_in_bands", "ways_to_unpack"]

Unpacking = Literal["none", "bands", "spool"]
"""none: windows are read as they are. bands: the file is decoded twice, once for the thumbnail and once for the
windows, and the rows that a row of shards needs are held. spool: it is decoded once, to a copy in tiles."""

_BAND = 256 << 20
"""Bytes of rows up to which holding them is held to be cheaper than a copy on disk, which is written and read again."""


def ways_to_unpack(source: Source, tiles: TilePlan, deployment: Deployment) -> tuple[Unpacking, ...]:
    """What can be done about a raster for these shards, the cheaper first.

    Bands are for one process that goes through the shards in order: each of several would decode all that stands above
    its own.
    """
    if source.info.random_access:
        return ("none",)
    info = source.info
    held = min(read_side(tiles), info.height) * info.width * info.bytes_per_pixel
    if deployment.alone and suits_bands(source) and held <= _BAND:
        return "bands", "spool"
    return ("spool",)


def bytes_in_bands(source: Source, tiles: TilePlan) -> int:
    """Upper bound, in bytes, of what reading these shards in bands takes."""
    return band_bytes(cast("VipsSource", source), read_side(tiles))


def banded(source: Source, tiles: TilePlan) -> BandedSource:
    """The raster, to be read in bands of these shards' rows."""
    return BandedSource(cast("VipsSource", source), read_side(tiles))
