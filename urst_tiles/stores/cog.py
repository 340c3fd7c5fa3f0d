"""A finished store as a Cloud-Optimized GeoTIFF's layout: any part of any level in few requests over HTTP.

::

    header, ghost | directory of the full size, of each smaller level | tiles of the smallest level, …, of the full size

The number of tiles is known beforehand, so the directories' room is left free, the tiles are written once, and the
directories last. It holds no map coordinates: the layout is what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from urst_tiles import __version__
from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.bigtiff import COMPRESSION_LEVELS, TIFF_TILE, check_tile, tile_side
from urst_tiles.stores.exporter import ExportOptions, Progress
from urst_tiles.stores.reading import read_bytes
from urst_tiles.stores.replacing import check_free, require_shards, whole_file
from urst_tiles.stores.tiff_header import Directory, header_bytes, header_size
from urst_tiles.stores.tiling import (
    Count,
    DeepPyramid,
    count_tiles,
    in_order,
    pixel_bytes,
    sizes_down_to,
    tiles,
)

__all__ = ["COG", "CogExporter"]

_WORKERS = 2
_TAGS = {"none": 1, "lzw": 5, "deflate": 8, "zstd": 50000}
_SAID = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_SAID) + _SAID
"""Where GDAL looks for the promise that it can read a tile without its directory's entry: before each tile stands its
length, after it its last four bytes again."""

_Encode = Callable[[NDArray[Any]], bytes]


@dataclass(frozen=True, slots=True)
class CogExporter:
    """BigTIFF whose directories come first, then the tiles, smaller levels before larger ones."""

    name: str = "cog"
    title: str = "COG"
    suffixes: tuple[str, ...] = (".cog.tif", ".cog.tiff")
    takes: frozenset[str] = frozenset({"compression", "tile"})
    resumes: bool = False

    def check(self, layout: StoreLayout, options: ExportOptions) -> tuple[str, ...]:  # noqa: ARG002
        check_tile(options.tile or TIFF_TILE)
        return ()

    def check_target(self, target: Path, *, overwrite: bool) -> None:
        check_free(target, overwrite=overwrite)

    def memory_bytes(self, layout: StoreLayout, options: ExportOptions) -> int:
        """A block, what reading it takes, tiles in work (cut, differenced, compressed), the levels made on the way,
        and where each tile is, twice when the directories are written."""
        side = options.tile or TIFF_TILE
        one = side * side * pixel_bytes(layout)
        block = max(min(options.memory, layout.width * layout.height * pixel_bytes(layout)), one)
        count = count_tiles(sizes_down_to(((layout.width, layout.height),), side), side)
        made = 2 * layout.chunk**2 * pixel_bytes(layout)
        return block + read_bytes(layout) + 12 * _WORKERS * one + made + 64 * count + 2**20

    def write(
        self, store: Store, target: Path, options: ExportOptions, *, overwrite: bool, on_progress: Progress
    ) -> None:
        self.check(store.layout, options)
        with whole_file(target, overwrite=overwrite) as partial:
            require_shards(store)
            _write(store, partial, options, on_progress)


COG = CogExporter()


def _write(store: Store, path: Path, options: ExportOptions, on_progress: Progress) -> None:
    tile, compression = options.tile or TIFF_TILE, options.compression or "deflate"
    pyramid = DeepPyramid(store, tile)
    directories = [_directory(pyramid, level, tile, compression) for level in range(len(pyramid.levels))]
    count, encode = Count(sum(directory.tiles for directory in directories), on_progress), _encoder(compression)
    with path.open("wb") as file:
        place = header_size(directories, _GHOST)
        file.write(bytes(place))
        for level, directory in reversed(list(enumerate(directories))):
            found: Iterator[NDArray[Any]] = tiles(pyramid, level, directory.tile, options.memory, count)
            for index, encoded in enumerate(in_order(encode, found, _WORKERS)):
                file.writelines((len(encoded).to_bytes(4, "little"), encoded, encoded[-4:]))
                directory.offsets[index], directory.lengths[index] = place + 4, len(encoded)
                place += 4 + len(encoded) + 4
        file.seek(0)
        file.write(header_bytes(directories, _GHOST))


def _directory(pyramid: DeepPyramid, level: int, tile: int, compression: str) -> Directory:
    layout, (width, height) = pyramid.layout, pyramid.levels[level]
    first = level == 0
    return Directory(
        width=width,
        height=height,
        bands=layout.bands,
        bits=8 * np.dtype(layout.dtype).itemsize,
        tile=tile_side(tile, width, height),
        compression=_TAGS[compression],
        reduced=not first,
        software=f"urst-tiles {__version__}" if first else None,
        icc_profile=layout.icc_profile if first else None,
        geo=layout.geo if first else None,
        resolution=(10 * layout.resolution[0], 10 * layout.resolution[1]) if first and layout.resolution else None,
    )


def _encoder(compression: str) -> _Encode:
    """(side, side, bands) → a tile's bytes, little-endian, differenced along the rows and compressed."""
    plain: dict[str, Any] = {
        "deflate": imagecodecs.zlib_encode,
        "zstd": imagecodecs.zstd_encode,
        "lzw": imagecodecs.lzw_encode,
    }
    settings = COMPRESSION_LEVELS[compression] or {}

    def encode(tile: NDArray[Any]) -> bytes:
        little = np.ascontiguousarray(tile, tile.dtype.newbyteorder("<"))
        if compression == "none":
            return little.tobytes()
        return bytes(plain[compression](imagecodecs.delta_encode(little, axis=-2), **settings))

    return encode
