"""A raster behind a mask: what the mask hides is neither read nor made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import InputError, SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels, RasterInfo, Source, let_go
from urst_tiles.sources.shrink import UNTILED

__all__ = ["Masked", "MaskedSource"]

_BAND_BYTES = 4 << 20
"""A window is put together in bands of rows of about this size: little is held twice."""


@runtime_checkable
class Masked(Source, Protocol):
    """A source that can tell what is hidden without reading it. Where a core of a result is hidden, it is 0."""

    def visible(self, window: Window) -> bool:
        """Whether any pixel of a window may have an alpha above 0.

        Raises:
            InputError: the window reaches outside the raster.
            SourceError: it cannot be decoded.
        """
        ...


class MaskedSource:
    """A raster whose alpha is a mask, multiplied with the alpha of its own where it has one.

    Args:
        raster: any source.
        mask: a grey one of the same size, 8 or 16 bit whatever the raster is: 0 hides, full shows, what is between
            is kept as soft alpha.
        own: whether the mask is the raster file's own and says which of its pixels are valid. Then it has a say in the
            thumbnail, as alpha of its own has.

    Raises:
        SourceError: the mask has another size, or more than one band.
    """

    def __init__(self, raster: Source, mask: Source, *, own: bool = False) -> None:
        self.raster, self.mask, self.own = raster, mask, own
        of_raster, of_mask = raster.info, mask.info
        if of_mask.bands != 1:
            raise SourceError(
                f"the mask {mask.name} has {of_mask.bands} bands; give a grey one with a single band: "
                "white where the raster is to be stylized, black elsewhere"
            )
        if (of_mask.width, of_mask.height) != (of_raster.width, of_raster.height):
            raise SourceError(
                f"the mask {mask.name} has {of_mask.width} x {of_mask.height} pixels and {raster.name} has "
                f"{of_raster.width} x {of_raster.height}; give a mask of the raster's size"
            )
        notes = tuple(f"The mask: {note}" for note in of_mask.notes)
        self._info = dataclasses.replace(
            of_raster,
            bands=of_raster.bands + (not of_raster.alpha),
            alpha=True,
            random_access=of_raster.random_access and of_mask.random_access,
            format=f"{of_raster.format} with a {'mask of its own' if own else f'{of_mask.format} mask'}",
            notes=of_raster.notes + (_said_of_own(of_raster) if own else ()) + notes,
        )

    def of(self, raster: Source, mask: Source) -> MaskedSource:
        """The same, of other sources of the two."""
        return MaskedSource(raster, mask, own=self.own)

    @property
    def info(self) -> RasterInfo:
        return self._info

    @property
    def name(self) -> str:
        return self.raster.name

    def fingerprint(self) -> dict[str, Any]:
        """Both of them."""
        return {"raster": self.raster.fingerprint(), "mask": self.mask.fingerprint()}

    def visible(self, window: Window) -> bool:
        """See :class:`Masked`. Reads the mask alone, that of a raster behind one too, no further than needed."""
        beneath = self.raster if isinstance(self.raster, Masked) else None
        return any(
            self._mask(band).any() and (beneath is None or beneath.visible(band)) for band in self._bands(window)
        )

    def read(self, window: Window) -> Pixels:
        """See :meth:`urst_tiles.sources.base.Source.read`. The mask is read first: where it hides the whole window,
        the raster is not read and all is 0; else hidden pixels have the raster's colours, for the network to see."""
        info, bands = self._info, self.raster.info.bands
        # Zeros cost no memory before they are written over.
        out: Pixels = np.zeros((window.height, window.width, info.bands), info.dtype)
        seen = False
        for band in self._bands(window):
            alpha = self._mask(band)
            if alpha.any():
                seen = True
                out[(*band.relative_to(window).slices, -1)] = alpha
        for band in self._bands(window) if seen else ():
            part = out[band.relative_to(window).slices]
            pixels = self.raster.read(band)
            if self.raster.info.alpha:
                part[..., :-1] = pixels[..., :-1]
                part[..., -1] = _product(part[..., -1], pixels[..., -1])
            else:
                part[..., :bands] = pixels
        return out

    def thumbnail(self, short_side: int) -> Pixels:
        """The whole raster shrunk, with the alpha of its own, opaque where it has none.

        Like a region, a mask chooses what is made and has no say in how: statistics are the whole raster's, and what is
        visible is made as without a mask. Only the mask in the raster's own file is alpha of its own: what it hides is
        no part of the raster.
        """
        pixels, bands = self.raster.thumbnail(short_side), self.raster.info.bands
        out: Pixels = np.full((*pixels.shape[:2], self._info.bands), np.iinfo(pixels.dtype).max, pixels.dtype)
        out[..., :bands] = pixels
        if self.own:
            out[..., -1] = _product(out[..., -1], self._as_alpha(self.mask.thumbnail(short_side)))
        return out

    def let_go(self) -> None:
        """See :func:`urst_tiles.sources.base.let_go`."""
        for part in (self.raster, self.mask):
            let_go(part)

    def cache_bytes(self, width: int) -> int:
        """Theirs, and a band of rows of each before they are put together."""
        rows = min(self._rows(width), self._info.height)
        # Scaling and multiplying alpha takes a few 32-bit numbers a pixel.
        band = width * rows * (self.raster.info.bytes_per_pixel + self.mask.info.bytes_per_pixel + 16)
        return self.raster.cache_bytes(width) + self.mask.cache_bytes(width) + band

    @property
    def stream_bytes(self) -> int:
        """Upper bound, in bytes, of what unpacking them takes, one after the other."""
        return max(_stream_bytes(source) for source in (self.raster, self.mask))

    def _mask(self, window: Window) -> Pixels:
        """(height, width), in the raster's type."""
        return self._as_alpha(self.mask.read(window))

    def _as_alpha(self, mask: Pixels) -> Pixels:
        """(height, width, 1) of the mask → (height, width), in the raster's type."""
        pixels = mask[..., 0]
        if pixels.dtype == np.dtype(self._info.dtype):
            return pixels
        if pixels.dtype == np.uint8:
            return pixels.astype(np.uint16) * np.uint16(257)
        return _narrowed(pixels)

    def _rows(self, width: int) -> int:
        """Whole rows of the raster's tiles, about _BAND_BYTES of them, so that no tile is decoded twice."""
        tall = (self.raster.info.tile or UNTILED)[1]
        return max(1, _BAND_BYTES // (width * self._info.bytes_per_pixel * tall)) * tall

    def _bands(self, window: Window) -> Iterator[Window]:
        if not Window(0, 0, self._info.width, self._info.height).contains(window):
            raise InputError(
                f"the window {window} reaches outside {self.name}, which has {self._info.width} x "
                f"{self._info.height} pixels"
            )
        rows = self._rows(window.width)
        start = window.row_off
        while start < window.row_end:
            end = min((start // rows + 1) * rows, window.row_end)
            yield Window(window.col_off, start, window.width, end - start)
            start = end


def _said_of_own(raster: RasterInfo) -> tuple[str, ...]:
    done = "multiplied with the raster's alpha" if raster.alpha else "taken for alpha"
    return (f"The file's own mask is {done}.",)


def _narrowed(pixels: Pixels) -> NDArray[np.uint8]:
    """16 bits to 8, to the nearest. 0 stays 0, full stays full."""
    return ((pixels.astype(np.uint32) * np.uint32(255) + np.uint32(32767)) // np.uint32(65535)).astype(np.uint8)


def _product(one: Pixels, other: Pixels) -> Pixels:
    """Of two alphas, to the nearest; exact where one of them is 0 or full."""
    top = np.uint32(np.iinfo(one.dtype).max)
    # 65535² + 32767 is below 2³².
    both = one.astype(np.uint32) * other + top // np.uint32(2)
    return cast("Pixels", (both // top).astype(one.dtype))


def _stream_bytes(source: Source) -> int:
    if source.info.random_access:
        return 0
    stated: int | None = getattr(source, "stream_bytes", None)
    return source.info.pixels * source.info.bytes_per_pixel if stated is None else stated
