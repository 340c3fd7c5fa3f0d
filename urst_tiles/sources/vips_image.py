"""How libvips opens a raster, and what is done to its pixels so that they are grey or RGB, 8 or 16 bit.

Importing this module switches libvips' operation cache off, for the whole process: an operation kept there keeps its
file open and its tiles in memory, and one that failed would be handed out again after the file has been mended.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyvips

from urst_tiles.errors import SourceError
from urst_tiles.sources.base import Colour
from urst_tiles.sources.colour import profile_fault, srgb_profile
from urst_tiles.sources.tiff_header import TiffFacts

__all__ = [
    "Presented",
    "decodes_whole",
    "has_refused_header",
    "is_random_access",
    "is_tiff",
    "loader_of",
    "open_image",
    "present",
    "stated_resolution",
    "why",
]

pyvips.cache_set_max(0)

_CONVERTED = ("cmyk", "lab", "labs", "labq", "lch")
"""Colour spaces that are not grey or RGB and that libvips converts."""
_BY_WINDOWS = ("tiff", "openslide", "jp2k", "vips", "ppm", "svg")
"""Loaders that may read windows. Others say so too of files that they decode whole, as that of interlaced PNGs."""
_PARTIAL = 1
"""VIPS_FOREIGN_PARTIAL: the loader says that it decodes a part of this file without what stands before it."""

_PLAINLY = {
    "not a known file format": (
        "libvips does not read this format, or the header is damaged. Convert it to a tiled TIFF first; "
        "conda-forge's and Debian's libvips read more than pip's, such as OpenEXR, JPEG 2000 and slides"
    ),
    "bad labq format": "libvips does not read Lab TIFFs of 8 bit. Convert it to RGB or to 16 bit first",
}
"""What some of libvips' messages come down to."""


@dataclass(frozen=True, slots=True)
class Presented:
    """An image as a source shows it, orientation not yet applied, and what its bands are."""

    image: Any
    # pyvips.Image
    colour: Colour
    alpha: bool
    dtype: Literal["uint8", "uint16"]
    icc_profile: bytes | None
    # what its numbers are in: the file's own, or that of sRGB where they were converted to it
    notes: tuple[str, ...]
    choice: tuple[str, ...] = ()
    # what of the file was asked for, as in RasterInfo


def open_image(path: str, access: Literal["random", "sequential"], **options: int) -> Any:
    """A pyvips.Image of its own (libvips would share one between callers) whose reading fails where bytes are missing.

    Raises:
        pyvips.Error: the file cannot be opened.
    """
    # libvips' TIFF loader paints tiles that it cannot read black unless it may not even warn. The other loaders raise
    # for missing data, and would refuse good files for the sake of a warning. So does that of TIFFs in strips: a text
    # with a null byte or tags out of order, which scanners and cameras write, are warnings. All measured with 8.18.
    image = _opened(path, access, "warning" if is_tiff(path) else "error", options)
    if not is_tiff(path) or not _in_strips(image) or _begins(path, "warning", options):
        return image  # the strictest: of strips of JPEG and fax, some damage is but a warning
    return _opened(path, access, "error", options)


def has_refused_header(path: str) -> bool:
    """Whether libvips refuses a TIFF's strips for an error in its header that keeps nobody from its pixels: a tag with
    a value that it cannot have, such as an orientation of 0."""
    if not is_tiff(path):
        return False
    try:
        image = _opened(path, "sequential", "error", {})
    except pyvips.Error:
        return False
    return _in_strips(image) and not _begins(path, "error", {}) and _begins(path, "none", {})


def _in_strips(image: Any) -> bool:
    """Whether a TIFF's image is known not to be in tiles, which libvips tells from 8.15 on."""
    return bool(pyvips.at_least_libvips(8, 15)) and "tile-width" not in image.get_fields()


def _begins(path: str, fail_on: str, options: Mapping[str, int]) -> bool:
    """Whether the first pixel can be read with as much to complain of as that."""
    try:
        pyvips.Region.new(_opened(path, "sequential", fail_on, options)).fetch(0, 0, 1, 1)
    except pyvips.Error:
        return False
    return True


def _opened(path: str, access: str, fail_on: str, options: Mapping[str, int]) -> Any:
    try:
        return pyvips.Image.new_from_file(path, access=access, fail_on=fail_on, revalidate=True, **options)
    except pyvips.Error as error:
        # Loaders before libvips 8.15, and that of slides in any, do not know it; with no operation cache none needs it.
        if "revalidate" not in str(error):
            raise
    return pyvips.Image.new_from_file(path, access=access, fail_on=fail_on, **options)


def is_tiff(path: str) -> bool:
    """Whether the file begins as a TIFF or BigTIFF."""
    return _first_bytes(path) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def loader_of(image: Any, path: str) -> str:
    """The name of the libvips operation that reads this file, such as "tiffload"."""
    # libvips' own format names none, or the loader of the file that it was made from.
    if _first_bytes(path) in (b"\x08\xf2\xa6\xb6", b"\xb6\xa6\xf2\x08"):
        return "vipsload"
    return str(_field(image, "vips-loader"))


