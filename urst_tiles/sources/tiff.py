"""TIFFs that libvips does not read, by tifffile: tiled bands apart, channels as pages, Zstandard, 64 bits, with tiles
never written, small ones in large tiles, by URL.

A window decodes the tiles or strips that it touches and no others; nothing is kept.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from urst_tiles.errors import SourceError, reason_of
from urst_tiles.sources.arrays import ArraySource, Stated
from urst_tiles.sources.axes import Layout
from urst_tiles.sources.base import chosen_of
from urst_tiles.sources.byte_files import ByteFile
from urst_tiles.sources.choice import ALL_OF_IT, Choice
from urst_tiles.sources.tiff_header import TiffFacts, facts_of
from urst_tiles.sources.values import held

__all__ = ["SLACK_BYTES", "TiffArray", "TiffFileHeader", "TiffSource", "is_for_tifffile"]

SLACK_BYTES = 32 << 20
"""What the header of a large file takes, and the decoders."""
_ANY_LIBTIFF = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)
"""Compressions that every libtiff has: none, CCITT's, LZW, JPEG, deflate, PackBits. Not Zstandard, WebP, JPEG 2000."""
_JPEGS = (6, 7, 34892, 33007)
_KINDS = {0: "white as 0", 3: "a palette", 5: "CMYK", 8: "Lab", 32803: "a camera's raw colours"}
"""What TIFF calls photometric, where numbers are not brightness."""


def is_for_tifffile(facts: TiffFacts, level: int) -> bool:
    """Whether libvips does not read a level of a TIFF, or would show it in part."""
    apart = facts.apart or (facts.planar and facts.tile is not None)
    other = facts.wide or facts.holes or facts.compression not in _ANY_LIBTIFF
    return apart or other or _lost_in_a_tile(facts, level)


