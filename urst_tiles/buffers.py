"""Memory for pixels that is used again: what comes anew from the system comes page by page, each filled with zeros
first."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from urst_tiles.sources.base import Pixels

__all__ = ["Buffers", "ShardBuffers"]


class Buffers:
    """Safe to use from several threads. There are as many buffers as were in use at the same time. An array gets the
    smallest one that holds it; where none does, the largest one becomes as large as it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[NDArray[np.uint8]] = []
        # from the smallest to the largest

    @contextmanager
    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[Pixels]:
        """An array of such a shape, in one piece, with whatever it holds; it is another one's when the context ends."""
        size = prod(shape) * np.dtype(dtype).itemsize
        memory = self._taken(size)
        if memory.size < size:
            del memory  # before more is asked for
            memory = np.empty(size, np.uint8)
        try:
            yield cast("Pixels", memory[:size].view(dtype).reshape(shape))
        finally:
            with self._lock:
                bisect.insort(self._free, memory, key=len)

    def _taken(self, size: int) -> NDArray[np.uint8]:
        with self._lock:
            if not self._free:
                return np.empty(0, np.uint8)
            place = bisect.bisect_left(self._free, size, key=len)
            return self._free.pop(min(place, len(self._free) - 1))


@dataclass(frozen=True, slots=True)
class ShardBuffers:
    """Of the shards that a process has in flight. What is read is larger than what is made, and is held for a shorter
    time; rows that are kept for the next strip are few, and are held while their shard waits."""

    rows: Buffers = field(default_factory=Buffers)
    kept: Buffers = field(default_factory=Buffers)
    pictures: Buffers = field(default_factory=Buffers)
