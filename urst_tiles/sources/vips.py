"""Rasters in files, read by libvips: tiled TIFF and BigTIFF first, and whatever else it opens."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from urst_tiles.errors import SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels, RasterInfo, chosen_of
from urst_tiles.sources.choice import ALL_OF_IT, Choice, level_of
from urst_tiles.sources.orientation import oriented, turned
from urst_tiles.sources.shrink import UNTILED, area_mean, shrink_by_strips, thumbnail_size
from urst_tiles.sources.tiff_header import TiffFacts, read_tiff_facts
from urst_tiles.sources.tile_reader import TileReader
from urst_tiles.sources.tile_tables import TileTable
from urst_tiles.sources.vips_image import (
    Presented,
    decodes_whole,
    is_random_access,
    loader_of,
    stated_resolution,
    why,
)
from urst_tiles.sources.vips_reader import WindowReader
from urst_tiles.sources.vips_values import Opening

__all__ = ["VipsSource", "check_file", "streamed_rows"]

_MAX_TILE_BYTES = 1 << 30
"""A larger tile is damage, or was not made to be read by windows."""
_STREAM_BYTES = 1 << 20
"""Rows are streamed in blocks of about this size."""
_STREAM_SLACK = 128 << 20
"""What libvips' threads and line caches take while a file streams by."""


_LARGE_PIXELS = 50_000_000
"""From here on it is worth a note that a decoder takes a raster into memory whole."""
_FORMAT_BYTES = {"uchar": 1, "char": 1, "ushort": 2, "short": 2, "uint": 4, "int": 4, "float": 4}
"""Of libvips' types of numbers; the others have 8 or more."""


@dataclass(frozen=True, slots=True)
class _Level:
    """A smaller copy of the raster in its file."""

    size: tuple[int, int]
    # (width, height), orientation not applied
    options: tuple[tuple[str, int], ...]
    # of libvips' loader
    tile: tuple[int, int] | None = None
    # (width, height) of a tile of it, where the header says so


