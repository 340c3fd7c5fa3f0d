"""A finished store as another OME-Zarr: other chunks, shards or codec, or Zarr v2 with OME-Zarr 0.4.

Written by zarr itself, one whole shard (or chunk, where there are none) at a time, by one writer. A file that stands
under its name is whole, so what is there of an export that was stopped is not written again.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from urst_tiles import __version__
from urst_tiles.errors import InputError
from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.exporter import ExportOptions, Progress
from urst_tiles.stores.files import storage_errors, write_durably
from urst_tiles.stores.metadata import GROUP_KEY, group_attributes, level_sizes
from urst_tiles.stores.reading import limited_zarr, read_bytes
from urst_tiles.stores.replacing import check_free, put_in_place, require_shards
from urst_tiles.stores.tiling import Count, DeepPyramid, blocks, count_tiles, digest_of, pixel_bytes
from urst_tiles.stores.unfinished import NOTE, UnfinishedFolder

__all__ = ["OME_ZARR", "Codec", "OmeZarrExporter"]

_CODECS = {"zstd": (1, 22, 3), "blosc": (0, 9, 1), "gzip": (0, 9, 5)}
# lowest, highest and usual level
_SHARD_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class Codec:
    """What an array's chunks are compressed with."""

    name: str
    level: int

    @staticmethod
    def parse(text: str) -> Codec:
        """From "zstd", "blosc", "gzip" or "none", with a level like "zstd:5".

        Raises:
            InputError: another name, or a level that it has not.
        """
        name, colon, level = text.partition(":")
        if name == "none" and not colon:
            return Codec(name, 0)
        if name not in _CODECS:
            raise InputError(
                f"there is no codec {text!r}: choose one of {', '.join(_CODECS)}, with a level like zstd:5, or none"
            )
        lowest, highest, usual = _CODECS[name]
        if not colon:
            return Codec(name, usual)
        if not level.isdecimal() or not lowest <= int(level) <= highest:
            raise InputError(f"the level of {name} is {lowest} to {highest}, not {level!r}")
        return Codec(name, int(level))

    def for_zarr(self, zarr_format: int, itemsize: int) -> Any:
        """What zarr takes as ``compressors``."""
        if self.name == "none":
            return None
        if zarr_format == 2:
            return self._of_numcodecs()
        if self.name == "zstd":
            return ZstdCodec(level=self.level)
        if self.name == "gzip":
            return GzipCodec(level=self.level)
        return BloscCodec(cname="zstd", clevel=self.level, shuffle="bitshuffle", typesize=itemsize)

    def _of_numcodecs(self) -> Any:
        if self.name == "zstd":
            return numcodecs.Zstd(level=self.level)
        if self.name == "gzip":
            return numcodecs.GZip(level=self.level)
        return numcodecs.Blosc("zstd", clevel=self.level, shuffle=numcodecs.Blosc.BITSHUFFLE)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked for, defaults filled in."""

    layout: StoreLayout
    # with the chunk and, where there are shards, the shard asked for
    unit: int
    # side of what one file holds, in pixels
    codec: Codec
    zarr_format: int

    @staticmethod
    def of(layout: StoreLayout, options: ExportOptions) -> _Plan:
        zarr_format, chunk = options.zarr_format or 3, options.chunk or layout.chunk
        unit = _unit(layout, options, zarr_format, chunk)
        if chunk**2 * pixel_bytes(layout) >= 2**31 - 1024:
            raise InputError(f"a chunk of {chunk} x {chunk} pixels is too large to be compressed: 2 GiB at most")
        codec = Codec.parse(options.codec or "blosc")
        return _Plan(dataclasses.replace(layout, chunk=chunk, shard=(max(unit, chunk),) * 2), unit, codec, zarr_format)

    @property
    def array_options(self) -> dict[str, Any]:
        """What zarr creates every level with, but for its shape and name."""
        layout = self.layout
        options: dict[str, Any] = {
            "dtype": layout.dtype,
            "chunks": (layout.bands, layout.chunk, layout.chunk),
            "compressors": self.codec.for_zarr(self.zarr_format, np.dtype(layout.dtype).itemsize),
            "fill_value": 0,
        }
        if self.zarr_format == 2:
            # OME-Zarr 0.4 asks for folders instead of dots.
            return options | {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        shards = None if self.unit == layout.chunk else (layout.bands, self.unit, self.unit)
        return options | {"shards": shards, "dimension_names": ("c", "y", "x")}

    @property
    def attributes(self) -> dict[str, Any]:
        found = group_attributes(self.layout, {})
        if self.zarr_format == 3:
            return found
        ome = found["ome"]
        scales = [{"version": "0.4", **multiscale} for multiscale in ome["multiscales"]]
        return {"multiscales": scales, "omero": {"version": "0.4", **ome["omero"]}, GROUP_KEY: found[GROUP_KEY]}

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the files."""
        layout = self.layout
        return {
            "chunk": layout.chunk,
            "unit": self.unit,
            "codec": [self.codec.name, self.codec.level],
            "zarr_format": self.zarr_format,
            "versions": [__version__, zarr.__version__, numcodecs.__version__],
        }


