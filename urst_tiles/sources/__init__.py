"""Where pixels come from: files, Zarr stores and arrays, all behind one :class:`Source`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from urst_tiles.errors import SourceError
from urst_tiles.sources.base import Pixels, RasterInfo, Source

__all__ = ["Pixels", "RasterInfo", "Source", "open_source"]

_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def open_source(path_or_array: Any, *, axes: str | None = None) -> Source:
    """Open whatever pixels come from.

    Args:
        path_or_array: a raster file that libvips reads; a folder or URL that holds a Zarr array or an OME-Zarr group; a
            NumPy, Dask or Zarr array; or a source, which is returned as it is.
        axes: for arrays, one letter an axis, such as "yxc" or "cyx"; by default from metadata or an unambiguous shape.

    Raises:
        SourceError: it cannot be opened, or it is not 8 or 16 bit grey or RGB.
    """
    given = path_or_array
    # Each kind is imported where it is needed: libvips, Zarr and Dask take a while.
    if isinstance(given, str | os.PathLike):
        path = os.fspath(given)
        if _is_zarr(path):
            from urst_tiles.sources.zarr_store import ZarrSource

            return ZarrSource(path, axes=axes)
        if axes is not None:
            raise SourceError(f"axes={axes!r} was given for {path}, but a raster file names its own. Leave it out")
        from urst_tiles.sources.vips import VipsSource

        return VipsSource(path)
    if isinstance(given, Source):
        return given
    if type(given).__module__.partition(".")[0] == "zarr":
        from urst_tiles.sources.zarr_store import ZarrSource

        return ZarrSource(given, axes=axes)
    if hasattr(given, "shape") and hasattr(given, "dtype") and hasattr(given, "__getitem__"):
        from urst_tiles.sources.arrays import ArraySource

        return ArraySource(given, axes=axes)
    raise SourceError(
        f"{type(given).__name__} is no source of pixels. Give a path, a URL, or a NumPy, Dask or Zarr array"
    )


def _is_zarr(path: str) -> bool:
    if "://" in path:
        return True
    folder = Path(path)
    return any((folder / name).is_file() for name in _ZARR_FILES)