class VipsSource:
    """A raster file. Its header is read at once, pixels when they are asked for.

    Raises:
        SourceError: the file is missing, is no image, has not what was chosen, or holds neither grey nor RGB.
    """

    def __init__(self, path: str | os.PathLike[str], choice: Choice = ALL_OF_IT) -> None:
        self._name = os.fspath(path)
        self.path = str(Path(path).absolute())  # another process may stand in another folder
        check_file(self._name)
        try:
            image = Opening(self.path, self._name).image("random")
        except pyvips.Error as error:
            raise SourceError(f"cannot open {self._name}: {why(error)}") from error
        loader = loader_of(image, self.path)
        self.facts = read_tiff_facts(self.path) if loader.startswith("tiff") else None
        full = image.width, image.height
        levels = _levels(image, self.facts)
        chosen = level_of(choice, [full, *(level.size for level in levels)], self._name)
        self.opening = Opening(self.path, self._name, self.facts, choice)
        if chosen:
            self.opening = dataclasses.replace(self.opening, options=levels[chosen - 1].options)
            image = self._opened(levels[chosen - 1])
        self._levels = levels[chosen:]
        presented = self.opening.present(image)
        stated = self.facts.tile if self.facts is not None else _slide_tile(image, 0)
        tile = levels[chosen - 1].tile if chosen else stated
        self._info = _info(self.opening, image, presented, full, self._levels, tile)
        pixel_bytes = image.bands * _FORMAT_BYTES.get(image.format, 8)
        tile = self._info.tile
        if tile is not None and tile[0] * tile[1] * pixel_bytes > _MAX_TILE_BYTES:
            raise SourceError(
                f"{self._name} is stored in tiles of {tile[0]} x {tile[1]} pixels, too large to decode one by one. "
                "Store it in tiles of 256 to 1024 pixels first"
            )
        windows = WindowReader(self.opening, self._info, pixel_bytes)
        table = self._plain_tiles(presented)
        self._reader = windows if table is None else TileReader(self.path, self._info, table, windows)
        self._windows, self._pixel_bytes = windows, pixel_bytes
        self.decoded_whole = decodes_whole(image, loader)

    @property
    def info(self) -> RasterInfo:
        return self._info

    @property
    def name(self) -> str:
        return self._name

    def fingerprint(self) -> dict[str, Any]:
        """Name, size, time of the last change, what was chosen: a file that was moved is still the same source."""
        try:
            facts = Path(self.path).stat()
        except OSError as error:
            raise SourceError(f"cannot open {self._name}: {error.strerror}") from error
        return {
            "file": Path(self.path).name,
            "bytes": facts.st_size,
            "modified_ns": facts.st_mtime_ns,
            **chosen_of(self._info),
        }

    def read(self, window: Window) -> Pixels:
        """See :meth:`urst_tiles.sources.base.Source.read`.

        Without random access the raster is decoded once, whole, into memory; where that takes more than 512 MiB,
        reading is refused: spool such a raster first.
        """
        return self._reader.read(window)

    def read_into(self, window: Window, out: Pixels) -> None:
        """See :func:`urst_tiles.sources.base.read_into`."""
        self._reader.read_into(window, out)

    def let_go(self) -> None:
        """See :func:`urst_tiles.sources.base.let_go`."""
        self._reader.let_go()

    def cache_bytes(self, width: int) -> int:
        """See :meth:`urst_tiles.sources.base.Source.cache_bytes`; without random access, that of the tiled copy."""
        # Levels, which the thumbnail may be made of, are libvips' in any case.
        return (self._windows if self._levels else self._reader).cache_bytes(width)

    @property
    def decodes_tiles(self) -> bool:
        """Whether windows are decoded straight to where they are wanted, in less time than libvips takes."""
        return self._reader is not self._windows

    @property
    def stream_bytes(self) -> int:
        """Upper bound, in bytes, of what decoding it once from top to bottom takes: to spool it, or to shrink it."""
        whole = 2 * self._info.pixels * self._pixel_bytes if self.decoded_whole else 0
        return whole + _STREAM_SLACK

    def thumbnail(self, short_side: int) -> Pixels:
        """See :meth:`urst_tiles.sources.base.Source.thumbnail`: exact means of the pixels that :meth:`read` gives.

        In a pyramidal TIFF they are taken over the smallest level that is at least twice as large as the thumbnail.
        """
        info = self._info
        out_size = thumbnail_size(info.width, info.height, short_side)
        if not info.random_access:
            return self._streamed_thumbnail(out_size)
        reader, size, tile = self._reader, (info.width, info.height), info.tile
        level = self._level_for(short_side)
        if level is not None:
            reader, size, tile = level
        return shrink_by_strips(reader.read, size, out_size, bands=info.bands, dtype=info.dtype, tile=tile or UNTILED)

    def _plain_tiles(self, presented: Presented) -> TileTable | None:
        """Where the file's tiles hold the pixels as they are to be read, all of them."""
        facts, info = self.facts, self._info
        if facts is None or facts.tiles is None or facts.nodata is not None or facts.range is not None:
            return None
        as_stored = (
            self.opening.choice == ALL_OF_IT
            and not self.opening.options
            and not info.choice
            and info.orientation == 1
            and info.random_access
            and (info.bands, info.dtype) == (facts.tiles.tile[2], np.dtype(facts.tiles.dtype).name)
            and (presented.image.width, presented.image.height) == (info.width, info.height)
        )
        return facts.tiles if as_stored else None

    def _level_for(self, short_side: int) -> tuple[WindowReader, tuple[int, int], tuple[int, int] | None] | None:
        # A palette's levels can only be picked pixels, not means.
        if self.facts is not None and self.facts.palette:
            return None
        for level in reversed(self._levels):
            if min(level.size) >= 2 * short_side and (found := self._open_level(level)):
                return found
        return None

    def _opened(self, level: _Level) -> Any:
        try:
            image = dataclasses.replace(self.opening, options=level.options).image("random")
        except pyvips.Error as error:
            raise SourceError(f"cannot open level {level.size} of {self._name}: {why(error)}") from error
        if (image.width, image.height) != level.size:
            raise SourceError(
                f"the level of {level.size[0]} x {level.size[1]} pixels of {self._name} has in fact "
                f"{image.width} x {image.height}"
            )
        return image

    def _open_level(self, level: _Level) -> tuple[WindowReader, tuple[int, int], tuple[int, int] | None] | None:
        opening = dataclasses.replace(self.opening, options=level.options)
        try:
            image = self._opened(level)
            presented = opening.present(image)
        except SourceError:
            return None  # the full size is there in any case
        same = (presented.colour, presented.alpha, presented.dtype) == (
            self._info.colour,
            self._info.alpha,
            self._info.dtype,
        )
        if not same:
            return None
        size = turned(level.size, self._info.orientation)
        tile = _tile(image, level.tile, self._info.orientation)
        info = dataclasses.replace(self._info, width=size[0], height=size[1], tile=tile, levels=())
        return WindowReader(opening, info, self._pixel_bytes), size, tile

    def _streamed_thumbnail(self, out_size: tuple[int, int]) -> Pixels:
        """Decoded once from top to bottom; the rows come as stored, so the result is turned at the end."""
        info = self._info
        try:
            out = area_mean(
                streamed_rows(self),
                turned((info.width, info.height), info.orientation),
                turned(out_size, info.orientation),
                bands=info.bands,
                dtype=info.dtype,
            )
        except pyvips.Error as error:
            raise SourceError(f"cannot read {self._name}: {why(error)}") from error
        return oriented(out, info.orientation)


