"""A shard's bytes: what zarr writes for one whole shard, made in memory by zarr itself.

Written through zarr's own local store, a shard that is written again would first be read (and one torn by a power cut
could not be replaced), and it would be renamed before it is flushed. Encoded here, it is put in its place in one
durable step.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from urst_tiles.geometry import Window
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import StoreLayout

__all__ = ["array_options", "encode_shard", "limited_zarr", "read_bytes", "read_parts", "write_bytes"]

_CONCURRENCY = 4
"""Chunks that zarr works on at once in one call: it bounds what a call takes beyond its result."""

_LIMITED = ("async.concurrency", "threading.max_workers")

_READ_CHUNKS = 2
"""Neighbouring chunks that are read in one call."""


def array_options(layout: StoreLayout) -> dict[str, Any]:
    """What every level's array is created with, but for its shape and name."""
    itemsize = np.dtype(layout.dtype).itemsize
    return {
        "dtype": layout.dtype,
        "chunks": (layout.bands, layout.chunk, layout.chunk),
        "shards": (layout.bands, layout.shard, layout.shard),
        # Measured on photographs: with its bits shuffled, zstd's fastest level stores 15 % less in 8 bit and 20 %
        # less in 16 bit than without, nearly as fast; level 3 is twice as slow for 1 % in 16 bit.
        "compressors": BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=itemsize),
        "fill_value": 0,
        "dimension_names": ("c", "y", "x"),
        "config": {"write_empty_chunks": True},
    }


def encode_shard(layout: StoreLayout, pixels: Pixels) -> memoryview:
    """What the file of a whole shard holds, from its (bands, height, width) pixels, clipped at the array's far edges.

    The same pixels give the same bytes. Chunks wholly outside the array are left out, as zarr does.
    """
    stored: dict[str, Any] = {}
    with limited_zarr():
        array = zarr.create_array(MemoryStore(stored), shape=pixels.shape, **array_options(layout))
        array[...] = pixels
    encoded: NDArray[np.uint8] = np.ascontiguousarray(stored["c/0/0/0"].as_numpy_array())
    return encoded.data.cast("B")


def write_bytes(layout: StoreLayout) -> int:
    """Upper bound of the memory, in bytes, that writing one shard takes beyond the caller's array.

    The compressed chunks and the shard they are joined into stand side by side, at worst no smaller than the pixels;
    beside them the chunks in work: padded, shuffled and compressed.
    """
    itemsize = np.dtype(layout.dtype).itemsize
    chunk = layout.bands * layout.chunk**2 * itemsize
    side_x, side_y = (
        min(layout.shard, math.ceil(n / layout.chunk) * layout.chunk) for n in (layout.width, layout.height)
    )
    shard = layout.bands * side_x * side_y * itemsize
    return 2 * shard + 3 * _CONCURRENCY * chunk


def read_bytes(layout: StoreLayout) -> int:
    """Upper bound of the memory, in bytes, that one read takes beyond its result.

    Some chunks are read at once: compressed, decoded, joined and in zarr's own result; as much again is kept by the
    threads.
    """
    return 8 * _READ_CHUNKS * layout.bands * layout.chunk**2 * np.dtype(layout.dtype).itemsize


def read_parts(layout: StoreLayout, window: Window) -> Iterator[Window]:
    """Cut a window into what is read at once: the part of it in a few neighbouring chunks.

    zarr holds a call's compressed chunks, its decoded ones and its result side by side; cut up, that is little,
    whatever the window's size.
    """
    tall, wide = layout.chunk, layout.chunk * _READ_CHUNKS
    for row in range(window.row_off // tall, -(-window.row_end // tall)):
        for col in range(window.col_off // wide, -(-window.col_end // wide)):
            part = Window(col * wide, row * tall, wide, tall).intersect(window)
            if part is not None:  # always so: the ranges are the cells that the window touches
                yield part


class _Limit:
    """Holds zarr's concurrency down while at least one thread is inside.

    zarr knows this setting only process-wide, and setting it back while another thread still works would lift that
    thread's limit: so the first one in sets it and the last one out sets it back. Threads are limited too, where zarr
    has started none yet: each keeps the memory it once worked in.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._setting = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                limits = {key: min(zarr.config.get(key, None) or _CONCURRENCY, _CONCURRENCY) for key in _LIMITED}
                self._setting.enter_context(zarr.config.set(limits))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._setting.close()


limited_zarr = _Limit()
