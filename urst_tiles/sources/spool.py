"""A tiled copy on disk of a raster that can only be decoded from the top: then any window of it can be read."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import tifffile

from urst_tiles.errors import SourceError
from urst_tiles.sources.base import Pixels, RasterInfo, Source
from urst_tiles.sources.masked import MaskedSource
from urst_tiles.sources.orientation import oriented, turned
from urst_tiles.sources.shrink import Shrink, thumbnail_size
from urst_tiles.sources.vips import VipsSource, streamed_rows
from urst_tiles.sources.vips_image import why
from urst_tiles.sources.vips_reader import WindowReader
from urst_tiles.sources.vips_values import Opening

__all__ = ["spool", "spool_bytes", "spool_row_bytes"]

_TILE = 256
"""Side of the copy's tiles: while it is written, a row of them is in memory."""
_ORIENTATION = 274
"""EXIF's tag."""


def spool_bytes(source: Source) -> int:
    """Disk that the copy takes, in bytes; 0 for a raster that needs none."""
    info = source.info
    if info.random_access:
        return 0
    if isinstance(source, MaskedSource):
        return spool_bytes(source.raster) + spool_bytes(source.mask)
    # Each tile has an offset and a length of 8 bytes; the rest of the header is small but for the ICC profile.
    return _tile_count(info) * (_TILE * _TILE * info.bytes_per_pixel + 16) + len(info.icc_profile or b"") + 65536


def spool_row_bytes(source: Source) -> int:
    """Upper bound, in bytes, of the rows that copying holds beside what decoding takes."""
    if isinstance(source, MaskedSource):
        return max(spool_row_bytes(source.raster), spool_row_bytes(source.mask))
    return _TILE * max(source.info.width, source.info.height) * source.info.bytes_per_pixel


def _tile_count(info: RasterInfo) -> int:
    return -(-info.width // _TILE) * -(-info.height // _TILE)


def spool(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    thumbnail: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Source:
    """A source with the pixels and facts of ``source`` and with random access; ``source`` itself where it has that.

    The copy is an uncompressed tiled BigTIFF in ``folder``. It gets its name when it is complete; one that is already
    there for the same state of the same file is used again. The ``thumbnail`` of this short side is made of the same
    rows while they are copied. ``progress`` is called now and then with the pixels copied so far; what it raises stops
    the copying and is raised again. A progressive JPEG or an interlaced PNG is held in memory whole by its decoder.

    Raises:
        SourceError: the raster is truncated or damaged, or the copy cannot be written (a full disk).
    """
    if source.info.random_access:
        return source
    if isinstance(source, MaskedSource):
        raster, mask = (spool(part, folder, progress=progress) for part in (source.raster, source.mask))
        return MaskedSource(raster, mask, own=source.own)
    if not isinstance(source, VipsSource):
        raise SourceError(f"{source.name} has no random access, and only raster files can be copied to tiles")
    key = hashlib.sha256(json.dumps([source.path, source.fingerprint()], sort_keys=True).encode()).hexdigest()[:16]
    target = Path(folder) / f"spool-{key}.tif"
    made: dict[int, Pixels] = {}
    if not _is_complete(target, source.info):
        made = _write(source, target, thumbnail, progress)
    return _SpooledSource(source, target, made)


class _SpooledSource(VipsSource):
    """Reads the copy and speaks for the original: its name, its fingerprint, its facts."""

    def __init__(self, original: VipsSource, copy: Path, thumbnails: dict[int, Pixels]) -> None:
        super().__init__(copy)
        self._original, self._thumbnails = original, thumbnails
        self._name = original.name
        copied = self._info
        self._info = dataclasses.replace(original.info, random_access=True, tile=copied.tile)
        self._reader = WindowReader(Opening(self.path, original.name, self.facts), self._info, copied.bytes_per_pixel)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_thumbnails": {}}  # workers need none

    def fingerprint(self) -> dict[str, Any]:
        return self._original.fingerprint()

    def thumbnail(self, short_side: int) -> Pixels:
        known = self._thumbnails.get(short_side)
        return super().thumbnail(short_side) if known is None else known.copy()


def _is_complete(target: Path, info: RasterInfo) -> bool:
    if not target.is_file():
        return False
    try:
        found = VipsSource(target).info
    except SourceError:
        return False
    same = (found.width, found.height, found.bands, found.dtype) == (info.width, info.height, info.bands, info.dtype)
    return (
        same
        and found.random_access
        and target.stat().st_size >= _tile_count(info) * _TILE * _TILE * info.bytes_per_pixel
    )


def _write(
    source: VipsSource, target: Path, short_side: int | None, progress: Callable[[int], None] | None
) -> dict[int, Pixels]:
    """The copy; returns the thumbnail by its short side, where one is wanted."""
    partial = target.with_name(f"{target.stem}.{os.getpid()}.partial.tif")
    info = source.info
    size = turned((info.width, info.height), info.orientation)
    shrink = None
    if short_side is not None:
        small = turned(thumbnail_size(info.width, info.height, short_side), info.orientation)
        shrink = Shrink(size, small, info.bands, info.dtype, range(small[0]))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_tiles(partial, info, size, _tiles(source, shrink, progress))
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # before the name: a power cut must not leave a named file without its pixels
        partial.replace(target)
    except pyvips.Error as error:
        raise SourceError(f"cannot copy {source.name} to tiles in {target.parent}: {why(error)}") from error
    except OSError as error:
        raise SourceError(f"cannot copy {source.name} to tiles in {target.parent}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return {} if shrink is None or short_side is None else {short_side: oriented(shrink.result(), info.orientation)}


def _tiles(source: VipsSource, shrink: Shrink | None, progress: Callable[[int], None] | None) -> Iterator[Pixels]:
    """Tiles row by row, each whole: (256, 256, bands)."""
    done = 0
    for rows in _tile_rows(source, shrink):
        done += rows.shape[0] * rows.shape[1]
        if progress is not None:
            progress(done)
        for col in range(0, rows.shape[1], _TILE):
            part = rows[:, col : col + _TILE]
            tile = np.zeros((_TILE, _TILE, rows.shape[2]), rows.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _tile_rows(source: VipsSource, shrink: Shrink | None) -> Iterator[Pixels]:
    """256 rows at a time, in one array that is filled anew; fewer at the end."""
    info = source.info
    (width, height), done, held = turned((info.width, info.height), info.orientation), 0, 0
    rows: Pixels = np.empty((_TILE, width, info.bands), info.dtype)
    for block in streamed_rows(source):
        if shrink is not None:
            shrink.add(block)
        while len(block):
            taken = min(_TILE - held, len(block))
            rows[held : held + taken] = block[:taken]
            block, held, done = block[taken:], held + taken, done + taken
            if held == _TILE or done == height:
                yield rows[:held]
                held = 0


def _write_tiles(partial: Path, info: RasterInfo, size: tuple[int, int], tiles: Iterator[Pixels]) -> None:
    # Pixels are copied as they lie in the file, with the orientation tag beside them: turning needs random access.
    tifffile.imwrite(
        partial,
        tiles,
        shape=(size[1], size[0], *((info.bands,) if info.bands > 1 else ())),
        dtype=info.dtype,
        bigtiff=True,
        tile=(_TILE, _TILE),
        photometric="rgb" if info.colour == "rgb" else "minisblack",
        planarconfig="contig" if info.bands > 1 else None,
        extrasamples=["unassalpha"] if info.alpha else None,
        extratags=[(_ORIENTATION, "H", 1, info.orientation, True)],
        iccprofile=info.icc_profile,
        metadata=None,
        software=False,
    )
