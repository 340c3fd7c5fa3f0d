"""EXIF's orientations, 1 … 8: how a raster is turned from how it is stored to how it is shown."""

from __future__ import annotations

from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels

__all__ = ["oriented", "stored_window", "turned"]


def turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) as shown, of what is stored so large, or the other way round: 5 to 8 exchange the sides."""
    return (size[1], size[0]) if orientation > 4 else size


def oriented(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels as stored, (height, width, bands) → as shown, C-contiguous and the caller's own."""
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    mirrored, flipped = _reversed(orientation)
    shown: Pixels = pixels[:: -1 if flipped else 1, :: -1 if mirrored else 1].copy()
    return shown


def stored_window(window: Window, size: tuple[int, int], orientation: int) -> Window:
    """Where the pixels of a window of the raster as shown, ``size`` large, are stored."""
    mirrored, flipped = _reversed(orientation)
    col = size[0] - window.col_end if mirrored else window.col_off
    row = size[1] - window.row_end if flipped else window.row_off
    if orientation > 4:
        return Window(row, col, window.height, window.width)
    return Window(col, row, window.width, window.height)


def _reversed(orientation: int) -> tuple[bool, bool]:
    """(mirrored left to right, upside down), after the transposition of 5 … 8."""
    return orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
