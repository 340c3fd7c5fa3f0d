"""A finished store as Deep Zoom: NAME.dzi and the folder NAME_files, for OpenSeadragon and other viewers.

Levels are counted from 1 x 1 pixel up and halve like the store's, so they are the store's; those below its smallest are
made on the way. A tile shows its square and one pixel more on each side that has a neighbour::

    level 12   0_0.jpg  1_0.jpg  …        [ 254 ]1
               0_1.jpg                     1[ 254 ]1

What is on the disk of an export that was stopped is not written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyvips
from numpy.typing import NDArray

from urst_tiles import __version__
from urst_tiles.errors import InputError, StoreError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.colour import as_8_bit, image_of, is_usable, with_profile
from urst_tiles.stores.exporter import ExportOptions, Progress
from urst_tiles.stores.files import storage_errors, sync_file, sync_folder, write_durably
from urst_tiles.stores.reading import read_bytes
from urst_tiles.stores.replacing import check_free, put_in_place, require_shards
from urst_tiles.stores.tiling import (
    Count,
    DeepPyramid,
    blocks,
    count_tiles,
    digest_of,
    in_order,
    pixel_bytes,
)
from urst_tiles.stores.unfinished import NOTE, UnfinishedFolder

__all__ = ["DEEP_ZOOM", "DeepZoomExporter"]

_TILE = 254
_OVERLAP = 1
_QUALITY = 90
_WORKERS, _FLUSHERS = 2, 16
_SUFFIXES = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_ENCODERS = 12 * 2**20
# what libvips and its encoders keep


@dataclass(frozen=True, slots=True)
class _Tile:
    path: Path
    pixels: NDArray[Any]
    # (height, width, bands), a view


@dataclass(frozen=True, slots=True)
class _Encoder:
    """Pixels to the bytes of a tile's file."""

    kind: Literal["jpeg", "png", "webp"]
    quality: int
    profile: bytes | None
    # what the pixels are converted to sRGB from

    @staticmethod
    def of(layout: StoreLayout, options: ExportOptions) -> _Encoder:
        profile = layout.icc_profile
        return _Encoder(
            options.tile_format or ("jpeg" if layout.bands == 3 else "png"),
            options.quality or _QUALITY,
            profile if profile is not None and is_usable(profile) else None,
        )

    def __call__(self, pixels: NDArray[Any]) -> bytes:
        image = image_of(as_8_bit(pixels))
        if self.profile is not None:
            image = with_profile(image, self.profile).icc_transform("srgb", embedded=True, depth=8)
        if self.kind == "jpeg":
            return bytes(image.jpegsave_buffer(Q=self.quality, keep="none"))
        if self.kind == "png":
            return bytes(image.pngsave_buffer(filter="all", compression=6, keep="none"))
        return bytes(image.webpsave_buffer(Q=self.quality, exact=True, keep="none"))


@dataclass(frozen=True, slots=True)
class DeepZoomExporter:
    """Tiles of 254 px and 1 px of overlap, the values of most viewers' examples."""

    name: str = "deepzoom"
    title: str = "Deep Zoom"
    suffixes: tuple[str, ...] = (".dzi",)
    takes: frozenset[str] = frozenset({"quality", "tile", "tile_format"})
    resumes: bool = True

    def check(self, layout: StoreLayout, options: ExportOptions) -> tuple[str, ...]:
        if layout.bands == 4 and options.tile_format == "jpeg":
            raise InputError("the picture has alpha and JPEG tiles have none. Take png or webp for the tiles")
        if options.quality is not None and _Encoder.of(layout, options).kind == "png":
            raise InputError("PNG tiles have no quality: they are exact. Take jpeg or webp for the tiles, or leave it")
        notes = []
        if layout.dtype == "uint16":
            notes.append("tiles for viewers have 8 bit: the 16-bit values are rounded to 256")
        if layout.icc_profile is not None and is_usable(layout.icc_profile):
            notes.append("the colours are converted to sRGB, which viewers assume of tiles")
        elif layout.icc_profile is not None:
            notes.append("the ICC profile is damaged or not one of RGB: the colours are written as they are")
        if layout.geo is not None:
            notes.append("Deep Zoom cannot say where it lies on the Earth: the geo tags are left out. TIFF keeps them")
        return tuple(notes)

    def check_target(self, target: Path, *, overwrite: bool) -> None:
        check_free(target, overwrite=overwrite)
        folder = _folder_of(target)
        if folder.exists() and not (folder / NOTE).is_file():
            check_free(folder, overwrite=overwrite)

    def memory_bytes(self, layout: StoreLayout, options: ExportOptions) -> int:
        """A block, what reading it takes, tiles in work, and the levels made on the way."""
        side = options.tile or _TILE
        one = (side + 2 * _OVERLAP) ** 2 * pixel_bytes(layout)
        block = max(min(options.memory, layout.width * layout.height * pixel_bytes(layout)), one)
        rims = 2 * _OVERLAP * 2 * (layout.width + block // (layout.width * pixel_bytes(layout)) + side)
        made = 2 * layout.chunk**2 * pixel_bytes(layout)
        return block + rims * pixel_bytes(layout) + read_bytes(layout) + 24 * _WORKERS * one + made + _ENCODERS

    def write(
        self, store: Store, target: Path, options: ExportOptions, *, overwrite: bool, on_progress: Progress
    ) -> None:
        self.check(store.layout, options)
        with storage_errors(f"cannot write {target}"):
            self.check_target(target, overwrite=overwrite)
            require_shards(store)
            encode, side = _Encoder.of(store.layout, options), options.tile or _TILE
            unfinished = UnfinishedFolder(_folder_of(target), _identity(store, encode, side, options.memory))
            unfinished.enter()
            try:
                _write(store, unfinished, encode, side, options.memory, on_progress)
            except pyvips.Error as error:
                raise StoreError(f"cannot write {target}: libvips cannot encode a tile ({error.message})") from error
            _finish(target, unfinished, encode, side, store.layout)


DEEP_ZOOM = DeepZoomExporter()


def _folder_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}_files")