@dataclass(frozen=True, slots=True)
class OmeZarrExporter:
    """OME-Zarr 0.5 on Zarr v3, or 0.4 on v2."""

    name: str = "omezarr"
    title: str = "OME-Zarr"
    suffixes: tuple[str, ...] = (".zarr",)
    takes: frozenset[str] = frozenset({"chunk", "shard", "codec", "zarr_format"})
    resumes: bool = True

    def check(self, layout: StoreLayout, options: ExportOptions) -> tuple[str, ...]:
        _Plan.of(layout, options)
        return ()

    def check_target(self, target: Path, *, overwrite: bool) -> None:
        if not (target / NOTE).is_file():
            check_free(target, overwrite=overwrite)

    def memory_bytes(self, layout: StoreLayout, options: ExportOptions) -> int:
        """A block, what reading it takes, one shard as zarr holds it, the levels made on the way."""
        plan = _Plan.of(layout, options)
        one = plan.unit**2 * pixel_bytes(layout)
        whole = layout.width * layout.height * pixel_bytes(layout)
        block = max(min(options.memory, whole), min(one, whole))
        chunk = plan.layout.chunk**2 * pixel_bytes(layout)
        made = 2 * layout.chunk**2 * pixel_bytes(layout)
        return block + read_bytes(layout) + 4 * one + 16 * chunk + made + 16 * 2**20

    def write(
        self, store: Store, target: Path, options: ExportOptions, *, overwrite: bool, on_progress: Progress
    ) -> None:
        plan = _Plan.of(store.layout, options)
        with storage_errors(f"cannot write {target}"):
            self.check_target(target, overwrite=overwrite)
            require_shards(store)
            unfinished = UnfinishedFolder(target, plan.identity | {"picture": digest_of(store)})
            unfinished.enter()
            with limited_zarr():
                arrays = _arrays(unfinished, plan)
                _write(store, unfinished.path, arrays, plan, options.memory, on_progress)
            put_in_place(unfinished.path, target)
            UnfinishedFolder.forget(target)


OME_ZARR = OmeZarrExporter()


class _DurableStore(LocalStore):
    """zarr's folder, but what is set is on the disk under its name, whole, or not there."""

    async def set(self, key: str, value: Buffer) -> None:
        await asyncio.to_thread(write_durably, self.root / key, [value.to_bytes()])


def _unit(layout: StoreLayout, options: ExportOptions, zarr_format: int, chunk: int) -> int:
    """Side of a shard, or of a chunk where there are none."""
    shard = options.shard
    if zarr_format == 2:
        if shard:
            raise InputError("Zarr v2 has no shards. Take --zarr-format 3, or leave --shard away")
        return chunk
    if shard is None:
        side = max(layout.shard)
        return side if side % chunk == 0 else _SHARD_CHUNKS * chunk
    if shard % chunk:
        raise InputError(f"a shard holds whole chunks: {shard} is no multiple of {chunk}")
    return shard or chunk


def _arrays(unfinished: UnfinishedFolder, plan: _Plan) -> list[zarr.Array[Any]]:
    """The arrays of all levels, created once."""
    levels = level_sizes(plan.layout)
    zarr_format = cast("Literal[2, 3]", plan.zarr_format)
    if not unfinished.done:
        unfinished.clear()
        group = zarr.create_group(_DurableStore(unfinished.path), zarr_format=zarr_format, attributes=plan.attributes)
        for level, (width, height) in enumerate(levels):
            group.create_array(str(level), shape=(plan.layout.bands, height, width), **plan.array_options)
        unfinished.mark(1)
    # Not stored with the arrays: a chunk of nothing but 0 that is left out would look unfinished.
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(_DurableStore(unfinished.path), mode="r+", zarr_format=zarr_format)
        return [cast("zarr.Array[Any]", group[str(level)]) for level in range(len(levels))]


def _write(
    store: Store, folder: Path, arrays: list[zarr.Array[Any]], plan: _Plan, memory: int, on_progress: Progress
) -> None:
    pyramid = DeepPyramid(store, plan.layout.chunk)
    count = Count(count_tiles(level_sizes(plan.layout), plan.unit), on_progress)
    for level, array in enumerate(arrays):
        for block in blocks(pyramid, level, plan.unit, memory):
            missing = [
                part for part in _units(block, plan.unit) if not _file(folder, level, array, part, plan).exists()
            ]
            count(count_tiles([(block.width, block.height)], plan.unit) - len(missing))
            if missing:
                _write_block(array, block, pyramid.read(level, block), missing, count)


def _write_block(array: zarr.Array[Any], block: Window, pixels: Pixels, parts: list[Window], count: Count) -> None:
    for part in parts:
        rows, cols = part.slices
        inside = part.relative_to(block).slices
        array[:, rows, cols] = pixels[:, *inside]
        count()


def _units(block: Window, side: int) -> Iterator[Window]:
    """What is written at once: the part of the block in one file."""
    for top in range(block.row_off, block.row_end, side):
        for left in range(block.col_off, block.col_end, side):
            yield Window(left, top, min(side, block.col_end - left), min(side, block.row_end - top))


def _file(folder: Path, level: int, array: zarr.Array[Any], part: Window, plan: _Plan) -> Path:
    key = array.metadata.encode_chunk_key((0, part.row_off // plan.unit, part.col_off // plan.unit))
    return folder / str(level) / key
