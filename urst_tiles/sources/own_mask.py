"""The mask in a TIFF's own file: a page that says which pixels are valid, read as a grey raster beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import SourceError, reason_of
from urst_tiles.geometry import Window
from urst_tiles.sources.arrays import ArraySource, Stated
from urst_tiles.sources.axes import Layout
from urst_tiles.sources.base import Pixels, Source
from urst_tiles.sources.byte_files import ByteFile
from urst_tiles.sources.choice import ALL_OF_IT
from urst_tiles.sources.mask_pages import MaskPage
from urst_tiles.sources.masked import MaskedSource
from urst_tiles.sources.orientation import oriented, stored_window, turned
from urst_tiles.sources.tiff import SLACK_BYTES, TiffArray, TiffFileHeader, TiffSource
from urst_tiles.sources.vips import VipsSource

__all__ = ["OwnMask", "behind_own_mask"]


def behind_own_mask(raster: VipsSource | TiffSource) -> Source:
    """A raster behind the mask that its file holds of it; the raster itself where there is none that can be used.

    Raises:
        SourceError: the mask cannot be opened.
    """
    info, facts = raster.info, raster.facts
    if facts is None:
        return raster
    pages = facts.masks.of([turned(size, info.orientation) for size in ((info.width, info.height), *info.levels)])
    return MaskedSource(raster, OwnMask(raster.name, pages, info.orientation), own=True) if pages else raster


class OwnMask(ArraySource):
    """The mask of a raster and those of its smaller levels, grey of 8 bit, turned as the raster is.

    1 bit becomes 0 and 255. libvips does not read such pages; tifffile does, any window of them, in strips too.

    Raises:
        SourceError: it cannot be opened.
    """

    def __init__(self, path: str, pages: Sequence[MaskPage], orientation: int = 1) -> None:
        self._name = f"the mask in {path}"
        self._file = ByteFile(path)
        self._page, self._orientation = pages[0].page, orientation
        header = TiffFileHeader(self._file)
        try:
            arrays = tuple(_Shown(TiffArray(header, None, page.page)) for page in pages)
        # The file may have changed since its header was read.
        except Exception as error:
            raise SourceError(f"cannot open {self._name}: {type(error).__name__}: {reason_of(error)}") from error
        self._settle(arrays, Layout(2, 0, 1, None), ALL_OF_IT, Stated(), "tiff")
        stored = self._info
        width, height = turned((stored.width, stored.height), orientation)
        self._info = dataclasses.replace(
            stored,
            width=width,
            height=height,
            levels=tuple(turned(size, orientation) for size in stored.levels),
            tile=stored.tile and turned(stored.tile, orientation),
        )

    def fingerprint(self) -> dict[str, Any]:
        """Name, size, time or tag of the last change of the file, and which page it is."""
        return self._file.facts | {"page": self._page}

    def cache_bytes(self, width: int) -> int:
        """A band of rows, a tile or strip compressed, unpacked and turned to bytes, and the header."""
        chunk_width, chunk_height = self._info.tile or (width, width)
        return super().cache_bytes(width) + 4 * chunk_width * chunk_height + SLACK_BYTES

    def _read(self, level: int, window: Window) -> Pixels:
        size = ((self._info.width, self._info.height), *self._info.levels)[level]
        pixels = super()._read(level, stored_window(window, size, self._orientation))
        return pixels if self._orientation == 1 else oriented(pixels, self._orientation)


class _Shown:
    """A page of 1 or 8 bit as an array of 8 bit."""

    def __init__(self, page: TiffArray) -> None:
        self._page = page
        self.shape, self.chunks, self.dtype = page.shape, page.chunks, np.dtype(np.uint8)

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[np.uint8]:
        values = self._page[index]
        return values.view(np.uint8) * np.uint8(255) if values.dtype == np.bool_ else values