def _identity(store: Store, encode: _Encoder, side: int, memory: int) -> dict[str, Any]:
    """What decides the files and the order in which they are written."""
    return {
        "picture": digest_of(store),
        "tiles": [encode.kind, encode.quality, side, _OVERLAP],
        "memory": memory,
        "versions": [__version__, *(pyvips.version(part) for part in range(3))],
    }


def _write(
    store: Store, unfinished: UnfinishedFolder, encode: _Encoder, side: int, memory: int, on_progress: Progress
) -> None:
    pyramid = DeepPyramid(store, 1)
    count = Count(count_tiles(pyramid.levels, side), on_progress)
    done = 0
    for level in range(len(pyramid.levels)):
        folder = unfinished.path / str(len(pyramid.levels) - 1 - level)
        folder.mkdir(exist_ok=True)
        for block in blocks(pyramid, level, side, memory):
            done += 1
            if done <= unfinished.done:
                count(count_tiles([(block.width, block.height)], side))
                continue
            _write_block(pyramid, level, block, side, folder, encode, count)
            unfinished.mark(done)


def _write_block(
    pyramid: DeepPyramid, level: int, block: Window, side: int, folder: Path, encode: _Encoder, count: Count
) -> None:
    """The tiles of a block, on the disk when this returns."""
    width, height = pyramid.levels[level]
    grown = _grown(block, width, height)
    pixels = pyramid.read(level, grown)

    def save(tile: _Tile) -> Path:
        tile.path.write_bytes(encode(tile.pixels))
        return tile.path

    written = []
    for path in in_order(save, _cut(pixels, grown, block, side, folder, encode), _WORKERS):
        written.append(path)
        count()
    # One after the other, waiting for the disk takes longer than all the rest.
    for _ in in_order(sync_file, written, _FLUSHERS):
        pass
    sync_folder(folder)


def _cut(pixels: Pixels, grown: Window, block: Window, side: int, folder: Path, encode: _Encoder) -> Iterator[_Tile]:
    for top in range(block.row_off, block.row_end, side):
        for left in range(block.col_off, block.col_end, side):
            core = Window(left, top, min(side, block.col_end - left), min(side, block.row_end - top))
            rows, cols = _grown(core, grown.col_end, grown.row_end).relative_to(grown).slices
            path = folder / f"{left // side}_{top // side}.{_SUFFIXES[encode.kind]}"
            yield _Tile(path, pixels[:, rows, cols].transpose(1, 2, 0))


def _grown(window: Window, width: int, height: int) -> Window:
    """One pixel more on each side where there is one."""
    left, top = max(window.col_off - _OVERLAP, 0), max(window.row_off - _OVERLAP, 0)
    right, bottom = min(window.col_end + _OVERLAP, width), min(window.row_end + _OVERLAP, height)
    return Window(left, top, right - left, bottom - top)


def _finish(target: Path, unfinished: UnfinishedFolder, encode: _Encoder, side: int, layout: StoreLayout) -> None:
    """The tiles get their name, then the description that viewers open. In between there is none: an old one would
    describe other tiles."""
    target.unlink(missing_ok=True)
    folder = _folder_of(target)
    put_in_place(unfinished.path, folder)
    write_durably(target, [_description(encode, side, layout).encode()])
    UnfinishedFolder.forget(folder)


def _description(encode: _Encoder, side: int, layout: StoreLayout) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
        f'Format="{_SUFFIXES[encode.kind]}" Overlap="{_OVERLAP}" TileSize="{side}">\n'
        f'  <Size Width="{layout.width}" Height="{layout.height}"/>\n'
        "</Image>\n"
    )
