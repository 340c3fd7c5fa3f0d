"""Colours between a raster's own ICC profile and sRGB, which is what networks were trained on.

::

    pixels ──to_srgb──► network ──from_srgb──► result, tagged with the profile that its numbers are in

Little CMS converts, through imagecodecs. libvips calls the same library, but in 16 bit by way of a table of 33 steps a
side: measured against the formulas, colours inside sRGB come out wrong by up to 7069 of 65535 levels, here by 93.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, cast

import imagecodecs
import numpy as np
import pyvips
from imagecodecs import CMS

from urst_tiles.sources.base import Pixels, RasterInfo
from urst_tiles.sources.icc import Space, header_fault, space_of

__all__ = ["AS_THEY_ARE", "Colours", "OutputProfile", "profile_fault", "srgb_profile"]

OutputProfile = Literal["source", "srgb"]

_ONE_LEVEL = 257
"""A level of 8 bit, in 65535ths. The common sRGB profiles differ from each other by up to 224."""

_THREADS = 4
"""Threads that a slow conversion takes at most."""
_ENOUGH = 1 << 17
"""Pixels that are worth a thread."""

_UNUSABLE = "the ICC profile cannot be used"
_LEFT_OUT = "it is left out and the colours are taken for sRGB"
_OF_GREY = "the ICC profile is one of grey and cannot describe the RGB result, which is in sRGB and says so"
_AS_ASKED = "the colours are converted to sRGB and stay in it, as asked"
_ONE_WAY = "the ICC profile can only be read from, not converted to: the result is in sRGB and says so"
_THERE_AND_BACK = (
    "the network sees the colours in sRGB: those that it changes are clipped to that and converted back to the "
    "raster's own ICC profile"
)


@dataclass(frozen=True, slots=True)
class Colours:
    """What is done about the colours of one raster. A value of a few kilobytes; safe to use from several threads."""

    profile: bytes | None = None
    # what the pixels are converted to sRGB from; None: they are sRGB, or taken for it
    grey: bool = False
    # whether that profile is one of grey
    back: bool = False
    # whether the result is converted back to it
    srgb: bytes = b""
    # the profile of sRGB that they are converted to
    tag: bytes | None = None
    # the profile that the result is in and carries; None: no profile
    notes: tuple[str, ...] = ()
    # what was changed or could not be kept, one sentence each

    @classmethod
    def of(cls, info: RasterInfo, wish: OutputProfile = "source") -> Colours:
        """What to do about a raster, from its profile alone; touches no pixel.

        ``wish`` is the profile of the result: the raster's own, or sRGB. A profile that is damaged, too large or of
        another kind than the pixels is left out, with a note that says why.
        """
        given, srgb = info.icc_profile, srgb_profile()
        taken_for_srgb = cls(tag=srgb if wish == "srgb" else None)
        if given is None:
            return taken_for_srgb
        fault = profile_fault(given, ("gray", "rgb") if info.colour == "grey" else ("rgb",))
        if fault is not None:
            return dataclasses.replace(taken_for_srgb, notes=(f"{_UNUSABLE}, {fault}: {_LEFT_OUT}",))
        if space_of(given) == "gray":
            used = None if _is_srgb(given, srgb, "gray") else given
            return cls(used, grey=used is not None, srgb=srgb, tag=srgb, notes=(_OF_GREY,))
        if _is_srgb(given, srgb, "rgb"):
            return cls(tag=given)
        if wish == "srgb":
            return cls(given, srgb=srgb, tag=srgb, notes=(_AS_ASKED,))
        if not _converts(srgb, given, "rgb"):
            return cls(given, srgb=srgb, tag=srgb, notes=(_ONE_WAY,))
        return cls(given, back=True, srgb=srgb, tag=given, notes=(_THERE_AND_BACK,))

    def to_srgb(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) of the raster, grey repeated → the same shape and dtype in sRGB; the pixels themselves where they
        are that already."""
        if self.profile is None:
            return pixels
        if self.grey:
            return _convert(pixels[..., 0], self.profile, self.srgb, "gray")
        return _convert(pixels, self.profile, self.srgb, "rgb")

    def unseen(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) of the raster, where no network is run → the same in the profile of the result."""
        return pixels if self.back else self.to_srgb(pixels)

    def from_srgb(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) in sRGB → the same shape and dtype in the profile of the result."""
        if not self.back or self.profile is None:
            return pixels
        return _convert(pixels, self.srgb, self.profile, "rgb")

    def finish(self, made: Pixels, seen: Pixels, given: Pixels) -> Pixels:
        """What goes into the result: ``made`` of the network, converted back, where it differs from what the network
        has ``seen``, and the raster's ``given`` pixels where it does not. All (H, W, 3) of one dtype.

        So what a network leaves alone keeps its bytes, colours outside sRGB included.
        """
        if not self.back:
            return made
        result = self.from_srgb(made)
        np.copyto(result, given, where=(made == seen).all(axis=-1, keepdims=True))
        return result

    def bytes_for(self, seen: int, kept: int, itemsize: int) -> int:
        """Upper bound, in bytes, of what converting takes: ``seen`` pixels on the way in, ``kept`` of one window on the
        way out."""
        if self.profile is None:
            return 0
        # In: the converted pixels and a contiguous copy of the given ones. Out: a contiguous copy of what was made, the
        # converted pixels, and where they are equal, by band and over all bands.
        return max(seen * 3 * itemsize * 2, kept * (3 * itemsize * 2 + 4) if self.back else 0)


