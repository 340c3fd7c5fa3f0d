"""A finished store as one ordered, compressed, pyramidal BigTIFF, plain or OME-TIFF."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from urst_tiles import __version__
from urst_tiles.errors import InputError
from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.exporter import EXPORT_MEMORY, Compression, ExportOptions, Progress
from urst_tiles.stores.reading import read_bytes
from urst_tiles.stores.replacing import check_free, require_shards, whole_file
from urst_tiles.stores.tiling import Count, count_tiles, digest_of, pixel_bytes, tiles

__all__ = [
    "BIGTIFF",
    "BIGTIFF_MEMORY",
    "COMPRESSION_LEVELS",
    "OME_TIFF",
    "TIFF_TILE",
    "Compression",
    "TiffExporter",
    "bigtiff_bytes",
    "check_tile",
    "export_bigtiff",
    "tile_side",
]

BIGTIFF_MEMORY = EXPORT_MEMORY
TIFF_TILE = 512
"""Side of a TIFF's tiles, in pixels, where no other is asked for."""

_WORKERS = 2
_QUEUE = 16
# tiles handed to the workers at once Measured on photographs: from deflate 4 to 6 the file shrinks by 1 % and takes
# 40 % longer; zstd 3 is as small, three times as fast.
COMPRESSION_LEVELS: dict[str, dict[str, int] | None] = {
    "deflate": {"level": 4},
    "zstd": {"level": 3},
    "lzw": None,
    "none": None,
}
_TAGS = {"deflate": "adobe_deflate", "zstd": "zstd", "lzw": "lzw"}


