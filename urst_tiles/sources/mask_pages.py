"""Pages of a TIFF that say which pixels of the raster are valid, as GDAL writes them. Headers are read, never pixels.

TIFF 6.0 calls such a page a transparency mask: bit 2 of its NewSubfileType (the value 4), 1 bit a pixel, 0 where
there is nothing to see. GDAL writes one for the raster and one for each of its smaller levels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile

__all__ = ["NO_MASKS", "MaskPage", "Masks", "masks_of"]

_FIRST_PAGES = 64
"""Masks are looked for among these. A raster with all its levels and their masks has fewer pages; a stack has more."""
_PLAIN = (0, 1, 4)
"""TIFF's photometrics whose numbers are what they say. GDAL turns none of them round, and neither is it done here."""
_MAX_PIECE = 1 << 30
"""The most pixels of a tile or strip: it is decoded whole."""


@dataclass(frozen=True, slots=True)
class MaskPage:
    """A page that is a mask."""

    width: int
    # in pixels
    height: int
    # in pixels
    page: int
    # its place in the file
    fault: str | None = None
    # why it cannot be used, in words

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of a file, in its order. Sizes are those that are stored, orientation not applied."""

    pages: tuple[MaskPage, ...] = ()

    def of(self, sizes: Collection[tuple[int, int]]) -> tuple[MaskPage, ...]:
        """The usable masks of a raster, (width, height), and of its smaller levels, as far as there are any; none where
        the first size, the raster's own, has none."""
        usable = {page.size: page for page in reversed(self.pages) if page.fault is None}
        found = [usable.get(size) for size in sizes]
        return tuple(page for page in found if page is not None) if found and found[0] is not None else ()

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Why a raster of this size is read without the mask that its file holds; empty where it is not so."""
        if not self.pages or self.of([size]):
            return ()
        faults = [page.fault for page in self.pages if page.size == size and page.fault is not None]
        if faults:
            return (f"The file's mask is not used: {faults[0]}.",)
        there = ", ".join(dict.fromkeys(f"{page.width} x {page.height}" for page in self.pages))
        return (f"The file's mask is not used: there is none of {size[0]} x {size[1]} pixels, only of {there}.",)


NO_MASKS = Masks()


def masks_of(tif: Any) -> Masks:
    """The masks of an open ``tifffile.TiffFile``."""
    if tif.is_ome or tif.is_imagej:
        return NO_MASKS  # their pages are planes, often thousands
    found = []
    for index in range(1, min(len(tif.pages), _FIRST_PAGES)):
        try:
            page = tif.pages[index].aspage()
            if page.is_mask:
                found.append(_mask_page(page, index, tif.filehandle.size))
        # A damaged page raises whatever the damage leads to; those after it cannot be trusted.
        except Exception:  # noqa: BLE001
            break
    return Masks(tuple(found))


def _mask_page(page: Any, index: int, file_bytes: int) -> MaskPage:
    width, height = int(page.imagewidth), int(page.imagelength)
    try:
        fault = _fault(page, file_bytes)
    # The same: it is a mask, but what it says makes no sense.
    except Exception as error:  # noqa: BLE001
        fault = f"its header is damaged ({type(error).__name__})"
    return MaskPage(width, height, index, fault)


def _fault(page: Any, file_bytes: int) -> str | None:
    bits, samples = page.bitspersample, int(page.samplesperpixel)
    if samples != 1 or bits not in (1, 8):
        return f"it has {samples} bands of {bits} bits, not a single one of 1 or 8"
    if int(page.sampleformat) != 1 or int(page.photometric) not in _PLAIN:
        return "its numbers are no levels of grey"
    if int(page.compression) not in tifffile.TIFF.DECOMPRESSORS:
        return f"its compression, TIFF's number {int(page.compression)}, is none that is read here"
    tall = int(page.tilelength) if page.is_tiled else min(int(page.rowsperstrip), int(page.imagelength))
    wide = int(page.tilewidth) if page.is_tiled else int(page.imagewidth)
    if tall * wide > _MAX_PIECE:
        return f"it is stored in pieces of {tall * wide / 1e9:.1f} gigapixels, too large to decode one by one"
    starts, counts = (np.asarray(values, np.uint64) for values in (page.dataoffsets, page.databytecounts))
    pieces = -(-int(page.imagelength) // tall) * -(-int(page.imagewidth) // wide)
    if len(starts) != pieces or len(counts) != pieces:
        return f"it has {min(len(starts), len(counts))} tiles or strips of {pieces}"
    written = counts > 0
    if (counts > file_bytes).any() or (starts[written] > file_bytes - counts[written]).any():
        return "its header names bytes behind the file's end"
    return None
