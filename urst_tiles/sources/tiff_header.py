"""Facts of a TIFF's header that libvips does not tell: pyramid levels, a resolution if stated. Never its pixels."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from dataclasses import dataclass
from typing import Any

import tifffile

from urst_tiles.errors import SourceError
from urst_tiles.memory import format_bytes
from urst_tiles.sources.geo import GeoTags, read_geo_tags
from urst_tiles.sources.mask_pages import NO_MASKS, Masks, masks_of
from urst_tiles.sources.tile_tables import TileTable, has_holes, tile_table

__all__ = ["TiffFacts", "TiffLevel", "facts_of", "read_tiff_facts"]

_log = logging.getLogger(__name__)

_MOST_PACKED = {1: 1, 5: 4096, 8: 1032, 32773: 64, 32946: 1032}
"""Bytes that one byte of a file can stand for, by TIFF's number of the compression: none; LZW, a string of its table in
9 bits; deflate, 258 bytes in 2 bits; PackBits, 128 bytes in 2."""

_MM_PER_UNIT = {2: 25.4, 3: 10.0}
"""TIFF's ResolutionUnit: 2 is the inch, 3 the centimetre; 1 means that the numbers are no resolution."""


_OME_UNITS = {"nm": 1e-6, "µm": 1e-3, "μm": 1e-3, "um": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3}
"""Millimetres in OME-XML's units; the micro sign comes in two kinds."""


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
    tile: tuple[int, int] | None = None
    # (width, height) of a tile in pixels; None where it is stored in strips


@dataclass(frozen=True, slots=True)
class TiffFacts:
    """What the first page of a TIFF says of itself. Orientation is not applied here."""

    size: tuple[int, int]
    # (width, height) in pixels
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
    # pages that are neither the raster nor a level of it nor a mask
    nodata: float | None = None
    # the value that GDAL's tag names, where libvips shows the numbers as they are stored
    range: tuple[float, float] | None = None
    # what the file says is its least and its largest number
    orientation: int = 1
    # EXIF's
    apart: bool = False
    # whether channels are pages of their own, as in OME-TIFF: libvips would show the first
    compression: int = 1
    # TIFF's number of it
    wide: bool = False
    # whether its numbers have 64 bits, which libvips does not read
    geo: GeoTags | None = None
    # where the raster lies on the Earth
    masks: Masks = NO_MASKS
    # pages that say which pixels are valid
    tiles: TileTable | None = None
    # of the first page, where it is of a plain kind
    holes: bool = False
    # whether tiles or strips of the raster or its levels were never written; known of files on a disk here
    packed_bytes: int = 0
    # that the first page's pixels take at least, however well they are packed; 0: not known of this compression

    def check_size(self, name: str, size: int) -> None:
        """Before a decoder makes room for what a damaged header says.

        Raises:
            SourceError: the pixels cannot be in a file of so many bytes.
        """
        if size < self.packed_bytes and not self.holes:
            raise SourceError(
                f"cannot open {name}: it is cut off or damaged. {self.size[0]} x {self.size[1]} pixels, as it says, "
                f"take at least {format_bytes(self.packed_bytes)}, and it has {format_bytes(size)}"
            )