def _lost_in_a_tile(facts: TiffFacts, level: int) -> bool:
    """Whether a picture is so much smaller than its tiles, both ways, that libvips takes them for damage: the last
    levels of pyramids, and what is cut out of large rasters."""
    pages = [(facts.size, facts.tile), *(((page.width, page.height), page.tile) for page in facts.levels)]
    size, tile = pages[level] if level < len(pages) else pages[0]
    # found by trying sizes and tiles with libvips 8.18; 8.14.2 refused more
    return tile is not None and all(side > 2 * -(-length // 128) * 128 for length, side in zip(size, tile, strict=True))


class TiffFileHeader:
    """A TIFF's header, read once in each process that uses it."""

    def __init__(self, file: ByteFile) -> None:
        self.file = file
        self.__setstate__({"file": file})

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.file = state["file"]
        self._lock = threading.Lock()
        self._pages: dict[tuple[int | None, int], Any] = {}
        self._tif: Any = None

    def tif(self) -> Any:
        """The open file; only with the lock held, or by one thread."""
        if self._tif is None:
            self._tif = tifffile.TiffFile(self.file.open())
        return self._tif

    def page(self, level: int | None, index: int) -> Any:
        """A page of a level of the first series, or without a level of the file, with its tags read."""
        with self._lock:
            if (level, index) not in self._pages:
                tif = self.tif()
                page = tif.pages[index].aspage() if level is None else tif.series[0].levels[level].pages[index]
                if page is None:
                    raise ValueError(f"its page {index} is missing")
                # Read now: they move in the file.
                tables = page.jpegtables if page.keyframe.compression in _JPEGS else None
                self._pages[level, index] = page, page.keyframe.decode, tables
            return self._pages[level, index]


class TiffArray:
    """One level of the first picture, as an array: axes that count pages, then a page's own. Or, without a level, one
    page of the file. Tiles that were never written hold ``nodata``, or 0."""

    def __init__(self, header: TiffFileHeader, level: int | None, page: int = 0, nodata: float | None = None) -> None:
        self._header, self._level, self._first = header, level, page
        pages = header.tif().pages[page].aspage() if level is None else header.tif().series[0].levels[level]
        key = pages.keyframe
        self.shape = tuple(int(length) for length in pages.shape)
        self.dtype = np.dtype(pages.dtype)
        self._unwritten = nodata if self.dtype.kind == "f" else held(nodata, self.dtype)
        self._own = len(key.shape)  # axes of a page
        self._apart = int(key.planarconfig) == 2 and key.samplesperpixel > 1
        self._size = int(key.imagelength), int(key.imagewidth)
        tiled = bool(key.is_tiled)
        self._segment = (int(key.tilelength), int(key.tilewidth)) if tiled else (int(key.rowsperstrip), self._size[1])
        self._samples = int(key.samplesperpixel)
        rows, columns = (
            min(side, length) if not tiled else side for side, length in zip(self._segment, self._size, strict=True)
        )
        own: tuple[int, ...] = (rows, columns)
        if self._samples > 1:
            own = (1, rows, columns) if self._apart else (rows, columns, self._samples)
        self.chunks = (1,) * (len(self.shape) - self._own) + own
        self._check(key)

    def _check(self, key: Any) -> None:
        """
        Raises:
            TiffFileError: a header says what no file can hold; tifffile believes it.
        """
        (rows, columns), (tall, wide) = self._size, self._segment
        if self._samples > 1 and int(key.planarconfig) not in (1, 2):
            raise tifffile.TiffFileError(f"its bands are stored in a way that there is not ({int(key.planarconfig)})")
        if tall < 1 or wide < 1:
            raise tifffile.TiffFileError(f"its tiles or strips are said to have {wide} x {tall} pixels")
        needed = -(-rows // tall) * -(-columns // wide) * (self._samples if self._apart else 1)
        if len(key.dataoffsets) < needed:
            there = f"{len(key.dataoffsets)} tiles or strips"
            raise tifffile.TiffFileError(f"it has {there}, and {needed} belong to its {columns} x {rows} pixels")

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """As NumPy has it, for whole numbers and slices without a step."""
        lead = len(self.shape) - self._own
        numbers = np.arange(int(np.prod(self.shape[:lead], dtype=np.int64))).reshape(self.shape[:lead])[index[:lead]]
        if np.ndim(numbers) == 0:
            return self._read(int(numbers), index[lead:])
        return np.stack([self._read(int(number), index[lead:]) for number in numbers.ravel()])

    def _read(self, number: int, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """The part of a page, with the axes that the page has."""
        if self._samples == 1:
            return self._window(number, index, 0)[..., 0]
        if not self._apart:
            return self._window(number, index[:2], 0)[..., index[2]]
        planes = range(self._samples)[index[0]]
        if isinstance(planes, int):
            return self._window(number, index[1:], planes)[..., 0]
        return np.stack([self._window(number, index[1:], plane)[..., 0] for plane in planes])

    def _window(self, number: int, index: tuple[Any, ...], plane: int) -> NDArray[Any]:
        """(rows, columns, samples that are stored together)."""
        rows, columns = (range(length)[part] for part, length in zip(index, self._size, strict=True))
        tall, wide = self._segment
        across, down = -(-self._size[1] // wide), -(-self._size[0] // tall)
        shape = len(rows), len(columns), 1 if self._apart else self._samples
        out = np.full(shape, self._unwritten or 0, self.dtype)
        for row in range(rows.start // tall, -(-rows.stop // tall)):
            for column in range(columns.start // wide, -(-columns.stop // wide)):
                pixels = self._decoded(number, plane * across * down + row * across + column)
                if pixels is None:
                    continue
                top, left = row * tall, column * wide
                first, last = max(rows.start, top), min(rows.stop, top + pixels.shape[0])
                begin, end = max(columns.start, left), min(columns.stop, left + pixels.shape[1])
                out[first - rows.start : last - rows.start, begin - columns.start : end - columns.start] = pixels[
                    first - top : last - top, begin - left : end - left
                ]
        return out

    def _decoded(self, number: int, segment: int) -> NDArray[Any] | None:
        """(rows, columns, samples) of a tile or strip, None for one that was never written."""
        page, decode, tables = self._header.page(self._level, self._first + number)
        offset, count = int(page.dataoffsets[segment]), int(page.databytecounts[segment])
        if count == offset == 0:
            return None
        pixels = decode(self._header.file.read(offset, count), segment, jpegtables=tables)[0]
        return None if pixels is None else pixels[0]


class TiffSource(ArraySource):
    """A TIFF by path or URL, read by tifffile.

    Raises:
        SourceError: it cannot be opened, or is of a kind that is not read in this way.
    """

    def __init__(self, path: str, choice: Choice = ALL_OF_IT) -> None:
        self._name = path
        self._file = ByteFile(path)
        try:
            header = TiffFileHeader(self._file)
            tif = header.tif()
            series, facts = tif.series[0], facts_of(tif)
            arrays = tuple(
                TiffArray(header, at, nodata=facts.nodata)
                for at, level in enumerate(series.levels)
                if not (at and level.keyframe.is_mask)
            )
            stated = _stated(tif, series, facts, arrays, path)
        except SourceError:
            raise
        # A damaged header raises whatever the damage leads to.
        except Exception as error:
            raise SourceError(f"cannot open {path} as a TIFF: {type(error).__name__}: {reason_of(error)}") from error
        masks = sum(page.keyframe.is_mask for page in series.pages if page is not None) if facts.masks.pages else 0
        self._settle(arrays, _layout(series.axes, arrays[0].shape, masks, path), choice, stated, "tiff")
        self.facts = facts
        notes = facts.masks.notes((self._info.width, self._info.height))
        self._info = dataclasses.replace(self._info, notes=self._info.notes + notes)

    def fingerprint(self) -> dict[str, Any]:
        """Name, size, time or tag of the last change, and what was chosen."""
        return self._file.facts | chosen_of(self._info)

    def cache_bytes(self, width: int) -> int:
        """A band of rows before and after its axes are turned, a tile compressed and not, and the header."""
        chunk_width, chunk_height = self._info.tile or (width, width)
        return super().cache_bytes(width) + 3 * chunk_width * chunk_height * self._chunk_pixel + SLACK_BYTES


def _layout(axes: str, shape: tuple[int, ...], masks: int, name: str) -> Layout:
    """From tifffile's letters: S are samples of a pixel, C channels, others pages of some kind, I any; so many of them
    masks."""
    if not {"Y", "X"} <= set(axes):
        raise SourceError(f"{name} holds no picture with rows and columns: its axes are {axes}")
    along = "S" if "S" in axes else "C"
    notes = tuple(
        f"It holds {pictures} pictures along its axis {axis.lower()}; the first is read."
        for axis, length in zip(axes, shape, strict=True)
        if axis not in ("Y", "X", along) and (pictures := length - (masks if axis == "I" else 0)) > 1
    )
    return Layout(len(axes), axes.index("Y"), axes.index("X"), axes.index(along) if along in axes else None, notes)


def _stated(tif: Any, series: Any, facts: TiffFacts, arrays: tuple[TiffArray, ...], name: str) -> Stated:
    page = series.keyframe
    photometric = int(page.photometric)
    if photometric in _KINDS or (photometric == 6 and int(page.compression) not in _JPEGS) or page.bitspersample < 8:
        kind = _KINDS.get(photometric, f"YCbCr or {page.bitspersample} bits")
        raise SourceError(
            f"{name} holds {kind}, which is only read from a file on a disk here with all bands together, every tile "
            "written, packed by LZW, deflate, JPEG or not at all. Store it like that first"
        )
    if facts.orientation != 1:
        raise SourceError(
            f"{name} is to be turned (orientation {facts.orientation}), which is not done for a TIFF of this kind. "
            "Store it upright first"
        )
    if facts.extra_samples and facts.extra_samples[0] == 1:
        raise SourceError(
            f"{name} holds colours multiplied by alpha, in a TIFF of this kind. Store them unmultiplied first"
        )
    width, height = series.shape[series.axes.index("X")], series.shape[series.axes.index("Y")]
    sizes = [(array.shape[series.axes.index("X")], array.shape[series.axes.index("Y")]) for array in arrays]
    resolution = facts.resolution
    return Stated(
        alpha="C" not in series.axes and len(facts.extra_samples) == 1 and page.samplesperpixel in (2, 4),
        range=facts.range,
        nodata=facts.nodata,
        icc_profile=page.tags.valueof("InterColorProfile"),
        resolutions=tuple(
            resolution and (resolution[0] * wide / width, resolution[1] * tall / height) for wide, tall in sizes
        ),
        geo=facts.geo,
        channel_names=_channel_names(tif) if "C" in series.axes else (),
    )


def _channel_names(tif: Any) -> tuple[str, ...]:
    """Of the first picture in OME-XML."""
    found = re.search(r"<(?:\w+:)?Pixels\b.*?</(?:\w+:)?Pixels>", tif.ome_metadata or "", re.DOTALL)
    return tuple(re.findall(r'<(?:\w+:)?Channel\b[^>]*?\bName="([^"]{1,40})"', found[0])) if found else ()
