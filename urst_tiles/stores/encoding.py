"""A shard's file: its chunks compressed one after the other, then where each of them stands.

This is zarr's ``sharding_indexed`` codec, written out a few chunks at a time. Written through zarr, a shard takes two
to three times its size beside the pixels (the chunks compressed, the shard they are joined into, with some versions a
copy more), one that is written again is first read, so that one torn by a power cut cannot be replaced, and it is
renamed before it is flushed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from urst_tiles.allocator import RETURNED_BYTES, can_return_memory
from urst_tiles.sources.base import Pixels
from urst_tiles.stores.base import StoreLayout

__all__ = ["array_options", "encode_shard", "write_bytes"]

_WORKERS = 4
"""Threads that compress a shard's chunks."""

_SMALL = 1 << 20
"""Bytes of pixels up to which one thread is quicker than starting some."""

_CLEVEL = 1

_ABSENT = np.iinfo(np.uint64).max
"""In the index, in place of the offset and the length of a chunk that is not there."""


def array_options(layout: StoreLayout) -> dict[str, Any]:
    """What every level's array is created with, but for its shape and name."""
    itemsize = np.dtype(layout.dtype).itemsize
    return {
        "dtype": layout.dtype,
        "chunks": (layout.bands, layout.chunk, layout.chunk),
        "shards": (layout.bands, layout.shard, layout.shard),
        # Measured on photographs: with its bits shuffled, zstd's fastest level stores 15 % less in 8 bit and 20 %
        # less in 16 bit than without, nearly as fast; level 3 is twice as slow for 1 % in 16 bit.
        "compressors": BloscCodec(cname="zstd", clevel=_CLEVEL, shuffle="bitshuffle", typesize=itemsize),
        "fill_value": 0,
        "dimension_names": ("c", "y", "x"),
        "config": {"write_empty_chunks": True},
    }


def encode_shard(layout: StoreLayout, pixels: Pixels) -> Iterator[bytes]:
    """What the file of a whole shard holds, in parts, from its (bands, height, width) pixels.

    The same pixels give the same bytes. At the array's far edges the pixels are clipped; chunks wholly outside are left
    out and those half inside are filled with 0, as zarr does.
    """
    across, side = layout.shard // layout.chunk, layout.chunk
    codec = Blosc("zstd", clevel=_CLEVEL, shuffle=Blosc.BITSHUFFLE)
    index = np.full((across, across, 2), _ABSENT, "<u8")
    places = [(row, col) for row in range(-(-pixels.shape[1] // side)) for col in range(-(-pixels.shape[2] // side))]

    def compress(place: tuple[int, int]) -> bytes:
        return bytes(codec.encode(_chunk(layout, pixels, *place)))

    offset = 0
    parts = map(compress, places) if pixels.nbytes <= _SMALL else _in_order(compress, places)
    for place, part in zip(places, parts, strict=True):
        yield part
        index[place] = offset, len(part)
        offset += len(part)
    yield index.tobytes()
    yield google_crc32c.value(index.tobytes()).to_bytes(4, "little")


def write_bytes(layout: StoreLayout) -> int:
    """Upper bound of the memory, in bytes, that writing one shard takes beyond the caller's array.

    The chunks in work, each cut out of the pixels and compressed, at worst to its own size, and the one being written;
    as much again is kept by the threads where freed blocks of that size do not go back. They take a little themselves.
    """
    size = layout.bands * layout.chunk**2 * np.dtype(layout.dtype).itemsize
    chunks = 2 * _WORKERS + 1 if size >= RETURNED_BYTES and can_return_memory() else 4 * _WORKERS
    return chunks * size + 2 * 2**20


def _chunk(layout: StoreLayout, pixels: Pixels, row: int, col: int) -> NDArray[Any]:
    """One whole chunk, (bands, chunk, chunk), little-endian."""
    side = layout.chunk
    part = pixels[:, row * side : (row + 1) * side, col * side : (col + 1) * side]
    little = np.dtype(layout.dtype).newbyteorder("<")
    if part.shape[1:] == (side, side):
        return np.ascontiguousarray(part, little)
    chunk = np.zeros((layout.bands, side, side), little)
    chunk[:, : part.shape[1], : part.shape[2]] = part
    return chunk


def _in_order(work: Callable[[tuple[int, int]], bytes], places: list[tuple[int, int]]) -> Iterator[bytes]:
    """Like map, by some threads, with no more results waiting than there are threads."""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(_WORKERS) as pool:
        for place in places:
            if len(waiting) == _WORKERS:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, place))
        while waiting:
            yield waiting.popleft().result()