def _first_bytes(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(4)


def is_random_access(path: str, loader: str) -> bool:
    """Whether the loader reads windows of this very file without decoding it whole. Tiled and strip TIFFs differ."""
    if not loader.startswith(_BY_WINDOWS):
        return False
    try:
        _, found = pyvips.Operation.call(loader, path, flags=True)
    except pyvips.Error:
        return False
    return bool(found["flags"] & _PARTIAL)


def decodes_whole(image: Any, loader: str) -> bool:
    """Whether even decoding from top to bottom holds the whole raster in memory: progressive JPEG, interlaced PNG …"""
    if loader.startswith(("webp", "heif", "gif", "jxl")):
        return True
    return loader.startswith(("jpeg", "png")) and bool(_field(image, "interlaced") or _field(image, "jpeg-multiscan"))


def present(image: Any, name: str, facts: TiffFacts | None) -> Presented:
    """Grey or RGB, with or without alpha, 8 or 16 bit: what the rest of the package works on.

    Raises:
        SourceError: the pixels are of another kind; the message says which and what to do.
    """
    notes: list[str] = []
    if facts is not None and facts.tile is not None and facts.planar:
        raise SourceError(
            f"{name} is a tiled TIFF with its bands stored apart, which libvips does not read. "
            "Store them together first, for example with: tiffcp -p contig"
        )
    icc = _field(image, "icc-profile-data")
    if image.interpretation in _CONVERTED:
        image = _to_rgb(image, notes, bytes(icc) if icc else None)
        # From here on they are sRGB, and whoever copies or exports them says so.
        icc = srgb_profile()
    dtype = _dtype(image, name)
    colour, alpha = _bands(image, name, notes)
    if alpha and facts is not None and facts.extra_samples:
        if facts.extra_samples[0] == 1:
            notes.append("The colours were stored multiplied by alpha; they have been divided by it again.")
        elif facts.extra_samples[0] == 0:
            notes.append("The file does not say what its last band is; it is taken for alpha.")
    # From here on the image says of itself what it is taken for, so that a copy of it is read in the same way.
    kinds = {"grey": ("b-w", "grey16"), "rgb": ("srgb", "rgb16")}
    image = image.copy(interpretation=kinds[colour][dtype == "uint16"])
    return Presented(image, colour, alpha, dtype, bytes(icc) if icc else None, tuple(notes))


def _to_rgb(image: Any, notes: list[str], icc: bytes | None) -> Any:
    kind = image.interpretation
    said = f"The colours were converted from {kind} to sRGB"
    if kind != "cmyk":
        # Lab is what profiles lead to: there is nothing that one could say about it.
        notes.append(said + ("; the embedded ICC profile means nothing for them and is not kept." if icc else "."))
        deep = (_field(image, "bits-per-sample") or 8) > 8
        return image.colourspace("rgb16" if deep else "srgb")
    fault = profile_fault(icc, ("cmyk",)) if icc else None
    if not icc:
        notes.append(f"{said}.")
    elif fault is None:
        notes.append(f"{said} with the embedded ICC profile, which no longer applies and is not kept.")
    else:
        notes.append(f"{said} with libvips' own ICC profile: the embedded one cannot be used, {fault}.")
    return image.icc_transform(
        "srgb",
        input_profile="cmyk",
        embedded=bool(icc) and fault is None,
        depth=16 if image.format == "ushort" else 8,
        black_point_compensation=True,
    )


def _dtype(image: Any, name: str) -> Literal["uint8", "uint16"]:
    if image.coding != "none" or image.format not in ("uchar", "ushort"):
        kind = {"char": "int8", "short": "int16", "int": "int32", "uint": "uint32"}.get(image.format, image.format)
        if image.coding != "none":
            kind = f"{image.coding}-coded"
        raise SourceError(
            f"{name} has {kind} pixels, which have no known range of brightness. "
            "Convert it to 8 or 16 bit (uint8 or uint16) first"
        )
    return "uint8" if image.format == "uchar" else "uint16"


def _bands(image: Any, name: str, notes: list[str]) -> tuple[Colour, bool]:
    kind, bands = image.interpretation, image.bands
    if kind in ("b-w", "grey16") and bands <= 2:
        return "grey", bands == 2
    if kind in ("srgb", "rgb16", "rgb") and 3 <= bands <= 4:
        return "rgb", bands == 4
    if bands == 1:
        return "grey", False
    if bands == 3:
        notes.append("The file does not say what its three bands are; they are taken for red, green and blue.")
        return "rgb", False
    raise SourceError(
        f"{name} has {bands} bands ({kind}), which are neither grey nor RGB, with or without alpha. "
        "Choose one or three of them, for example with --channels 0,1,2"
    )


def stated_resolution(image: Any, loader: str, path: str, facts: TiffFacts | None) -> tuple[float, float] | None:
    """Pixels per millimetre, (x, y), as stored; None where the file states none and libvips fills in a default."""
    if loader.startswith("tiff"):
        return facts.resolution if facts else None
    microns = [_field(image, f"openslide.mpp-{axis}") for axis in "xy"]
    if all(microns):
        return 1000 / float(microns[0]), 1000 / float(microns[1])
    if loader.startswith("png") and (found := _png_resolution(path)):
        return found
    if loader.startswith("vips"):
        stated = (image.xres, image.yres) != (1, 1)
    else:
        stated = "resolution-unit" in image.get_fields()
    return (float(image.xres), float(image.yres)) if stated else None


def _png_resolution(path: str) -> tuple[float, float] | None:
    """The pHYs chunk of a PNG. libvips gives 72 dpi both where that is stated and where nothing is."""
    with Path(path).open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"pHYs" and length == 9:
                x, y, unit = struct.unpack(">IIB", file.read(9))
                return (x / 1000, y / 1000) if unit == 1 and x and y else None
            if kind in (b"IDAT", b"IEND"):
                return None
            file.seek(length + 4, 1)
    return None


def _field(image: Any, field: str) -> Any:
    return image.get(field) if field in image.get_fields() else None


def why(error: Exception) -> str:
    """The line of libvips' message that is nearest to the cause: the last one that names a part of libvips."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for said, meant in _PLAINLY.items():
        if any(said in line for line in lines):
            return meant
    causes = [line for line in lines if ": " in line] or lines
    return causes[-1] if causes else "libvips does not say why"
