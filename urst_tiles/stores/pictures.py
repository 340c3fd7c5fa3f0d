"""A finished store as one ordinary picture: PNG, JPEG or WebP, full size, saved by libvips row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyvips
from numpy.typing import NDArray

from urst_tiles.errors import InputError, StoreError
from urst_tiles.geometry import Window
from urst_tiles.stores.base import Store, StoreLayout
from urst_tiles.stores.colour import as_8_bit, is_usable, with_profile
from urst_tiles.stores.exporter import ExportOptions, Progress
from urst_tiles.stores.png_stream import Feed, forget_resolution, stored_png
from urst_tiles.stores.reading import read_bytes
from urst_tiles.stores.replacing import check_free, require_shards, whole_file
from urst_tiles.stores.tiling import Count, pixel_bytes

__all__ = ["JPEG", "PNG", "WEBP", "PictureExporter"]

_QUALITY = 90
_PIECE = 2**20
# bytes handed to libvips at once
_LINES, _LINES_A_THREAD = 900, 72
# rows that libvips' caches hold between its decoder and its encoder, measured from 1 to 16 threads
_ENCODER = 16 * 2**20


@dataclass(frozen=True, slots=True)
class PictureExporter:
    """One encoder of libvips and its limits."""

    name: Literal["png", "jpeg", "webp"]
    title: str
    suffixes: tuple[str, ...]
    longest: int
    # side, in pixels
    deep: bool
    # whether it keeps 16 bit
    alpha: bool
    takes: frozenset[str]
    whole_bytes: int = 0
    # of memory a sample, where the encoder holds the picture whole; measured on noise
    resumes: bool = False

    def check(self, layout: StoreLayout, options: ExportOptions) -> tuple[str, ...]:  # noqa: ARG002
        if max(layout.width, layout.height) > self.longest:
            raise InputError(
                f"{layout.width} x {layout.height} pixels are too many for {self.title}: a side has at most "
                f"{self.longest:,}. Take a TIFF (.tif), an OME-Zarr (.zarr) or Deep Zoom (.dzi)"
            )
        if layout.bands == 4 and not self.alpha:
            raise InputError(f"the picture has alpha and {self.title} has none. Take PNG (.png) or WebP (.webp)")
        notes = []
        if layout.dtype == "uint16" and not self.deep:
            notes.append(f"{self.title} has 8 bit: the 16-bit values are rounded to 256. PNG and TIFF keep them")
        if layout.icc_profile is not None and not is_usable(layout.icc_profile):
            notes.append("the ICC profile is damaged or not one of RGB: it is left out")
        if layout.geo is not None:
            notes.append(
                f"{self.title} cannot say where it lies on the Earth: the geo tags are left out. TIFF keeps them"
            )
        return tuple(notes)

    def check_target(self, target: Path, *, overwrite: bool) -> None:
        check_free(target, overwrite=overwrite)

    def memory_bytes(self, layout: StoreLayout, options: ExportOptions) -> int:
        """Rows read from the store, some turned round and copied, libvips' own, and where the encoder holds the whole
        picture, that."""
        line = layout.width * pixel_bytes(layout)
        rows = _rows_at_once(layout, options.memory)
        pieces = 8 * max(_PIECE, line)
        whole = self.whole_bytes * layout.bands * layout.width * layout.height
        lines = _LINES + _LINES_A_THREAD * _threads()
        return (rows + lines) * line + read_bytes(layout) + pieces + whole + _ENCODER

    def write(
        self, store: Store, target: Path, options: ExportOptions, *, overwrite: bool, on_progress: Progress
    ) -> None:
        self.check(store.layout, options)
        with whole_file(target, overwrite=overwrite) as partial:
            require_shards(store)
            feed = Feed(self._stream(store, options.memory, Count(store.layout.height, on_progress)))
            try:
                self._save(_streamed(feed, store.layout), partial, options, store.layout)
            except pyvips.Error as error:
                raise feed.error or StoreError(f"cannot write {target}: {_reason(error)}") from error
            if feed.error is not None:
                raise feed.error
            if self.name == "png" and store.layout.resolution is None:
                forget_resolution(partial)

    def _stream(self, store: Store, memory: int, count: Count) -> Iterator[bytes]:
        layout = store.layout
        bits = 8 * np.dtype(layout.dtype).itemsize if self.deep else 8
        rows = _rows(store, memory, count)
        if not self.deep:
            rows = (as_8_bit(part) for part in rows)
        return stored_png(layout.width, layout.height, layout.bands, bits, rows)

    def _save(self, image: Any, path: Path, options: ExportOptions, layout: StoreLayout) -> None:
        # Without a known resolution nothing is said of it: JPEG and WebP state it in their EXIF.
        common: dict[str, Any] = {"keep": "icc" if layout.resolution is None else "icc|exif"}
        quality = options.quality or _QUALITY
        if self.name == "png":
            image.pngsave(str(path), filter="all", compression=6, keep="icc")
        elif self.name == "jpeg":
            image.jpegsave(str(path), Q=quality, **common)
        else:
            image.webpsave(str(path), Q=quality, exact=True, **common)


PNG = PictureExporter("png", "PNG", (".png",), 2**31 - 1, deep=True, alpha=True, takes=frozenset())
# libjpeg's own limit is a little below the format's 65,535.
JPEG = PictureExporter("jpeg", "JPEG", (".jpg", ".jpeg"), 65_500, deep=False, alpha=False, takes=frozenset({"quality"}))
WEBP = PictureExporter(
    "webp", "WebP", (".webp",), 16_383, deep=False, alpha=True, takes=frozenset({"quality"}), whole_bytes=12
)


def _streamed(feed: Feed, layout: StoreLayout) -> Any:
    source = pyvips.SourceCustom()
    source.on_read(feed.read)
    image = pyvips.Image.new_from_source(source, "", access="sequential", fail_on="truncated")
    if layout.resolution is not None:
        image = image.copy(xres=layout.resolution[0], yres=layout.resolution[1])
    return image if layout.icc_profile is None else with_profile(image, layout.icc_profile)


def _rows(store: Store, memory: int, count: Count) -> Iterator[NDArray[Any]]:
    """The full size from top to bottom: (some rows, width, bands)."""
    layout = store.layout
    step = _rows_at_once(layout, memory)
    piece = max(_PIECE // (layout.width * pixel_bytes(layout)), 1)
    for top in range(0, layout.height, step):
        block = store.read(0, Window(0, top, layout.width, min(step, layout.height - top)))
        for start in range(0, block.shape[1], piece):
            part = np.ascontiguousarray(block[:, start : start + piece].transpose(1, 2, 0))
            count(len(part))
            yield part
        del block  # before the next one is read: two would be twice the memory


def _rows_at_once(layout: StoreLayout, memory: int) -> int:
    """A row of the store's chunks, or what fits the memory of it."""
    return min(max(memory // (layout.width * pixel_bytes(layout)), 1), layout.chunk, layout.height)


def _threads() -> int:
    """Threads of libvips, on which the size of its caches depends."""
    return int(pyvips.vips_lib.vips_concurrency_get())


def _reason(error: pyvips.Error) -> str:
    lines = [line.strip() for line in str(error.detail).splitlines() if line.strip()]
    return "; ".join(lines[-2:]) or "libvips cannot encode it"
