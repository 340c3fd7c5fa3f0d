"""Memory for pixels that is used again: what comes anew from the system comes page by page, each filled with zeros
first."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from urst_tiles.sources.base import Pixels

__all__ = ["Buffers"]


class Buffers:
    """Safe to use from several threads. There are as many buffers as were in use at the same time, each as large as the
    largest array that it was asked for."""

    def __init__(self) -> None:
        self._free = queue.LifoQueue[NDArray[np.uint8]]()

    @contextmanager
    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[Pixels]:
        """An array of such a shape, in one piece, with whatever it holds; it is another one's when the context ends."""
        size = prod(shape) * np.dtype(dtype).itemsize
        try:
            memory = self._free.get_nowait()
        except queue.Empty:
            memory = np.empty(0, np.uint8)
        if memory.size < size:
            del memory  # before more is asked for
            memory = np.empty(size, np.uint8)
        try:
            yield cast("Pixels", memory[:size].view(dtype).reshape(shape))
        finally:
            self._free.put(memory)
