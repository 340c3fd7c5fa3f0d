"""Reading through zarr, a few chunks at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import zarr

from urst_tiles.geometry import Window
from urst_tiles.stores.base import StoreLayout

__all__ = ["limited_zarr", "read_bytes", "read_parts"]

_CONCURRENCY = 4
"""Chunks that zarr works on at once, and threads that it starts."""

_LIMITED = ("async.concurrency", "threading.max_workers")

_READ_CHUNKS = 2
"""Neighbouring chunks that are read in one call."""


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
