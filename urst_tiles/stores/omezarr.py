"""OME-Zarr 0.5 on Zarr v3, written in whole shards."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import zarr
from zarr.storage import MemoryStore

from urst_tiles.errors import InputError, StoreError, reason_of
from urst_tiles.geometry import Window
from urst_tiles.objects import client_errors
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import StoreLayout
from urst_tiles.stores.encoding import ChunkEncoder, array_options, encode_shard
from urst_tiles.stores.files import storage_errors
from urst_tiles.stores.metadata import group_attributes, layout_of, level_sizes
from urst_tiles.stores.places import Place, place_of
from urst_tiles.stores.reading import limited_zarr, read_parts

__all__ = ["OmeZarrStore", "store_documents"]

# What zarr and its codecs raise for bytes that are not what they should be.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError)


@dataclass(frozen=True, slots=True)
class _Opened:
    layout: StoreLayout
    levels: tuple[tuple[int, int], ...]
    # (width, height)
    attributes: dict[str, Any]
    arrays: tuple[zarr.Array[Any], ...]
    # (bands, height, width) each


class OmeZarrStore:
    """A pyramid in one OME-Zarr 0.5 group: arrays "0", "1", … of (c, y, x), see :class:`urst_tiles.stores.base.Store`.

    Carries only its path or URL and opens lazily, so it pickles small; safe to use from several threads.
    """

    def __init__(self, path: str | Path) -> None:
        self._place = place_of(path)
        self._lock = threading.Lock()
        self._state: _Opened | None = None
        self._encoder: ChunkEncoder | None = None

    @classmethod
    def create(cls, path: str | Path, layout: StoreLayout, *, attributes: Mapping[str, Any] | None = None) -> Self:
        """Create an empty store, all levels at once; a local one is there whole or not at all.

        Args:
            path: a folder that does not exist yet, or an fsspec URL.
            layout: sizes, type and what is known of the picture.
            attributes: JSON-able, put among the group's attributes; "ome" and "urst_tiles" are the store's own.

        Raises:
            StoreError: something stands there already, or it cannot be created.
            InputError: ``attributes`` uses one of the store's own names, or a chunk is larger than the codec takes.
        """
        store = cls(path)
        documents = store_documents(layout, attributes)
        with storage_errors(f"cannot create {store.name}"):
            store._place.discard_unfinished()
            if store._place.exists():
                raise StoreError(f"{store.name} exists already. Open it, remove it or choose another name")
            store._place.create(documents)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a store that :meth:`create` made.

        Raises:
            StoreError: there is nothing, or something else.
        """
        store = cls(path)
        store._opened()
        return store

    @property
    def name(self) -> str:
        """The path or URL, for messages."""
        return self._place.name

    @property
    def layout(self) -> StoreLayout:
        return self._opened().layout

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of every level, full size first; each is the ceiling of half the one before."""
        return self._opened().levels

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's attributes, JSON-able."""
        return dict(self._opened().attributes)

    def write_shard(self, level: int, row: int, col: int, pixels: Pixels) -> None:
        """Write one whole shard: (bands, height, width), clipped at the array's far edges.

        One write, no read; the same pixels give the same bytes. A local shard is on the disk when this returns, and
        until then whatever stood in its place stays.

        Raises:
            InputError: there is no such shard, or the pixels' shape or type is another.
            StoreError: it cannot be written; nothing of it is left.
        """
        self.write_strips(level, row, col, (pixels,))

    def write_strips(self, level: int, row: int, col: int, strips: Iterable[Pixels]) -> None:
        """The same, from strips of (bands, some rows, width), top to bottom: the next is asked for when the last is
        encoded and nothing of it is held.

        Raises:
            InputError, StoreError: as :meth:`write_shard`.
            Exception: what ``strips`` raises; nothing of the shard is left.
        """
        layout, core = self.layout, self.shard_window(level, row, col)
        what = f"shard {row},{col} of level {level} of {self.name}"
        checked = _checked(strips, (layout.bands, core.height, core.width), np.dtype(layout.dtype), what)
        try:
            with storage_errors(f"cannot write {what}"):
                self._place.put(_key(level, row, col), encode_shard(layout, checked, self._the_encoder()))
        except _MakersError as error:
            raise error.error from error.error.__cause__

    def has_shard(self, level: int, row: int, col: int) -> bool:
        """Whether something stands where this shard is written. It does not say that it is whole.

        Raises:
            InputError: there is no such shard.
        """
        self.shard_window(level, row, col)
        with storage_errors(f"cannot look into {self.name}"):
            return self._place.has(_key(level, row, col))

    def shards(self, level: int) -> Iterator[tuple[int, int]]:
        """(row, col) of every shard of a level that stands there, in no particular order. One listing, where asking
        :meth:`has_shard` would be a question a shard."""
        with storage_errors(f"cannot look into {self.name}"):
            for key in self._place.keys(f"{level}/c/0"):
                row, _, col = key.removeprefix(f"{level}/c/0/").partition("/")
                if row.isdecimal() and col.isdecimal():
                    yield int(row), int(col)

    def read(self, level: int, window: Window) -> Pixels:
        """Pixels of a window of a level: (bands, height, width), owned by the caller. Shards never written read as 0.

        Raises:
            InputError: the window reaches outside the level.
            StoreError: it cannot be read or decoded.
        """
        opened = self._opened()
        width, height = self._size(level)
        if not Window(0, 0, width, height).contains(window):
            raise InputError(f"window {window} reaches outside level {level} of {self.name}: {width} x {height} pixels")
        pixels = np.empty((opened.layout.bands, window.height, window.width), opened.layout.dtype)
        try:
            with limited_zarr(), client_errors():
                for part in read_parts(opened.layout, window):
                    rows, cols = part.slices
                    inside = part.relative_to(window).slices
                    pixels[:, *inside] = opened.arrays[level][:, rows, cols]
        except (*_MALFORMED, OSError) as error:
            raise StoreError(
                f"window {window} of level {level} of {self.name} cannot be read ({_reason(error)}). "
                "If a shard's file is damaged, remove that file and run the same command again"
            ) from error
        return cast("Pixels", pixels)

    def shard_window(self, level: int, row: int, col: int) -> Window:
        """The pixels of a level that a shard holds.

        Raises:
            InputError: there is no such shard.
        """
        width, height = self._size(level)
        left, top = col * self.layout.shard[0], row * self.layout.shard[1]
        if not (0 <= top < height and 0 <= left < width):
            raise InputError(f"level {level} of {self.name}, {width} x {height} pixels, has no shard {row},{col}")
        return Window(left, top, min(self.layout.shard[0], width - left), min(self.layout.shard[1], height - top))

    def clean_partials(self) -> None:
        """Remove what killed writers left. Only while nobody writes."""
        with storage_errors(f"cannot clean {self.name}"):
            self._place.clean_partials()

    def __repr__(self) -> str:
        return f"OmeZarrStore({self.name!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name,)

    def _size(self, level: int) -> tuple[int, int]:
        levels = self.levels
        if not 0 <= level < len(levels):
            raise InputError(f"{self.name} has levels 0 to {len(levels) - 1}, not {level}")
        return levels[level]

    def _opened(self) -> _Opened:
        with self._lock:
            if self._state is None:
                self._state = self._load()
            return self._state

    def _the_encoder(self) -> ChunkEncoder:
        layout = self.layout
        with self._lock:
            if self._encoder is None:
                self._encoder = ChunkEncoder(layout)
            return self._encoder

    def _load(self) -> _Opened:
        with storage_errors(f"cannot open {self.name}"), limited_zarr():
            if not self._place.exists():
                raise StoreError(f"{self.name} does not exist")
            try:
                with client_errors():
                    return _open_arrays(self._place)
            except (*_MALFORMED, FileNotFoundError, NotADirectoryError) as error:
                raise StoreError(
                    f"{self.name} is not a store of this program ({_reason(error)}). Choose another one, or remove it"
                ) from error