AS_THEY_ARE = Colours()
"""No conversion, no profile."""


def profile_fault(profile: bytes, spaces: tuple[Space, ...]) -> str | None:
    """Why a profile cannot be used for pixels in one of ``spaces``, in words, or None where it can be."""
    fault, space = header_fault(profile, spaces), space_of(profile)
    if fault is None and not (space and _converts(profile, srgb_profile(), space)):
        fault = "it is damaged"
    return fault


def srgb_profile() -> bytes:
    """libvips' own, 480 bytes: one that is made here would carry the time."""
    return bytes(pyvips.Operation.call("profile_load", "srgb"))


def _convert(pixels: Pixels, source: bytes, target: bytes, space: Space) -> Pixels:
    """(H, W) of grey, (H, W, bands) of others → RGB, (H, W, 3) of the same dtype. Without the interpreter's lock.

    Raises:
        imagecodecs.CmsError: a profile cannot be used.
    """
    # Relative colorimetric: colours that both spaces have stay what they are. Black point compensation only moves what
    # profiles of devices call black.
    flags, threads = int(CMS.FLAGS.BLACKPOINTCOMPENSATION), 1
    if pixels.dtype != np.uint8 or space != "rgb":
        # Without it 16 bit go through a coarse table, and 8 bit of grey lose more than a level in the shadows. It is
        # 15 times slower: 6 megapixels a second.
        flags |= CMS.FLAGS.NOOPTIMIZE
        threads = min(_THREADS, -(-pixels.shape[0] * pixels.shape[1] // _ENOUGH))
    out: Any = np.empty((*pixels.shape[:2], 3), pixels.dtype)

    def convert(rows: slice) -> None:
        imagecodecs.cms_transform(
            pixels[rows],
            source,
            target,
            colorspace=space,
            outcolorspace="rgb",
            intent=CMS.INTENT.RELATIVE_COLORIMETRIC,
            flags=flags,
            out=out[rows],
        )

    step = -(-len(out) // max(1, threads))
    parts = [slice(row, row + step) for row in range(0, len(out), step)]
    if len(parts) == 1:
        convert(parts[0])
    else:
        with ThreadPoolExecutor(len(parts), "colour") as pool:
            list(pool.map(convert, parts))
    return cast("Pixels", out)


def _converts(source: bytes, target: bytes, space: Space) -> bool:
    """Whether Little CMS can convert between two profiles."""
    shape = (1, 1) if space == "gray" else (1, 1, {"rgb": 3, "cmyk": 4}[space])
    try:
        _convert(np.zeros(shape, np.uint16), source, target, space)
    except imagecodecs.CmsError:
        return False
    return True


def _is_srgb(profile: bytes, srgb: bytes, space: Space) -> bool:
    """Whether converting from it changes no colour by more than one level of 8 bit."""
    ramp = np.arange(256, dtype=np.uint16)[None] * np.uint16(257)
    colours = np.repeat(ramp[..., None], 3, -1)
    if space == "rgb":
        steps = np.linspace(0, 65535, 17).astype(np.uint16)
        cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
        colours = np.concatenate([colours, cube], axis=1)
    converted = _convert(ramp if space == "gray" else colours, profile, srgb, space)
    return bool(np.abs(converted.astype(np.int32) - colours).max() <= _ONE_LEVEL)
