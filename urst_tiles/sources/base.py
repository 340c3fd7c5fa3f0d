"""The seam between a run and where its pixels come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import InputError
from urst_tiles.geometry import Window
from urst_tiles.sources.geo import GeoTags

__all__ = ["Colour", "Pixels", "RasterInfo", "Source", "chosen_of", "let_go", "read_into"]

Colour = Literal["grey", "rgb"]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What is known of a raster before a pixel is read, as the source presents it: orientation already applied."""

    width: int
    # in pixels
    height: int
    # in pixels
    bands: int
    # colour bands and alpha: 1, 2, 3 or 4
    dtype: Literal["uint8", "uint16"]
    colour: Colour
    # what the bands before alpha are
    alpha: bool
    # whether the last band is alpha, not premultiplied
    icc_profile: bytes | None = None
    # embedded profile, verbatim; that of sRGB where the colours were converted to it on the way in
    resolution: tuple[float, float] | None = None
    # pixels per millimetre, (x, y); None when the file states none
    orientation: int = 1
    # EXIF orientation tag found in the file and applied by the source, 1 … 8
    levels: tuple[tuple[int, int], ...] = ()
    # (width, height) of each smaller pyramid level in the file, largest first
    random_access: bool = True
    # False when a window cannot be read without decoding what stands before it
    tile: tuple[int, int] | None = None
    # (width, height) of the file's own blocks, in pixels
    format: str = ""
    # "tiff", "zarr", "array", … for people to read
    notes: tuple[str, ...] = ()
    # what was changed or could not be kept on the way in, one sentence each
    geo: GeoTags | None = None
    # where it lies on the Earth, as a GeoTIFF says; of the level that was chosen
    choice: tuple[str, ...] = ()
    # what of the raster was asked for and decides its pixels, one "name=value" each: level, channels, range, nodata

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise InputError(f"the raster has {self.width} x {self.height} pixels: there is nothing to stylize")
        if self.bands != {"grey": 1, "rgb": 3}[self.colour] + self.alpha:
            raise InputError(f"{self.bands} bands cannot be {self.colour}{' with alpha' if self.alpha else ''}")

    @property
    def bytes_per_pixel(self) -> int:
        return self.bands * np.dtype(self.dtype).itemsize

    @property
    def pixels(self) -> int:
        return self.width * self.height


def chosen_of(info: RasterInfo) -> dict[str, Any]:
    """For fingerprints: what was chosen, where anything was."""
    return {"choice": list(info.choice)} if info.choice else {}


@runtime_checkable
class Source(Protocol):
    """Where pixels come from.

    Implementations pickle small (they carry a path and open it lazily in the process that reads) and are safe to read
    from several threads at once. Nothing is decoded before the first :meth:`read` or :meth:`thumbnail`.
    """

    @property
    def info(self) -> RasterInfo: ...

    @property
    def name(self) -> str:
        """For messages: the path or URL, or a word for an array in memory."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON-able facts that change when the source does, cheap to get: size and modification time for a file."""
        ...

    def read(self, window: Window) -> Pixels:
        """The pixels of a window: (height, width, bands), in the raster's dtype, C-contiguous, owned by the caller.

        Raises:
            InputError: the window reaches outside the raster.
            SourceError: the window cannot be decoded; the message names the file and the window.
        """
        ...

    def thumbnail(self, short_side: int) -> Pixels:
        """The whole raster shrunk, never enlarged, to a shorter side of ``short_side``: (height, width, bands).

        Raises:
            SourceError: it cannot be decoded.
        """
        ...

    def cache_bytes(self, width: int) -> int:
        """Upper bound, in bytes, of what reading windows of this width keeps beyond the array, per reading thread.

        Of a raster without random access, it is that of its tiled copy, through which windows of it are to be read.
        """
        ...


def read_into(source: Source, window: Window, out: Pixels) -> None:
    """Read a window to where it is wanted, (height, width, bands); without a copy of it where the source can do so.

    Raises:
        InputError, SourceError: as :meth:`Source.read`.
    """
    # Its class's own: one that passes on to another what it lacks may have a read() of its own.
    own: Callable[[Source, Window, Pixels], None] | None = getattr(type(source), "read_into", None)
    if own is None:
        out[:] = source.read(window)
    else:
        own(source, window, out)


def let_go(source: Source) -> None:
    """What was decoded for the thread that calls this will hardly be read again soon: of a source that keeps such, none
    is kept from here on."""
    own: Callable[[Source], None] | None = getattr(type(source), "let_go", None)
    if own is not None:
        own(source)
