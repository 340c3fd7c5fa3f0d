"""What coming to a raster's windows and its thumbnail takes, by the way that its format allows."""

from __future__ import annotations

from urst_tiles.geometry import TilePlan
from urst_tiles.memory import MemoryPart
from urst_tiles.reading import Reading, bytes_held
from urst_tiles.sources.base import Source
from urst_tiles.sources.shrink import UNTILED, shrinking_bytes, thumbnail_bytes, thumbnail_size
from urst_tiles.sources.spool import spool_row_bytes
from urst_tiles.strips import read_size

__all__ = ["reading_part", "shrinking_part", "spool_parts"]


def reading_part(source: Source, tiles: TilePlan, in_flight: int, reading: Reading) -> MemoryPart:
    """Reading shards, so many at the same time."""
    held, (width, height) = bytes_held(source, tiles, reading), read_size(tiles)
    if reading == "bands":
        rows = min(height, source.info.height)
        return MemoryPart("source", held, f"{rows:,} rows held, and the decoder")
    in_flight = min(in_flight, len(tiles))
    text = f"{in_flight} readers' caches"
    if reading == "edges":
        # From tile's border to tile's border.
        width, text = width + 2 * (source.info.tile or UNTILED)[0], f"{text}, and what neighbouring shards share"
    return MemoryPart("source", in_flight * source.cache_bytes(min(width, source.info.width)) + held, text)


def shrinking_part(source: Source, short_side: int, reading: Reading) -> MemoryPart:
    """Making the thumbnail, beyond itself."""
    if reading == "bands":
        return MemoryPart("source", _stream_bytes(source) + shrinking_bytes(source.info), "the raster being shrunk")
    return MemoryPart("source", thumbnail_bytes(source, short_side), "strips of the raster being shrunk")


def spool_parts(source: Source, short_side: int) -> tuple[MemoryPart, ...]:
    """Copying to tiles, and making the thumbnail meanwhile."""
    info = source.info
    width, height = thumbnail_size(info.width, info.height, short_side)
    return (
        MemoryPart("thumbnail", width * height * info.bytes_per_pixel * 2, f"{width} x {height} px, twice"),
        MemoryPart("rows", spool_row_bytes(source) + shrinking_bytes(info), "being shrunk, and put together to tiles"),
        MemoryPart("decoder", _stream_bytes(source), "the raster's rows being unpacked"),
    )


def _stream_bytes(source: Source) -> int:
    """What decoding from the top takes; a source that does not say decodes the whole raster."""
    stated: int | None = getattr(source, "stream_bytes", None)
    return source.info.pixels * source.info.bytes_per_pixel if stated is None else stated
