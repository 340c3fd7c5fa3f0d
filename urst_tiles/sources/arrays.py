"""Arrays in memory and lazy ones: NumPy, Dask, Zarr."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from urst_tiles.errors import InputError, SourceError
from urst_tiles.geometry import Window
from urst_tiles.sources.axes import Layout, colour_of, layout_of
from urst_tiles.sources.base import Pixels, RasterInfo
from urst_tiles.sources.shrink import UNTILED, shrink_by_strips, thumbnail_size

__all__ = ["ArraySource"]

_MAX_CHUNK_BYTES = 2 << 30
"""A chunk is decoded whole; a larger one is damage or not made for windows."""
_BAND_BYTES = 4 << 20
"""A window of a lazy array is read in bands of rows of chunks of about this size."""


class ArraySource:
    """A raster in an array: NumPy, Dask, or anything with ``shape``, ``dtype`` and slicing.

    It pickles with its array: one in memory travels whole. A Dask array is computed window by window, in the thread
    that reads.

    Args:
        array: uint8 or uint16, with axes y and x and maybe c; t and z of length 1.
        axes: one letter an axis, such as "yxc" or "cyx"; by default from the shape, where it leaves no doubt.
        name: for messages.

    Raises:
        SourceError: the array is of another kind, or it is not clear which axis is which.
    """

    def __init__(self, array: Any, *, axes: str | None = None, name: str | None = None) -> None:
        self._name = name or f"the {type(array).__module__.partition('.')[0]} array"
        shape = tuple(int(length) for length in array.shape)
        layout = layout_of(shape, axes, self._name)
        self._levels: tuple[Any, ...] = (array,)
        self._layout = layout
        colour, alpha = colour_of(layout.channels(shape), alpha=None, name=self._name)
        width, height = checked_size(layout, shape, self._name)
        self._info = RasterInfo(
            width=width,
            height=height,
            bands=layout.channels(shape),
            dtype=checked_dtype(array.dtype, self._name),
            colour=colour,
            alpha=alpha,
            tile=chunk_size(array, layout, self._name),
            format="array",
            notes=("The fourth channel is taken for alpha.",) if alpha else (),
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
        """The chunks that a band of rows is cut out of, and the band before its axes are turned."""
        return 0 if isinstance(self._levels[0], np.ndarray) else 2 * self._band_bytes(width)

    def _band_bytes(self, width: int) -> int:
        """A band of rows of a window this wide, in whole chunks."""
        info = self._info
        chunk_width, chunk_height = info.tile or UNTILED
        across = min(-(-width // chunk_width) + 1, -(-info.width // chunk_width)) * chunk_width
        return across * self._band_rows(width, chunk_height) * info.bytes_per_pixel

    def _band_rows(self, width: int, chunk_height: int) -> int:
        """Whole rows of chunks, about _BAND_BYTES of them."""
        return max(1, _BAND_BYTES // (width * self._info.bytes_per_pixel * chunk_height)) * chunk_height

    def _read(self, level: int, window: Window) -> Pixels:
        array, info = self._levels[level], self._info
        out: Pixels = np.empty((window.height, window.width, info.bands), info.dtype)
        if isinstance(array, np.ndarray):
            out[:] = self._layout.arrange(array[self._layout.index(window)])
            return out
        # A band at a time: a lazy array is first put together with its own axes, and all of it would be held twice.
        rows = self._band_rows(window.width, (info.tile or UNTILED)[1])
        start = window.row_off
        while start < window.row_end:
            end = min((start // rows + 1) * rows, window.row_end)
            band = Window(window.col_off, start, window.width, end - start)
            out[start - window.row_off : end - window.row_off] = self._read_band(array, band, window, level)
            start = end
        return out

    def _read_band(self, array: Any, band: Window, window: Window, level: int) -> NDArray[Any]:
        try:
            block = array[self._layout.index(band)]
            if hasattr(block, "compute"):
                # In this thread: handing work to a cluster from within one of its tasks can wait for ever.
                block = block.compute(scheduler="synchronous")
            return self._layout.arrange(np.asarray(block))
        # A codec, a store or a Dask graph may raise anything.
        except Exception as error:
            where = f"columns {window.col_off}–{window.col_end - 1}, rows {window.row_off}–{window.row_end - 1}"  # noqa: RUF001
            reason = " ".join(str(error).split()) or "no reason given"
            of_level = f" of level {level}" if level else ""
            message = f"cannot read {where}{of_level} of {self._name}: {type(error).__name__}: {reason}"
            raise SourceError(message) from error


def checked_dtype(dtype: Any, name: str) -> Literal["uint8", "uint16"]:
    kind = np.dtype(dtype)
    if kind.kind != "u" or kind.itemsize > 2:
        raise SourceError(
            f"{name} has {kind.name} pixels, which have no known range of brightness. "
            "Convert it to 8 or 16 bit (uint8 or uint16) first"
        )
    return "uint8" if kind.itemsize == 1 else "uint16"


def checked_size(layout: Layout, shape: tuple[int, ...], name: str) -> tuple[int, int]:
    width, height = layout.size(shape)
    if width < 1 or height < 1:
        raise SourceError(f"{name} has {width} x {height} pixels: there is nothing in it")
    return width, height


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
    width, height = layout.size(tuple(sides))
    return int(width), int(height)
