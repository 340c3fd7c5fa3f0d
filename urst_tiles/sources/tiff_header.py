"""Facts of a TIFF's header that libvips does not tell: pyramid levels, a resolution if stated. Never its pixels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import tifffile

__all__ = ["TiffFacts", "TiffLevel", "read_tiff_facts"]

_log = logging.getLogger(__name__)

_MM_PER_UNIT = {2: 25.4, 3: 10.0}
"""TIFF's ResolutionUnit: 2 is the inch, 3 the centimetre; 1 means that the numbers are no resolution."""


@dataclass(frozen=True, slots=True)
class TiffLevel:
    """A smaller copy of the raster in the same file."""

    width: int
    # in pixels
    height: int
    # in pixels
    page: int
    # the page that holds it
    subifd: int | None
    # the place in that page's list of sub-images, or None where it is the page itself


@dataclass(frozen=True, slots=True)
class TiffFacts:
    """What the first page of a TIFF says of itself. Orientation is not applied here."""

    tile: tuple[int, int] | None
    # (width, height) of a tile in pixels; None in a file of strips
    planar: bool
    # whether each band is stored by itself
    palette: bool
    levels: tuple[TiffLevel, ...]
    # largest first, without the full size
    resolution: tuple[float, float] | None
    # pixels per millimetre, (x, y)
    extra_samples: tuple[int, ...]
    # what the bands after the colours are: 0 unknown, 1 premultiplied alpha, 2 alpha
    other_pages: int
    # pages that are neither the raster nor a level of it


def read_tiff_facts(path: str) -> TiffFacts | None:
    """The facts of a TIFF, or None where its header cannot be followed.

    What libvips reads and tifffile does not is still a raster: the caller does without the facts.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            return _facts(tif)
    # A damaged header raises whatever the damage leads to: struct.error, IndexError, MemoryError …
    except Exception as error:  # noqa: BLE001
        _log.debug("no header facts of %s: %s", path, error)
        return None


def _facts(tif: Any) -> TiffFacts:
    page = tif.pages.first
    levels = _levels(tif, page)
    pages_of_raster = 1 + sum(level.subifd is None for level in levels)
    return TiffFacts(
        tile=(int(page.tilewidth), int(page.tilelength)) if page.is_tiled else None,
        planar=int(page.planarconfig) == 2 and page.samplesperpixel > 1,
        palette=int(page.photometric) == 3,
        levels=levels,
        resolution=_resolution(tif, page),
        extra_samples=tuple(int(sample) for sample in page.extrasamples),
        other_pages=max(0, len(tif.pages) - pages_of_raster),
    )


def _levels(tif: Any, first: Any) -> tuple[TiffLevel, ...]:
    series = tif.series[0]
    if series.keyframe.index != first.index:
        return ()
    found = []
    for level in series.levels[1:]:
        page = level.keyframe
        place = tuple(page.treeindex)
        if len(level.pages) == 1 and len(place) <= 2:
            subifd = place[1] if len(place) == 2 else None
            found.append(TiffLevel(int(page.imagewidth), int(page.imagelength), place[0], subifd))
    return tuple(found)


def _resolution(tif: Any, page: Any) -> tuple[float, float] | None:
    if tif.is_svs and (found := _aperio_resolution(page.description)):
        return found
    unit = page.tags.get("ResolutionUnit")
    mm = _MM_PER_UNIT.get(int(unit.value) if unit else 2)
    stated = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    if mm is None or None in stated:
        return None
    per_mm = []
    for tag in stated:
        numerator, denominator = tag.value
        if not numerator or not denominator:
            return None
        per_mm.append(numerator / denominator / mm)
    return per_mm[0], per_mm[1]


def _aperio_resolution(description: str) -> tuple[float, float] | None:
    """Slides of Aperio scanners state micrometres per pixel in their description: ``… |MPP = 0.4990| …``."""
    for field in description.split("|"):
        key, _, value = field.partition("=")
        if key.strip() == "MPP":
            try:
                microns = float(value)
            except ValueError:
                return None
            return (1000 / microns, 1000 / microns) if microns > 0 else None
    return None