@dataclass(frozen=True, slots=True)
class TiffExporter:
    """BigTIFF with its pyramid in SubIFDs, written by tifffile."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    ome: bool = False
    # with OME-XML
    takes: frozenset[str] = frozenset({"compression", "tile"})
    resumes: bool = False

    def check(self, layout: StoreLayout, options: ExportOptions) -> tuple[str, ...]:  # noqa: ARG002
        check_tile(options.tile or TIFF_TILE)
        return ()

    def check_target(self, target: Path, *, overwrite: bool) -> None:
        check_free(target, overwrite=overwrite)

    def memory_bytes(self, layout: StoreLayout, options: ExportOptions) -> int:
        return bigtiff_bytes(layout, tile=options.tile or TIFF_TILE, memory=options.memory)

    def write(
        self, store: Store, target: Path, options: ExportOptions, *, overwrite: bool, on_progress: Progress
    ) -> None:
        export_bigtiff(
            store,
            target,
            compression=options.compression or "deflate",
            tile=options.tile or TIFF_TILE,
            memory=options.memory,
            overwrite=overwrite,
            on_tile=on_progress,
            ome=self.ome,
        )


BIGTIFF = TiffExporter("bigtiff", "BigTIFF", (".tif", ".tiff", ".btf"))
OME_TIFF = TiffExporter("ome-tiff", "OME-TIFF", (".ome.tif", ".ome.tiff", ".ome.btf"), ome=True)


def export_bigtiff(
    store: Store,
    path: str | Path,
    *,
    compression: Compression = "deflate",
    tile: int = TIFF_TILE,
    memory: int = BIGTIFF_MEMORY,
    overwrite: bool = False,
    on_tile: Progress | None = None,
    ome: bool = False,
) -> None:
    """Write a tiled BigTIFF with the smaller levels as SubIFDs, profile and resolution kept.

    The same store gives the same bytes. They are written under a temporary name in the same folder, flushed and
    renamed: nothing half-written ever has the target's name.

    Args:
        store: finished, with its pyramid.
        path: a local file.
        compression: all of them lossless; all but "none" after horizontal differencing.
        tile: side of the TIFF's tiles, in pixels, a multiple of 16.
        memory: how much to read from the store at once, in bytes; more decodes the store's chunks fewer times.
        overwrite: replace a file that is there.
        on_tile: called with (tiles done, tiles in all).
        ome: describe it in OME-XML: name, sizes, the side of a pixel where the resolution is known.

    Raises:
        InputError: ``tile`` or ``compression`` is not one of those above.
        StoreError: the file is there, a shard is missing, or reading or writing fails.
    """
    check_tile(tile)
    if compression not in COMPRESSION_LEVELS:
        raise InputError(f"there is no compression {compression!r}: choose one of {', '.join(COMPRESSION_LEVELS)}")
    with whole_file(Path(path), overwrite=overwrite) as partial:
        require_shards(store)
        _write(store, partial, compression, tile, memory, on_tile, ome=ome)


def bigtiff_bytes(layout: StoreLayout, *, tile: int = TIFF_TILE, memory: int = BIGTIFF_MEMORY) -> int:
    """Upper bound of the memory, in bytes, that an export takes."""
    one = tile * tile * pixel_bytes(layout)
    block = max(min(memory, layout.width * layout.height * pixel_bytes(layout)), one)
    count = -(-layout.width // tile) * -(-layout.height // tile)
    return block + read_bytes(layout) + 4 * _QUEUE * one + 100 * count


def check_tile(tile: int) -> None:
    """
    Raises:
        InputError: a TIFF cannot have tiles of this side.
    """
    if tile < 16 or tile % 16:
        raise InputError(f"a TIFF's tiles have sides that are multiples of 16, not {tile}")


def tile_side(tile: int, width: int, height: int) -> int:
    """The side of a level's tiles: libvips refuses tiles that are much larger than their image."""
    return min(tile, -(-max(width, height) // 16) * 16)


def _write(
    store: Store, path: Path, compression: str, tile: int, memory: int, on_tile: Progress | None, *, ome: bool
) -> None:
    layout = store.layout
    options = _options(layout, compression, tile)
    count = Count(count_tiles(store.levels, tile), on_tile)
    with tifffile.TiffWriter(path, bigtiff=True, byteorder="<", ome=ome) as writer:
        for level, (width, height) in enumerate(store.levels):
            special = _first(store, ome=ome) if level == 0 else {"subfiletype": 1, "software": False, "metadata": None}
            side = tile_side(tile, width, height)
            parts: Iterator[Any] = tiles(store, level, side, memory, count)
            if compression == "none":
                # NumPy's own way to write an array to a file loses the reason of a failure.
                parts = (pixels.tobytes() for pixels in parts)
            writer.write(parts, shape=(height, width, layout.bands), tile=(side, side), **options, **special)


def _options(layout: StoreLayout, compression: str, tile: int) -> dict[str, Any]:
    """What all levels are written with."""
    options: dict[str, Any] = {
        "dtype": layout.dtype,
        "photometric": "rgb",
        "planarconfig": "contig",
        "extrasamples": ["unassalpha"] if layout.bands == 4 else None,
        "datetime": None,
        "maxworkers": _WORKERS,
        "buffersize": _QUEUE * tile * tile * pixel_bytes(layout),
    }
    if compression != "none":
        options |= {
            "compression": _TAGS[compression],
            "compressionargs": COMPRESSION_LEVELS[compression],
            "predictor": True,
        }
    return options


def _first(store: Store, *, ome: bool) -> dict[str, Any]:
    """What only the full size says."""
    layout = store.layout
    first: dict[str, Any] = {
        "software": f"urst-tiles {__version__}",
        "subifds": len(store.levels) - 1,
        "metadata": _ome(store) if ome else None,
    }
    if layout.icc_profile is not None:
        first["iccprofile"] = layout.icc_profile
    if layout.resolution is not None:
        first |= {"resolution": tuple(10 * n for n in layout.resolution), "resolutionunit": "centimeter"}
    if layout.geo is not None:
        first["extratags"] = [(*tag, True) for tag in layout.geo.tags()]
    return first


def _ome(store: Store) -> dict[str, Any]:
    """What tifffile makes the OME-XML of. Colours side by side are one channel of three or four samples."""
    layout = store.layout
    described: dict[str, Any] = {
        "axes": "YXS",
        "Creator": f"urst-tiles {__version__}",
        # Made of the picture, not of time and machine: the same store gives the same bytes.
        "UUID": f"urn:uuid:{uuid.UUID(digest_of(store)[:32])}",
        "SignificantBits": 8 * np.dtype(layout.dtype).itemsize,
    }
    if layout.name:
        described["Name"] = layout.name
    if layout.resolution is not None:
        for axis, per_millimetre in zip("XY", layout.resolution, strict=True):
            described |= {f"PhysicalSize{axis}": 1000 / per_millimetre, f"PhysicalSize{axis}Unit": "µm"}
    return described