def read_tiff_facts(path: str) -> TiffFacts | None:
    """The facts of a TIFF, or None where its header cannot be followed.

    What libvips reads and tifffile does not is still a raster: the caller does without the facts.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            held = [tif.pages.first, *(level.keyframe for level in tif.series[0].levels)]
            once = {page.offset: page for page in held}  # the first level is, as a rule, the first page
            return dataclasses.replace(facts_of(tif), holes=any(map(has_holes, once.values())))
    # A damaged header raises whatever the damage leads to: struct.error, IndexError, MemoryError …
    except Exception as error:  # noqa: BLE001
        _log.debug("no header facts of %s: %s", path, error)
        return None


def facts_of(tif: Any) -> TiffFacts:
    """The facts of an open ``tifffile.TiffFile``; may raise anything where the file is damaged."""
    page = tif.pages.first
    levels, masks = _levels(tif, page), masks_of(tif)
    pages_of_raster = 1 + sum(level.subifd is None for level in levels)
    return TiffFacts(
        size=(int(page.imagewidth), int(page.imagelength)),
        tile=_tile(page),
        planar=int(page.planarconfig) == 2 and page.samplesperpixel > 1,
        palette=int(page.photometric) == 3,
        levels=levels,
        resolution=_resolution(tif, page),
        extra_samples=tuple(int(sample) for sample in page.extrasamples),
        other_pages=max(0, len(tif.pages) - pages_of_raster - len(masks.pages)),
        nodata=_nodata(page),
        range=_range(page),
        orientation=_orientation(page),
        apart=(tif.is_ome or tif.is_imagej) and len(tif.series[0].pages) > 1,
        wide=page.dtype is not None and page.dtype.itemsize > 4 and page.dtype.kind in "iuf",
        compression=int(page.compression),
        geo=read_geo_tags(page.tags),
        masks=masks,
        tiles=tile_table(page),
        packed_bytes=_packed_bytes(page),
    )


def _levels(tif: Any, first: Any) -> tuple[TiffLevel, ...]:
    series = tif.series[0]
    if series.keyframe.index != first.index:
        return ()
    found = []
    for level in series.levels[1:]:
        if len(level.pages) > 2:
            continue
        # The second is its mask: one of 8 bit differs from a grey level in nothing else.
        held = [page for page in level.pages if page is None or not page.keyframe.is_mask]
        if len(held) != 1 or held[0] is None:
            continue
        page = held[0].keyframe
        place = tuple(page.treeindex)
        if len(place) <= 2:
            subifd = place[1] if len(place) == 2 else None
            found.append(TiffLevel(int(page.imagewidth), int(page.imagelength), place[0], subifd, _tile(page)))
    return tuple(found)


def _packed_bytes(page: Any) -> int:
    most = _MOST_PACKED.get(int(page.compression), 0)
    if not most or int(page.photometric) == 6:  # YCbCr has less of two bands
        return 0
    bits = int(page.imagewidth) * int(page.imagelength) * int(page.samplesperpixel) * int(page.bitspersample)
    return bits // 8 // most


def _tile(page: Any) -> tuple[int, int] | None:
    return (int(page.tilewidth), int(page.tilelength)) if page.is_tiled else None


def _orientation(page: Any) -> int:
    found = int(page.tags.valueof("Orientation", 1))
    return found if 1 <= found <= 8 else 1


def _nodata(page: Any) -> float | None:
    """GDAL's tag. It means numbers as stored; those of a palette, of few bits or with white as 0 are not shown so."""
    text = page.tags.valueof("GDAL_NODATA")
    if text is None or int(page.photometric) not in (1, 2, 6) or int(page.bitspersample) < 8:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _range(page: Any) -> tuple[float, float] | None:
    """SMinSampleValue and SMaxSampleValue, over all bands."""
    found = [page.tags.valueof(name) for name in ("SMinSampleValue", "SMaxSampleValue")]
    if None in found:
        return None
    low, high = (values if isinstance(values, tuple) else (values,) for values in found)
    least, most = float(min(low)), float(max(high))
    return (least, most) if math.isfinite(least) and math.isfinite(most) and least < most else None


def _resolution(tif: Any, page: Any) -> tuple[float, float] | None:
    if tif.is_svs and (found := _aperio_resolution(page.description)):
        return found
    if tif.is_ome and (found := _ome_resolution(tif.ome_metadata or "")):
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


def _ome_resolution(xml: str) -> tuple[float, float] | None:
    """PhysicalSizeX and PhysicalSizeY of the first Pixels of OME-XML, in micrometres unless it says otherwise."""
    element = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    if element is None:
        return None
    per_mm = []
    for axis in "XY":
        size = re.search(rf'\bPhysicalSize{axis}="([0-9.eE+-]+)"', element[0])
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', element[0])
        factor = _OME_UNITS.get(unit[1] if unit else "µm")
        if size is None or factor is None or not 0 < (length := float(size[1]) * factor) < math.inf:
            return None
        per_mm.append(1 / length)
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
