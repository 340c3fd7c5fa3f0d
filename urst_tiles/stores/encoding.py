"""A shard's file: its chunks compressed one after the other, then where each of them stands.

This is zarr's ``sharding_indexed`` codec, written out a few chunks at a time. Written through zarr, a shard takes two
to three times its size beside the pixels (the chunks compressed, the shard they are joined into, with some versions a
copy more), one that is written again is first read, so that one torn by a power cut cannot be replaced, and it is
renamed before it is flushed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any, cast

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from urst_tiles.buffers import Buffers
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import StoreLayout

__all__ = ["ChunkEncoder", "array_options", "compressed", "encode_shard", "write_bytes"]

_WORKERS = min(4, os.cpu_count() or 1)
"""Chunks of a shard that are compressed at the same time."""

_SMALL = 1 << 20
"""Bytes of pixels up to which one thread is quicker than starting some."""

_CLEVEL = 1

_BLOCK = 512 << 10
"""Bytes that Blosc shuffles and compresses by themselves: left to itself it takes 32 KiB, which is slower both ways and
stores more (benchmarks/codecs.py). A thread works on three blocks; larger ones save little more."""

_HEADER = 16
"""Bytes that Blosc writes at most beyond those that it is given."""

_ABSENT = np.iinfo(np.uint64).max
"""In the index, in place of the offset and the length of a chunk that is not there."""


def array_options(layout: StoreLayout) -> dict[str, Any]:
    """What every level's array is created with, but for its shape and name."""
    itemsize = np.dtype(layout.dtype).itemsize
    return {
        "dtype": layout.dtype,
        "chunks": (layout.bands, layout.chunk, layout.chunk),
        "shards": (layout.bands, layout.shard[1], layout.shard[0]),
        "compressors": BloscCodec(
            cname="zstd", clevel=_CLEVEL, shuffle="bitshuffle", typesize=itemsize, blocksize=_BLOCK
        ),
        "fill_value": 0,
        "dimension_names": ("c", "y", "x"),
        "config": {"write_empty_chunks": True},
    }


def compressed(chunk: Pixels, room: NDArray[np.uint8] | None = None) -> memoryview:
    """A chunk as :func:`array_options` says. It lies in ``room``, of 16 bytes more than it, where that is given."""
    # numcodecs writes to memory that is new each time, and copies it.
    given: Any = chunk  # the library says that it takes bytes alone
    into: Any = room
    made = imagecodecs.blosc_encode(
        given,
        level=_CLEVEL,
        compressor="zstd",
        shuffle=imagecodecs.BLOSC.SHUFFLE.BITSHUFFLE,
        typesize=chunk.itemsize,
        blocksize=_BLOCK,
        numthreads=1,
        out=into,
    )
    return memoryview(made)