class _MakersError(Exception):
    """An error of the operating system that whoever makes the pixels met: it says nothing about the store."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _checked(
    strips: Iterable[Pixels], shape: tuple[int, int, int], dtype: np.dtype[Any], what: str
) -> Iterator[Pixels]:
    """The same strips, of the right type and together of the right shape."""
    bands, height, width = shape
    rows, waiting = 0, iter(strips)
    while True:
        try:
            strip = next(waiting, None)
        except OSError as error:
            raise _MakersError(error) from error
        if strip is None:
            break
        fits = strip.ndim == 3 and (strip.shape[0], strip.shape[2]) == (bands, width) and strip.dtype == dtype
        rows += strip.shape[1] if fits else 0
        if not fits or rows > height:
            raise InputError(f"{what} takes {shape} {dtype}, not {strip.shape} {strip.dtype}")
        yield strip
        del strip
    if rows != height:
        raise InputError(f"{what} takes {shape} {dtype}, not ({bands}, {rows}, {width}) {dtype}")


def store_documents(layout: StoreLayout, attributes: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The metadata of an empty store: what stands under which name in it. The same layout gives the same bytes.

    Raises:
        InputError: as :meth:`OmeZarrStore.create`.
    """
    complete = group_attributes(layout, attributes or {})
    _check_chunk(layout)
    written: dict[str, Any] = {}
    with limited_zarr():
        group = zarr.create_group(MemoryStore(written), zarr_format=3, attributes=complete)
        for level, (width, height) in enumerate(level_sizes(layout)):
            group.create_array(str(level), shape=(layout.bands, height, width), **array_options(layout))
    return {key: bytes(data.to_bytes()) for key, data in written.items()}


def _open_arrays(place: Place) -> _Opened:
    document = json.loads(place.root())
    if (document["zarr_format"], document["node_type"]) != (3, "group"):
        raise ValueError("it is no group of Zarr 3")
    attributes: dict[str, Any] = document["attributes"]
    paths = [dataset["path"] for dataset in attributes["ome"]["multiscales"][0]["datasets"]]
    source = place.reader()
    arrays = tuple(zarr.open_array(source, path=path, mode="r", zarr_format=3) for path in paths)
    full = arrays[0]
    down, across = (full.shards or full.chunks)[-2:]
    layout = layout_of(attributes, full.shape, full.chunks[-1], (across, down), str(full.dtype))
    levels = tuple((int(array.shape[2]), int(array.shape[1])) for array in arrays)
    if levels != level_sizes(layout):
        raise ValueError(f"its levels are {levels}")
    return _Opened(layout, levels, attributes, arrays)


def _check_chunk(layout: StoreLayout) -> None:
    size = layout.bands * layout.chunk**2 * np.dtype(layout.dtype).itemsize
    if size >= 2**31 - 1024:  # the codec's own limit
        raise InputError(
            f"a chunk of {layout.chunk} x {layout.chunk} pixels is {size} bytes; at most 2 GiB can be compressed"
        )


def _key(level: int, row: int, col: int) -> str:
    """A shard's name in the store: zarr's default chunk key, one chunk of bands."""
    return f"{level}/c/0/{row}/{col}"


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return reason_of(error)
