"""Arrays in memory and lazy ones: NumPy, Dask, Zarr."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import InputError, SourceError, reason_of
from urst_tiles.geometry import Window
from urst_tiles.sources.axes import Layout, colour_of, layout_of
from urst_tiles.sources.base import Colour, Pixels, RasterInfo, chosen_of
from urst_tiles.sources.choice import ALL_OF_IT, Choice, channels_of, level_of, range_of
from urst_tiles.sources.geo import GeoTags
from urst_tiles.sources.shrink import UNTILED, shrink_by_strips, thumbnail_size
from urst_tiles.sources.values import Values, held, said_of

__all__ = ["ArraySource", "Stated"]

_MAX_CHUNK_BYTES = 2 << 30
"""A chunk is decoded whole; a larger one is damage or not made for windows."""
_BAND_BYTES = 4 << 20
"""A window of a lazy array is read in bands of rows of chunks of about this size."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What the metadata around an array say of the picture in it."""

    alpha: bool | None = None
    # whether the last channel is alpha; None where nothing says so
    range: tuple[float, float] | None = None
    # what is black and white
    nodata: float | None = None
    icc_profile: bytes | None = None
    resolutions: tuple[tuple[float, float] | None, ...] = ()
    # pixels per millimetre, (x, y), of each level
    geo: GeoTags | None = None
    # of the full size
    channel_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ArraySource:
    """A raster in an array: NumPy, Dask, or anything with ``shape``, ``dtype`` and slicing.

    It pickles with its array: one in memory travels whole. A Dask array is computed window by window, in the thread
    that reads.

    Args:
        array: with axes y and x and maybe c; of t and z the first place is read. uint8, uint16, or other numbers with a
            range.
        choice: its ``axes`` name the array's, one letter an axis; by default from the shape, where it leaves no doubt.
        name: for messages.

    Raises:
        SourceError: the array is of another kind, or it is not clear which axis is which.
    """

    _channels: tuple[int, ...]
    _chunk_pixel: int

    def __init__(self, array: Any, choice: Choice = ALL_OF_IT, *, name: str | None = None) -> None:
        self._name = name or f"the {type(array).__module__.partition('.')[0]} array"
        layout = layout_of(tuple(int(length) for length in array.shape), choice.axes, self._name)
        self._settle((array,), layout, choice, Stated(), "array")

    def _settle(self, arrays: tuple[Any, ...], layout: Layout, choice: Choice, stated: Stated, kind: str) -> None:
        """Take on arrays, the full size first, as chosen.

        Raises:
            SourceError: they cannot be shown like that.
        """
        name, sizes = self._name, [layout.size(tuple(array.shape)) for array in arrays]
        level = level_of(choice, sizes, name)
        (width, height), array = sizes[level], arrays[level]
        if width < 1 or height < 1:
            raise SourceError(f"{name} has {width} x {height} pixels: there is nothing in it")
        numbers = np.dtype(array.dtype)
        there = layout.channels(tuple(array.shape))
        self._channels, colour, alpha, notes = _bands(there, choice, stated, name)
        self._values = Values(
            numbers,
            alpha,
            range_of(choice, numbers, stated.range, name),
            held(stated.nodata if choice.nodata is None else choice.nodata, numbers),
            not_a_number=numbers.kind == "f",
        )
        said, of_values = said_of(choice, self._values)
        self._levels, self._layout = arrays[level:], layout
        self._chunk_pixel = max(_chunk_pixel(array, layout), len(self._channels) * numbers.itemsize)
        self._info = RasterInfo(
            width=width,
            height=height,
            bands=len(self._channels) + self._values.adds_alpha,
            dtype=self._values.dtype,
            colour=colour,
            alpha=alpha or self._values.adds_alpha,
            icc_profile=stated.icc_profile,
            resolution=stated.resolutions[level] if level < len(stated.resolutions) else None,
            levels=tuple(sizes[level + 1 :]),
            tile=chunk_size(array, layout, name),
            format=kind,
            notes=(*stated.notes, *layout.notes, *notes, *of_values),
            geo=stated.geo and stated.geo.of_level(sizes[0][0] / width, sizes[0][1] / height),
            choice=said,
        )

    @property
    def info(self) -> RasterInfo:
        return self._info

    @property
    def name(self) -> str:
        return self._name

    def fingerprint(self) -> dict[str, Any]:
        """Shape, type and a digest of about 65,000 pixels; of a Dask array its name, which stands for its contents."""
        array = self._levels[0]
        facts: dict[str, Any] = {"shape": [int(n) for n in array.shape], "dtype": np.dtype(array.dtype).str}
        facts |= chosen_of(self._info)
        if isinstance(array, np.ndarray):
            layout = self._layout
            steps = [slice(None)] * array.ndim
            for axis in (layout.y, layout.x):
                steps[axis] = slice(None, None, max(1, array.shape[axis] // 256))
            facts["sample"] = hashlib.sha256(np.ascontiguousarray(array[tuple(steps)]).tobytes()).hexdigest()[:16]
        elif isinstance(name := getattr(array, "name", None), str):
            facts["name"] = name
        return facts

    def read(self, window: Window) -> Pixels:
        """See :meth:`urst_tiles.sources.base.Source.read`."""
        info = self._info
        if not Window(0, 0, info.width, info.height).contains(window):
            raise InputError(
                f"the window {window} reaches outside {self._name}, which has {info.width} x {info.height} pixels"
            )
        return self._read(0, window)

    def thumbnail(self, short_side: int) -> Pixels:
        """See :meth:`urst_tiles.sources.base.Source.thumbnail`: exact means of the pixels that :meth:`read` gives.

        Where there are smaller levels, they are taken over the smallest one at least twice as large as the thumbnail.
        """
        info = self._info
        level, size = 0, (info.width, info.height)
        for at, smaller in enumerate(info.levels, 1):
            if min(smaller) >= 2 * short_side:
                level, size = at, smaller
        return shrink_by_strips(
            lambda window: self._read(level, window),
            size,
            thumbnail_size(info.width, info.height, short_side),
            bands=info.bands,
            dtype=info.dtype,
            tile=info.tile or UNTILED,
        )

    def cache_bytes(self, width: int) -> int:
        """The chunks that a band of rows is cut out of, and the band before axes are turned and values mapped."""
        info, mapping = self._info, 0
        if not self._values.plain:
            rows = min(self._band_rows(width, (info.tile or UNTILED)[1]), info.height)
            # 64-bit numbers, their clipped copy, and truths.
            mapping = width * rows * len(self._channels) * 3 * 8
        return mapping + (0 if isinstance(self._levels[0], np.ndarray) else 2 * self._band_bytes(width))

    def _band_bytes(self, width: int) -> int:
        """A band of rows of a window this wide, in whole chunks."""
        info = self._info
        chunk_width, chunk_height = info.tile or UNTILED
        across = min(-(-width // chunk_width) + 1, -(-info.width // chunk_width)) * chunk_width
        return across * self._band_rows(width, chunk_height) * max(info.bytes_per_pixel, self._chunk_pixel)

    def _band_rows(self, width: int, chunk_height: int) -> int:
        """Whole rows of chunks, about _BAND_BYTES of them."""
        return max(1, _BAND_BYTES // (width * self._info.bytes_per_pixel * chunk_height)) * chunk_height

    def _read(self, level: int, window: Window) -> Pixels:
        info = self._info
        out: Pixels = np.empty((window.height, window.width, info.bands), info.dtype)
        # A band at a time: a lazy array is first put together with its own axes, and all of it would be held twice.
        rows = self._band_rows(window.width, (info.tile or UNTILED)[1])
        start = window.row_off
        while start < window.row_end:
            end = min((start // rows + 1) * rows, window.row_end)
            band = Window(window.col_off, start, window.width, end - start)
            numbers = self._read_band(self._levels[level], band, window, level)
            self._values.put(numbers, out[start - window.row_off : end - window.row_off])
            start = end
        return out

    def _read_band(self, array: Any, band: Window, window: Window, level: int) -> NDArray[Any]:
        """(height, width, channels chosen), in the array's type."""
        try:
            parts = [self._read_run(array, band, run) for run in _runs(self._channels)]
        # A codec, a store or a Dask graph may raise anything.
        except Exception as error:
            where = f"columns {window.col_off}–{window.col_end - 1}, rows {window.row_off}–{window.row_end - 1}"  # noqa: RUF001
            of_level = f" of level {level}" if level else ""
            message = f"cannot read {where}{of_level} of {self._name}: {type(error).__name__}: {reason_of(error)}"
            raise SourceError(message) from error
        if len(parts) == 1 and self._channels == tuple(sorted(set(self._channels))):
            return parts[0]
        read = sorted(set(self._channels))
        together = np.concatenate(parts, axis=-1)
        return together[..., [read.index(channel) for channel in self._channels]]

    def _read_run(self, array: Any, band: Window, channels: slice) -> NDArray[Any]:
        block = array[self._layout.index(band, channels)]
        if hasattr(block, "compute"):
            # In this thread: handing work to a cluster from within one of its tasks can wait for ever.
            block = block.compute(scheduler="synchronous")
        return self._layout.arrange(np.asarray(block))


def _bands(
    there: int, choice: Choice, stated: Stated, name: str
) -> tuple[tuple[int, ...], Colour, bool, tuple[str, ...]]:
    """(channels to read, what they are, whether the last is alpha, notes)."""
    chosen = channels_of(choice, there, name)
    if chosen is not None:
        colour, alpha = colour_of(len(chosen), alpha=len(chosen) in (2, 4), name=name)
        return chosen, colour, alpha, ()
    colour, alpha = colour_of(there, alpha=stated.alpha, name=name, names=stated.channel_names)
    notes = ("The fourth channel is taken for alpha.",) if alpha and stated.alpha is None else ()
    return tuple(range(there)), colour, alpha, notes


def _runs(channels: tuple[int, ...]) -> list[slice]:
    """The channels in order, neighbours together."""
    runs: list[slice] = []
    for channel in sorted(set(channels)):
        if runs and runs[-1].stop == channel:
            runs[-1] = slice(runs[-1].start, channel + 1)
        else:
            runs.append(slice(channel, channel + 1))
    return runs


def _chunk_pixel(array: Any, layout: Layout) -> int:
    """Bytes that decoding a chunk takes for each of its pixels: all its channels, and what else it holds."""
    size = int(np.dtype(array.dtype).itemsize)
    for axis, side in enumerate(getattr(array, "chunks", None) or ()):
        if axis not in (layout.x, layout.y):
            size *= max(side) if isinstance(side, tuple) else int(side)
    return size


def chunk_size(array: Any, layout: Layout, name: str) -> tuple[int, int] | None:
    """(width, height) of the array's chunks, the largest where they differ; None for an array without any."""
    chunks = getattr(array, "chunks", None)
    if not chunks:
        return None
    sides = [max(side) if isinstance(side, tuple) else int(side) for side in chunks]
    size = np.dtype(array.dtype).itemsize
    for side in sides:
        size *= int(side)
    if size > _MAX_CHUNK_BYTES:
        raise SourceError(
            f"{name} is stored in chunks of {size / 1e9:.1f} GB ({' x '.join(map(str, sides))}), too large to decode "
            "one by one. Store it in chunks of 256 to 2048 pixels first"
        )
    if size < 1:
        raise SourceError(f"{name} is stored in chunks of {' x '.join(map(str, sides))}: its metadata is damaged")
    width, height = layout.size(tuple(sides))
    return int(width), int(height)