def encode_shard(
    layout: StoreLayout, strips: Iterable[Pixels], encoder: ChunkEncoder | None = None
) -> Iterator[bytes | memoryview]:
    """What the file of a whole shard holds, in parts, from its pixels: strips of (bands, some rows, width), top to
    bottom. Each part stands until the next is asked for. Of the strips nothing is held when the next is asked for, but
    for rows that do not make up a chunk; the last chunks are compressed meanwhile. ``encoder`` may be that of other
    shards too.

    The same pixels give the same bytes. At the array's far edges the pixels are clipped; chunks wholly outside are left
    out and those half inside are filled with 0, as zarr does.
    """
    across, down = (side // layout.chunk for side in layout.shard)
    index = np.full((down, across, 2), _ABSENT, "<u8")
    offset, encoder = 0, encoder or ChunkEncoder(layout)
    for row, col, part in encoder.chunks(_in_chunks(strips, layout.chunk)):
        yield part
        index[row, col] = offset, len(part)
        offset += len(part)
    yield index.tobytes()
    yield google_crc32c.value(index.tobytes()).to_bytes(4, "little")


def write_bytes(layout: StoreLayout) -> int:
    """Upper bound of the memory, in bytes, that writing one shard takes beyond the caller's array.

    The chunks in work, each cut out of the pixels and compressed, at worst to its own size, the one being written and
    the one that waits behind it, in memory that is used again. Blosc works on three blocks, and the threads take a
    little themselves.
    """
    size = layout.bands * layout.chunk**2 * np.dtype(layout.dtype).itemsize
    return (2 * _WORKERS + 2) * size + 3 * _WORKERS * _BLOCK + 2 * 2**20


def _in_chunks(strips: Iterable[Pixels], side: int) -> Iterator[Pixels]:
    """The same rows, ``side`` of them at a time; the last ones as many as are left."""
    rest: Pixels | None = None
    # rows that make up no chunk
    for strip in strips:
        start = 0
        if rest is not None:
            start = min(side - rest.shape[1], strip.shape[1])
            rest = cast("Pixels", np.concatenate((rest, strip[:, :start]), axis=1))
            if rest.shape[1] < side:
                del strip
                continue
            yield rest
            rest = None
        whole = start + (strip.shape[1] - start) // side * side
        for row in range(start, whole, side):
            yield strip[:, row : row + side]
        if whole < strip.shape[1]:
            rest = strip[:, whole:].copy()
        del strip
    if rest is not None:
        yield rest


class ChunkEncoder:
    """Compresses chunks, of as many shards as are written at the same time, by one pool of threads. What chunks are cut
    out to, and compressed to, is used again by the next ones."""

    def __init__(self, layout: StoreLayout) -> None:
        self._layout, self._chunks, self._rooms = layout, Buffers(), Buffers()
        self._dtype = np.dtype(layout.dtype).newbyteorder("<")
        self._pool = ThreadPoolExecutor(max(_WORKERS, os.cpu_count() or 1), "encoder")
        # which starts none before there is work, and ends with this

    def chunks(self, rows: Iterable[Pixels]) -> Iterator[tuple[int, int, memoryview]]:
        """(row, column, bytes) of the chunks of rows of them, row by row, from left to right, each until the next one
        is asked for; no more wait than there are threads. Of a row nothing is held when the next is asked for."""
        waiting: deque[tuple[int, int, Future[_Encoded]]] = deque()
        numbers = count()  # enumerate would hold a row until the next one is made
        for pixels in rows:
            row, few = next(numbers), pixels.nbytes <= _SMALL
            for col in range(-(-pixels.shape[2] // self._layout.chunk)):
                part = pixels[:, :, col * self._layout.chunk : (col + 1) * self._layout.chunk]
                while len(waiting) >= (1 if few else _WORKERS):
                    yield from _done(waiting)
                if few:
                    encoded, room = self._encoded(*self._cut(part))
                    with room:
                        yield row, col, encoded
                else:
                    waiting.append((row, col, self._pool.submit(self._encoded, *self._cut(part))))
            del pixels, part
        while waiting:
            yield from _done(waiting)

    def _cut(self, part: Pixels) -> tuple[Pixels, ExitStack]:
        """One whole chunk, (bands, chunk, chunk), little-endian, and what gives its memory back."""
        bands, side = self._layout.bands, self._layout.chunk
        held = ExitStack()
        chunk = held.enter_context(self._chunks.array((bands, side, side), self._dtype))
        height, width = part.shape[1:]
        chunk[:, :height, :width] = part
        chunk[:, height:] = 0
        chunk[:, :height, width:] = 0
        return chunk, held

    def _encoded(self, chunk: Pixels, held: ExitStack) -> _Encoded:
        with held, ExitStack() as stack:
            room = stack.enter_context(self._rooms.array((chunk.nbytes + _HEADER,), np.uint8))
            return compressed(chunk, cast("NDArray[np.uint8]", room)), stack.pop_all()


_Encoded = tuple[memoryview, ExitStack]
"""A compressed chunk, and what gives its memory back."""


def _done(waiting: deque[tuple[int, int, Future[_Encoded]]]) -> Iterator[tuple[int, int, memoryview]]:
    row, col, future = waiting.popleft()
    encoded, room = future.result()
    with room:
        yield row, col, encoded