def check_file(path: str) -> int:
    """Before anything opens it. Its size in bytes.

    Raises:
        SourceError: it is missing, empty, a folder, a pipe or a device.
    """
    file = Path(path)
    try:
        facts = file.stat()
    except FileNotFoundError:
        raise SourceError(f"cannot open {path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot open {path}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(facts.st_mode):
        raise SourceError(f"cannot open {path}: it is a folder and holds no Zarr metadata. Give a file or a Zarr store")
    if not stat.S_ISREG(facts.st_mode):
        # Opening a pipe would wait for ever for someone to write into it.
        raise SourceError(f"cannot open {path}: it is a pipe or a device, not a file. Save it as a file first")
    if facts.st_size == 0:
        raise SourceError(f"cannot open {path}: the file is empty")
    return facts.st_size


def _levels(image: Any, facts: TiffFacts | None) -> tuple[_Level, ...]:
    """Smaller copies of the raster in its file, largest first."""
    if facts is not None:
        return tuple(
            _Level(
                (level.width, level.height),
                (("page", level.page), *(() if level.subifd is None else (("subifd", level.subifd),))),
                level.tile,
            )
            for level in facts.levels
        )
    fields = image.get_fields()
    if "openslide.level-count" not in fields:
        return ()
    return tuple(
        _Level(
            (int(image.get(f"openslide.level[{level}].width")), int(image.get(f"openslide.level[{level}].height"))),
            (("level", level),),
            _slide_tile(image, level),
        )
        for level in range(1, int(image.get("openslide.level-count")))
    )


def _info(
    opening: Opening,
    image: Any,
    presented: Presented,
    full: tuple[int, int],
    levels: Sequence[_Level],
    tile: tuple[int, int] | None,
) -> RasterInfo:
    path, facts = opening.path, opening.facts
    loader = loader_of(image, path)
    fields = image.get_fields()
    orientation = int(image.get("orientation")) if "orientation" in fields else 1
    orientation = orientation if 1 <= orientation <= 8 else 1
    resolution = stated_resolution(image, loader, path, facts)
    if resolution is not None:
        of_level = resolution[0] * image.width / full[0], resolution[1] * image.height / full[1]
        resolution = (of_level[1], of_level[0]) if orientation > 4 else of_level
    width, height = turned((image.width, image.height), orientation)
    notes = list(presented.notes)
    if decodes_whole(image, loader) and image.width * image.height > _LARGE_PIXELS:
        notes.append("Its decoder holds a file of this kind in memory whole, even to copy it to tiles.")
    pages = facts.other_pages + 1 if facts else int(image.get("n-pages")) if "n-pages" in fields else 1
    if pages > 1:
        notes.append(f"The file holds {pages} images; the first is read.")
    if facts is not None:
        notes.extend(facts.masks.notes((image.width, image.height)))
    geo = facts.geo if facts else None
    if geo is not None and orientation != 1:
        geo = None
        notes.append("The raster is turned as its orientation tag asks; its place on the Earth is not kept.")
    return RasterInfo(
        width=width,
        height=height,
        bands={"grey": 1, "rgb": 3}[presented.colour] + presented.alpha,
        dtype=presented.dtype,
        colour=presented.colour,
        alpha=presented.alpha,
        icc_profile=presented.icc_profile,
        resolution=resolution,
        orientation=orientation,
        levels=tuple(turned(level.size, orientation) for level in levels),
        random_access=is_random_access(path, loader),
        tile=_tile(image, tile, orientation),
        format=loader.removesuffix("_source").removesuffix("_buffer").removesuffix("load"),
        notes=tuple(notes),
        geo=geo and geo.of_level(full[0] / image.width, full[1] / image.height),
        choice=presented.choice,
    )


def _tile(image: Any, stated: tuple[int, int] | None, orientation: int) -> tuple[int, int] | None:
    """libvips tells the tiles of a TIFF from 8.15 on; before that the file's header does."""
    if "tile-width" in image.get_fields():
        stated = int(image.get("tile-width")), int(image.get("tile-height"))
    return stated and turned(stated, orientation)


def _slide_tile(image: Any, level: int) -> tuple[int, int] | None:
    """As OpenSlide tells it, which it does of most formats."""
    names = [f"openslide.level[{level}].tile-{side}" for side in ("width", "height")]
    if any(name not in image.get_fields() for name in names):
        return None
    width, height = (int(image.get(name)) for name in names)
    return width, height


def streamed_rows(source: VipsSource) -> Iterator[Pixels]:
    """The raster from top to bottom in blocks of whole rows, (rows, width, bands), orientation not applied. A block is
    of about 1 MiB.

    Raises:
        pyvips.Error: it is truncated or damaged.
        SourceError: it is not what it was when it was opened.
    """
    info, image = source.info, source.opening.presented("sequential").image
    expected = (*turned((info.width, info.height), info.orientation), info.bands)
    found = image.width, image.height, image.bands
    if found != expected:
        raise SourceError(f"{source.name} has changed since it was opened: it was {expected} and is {found}")
    region = pyvips.Region.new(image)
    step = max(1, min(image.height, _STREAM_BYTES // (image.width * info.bytes_per_pixel)))
    for row in range(0, image.height, step):
        rows = min(step, image.height - row)
        pixels = region.fetch(0, row, image.width, rows)
        block: Pixels = np.frombuffer(pixels, info.dtype).reshape(rows, image.width, info.bands)
        yield block
