"""Where pixels come from: files, Zarr stores and arrays, all behind one :class:`Source`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from urst_tiles.errors import SourceError
from urst_tiles.sources.base import Pixels, RasterInfo, Source
from urst_tiles.sources.choice import ALL_OF_IT, Choice

__all__ = ["Pixels", "RasterInfo", "Source", "open_source"]

_TIFFS = (".tif", ".tiff", ".btf", ".svs")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".jp2", ".avif", ".heif", ".heic", ".exr", ".gif", ".pdf", ".ndpi")
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def open_source(
    path_or_array: Any,
    *,
    axes: str | None = None,
    level: int | None = None,
    channels: Sequence[int] | int | str | None = None,
    range: Sequence[float] | str | None = None,  # noqa: A002 - the option's name
    nodata: float | None = None,
) -> Source:
    """Open whatever pixels come from.

    Args:
        path_or_array: a raster file that libvips or tifffile reads; a URL of a TIFF; a folder or URL that holds a Zarr
            array or an OME-Zarr group; a NumPy, Dask or Zarr array; or a source, which is returned as it is.
        axes: for arrays, one letter an axis, such as "yxc" or "cyx"; by default from metadata or an unambiguous shape.
        level: of a pyramid or slide; 0, the default, is the full size.
        channels: counted from 0: one for grey or three for RGB, and one more for alpha; by default all there are.
        range: (lo, hi), the numbers that become black and white of 16 bit. Floats, and integers that are not unsigned
            ones of 8 or 16 bit, need one; by default what the file states.
        nodata: pixels with this value in all colour bands are transparent; by default what the file states.

    Raises:
        SourceError: it cannot be opened, has not what was asked for, or is neither grey nor RGB.
        InputError: what was asked for makes no sense.
    """
    choice = Choice.of(axes=axes, level=level, channels=channels, range=range, nodata=nodata)
    given = path_or_array
    # Each kind is imported where it is needed: libvips, Zarr and Dask take a while.
    if isinstance(given, str | os.PathLike):
        return _open_path(os.fspath(given), choice)
    if isinstance(given, Source):
        if choice != ALL_OF_IT:
            raise SourceError(f"{given.name} is open already; say what is wanted of it to open_source()")
        return given
    if type(given).__module__.partition(".")[0] == "zarr":
        from urst_tiles.sources.zarr_store import ZarrSource

        return ZarrSource(given, choice)
    if hasattr(given, "shape") and hasattr(given, "dtype") and hasattr(given, "__getitem__"):
        from urst_tiles.sources.arrays import ArraySource

        return ArraySource(given, choice)
    raise SourceError(
        f"{type(given).__name__} is no source of pixels. Give a path, a URL, or a NumPy, Dask or Zarr array"
    )


def _open_path(path: str, choice: Choice) -> Source:
    if _is_zarr(path):
        from urst_tiles.sources.zarr_store import ZarrSource

        return ZarrSource(path, choice)
    if choice.axes is not None:
        raise SourceError(f"axes={choice.axes!r} was given for {path}, but a raster file names its own. Leave it out")
    from urst_tiles.sources.own_mask import behind_own_mask
    from urst_tiles.sources.tiff import TiffSource, is_for_tifffile
    from urst_tiles.sources.tiff_header import read_tiff_facts
    from urst_tiles.sources.vips import VipsSource, check_file
    from urst_tiles.sources.vips_image import has_refused_header, is_tiff

    if "://" in path:
        return behind_own_mask(TiffSource(path, choice))
    size = check_file(path)
    facts = read_tiff_facts(path) if is_tiff(path) else None
    if facts is not None:
        facts.check_size(path, size)
        if is_for_tifffile(facts, choice.level):
            return behind_own_mask(TiffSource(path, choice))
        if has_refused_header(path):
            with contextlib.suppress(SourceError):  # of a kind that only libvips reads: it says what it refuses
                return behind_own_mask(TiffSource(path, choice))
    return behind_own_mask(VipsSource(path, choice))


def _is_zarr(path: str) -> bool:
    if "://" in path:
        file = path.partition("?")[0].lower()
        if file.endswith(_PICTURES):
            raise SourceError(f"{path} is no TIFF and no Zarr: of a URL only these are read. Download it first")
        return not file.endswith(_TIFFS)
    return any(os.path.isfile(os.path.join(path, name)) for name in _ZARR_FILES)  # noqa: PTH113, PTH118 - never raises
