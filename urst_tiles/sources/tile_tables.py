"""Where a TIFF's tiles stand in its file and how they are packed, where they are of a plain kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NONE", "TileTable", "has_holes", "tile_table"]

NONE, _DEFLATE = 1, (8, 32946)
"""TIFF's numbers of compressions. LZW is faster in libvips (benchmarks/tiles.py)."""
_HORIZONTAL = 2
"""TIFF's predictor that gives each sample less the one on its left."""
_COLOURS = {1: 1, 2: 3}
"""TIFF's photometric that is grey with black as 0, and RGB: how many samples."""
_NUMBERS = {3: "u2", 4: "u4", 16: "u8"}
"""TIFF's types of whole numbers that tell where something stands."""
_AT_ONCE = 1 << 17
"""Numbers of a list that are looked at together."""


@dataclass(frozen=True, slots=True)
class TileTable:
    """Where a page's tiles stand in its file, and how they are packed."""

    offsets: tuple[int, str]
    # where the list of them stands, in bytes, and NumPy's name of its numbers
    counts: tuple[int, str]
    # the same of how many bytes each tile has
    grid: tuple[int, int]
    # (rows, columns) of tiles
    tile: tuple[int, int, int]
    # (rows, columns, samples) of one
    dtype: str
    # NumPy's name of a sample, with its order of bytes
    compression: int
    # TIFF's number of it
    differences: bool
    # whether each sample is stored less the one on its left


def tile_table(page: Any) -> TileTable | None:
    """Of a ``tifffile.TiffPage`` whose tiles hold grey or RGB [and alpha] in 8 or 16 bit as they are to be read, not
    packed or by deflate; None: it is of another kind."""
    lists = [page.tags.get(name) for name in ("TileOffsets", "TileByteCounts")]
    extra = tuple(int(sample) for sample in page.extrasamples)
    kind = page.dtype
    plain = (
        page.is_tiled
        and None not in lists
        and kind in (np.uint8, np.uint16)
        and int(page.bitspersample) == 8 * kind.itemsize
        and int(page.planarconfig) == 1
        and int(page.imagedepth) == int(page.tiledepth) == 1
        and int(page.fillorder) == 1
        and int(page.compression) in (NONE, *_DEFLATE)
        and int(page.predictor) in (1, _HORIZONTAL)
        and extra in ((), (2,))
        and int(page.samplesperpixel) == _COLOURS.get(int(page.photometric), 0) + len(extra)
    )
    if not plain:
        return None
    tall, wide = int(page.tilelength), int(page.tilewidth)
    grid = -(-int(page.imagelength) // tall), -(-int(page.imagewidth) // wide)
    if any(each.count != grid[0] * grid[1] or int(each.dtype) not in _NUMBERS for each in lists):
        return None
    order = page.parent.byteorder
    offsets, counts = ((int(each.valueoffset), order + _NUMBERS[int(each.dtype)]) for each in lists)
    return TileTable(
        offsets,
        counts,
        grid,
        (tall, wide, int(page.samplesperpixel)),
        order + kind.str[1:],
        int(page.compression),
        int(page.predictor) == _HORIZONTAL,
    )


def has_holes(page: Any) -> bool:
    """Whether some of a ``tifffile.TiffPage``'s tiles or strips were never written: they stand nowhere and have no
    bytes. GDAL leaves out those that hold nothing (SPARSE_OK), and reads them as nodata, or as 0."""
    kind = "Tile" if page.is_tiled else "Strip"
    lists = [page.tags.get(f"{kind}{name}") for name in ("Offsets", "ByteCounts")]
    if None in lists or any(int(each.dtype) not in _NUMBERS for each in lists):
        return False
    return any(
        bool(np.any((offsets == 0) & (counts == 0)))
        for offsets, counts in zip(*(_numbers(page, each) for each in lists), strict=False)
    )


def _numbers(page: Any, tag: Any) -> Iterator[NDArray[Any]]:
    """A list of a page's, some at a time; never more than the file has, whatever it says."""
    file, kind = page.parent.filehandle, np.dtype(page.parent.byteorder + _NUMBERS[int(tag.dtype)])
    for first in range(0, int(tag.count), _AT_ONCE):
        wanted = min(_AT_ONCE, int(tag.count) - first) * kind.itemsize
        file.seek(int(tag.valueoffset) + first * kind.itemsize)
        data = file.read(wanted)
        if len(data) < wanted:
            return
        yield np.frombuffer(data, kind)
